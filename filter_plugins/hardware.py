"""Filters for the hardware that XNAT offers and the bounds of servers; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import hardware_profiles


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_node_bounds": hardware_profiles.bounds,
            "xnat_node_constraints": hardware_profiles.constraints,
            "xnat_node_hardware": hardware_profiles.hardware,
        }
