"""The audit log: who got access to which data, and when. One JSON object per start and stop, on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from xnat_launcher.policy import Mount


class Audit:
    """Writes the audit log. write: a function that writes one line, given without its newline."""

    def __init__(self, write: Callable[[str], None] = lambda line: print(line, flush=True)) -> None:
        self._write = write

    def started(self, user: str, server: str, project: str, image: str, mounts: Sequence[Mount], service: str) -> None:
        """Record that a server's service is about to be created."""
        shown = [{"source": mount.source, "target": mount.target, "read_only": mount.read_only} for mount in mounts]
        self._line("start", user, server, project=project, image=image, mounts=shown, service=service)

    def refused(self, user: str, server: str, reason: str) -> None:
        """Record that a launch was refused."""
        self._line("refusal", user, server, reason=reason)

    def stopped(self, user: str, server: str) -> None:
        """Record that a server's service was removed."""
        self._line("stop", user, server)

    def _line(self, event: str, user: str, server: str, **more: object) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write(json.dumps({"audit": event, "at": at, "user": user, "server": server, **more}))
