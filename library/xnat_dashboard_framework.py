#!/usr/bin/python
"""Manages the dashboard frameworks of XNAT's JupyterHub plugin, which define how dashboards are started."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_dashboard_framework
short_description: Manage XNAT's dashboard frameworks
description:
  - Creates, changes and removes frameworks by name, if they differ. One that a dashboard uses cannot be removed.
options:
  frameworks:
    description: The frameworks.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name., type: str, required: true}
      command_template:
        description:
          - The command, at most 4096 characters. Required unless the framework is removed.
          - XNAT replaces C({repo}), C({repobranch}) and C({mainFilePath}) with the values of a dashboard. Anything else
            in braces is for jhsingle-native-proxy.
        type: str
  purge:
    description:
      - Whether to remove all other frameworks, including those that the plugin creates.
      - Only with O(state=present).
    type: bool
    default: false
extends_documentation_fragment: [xnat, xnat_rows]
"""
EXAMPLES = r"""
- name: Offer Shiny
  xnat_dashboard_framework:
    xnat: "{{ xnat }}"
    frameworks:
      - name: Shiny
        command_template: >-
          jhsingle-native-proxy --port 8888 --destport 0 --repo {repo} --repobranch {repobranch}
          --repofolder /home/jovyan/dashboards shiny run {--}port={port} /home/jovyan/dashboards/{mainFilePath}
"""
RETURN = r"""
rows:
  description: The ids of O(frameworks) in XNAT by name; null for rows that check mode would create.
  type: dict
  returned: always
created: {description: Names of created rows., type: list, elements: str, returned: always}
updated: {description: Names of changed rows., type: list, elements: str, returned: always}
deleted: {description: Names of removed rows., type: list, elements: str, returned: always}
"""

from ansible.module_utils.xnat_rows import FRAMEWORKS
from ansible.module_utils.xnat_rows import main as run

ROW = {
    "name": {"type": "str", "required": True},
    "command_template": {"type": "str"},
}


def main() -> None:
    run(FRAMEWORKS, ROW)


if __name__ == "__main__":
    main()
