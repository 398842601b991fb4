"""Computes the hardware that XNAT offers, and the bounds of every server, from the nodes of the swarm.

Runs on the control node.

The plugin's own defaults reserve up to 4 CPUs and 16 GB (docs/xnat-contract.md, 5.4): on smaller nodes such servers
would wait forever. Here every size fits on an empty node, and every node with room for a server's reservation also has
its limits: Swarm places by reservations alone, and an engine refuses a container with a limit of more CPUs than it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..xnat_launcher.options import parse_memory

# Name, share of the smallest node's memory, share of the smallest node's CPUs. CPUs may be overcommitted.
SIZES = (("Small", 1 / 4, 1 / 4), ("Medium", 1 / 2, 1 / 2), ("Large", 3 / 4, 1.0))
LARGEST = "XLarge"
LARGER = 2  # a node gets its own size if it has at least this many times the memory of the smallest node
CPUS_RESERVED = 1 / 4
MEMORY_RESERVED = 1 / 2
LARGEST_SHARE = 7 / 8  # of the largest node's memory, the most for one server; system and Docker need the rest
DEFAULT_SHARE = 1 / 2  # of the smallest node, for a server for which XNAT sets no limits; the same as Medium
NODE_LABEL = "jupyter"
HARDWARE_LABEL = "hardware"
MEGABYTE = 2**20


class SizesError(ValueError):
    """No hardware can be computed; the text is one sentence that says what to do."""


@dataclass(frozen=True)
class Node:
    """A node: CPUs, memory in MB, the number of each generic resource, labels."""

    name: str
    cpus: float
    memory: int
    resources: Mapping[str, int]
    labels: Mapping[str, str]

    @property
    def is_chosen(self) -> bool:
        """Whether it has the label for nodes that run notebooks."""
        return self.labels.get(NODE_LABEL) == "true"


def read_node(node: Mapping[str, Any]) -> Node:
    """Read a node as `docker node inspect` gives it."""
    spec, description = node["Spec"], node["Description"]
    resources: dict[str, int] = {}
    for entry in description["Resources"].get("GenericResources") or ():
        # By name, such as gpu=GPU-a, or by number, such as gpu=2.
        named, counted = entry.get("NamedResourceSpec"), entry.get("DiscreteResourceSpec")
        kind = (named or counted)["Kind"]
        resources[kind] = resources.get(kind, 0) + (1 if named else int(counted["Value"]))
    return Node(
        name=description["Hostname"],
        cpus=description["Resources"]["NanoCPUs"] / 10**9,
        memory=description["Resources"]["MemoryBytes"] // MEGABYTE,
        resources=resources,
        labels=spec.get("Labels") or {},
    )


def notebook_nodes(nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the nodes that run notebooks: those with the label jupyter=true, or all if none has it, without drained
    ones. Raises SizesError if there is none.
    """
    chosen = [node for node in nodes if read_node(node).is_chosen]
    found = [read_node(node) for node in chosen or nodes if node["Spec"].get("Availability") != "drain"]
    if not found:
        raise SizesError(
            f"no node of the swarm{f' with the label {NODE_LABEL}=true' if chosen else ''} accepts notebooks: set"
            " docker_swarm_availability to active on at least one"
        )
    return found


def hardware(
    nodes: Sequence[Mapping[str, Any]], cpu_ceiling: float = 0, memory_ceiling: str = ""
) -> list[dict[str, Any]]:
    """Return the hardware to offer, as the option `hardware` of the module xnat_hardware takes it.

    nodes: as `docker node inspect` returns them. Returns three sizes that fit on every node; a fourth for the node with
    the most memory if that has much more; one for each generic resource, such as GPU for gpu, with one unit of it; one
    for each value of the node label `hardware`, only on those nodes. cpu_ceiling (CPUs), memory_ceiling (such as 64G):
    the most that one server may have; 0 and empty for no ceiling. Raises SizesError, OptionsError for the ceiling.
    """
    usable = notebook_nodes(nodes)
    most_memory = (parse_memory(memory_ceiling, "memory_ceiling") or math.inf) / MEGABYTE
    cpus, memory = _least(usable)
    rows = [_row(name, cpus * of_cpus, memory * of_memory) for name, of_memory, of_cpus in SIZES]
    largest = max(usable, key=lambda node: (node.memory, node.cpus))
    if largest.memory >= LARGER * memory:
        rows.append(_largest_row(largest, usable, most_memory))
    for kind in sorted({kind for node in usable for kind in node.resources}):
        cpus = min(node.cpus / node.resources[kind] for node in usable if kind in node.resources)
        memory = min(node.memory / node.resources[kind] for node in usable if kind in node.resources)
        rows.append({**_row(kind.upper(), cpus, memory * 3 / 4), "generic_resources": {kind: "1"}})
    for value in sorted({node.labels[HARDWARE_LABEL] for node in usable if HARDWARE_LABEL in node.labels}):
        cpus, memory = _least([node for node in usable if node.labels.get(HARDWARE_LABEL) == value])
        constraint = {"key": f"node.labels.{HARDWARE_LABEL}", "operator": "IN", "value": value}
        rows.append({**_row(value, cpus, memory * 3 / 4), "constraints": [constraint]})
    _bound(rows, cpu_ceiling or math.inf, most_memory)
    names = [row["name"].lower() for row in rows]
    for row in rows:
        if names.count(row["name"].lower()) > 1:
            raise SizesError(
                f"two kinds of hardware would have the name {row['name']}: choose another value for the node label"
                f" {HARDWARE_LABEL}"
            )
    return rows


