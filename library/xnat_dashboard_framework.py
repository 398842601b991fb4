#!/usr/bin/python
"""How dashboards are started: the frameworks of XNAT's JupyterHub plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_dashboard_framework
short_description: Keep the frameworks of XNAT's dashboards
description:
  - Makes, changes and removes frameworks by name, as far as they differ. One that a dashboard uses cannot be removed.
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
          - The command, of no more than 4096 characters. Needed unless the framework is removed.
          - XNAT replaces C({repo}), C({repobranch}) and C({mainFilePath}) by what a dashboard says. All else in braces
            is for jhsingle-native-proxy.
        type: str
  purge:
    description:
      - Whether all other frameworks are removed, those that the plugin brings included.
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
  description: What O(frameworks) names, with the ids that XNAT gave; null for what check mode would create.
  type: dict
  returned: always
created: {description: What was created., type: list, elements: str, returned: always}
updated: {description: What was changed., type: list, elements: str, returned: always}
deleted: {description: What was removed., type: list, elements: str, returned: always}
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
