"""Shim over `xnat_site.bundle`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.bundle import bundle_contents

DOCUMENTATION = r"""
name: xnat_bundle_contents
short_description: What bundle.json has to say of an offline bundle
description:
  - Reads all files of the bundle for their checksums.
options:
  _input: {description: The bundle's directory on the controller., type: path, required: true}
  wanted: {description: What was written; see the filter C(xnat_bundle_outdated)., type: dict, required: true}
"""
EXAMPLES = r"""
- name: Complete the bundle
  ansible.builtin.copy:
    content: "{{ '/mnt/bundle' | xnat_bundle_contents(wanted) | to_nice_json }}\n"
    dest: /mnt/bundle/bundle.json
    mode: "0644"
"""
RETURN = r"""
_value:
  description: See the filter C(xnat_bundle).
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_bundle_contents": bundle_contents}
