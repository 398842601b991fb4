"""Shim over `xnat_site.bundle`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.bundle import bundle

DOCUMENTATION = r"""
name: xnat_bundle
short_description: What an offline bundle holds, if it is whole and has what a site needs
description:
  - Reads C(bundle.json) on the controller and compares sizes and checksums. An error says what to do.
options:
  _input: {description: The bundle's directory on the controller., type: path, required: true}
  images: {description: Names of the images that it must have., type: list, elements: str, default: []}
  settings: {description: "Variables on which its images depend, and their values.", type: dict, default: {}}
  releases: {description: For each host the codename of its system., type: dict, default: {}}
  architectures: {description: For each host its architecture., type: dict, default: {}}
  checksums: {description: "Whether all files are read, and not only their sizes compared.", type: bool, default: true}
"""
EXAMPLES = r"""
- name: Show which images there are
  ansible.builtin.debug:
    msg: "{{ ('/mnt/bundle' | xnat_bundle).images }}"
"""
RETURN = r"""
_value:
  description:
    - C(images), ids by names. C(settings), the values of variables on which these depend. C(architecture).
    - C(packages), for each release C(index), the SHA-256 of its index, and C(versions).
    - C(requirements), the SHA-256 of the controller's list of packages. C(files), for each C(size) and C(sha256).
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_bundle": bundle}
