"""Explains for users and administrators why a server does not run, from the state of its Swarm task.

Pure functions over the JSON of Docker's API. They match the error texts of Docker Engine 20.10 and 26.1.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from xnat_launcher.options import CONSTRAINT
from xnat_launcher.swarm import ALIVE, Addresses, Task

Node = Mapping[str, Any]

MISSING_PATH = re.compile(r"bind source path does not exist: (\S.*)")
MISSING_IMAGE = re.compile(r"No such image: (\S+)")
MISSING_COMMAND = re.compile(r'exec: "([^"]*)": executable file not found')
NOT_EXECUTABLE = 126
NO_COMMAND = 127
KILLED = 137
GIB = 2**30


def failure(status: Mapping[str, Any], node: str) -> str:
    """Return why a task ended. status: the task's `Status`. node: the name of its node, empty if it had none."""
    error = str(status.get("Err") or status.get("Message") or "no reason given")
    on_node = f" on node {node}" if node else ""
    if found := MISSING_PATH.search(error):
        return f"{found[1]} does not exist{on_node}"
    if found := MISSING_IMAGE.search(error):
        return f"the image {found[1]} does not exist{on_node}"
    if found := MISSING_COMMAND.search(error):
        return f"the image has no command {found[1]!r}"
    code = exit_code(status)
    if code == NO_COMMAND:
        return "the image has no such command (exit code 127)"
    if code == NOT_EXECUTABLE:
        return (
            "its command cannot be executed (exit code 126): it is not a program, the user may not run it, or its"
            " arguments and variables are too long"
        )
    if code == KILLED:
        return (
            f"it was killed{on_node} (exit code 137), most likely because its memory limit was reached; files outside"
            " its workspace count as memory"
        )
    if code is not None:
        return f"it ended{on_node} with exit code {code}"
    return f"{error}{on_node}"


def exit_code(status: Mapping[str, Any]) -> int | None:
    """Return the exit code of the task's container, None if no container has run."""
    code = (status.get("ContainerStatus") or {}).get("ExitCode")
    return code if isinstance(code, int) and status.get("State") in {"complete", "failed", "shutdown"} else None


def unschedulable(template: Mapping[str, Any], nodes: Sequence[Node], error: str) -> str:
    """Return why no node can run a service.

    template: its `TaskTemplate`. nodes: Docker's list of nodes. error: Swarm's own message, appended in parentheses.
    """
    usable = [node for node in nodes if _state(node) == "ready" and node["Spec"].get("Availability") == "active"]
    if not usable:
        return f"no node is ready and active ({error})"
    constraints = [
        (found[1], found[2], found[3])
        for text in (template.get("Placement") or {}).get("Constraints") or ()
        if (found := CONSTRAINT.fullmatch(text))
    ]
    # The launcher excludes the nodes without a running guard by their ids.
    excluded = [constraint for constraint in constraints if constraint[:2] == ("node.id", "!=")]
    constraints = [constraint for constraint in constraints if constraint not in excluded]
    asked = [node for node in usable if all(_fulfils(node, *constraint) for constraint in constraints)]
    usable = [node for node in usable if all(_fulfils(node, *constraint) for constraint in excluded)]
    closed = [node for node in asked if node not in usable]
    unguarded = f"the service that keeps notebooks apart does not run on {', '.join(map(_hostname, closed))} ({error})"
    if asked and closed == asked:
        return unguarded
    for constraint in constraints:
        if not any(_fulfils(node, *constraint) for node in usable):
            return f"{_no_node(*constraint)} ({error})"
    fitting = [node for node in usable if all(_fulfils(node, *constraint) for constraint in constraints)]
    if not fitting:
        return f"no node fulfils all of {', '.join(''.join(constraint) for constraint in constraints)} ({error})"
    wanted = (template.get("Resources") or {}).get("Reservations") or {}
    small = _too_small(wanted, fitting)
    if small and closed and not _too_small(wanted, closed):
        return unguarded
    lacking = small or _reserved(wanted)
    return f"{lacking or 'no node has room for it'} ({error})"


def without_address(task: Task, addresses: Addresses) -> tuple[str, bool]:
    """Return why a task waits for an address on the servers' network, and whether it will never get one.

    Swarm assigns an address to a task before a node, so a task without one stays `new`. A node that runs its first task
    on the network needs an address as well; without it the task stays `preparing`. Swarm reports neither (swarmkit's
    manager/allocator/network.go only logs it), so this function counts the addresses in use. The text is empty if the
    task waits for something else.
    """
    network = addresses.network
    name = network["Name"]
    subnets = [ipaddress.ip_network(entry["Subnet"]) for entry in (network.get("IPAM") or {}).get("Config") or ()]
    if not subnets:
        return f"the network {name} has no subnet: Swarm could not set it up", True
    used = {
        address
        for service in addresses.services
        for vip in (service.get("Endpoint") or {}).get("VirtualIPs") or ()
        if vip["NetworkID"] == network["Id"] and (address := vip.get("Addr"))
    }
    nodes = set()
    for other in addresses.tasks:
        state, wanted = other["Status"]["State"], other["DesiredState"] in {"running", "ready"}
        if state not in ALIVE and not wanted:
            continue
        for attachment in other.get("NetworksAttachments") or ():
            if attachment["Network"]["ID"] == network["Id"]:
                used |= set(attachment.get("Addresses") or ())
                nodes |= {other.get("NodeID")} if state in {"ready", "starting", "running"} else set()
    # Of a subnet, the first address, the last one and the gateway's cannot be assigned.
    total = sum(subnet.num_addresses - 3 for subnet in subnets)
    if len(used) + len(nodes) >= total and (task.state == "new" or task.node_id not in nodes):
        return (
            f"the network {name} has no address left, all {total} of {' and '.join(map(str, subnets))} are in use: stop"
            " other servers, or ask the administrator to set jupyterhub_network_subnet to a larger subnet"
        ), True
    return (f"waiting for an address on the network {name}" if task.state == "new" else ""), False


