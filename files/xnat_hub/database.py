"""The hub's SQLite database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


def commit_fast() -> None:
    """Let SQLite write a log ahead of the database, and wait for the disk only when it copies that log.

    The database stays whole whatever happens. A power failure may take the last seconds of commits, which the
    reconciler mends as it does after a hub that was killed.
    """
    event.listen(Engine, "connect", _use_log)


def forget_service_tokens(path: Path) -> None:
    """Take the tokens of services out of the database of a hub that is about to start, if there is one.

    JupyterHub adds those that are configured at each start, and keeps every one that ever was: a token that was made
    anew, because somebody may know it, would go on to start servers for anybody.
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
