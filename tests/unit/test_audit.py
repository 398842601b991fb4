"""The audit log as the launcher writes it: files, order, floods, failures, the syslog server, and ends of servers."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import re
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from demo_xnat.state import State
from xnat_hub import launcher as hub_launcher
from xnat_launcher import audit as audit_module
from xnat_launcher import syslog as syslog_module
from xnat_launcher import watch as watch_module
from xnat_launcher.audit import LOG_INS, NO_LAUNCHES, RESERVE, Archive, Audit, Bucket, Server
from xnat_launcher.docker import UnreachableError
from xnat_launcher.policy import Mount
from xnat_launcher.service import LABEL, service_name
from xnat_launcher.settings import Settings, parse
from xnat_launcher.swarm import Task
from xnat_launcher.syslog import LONGEST, Syslog, Target, message, parse_target
from xnat_launcher.watch import ending
from xnat_wire.launcher import WITHOUT_XNAT, Kind, LogIn, RefusedError
from xnat_wire.settings import SettingsError

from module_utils.xnat_site import audit as reader
from tests.hub_settings import launcher_settings_data
from tests.unit.authority import Authority
from tests.unit.conftest import ROOT
from tests.unit.launcher_bed import (
    HUB_ENV,
    LAUNCH,
    NO_LEAKS,
    Bed,
    MemorySink,
    demo_xnat,
    launcher_bed,
    site,
    store_launch,
    until,
)

pytestmark = NO_LEAKS
DAY = "2026-11-28"
NAME = service_name("jupyterhub", "jdoe", LAUNCH)
JDOE = Server("jdoe", LAUNCH, NAME, "DEMO_MR")
MOUNT = Mount("/srv/xnat/archive/DEMO_MR/arc001", "/data/projects/DEMO_MR", True)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def events(sink: MemorySink) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sink.lines]


def with_audit(check: Callable[[Audit, MemorySink], Awaitable[None]], **options: Any) -> MemorySink:
    """Run a check with an audit log in memory, and close it."""
    sink = MemorySink()

    async def serve() -> None:
        audit = Audit("jupyterhub", sink, **options)
        try:
            await check(audit, sink)
        finally:
            await audit.close()

    asyncio.run(serve())
    return sink


async def start(audit: Audit, *mounts: Mount) -> None:
    await audit.started(JDOE, "xnat:projectData", "DEMO_MR", "localhost/x:1", "sha256:1", mounts)


# ---- files


def test_lines_are_in_a_file_of_their_day_for_root_alone(tmp_path: Path) -> None:
    archive = Archive(tmp_path, 0)
    archive.append("2026-11-27", [b"1"])
    archive.append("2026-11-28", [b"2", b"3"])
    archive.append("2026-11-27", [b"4"])
    archive.close()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "2026-11-27.jsonl": "1\n4\n", "2026-11-28.jsonl": "2\n3\n",
    }  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_line_that_a_power_failure_has_cut_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.jsonl").write_bytes(b'{"a": 1}\n{"b"')
    archive = Archive(tmp_path, 0)
    archive.append(DAY, [b"{}"])
    archive.close()
    assert (tmp_path / f"{DAY}.jsonl").read_bytes() == b'{"a": 1}\n{"b"\n{}\n'


def test_of_lines_that_do_not_fit_on_the_disk_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path, 0)
    archive.append(DAY, [b"before"])
    write = os.write

    def half(file: int, data: memoryview) -> int:
        if len(data) < 4:
            raise FULL
        return write(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        archive.append(DAY, [b"does not fit"])
    monkeypatch.undo()
    archive.append(DAY, [b"after"])
    archive.close()
    assert (tmp_path / f"{DAY}.jsonl").read_text() == "before\nafter\n"


def reserved(path: Path) -> int:
    """Return the bytes of the disk that a file has beyond its content."""
    return path.stat().st_blocks * 512 - path.stat().st_size


def can_reserve(folder: Path) -> bool:
    probe = folder / "probe"
    with probe.open("wb") as file:
        audit_module._reserve(file.fileno(), 0, RESERVE)
    found = reserved(probe)
    probe.unlink()
    return found >= RESERVE


def test_only_lines_about_running_servers_use_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_reserve(tmp_path):
        pytest.skip("this file system reserves nothing")
    archive = Archive(tmp_path, 0)
    archive.append("2026-11-27", [b"1"])
    yesterday, today = tmp_path / "2026-11-27.jsonl", tmp_path / f"{DAY}.jsonl"
    assert yesterday.stat().st_size == 2
    assert reserved(yesterday) >= RESERVE
    archive.append(DAY, [b"2"])
    assert reserved(yesterday) < 64 * 1024  # it was given back for the new file
    assert reserved(today) >= RESERVE

    real = audit_module._LIBC.fallocate64

    def half(file: int, mode: int, offset: int, length: int) -> int:
        if length <= RESERVE // 2:
            return int(real(file, mode, offset, length))
        ctypes.set_errno(errno.ENOSPC)
        return -1

    with monkeypatch.context() as patch:  # at midnight, on a full disk with half of the reserve left
        patch.setattr(audit_module._LIBC, "fallocate64", half)
        archive.append("2026-11-29", [b"5"], use_reserve=True)
    tomorrow = tmp_path / "2026-11-29.jsonl"
    assert reserved(today) < 64 * 1024
    assert RESERVE // 2 - 64 * 1024 < reserved(tomorrow) < RESERVE
    archive.append(DAY, [b"2"])
    tomorrow.unlink()

    def full(*arguments: int) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr(audit_module._LIBC, "fallocate64", full)
    with pytest.raises(OSError, match="No space"):
        archive.append(DAY, [b"a log-in"])
    assert reserved(today) >= RESERVE  # a refused line does not give it back
    archive.append(DAY, [b"x" * 2**20], use_reserve=True)
    assert RESERVE - 2**20 - 64 * 1024 < reserved(today) < RESERVE - 2**20 + 64 * 1024  # it was written in there
    archive.close()
    again = Archive(tmp_path, 0)  # a new launcher
    again.append(DAY, [b"3"], use_reserve=True)
    again.close()
    assert today.read_text().split() == ["2", "2", "x" * 2**20, "3"]
    monkeypatch.undo()
    again.append(DAY, [b"4"])
    assert reserved(today) >= RESERVE  # taken again
    again.close()


def test_a_file_system_that_cannot_reserve_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*arguments: int) -> int:
        ctypes.set_errno(errno.EOPNOTSUPP)
        return -1

    monkeypatch.setattr(audit_module._LIBC, "fallocate64", unable)
    archive = Archive(tmp_path, 0)
    archive.append(DAY, [b"1"])
    archive.close()
    assert (tmp_path / f"{DAY}.jsonl").read_text() == "1\n"


def test_the_key_of_the_hashes_lasts_and_only_root_can_read_it(tmp_path: Path) -> None:
    archive = Archive(tmp_path, 1)
    key = archive.key()
    assert len(key) == 32
    archive.expire(date(2030, 1, 1))
    assert Archive(tmp_path, 1).key() == key
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    (tmp_path / "key").write_bytes(key[:7])  # the power failed
    assert len(other := archive.key()) == 32
    assert archive.key() == other != key
    assert audit_module.name_hash(key, "j\ud800doe") == reader.name_hash(key, "j\ud800doe")
    assert reader.KEY_FILE == audit_module.KEY_FILE


def test_a_file_that_was_removed_or_is_a_link_gets_no_further_lines(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    archive = Archive(folder, 0)
    archive.append(DAY, [b"1"])
    (folder / f"{DAY}.jsonl").unlink()
    archive.append(DAY, [b"2"])
    assert (folder / f"{DAY}.jsonl").read_text() == "2\n"
    (folder / "2026-11-29.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        archive.append("2026-11-29", [b"3"])
    archive.close()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("days", "left"), [(0, 4), (2, 3), (1, 2)], ids=["for-ever", "two-days", "one-day"])
def test_old_files_are_removed_and_nothing_else(tmp_path: Path, days: int, left: int) -> None:
    for name in ("2026-11-25.jsonl", "2026-11-26.jsonl", "2026-11-27.jsonl", "2026-11-28.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    if days:
        (tmp_path / "2020-01-01.jsonl.gz").touch()
    Archive(tmp_path, days).expire(date(2026, 11, 28))
    assert len(list(tmp_path.glob("2026-*.jsonl"))) == left
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "2020-01-01.jsonl.gz").exists() is bool(days)


# ---- lines


def test_a_launch_has_all_that_a_security_officer_asks_for(caplog: pytest.LogCaptureFixture) -> None:
    async def check(audit: Audit, sink: MemorySink) -> None:
        await start(audit, MOUNT)
        (line,) = events(sink)  # it is there before the service is created
        assert line.pop("time").endswith("Z")
        assert line == {
            "event": "launch", "deployment": "jupyterhub", "schema": 1, "user": "jdoe", "server": LAUNCH,
            "service": NAME, "project": "DEMO_MR", "item": "DEMO_MR", "xsi_type": "xnat:projectData",
            "mounts": [{"source": MOUNT.source, "target": MOUNT.target, "mode": "ro"}], "image": "localhost/x:1",
            "image_id": "sha256:1", "result": "started",
        }  # fmt: skip

    with_audit(check)
    assert not caplog.records


ODD = 'x\n{"event": "launch"}\r\u2028\x85\0\ud800\x1b[0m' + "y" * 10_000


def test_no_text_makes_a_line_of_its_own_or_a_long_one() -> None:
    async def check(audit: Audit, sink: MemorySink) -> None:
        odd = Server(ODD, ODD, ODD, ODD)
        await audit.started(odd, ODD, ODD, ODD, ODD, [])
        audit.not_started(odd, ODD, ODD, ODD, "docker", ODD, failed=True, recorded=True)
        audit.running(odd, ODD)
        audit.stopped(odd, "hub")
        audit.ended(odd, ODD, ODD, ODD)
        audit.logged_in(ODD, ODD, LogIn.CREDENTIALS, True)
        audit.logged_in(ODD, ODD, LogIn.CREDENTIALS, False)

    lines = with_audit(check).lines
    assert [json.loads(line)["event"] for line in lines] == ["launch", "launch", "running", "stop", "end"] + [
        "log_in"
    ] * 2
    assert all(line.isprintable() and len(line) < 4000 for line in lines)


def test_lines_keep_their_order_and_share_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 0

    async def check(audit: Audit, sink: MemorySink) -> None:
        append = sink.append

        def counted(*arguments: Any) -> None:
            nonlocal writes
            writes += 1
            append(*arguments)

        monkeypatch.setattr(sink, "append", counted)
        for number in range(50):
            audit.running(replace(JDOE, name=str(number)), "w1")
        await asyncio.gather(*(start(audit) for _ in range(50)))

    sink = with_audit(check)
    assert [line["server"] for line in events(sink)[:50]] == [str(number) for number in range(50)]
    assert len(sink.lines) == 100
    assert writes < 10
    assert sink.closed


def test_the_event_loop_does_not_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(audit: Audit, sink: MemorySink) -> None:
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(*arguments: Any) -> None:
            asyncio.run_coroutine_threadsafe(opened.wait(), loop).result(5)

        monkeypatch.setattr(sink, "append", slow)
        launch = asyncio.create_task(start(audit))
        await asyncio.sleep(0.01)
        assert not launch.done()
        opened.set()
        await launch

    with_audit(check)


# ---- floods


def test_a_bucket_lets_a_course_log_in_and_slows_a_flood() -> None:
    now = 0.0
    bucket = Bucket(3, 0.5, lambda: now)
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]
    now = 2.0
    assert [bucket.take() for _ in range(2)] == [True, False]
    assert bucket.dropped == 3
    now = 1000.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_a_flood_is_counted_in_one_line_and_hides_no_other_kind() -> None:
    burst, refusals = LOG_INS[0], NO_LAUNCHES[0]

    async def check(audit: Audit, sink: MemorySink) -> None:
        for _ in range(burst + 10):
            audit.logged_in("mallory", "192.0.2.1", LogIn.CREDENTIALS, True)
            audit.logged_in("mallory", "192.0.2.1", LogIn.TOO_OFTEN, True)
        for _ in range(refusals + 20):
            audit.not_started(JDOE, "", "", "", "no_launch", "x", failed=False, recorded=False)
        audit.logged_in("jdoe", "192.0.2.2", LogIn.ACCEPTED, False)
        audit.not_started(JDOE, "", "", "", "docker", "x", failed=True, recorded=True)  # closes a started one
        await start(audit)
        await audit.tidy()
        await audit.tidy()
        assert len(sink.expired) == 2

    lines = events(with_audit(check, clock=lambda: 0.0))
    assert sum(line["event"] == "log_in" for line in lines) == 2 * burst + 1
    assert [line["user"] for line in lines if line.get("result") == "ok"] == ["jdoe"]
    assert [line["result"] for line in lines if line["event"] == "launch"][-2:] == ["failed", "started"]
    dropped = [(line["what"], line["count"]) for line in lines if line["event"] == "dropped"]
    assert dropped == [
        ("refused log-ins", 10), ("log-ins that XNAT was not asked about", 10), ("launches that did not start", 20),
    ]  # fmt: skip


@pytest.mark.parametrize("reason", WITHOUT_XNAT)
def test_a_flood_that_xnat_is_not_asked_about_hides_no_real_refusal(reason: LogIn) -> None:
    async def check(audit: Audit, sink: MemorySink) -> None:
        for _ in range(LOG_INS[0] + 10):
            audit.logged_in("mallory", "192.0.2.1", reason, False)
        audit.logged_in("jdoe", "192.0.2.2", LogIn.CREDENTIALS, True)

    assert events(with_audit(check, clock=lambda: 0.0))[-1]["user"] == "jdoe"


def test_what_a_flood_can_write_in_a_day_is_what_the_documentation_says() -> None:
    wide = "\N{GRINNING FACE}" * 4096

    async def check(audit: Audit, sink: MemorySink) -> None:
        audit.logged_in(wide[:256], wide[:256], LogIn.ACCEPTED, True)
        audit.not_started(Server(wide, "x" * 64, "x" * 37, wide), *(wide,) * 3, "k", wide, failed=True, recorded=False)

    sizes = [len(line) + 1 for line in with_audit(check).lines]
    kinds = [(3, LOG_INS, sizes[0]), (1, NO_LAUNCHES, sizes[1])]
    megabytes = sum(count * (burst + 86400 * rate) * size for count, (burst, rate), size in kinds) / 10**6
    found = re.search(r"fills at most (\d+) MB a day", (ROOT / "docs/audit.md").read_text())
    assert found
    assert 0.9 < megabytes / int(found[1]) <= 1


# ---- names


@pytest.mark.parametrize(
    ("reason", "known", "shown"),
    [
        (LogIn.ACCEPTED, False, True),
        (LogIn.NO_RIGHT, False, True),
        (LogIn.ACTION, False, True),
        (LogIn.CREDENTIALS, True, True),
        (LogIn.CREDENTIALS, False, False),
        (LogIn.NOT_PERMITTED, False, False),
        (LogIn.FORM, False, False),
        (LogIn.NAME, False, False),
        (LogIn.TOO_OFTEN, False, False),
        (LogIn.XNAT, False, False),
        (LogIn.HUB, False, False),
    ],
)
def test_a_name_that_nobody_has_is_only_a_hash_since_it_may_be_a_password(
    reason: LogIn, known: bool, shown: bool
) -> None:
    async def check(audit: Audit, sink: MemorySink) -> None:
        for name in ("hunter2-horse", "hunter2-horse", "other"):
            audit.logged_in(name, "192.0.2.1", reason, known)

    sink = with_audit(check, key=b"k" * 32)
    assert ("hunter2" in "".join(sink.lines)) is shown
    first, same, other = events(sink)
    if shown:
        assert first["user"] == "hunter2-horse"
        assert "user_hash" not in first
    else:
        assert first["user"] == ""
        assert first["user_hash"] == same["user_hash"] == reader.name_hash(b"k" * 32, "hunter2-horse")
        assert other["user_hash"] != first["user_hash"]


def test_lines_that_wait_for_a_disk_that_hangs_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_module, "MAX_WAITING", 5)
    monkeypatch.setattr(audit_module, "WRITE_TIMEOUT", 0.01)

    async def check(audit: Audit, sink: MemorySink) -> None:
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()

        append = sink.append

        def hang(*arguments: Any) -> None:
            asyncio.run_coroutine_threadsafe(opened.wait(), loop).result(5)
            append(*arguments)

        monkeypatch.setattr(sink, "append", hang)
        with pytest.raises(audit_module.AuditError, match="has not answered"):
            await start(audit)
        audit.logged_in("jdoe", "192.0.2.1", LogIn.ACCEPTED, True)
        audit.logged_in("jdoe", "192.0.2.1", LogIn.ACCEPTED, True)  # these get no more than half of the places
        for _ in range(8):
            audit.running(JDOE, "w1")
        with pytest.raises(audit_module.AuditError, match="5 lines wait"):
            await start(audit)
        audit.snapshot([(JDOE, "w1")])  # a part of it would end servers that run
        opened.set()
        await until(lambda: not audit._waiting)
        await audit.tidy()

    lines = events(with_audit(check))
    assert [line["event"] for line in lines] == ["launch", "log_in", *["running"] * 3, "dropped"]
    assert (lines[-1]["what"], lines[-1]["count"]) == ("lines that waited for the disk", 7)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("5 lines wait" in text for text in texts) == 6
    assert sum("living servers" in text for text in texts) == 1


# ---- the rule on failure


@asynccontextmanager
async def bed_with(settings: Settings, tmp_path: Path, socket: str) -> AsyncIterator[tuple[Bed, State]]:
    async with demo_xnat(tmp_path) as (place, state), launcher_bed(settings, place, socket) as bed:
        store_launch(state, "jdoe", LAUNCH)
        yield bed, state


@pytest.mark.parametrize("failure", ["refuse", "continue"])
def test_a_full_disk_refuses_launches_or_is_said_and_never_keeps_a_server_from_stopping(
    launcher_settings: Settings, tmp_path: Path, socket: str, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    async def serve() -> None:
        settings = replace(launcher_settings, audit_failure=failure)
        async with bed_with(settings, tmp_path, socket) as (bed, _):
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            await bed.written()
            bed.sink.error = FULL
            await bed.hub.stop("jdoe", LAUNCH, 1)
            assert not bed.docker.services
            if failure == "continue":
                await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
                assert len(bed.docker.services) == 1
            else:
                with pytest.raises(RefusedError, match=r"jupyterhub-audit .* jupyterhub_audit_failure") as caught:
                    await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
                assert caught.value.kind is Kind.AUDIT
                assert not bed.docker.services
                assert not bed.docker.secrets
                assert all(each.stopped for each in bed.launcher._watch._servers.values())
            bed.sink.error = None
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            await bed.written()
            middle = [("launch", "started")] if failure == "continue" else [("launch", "failed")]
            assert [(line["event"], line.get("result")) for line in events(bed.sink)] == [
                ("launch", "started"), ("stop", None), *middle, ("launch", "started"),
            ]  # fmt: skip

    asyncio.run(serve())
    said = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert [json.loads(text.partition("the line is: ")[2])["event"] for text in said][:2] == ["stop", "launch"]
    assert all("No space left on device" in text for text in said)
    assert "all lines that waited" in caplog.text


def test_lines_that_did_not_fit_are_written_in_their_order_once_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "RETRY", 0.01)

    async def check(audit: Audit, sink: MemorySink) -> None:
        sink.error = FULL
        sink.reserve = 2
        audit.logged_in("jdoe", "192.0.2.1", LogIn.ACCEPTED, True)
        for number in range(4):
            audit.stopped(replace(JDOE, name=str(number)), "hub")
        await until(lambda: len(sink.lines) == 2)  # what says when servers ran is in the reserve
        await until(lambda: audit._held_up and len(audit._waiting) == 3)
        sink.error = None
        await until(lambda: not audit._waiting)

    lines = events(with_audit(check))
    assert [line.get("server", line["event"]) for line in lines] == ["0", "1", "log_in", "2", "3"]


def test_a_disk_with_little_room_takes_what_fits() -> None:
    """A batch that does not fit as a whole is divided."""

    async def check(audit: Audit, sink: MemorySink) -> None:
        append, room = sink.append, 60

        def small(day: str, lines: Sequence[bytes], use_reserve: bool = False) -> None:
            nonlocal room
            if len(lines) > room:
                raise FULL
            room -= len(lines)
            append(day, lines, use_reserve)

        sink.append = small  # type: ignore[method-assign]
        for number in range(100):
            audit.running(replace(JDOE, name=str(number)), "w1")
        await until(lambda: len(audit._waiting) == 40)
        room = 1000

    assert [line["server"] for line in events(with_audit(check))] == [str(number) for number in range(100)]


def test_lines_that_wait_when_the_launcher_ends_are_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    async def check(audit: Audit, sink: MemorySink) -> None:
        sink.error = FULL
        audit.stopped(JDOE, "hub")

    assert not with_audit(check).lines
    assert '"event": "stop"' in caplog.text
    assert "before 1 lines" in caplog.text


def test_a_launch_whose_line_did_not_fit_was_not_begun(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the shorter line of its failure would end a server of that name that runs."""

    async def serve() -> list[dict[str, Any]]:
        async with bed_with(launcher_settings, tmp_path, socket) as (bed, _):
            append = bed.sink.append

            def full(day: str, lines: Any, use_reserve: bool = False) -> None:
                if any(b'"started"' in text for text in lines):
                    raise FULL
                append(day, lines)

            monkeypatch.setattr(bed.sink, "append", full)
            with pytest.raises(RefusedError):
                await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            await bed.written()
            return [line for line in events(bed.sink) if line["event"] == "launch"]

    (line,) = asyncio.run(serve())
    assert (line["result"], line["begun"]) == ("failed", False)


