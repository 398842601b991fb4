"""Hardware from the nodes: every size fits on an empty node, resources and labels are followed."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xnat_hub.sizes import SizesError, constraints, hardware, memory_text

GIGABYTE = 1024


def node(
    name: str = "w1",
    cpus: float = 16,
    gigabytes: float = 64,
    labels: dict[str, str] | None = None,
    resources: list[dict[str, Any]] | None = None,
    availability: str = "active",
) -> dict[str, Any]:
    """A node as `docker node inspect` gives it."""
    found = {"NanoCPUs": int(cpus * 10**9), "MemoryBytes": int(gigabytes * 2**30)}
    return {
        "Spec": {"Availability": availability, "Labels": labels},
        "Description": {"Hostname": name, "Resources": found | ({"GenericResources": resources} if resources else {})},
    }


def named(kind: str, *ids: str) -> list[dict[str, Any]]:
    return [{"NamedResourceSpec": {"Kind": kind, "Value": value}} for value in ids]


def megabytes(text: str) -> int:
    return int(text[:-1]) * {"M": 1, "G": GIGABYTE}[text[-1]]


def test_three_sizes_of_one_node() -> None:
    assert hardware([node()]) == [
        {"name": "Small", "cpu_limit": 4.0, "cpu_reservation": 1.0, "memory_limit": "16G", "memory_reservation": "8G"},
        {
            "name": "Medium",
            "cpu_limit": 8.0,
            "cpu_reservation": 2.0,
            "memory_limit": "32G",
            "memory_reservation": "16G",
        },
        {
            "name": "Large",
            "cpu_limit": 16.0,
            "cpu_reservation": 4.0,
            "memory_limit": "48G",
            "memory_reservation": "24G",
        },
    ]


def test_the_smallest_node_counts_and_a_much_larger_one_has_a_size_of_its_own() -> None:
    rows = hardware([node("big", 32, 128), node("small", 8, 32), node("middle", 64, 63)])
    assert [row["name"] for row in rows] == ["Small", "Medium", "Large", "XLarge"]
    assert rows[0]["memory_limit"] == "8G"
    assert rows[2]["cpu_limit"] == 8.0
    assert (rows[3]["memory_limit"], rows[3]["cpu_limit"]) == ("96G", 32.0)
    assert [row["name"] for row in hardware([node("a", 8, 32), node("b", 8, 63.9)])] == ["Small", "Medium", "Large"]
    assert len(hardware([node("a", 8, 32), node("b", 8, 64)])) == 4


def test_drained_nodes_do_not_count_and_labelled_ones_count_alone() -> None:
    small, large = node("s", 2, 4, availability="drain"), node("l", 8, 32)
    assert hardware([small, large]) == hardware([large])
    labelled = node("j", 4, 16, labels={"jupyter": "true"})
    assert hardware([large, labelled, node("no", 1, 2, labels={"jupyter": "false"})]) == hardware([labelled])
    with pytest.raises(
        SizesError, match="no node of the swarm takes notebooks: set docker_swarm_availability to active"
    ):
        hardware([small])


def test_generic_resources_are_shared_out() -> None:
    both = node(
        "g", 16, 64, resources=[*named("gpu", "GPU-a", "GPU-b"), {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 4}}]
    )
    rows = {row["name"]: row for row in hardware([both, node("plain")])}
    assert rows["GPU"] == {
        "name": "GPU", "cpu_limit": 8.0, "cpu_reservation": 2.0, "memory_limit": "24G", "memory_reservation": "12G",
        "generic_resources": {"gpu": "1"},
    }  # fmt: skip
    assert rows["SSD"]["memory_limit"] == "12G"
    assert rows["SSD"]["generic_resources"] == {"ssd": "1"}
    poorer = node("p", 16, 32, resources=named("gpu", "GPU-c", "GPU-d"))
    assert {row["name"]: row for row in hardware([both, poorer])}["GPU"]["memory_limit"] == "12G"


def test_the_label_hardware_makes_hardware_of_its_nodes() -> None:
    rows = hardware([node("w"), node("b", 32, 128, {"hardware": "Bigmem"}), node("c", 32, 127, {"hardware": "Bigmem"})])
    (row,) = [row for row in rows if row["name"] == "Bigmem"]
    assert row["constraints"] == [{"key": "node.labels.hardware", "operator": "IN", "value": "Bigmem"}]
    assert (row["memory_limit"], row["cpu_limit"]) == ("95G", 32.0)


def test_two_kinds_of_hardware_of_one_name_are_refused() -> None:
    with pytest.raises(SizesError, match=r"two kinds of hardware would be called Small: choose another value"):
        hardware([node(labels={"hardware": "small"})])


def test_servers_are_bound_to_labelled_nodes() -> None:
    assert constraints([node(), node(labels={"jupyter": "yes"})]) == []
    assert constraints([node(), node(labels={"jupyter": "true"})]) == [
        {"key": "node.labels.jupyter", "operator": "IN", "value": "true"}
    ]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (8192, "8G"),
        (8191, "8064M"),
        (9000, "8G"),
        (1024, "1G"),
        (1151, "1G"),
        (1152, "1152M"),
        (100, "128M"),
        (2048, "2G"),
    ],
)
def test_memory_is_rounded_down_to_what_xnats_page_takes(amount: float, text: str) -> None:
    assert memory_text(amount) == text
    assert re.fullmatch("[1-9][0-9]*[KMGT]", text)


@given(st.lists(st.tuples(st.integers(1, 256), st.floats(1, 4096)), min_size=1, max_size=5))
def test_every_size_fits_on_the_smallest_node_it_is_for(found: list[tuple[int, float]]) -> None:
    nodes = [node(str(number), cpus, gigabytes) for number, (cpus, gigabytes) in enumerate(found)]
    smallest = min(gigabytes for _, gigabytes in found) * GIGABYTE
    largest = max(gigabytes for _, gigabytes in found) * GIGABYTE
    fewest = min(cpus for cpus, gigabytes in found if gigabytes * GIGABYTE == smallest)
    for row in hardware(nodes):
        room = largest if row["name"] == "XLarge" else smallest
        assert megabytes(row["memory_reservation"]) <= megabytes(row["memory_limit"]) <= room
        assert row["cpu_reservation"] <= row["cpu_limit"]
        assert row["name"] == "XLarge" or row["cpu_limit"] <= fewest
