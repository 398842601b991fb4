"""Inventory and nodes' reports judged together: what forbids a change, the acting manager, and what is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils.xnat_site.fleet import (
    ERROR,
    KEYS_LABEL,
    NOTE,
    WARNING,
    Finding,
    findings,
    fleet,
    port_peers,
    swarm_changes,
    unready_nodes,
)
from module_utils.xnat_site.hosts import HOST_LABEL, HUB_LABEL, Host, Node, Site, inventory_hosts, match_nodes

Variables = tuple[dict[str, dict[str, Any]], dict[str, list[str]]]

HUB_PORT = {"port": 8000, "purpose": "JupyterHub", "variable": "site_hub_port"}
LIMITS = {
    "deployment": "xnat", "disk_gb": 6, "memory_mb": 1800, "clock_skew": 30, "now": 1000.0, "address_pools": [],
    "subnet_size": 20, "network": "xnat-notebooks", "former_network": "xnat",
    "network_subnet": "", "network_encrypted": None, "servers": 2000,
}  # fmt: skip
TINY = {"subnet_size": 28, "servers": 0}
OUTSIDE: dict[str, Any] = {
    "state": "inactive", "manager": False, "node_id": "", "address": "", "error": "", "cluster": "", "managers": [],
    "subnet_size": 0, "data_path_port": 0,
}  # fmt: skip
NO_FIREWALL: dict[str, Any] = {
    "nft": True, "systemd": True, "package_manager": "apt", "loaded": "", "count": 0, "sources": [], "rules": "",
    "unit": "", "drop_in": "", "enabled": False, "pending": False, "bridges": [], "other_bridges": [],
}  # fmt: skip
ROCKY = {"id": "rocky", "like": "rhel centos fedora", "codename": "", "name": "Rocky Linux 9"}
NO_LEADER = "rpc error: code = Unknown desc = The swarm does not have a leader"
FOREIGN = {"node_id": "id-other", "managers": ["198.51.100.1:2377"]}
TCP, NODE = ["7946/tcp"], ["7946/tcp", "7946/udp", "4789/udp"]


def address(name: str) -> str:
    """m1 is 192.0.2.11, w1 is 192.0.2.21, x1 is 192.0.2.31."""
    return f"192.0.2.{10 + 10 * 'mwx'.index(name[0]) + int(name[1:])}"


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **base,
        **{
            key: merged(base[key], value)
            if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
            else value
            for key, value in changes.items()
        },
    }


def membership(name: str) -> dict[str, Any]:
    manager = name[0] == "m"
    return {
        **OUTSIDE, "state": "active", "manager": manager, "node_id": f"id-{name}", "address": address(name),
        "cluster": "c1" if manager else "", "managers": [f"{address('m1')}:2377"], "subnet_size": 20,
        "data_path_port": 4789 if manager else 0,
    }  # fmt: skip


def swarm(**changes: Any) -> dict[str, Any]:
    return {"engine": {"swarm": changes}}


def node(name: str, **changes: Any) -> dict[str, Any]:
    base = {
        "id": f"id-{name}", "hostname": name, "role": "manager" if name[0] == "m" else "worker",
        "availability": "active", "labels": {HOST_LABEL: name}, "state": "ready", "address": address(name),
        "manager_address": address(name) if name[0] == "m" else "",
    }  # fmt: skip
    return merged(base, changes)


def report(name: str, nodes: list[dict[str, Any]], member: bool) -> dict[str, Any]:
    return {
        "hostname": name, "user_id": 0, "time": 995.0, "asked_at": 990.0, "address": address(name),
        "networks": ["192.0.2.0/24", "172.17.0.0/16"],
        "system": {"id": "debian", "like": "", "codename": "trixie", "name": "Debian GNU/Linux 13 (trixie)"},
        "architecture": "x86_64", "memory_mb": 1800, "disk": {"path": "/var/lib/docker", "free_mb": 6000},
        "kernel": {"release": "6.12"}
        | dict.fromkeys(("overlay", "vxlan", "bridge", "veth", "ip_vs", "esp4"), True),
        "accounts": {}, "held_ports": [], "packages": {}, "systemd": True, "local_ports": [], "firewall": NO_FIREWALL,
        "cleanup": {}, "edge": {}, "keepalived": {},
        "engine": {
            "answers": True, "version": "26.1.5+dfsg1", "security": ["apparmor", "seccomp"], "options_broken": False,
            "deployed": False,
            "swarm": membership(name) if member else OUTSIDE, "nodes": nodes if member and name[0] == "m" else [],
            "network": {}, "former_network": {}, "images": {}, "options": None,
        },
    }  # fmt: skip


def site(
    managers: str = "m1",
    workers: str = "",
    *,
    members: str = "",
    silent: str = "",
    demo_xnat: str = "",
    ungrouped: str = "",
    nodes: list[dict[str, Any]] | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    variables: Mapping[str, Mapping[str, Any]] | None = None,
) -> Variables:
    """The variables and groups of a site; members are nodes, changes alter reports, variables are a host's own."""
    groups = {
        key: text.split() for key, text in {"managers": managers, "workers": workers, "demo_xnat": demo_xnat}.items()
    }
    groups["swarm"] = [*groups["managers"], *groups["workers"], *ungrouped.split()]
    listed = [node(name) for name in members.split()] if nodes is None else nodes
    hostvars: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for names in groups.values() for name in names):
        told = merged(report(name, listed, name in members.split()), (changes or {}).get(name, {}))
        answer = {} if name in silent.split() else {"preflight_report": {"report": told}}
        hostvars[name] = {**answer, **(variables or {}).get(name, {})}
    return hostvars, groups


def judged(*groups: str, limits: Mapping[str, Any] | None = None, **wanted: Any) -> dict[str, Any]:
    return fleet(inventory_hosts(*site(*groups, **wanted)), {**LIMITS, **(limits or {})})


def a_site(*groups: str, limits: Mapping[str, Any] | None = None, **wanted: Any) -> Site:
    return Site.from_inventory(inventory_hosts(*site(*groups, **wanted)), {**LIMITS, **(limits or {})})


def hosts_of(*groups: str, **wanted: Any) -> dict[str, Host]:
    return dict(a_site(*groups, **wanted).hosts)


def changes(variables: Variables, nodes: list[dict[str, Any]], joined: dict[str, str] | None = None) -> dict[str, Any]:
    return swarm_changes(fleet(inventory_hosts(*variables), LIMITS)["hosts"], nodes, joined)


