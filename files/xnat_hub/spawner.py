"""The spawner: the launcher starts servers as Docker Swarm services, as XNAT specifies (docs/xnat-contract.md, 1.4).

The hub sends the launcher only the user and the name of the server; see `xnat_wire.launcher`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
from dockerspawner import SwarmSpawner
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import web
from xnat_wire.launcher import Kind, RefusedError

from xnat_hub.launcher import Launcher, shared_launcher
from xnat_hub.settings import load

ANSWER_TIMEOUT = 5.0  # seconds for one check whether Jupyter answers
ANSWER_INTERVAL = 0.1  # seconds between two of these checks
AWAY_INTERVAL = 1.0  # seconds between two calls to a launcher that does not answer
AWAY_TRIES = 10  # calls to start or stop a server; after that the reconciler cleans up
AWAY_WORDS = "the launcher does not answer"
TASK_INTERVAL = 1.0  # seconds between two checks of the server's state while Jupyter starts in it
CLEANUP = 10  # a start gives up this many seconds before JupyterHub's own time limit, so that it can report the reason
REMOVAL = 20.0  # seconds to wait for the end of a server that failed to start

Answer = TypeVar("Answer")


class XnatSpawner(SwarmSpawner):
    """Spawns servers through the launcher; only the launcher talks to Docker.

    It keeps SwarmSpawner's interface (state, progress, poll) and replaces all of its Docker calls. The name of the
    service follows from user and server name, so no state has to be saved.
    """

    # DockerSpawner keeps the tokens of a stopped server for a container that is started again; here none is.
    will_resume = False
    _state_text = ""

    @property
    def launcher(self) -> Launcher:
        """The launcher, shared by all servers of the hub."""
        return shared_launcher()

    def get_env(self) -> dict[str, str]:
        """Return the variables for the server.

        With an origin for each person, a server's cookie has the path / and is sent to all servers of its person. So
        that the cookies of earlier servers do not add up, each one expires as XNAT's link does, and not after 30 days.
        """
        env: dict[str, str] = super().get_env()
        settings = load()
        if settings.person_origins:
            options = {**self.cookie_options, "expires_days": settings.token_expires_in_max / 86400}
            env["JUPYTERHUB_COOKIE_OPTIONS"] = json.dumps(options)
        return env

    async def start(self) -> tuple[str, int]:
        """Create the service and wait until Jupyter answers. Returns (host, port) for the hub's proxy.

        Raises web.HTTPError with one sentence if XNAT, the mount policy or Swarm refuses; the service is then removed.
        """
        limit = self.start_timeout - CLEANUP
        try:
            async with asyncio.timeout(limit):
                self._state_text = "getting the launch options from XNAT"
                host, port = await self._ask_for_start()
                await self._until_container_runs()
                await self._until_jupyter_answers(host, port)
        except TimeoutError as error:
            await self._remove_quietly()
            raise web.HTTPError(
                504, f"The server was not ready within {limit} s. Last state: {self._state_text}."
            ) from error
        except RefusedError as error:
            await self._remove_quietly()
            raise web.HTTPError(error.status, str(error)) from error
        except asyncio.CancelledError as error:
            # The user stops the starting server. JupyterHub waits a second, and cleans up only after an error.
            await asyncio.shield(self._remove_quietly(patience=0))
            raise web.HTTPError(503, "The server was stopped while it was starting.") from error
        except Exception:
            await self._remove_quietly()
            raise
        self.log.info("Server %s runs as service %s", self._log_name, host)
        return host, port

    async def _ask_for_start(self) -> tuple[str, int]:
        """Create the service; try again while the launcher restarts. A new try replaces the service."""

        def away() -> None:
            self._state_text = AWAY_WORDS

        return await _while_away(lambda: self.launcher.start(self.user.name, self.name, self.get_env()), away)

    async def _until_container_runs(self) -> None:
        running = False
        while not running:  # each call takes a tenth of a second
            running = await self._look() == "running"

    async def _until_jupyter_answers(self, host: str, port: int) -> None:
        """Wait until Jupyter answers; fail at once if the server ends before that."""
        clock = asyncio.get_running_loop().time
        looked = clock()
        url = f"http://{host}:{port}{self.server.base_url}api"
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT),
            connector=aiohttp.TCPConnector(use_dns_cache=False, force_close=True),
        ) as http:
            while not await _answers(http, url):
                if clock() - looked > TASK_INTERVAL:
                    await self._look()
                    looked = clock()
                await asyncio.sleep(ANSWER_INTERVAL)

    async def _look(self) -> str:
        """Return the state of the starting server; empty while the launcher does not answer, as when it restarts.

        Raises web.HTTPError with the reason if the server has ended or cannot run.
        """
        try:
            seen = await self.launcher.one(self.user.name, self.name)
        except RefusedError as error:
            if error.kind is not Kind.AWAY:
                raise
            self._state_text = AWAY_WORDS
            await asyncio.sleep(AWAY_INTERVAL)
            return ""
        self._state_text = seen.words
        if seen.failed:
            raise web.HTTPError(503, seen.failed)
        if seen.state == "missing":
            raise web.HTTPError(500, "The server was removed while it was starting.")
        if seen.ended is not None:
            await self._log_end()
            raise web.HTTPError(500, f"The server ended while it was starting: {seen.words}.")
        return seen.state

    async def _log_end(self) -> None:
        """Copy the last log lines of a failed server into the hub's log."""
        try:
            text = await self.launcher.log(self.user.name, self.name)
        except RefusedError:
            return
        if text:
            self.log.error("Last log lines of %s:\n%s", self._log_name, text)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the state of the starting server whenever it changes."""
        told = ""
        steps = 0
        while True:
            if self._state_text != told:
                told = self._state_text
                steps += 1
                yield {"progress": min(10 + 10 * steps, 95), "message": told}
            await asyncio.sleep(ANSWER_INTERVAL)

    async def poll(self) -> int | str | None:
        """Return None while the server lives or its state is unknown; else remove its service, return how it ended."""
        try:
            if await self.launcher.lives(self.user.name, self.name):
                return None
            seen = await self.launcher.one(self.user.name, self.name)
        except RefusedError as error:
            self.log.warning("Could not get the state of %s: %s", self._log_name, error)
            return None
        if seen.ended is not None:
            self.log.warning("Server %s has ended: %s", self._log_name, seen.ended)
            await self._remove_quietly()
        return seen.ended

    async def stop(self, now: bool = False) -> None:
        """Remove the service and wait until its container has ended; a missing service is not an error."""
        patience = 0.0 if now else load().stop_grace_period + 10.0
        try:
            if not await self._remove(patience) and not now:
                self.log.warning("The service of %s was removed, but its container is still running", self._log_name)
        except RefusedError as error:
            raise web.HTTPError(503, str(error)) from error
        self.clear_state()

    def run_post_stop_hook(self) -> Any:
        """Delete the server's own tokens: after a restart, the hub does not know which one it gave to a server."""
        note = f"Server at {url_path_join(self.user.base_url, url_escape_path(self.name), '/')}"
        for token in [token for token in self.user.api_tokens if token.note == note]:
            self.db.delete(token)
        return super().run_post_stop_hook()

    async def _remove(self, patience: float) -> bool:
        """Remove the service; try again while the launcher restarts, since JupyterHub forgets a server in any case.

        Returns whether its container has ended within `patience` seconds. Raises RefusedError.
        """
        return await _while_away(lambda: self.launcher.stop(self.user.name, self.name, patience))

    async def _remove_quietly(self, patience: float = REMOVAL) -> None:
        try:
            await self._remove(patience)
        except RefusedError as error:
            self.log.error("Could not remove the service of %s: %s", self._log_name, error)


async def _while_away(call: Callable[[], Awaitable[Answer]], away: Callable[[], None] = lambda: None) -> Answer:
    """Call the launcher, up to AWAY_TRIES times while it does not answer, and return its answer.

    away: called before each wait. Raises RefusedError.
    """
    tries_left = AWAY_TRIES
    while True:
        tries_left -= 1
        try:
            return await call()
        except RefusedError as error:
            if error.kind is not Kind.AWAY or not tries_left:
                raise
        away()
        await asyncio.sleep(AWAY_INTERVAL)


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url, allow_redirects=False) as response:
            return response.status < 500
    except (aiohttp.ClientError, TimeoutError):
        return False
