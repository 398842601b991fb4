"""Filters for the storage table; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import storage


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_mount_policy": storage.mount_policy,
            "xnat_node_mounts": storage.node_mounts,
            "xnat_path_translation": storage.path_translation,
            "xnat_storage_disagreements": storage.storage_disagreements,
        }
