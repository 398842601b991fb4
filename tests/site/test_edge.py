"""The edge in front of a real hub and a real JupyterLab: cookies with one host name, and a new certificate.

The edge's program and file run in a container of the image `egress`, which also has haproxy, so that no image is built.
"""

from __future__ import annotations

import asyncio
import io
import json
import ssl
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import pytest
import requests
import urllib3

from module_utils.xnat_site.edge import CERTIFICATES, TLS_TARGET
from tests.edge_bed import HUB, SETTINGS, certificate, config
from tests.site.conftest import BASE_URL, ROOT, TIMEOUT, Site, wait_for

NAME = "xnatjh-test-edge"
PORT = 9443  # of the node
PROGRAM = "/usr/local/lib/edge.py"
PEM = f"{CERTIFICATES}/certificate-0.pem"
PATTERNS = tuple(pattern.removesuffix("*") for pattern in SETTINGS["hub_cookies"])

pytestmark = pytest.mark.filterwarnings(f"ignore::{urllib3.exceptions.InsecureRequestWarning.__module__}."
                                        f"{urllib3.exceptions.InsecureRequestWarning.__name__}")  # fmt: skip


@dataclass
class Edge:
    """A running edge, which has one host name for hub and XNAT. url: its origin."""

    site: Site
    url: str

    def put(self, files: dict[str, str]) -> None:
        """Write files into its container."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, text in files.items():
                member = tarfile.TarInfo(path.lstrip("/"))
                member.size, member.mode = len(text.encode()), 0o644
                archive.addfile(member, io.BytesIO(text.encode()))
        assert self.site.docker.put_archive(NAME, "/", packed.getvalue())

    def browser(self) -> requests.Session:
        """Return a browser, for which the edge has its host name."""
        browser = requests.Session()
        browser.trust_env = False  # a bundle of the environment would come before `verify`
        browser.verify = False
        browser.headers.update({"Host": HUB, "Sec-Fetch-Mode": "navigate"})
        return browser


@pytest.fixture(scope="module")
def edge(site: Site) -> Iterator[Edge]:
    """The edge in front of this site."""
    edge = Edge(site, f"https://{site.address}:{PORT}")
    text = config(xnat_url=f"https://{HUB}", http_port=0, hub_server="127.0.0.1:8000", xnat_upstream=f"{site.xnat}")
    text = text.replace(f"bind :{TLS_TARGET} ", f"bind :{PORT} ")
    site.docker.create_container(
        site.image("egress"),
        ["python3", "-IS", PROGRAM, "run"],
        name=NAME,
        host_config=site.docker.create_host_config(network_mode="host", cap_drop=["ALL"]),
    )
    try:
        edge.put(
            {
                PROGRAM: (ROOT / "files/edge/edge.py").read_text(),
                "/etc/xnat-edge/haproxy.cfg": text,
                PEM: certificate("first"),
            }
        )
        site.docker.start(NAME)
        wait_for("the edge", lambda: answers(edge))
        yield edge
    finally:
        site.docker.remove_container(NAME, force=True)


def answers(edge: Edge) -> bool:
    try:
        return edge.browser().get(f"{edge.url}{BASE_URL}hub/api/", timeout=TIMEOUT).status_code == 200
    except requests.ConnectionError:
        return False


def served(site: Site) -> str:
    return ssl.get_server_certificate((site.address, PORT), timeout=TIMEOUT)


def test_with_one_host_name_hub_and_jupyterlab_get_all_cookies_that_they_need(site: Site, edge: Edge) -> None:
    browser = edge.browser()
    assert browser.get(f"{edge.url}{BASE_URL}hub/login", timeout=TIMEOUT).status_code == 200
    data = {"username": "jdoe", "password": site.password, "_xsrf": browser.cookies["_xsrf"]}
    login = browser.post(f"{edge.url}{BASE_URL}hub/login", data=data, timeout=TIMEOUT, allow_redirects=False)
    assert login.status_code == 302
    assert "jdoe" in browser.get(f"{edge.url}{BASE_URL}hub/home", timeout=TIMEOUT).text

    found = site.ask("GET", f"{site.xnat}/xapi/compute/environments?type=JUPYTERHUB", "admin").json()
    (lab,) = [one["id"] for one in found if one["computeEnvironment"]["name"] == "JupyterLab"]
    server = site.launch(environment=lab)
    assert site.outcome(server)
    token = site.ask("POST", f"{site.hub}hub/api/users/jdoe/tokens", json={"expires_in": 600}).json()["token"]
    path = f"{BASE_URL}user/jdoe/{server.name}/"
    page = edge.browser()
    lab = page.get(f"{edge.url}{path}lab?token={token}", timeout=TIMEOUT)
    assert "jupyter-config-data" in lab.text
    assert lab.headers["X-Content-Type-Options"] == "nosniff"
    assert lab.headers["Referrer-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in lab.headers["Content-Security-Policy"]
    assert page.get(f"{edge.url}{path}api/status", timeout=TIMEOUT).status_code == 200  # by its cookie alone
    names = {cookie.name for jar in (browser.cookies, page.cookies) for cookie in jar}
    assert len(names) >= 3
    assert [name for name in names if not name.startswith(PATTERNS)] == []

    asyncio.run(survives_a_new_certificate(edge, path, token))
    site.stop(server)


async def survives_a_new_certificate(edge: Edge, path: str, token: str) -> None:
    """A kernel's websocket stays open while the edge gets a new certificate."""
    headers = {"Host": HUB, "Authorization": f"token {token}"}
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), headers=headers) as client:
        async with client.post(f"{edge.url}{path}api/kernels", json={"name": "python3"}) as answer:
            assert answer.status == 201
            kernel = (await answer.json())["id"]
        async with client.ws_connect(f"{edge.url}{path}api/kernels/{kernel}/channels") as socket:
            before = await asyncio.to_thread(served, edge.site)
            await asyncio.to_thread(edge.put, {PEM: certificate("second")})
            await asyncio.to_thread(wait_for, "the new certificate", lambda: served(edge.site) != before, TIMEOUT)
            message = uuid.uuid4().hex
            header = {"msg_id": message, "msg_type": "kernel_info_request", "session": message, "username": "jdoe",
                      "version": "5.3"}  # fmt: skip
            asked = {"header": header, "parent_header": {}, "metadata": {}, "content": {}, "channel": "shell"}
            await socket.send_json(asked)
            async with asyncio.timeout(TIMEOUT):
                while True:
                    got = await socket.receive()
                    assert got.type is aiohttp.WSMsgType.TEXT, got
                    reply = json.loads(got.data)
                    if reply["parent_header"].get("msg_id") == message and reply["msg_type"] == "kernel_info_reply":
                        return
