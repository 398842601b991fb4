#!/usr/bin/python
"""Manages XNAT's constraints, which decide where notebooks run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_constraint
short_description: Manage XNAT's constraints for all servers
description:
  - Creates, changes and removes constraints, if they differ. Key and operator identify a constraint.
options:
  constraints:
    description: The constraints.
    type: list
    elements: dict
    required: true
    suboptions:
      key: {description: "The key that Swarm compares, such as C(node.role).", type: str, required: true}
      operator: {description: Whether the node must have the value., type: str, choices: [IN, NOT_IN], default: IN}
      value: {description: "One value; no node could fulfill two. Required unless the row is removed.", type: str}
      projects:
        description: Ids of the projects to which it applies. Empty for all.
        type: list
        elements: str
        default: []
      enabled: {description: Whether it applies at all., type: bool, default: true}
  purge:
    description:
      - Whether to remove all other constraints.
      - Only with O(state=present).
    type: bool
    default: false
extends_documentation_fragment: [xnat, xnat_rows]
"""
EXAMPLES = r"""
- name: Start servers on workers only
  xnat_constraint:
    xnat: "{{ xnat }}"
    constraints:
      - key: node.role
        value: worker
"""
RETURN = r"""
rows:
  description: The ids of O(constraints) in XNAT by name; null for rows that check mode would create.
  type: dict
  returned: always
created: {description: Names of created rows., type: list, elements: str, returned: always}
updated: {description: Names of changed rows., type: list, elements: str, returned: always}
deleted: {description: Names of removed rows., type: list, elements: str, returned: always}
"""

from ansible.module_utils.xnat_rows import CONSTRAINTS, OFFERED, PLACEMENT
from ansible.module_utils.xnat_rows import main as run

ROW = {
    **PLACEMENT,
    "value": {"type": "str"},
    **OFFERED,
}


def main() -> None:
    run(CONSTRAINTS, ROW)


if __name__ == "__main__":
    main()
