"""The audit log: who logged in, who got access to which data, on which node, and until when.

One JSON object a line. Every line has `time` (UTC, milliseconds), `event`, `deployment` and `schema`, and by its event:

- `log_in`: user (as entered), source (client address), result (`ok`, `refused`), reason.
- `launch`: user, server, service, project, item, xsi_type, mounts [{source, target, mode}], image, image_id, result
  (`started`, `refused`, `failed`), kind and reason. A `started` line is on the disk before the service is created; if
  that fails, a `failed` line with `begun` follows.
- `running`: user, server, service, project, node: where Swarm has placed a server. With `round`: see `snapshot`.
- `stop`: user, server, service, project, by (`hub`, `reconciler`): its service was removed.
- `end`: user, server, service, project, node, at (when, as far as Swarm knows), reason: its container has ended.
- `snapshot`: round, count. After each start of the launcher and on each day, one `running` line with the same `round`
  for every living server, then this line: a server that is not among them has ended.
- `dropped`: what, count: lines that were not written because too many of their kind came.

`module_utils/xnat_site/audit.py` reads the lines. No line contains a secret or the value of a variable. All texts are
cut, and JSON escapes control characters and everything that is not ASCII, so no value can begin a line of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from xnat_wire.launcher import LogIn

from xnat_launcher.policy import Mount
from xnat_launcher.syslog import Syslog

log = logging.getLogger("xnat_launcher.audit")

DIRECTORY = "/var/lib/xnat-audit"
SCHEMA = 1
FILE = re.compile(r"(\d{4}-\d\d-\d\d)\.jsonl")
LONGEST_NAME = 256  # characters of a name or an id
LONGEST_ADDRESS = 64
LONGEST_PATH = 4096  # the kernel's PATH_MAX; no longer path can be mounted
LONGEST_REASON = 500
WRITE_TIMEOUT = 10.0  # seconds that a launch waits for the disk
MAX_WAITING = 10_000  # lines that wait for the disk
# How many lines at once, and how many a second after that: a hub that was taken over cannot fill the disk with these.
# If every text has its full length, and every character is escaped, log-ins take 80 MB a day (both kinds together, at
# the rate at which the hub itself lets people try) and launches that did not start 90 MB.
LOG_INS = 500, 0.2
NO_LAUNCHES = 200, 0.1


class AuditError(Exception):
    """A launch cannot be recorded; the text is one sentence for users and administrators.

    unsure: whether its line may be on the disk all the same, because the disk did not answer in time.
    """

    def __init__(self, text: str, unsure: bool = False) -> None:
        super().__init__(text)
        self.unsure = unsure


class Sink(Protocol):
    """What keeps the lines. Its methods block and raise OSError."""

    def append(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Write lines, each with its day (`YYYY-MM-DD`) and without its newline."""

    def expire(self, today: date) -> None:
        """Remove what is too old."""

    def close(self) -> None:
        """Close the files."""


class Archive:
    """One file for each UTC day, `YYYY-MM-DD.jsonl`, which only root can read.

    days: the age at which files are removed; 0 for never.
    """

    def __init__(self, directory: Path, days: int) -> None:
        self._directory = directory
        self._days = days
        self._day = ""
        self._file = -1
        with suppress(OSError):  # a directory that is missing or read-only shows when the first line is written
            directory.chmod(0o700)

    def append(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Write lines and wait until they are on the disk. After an error none of a day's lines is in its file."""
        for day, group in groupby(lines, key=lambda line: line[0]):
            file = self._open(day)
            size = os.fstat(file).st_size
            try:
                _write(file, b"".join(line + b"\n" for _, line in group))
                os.fdatasync(file)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file, size)
                self.close()
                raise

    def expire(self, today: date) -> None:
        """Remove the files of days that are more than `days` ago."""
        if not self._days:
            return
        oldest = (today - timedelta(days=self._days)).isoformat()
        for path in self._directory.iterdir():
            found = FILE.fullmatch(path.name)
            if found and found[1] < oldest:
                path.unlink()
                log.info("Removed %s, which is older than jupyterhub_audit_days (%d)", path.name, self._days)

    def close(self) -> None:
        """Close the open file."""
        if self._file >= 0:
            os.close(self._file)
        self._day, self._file = "", -1

    def _open(self, day: str) -> int:
        if day == self._day and os.fstat(self._file).st_nlink:  # it was not removed meanwhile
            return self._file
        self.close()
        path = self._directory / f"{day}.jsonl"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._day, self._file = day, file
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # the last line was cut off when the power failed
            _write(file, b"\n")
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return file


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


