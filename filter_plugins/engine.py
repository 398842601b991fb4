"""Filters for a node's Docker Engine; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import engine


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_engine_options": engine.engine_options,
            "xnat_engine_plan": engine.engine_plan,
        }
