"""Two people's notebooks on one node: nothing passes between them, and each reaches only the hub and the gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.site.conftest import Server, Site, wait_for

PORTS = (22, 443, 3128, 8000, 8001, 8081, 8888, 9999, 60900)
# Answers on every port of PORTS, TCP and UDP, beside the notebook itself, which has 8888.
LISTEN = """
import socket, threading
def tcp(port):
    listener = socket.create_server(("", port))
    while True:
        listener.accept()[0].close()
def udp(port):
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.bind(("", port))
    while True:
        data, caller = channel.recvfrom(99)
        channel.sendto(data, caller)
for port in %r:
    threading.Thread(target=udp, args=(port,)).start()
    if port != 8888:
        threading.Thread(target=tcp, args=(port,)).start()
"""
# Prints which of PORTS answer at an address, by TCP and UDP, also from source ports of services, and by ICMP.
REACHED = """
import json, socket, sys
def tcp(address, port, source=0):
    with socket.socket() as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        channel.settimeout(0.3)
        try:
            channel.bind(("", source))
            channel.connect((address, port))
            return True
        except OSError:
            return False
def udp(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.settimeout(0.3)
        try:
            channel.sendto(b"x", (address, port))
            return bool(channel.recv(9))
        except OSError:
            return False
def echo(address):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as channel:
            channel.settimeout(0.3)
            channel.sendto(bytes([8, 0, 247, 255, 0, 0, 0, 0]), (address, 0))
            return bool(channel.recv(99))
    except OSError:
        return False
ports, address = %r, sys.argv[1]
print(json.dumps({
    "tcp": [port for port in ports if tcp(address, port)],
    "tcp from 443": [port for port in ports if tcp(address, port, 443)],
    "tcp from 8081": [port for port in ports if tcp(address, port, 8081)],
    "tcp from 8889": [port for port in ports if tcp(address, port, 8889)],
    "udp": [port for port in ports if udp(address, port)],
    "icmp": echo(address),
}))
"""
# A notebook that leaves 8888 free now and then: from that port a person would try to connect to the proxy.
FROM_8888 = "sh -c 'sleep 3; exec python3 -m http.server 8888 --directory /tmp'"
NOTHING: dict[str, Any] = {name: [] for name in ("tcp", "tcp from 443", "tcp from 8081", "tcp from 8889", "udp")} | {
    "icmp": False
}


def python(site: Site, server: Server, code: str, *words: str, detached: bool = False) -> str:
    """Run Python in a server as its user."""
    quoted = "'" + code.replace("'", "'\"'\"'") + "'"
    command = " ".join(["python3", "-c", quoted, *words])
    code_, text = site.run(server, f"{command} >/dev/null 2>&1 &" if detached else command)
    assert code_ == 0, text
    return text


def reached(site: Site, server: Server, address: str) -> dict[str, Any]:
    """Return what a server reaches at an address."""
    return dict(json.loads(python(site, server, REACHED % (PORTS,), address)))


def address(site: Site, service_id: str) -> str:
    """Return the address of a service's running task on the notebooks' network."""
    (task,) = site.docker.tasks(filters={"service": service_id, "desired-state": "running"})
    (found,) = [
        one["Addresses"][0].partition("/")[0]
        for one in task["NetworksAttachments"]
        if one["Network"]["Spec"]["Name"] == "jupyterhub-notebooks"
    ]
    return str(found)


@pytest.fixture
def pair(site: Site) -> Iterator[tuple[Server, Server]]:
    """Notebooks of two people. In both, everything answers that the guard might let through."""
    servers = site.launch("jdoe"), site.launch("JDoe", itemId="XNAT_E00005", projectId="DEMO_CT")
    for server in servers:
        assert site.outcome(server), site.hub_log(server.began)
        python(site, server, LISTEN % (PORTS,), detached=True)
    yield servers
    for server in servers:
        site.stop(server)


def test_notebooks_do_not_reach_each_other(site: Site, pair: tuple[Server, Server]) -> None:
    one, other = pair
    at = {server.user: address(site, site.service(server)["ID"]) for server in pair}
    # So the test would see something. A notebook cannot listen on lower ports.
    assert reached(site, one, "127.0.0.1")["udp"] == [port for port in PORTS if port >= 1024]
    assert reached(site, one, at[other.user]) == NOTHING
    assert reached(site, other, at[one.user]) == NOTHING


def test_a_notebook_reaches_the_hubs_port_and_no_other_of_hub_and_proxy(
    site: Site, pair: tuple[Server, Server]
) -> None:
    hub, proxy = (address(site, f"jupyterhub-{name}") for name in ("hub", "proxy"))
    found = reached(site, pair[0], hub)
    assert {port for name, ports in found.items() if name.startswith("tcp") for port in ports} == {8081}
    assert (found["udp"], found["icmp"]) == ([], False)
    assert reached(site, pair[0], proxy) == NOTHING


def test_a_notebook_cannot_pass_for_an_answer_from_its_own_port(site: Site) -> None:
    proxy = address(site, "jupyterhub-proxy")
    server = site.launch(environment=site.environment(command=FROM_8888))
    code = f"""
import socket
for port in (8000, 8001):
    with socket.socket() as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        channel.bind(("", 8888))
        channel.settimeout(0.5)
        print(channel.connect_ex(({proxy!r}, port)) == 0)
"""
    (service,) = wait_for("service", site.services)
    wait_for("container", lambda: [one for one in site.docker.tasks(filters={"service": service["ID"]})
                                   if one["Status"]["State"] == "running"])  # fmt: skip
    assert python(site, server, code).split() == ["False", "False"]
    assert site.outcome(server)
    site.stop(server)


def test_the_guard_has_what_it_needs_and_no_more(site: Site) -> None:
    (found,) = [one for one in site.docker.services() if one["Spec"]["Name"] == "jupyterhub-guard"]
    container = found["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert container["CapabilityDrop"] == ["ALL"]
    assert {name.removeprefix("CAP_") for name in container["CapabilityAdd"]} == {"SYS_ADMIN", "NET_ADMIN"}
    assert container["ReadOnly"] is True
    assert {mount.get("Source") for mount in container["Mounts"] if mount["Type"] == "bind"} == {"/run/docker/netns"}
    assert not container.get("Secrets")
    assert found["Spec"]["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"] > 0


def guarded(site: Site) -> bool:
    """Whether the rules are loaded and the guard is healthy."""
    tables = site.on_node(
        "sh", "-c",
        "id=$(docker network inspect --format '{{.Id}}' jupyterhub-notebooks | cut -c 1-10);"
        " nsenter --net=$(echo /run/docker/netns/*-$id) nft list tables bridge",
    )  # fmt: skip
    tasks = site.docker.tasks(filters={"service": "jupyterhub-guard", "desired-state": "running"})
    return "xnat_guard" in tables and [task["Status"]["State"] for task in tasks] == ["running"]


def test_the_rules_outlive_the_guard_and_a_start_waits_for_the_next_one(
    site: Site, pair: tuple[Server, Server]
) -> None:
    one, other = pair
    (running,) = site.docker.containers(filters={"label": "com.docker.swarm.service.name=jupyterhub-guard"})
    site.docker.kill(running["Id"])
    third = site.launch("jdoe")
    assert reached(site, one, address(site, site.service(other)["ID"])) == NOTHING
    assert site.outcome(third)
    wait_for("guard", lambda: guarded(site))
    assert reached(site, third, address(site, site.service(other)["ID"])) == NOTHING
    site.stop(third)


def test_a_new_address_of_the_hub_is_let_through(site: Site, pair: tuple[Server, Server]) -> None:
    (running,) = site.docker.containers(filters={"label": "com.docker.swarm.service.name=jupyterhub-hub"})
    site.docker.kill(running["Id"])
    wait_for("hub", site.answers, 90)
    hub = wait_for("address", lambda: address(site, "jupyterhub-hub"))
    wait_for("rules", lambda: reached(site, pair[0], hub)["tcp"] == [8081], 10)


def test_neighbours_names_tell_nothing_of_people(site: Site, pair: tuple[Server, Server]) -> None:
    one, other = pair
    code = "import socket, sys; print(socket.getfqdn(sys.argv[1]))"
    name = python(site, one, code, address(site, site.service(other)["ID"]))
    assert other.user.lower() not in name.lower()
