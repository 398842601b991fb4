"""A file server that restarts, hangs and comes back while a notebook reads from it over NFS."""

from __future__ import annotations

import time

import pytest

from tests.site.conftest import Server, wait_for
from tests.site.test_guard import python
from tests.vm.conftest import RealSite, Record
from tests.vm.machines import Machine

HANG = 60  # seconds without an answer
# Opens and reads files of the archive for ever, and writes how often and the slowest time. Each open asks the server.
READ = """
import glob, os, time
files = [name for name in glob.glob("/data/**", recursive=True) if os.path.isfile(name)]
slowest = 0.0
for count in range(10**9):
    began = time.monotonic()
    with open(files[count % len(files)], "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read()
    slowest = max(slowest, time.monotonic() - began)
    with open("/tmp/read.new", "w") as file:
        file.write(f"{os.getpid()} {count} {slowest:.1f}")
    os.rename("/tmp/read.new", "/tmp/read")
    time.sleep(0.2)
"""


@pytest.fixture
def reader(site: RealSite) -> Server:
    """A notebook on a worker in which a program reads from the archive."""
    site.place = "vm2"
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    python(site, server, READ, detached=True)
    wait_for("first reads", lambda: progress(site, server)[1] > 3, 120)
    return server


def progress(site: RealSite, server: Server) -> tuple[int, int, float]:
    """Return the process that reads, how many files it has read, and the seconds of the slowest."""
    code, text = site.run(server, "cat /tmp/read")
    pid, count, slowest = text.split() if code == 0 else ("0", "0", "0")
    return int(pid), int(count), float(slowest)


def goes_on(site: RealSite, server: Server, before: tuple[int, int, float]) -> float:
    """Wait until the same process has read on. Returns the seconds of the slowest read."""
    wait_for("further reads", lambda: progress(site, server)[1] > before[1] + 5, 300)
    after = progress(site, server)
    assert after[0] == before[0]
    return after[2]


def test_reading_goes_on_after_the_file_server_restarts(
    site: RealSite, reader: Server, machines: dict[str, Machine], record_property: Record
) -> None:
    before = progress(site, reader)
    machines["vm1"].run("systemctl restart nfs-server", 300)
    slowest = goes_on(site, reader, progress(site, reader))
    assert progress(site, reader)[0] == before[0]
    record_property("seen", f"slowest read {slowest:.0f} s (after a restart the server waits for its clients' claims)")
    site.stop(reader)


def test_reading_goes_on_after_the_file_server_hangs_and_launches_meanwhile_are_answered(
    site: RealSite, reader: Server, machines: dict[str, Machine], record_property: Record
) -> None:
    table = "inet test_hang"
    machines["vm1"].run(
        f"nft 'add table {table}; add chain {table} calls {{ type filter hook prerouting priority -400; }};"
        f" add rule {table} calls ip saddr {machines['vm2'].address} tcp dport 2049 drop'"
    )
    try:
        hung = time.monotonic()
        wait_for("pause of the reads", lambda: paused(site, reader), 120)
        before = progress(site, reader)
        launched = site.launch("JDoe", itemId="XNAT_E00005", projectId="DEMO_CT")
        began = time.monotonic()
        succeeded = site.outcome(launched, 400)
        took = time.monotonic() - began
        said = "" if succeeded else last_event(site, launched)
        wait_for("a minute", lambda: time.monotonic() - hung > HANG, HANG + 60)
        assert site.run(reader, "echo alive") == (0, "alive\n")  # the notebook itself lives
    finally:
        machines["vm1"].run(f"nft delete table {table}")
    slowest = goes_on(site, reader, before)
    assert slowest > 5
    assert succeeded or said
    text = f"starts in {took:.0f} s" if succeeded else f"ends after {took:.0f} s with: {said}"
    record_property("seen", f"slowest read {slowest:.0f} s; a launch on that node meanwhile {text}")
    if succeeded:
        site.stop(launched)
    site.stop(reader)


def paused(site: RealSite, server: Server) -> bool:
    """Whether nothing was read for five seconds."""
    before = progress(site, server)
    time.sleep(5)  # what is waited for is that nothing happens
    return progress(site, server) == before


def last_event(site: RealSite, server: Server) -> str:
    """Return what XNAT says of a failed launch."""
    answer = site.ask("GET", f"{site.xnat}/xapi/event_tracking/{server.name}", server.user)
    return str(answer.json()["finalMessage"])
