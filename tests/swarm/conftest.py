"""A swarm of test nodes, as `molecule` makes it, from the side of its administrator: an inventory and playbooks.

The play that checks the scenario `swarm` runs these tests (molecule/swarm/verify.yml). They need root: a node's Docker
socket is reached through the node's own view of the file system.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from tests.site.conftest import ALL, Server, Site, nothing_left, wait_for

__all__ = ["ALL", "Server", "Site", "nothing_left"]
ROOT = Path(__file__).resolve().parents[2]
MANAGERS = ("node1",)
WORKERS = ("node2", "node3", "node4")
PLAY_TIMEOUT = 600


@dataclass
class Run:
    """What a playbook's run said and how it ended: 0 well, 2 failed, 4 hosts did not answer."""

    code: int
    text: str

    @property
    def flat(self) -> str:
        """The text on one line, since long sentences are broken."""
        return " ".join(self.text.split())

    def changed(self) -> set[str]:
        """Return the hosts on which something changed."""
        return {
            host for host, count in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", self.text, re.M) if count != "0"
        }


class Swarm:
    """The nodes and the inventory."""

    def __init__(self, directory: Path, secrets: Path) -> None:
        self.outer = docker.from_env().api
        self.inventory = directory / "inventory"
        shutil.copytree(ROOT / "molecule/swarm/inventory", self.inventory)
        self.secrets = secrets
        self.write()

    def write(
        self,
        managers: tuple[str, ...] = MANAGERS,
        workers: tuple[str, ...] = WORKERS,
        variables: dict[str, dict[str, Any]] | None = None,
        everywhere: dict[str, Any] | None = None,
    ) -> None:
        """Write the inventory: groups, and variables of hosts and of all."""

        def hosts(names: tuple[str, ...]) -> dict[str, Any]:
            return {name: {"ansible_host": f"xnatjh-{name}", **(variables or {}).get(name, {})} for name in names}

        groups = {"managers": {"hosts": hosts(managers)}, "workers": {"hosts": hosts(workers)}}
        text = {
            "all": {
                "vars": {"ansible_connection": "community.docker.docker", "ansible_user": "root"},
                "children": {"swarm": {"children": groups}, "demo_xnat": {"hosts": {"node1": None}}},
            }
        }
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(text, sort_keys=False))
        shared = {"site_secrets_dir": str(self.secrets), **(everywhere or {})}
        (self.inventory / "group_vars/all/zzz_tests.yml").write_text(yaml.safe_dump(shared))

    def command(self, *words: str, project: Path = ROOT) -> subprocess.Popen[str]:
        """Start a playbook, in a group of processes of its own."""
        bin_dir = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": f"{bin_dir}:/usr/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        return subprocess.Popen(
            [f"{bin_dir}/ansible-playbook", "-i", str(self.inventory), *words],
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Who was started in the background has Ctrl-C ignored, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def play(self, *words: str, code: int = 0, project: Path = ROOT) -> Run:
        """Run a playbook to its end, which must be as expected."""
        process = self.command(*words, project=project)
        try:
            text, _ = process.communicate(timeout=PLAY_TIMEOUT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, f"{words} ended with {process.returncode}:\n{text[-6000:]}"
        return Run(process.returncode, text)

    def until(self, line: str, *words: str) -> subprocess.Popen[str]:
        """Start a playbook and return as soon as it prints this."""
        process = self.command(*words)
        assert process.stdout
        seen = []
        for text in process.stdout:
            seen.append(text)
            if line in text:
                return process
        raise AssertionError(f"{words} ended without {line!r}:\n{''.join(seen)[-4000:]}")

    def kill_at(self, line: str, *words: str) -> None:
        """Start a playbook and kill it with all its processes as soon as it prints this."""
        process = self.until(line, *words)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def engine(self, node: str) -> Any:
        """Return a client of a node's engine."""
        pid = self.outer.inspect_container(f"xnatjh-{node}")["State"]["Pid"]
        return docker.APIClient(base_url=f"unix:///proc/{pid}/root/run/docker.sock", version="auto", timeout=20)

    def nodes(self, through: str = "node1") -> dict[str, dict[str, Any]]:
        """Return Swarm's nodes by host name."""
        return {node["Description"]["Hostname"]: node for node in self.engine(through).nodes()}

    def state(self, node: str) -> str:
        """Return what Swarm says of a node; `unknown` where nobody can say, as while an engine restarts."""
        try:
            found = self.nodes().get(node)
        except (docker.errors.DockerException, OSError):
            return "unknown"
        return str(found["Status"]["State"]) if found else "unknown"

    def on(self, node: str, command: str) -> str:
        """Run a shell command on a node."""
        made = self.outer.exec_create(f"xnatjh-{node}", ["sh", "-c", command])
        output: bytes = self.outer.exec_start(made["Id"])
        code = self.outer.exec_inspect(made["Id"])["ExitCode"]
        assert code == 0, f"{command!r} on {node} ended with {code}: {output.decode()}"
        return output.decode()

    def power_off(self, node: str) -> None:
        """Take a node's power."""
        self.outer.kill(f"xnatjh-{node}")

    def power_on(self, node: str) -> None:
        """Give it back, and wait until Swarm has the node."""
        self.outer.start(f"xnatjh-{node}")
        wait_for(f"{node} is ready", lambda: self.state(node) == "ready", 90)


class Cluster(Site):
    """The site, with servers on several nodes."""

    def __init__(self, swarm: Swarm, secrets: Path) -> None:
        super().__init__("xnatjh-node1", secrets)
        self.swarm = swarm

    def node_of(self, server: Server) -> str:
        """Return the host name of the node on which a server runs."""
        (task,) = self.docker.tasks(filters={"service": self.service(server)["ID"]})
        names = {node["ID"]: node["Description"]["Hostname"] for node in self.docker.nodes()}
        return str(names[task["NodeID"]])

    def run(self, server: Server, command: str) -> tuple[int, str]:
        """Run a shell command in a server's container, wherever it is. Returns exit code and output."""
        engine = self.swarm.engine(self.node_of(server))
        (task,) = self.docker.tasks(filters={"service": self.service(server)["ID"]})
        made = engine.exec_create(task["Status"]["ContainerStatus"]["ContainerID"], ["sh", "-c", command])
        output: bytes = engine.exec_start(made["Id"])
        return int(engine.exec_inspect(made["Id"])["ExitCode"]), output.decode()

    def environment(self, **changes: Any) -> int:
        """Offer a compute environment; its image is the single-user image, which is all that workers have."""
        return super().environment(**{"image": self.image("singleuser"), **changes})

    def on_node(self, *names: str) -> int:  # type: ignore[override]
        """Offer hardware that only this node has."""
        constraint = {"key": "node.hostname", "operator": "IN", "values": list(names)}
        return self.hardware(constraints=[constraint])


@pytest.fixture(scope="session")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """The nodes and the inventory."""
    swarm = Swarm(tmp_path_factory.mktemp("swarm"), Path(os.environ["XNATJH_SECRETS"]))
    yield swarm
    swarm.outer.close()


@pytest.fixture(scope="session")
def site(swarm: Swarm) -> Iterator[Cluster]:
    """The site under test."""
    site = Cluster(swarm, Path(os.environ["XNATJH_SECRETS"]))
    yield site
    site.docker.close()
