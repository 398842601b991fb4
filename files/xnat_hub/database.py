"""The hub's SQLite database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


def commit_fast() -> None:
    """Let SQLite write a log ahead of the database, and wait for the disk only when it copies that log.

    The database stays whole whatever happens. A power failure may take the last seconds of commits, which the keeper
    mends as it does after a hub that was killed.
    """
    event.listen(Engine, "connect", _use_log)


def _use_log(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
