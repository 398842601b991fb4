"""The hub's settings file for an ordinary site, which unit tests and benchmarks change where they need to."""

from __future__ import annotations

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


def settings_data(**changes: Any) -> dict[str, Any]:
    """The settings file's JSON of an ordinary site."""
    return {
        "deployment": "jupyterhub",
        "base_url": "/jupyterhub/",
        "public_url": "https://hub.example.org",
        "trusted_proxies": [],
        "hub_host": "jupyterhub-hub",
        "proxy_api_url": "http://jupyterhub-proxy:8001",
        "network": "jupyterhub",
        "xnat_url": "http://xnat.example.org",
        "xnat_username": "jupyterhub",
        "xnat_verify": True,
        "xnat_ca_file": None,
        "xnat_client_certificate_file": None,
        "ca_config_id": None,
        "ca_config_name": None,
        "xnat_connect_timeout": 2,
        "xnat_timeout": 2,
        "failed_logins": 5,
        "failed_logins_window": 86400,
        "auth_refresh_age": 300,
        "uid": 1500,
        "gid": 1501,
        "groups": [20],
        "start_timeout": 60,
        "http_timeout": 30,
        "stop_grace_period": 10,
        "pids_limit": 4096,
        "cpu_ceiling": None,
        "memory_ceiling": "",
        "shm_size": "",
        "images": IMAGES,
        "default_server": "refuse",
        "prune_interval": 300,
        "token_expires_in_max": 172800,
        "roots": mount_policy(STORAGE, ATLASES),
        "image_names": {},
        **changes,
    }
