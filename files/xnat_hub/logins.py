"""Checks log-ins with XNAT (docs/xnat-contract.md, 1.2, 1.3), limited by `xnat_wire.throttle`."""

from __future__ import annotations

import asyncio
import functools

from xnat_wire.attempts import counted
from xnat_wire.rest import NotPermittedError, Rest, check_name
from xnat_wire.throttle import Throttle

from xnat_hub.settings import Settings, load


class OwnAccountError(NotPermittedError):
    """Somebody tries to log in with the hub's own account."""


class Logins:
    """Log-ins with names and passwords of XNAT."""

    def __init__(self, rest: Rest, service_account: str, throttle: Throttle) -> None:
        self._rest = rest
        self._service_account = service_account
        self._throttle = throttle
        self._end: asyncio.Task[None] | None = None

    async def may_start_jupyter(self, username: str, password: str, source: str) -> bool:
        """Return whether the user with this name and password may use Jupyter.

        source: the address that the log-in comes from. Raises an XnatError if XNAT does not accept the log-in or does
        not give a usable answer.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._close_at_end())
        check_name(username)
        if username == self._service_account:  # otherwise anybody could lock it, and nothing could be launched
            raise OwnAccountError("The service account cannot log in here")
        async with counted(self._throttle, username, source, self._rest.site.timeout):
            return await self._rest.may_use_jupyter(username, username, password)

    async def close(self) -> None:
        """Close all connections."""
        if self._end is not None:
            self._end.cancel()
            await asyncio.wait([self._end])

    async def _close_at_end(self) -> None:
        """Wait to be cancelled: when JupyterHub stops, it cancels all tasks and waits for them."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._rest.close()


def logins(settings: Settings) -> Logins:
    """Return the log-in checks for a hub with these settings."""
    throttle = Throttle(settings.failed_logins, settings.failed_logins_window)
    return Logins(Rest(settings.xnat), settings.xnat_username, throttle)


@functools.cache
def shared_logins() -> Logins:
    """Return the hub's log-in checks, created once."""
    return logins(load())
