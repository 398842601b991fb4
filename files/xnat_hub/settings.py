"""The hub's settings: one JSON file (a Docker config) and its secrets (Docker secrets).

The role `jupyterhub` writes the file; its `meta/argument_specs.yml` describes the values.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from xnat_wire.settings import SECRETS_DIR, SettingsError, check_keys, read_secret, read_settings
from xnat_wire.site import XnatSite

from xnat_hub.proxies import TrustedProxies

SETTINGS_FILE = "/etc/jupyterhub/settings.json"


@dataclass(frozen=True)
class Settings:
    """The hub's settings. Times are seconds; paths are those of the hub's container.

    public_url: scheme and host of the hub as browsers reach it. person_origins: whether each person has an origin below
    it (`xnat_hub.origins`). trusted_proxies: addresses and networks of the reverse proxies in front of the hub's own;
    their X-Forwarded-For is trusted. xnat_username: the service account, which cannot log in.
    title: the name of the site. logo: {"type": "image/png", "data": base64}, None for JupyterHub's. xnat_public_url:
    XNAT as browsers reach it.
    """

    base_url: str
    public_url: str
    person_origins: bool
    title: str
    logo: dict[str, str] | None
    xnat_public_url: str
    trusted_proxies: TrustedProxies
    hub_host: str
    proxy_api_url: str
    launcher_socket: str
    xnat: XnatSite
    xnat_username: str
    failed_logins: int
    failed_logins_window: int
    auth_refresh_age: int
    start_timeout: int
    http_timeout: int
    stop_grace_period: int
    prune_interval: int
    token_expires_in_max: int
    secrets_dir: Path

    def secret(self, name: str) -> str:
        """Return the secret `name`. Raises SettingsError."""
        return read_secret(self.secrets_dir, name)


def parse(data: dict[str, Any], secrets_dir: Path) -> Settings:
    """Read the settings file's JSON. Raises SettingsError for missing, unknown or invalid settings."""
    check_keys(data, {field.name for field in fields(Settings)} - {"secrets_dir"}, "hub")
    try:
        trusted = TrustedProxies(data["trusted_proxies"])
    except ValueError as error:
        raise SettingsError(f"trusted_proxies: {error}") from error
    return Settings(
        **{**data, "trusted_proxies": trusted, "xnat": XnatSite.parse(data["xnat"]), "secrets_dir": secrets_dir}
    )


@functools.cache
def load() -> Settings:
    """Return the settings of this hub, read once. Raises SettingsError."""
    path = Path(os.environ.get("XNAT_HUB_SETTINGS", SETTINGS_FILE))
    return parse(read_settings(path, "hub"), Path(os.environ.get("XNAT_HUB_SECRETS", SECRETS_DIR)))
