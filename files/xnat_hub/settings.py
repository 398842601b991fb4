"""The hub's settings: one JSON file (a Docker config) and the secrets beside it (Docker secrets).

The role `jupyterhub` writes the file; its `meta/argument_specs.yml` describes the values.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xnat_hub.mounts import Root, roots_from_policy

SETTINGS_FILE = "/etc/jupyterhub/settings.json"
SECRETS_DIR = "/run/secrets"


class SettingsError(ValueError):
    """The settings file or a secret cannot be used; one sentence."""


@dataclass(frozen=True)
class Settings:
    """What the site says. Times are seconds; paths are those of the hub's container or, in roots, of the nodes."""

    deployment: str
    base_url: str
    hub_host: str
    proxy_api_url: str
    network: str
    xnat_url: str
    xnat_username: str
    xnat_verify: bool
    xnat_ca_file: str | None
    ca_config_id: str | None
    ca_config_name: str | None
    xnat_connect_timeout: float
    xnat_timeout: float
    uid: int
    gid: int
    groups: tuple[int, ...]
    start_timeout: int
    http_timeout: int
    stop_grace_period: int
    pids_limit: int
    token_expires_in_max: int
    roots: tuple[Root, ...]
    secrets_dir: Path

    def secret(self, name: str) -> str:
        """Return the secret `name`. Raises SettingsError if it is missing or empty."""
        try:
            value = (self.secrets_dir / name).read_text().strip()
        except OSError as error:
            raise SettingsError(f"the secret {name} cannot be read: {error.strerror}") from error
        if not value:
            raise SettingsError(f"the secret {name} is empty")
        return value


def parse(data: dict[str, Any], secrets_dir: Path) -> Settings:
    """Read the settings file's JSON. Raises SettingsError for missing or unknown keys, MountError for roots."""
    known = set(Settings.__dataclass_fields__) - {"secrets_dir"}
    if set(data) != known:
        raise SettingsError(
            f"the hub's settings miss {sorted(known - set(data)) or 'nothing'}"
            f" and have unknown {sorted(set(data) - known) or 'nothing'}"
        )
    values = dict(data, groups=tuple(data["groups"]), roots=roots_from_policy(data["roots"]), secrets_dir=secrets_dir)
    return Settings(**values)


@functools.cache
def load() -> Settings:
    """Return the settings of this hub, read once. Raises SettingsError."""
    path = Path(os.environ.get("XNAT_HUB_SETTINGS", SETTINGS_FILE))
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"the hub's settings {path} cannot be read: {error}") from error
    return parse(data, Path(os.environ.get("XNAT_HUB_SECRETS", SECRETS_DIR)))
