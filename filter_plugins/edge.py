"""Filters for the edge; the YAML file with its name documents each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # Ansible provides module_utils only to modules

from module_utils.xnat_site import edge


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "xnat_acme_fault": edge.acme_fault,
            "xnat_acme_thumbprint": edge.acme_thumbprint,
            "xnat_certificate_findings": edge.certificate_findings,
            "xnat_edge_files": edge.edge_files,
            "xnat_edge_findings": edge.edge_findings,
            "xnat_edge_labels": edge.edge_labels,
            "xnat_edge_names": edge.edge_names,
            "xnat_edge_ports": edge.edge_ports,
            "xnat_edge_plan": edge.edge_plan,
            "xnat_shared_host": edge.shared_host,
        }
