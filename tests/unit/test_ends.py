"""When servers end, by a real JupyterHub: who may ask, what XNAT says, and announced maintenance.

Real notebook servers of that hub, with real kernels, show what counts as activity and which kernels are ended.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from xnat_hub.ends import AGE, EXPIRY, OVERDUE, KnownLimits, left, maintenance_left
from xnat_launcher.service import BUSY_VARIABLE, culling
from xnat_launcher.settings import Settings
from xnat_wire.launcher import Kind, Limits, RefusedError

from tests.hub_settings import settings_data
from tests.unit import plain_hub
from tests.unit.conftest import ROOT
from tests.unit.launcher_bed import until
from tests.unit.test_pages import ask
from tests.unit.test_preflight_plays import play

SERVER = "20260115T093012345Z"
HOUR = 3600.0
XNATS_TOKEN = plain_hub.TOKEN
OWN_SCOPES = ["read:users!user", "read:servers!user", "access:servers!user", "users:activity!user", "tokens!user"]
XNATS_SCOPES = ["admin:users", "servers", "delete:servers", "read:servers", "read:users", "tokens"]


@pytest.mark.parametrize(
    ("limit", "minutes", "expected"),
    [
        (7200.0, 30, {"limit": 7200.0, "left": 5400.0}),
        (7200.0, 121, {"limit": 7200.0, "left": 0.0}),
        (0.0, 30, None),
        (None, 30, None),
    ],
)
def test_the_time_left_is_counted_from_the_hubs_own_times(limit: float | None, minutes: int, expected: object) -> None:
    now = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
    assert left((now - timedelta(minutes=minutes)).replace(tzinfo=None), limit, now) == expected
    assert left(None, limit, now) is None


def test_maintenance_is_shown_to_the_servers_of_its_node_until_it_is_long_over() -> None:
    announced = {
        "n1": {"ends": 1000.0, "servers": [["jdoe", "s1"], ["asmith", "s2"]]},
        "n2": {"ends": 900.0, "servers": [["jdoe", "s3"]]},
    }
    assert maintenance_left(announced, "jdoe", "s1", 940.0) == 60.0
    assert maintenance_left(announced, "jdoe", "s1", 1001.0) == 0.0
    assert maintenance_left(announced, "jdoe", "s1", 1000.0 + OVERDUE) is None
    assert maintenance_left(announced, "jdoe", "s2", 940.0) is None
    assert maintenance_left({}, "jdoe", "s1", 0.0) is None


def test_no_page_waits_for_a_slow_xnat_and_old_limits_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xnat_hub.ends.FIRST", 0.01)
    limits = Limits(60.0, 120.0)

    async def check() -> None:
        answers: list[asyncio.Future[Limits]] = []

        async def xnat() -> Limits:
            answers.append(asyncio.get_running_loop().create_future())
            return await answers[-1]

        now = 0.0
        known = KnownLimits(xnat, lambda: now)
        assert [await known.get() for _ in range(3)] == [Limits()] * 3  # XNAT has not answered yet
        assert len(answers) == 1
        answers[0].set_result(limits)
        assert await known.get() == limits
        now += AGE + 1
        assert await known.get() == limits  # from memory, while XNAT is asked again
        await until(lambda: len(answers) == 2)
        assert await known.get() == limits
        answers[1].set_exception(RefusedError(Kind.XNAT, "XNAT is away."))
        await until(lambda: bool(known._question and known._question.done()))
        now += AGE + 1
        assert await known.get() == limits
        await until(lambda: len(answers) == 3)
        answers[2].set_result(replace(limits, lifetime=0.0))
        await until(lambda: bool(known._question and known._question.done()))
        assert (await known.get()).lifetime == 0.0
        now += EXPIRY
        assert await known.get() == Limits()
        answers[3].cancel()

    asyncio.run(check())


class StubLauncher(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers the call `limits` on a unix socket."""

    daemon_threads = True


