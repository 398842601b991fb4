"""Whether a node may be taken out of the swarm for a while, and whose servers are on it."""

from __future__ import annotations

from typing import Any

import pytest

from module_utils.xnat_site.maintenance import manager_quorum, node_servers


def node(name: str, role: str = "manager", reachability: str = "reachable") -> dict[str, Any]:
    """A node as Docker lists it; the status is that of managers only."""
    status = {"ManagerStatus": {"Reachability": reachability}} if role == "manager" and reachability else {}
    return {"ID": name, "Spec": {"Role": role}, **status}


WORKER = node("w1", "worker")


@pytest.mark.parametrize(
    ("nodes", "name", "expected"),
    [
        pytest.param([node("m1"), WORKER], "m1", (1, 0, True), id="the-only-manager"),
        pytest.param([node("m1"), node("m2")], "m1", (2, 1, False), id="one-of-two"),
        pytest.param([node("m1"), node("m2"), node("m3")], "m1", (3, 2, True), id="one-of-three"),
        pytest.param([node("m1"), node("m2"), node("m3", reachability="unreachable")], "m1", (3, 1, False),
                     id="one-of-three-of-which-one-is-away"),
        pytest.param([node("m1"), node("m2"), node("m3", reachability="")], "m1", (3, 1, False),
                     id="one-of-three-of-which-one-says-nothing"),
        pytest.param([node("m1", reachability="unreachable"), node("m2"), node("m3")], "m1", (3, 2, True),
                     id="the-one-that-is-away-already"),
        pytest.param([*map(node, ["m1", "m2", "m3", "m4", "m5"])], "m1", (5, 4, True), id="one-of-five"),
        pytest.param([node("m1"), node("m2"), WORKER], "w1", (2, 2, True), id="a-worker"),
        pytest.param([node("m1"), node("m2", reachability="unreachable"), WORKER], "w1", (2, 1, True),
                     id="a-worker-while-a-manager-is-away"),
        pytest.param([node("m1")], "unknown", (1, 1, True), id="no-member"),
    ],
)  # fmt: skip
def test_a_node_may_go_while_most_managers_stay(
    nodes: list[dict[str, Any]], name: str, expected: tuple[int, int, bool]
) -> None:
    found = manager_quorum(nodes, name)
    assert (found["managers"], found["others"], found["kept"]) == expected


def task(labels: dict[str, str] | None) -> dict[str, Any]:
    marks = None if labels is None else {f"org.xnat.jupyterhub.{name}": value for name, value in labels.items()}
    return {"Spec": {"ContainerSpec": {"Labels": marks}}}


@pytest.mark.parametrize(
    ("tasks", "servers"),
    [
        pytest.param([], [], id="none"),
        pytest.param(
            [task({"user": "b", "server": "s2"}), task({"user": "a", "server": "s3"}), task({"user": "b"})],
            [("a", "s3"), ("b", ""), ("b", "s2")],
            id="several",
        ),
        pytest.param([task({"deployment": "jh"}), task(None), task({})], [], id="other-services"),
        pytest.param([{"Spec": {"ContainerSpec": {}}}], [], id="no-labels"),
    ],
)
def test_the_servers_of_a_node_are_listed(tasks: list[dict[str, Any]], servers: list[tuple[str, str]]) -> None:
    assert node_servers(tasks) == [{"user": user, "server": server} for user, server in servers]