def has(found: list[Finding], severity: str, *expected: tuple[str, ...]) -> None:
    """The findings of a severity have these ids in this order, and each names these facts."""
    of_it = [finding for finding in found if finding.severity == severity]
    assert [finding.id for finding in of_it] == [one[0] for one in expected], of_it
    for finding, (_, *facts) in zip(of_it, expected, strict=True):
        assert [fact for fact in facts if fact not in finding.text] == [], finding.text


def one(change: Mapping[str, Any]) -> dict[str, Any]:
    return {"changes": {"m1": change}}


M3 = {"managers": "m1 m2 m3", "members": "m1 m2 m3"}
MEMBERS = {"workers": "w1", "members": "m1 w1"}
HUB_ON_M1 = [node("m1", labels={f"{HUB_LABEL}.xnat": "true"}), node("m2"), node("m3")]
HUB_ON_M3 = [node("m1"), node("m2"), node("m3", labels={f"{HUB_LABEL}.xnat": "true"})]
HUB_ON_W1 = [node("m1"), node("w1", labels={f"{HUB_LABEL}.xnat": "true"})]
LOST = {"m1": {"engine": {"nodes": [], "swarm": {"error": NO_LEADER}}}}


def case(name: str, wanted: dict[str, Any], *expected: tuple[str, ...]) -> Any:
    """A site and the findings that it has: the id of each, and facts that its sentence names."""
    return pytest.param(wanted, expected, id=name)


def silent_at_first(*names: str) -> list[tuple[str, ...]]:
    return [("silent_at_first", name) for name in names]