class Answers(BaseHTTPRequestHandler):
    """XNAT's limits: an hour without activity, two days."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = json.dumps({"inactivity": HOUR, "lifetime": 48 * HOUR}).encode()
        self.send_response(200 if self.path == "/limits" else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


def _path(server: str) -> str:
    return f"servers/{server}" if server else "server"


@dataclass
class Hub:
    """A hub with these pages. folder: has the variables of each server that was started."""

    url: str
    folder: Path

    def api(self, method: str, path: str, body: object = None, token: str = XNATS_TOKEN) -> tuple[int, Any]:
        """Return status and JSON of a call; without JSON, None."""
        status, text, _ = ask(method, f"{self.url}/api/{path}", body, token)
        return status, json.loads(text) if text else None

    def start(self, user: str, server: str = SERVER) -> dict[str, str]:
        """Start a server as XNAT does. Returns its variables, as JupyterHub makes them."""
        assert self.api("POST", f"users/{user}")[0] in (201, 409)
        assert self.api("POST", f"users/{user}/{_path(server)}", {})[0] == 201
        found: dict[str, str] = json.loads((self.folder / f"{user} {server}.json").read_text())
        return found

    def token(self, user: str) -> str:
        """Return a token as in XNAT's link (contract 2.7)."""
        body = {"note": "x", "expires_in": 600, "scopes": [f"access:servers!user={user}"]}
        status, answer = self.api("POST", f"users/{user}/tokens", body)
        assert status == 201
        return str(answer["token"])

    def end(self, user: str, token: str, server: str = SERVER) -> tuple[int, Any]:
        """Ask as JupyterLab does."""
        return self.api("GET", f"users/{user}/{_path(server)}/end", token=token)

    def last_activity(self, user: str) -> datetime:
        """Return what XNAT sees of the server's activity."""
        return datetime.fromisoformat(self.api("GET", f"users/{user}")[1]["servers"][SERVER]["last_activity"])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with our pages, a stub of the launcher, and the roles of a site."""
    folder = tmp_path_factory.mktemp("hub")
    roles = [
        {"name": "xnat", "services": ["xnat"], "scopes": XNATS_SCOPES},
        {"name": "user", "scopes": OWN_SCOPES},
    ]
    with TemporaryDirectory(prefix="xnat-") as short, StubLauncher(f"{short}/l.sock", Answers) as stub:
        threading.Thread(target=stub.serve_forever, daemon=True).start()
        (folder / "settings.json").write_text(json.dumps(settings_data(launcher_socket=f"{short}/l.sock")))
        with plain_hub.running(
            folder,
            roles,
            PLAIN_HUB_PAGES=str(ROOT / "files/templates"),
            PLAIN_HUB_KEPT=str(folder),
            PLAIN_HUB_ENVIRONMENTS=str(folder),
            XNAT_HUB_SETTINGS=str(folder / "settings.json"),
            XNAT_HUB_SECRETS=str(folder),
            PYTHONPATH=f"{ROOT}:{ROOT / 'files'}",
        ) as url:
            yield Hub(url, folder)
        stub.shutdown()


def test_a_page_learns_when_xnat_ends_its_server(hub: Hub) -> None:
    own = hub.start("jdoe")["JUPYTERHUB_API_TOKEN"]
    for token in (hub.token("jdoe"), own):
        status, end = hub.end("jdoe", token)
        assert status == 200
        assert end["maintenance"] is None
        for kind, limit in (("lifetime", 48 * HOUR), ("inactivity", HOUR)):
            assert end[kind]["limit"] == limit
            assert limit - 120 < end[kind]["left"] <= limit


def test_the_page_of_the_unnamed_server_learns_it_too(hub: Hub) -> None:
    own = hub.start("unnamed", "")["JUPYTERHUB_API_TOKEN"]
    assert hub.end("unnamed", own, "")[1]["lifetime"]["limit"] == 48 * HOUR
    assert hub.end("unnamed", own, "other")[0] in (403, 404)


def test_nobody_learns_of_the_servers_of_others(hub: Hub) -> None:
    own = hub.start("asmith")["JUPYTERHUB_API_TOKEN"]
    hub.start("asmith", "other")
    hub.start("mallory")
    for token in (hub.token("mallory"), "", "wrong"):
        assert hub.end("asmith", token)[0] in (403, 404)
    assert hub.end("asmith", own)[0] == 200
    assert hub.end("asmith", own, "other")[0] in (403, 404)  # a server's token is for this server alone
    for token in (own, hub.token("asmith"), ""):
        for method in ("GET", "PUT"):
            assert hub.api(method, "maintenance/node1", {"left": 1, "servers": []}, token)[0] == 403


def test_a_server_that_has_ended_is_gone(hub: Hub) -> None:
    hub.start("gone")
    token = hub.token("gone")
    assert hub.api("DELETE", f"users/gone/servers/{SERVER}", {"remove": True})[0] in (202, 204)
    wait("the end", lambda: hub.end("gone", token)[0] == 410)


def test_a_page_of_another_origin_may_ask_with_its_token(hub: Hub) -> None:
    for method, status in (("OPTIONS", 200), ("GET", 403)):
        found, _, headers = ask(method, f"{hub.url}/api/users/jdoe/servers/{SERVER}/end")
        assert found in (status, 204)
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["Access-Control-Allow-Headers"] == "authorization"
        assert "Access-Control-Allow-Credentials" not in headers


MAINTENANCE = {"ansible.builtin.include_role": {"name": "node_maintenance", "tasks_from": "announce"}}


def maintain(folder: Path, hub: Hub, servers: Sequence[tuple[str, str]], *words: str, **changes: object) -> int:
    """Run the role's tasks against the hub. Returns the number of changes."""
    variables = {
        "node_maintenance_manager": "m1",
        "node_maintenance_hub_host": "m1",
        "node_maintenance_hub_url": hub.url.removesuffix("hub"),
        "node_maintenance_deployment": "jupyterhub",
        "node_maintenance_hub_token": XNATS_TOKEN,
        "node_maintenance_node_id": "n0de1",
        "node_maintenance_grace": 600,
        "__node_maintenance_announced": [{"user": user, "server": server} for user, server in servers],
        **changes,
    }
    run = play(Path(mkdtemp(dir=folder)), [MAINTENANCE], json.dumps(variables), *words)
    assert run.returncode == 0, run.stdout + run.stderr
    assert XNATS_TOKEN not in run.stdout
    assert "jdoe" not in run.stdout
    found = re.search(r"changed=([0-9]+)", run.stdout)
    assert found
    return int(found[1])


