"""Shim over `xnat_site.bundle`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.bundle import bundle_outdated

DOCUMENTATION = r"""
name: xnat_bundle_outdated
short_description: Which parts of an offline bundle are to be written
description:
  - Compares what C(bundle.json) says with what is wanted, and the sizes of its files.
options:
  _input: {description: The bundle's directory on the controller. There need not be one., type: path, required: true}
  wanted:
    description:
      - C(images), ids by names; C(settings), variables on which these depend; C(architecture).
      - C(packages), for each release a list of NAME=VERSION; C(requirements), the SHA-256 of the controller's list of
        packages.
    type: dict
    required: true
"""
EXAMPLES = r"""
- name: Show what would be written
  ansible.builtin.debug:
    msg: "{{ '/mnt/bundle' | xnat_bundle_outdated(wanted) }}"
"""
RETURN = r"""
_value:
  description: Some of V(images.tar), V(packages/trixie.tar) and the like, V(wheels).
  type: list
  elements: str
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_bundle_outdated": bundle_outdated}
