"""Shim over `xnat_site.mounts`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.storage import node_mounts

DOCUMENTATION = r"""
name: xnat_node_mounts
short_description: What a node has to have for each row of the storage table
description:
  - Checks the table C(site_storage) and returns, for one node, each row's directory and how it is mounted there. An
    error names row and key.
options:
  _input:
    description:
      - The storage table, a row for each directory that XNAT and the nodes share, with C(xnat_path), C(node_path),
        C(access) (V(read_only) or V(read_write)) and, unless somebody else mounts it, C(source).
      - C(source) is a mapping with C(type), which is V(mounted), V(directory), V(bind) (with C(path)), V(nfs) or
        V(cifs) (with C(server) and C(path)) or V(sshfs) (with C(server), C(path) and C(user)), and may have
        C(sentinel), C(create), C(server_host) and C(options).
    type: dict
    required: true
  host:
    description: The node's name in the inventory. Where it is a row's C(server_host) its own directory is used.
    type: str
    required: true
  uid:
    description: Who XNAT is on the file system.
    type: int
    required: true
  gid:
    description: The group of XNAT on the file system.
    type: int
    required: true
"""
EXAMPLES = r"""
- name: Show what this node mounts
  ansible.builtin.debug:
    msg: "{{ site_storage | xnat_node_mounts(inventory_hostname, site_uid, site_gid) }}"
# [{"name": "archive", "path": "/data/xnat/archive", "type": "nfs", "create": false, "access": "read_only",
#   "sentinel": "", "src": "nfs.example.org:/xnat/archive", "fstype": "nfs",
#   "opts": "ro,nfsvers=4.2,hard,_netdev,nosuid,nodev,x-xnat-jupyter", "unit": "data-xnat-archive.mount",
#   "packages": ["nfs-common"]}, ...]
"""
RETURN = r"""
_value:
  description:
    - An entry for each row in the table's order, with C(name), C(path), C(type), C(create), C(access), C(sentinel),
      C(src), C(fstype), C(opts), C(unit) and C(packages). The last five are empty where nothing is mounted by us.
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_node_mounts": node_mounts}
