"""What a notebook and the hub reach: XNAT by its name, allowed hosts through the forward proxy, and nothing else."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from module_utils.xnat_site.egress import egress_plan
from tests.site.conftest import ROOT, Playbooks, Server, Site, wait_for

# Names that molecule's inventory allows as hosts of the site's own network, and one that it does not.
MIRROR, PRIVATE = "test-mirror", "test-private"
PAGE = """mkdir -p /tmp/www/examples.git/info /tmp/www/examples.git/refs /tmp/www/simple/example
cd /tmp/www && echo 'ref: refs/heads/main' > examples.git/HEAD && : > examples.git/info/refs
cd simple/example && python3 -c '
import zipfile
with zipfile.ZipFile("example-1-py3-none-any.whl", "w") as wheel:
    for name, text in (
        ("METADATA", "Metadata-Version: 2.1\\nName: example\\nVersion: 1\\n"),
        ("WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"),
        ("RECORD", ""),
    ):
        wheel.writestr(f"example-1.dist-info/{name}", text)
'
cd /tmp/www && exec python3 -m http.server 80
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
        "git ls-remote URLexamples.git",  # libcurl, as in curl and in R
        f"pip download --no-deps --dest /tmp --index-url URLsimple --trusted-host {MIRROR} example",
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


def container(site: Site, service: str) -> str:
    """Return the id of a service's running container."""
    (running,) = site.docker.containers(filters={"label": f"com.docker.swarm.service.name={service}"})
    return str(running["Id"])


def test_an_xnat_that_moves_is_found_again_and_the_gates_resolver_is_not_missed(site: Site, server: Server) -> None:
    former = container(site, "jupyterhub-names")
    site.docker.kill(former)
    assert XNAT in answering(site, server)
    names = {"label": "com.docker.swarm.service.name=jupyterhub-names", "health": "healthy"}
    wait_for("a new resolver", lambda: former not in {one["Id"] for one in site.docker.containers(filters=names)})
    wait_for("its health", lambda: site.docker.containers(filters=names))
    site.docker.kill(container(site, "jupyterhub-demo-xnat"))
    wait_for("its end", lambda: XNAT not in answering(site, server), 20)
    wait_for("XNAT", lambda: XNAT in answering(site, server))


def answering(site: Site, server: Server) -> set[str]:
    """XNAT, if it answers the server."""
    code, _ = site.run(server, f"python3 -c '{ASK}' {XNAT} GET /healthz")
    return {XNAT} if code == 0 else set()


# ---- the hub


def inside(site: Site, service: str, code: str, *words: str) -> Any:
    """Run Python in a service's container. Returns its JSON."""
    made = site.docker.exec_create(container(site, service), ["python3", "-c", code, *words])
    output = site.docker.exec_start(made["Id"]).decode()
    assert site.docker.exec_inspect(made["Id"])["ExitCode"] == 0, output
    return json.loads(output)


@pytest.fixture
def file_server(site: Site) -> list[tuple[str, int]]:
    """Another machine of the site's network, with the ports of a file server; they are open for a minute."""
    machine, ports = site.container.replace("node0", "node1"), (2049, 111)
    for port in ports:
        made = site.outer.exec_create(machine, ["timeout", "60", "python3", "-m", "http.server", str(port)])
        site.outer.exec_start(made["Id"], detach=True)
    (network,) = site.outer.inspect_container(machine)["NetworkSettings"]["Networks"].values()
    return [(network["IPAddress"], port) for port in ports]


def test_the_hub_reaches_xnat_at_the_gate_and_nothing_outside(site: Site, file_server: list[tuple[str, int]]) -> None:
    def reached(service: str, wanted: list[tuple[str, int]]) -> set[str]:
        found = inside(site, f"jupyterhub-{service}", CONNECT, json.dumps(wanted))
        return {target for target, how in found.items() if how == "connected"}

    others = {f"{host}:{port}" for host, port in file_server}
    wait_for("a service with a way out reaches the file server", lambda: reached("launcher", file_server) == others)
    outside = [(site.address, port) for port in (22, 2377, 8000, 8080)] + [(LINK_LOCAL, 80), ("1.1.1.1", 443)]
    host, _, port = XNAT.partition(":")
    assert reached("hub", [*file_server, *outside, ("172.17.0.1", 22), (host, int(port))]) == {XNAT}
    resolve = "import json, socket, sys; print(json.dumps([socket.gethostbyname(name) for name in sys.argv[1:]]))"
    assert len(set(inside(site, "jupyterhub-hub", resolve, host, "jupyterhub-gate"))) == 1
    networks = ("control", "notebooks", "egress", "front")
    internal = [name for name in networks if site.docker.inspect_network(f"jupyterhub-{name}")["Internal"]]
    assert internal == ["control", "notebooks"]


