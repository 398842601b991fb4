"""What a container without capabilities reaches on its node: what the site publishes, and nothing of Swarm."""

from __future__ import annotations

import json
from collections.abc import Iterator

import docker
import pytest

from tests.site.conftest import Site, wait_for

UNPUBLISHED = 9099
# Prints which TCP ports of the gateway and the node answer, after it has sent frames to their VXLAN ports.
PROBE = """
import json, socket, struct, sys
lines = [line.split() for line in open("/proc/net/route").read().splitlines()[1:]]
gateway = next(socket.inet_ntoa(struct.pack("<L", int(line[2], 16))) for line in lines if line[1] == "00000000")
found = {}
for name, address in (("gateway", gateway), ("node", sys.argv[1])):
    with socket.socket(type=socket.SOCK_DGRAM) as frames:
        for _ in range(10):
            frames.sendto(bytes([8, 0, 0, 0, 0, 16, 1, 0]) + bytes(60), (address, 4789))
    for port in map(int, sys.argv[2:]):
        try:
            socket.create_connection((address, port), 2).close()
            found[f"{name}:{port}"] = True
        except OSError:
            found[f"{name}:{port}"] = False
print(json.dumps(found))
"""


@pytest.fixture(params=["bridge", "overlay"])
def network(site: Site, request: pytest.FixtureRequest) -> Iterator[str]:
    """The default bridge, or an overlay network, whose containers reach the node by docker_gwbridge."""
    if request.param == "bridge":
        yield "bridge"
        return
    name = "test-firewall"
    site.docker.create_network(name, driver="overlay", attachable=True)
    try:
        yield name
    finally:
        wait_for("end of the network", lambda: removed(site, name), 60)


def removed(site: Site, network: str) -> bool:
    try:
        site.docker.remove_network(network)
    except docker.errors.NotFound:
        return True
    except docker.errors.APIError:  # the last container has just ended
        return False
    return True


def dropped(site: Site) -> int:
    """Return how many packets for Swarm's UDP ports the node has dropped."""
    chain = json.loads(site.on_node("nft", "--json", "list", "chain", "inet", "xnat_jupyter", "swarm_ports"))
    rules = [item["rule"]["expr"] for item in chain["nftables"] if "rule" in item]
    return sum(
        part["counter"]["packets"]
        for rule in rules
        if '"udp"' in json.dumps(rule)
        for part in rule
        if "counter" in part
    )


def test_a_container_reaches_only_published_ports_of_its_node_and_none_of_swarm(site: Site, network: str) -> None:
    site.on_node("systemd-run", "--unit=test-firewall", "python3", "-m", "http.server", str(UNPUBLISHED))
    ports = [str(port) for port in (2377, 7946, UNPUBLISHED, site.port)]
    before = dropped(site)
    try:
        container = site.docker.create_container(
            site.image("runtime"), ["python3", "-c", PROBE, site.address, *ports], user="1500:1500",
            host_config=site.docker.create_host_config(cap_drop=["ALL"], network_mode=network),
        )  # fmt: skip
        try:
            site.docker.start(container)
            assert site.docker.wait(container, timeout=60)["StatusCode"] == 0, site.docker.logs(container)
            found = json.loads(site.docker.logs(container))
        finally:
            site.docker.remove_container(container, force=True)
    finally:
        site.on_node("systemctl", "stop", "test-firewall")
    open_ports = {name for name, answered in found.items() if answered}
    assert open_ports <= {f"gateway:{site.port}", f"node:{site.port}"}
    assert f"node:{site.port}" in open_ports
    assert dropped(site) >= before + 20
