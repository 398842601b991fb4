"""The persistent state of the demo XNAT: JSON documents by table and key, in memory and in one SQLite file."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# (table, key) -> the new document; None removes it.
Changes = Mapping[tuple[str, str], Any]
LAST_ID = "last_id"  # the key of a table's last id


class DatabaseError(RuntimeError):
    """The file is not usable; the text is one sentence that names it and the cause."""


class Database:
    """All documents, read once. Each change is written to disk before memory is updated."""

    def __init__(self, path: Path) -> None:
        self._tables: dict[str, dict[str, Any]] = {}
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(path)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS documents"
                    " (kind TEXT NOT NULL, key TEXT NOT NULL, json TEXT NOT NULL, PRIMARY KEY (kind, key))"
                )
            for kind, key, text in self._connection.execute("SELECT kind, key, json FROM documents ORDER BY rowid"):
                self.table(kind)[key] = json.loads(text)
        except (OSError, sqlite3.Error) as error:
            raise DatabaseError(f"Cannot use the database {path}: {getattr(error, 'strerror', error)}.") from error

    def is_empty(self) -> bool:
        """Whether nothing was ever written, so this is the first start."""
        return not any(self._tables.values())

    def table(self, name: str) -> dict[str, Any]:
        """The documents of one table by key, in order of creation. Read-only: ``write`` changes them."""
        return self._tables.setdefault(name, {})

    def write(self, changes: Changes) -> None:
        """Make all changes, or none if the process is interrupted or the disk fails."""
        with self._connection:
            for (kind, key), document in changes.items():
                if document is None:
                    self._connection.execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key))
                else:
                    self._connection.execute(
                        "INSERT INTO documents VALUES (?, ?, ?)"
                        " ON CONFLICT (kind, key) DO UPDATE SET json = excluded.json",
                        (kind, key, json.dumps(document)),
                    )
        for (kind, key), document in changes.items():
            if document is None:
                self.table(kind).pop(key, None)
            else:
                self.table(kind)[key] = json.loads(json.dumps(document))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class Table:
    """Rows by id, kept in the database under the table's name; an id is never used again."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        stored = database.table(name)
        self.rows: dict[int, dict[str, Any]] = {int(key): row for key, row in stored.items() if key != LAST_ID}
        self._last_id: int = stored.get(LAST_ID, 0)

    def put(self, row: dict[str, Any], number: int | None = None) -> dict[str, Any]:
        """Store a row under its id, or under a new one, and return it."""
        number = number or self._last_id + 1
        row = row | {"id": number}
        last_id = max(self._last_id, number)
        self._database.write({(self._name, str(number)): row, (self._name, LAST_ID): last_id})
        self._last_id = last_id
        self.rows[number] = row
        return row

    def delete(self, number: int) -> bool:
        """Remove a row; False if there is none."""
        self._database.write({(self._name, str(number)): None})
        return self.rows.pop(number, None) is not None
