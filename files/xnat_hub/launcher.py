"""The hub's client for the launcher (`xnat_wire.launcher` describes the calls)."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
from xnat_wire.launcher import (
    HUB_VARIABLES,
    MAX_LOG_IN,
    MAX_PATIENCE,
    WITHOUT_XNAT,
    Kind,
    Limits,
    LogIn,
    RefusedError,
    Seen,
    Standing,
    shows_name,
)
from xnat_wire.shared import Shared

from xnat_hub.settings import load

TIMEOUT = 60.0  # seconds for one call; the launcher's own calls to XNAT and Docker have shorter limits
AT_ONCE = 400  # concurrent calls, fewer than the launcher accepts; a stop call lasts until its container has ended
LOG_IN_TIMEOUT = 5.0  # seconds to record a log-in
LOG_INS_AT_ONCE = 50  # log-ins that wait to be recorded; they leave most concurrent calls to servers
LISTING_AGE = 10.0  # seconds for which the hub's regular polls reuse one listing of all servers

log = logging.getLogger("xnat_hub.launcher")

Owner = tuple[str, str]  # user and server


class Launcher:
    """The launcher on this node. Each call has its own connection, so nothing has to be closed at the end."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._living = Shared(self._list_living, LISTING_AGE)
        self._log_ins: set[asyncio.Task[None]] = set()

    async def start(self, user: str, server: str, env: Mapping[str, str]) -> tuple[str, int]:
        """Create a server's service. Returns (host, port). env: only HUB_VARIABLES are passed on.

        Raises RefusedError, as all calls here do.
        """
        own = {name: value for name, value in env.items() if name in HUB_VARIABLES}
        answer = await self._call("start", user=user, server=server, env=own)
        return str(answer["host"]), int(answer["port"])

    async def one(self, user: str, server: str) -> Seen:
        """Return the state of a server; takes a tenth of a second."""
        return Seen(**await self._call("one", user=user, server=server))

    async def lives(self, user: str, server: str) -> bool:
        """Return whether a server runs or may start, from a listing that is at most LISTING_AGE seconds old."""
        return (user, server) in await self._living.get()

    async def all(self) -> dict[Owner, str]:
        """Return the service id of every (user, server) that has a service."""
        return {(each["user"], each["server"]): each["id"] for each in (await self._call("all"))["servers"]}

    async def stop(self, user: str, server: str, patience: float, service_id: str = "") -> bool:
        """Remove a server's service. Returns whether its container ended within `patience` seconds.

        service_id: remove only the service with this id and keep a newer one; empty for any.
        """
        patience = min(patience, MAX_PATIENCE)
        answer = await self._call("stop", patience, user=user, server=server, patience=patience, id=service_id)
        return bool(answer["ended"])

    async def log(self, user: str, server: str) -> str:
        """Return the last log lines of a server that did not start, without its secrets."""
        return str((await self._call("log", user=user, server=server))["text"])

    async def standing(self, user: str, server: str) -> Standing:
        """Return whether XNAT still permits a launch."""
        return Standing((await self._call("standing", user=user, server=server))["standing"])

    async def limits(self) -> Limits:
        """Return when XNAT ends servers."""
        return Limits(**await self._call("limits"))

    def logged_in(self, user: str, source: str, reason: LogIn, known: bool) -> None:
        """Have a log-in recorded in the audit log, without waiting. One that cannot be recorded is in the hub's log.

        user: as entered. source: the client's address. known: whether the hub knows a person of this name.
        """
        user, source = user[:MAX_LOG_IN], source[:MAX_LOG_IN]
        shown = repr(user) if shows_name(reason, known) else "an unknown name"
        # A flood of log-ins that XNAT is not asked about leaves half of the places to others.
        places = LOG_INS_AT_ONCE // 2 if reason in WITHOUT_XNAT else LOG_INS_AT_ONCE
        if len(self._log_ins) >= places:
            _not_recorded(shown, source, reason, f"{len(self._log_ins)} others wait to be recorded")
            return
        task = asyncio.ensure_future(self._record(user, source, reason, known, shown))
        self._log_ins.add(task)
        task.add_done_callback(self._log_ins.discard)

    async def _record(self, user: str, source: str, reason: LogIn, known: bool, shown: str) -> None:
        try:
            async with asyncio.timeout(LOG_IN_TIMEOUT):
                await self._call("logged_in", user=user, source=source, reason=reason, known=known)
        except (RefusedError, TimeoutError) as error:
            _not_recorded(shown, source, reason, str(error) or "The launcher does not answer in time.")

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
            raise RefusedError(Kind.INTERNAL, "The launcher sent an invalid answer.") from error


def _not_recorded(shown: str, source: str, reason: LogIn, why: str) -> None:
    log.warning("The log-in of %s from %r (%s) is missing in the audit log: %s", shown, source, reason, why)


@functools.cache
def shared_launcher() -> Launcher:
    """Return the hub's client, created once."""
    return Launcher(load().launcher_socket)
