"""Settings and samples that several tests use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from xnat_hub.settings import Settings, parse

from tests.hub_settings import settings_data

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = json.loads((Path(__file__).parent / "xnat-samples.json").read_text())["user_options"]


def user_of(body: dict[str, Any]) -> str:
    """Whose launch a sample is: the name at the end of its workspace."""
    mounts = ((body.get("task_template") or {}).get("container_spec") or {}).get("mounts") or []
    targets = [mount["target"] for mount in mounts if str(mount.get("target")).startswith("/workspace/")]
    return targets[0].removeprefix("/workspace/") if targets else "jdoe"


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    """Secrets as Docker mounts them."""
    for name, value in {
        "cookie_secret": "0f" * 32,
        "proxy_token": "proxy-token-of-the-tests",
        "service_token": "service-token-of-the-tests",
        "xnat_password": "service",
    }.items():
        (tmp_path / name).write_text(value)
    return tmp_path


@pytest.fixture
def settings(secrets_dir: Path) -> Settings:
    return parse(settings_data(), secrets_dir)
