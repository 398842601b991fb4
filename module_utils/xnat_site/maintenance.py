"""Checks whether a node can be drained, and which servers run on it.

Used on the control node by the filters `xnat_manager_quorum` and `xnat_node_servers`; imports only the standard
library. Nodes and tasks are as Docker's API lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

USER_LABEL = "org.xnat.jupyterhub.user"
SERVER_LABEL = "org.xnat.jupyterhub.server"


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


def node_servers(tasks: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the servers among tasks, sorted; other services' tasks are ignored.

    For example::

        [{"user": "jdoe", "server": "20260115T093012345Z"}]  # an empty name is that of the unnamed server
    """
    labels = [task["Spec"]["ContainerSpec"].get("Labels") or {} for task in tasks]
    found = sorted((str(each[USER_LABEL]), str(each.get(SERVER_LABEL, ""))) for each in labels if USER_LABEL in each)
    return [{"user": user, "server": server} for user, server in found]
