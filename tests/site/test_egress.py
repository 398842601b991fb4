"""What a notebook reaches: XNAT by its name, allowed hosts through the forward proxy, and nothing else."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.site.conftest import ROOT, Playbooks, Server, Site, wait_for

# Names that molecule's inventory allows as hosts of the site's own network, and one that it does not.
MIRROR, PRIVATE = "test-mirror", "test-private"
PAGE = """mkdir -p /tmp/www/examples.git/info /tmp/www/examples.git/refs
cd /tmp/www && echo 'ref: refs/heads/main' > examples.git/HEAD && : > examples.git/info/refs
exec python3 -m http.server 80
"""
GATE, XNAT = "jupyterhub-gate:3128", "jupyterhub-demo-xnat:8080"
LINK_LOCAL = "169.254.169.254"
# Tries to connect by TCP for two seconds; no answer is no connection.
CONNECT = """
import json, socket, sys
found = {}
for host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), 2).close()
        found[f"{host}:{port}"] = "connected"
    except OSError as error:
        found[f"{host}:{port}"] = type(error).__name__
print(json.dumps(found))
"""
# Sends the forward proxy, or XNAT itself, a request as it is.
ASK = """
import http.client, json, sys
server, method, target = sys.argv[1:]
client = http.client.HTTPConnection(server, timeout=30)
client.request(method, target, headers={"Host": target.split("/")[2] if "//" in target else target})
answer = client.getresponse()
print(json.dumps([answer.status, answer.read().decode(errors="replace")]))
"""
LIBRARIES = """
import os, pyxnat, xnat
login = {"user": os.environ["XNAT_USER"], "password": os.environ["XNAT_PASS"]}
with xnat.connect(os.environ["XNAT_HOST"], loglevel="ERROR", **login) as session:
    assert "DEMO_MR" in session.projects
interface = pyxnat.Interface(server=os.environ["XNAT_HOST"], **login)
assert "DEMO_MR" in [row["ID"] for row in interface._get_json("/data/projects")]
interface.disconnect()
print("both")
"""
ENVIRONMENT = ". /run/secrets/server-env; export XNAT_HOST XNAT_USER XNAT_PASS http_proxy https_proxy no_proxy; "


def runs(site: Site, service: str) -> bool:
    tasks = site.docker.tasks(filters={"service": service, "desired-state": "running"})
    return any(task["Status"]["State"] == "running" for task in tasks)


@pytest.fixture(scope="module")
def hosts(site: Site) -> Iterator[None]:
    """Two web servers on the network of the forward proxy, both with private addresses."""
    made = [
        site.docker.create_service(
            {
                "ContainerSpec": {"Image": site.image("base"), "Command": ["sh", "-c", PAGE]},
                "Networks": [{"Target": "jupyterhub-egress"}],
            },
            name=name,
            endpoint_spec={"Mode": "dnsrr"},
        )
        for name in (MIRROR, PRIVATE)
    ]
    for service in made:
        wait_for("web server", functools.partial(runs, site, service["ID"]))
    yield
    for service in made:
        site.docker.remove_service(service["ID"])


@pytest.fixture
def server(site: Site) -> Iterator[Server]:
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    yield server
    site.stop(server)


def asked(site: Site, server: Server, target: str, method: str = "GET", at: str = GATE) -> tuple[int, str]:
    """Return status and page of a request from a server's container."""
    code, output = site.run(server, f"python3 -c '{ASK}' {at} {method} '{target}'")
    assert code == 0, output
    status, page = json.loads(output)
    return status, page


def connections(site: Site, server: Server, wanted: list[tuple[str, int]]) -> dict[str, str]:
    code, output = site.run(server, f"python3 -c '{CONNECT}' '{json.dumps(wanted)}'")
    assert code == 0, output
    return dict(json.loads(output))


def test_a_notebook_has_no_route_and_reaches_neither_node_nor_gateway_nor_the_outside(
    site: Site, server: Server
) -> None:
    _, routes = site.run(server, "cat /proc/net/route")
    destinations = {line.split()[1] for line in routes.splitlines()[1:]}
    assert "00000000" not in destinations
    networks = site.docker.inspect_network("jupyterhub-notebooks")
    assert networks["Internal"] is True
    (gateway,) = [config["Gateway"] for config in networks["IPAM"]["Config"]]
    wanted = [(site.address, 22), (site.address, 2377), (site.address, 8080), ("172.17.0.1", 22), (gateway, 22),
              (gateway, 2377), (LINK_LOCAL, 80), ("1.1.1.1", 443), ("jupyterhub-proxy", 8001)]  # fmt: skip
    assert "connected" not in connections(site, server, wanted).values()
    assert site.run(server, "getent hosts deb.debian.org")[0] != 0, "a question to a name server can carry data outside"