def test_old_files_that_cannot_be_removed_do_not_keep_secrets_from_being_removed(
    launcher_settings: Settings, socket: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve() -> None:
        async with launcher_bed(launcher_settings, site("http://127.0.0.1:1"), socket) as bed:

            def expire(today: date) -> None:
                raise FULL

            monkeypatch.setattr(bed.sink, "expire", expire)
            await bed.launcher.tidy()
            assert "GET /secrets" in bed.docker.calls

    asyncio.run(serve())
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        pytest.param({"audit_failure": "ignore"}, "audit_failure", id="rule"),
        pytest.param({"audit_syslog": "syslog.example.org"}, "audit_syslog", id="syslog"),
    ],
)
def test_settings_that_cannot_work_are_named(changes: dict[str, str], fact: str) -> None:
    with pytest.raises(SettingsError, match=fact):
        parse(launcher_settings_data(**changes))


# ---- log-ins from the hub


def test_a_log_in_is_recorded_without_the_hub_waiting(launcher_settings: Settings, socket: str) -> None:
    async def serve() -> None:
        async with launcher_bed(launcher_settings, site("http://127.0.0.1:1"), socket) as bed:
            bed.hub.logged_in("j\ud800doe" + "x" * 1000, "192.0.2.1", LogIn.CREDENTIALS, True)
            bed.hub.logged_in("jdoe", "192.0.2.1", LogIn.ACCEPTED, False)
            await asyncio.gather(*bed.hub._log_ins)
            assert not bed.hub._log_ins
        first, second = events(bed.sink)
        assert (first["result"], first["reason"], len(first["user"])) == ("refused", "credentials", 256)
        assert (second["user"], second["source"], second["result"]) == ("jdoe", "192.0.2.1", "ok")

    asyncio.run(serve())


