"""Hostile notebooks on real kernels: what they reach, and what they can use up."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator

import pytest

from tests.site.conftest import ROOT, Server
from tests.site.test_firewall import (
    network,
    test_a_container_reaches_only_published_ports_of_its_node_and_none_of_swarm,
)
from tests.site.test_guard import LISTEN, NOTHING, PORTS, address, python, reached
from tests.site.test_servers import (
    test_a_fork_bomb_ends_at_the_process_limit,
    test_a_server_that_fills_everything_lives_and_fills_no_disk,
)
from tests.swarm.test_guard import ITEMS
from tests.vm.conftest import RealSite, Record
from tests.vm.machines import Machine

__all__ = [
    "network",
    "test_a_container_reaches_only_published_ports_of_its_node_and_none_of_swarm",
    "test_a_fork_bomb_ends_at_the_process_limit",
    "test_a_server_that_fills_everything_lives_and_fills_no_disk",
]
WALLS = (ROOT / "files/xnat_verify/walls_probe.py").read_text()
NODE_PORTS = (22, 111, 445, 2049, 2376, 2377, 4789, 5000, 7946, 8000, 8001, 8080)
# A call of procedure 0 of NFS version 4, which every server answers; prints whether it did.
RPC = f"""
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 2049), 10) as channel:
        channel.settimeout(10)
        channel.sendall({struct.pack(">I10I", 0x80000028, 7, 0, 2, 100003, 4, 0, 0, 0, 0, 0)!r})
        answer = channel.recv(28)
        print(answer[4:16] == {struct.pack(">3I", 7, 1, 0)!r})
except OSError:
    print(False)
"""
# Sends VXLAN frames of network 4096 to each address; prints how many the kernel took.
FRAMES = """
import socket, sys
taken = 0
with socket.socket(type=socket.SOCK_DGRAM) as frames:
    for address in sys.argv[1:]:
        try:
            frames.sendto(bytes([8, 0, 0, 0, 0, 16, 0, 0]) + bytes(60), (address, 4789))
            taken += 1
        except OSError:
            pass
print(taken)
"""


@pytest.fixture(autouse=True)
def place(site: RealSite, request: pytest.FixtureRequest) -> None:
    """Notebooks start on the worker with Debian 12, except where a test looks at the manager."""
    site.place = "vm1" if "ports_of_its_node" in request.node.name else "vm3"


class Frames:
    """Counts the frames of `FRAMES` that arrive at the nodes' kernels."""

    TABLE = "inet test_vxlan"

    def __init__(self, machines: dict[str, Machine]) -> None:
        self.machines = machines.values()
        for machine in self.machines:
            machine.run(
                f"nft 'add table {self.TABLE}; delete table {self.TABLE}; add table {self.TABLE};"
                f" add chain {self.TABLE} arrived {{ type filter hook prerouting priority -400; }};"
                f" add rule {self.TABLE} arrived udp dport 4789 @th,96,24 4096 counter'"
            )

    def arrived(self) -> int:
        """Return how many have arrived so far."""
        tables = [machine.run(f"nft list table {self.TABLE}") for machine in self.machines]
        return sum(int(number) for text in tables for number in re.findall(r"packets (\d+)", text))

    def remove(self) -> None:
        """Remove the counters."""
        for machine in self.machines:
            machine.run(f"nft delete table {self.TABLE}")


@pytest.fixture
def frames(machines: dict[str, Machine]) -> Iterator[Frames]:
    """A counter of frames."""
    frames = Frames(machines)
    yield frames
    frames.remove()


def start(site: RealSite, user: str, node: str) -> Server:
    """Start somebody's notebook on a node."""
    server = site.launch(user, hardware=site.hardware_of(node), **ITEMS[user])
    assert site.outcome(server), site.hub_log(server.began)
    assert site.node_of(server) == node
    return server


def test_a_notebook_reaches_no_node_file_server_or_neighbour(
    site: RealSite, frames: Frames, record_property: Record
) -> None:
    servers = start(site, "jdoe", "vm2"), start(site, "JDoe", "vm3")
    for server in servers:
        python(site, server, LISTEN % (PORTS,), detached=True)
    at = {server.user: address(site, site.service(server)["ID"]) for server in servers}
    hub, proxy = (address(site, f"jupyterhub-{name}") for name in ("hub", "proxy"))
    targets = [(machine.address, port) for machine in site.machines.values() for port in NODE_PORTS]
    for server, other in ((servers[0], at["JDoe"]), (servers[1], at["jdoe"])):
        assert reached(site, server, other) == NOTHING
        assert reached(site, server, hub)["tcp"] == [8081]
        assert reached(site, server, proxy) == NOTHING
        probe = f"{WALLS}\nprint(json.dumps(reached({targets!r}, {NODE_PORTS!r})))"
        assert json.loads(python(site, server, probe)) == []
        hosts = f"{WALLS}\nprint(json.dumps(sorted(possible_gateways())))"
        gateways = json.loads(python(site, server, hosts))
        everywhere = [*gateways, *(machine.address for machine in site.machines.values())]
        python(site, server, FRAMES, *everywhere)
        assert frames.arrived() == 0
    site.on_node("python3", "-c", FRAMES, site.machines["vm1"].address)  # so the test would see them
    assert frames.arrived() == 1
    record_property("seen", f"{len(targets)} ports of nodes, VXLAN to {len(everywhere)} addresses, metadata address")
    for name, other_name in (("vm2", "vm3"), ("vm3", "vm2")):
        states = site.machines[name].run("ip -s xfrm state")
        assert f"dst {site.machines[other_name].address}" in states
    for server in servers:
        site.stop(server)


@pytest.mark.parametrize("node", ["vm2", "vm3"])
def test_a_node_reaches_the_file_server_and_its_notebook_does_not(site: RealSite, node: str) -> None:
    server = start(site, "jdoe", node)
    file_server = site.machines["vm1"].address
    site.place = node
    assert site.on_node("python3", "-c", RPC, file_server).strip() == "True"
    assert python(site, server, RPC, file_server).strip() == "False"
    site.stop(server)


@pytest.mark.parametrize("node", ["vm2", "vm3"])
def test_a_notebook_is_confined_and_limited(site: RealSite, record_property: Record, node: str) -> None:
    site.place = node
    server = site.launch(hardware=site.hardware(memoryLimit="512M", cpuLimit=1))
    assert site.outcome(server), site.hub_log(server.began)
    status = dict(line.split(":\t", 1) for line in site.run(server, "cat /proc/self/status")[1].splitlines())
    assert site.run(server, "cat /proc/self/attr/current")[1].startswith("docker-default (enforce)")
    assert status["Seccomp"] == "2"  # a filter
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    limits = site.service(server)["Spec"]["TaskTemplate"]["Resources"]["Limits"]
    of_kernel = site.run(server, "cd /sys/fs/cgroup && cat memory.max pids.max cpu.max")[1].split()
    assert of_kernel[:2] == [str(limits["MemoryBytes"]), str(limits["Pids"])]
    assert int(of_kernel[2]) * 10**9 == limits["NanoCPUs"] * int(of_kernel[3])
    # More memory than that kills the program, and not the server.
    assert site.run(server, "python3 -c 'bytes([1]) * 10**9'")[0] == 137  # SIGKILL
    assert "oom_kill 0" not in site.run(server, "cat /sys/fs/cgroup/memory.events")[1].splitlines()
    assert site.run(server, "echo alive") == (0, "alive\n")
    record_property("seen", f"docker-default, seccomp filter, memory.max {of_kernel[0]}, pids.max {of_kernel[1]}")
    site.stop(server)
