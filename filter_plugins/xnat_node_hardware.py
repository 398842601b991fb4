"""Shim over `xnat_site.sizes`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.hardware_profiles import hardware

DOCUMENTATION = r"""
name: xnat_node_hardware
short_description: The hardware that XNAT offers, computed from the nodes of the swarm
description:
  - Returns what the module M(xnat_hardware) takes. Three sizes that fit on every node, a fourth of the node with the
    most memory if that is twice the least; one for each generic resource, with one of it; one for each value of the
    node label C(hardware).
  - Every size fits on an empty node, and every node that has room for it has the CPUs and the memory of its limits.
    Nodes that are drained are not looked at; if nodes have the label C(jupyter=true), no others are.
options:
  _input:
    description: The nodes as C(docker node inspect) gives them; community.docker.docker_node_info returns that.
    type: list
    elements: dict
    required: true
  cpu_ceiling:
    description: More CPUs than this no hardware has, since the hub would refuse it. V(0) for no ceiling.
    type: float
    default: 0
  memory_ceiling: {description: "The same for memory, such as V(64G). Empty for no ceiling.", type: str, default: ""}
"""
EXAMPLES = r"""
- name: Show the hardware
  ansible.builtin.debug:
    msg: "{{ nodes.nodes | xnat_node_hardware }}"
# [{"name": "Small", "cpu_limit": 1.0, "cpu_reservation": 0.25, "memory_limit": "2G", "memory_reservation": "1G"}, ...]
"""
RETURN = r"""
_value:
  description: Rows for the option O(xnat_hardware#module:hardware).
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_node_hardware": hardware}