def constraints(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the constraint of all servers, as the option `constraints` of xnat_constraint takes it: they run on nodes
    with the label jupyter=true, if there are any.
    """
    chosen = any(read_node(node).is_chosen for node in nodes)
    return [{"key": f"node.labels.{NODE_LABEL}", "operator": "IN", "value": "true"}] if chosen else []


def bounds(
    nodes: Sequence[Mapping[str, Any]],
    cpu_ceiling: float = 0,
    memory_ceiling: str = "",
    cpu_default: float = 0,
    memory_default: str = "",
) -> dict[str, Any]:
    """Return where and within which limits the launcher starts servers, whatever XNAT asks for.

    nodes: as `docker node inspect` returns them. The others are the site's own values, 0 and empty for those computed
    here. Returns::

        {"constraints": ["node.labels.jupyter==true"],  # empty if no node has the label
         "cpu_ceiling": 16.0, "memory_ceiling": "56G",  # the most that one server may have
         "cpu_default": 4.0, "memory_default": "16G"}   # the limits of a server for which XNAT sets none

    Computed ceilings are those of the largest node, and are never below the hardware of `hardware`. Computed defaults
    are half of the smallest node, since an engine refuses a limit of more CPUs than it has. Defaults are lowered to the
    ceilings. Drained nodes count only if all are drained. Raises OptionsError for the site's own values.
    """
    chosen = [node for node in nodes if read_node(node).is_chosen]
    at_work = [node for node in chosen or nodes if node["Spec"].get("Availability") != "drain"]
    usable = [read_node(node) for node in at_work or chosen or nodes]
    cpus, memory = _least(usable)
    most_cpus = cpu_ceiling or max(node.cpus for node in usable)
    most_memory = memory_ceiling or memory_text(max(node.memory for node in usable) * LARGEST_SHARE)
    bytes_at_most = parse_memory(most_memory, "memory_ceiling") or 0
    default = memory_default or memory_text(memory * DEFAULT_SHARE)
    return {
        "constraints": [f"node.labels.{NODE_LABEL}==true"] if chosen else [],
        "cpu_ceiling": float(most_cpus),
        "memory_ceiling": most_memory,
        "cpu_default": float(min(cpu_default or cpus * DEFAULT_SHARE, most_cpus)),
        "memory_default": default if (parse_memory(default, "memory_default") or 0) <= bytes_at_most else most_memory,
    }


def _least(nodes: Sequence[Node]) -> tuple[float, float]:
    """Return the fewest CPUs and the least memory of these nodes, possibly of different ones."""
    return min(node.cpus for node in nodes), min(node.memory for node in nodes)


def _row(name: str, cpus: float, memory: float, memory_reserved: float = MEMORY_RESERVED) -> dict[str, Any]:
    """Return hardware with these limits: CPUs, rounded down, and memory in MB. memory_reserved: share of the memory."""
    limit = max(1, math.floor(cpus))
    return {
        "name": name,
        "cpu_limit": float(limit),
        "cpu_reservation": math.floor(limit * CPUS_RESERVED * 100) / 100,
        "memory_limit": memory_text(memory),
        "memory_reservation": memory_text(memory * memory_reserved),
    }


def _largest_row(largest: Node, nodes: Sequence[Node], ceiling: float) -> dict[str, Any]:
    """Return hardware for the node with the most memory and all other nodes that have as much as its limits.

    ceiling: the most memory in MB that one server may have; with less memory the row fits on more nodes.

    If another node has room for the reservation but less memory than the limit, all of the memory is reserved. The
    limit of CPUs is at most the CPUs of each node on which the row then fits; nodes with fewer CPUs than the
    reservation are ignored.
    """
    memory = min(largest.memory * 3 / 4, ceiling)
    limit = rounded_down(memory)
    between = [node for node in nodes if rounded_down(memory * MEMORY_RESERVED) <= node.memory < limit]
    cpus = largest.cpus
    for node in sorted(nodes, key=lambda node: node.cpus, reverse=True):
        if node.memory >= limit and node.cpus >= cpus * CPUS_RESERVED:
            cpus = min(cpus, node.cpus)
    return _row(LARGEST, cpus, memory, 1 if between else MEMORY_RESERVED)


def _bound(rows: Sequence[dict[str, Any]], cpus: float, megabytes: float) -> None:
    """Lower the limits of rows to these maximums, and reservations to the limits."""
    for row in rows:
        row["cpu_limit"] = min(row["cpu_limit"], float(cpus))
        row["cpu_reservation"] = min(row["cpu_reservation"], row["cpu_limit"])
        for field in ("memory_limit", "memory_reservation"):
            if (parse_memory(row[field], field) or 0) > megabytes * MEGABYTE:
                row[field] = memory_text(megabytes)


def rounded_down(megabytes: float) -> int:
    """Return an amount of memory in MB in whole GB, below 8 GB in steps of 128 MB."""
    step = 1024 if megabytes >= 8 * 1024 else 128
    return max(1, int(megabytes // step)) * step


def memory_text(megabytes: float) -> str:
    """Return an amount of memory, rounded down, as XNAT's page allows it (docs/xnat-contract.md, 1.4)."""
    amount = rounded_down(megabytes)
    return f"{amount // 1024}G" if amount % 1024 == 0 else f"{amount}M"
