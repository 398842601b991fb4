"""A swarm of test nodes as its administrator sees it, as `molecule` deploys it: an inventory and playbooks.

molecule/swarm/verify.yml runs these tests. They need root: they use a node's Docker socket through the node's own view
of the file system.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from module_utils.xnat_site.firewall import lets_in
from tests.site.conftest import ALL, ROOT, Playbooks, Run, Server, Site, named, nothing_left, wait_for

__all__ = ["ALL", "ROOT", "Run", "Server", "Site", "nothing_left"]
MANAGERS = ("node1",)
WORKERS = ("node2", "node3", "node4")


class Swarm(Playbooks):
    """The nodes and the inventory."""

    def __init__(self, directory: Path, secrets: Path) -> None:
        super().__init__(directory / "inventory")
        self.outer = docker.from_env().api
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

    def engine(self, node: str) -> Any:
        """Return a client of a node's engine."""
        pid = self.outer.inspect_container(f"xnatjh-{node}")["State"]["Pid"]
        return docker.APIClient(base_url=f"unix:///proc/{pid}/root/run/docker.sock", version="auto", timeout=20)

    def nodes(self, through: str = "node1") -> dict[str, dict[str, Any]]:
        """Return Swarm's nodes by host name."""
        return {node["Description"]["Hostname"]: node for node in self.engine(through).nodes()}

    def state(self, node: str) -> str:
        """Return Swarm's state of a node; `unknown` if no manager answers, such as during an engine restart."""
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

    def firewall(self, node: str) -> str:
        """Return the rules of a node, without the numbers of its counters."""
        return self.on(node, "nft --stateless list table inet xnat_jupyter")

    def let_in(self, node: str, other: str) -> bool:
        """Whether the rules of a node let another one use Swarm's ports."""
        networks = self.outer.inspect_container(f"xnatjh-{other}")["NetworkSettings"]["Networks"].values()
        address = next(network["IPAddress"] for network in networks)
        return lets_in(re.findall(r"[0-9.]+(?:/[0-9]+)?", self.firewall(node).partition("nodes6")[0]), address)

    def power_off(self, node: str) -> None:
        """Power a node off."""
        self.outer.kill(f"xnatjh-{node}")

    def power_on(self, node: str) -> None:
        """Power a node on, and wait until Swarm lists the node as ready."""
        self.outer.start(f"xnatjh-{node}")
        wait_for(f"{node} is ready", lambda: self.state(node) == "ready", 180)


class Cluster(Site):
    """The site, with servers on several nodes."""

    def __init__(self, swarm: Swarm, secrets: Path) -> None:
        super().__init__("xnatjh-node1", secrets)
        self.swarm = swarm

    def engine_of(self, server: Server) -> Any:
        """Return a client of the engine on which a server runs."""
        return self.swarm.engine(self.node_of(server))

    def on_node(self, *names: str) -> int:  # type: ignore[override]
        """Add hardware in XNAT that only this node has."""
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
    with named(site):
        yield site
    site.docker.close()
