"""Keep proxy, hub and Docker tidy; a service of the hub's own, run by JupyterHub as `python -m xnat_hub.keeper`.

Every few seconds it looks whether the proxy has lost its routes, which it does when it restarts alone, and has the hub
give them again. Every `prune_interval` seconds it removes stopped named servers from the hub's list, since every launch
from XNAT makes a new one (docs/xnat-contract.md, 2.3, 6.24), and Swarm services and secrets of this deployment that no
server of the hub owns, such as those of a hub that was killed while it started one. A process of its own: it may block.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any
from urllib.parse import quote

import docker
import requests
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

from xnat_hub.service import LABEL
from xnat_hub.settings import Settings, load

log = logging.getLogger("xnat_hub.keeper")

TIMEOUT = 20  # seconds for one call to hub, proxy or Docker
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


def owner_of(labels: Mapping[str, str]) -> Owner | None:
    """Return whose server a service or secret with these labels is; None for the hub's own."""
    user = labels.get(f"{LABEL}.user")
    return (user, labels.get(f"{LABEL}.server", "")) if user else None


def orphans(
    services: list[dict[str, Any]], secrets: list[dict[str, Any]], servers: Mapping[Owner, bool]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the services and secrets of servers that the hub does not know or knows as stopped.

    The hub must have been asked after Docker: what existed then is known to the hub if it is in use.
    """

    def orphaned(found: dict[str, Any]) -> bool:
        owner = owner_of(found["Spec"].get("Labels") or {})
        return owner is not None and servers.get(owner, True)

    return [service for service in services if orphaned(service)], [secret for secret in secrets if orphaned(secret)]


def tidy(hub: Hub, client: Any, deployment: str, stopped_before: set[Owner]) -> set[Owner]:
    """Do one round. stopped_before: what the round before found stopped; only that is taken off the hub's list.

    Returns what this round found stopped.
    """
    mine = {"label": f"{LABEL}.deployment={deployment}"}
    services, secrets = client.services(filters=mine), client.secrets(filters=mine)
    servers = hub.servers()
    lost_services, lost_secrets = orphans(services, secrets, servers)
    for kind, lost, remove in (
        ("service", lost_services, client.remove_service),
        ("secret", lost_secrets, client.remove_secret),
    ):
        for found in lost:
            log.warning("Removing %s %s, which no server of the hub owns", kind, found["Spec"]["Name"])
            try:
                remove(found["ID"])
            except APIError as error:
                if error.status_code != 404:
                    raise
    stopped = {owner for owner, is_stopped in servers.items() if is_stopped and owner[1]}
    for owner in stopped & stopped_before:
        hub.forget(owner)
    if forgotten := stopped & stopped_before:
        log.info("%d stopped servers taken off the hub's list", len(forgotten))
    return stopped - stopped_before


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
    stopped: set[Owner] = set()
    next_round = 0.0
    while True:
        try:
            if routes_are_lost(settings):
                log.warning("The proxy has lost its routes: the hub gives them again")
                hub.give_routes()
            if time.monotonic() >= next_round:
                with closing(docker.APIClient(version="auto", timeout=TIMEOUT, **kwargs_from_env())) as client:
                    stopped = tidy(hub, client, settings.deployment, stopped)
                next_round = time.monotonic() + settings.prune_interval
        except (requests.RequestException, DockerException) as error:
            log.warning("Not all is tidy: %s", error)
        time.sleep(ROUTES_INTERVAL)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # the hub stops
        main()
