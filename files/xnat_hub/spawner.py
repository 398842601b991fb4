"""Spawn one Docker Swarm service for each server, as XNAT's user-options say (docs/xnat-contract.md, 1.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
from dockerspawner import SwarmSpawner
from tornado import web
from traitlets import default

from xnat_hub.client import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    NotFoundError,
    NotPermittedError,
    TooManyFailuresError,
    XnatError,
    shared_client,
)
from xnat_hub.mounts import MountError, is_below
from xnat_hub.options import Launch, OptionsError, parse_launch
from xnat_hub.reasons import failure, how_it_ended, node_name, unschedulable, without_address
from xnat_hub.service import (
    CA_FILE,
    CA_VARIABLES,
    labels,
    secret_values,
    service_name,
    split_env,
    task_template,
)
from xnat_hub.settings import load
from xnat_hub.swarm import Swarm, SwarmError, Task

DOCKER_TIMEOUT = 20  # seconds for one call to Docker
ANSWER_TIMEOUT = 5.0  # seconds for one try whether Jupyter answers
ANSWER_INTERVAL = 0.1  # seconds between two of them
TASK_INTERVAL = 1.0  # seconds between two looks at the task while Jupyter starts in it
UNSCHEDULABLE_GRACE = 3.0  # seconds that a task may be without node or address before that is believed
CLEANUP = 10  # seconds before the hub's own time limit at which a start gives up by itself, to say why
WORDS = {
    "new": "Swarm has taken the server on",
    "pending": "Swarm looks for a node",
    "assigned": "a node was chosen",
    "accepted": "the node has accepted the server",
    "preparing": "the node prepares image and data",
    "ready": "the container is made",
    "starting": "the container starts",
    "running": "the container runs, Jupyter starts in it",
}


class XnatSpawner(SwarmSpawner):
    """Swarm services with exactly the mounts that XNAT names and the site's policy allows.

    Differs from SwarmSpawner where that one loses mounts, waits in silence, or leaves services behind: a list of
    mounts, Swarm's own reason when a task cannot run, a stop that waits for the end, and secrets outside the
    service's environment. The service's name follows from user and server, so nothing has to be remembered.
    """

    _swarm: Swarm | None = None
    _state_text = ""

    @property
    def swarm(self) -> Swarm:
        """Docker, shared by all servers of the hub."""
        if XnatSpawner._swarm is None:
            XnatSpawner._swarm = Swarm(lambda: self.client, load().deployment, load().network)
        return XnatSpawner._swarm

    @default("client_kwargs")
    def _default_client_kwargs(self) -> dict[str, Any]:
        return {"timeout": DOCKER_TIMEOUT}

    @default("object_name")
    def _object_name_default(self) -> str:
        return service_name(load().deployment, self.user.name, self.name)

    async def start(self) -> tuple[str, int]:
        """Create the service and wait until Jupyter answers in it. Returns (host, port) for the hub's proxy.

        Raises web.HTTPError with one sentence when XNAT, the policy or Swarm refuses; nothing is left behind then.
        """
        try:
            async with asyncio.timeout(self.start_timeout - CLEANUP):
                self._state_text = "XNAT is asked what to start"
                launch = await self._ask_xnat()
                await self._run(launch)
        except TimeoutError as error:
            await self._remove_quietly()
            raise web.HTTPError(
                504, f"The server was not ready within {self.start_timeout - CLEANUP} s; last seen: {self._state_text}."
            ) from error
        except SwarmError as error:
            await self._remove_quietly()
            raise web.HTTPError(503, f"Docker does not start the server: {error}.") from error
        except asyncio.CancelledError as error:
            # Somebody stops the server that starts. JupyterHub gives that a second, and tidies up for an error only.
            await asyncio.shield(self._remove_quietly(patience=0))
            raise web.HTTPError(503, "The server was stopped while it started.") from error
        except Exception:
            await self._remove_quietly()
            raise
        self.log.info("Server %s runs as service %s", self._log_name, self.object_name)
        return self.object_name, self.port

    async def _ask_xnat(self) -> Launch:
        if not self.name and load().default_server == "refuse":
            raise web.HTTPError(400, "Servers are started from XNAT: open a project, subject or session there.")
        try:
            launch = parse_launch(await shared_client().user_options(self.user.name, self.name), self.name)
        except InvalidNameError as error:
            raise web.HTTPError(400, f"{error}.") from error
        except NotFoundError as error:
            raise web.HTTPError(
                403, "XNAT has nothing to start here: the data are no longer readable for you, or the launch is old."
            ) from error
        except (BadCredentialsError, NotPermittedError, ActionRequiredError, TooManyFailuresError) as error:
            raise web.HTTPError(503, f"XNAT does not accept the hub's own account: {error}.") from error
        except XnatError as error:
            raise web.HTTPError(503, f"XNAT was asked what to start: {error}") from error
        except OptionsError as error:
            raise web.HTTPError(400, f"XNAT's launch cannot be used: {error}") from error
        return launch if self.name else _workspace_only(launch)

    async def _run(self, launch: Launch) -> None:
        settings = load()
        # Not from self.image's or self.environment's defaults: whole values, so that no earlier start shines through.
        self.image = launch.image
        self.environment = self._environment(launch)
        if launch.dropped_env:
            self.log.warning("Variables not passed on to %s: %s", self._log_name, ", ".join(launch.dropped_env))
        service_labels = labels(settings.deployment, self.user.name, self.name, launch.project)
        try:
            open_env, secret_env = split_env(self.get_env())
            template = task_template(launch, settings, self.user.name, open_env, service_labels)
        except MountError as error:
            self.log.error("Mounts of %s refused: %s", self._log_name, error)
            raise web.HTTPError(403, f"The mounts of this launch are refused: {error}.") from error
        except OptionsError as error:
            raise web.HTTPError(400, f"XNAT's launch cannot be used: {error}.") from error
        self._state_text = "Swarm is asked to start it"
        owner = (settings.uid, settings.gid)
        self.object_id = await self.swarm.create(self.object_name, template, service_labels, secret_env.encode(), owner)
        await self._until_container_runs(template)
        await self._until_jupyter_answers()

    def _environment(self, launch: Launch) -> dict[str, str]:
        environment = dict(launch.env)
        # XNAT's plugin opens servers with ?token=, which JupyterHub 5 ignores unless told (contract 2.7).
        environment |= {"JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1"}
        if load().ca_config_id:
            environment = dict.fromkeys(CA_VARIABLES, CA_FILE) | environment
        return environment

    async def _until_container_runs(self, template: Mapping[str, Any]) -> None:
        clock = asyncio.get_running_loop().time
        created = clock()
        unschedulable_since: float | None = None
        waiting_since, waiting_in = created, ""
        while True:
            task = await self.swarm.task(self.object_name)
            if task is None and clock() - created < UNSCHEDULABLE_GRACE:
                continue
            await self._check(task)
            if task is None or task.state == "running":
                return
            error = str(task.status.get("Err") or "")
            self._state_text = WORDS.get(task.state, task.state)
            if task.state == "pending" and error:
                reason = unschedulable(template, await self.swarm.nodes(), error)
                self._state_text += f": {reason}"
                unschedulable_since = unschedulable_since or clock()
                if clock() - unschedulable_since > UNSCHEDULABLE_GRACE:
                    raise web.HTTPError(503, f"No node can run this server: {reason}.")
            else:
                unschedulable_since = None
            if task.state != waiting_in:
                waiting_since, waiting_in = clock(), task.state
            # Swarm says nothing of a task without an address; it stays as it is.
            if task.state in {"new", "preparing"} and clock() - waiting_since > UNSCHEDULABLE_GRACE:
                reason, final = without_address(task, await self.swarm.addresses())
                if final:
                    raise web.HTTPError(503, f"The server cannot start: {reason}.")
                self._state_text = reason or self._state_text

    async def _until_jupyter_answers(self) -> None:
        """Wait until the hub may send people there; a server that ends before that is told at once."""
        self._state_text = WORDS["running"]
        clock = asyncio.get_running_loop().time
        looked = clock()
        url = f"http://{self.object_name}:{self.port}{self.server.base_url}api"
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT),
            connector=aiohttp.TCPConnector(use_dns_cache=False, force_close=True),
        ) as http:
            while not await _answers(http, url):
                if clock() - looked > TASK_INTERVAL:
                    await self._check(await self.swarm.task(self.object_name))
                    looked = clock()
                await asyncio.sleep(ANSWER_INTERVAL)

    async def _check(self, task: Task | None) -> None:
        """Raise web.HTTPError with the reason if the server that starts has ended."""
        if task is None:
            raise web.HTTPError(500, "The server was removed while it started.")
        if not task.alive:
            reason = failure(task.status, node_name(task.node_id, await self.swarm.nodes()))
            await self._log_end()
            raise web.HTTPError(500, f"The server ended while it started: {reason}.")

    async def _log_end(self) -> None:
        """Repeat in the hub's log what a server that failed wrote last, without its secrets."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                text = await self.swarm.log_end(self.object_name)
        except (SwarmError, TimeoutError):
            return
        for value in secret_values(self.get_env()):
            text = text.replace(value, "***")
        text = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
        if text.strip():
            self.log.error("The last that %s wrote:\n%s", self._log_name, text.rstrip())

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what is known of the starting server, whenever it changes."""
        told = ""
        steps = 0
        while True:
            if self._state_text != told:
                told = self._state_text
                steps += 1
                yield {"progress": min(10 + 10 * steps, 95), "message": told}
            await asyncio.sleep(ANSWER_INTERVAL)

    async def poll(self) -> int | str | None:
        """None while the server lives or Docker cannot be asked; else how it ended, its service removed."""
        try:
            task = await self.swarm.task(self.object_name, from_listing=True)
            ended = how_it_ended(task, [] if task is None or task.wanted else await self.swarm.nodes())
        except SwarmError as error:
            self.log.warning("Docker cannot be asked about %s: %s", self._log_name, error)
            return None
        if ended is not None:
            self.log.warning("Server %s is no more: %s", self._log_name, ended)
            await self._remove_quietly()
        return ended

    async def stop(self, now: bool = False) -> None:
        """Remove the service and wait until its container has ended; a service that is gone already is fine."""
        patience = 0 if now else load().stop_grace_period + 10
        try:
            if not await self.swarm.remove(self.object_name, patience) and not now:
                self.log.warning("Service %s is removed, but its container has not ended yet", self.object_name)
        except SwarmError as error:
            raise web.HTTPError(503, f"Docker does not stop the server: {error}.") from error
        self.clear_state()

    async def _remove_quietly(self, patience: float = 20) -> None:
        try:
            await self.swarm.remove(self.object_name, patience)
        except SwarmError as error:
            self.log.error("What was made for %s could not be removed: %s", self._log_name, error)


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url, allow_redirects=False) as response:
            return response.status < 500
    except (aiohttp.ClientError, TimeoutError):
        return False


def _workspace_only(launch: Launch) -> Launch:
    """Return the launch without data: the server without a name is XNAT's to start, but not to stop (contract 2.5)."""
    inside = [mount for mount in launch.mounts if isinstance(mount, Mapping) and _is_workspace(mount.get("target"))]
    return replace(launch, mounts=inside)


def _is_workspace(target: object) -> bool:
    return isinstance(target, str) and is_below(target, "/workspace")
