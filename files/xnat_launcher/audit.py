"""The audit log: who logged in, who got access to which data, on which node, and until when.

One JSON object a line. Every line has `time` (UTC, milliseconds), `event`, `deployment` and `schema`, and by its event:

- `log_in`: user, or user_hash instead if the name may be no name (see `Audit.logged_in`), source (client address),
  result (`ok`, `refused`), reason.
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
import ctypes
import errno
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from xnat_wire.launcher import WITHOUT_XNAT, LogIn, shows_name

from xnat_launcher.policy import Mount
from xnat_launcher.syslog import Syslog

log = logging.getLogger("xnat_launcher.audit")

DIRECTORY = "/var/lib/xnat-audit"
SCHEMA = 1
FILE = re.compile(r"(\d{4}-\d\d-\d\d)\.jsonl")
KEY_FILE, KEY_SIZE = "key", 32  # of the hashes of names; module_utils/xnat_site/audit.py computes the same
LONGEST_NAME = 256  # characters of a name or an id
LONGEST_ADDRESS = 64
LONGEST_PATH = 4096  # the kernel's PATH_MAX; no longer path can be mounted
LONGEST_REASON = 500
WRITE_TIMEOUT = 10.0  # seconds that a launch waits for the disk
MAX_WAITING = 10_000  # lines that wait for the disk; those that are not about running servers get half of it
MOST_AT_ONCE = 256  # lines that are written together
RETRY = 5.0  # seconds until lines that could not be written are tried again, if no important one comes earlier
RESERVE = 4 * 2**20  # bytes of the disk for lines about running servers, the stops and ends of about 7000
SMALLEST_RESERVE = 2**16
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of Linux
# How many lines at once, and how many a second after that: a hub that was taken over cannot fill the disk with these.
# If every text has its full length, and every character is escaped, log-ins take 120 MB a day (three kinds together,
# each at the rate at which the hub itself lets people try) and launches that did not start 100 MB.
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

    def append(self, day: str, lines: Sequence[bytes], use_reserve: bool = False) -> None:
        """Write all of a day's lines, or none and raise. day: `YYYY-MM-DD`. lines: without their newlines.

        use_reserve: whether they may fill space that is reserved for lines about running servers.
        """

    def expire(self, today: date) -> None:
        """Remove what is too old."""

    def close(self) -> None:
        """Close the files."""


class Archive:
    """One file for each UTC day, `YYYY-MM-DD.jsonl`, which only root can read.

    The disk reserves RESERVE bytes behind the end of the newest file. Lines that may use the reserve fit there although
    the disk is full; others are written only if the whole reserve is left.

    days: the age at which files are removed; 0 for never.
    """

    def __init__(self, directory: Path, days: int) -> None:
        self._directory = directory
        self._days = days
        self._day = ""
        self._file = -1
        with suppress(OSError):  # a directory that is missing or read-only shows when the first line is written
            directory.chmod(0o700)

    def append(self, day: str, lines: Sequence[bytes], use_reserve: bool = False) -> None:
        """Write lines and wait until they are on the disk. After an error none of them is in its file."""
        file = self._open(day)
        data = b"".join(line + b"\n" for line in lines)
        size = os.fstat(file).st_size
        try:
            if not use_reserve:
                _reserve(file, size, len(data) + RESERVE)
            _write(file, data)
            os.fdatasync(file)
        except OSError:
            with suppress(OSError):
                if os.fstat(file).st_size > size:  # this ends the reserve too, so not if nothing was written
                    os.ftruncate(file, size)
            self.close()
            raise

    def expire(self, today: date) -> None:
        """Remove the files of days that are more than `days` ago."""
        if not self._days:
            return
        oldest = (today - timedelta(days=self._days)).isoformat()
        for day in self._listed():
            if day < oldest:
                self._path(day).unlink(missing_ok=True)  # the node's hourly cleanup removes them too
                log.info("Removed %s.jsonl, which is older than jupyterhub_audit_days (%d)", day, self._days)

    def key(self) -> bytes:
        """Return the key for the hashes of names, which lasts as long as the log. Raises OSError."""
        path = self._directory / KEY_FILE
        with suppress(FileNotFoundError):
            found = path.read_bytes()
            if len(found) == KEY_SIZE:
                return found
        made = secrets.token_bytes(KEY_SIZE)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _write(file, made)
            os.fsync(file)
        finally:
            os.close(file)
        new.replace(path)
        return made

    def close(self) -> None:
        """Close the open file."""
        if self._file >= 0:
            os.close(self._file)
        self._day, self._file = "", -1

    def _path(self, day: str) -> Path:
        return self._directory / f"{day}.jsonl"

    def _listed(self) -> list[str]:
        """Return the days that have a file."""
        return [found[1] for path in self._directory.iterdir() if (found := FILE.fullmatch(path.name))]

    def _open(self, day: str) -> int:
        if day == self._day and os.fstat(self._file).st_nlink:  # it was not removed meanwhile
            return self._file
        self.close()
        self._end_reserve(max((other for other in self._listed() if other != day), default=""))
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._path(day), flags, 0o600)
        self._day, self._file = day, file
        size = os.fstat(file).st_size
        _reserve_what_fits(file, size)
        if size and os.pread(file, 1, size - 1) != b"\n":  # the last line was cut off when the power failed
            _write(file, b"\n")
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return file

    def _end_reserve(self, day: str) -> None:
        """Give back the space that is reserved behind the end of another day's file, so that a new one can have it."""
        if day:
            with suppress(OSError):
                file = os.open(self._path(day), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.ftruncate(file, os.fstat(file).st_size)
                finally:
                    os.close(file)


def _reserve(file: int, offset: int, length: int) -> None:
    """Reserve the bytes of a file from an offset on, without changing its size. Raises OSError.

    Where the file system cannot do this, as NFS before 4.2, nothing happens. Python's posix_fallocate changes the size.
    """
    if _LIBC.fallocate64(file, KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number))


