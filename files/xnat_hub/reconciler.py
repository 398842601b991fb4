"""Keep proxy, hub and launcher in step; a service of the hub's, run by JupyterHub as `python -m xnat_hub.reconciler`.

Every few seconds it looks whether the proxy has lost its routes, which it does when it restarts alone, and has the hub
give them again. Every `prune_interval` seconds it removes stopped named servers from the hub's list, since every launch
from XNAT makes a new one (docs/xnat-contract.md, 2.3, 6.24), and has the launcher stop servers that the hub does not
own, such as those of a hub that was killed while it started one. A process of its own: it may block.

Only the standard library is imported: an HTTP client's modules would double the memory of this process.
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
LAUNCHER_TIMEOUT = 60  # the same for the launcher, which asks Docker
ROUTES_INTERVAL = 5  # seconds between two looks at the proxy
PAGE = 1000  # users that one call to the hub lists
NOT_FOUND = 404

Owner = tuple[str, str]  # user and server


class CallError(Exception):
    """A call that gave no usable answer; one sentence."""


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
    """Make one call. Returns the status and the answer's JSON, None for none. Raises CallError, for 5xx too."""
    what = f"{method} {path.partition('?')[0]}"
    try:
        with closing(connection):
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            found = answer.read()
        if answer.status >= 500:
            raise CallError(f"{what} was answered with status {answer.status}")
        return answer.status, json.loads(found) if found else None
    except (OSError, HTTPException, ValueError) as error:
        raise CallError(f"{what} was not answered ({type(error).__name__})") from error


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
        """Return all servers that the hub knows, and whether each is stopped with nothing under way."""
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
        """Have the hub compare the proxy's routes with its servers, and add what is missing."""
        self._ask("POST", "/proxy")

    def forget(self, owner: Owner) -> None:
        """Take a stopped named server off the hub's list."""
        user, server = (quote(name, safe="") for name in owner)
        self._ask("DELETE", f"/users/{user}/servers/{server}", {"remove": True}, also=NOT_FOUND)

    def _ask(self, method: str, path: str, body: Any = None, also: int = 0, accept: str = "application/json") -> Any:
        """Return the answer's JSON. also: a status that is no failure. Raises CallError."""
        status, answer = ask_url(method, self._url + path, self._token, body, accept)
        if status >= 400 and status != also:
            raise CallError(f"the hub answered {method} {path.partition('?')[0]} with status {status}")
        return answer


class Servers:
    """The launcher's servers, for a process that may block (`xnat_wire.launcher`)."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def all(self) -> dict[Owner, str]:
        """Return every server that has a service, with the service's id. Raises CallError."""
        return {(each["user"], each["server"]): each["id"] for each in self._ask("all", {})["servers"]}

    def stop(self, user: str, server: str, service_id: str) -> None:
        """Remove a server's service, unless a newer one is in its place, without waiting. Raises CallError."""
        self._ask("stop", {"user": user, "server": server, "patience": 0, "id": service_id})

    def _ask(self, name: str, body: dict[str, Any]) -> Any:
        status, answer = ask(UnixConnection(self._path), "POST", f"/{name}", {}, body)
        if status != 200:
            raise CallError(f"the launcher refused {name}: {answer.get('message', status)}")
        return answer


def orphans(running: Mapping[Owner, str], servers: Mapping[Owner, bool]) -> dict[Owner, str]:
    """Return what runs and the hub does not know, or knows as stopped. running: the ids of the services.

    The hub must have been asked after the launcher: what existed then is known to the hub if it is in use.
    """
    return {owner: service_id for owner, service_id in running.items() if servers.get(owner, True)}


def tidy(hub: Hub, launcher: Servers, stopped_before: set[Owner]) -> set[Owner]:
    """Do one round. stopped_before: what the round before found stopped; only that is taken off the hub's list.

    Returns what this round found stopped.
    """
    running = launcher.all()
    servers = hub.servers()
    for (user, server), service_id in orphans(running, servers).items():
        log.warning("Stopping %r's server %r, which the hub does not own", user, server)
        launcher.stop(user, server, service_id)
    stopped = {owner for owner, is_stopped in servers.items() if is_stopped and owner[1]}
    for owner in stopped & stopped_before:
        hub.forget(owner)
    if forgotten := stopped & stopped_before:
        log.info("%d stopped servers taken off the hub's list", len(forgotten))
    return stopped - stopped_before


def routes_are_lost(settings: Settings) -> bool:
    """Whether the proxy answers but does not know the hub."""
    status, routes = ask_url("GET", f"{settings.proxy_api_url}/api/routes", settings.secret("proxy_token"))
    if status != 200:
        raise CallError(f"the proxy answered with status {status}")
    route = routes.get(settings.base_url.rstrip("/") or "/", {})
    return not route.get("hub")  # without this mark it is the default that the proxy begins with


def main() -> None:
    """Tidy for ever; a round that fails is told and tried again."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname).1s %(asctime)s %(name)s] %(message)s")
    settings = load()
    hub = Hub(os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"])
    servers = Servers(settings.launcher_socket)
    stopped: set[Owner] = set()
    next_round = 0.0
    while True:
        try:
            if routes_are_lost(settings):
                log.warning("The proxy has lost its routes: the hub gives them again")
                hub.give_routes()
            if time.monotonic() >= next_round:
                stopped = tidy(hub, servers, stopped)
                next_round = time.monotonic() + settings.prune_interval
        except CallError as error:
            log.warning("Clean-up incomplete: %s", error)
        time.sleep(ROUTES_INTERVAL)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # the hub stops
        main()
