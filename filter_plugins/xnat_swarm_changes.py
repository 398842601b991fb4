"""Shim over `xnat_site.fleet`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.fleet import swarm_changes

DOCUMENTATION = r"""
name: xnat_swarm_changes
short_description: What makes the swarm that of the inventory
description:
  - Compares roles, availability and labels of the inventory with the nodes that a manager lists.
options:
  _input: {description: Ansible's C(hostvars)., type: dict, required: true}
  groups: {description: Ansible's C(groups)., type: dict, required: true}
  nodes: {description: C(engine.nodes) of a manager's C(node_report)., type: list, elements: dict, required: true}
"""
EXAMPLES = r"""
- name: Compare
  ansible.builtin.set_fact:
    changes: "{{ hostvars | xnat_swarm_changes(groups, report.engine.nodes) }}"
"""
RETURN = r"""
_value:
  description:
    - C(updates) of nodes (promotions first, demotions last), and C(removals) of nodes that the inventory no longer has.
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_swarm_changes": swarm_changes}