@dataclass
class Bucket:
    """Lets `burst` lines pass at once and then `rate` a second. dropped: how many did not since it was last read."""

    burst: float
    rate: float
    clock: Callable[[], float] = time.monotonic
    dropped: int = 0
    _level: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._at = self.burst, self.clock()

    def take(self) -> bool:
        """Return whether a line may pass."""
        now = self.clock()
        self._level, self._at = min(self.burst, self._level + (now - self._at) * self.rate), now
        if self._level < 1:
            self.dropped += 1
            return False
        self._level -= 1
        return True


@dataclass(frozen=True)
class Server:
    """The server that a line is about. service: the name of its Swarm service. project: XNAT's, empty if unknown."""

    user: str
    name: str
    service: str
    project: str = ""

    def as_fields(self) -> dict[str, str]:
        """Return the fields of a line."""
        return {
            "user": _cut(self.user),
            "server": _cut(self.name),
            "service": _cut(self.service),
            "project": _cut(self.project),
        }


@dataclass(frozen=True)
class Line:
    """A line that waits for the disk. written: becomes the reason why it could not be written, empty for success."""

    day: str
    text: str
    written: asyncio.Future[str]


class Audit:
    """Writes the audit log in a thread, in the order of its calls. All calls belong to one event loop.

    refuse: whether a launch that cannot be recorded is refused (`jupyterhub_audit_failure`).
    """

    def __init__(
        self,
        deployment: str,
        sink: Sink,
        refuse: bool = True,
        syslog: Syslog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployment = deployment
        self._sink = sink
        self._refuse = refuse
        self._syslog = syslog
        self._buckets = {
            "accepted log-ins": Bucket(*LOG_INS, clock),
            "refused log-ins": Bucket(*LOG_INS, clock),
            "launches that did not start": Bucket(*NO_LAUNCHES, clock),
        }
        self._waiting: list[Line] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")

    def check(self) -> None:
        """Raise AuditError if the syslog server's queue is full and launches that cannot be recorded are refused."""
        if self._refuse and self._syslog and self._syslog.full:
            raise AuditError(
                f"This launch is refused because the syslog server {self._syslog.target} does not accept audit lines:"
                " ask the administrator to repair it, or to change jupyterhub_audit_syslog or jupyterhub_audit_failure."
            )

    async def started(
        self, server: Server, xsi_type: str, item: str, image: str, image_id: str, mounts: Iterable[Mount]
    ) -> None:
        """Record that a server's service is about to be created; returns when the line is on the disk.

        Raises AuditError if it cannot be recorded and such launches are refused.
        """
        shown = [
            {
                "source": _cut(mount.source, LONGEST_PATH),
                "target": _cut(mount.target, LONGEST_PATH),
                "mode": "ro" if mount.read_only else "rw",
            }
            for mount in mounts
        ]
        written = self._put(
            "launch",
            **server.as_fields(),
            item=_cut(item),
            xsi_type=_cut(xsi_type),
            mounts=shown,
            image=_cut(image),
            image_id=_cut(image_id),
            result="started",
        )
        unsure = False
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                wrong = await asyncio.shield(written)
        except TimeoutError:
            unsure = True
            wrong = f"its disk has not answered for {WRITE_TIMEOUT:g} s"
            log.error("The audit log cannot be written: %s", wrong)
        if wrong and self._refuse:
            raise AuditError(
                f"This launch is refused because it cannot be recorded in the audit log ({wrong}): ask the"
                f" administrator to make the volume {self._deployment}-audit on the hub's node writable, with free"
                " space, or to set jupyterhub_audit_failure to continue.",
                unsure,
            )

    def not_started(
        self,
        server: Server,
        xsi_type: str,
        item: str,
        image: str,
        kind: str,
        reason: str,
        *,
        failed: bool,
        recorded: bool,
    ) -> None:
        """Record a launch that was refused, or that failed.

        kind: the id of the reason. recorded: whether there may be a line that says `started`; this one is then written
        however many come.
        """
        if recorded or self._buckets["launches that did not start"].take():
            self._put(
                "launch",
                **server.as_fields(),
                item=_cut(item),
                xsi_type=_cut(xsi_type),
                mounts=[],
                image=_cut(image),
                image_id="",
                result="failed" if failed else "refused",
                kind=kind,
                reason=_cut(reason, LONGEST_REASON),
                begun=recorded,
            )

    def running(self, server: Server, node: str) -> None:
        """Record the node of a server."""
        self._put("running", **server.as_fields(), node=_cut(node))

    def stopped(self, server: Server, by: str) -> None:
        """Record that a server's service was removed. by: `hub` or `reconciler`."""
        self._put("stop", **server.as_fields(), by=by)

    def ended(self, server: Server, node: str, at: str, reason: str) -> None:
        """Record that a server's container has ended. at: when, as Docker writes it; empty if Swarm does not know."""
        self._put("end", **server.as_fields(), node=_cut(node), at=_cut(at), reason=_cut(reason, LONGEST_REASON))

    def snapshot(self, living: Iterable[tuple[Server, str]]) -> None:
        """Record all living servers with their nodes; a node is empty until Swarm has chosen it."""
        mark = _stamp(datetime.now(UTC))
        count = 0
        for count, (server, node) in enumerate(living, 1):  # noqa: B007  (used after the loop)
            self._put("running", **server.as_fields(), node=_cut(node), round=mark)
        self._put("snapshot", round=mark, count=count)

    def logged_in(self, user: str, source: str, reason: LogIn) -> None:
        """Record a log-in at the hub's form, or a refused one."""
        accepted = reason is LogIn.ACCEPTED
        if self._buckets["accepted log-ins" if accepted else "refused log-ins"].take():
            self._put(
                "log_in",
                user=_cut(user),
                source=_cut(source, LONGEST_ADDRESS),
                result="ok" if accepted else "refused",
                reason=str(reason),
            )

    async def tidy(self) -> None:
        """Record how many lines were dropped, and remove old files. Raises OSError."""
        for what, bucket in self._buckets.items():
            if bucket.dropped:
                self._put("dropped", what=what, count=bucket.dropped)
                bucket.dropped = 0
        await self._in_thread(self._sink.expire, datetime.now(UTC).date())

    async def close(self) -> None:
        """Write what waits, then close the files."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._in_thread(self._sink.close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _put(self, event: str, **fields: Any) -> asyncio.Future[str]:
        now = datetime.now(UTC)
        record = {"time": _stamp(now), "event": event, "deployment": self._deployment, "schema": SCHEMA, **fields}
        line = Line(now.date().isoformat(), json.dumps(record), asyncio.get_running_loop().create_future())
        if self._syslog:
            self._syslog.put(record)
        if len(self._waiting) >= MAX_WAITING:
            _failed([line], f"{MAX_WAITING} lines wait for its disk")
            return line.written
        self._waiting.append(line)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return line.written

    async def _write(self) -> None:
        """Write all waiting lines, those that came meanwhile together, so that many launches wait for one fdatasync."""
        while self._waiting:
            lines, self._waiting = self._waiting, []
            try:
                await self._in_thread(self._sink.append, [(line.day, line.text.encode()) for line in lines])
            except Exception as error:
                _failed(lines, str(getattr(error, "strerror", None) or error))
            else:
                for line in lines:
                    line.written.set_result("")


def _failed(lines: Iterable[Line], reason: str) -> None:
    for line in lines:
        log.error("The audit log cannot be written (%s); the line is: %s", reason, line.text)
        line.written.set_result(reason)


def _stamp(now: datetime) -> str:
    return now.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _cut(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"
