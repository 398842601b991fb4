"""Reads and checks the settings file and the secrets file of the demo XNAT.

The dataclasses below are the reference of both files: every field is required, no other key is allowed.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class SettingsError(ValueError):
    """A settings or secrets file cannot be used; the text is one sentence that says which value and why."""


@dataclasses.dataclass(frozen=True)
class Translation:
    """The four path translation preferences; a pair is active if both are non-blank (docs/xnat-contract.md, 3.2)."""

    archive_prefix: str
    archive_docker_prefix: str
    workspace_prefix: str
    workspace_docker_prefix: str


@dataclasses.dataclass(frozen=True)
class HubAddress:
    """``api_url``: the hub's API as this service reaches it; ``host_url``: prefix of links for the browser."""

    api_url: str
    host_url: str


@dataclasses.dataclass(frozen=True)
class Preferences:
    """Plugin preferences, spelled as XNAT spells them (docs/xnat-contract.md, 5.1).

    Timeouts and polling intervals in seconds, ``inactivityTimeout`` in minutes, ``maxServerLifetime`` in hours.
    """

    startTimeout: int
    stopTimeout: int
    startPollingInterval: int
    stopPollingInterval: int
    maxNamedServers: int
    allUsersCanStartJupyter: bool
    inactivityTimeout: int
    maxServerLifetime: int


@dataclasses.dataclass(frozen=True)
class Mount:
    """A mount of a compute environment, in the shape in which user-options send it; paths are host paths."""

    target: str
    source: str | None
    type: str
    read_only: bool


@dataclasses.dataclass(frozen=True)
class Environment:
    """A compute environment: one image that people may start."""

    id: int
    name: str
    image: str
    command: str | None
    environment_variables: dict[str, str]
    mounts: tuple[Mount, ...]


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Limits and placement. CPUs as a number, memory as XNAT passes it on ("4G"); null is unset."""

    id: int
    name: str
    cpu_limit: float | None
    cpu_reservation: float | None
    mem_limit: str | None
    mem_reservation: str | None
    generic_resources: dict[str, str]
    constraints: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings file."""

    port: int
    site_url: str
    processing_url: str
    archive_path: str
    workspace_path: str
    translation: Translation
    hub: HubAddress
    preferences: Preferences
    concurrent_max_sessions: int
    environments: tuple[Environment, ...]
    hardware: tuple[Hardware, ...]
    secrets_file: str


@dataclasses.dataclass(frozen=True)
class Secrets:
    """The secrets file; hidden in every representation."""

    hub_token: str = dataclasses.field(repr=False)
    service_password: str = dataclasses.field(repr=False)
    user_password: str = dataclasses.field(repr=False)


def load(path: Path, kind: type[T]) -> T:
    """Read one JSON file into ``kind`` (``Settings`` or ``Secrets``).

    Raises:
        SettingsError: the file cannot be read, is not JSON, or a value is missing, unknown or of a wrong type.
            Values are never quoted in the text, as they may be secrets.

    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON.") from error
    try:
        return typing.cast("T", read(value, kind, "the file"))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def read(value: Any, kind: Any, where: str) -> Any:
    """Check ``value`` against the annotation ``kind`` and return it as dataclass, tuple, dict or scalar.

    Raises ``SettingsError``, whose text begins with ``where``.
    """
    if dataclasses.is_dataclass(kind):
        return _read_table(value, kind, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else read(value, arguments[0], where)
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{where} must be a list.")
        return tuple(read(item, arguments[0], f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{where} must be an object.")
        return {key: read(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise SettingsError(f"{where} must be of type {kind.__name__}.")
    return kind(value)


def _read_table(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise SettingsError(f"{where} must be an object.")
    annotations = typing.get_type_hints(kind)
    for name in annotations:
        if name not in value:
            raise SettingsError(f"{where} lacks {name}.")
    for name in value:
        if name not in annotations:
            raise SettingsError(f"{where} has the unknown key {name}.")
    parent = "" if where == "the file" else f"{where}."
    return kind(**{name: read(value[name], hint, f"{parent}{name}") for name, hint in annotations.items()})