def test_log_ins_that_cannot_be_recorded_are_in_the_hubs_log_and_bounded(
    socket: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_launcher, "LOG_INS_AT_ONCE", 2)

    async def serve() -> None:
        hub = hub_launcher.Launcher(socket)
        for _ in range(3):
            hub.logged_in("jdoe", "192.0.2.1", LogIn.ACCEPTED, False)
        await asyncio.gather(*hub._log_ins)
        for _ in range(3):
            hub.logged_in("hunter2", "192.0.2.1", LogIn.TOO_OFTEN, False)
        assert len(hub._log_ins) == 1  # such a flood leaves room for others
        hub.logged_in("jdoe", "192.0.2.1", LogIn.CREDENTIALS, True)
        assert len(hub._log_ins) == 2
        await asyncio.gather(*hub._log_ins)

    asyncio.run(serve())
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 7
    assert all("'192.0.2.1'" in text for text in texts)
    assert sum("'jdoe'" in text for text in texts) == 4
    assert sum("accepted" in text for text in texts) == 3
    assert "hunter2" not in caplog.text


# ---- syslog


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("", None),
        ("udp://192.0.2.1:514", Target("udp", "192.0.2.1", 514)),
        ("tcp://[2001:db8::1]:601", Target("tcp", "2001:db8::1", 601)),
        ("tls://syslog.example.org:6514", Target("tls", "syslog.example.org", 6514)),
    ],
)
def test_a_syslog_server_is_read(text: str, target: Target | None) -> None:
    assert parse_target(text) == target
    assert target is None or str(target) == text