MEMORY = ("memory", "1800", "preflight_memory_mb")
DISK = ("disk", "4.2 GB", "/var/lib/docker", "6", "preflight_disk_gb")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        case("one host", {}),
        case("a site", {"managers": "m1 m2 m3", "workers": "w1 w2", "demo_xnat": "x1"}),
        case("five managers", {"managers": "m1 m2 m3 m4 m5"}),
        case("alone without an address", one({"address": ""})),
        case("without an address", {"workers": "w1", "changes": {"w1": {"address": ""}}},
             ("no_address", "w1", "docker_swarm_advertise_addr")),
        case("no manager", {"managers": "", "workers": "w1"}, ("quorum", "0 hosts", "none")),
        *[case(f"{number} managers", {"managers": " ".join(f"m{n}" for n in range(1, number + 1))},
               ("quorum", f"{number} hosts", "m1, m2", reason))
          for number, reason in ((2, "either"), (4, "as three"), (6, "slower"), (7, "slower"))],
        case("two groups", {"workers": "w1 m1"}, ("two_groups", "m1")),
        case("in no group of a role", {"ungrouped": "w1"}, ("no_role", "w1", "managers", "workers")),
        case("one address", {"workers": "w1", "changes": {"w1": {"address": "192.0.2.11"}}},
             ("same_address", "m1 and w1", "192.0.2.11", "docker_swarm_advertise_addr")),
        case("one host name", {"workers": "w1", "changes": {"w1": {"hostname": "m1"}}}, ("same_hostname", "m1 and w1")),
        case("demo on a manager's machine",
             {"demo_xnat": "x1", "changes": {"x1": {"hostname": "m1", "address": "192.0.2.11"}}}),
        case("not root", one({"user_id": 1000}), ("not_root", "m1", "--become", "ansible_become")),
        case("Alpine", one({"system": {"id": "alpine", "codename": "", "name": "Alpine Linux v3.22"}}),
             ("system", "m1", "Alpine Linux v3.22", "Debian 12, Debian 13, Ubuntu 22.04, Ubuntu 24.04")),
        case("no system", one({"system": {"id": "", "codename": "", "name": ""}}), ("system", "an unknown system")),
        *[case(f"Red Hat: {system}", one({"system": {**ROCKY, **system}}))
          for system in ({}, {"id": "fedora", "like": ""}, {"id": "centos", "like": ""}, {"id": "x", "like": "rhel"})],
        case("aarch64", one({"architecture": "aarch64"})),
        case("riscv64", one({"architecture": "riscv64"}), ("architecture", "m1", "riscv64", "x86_64 or aarch64")),
        case("memory", one({"memory_mb": 1799}), (*MEMORY, "m1", "1799")),
        case("memory of the demo's host", {"demo_xnat": "x1", "changes": {"x1": {"memory_mb": 512}}},
             (*MEMORY, "x1", "512")),
        case("disk", one({"disk": {"free_mb": 4217}}), (*DISK, "m1")),
        case("disk of a site", one({"disk": {"free_mb": 4217}, "engine": {"deployed": True}})),
        case("daemon.json", one({"engine": {"options_broken": True}}),
             ("engine_options", "/etc/docker/daemon.json", "m1")),
        *[case(f"engine {version}", one({"engine": {"version": version}}), ("engine_version", "m1", version, "20.10"))
          for version in ("19.03.15", "20.9-ce")],
        case("engine 20.10", one({"engine": {"version": "20.10-rc1"}})),
        case("no engine", one({"engine": {"version": "", "answers": False, "swarm": {}}})),
        *[case(feature, one({"kernel": {feature: False}}), ("kernel", "m1", "6.12", feature))
          for feature in ("overlay", "vxlan", "bridge", "veth")],
        case("a kernel that does not tell", one({"kernel": {"vxlan": None}})),
        case("locked", one(swarm(state="locked")), ("locked", "m1", "playbooks/unlock.yml")),
        case("30 s ahead", one({"time": 1030.0})),
        case("31 s ahead", one({"time": 1031.0}), ("clock", "m1", "31 s ahead", "chrony")),
        case("30 s behind", one({"time": 960.0})),
        case("31 s behind", one({"time": 959.0}), ("clock", "m1", "31 s behind")),
        case("a host that took long, or was asked long ago", one({"asked_at": 100.0, "time": 150.0})),
        case("port", one({"held_ports": [{**HUB_PORT, "holder": "nginx (process 7)"}]}),
             ("port", "8000", "m1", "nginx (process 7)", "JupyterHub", "site_hub_port")),
        case("account", one({"accounts": {"60900": "eve"}}), ("account", "eve", "m1", "60900", "hub_images_hub_uid")),
        case("pool with a silent host's address",
             {"workers": "w1", "silent": "w1", "limits": {"address_pools": ["192.0.2.16/28", "10.77.0.0/16"], **TINY}},
             *silent_at_first("w1")),
        case("pool with an address",
             {"workers": "w1", "limits": {"address_pools": ["10.77.0.0/16", "192.0.2.16/28"], **TINY}},
             ("pool_address", "docker_swarm_default_addr_pool", "192.0.2.16/28", "192.0.2.21", "w1")),
        case("pool in place of a list", {"limits": {"address_pools": "10.77.0.0/16"}}),
        case("no pool", {"limits": {"address_pools": ["10.77.0.1/16"]}},
             ("pool_form", "docker_swarm_default_addr_pool", "10.77.0.1/16")),
        case("no address to advertise",
             {"variables": {"m1": {"docker_swarm_advertise_addr": "eth0"}},
              "limits": {"address_pools": ["10.77.0.0/16"]}},
             ("advertise_addr", "docker_swarm_advertise_addr", "m1", "eth0")),
        case("availability", {"variables": {"m1": {"docker_swarm_availability": "gone"}}},
             ("availability", "docker_swarm_availability", "m1", "gone", "active, pause, drain")),
        case("nobody answers", {"workers": "w1", "silent": "m1 w1"}, *silent_at_first("m1", "w1")),
        case("a silent worker", {"workers": "w1", "members": "m1 w1", "silent": "w1"}),
        case("majority lost",
             {**M3, "workers": "w1", "members": "m1 m2 m3 w1", "silent": "m2 m3", "changes": LOST},
             ("no_leader", "m1", NO_LEADER, "docker swarm init --force-new-cluster"), *silent_at_first("m2", "m3")),
        case("workers of another swarm",
             {"workers": "w1 w2", "members": "w1", "changes": {"w2": swarm(state="pending", error=NO_LEADER)}},
             *[("managed_elsewhere", name, "docker swarm leave") for name in ("w1", "w2")]),
        case("the demo's host in another swarm", {"demo_xnat": "x1", "changes": {"x1": swarm(state="active")}}),
        case("a manager that was too busy to list its nodes", {"members": "m1", "nodes": []}),
        case("foreign", {**MEMBERS, "changes": {"w1": swarm(**FOREIGN)}},
             ("foreign_node", "w1", "docker swarm leave --force")),
        case("listed, so ours", {**MEMBERS, "changes": {"w1": swarm(managers=FOREIGN["managers"])}}),
        case("ours by a node's address",
             {**MEMBERS, "nodes": [node("m1"), node("m9")], "changes": {"w1": swarm(managers=["192.0.2.19:2377"])}}),
        case("ours by a host's address",
             {**MEMBERS, "managers": "m1 m2 m3", "nodes": [node("m1")],
              "changes": {"w1": swarm(managers=["192.0.2.12:2377"])}}),
        case("foreign and left", {**MEMBERS, "changes": {"w1": swarm(**{**FOREIGN, "state": "inactive"})}}),
        case("foreign host of the demo",
             {"members": "m1 x1", "demo_xnat": "x1", "changes": {"x1": swarm(**FOREIGN)}}),
        case("a manager whose swarm is not ours",
             {**M3, "changes": {"m3": {"engine": {"nodes": [], "swarm": {
                 "error": NO_LEADER, "node_id": "id-other", "managers": ["198.51.100.1:2377", "192.0.2.13:2377"]}}}}},
             ("foreign_node", "m3")),
        case("two swarms",
             {**MEMBERS, "changes": {"w1": {"engine": {"nodes": [node("w1")], "swarm": {
                 "manager": True, "cluster": "c2", "node_id": "id-other", "managers": ["192.0.2.21:2377"]}}}}},
             ("several_swarms", "m1, w1", "docker swarm leave --force")),
        case("no manager of the inventory",
             {"workers": "w1", "members": "w1", "changes": {"w1": {"engine": {
                 "nodes": [node("w1", role="manager")], "swarm": {"manager": True, "cluster": "c1"}}}}},
             ("no_manager_listed", "w1")),
        case("the hub on a worker", {**MEMBERS, "nodes": HUB_ON_W1}, ("hub_no_manager", "w1")),
        case("the hub on a node that is not listed",
             {"members": "m1", "nodes": [node("m1"), node("m9", labels={f"{HUB_LABEL}.xnat": "true"})]},
             ("hub_no_manager", "m9")),
        case("the hub on a paused node",
             {**M3, "nodes": HUB_ON_M3, "variables": {"m3": {"docker_swarm_availability": "pause"}}},
             ("hub_availability", "docker_swarm_availability", "m3", "pause")),
        case("the hub on a manager", {**M3, "nodes": HUB_ON_M1}),
    ],
)  # fmt: skip
def test_what_forbids_a_change_is_an_error(wanted: dict[str, Any], expected: tuple[tuple[str, ...], ...]) -> None:
    wanted = {"managers": "m1", **wanted}
    has(findings(a_site(wanted.pop("managers"), wanted.pop("workers", ""), **wanted)), ERROR, *expected)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        case("nothing", {}),
        case("no IPVS", {"changes": {"m1": {"kernel": {"ip_vs": False}}, "w1": {"kernel": {"ip_vs": None}}}},
             ("no_ipvs", "m1, w1")),
        case("no confinement", {"changes": {"m1": {"engine": {"security": []}}, "w1": {"engine": {"security": []}}}},
             ("no_apparmor", "m1, w1"), ("no_seccomp", "m1, w1")),
        case("SELinux", {"changes": {"m1": {"engine": {"security": ["selinux", "seccomp"]}}}}),
        case("no engine yet", {"changes": {"w1": {"engine": {"answers": False, "security": []}}}}),
        case("no ESP", {"changes": {"w1": {"kernel": {"esp4": None}}}},
             ("no_esp", "not encrypted", "w1", "esp4")),
        case("no ESP on a single node", {"workers": "", "changes": {"m1": {"kernel": {"esp4": False}}}}),
        case("a node joins while another is silent", {"workers": "w1 w2", "members": "m1 w1", "silent": "w1"},
             ("silent", "w1"), ("silent_firewall", "w2", "w1", "site.yml")),
        case("engines", {"changes": {"w1": {"engine": {"version": "29.0.1"}}}},
             ("engines_differ", "m1 26.1.5+dfsg1", "w1 29.0.1")),
        case("engines that differ little", {"changes": {"w1": {"engine": {"version": "26.1.4"}}}}),
        case("one engine", {"changes": {"w1": {"engine": {"version": "", "answers": False, "swarm": {}}}}}),
        case("Red Hat", {"changes": {"w1": {"system": ROCKY}}}, ("untested_system", "w1", "Red Hat")),
        case("silent", {"members": "m1 w1", "silent": "w1"}, ("silent", "w1 does not answer")),
        case("hub on a manager that lost the others",
             {**M3, "workers": "", "nodes": HUB_ON_M3, "changes": {"m3": swarm(error=NO_LEADER)}}),
        case("hub silent", {**M3, "workers": "", "nodes": HUB_ON_M1, "silent": "m1"},
             ("silent", "m1"), ("hub_silent", "m1", "through m2")),
        case("hub silent, no other manager",
             {"members": "m1 w1", "silent": "m1", "changes": {"w1": {"engine": {
                 "nodes": [HUB_ON_M1[0], node("w1", role="manager")], "swarm": {"manager": True, "cluster": "c1"}}}}},
             ("silent", "m1"), ("hub_silent", "m1", "nobody")),
    ],
)  # fmt: skip
def test_what_is_worth_knowing_is_a_note(wanted: dict[str, Any], expected: tuple[tuple[str, ...], ...]) -> None:
    wanted = {"managers": "m1", "workers": "w1", **wanted}
    has(findings(a_site(wanted.pop("managers"), wanted.pop("workers"), **wanted)), NOTE, *expected)


