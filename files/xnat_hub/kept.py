"""A value that the hub keeps in a file beside its database, so that it outlives the hub's restarts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Generic, TypeVar

DIRECTORY = Path("/srv/jupyterhub")

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """JSON in a file that only the hub writes. empty: the value without a file; its type is that of all values."""

    def __init__(self, file: Path, empty: Value) -> None:
        self._file = file
        self._empty = empty
        self._value: Value | None = None

    def get(self) -> Value:
        """Return the value; the empty one if the file cannot be read."""
        if self._value is None:
            try:
                found = json.loads(self._file.read_text())
            except (OSError, ValueError):
                found = self._empty
            self._value = found if isinstance(found, type(self._empty)) else self._empty
        return self._value

    def set(self, value: Value) -> None:
        """Store a value. Raises OSError."""
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(value))
        os.replace(part, self._file)
        self._value = value
