"""Log-in with an XNAT account (docs/xnat-contract.md, 1.2, 1.3)."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyterhub.auth import Authenticator
from tornado import web

from xnat_hub.client import BadCredentialsError, XnatError, shared_client
from xnat_hub.handlers import HANDLERS

REFRESH_TIMEOUT = 5.0  # seconds that a page waits for XNAT when a log-in is looked at again


class XnatAuthenticator(Authenticator):
    """Lets in whom XNAT lets start Jupyter: role `Jupyter`, or the site's switch for everybody.

    Who passes `authenticate` is allowed; users that XNAT's plugin makes by REST get in by the token in their link.
    Every `auth_refresh_age` seconds XNAT is asked again.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._refreshing: dict[str, asyncio.Task[bool]] = {}

    def normalize_username(self, username: str) -> str:
        """Keep the name as it is: XNAT's `JDoe` and `jdoe` are two people (contract 6.11)."""
        return username

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Everybody whom XNAT authenticated with the right to start Jupyter; the right is asked in `authenticate`."""
        return True

    def get_handlers(self, app: Any) -> list[tuple[str, Any]]:
        """Return the pages and calls of ours; JupyterHub puts them before its own."""
        return [*super().get_handlers(app), *HANDLERS]

    async def authenticate(self, handler: web.RequestHandler, data: dict[str, str]) -> dict[str, Any]:
        """Ask XNAT. Whatever keeps somebody out is a HTTPError, whose sentence the log-in page shows."""
        username = data["username"]
        try:
            allowed = await shared_client().may_start_jupyter(username, data["password"])
        except BadCredentialsError as error:
            raise web.HTTPError(403, f"{error}.") from error
        except XnatError as error:
            self.log.warning("Log-in of %r not decided: %s", username, error)
            raise web.HTTPError(error.status, f"{error}.") from error
        if not allowed:
            raise web.HTTPError(
                403, "Your XNAT account may not use Jupyter: ask your XNAT administrator for the role Jupyter."
            )
        return {"name": username}

    async def refresh_user(self, user: Any, handler: web.RequestHandler | None = None) -> bool:
        """Whether XNAT still lets this person use Jupyter; JupyterHub asks every `auth_refresh_age` seconds.

        False makes them log in again: the role is lost, the account disabled, or no server runs or starts by whose
        launch XNAT could be asked. While XNAT cannot be asked nobody is logged out. Requests of one moment share one
        look.
        """
        task = self._refreshing.get(user.name)
        if task is None:
            servers = {name: _is_dashboard(spawner) for name, spawner in user.spawners.items() if spawner.active}
            task = self._refreshing[user.name] = asyncio.ensure_future(self._still_allowed(user.name, servers))
            task.add_done_callback(lambda _: self._refreshing.pop(user.name, None))
        return await asyncio.shield(task)

    async def _still_allowed(self, username: str, servers: dict[str, bool]) -> bool:
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT):
                return await shared_client().still_allowed(username, servers)
        except (XnatError, TimeoutError) as error:
            self.log.warning("Not asked whether %r may still use Jupyter: %s", username, error or "no answer in time")
            return True


def _is_dashboard(spawner: Any) -> bool:
    """Whether XNAT, which alone starts servers, started this one as a dashboard (contract 2.4)."""
    return (spawner.user_options or {}).get("dashboardConfigId") is not None
