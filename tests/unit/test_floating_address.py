"""The floating address: its settings, and a real failover between two network namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from module_utils.xnat_site.floating import floating_config, floating_findings
from tests.edge_bed import HAPROXY, certificate
from tests.unit.test_preflight_plays import play

IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin") or ""
KEEPALIVED = shutil.which("keepalived", path=f"{os.environ['PATH']}:/usr/sbin")
FLOATING, PREFIX, ADDRESSES = "192.0.2.10", 24, ("192.0.2.11", "192.0.2.12")
NAMES = ("xnatjh-edge-a", "xnatjh-edge-b")
PROBE = "xnatjh-edge-probe"
LIMIT = 30  # seconds


SETTINGS: dict[str, Any] = {
    "host": "m1", "deployment": "x", "address": f"{FLOATING}/{PREFIX}", "interface": "eth0", "router_id": 71,
    "own": ADDRESSES[0], "peers": [ADDRESSES[1]], "port": 443, "systemd": True, "other_file": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"address": "", "interface": "", "peers": [], "systemd": False, "other_file": True}, []),
        ({"address": "2001:db8::a/64", "own": "2001:db8::1", "peers": ["2001:db8::2"]}, []),
        ({"address": "x\n    notify"}, ["address"]),
        ({"own": "m1.example.org"}, ["address"]),
        ({"address": FLOATING}, ["prefix"]),
        ({"address": "198.51.100.1/24"}, ["network"]),
        ({"peers": ["2001:db8::2"]}, ["network"]),
        ({"address": f"{ADDRESSES[1]}/24"}, ["taken"]),
        ({"peers": []}, ["one_edge"]),
        ({"interface": ""}, ["interface"]),
        ({"interface": "eth0 }"}, ["interface"]),
        ({"router_id": 256}, ["router_id"]),
        ({"other_file": True}, ["other_file"]),
        ({"systemd": False}, ["no_systemd"]),
    ],
)
def test_wrong_settings_are_found(changes: dict[str, Any], found: list[str]) -> None:
    assert [finding["id"] for finding in floating_findings(SETTINGS | changes)] == found


def run(folder: Path, entry: str, report: dict[str, bool], **changes: object) -> str:
    """Run an entry point of the role on a node with a report, and return Ansible's output on one line."""
    task = {
        "ansible.builtin.include_role": {"name": "floating_address", "tasks_from": entry},
        "vars": {
            "floating_address_cidr": SETTINGS["address"], "floating_address_interface": "eth0",
            "floating_address_own": ADDRESSES[0], "floating_address_peers": list(ADDRESSES),
            "floating_address_port": 443, "__floating_address_file": str(folder / "keepalived.conf"),
            "floating_address_report": {"systemd": True, "installed": False, "ours": False, "other": False, **report},
            **changes,
        },
    }  # fmt: skip
    (folder / "run").mkdir()
    done = play(folder / "run", [task], "site_deployment: x")
    shutil.rmtree(folder / "run")
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("entry", ["preflight", "main"])
@pytest.mark.parametrize(
    ("report", "said"), [({"other": True}, "is not of this deployment"), ({"systemd": False}, "no systemd")]
)
def test_the_role_neither_overwrites_the_sites_file_nor_runs_without_systemd(
    tmp_path: Path, entry: str, report: dict[str, bool], said: str
) -> None:
    text = run(tmp_path, entry, report)
    assert "failed=1" in text
    assert said in text
    assert not (tmp_path / "keepalived.conf").exists()


@pytest.mark.parametrize(("entry", "changes"), [("remove", {}), ("main", {"floating_address_cidr": ""})])
def test_the_role_removes_its_own_file_only(tmp_path: Path, entry: str, changes: dict[str, object]) -> None:
    file = tmp_path / "keepalived.conf"
    file.touch()
    assert "changed=0" in run(tmp_path, entry, {"other": True}, **changes)
    assert file.exists()
    assert "changed=1" in run(tmp_path, entry, {"ours": True}, **changes)
    assert not file.exists()


