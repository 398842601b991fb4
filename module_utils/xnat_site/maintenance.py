"""Whether a node can be taken out of a swarm for a while, and whose servers are on it.

Used on the control node by the filters `xnat_manager_quorum` and `xnat_server_owners`; only the standard library is
imported. Nodes and tasks are as Docker's API lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

USER_LABEL = "org.xnat.jupyterhub.user"


def manager_quorum(nodes: Iterable[Mapping[str, Any]], node_id: str) -> dict[str, Any]:
    """Return what is left of the managers without a node.

    Such as::

        {"managers": 3,       # how many there are, the node included if it is one
         "others": 2,         # how many of the others can be reached
         "kept": True}        # whether the swarm can be changed while the node is away

    A swarm whose only manager this is has none left either way; it is changed again once the node is back.
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
    """Return the user of each server among tasks, sorted; once for each server. Tasks of other services have none."""
    labels = [task["Spec"]["ContainerSpec"].get("Labels") or {} for task in tasks]
    return sorted(str(found[USER_LABEL]) for found in labels if USER_LABEL in found)
