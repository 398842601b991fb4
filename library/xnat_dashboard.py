#!/usr/bin/python
"""Manages the dashboards of XNAT's JupyterHub plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_dashboard
short_description: Manage XNAT's dashboards
description:
  - Creates, changes and removes dashboards by name, if they differ. Omitted options of a row are unset.
  - Framework, compute environment and hardware must exist. In check mode missing ones are only reported.
options:
  dashboards:
    description:
      - The dashboards.
      - With O(state=present), a dashboard needs O(dashboards[].environment), O(dashboards[].hardware) and either
        O(dashboards[].framework) or O(dashboards[].command).
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Its name. XNAT compares it exactly., type: str, required: true}
      description: {description: The description that users see., type: str}
      framework: {description: Name of the framework that starts it., type: str}
      command: {description: "Its own command instead of a framework's.", type: str}
      git_repo_url: {description: The repository that the container clones., type: str}
      git_repo_branch: {description: Its branch., type: str}
      main_file_path: {description: Path of the file to run in the repository., type: str}
      environment: {description: Name of its compute environment., type: str}
      hardware: {description: Name of its hardware., type: str}
      projects:
        description: Ids of the projects in which it is offered. Empty for all.
        type: list
        elements: str
        default: []
      data_types:
        description: "Data types for which it is offered, such as C(xnat:mrSessionData). Empty for all."
        type: list
        elements: str
        default: []
      enabled: {description: Whether it is offered at all., type: bool, default: true}
  purge:
    description:
      - Whether to remove all other dashboards.
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
  description: The ids of O(dashboards) in XNAT by name; null for rows that check mode would create.
  type: dict
  returned: always
created: {description: Names of created rows., type: list, elements: str, returned: always}
updated: {description: Names of changed rows., type: list, elements: str, returned: always}
deleted: {description: Names of removed rows., type: list, elements: str, returned: always}
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
