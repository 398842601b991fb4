"""Shim over `xnat_site.images`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.images import build_rounds

DOCUMENTATION = r"""
name: xnat_build_rounds
short_description: Which images can be built at once
description:
  - Puts images into rounds. Those of one round need none of each other; those of the next are built on them.
options:
  _input: {description: Names of the plan., type: list, elements: str, required: true}
  plan: {description: What the filter P(xnat_image_plan#filter) returns., type: dict, required: true}
"""
EXAMPLES = r"""
- name: Build what is missing
  ansible.builtin.include_tasks: build.yml
  loop: "{{ ['runtime', 'hub', 'singleuser'] | xnat_build_rounds(hub_images_plan) }}"
"""
RETURN = r"""
_value:
  description: C([[runtime, singleuser], [hub]]).
  type: list
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_build_rounds": build_rounds}
