"""The rules of a node's firewall: who may use Swarm's ports, what containers reach, and when rules are loaded."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_report import loaded_rules, local_ports, set_networks

from module_utils.xnat_site.firewall import (
    BRIDGES,
    DROP_IN,
    RULES_FILE,
    TABLE,
    UNIT,
    FirewallError,
    firewall_facts,
    firewall_plan,
    lets_in,
    ruleset,
)
from module_utils.xnat_site.fleet import firewall_peers
from tests.unit.conftest import ROOT
from tests.unit.test_fleet import NO_FIREWALL, a_site, address, hosts_of, judged, node, swarm

PORTS = ["2377/tcp", "7946/tcp", "7946/udp", "4789/udp"]
NODES = ["192.0.2.11/32", "192.0.2.21/32"]


def rules(**changes: Any) -> str:
    wanted: dict[str, Any] = {"sources": NODES, "ports": PORTS, "allowed": ["8000/tcp"], "closed": BRIDGES, **changes}
    return ruleset(**wanted)


def chain(text: str, name: str) -> list[str]:
    """The lines of a chain or set."""
    lines = [line.strip() for line in text.splitlines()]
    start = next(number for number, line in enumerate(lines) if line in (f"chain {name} {{", f"set {name} {{"))
    return lines[start + 1 : lines.index("}", start)]


def sources(**wanted: Any) -> dict[str, set[str]]:
    """The addresses that the rules let in, before hosts join and nodes leave, and afterwards."""
    facts = firewall_facts(a_site(wanted.pop("managers", "m1"), wanted.pop("workers", "w1"), **wanted))
    return {
        when: {str(one) for text in facts[when] for one in ipaddress.ip_network(text)} for when in ("before", "after")
    }


@pytest.mark.parametrize(
    ("wanted", "before", "after"),
    [
        pytest.param({}, "m1 w1", "m1 w1", id="a new swarm"),
        pytest.param({"members": "m1 w1"}, "m1 w1", "m1 w1", id="members"),
        pytest.param({"members": "m1"}, "m1 w1", "m1 w1", id="a host joins"),
        pytest.param({"members": "m1 w1", "silent": "w1"}, "m1 w1", "m1 w1", id="a node is silent"),
        pytest.param({"members": "m1 w1 w2"}, "m1 w1 w2", "m1 w1", id="a node leaves"),
        pytest.param({"members": "m1 w1", "nodes": [node("m1"), node("w1"), node("w9", labels={})]},
                     "m1 w1 w9", "m1 w1 w9", id="a node of others"),
        pytest.param({"members": "m1 w1", "demo_xnat": "x1"}, "m1 w1", "m1 w1", id="a host outside the swarm"),
    ],
)  # fmt: skip
def test_swarms_ports_are_for_all_nodes_that_are_or_will_be(wanted: dict[str, Any], before: str, after: str) -> None:
    if "nodes" in wanted:
        wanted["nodes"][-1]["labels"] = {}
    expected = {"before": before, "after": after}
    assert sources(**wanted) == {when: {address(name) for name in names.split()} for when, names in expected.items()}


def test_every_known_address_of_a_node_is_let_in_and_no_local_one() -> None:
    found = sources(
        members="m1 w1",
        nodes=[node("m1", address="::", manager_address="127.0.0.1"), node("w1", address="198.51.100.21")],
        variables={"w1": {"docker_swarm_data_path_addr": "203.0.113.21", "docker_swarm_advertise_addr": "203.0.113.5"}},
    )
    w1 = {"198.51.100.21", "203.0.113.21", "203.0.113.5", address("w1")}
    assert found["after"] == {address("m1"), *w1}


def test_the_ports_are_those_of_this_swarm() -> None:
    assert firewall_facts(a_site("m1", "w1"))["ports"] == PORTS
    changes = {"m1": swarm(data_path_port=4790, managers=["192.0.2.11:2388"])}
    found = firewall_facts(a_site("m1", "", members="m1", changes=changes))["ports"]
    assert found == ["2377/tcp", "2388/tcp", "7946/tcp", "7946/udp", "4789/udp", "4790/udp"]


def test_containers_are_stopped_before_anything_is_accepted() -> None:
    text = rules()
    assert chain(text, "from_containers")[0] == "jump swarm_ports"
    assert chain(text, "swarm_ports") == [
        "tcp dport { 2377, 7946 } counter drop",
        "udp dport { 4789, 7946 } counter drop",
    ]
    assert chain(text, "closed")[-1] == "counter drop"
    order = chain(text, "input")
    for name in BRIDGES:
        assert f'iifname "{name}" goto from_containers' in order
        assert f'iifname "{name}" goto closed' in chain(text, "from_containers")
        assert f'iifname "{name}" goto out_of_containers' in chain(text, "forward")
    assert order[-1] == "goto from_network"
    assert chain(text, "from_network") == ["ip saddr @nodes4 accept", "ip6 saddr @nodes6 accept", "goto swarm_ports"]
    assert chain(text, "out_of_containers")[-1] == "goto swarm_ports"


def test_what_is_not_listed_is_left_to_other_tables() -> None:
    policies = [line for line in rules().splitlines() if "policy" in line]
    assert len(policies) == 2
    assert all(line.endswith("policy accept;") for line in policies)
    assert "flush" not in rules()


def test_only_listed_bridges_are_closed_and_all_lose_swarms_ports() -> None:
    text = rules(closed=["docker_gwbridge"], bridges=["pods"])
    assert chain(text, "from_containers") == ["jump swarm_ports", 'iifname "docker_gwbridge" goto closed']
    for name in (*BRIDGES, "pods"):
        assert f'iifname "{name}" goto from_containers' in chain(text, "input")
    assert 'iifname "pods" goto closed' in chain(rules(bridges=["pods"]), "from_containers")


def test_a_bridge_of_the_machine_that_is_named_like_dockers_is_no_containers() -> None:
    text = rules(other_bridges=["br-lan"])
    order = chain(text, "input")
    assert order.index('iifname "br-lan" goto from_network') < order.index('iifname "br-*" goto from_containers')
    order = chain(text, "out_of_containers")
    assert order.index('oifname "br-lan" goto swarm_ports') < order.index('oifname "br-*" accept')


@pytest.mark.parametrize(
    ("changes", "id", "facts"),
    [
        ({"allowed": ["8000"]}, "port", ["node_firewall_allowed_ports", "'8000'"]),
        ({"allowed": ["65536/tcp"]}, "port", ["65536"]),
        ({"allowed": ["1/tcp drop"]}, "port", []),
        ({"ports": ["0/udp"]}, "port", ["node_firewall_ports"]),
        ({"sources": ["w1"]}, "source", ["node_firewall_more_sources", "'w1'"]),
        ({"sources": ["10.0.0.1/8"]}, "source", ["10.0.0.1/8"]),
        ({"closed": ["eth0"]}, "bridge", ["node_firewall_closed_bridges", "'eth0'"]),
        ({"bridges": ['x" accept #']}, "interface", []),
        ({"other_bridges": ["br-*"]}, "interface", []),
    ],
)
def test_what_rules_cannot_say_is_refused_by_name(changes: dict[str, Any], id: str, facts: list[str]) -> None:
    with pytest.raises(FirewallError) as refused:
        rules(**changes)
    assert refused.value.id == id
    assert [fact for fact in facts if fact not in str(refused.value)] == []


@given(
    st.lists(st.ip_addresses() | st.ip_addresses(network="192.0.2.0/29"), max_size=12),
    st.lists(st.integers(1, 65535), max_size=5),
)
def test_equal_settings_are_equal_rules_whatever_their_order(addresses: list[Any], numbers: list[int]) -> None:
    networks = [str(one) for one in addresses]
    allowed = [f"{number}/udp" for number in numbers]
    text = rules(sources=networks, allowed=allowed)
    assert text == rules(sources=[*reversed(networks), *networks], allowed=allowed[::-1])
    assert all(lets_in(networks, one) for one in networks)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def state(**changes: Any) -> dict[str, Any]:
    """The report of a node that has the rules, with changes."""
    text = planned(NO_FIREWALL)["rules"]
    chains = [chain(text, name) for name in re.findall(r"chain (\w+) \{", text)]
    count = sum(not line.startswith("type filter") for lines in chains for line in lines)
    return {
        **NO_FIREWALL, "loaded": text.rpartition("chain id_")[2][:16], "count": count,
        "rules": digest(text), "unit": digest(UNIT), "drop_in": digest(DROP_IN), "enabled": True, **changes,
    }  # fmt: skip


def planned(report: dict[str, Any], state: str = "present") -> dict[str, Any]:
    return firewall_plan(NODES, report, PORTS, ["8000/tcp"], BRIDGES, state=state)


@pytest.mark.parametrize(
    ("changes", "load", "done"),
    [
        pytest.param({}, False, True, id="as wanted"),
        pytest.param({"loaded": ""}, True, False, id="flushed"),
        pytest.param({"count": 3}, True, False, id="rules removed by hand"),
        pytest.param({"rules": ""}, True, False, id="not permanent"),
        pytest.param({"pending": True}, True, False, id="a run was killed"),
        pytest.param({"enabled": False}, False, False, id="not loaded at boot"),
        pytest.param({"unit": "old"}, False, False, id="an older unit"),
        pytest.param({"drop_in": ""}, False, False, id="lost when nftables.service starts"),
        pytest.param({"unit": "", "drop_in": "", "enabled": False, "systemd": False}, False, True, id="no systemd"),
    ],
)
def test_what_differs_is_changed_and_nothing_else(changes: dict[str, Any], load: bool, done: bool) -> None:
    plan = planned(state(**changes))
    assert (plan["load"], plan["done"], plan["remove"], plan["install"]) == (load, done, False, False)


def test_a_fresh_node_gets_program_and_rules() -> None:
    plan = planned({**NO_FIREWALL, "nft": False})
    assert (plan["install"], plan["load"], plan["done"]) == (True, True, False)


@pytest.mark.parametrize(
    "changes", [{"loaded": "1"}, {"rules": "1"}, {"unit": "1"}, {"drop_in": "1"}, {"enabled": True}, {"pending": True}]
)
def test_whatever_is_left_is_removed(changes: dict[str, Any]) -> None:
    plan = planned({**NO_FIREWALL, **changes}, "absent")
    assert (plan["remove"], plan["load"], plan["done"]) == (True, False, False)
    assert planned(NO_FIREWALL, "absent")["done"]


def test_nodes_test_each_other_and_hosts_that_will_join() -> None:
    hosts = hosts_of("m1", "w1 w2 w3", members="m1 w1", silent="w3", demo_xnat="x1")

    def seen(name: str, kind: str) -> dict[str, list[str]]:
        return {peer["host"]: peer["ports"] for peer in firewall_peers(
            {host: one.as_dict() for host, one in hosts.items()}, ["w2"], name)[kind]}  # fmt: skip

    assert seen("m1", "known") == {"w1": ["7946/tcp"]}
    assert seen("w1", "known") == {"m1": ["2377/tcp", "7946/tcp"]}
    assert seen("w2", "known") == {}
    assert set(seen("w2", "new")) == {"m1", "w1"}
    assert seen("m1", "new") == {"w2": ["7946/tcp", "7946/udp", "4789/udp"]}
    assert seen("x1", "known") == {}


def test_preflight_does_not_try_nodes_whose_rules_let_the_host_in_only_later() -> None:
    closed = {"firewall": {"loaded": "1", "sources": ["192.0.2.11/32"]}}
    opened = {"firewall": {"loaded": "1", "sources": ["192.0.2.0/24"]}}

    def peers(*, encrypted: bool) -> dict[str, list[tuple[str, str]]]:
        found = judged("m1", "w1 w2", members="m1 w1", changes={"m1": closed, "w1": opened},
                       limits={"network_encrypted": encrypted})["peers"]  # fmt: skip
        return {name: [(peer["host"], peer["ports"][-1]) for peer in tried] for name, tried in found.items()}

    assert peers(encrypted=False) == {
        "m1": [("w2", "4789/udp")],
        "w1": [("w2", "4789/udp")],
        "w2": [("w1", "7946/tcp")],
    }
    assert ("m1", "50/ip") in peers(encrypted=True)["w2"]  # the rules let this protocol through


def test_the_unit_loads_the_file_and_outlives_a_flush_of_the_distributions_rules() -> None:
    assert f"nft -f {RULES_FILE}" in UNIT
    assert "Before=network-pre.target docker.service" in UNIT
    assert "After=nftables.service" in UNIT
    for action in ("StartPost", "Reload", "StopPost"):
        assert f"Exec{action}=-/usr/sbin/nft -f {RULES_FILE}" in DROP_IN
    variables = (ROOT / "roles/node_firewall/vars/main.yml").read_text()
    assert f"nft delete table inet {TABLE}" in variables


@pytest.mark.parametrize(
    ("element", "networks"),
    [
        ("192.0.2.1", ["192.0.2.1/32"]),
        ({"prefix": {"addr": "fd00::", "len": 64}}, ["fd00::/64"]),
        ({"range": ["192.0.2.1", "192.0.2.3"]}, ["192.0.2.1/32", "192.0.2.2/31"]),
    ],
)
def test_the_elements_of_a_set_are_networks(element: Any, networks: list[str]) -> None:
    assert set_networks(element) == networks


def test_a_port_is_local_if_its_address_is_this_machines() -> None:
    urls = [
        "http://127.0.0.1:81/x",
        "https://127.0.0.1",
        "http://192.0.2.1:82",
        "",
        "http://[",
        "http://127.0.0.1:99999",
    ]
    assert local_ports(urls) == [81, 443]


@pytest.mark.skipif(not shutil.which("nft") or not shutil.which("unshare"), reason="needs nft")
def test_the_kernel_has_as_many_rules_as_the_plan_counts(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(rules(sources=[*NODES, "fd00::1"], bridges=["pods"], other_bridges=["br-lan"]))
    script = f"nft -f {tmp_path}/rules && nft -f {tmp_path}/rules && nft --json list table inet {TABLE}"
    run = subprocess.run(
        ["unshare", "--net", "--map-root-user", "sh", "-c", script],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if run.returncode != 0:
        pytest.skip(f"no network namespace with nftables here: {run.stderr.strip()}")
    found = loaded_rules(run.stdout)
    report = {**NO_FIREWALL, **found, "bridges": ["pods"], "other_bridges": ["br-lan"]}
    plan = firewall_plan([*NODES, "fd00::1"], report, PORTS, ["8000/tcp"], BRIDGES)
    assert f"chain id_{found['loaded']} " in plan["rules"]
    assert set(found["sources"]) == {*NODES, "fd00::1/128"}
    written = {"rules": digest(plan["rules"])}
    assert not firewall_plan([*NODES, "fd00::1"], {**report, **written}, PORTS, ["8000/tcp"], BRIDGES)["load"]
