"""Settings and samples that several tests use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from xnat_hub.mounts import mount_policy
from xnat_hub.settings import Settings, parse

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = json.loads((Path(__file__).parent / "xnat-samples.json").read_text())["user_options"]
STORAGE = {
    "archive": {"xnat_path": "/data/xnat/archive", "node_path": "/srv/xnat/archive", "access": "read_only"},
    "workspaces": {"xnat_path": "/data/xnat/workspaces", "node_path": "/srv/xnat/workspaces", "access": "read_write"},
}
ATLASES = [
    {"source": "/srv/atlases", "target": "/opt", "access": "read_only"},
    {"source": "/srv/shared", "target": "/opt/shared", "access": "read_only"},
    {"source": "/srv/shared", "target": "/home/jovyan", "access": "read_write"},
]


def user_of(body: dict[str, Any]) -> str:
    """Whose launch a sample is: the name at the end of its workspace."""
    mounts = ((body.get("task_template") or {}).get("container_spec") or {}).get("mounts") or []
    targets = [mount["target"] for mount in mounts if str(mount.get("target")).startswith("/workspace/")]
    return targets[0].removeprefix("/workspace/") if targets else "jdoe"


def settings_data(**changes: Any) -> dict[str, Any]:
    """The settings file's JSON of an ordinary site."""
    return {
        "deployment": "jupyterhub",
        "base_url": "/jupyterhub/",
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
        "failed_logins_window": 3600,
        "auth_refresh_age": 300,
        "registry_auth_file": None,
        "uid": 1500,
        "gid": 1501,
        "groups": [20],
        "start_timeout": 60,
        "http_timeout": 30,
        "stop_grace_period": 10,
        "pids_limit": 4096,
        "cpu_ceiling": None,
        "memory_ceiling": "",
        "default_server": "refuse",
        "prune_interval": 300,
        "token_expires_in_max": 172800,
        "roots": mount_policy(STORAGE, ATLASES),
        **changes,
    }


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    """Secrets as Docker mounts them."""
    for name, value in {
        "cookie_secret": "0f" * 32,
        "proxy_token": "proxy-token-of-the-tests",
        "service_token": "service-token-of-the-tests",
        "xnat_password": "service",
    }.items():
        (tmp_path / name).write_text(value + "\n")
    return tmp_path


@pytest.fixture
def settings(secrets_dir: Path) -> Settings:
    return parse(settings_data(), secrets_dir)
