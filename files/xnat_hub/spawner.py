"""Spawn one Docker Swarm service for each server, as XNAT's user-options say (docs/xnat-contract.md, 1.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from docker.errors import APIError, DockerException
from dockerspawner import SwarmSpawner
from tornado import web
from traitlets import default

from xnat_hub.client import (
    BadCredentialsError,
    NotFoundError,
    NotPermittedError,
    PasswordExpiredError,
    XnatError,
    shared_client,
)
from xnat_hub.mounts import MountError
from xnat_hub.options import Launch, OptionsError, parse_launch
from xnat_hub.service import CA_FILE, CA_VARIABLES, labels, service_name, split_env, task_template
from xnat_hub.settings import load

POLL_INTERVAL = 0.2  # seconds between two looks at a task that starts or stops
UNSCHEDULABLE_GRACE = 3.0  # seconds that Swarm may say "no suitable node" before it is believed
ALIVE = frozenset({"new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"})
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
UNREACHABLE = (requests.RequestException, DockerException)


class XnatSpawner(SwarmSpawner):
    """Swarm services with exactly the mounts that XNAT names and the site's policy allows.

    Differs from SwarmSpawner where that one loses mounts, waits in silence, or leaves services behind: a list of
    mounts, Swarm's own reason when a task cannot run, a stop that waits for the end, and secrets outside the
    service's environment. The service's name follows from user and server, so nothing has to be remembered.
    """

    _executor = ThreadPoolExecutor(max_workers=16, thread_name_prefix="docker")
    _state_text = ""

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Threads for Docker's blocking client; SwarmSpawner's single one makes every server wait for every other."""
        return self._executor

    @default("client_kwargs")
    def _default_client_kwargs(self) -> dict[str, Any]:
        return {"timeout": 20}

    @default("object_name")
    def _object_name_default(self) -> str:
        return service_name(load().deployment, self.user.name, self.name)

    @property
    def _secret_name(self) -> str:
        return f"{self.object_name}-env"

    async def start(self) -> tuple[str, int]:
        """Create the service and wait until its container runs. Returns (host, port) for the hub's proxy.

        Raises web.HTTPError with one sentence when XNAT, the policy or Swarm refuses; nothing is left behind then.
        """
        self._state_text = "XNAT is asked what to start"
        try:
            launch = await self._ask_xnat()
            await self._remove()
            await self._create(launch)
            await self._wait_until_running()
        except UNREACHABLE as error:
            await self._remove_quietly()
            self.log.error("Docker failed at the start of %s: %s", self._log_name, error)
            raise web.HTTPError(503, "Docker does not answer the hub as it should: tell your administrator.") from error
        except BaseException:
            # also when the hub's start_timeout cancels this: what was made goes before the error is told
            await asyncio.shield(self._remove_quietly())
            raise
        self.log.info("Server %s runs as service %s", self._log_name, self.object_name)
        return self.object_name, self.port

    async def _ask_xnat(self) -> Launch:
        if not self.name:
            raise web.HTTPError(400, "Servers are started from XNAT: open a project, subject or session there.")
        try:
            return parse_launch(await shared_client().user_options(self.user.name, self.name), self.name)
        except NotFoundError as error:
            raise web.HTTPError(
                403, "XNAT has nothing to start here: the data are no longer readable for you, or the launch is old."
            ) from error
        except (BadCredentialsError, NotPermittedError, PasswordExpiredError) as error:
            raise web.HTTPError(503, f"XNAT does not accept the hub's own account: {error}.") from error
        except XnatError as error:
            raise web.HTTPError(503, f"XNAT was asked what to start: {error}") from error
        except OptionsError as error:
            raise web.HTTPError(400, f"XNAT's launch cannot be used: {error}") from error

    async def _create(self, launch: Launch) -> None:
        settings = load()
        # Not from self.image's or self.environment's defaults: whole values, so that no earlier start shines through.
        self.image = launch.image
        self.environment = self._environment(launch)
        if launch.dropped_env:
            self.log.warning("Variables not passed on to %s: %s", self._log_name, ", ".join(launch.dropped_env))
        open_env, secret_env = split_env(self.get_env())
        command = launch.command or ("jupyterhub-singleuser",)
        service_labels = labels(settings.deployment, self.user.name, self.name, launch.project)
        secret = {"id": "", "name": self._secret_name}
        try:
            task_template(launch, settings, open_env, secret, command, service_labels)  # refuses before a secret exists
        except MountError as error:
            self.log.error("Mounts of %s refused: %s", self._log_name, error)
            raise web.HTTPError(403, f"The mounts of this launch are refused: {error}.") from error
        self._state_text = "Swarm is asked to start it"
        try:
            made = await self.docker("create_secret", self._secret_name, secret_env.encode(), labels=service_labels)
            secret["id"] = made["ID"]
            service = await self.docker(
                "create_service",
                task_template(launch, settings, open_env, secret, command, service_labels),
                name=self.object_name,
                labels=service_labels,
                mode={"Replicated": {"Replicas": 1}},
                endpoint_spec={"Mode": "dnsrr"},
            )
        except APIError as error:
            raise web.HTTPError(500, f"Docker refuses the server: {error.explanation or error}") from error
        self.object_id = service["ID"]

    def _environment(self, launch: Launch) -> dict[str, str]:
        environment = dict(launch.env)
        # XNAT's plugin opens servers with ?token=, which JupyterHub 5 ignores unless told (contract 2.7).
        environment |= {"JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1"}
        if load().ca_config_id:
            environment = dict.fromkeys(CA_VARIABLES, CA_FILE) | environment
        return environment

    async def _wait_until_running(self) -> None:
        loop = asyncio.get_running_loop()
        unschedulable_since: float | None = None
        while True:
            task = await self._task()
            status = task["Status"] if task else {"State": "new"}
            state, error = status["State"], status.get("Err", "")
            self._state_text = WORDS.get(state, state) + (f" ({error})" if error else "")
            if state == "running":
                return
            if state not in ALIVE:
                raise web.HTTPError(500, f"The server ended while it started ({state}): {_reason(status)}")
            if state == "pending" and error:
                unschedulable_since = unschedulable_since or loop.time()
                if loop.time() - unschedulable_since > UNSCHEDULABLE_GRACE:
                    raise web.HTTPError(503, f"No node can run this server: {error}")
            else:
                unschedulable_since = None
            await asyncio.sleep(POLL_INTERVAL)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what Swarm says of the starting server, whenever it changes."""
        told = ""
        steps = 0
        while True:
            if self._state_text != told:
                told = self._state_text
                steps += 1
                yield {"progress": min(10 + 10 * steps, 95), "message": told}
            await asyncio.sleep(POLL_INTERVAL)

    async def poll(self) -> int | str | None:
        """None while the server lives or Docker cannot be asked; else how it ended, its service removed."""
        try:
            task = await self._task()
        except UNREACHABLE as error:
            self.log.warning("Docker cannot be asked about %s (%s)", self._log_name, type(error).__name__)
            return None
        if task is None:
            return "its service is gone"
        status = task["Status"]
        if status["State"] in ALIVE:
            return None
        await self._remove_quietly()
        code = status.get("ContainerStatus", {}).get("ExitCode")
        return int(code) if isinstance(code, int) else f"{status['State']}: {_reason(status)}"

    async def stop(self, now: bool = False) -> None:
        """Remove the service and wait until its container has ended; a service that is gone already is fine."""
        await self._remove(wait=not now)
        self.clear_state()

    async def _task(self) -> dict[str, Any] | None:
        """Return the service's newest task, None when there is no service or no task yet."""
        try:
            tasks = await self.docker("tasks", filters={"service": self.object_name})
        except APIError as error:
            if error.status_code == 404:
                return None
            raise
        newest: dict[str, Any] | None = max(tasks, key=lambda task: task["CreatedAt"], default=None)
        return newest

    async def _remove(self, wait: bool = True) -> None:
        """Remove service and secret if they exist; with `wait`, return when no container of it is left."""
        containers: list[str] = []
        try:
            service = await self.docker("inspect_service", self.object_name)
            containers = [task["ID"] for task in await self.docker("tasks", filters={"service": self.object_name})]
            await self.docker("remove_service", service["ID"])
        except APIError as error:
            if error.status_code != 404:
                raise
        if wait and containers:
            await self._until_gone(containers)
        try:
            await self.docker("remove_secret", self._secret_name)
        except APIError as error:
            if error.status_code != 404:
                raise

    async def _until_gone(self, task_ids: list[str]) -> None:
        """Wait until Swarm has ended the tasks: a quick restart must not meet the old server on the same files."""
        deadline = asyncio.get_running_loop().time() + load().stop_grace_period + 10
        while asyncio.get_running_loop().time() < deadline:
            states = [await self._task_state(task_id) for task_id in task_ids]
            if not any(state in ALIVE for state in states):
                return
            await asyncio.sleep(POLL_INTERVAL)
        self.log.warning("Service %s is removed, but its container has not ended yet", self.object_name)

    async def _task_state(self, task_id: str) -> str:
        try:
            task = await self.docker("inspect_task", task_id)
        except APIError as error:
            if error.status_code == 404:
                return "gone"
            raise
        return str(task["Status"]["State"])

    async def _remove_quietly(self) -> None:
        try:
            await self._remove()
        except UNREACHABLE as error:
            self.log.error("What was made for %s could not be removed: %s", self._log_name, type(error).__name__)

    def docker(self, method: str, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call a method of Docker's client in a thread."""
        call: Coroutine[Any, Any, Any] = super().docker(method, *args, **kwargs)
        return call


def _reason(status: dict[str, Any]) -> str:
    """Return Swarm's own words for a task's end."""
    return str(status.get("Err") or status.get("Message") or "no reason given")
