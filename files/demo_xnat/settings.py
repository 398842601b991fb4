"""The settings file and the secrets file of the demo XNAT.

The dataclasses below are the reference of both files: every field is required, no other key is allowed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")


class SettingsError(ValueError):
    """A settings or secrets file is invalid; the text is one sentence with the value and the reason."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings file; everything else is configured through XNAT's REST (docs/xnat-contract.md, 5).

    site_url, archive_path: siteUrl and archivePath of the first start. database: the SQLite file, in a directory that
    exists. secrets_file: the path of the secrets file.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

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

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    password: str = dataclasses.field(repr=False)
    admin_password: str = dataclasses.field(repr=False)


def load(path: Path, kind: type[T]) -> T:
    """Read one JSON file into ``kind`` (``Settings`` or ``Secrets``).

    Raises:
        SettingsError: the file cannot be read, is not JSON, or a value is missing, unknown or of a wrong type.

    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"Cannot read {path}: {error.strerror}.") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {problem(error)}") from None  # the original quotes the values


def problem(error: ValidationError) -> str:
    """The first problem as one sentence: where it is, and pydantic's words.

    Values are never quoted, as they may be secrets.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}." if place else f"{first['msg']}."
