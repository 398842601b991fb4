"""Filters for the images and their names; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import images


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_further_images": images.further_images,
            "xnat_image_builds": images.image_builds,
            "xnat_image_plan": images.image_plan,
            "xnat_lacking_images": images.lacking_images,
            "xnat_missing_images": images.missing_images,
            "xnat_pulled_images": images.pulled_images,
            "xnat_server_images": images.server_images,
            "xnat_site_images": images.site_images,
        }
