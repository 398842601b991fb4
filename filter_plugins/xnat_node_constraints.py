"""Shim over `xnat_site.sizes`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.hardware_profiles import constraints

DOCUMENTATION = r"""
name: xnat_node_constraints
short_description: Where all servers must run, from the labels of the swarm's nodes
description:
  - Returns what the module M(xnat_constraint) takes. If nodes have the label C(jupyter=true), servers run only
    there.
options:
  _input:
    description: The nodes as C(docker node inspect) gives them; community.docker.docker_node_info returns that.
    type: list
    elements: dict
    required: true
"""
EXAMPLES = r"""
- name: Show the constraints
  ansible.builtin.debug:
    msg: "{{ nodes.nodes | xnat_node_constraints }}"
# [{"key": "node.labels.jupyter", "operator": "IN", "value": "true"}]
"""
RETURN = r"""
_value:
  description: Rows for the option O(xnat_constraint#module:constraints).
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_node_constraints": constraints}
