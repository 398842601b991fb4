"""Settings files and secrets as Docker mounts them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

SECRETS_DIR = "/run/secrets"


class SettingsError(ValueError):
    """A settings file or a secret cannot be used; one sentence."""


def read_settings(path: Path, whose: str) -> Any:
    """Return the JSON of a settings file. whose: such as `hub`, for the sentence. Raises SettingsError."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"the {whose}'s settings {path} cannot be read: {error}") from error


def check_keys(data: Collection[str], known: Collection[str], whose: str) -> None:
    """Raise SettingsError unless the settings have exactly these keys. whose: as in `read_settings`."""
    missing, unknown = sorted(set(known) - set(data)), sorted(set(data) - set(known))
    if missing or unknown:
        raise SettingsError(
            f"the {whose}'s settings miss {missing or 'nothing'} and have unknown {unknown or 'nothing'}"
        )


def read_secret(directory: Path, name: str) -> str:
    """Return a secret as it is, since XNAT and the smoke test have it so.

    Raises SettingsError if it is missing, empty, or has a blank or newline at an end, which preflight refuses too.
    """
    try:
        value = (directory / name).read_bytes().decode()
    except OSError as error:
        raise SettingsError(f"the secret {name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the secret {name} is not UTF-8") from error
    if not value:
        raise SettingsError(f"the secret {name} is empty")
    if value != value.strip():
        raise SettingsError(f"the secret {name} begins or ends with a blank or a newline")
    return value
