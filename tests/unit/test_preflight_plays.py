"""Preflight run by Ansible itself: how templates evaluate an inventory, and what is reported before XNAT is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.unit.conftest import ROOT
from tests.unit.test_inventory import GOOD
from tests.unit.xnat_modules import Xnat, xnat_fixture  # noqa: F401

TIMEOUT = 120


def play(directory: Path, tasks: list[dict[str, Any]], variables: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run tasks on this machine with variables as an inventory has them, which are YAML.

    directory: for the files of one run. words: options of ansible-playbook.
    """
    (directory / "group_vars").mkdir()
    (directory / "group_vars/all.yml").write_text(variables)
    (directory / "hosts.yml").write_text("swarm: {children: {managers: {hosts: {m1: {ansible_connection: local}}}}}\n")
    (directory / "play.yml").write_text(yaml.safe_dump([{"hosts": "m1", "gather_facts": False, "tasks": tasks}]))
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", directory, *words, str(directory / "play.yml")],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(directory),
            "ANSIBLE_REMOTE_TEMP": str(directory),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def judge() -> dict[str, Any]:
    """The task of playbooks/preflight.yml that judges the variables of the inventory."""
    plays = yaml.safe_load((ROOT / "playbooks/preflight.yml").read_text())
    found: list[dict[str, Any]] = [task for play in plays for task in play.get("tasks", ())]
    return next(task for task in found if "findings" in task.get("vars", {}))


VAULT = """
site_xnat_password: "{{ vault_xnat_password }}"
site_service_token: "{{ vault_service_token }}"
site_proxy_token: "{{ vault_proxy_token | default('proxy-token-of-the-tests') }}"
verify_password: "{{ vault_verify_password }}"
vault_service_token: !unsafe 'token-{{of}}-the-tests'
vault_other: "{{ undefined_elsewhere }}"
vault_lookup: "{{ lookup('ansible.builtin.env', 'PATH') }}"
"""


def test_ansible_names_the_variables_of_a_vault_that_stop_it(tmp_path: Path) -> None:
    variables = yaml.safe_dump({key: value for key, value in GOOD.items() if "{{" + key not in VAULT})
    variables += VAULT + "vault_xnat_password: 'horse{{battery staple'\n"
    run = play(tmp_path, [judge()], variables)
    text = " ".join(run.stdout.split())
    assert run.returncode == 2, run.stdout
    for name in ("vault_xnat_password", "vault_other"):
        assert f"{name}: !unsafe" in text
    assert "vault_verify_password is not set" in text
    for name in ("vault_service_token", "vault_lookup", "site_proxy_token"):
        assert name not in text
    assert "battery" not in run.stdout + run.stderr


def test_ansible_finds_nothing_in_a_good_inventory(tmp_path: Path) -> None:
    run = play(tmp_path, [judge()], yaml.safe_dump(GOOD) + "vault_x: !unsafe 'a{{b'\n")
    assert run.returncode == 0, run.stdout


def test_the_example_lacks_nothing_but_what_only_a_site_knows(tmp_path: Path) -> None:
    paths = sorted((ROOT / "inventory/example/group_vars/all").glob("*.yml"))
    variables = "\n".join(path.read_text().replace("---\n", "", 1) for path in paths if path.stem != "connection")
    found = {"ansible.builtin.debug": {"msg": "{{ findings | map(attribute='name') }}"}, "vars": judge()["vars"]}
    run = play(tmp_path, [found, judge()], variables)
    assert run.returncode == 2, run.stdout
    assert "msg: - vault_verify_password TASK" in " ".join(run.stdout.split())


def test_what_a_rollout_overwrites_in_xnat_is_reported_before_it_is_changed(tmp_path: Path, xnat: Xnat) -> None:
    (tmp_path / "play").mkdir()
    storage = {
        "archive": {"xnat_path": "/data/xnat/archive", "node_path": "/srv/archive", "access": "read_only",
                    "source": {"type": "directory"}},
        "workspaces": {"xnat_path": "/data/xnat/workspaces", "node_path": "/srv/workspaces", "access": "read_write",
                       "source": {"type": "directory"}},
    }  # fmt: skip
    variables = {
        **GOOD,
        "site_xnat_public_url": xnat.url,
        "site_xnat_admin_username": "admin",
        "site_xnat_admin_password": xnat.options["password"],
        "site_ca_bundle": "",
        "site_storage": storage,
        "site_jupyter_users": [],
        "xnat_jupyterhub_nodes": [],
        "xnat_jupyterhub_images": [],
    }
    paths = ("/xapi/siteConfig", "/xapi/jupyterhub/preferences", "/xapi/users/profile/jupyterhub")
    before = [xnat.must("GET", path) for path in paths]
    role = {"ansible.builtin.include_role": {"name": "xnat_jupyterhub", "tasks_from": "preflight"}}
    run = play(tmp_path / "play", [role], yaml.safe_dump(variables))
    assert run.returncode == 0, run.stdout
    text = " ".join(run.stdout.split())
    assert f"processingUrl: {GOOD['site_xnat_url']}" in text
    assert GOOD["site_hub_api_url"] in text
    assert f"jupyterHubApiUrl: {before[1]['jupyterHubApiUrl']}" in text
    assert GOOD["site_service_token"] not in run.stdout
    assert xnat.writes() == []
    assert [xnat.must("GET", path) for path in paths] == before
    assert "changed=0" in run.stdout
