"""Shim over `xnat_site.images`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.images import lacking_images

DOCUMENTATION = r"""
name: xnat_lacking_images
short_description: Which images the hosts that answered lack
description:
  - Compares what each host has reported with what the builder has. Managers need all images, workers those of servers.
options:
  _input: {description: Ansible's C(hostvars)., type: dict, required: true}
  groups: {description: Ansible's C(groups)., type: dict, required: true}
  ids: {description: The images' ids on the builder by name., type: dict, required: true}
  plan: {description: What the filter P(xnat_image_plan#filter) returns., type: dict, required: true}
  further: {description: Names of further single-user images on the nodes., type: list, elements: str, required: true}
"""
EXAMPLES = r"""
- name: Compare
  ansible.builtin.set_fact:
    lacking: "{{ hostvars | xnat_lacking_images(groups, ids, hub_images_plan, []) }}"
"""
RETURN = r"""
_value:
  description: Names of images by host; hosts that lack none are left out.
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_lacking_images": lacking_images}
