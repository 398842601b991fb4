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
class Settings:
    """The settings file; all else is configured by XNAT's REST (docs/xnat-contract.md, 5).

    site_url, archive_path: siteUrl and archivePath of the first start. database: the SQLite file, in a directory that
    exists. secrets_file: the path of the secrets file.
    """

    port: int
    site_url: str
    archive_path: str
    database: str
    secrets_file: str


@dataclasses.dataclass(frozen=True)
class Secrets:
    """The secrets file, hidden in every representation.

    password: of all people at the first start. admin_password: of the administrator.
    """

    password: str = dataclasses.field(repr=False)
    admin_password: str = dataclasses.field(repr=False)


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
    """Check ``value`` against the annotation ``kind`` and return it as dataclass, tuple or scalar.

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