def test_findings_go_to_ansible_as_sentences() -> None:
    found = judged("m1 m2", "w1", members="m1 m2", changes={"m1": {"kernel": {"ip_vs": False}}},
                   nodes=[node("m1"), node("m2", state="down")])  # fmt: skip
    site = a_site("m1 m2", "w1", members="m1 m2", changes={"m1": {"kernel": {"ip_vs": False}}},
                  nodes=[node("m1"), node("m2", state="down")])  # fmt: skip
    for kind, severity in (("errors", ERROR), ("warnings", WARNING), ("notes", NOTE)):
        assert found[kind] == [finding.text for finding in findings(site) if finding.severity == severity]
        assert len(found[kind]) == 1


@pytest.mark.parametrize(
    ("wanted", "manager", "hub_host", "alive"),
    [
        ({"managers": "m1 m2 m3"}, "m1", "m1", False),
        ({"managers": "m1 m2 m3", "silent": "m1"}, "", "", False),
        ({"managers": "m1", "changes": LOST, "members": "m1"}, "", "", False),
        ({"managers": "", "workers": "w1"}, "", "", False),
        (M3, "m1", "m1", True),
        ({**M3, "changes": {"m1": {"engine": {"nodes": []}}}}, "m2", "m2", True),
        ({**M3, "silent": "m1"}, "m2", "m2", True),
        ({**M3, "members": "m2 m3"}, "m2", "m2", True),  # the first manager is new: the swarm is not begun anew
        ({**M3, "nodes": HUB_ON_M3}, "m3", "m3", True),
        ({**M3, "nodes": HUB_ON_M1, "silent": "m1 m2"}, "m3", "m1", True),
        ({**M3, "nodes": HUB_ON_M3, "changes": {"m3": swarm(error=NO_LEADER)}}, "m1", "m3", True),
        ({**M3, "nodes": HUB_ON_M3, "limits": {"deployment": "other"}}, "m1", "m1", True),
    ],
)
def test_work_goes_through_the_hubs_host_else_the_next_live_manager(
    wanted: dict[str, Any], manager: str, hub_host: str, alive: bool
) -> None:
    wanted = dict(wanted)
    found = judged(wanted.pop("managers"), **wanted)
    assert (found["manager"], found["hub_host"], bool(found["live_managers"])) == (manager, hub_host, alive)


def test_hosts_that_are_no_members_join_managers_first_and_leave_what_they_were_in() -> None:
    old = swarm(state="error", node_id="id-old", managers=["192.0.2.11:2377"])
    pending = swarm(state="pending")
    was_ours = swarm(state="active", node_id="id-old", managers=["192.0.2.12:2377"])
    found = judged(
        "m1 m2 m3", "w1 w2 w3 w4 w5 w6",
        members="m2 m3 w1", silent="w6", demo_xnat="x1", changes={"w2": old, "w4": pending, "w5": was_ours},
    )  # fmt: skip
    assert found["errors"] == []
    assert found["joining"] == ["m1", "w2", "w3", "w4", "w5"]
    assert found["stale"] == ["w2", "w4", "w5"]
    assert sorted(found["addresses"]) == ["m1", "m2", "m3", "w1", "w2", "w3", "w4", "w5", "x1"]
    assert judged("m1", "w1", members="m1 w1")["joining"] == []
    assert judged("m1", "w1", members="m1", changes={"w1": swarm(state="locked")})["stale"] == []
    inventory = inventory_hosts(site("m1")[0] | site("", "w1")[0], {"managers": ["m1"], "workers": ["w1"]})
    workers_first = fleet(dict(reversed(inventory.items())), LIMITS)
    assert (workers_first["joining"], workers_first["stale"]) == (["m1", "w1"], [])


def test_only_nodes_that_join_are_tried_and_members_on_what_answers_to_tcp() -> None:
    hosts = hosts_of("m1", "w1 w2 w3", members="m1 w1", silent="w3", demo_xnat="x1")
    tried = {
        name: {peer["host"]: peer["ports"] for peer in port_peers(hosts, ["w2"], name)}
        for name in ("m1", "w1", "w2", "x1")
    }
    assert tried == {
        "m1": {"w2": NODE},
        "w1": {"w2": NODE},
        "w2": {"m1": ["2377/tcp", *TCP], "w1": TCP},
        "x1": {},
    }
    assert port_peers(hosts, ["w2"], "m1")[0]["address"] == "192.0.2.22"
    # One that has left the inventory's swarm only in the inventory: its engine has the ports until it leaves.
    stale = hosts_of("m1", "w2", members="m1", changes={"w2": swarm(**FOREIGN, state="active")})
    assert port_peers(stale, ["w2"], "m1")[0]["ports"] == TCP
    plain = {"network_encrypted": False}
    assert judged("m1", "w1", members="m1 w1", limits=plain)["peers"] == {}
    assert {name: [peer["host"] for peer in peers] for name, peers in judged("m1", "w1")["peers"].items()} == {
        "m1": ["w1"],
        "w1": ["m1"],
    }
    assert judged("m1", "w1", limits=plain)["peers"]["w1"][0]["ports"] == ["2377/tcp", *NODE]


NO_ESP = {"w1": {"kernel": {"esp4": False}}}
ESP = "50/ip"


