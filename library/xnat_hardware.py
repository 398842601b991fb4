#!/usr/bin/python
"""Manages the hardware that XNAT offers for notebooks."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_hardware
short_description: Manage XNAT's hardware
description:
  - Creates, changes and removes hardware by name, if it differs. Omitted options of a row are unset.
  - Hardware that a dashboard uses cannot be removed.
options:
  hardware:
    description: The hardware.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name. XNAT compares it exactly., type: str, required: true}
      cpu_limit: {description: "CPUs that a server may use, such as 2 or 0.5. Unset for no limit.", type: float}
      cpu_reservation: {description: CPUs that a node must have free for it., type: float}
      memory_limit: {description: "Memory that a server may use: a whole number with K, M, G or T.", type: str}
      memory_reservation: {description: Memory that a node must have free for it., type: str}
      constraints:
        description: Constraints on the node; it must fulfill all of them.
        type: list
        elements: dict
        default: []
        suboptions:
          key: {description: "The key that Swarm compares, such as C(node.labels.gpu).", type: str, required: true}
          operator: {description: Whether the node must have the value., type: str, choices: [IN, NOT_IN], default: IN}
          value: {description: One value. No node could fulfill two., type: str, required: true}
      environment:
        description:
          - Variables with texts or numbers as values. The values are never shown, but XNAT stores them in plain text.
        type: dict
        default: {}
      generic_resources:
        description: "Names of generic resources of the swarm, each with a number or a value."
        type: dict
        default: {}
      projects:
        description: Ids of the projects in which it is offered. Empty for all.
        type: list
        elements: str
        default: []
      users:
        description: Login names of the users to whom it is offered. Empty for all.
        type: list
        elements: str
        default: []
      enabled: {description: Whether it is offered at all., type: bool, default: true}
  purge:
    description:
      - Whether to remove all other hardware.
      - Only with O(state=present).
    type: bool
    default: false
extends_documentation_fragment: [xnat, xnat_rows]
"""
EXAMPLES = r"""
- name: Offer two sizes and nothing else
  xnat_hardware:
    xnat: "{{ xnat }}"
    purge: true
    hardware:
      - name: Small
        cpu_limit: 1
        memory_limit: 2G
        memory_reservation: 1G
      - name: GPU
        cpu_limit: 8
        memory_limit: 32G
        constraints: [{key: node.labels.gpu, value: "true"}]
        generic_resources: {gpu: 1}
        projects: [OASIS]
"""
RETURN = r"""
rows:
  description: The ids of O(hardware) in XNAT by name; null for rows that check mode would create.
  type: dict
  returned: always
created: {description: Names of created rows., type: list, elements: str, returned: always}
updated: {description: Names of changed rows., type: list, elements: str, returned: always}
deleted: {description: Names of removed rows., type: list, elements: str, returned: always}
"""

from ansible.module_utils.xnat_rows import HARDWARE, NAMES, OFFERED, PLACEMENT
from ansible.module_utils.xnat_rows import main as run

ROW = {
    "name": {"type": "str", "required": True},
    "cpu_limit": {"type": "float"},
    "cpu_reservation": {"type": "float"},
    "memory_limit": {"type": "str"},
    "memory_reservation": {"type": "str"},
    "constraints": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            **PLACEMENT,
            "value": {"type": "str", "required": True},
        },
    },
    "environment": {"type": "dict", "default": {}},
    "generic_resources": {"type": "dict", "default": {}},
    "users": NAMES,
    **OFFERED,
}


def main() -> None:
    run(HARDWARE, ROW)


if __name__ == "__main__":
    main()
