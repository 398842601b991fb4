"""The launcher as the hub asks it (`xnat_wire.launcher`)."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Any

import aiohttp
from xnat_wire.launcher import HUB_VARIABLES, MAX_PATIENCE, Kind, RefusedError, Seen, Standing
from xnat_wire.shared import Shared

from xnat_hub.settings import load

TIMEOUT = 60.0  # seconds for one call: XNAT and Docker, which the launcher asks, have shorter limits
AT_ONCE = 400  # calls, less than the launcher takes; stops are under way for as long as their containers take to end
LISTING_AGE = 10.0  # seconds that one listing of all servers serves the hub's regular polls

Owner = tuple[str, str]  # user and server


class Launcher:
    """The launcher on this node. Each call has a connection of its own, so nothing has to be closed at the end."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._living = Shared(self._list_living, LISTING_AGE)

    async def start(self, user: str, server: str, env: Mapping[str, str]) -> tuple[str, int]:
        """Have a server's service created. Returns (host, port). env: of which HUB_VARIABLES are passed on.

        Raises RefusedError, as all calls here do.
        """
        own = {name: value for name, value in env.items() if name in HUB_VARIABLES}
        answer = await self._call("start", user=user, server=server, env=own)
        return str(answer["host"]), int(answer["port"])

    async def one(self, user: str, server: str) -> Seen:
        """Return how a server is; takes a tenth of a second."""
        return Seen(**await self._call("one", user=user, server=server))

    async def lives(self, user: str, server: str) -> bool:
        """Return whether a server ran, or might come to run, LISTING_AGE seconds ago or later."""
        return (user, server) in await self._living.get()

    async def all(self) -> dict[Owner, str]:
        """Return every (user, server) that has a service, with the service's id."""
        return {(each["user"], each["server"]): each["id"] for each in (await self._call("all"))["servers"]}

    async def stop(self, user: str, server: str, patience: float, service_id: str = "") -> bool:
        """Have a server's service removed. Returns whether its container has ended within so many seconds.

        service_id: of the service that is meant; a newer one stays.
        """
        patience = min(patience, MAX_PATIENCE)
        answer = await self._call("stop", patience, user=user, server=server, patience=patience, id=service_id)
        return bool(answer["ended"])

    async def log(self, user: str, server: str) -> str:
        """Return the last lines of a server that did not start, without its secrets."""
        return str((await self._call("log", user=user, server=server))["text"])

    async def standing(self, user: str, server: str) -> Standing:
        """Return whether XNAT still stands behind a launch."""
        return Standing((await self._call("standing", user=user, server=server))["standing"])

    async def _list_living(self) -> frozenset[Owner]:
        return frozenset((each["user"], each["server"]) for each in (await self._call("living"))["servers"])

    async def _call(self, name: str, more_time: float = 0.0, **body: Any) -> dict[str, Any]:
        try:
            async with (
                self._turns,
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(self._socket),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=TIMEOUT + more_time),
                ) as http,
                http.post(f"http://launcher/{name}", json=body) as answer,
            ):
                found = await answer.json()
                if answer.status == 200:
                    return dict(found)
                raise RefusedError(Kind(found["kind"]), str(found["message"]))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RefusedError(Kind.AWAY, f"The launcher does not answer ({type(error).__name__}).") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(Kind.INTERNAL, "The launcher answered something that is not understood.") from error


@functools.cache
def shared_launcher() -> Launcher:
    """Return the hub's one."""
    return Launcher(load().launcher_socket)