@pytest.mark.parametrize(
    ("wanted", "there", "changes", "encrypted"),
    [
        (None, None, {}, True),
        (None, None, NO_ESP, False),
        (False, None, {}, False),
        (True, None, {}, True),
        (None, False, {}, False),
        (None, True, {}, True),
        (False, True, {}, True),
        (True, False, {}, False),
    ],
)
def test_networks_stay_as_they_are_and_new_ones_are_encrypted_where_every_kernel_can(
    wanted: bool | None, there: bool | None, changes: dict[str, Any], encrypted: bool
) -> None:
    exists = {} if there is None else network("10.78.0.0/20", encrypted=there)
    limits = {"network_encrypted": wanted}
    found = judged("m1", "w1", members="m1 w1", limits=limits, changes=merged(changes, exists))
    assert found["network_encrypted"] is encrypted
    assert found["errors"] == []
    kept = [note for note in found["notes"] if "jupyterhub_network_encrypted is" in note]
    assert len(kept) == (None not in (wanted, there) and wanted is not there)
    assert all("xnat-notebooks" in note and "playbooks/remove.yml" in note for note in kept)


@pytest.mark.parametrize(("wanted", "there"), [(True, None), (None, True), (False, True)])
def test_a_kernel_without_esp_is_no_node_of_an_encrypted_network(wanted: bool | None, there: bool | None) -> None:
    exists = {} if there is None else network("10.78.0.0/20", encrypted=there)
    limits = {"network_encrypted": wanted}
    (text,) = judged("m1", "w1", members="m1", limits=limits, changes=merged(NO_ESP, exists))["errors"]
    assert "w1" in text
    assert "esp4" in text
    assert ("take these hosts out" if there else "jupyterhub_network_encrypted to false") in text


def test_the_protocol_of_encrypted_networks_is_tried_by_all_before_they_exist_then_by_nodes_that_join() -> None:
    def tried(*groups: str, **facts: Any) -> dict[str, dict[str, list[str]]]:
        peers = judged(*groups, demo_xnat="x1", **facts)["peers"]
        return {name: {peer["host"]: peer["ports"] for peer in found} for name, found in peers.items()}

    assert tried("m1", "w1", members="m1 w1") == {"m1": {"w1": [ESP]}, "w1": {"m1": [ESP]}}
    assert tried("m1", "w1 w2", members="m1 w1", changes=network("10.78.0.0/20", encrypted=True)) == {
        "m1": {"w2": [*NODE, ESP]},
        "w1": {"w2": [*NODE, ESP]},
        "w2": {"m1": ["2377/tcp", *TCP, ESP], "w1": [*TCP, ESP]},
    }
    assert ESP not in str(tried("m1", "w1", members="m1", limits={"network_encrypted": False}))


