"""Shim over `xnat_site.mounts`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.storage import mount_policy

DOCUMENTATION = r"""
name: xnat_mount_policy
short_description: The mount policy that the hub enforces, from the storage table
description:
  - Checks the table C(site_storage) and returns the directories below which a server may be given data. An error names
    row and key.
options:
  _input:
    description:
      - The storage table, a row for each directory that XNAT and the nodes share, with C(xnat_path), C(node_path) and
        C(access) (V(read_only) or V(read_write)). The rows C(archive) and C(workspaces) are required.
    type: dict
    required: true
  compute_mounts:
    description:
      - What compute environments may mount beside that, a list of C(source), C(target) and C(access). A read-only
        source includes the directories below it, a writable one does not, since users could put symbolic links there.
      - A source may lie in a row of the table only where both are read-only, and may not hold a row. A target may not
        lie in a directory of the container's system, such as C(/etc), C(/usr) or C(/run).
    type: list
    elements: dict
    default: []
"""
EXAMPLES = r"""
- name: Show the policy
  ansible.builtin.debug:
    msg: "{{ site_storage | xnat_mount_policy(atlases) }}"
  vars:
    atlases: [{source: /srv/atlases, target: /opt/atlases, access: read_only}]
# [{"name": "archive", "path": "/data/xnat/archive", "read_only": true, "targets": ["/data", "/workspace"],
#   "per_user": false}, ...]
"""
RETURN = r"""
_value:
  description: The roots, each with C(name), C(path), C(read_only), C(targets) and C(per_user).
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_mount_policy": mount_policy}
