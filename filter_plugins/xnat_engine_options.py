"""Shim over `xnat_site.engine`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.engine import engine_options

DOCUMENTATION = r"""
name: xnat_engine_options
short_description: The content of a Docker Engine's daemon.json
description:
  - Lays a site's options over safe defaults (rotated logs, no live-restore, address pools beside Docker's own, no new
    privileges), key by key, and adds a node's GPUs. An error names the option and says what to set.
options:
  _input:
    description:
      - The options, as in C(daemon.json). One that is null takes a default away.
      - V(live-restore) and C(hosts) that listen on a port are refused.
    type: dict
    required: true
  generic_resources:
    description: What Swarm may hand out on this node, each as C(NAME=VALUE), for C(node-generic-resources).
    type: list
    elements: str
    default: []
  nvidia_runtime:
    description: Path of NVIDIA's container runtime, which then runs all containers of the node. Empty for none.
    type: str
    default: ""
  running:
    description:
      - The content of the file of an engine that runs. It stays where only defaults that came later would change it.
    type: dict
"""
EXAMPLES = r"""
- name: Show the options of a node with a GPU
  ansible.builtin.debug:
    msg: "{{ {'mtu': 1450} | xnat_engine_options(['gpu=GPU-1a2b3c4d'], '/usr/bin/nvidia-container-runtime') }}"
# {"live-restore": false, ..., "mtu": 1450, "node-generic-resources": ["gpu=GPU-1a2b3c4d"], "default-runtime": "nvidia",
#  "runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}
"""
RETURN = r"""
_value:
  description: The content of C(daemon.json).
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_engine_options": engine_options}
