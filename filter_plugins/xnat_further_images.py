"""Shim over `xnat_site.images`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.images import further_images

DOCUMENTATION = r"""
name: xnat_further_images
short_description: Under which names nodes have the single-user images from elsewhere
description:
  - An engine asks the registry of a name for what is there now, each time it starts a service. So an image that was
    checked gets a name that no registry knows. It follows from the image's own name.
options:
  _input:
    description: Images, each as C(NAME), C(NAME:TAG) or C(NAME@sha256:DIGEST).
    type: list
    elements: str
    required: true
  prefix: {description: First part of the names., type: str, required: true}
"""
EXAMPLES = r"""
- name: Show the names
  ansible.builtin.debug:
    msg: "{{ ['quay.io/jupyter/scipy-notebook:2026-01-05'] | xnat_further_images('localhost/xnat-jupyter') }}"
# [{"name": "localhost/xnat-jupyter/further/quay.io/jupyter/scipy-notebook:2026-01-05", "source": "quay.io/..."}]
"""
RETURN = r"""
_value:
  description: For each image its C(name) on the nodes and its C(source).
  type: list
  elements: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_further_images": further_images}
