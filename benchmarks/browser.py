"""Measure how fast JupyterLab opens in a browser: `.venv/bin/python benchmarks/browser.py --jupyter VENV --proxy DIR`.

Runs a real JupyterHub with its proxy, real notebook servers and a headless Chromium as processes of this machine. Each
side opens three servers one after the other in one browser profile. README.md says what is prepared, and what the
columns are.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import serialization

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "files")]

from module_utils.xnat_site.edge import HEALTH_PORT, HTTP_TARGET, TLS_TARGET  # noqa: E402
from tests.edge_bed import HUB, certificate, config, here, listens, start  # noqa: E402
from tests.unit.plain_hub import free_port  # noqa: E402

USER = "bench"
TOKEN = "token-of-the-benchmark"  # noqa: S105
LAUNCHES = 3
LIMIT = 60  # seconds for one launch
SIDES = ("own", "hub")  # whose copy of JupyterLab's files browsers load
# Mbit/s and milliseconds of a round trip, as Chromium's developer tools slow connections; 0 for no limit.
LINES = {"fast": (0, 0), "slow": (10, 40)}
HUB_CONFIG = """
import os, sys
from xnat_hub import assets
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['BENCH_PORT']}/jupyterhub/"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['BENCH_HUB_PORT']}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['BENCH_API_PORT']}"
c.ConfigurableHTTPProxy.command = ["node", os.environ["BENCH_PROXY"]]
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.extra_handlers = assets.handlers(os.environ["BENCH_ASSETS"])
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["BENCH_TOKEN"], "admin": True}]
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [os.environ["BENCH_JUPYTER"], os.environ["BENCH_COMMAND"]]
c.Spawner.args = ["--allow-root"]
c.Spawner.default_url = "/lab"
c.Spawner.notebook_dir = os.environ["BENCH_WORKSPACE"]
c.Spawner.environment = {
    "JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1",
    "PYTHONPATH": os.environ["BENCH_SINGLEUSER"],
    "JUPYTER_CONFIG_PATH": os.environ["BENCH_CONFIG"],
    "JUPYTER_PATH": os.environ["BENCH_DATA"],
}
"""
# Usable: the launcher page and the file browser show their entries.
WATCH = """
const look = () => {
  const there = document.querySelector(".jp-LauncherCard") && document.querySelector(".jp-DirListing-item");
  if (there) { window.benchUsable = performance.now(); } else { requestAnimationFrame(look); }
};
look();
"""


@dataclass
class Launch:
    """One launch. Times in seconds. README.md says what the columns are; moved: in megabytes."""

    start: float = 0
    page: float = 0
    busy: float = 0
    requests: float = 0
    cached: float = 0
    moved: float = 0


class Browser:
    """A headless Chromium with one profile, driven by its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                self._answers.pop(data["id"]).set_result(data)
            else:
                self.events.append(data)

    async def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result. Raises RuntimeError."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        )
        answer = await asyncio.wait_for(self._answers[number], LIMIT)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    async def open(self, url: str, line: str) -> Launch:
        """Open a page in a new tab until JupyterLab is usable, and close it."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        self.events.clear()
        await self.call("Network.enable", session)
        await self.call("Page.enable", session)
        await self.call("Performance.enable", session)
        await self.call("Page.addScriptToEvaluateOnNewDocument", session, source=WATCH)
        mbit, latency = LINES[line]
        if mbit:
            rate = mbit * 1e6 / 8
            await self.call(
                "Network.emulateNetworkConditions", session,
                offline=False, latency=latency, downloadThroughput=rate, uploadThroughput=rate,
            )  # fmt: skip
        began = time.monotonic()
        await self.call("Page.navigate", session, url=url)
        while not await self._usable(session):
            if time.monotonic() > began + LIMIT:
                shown = await self.call(
                    "Runtime.evaluate", session, expression="document.URL + document.body.innerText"
                )
                raise TimeoutError(f"{url} is not usable: {shown['result']['value']}")
            await asyncio.sleep(0.02)
        found = Launch(page=time.monotonic() - began)
        metrics = (await self.call("Performance.getMetrics", session))["metrics"]
        found.busy = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
        await asyncio.sleep(2)  # what is loaded behind the usable page counts as well
        self._count(found)
        await self.call("Target.closeTarget", targetId=target)
        return found

    async def _usable(self, session: str) -> bool:
        result = await self.call("Runtime.evaluate", session, expression="window.benchUsable || 0")
        return bool(result["result"].get("value"))

    def _count(self, found: Launch) -> None:
        cached = set()
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Network.requestWillBeSent" and parameters["request"]["url"].startswith("http"):
                found.requests += 1
            elif event["method"] == "Network.requestServedFromCache" or (
                event["method"] == "Network.responseReceived" and parameters["response"].get("fromDiskCache")
            ):
                cached.add(parameters["requestId"])
            elif event["method"] == "Network.loadingFinished" and parameters["requestId"] not in cached:
                found.moved += parameters["encodedDataLength"] / 1e6
        found.cached = len(cached)


@asynccontextmanager
async def chromium(profile: Path, *options: str) -> AsyncIterator[Browser]:
    """Run Chromium with a profile."""
    program = shutil.which("chromium") or "chromium"
    process = await asyncio.create_subprocess_exec(
        program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--window-size=1280,860", "--remote-debugging-port=0",
        f"--user-data-dir={profile}", *options, "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        place = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not place.exists() or len(place.read_text().splitlines()) < 2:
            if time.monotonic() > deadline:
                raise TimeoutError("Chromium does not start")
            await asyncio.sleep(0.05)
        port, path = place.read_text().splitlines()[:2]
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
        ):
            yield Browser(socket)
    finally:
        process.terminate()
        await process.wait()


class Hub:
    """A hub with a proxy. url: for browsers, without a slash at the end."""

    def __init__(self, http: aiohttp.ClientSession, api: str, url: str) -> None:
        self._http = http
        self._api = api
        self._url = url
        self._headers = {"Authorization": f"token {TOKEN}"}

    async def start(self, name: str) -> tuple[float, str]:
        """Start a server as XNAT does. Returns the seconds until it is ready, and its link with a token."""
        began = time.monotonic()
        path = f"{self._api}/users/{USER}"
        await self.send("POST", f"{path}/servers/{name}")
        while not (await self.send("GET", path))["servers"].get(name, {}).get("ready"):
            if time.monotonic() > began + LIMIT:
                raise TimeoutError(f"{name} is not ready")
            await asyncio.sleep(0.1)
        took = time.monotonic() - began
        token = (await self.send("POST", f"{path}/tokens", {"note": "bench"}))["token"]
        return took, f"{self._url}/user/{USER}/{name}/?token={token}"

    async def stop(self, name: str) -> None:
        """Stop a server."""
        await self.send("DELETE", f"{self._api}/users/{USER}/servers/{name}", {"remove": True})

    async def send(self, method: str, url: str, body: object = None) -> Any:
        """Send a request as a service of the hub and return the answer's JSON."""
        async with self._http.request(method, url, json=body, headers=self._headers) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None) if answer.status != 204 else None