def test_maintenance_is_announced_to_the_servers_that_it_ends_and_removed(hub: Hub, tmp_path: Path) -> None:
    hub.start("jdoe", "here")
    hub.start("jdoe", "elsewhere")
    token = hub.token("jdoe")

    def shown() -> list[object]:
        return [hub.end("jdoe", token, server)[1]["maintenance"] for server in ("here", "elsewhere")]

    here = [("jdoe", "here")]
    assert maintain(tmp_path, hub, here, "--check") == 1
    assert shown() == [None, None]
    assert maintain(tmp_path, hub, here) == 1
    end, other = shown()
    assert other is None
    assert isinstance(end, dict)
    assert end["limit"] is None
    assert 480 < end["left"] <= 600
    assert maintain(tmp_path, hub, here, node_maintenance_grace=60) == 1  # again, after an interruption
    end, _ = shown()
    assert isinstance(end, dict)
    assert end["left"] <= 60
    assert maintain(tmp_path, hub, []) == 1
    assert shown() == [None, None]
    assert maintain(tmp_path, hub, []) == 0


def test_a_hub_that_refuses_announcements_does_not_prevent_maintenance(hub: Hub, tmp_path: Path) -> None:
    earlier_release = f"{hub.url}/api/none/"
    assert maintain(tmp_path, hub, [("jdoe", "here")], node_maintenance_hub_url=earlier_release) == 0


