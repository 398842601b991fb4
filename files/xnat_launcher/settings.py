"""The launcher's settings: one JSON file (a Docker config) and its secrets (Docker secrets).

The role `jupyterhub` writes the file; its `meta/argument_specs.yml` describes the values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from xnat_wire.settings import SettingsError, check_keys, read_settings
from xnat_wire.site import XnatSite

from xnat_launcher.options import parse_constraints, parse_memory
from xnat_launcher.policy import Root, clean_path, roots_from_policy
from xnat_launcher.syslog import Target, parse_target

SETTINGS_FILE = "/etc/xnat-launcher/settings.json"
DEFAULT_SERVER = ("refuse", "workspace")
AUDIT_FAILURE = ("refuse", "continue")
LIMITS = ("memory_ceiling", "memory_default")
CPU_LIMITS = ("cpu_ceiling", "cpu_default")
SIZES = ("tmp_size", "home_size", "shm_size")


@dataclass(frozen=True)
class Settings:
    """The launcher's settings. Times are seconds; paths are those of the launcher's container or, in roots, of nodes.

    network: the notebooks' network. proxy_url: the forward proxy of notebooks, empty for none. no_proxy: the hosts that
    they reach without it, with commas. hub_uid: the hub's user id, the only one that may call the launcher.
    default_server: whether the default server is refused or gets only the workspace. constraints: of Swarm's placement,
    for every server. cpu_ceiling (CPUs) and memory_ceiling (bytes): the most that one server may have. cpu_default,
    memory_default: the limits of a server for which XNAT sets none. read_only: whether a server's root is read-only,
    and /tmp and `home`, its HOME, are directories in memory. tmp_size, home_size, shm_size (bytes): the sizes of these
    and of /dev/shm; None for a share of the server's memory limit. images: the images that a launch may use, each as
    named in XNAT. image_names: maps names in XNAT to names on nodes where these differ. guard: whether servers start
    only where the service DEPLOYMENT-guard keeps them apart. cull_idle: after how long an idle kernel is ended, 0 for
    never. cull_connected: also one that a browser shows. busy_is_activity: whether XNAT's limit on inactivity spares a
    server with a busy kernel. audit_days: the age at which files of the audit log are
    removed, 0 for never. audit_failure: what happens to a launch that cannot be recorded, `refuse` or `continue`.
    audit_syslog: None for no syslog server.
    """

    deployment: str
    network: str
    proxy_url: str
    no_proxy: str
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
    constraints: tuple[str, ...]
    cpu_ceiling: float
    memory_ceiling: int
    cpu_default: float
    memory_default: int
    read_only: bool
    home: str
    tmp_size: int | None
    home_size: int | None
    shm_size: int | None
    images: tuple[str, ...]
    image_names: dict[str, str]
    guard: bool
    cull_idle: int
    cull_connected: bool
    busy_is_activity: bool
    roots: tuple[Root, ...]
    audit_days: int
    audit_failure: str
    audit_syslog: Target | None


def parse(data: dict[str, Any]) -> Settings:
    """Read the settings file's JSON, where amounts of memory are texts such as `64G`; the sizes may be empty.

    Raises SettingsError for missing or unknown keys, MountError for invalid roots or an invalid home, OptionsError for
    an invalid amount of memory or constraint.
    """
    check_keys(data, [field.name for field in fields(Settings)], "launcher")
    if data["default_server"] not in DEFAULT_SERVER:
        raise SettingsError(f"default_server is {data['default_server']!r}: set it to {' or '.join(DEFAULT_SERVER)}")
    if data["audit_failure"] not in AUDIT_FAILURE:
        raise SettingsError(f"audit_failure is {data['audit_failure']!r}: set it to {' or '.join(AUDIT_FAILURE)}")
    images = data["images"]
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise SettingsError(f"images is {images!r}: set a list of image names")
    limits = {name: parse_memory(data[name], name) for name in LIMITS} | {name: data[name] for name in CPU_LIMITS}
    for name, value in limits.items():
        if not isinstance(value, int | float) or not value > 0:
            raise SettingsError(f"{name} is {data[name]!r}: set a limit, so that no server can take a whole node")
    return Settings(
        **{
            **data,
            **limits,
            **{name: parse_memory(data[name], name) for name in SIZES},
            "xnat": XnatSite.parse(data["xnat"]),
            "groups": tuple(data["groups"]),
            "constraints": parse_constraints(data["constraints"], "constraints"),
            "home": clean_path(data["home"], "home"),
            "images": tuple(images),
            "roots": roots_from_policy(data["roots"]),
            "audit_syslog": parse_target(data["audit_syslog"]),
        }
    )


def load(path: Path) -> Settings:
    """Return the settings of a file. Raises SettingsError."""
    return parse(read_settings(path, "launcher"))
