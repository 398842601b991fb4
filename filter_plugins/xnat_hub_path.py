"""Shim over `xnat_site.inventory`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.inventory import hub_path

DOCUMENTATION = r"""
name: xnat_hub_path
short_description: Where the hub lives below its host
description:
  - Returns the path with a slash at both ends, however it was written. An empty one stands for C(/jupyterhub/).
options:
  _input: {description: "The path, such as C(/jhub)", type: str, required: true}
"""
EXAMPLES = r"""
- name: Show where the hub's API is
  ansible.builtin.debug:
    msg: "{{ site_hub_public_url }}{{ site_hub_base_url | xnat_hub_path }}hub/api"
"""
RETURN = r"""
_value: {description: The path., type: str}
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_hub_path": hub_path}
