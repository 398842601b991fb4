"""The hub's SQLite database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


def commit_fast() -> None:
    """Use SQLite's write-ahead log and sync to disk only at checkpoints.

    The database stays consistent in any case. A power failure may lose the last seconds of commits; the reconciler
    repairs that as it does after a hub was killed.
    """
    event.listen(Engine, "connect", _use_log)


def forget_service_tokens(path: Path) -> None:
    """Delete the tokens of services from the database of a hub that is about to start, if it exists.

    At each start JupyterHub adds the configured tokens but never removes old ones. Without this, a leaked token would
    still be able to start servers after it was rotated.
    """
    if not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'api_tokens'").fetchone():
            connection.execute("DELETE FROM api_tokens WHERE service_id IS NOT NULL")


def _use_log(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