@pytest.mark.parametrize(
    ("variables", "changes", "expected"),
    [
        ({}, {}, {"address": "192.0.2.21", "availability": "active", "labels": {}, "node_id": "id-w1"}),
        ({"docker_swarm_advertise_addr": "203.0.113.5"}, {}, {"address": "203.0.113.5"}),
        ({}, swarm(address="203.0.113.6"), {"address": "203.0.113.6"}),
        ({}, swarm(address=""), {"address": "192.0.2.21"}),
        ({"docker_swarm_availability": "drain"}, {}, {"availability": "drain"}),
        ({"docker_swarm_labels": {"gpu": True, "old": False, "rack": 4, 7: "x"}}, {},
         {"labels": {"gpu": "true", "old": "false", "rack": "4", "7": "x"}}),
        ({}, {"engine": {"swarm": OUTSIDE}}, {"node_id": ""}),
    ],
)  # fmt: skip
def test_a_host_is_what_its_variables_say_else_what_it_reports(
    variables: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    host = hosts_of("m1", "w1", members="m1 w1", variables={"w1": variables}, changes={"w1": changes})["w1"]
    assert {key: getattr(host, key) for key in expected} == expected
    assert Host.from_dict(host.as_dict()) == host


def test_a_host_is_what_the_first_of_its_groups_says() -> None:
    hosts = hosts_of("m1", "m1 w1", demo_xnat="x1 w1", silent="w1")
    assert {name: host.role for name, host in hosts.items()} == {"m1": "manager", "w1": "worker", "x1": ""}
    assert {name: host.groups for name, host in hosts.items()} == {
        "m1": ("managers", "workers", "swarm"), "w1": ("workers", "demo_xnat", "swarm"), "x1": ("demo_xnat",),
    }  # fmt: skip
    assert (hosts["w1"].answers, hosts["w1"].address, hosts["w1"].node_id) == (False, "", "")
    only = inventory_hosts({"m1": {}}, {"managers": ["m1"]})
    assert only["m1"]["report"] is None


def told(severity: str, *groups: str, **wanted: Any) -> str:
    """The one sentence of a site about an address that Swarm tells to nodes."""
    (finding,) = [one for one in findings(a_site(*groups, **wanted)) if one.id == "told_address"]
    assert finding.severity == severity
    return finding.text


NEW_ADDRESS = {"m1": {"docker_swarm_advertise_addr": "198.51.100.11"}}


def test_a_swarm_that_tells_another_address_than_the_inventory_takes_no_node() -> None:
    text = told(ERROR, "m1", "w1", members="m1", variables=NEW_ADDRESS)
    for fact in ("m1", "192.0.2.11", "198.51.100.11", "docker_swarm_advertise_addr", "playbooks/remove.yml",
                 "docker swarm leave --force"):  # fmt: skip
        assert fact in text
    # After `docker swarm init --force-new-cluster --advertise-addr` docker info has the new address, joining nodes not.
    forced = swarm(address="198.51.100.11")
    assert "198.51.100.11" in told(ERROR, "m1", "w1", members="m1", changes={"m1": forced})
    many = told(ERROR, "m1 m2 m3", "w1", members="m1 m2 m3", variables=NEW_ADDRESS)
    assert "docker node demote m1" in many
    assert "remove.yml" not in many


def test_a_swarm_that_only_its_own_machine_reaches_takes_no_node() -> None:
    alone: dict[str, Any] = {
        "members": "m1", "nodes": [node("m1", manager_address="127.0.0.1")],
        "changes": {"m1": {**swarm(address="127.0.0.1")}},
    }  # fmt: skip
    assert judged("m1", **alone)["notes"] == []
    assert judged("m1", **alone)["errors"] == []
    assert "127.0.0.1, which only m1 itself reaches" in told(ERROR, "m1", "w1", **alone)


def test_without_a_node_that_joins_the_other_address_is_noted() -> None:
    assert judged("m1", "w1", members="m1 w1", variables=NEW_ADDRESS)["errors"] == []
    assert "198.51.100.11" in told(NOTE, "m1", "w1", members="m1 w1", variables=NEW_ADDRESS)
    alone = a_site("m1", "w1", members="m1 w1", silent="m1", variables=NEW_ADDRESS)
    has(findings(alone), ERROR, *silent_at_first("m1"))


@pytest.mark.parametrize(
    ("networks", "pool"),
    [
        ([], "10.77.0.0/16"),
        (["10.77.5.0/24"], "10.177.0.0/16"),
        (["10.0.0.0/8"], "172.28.0.0/16"),
        (["10.0.0.0/8", "172.16.0.0/12"], "192.168.128.0/17"),
        (["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "10.77.0.0/16"),
    ],
)
def test_a_new_swarm_takes_addresses_to_which_no_host_has_a_route(networks: list[str], pool: str) -> None:
    found = judged("m1", "w1", changes={"w1": {"networks": networks}})
    assert found["address_pools"] == [pool]
    assert judged("m1", limits={"address_pools": ["10.1.0.0/16"]})["address_pools"] == ["10.1.0.0/16"]


def former(*subnets: str) -> dict[str, Any]:
    return {"m1": {"engine": {"former_network": {"driver": "overlay", "encrypted": False, "subnets": list(subnets)}}}}


def network(*subnets: str, driver: str = "overlay", encrypted: bool = False, **swarm_changes: Any) -> dict[str, Any]:
    told_network = {"driver": driver, "encrypted": encrypted, "subnets": list(subnets)}
    return {"m1": {"engine": {"network": told_network, "swarm": swarm_changes}}}


@pytest.mark.parametrize(
    ("limits", "wanted", "facts"),
    [
        ({}, {}, []),  # /20, the default
        ({"servers": 4079}, {}, []),
        ({"servers": 4080}, {}, ["4079 servers", "4080", "/19"]),
        ({"subnet_size": 24}, {}, ["239 servers", "2000", "jupyterhub_network_subnet", "/21"]),
        ({"network_subnet": "10.78.0.0/20", "subnet_size": 24}, {}, []),
        ({"network_subnet": "10.78.0.0/22"}, {}, ["1007 servers", "/21"]),
        ({"network_subnet": "10.78.0.1/20"}, {}, ["jupyterhub_network_subnet is '10.78.0.1/20'"]),
        ({"network_subnet": "none"}, {}, ["jupyterhub_network_subnet is 'none'"]),
        ({"address_pools": ["10.77.0.0/22"]}, {}, ["10.77.0.0/22", "/20", "docker_swarm_subnet_size"]),
        ({"address_pools": ["10.77.0.0/18"]}, {}, ["10.77.0.0/18", "7 networks", "/20", "docker_swarm_subnet_size"]),
        ({"address_pools": ["10.77.0.0/18", "10.78.0.0/18"]}, {}, []),
        ({"address_pools": ["10.77.0.0/17"]}, {}, []),
        ({}, {"members": "m1", "changes": {"m1": swarm(subnet_size=24)}}, ["239 servers", "jupyterhub_network_subnet"]),
        ({}, {"members": "m1", "changes": {"m1": swarm(subnet_size=0)}}, ["239 servers"]),  # an engine that tells none
        ({"servers": 100}, {"members": "m1", "changes": {"m1": swarm(subnet_size=24)}}, []),
        ({"network_subnet": "10.78.0.0/20"}, {"members": "m1", "changes": {"m1": swarm(subnet_size=24)}}, []),
        ({}, {"members": "m1", "changes": network("172.20.0.0/16", driver="bridge")}, ["bridge", "site_deployment"]),
        ({"network_subnet": "10.78.0.0/20"}, {"members": "m1", "changes": former("10.78.8.0/24")},
         ["10.78.0.0/20", "network xnat of", "10.78.8.0/24", "/20"]),
        ({"network_subnet": "10.78.0.0/20"}, {"members": "m1", "changes": former("10.79.0.0/20")}, []),
        ({}, {"members": "m1", "changes": former("10.78.0.0/20")}, []),
    ],
)  # fmt: skip
def test_a_network_that_is_made_has_an_address_for_each_server(
    limits: dict[str, Any], wanted: dict[str, Any], facts: list[str]
) -> None:
    errors = judged("m1", limits=limits, **wanted)["errors"]
    assert len(errors) == (1 if facts else 0), errors
    assert all(fact in errors[0] for fact in facts)


@pytest.mark.parametrize(
    ("limits", "subnets", "facts"),
    [
        ({}, ["10.77.16.0/20"], []),
        ({}, [], []),
        ({}, ["10.0.1.0/24"], ["10.0.1.0/24", "238 servers", "2000", "/21", "playbooks/remove.yml"]),
        ({"servers": 200}, ["10.0.1.0/24"], []),
        ({"network_subnet": "10.78.0.0/20", "servers": 200}, ["10.0.1.0/24"], ["10.78.0.0/20", "10.0.1.0/24", "keeps"]),
        ({"network_subnet": "10.78.0.0/20"}, ["10.78.0.0/20"], []),
        ({"subnet_size": 24, "address_pools": ["10.79.0.0/26"]}, ["10.78.0.0/20"], []),  # for a new swarm only
    ],
)
def test_a_network_that_is_there_is_kept_and_its_size_noted(
    limits: dict[str, Any], subnets: list[str], facts: list[str]
) -> None:
    found = judged("m1", "w1", members="m1 w1", limits=limits, changes=network(*subnets))
    assert found["errors"] == []
    assert len(found["notes"]) == (1 if facts else 0), found["notes"]
    assert all(fact in found["notes"][0] for fact in facts)


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([node("w1", labels={HOST_LABEL: "w2"}, hostname="w2")], {"id-w1": "w1"}),  # the host's own word
        ([node("w2", id="x", hostname="other")], {"x": "w2"}),
        ([node("w2", id="x", labels={HOST_LABEL: "gone"})], {}),  # the label counts more than the host name
        ([{**node("w2", id="x"), "labels": {}}], {"x": "w2"}),
        ([{**node("w3", id="x"), "labels": {}}], {}),
        ([node("w1", id="x")], {}),  # w1 answers, and is another node
        ([node("w4", id="x")], {"x": "w4"}),  # w4 answers, and its engine has just started
        ([node("w4", id="x", state="down")], {}),  # w4 has left the swarm
    ],
)
def test_an_unreachable_host_is_found_by_our_label_else_by_its_host_name(
    nodes: list[dict[str, Any]], found: dict[str, str]
) -> None:
    hosts = hosts_of("m1", "w1 w2 w4", members="m1 w1 w2", silent="w2")
    assert match_nodes(hosts, [Node.from_report(one) for one in nodes]) == found


def changes_of(name: str, listed: dict[str, Any], variables: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    inventory = site("m1", "w1", members="m1 w1", variables={name: variables or {}})
    updates: list[dict[str, Any]] = changes(inventory, [listed])["updates"]
    return updates


OURS = {HOST_LABEL: "w1", KEYS_LABEL: "gpu,rack", "gpu": "true", "rack": "4", "theirs": "x"}


@pytest.mark.parametrize(
    ("labels", "wanted", "expected"),
    [
        ({HOST_LABEL: "w1"}, {}, None),
        ({}, {}, ({HOST_LABEL: "w1"}, [], f"label {HOST_LABEL}=w1")),
        ({HOST_LABEL: "w1", "theirs": "x"}, {"rack": 4, "gpu": True},
         ({"gpu": "true", "rack": "4", KEYS_LABEL: "gpu,rack"}, [],
          f"label gpu=true, label {KEYS_LABEL}=gpu,rack, label rack=4")),
        (OURS, {"gpu": True, "rack": 4}, None),
        (OURS, {"gpu": False, "rack": 4}, ({"gpu": "false"}, [], "label gpu=false")),
        (OURS, {"gpu": True}, ({KEYS_LABEL: "gpu"}, ["rack"], f"label {KEYS_LABEL}=gpu, no label rack")),
        (OURS, {}, ({}, ["gpu", KEYS_LABEL, "rack"], f"no label gpu, no label {KEYS_LABEL}, no label rack")),
        ({HOST_LABEL: "w1", KEYS_LABEL: "gpu"}, {}, ({}, [KEYS_LABEL], f"no label {KEYS_LABEL}")),
    ],
)  # fmt: skip
def test_labels_of_the_inventory_come_and_go_and_others_stay(
    labels: dict[str, str], wanted: dict[str, Any], expected: tuple[dict[str, str], list[str], str] | None
) -> None:
    updates = changes_of("w1", {**node("w1"), "labels": labels}, {"docker_swarm_labels": wanted})
    found = [(update["labels"], update["labels_to_remove"], update["why"]) for update in updates]
    assert found == ([] if expected is None else [expected])
    assert all(update["role"] is None and update["availability"] is None for update in updates)


@pytest.mark.parametrize(
    ("wanted", "is_now", "availability", "why"),
    [
        ("drain", "active", "drain", "availability drain"),
        ("", "drain", "active", "availability active"),
        ("pause", "pause", None, None),
    ],
)
def test_the_availability_is_that_of_the_inventory(
    wanted: str, is_now: str, availability: str | None, why: str | None
) -> None:
    updates = changes_of("w1", node("w1", availability=is_now), {"docker_swarm_availability": wanted})
    assert [(update["availability"], update["why"]) for update in updates] == ([(availability, why)] if why else [])


def test_a_host_that_joins_anew_keeps_the_mark_of_the_hub() -> None:
    old = node("m2", id="id-before", state="down", labels={f"{HUB_LABEL}.xnat": "true"})
    found = changes(site("m1 m2 m3", members="m1 m2 m3"), [old, node("m1"), node("m2"), node("m3")])
    (update,) = found["updates"]
    assert (update["id"], update["labels"]) == ("id-m2", {f"{HUB_LABEL}.xnat": "true"})
    assert [removal["id"] for removal in found["removals"]] == ["id-before"]


def test_promotions_come_first_and_demotions_last() -> None:
    inventory = site("m1 m2 m3", "w1 w2", members="m1 m2 m3 w1 w2")
    nodes = [
        node("w1", role="manager"),
        node("w2", availability="drain"),
        node("m1"),
        node("m2", role="worker", availability="pause"),
        node("m3", role="worker"),
    ]
    updates = changes(inventory, nodes)["updates"]
    assert [(update["host"], update["id"], update["role"], update["why"]) for update in updates] == [
        ("m2", "id-m2", "manager", "promote, availability active"),
        ("m3", "id-m3", "manager", "promote"),
        ("w2", "id-w2", None, "availability active"),
        ("w1", "id-w1", "worker", "demote"),
    ]


def test_nodes_of_ours_that_are_not_listed_go_and_strangers_stay() -> None:
    nodes = [
        node("m1"),
        node("w2"),
        node("m3", state="down", hostname="renamed"),
        node("w1", id="id-before", state="down"),  # wiped and joined anew
        node("w1"),
        {**node("w9"), "labels": {"theirs": "x"}},
        node("x1"),
    ]
    found = changes(site("m1", "w1", members="m1 w1 x1", demo_xnat="x1"), nodes)
    assert found == {
        "updates": [],
        "removals": [
            {"id": "id-w2", "host": "w2", "state": "ready", "manager": False},
            {"id": "id-m3", "host": "m3", "state": "down", "manager": True},
            {"id": "id-before", "host": "w1", "state": "down", "manager": False},
            {"id": "id-x1", "host": "x1", "state": "ready", "manager": False},
        ],
    }


def test_a_host_that_does_not_answer_keeps_its_node() -> None:
    inventory = site("m1", "w1", members="m1 w1", silent="w1", variables={"w1": {"docker_swarm_labels": {"gpu": True}}})
    found = changes(inventory, [node("m1"), node("w1", state="down")])
    assert found["removals"] == []
    assert [(update["host"], update["labels"]["gpu"]) for update in found["updates"]] == [("w1", "true")]


def test_a_host_that_has_joined_is_the_node_of_its_new_id() -> None:
    inventory = site("m1", "w1", members="m1", variables={"w1": {"docker_swarm_labels": {"gpu": True}}})
    new = {**node("w1", id="id-new"), "labels": {}}
    assert changes(inventory, [node("m1"), new])["updates"] == []
    (update,) = changes(inventory, [node("m1"), new], {"w1": "id-new"})["updates"]
    assert (update["host"], update["labels"]["gpu"]) == ("w1", "true")


MOVED = {"address": "198.51.100.11"}  # of the default route: what Docker reports of itself may be from before
WAY_OF_ONE = ("docker swarm leave --force` on m1", "playbooks/remove.yml")


@pytest.mark.parametrize(
    ("groups", "wanted", "facts", "others"),
    [
        pytest.param(("m1", "w1"), {}, ["w1 as down", "2377/tcp of 192.0.2.11", "`docker swarm leave` on w1"],
                     ["198.51.100", "restore it"], id="ports"),
        pytest.param(("m1", "w1"), {"changes": {"w1": {"address": "198.51.100.21"}}},
                     ["192.0.2.21", "198.51.100.21 now", "2377/tcp of 192.0.2.11"], ["restore it"],
                     id="its own address"),
        pytest.param(("m1", "w1"), {"changes": {"w1": swarm(managers=["198.51.100.9:2377"])}},
                     ["Run `docker swarm leave` on w1"], ["2377/tcp", "restore it"], id="looks for another manager"),
        pytest.param(("m1", "w1"), {"changes": {"m1": MOVED, "w1": {"address": "198.51.100.21"}}},
                     ["192.0.2.21", "198.51.100.21 now", "192.0.2.11 for its manager m1", "198.51.100.11 now",
                      "If m1 has lost the address 192.0.2.11, restore it", *WAY_OF_ONE, "docker swarm leave` on w1"],
                     [], id="all machines have others"),
        pytest.param(("m1", "w1"), {"changes": {"m1": MOVED},
                                    "variables": {"m1": {"docker_swarm_advertise_addr": "192.0.2.11"}}},
                     ["2377/tcp of 192.0.2.11"], ["198.51.100", "restore it"], id="a manager with several addresses"),
        pytest.param(("m1", "w1"), {"changes": {"w1": {"engine": {"answers": False, "swarm": {}}}}},
                     ["w1 as down", "No Docker Engine answers", "playbooks/nodes.yml"], ["leave"], id="no engine"),
        pytest.param(("m1 m2 m3", "w1"), {"changes": {"m2": {"address": "198.51.100.12"}}},
                     ["192.0.2.12 for its manager m2", "198.51.100.12 now", "docker node demote m2",
                      "docker swarm leave` on w1"], ["remove.yml"], id="one manager of three"),
    ],
)  # fmt: skip
def test_a_node_that_is_down_though_its_host_answers_is_named_with_what_to_do(
    groups: tuple[str, str], wanted: dict[str, Any], facts: list[str], others: list[str]
) -> None:
    names = " ".join(groups).split()
    nodes = [node(name, state="down" if name == "w1" else "ready") for name in names]
    site = {"members": " ".join(names), "nodes": nodes, **wanted}
    (warning,) = [finding for finding in findings(a_site(*groups, **site)) if finding.severity == WARNING]
    assert warning.id == "unready"
    assert [fact for fact in facts if fact not in warning.text] == [], warning.text
    assert [other for other in others if other in warning.text] == [], warning.text
    assert unready_nodes(judged(*groups, **site)["hosts"], nodes) == [warning.text]


def test_a_manager_that_is_down_leaves_and_joins_again() -> None:
    nodes = [node("m1"), node("m2", state="down"), node("m3")]
    found = judged("m1 m2 m3", members="m1 m2 m3", nodes=nodes, changes={"m2": {"address": "198.51.100.12"}})
    (text,) = found["warnings"]
    for fact in (
        "m2 as down",
        "192.0.2.12",
        "198.51.100.12 now",
        "Run `docker node demote m2`",
        "`docker swarm leave` on m2",
    ):
        assert fact in text


@pytest.mark.parametrize(
    ("wanted", "nodes", "joined", "unready"),
    [
        pytest.param({}, [node("m1"), node("w1")], {}, [], id="ready"),
        pytest.param({"silent": "w1"}, [node("m1"), node("w1", state="down")], {}, [], id="silent"),
        pytest.param({"demo_xnat": "x1"}, [node("m1"), node("x1", state="down")], {}, [], id="outside the swarm"),
        pytest.param({}, [node("m1"), node("m9", state="down")], {}, [], id="others'"),
        pytest.param({}, [node("m1"), node("w1", id="id-old", state="down")], {}, [], id="its old node"),
        pytest.param({"changes": {"w1": {"engine": {"answers": False, "swarm": {}}}}},
                     [node("m1"), node("w1", id="id-old", state="down"), node("w1", id="id-new")], {"w1": "id-new"}, [],
                     id="joined with a new engine"),
        pytest.param({}, [node("m1"), node("w1", id="id-new", state="unknown")], {"w1": "id-new"}, ["w1 as unknown"],
                     id="just joined"),
        pytest.param({}, [node("m1", state="disconnected"), node("w1", state="down")], {},
                     ["m1 as disconnected", "w1 as down"], id="each"),
    ],
)  # fmt: skip
def test_only_nodes_of_hosts_that_answer_are_waited_for(
    wanted: dict[str, Any], nodes: list[dict[str, Any]], joined: dict[str, str], unready: list[str]
) -> None:
    hosts = judged("m1", "w1", members="m1 w1", **wanted)["hosts"]
    found = unready_nodes(hosts, nodes, joined)
    assert len(found) == len(unready)
    assert all(words in text for words, text in zip(unready, found, strict=True))


KEYS = st.text("abc", min_size=1, max_size=2)
LABELS = st.dictionaries(KEYS, st.sampled_from(["", "true", "x"]), max_size=4)
STATES = st.sampled_from(["active", "pause", "drain"])


def applied(listed: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """A node after an update, as the modules do it."""
    labels = {**listed["labels"], **update["labels"]}
    return {
        **listed,
        "labels": {key: value for key, value in labels.items() if key not in update["labels_to_remove"]},
        "role": update["role"] or listed["role"],
        "availability": update["availability"] or listed["availability"],
    }


@given(data=st.data())
def test_what_was_changed_once_needs_no_change_again(data: st.DataObject) -> None:
    names = ("m1", "w1", "w2")
    variables: dict[str, dict[str, Any]] = {
        name: {"docker_swarm_labels": data.draw(LABELS), "docker_swarm_availability": data.draw(STATES)}
        for name in names
    }
    inventory = site("m1", "w1 w2", members="m1 w1 w2", silent="w2", variables=variables)
    nodes = []
    for name in names:
        ours = data.draw(st.lists(KEYS, max_size=3))
        labels = data.draw(LABELS) | data.draw(st.sampled_from([{}, {KEYS_LABEL: ",".join(ours)}]))
        changed = {"role": data.draw(st.sampled_from(["manager", "worker"])), "availability": data.draw(STATES)}
        nodes.append({**node(name, **changed), "labels": labels})
    updates = {update["id"]: update for update in changes(inventory, nodes)["updates"]}
    after = [applied(one, updates[one["id"]]) if one["id"] in updates else one for one in nodes]
    assert changes(inventory, after)["updates"] == []
    for before, now in zip(nodes, after, strict=True):
        wanted: dict[str, str] = variables[now["hostname"]]["docker_swarm_labels"]
        ours = [*before["labels"].get(KEYS_LABEL, "").split(","), *wanted, HOST_LABEL, KEYS_LABEL]
        assert wanted.items() <= now["labels"].items()
        assert {key: value for key, value in before["labels"].items() if key not in ours} == {
            key: value for key, value in now["labels"].items() if key not in ours
        }