@pytest.mark.parametrize(
    "body",
    [
        {}, {"left": 60}, {"left": -1, "servers": []}, {"left": True, "servers": []}, {"left": 10**9, "servers": []},
        {"left": 60, "servers": {}}, {"left": 60, "servers": [1]}, {"left": 60, "servers": [{"user": "jdoe"}]},
        {"left": 60, "servers": [{"user": "jdoe", "server": None}]},
    ],
)  # fmt: skip
def test_an_announcement_that_makes_no_sense_is_refused(hub: Hub, body: dict[str, Any]) -> None:
    assert hub.api("PUT", "maintenance/n1", body)[0] == 400
    assert hub.api("GET", "maintenance/n1")[1]["servers"] == []


# --- Notebook servers ---

CONFIGURATION = """
import os.path
import xnat_notebook.activity
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

xnat_notebook.activity.INTERVAL = 0.1
cull_kernels = MappingKernelManager.cull_kernels


async def cull_when_the_test_is_ready(self):  # not while kernels start
    if os.path.exists("cull"):
        await cull_kernels(self)


MappingKernelManager.cull_kernels = cull_when_the_test_is_ready
c.MappingKernelManager.cull_idle_timeout = 0
c.MappingKernelManager.cull_busy = True
"""
# Computes without output until the file `stop` exists, and counts in another file.
BUSY = """
import pathlib, time
number = 0
while not pathlib.Path({folder!r}, "stop").exists():
    number += 1
    pathlib.Path({folder!r}, "part").write_text(str(number))
    pathlib.Path({folder!r}, "part").rename(pathlib.Path({folder!r}, "count"))
    time.sleep(0.05)
"""


def wait(what: str, condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within a minute"
        time.sleep(0.05)


async def soon(what: str, condition: Callable[[], object]) -> None:
    """Wait until a condition is true, while connections to kernels stay open."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within a minute"
        await asyncio.sleep(0.05)


@dataclass
class Notebook:
    """A running notebook server."""

    url: str
    token: str
    folder: Path

    def api(self, method: str, path: str, body: object = None) -> Any:
        status, text, _ = ask(method, f"{self.url}api/{path}", body, self.token)
        assert status < 300, text
        return json.loads(text) if text else None

    def start_kernel(self) -> str:
        return str(self.api("POST", "kernels", {"name": "python3"})["id"])

    def kernels(self) -> dict[str, str]:
        """Return the state of each kernel."""
        return {kernel["id"]: kernel["execution_state"] for kernel in self.api("GET", "kernels")}

    def last_activity(self) -> datetime:
        """Return what the server itself takes for its last activity."""
        return datetime.fromisoformat(self.api("GET", "status")["last_activity"])

    @asynccontextmanager
    async def connected(self, kernel: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Connect to a kernel, as a browser that shows its notebook."""
        headers = {"Authorization": f"token {self.token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.ws_connect(f"{self.url}api/kernels/{kernel}/channels") as websocket,
        ):
            yield websocket

    async def run(self, kernel: str, code: str) -> None:
        """Run a cell, and close the page once the cell has begun."""
        message = {
            "channel": "shell", "metadata": {}, "parent_header": {}, "buffers": [],
            "header": {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": uuid.uuid4().hex,
                       "username": "", "version": "5.3"},
            "content": {"code": code, "silent": False, "store_history": True, "user_expressions": {},
                        "allow_stdin": False, "stop_on_error": True},
        }  # fmt: skip
        async with self.connected(kernel) as websocket:
            await websocket.send_json(message)
            async with asyncio.timeout(60):
                async for answer in websocket:
                    if json.loads(answer.data).get("msg_type") == "execute_input":
                        break

    def count(self) -> int:
        """Return how far the busy cell has counted."""
        file = self.folder / "count"
        return int(file.read_text()) if file.exists() else 0


@contextmanager
def notebook(hub: Hub, user: str, folder: Path, *arguments: str, busy: str = "1") -> Iterator[Notebook]:
    """Run a notebook server of the hub, with the configuration of the image."""
    environment = hub.start(user)
    port = plain_hub.free_port()
    (folder / "jupyter_server_config.py").write_text(CONFIGURATION)
    (folder / "jupyter_server_config.d").mkdir()
    (folder / "jupyter_server_config.d/xnat_notebook.json").symlink_to(ROOT / "files/singleuser/xnat_notebook.json")
    (folder / "workspace").mkdir()
    variables = {
        **os.environ, **environment,
        BUSY_VARIABLE: busy,
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}{environment['JUPYTERHUB_SERVICE_PREFIX']}",
        "JUPYTERHUB_ACTIVITY_INTERVAL": "1",
        "JUPYTERHUB_ROOT_DIR": str(folder / "workspace"),
        "JUPYTER_CONFIG_DIR": str(folder),
        "JUPYTER_CONFIG_PATH": str(ROOT / "files/singleuser"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "PYTHONPATH": str(ROOT / "files/singleuser"),
        "HOME": str(folder),
    }  # fmt: skip
    log = folder / "notebook.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "jupyterhub.singleuser", "--allow-root", *arguments]
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}{urlsplit(variables['JUPYTERHUB_SERVICE_URL']).path}"
    try:
        wait("notebook server", lambda: process.poll() is not None or ask("GET", f"{url}api")[0] == 200)
        assert process.poll() is None, log.read_text()
        yield Notebook(url, hub.token(user), folder)
    except BaseException:
        print(log.read_text())
        raise
    finally:
        (folder / "stop").touch()
        process.terminate()
        process.wait(30)


