#!/usr/bin/python
"""What notebooks run in: the compute environments that XNAT offers for JupyterHub."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_compute_environment
short_description: Keep the compute environments that XNAT offers
description:
  - Makes, changes and removes compute environments by name, as far as they differ. What is left out of a row is unset.
  - Environments that are not for JupyterHub are not looked at. One that a dashboard uses cannot be removed.
options:
  environments:
    description: The compute environments.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name. XNAT compares it exactly., type: str, required: true}
      image: {description: "The image, as the nodes know it. Needed unless it is removed.", type: str}
      command: {description: "The container's command, as one text. Unset for the image's.", type: str}
      environment:
        description:
          - Variables, whose values are text or numbers. They are never shown, but XNAT keeps them in clear.
        type: dict
        default: {}
      mounts:
        description: Directories of the nodes that its containers see, besides XNAT's own.
        type: list
        elements: dict
        default: []
        suboptions:
          source: {description: Path on the node., type: str, required: true}
          target: {description: Path in the container., type: str, required: true}
          read_only: {description: Whether nothing can be changed there., type: bool, default: true}
      hardware:
        description: Names of the hardware on which it may be started. Empty for all, what comes later included.
        type: list
        elements: str
        default: []
      projects:
        description: Ids of the projects in which it is on offer. Empty for all.
        type: list
        elements: str
        default: []
      users:
        description: Login names of those to whom it is on offer. Empty for all.
        type: list
        elements: str
        default: []
      enabled: {description: Whether it is on offer at all., type: bool, default: true}
  purge:
    description:
      - Whether all other compute environments are removed that are for JupyterHub alone.
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
  description: What O(environments) names, with the ids that XNAT gave; null for what check mode would create.
  type: dict
  returned: always
created: {description: What was created., type: list, elements: str, returned: always}
updated: {description: What was changed., type: list, elements: str, returned: always}
deleted: {description: What was removed., type: list, elements: str, returned: always}
images:
  description: The image of each compute environment that is on offer for JupyterHub afterwards, by its name.
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
