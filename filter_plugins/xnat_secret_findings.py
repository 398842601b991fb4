"""Shim over `xnat_site.inventory`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.inventory import secret_findings

DOCUMENTATION = r"""
name: xnat_secret_findings
short_description: What is wrong with secrets
description:
  - Refuses what is empty, too short or well known, blanks and newlines at the ends, and characters that cannot be sent.
  - Values are in no sentence, so the result may be shown.
options:
  _input:
    description:
      - For each variable C(value), and C(kind), which is C(hex), C(token), C(account) for a password that is set by
        this project, C(password) for another's, or C(optional).
    type: dict
    required: true
"""
EXAMPLES = r"""
- name: Fail if a secret cannot be used
  ansible.builtin.fail:
    msg: "{{ findings | map(attribute='text') | join('\n') }}"
  vars:
    findings: "{{ {'vault_service_token': {'value': vault_service_token, 'kind': 'token'}} | xnat_secret_findings }}"
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
        return {"xnat_secret_findings": secret_findings}
