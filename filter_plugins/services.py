"""Filters for the services of the hub, their secrets and networks; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import egress, services


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_config_mounts": services.config_mounts,
            "xnat_egress_plan": egress.egress_plan,
            "xnat_former_network": services.former_network,
            "xnat_hub_local_url": services.hub_local_url,
            "xnat_network_differs": services.network_differs,
            "xnat_network_options": services.network_options,
            "xnat_rotation": services.rotation,
            "xnat_service_limits": services.service_limits,
            "xnat_service_secrets": services.service_secrets,
            "xnat_services_to_roll_back": services.to_roll_back,
        }
