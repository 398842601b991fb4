"""Filters for the offline bundle; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import bundle


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_bundle": bundle.bundle,
            "xnat_bundle_contents": bundle.bundle_contents,
            "xnat_bundle_outdated": bundle.bundle_outdated,
            "xnat_bundle_summary": bundle.bundle_summary,
            "xnat_packages_to_bundle": bundle.packages_to_bundle,
            "xnat_simulated_packages": bundle.simulated_packages,
        }
