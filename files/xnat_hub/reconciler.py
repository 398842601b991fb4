"""Keeps proxy, hub and launcher consistent. JupyterHub runs it as a service: `python -m xnat_hub.reconciler`.

Every few seconds it checks whether the proxy has lost its routes, as it does when it restarts alone; the hub then adds
them again. Every `prune_interval` seconds it removes stopped named servers from the hub's list, since every launch from
XNAT creates a new one (docs/xnat-contract.md, 2.3, 6.24). At the same time the launcher stops servers that the hub does
not know, for example those that a killed hub was starting. It is a separate process, so it may block.

It imports only the standard library: an HTTP client library would double the memory of this process.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from xnat_hub.settings import Settings, load

log = logging.getLogger("xnat_hub.reconciler")

TIMEOUT = 20  # seconds for one call to hub or proxy
LAUNCHER_TIMEOUT = 60  # the same for the launcher, which calls Docker
ROUTES_INTERVAL = 5  # seconds between two checks of the proxy
PAGE = 1000  # users listed by one call to the hub
NOT_FOUND = 404

Owner = tuple[str, str]  # user and server


class CallError(Exception):
    """A call did not give a usable answer; the text is one sentence."""


class UnixConnection(HTTPConnection):
    """HTTP over the unix socket `path`."""

    def __init__(self, path: str) -> None:
        super().__init__("launcher", timeout=LAUNCHER_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(
    connection: HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: Any = None
) -> tuple[int, Any]:
    """Make one call. Returns the status and the answer's JSON (None if empty). Raises CallError, also for 5xx."""
    what = f"{method} {path.partition('?')[0]}"
    try:
        with closing(connection):
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            found = answer.read()
        if answer.status >= 500:
            raise CallError(f"{what} failed with status {answer.status}")
        return answer.status, json.loads(found) if found else None
    except (OSError, HTTPException, ValueError) as error:
        raise CallError(f"{what} failed ({type(error).__name__})") from error


def ask_url(method: str, url: str, token: str, body: Any = None, accept: str = "application/json") -> tuple[int, Any]:
    """Make one call to hub or proxy; see `ask`."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return ask(connection, method, path, {"Authorization": f"token {token}", "Accept": accept}, body)


class Hub:
    """The hub's REST API, with the token that JupyterHub gives to its services."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token

    def servers(self) -> dict[Owner, bool]:
        """Return all servers that the hub knows, and whether each is stopped and no action on it is pending."""
        found: dict[Owner, bool] = {}
        offset: int | None = 0
        while offset is not None:
            query = urlencode({"include_stopped_servers": 1, "limit": PAGE, "offset": offset})
            page = self._ask("GET", f"/users?{query}", accept="application/jupyterhub-pagination+json")
            for user in page["items"]:
                for name, server in user["servers"].items():
                    found[user["name"], name] = bool(server["stopped"]) and not server["pending"]
            following = page["_pagination"]["next"]
            offset = following["offset"] if following else None
        return found

    def give_routes(self) -> None:
        """Let the hub compare the proxy's routes with its servers and add missing ones."""
        self._ask("POST", "/proxy")

    def forget(self, owner: Owner) -> None:
        """Remove a stopped named server from the hub's list."""
        user, server = (quote(name, safe="") for name in owner)
        self._ask("DELETE", f"/users/{user}/servers/{server}", {"remove": True}, also=NOT_FOUND)

    def _ask(self, method: str, path: str, body: Any = None, also: int = 0, accept: str = "application/json") -> Any:
        """Return the answer's JSON. also: a status that is not a failure. Raises CallError."""
        status, answer = ask_url(method, self._url + path, self._token, body, accept)
        if status >= 400 and status != also:
            raise CallError(f"the hub answered {method} {path.partition('?')[0]} with status {status}")
        return answer


class Servers:
    """A blocking client for the launcher (`xnat_wire.launcher` describes the calls)."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def all(self) -> dict[Owner, str]:
        """Return the service id of every server that has a service. Raises CallError."""
        return {(each["user"], each["server"]): each["id"] for each in self._ask("all", {})["servers"]}

    def stop(self, user: str, server: str, service_id: str) -> None:
        """Remove a server's service without waiting, unless a newer one has replaced it. Raises CallError."""
        self._ask("stop", {"user": user, "server": server, "patience": 0, "id": service_id})

    def _ask(self, name: str, body: dict[str, Any]) -> Any:
        status, answer = ask(UnixConnection(self._path), "POST", f"/{name}", {}, body)
        if status != 200:
            raise CallError(f"the launcher refused the call {name}: {answer.get('message', status)}")
        return answer


def orphans(running: Mapping[Owner, str], servers: Mapping[Owner, bool]) -> dict[Owner, str]:
    """Return the running servers that the hub does not know or lists as stopped. running: the ids of the services.

    `servers` must have been read after `running`: the hub then knows every service of `running` that is in use.
    """
    return {owner: service_id for owner, service_id in running.items() if servers.get(owner, True)}


def tidy(hub: Hub, launcher: Servers, stopped_before: set[Owner]) -> set[Owner]:
    """Run one round of clean-up. Returns the servers that are stopped now.

    stopped_before: the servers that the previous round found stopped; only these are removed from the hub's list.
    """
    running = launcher.all()
    servers = hub.servers()
    for (user, server), service_id in orphans(running, servers).items():
        log.warning("Stopping %r's server %r, which the hub does not know or lists as stopped", user, server)
        launcher.stop(user, server, service_id)
    stopped = {owner for owner, is_stopped in servers.items() if is_stopped and owner[1]}
    for owner in stopped & stopped_before:
        hub.forget(owner)
    if forgotten := stopped & stopped_before:
        log.info("Removed %d stopped servers from the hub's list", len(forgotten))
    return stopped - stopped_before


def routes_are_lost(settings: Settings) -> bool:
    """Whether the proxy answers but has no route to the hub."""
    status, routes = ask_url("GET", f"{settings.proxy_api_url}/api/routes", settings.secret("proxy_token"))
    if status != 200:
        raise CallError(f"the proxy's API answered with status {status}")
    # With an origin for each person the proxy routes by host, and the hub has all that have no server.
    route = routes.get("/" if settings.person_origins else settings.base_url.rstrip("/") or "/", {})
    return not route.get("hub")  # a route without this mark is the proxy's default route


def main() -> None:
    """Run the rounds forever; a failed round is logged and tried again."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname).1s %(asctime)s %(name)s] %(message)s")
    settings = load()
    hub = Hub(os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"])
    servers = Servers(settings.launcher_socket)
    stopped: set[Owner] = set()
    next_round = 0.0
    while True:
        try:
            if routes_are_lost(settings):
                log.warning("The proxy has lost its routes; the hub adds them again")
                hub.give_routes()
            if time.monotonic() >= next_round:
                stopped = tidy(hub, servers, stopped)
                next_round = time.monotonic() + settings.prune_interval
        except CallError as error:
            log.warning("Clean-up incomplete: %s", error)
        time.sleep(ROUTES_INTERVAL)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # sent when the hub stops
        main()
