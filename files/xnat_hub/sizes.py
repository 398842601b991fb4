"""The hardware that XNAT offers, computed from what the nodes of the swarm have. Imports nothing but Python's own.

The plugin's own defaults reserve up to 4 CPUs and 16 GB (docs/xnat-contract.md, 5.4): on smaller nodes such servers
wait for ever. Here every size fits on an empty node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Of the smallest node: name, share of its memory, share of its CPUs. CPUs may be given out more than once.
SIZES = (("Small", 1 / 4, 1 / 4), ("Medium", 1 / 2, 1 / 2), ("Large", 3 / 4, 1.0))
LARGEST = "XLarge"
LARGER = 2  # so many times the smallest node's memory must a node have to be worth a size of its own
CPUS_RESERVED = 1 / 4
MEMORY_RESERVED = 1 / 2
NODE_LABEL = "jupyter"
HARDWARE_LABEL = "hardware"
MEGABYTE = 2**20


class SizesError(ValueError):
    """No hardware can be computed; one sentence that says what to do."""


@dataclass(frozen=True)
class Node:
    """What a node has: CPUs, memory in MB, how many of each generic resource, labels."""

    name: str
    cpus: float
    memory: int
    resources: Mapping[str, int]
    labels: Mapping[str, str]

    @property
    def is_chosen(self) -> bool:
        """Whether its label says that notebooks run there."""
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
    """Return the nodes on which notebooks run: those with the label jupyter=true if there are any, else all that are
    not drained. Raises SizesError if there is none.
    """
    found = [read_node(node) for node in nodes if node["Spec"].get("Availability") != "drain"]
    labelled = [node for node in found if node.is_chosen]
    if not found:
        raise SizesError("no node of the swarm takes notebooks: set docker_swarm_availability to active on one")
    return labelled or found


def hardware(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the hardware to offer, as the option `hardware` of the module xnat_hardware takes it.

    nodes: as `docker node inspect` gives them. Three sizes of the smallest node, a fourth of the largest if that is
    much larger; one for each generic resource, such as GPU for gpu, with one of them; one for each value of the node
    label `hardware`, only on those nodes. Raises SizesError.
    """
    usable = notebook_nodes(nodes)
    smallest, largest = min(usable, key=_memory), max(usable, key=_memory)
    rows = [_row(name, smallest, memory, cpus) for name, memory, cpus in SIZES]
    if largest.memory >= LARGER * smallest.memory:
        rows.append(_row(LARGEST, largest, 3 / 4, 1.0))
    for kind in sorted({kind for node in usable for kind in node.resources}):
        share, node = min(((1 / node.resources[kind], node) for node in usable if kind in node.resources), key=_room)
        rows.append({**_row(kind.upper(), node, share * 3 / 4, share), "generic_resources": {kind: "1"}})
    for value in sorted({node.labels[HARDWARE_LABEL] for node in usable if HARDWARE_LABEL in node.labels}):
        node = min((node for node in usable if node.labels.get(HARDWARE_LABEL) == value), key=_memory)
        constraint = {"key": f"node.labels.{HARDWARE_LABEL}", "operator": "IN", "value": value}
        rows.append({**_row(value, node, 3 / 4, 1.0), "constraints": [constraint]})
    names = [row["name"].lower() for row in rows]
    for row in rows:
        if names.count(row["name"].lower()) > 1:
            raise SizesError(
                f"two kinds of hardware would be called {row['name']}: choose another value for the label"
                f" {HARDWARE_LABEL} of the nodes"
            )
    return rows


def constraints(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return where all servers must run, as the option `constraints` of xnat_constraint takes it: on the nodes with
    the label jupyter=true, if there are any.
    """
    chosen = any(read_node(node).is_chosen for node in nodes)
    return [{"key": f"node.labels.{NODE_LABEL}", "operator": "IN", "value": "true"}] if chosen else []


def _memory(node: Node) -> tuple[int, float, str]:
    return node.memory, node.cpus, node.name


def _room(choice: tuple[float, Node]) -> tuple[float, str]:
    share, node = choice
    return share * node.memory, node.name


def _row(name: str, node: Node, memory: float, cpus: float) -> dict[str, Any]:
    limit = max(1, math.floor(node.cpus * cpus))
    return {
        "name": name,
        "cpu_limit": float(limit),
        "cpu_reservation": math.floor(limit * CPUS_RESERVED * 100) / 100,
        "memory_limit": memory_text(node.memory * memory),
        "memory_reservation": memory_text(node.memory * memory * MEMORY_RESERVED),
    }


def memory_text(megabytes: float) -> str:
    """Return an amount of memory as XNAT's page allows it (1.4.2), rounded down to whole GB, below 8 GB to 128 MB."""
    if megabytes >= 8 * 1024:
        return f"{int(megabytes // 1024)}G"
    steps = max(1, int(megabytes // 128))
    return f"{steps // 8}G" if steps % 8 == 0 else f"{steps * 128}M"
