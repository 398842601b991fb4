"""The settings files of hub and launcher for an ordinary site; tests change them where they need to."""

from __future__ import annotations

import os
from typing import Any

from module_utils.xnat_site.storage import mount_policy

STORAGE = {
    "archive": {"xnat_path": "/data/xnat/archive", "node_path": "/srv/xnat/archive", "access": "read_only"},
    "workspaces": {"xnat_path": "/data/xnat/workspaces", "node_path": "/srv/xnat/workspaces", "access": "read_write"},
}
ATLASES = [
    {"source": "/srv/atlases", "target": "/opt", "access": "read_only"},
    {"source": "/srv/shared", "target": "/opt/shared", "access": "read_only"},
    {"source": "/srv/shared", "target": "/home/jovyan", "access": "read_write"},
]
IMAGES = ["localhost/x:1", "xnat/datascience-notebook:latest", "registry.example.org/jupyter/tensorflow:2.16"]


XNAT = {
    "url": "http://xnat.example.org",
    "verify": True,
    "ca_file": None,
    "client_certificate_file": None,
    "connect_timeout": 2,
    "timeout": 2,
}


def settings_data(**changes: Any) -> dict[str, Any]:
    """The JSON of the hub's settings file."""
    return {
        "base_url": "/jupyterhub/",
        "public_url": "https://hub.example.org",
        "person_origins": False,
        "title": "JupyterHub",
        "logo": None,
        "xnat_public_url": "https://xnat.example.org",
        "trusted_proxies": [],
        "hub_host": "jupyterhub-hub",
        "proxy_api_url": "http://jupyterhub-proxy.jupyterhub-control:8001",
        "launcher_socket": "/nowhere/launcher.sock",
        "xnat": XNAT,
        "xnat_username": "jupyterhub",
        "failed_logins": 5,
        "failed_logins_window": 86400,
        "auth_refresh_age": 300,
        "start_timeout": 60,
        "http_timeout": 30,
        "stop_grace_period": 10,
        "prune_interval": 300,
        "token_expires_in_max": 172800,
        **changes,
    }


def launcher_settings_data(**changes: Any) -> dict[str, Any]:
    """The JSON of the launcher's settings file."""
    return {
        "deployment": "jupyterhub",
        "network": "jupyterhub-notebooks",
        "proxy_url": "http://jupyterhub-gate:3128",
        "no_proxy": "localhost,jupyterhub-hub,xnat.example.org",
        "hub_uid": os.getuid(),
        "xnat": XNAT,
        "xnat_username": "jupyterhub",
        "ca_config_id": None,
        "ca_config_name": None,
        "failed_logins": 5,
        "failed_logins_window": 86400,
        "default_server": "refuse",
        "uid": 1500,
        "gid": 1501,
        "groups": [20],
        "stop_grace_period": 10,
        "pids_limit": 4096,
        "constraints": ["node.labels.jupyter==true"],
        "cpu_ceiling": 64.0,
        "memory_ceiling": "256G",
        "cpu_default": 2.0,
        "memory_default": "4G",
        "read_only": True,
        "home": "/home/jovyan",
        "tmp_size": "",
        "home_size": "",
        "shm_size": "",
        "images": IMAGES,
        "image_names": {},
        "guard": False,
        "cull_idle": 0,
        "cull_connected": False,
        "busy_is_activity": True,
        "roots": mount_policy(STORAGE, ATLASES),
        "audit_days": 30,
        "audit_failure": "refuse",
        "audit_syslog": "",
        **changes,
    }