# ---- names in TLS

# Sends a gate the first message of TLS with each server name, and plain HTTP; prints what of these had an answer.
HELLO = """
import json, socket, ssl, sys
host, port, *names = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
messages = {"plain": b"GET /healthz HTTP/1.0\\r\\n\\r\\n"}
for name in names:
    sent = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name or None).do_handshake()
    except ssl.SSLWantReadError:
        messages[name] = sent.read()
found = []
for name, message in messages.items():
    with socket.create_connection((host, int(port)), 20) as client:
        client.sendall(message)
        try:
            if client.recv(1):
                found.append(name)
        except OSError:
            pass
print(json.dumps(found))
"""


@pytest.fixture
def gate_with_tls(site: Site) -> Iterator[str]:
    """A gate whose XNAT has TLS. Behind it is the demo XNAT, which answers everything with HTTP."""
    name = "test-gate"
    settings = {
        "name": "jupyterhub", "xnat_urls": ["https://jupyterhub-demo-xnat:8080"], "egress": "none",
        "internal_hosts": [],
        "refused_networks": [], "ports": [443], "upstream": "", "nodes": [],
    }  # fmt: skip
    config = site.docker.create_config(name, egress_plan(settings)["files"]["gate"].encode())
    file = {"Name": "/tmp/gate.cfg", "UID": "0", "GID": "0", "Mode": 0o444}
    service = site.docker.create_service(
        {
            "ContainerSpec": {
                "Image": site.image("egress"),
                "Command": ["haproxy", "-db", "-f", "/tmp/gate.cfg"],
                "Init": True,
                "Configs": [{"ConfigID": config["ID"], "ConfigName": name, "File": file}],
            },
            "Networks": [{"Target": "jupyterhub-egress"}],
        },
        name=name,
        endpoint_spec={"Mode": "dnsrr"},
    )
    wait_for("gate", functools.partial(runs, site, service["ID"]))
    yield name
    site.docker.remove_service(service["ID"])
    site.docker.remove_config(config["ID"])


def test_where_xnat_has_tls_a_connection_must_name_it(site: Site, gate_with_tls: str) -> None:
    own, others = "jupyterhub-demo-xnat", ("other.example.org", "evil.jupyterhub-demo-xnat", "")

    def answered(*names: str) -> set[str]:
        return set(inside(site, "jupyterhub-launcher", HELLO, gate_with_tls, "8080", *names))

    wait_for("XNAT behind the gate", lambda: answered(own) == {own})
    assert answered(own, *others) == {own}


def test_programs_that_ignore_no_proxy_reach_xnat_through_the_gate(site: Site, server: Server) -> None:
    assert asked(site, server, f"http://{XNAT}/healthz")[0] == 200
    # A name below XNAT's is not XNAT's.
    assert asked(site, server, f"http://evil.{XNAT}/healthz")[0] == 403


@pytest.fixture
def plays() -> Iterator[Playbooks]:
    plays = Playbooks(ROOT / "molecule/inventory")
    yield plays
    plays.play("playbooks/hub.yml")


def datagrams(site: Site) -> int:
    """Return how many datagrams, and so questions to name servers, the forward proxy's container has sent."""
    counts = inside(site, "jupyterhub-squid", 'import json; print(json.dumps(open("/proc/net/snmp").read()))')
    head, values = re.findall(r"^Udp: (.*)$", counts, re.M)
    return int(dict(zip(head.split(), values.split(), strict=True))["OutDatagrams"])


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
    questions = datagrams(site)
    status, page = asked(site, server, "http://conda.anaconda.org/")
    assert status == 403
    assert "conda.anaconda.org" in page
    assert asked(site, server, "secret.conda.anaconda.org:443", "CONNECT")[0] == 403
    assert datagrams(site) == questions, "a question to a name server can carry data outside"
    asked(site, server, "http://pypi.org/")
    assert datagrams(site) > questions
    site.stop(server)
