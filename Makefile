# make demo        JupyterHub beside a demo XNAT on this machine
# make test        everything that CI runs
# `make help` lists the other targets, most of them steps of these two.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PLAY := $(BIN)/ansible-playbook
JUPYTERHUB := $(shell sed -n 's/^hub_images_jupyterhub_version: "\(.*\)"/\1/p' roles/hub_images/defaults/main.yml)
# The playbooks need root: if make does not run as root, they use sudo, and ask for a password if sudo needs one.
BECOME := $(shell if [ "$$(id -u)" = 0 ]; then :; elif sudo -n true 2>/dev/null; then echo --become; else echo --become --ask-become-pass; fi)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Use the machine's own trust store, so that pip works behind a proxy that inspects TLS.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export PIP_CERT ?= /etc/ssl/certs/ca-certificates.crt
endif

.PHONY: help install demo demo-down demo-verify test lint unit drills drill-upgrade pictures molecule test-vm bench bench-rollout lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

install: $(VENV)/deploy.stamp ## install Ansible, pinned, into .venv (BUNDLE=DIRECTORY: only from an offline bundle)

DEMO_TLS := $(if $(TLS),-e site_demo_tls=$(TLS))
demo: $(VENV)/deploy.stamp ## deploy everything on this machine, with a demo XNAT, and run the smoke test (TLS=true: https, by an edge)
	@$(PLAY) site.yml -i inventory/demo $(BECOME) $(DEMO_TLS)

demo-verify: $(VENV)/deploy.stamp ## run the demo's smoke test again
	@$(PLAY) playbooks/verify.yml -i inventory/demo $(BECOME) $(DEMO_TLS)

demo-down: $(VENV)/deploy.stamp ## stop the demo; users' files and the hub's database stay (REMOVE_DATA=true: remove them too)
	@$(PLAY) playbooks/remove.yml -i inventory/demo $(BECOME) -e remove_data=$(or $(REMOVE_DATA),false)

test: ## lint, unit tests, and the whole site on nodes with their own Docker Engine
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint unit
	@$(MAKE) --no-print-directory molecule

