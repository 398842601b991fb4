#!/usr/bin/python
"""Where notebooks run: XNAT's constraints."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_constraint
short_description: Keep the constraints that XNAT gives to all servers
description:
  - Makes, changes and removes constraints, as far as they differ. Two with the same key and operator are one.
options:
  constraints:
    description: The constraints.
    type: list
    elements: dict
    required: true
    suboptions:
      key: {description: "What Swarm compares, such as C(node.role).", type: str, required: true}
      operator: {description: Whether the node must have the value., type: str, choices: [IN, NOT_IN], default: IN}
      value: {description: "One value, since no node would fit two. Needed unless it is removed.", type: str}
      projects:
        description: Ids of the projects in which it holds. Empty for all.
        type: list
        elements: str
        default: []
      enabled: {description: Whether it holds at all., type: bool, default: true}
  purge:
    description:
      - Whether all other constraints are removed.
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
  description: What O(constraints) names, with the ids that XNAT gave; null for what check mode would create.
  type: dict
  returned: always
created: {description: What was created., type: list, elements: str, returned: always}
updated: {description: What was changed., type: list, elements: str, returned: always}
deleted: {description: What was removed., type: list, elements: str, returned: always}
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
