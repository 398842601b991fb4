"""What a notebook must not reach, from what Docker says of the swarm. Pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

# ssh, portmapper, CIFS, NFS, Docker's API with TLS, swarm management, VXLAN, a registry, gossip
NODE_PORTS = (22, 111, 445, 2049, 2376, 2377, 4789, 5000, 7946)
PROXY_PORTS = (8000, 8001)  # its public port and its API
SERVER_PORTS = (8888,)  # of another notebook
Target = tuple[str, int]


def targets(
    nodes: Iterable[Mapping[str, Any]],
    proxy: Iterable[Mapping[str, Any]],
    neighbour: Iterable[Mapping[str, Any]],
    further: Iterable[str] = (),
) -> list[Target]:
    """Return each (address, port) that a notebook must not reach.

    nodes: Docker's nodes. proxy, neighbour: Docker's tasks of the proxy and of another notebook. further: addresses or
    names of file servers and of hosts with ports of their own, as `host` or `host:port`.
    """
    found = {(host, port) for node in nodes for host in node_addresses(node) for port in NODE_PORTS}
    found |= {(host, port) for task in proxy for host in task_addresses(task) for port in PROXY_PORTS}
    found |= {(host, port) for task in neighbour for host in task_addresses(task) for port in SERVER_PORTS}
    for text in further:
        host, _, port = text.rpartition(":")
        found |= {(host, int(port))} if host else {(text, port) for port in NODE_PORTS}
    return sorted(found)


def node_addresses(node: Mapping[str, Any]) -> set[str]:
    """Return the addresses by which the swarm knows a node. A single manager's status may be the address 0.0.0.0."""
    texts = [
        str((node.get("Status") or {}).get("Addr") or ""),
        str((node.get("ManagerStatus") or {}).get("Addr") or "").rpartition(":")[0].strip("[]"),
    ]
    return {text for text in texts if text and not ipaddress.ip_address(text).is_unspecified}


def task_addresses(task: Mapping[str, Any]) -> set[str]:
    """Return the addresses of a running task on all of its networks."""
    if task["Status"]["State"] != "running":
        return set()
    attachments = task.get("NetworksAttachments") or ()
    return {str(address).partition("/")[0] for one in attachments for address in one.get("Addresses") or ()}
