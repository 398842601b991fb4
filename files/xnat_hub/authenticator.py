"""Log-in with an XNAT account (docs/xnat-contract.md, 1.2, 1.3)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Container
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.auth import Authenticator
from tornado import web
from xnat_wire.launcher import LogIn, RefusedError, Standing
from xnat_wire.rest import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    NotPermittedError,
    TooManyFailuresError,
    XnatError,
    check_name,
)

from xnat_hub import assets
from xnat_hub.handlers import HANDLERS
from xnat_hub.launcher import shared_launcher
from xnat_hub.logins import OwnAccountError, shared_logins
from xnat_hub.pages import handlers
from xnat_hub.settings import load

REFRESH_TIMEOUT = 5.0  # seconds that a page waits for XNAT when a log-in is checked again
RESOLVE_TIMEOUT = 2.0  # seconds that a log-in waits for DNS to resolve the proxy's name
# The result in the audit log of a log-in that failed with one of these errors; of any other: LogIn.XNAT.
RESULTS: dict[type[XnatError], LogIn] = {
    InvalidNameError: LogIn.NAME,
    OwnAccountError: LogIn.NAME,
    BadCredentialsError: LogIn.CREDENTIALS,
    NotPermittedError: LogIn.NOT_PERMITTED,
    ActionRequiredError: LogIn.ACTION,
    TooManyFailuresError: LogIn.TOO_OFTEN,
}
ACCEPTED = "xnat_accepted"  # key in a server's saved state: XNAT has accepted the alias token of its launch


class XnatAuthenticator(Authenticator):
    """Lets in everybody whom XNAT allows to start Jupyter: users with the role `Jupyter`, or all if XNAT is set so.

    A user who passes `authenticate` is allowed. Users that XNAT's plugin creates by REST get in with the token in their
    link. Every `auth_refresh_age` seconds the hub asks XNAT again.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._refreshing: dict[str, asyncio.Task[bool]] = {}
        self._warned = False

    def normalize_username(self, username: str) -> str:
        """Leave the name unchanged: in XNAT `JDoe` and `jdoe` are two people (contract 6.11)."""
        return username

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Allow every authenticated user: `authenticate` has already checked the right to start Jupyter."""
        return True

    def get_handlers(self, app: Any) -> list[tuple[Any, ...]]:
        """Return our own handlers as well; JupyterHub puts them before its own."""
        return [*super().get_handlers(app), *HANDLERS, *handlers(load()), *assets.handlers()]

    async def authenticate(self, handler: web.RequestHandler, data: Any) -> dict[str, Any]:
        """Check the log-in with XNAT and record it. A refusal is an HTTPError; the log-in page shows its message.

        data: the form's fields, or whatever a caller of the REST API sends as `auth`.
        """
        username, password = (data.get(key) if isinstance(data, dict) else None for key in ("username", "password"))
        address = await client_address(handler.request)
        result = LogIn.HUB  # unless a check below ends in another way
        try:
            if not isinstance(username, str) or not isinstance(password, str):
                result = LogIn.FORM
                raise web.HTTPError(400, "Enter a user name and a password.")
            allowed = await shared_logins().may_start_jupyter(username, password, source_of(address))
            result = LogIn.ACCEPTED if allowed else LogIn.NO_RIGHT
        except BadCredentialsError as error:
            result = LogIn.CREDENTIALS
            raise web.HTTPError(403, f"{error}.") from error
        except XnatError as error:
            result = RESULTS.get(type(error), LogIn.XNAT)
            # Without the name: it may be a password that was typed into the wrong field.
            why = result if isinstance(error, InvalidNameError) else error
            self.log.warning("Could not check a log-in from %s with XNAT: %s", address, why)
            raise web.HTTPError(error.status, f"{error}.") from error
        finally:
            name = username if isinstance(username, str) else ""
            shared_launcher().logged_in(name, address, result, _is_known(handler, name))
        if not allowed:
            raise web.HTTPError(
                403, "Your XNAT account may not use Jupyter: ask your XNAT administrator for the role Jupyter."
            )
        return {"name": username}

    async def refresh_user(self, user: Any, handler: web.RequestHandler | None = None) -> bool:
        """Return whether XNAT still allows this user to use Jupyter; JupyterHub asks every `auth_refresh_age` seconds.

        With False the user must log in again: they lost the role, their account is disabled, or they have no active
        server whose alias token could be used to ask XNAT. Nobody is logged out while XNAT does not answer, nor where
        XNAT never accepted the alias token of a launch, since XNAT itself provided that launch and the token in its
        link. Simultaneous requests share one check.
        """
        task = self._refreshing.get(user.name)
        if task is None:
            spawners = {name: spawner for name, spawner in user.spawners.items() if spawner.active}
            task = self._refreshing[user.name] = asyncio.ensure_future(self._still_allowed(user.name, spawners))
            task.add_done_callback(lambda _: self._refreshing.pop(user.name, None))
        return await asyncio.shield(task)

    async def _still_allowed(self, username: str, spawners: dict[str, Any]) -> bool:
        never_accepted = lost = False
        try:
            async with asyncio.timeout(REFRESH_TIMEOUT):
                for name, spawner in spawners.items():
                    standing = await shared_launcher().standing(username, name)
                    if standing in (Standing.ALLOWED, Standing.NO_RIGHT):
                        _remember_accepted(spawner)
                    # Dashboards do not require the right to start Jupyter (1.3).
                    if standing is Standing.ALLOWED or (standing is Standing.NO_RIGHT and _is_dashboard(spawner)):
                        return True
                    if standing is Standing.NO_RIGHT or (standing is Standing.REFUSED and _was_accepted(spawner)):
                        lost = True
                    elif standing is Standing.REFUSED:
                        never_accepted = True
        except (RefusedError, TimeoutError) as error:
            self.log.warning("Could not check whether %r may still use Jupyter: %s", username, error or "timed out")
            return True
        if never_accepted and not lost:
            self._warn_once(username)
            return True
        return False

    def _warn_once(self, username: str) -> None:
        if not self._warned:
            self._warned = True
            self.log.warning(
                "XNAT has never accepted the alias token of a running launch of %r, so the hub cannot check whether"
                " users may still use Jupyter. If this XNAT does not allow alias tokens to read roles, set"
                " jupyterhub_auth_refresh_age to 0. If alias tokens expire before the servers end, make XNAT's"
                " aliasTokenTimeout longer than its maxServerLifetime. This warning is logged once.",
                username,
            )


def _is_known(handler: Any, name: str) -> bool:
    """Return whether a person of this name has used this hub before."""
    try:
        check_name(name)
        name.encode()
    except (InvalidNameError, UnicodeEncodeError):
        return False
    return handler.find_user(name) is not None


async def client_address(request: Any) -> str:
    """Return the address that a request comes from; the client cannot forge it.

    The hub's proxy appends the address of its peer to X-Forwarded-For, so the last address there that is not one of
    the site's trusted proxies is the client's. For a direct connection, such as one from a notebook, the header is
    ignored.
    """
    peer = str(request.connection.context.address[0])
    settings = load()
    if peer not in await _addresses(urlsplit(settings.proxy_api_url).hostname or ""):
        return peer
    forwarded = ",".join(request.headers.get_list("X-Forwarded-For"))
    return last_untrusted(peer, forwarded, settings.trusted_proxies)


def source_of(address: str) -> str:
    """Return the source that limits are counted for: the address, or for IPv6 its /64 network (one subscriber)."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address


def last_untrusted(peer: str, forwarded: str, trusted: Container[str]) -> str:
    """Return the last untrusted address of an X-Forwarded-For; an entry that is not an address ends the search."""
    found = peer
    for text in reversed(forwarded.split(",")):
        try:
            address = ipaddress.ip_address(text.strip())
        except ValueError:
            return found
        found = str(getattr(address, "ipv4_mapped", None) or address)
        if found not in trusted:
            return found
    return found


async def _addresses(host: str) -> set[str]:
    """Return the addresses of a host; none if its name cannot be resolved."""
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return set()
    return {str(address[0]) for *_, address in found}


def _is_dashboard(spawner: Any) -> bool:
    """Whether XNAT started this server as a dashboard (contract 2.4)."""
    return (spawner.user_options or {}).get("dashboardConfigId") is not None


def _was_accepted(spawner: Any) -> bool:
    return bool((spawner.orm_spawner.state or {}).get(ACCEPTED))


def _remember_accepted(spawner: Any) -> None:
    """Record it in the database, so that a restarted hub can still tell a closed account from a refused token."""
    if not _was_accepted(spawner):
        spawner.orm_spawner.state = {**(spawner.orm_spawner.state or {}), ACCEPTED: True}
        spawner.db.commit()
