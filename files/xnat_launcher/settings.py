"""The launcher's settings: one JSON file (a Docker config) and its secrets (Docker secrets).

The role `jupyterhub` writes the file; its `meta/argument_specs.yml` describes the values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from xnat_wire.settings import SettingsError, check_keys, read_settings
from xnat_wire.site import XnatSite

from xnat_launcher.options import parse_memory
from xnat_launcher.policy import Root, roots_from_policy

SETTINGS_FILE = "/etc/xnat-launcher/settings.json"
DEFAULT_SERVER = ("refuse", "workspace")


@dataclass(frozen=True)
class Settings:
    """The launcher's settings. Times are seconds; paths are those of the launcher's container or, in roots, of nodes.

    hub_uid: the hub's user id, the only one that may call the launcher. default_server: whether the default server is
    refused or gets only the workspace. cpu_ceiling (CPUs) and memory_ceiling (bytes): the most that one server may
    have; None for no ceiling. shm_size (bytes): the size of a server's /dev/shm; None for half of its memory limit.
    images: the images that a launch may use, each as named in XNAT. image_names: maps names in XNAT to names on nodes
    where these differ. guard: whether servers start only where the service DEPLOYMENT-guard keeps them apart.
    """

    deployment: str
    network: str
    hub_uid: int
    xnat: XnatSite
    xnat_username: str
    ca_config_id: str | None
    ca_config_name: str | None
    failed_logins: int
    failed_logins_window: int
    default_server: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    stop_grace_period: int
    pids_limit: int
    cpu_ceiling: float | None
    memory_ceiling: int | None
    shm_size: int | None
    images: tuple[str, ...]
    image_names: dict[str, str]
    guard: bool
    roots: tuple[Root, ...]


def parse(data: dict[str, Any]) -> Settings:
    """Read the settings file's JSON, where `memory_ceiling` and `shm_size` are texts such as `64G`, empty for none.

    Raises SettingsError for missing or unknown keys, MountError for invalid roots, OptionsError for these two sizes.
    """
    check_keys(data, [field.name for field in fields(Settings)], "launcher")
    if data["default_server"] not in DEFAULT_SERVER:
        raise SettingsError(f"default_server is {data['default_server']!r}: set it to {' or '.join(DEFAULT_SERVER)}")
    images = data["images"]
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise SettingsError(f"images is {images!r}: set a list of image names")
    return Settings(
        **{
            **data,
            "xnat": XnatSite.parse(data["xnat"]),
            "groups": tuple(data["groups"]),
            "memory_ceiling": parse_memory(data["memory_ceiling"], "memory_ceiling"),
            "shm_size": parse_memory(data["shm_size"], "shm_size"),
            "images": tuple(images),
            "roots": roots_from_policy(data["roots"]),
        }
    )


def load(path: Path) -> Settings:
    """Return the settings of a file. Raises SettingsError."""
    return parse(read_settings(path, "launcher"))
