"""Shim over `xnat_site.images`: the one line of glue is the search path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from module_utils.xnat_site.images import image_plan

DOCUMENTATION = r"""
name: xnat_image_plan
short_description: What the images are made of, and their names
description:
  - Plans the images base, runtime, hub, singleuser, registry and demo_xnat from the files of the project. A tag is a
    hash of the content, so that equal input gives equal names and nothing is built twice.
options:
  _input: {description: "The project's C(files) directory on the controller.", type: path, required: true}
  prefix: {description: First part of the names., type: str, required: true}
  base: {description: "An image to build on; empty for a bootstrapped Debian.", type: str, required: true}
  revision: {description: Raised to build everything anew., type: int, required: true}
  jupyterhub_version: {description: What both lock files must pin., type: str, required: true}
  hub_uid: {description: User id of hub and proxy., type: int, required: true}
  notebook_uid: {description: User id of the servers., type: int, required: true}
  notebook_gid: {description: Group id of the servers., type: int, required: true}
  dashboards: {description: Whether the dashboard frameworks are built in., type: bool, required: true}
"""
EXAMPLES = r"""
- name: Show the name of the hub image
  ansible.builtin.debug:
    msg: "{{ (files_dir | xnat_image_plan(prefix='xnat-jupyter', base='', revision=1, jupyterhub_version='5.5.4',
              hub_uid=1000, notebook_uid=1000, notebook_gid=1000, dashboards=false)).hub.image }}"
"""
RETURN = r"""
_value:
  description: For each image C(image), C(dockerfile), C(files) (a list of C(src) and C(dest)) and C(args).
  type: dict
"""


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"xnat_image_plan": image_plan}
