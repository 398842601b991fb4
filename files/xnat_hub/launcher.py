"""The launcher as the hub asks it (`xnat_wire.launcher`)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import aiohttp
from xnat_wire.launcher import HUB_VARIABLES, MAX_PATIENCE, Kind, RefusedError, Seen, Standing

from xnat_hub.settings import load

TIMEOUT = 60.0  # seconds for one call: XNAT and Docker, which the launcher asks, have shorter limits
CONNECTIONS = 100


class Launcher:
    """The launcher on this node."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._http: aiohttp.ClientSession | None = None

    async def start(self, user: str, server: str, env: Mapping[str, str]) -> tuple[str, int]:
        """Have a server's service created. Returns (host, port). env: of which HUB_VARIABLES are passed on.

        Raises RefusedError, as all calls here do.
        """
        own = {name: value for name, value in env.items() if name in HUB_VARIABLES}
        answer = await self._call("start", user=user, server=server, env=own)
        return str(answer["host"]), int(answer["port"])

    async def one(self, user: str, server: str, fresh: bool = True) -> Seen:
        """Return how a server is. fresh: False to be content with a listing some seconds old."""
        return Seen(**await self._call("one", user=user, server=server, fresh=fresh))

    async def all(self) -> set[tuple[str, str]]:
        """Return (user, server) of every server that has a service."""
        return {(str(each["user"]), str(each["server"])) for each in (await self._call("all"))["servers"]}

    async def stop(self, user: str, server: str, patience: float) -> bool:
        """Have a server's service removed. Returns whether its container has ended within so many seconds."""
        patience = min(patience, MAX_PATIENCE)
        return bool((await self._call("stop", patience, user=user, server=server, patience=patience))["ended"])

    async def log(self, user: str, server: str) -> str:
        """Return the last lines of a server that did not start, without its secrets."""
        return str((await self._call("log", user=user, server=server))["text"])

    async def standing(self, user: str, server: str) -> Standing:
        """Return whether XNAT still stands behind a launch."""
        return Standing((await self._call("standing", user=user, server=server))["standing"])

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()

    async def _call(self, name: str, more_time: float = 0.0, **body: Any) -> dict[str, Any]:
        if self._http is None:
            self._http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket, limit=CONNECTIONS))
        limit = aiohttp.ClientTimeout(total=TIMEOUT + more_time)
        try:
            async with self._http.post(f"http://launcher/{name}", json=body, timeout=limit) as answer:
                found = await answer.json()
                if answer.status == 200:
                    return dict(found)
                raise RefusedError(Kind(found["kind"]), str(found["message"]))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RefusedError(Kind.DOCKER, f"The launcher does not answer ({type(error).__name__}).") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(Kind.INTERNAL, "The launcher answered something that is not understood.") from error


@functools.cache
def shared_launcher() -> Launcher:
    """Return the hub's one."""
    return Launcher(load().launcher_socket)
