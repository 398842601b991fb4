"""A real JupyterHub without a proxy, whose own process serves its users' servers as pages.

JupyterHub runs this file as its configuration, with the port and the scopes of the service in the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyterhub.auth import DummyAuthenticator, NullAuthenticator
from jupyterhub.proxy import Proxy
from jupyterhub.spawner import Spawner
from tornado import web

TOKEN = "service-token-of-the-tests"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class NoProxy(Proxy):  # type: ignore[misc]
    """Routes that lead nowhere."""

    should_start = False

    async def add_route(self, routespec: str, target: str, data: Any) -> None:
        self.routes()[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        self.routes().pop(routespec, None)

    async def get_all_routes(self) -> dict[str, Any]:
        return self.routes()

    def routes(self) -> dict[str, Any]:
        found: dict[str, Any] = self.__dict__.setdefault("_routes", {})
        return found


class NoLogin(NullAuthenticator):  # type: ignore[misc]
    """Nobody logs in; names are kept as they are, as ours does."""

    def normalize_username(self, username: str) -> str:
        return username


class AnyPassword(DummyAuthenticator):  # type: ignore[misc]
    """Anybody logs in, with any password except `wrong`."""

    def normalize_username(self, username: str) -> str:
        return username

    async def authenticate(self, handler: Any, data: dict[str, str]) -> str:
        if data["password"] == "wrong":
            raise web.HTTPError(403, "XNAT does not accept this name and password.")
        return data["username"]


class PageSpawner(Spawner):  # type: ignore[misc]
    """A server that answers every request with an empty page. One whose name is `stuck` does not end."""

    _page: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(PAGE)
            await writer.drain()
            writer.close()

        if folder := os.environ.get("PLAIN_HUB_ENVIRONMENTS"):  # for a test that runs a notebook server itself
            keep(Path(folder, f"{self.user.name} {self.name}.json"), self.get_env())
        self._page = await asyncio.start_server(answer, "127.0.0.1", 0)
        address: tuple[str, int] = self._page.sockets[0].getsockname()
        return address

    async def stop(self, now: bool = False) -> None:
        if self.name == "stuck":
            await asyncio.sleep(3600)
        if self._page:
            self._page.close()
            self._page = None

    async def poll(self) -> int | None:
        return None if self._page else 0


def keep(file: Path, environment: dict[str, str]) -> None:
    """Write the variables of a server to a file."""
    file.write_text(json.dumps(environment))


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(folder: Path, roles: list[dict[str, Any]], **variables: str) -> Iterator[str]:
    """Run this hub and yield its URL, which ends with `/hub`.

    folder: where it runs and writes hub.log. roles: as JupyterHub's `load_roles`. variables: of its environment.
    """
    port = free_port()
    environment = {**os.environ, "PLAIN_HUB_PORT": str(port), "PLAIN_HUB_ROLES": json.dumps(roles), **variables}
    command = [sys.executable, "-m", "jupyterhub", "--config", __file__]
    with (folder / "hub.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/jupyterhub/hub"
        deadline = time.monotonic() + 60
        while not _answers(f"{url}/api/"):
            assert process.poll() is None, (folder / "hub.log").read_text()
            assert time.monotonic() < deadline, (folder / "hub.log").read_text()
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:  # urllib.error.HTTPError is one, too
        return False


if "PLAIN_HUB_PORT" in os.environ:
    c = get_config()  # type: ignore[name-defined]  # noqa: F821  (JupyterHub defines it)
    c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['PLAIN_HUB_PORT']}"
    c.JupyterHub.base_url = "/jupyterhub/"
    c.JupyterHub.db_url = "sqlite:///:memory:"
    c.JupyterHub.proxy_class = NoProxy
    c.JupyterHub.spawner_class = PageSpawner
    c.JupyterHub.authenticator_class = NoLogin
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.services = [{"name": "xnat", "api_token": TOKEN}]
    c.JupyterHub.load_roles = json.loads(os.environ["PLAIN_HUB_ROLES"])
    c.JupyterHub.tornado_settings = {"slow_stop_timeout": 0.1}
    c.Authenticator.allow_all = True
    if "PLAIN_HUB_PAGES" in os.environ:  # with our pages, and a log-in without a check of the password
        from xnat_hub import ends, pages
        from xnat_hub.handlers import security_headers
        from xnat_hub.kept import Kept
        from xnat_hub.settings import load

        pages.MESSAGE = Kept(Path(os.environ["PLAIN_HUB_KEPT"], "message.json"), "")
        ends.MAINTENANCE = Kept(Path(os.environ["PLAIN_HUB_KEPT"], "maintenance.json"), {})
        c.JupyterHub.authenticator_class = AnyPassword
        c.JupyterHub.template_paths = [os.environ["PLAIN_HUB_PAGES"]]
        c.JupyterHub.tornado_settings["headers"] = security_headers(load().public_url)
        c.JupyterHub.template_vars = pages.template_vars(load())
        c.JupyterHub.extra_handlers = pages.handlers(load())
        c.JupyterHub.redirect_to_server = False
