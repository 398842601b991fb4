"""The reconciler's calls to hub, proxy and launcher, on sockets of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from xnat_hub.reconciler import CallError, Hub, Servers

FILES = Path(__file__).parents[2] / "files"


class Handler(BaseHTTPRequestHandler):
    """Answers what `answers` has for method and path, and notes bodies."""

    answers: dict[str, tuple[int, Any]] = {}  # noqa: RUF012  (set by each test)
    asked: list[tuple[str, Any]] = []  # noqa: RUF012

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = f"{self.command} {self.path}"
        self.asked.append((call, json.loads(body) if body else None))
        status, found = self.answers.get(call, (404, {"message": "unknown"}))
        text = b"" if found is None else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


class UnixHandler(Handler):
    def address_string(self) -> str:
        return ""


@pytest.fixture
def hub() -> Iterator[Hub]:
    Handler.answers, Handler.asked = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Hub(f"http://127.0.0.1:{server.server_address[1]}/hub/api", "t")
        server.shutdown()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Servers]:
    Handler.answers, Handler.asked = {}, []
    with ThreadingUnixStreamServer(str(tmp_path / "s"), UnixHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Servers(str(tmp_path / "s"))
        server.shutdown()


def page(offset: int, following: int | None, **servers: bool) -> tuple[str, tuple[int, Any]]:
    items = [{"name": "jdoe", "servers": {name: {"stopped": s, "pending": None} for name, s in servers.items()}}]
    ahead = None if following is None else {"offset": following}
    call = f"GET /hub/api/users?include_stopped_servers=1&limit=1000&offset={offset}"
    return call, (200, {"items": items, "_pagination": {"next": ahead}})


def test_all_pages_of_the_hubs_list_are_read(hub: Hub) -> None:
    Handler.answers = dict([page(0, 1000, a=False), page(1000, None, b=True)])
    assert hub.servers() == {("jdoe", "a"): False, ("jdoe", "b"): True}


def test_a_server_that_the_hub_forgot_already_is_no_failure(hub: Hub) -> None:
    hub.forget(("j/doe", "s 1"))
    assert Handler.asked == [("DELETE /hub/api/users/j%2Fdoe/servers/s%201", {"remove": True})]


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_hub_that_refuses_is_an_error(hub: Hub, status: int) -> None:
    Handler.answers = {"POST /hub/api/proxy": (status, {"message": "no"})}
    with pytest.raises(CallError, match=str(status)):
        hub.give_routes()


def test_the_launchers_servers_are_listed_and_stopped(launcher: Servers) -> None:
    Handler.answers = {
        "POST /all": (200, {"servers": [{"user": "jdoe", "server": "", "id": "i1"}]}),
        "POST /stop": (200, {"ended": False}),
    }
    assert launcher.all() == {("jdoe", ""): "i1"}
    launcher.stop("jdoe", "", "i1")
    assert Handler.asked[-1] == ("POST /stop", {"user": "jdoe", "server": "", "patience": 0, "id": "i1"})


def test_a_launcher_that_refuses_or_is_away_is_an_error(launcher: Servers, tmp_path: Path) -> None:
    Handler.answers = {"POST /all": (400, {"kind": "bad_request", "message": "because"})}
    with pytest.raises(CallError, match="because"):
        launcher.all()
    with pytest.raises(CallError, match="FileNotFoundError"):
        Servers(str(tmp_path / "none")).all()


def test_no_http_client_is_loaded() -> None:
    """Its modules would double the memory of a process that makes two calls in ten seconds."""
    code = "import sys, xnat_hub.reconciler; print(*{'aiohttp', 'asyncio', 'docker', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(FILES)}, capture_output=True, check=True)
    assert done.stdout.strip() == b""
