"""A site on virtual machines, as `make test-vm` runs it: tests of `tests/site` and `tests/swarm`, and more of them.

The machines run already (machines.py). The files' names give the order: test_1_site.py deploys the site that the others
use. Each run writes `docs/tested.md`: a test that is repeated on the same machines replaces its row.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.site.conftest import BASE_URL, ROOT, Playbooks, Server, Site, nothing_left, wait_for
from tests.vm.machines import CACHE, HUB_PORT, KEPT, MACHINES, XNAT_PORT, Machine

__all__ = ["nothing_left"]
Record = Callable[[str, object], None]
"""Keeps something that a test has seen for docs/tested.md, under the name `seen`."""
PATIENCE = 3600.0  # seconds for a playbook on emulated machines
INVENTORY = ROOT / "tests/vm/inventory"
Results = dict[str, tuple[str, str, float]]
"""By test: what it saw, its outcome, and its seconds."""
RESULTS: Results = json.loads(KEPT.read_text()) if KEPT.exists() else {}
INFO = "{{.ServerVersion}}|{{.CgroupVersion}} ({{.CgroupDriver}})|{{.Driver}}|{{range .SecurityOptions}}{{.}} {{end}}"


class RealSite(Site):
    """The site on the virtual machines. place: the node on which servers start and `on_node` runs commands."""

    directory = "/"  # not the workspace, whose file server may not answer

    def __init__(self, machines: dict[str, Machine], engines: dict[str, Any], secrets: Path) -> None:
        self.machines, self.engines, self.place = machines, engines, "vm2"
        self.docker = engines["vm1"]
        self.address = machines["vm1"].address
        self.xnat = f"http://127.0.0.1:{XNAT_PORT}"
        self.origin, self.port = f"http://127.0.0.1:{HUB_PORT}", 8000
        self.hub = f"{self.origin}{BASE_URL}"
        self.password = (secrets / "demo_password").read_text().strip()
        self.admin_password = (secrets / "demo_admin_password").read_text().strip()
        self.secrets = secrets
        self.http = requests.Session()
        self._numbers = itertools.count(1)

    def on_node(self, *command: str) -> str:
        """Run a command on the node where servers start."""
        words = ["'" + word.replace("'", "'\"'\"'") + "'" for word in command]
        return self.machines[self.place].run(" ".join(words), 600)

    @functools.cache  # noqa: B019  (one site per run)
    def hardware_of(self, node: str) -> int:
        """Return hardware in XNAT that only this node has."""
        return super().hardware(constraints=[{"key": "node.hostname", "operator": "IN", "values": [node]}])

    def hardware(self, **changes: Any) -> int:
        """Add hardware in XNAT that only the chosen node has, and return its id."""
        return super().hardware(
            constraints=[{"key": "node.hostname", "operator": "IN", "values": [self.place]}], **changes
        )

    def launch(
        self,
        user: str = "jdoe",
        environment: int | None = None,
        hardware: int = 0,
        session: requests.Session | None = None,
        **changes: Any,
    ) -> Server:
        """Press "Start Jupyter"; without hardware the server starts on the chosen node."""
        return super().launch(user, environment, hardware or self.hardware_of(self.place), session, **changes)

    def outcome(self, server: Server, seconds: float = 300, session: requests.Session | None = None) -> bool:
        """Wait until XNAT reports the result of a launch."""
        return super().outcome(server, seconds, session)

    def engine_of(self, server: Server) -> Any:
        """Return a client of the engine on which a server runs."""
        return self.engines[self.node_of(server)]


@pytest.fixture(scope="session")
def machines() -> dict[str, Machine]:
    """The machines by name."""
    return {machine.name: machine for machine in MACHINES}


@pytest.fixture(scope="session")
def plays() -> Playbooks:
    """The project's playbooks with the inventory of the machines."""
    return Playbooks(INVENTORY)


@pytest.fixture(scope="session")
def site(machines: dict[str, Machine]) -> Iterator[RealSite]:
    """The deployed site. The socket of each node's engine appears here through ssh."""
    with ExitStack() as stack:
        engines = {}
        for name, machine in machines.items():
            socket = CACHE / f"{name}.sock"
            socket.unlink(missing_ok=True)
            tunnel = subprocess.Popen(machine.ssh("-N", "-L", f"{socket}:/run/docker.sock"))
            stack.callback(tunnel.wait)
            stack.callback(tunnel.terminate)
            wait_for(f"tunnel to {name}", socket.exists)
            engines[name] = docker.APIClient(base_url=f"unix://{socket}", version="auto", timeout=600)
            stack.callback(engines[name].close)
        yield RealSite(machines, engines, CACHE / "secrets")


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the result of each test, or of the fixture that failed before it."""
    if report.when == "call" or report.outcome != "passed":
        kept = dict(report.user_properties)
        RESULTS[report.nodeid] = (kept.get("seen", ""), report.outcome, report.duration)


def pytest_sessionfinish(session: Any) -> None:
    """Keep the results for another run on these machines, and write docs/tested.md."""
    if RESULTS:
        KEPT.write_text(json.dumps(RESULTS))
        (ROOT / "docs/tested.md").write_text(table(MACHINES, RESULTS))


def table(machines: tuple[Machine, ...], results: Results) -> str:
    """Return the text of docs/tested.md."""
    lines = [
        "# Tested on real kernels",
        "",
        "`make test-vm` writes this file: its last run on virtual machines, whose nodes have kernels of their own.",
        "",
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {(CACHE / 'accelerator').read_text().strip().upper()}"
        " (KVM: by the processor; TCG: emulated, about 20 times slower),"
        f" {sum(row[2] for row in results.values()) / 60:.0f} minutes after the start of the machines.",
        "",
        "| Machine | Debian | Kernel | Engine | cgroup | Storage driver | Confined by |",
        "|---|---|---|---|---|---|---|",
    ]
    for machine in machines:
        release = machine.run("cat /etc/debian_version; uname -r").split()
        version, cgroup, driver, confined = machine.run(f"docker info --format '{INFO}'").strip().split("|")
        names = ", ".join(word.split(",")[0].removeprefix("name=") for word in confined.split())
        lines.append(f"| {machine.name} | {' | '.join(release)} | {version} | v{cgroup} | {driver} | {names} |")
    lines += ["", "| Test | Result | Seconds | Seen |", "|---|---|---|---|"]
    for name, (seen, outcome, took) in results.items():
        lines.append(f"| {what(name)} | {outcome} | {took:.0f} | {seen} |")
    return "\n".join([*lines, ""])


def what(nodeid: str) -> str:
    """Return a test's name as a sentence, such as "A second run changes nothing"."""
    name = nodeid.rpartition("::")[2].removeprefix("test_")
    words, _, parameter = name.partition("[")
    sentence = words.replace("_", " ").capitalize()
    return f"{sentence}: {parameter.rstrip(']')}" if parameter else sentence
