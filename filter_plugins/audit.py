"""Filters for the audit log; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import audit


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_audit_query": audit.query,
            "xnat_audit_report": audit.report,
        }