def test_a_notebook_reaches_xnat_by_its_own_name_with_both_libraries(site: Site, server: Server) -> None:
    assert connections(site, server, [("jupyterhub-demo-xnat", 8080)]) == {"jupyterhub-demo-xnat:8080": "connected"}
    code, output = site.run(server, f"{ENVIRONMENT} python3 -c '{LIBRARIES}'")
    assert (code, output.split()[-1:]) == (0, ["both"]), output
    assert asked(site, server, "/healthz", at=XNAT)[0] == 200


def test_an_allowed_host_is_reached_without_any_setting(site: Site, server: Server, hosts: None) -> None:
    for program in (
        "python3 -c 'import requests; requests.get(\"URL\").raise_for_status()'",
        "python3 -c 'import urllib.request; urllib.request.urlopen(\"URL\")'",
        "git ls-remote URLexamples.git",
    ):
        code, output = site.run(server, f"{ENVIRONMENT}{program.replace('URL', f'http://{MIRROR}/')}")
        assert code == 0, f"{program}: {output}"


def test_a_private_address_is_refused_in_every_notation_and_by_every_name(
    site: Site, server: Server, hosts: None
) -> None:
    for host in (
        LINK_LOCAL, "127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "2852039166", "0xa9fea9fe",
        "0251.0376.0251.0376", "localhost", PRIVATE, "jupyterhub-hub", "jupyterhub-demo-xnat.jupyterhub-egress",
        "tasks.jupyterhub-squid", site.address,
    ):  # fmt: skip
        status, page = asked(site, server, f"http://{host}/")
        assert status == 403, f"{host}: {page}"
        assert "administrator of this site decides" in page
        assert "jupyterhub_notebook_egress" in page
        assert asked(site, server, f"{host}:443", "CONNECT")[0] == 403, host


def test_other_ports_and_squids_own_pages_are_refused(site: Site, server: Server, hosts: None) -> None:
    assert asked(site, server, f"http://{MIRROR}:8080/")[0] == 403
    assert asked(site, server, f"{MIRROR}:80", "CONNECT")[0] == 403
    assert asked(site, server, f"{MIRROR}:22", "CONNECT")[0] == 403
    for page in ("http://jupyterhub-squid:3128", "http://jupyterhub-squid", "http://127.0.0.1:3129", ""):
        assert asked(site, server, f"{page}/squid-internal-mgr/menu")[0] in {400, 403}


def test_squids_log_has_the_notebooks_address_and_no_path(site: Site, server: Server, hosts: None) -> None:
    assert asked(site, server, f"http://{MIRROR}/?token=s3cret")[0] == 200
    _, address = site.run(server, "hostname -i")

    def log() -> str:
        parts = site.docker.service_logs("jupyterhub-squid", stdout=True, stderr=True, is_tty=False)
        return b"".join(parts).decode()

    wait_for("squid's log", lambda: f"{address.strip()} GET {MIRROR}:80 TCP" in log())
    assert "s3cret" not in log()


def test_a_backend_that_moves_is_found_again(site: Site, server: Server) -> None:
    for name in ("jupyterhub-xnat", "jupyterhub-demo-xnat"):
        (running,) = site.docker.containers(filters={"label": f"com.docker.swarm.service.name={name}"})
        site.docker.kill(running["Id"])
        wait_for("its end", lambda: XNAT not in answering(site, server), 20)
        wait_for(f"XNAT after {name}", lambda: XNAT in answering(site, server))


def answering(site: Site, server: Server) -> set[str]:
    """XNAT, if it answers the server."""
    code, _ = site.run(server, f"python3 -c '{ASK}' {XNAT} GET /healthz")
    return {XNAT} if code == 0 else set()


@pytest.fixture
def plays() -> Iterator[Playbooks]:
    plays = Playbooks(ROOT / "molecule/inventory")
    yield plays
    plays.play("playbooks/hub.yml")


def test_a_site_can_allow_some_hosts_or_nothing(site: Site, plays: Playbooks, hosts: None) -> None:
    def hub(egress: Any, internal: list[str]) -> None:
        settings = {"jupyterhub_notebook_egress": egress, "jupyterhub_notebook_egress_internal_hosts": internal}
        plays.play("playbooks/hub.yml", "-e", json.dumps(settings))
        wait_for("hub", site.answers, 90)

    hub("none", [])
    assert not site.docker.services(filters={"name": "jupyterhub-squid"})
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    assert site.run(server, f"{ENVIRONMENT} env | grep -i _proxy")[0] == 1
    assert connections(site, server, [("jupyterhub-gate", 3128)])["jupyterhub-gate:3128"] != "connected"
    assert asked(site, server, "/healthz", at=XNAT)[0] == 200
    site.stop(server)
    hub(["pypi.org"], [MIRROR])
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    assert asked(site, server, f"http://{MIRROR}/")[0] == 200
    status, page = asked(site, server, "http://conda.anaconda.org/")
    assert status == 403
    assert "conda.anaconda.org" in page
    site.stop(server)
