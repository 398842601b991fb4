"""Settings files and secrets as Docker mounts them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

SECRETS_DIR = "/run/secrets"


class SettingsError(ValueError):
    """A settings file or a secret is invalid; the text is one sentence."""


def read_settings(path: Path, whose: str) -> Any:
    """Return the JSON of a settings file. whose: its owner for messages, such as `hub`. Raises SettingsError."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"the {whose}'s settings {path} cannot be read: {error}") from error


def check_keys(data: Collection[str], known: Collection[str], whose: str) -> None:
    """Raise SettingsError unless the settings have exactly these keys. whose: as in `read_settings`."""
    missing, unknown = sorted(set(known) - set(data)), sorted(set(data) - set(known))
    if missing or unknown:
        raise SettingsError(
            f"the {whose}'s settings do not fit this version: missing keys {', '.join(missing) or 'none'}, unknown keys"
            f" {', '.join(unknown) or 'none'}"
        )


def read_secret(directory: Path, name: str) -> str:
    """Return a secret unchanged, since XNAT and the smoke test use the same value.

    Raises SettingsError if it is missing, empty, or begins or ends with whitespace; preflight refuses that as well.
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
        raise SettingsError(f"the secret {name} begins or ends with a space or a newline")
    return value
