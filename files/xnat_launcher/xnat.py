"""The launcher's calls to XNAT with the service account (docs/xnat-contract.md, 1.4)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any
from urllib.parse import quote

import aiohttp
from xnat_wire.attempts import counted
from xnat_wire.launcher import Limits, Standing
from xnat_wire.rest import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    NotFoundError,
    NotPermittedError,
    NotUnderstoodError,
    Rest,
    check_name,
    is_open,
)
from xnat_wire.throttle import Throttle

from xnat_launcher.options import SERVER_NAME

log = logging.getLogger("xnat_launcher.xnat")

SESSION_IDLE = 600.0  # idle seconds after which a session may have expired; XNAT ends it after 15 minutes (1.6)


class ServiceAccount:
    """Reads launches from XNAT with one session of the service account."""

    def __init__(self, rest: Rest, username: str, password: str, throttle: Throttle) -> None:
        self._rest = rest
        self._login = username, password
        self._throttle = throttle  # separate from the log-in form's, so that nobody can use up its attempts there
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._used = 0.0

    async def user_options(self, username: str, server_name: str) -> dict[str, Any]:
        """Return the JSON of call C (1.4), or of C0 for the default server.

        Raises an XnatError; NotFoundError if XNAT has no launch of that name, or the user may no longer read its data.
        """
        check_name(username)
        if server_name and not SERVER_NAME.fullmatch(server_name):
            raise InvalidNameError(f"{server_name!r} is not a valid server name in XNAT")
        server = f"/{server_name}" if server_name else ""
        path = f"/xapi/jupyterhub/users/{quote(username, safe='')}/server{server}/user-options"
        answer = await self._ask("user-options", path)
        if not isinstance(answer, dict):
            raise NotUnderstoodError("XNAT's user-options are not an object")
        return answer

    async def standing(self, username: str, server_name: str) -> Standing:
        """Ask XNAT with the alias token of a server's launch whether its user may still use Jupyter.

        Raises an XnatError if XNAT does not give a usable answer.
        """
        try:
            env = (await self.user_options(username, server_name))["task_template"]["container_spec"]["env"]
            login, password = str(env["XNAT_USER"]), str(env["XNAT_PASS"])
        except (NotFoundError, KeyError, TypeError):
            return Standing.GONE
        try:
            right = await self._rest.may_use_jupyter(username, login, password)
        except (BadCredentialsError, ActionRequiredError, NotPermittedError) as error:
            log.info("Alias token of %r's server %r: %s", username, server_name, error)
            return Standing.REFUSED
        return Standing.ALLOWED if right else Standing.NO_RIGHT

    async def limits(self) -> Limits:
        """Return when XNAT ends servers (2.6, 5.2). Raises an XnatError."""
        inactivity = await self._preference("inactivityTimeout")
        lifetime = await self._preference("maxServerLifetime")
        return Limits(
            None if inactivity is None else inactivity * 60.0, None if lifetime is None else lifetime * 3600.0
        )

    async def _preference(self, name: str) -> float | None:
        """Return a number from the plugin's preferences; None if it has no such preference, or no such number."""
        try:
            answer = await self._ask("preference", f"/xapi/jupyterhub/preferences/{name}")
        except NotFoundError:
            return None
        value = answer.get(name) if isinstance(answer, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) and number >= 0 else None

    async def _ask(self, label: str, path: str) -> Any:
        async with self._opening:
            # Calls that must open the session run one at a time, so that XNAT does not open several sessions and a
            # wrong password is tried only once (1.6).
            if not self._is_fresh():
                async with counted(self._throttle, self._login[0], "", self._rest.site.timeout):
                    return await self._get(label, path)
        return await self._get(label, path)

    async def _get(self, label: str, path: str) -> Any:
        if self._session is None:
            self._session = self._rest.session(*self._login)
        self._used = time.monotonic()
        try:
            return await self._rest.get(self._session, label, path)
        except BadCredentialsError:
            self._session.cookie_jar.clear()  # so that the next call counts as a log-in
            raise

    def _is_fresh(self) -> bool:
        session = self._session
        return session is not None and is_open(session) and time.monotonic() - self._used < SESSION_IDLE

    async def close(self) -> None:
        """Log out and close all connections."""
        if self._session is not None:
            await self._rest.log_out(self._session)
        await self._rest.close()
