"""The options of an engine, and the plan for an existing one."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest
import yaml

from module_utils.xnat_site.engine import (
    SAFE,
    EngineError,
    Node,
    Offer,
    Wanted,
    engine_options,
    engine_plan,
    make_plan,
    refusal,
)
from tests.unit.conftest import ROOT

PACKAGES = yaml.safe_load((ROOT / "roles/docker_engine/vars/main.yml").read_text())["__docker_engine_packages"]
KNOWN = yaml.safe_load((ROOT / "roles/docker_engine/defaults/main.yml").read_text())["docker_engine_known_packages"]
TRIXIE = {"id": "debian", "like": "", "codename": "trixie", "name": "Debian GNU/Linux 13 (trixie)"}
BOOKWORM = {"id": "debian", "like": "", "codename": "bookworm", "name": "Debian GNU/Linux 12 (bookworm)"}
ROCKY = {"id": "rocky", "like": "rhel centos fedora", "codename": "", "name": "Rocky Linux 9"}
ALPINE = {"id": "alpine", "like": "", "codename": "", "name": "Alpine Linux"}
TOOLS = ["apparmor", "ca-certificates", "iptables", "python3-docker"]
NOTHING: dict[str, Any] = {
    "answers": False, "installed": False, "version": "", "options": None, "restart_needed": False,
}  # fmt: skip
RUNS = {**NOTHING, "answers": True, "installed": True, "version": "26.1.5+dfsg1", "options": SAFE}
STOPPED = {**RUNS, "answers": False, "version": ""}
DEBIANS = "26.1.5+dfsg1-9+deb13u1+b1"


def packages(*names: str, version: str = DEBIANS, status: str = "installed", held: bool = True) -> dict[str, Any]:
    return {name: {"status": status, "version": version, "held": held} for name in names}


WITHOUT_ROTATION = {key: SAFE[key] for key in SAFE if key != "log-opts"}
HELD = packages(*TOOLS, "containerd", "docker-buildx", "docker-cli", "docker.io")


def plan(
    source: str = "distribution",
    engine: dict[str, Any] = RUNS,
    known: dict[str, Any] = HELD,
    system: dict[str, str] = TRIXIE,
    options: dict[str, Any] = SAFE,
    **wanted: Any,
) -> dict[str, Any]:
    report = {"engine": engine, "packages": known, "system": system}
    return engine_plan(report, source, options, PACKAGES, **wanted)


def test_without_wishes_the_options_are_safe() -> None:
    assert engine_options({}) == SAFE
    assert SAFE["live-restore"] is False
    assert "hosts" not in SAFE


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mtu": 1450}, {**SAFE, "mtu": 1450}),
        ({"log-opts": {"max-size": "5m"}}, {**SAFE, "log-opts": {"max-size": "5m", "max-file": "3"}}),
        ({"default-address-pools": None}, {key: SAFE[key] for key in SAFE if key != "default-address-pools"}),
        ({"builder": {"gc": {"enabled": None}}}, {**SAFE, "builder": {"gc": {}}}),
        ({"hosts": ["unix:///run/docker.sock"]}, {**SAFE, "hosts": ["unix:///run/docker.sock"]}),
        # Journald refuses options that belong to files.
        ({"log-driver": "journald"}, {**WITHOUT_ROTATION, "log-driver": "journald"}),
        ({"log-driver": "local"}, {**SAFE, "log-driver": "local"}),
    ],
)  # fmt: skip
def test_options_are_laid_over_the_safe_ones(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert engine_options(options) == expected


def test_the_safe_options_stay_what_they_are() -> None:
    before = repr(SAFE)
    engine_options({"log-opts": {"max-size": "1m"}, "live-restore": None})
    assert repr(SAFE) == before


def test_a_default_that_came_later_restarts_no_engine_that_runs() -> None:
    before = {key: value for key, value in SAFE.items() if key != "no-new-privileges"}
    assert SAFE["no-new-privileges"] is True
    for options, running, has in (
        ({}, before, False),
        ({"mtu": 1450}, {**before, "mtu": 1450}, False),
        ({"mtu": 1450}, before, True),
        ({"no-new-privileges": True}, before, True),
        ({}, SAFE, True),
        ({}, None, True),
    ):
        assert ("no-new-privileges" in engine_options(options, running=running)) is has
    runs = {**RUNS, "options": before}
    assert plan(engine=runs, options=engine_options({}, running=before))["done"]


def test_a_node_with_gpus() -> None:
    options = engine_options({"runtimes": {"other": {"path": "/x"}}}, ["gpu=GPU-1", "gpu=GPU-2"], "/usr/bin/nvidia")
    assert options["node-generic-resources"] == ["gpu=GPU-1", "gpu=GPU-2"]
    assert options["default-runtime"] == "nvidia"
    assert options["runtimes"] == {"other": {"path": "/x"}, "nvidia": {"path": "/usr/bin/nvidia"}}


def test_the_same_said_twice_is_no_contradiction() -> None:
    options = {"node-generic-resources": ["gpu=GPU-1"], "runtimes": {"nvidia": {"path": "/n"}}}
    assert engine_options(options, ["gpu=GPU-1"], "/n")["node-generic-resources"] == ["gpu=GPU-1"]


@pytest.mark.parametrize(
    ("id", "arguments", "facts"),
    [
        pytest.param(
            "live_restore",
            ({"live-restore": True},),
            ["docker_engine_daemon_options", "live-restore"],
            id="live-restore",
        ),
        pytest.param(
            "open_port",
            ({"hosts": ["fd://", "tcp://0.0.0.0:2375"]},),
            ["docker_engine_daemon_options", "'tcp://0.0.0.0:2375'", "root", "DOCKER_HOST"],
            id="port among sockets",
        ),
        pytest.param("open_port", ({"hosts": "0.0.0.0:2375"},), ["'0.0.0.0:2375'"], id="port as a string"),
        pytest.param(
            "log_opts_text",
            ({"log-opts": {"max-file": 3}},),
            ["docker_engine_daemon_options", 'max-file to "3"'],
            id="number in log-opts",
        ),
        pytest.param(
            "resource_form", ({}, ["gpu"]), ["docker_engine_generic_resources", "'gpu'", "NAME=VALUE"], id="resource"
        ),
        pytest.param(
            "set_twice",
            ({"node-generic-resources": ["gpu=GPU-9"]}, ["gpu=GPU-1"]),
            ["docker_engine_daemon_options", "docker_engine_generic_resources", "['gpu=GPU-9']", "['gpu=GPU-1']"],
            id="resources twice",
        ),
        pytest.param(
            "set_twice",
            ({"default-runtime": "runc"}, [], "/n"),
            ["'default-runtime' to 'runc'", "docker_engine_nvidia_runtime sets it to 'nvidia'"],
            id="default runtime twice",
        ),
        pytest.param(
            "set_twice",
            ({"runtimes": {"nvidia": {"path": "/other"}}}, [], "/n"),
            ["{'path': '/other'}", "docker_engine_nvidia_runtime", "{'path': '/n'}"],
            id="runtime twice",
        ),
    ],
)
def test_wrong_options_are_named(id: str, arguments: tuple[Any, ...], facts: list[str]) -> None:
    with pytest.raises(EngineError) as raised:
        engine_options(*arguments)
    assert raised.value.id == id
    assert [fact for fact in facts if fact not in str(raised.value)] == []


@pytest.mark.parametrize("source", ["any", "distribution", "existing"])
def test_an_engine_as_wanted_is_left_alone(source: str) -> None:
    found = plan(source)
    assert found["done"]
    assert not found["restart_needed"]
    assert not found["upgrade_needed"]


@pytest.mark.parametrize("source", ["any", "existing"])
def test_an_engine_of_somebody_else_is_used_as_it_is(source: str) -> None:
    theirs = {**RUNS, "options": {"mtu": 9000}, "restart_needed": True, "version": "28.0.1"}
    known = packages("docker-ce", "python3-docker", version="5:28.0.1-1~debian.13~trixie", held=False)
    found = plan(source, theirs, known, version="27.*")
    assert found["done"]
    assert not found["restart_needed"]
    assert not found["upgrade_needed"]


@pytest.mark.parametrize("source", ["any", "existing"])
def test_only_the_python_package_is_added_to_it(source: str) -> None:
    found = plan(source, RUNS, packages("docker-ce"))
    assert (found["beside"], found["engine"], found["write"]) == (["python3-docker"], [], False)
    assert not found["done"]


@pytest.mark.parametrize("source", ["any", "existing"])
def test_one_that_does_not_run_is_started(source: str) -> None:
    found = plan(source, {**STOPPED, "options": {"mtu": 9000}}, packages("docker-ce", "python3-docker"))
    assert found["start"]
    assert not found["install"]
    assert not found["write"]


@pytest.mark.parametrize("source", ["any", "existing"])
def test_it_is_used_on_a_system_that_nothing_is_known_of(source: str) -> None:
    assert plan(source, RUNS, {}, ALPINE)["done"]


@pytest.mark.parametrize("source", ["any", "distribution"])
@pytest.mark.parametrize(
    ("system", "clients"), [(TRIXIE, ["docker-buildx", "docker-cli"]), (BOOKWORM, [])]
)  # fmt: skip
def test_on_a_bare_node_the_distributions_engine_is_installed(
    source: str, system: dict[str, str], clients: list[str]
) -> None:
    found = plan(source, NOTHING, {}, system)
    assert sorted(found["beside"]) == sorted(TOOLS + clients)
    assert found["engine"] == ["docker.io"]
    assert found["write"]
    assert not found["can_validate"]
    assert not found["restart_needed"]


def test_a_wanted_version_is_installed_of_engine_and_client() -> None:
    found = plan("distribution", NOTHING, packages(*TOOLS), version="26.1.*")
    assert found["beside"] == ["docker-buildx", "docker-cli=26.1.*"]
    assert found["engine"] == ["docker.io=26.1.*"]
    assert plan("any", NOTHING, packages(*TOOLS), version="26.1.*")["engine"] == ["docker.io"]


def test_dockers_own_engine() -> None:
    found = plan("docker", NOTHING, packages(*TOOLS), version="5:28.*")
    assert found["beside"] == ["containerd.io", "docker-buildx-plugin", "docker-ce-cli=5:28.*"]
    assert found["engine"] == ["docker-ce=5:28.*"]
    assert (found["manager"], found["directory"]) == ("apt", "debian")


def test_dockers_own_engine_by_dnf() -> None:
    found = plan("docker", NOTHING, {}, ROCKY, version="28.*")
    assert found["beside"][-1] == "docker-ce-cli-28.*"
    assert found["engine"] == ["docker-ce-28.*"]
    assert (found["manager"], found["directory"]) == ("dnf", "centos")


@pytest.mark.parametrize("status", ["half-installed", "unpacked", "half-configured"])
@pytest.mark.parametrize("source", ["any", "distribution"])
def test_an_installation_that_was_interrupted_is_completed(source: str, status: str) -> None:
    known = {**packages("python3-docker"), **packages("docker.io", status=status)}
    found = plan(source, {**STOPPED, "options": None}, known)
    assert found["refusal"] == ""
    assert found["install"]
    assert found["engine"] == ["docker.io"]
    assert found["write"]


def test_any_keeps_a_settings_file_that_is_there() -> None:
    assert not plan("any", {**NOTHING, "options": {"mtu": 9000}}, {})["write"]
    assert plan("any", NOTHING, {})["replace"] is False


@pytest.mark.parametrize("version", ["", "26.1.*", DEBIANS])
def test_a_version_that_fits_is_no_change(version: str) -> None:
    found = plan(version=version)
    assert found["done"]
    assert not found["upgrade_needed"]


def test_another_version_waits_for_the_act_of_upgrading() -> None:
    found = plan(version="27.*")
    assert found["done"]
    assert found["upgrade_needed"]
    assert found["upgrade"] == ["docker.io=27.*", "docker-cli=27.*"]


def test_changed_options_wait_for_a_restart() -> None:
    found = plan(options=engine_options({"mtu": 1450}))
    assert found["write"]
    assert found["replace"]
    assert found["can_validate"]
    assert found["restart_needed"]
    assert not plan(engine=STOPPED, options=engine_options({"mtu": 1450}))["restart_needed"]


def test_an_old_engine_cannot_check_its_options() -> None:
    old = {**RUNS, "version": "20.10.24+dfsg1"}
    known = packages(*TOOLS, "containerd", "docker.io", version="20.10.24+dfsg1-1+deb12u1+b6")
    assert not plan(engine=old, known=known, system=BOOKWORM)["can_validate"]
    assert not plan(engine={**old, "answers": False, "version": ""}, known=known, system=BOOKWORM)["can_validate"]


@pytest.mark.parametrize(
    ("engine", "needed"),
    [
        (RUNS, False),
        ({**RUNS, "restart_needed": True}, True),
        ({**RUNS, "version": "26.1.4+dfsg1"}, True),  # the package was upgraded, the engine not restarted
        ({**RUNS, "version": "dev"}, False),
        (STOPPED, False),
    ],
)
def test_a_restart_that_was_missed_is_seen_later(engine: dict[str, Any], needed: bool) -> None:
    assert plan(engine=engine)["restart_needed"] is needed


def test_the_engines_packages_are_held_or_let_go() -> None:
    free = {name: {**state, "held": False} for name, state in HELD.items()}
    found = plan(known=free)
    assert found["hold"] == ["docker.io", "docker-cli", "containerd"]
    assert not found["done"]
    assert plan(known=free, hold=False)["done"]
    assert plan(hold=False)["release"] == ["docker.io", "docker-cli", "containerd"]
    assert plan("any", known=free)["done"]


@pytest.mark.parametrize(
    ("id", "source", "engine", "known", "system", "facts"),
    [
        pytest.param(
            "no_engine", "existing", NOTHING, {}, TRIXIE, ["docker_engine_source to distribution"], id="none exists"
        ),
        pytest.param(
            "foreign_engine", "distribution", RUNS, packages("docker-ce"), TRIXIE,
            ["docker.io", "docker_engine_source to existing"], id="Docker's instead of Debian's",
        ),
        pytest.param(
            "foreign_engine", "docker", STOPPED, packages("docker.io"), TRIXIE, ["docker-ce"],
            id="Debian's instead of Docker's",
        ),
        pytest.param(
            "foreign_engine", "distribution", RUNS, packages("docker-ce"), ROCKY, ["of the distribution"],
            id="the distribution has none",
        ),
        pytest.param(
            "no_package", "any", NOTHING, {}, ROCKY, ["Rocky Linux 9", "docker_engine_source to docker"],
            id="nothing to install",
        ),
        pytest.param(
            "unknown_system", "distribution", NOTHING, {}, ALPINE, ["Alpine Linux", "docker_engine_source to existing"],
            id="neither Debian nor Red Hat",
        ),
        pytest.param(
            "unknown_system", "any", NOTHING, {}, {**ALPINE, "name": ""}, ["this system"], id="a system without a name"
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(
    id: str, source: str, engine: dict[str, Any], known: dict[str, Any], system: dict[str, str], facts: list[str]
) -> None:
    node = Node.from_report({"engine": engine, "packages": known, "system": system})
    refused = refusal(node, Offer.for_system(PACKAGES, system, source), Wanted(source, SAFE))
    assert refused
    assert refused.id == id
    assert [fact for fact in facts if fact not in refused.text] == []
    found = plan(source, engine, known, system)
    assert found["refusal"] == refused.text
    assert not found["done"]


@pytest.mark.parametrize(
    ("system", "manager"),
    [
        (TRIXIE, "apt"),
        ({**TRIXIE, "id": "linuxmint", "like": "ubuntu debian"}, "apt"),
        (ROCKY, "dnf"),
        ({**ROCKY, "id": "fedora", "like": ""}, "dnf"),
        (ALPINE, ""),
    ],
    ids=lambda value: value["id"] if isinstance(value, dict) else value or "none",
)
def test_a_system_is_known_by_its_family(system: dict[str, str], manager: str) -> None:
    assert Offer.for_system(PACKAGES, system, "docker").manager == manager


def test_only_packages_with_the_engines_version_are_pinned() -> None:
    apt, dnf = (Offer.for_system(PACKAGES, system, "docker") for system in (TRIXIE, ROCKY))
    assert apt.pinned("docker-ce", "5:28.*") == "docker-ce=5:28.*"
    assert dnf.pinned("docker-ce", "28.*") == "docker-ce-28.*"
    assert apt.pinned("containerd.io", "5:28.*") == "containerd.io"
    assert apt.pinned("docker-ce", "") == "docker-ce"


def test_the_filter_returns_the_plan_as_the_role_reads_it() -> None:
    found = plan("distribution", NOTHING, {})
    node = Node.from_report({"engine": NOTHING, "packages": {}, "system": TRIXIE})
    made = make_plan(node, Offer.for_system(PACKAGES, TRIXIE, "distribution"), Wanted("distribution", SAFE))
    assert found == {**asdict(made), "done": False}
    role = "".join(path.read_text() for path in (ROOT / "roles/docker_engine").glob("**/*.yml"))
    assert set(re.findall(r"__docker_engine_plan\.(\w+)", role)) == set(found)


def test_the_report_is_asked_for_all_packages_that_are_looked_at() -> None:
    names: set[str] = set()
    for table in PACKAGES.values():
        names |= {table["python"], *table["tools"]}
        for origin in (table[key] for key in ("distribution", "docker") if key in table):
            names |= {origin["engine"], *origin.get("held", []), *origin["versioned"]}
            names |= {name for group in origin["beside"].values() for name in group}
    assert names == set(KNOWN)
