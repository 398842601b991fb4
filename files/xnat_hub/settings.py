"""The hub's settings: one JSON file (a Docker config) and the secrets beside it (Docker secrets).

The role `jupyterhub` writes the file; its `meta/argument_specs.yml` describes the values.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xnat_hub.mounts import Root, roots_from_policy
from xnat_hub.options import parse_memory

SETTINGS_FILE = "/etc/jupyterhub/settings.json"
SECRETS_DIR = "/run/secrets"
DEFAULT_SERVER = ("refuse", "workspace")


class SettingsError(ValueError):
    """The settings file or a secret cannot be used; one sentence."""


@dataclass(frozen=True)
class Settings:
    """What the site says. Times are seconds; paths are those of the hub's container or, in roots, of the nodes.

    public_url: scheme and host of the hub as browsers reach it. trusted_proxies: addresses of the reverse proxies
    before the hub's own, whose X-Forwarded-For counts.

    cpu_ceiling (CPUs) and memory_ceiling (bytes) are what one server may have at most; None for no such ceiling.
    shm_size (bytes) is the size of a server's /dev/shm; None for half of its memory limit. images: what a launch may
    name, each exactly as XNAT and Swarm have it.
    """

    deployment: str
    base_url: str
    public_url: str
    trusted_proxies: tuple[str, ...]
    hub_host: str
    proxy_api_url: str
    network: str
    xnat_url: str
    xnat_username: str
    xnat_verify: bool
    xnat_ca_file: str | None
    xnat_client_certificate_file: str | None
    ca_config_id: str | None
    ca_config_name: str | None
    xnat_connect_timeout: float
    xnat_timeout: float
    failed_logins: int
    failed_logins_window: int
    auth_refresh_age: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    start_timeout: int
    http_timeout: int
    stop_grace_period: int
    pids_limit: int
    cpu_ceiling: float | None
    memory_ceiling: int | None
    shm_size: int | None
    images: tuple[str, ...]
    default_server: str
    prune_interval: int
    token_expires_in_max: int
    roots: tuple[Root, ...]
    image_names: dict[str, str]  # what nodes call an image that XNAT names otherwise
    secrets_dir: Path

    def secret(self, name: str) -> str:
        """Return the secret `name` as it is, since XNAT and `verify` have it so.

        Raises SettingsError if it is missing, empty, or has a blank or newline at an end, which preflight refuses too.
        """
        try:
            value = (self.secrets_dir / name).read_bytes().decode()
        except OSError as error:
            raise SettingsError(f"the secret {name} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"the secret {name} is not UTF-8") from error
        if not value:
            raise SettingsError(f"the secret {name} is empty")
        if value != value.strip():
            raise SettingsError(f"the secret {name} begins or ends with a blank or a newline")
        return value


def parse(data: dict[str, Any], secrets_dir: Path) -> Settings:
    """Read the settings file's JSON, whose `memory_ceiling` and `shm_size` are texts such as `64G`, empty for none.

    Raises SettingsError for missing or unknown keys, MountError for roots, OptionsError for those two sizes.
    """
    known = set(Settings.__dataclass_fields__) - {"secrets_dir"}
    if set(data) != known:
        raise SettingsError(
            f"the hub's settings miss {sorted(known - set(data)) or 'nothing'}"
            f" and have unknown {sorted(set(data) - known) or 'nothing'}"
        )
    if not isinstance(data["xnat_verify"], bool):
        raise SettingsError(f"xnat_verify is {data['xnat_verify']!r}: set it to true or false")
    if data["default_server"] not in DEFAULT_SERVER:
        raise SettingsError(f"default_server is {data['default_server']!r}: set it to {' or '.join(DEFAULT_SERVER)}")
    images = data["images"]
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise SettingsError(f"images is {images!r}: give a list of image names")
    try:
        trusted = tuple(str(ipaddress.ip_address(address)) for address in data["trusted_proxies"])
    except ValueError as error:
        raise SettingsError(f"trusted_proxies: {error}") from error
    return Settings(
        **{
            **data,
            "trusted_proxies": trusted,
            "groups": tuple(data["groups"]),
            "memory_ceiling": parse_memory(data["memory_ceiling"], "memory_ceiling"),
            "shm_size": parse_memory(data["shm_size"], "shm_size"),
            "images": tuple(images),
            "roots": roots_from_policy(data["roots"]),
            "secrets_dir": secrets_dir,
        }
    )


@functools.cache
def load() -> Settings:
    """Return the settings of this hub, read once. Raises SettingsError."""
    path = Path(os.environ.get("XNAT_HUB_SETTINGS", SETTINGS_FILE))
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"the hub's settings {path} cannot be read: {error}") from error
    return parse(data, Path(os.environ.get("XNAT_HUB_SECRETS", SECRETS_DIR)))