lint: $(VENV)/dev.stamp ## ansible-lint, yamllint, ruff, mypy
	$(BIN)/yamllint --strict .
	PATH="$(BIN):$$PATH" $(BIN)/ansible-lint --offline
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy files/xnat_* files/demo_xnat files/registry files/runtime files/singleuser files/assets files/edge filter_plugins library \
	  module_utils/*.py module_utils/xnat_site doc_fragments benchmarks tests

unit: $(VENV)/dev.stamp .cache/proxy/stamp ## tests that need only Python; others are skipped where a program is missing
	$(BIN)/pytest

# JupyterHub's proxy, as in the image `runtime`, for tests/unit/test_person_origins.py.
.cache/proxy/stamp: files/runtime/package-lock.json
	@mkdir -p .cache/proxy && cp files/runtime/package.json files/runtime/package-lock.json .cache/proxy/
	@{ command -v npm && cd .cache/proxy && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error && touch stamp; } >/dev/null \
	  || echo "JupyterHub's proxy cannot be installed: the tests of an origin for each person are skipped."

drills: $(VENV)/dev.stamp ## the launcher's property tests with 190,000 examples, and drill-upgrade (root)
	HYPOTHESIS_PROFILE=drill $(BIN)/pytest -m drill tests/unit
	@$(MAKE) --no-print-directory drill-upgrade

drill-upgrade: $(VENV)/dev.stamp ## upgrade an older release to this one while a notebook is open (root; FROM=COMMIT)
	@$(NO_NODES)
	@code=0; { $(MOLECULE) create -s default && $(if $(FROM),XNATJH_UPGRADE_FROM=$(FROM)) $(BIN)/pytest tests/drills; } || code=$$?; \
	  $(MOLECULE) destroy -s default >/dev/null 2>&1; exit $$code

pictures: $(VENV)/dev.stamp ## take the pictures of the README anew, in a browser on a site of its own (root)
	@$(NO_NODES)
	@code=0; { $(MOLECULE) converge -s default && XNATJH_NODE=xnatjh-node0 XNATJH_SECRETS=molecule/inventory/.secrets \
	  XNATJH_PICTURES=docs/pictures $(BIN)/pytest tests/site/test_browser.py; } || code=$$?; \
	  $(MOLECULE) destroy -s default >/dev/null 2>&1; exit $$code

# The scenario `default` creates all nodes and builds the images, and the bundle is written before tests change its site. Then the tests of
# this site, the site without a network and the site on four nodes run in parallel, because they wait more than they compute.
MOLECULE := PATH="$(BIN):$$PATH" $(BIN)/molecule -c .config/molecule/config.yml
# Remove what an interrupted run left, including molecule's record of existing nodes.
NO_NODES = mkdir -p .cache && $(MOLECULE) reset -s default >/dev/null 2>&1 && $(MOLECULE) destroy -s default
molecule: $(VENV)/dev.stamp ## the whole site on nodes with their own Docker Engine (root)
	@rm -f .cache/failures.txt .cache/molecule.log
	@$(NO_NODES)
	@# Repeat failures at the end, because the other scenarios print many lines after them.
	@{ $(MOLECULE) converge -s default && $(MOLECULE) prepare --force -s offline \
	    && $(MAKE) --no-print-directory --jobs 3 molecule-site molecule-offline molecule-swarm && $(MOLECULE) destroy -s default; } \
	  || { code=$$?; { grep -E -A 8 'fatal: |failed: \[' .cache/molecule.log | cut -c 1-300 | tail -n 12; cat .cache/failures.txt; } 2>/dev/null || true; \
	       $(MOLECULE) destroy -s default >/dev/null 2>&1; exit $$code; }

# Scenarios share molecule's record that nodes are prepared, so --force prepares each one.
.PHONY: molecule-site molecule-offline molecule-swarm
molecule-site:
	@$(MOLECULE) verify -s default 2>&1 | sed --unbuffered 's/^/site    | /'

molecule-offline:
	@{ $(MOLECULE) converge -s offline && $(MOLECULE) verify -s offline; } 2>&1 | sed --unbuffered 's/^/offline | /'

molecule-swarm:
	@{ $(MOLECULE) prepare --force -s swarm && $(MOLECULE) converge -s swarm && $(MOLECULE) verify -s swarm; } 2>&1 | sed --unbuffered 's/^/swarm   | /'

# Ends with the machines' end, also after a failure or Ctrl-C.
test-vm: $(VENV)/dev.stamp ## the whole site on virtual machines with real kernels (root; up to 90 minutes without KVM)
	@$(PLAY) tests/vm/prepare.yml -i tests/vm/inventory
	@trap '$(BIN)/python3 -m tests.vm.machines down' EXIT; $(BIN)/python3 -m tests.vm.machines up; $(BIN)/pytest -v --maxfail=3 tests/vm

# Runs in a container of an image that `make demo` has built; apart from that only Docker is needed.
BENCH_DRIVER := xnatjh-bench-driver
bench: ## compare the hub with the floor, a plain hub and an older checkout (BENCH="logins start", N=3, BEFORE=PATH; benchmarks/README.md)
	@image="$$(docker images --quiet localhost/xnat-jupyter/runtime | head -n 1)"; \
	[ -n "$$image" ] || { echo "There is no image localhost/xnat-jupyter/runtime: run \`make demo\` first." >&2; exit 1; }; \
	docker rm --force --volumes $(BENCH_DRIVER) >/dev/null 2>&1 || true; \
	exec docker run --rm --init --name $(BENCH_DRIVER) --user 0 --volume "$(CURDIR):/project" --workdir /project \
	  --volume /var/run/docker.sock:/var/run/docker.sock --volume /run/bench-docker --env PYTHONPATH=/project/files \
	  --env PYTHONDONTWRITEBYTECODE=1 $(if $(BEFORE),--volume "$(abspath $(BEFORE)):/before:ro") \
	  "$$image" python3 -m benchmarks $(BENCH) $(if $(N),-n $(N)) $(if $(BEFORE),--before /before)

bench-rollout: $(VENV)/dev.stamp ## time rollouts by number of nodes: first rollout, rerun, upgrade, join (root; SIZES="1 3")
	$(BIN)/python3 -m benchmarks.rollout $(SIZES)

# JupyterHub's version in the lock files comes from roles/hub_images/defaults/main.yml, for both hub and notebooks. Renovate (renovate.json)
# reads these commands in the heads of the lock files and accepts only these options, in this form: long, with an equals sign.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version=3.11 --generate-hashes
JUPYTERHUB_PIN := requirements-jupyterhub.txt
lock: $(VENV)/dev.stamp ## update the lock files from the *.in and *.txt lists (UPGRADE=--upgrade: to the newest versions)
	printf '%s\n' '# `make lock` writes this from roles/hub_images/defaults/main.yml.' 'jupyterhub==$(JUPYTERHUB)' > $(JUPYTERHUB_PIN)
	$(LOCK) $(UPGRADE) files/runtime/requirements.in --constraint=$(JUPYTERHUB_PIN) --output-file=files/runtime/requirements.txt
	$(LOCK) $(UPGRADE) files/runtime/npm.in --output-file=files/runtime/npm.txt
	$(LOCK) $(UPGRADE) files/singleuser/jupyter.txt files/singleuser/requirements.txt --constraint=$(JUPYTERHUB_PIN) --output-file=files/singleuser/requirements.lock
	$(LOCK) $(UPGRADE) files/singleuser/jupyter.txt files/singleuser/requirements.txt files/singleuser/dashboards.txt --constraint=files/singleuser/requirements.lock --output-file=files/singleuser/dashboards.lock
	$(LOCK) $(UPGRADE) requirements.in --output-file=requirements.txt
	$(LOCK) $(UPGRADE) requirements-dev.in --constraint=requirements.txt --constraint=files/runtime/requirements.txt --output-file=requirements-dev.txt

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .ansible

$(VENV)/bin/pip:
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is required, but python3 is $$(python3 --version): use Debian 12 or 13." >&2; exit 1; }
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { [ "$$(id -u)" = 0 ] || command -v sudo >/dev/null \
	  || { echo "python3-venv is missing: install it as root, or run make as root." >&2; exit 1; }; echo "Installing python3-venv ..."; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv >/dev/null; }
	@rm -rf $(VENV)
	python3 -m venv $(VENV)

# BUNDLE=/mnt/bundle: only from an offline bundle.
$(VENV)/deploy.stamp: requirements.txt | $(VENV)/bin/pip
	@echo "Installing Ansible into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check $(if $(BUNDLE),--no-index --find-links "$(BUNDLE)/wheels") --require-hashes -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt | $(VENV)/bin/pip
	@echo "Installing Ansible and the development tools into $(VENV) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@ $(VENV)/deploy.stamp