def _reserve_what_fits(file: int, offset: int) -> None:
    """Reserve RESERVE bytes, or on a full disk what another day's file has just given back of it."""
    length = RESERVE
    while length >= SMALLEST_RESERVE:
        try:
            _reserve(file, offset, length)
        except OSError:
            length //= 2
        else:
            break


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def name_hash(key: bytes, name: str) -> str:
    """Return what the log has instead of a name: the same for the same name, and no way back without the key."""
    return hmac.new(key, name.encode(errors="surrogatepass"), "sha256").hexdigest()[:16]


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


class Care(Enum):
    """What becomes of a line that the disk does not take."""

    ONCE = "once"
    """It is dropped: the launch that it records is refused."""
    KEPT = "kept"
    """It waits, and is tried again."""
    LASTING = "lasting"
    """The same, and it may use the reserve: it says when a server ran, and so who had access."""


@dataclass(frozen=True, eq=False)
class Line:
    """A line that waits for the disk. written: becomes the reason why it was not written at once, empty if it was."""

    day: str
    text: str
    care: Care
    written: asyncio.Future[str]


class Audit:
    """Writes the audit log in a thread, in the order of its calls. All calls belong to one event loop.

    Lines that cannot be written wait and are tried again in their order; only those about running servers overtake
    others, since they may use the reserve.

    refuse: whether a launch that cannot be recorded is refused (`jupyterhub_audit_failure`). key: of the hashes of
    names.
    """

    def __init__(
        self,
        deployment: str,
        sink: Sink,
        refuse: bool = True,
        syslog: Syslog | None = None,
        clock: Callable[[], float] = time.monotonic,
        key: bytes = b"",
    ) -> None:
        self._deployment = deployment
        self._sink = sink
        self._refuse = refuse
        self._syslog = syslog
        self._key = key or secrets.token_bytes(KEY_SIZE)
        self._buckets = {
            "accepted log-ins": Bucket(*LOG_INS, clock),
            "refused log-ins": Bucket(*LOG_INS, clock),
            # A flood of these costs nothing, since XNAT is not asked; it hides no line of the others.
            "log-ins that XNAT was not asked about": Bucket(*LOG_INS, clock),
            "launches that did not start": Bucket(*NO_LAUNCHES, clock),
        }
        self._waiting: list[Line] = []
        self._lost = 0
        self._held_up = False
        self._closing = False
        self._wake = asyncio.Event()
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
            Care.ONCE if self._refuse else Care.LASTING,
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
                Care.LASTING if recorded else Care.KEPT,
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
        self._put("running", Care.LASTING, **server.as_fields(), node=_cut(node))

    def stopped(self, server: Server, by: str) -> None:
        """Record that a server's service was removed. by: `hub` or `reconciler`."""
        self._put("stop", Care.LASTING, **server.as_fields(), by=by)

    def ended(self, server: Server, node: str, at: str, reason: str) -> None:
        """Record that a server's container has ended. at: when, as Docker writes it; empty if Swarm does not know."""
        reason = _cut(reason, LONGEST_REASON)
        self._put("end", Care.LASTING, **server.as_fields(), node=_cut(node), at=_cut(at), reason=reason)

    def snapshot(self, living: Sequence[tuple[Server, str]]) -> None:
        """Record all living servers with their nodes; a node is empty until Swarm has chosen it.

        Records nothing if the lines have no room, since a server that is missing in a snapshot counts as ended.
        """
        if len(self._waiting) + len(living) + 1 > MAX_WAITING:
            log.error("The audit log gets no list of the %d living servers: too many lines wait for it", len(living))
            return
        mark = _stamp(datetime.now(UTC))
        for server, node in living:
            self._put("running", Care.LASTING, **server.as_fields(), node=_cut(node), round=mark)
        self._put("snapshot", Care.LASTING, round=mark, count=len(living))

    def logged_in(self, user: str, source: str, reason: LogIn, known: bool) -> None:
        """Record a log-in at the hub's form, or a refused one.

        known: whether the hub knows a person of this name. A name that neither hub nor XNAT knows is recorded as a hash
        only, because people enter passwords as names.
        """
        accepted = reason is LogIn.ACCEPTED
        kind = "accepted log-ins" if accepted else "refused log-ins"
        if self._buckets["log-ins that XNAT was not asked about" if reason in WITHOUT_XNAT else kind].take():
            shown = shows_name(reason, known)
            self._put(
                "log_in",
                Care.KEPT,
                **({"user": _cut(user)} if shown else {"user": "", "user_hash": name_hash(self._key, user)}),
                source=_cut(source, LONGEST_ADDRESS),
                result="ok" if accepted else "refused",
                reason=str(reason),
            )

    async def tidy(self) -> None:
        """Record how many lines were dropped, and remove old files. Raises OSError."""
        dropped = {what: bucket.dropped for what, bucket in self._buckets.items()}
        for bucket in self._buckets.values():
            bucket.dropped = 0
        dropped["lines that waited for the disk"], self._lost = self._lost, 0
        for what, count in dropped.items():
            if count:
                self._put("dropped", Care.KEPT, what=what, count=count)
        await self._in_thread(self._sink.expire, datetime.now(UTC).date())

    async def close(self) -> None:
        """Write what waits, if the disk takes it, then close the files."""
        self._closing = True
        self._wake.set()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._waiting:
            log.error("The launcher ends before %d lines could be written to the audit log", len(self._waiting))
        await self._in_thread(self._sink.close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _put(self, event: str, care: Care, **fields: Any) -> asyncio.Future[str]:
        now = datetime.now(UTC)
        record = {"time": _stamp(now), "event": event, "deployment": self._deployment, "schema": SCHEMA, **fields}
        written = asyncio.get_running_loop().create_future()
        line = Line(now.date().isoformat(), json.dumps(record), care, written)
        if self._syslog:
            self._syslog.put(record)
        if len(self._waiting) >= (MAX_WAITING // 2 if care is Care.KEPT else MAX_WAITING):
            self._lost += 1
            _failed(line, f"{len(self._waiting)} lines wait for its disk")
            return line.written
        self._waiting.append(line)
        if care is not Care.KEPT:  # a launch waits for its answer; others can wait for the next try
            self._wake.set()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return line.written

    async def _write(self) -> None:
        """Write all waiting lines, those that came meanwhile together, so that many launches wait for one fdatasync."""
        at_once = MOST_AT_ONCE
        while self._waiting:
            first = self._waiting[0]
            lines = list(takewhile(lambda line: line.day == first.day, self._waiting[:at_once]))  # noqa: B023
            self._wake.clear()
            reason = await self._append(lines)
            if not reason:
                del self._waiting[: len(lines)]
                at_once = min(2 * at_once, MOST_AT_ONCE)
                self._end_hold_up()
            elif len(lines) > 1:
                at_once = len(lines) // 2  # some of them may fit
            else:
                await self._hold_up(reason)
                if self._waiting and self._waiting[0] is first:
                    if self._closing:
                        break
                    with suppress(TimeoutError):
                        async with asyncio.timeout(RETRY):
                            await self._wake.wait()

    async def _append(self, lines: Sequence[Line], use_reserve: bool = False) -> str:
        """Return why lines of one day could not be written, empty if they were."""
        texts = [line.text.encode() for line in lines]
        try:
            await self._in_thread(self._sink.append, lines[0].day, texts, use_reserve)
        except Exception as error:
            return str(getattr(error, "strerror", None) or error) or type(error).__name__
        for line in lines:
            _answer(line, "")
        return ""

    async def _hold_up(self, reason: str) -> None:
        """Handle that the disk does not take the first line: use the reserve, refuse launches, report what waits."""
        self._held_up = True
        for line in [line for line in self._waiting if line.care is Care.LASTING]:
            if await self._append([line], use_reserve=True):
                break
            self._waiting.remove(line)
        for line in self._waiting:
            if not line.written.done():
                _failed(line, reason)
        self._waiting = [line for line in self._waiting if line.care is not Care.ONCE]

    def _end_hold_up(self) -> None:
        if self._held_up and not self._waiting:
            self._held_up = False
            log.warning("The audit log is complete again: all lines that waited for its disk are written")


def _failed(line: Line, reason: str) -> None:
    log.error("The audit log cannot be written (%s); the line is: %s", reason, line.text)
    _answer(line, reason)


def _answer(line: Line, reason: str) -> None:
    if not line.written.done():
        line.written.set_result(reason)


def _stamp(now: datetime) -> str:
    return now.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _cut(text: str, longest: int = LONGEST_NAME) -> str:
    """Return a text of at most `longest` UTF-16 units, since JSON writes each of these as up to six bytes."""
    units = text.encode("utf-16-le", "surrogatepass")
    if len(units) <= 2 * longest:
        return text
    return units[: 2 * longest].decode("utf-16-le", "surrogatepass") + "…"