def namespaces_work() -> bool:
    if os.geteuid() or not IP:
        return False
    probe = subprocess.run([IP, "netns", "add", PROBE], capture_output=True, check=False)
    if probe.returncode == 0:
        subprocess.run([IP, "netns", "delete", PROBE], check=True)
    return probe.returncode == 0


needs = pytest.mark.skipif(
    not (KEEPALIVED and HAPROXY and shutil.which("curl") and namespaces_work()),
    reason="no keepalived, haproxy or curl, or no right to add namespaces",
)


def inside(name: str, *command: str) -> list[str]:
    return [IP, "netns", "exec", name, *command]


def do(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def namespaces() -> Iterator[None]:
    """Two namespaces with a link between them."""
    try:
        for name in NAMES:
            do(IP, "netns", "add", name)
        do(IP, "link", "add", "eth0", "netns", NAMES[0], "type", "veth", "peer", "name", "eth0", "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            do(*inside(name, IP, "address", "add", f"{address}/{PREFIX}", "dev", "eth0"))
            do(*inside(name, IP, "link", "set", "lo", "up"))
            do(*inside(name, IP, "link", "set", "eth0", "up"))
        yield
    finally:
        for name in NAMES:
            subprocess.run([IP, "netns", "delete", name], check=False, capture_output=True)


@contextmanager
def process(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.terminate()
        started.wait()


def holders() -> list[str]:
    """The namespaces that have the floating address."""
    found = []
    for name in NAMES:
        (link,) = json.loads(do(*inside(name, IP, "-json", "address", "show", "dev", "eth0")))
        if any(entry.get("local") == FLOATING for entry in link["addr_info"]):
            found.append(name)
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline, holders()
        time.sleep(0.05)


@needs
def test_the_address_moves_to_the_other_node_when_an_edge_ends_and_stays_there(tmp_path: Path) -> None:
    (tmp_path / "edge.pem").write_text(certificate("edge"))
    (tmp_path / "haproxy.cfg").write_text(
        "defaults\n    mode http\n    timeout client 5s\n    timeout connect 5s\n    timeout server 5s\n"
        f"frontend edge\n    bind :443 ssl crt {tmp_path}/edge.pem\n    http-request return status 421\n"
    )
    with namespaces(), ExitStack() as stack:
        edges = {}
        for number, name in enumerate(NAMES):
            own, other = ADDRESSES[number], ADDRESSES[1 - number]
            text = floating_config(SETTINGS | {"own": own, "peers": [other]})
            (tmp_path / f"{own}.conf").write_text(text)
            subprocess.run([str(KEEPALIVED), "--config-test", "--use-file", f"{tmp_path}/{own}.conf"], check=True)
            edges[name] = stack.enter_context(
                process(tmp_path / f"edge{number}", *inside(name, HAPROXY, "-db", "-f", f"{tmp_path}/haproxy.cfg"))
            )
            pid = tmp_path / f"{number}-"
            command = [str(KEEPALIVED), "--dont-fork", "--log-console", "--use-file", f"{tmp_path}/{own}.conf"]
            files = ["--pid", f"{pid}main", "--vrrp_pid", f"{pid}vrrp", "--checkers_pid", f"{pid}checkers"]
            stack.enter_context(process(tmp_path / f"keepalived{number}", *inside(name, *command, *files)))
        wait_until(lambda: len(holders()) == 1)
        (first,) = holders()
        (second,) = set(NAMES) - {first}

        edges[first].terminate()
        edges[first].wait()
        wait_until(lambda: holders() == [second])
        # From the first node, the address leads to the second one.
        answer = do(*inside(first, "curl", "--silent", "--insecure", "--max-time", "5", "--output", "/dev/null",
                            "--write-out", "%{http_code}", f"https://{FLOATING}/"))  # fmt: skip
        assert answer == "421"

        log = tmp_path / f"keepalived{NAMES.index(first)}"
        backups = log.read_text().count("Entering BACKUP STATE")
        command = inside(first, HAPROXY, "-db", "-f", f"{tmp_path}/haproxy.cfg")
        stack.enter_context(process(tmp_path / "again", *command))
        wait_until(lambda: log.read_text().count("Entering BACKUP STATE") > backups)
        assert holders() == [second]
