"""Whether a node may be taken out of the swarm for a while, and whose servers are on it."""

from __future__ import annotations

from typing import Any

import pytest

from module_utils.xnat_site.maintenance import manager_quorum, server_owners


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
    return {"Spec": {"ContainerSpec": {} if labels is None else {"Labels": labels}}}


@pytest.mark.parametrize(
    ("tasks", "owners"),
    [
        pytest.param([], [], id="none"),
        pytest.param([task({"org.xnat.jupyterhub.user": name}) for name in ("b", "a", "b")], ["a", "b", "b"], id="two"),
        pytest.param([task({"org.xnat.jupyterhub.deployment": "jh"}), task(None), task({})], [], id="other-services"),
    ],
)
def test_servers_are_counted_by_their_users(tasks: list[dict[str, Any]], owners: list[str]) -> None:
    assert server_owners(tasks) == owners


def test_labels_that_are_null_are_none() -> None:
    assert server_owners([{"Spec": {"ContainerSpec": {"Labels": None}}}]) == []
