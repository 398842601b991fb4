"""Hardware computed from the nodes: every profile fits on an empty node; resources and labels are respected."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils.xnat_launcher.options import OptionsError
from module_utils.xnat_site.hardware_profiles import SizesError, bounds, constraints, hardware, memory_text

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
    return int(text[:-1]) * {"M": 1, "G": GIGABYTE, "T": GIGABYTE**2}[text[-1]]


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
        SizesError, match="no node of the swarm accepts notebooks: set docker_swarm_availability to active"
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
    with pytest.raises(SizesError, match=r"two kinds of hardware would have the name Small: choose another value"):
        hardware([node(labels={"hardware": "small"})])


def test_servers_are_bound_to_labelled_nodes() -> None:
    assert constraints([node(), node(labels={"jupyter": "yes"})]) == []
    assert constraints([node(), node(labels={"jupyter": "true"})]) == [
        {"key": "node.labels.jupyter", "operator": "IN", "value": "true"}
    ]


JUPYTER = {"jupyter": "true"}


@pytest.mark.parametrize(
    ("nodes", "wanted", "expected"),
    [
        ([node()], {}, (16.0, "56G", 8.0, "32G")),
        ([node("a", 4, 8), node("b", 32, 128)], {}, (32.0, "112G", 2.0, "4G")),
        ([node("a", 4, 8, JUPYTER), node("b", 32, 128)], {}, (4.0, "7G", 2.0, "4G")),
        ([node("a", 4, 8, availability="drain"), node("b", 8, 32)], {}, (8.0, "28G", 4.0, "16G")),
        ([node("a", 4, 8, availability="drain")], {}, (4.0, "7G", 2.0, "4G")),
        ([node("a", 4, 8, JUPYTER, availability="drain"), node("b", 8, 32)], {}, (4.0, "7G", 2.0, "4G")),
        ([node("a", 1, 2)], {}, (1.0, "1792M", 0.5, "1G")),
        ([node()], {"cpu_ceiling": 2.0, "memory_ceiling": "20G"}, (2.0, "20G", 2.0, "20G")),
        ([node()], {"cpu_default": 3.0, "memory_default": "5G"}, (16.0, "56G", 3.0, "5G")),
        ([node()], {"cpu_default": 99.0, "memory_default": "99G"}, (16.0, "56G", 16.0, "56G")),
    ],
    ids=[
        "one", "two", "labelled", "drained", "all-drained", "labelled-drained", "small", "ceilings", "defaults",
        "above",
    ],
)  # fmt: skip
def test_the_bounds_of_servers_are_those_of_the_nodes(
    nodes: list[dict[str, Any]], wanted: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = bounds(nodes, **wanted)
    constraint = found.pop("constraints")
    assert tuple(found.values()) == expected
    labelled = any((each["Spec"]["Labels"] or {}).get("jupyter") for each in nodes)
    assert constraint == (["node.labels.jupyter==true"] if labelled else [])


@given(st.lists(st.tuples(st.floats(1, 200), st.floats(1.8, 3000), st.integers(0, 3)), min_size=1, max_size=5))
def test_no_hardware_is_above_the_ceilings(sizes: list[tuple[float, float, int]]) -> None:
    nodes = [
        node(f"n{number}", cpus, gigabytes, resources=named("gpu", *map(str, range(gpus))))
        for number, (cpus, gigabytes, gpus) in enumerate(sizes)
    ]
    found = bounds(nodes)
    for row in hardware(nodes):
        assert row["cpu_limit"] <= found["cpu_ceiling"]
        assert megabytes(row["memory_limit"]) <= megabytes(found["memory_ceiling"])
    assert found["cpu_default"] <= min(cpus for cpus, _, _ in sizes)


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


def bytes_of(text: str) -> int:
    return megabytes(text) * 2**20


def fitting(row: dict[str, Any], nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes on which Swarm may place a server with this hardware while they are empty; limits do not count."""
    constrained = [*row.get("constraints", ()), *constraints(nodes)]
    found = []
    for one in nodes:
        has, labels = one["Description"]["Resources"], one["Spec"]["Labels"] or {}
        kinds = [entry["NamedResourceSpec"]["Kind"] for entry in has.get("GenericResources", ())]
        if (
            one["Spec"]["Availability"] == "active"
            and has["NanoCPUs"] >= row["cpu_reservation"] * 10**9
            and has["MemoryBytes"] >= bytes_of(row["memory_reservation"])
            and all(int(count) <= kinds.count(kind) for kind, count in row.get("generic_resources", {}).items())
            and all(labels.get(wanted["key"].removeprefix("node.labels.")) == wanted["value"] for wanted in constrained)
        ):
            found.append(one)
    return found


def check_that_engines_take(rows: list[dict[str, Any]], nodes: list[dict[str, Any]]) -> None:
    for row in rows:
        places = fitting(row, nodes)
        assert places, row
        for place in places:
            assert row["cpu_limit"] * 10**9 <= place["Description"]["Resources"]["NanoCPUs"], (row, place)
            assert bytes_of(row["memory_limit"]) <= place["Description"]["Resources"]["MemoryBytes"], (row, place)
        assert bytes_of(row["memory_reservation"]) <= bytes_of(row["memory_limit"])
        assert row["cpu_reservation"] <= row["cpu_limit"]