def _is_later(hub: Hub, user: str, before: datetime) -> bool:
    return hub.last_activity(user) > before


def test_a_busy_kernel_counts_as_activity_and_is_not_ended_as_an_idle_one_is(
    hub: Hub, tmp_path: Path, launcher_settings: Settings
) -> None:
    async def check(server: Notebook) -> None:
        busy, shown, idle = (server.start_kernel() for _ in range(3))
        for kernel, code in ((busy, BUSY.format(folder=str(tmp_path))), (shown, "1"), (idle, "1")):
            await server.run(kernel, code)
        for _ in range(2):
            before = hub.last_activity("busy")
            await soon("activity in the hub", functools.partial(_is_later, hub, "busy", before))
        async with server.connected(shown):
            expected = {busy: "busy", shown: "idle", idle: "idle"}
            await soon("end of the short cells", lambda: server.kernels() == expected)
            (tmp_path / "cull").touch()
            await soon("end of the idle kernel", lambda: idle not in server.kernels())
            far = server.count() + 40
            await soon("progress of the cell", lambda: server.count() >= far)
            assert set(server.kernels()) == {busy, shown}
            (tmp_path / "stop").touch()
            await soon("end of the kernel that was busy", lambda: busy not in server.kernels())
            assert set(server.kernels()) == {shown}

    with notebook(hub, "busy", tmp_path, *culling(replace(launcher_settings, cull_idle=1))) as server:
        asyncio.run(check(server))


def test_a_busy_kernel_does_not_count_if_the_site_says_so(hub: Hub, tmp_path: Path) -> None:
    async def check(server: Notebook) -> None:
        await server.run(server.start_kernel(), BUSY.format(folder=str(tmp_path)))
        known = server.last_activity()
        await soon("report of the start of the cell", lambda: hub.last_activity("quiet") >= known)
        before, far = hub.last_activity("quiet"), server.count() + 40
        await soon("progress of the cell", lambda: server.count() >= far)
        assert hub.last_activity("quiet") == before
        assert server.last_activity() == known

    with notebook(hub, "quiet", tmp_path, busy="0") as server:
        asyncio.run(check(server))