@asynccontextmanager
async def hub(folder: Path, side: str, options: argparse.Namespace) -> AsyncIterator[tuple[Hub, tuple[str, ...]]]:
    """Run a hub, and an edge before it if wanted. Yields it and the options of Chromium for it."""
    shared = side == "hub"
    settings = folder / "settings"
    (settings / "jupyter_server_config.d").mkdir(parents=True)
    singleuser = ROOT / "files/singleuser"
    shutil.copy(singleuser / "jupyter_server_config.json", settings)
    if shared:
        shutil.copy(singleuser / "xnat_notebook.json", settings / "jupyter_server_config.d")
    shutil.copytree(singleuser / "labextension", folder / "data/labextensions/xnat-jupyterhub")
    for name in ("workspace/images", "assets"):
        (folder / name).mkdir(parents=True)
    if shared:
        static = options.jupyter / "share/jupyter/lab/static"
        run = [sys.executable, ROOT / "files/assets/collect.py", static, folder / "assets"]
        await asyncio.to_thread(subprocess.run, run, check=True)
    port, hub_port, api_port = free_port(), free_port(), free_port()
    (folder / "config.py").write_text(HUB_CONFIG)
    (folder / "jupyterhub-singleuser").write_text("from lean_start import main\nmain()\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "files"),
        "BENCH_PORT": str(port),
        "BENCH_HUB_PORT": str(hub_port),
        "BENCH_API_PORT": str(api_port),
        "BENCH_PROXY": str(options.proxy / "node_modules/.bin/configurable-http-proxy"),
        "BENCH_ASSETS": str(folder / "assets"),
        "BENCH_TOKEN": TOKEN,
        "BENCH_COMMAND": str(folder / "jupyterhub-singleuser"),
        "BENCH_JUPYTER": str(options.jupyter / "bin/python3"),
        "BENCH_WORKSPACE": str(folder / "workspace"),
        "BENCH_SINGLEUSER": str(singleuser),
        "BENCH_CONFIG": str(settings),
        "BENCH_DATA": str(folder / "data"),
    }
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "jupyterhub", "--config", folder / "config.py",
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with (
            edge(folder, port) if options.edge else plain(port) as (url, browser_options),
            aiohttp.ClientSession() as http,
        ):
            api = f"http://127.0.0.1:{port}/jupyterhub/hub/api"
            await wait(http, api, folder)
            found = Hub(http, api, f"{url}/jupyterhub")
            await found.send("POST", f"{api}/users/{USER}")
            yield found, browser_options
    finally:
        process.terminate()
        await process.wait()


