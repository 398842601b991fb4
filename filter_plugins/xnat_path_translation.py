"""Shim over `xnat_site.mounts`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.storage import path_translation

DOCUMENTATION = r"""
name: xnat_path_translation
short_description: XNAT's path-translation preferences, from the storage table
description:
  - Returns the four preferences by which XNAT's plugin turns its own paths into those of the nodes. Where both are the
    same, the pair is empty, which switches the translation off.
options:
  _input:
    description: The storage table, as for the filter P(xnat_mount_policy#filter).
    type: dict
    required: true
"""
EXAMPLES = r"""
- name: Show what XNAT must be told
  ansible.builtin.debug:
    msg: "{{ site_storage | xnat_path_translation }}"
# {"pathTranslationArchivePrefix": "/data/xnat/archive", "pathTranslationArchiveDockerPrefix": "/srv/xnat/archive", ...}
"""
RETURN = r"""
_value:
  description: The four preferences by their names in XNAT.
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_path_translation": path_translation}
