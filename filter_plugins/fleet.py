"""Filters for hosts, nodes and the swarm; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import firewall, fleet, hosts, maintenance


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_firewall_peers": fleet.firewall_peers,
            "xnat_firewall_plan": firewall.firewall_plan,
            "xnat_fleet": fleet.fleet,
            "xnat_inventory_hosts": hosts.inventory_hosts,
            "xnat_manager_quorum": maintenance.manager_quorum,
            "xnat_node_servers": maintenance.node_servers,
            "xnat_swarm_changes": fleet.swarm_changes,
            "xnat_unready_nodes": fleet.unready_nodes,
        }
