"""Shim over `xnat_site.engine`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.engine import engine_plan

DOCUMENTATION = r"""
name: xnat_engine_plan
short_description: What is to be done to a node's Docker Engine
description:
  - Decides from the report of C(node_report), as the role C(docker_engine) needs it.
options:
  _input: {description: The report., type: dict, required: true}
  source: {description: As the role has it., type: str, required: true}
  options: {description: Of the filter P(xnat_engine_options#filter)., type: dict, required: true}
  packages: {description: What there is for each package manager., type: dict, required: true}
  version: {description: The wanted version or a pattern. Empty for any., type: str, default: ""}
  hold: {description: Whether packages are held., type: bool, default: true}
"""
EXAMPLES = r"""
- name: Decide
  ansible.builtin.set_fact:
    plan: "{{ report | xnat_engine_plan('existing', {}, packages) }}"
"""
RETURN = r"""
_value:
  description: The decisions, described in C(engine_plan) of C(files/xnat_hub/engine.py).
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_engine_plan": engine_plan}