def test_the_fewest_cpus_and_the_least_memory_count_on_whichever_node_they_are() -> None:
    nodes = [node("a", 16, 32), node("b", 4, 64)]
    rows = {row["name"]: row for row in hardware(nodes)}
    assert (rows["Medium"]["cpu_limit"], rows["Medium"]["memory_limit"]) == (2.0, "16G")
    assert (rows["Large"]["cpu_limit"], rows["Large"]["memory_limit"]) == (4.0, "24G")
    assert (rows["XLarge"]["cpu_limit"], rows["XLarge"]["memory_limit"]) == (4.0, "48G")
    check_that_engines_take(list(rows.values()), nodes)


@pytest.mark.parametrize(
    ("others", "cpus", "reservation"),
    [
        ([], 32.0, "48G"),
        ([("b", 16, 128)], 16.0, "48G"),
        ([("b", 4, 128)], 32.0, "48G"),  # has fewer CPUs than are reserved
        ([("b", 16, 128), ("c", 4, 128)], 4.0, "48G"),
        ([("b", 16, 96)], 16.0, "48G"),
        ([("b", 16, 95)], 32.0, "96G"),  # has room for half of it, not for all
        ([("b", 16, 48)], 32.0, "96G"),
        ([("b", 16, 47)], 32.0, "48G"),
    ],
)
def test_the_largest_size_keeps_off_nodes_that_have_less_than_its_limits(
    others: list[tuple[str, int, int]], cpus: float, reservation: str
) -> None:
    nodes = [node("big", 32, 128), node("small", 8, 32), *(node(*other) for other in others)]
    (row,) = [row for row in hardware(nodes) if row["name"] == "XLarge"]
    assert (row["cpu_limit"], row["memory_limit"], row["memory_reservation"]) == (cpus, "96G", reservation)
    check_that_engines_take([row], nodes)


def test_hardware_of_resources_and_labels_is_bounded_by_every_node_that_has_them() -> None:
    nodes = [
        node("a", 32, 64, {"hardware": "Big"}, named("gpu", "1", "2")),
        node("b", 2, 256, {"hardware": "Big"}, named("gpu", "3")),
    ]
    rows = {row["name"]: row for row in hardware(nodes)}
    assert (rows["GPU"]["cpu_limit"], rows["GPU"]["memory_limit"]) == (2.0, "24G")
    assert (rows["Big"]["cpu_limit"], rows["Big"]["memory_limit"]) == (2.0, "48G")


def test_only_labelled_nodes_count_also_while_they_are_drained() -> None:
    with pytest.raises(SizesError, match="no node of the swarm with the label jupyter=true accepts notebooks"):
        hardware([node("a"), node("b", labels={"jupyter": "true"}, availability="drain")])


mixed_node = st.builds(
    node,
    name=st.uuids().map(str),
    cpus=st.sampled_from([1, 2, 3, 4, 7, 16, 48, 128]),
    gigabytes=st.one_of(st.floats(1, 16), st.floats(1, 4096), st.sampled_from([4, 8, 16, 32, 64])),
    labels=st.none() | st.fixed_dictionaries(
        {}, optional={"jupyter": st.sampled_from(["true", "false"]), "hardware": st.sampled_from(["Bigmem", "Fast"])}
    ),
    resources=st.none() | st.lists(st.sampled_from(["gpu", "fpga"]), max_size=4).map(
        lambda kinds: [entry for number, kind in enumerate(kinds) for entry in named(kind, str(number))]
    ),
    availability=st.sampled_from(["active", "active", "active", "drain"]),
)  # fmt: skip


def test_no_hardware_is_more_than_the_hub_gives_to_a_server() -> None:
    rows = {row["name"]: row for row in hardware([node(), node("b", 32, 256)], 6, "20G")}
    assert [row["cpu_limit"] for row in rows.values()] == [4.0, 6.0, 6.0, 6.0]
    assert [row["memory_limit"] for row in rows.values()] == ["16G", "20G", "20G", "20G"]
    assert [row["memory_reservation"] for row in rows.values()] == ["8G", "16G", "20G", "10G"]
    with pytest.raises(OptionsError, match="memory_ceiling"):
        hardware([node()], 0, "much")


@given(
    st.lists(mixed_node, min_size=1, max_size=6),
    st.sampled_from([0, 0.5, 2, 6]),
    st.sampled_from(["", "1G", "10G", "1T"]),
)
def test_every_node_with_room_for_hardware_has_what_its_limits_say(
    nodes: list[dict[str, Any]], cpu_ceiling: float, memory_ceiling: str
) -> None:
    chosen = [one for one in nodes if (one["Spec"]["Labels"] or {}).get("jupyter") == "true"]
    if all(one["Spec"]["Availability"] == "drain" for one in chosen or nodes):
        with pytest.raises(SizesError, match="accepts notebooks"):
            hardware(nodes)
        return
    rows = hardware(nodes, cpu_ceiling, memory_ceiling)
    check_that_engines_take(rows, nodes)
    assert all(row["cpu_limit"] <= (cpu_ceiling or row["cpu_limit"]) for row in rows)
    assert all(megabytes(row["memory_limit"]) <= megabytes(memory_ceiling or "9999T") for row in rows)
    assert [row["name"] for row in rows][:3] == ["Small", "Medium", "Large"]
    for row in rows[:3]:  # these are for all nodes
        assert len(fitting(row, nodes)) == len(
            fitting({**row, "cpu_reservation": 0, "memory_reservation": "0M"}, nodes)
        )
