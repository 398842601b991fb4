"""Shim over `xnat_site.fleet`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.fleet import fleet

DOCUMENTATION = r"""
name: xnat_fleet
short_description: What is wrong with the inventory and its hosts, and through which manager to work
description:
  - Judges all hosts by what the module C(node_report) has registered as C(preflight_report), before a change.
options:
  _input: {description: Ansible's C(hostvars)., type: dict, required: true}
  groups: {description: Ansible's C(groups)., type: dict, required: true}
  limits:
    description:
      - C(deployment), C(disk_gb), C(memory_mb), C(clock_skew) in seconds, C(now) in seconds since 1970,
        C(address_pools), C(subnet_size), C(network), C(network_subnet), and C(servers), how many are to run at once.
    type: dict
    required: true
"""
EXAMPLES = r"""
- name: Judge
  ansible.builtin.set_fact:
    preflight_fleet: "{{ hostvars | xnat_fleet(groups, limits) }}"
"""
RETURN = r"""
_value:
  description:
    - C(errors), C(notes), C(manager), C(live_managers), C(hub_host), C(addresses), C(joining), C(address_pools),
      C(stale) and C(peers).
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_fleet": fleet}
