"""Filters for a site's variables; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import hub_settings, inventory, variables


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_deployment_findings": inventory.deployment_findings,
            "xnat_hub_findings": hub_settings.hub_findings,
            "xnat_hub_path": inventory.hub_path,
            "xnat_hub_logo": hub_settings.logo,
            "xnat_inventory_findings": inventory.inventory_findings,
            "xnat_secret_findings": inventory.secret_findings,
            "xnat_unknown_limits": inventory.unknown_limits,
            "xnat_unknown_variables": variables.unknown_variables,
        }
