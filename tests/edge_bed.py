"""An edge for tests: haproxy with the edge's own file, and behind it a web server that tells what it has got."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from module_utils.xnat_site.edge import CERTIFICATES, HEALTH_PORT, HTTP_TARGET, SOCKET, TLS_TARGET, edge_plan
from tests.unit.plain_hub import free_port

HUB, XNAT = "hub.example.org", "xnat.example.org"
LIMIT = 10  # seconds
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") or ""
SET_COOKIES = "set"  # the query's name: cookies that the server sets
TYPE = "type"  # the query's name: the server sends BODY as this
BODY = b"// text\n" * 1000
SETTINGS: dict[str, Any] = {
    "hub_url": f"https://{HUB}", "hub_path": "/jupyterhub/", "hub_server": "proxy:8000", "person_origins": False,
    "xnat_url": f"https://{XNAT}", "xnat_upstream": "http://xnat.internal:8080", "certificates": ["certificate-0.pem"],
    "http_port": 80, "hsts": 31536000, "logins_each": 60, "ca": False, "thumbprint": "",
    "hub_cookies": ["jupyterhub-*", "__Host-jupyterhub-*", "_xsrf", "_streamlit_*"],
}  # fmt: skip


def config(**changes: Any) -> str:
    """haproxy's file."""
    return str(edge_plan(SETTINGS | changes)["file"])


def certificate(name: str, key: ec.EllipticCurvePrivateKey | None = None, address: str = "") -> str:
    """A self-signed certificate with its key, or with another one that does not fit, for HUB and XNAT or an address."""
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in (HUB, f"*.{HUB}", XNAT)]
    if address:
        names = [x509.IPAddress(ipaddress.ip_address(address))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=20))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(own, hashes.SHA256())
    )
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (signed.public_bytes(serialization.Encoding.PEM) + (key or own).private_bytes(*formats)).decode()


class Server:
    """The web server behind the edge. uploads: what has arrived of each upload, in pieces."""

    def __init__(self) -> None:
        self.uploads: asyncio.Queue[bytes] = asyncio.Queue()
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Tell of a request, echo a websocket, or take an upload."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse(autoping=True)
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data)
            return socket
        if request.method == "PUT":
            async for piece in request.content.iter_any():
                self.uploads.put_nowait(piece)
            return web.Response(status=201)
        if TYPE in request.query:
            return web.Response(body=BODY, content_type=request.query[TYPE])
        told = web.json_response({"path": request.path_qs, "headers": {name: request.headers.getall(name)
                                  for name in {name.title() for name in request.headers}}})  # fmt: skip
        for cookie in request.query.getall(SET_COOKIES, []):
            told.headers.add("Set-Cookie", cookie)
        return told

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve on a free port."""
        app = web.Application(client_max_size=2**40)
        app.router.add_route("*", "/{path:.*}", self.answer)
        # Cookies of 60 KB, as the hub's own proxy accepts them.
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, max_field_size=2**17, max_line_size=2**17)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Close all connections and listen no longer."""
        await self._runner.cleanup()


def here(text: str, folder: Path, server: int, ports: dict[int, int]) -> str:
    """Return a file of haproxy with the paths and ports of this machine. ports: those of the container to ours."""
    text = text.replace(CERTIFICATES, str(folder / "certificates")).replace(SOCKET, str(folder / "api"))
    text = re.sub(r"(    server \w+) \S+", rf"\1 127.0.0.1:{server}", text)
    return re.sub(r"bind (?:127\.0\.0\.1)?:(\d+)", lambda found: f"bind 127.0.0.1:{ports[int(found[1])]}", text)


class Edge:
    """A running edge. http: a client that takes every certificate, knows all hosts, and keeps no cookies."""

    http: aiohttp.ClientSession

    def __init__(self, folder: Path, server: Server, process: subprocess.Popen[bytes], ports: dict[int, int]) -> None:
        self.folder = folder
        self.server = server
        self.process = process
        self.ports = ports
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def url(self, path: str, port: int = TLS_TARGET) -> str:
        return f"http{'' if port == HTTP_TARGET else 's'}://127.0.0.1:{self.ports[port]}{path}"

    async def ask(
        self, path: str, host: str = HUB, method: str = "GET", port: int = TLS_TARGET, **options: Any
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer with its body read."""
        headers = {"Host": host, **options.pop("headers", {})}
        async with self.http.request(
            method, self.url(path, port), headers=headers, allow_redirects=False, **options
        ) as answer:
            await answer.read()
            return answer

    async def told(self, path: str, host: str = HUB, **headers: str) -> dict[str, list[str]]:
        """Return the headers that the server behind has got."""
        answer = await self.ask(path, host, headers={name.replace("_", "-"): text for name, text in headers.items()})
        assert answer.status == 200, answer
        found: dict[str, list[str]] = (await answer.json())["headers"]
        return found

    def log(self) -> str:
        """Return the log so far. A line may come shortly after its answer."""
        return (self.folder / "output").read_text()


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Edge]:
    """Run haproxy with a file of the edge, and the server behind it. Certificates that are there already are used."""
    server = Server()
    ports = {port: free_port() for port in (HEALTH_PORT, HTTP_TARGET, TLS_TARGET, TLS_TARGET + 1)}
    if not (folder / "certificates").exists():
        (folder / "certificates").mkdir()
        (folder / "certificates/certificate-0.pem").write_text(certificate("first"))
    async with server.run():
        (folder / "haproxy.cfg").write_text(here(text, folder, server.port, ports))
        process = start(folder / "haproxy.cfg")
        edge = Edge(folder, server, process, ports)
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=edge.tls), cookie_jar=aiohttp.DummyCookieJar()
            ) as edge.http:
                async with asyncio.timeout(LIMIT):
                    while not await listens(ports[TLS_TARGET]):
                        assert process.poll() is None, edge.log()
                yield edge
        finally:
            process.kill()
            process.wait()


def start(file: Path) -> subprocess.Popen[bytes]:
    """Start haproxy with a file."""
    with file.with_name("output").open("wb") as output:
        return subprocess.Popen([HAPROXY, "-db", "-f", file], stdout=output, stderr=output)


async def listens(port: int) -> bool:
    """Whether something accepts connections on a port of this machine."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.02)
        return False
    writer.close()
    return True
