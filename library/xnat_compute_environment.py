#!/usr/bin/python
"""Manages the compute environments that XNAT offers for JupyterHub."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_compute_environment
short_description: Manage XNAT's compute environments for JupyterHub
description:
  - Creates, changes and removes compute environments by name, if they differ. Omitted options of a row are unset.
  - Environments for other purposes than JupyterHub are ignored. One that a dashboard uses cannot be removed.
options:
  environments:
    description: The compute environments.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name. XNAT compares it exactly., type: str, required: true}
      image: {description: "The image's name on the nodes. Required unless the row is removed.", type: str}
      command: {description: "The container's command, as one text. Unset for the image's own.", type: str}
      environment:
        description:
          - Variables with texts or numbers as values. The values are never shown, but XNAT stores them in plain text.
        type: dict
        default: {}
      mounts:
        description: Directories of the nodes to mount, in addition to XNAT's own.
        type: list
        elements: dict
        default: []
        suboptions:
          source: {description: Path on the node., type: str, required: true}
          target: {description: Path in the container., type: str, required: true}
          read_only: {description: Whether the mount is read-only., type: bool, default: true}
      hardware:
        description: Names of the hardware it may use. Empty for all, including hardware that is added later.
        type: list
        elements: str
        default: []
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
      - Whether to remove all other compute environments that are only for JupyterHub.
      - Only with O(state=present).
    type: bool
    default: false
extends_documentation_fragment: [xnat, xnat_rows]
"""
EXAMPLES = r"""
- name: Offer an environment
  xnat_compute_environment:
    xnat: "{{ xnat }}"
    environments:
      - name: Data science
        image: registry.example.org/jupyter/datascience:1.0
        environment: {OMP_NUM_THREADS: 2}
        mounts: [{source: /srv/atlases, target: /opt/atlases}]
        hardware: [Small, GPU]
"""
RETURN = r"""
rows:
  description: The ids of O(environments) in XNAT by name; null for rows that check mode would create.
  type: dict
  returned: always
created: {description: Names of created rows., type: list, elements: str, returned: always}
updated: {description: Names of changed rows., type: list, elements: str, returned: always}
deleted: {description: Names of removed rows., type: list, elements: str, returned: always}
images:
  description: The image of each compute environment that XNAT then offers for JupyterHub, by its name.
  type: dict
  returned: always
"""

from collections.abc import Sequence
from typing import Any

from ansible.module_utils.xnat_rows import ENVIRONMENTS, NAMES, OFFERED, Row, stored_row
from ansible.module_utils.xnat_rows import main as run

ROW = {
    "name": {"type": "str", "required": True},
    "image": {"type": "str"},
    "command": {"type": "str"},
    "environment": {"type": "dict", "default": {}},
    "mounts": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "source": {"type": "str", "required": True},
            "target": {"type": "str", "required": True},
            "read_only": {"type": "bool", "default": True},
        },
    },
    "hardware": NAMES,
    "users": NAMES,
    **OFFERED,
}


def images(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the result `images`."""
    found = [stored_row(ENVIRONMENTS, row) for row in rows]
    return {"images": {str(row["name"]): row["image"] for row in found if (row["enabled"] or {}).get("enabled")}}


def main() -> None:
    run(ENVIRONMENTS, ROW, images)


if __name__ == "__main__":
    main()
