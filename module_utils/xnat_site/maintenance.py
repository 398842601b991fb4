"""Checks whether a node can be drained, and whose servers run on it.

Used on the control node by the filters `xnat_manager_quorum` and `xnat_server_owners`; imports only the standard
library. Nodes and tasks are as Docker's API lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

USER_LABEL = "org.xnat.jupyterhub.user"


def manager_quorum(nodes: Iterable[Mapping[str, Any]], node_id: str) -> dict[str, Any]:
    """Return the managers and the quorum without a node.

    For example::

        {"managers": 3,       # number of managers, including the node if it is one
         "others": 2,         # number of other managers that are reachable
         "kept": True}        # whether the swarm keeps its quorum without the node

    If the node is the only manager, `kept` is true: the swarm works again once the node is back.
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
    """Return the user of each server among tasks, sorted, once for each server. Other services' tasks are ignored."""
    labels = [task["Spec"]["ContainerSpec"].get("Labels") or {} for task in tasks]
    return sorted(str(found[USER_LABEL]) for found in labels if USER_LABEL in found)
