"""Shim over `xnat_site.mounts`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.storage import storage_disagreements

DOCUMENTATION = r"""
name: xnat_storage_disagreements
short_description: Whether all nodes see the same files
description:
  - Compares what the module C(storage_probe) has seen on each node. A token in each writable directory tells one export
    from another, and from the bare directory below it.
options:
  _input: {description: The rows of each node by its name., type: dict, required: true}
"""
EXAMPLES = r"""
- name: Compare
  ansible.builtin.debug:
    msg: "{{ {'w1': rows, 'w2': other_rows} | xnat_storage_disagreements }}"
"""
RETURN = r"""
_value:
  description: A sentence for each row that nodes see differently.
  type: list
  elements: str
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_storage_disagreements": storage_disagreements}