async def wait(http: aiohttp.ClientSession, api: str, folder: Path) -> None:
    """Wait until the hub answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            async with http.get(f"{api}/") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError((folder / "log").read_text())
        await asyncio.sleep(0.1)


@asynccontextmanager
async def plain(port: int) -> AsyncIterator[tuple[str, tuple[str, ...]]]:
    """Plain HTTP: yields the URL of the hub's proxy."""
    yield f"http://127.0.0.1:{port}", ()


@asynccontextmanager
async def edge(folder: Path, port: int) -> AsyncIterator[tuple[str, tuple[str, ...]]]:
    """Run the edge before the hub's proxy. Yields its URL and the options by which Chromium finds and trusts it."""
    (folder / "certificates").mkdir()
    pem = certificate(HUB)
    (folder / "certificates/certificate-0.pem").write_text(pem)
    key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    info = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = base64.b64encode(hashlib.sha256(info).digest()).decode()
    ports = {target: free_port() for target in (HEALTH_PORT, HTTP_TARGET, TLS_TARGET, TLS_TARGET + 1)}
    (folder / "haproxy.cfg").write_text(here(config(xnat_upstream=""), folder, port, ports))
    process = start(folder / "haproxy.cfg")
    try:
        while not await listens(ports[TLS_TARGET]):
            pass
        yield (
            f"https://{HUB}:{ports[TLS_TARGET]}",
            (f"--host-resolver-rules=MAP {HUB} 127.0.0.1", f"--ignore-certificate-errors-spki-list={digest}"),
        )
    finally:
        process.kill()
        process.wait()


async def measure(side: str, line: str, options: argparse.Namespace) -> list[Launch]:
    """Open LAUNCHES servers one after the other in a new browser profile."""
    with TemporaryDirectory(prefix="xnat-bench-") as name:
        folder = Path(name)
        async with (
            hub(folder, side, options) as (running, browser_options),
            chromium(folder / "profile", *browser_options) as browser,
        ):
            launches = []
            for number in range(LAUNCHES):
                server = f"20260101T00000000{number}Z"
                took, url = await running.start(server)
                launch = await browser.open(url, line)
                launch.start = took
                launches.append(launch)
                await running.stop(server)
            return launches


def table(results: Mapping[tuple[str, str], list[list[Launch]]]) -> str:
    """Return the medians as a table. results: by line and side, of each repetition the launches."""
    rows = ["| line | files | launch | start | page | busy | requests | from cache | moved |", "|---" * 9 + "|"]
    for (line, side), repetitions in results.items():
        for number, launches in enumerate(zip(*repetitions, strict=True), 1):
            middle = {
                each.name: statistics.median(getattr(one, each.name) for one in launches) for each in fields(Launch)
            }
            rows.append(
                f"| {line} | {side} | {number} | {middle['start']:.1f} s | {middle['page']:.2f} s |"
                f" {middle['busy']:.2f} s |"
                f" {middle['requests']:.0f} | {middle['cached']:.0f} | {middle['moved']:.2f} MB |"
            )
    return "\n".join(rows)


def main() -> None:
    """Run the measurement and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--jupyter", type=Path, required=True, help="a virtual environment with files/singleuser/requirements.lock"
    )
    parser.add_argument(
        "--proxy", type=Path, required=True, help="a folder with the packages of files/runtime/package-lock.json"
    )
    parser.add_argument("--edge", action="store_true", help="with TLS and HTTP/2, by haproxy with the file of the edge")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument("-n", type=int, default=3, help="repetitions")
    options = parser.parse_args()
    results: dict[tuple[str, str], list[list[Launch]]] = {}
    for _ in range(options.n):
        for line, side in itertools.product(options.lines, options.sides):
            launches = asyncio.run(measure(side, line, options))
            results.setdefault((line, side), []).append(launches)
            print(line, side, *launches, sep="\n  ", file=sys.stderr)
    print(table(results))


if __name__ == "__main__":
    main()
