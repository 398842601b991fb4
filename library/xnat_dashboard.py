#!/usr/bin/python
"""The dashboards of XNAT's JupyterHub plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_dashboard
short_description: Keep XNAT's dashboards
description:
  - Makes, changes and removes dashboards by name, as far as they differ. What is left out of a row is unset.
  - Framework, compute environment and hardware must be there; in check mode they may be about to be made.
options:
  dashboards:
    description:
      - The dashboards.
      - To be there, one needs O(dashboards[].environment), O(dashboards[].hardware) and either
        O(dashboards[].framework) or O(dashboards[].command).
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name. XNAT compares it exactly., type: str, required: true}
      description: {description: What people read about it., type: str}
      framework: {description: Name of the framework that starts it., type: str}
      command: {description: "Its own command, instead of a framework's.", type: str}
      git_repo_url: {description: The repository that the container clones., type: str}
      git_repo_branch: {description: Its branch., type: str}
      main_file_path: {description: Path of the file to run in the repository., type: str}
      environment: {description: Name of its compute environment., type: str}
      hardware: {description: Name of its hardware., type: str}
      projects:
        description: Ids of the projects in which it is on offer. Empty for all.
        type: list
        elements: str
        default: []
      data_types:
        description: "Types of data for which it is on offer, such as C(xnat:mrSessionData). Empty for all."
        type: list
        elements: str
        default: []
      enabled: {description: Whether it is on offer at all., type: bool, default: true}
  purge:
    description:
      - Whether all other dashboards are removed.
      - Only with O(state=present).
    type: bool
    default: false
extends_documentation_fragment: [xnat, xnat_rows]
"""
EXAMPLES = r"""
- name: Offer a dashboard for projects
  xnat_dashboard:
    xnat: "{{ xnat }}"
    dashboards:
      - name: Volumes
        framework: Dash
        git_repo_url: https://git.example.org/dashboards.git
        git_repo_branch: main
        main_file_path: volumes/app.py
        environment: Dashboards
        hardware: Small
        data_types: [xnat:projectData]
"""
RETURN = r"""
rows:
  description: What O(dashboards) names, with the ids that XNAT gave; null for what check mode would create.
  type: dict
  returned: always
created: {description: What was created., type: list, elements: str, returned: always}
updated: {description: What was changed., type: list, elements: str, returned: always}
deleted: {description: What was removed., type: list, elements: str, returned: always}
"""

from ansible.module_utils.xnat_rows import DASHBOARDS, NAMES, OFFERED
from ansible.module_utils.xnat_rows import main as run

ROW = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str"},
    "framework": {"type": "str"},
    "command": {"type": "str"},
    "git_repo_url": {"type": "str"},
    "git_repo_branch": {"type": "str"},
    "main_file_path": {"type": "str"},
    "environment": {"type": "str"},
    "hardware": {"type": "str"},
    "data_types": NAMES,
    **OFFERED,
}


def main() -> None:
    run(DASHBOARDS, ROW)


if __name__ == "__main__":
    main()
