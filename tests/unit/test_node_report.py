"""A node's report, as far as it works without a Docker Engine."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import node_report
import pytest
from node_report import (
    account_report,
    ask,
    disk_report,
    edge_report,
    engine_report,
    held_ports,
    keepalived_report,
    options_report,
    package_report,
    program_on,
    routed_networks,
    security_report,
    short_network,
    short_node,
    started_at,
)

from module_utils.xnat_site.floating import floating_config
from tests.unit.conftest import ROOT

FLOATING = {
    "deployment": "x", "address": "192.0.2.10/24", "interface": "eth0", "router_id": 71, "own": "192.0.2.11",
    "peers": ["192.0.2.12"], "port": 443,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"Spec": {"Role": "worker", "Availability": "drain", "Labels": None}}, {"availability": "drain"}),
        ({"Spec": {"Role": "worker", "Availability": "active", "Labels": {"a": "b"}}}, {"labels": {"a": "b"}}),
        ({"Description": {"Hostname": "w1"}}, {"hostname": "w1"}),
        ({"Status": {"State": "down", "Addr": "192.0.2.21"}}, {"state": "down", "address": "192.0.2.21"}),
        ({"Spec": {"Role": "manager", "Availability": "active"},
          "ManagerStatus": {"Leader": True, "Reachability": "reachable"}}, {"role": "manager"}),
        ({"ManagerStatus": {"Addr": "192.0.2.11:2377"}}, {"manager_address": "192.0.2.11"}),
        ({"ManagerStatus": {"Addr": "[2001:db8::1]:2377"}}, {"manager_address": "2001:db8::1"}),
    ],
)  # fmt: skip
def test_of_a_node_remains_what_matters(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    told = {"ID": "n1", "Spec": {"Role": "worker", "Availability": "active"}, "Status": {"State": "ready"}, **changes}
    bare = {
        "id": "n1", "hostname": "", "role": "worker", "availability": "active", "labels": {}, "state": "ready",
        "address": "", "manager_address": "",
    }  # fmt: skip
    assert short_node(told) == {**bare, **expected}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, {}),
        ({"Driver": "overlay", "IPAM": {"Config": [{"Subnet": "10.77.16.0/20", "Gateway": "10.77.16.1"}]}},
         {"driver": "overlay", "encrypted": False, "subnets": ["10.77.16.0/20"]}),
        ({"Driver": "overlay", "Options": {"encrypted": ""}}, {"driver": "overlay", "encrypted": True, "subnets": []}),
        ({"Driver": "bridge", "IPAM": {"Config": None}}, {"driver": "bridge", "encrypted": False, "subnets": []}),
        ({"Driver": "null", "IPAM": None, "Options": None}, {"driver": "null", "encrypted": False, "subnets": []}),
    ],
)  # fmt: skip
def test_of_a_network_remain_driver_encryption_and_subnets(
    answer: dict[str, Any] | None, expected: dict[str, Any]
) -> None:
    assert short_network(answer) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], []),
        (["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"], ["apparmor", "cgroupns", "seccomp"]),
        (["name=seccomp,profile=default", "name=selinux"], ["seccomp", "selinux"]),
        (["name=seccomp,profile=unconfined", "rootless"], []),
    ],
    ids=["nothing", "debian", "engine-20.10", "unconfined"],
)
def test_what_confines_containers_is_what_the_engine_enforces(options: list[str], expected: list[str]) -> None:
    assert security_report(options) == expected


def test_routes_are_told_without_the_default_one(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "eth1\t0000000A\t010011AC\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n"
    )
    assert routed_networks(str(table)) == ["10.0.0.0/8", "172.17.0.0/16"]
    assert routed_networks(str(tmp_path / "none")) == []
    assert all("/" in network for network in routed_networks())


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for daemon.json and docker.pid."""
    monkeypatch.setattr(node_report, "OPTIONS_FILE", str(tmp_path / "daemon.json"))
    monkeypatch.setattr(node_report, "PID_FILES", (str(tmp_path / "none.pid"), str(tmp_path / "docker.pid")))
    return tmp_path


ME = str(os.getpid())


@pytest.mark.parametrize(
    ("content", "pid", "later", "expected"),
    [
        (None, None, 0, (None, False, False)),
        (None, ME, 0, (None, False, False)),
        ("", ME, -60, ({}, False, False)),
        ('{"mtu": 1400}', ME, -60, ({"mtu": 1400}, False, False)),
        ('{"mtu": 1400}', ME, 60, ({"mtu": 1400}, False, True)),
        ('{"mtu": 1400}', None, 60, ({"mtu": 1400}, False, False)),
        ('{"mtu": 1400}', "nonsense", 60, ({"mtu": 1400}, False, False)),
        ('{"mtu": 1400}', "999999999", 60, ({"mtu": 1400}, False, False)),
        ('{"mtu": ', ME, -60, (None, True, False)),
    ],
)  # fmt: skip
def test_an_engine_older_than_its_settings_needs_a_restart(
    engine: Path, content: str | None, pid: str | None, later: int, expected: tuple[Any, bool, bool]
) -> None:
    if content is not None:
        (engine / "daemon.json").write_text(content)
        os.utime(engine / "daemon.json", (started_at(os.getpid()) + later,) * 2)
    if pid:
        (engine / "docker.pid").write_text(pid)
    found = options_report()
    assert (found["options"], found["options_broken"], found["restart_needed"]) == expected