@pytest.mark.parametrize("text", ["tcp://a", "tcp://a:0", "tcp://a:70000", "http://a:1", "tcp://a:1/x", "tcp://a b:1"])
def test_what_is_no_syslog_server_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="audit_syslog"):
        parse_target(text)


RECORD = {"time": f"{DAY}T00:00:00.000Z", "event": "launch", "deployment": "jupyterhub", "result": "started"}


def test_a_message_is_rfc_5424_and_not_longer_than_servers_take() -> None:
    head = f"<110>1 {DAY}T00:00:00.000Z jupyterhub xnat-jupyterhub - launch - "
    assert message(RECORD).decode() == head + json.dumps(RECORD)
    assert message({**RECORD, "result": "refused"}).startswith(b"<109>1 ")
    long = message({**RECORD, "mounts": [{"source": "/x" * 500}] * 64})
    assert len(long) <= LONGEST
    kept = json.loads(long.decode().removeprefix(head))
    assert len(kept["mounts"]) + kept["mounts_left_out"] == 64


class SyslogServer:
    """A syslog server over TCP that counts octets. certificate: for TLS."""

    def __init__(self, certificate: Path | None = None) -> None:
        self._tls: ssl.SSLContext | None = None
        if certificate:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certificate)
        self.messages: list[dict[str, Any]] = []
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                size = int(await reader.readuntil(b" "))
                text = (await reader.readexactly(size)).decode()
                assert text.startswith("<1")
                self.messages.append(json.loads(text[text.index("{") :]))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def sending(syslog: Syslog) -> AsyncIterator[None]:
    task = asyncio.create_task(syslog.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_lines_reach_the_syslog_server_also_those_that_came_while_it_was_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(syslog_module, "FIRST_PAUSE", 0.01)

    async def serve() -> None:
        server = SyslogServer()
        await server.start()
        syslog = Syslog(Target("tcp", "127.0.0.1", server.port))
        async with sending(syslog):
            syslog.put({**RECORD, "n": 1})
            await until(lambda: len(server.messages) == 1)
            await server.stop()
            for number in (2, 3, 4):
                syslog.put({**RECORD, "n": number})
            await until(lambda: "does not accept audit lines" in caplog.text)
            await server.start()
            await until(lambda: len(server.messages) == 4)
            await syslog.flush()
        assert [each["n"] for each in server.messages] == [1, 2, 3, 4]
        await server.stop()

    asyncio.run(serve())


@pytest.mark.parametrize("known", [True, False], ids=["sites-authority", "another-authority"])
def test_over_tls_only_a_server_of_the_sites_authority_gets_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")

    async def serve() -> None:
        server = SyslogServer((ours if known else other).certificate("syslog"))
        await server.start()
        async with sending(syslog := Syslog(Target("tls", "127.0.0.1", server.port), str(ours.bundle))):
            syslog.put(RECORD)
            await until(lambda: bool(server.messages) or "certificate verify failed" in caplog.text)
        assert bool(server.messages) is known
        await server.stop()

    asyncio.run(serve())


def test_a_name_that_cannot_be_resolved_does_not_end_the_sender(caplog: pytest.LogCaptureFixture) -> None:
    async def serve() -> None:
        async with sending(syslog := Syslog(Target("tcp", "x" * 100, 514))):
            syslog.put(RECORD)
            await until(lambda: "1 are waiting" in caplog.text)

    asyncio.run(serve())


def test_lines_reach_a_syslog_server_over_udp() -> None:
    received: list[bytes] = []

    class Server(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            received.append(data)

    async def serve() -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Server, ("127.0.0.1", 0))
        syslog = Syslog(Target("udp", "127.0.0.1", transport.get_extra_info("sockname")[1]))
        async with sending(syslog):
            syslog.put(RECORD)
            await until(lambda: bool(received))
        transport.close()

    asyncio.run(serve())
    assert received == [message(RECORD)]


@pytest.mark.parametrize("refuse", [True, False], ids=["refuse", "continue"])
def test_a_syslog_server_that_stays_away_fills_a_bounded_queue(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refuse: bool
) -> None:
    monkeypatch.setattr(syslog_module, "QUEUE", 2)

    async def check() -> None:
        syslog = Syslog(Target("tcp", "127.0.0.1", 1))
        sink = MemorySink()
        audit = Audit("jupyterhub", sink, refuse, syslog)
        for _ in range(2):
            audit.check()
            await start(audit)
        if refuse:
            with pytest.raises(audit_module.AuditError, match=r"tcp://127\.0\.0\.1:1 .* jupyterhub_audit_failure"):
                audit.check()
        else:
            audit.check()
            await start(audit)
        audit.stopped(JDOE, "hub")  # in the archive in any case
        await audit.close()
        assert len(sink.lines) == (3 if refuse else 4)

    asyncio.run(check())
    assert sum("was not sent" in record.getMessage() for record in caplog.records) == (1 if refuse else 2)


# ---- where servers run, and their ends

NODE = {"ID": "node1", "Status": {"State": "ready"}, "Description": {"Hostname": "w1"}}
DOWN = {**NODE, "Status": {"State": "down"}}
AT = f"{DAY}T01:02:03.456789012Z"


@pytest.mark.parametrize(
    ("desired", "status", "node", "fact"),
    [
        pytest.param("running", {"State": "running"}, NODE, None, id="runs"),
        pytest.param("running", {"State": "preparing"}, NODE, None, id="begins"),
        pytest.param("remove", {"State": "running"}, NODE, None, id="is-ending"),
        pytest.param("remove", {"State": "running"}, DOWN, "lost with node w1", id="lost"),
        pytest.param("shutdown", {"State": "complete", "ContainerStatus": {"ExitCode": 0}}, NODE, "exit 0", id="exit"),
        pytest.param(
            "shutdown", {"State": "rejected", "Err": "No such image: x"}, NODE, "rejected: the", id="rejected"
        ),
    ],
)
def test_how_a_server_ended(desired: str, status: dict[str, Any], node: dict[str, Any], fact: str | None) -> None:
    found = ending(Task("node1", desired, status), [node])
    assert found is None if fact is None else fact in str(found)


def test_node_and_end_of_a_server_are_recorded(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "GRACE", -1.0)

    async def serve() -> Bed:
        async with bed_with(launcher_settings, tmp_path, socket) as (bed, state):
            bed.docker.nodes = [NODE]
            watch = bed.launcher._watch
            await watch.look(full=True)
            await watch.look(full=False)
            calls = len(bed.docker.calls)
            await watch.look(full=False)
            assert len(bed.docker.calls) == calls  # nothing to look for
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            await watch.look(full=False)
            await watch.look(full=True)
            bed.docker.set_state(State="failed", ContainerStatus={"ExitCode": 3}, Timestamp=AT)
            await watch.look(full=True)
            await watch.look(full=True)
            await bed.hub.stop("jdoe", LAUNCH, 1)
            store_launch(state, "jdoe", "second")
            bed.docker.lingers = True
            await bed.hub.start("jdoe", "second", HUB_ENV)
            await watch.look(full=False)
            await bed.hub.stop("jdoe", "second", 0, (await bed.hub.all())["jdoe", "second"])
            await watch.look(full=False)  # its container still runs
            bed.docker.tasks.clear()
            await watch.look(full=False)
            await watch.look(full=True)
            assert not watch._servers
        return bed

    lines = [line for line in events(asyncio.run(serve()).sink) if line["event"] != "snapshot"]
    assert [(line["event"], line.get("node"), line.get("by")) for line in lines] == [
        ("launch", None, None), ("running", "w1", None), ("end", "w1", None), ("stop", None, "hub"),
        ("launch", None, None), ("running", "w1", None), ("stop", None, "reconciler"), ("end", "w1", None),
    ]  # fmt: skip
    assert (lines[2]["at"], lines[2]["reason"]) == (AT, "exit 3")
    assert {line["project"] for line in lines if line["event"] != "stop"} == {"DEMO_MR"}


@pytest.mark.parametrize("made", [0.0, 60.0], ids=["seen", "too-early"])
def test_an_end_that_the_hub_sees_first_keeps_its_reason(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch, made: float
) -> None:
    monkeypatch.setattr(watch_module, "MADE", made)
    monkeypatch.setattr(watch_module, "GRACE", -1.0)

    async def serve() -> Bed:
        async with bed_with(launcher_settings, tmp_path, socket) as (bed, _):
            bed.docker.nodes = [NODE]
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            await bed.hub.one("jdoe", LAUNCH)
            bed.docker.set_state(State="rejected", Err="No such image: x:1", Timestamp=AT)
            assert (await bed.hub.one("jdoe", LAUNCH)).ended
            await bed.hub.stop("jdoe", LAUNCH, 1)
            await bed.launcher._watch.look(full=False)
        return bed

    lines = events(asyncio.run(serve()).sink)
    assert [line["event"] for line in lines] == (["launch", "end", "stop"] if not made else ["launch", "stop", "end"])
    (end,) = [line for line in lines if line["event"] == "end"]
    assert ("x:1 does not exist on node w1" in end["reason"], end["node"]) == (
        (True, "w1") if not made else (False, "")
    )


def test_a_launcher_that_was_away_records_what_lives_and_what_ended(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "GRACE", -1.0)

    async def serve() -> MemorySink:
        async with bed_with(launcher_settings, tmp_path, socket) as (bed, state):
            bed.docker.nodes = [NODE]
            store_launch(state, "jdoe", "second")
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            await bed.hub.start("jdoe", "second", HUB_ENV)
            bed.docker.tasks[0]["Status"] = {"State": "complete", "ContainerStatus": {"ExitCode": 0}, "Timestamp": AT}
            nowhere = site("http://127.0.0.1:1")
            async with launcher_bed(launcher_settings, nowhere, f"{socket}2", bed.docker) as later:
                await later.launcher._watch.look(full=True)
                await later.launcher._watch.look(full=True)
                monkeypatch.setattr(later.launcher._watch, "_day", date(2026, 1, 1))
                await later.launcher._watch.look(full=True)  # on the next day
                assert await later.hub.stop("jdoe", "second", 1)
            return later.sink

    lines = events(asyncio.run(serve()))
    assert [(line["event"], line.get("server"), line.get("count")) for line in lines] == [
        ("end", LAUNCH, None), ("running", "second", None), ("snapshot", None, 1),
        ("running", "second", None), ("snapshot", None, 1), ("stop", "second", None),
    ]  # fmt: skip
    assert lines[1]["round"] == lines[2]["round"]
    assert {line["project"] for line in lines if "server" in line} == {"DEMO_MR"}  # the label of the task


def test_a_server_that_is_starting_has_not_ended(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve() -> None:
        async with bed_with(launcher_settings, tmp_path, socket) as (bed, _):

            async def look(method: str, path: str) -> None:
                if f"{method} {path}" == "POST /services/create":
                    bed.docker.before = None
                    await bed.launcher._watch.look(full=True)

            bed.docker.before = look
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            bed.docker.tasks.clear()  # Swarm makes the task a moment after the service
            await bed.launcher._watch.look(full=True)
            assert set(bed.launcher._watch._servers) == {NAME}
            await bed.written()
            assert [line["event"] for line in events(bed.sink)] == ["launch", "running", "snapshot"]
            monkeypatch.setattr(watch_module, "GRACE", -1.0)
            await bed.launcher._watch.look(full=True)
        assert events(bed.sink)[-1]["reason"] == "its service was removed"

    asyncio.run(serve())


def test_looks_follow_a_start_soon_and_go_on_after_a_failure(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(watch_module, "SOON", 0.01)

    async def serve() -> None:
        async with bed_with(launcher_settings, tmp_path, socket) as (bed, _):
            bed.docker.nodes = [NODE]

            async def away(method: str, path: str) -> None:
                raise UnreachableError("Docker is away")

            bed.docker.before = away
            task = asyncio.create_task(bed.launcher.watch())
            await until(lambda: "Docker is away" in caplog.text)
            bed.docker.before = None
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            await until(lambda: any(line["event"] == "running" for line in events(bed.sink)))
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(serve())


def test_services_of_others_are_not_recorded(launcher_settings: Settings, socket: str) -> None:
    async def serve() -> None:
        async with launcher_bed(launcher_settings, site("http://127.0.0.1:1"), socket) as bed:
            for labels in (
                {f"{LABEL}.deployment": "other", f"{LABEL}.user": "x"},
                {f"{LABEL}.deployment": "jupyterhub"},
            ):
                container = {"Secrets": [], "Labels": labels}
                await bed.docker.create(
                    "services", {"Name": str(labels), "Labels": labels, "TaskTemplate": {"ContainerSpec": container}}
                )
            await bed.launcher._watch.look(full=True)
        assert [(line["event"], line["count"]) for line in events(bed.sink)] == [("snapshot", 0)]

    asyncio.run(serve())
