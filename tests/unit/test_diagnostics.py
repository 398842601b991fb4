"""Swarm's messages in plain words; the messages are those of Engine 20.10 and 26.1."""

from __future__ import annotations

from typing import Any

import pytest
from xnat_launcher.diagnostics import (
    exit_code,
    failure,
    how_it_ended,
    is_down,
    node_name,
    unschedulable,
    without_address,
)
from xnat_launcher.swarm import Addresses, Task

CONSTRAINTS = "no suitable node (scheduling constraints not satisfied on 2 nodes)"
RESOURCES = "no suitable node (insufficient resources on 2 nodes)"


def node(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "ID": f"id-{name}",
        "Spec": {"Role": "worker", "Availability": "active", "Labels": {}, **changes.get("spec", {})},
        "Status": {"State": changes.get("state", "ready")},
        "Description": {
            "Hostname": name,
            "Resources": {"NanoCPUs": 8 * 10**9, "MemoryBytes": 16 * 2**30, **changes.get("resources", {})},
            "Platform": {"OS": "linux", "Architecture": "x86_64"},
        },
    }


GPU = {"GenericResources": [{"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}}] * 2}
NODES = [node("m1", spec={"Role": "manager", "Labels": {"zone": "dmz"}}), node("w2", resources=GPU)]


def ended(error: str, state: str = "rejected", code: int | None = 0) -> dict[str, Any]:
    return {"State": state, "Err": error, "ContainerStatus": {"ExitCode": code}}


def test_nodes_without_a_guard_are_not_named_by_their_ids() -> None:
    def text(*constraints: str) -> str:
        return unschedulable({"Placement": {"Constraints": list(constraints)}}, NODES, CONSTRAINTS)

    assert text("node.id!=id-w2", "node.labels.gpu==true").startswith("no node has label gpu=true: ")
    assert "apart does not run on w2 (" in text("node.id!=id-w2", "node.hostname==w2")
    assert "apart does not run on m1, w2 (" in text("node.id!=id-w2", "node.id!=id-m1")


@pytest.mark.parametrize(
    ("kind", "fact"),
    [("gpu", "apart does not run on w2 ("), ("tpu", "no node has a tpu (")],
    ids=["only-without-guard", "nowhere"],
)
def test_what_only_a_node_without_a_guard_has_is_not_called_missing(kind: str, fact: str) -> None:
    wanted = template(["node.id!=id-w2"], GenericResources=generic(kind, 1))
    assert fact in unschedulable(wanted, NODES, RESOURCES)


NO_SUCH_PATH = 'invalid mount config for type "bind": bind source path does not exist: /srv/xnat/archive/P1/arc001'
NO_PROGRAM = 'starting container failed: ... exec: "nope": executable file not found in $PATH: unknown'


@pytest.mark.parametrize(
    ("status", "facts"),
    [
        pytest.param(ended(NO_SUCH_PATH), ["/srv/xnat/archive/P1/arc001 does not exist", "w2"], id="path"),
        pytest.param(ended("No such image: localhost/nope/x:1"), ["image localhost/nope/x:1", "w2"], id="image"),
        pytest.param(ended(NO_PROGRAM, "failed", 127), ["no command 'nope'"], id="command-by-name"),
        pytest.param(ended("task: non-zero exit (127)", "failed", 127), ["no such command", "127"], id="command"),
        pytest.param(ended("task: non-zero exit (126)", "failed", 126), ["cannot be executed", "126"], id="no-program"),
        pytest.param(ended("task: non-zero exit (3)", "failed", 3), ["w2", "exit code 3"], id="exit-code"),
        pytest.param(ended("task: non-zero exit (137)", "failed", 137), ["killed", "w2", "137", "memory"], id="killed"),
        pytest.param({"State": "complete", "ContainerStatus": {"ExitCode": 0}}, ["w2", "exit code 0"], id="ended-well"),
        pytest.param(ended("network jupyterhub not found"), ["network jupyterhub not found", "w2"], id="swarms-words"),
        pytest.param({"State": "rejected"}, ["no reason", "w2"], id="no-words"),
    ],
)
def test_a_task_that_ended_is_explained(status: dict[str, Any], facts: list[str]) -> None:
    words = failure(status, "w2")
    assert [fact for fact in facts if fact not in words] == []


def test_a_task_without_a_node_is_explained() -> None:
    words = failure(ended("No such image: x:1"), "")
    assert "image x:1" in words
    assert "node" not in words


def test_only_a_container_that_ran_has_an_exit_code() -> None:
    assert exit_code(ended("No such image: x", "rejected", 0)) is None
    assert exit_code(ended("task: non-zero exit (3)", "failed", 3)) == 3
    assert exit_code({"State": "orphaned"}) is None


def template(constraints: list[str] | None = None, **reservations: Any) -> dict[str, Any]:
    return {"Placement": {"Constraints": constraints}, "Resources": {"Reservations": reservations}}


def generic(kind: str, count: int) -> list[dict[str, Any]]:
    return [{"DiscreteResourceSpec": {"Kind": kind, "Value": count}}]


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        (template(["node.labels.gpu==true"]), CONSTRAINTS, "no node has label gpu=true"),
        (template(["node.labels.zone==DMZ", "node.role==worker"]), CONSTRAINTS,
         "no node fulfils all of node.labels.zone==DMZ, node.role==worker"),
        (template(["node.platform.os!=linux"]), CONSTRAINTS, "every node has node.platform.os=linux"),
        (template(["node.hostname==w9"]), CONSTRAINTS, "no node has node.hostname=w9"),
        (template(["foo.bar==true"]), CONSTRAINTS, "no node has foo.bar=true"),
        (template(NanoCPUs=64 * 10**9), RESOURCES, "no node has 64 CPUs, the largest has 8"),
        (template(MemoryBytes=64 * 2**30), RESOURCES, "no node has 64 GiB of memory, the largest has 16 GiB"),
        (template(GenericResources=generic("gpu", 4)), RESOURCES, "no node has 4 gpu"),
        (template(GenericResources=generic("tpu", 1)), RESOURCES, "no node has a tpu"),
        (template(GenericResources=generic("gpu", 2)), RESOURCES, "no node has 2 gpu free: other servers hold them"),
        (template(["node.role==manager"], GenericResources=generic("gpu", 1)), RESOURCES, "no node has a gpu"),
        (template(NanoCPUs=4 * 10**9, MemoryBytes=2**33), RESOURCES,
         "no node has 4 CPUs and 8 GiB of memory free: other servers hold them"),
        (template(), "no suitable node", "no node has room for it"),
    ],
    ids=[
        "label", "all-of-several", "not-equal", "host-name", "unknown-key", "cpus", "memory", "generic-count",
        "generic-kind", "generic-in-use", "generic-with-constraint", "in-use", "no-reason",
    ],
)  # fmt: skip
def test_a_service_that_no_node_can_take_is_explained(wanted: dict[str, Any], error: str, words: str) -> None:
    found = unschedulable(wanted, NODES, error)
    assert words.partition(":")[0] in found
    assert found.endswith(f"({error})")


def test_nodes_that_are_down_or_drained_do_not_count() -> None:
    nodes = [node("w1", state="down"), node("w2", spec={"Availability": "drain"})]
    assert "ready and active" in unschedulable(template(), nodes, "x")
    assert "ready and active" not in unschedulable(template(), [*nodes, node("w3")], "x")


def test_nodes_are_named_and_known_to_be_down() -> None:
    nodes = [node("w1", state="down"), node("w2")]
    assert node_name("id-w1", nodes) == "w1"
    assert node_name("id-w9", nodes) == "id-w9"
    assert is_down("id-w1", nodes)
    assert is_down("id-w9", nodes)
    assert not is_down("id-w2", nodes)


@pytest.mark.parametrize(
    ("desired", "status", "node_id", "words"),
    [
        ("running", {"State": "running"}, "id-w2", None),
        ("running", {"State": "starting"}, "id-w2", None),
        ("running", {"State": "running"}, "id-w1", None),  # the node is down, but Swarm has not given it up
        ("shutdown", {"State": "running"}, "id-w2", None),  # on its way out
        ("shutdown", {"State": "running"}, "id-w1", "it was lost with node w1"),
        ("shutdown", {"State": "running"}, "id-w9", "it was lost with node id-w9"),  # the node has left the swarm
        ("remove", {"State": "running"}, "id-w2", "its service was removed"),
        ("shutdown", ended("task: non-zero exit (3)", "failed", 3), "id-w2", 3),
        ("shutdown", {"State": "complete", "ContainerStatus": {"ExitCode": 0}}, "id-w2", 0),
        ("shutdown", ended("No such image: x:1"), "id-w2", "rejected: the image x:1 does not exist on node w2"),
        ("shutdown", {"State": "orphaned"}, "id-w1", "orphaned: no reason given on node w1"),
    ],
    ids=[
        "running",
        "starting",
        "node-down",
        "shutting-down",
        "lost-with-node",
        "lost-with-unknown-node",
        "removed",
        "exit-code",
        "ended-well",
        "rejected",
        "orphaned",
    ],
)
def test_a_server_that_ended_is_told_from_one_that_lives(
    desired: str, status: dict[str, Any], node_id: str, words: int | str | None
) -> None:
    nodes = [node("w1", state="down"), node("w2")]
    assert how_it_ended(Task(node_id, desired, status), nodes) == words


def attached(
    number: int, state: str, node_id: str = "n1", network: str = "N", desired: str = "running"
) -> dict[str, Any]:
    return {
        "NodeID": node_id,
        "DesiredState": desired,
        "Status": {"State": state},
        "NetworksAttachments": [{"Network": {"ID": network}, "Addresses": [f"10.0.0.{number}/29"]}],
    }


def network(*subnets: str) -> dict[str, Any]:
    return {"Name": "jupyterhub", "Id": "N", "IPAM": {"Config": [{"Subnet": subnet} for subnet in subnets]}}


def test_a_task_without_address_on_a_full_network_is_explained() -> None:
    waiting: dict[str, Any] = {"NodeID": "", "DesiredState": "running", "Status": {"State": "new"}}
    new = Task("", "running", waiting["Status"])
    # A /29 has eight addresses: its own, the broadcast, the gateway's, one for each node, and the rest for tasks.
    full = [*(attached(number, "running") for number in (2, 3, 4, 5)), waiting]
    reason, final = without_address(new, Addresses(network("10.0.0.0/29"), full, []))
    assert final
    assert "the network jupyterhub has no address left" in reason
    assert "10.0.0.0/29" in reason
    for roomy in (
        full[1:],
        [*full[1:], attached(2, "running", network="other")],
        [*full[1:], attached(2, "shutdown", desired="shutdown")],
        [*full[1:], {**attached(2, "running"), "NetworksAttachments": None}],
    ):
        reason, final = without_address(new, Addresses(network("10.0.0.0/29"), roomy, []))
        assert not final
        assert "waiting for an address on the network jupyterhub" in reason
    vip = {"Endpoint": {"VirtualIPs": [{"NetworkID": "N", "Addr": "10.0.0.2/29"}]}}
    assert without_address(new, Addresses(network("10.0.0.0/29"), full[1:], [vip, {}]))[1]
    assert without_address(new, Addresses(network("10.0.0.0/29", "10.0.1.0/29"), full, []))[1] is False


def test_a_task_on_a_node_that_finds_no_address_for_itself_is_explained() -> None:
    tasks = [attached(number, "preparing") for number in (2, 3, 4, 5, 6)]
    addresses = Addresses(network("10.0.0.0/29"), tasks, [])
    preparing = Task("n1", "running", {"State": "preparing"})
    assert without_address(preparing, addresses)[1]
    tasks[0]["Status"]["State"] = "running"  # so the node has an address, and this task waits for its image
    assert without_address(preparing, addresses) == ("", False)


def test_a_network_that_swarm_could_not_set_up_is_explained() -> None:
    reason, final = without_address(Task("", "running", {"State": "new"}), Addresses(network(), [], []))
    assert final
    assert "the network jupyterhub has no subnet" in reason


def test_a_server_without_a_task_was_removed() -> None:
    assert how_it_ended(None, []) == "its service was removed"
