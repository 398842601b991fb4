"""Secrets as Docker mounts them."""

from __future__ import annotations

from pathlib import Path

SECRETS_DIR = "/run/secrets"


class SettingsError(ValueError):
    """A settings file or a secret cannot be used; one sentence."""


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
