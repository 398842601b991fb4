"""Shim over `xnat_site.inventory`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.inventory import inventory_findings

DOCUMENTATION = r"""
name: xnat_inventory_findings
short_description: What is wrong with the variables of a site
description:
  - Judges secrets, names, addresses and ports, and evaluates what the layers need, before anything is changed.
  - Values of secrets are in no sentence.
options:
  _input: {description: Ansible's C(hostvars)., type: dict, required: true}
  groups: {description: Ansible's C(groups)., type: dict, required: true}
  host: {description: A manager. The variables are judged as it sees them., type: str, required: true}
  skipped_tags: {description: Tags that this run leaves out., type: list, elements: str, default: []}
"""
EXAMPLES = r"""
- name: Fail if the inventory cannot work
  ansible.builtin.fail:
    msg: "{{ findings | map(attribute='text') | join('\n') }}"
  vars:
    findings: "{{ hostvars | xnat_inventory_findings(groups, inventory_hostname, ansible_skip_tags) }}"
  when: findings | length > 0
"""
RETURN = r"""
_value:
  description: For each thing that is wrong C(id), the rule; C(name), the variable to change; C(text), a sentence.
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_inventory_findings": inventory_findings}