def how_it_ended(task: Task | None, nodes: Sequence[Node]) -> int | str | None:
    """Return how a server ended: None while it lives, its exit code if it has one, else a text.

    task: the newest task of its service, None if there is none. nodes: Docker's list of nodes.
    """
    if task is None or task.desired == "remove":
        return "its service was removed"
    return container_end(task, nodes)


def container_end(task: Task, nodes: Sequence[Node]) -> int | str | None:
    """Return the same for the container alone, which may outlive its service for a while."""
    if task.wanted:
        return None
    node = node_name(task.node_id, nodes)
    if task.alive:
        # Swarm wants it to end. If the node is gone, nothing there can end it.
        return f"it was lost with node {node}" if is_down(task.node_id, nodes) else None
    code = exit_code(task.status)
    return f"{task.state}: {failure(task.status, node)}" if code is None else code


def node_name(node_id: str, nodes: Sequence[Node]) -> str:
    """Return the host name of a node, or its id if it is not in the list."""
    return next((_hostname(node) for node in nodes if node["ID"] == node_id), node_id)


def is_down(node_id: str, nodes: Sequence[Node]) -> bool:
    """Return whether a node is down or no longer in the swarm."""
    return all(node["ID"] != node_id or _state(node) == "down" for node in nodes)


def _state(node: Node) -> str:
    return str((node.get("Status") or {}).get("State"))


def _hostname(node: Node) -> str:
    return str((node.get("Description") or {}).get("Hostname", node["ID"]))


def _attribute(node: Node, key: str) -> str | None:
    """Return a node's value for the key of a constraint, None for a key that Swarm does not know."""
    description = node.get("Description") or {}
    for prefix, labels in (
        ("node.labels.", node["Spec"].get("Labels")),
        ("engine.labels.", (description.get("Engine") or {}).get("Labels")),
    ):
        if key.startswith(prefix):
            return str((labels or {}).get(key.removeprefix(prefix), ""))
    platform = description.get("Platform") or {}
    known = {
        "node.id": node["ID"],
        "node.hostname": _hostname(node),
        "node.role": node["Spec"].get("Role"),
        "node.platform.os": platform.get("OS"),
        "node.platform.arch": platform.get("Architecture"),
    }
    return str(known[key]) if key in known else None


def _fulfils(node: Node, key: str, operator: str, wanted: str) -> bool:
    value = _attribute(node, key)
    if value is None:
        return False
    return (value.lower() == wanted.lower()) is (operator == "==")


def _no_node(key: str, operator: str, wanted: str) -> str:
    if operator == "!=":
        return f"every node has {key}={wanted}"
    for prefix in ("node.labels.", "engine.labels."):
        if key.startswith(prefix):
            hint = ": set it in docker_swarm_labels of a host" if prefix == "node.labels." else ""
            return f"no node has label {key.removeprefix(prefix)}={wanted}{hint}"
    return f"no node has {key}={wanted}"


def _too_small(wanted: Mapping[str, Any], nodes: Sequence[Node]) -> str:
    """Return what none of these nodes has, however empty they are; empty if one of them has everything."""
    resources = [(node.get("Description") or {}).get("Resources") or {} for node in nodes]
    for kind, count in _generics(wanted).items():
        most = max(
            sum(amount for found, amount, _ in map(_generic, had.get("GenericResources") or ()) if found == kind)
            for had in resources
        )
        if most < count:
            return f"no node has {count} {kind}" if most else f"no node has a {kind}"
    cpus = wanted.get("NanoCPUs", 0)
    most_cpus = max(had.get("NanoCPUs", 0) for had in resources)
    if cpus > most_cpus:
        return f"no node has {cpus / 10**9:g} CPUs, the largest has {most_cpus / 10**9:g}"
    memory = wanted.get("MemoryBytes", 0)
    most_memory = max(had.get("MemoryBytes", 0) for had in resources)
    if memory > most_memory:
        return f"no node has {memory / GIB:.3g} GiB of memory, the largest has {most_memory / GIB:.3g} GiB"
    return ""


def _reserved(wanted: Mapping[str, Any]) -> str:
    """Return what other servers must have reserved, empty if nothing is wanted."""
    cpus, memory = wanted.get("NanoCPUs", 0), wanted.get("MemoryBytes", 0)
    parts = [
        f"{cpus / 10**9:g} CPUs" if cpus else "",
        f"{memory / GIB:.3g} GiB of memory" if memory else "",
        *(f"{count} {kind}" for kind, count in _generics(wanted).items()),
    ]
    asked = " and ".join(part for part in parts if part)
    return f"no node has {asked} free: other servers have reserved them" if asked else ""


def _generics(wanted: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each generic resource that is wanted."""
    generic: dict[str, int] = {}
    for entry in wanted.get("GenericResources") or ():
        kind, count, _ = _generic(entry)
        generic[kind] = generic.get(kind, 0) + count
    return generic


def _generic(entry: Mapping[str, Any]) -> tuple[str, int, str]:
    """Return kind, count and id (empty for a plain count) of one generic resource."""
    if named := entry.get("NamedResourceSpec"):
        return str(named["Kind"]), 1, str(named["Value"])
    discrete = entry.get("DiscreteResourceSpec") or {}
    return str(discrete.get("Kind", "")), int(discrete.get("Value", 0)), ""