def test_an_engine_that_does_not_answer_is_told_as_one(engine: Path) -> None:
    assert ask(str(engine / "none.sock"), "/info") is None
    found, data_root, services = engine_report(str(engine / "none.sock"), "xnat")
    assert (data_root, services) == ("/var/lib/docker", [])
    assert (found["answers"], found["version"], found["swarm"], found["deployed"]) == (False, "", {}, False)
    assert found["security"] == []
    assert (found["nodes"], found["images"], found["options"], found["restart_needed"]) == ([], {}, None, False)


def test_an_account_that_has_an_id_is_named() -> None:
    assert account_report([0, 60900]) == {"0": "root"}


def test_a_port_is_held_by_whom_the_system_names(tmp_path: Path) -> None:
    with socket.socket() as held, socket.socket() as other:
        held.bind(("", 0))
        held.listen()
        other.bind(("", 0))
        taken, free = held.getsockname()[1], other.getsockname()[1]
        other.close()
        ports = [{"port": port, "purpose": "x", "variable": "y"} for port in (taken, free)]
        (found,) = held_ports(ports, str(tmp_path / "none.sock"), "xnat", [])
        who = found.pop("holder")
        assert found == ports[0]
        assert who.endswith(f" (process {ME})") if shutil.which("ss") else who == "another program"
        assert program_on(free) == ""
    assert held_ports(ports, str(tmp_path / "none.sock"), "xnat", []) == []


def test_the_space_is_that_of_the_directory_or_of_where_it_is_going_to_be(tmp_path: Path) -> None:
    missing = str(tmp_path / "not/there/yet")
    found = disk_report(missing)
    assert found["path"] == missing
    assert found["free_mb"] == pytest.approx(shutil.disk_usage(tmp_path).free / 10**6, abs=1000)


DPKG = "docker.io\tinstalled\t26.1.5+dfsg1-9\thold\ncontainerd\tconfig-files\t1.7\tdeinstall\nno line of a package\n"


@pytest.mark.parametrize(
    ("tool", "text", "expected"),
    [
        ("dpkg-query", DPKG,
         {"docker.io": {"status": "installed", "version": "26.1.5+dfsg1-9", "held": True},
          "containerd": {"status": "config-files", "version": "1.7", "held": False}}),
        ("rpm", "docker-ce\tinstalled\t28.1-1\t\npackage runc is not installed\n",
         {"docker-ce": {"status": "installed", "version": "28.1-1", "held": False}}),
        ("", "", {}),
    ],
)  # fmt: skip
def test_packages_are_told_by_the_package_manager_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tool: str, text: str, expected: dict[str, Any]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name if name == tool else None)
    asked: list[list[str]] = []

    def run(command: list[str]) -> tuple[int, str, str]:
        asked.append(command)
        return 1, text, ""

    assert package_report(["docker.io", "runc"], run) == expected
    assert [(command[0], command[-2:]) for command in asked] == ([(tool, ["docker.io", "runc"])] if tool else [])
    assert package_report([], run) == {}


@pytest.mark.parametrize(
    ("text", "ours", "other"),
    [
        (None, False, False),
        (" \n", False, False),
        (floating_config(FLOATING), True, False),
        ("# the site's own\n", False, True),
        (floating_config({**FLOATING, "deployment": "y"}), False, True),
        (f"global_defs {{\n}}\n{floating_config(FLOATING)}", False, True),
    ],
    ids=["none", "empty", "ours", "the-sites", "of-another-deployment", "ours-after-others"],
)
def test_whose_the_file_of_keepalived_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, ours: bool, other: bool
) -> None:
    file = tmp_path / "keepalived.conf"
    monkeypatch.setattr(node_report, "KEEPALIVED_FILE", str(file))
    monkeypatch.setattr(node_report, "KEEPALIVED", str(tmp_path / "keepalived"))
    if text is not None:
        file.write_text(text)
    assert keepalived_report("x") == {"installed": False, "ours": ours, "other": other}


def test_a_node_is_an_edge_as_long_as_it_has_any_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{path}-x" for path in node_report.EDGE_FILES]
    text = (ROOT / "roles/edge/vars/main.yml").read_text()
    written = text.replace("{{ edge_deployment }}", "x").replace("{{ __edge_acme_unit }}", f"{node_report.ACME}-x")
    assert all(f': "{path}"\n' in written for path in [*paths, f"{node_report.ACME}-x"])

    units = tmp_path / "units"
    units.mkdir()
    monkeypatch.setattr(node_report, "UNITS", str(units))
    monkeypatch.setattr(node_report, "EDGE_FILES", (str(tmp_path / "a"), str(tmp_path / "b")))
    files = [tmp_path / "a-x", tmp_path / "b-x", units / f"{node_report.ACME}-x.timer"]
    for file in files:
        assert not edge_report("x", lambda command: (1, "", ""))["installed"]
        file.touch()
        assert edge_report("x", lambda command: (1, "", ""))["installed"]
        assert not edge_report("y", lambda command: (1, "", ""))["installed"]
        file.unlink()
