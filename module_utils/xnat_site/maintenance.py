"""Checks whether a node can be drained or restarted, and lists the owners of the servers on it.

Used on the control node by the filters `xnat_manager_quorum` and `xnat_server_owners`; only the standard library is
imported. Nodes and tasks are as Docker's API lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

USER_LABEL = "org.xnat.jupyterhub.user"


def manager_quorum(nodes: Iterable[Mapping[str, Any]], node_id: str) -> dict[str, Any]:
    """Return whether the managers keep their quorum without a node.

    Such as::

        {"managers": 3,       # number of managers, including the node if it is one
         "others": 2,         # number of reachable managers besides the node
         "kept": True}        # whether the others have a quorum

    True for the only manager too: its swarm has no quorum until the node is back, which cannot be avoided.
    """
    managers = [node for node in nodes if node["Spec"]["Role"] == "manager"]
    others = [
        node
        for node in managers
        if node["ID"] != node_id and (node.get("ManagerStatus") or {}).get("Reachability") == "reachable"
    ]
    is_one = any(node["ID"] == node_id for node in managers)
    lost = is_one and len(managers) > 1 and len(others) * 2 <= len(managers)
    return {"managers": len(managers), "others": len(others), "kept": not lost}


def server_owners(tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the user of each server among tasks, sorted, once for each server. Other tasks are ignored."""
    labels = [task["Spec"]["ContainerSpec"].get("Labels") or {} for task in tasks]
    return sorted(str(found[USER_LABEL]) for found in labels if USER_LABEL in found)
