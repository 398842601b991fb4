"""Keep proxy, hub and launcher in step: a service of the hub, run by JupyterHub as `python -m xnat_hub.reconciler`.

Every few seconds it looks whether the proxy has lost its routes, which it does when it restarts alone, and has the hub
give them again. Every `prune_interval` seconds it removes stopped named servers from the hub's list, since every launch
from XNAT makes a new one (docs/xnat-contract.md, 2.3, 6.24), and has the launcher stop servers that the hub does not
own, such as those of a hub that was killed while it started one. A process of its own: it may block.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote

import requests
from xnat_wire.launcher import RefusedError

from xnat_hub.launcher import Launcher
from xnat_hub.settings import Settings, load

log = logging.getLogger("xnat_hub.reconciler")

TIMEOUT = 20  # seconds for one call to hub or proxy
ROUTES_INTERVAL = 5  # seconds between two looks at the proxy
PAGE = 1000  # users that one call to the hub lists

Owner = tuple[str, str]  # user and server


class Hub:
    """The hub's REST API, with the token that JupyterHub gives to its services."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"token {token}"

    def servers(self) -> dict[Owner, bool]:
        """Return all servers that the hub knows, and whether each is stopped with nothing under way."""
        found: dict[Owner, bool] = {}
        offset: int | None = 0
        while offset is not None:
            answer = self._http.get(
                f"{self._url}/users",
                params={"include_stopped_servers": "1", "limit": str(PAGE), "offset": str(offset)},
                headers={"Accept": "application/jupyterhub-pagination+json"},
                timeout=TIMEOUT,
            )
            answer.raise_for_status()
            page = answer.json()
            for user in page["items"]:
                for name, server in user["servers"].items():
                    found[user["name"], name] = bool(server["stopped"]) and not server["pending"]
            following = page["_pagination"]["next"]
            offset = following["offset"] if following else None
        return found

    def give_routes(self) -> None:
        """Have the hub compare the proxy's routes with its servers, and add what is missing."""
        self._http.post(f"{self._url}/proxy", timeout=TIMEOUT).raise_for_status()

    def forget(self, owner: Owner) -> None:
        """Take a stopped named server off the hub's list."""
        user, server = (quote(name, safe="") for name in owner)
        answer = self._http.delete(f"{self._url}/users/{user}/servers/{server}", json={"remove": True}, timeout=TIMEOUT)
        if answer.status_code != 404:
            answer.raise_for_status()


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


class Servers:
    """The launcher's servers, for a process that may block."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def all(self) -> dict[Owner, str]:
        """Return every server that has a service, with the service's id. Raises RefusedError."""
        return asyncio.run(Launcher(self._socket).all())

    def stop(self, user: str, server: str, service_id: str) -> None:
        """Remove a server's service, unless a newer one is in its place, without waiting. Raises RefusedError."""
        asyncio.run(Launcher(self._socket).stop(user, server, 0, service_id))


def routes_are_lost(settings: Settings) -> bool:
    """Whether the proxy answers but does not know the hub."""
    token = {"Authorization": f"token {settings.secret('proxy_token')}"}
    answer = requests.get(f"{settings.proxy_api_url}/api/routes", headers=token, timeout=TIMEOUT)
    answer.raise_for_status()
    route = answer.json().get(settings.base_url.rstrip("/") or "/", {})
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
        except (requests.RequestException, RefusedError) as error:
            log.warning("Clean-up incomplete: %s", error)
        time.sleep(ROUTES_INTERVAL)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # the hub stops
        main()
