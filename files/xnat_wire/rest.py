"""Calls to XNAT's REST API (docs/xnat-contract.md, 1), each with time limits.

Redirects are not followed. Only status 200 with JSON is an answer; anything else raises one of the errors below.
Passwords, tokens, cookies and values of variables are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from .redirects import Redirect, judge
from .site import XnatSite
from .throttle import NAME_LENGTH

log = logging.getLogger("xnat_wire.rest")

USER_ROLE = "Jupyter"
SWITCH = "allUsersCanStartJupyter"


class XnatError(Exception):
    """XNAT did not give a usable answer. The text can be shown to users. status: the status of the hub's answer."""

    status = 502


class InvalidNameError(XnatError):
    """XNAT is not called: no user or server there can have this name."""

    status = 400


class BadCredentialsError(XnatError):
    """XNAT answered 401: wrong name or password, disabled or locked account, too many sessions (1.2)."""

    status = 401


class TooManyFailuresError(XnatError):
    """XNAT is not called: it refused this account, or others from the same address, too often (1.6, throttle.py)."""

    status = 429


class NotPermittedError(XnatError):
    """XNAT answered 403: the account may not make this call."""

    status = 403


class ActionRequiredError(XnatError):
    """XNAT redirected to one of its pages, for example because the password has expired (1.2)."""

    status = 403


class MovedError(XnatError):
    """XNAT redirected to another address of its own or to a single sign-on: the hub's URL of XNAT is wrong (1.2)."""

    status = 503


class NotInitialisedError(XnatError):
    """XNAT redirected to its set-up page: it is not initialised yet."""

    status = 503


class NotFoundError(XnatError):
    """XNAT answered 404: no options are stored, the user lost access, or the name is unknown (1.4)."""

    status = 404


class UnavailableError(XnatError):
    """XNAT did not answer in time, refused the connection, or failed itself (5xx)."""

    status = 503


class NotUnderstoodError(XnatError):
    """XNAT's answer is not what the contract specifies, for example an HTML page."""


class Rest:
    """Asynchronous calls to one XNAT. Connections are opened with the first call."""

    def __init__(self, site: XnatSite) -> None:
        self.site = site
        self._base = site.url.rstrip("/")
        self._connector: aiohttp.TCPConnector | None = None
        self._background: set[asyncio.Task[None]] = set()

    def session(self, username: str, password: str) -> aiohttp.ClientSession:
        """Return a session for an account; end it with log_out. Raises ValueError for a name with a colon."""
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(ssl=_tls(self.site), limit=100)
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            headers={"Accept": "application/json", "Authorization": aiohttp.encode_basic_auth(username, password)},
            timeout=aiohttp.ClientTimeout(total=self.site.timeout, sock_connect=self.site.connect_timeout),
        )

    async def get(self, session: aiohttp.ClientSession, label: str, path: str) -> Any:
        """Return the JSON of a path. label: the purpose of the call, for messages. Raises an XnatError."""
        try:
            async with session.get(URL(self._base + path, encoded=True), allow_redirects=False) as response:
                _check_status(label, self._base, path, response)
                if response.content_type != "application/json":
                    raise NotUnderstoodError(
                        f"XNAT answered the {label} with {response.content_type or 'nothing'} instead of JSON"
                    )
                return await response.json()
        except aiohttp.ConnectionTimeoutError as error:
            raise UnavailableError(
                f"XNAT could not be reached for the {label} within {self.site.connect_timeout:g} s"
            ) from error
        except TimeoutError as error:
            raise UnavailableError(f"XNAT did not answer the {label} within {self.site.timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise UnavailableError(f"XNAT cannot be reached for the {label} ({type(error).__name__})") from error
        except (ValueError, RecursionError) as error:
            raise NotUnderstoodError(f"XNAT answered the {label} with invalid JSON") from error

    async def may_use_jupyter(self, username: str, login: str, password: str) -> bool:
        """Return whether a user has the right to start Jupyter, by calls A and B (1.2, 1.3). Raises an XnatError.

        login, password: the credentials for the calls, the user's own or those of an alias token of theirs.
        """
        try:
            session = self.session(login, password)
        except ValueError as error:  # a colon in the name, half a character
            raise NotUnderstoodError("XNAT gave an account name that cannot be used for a log-in") from error
        try:
            roles = await self.get(session, "log-in check", f"/xapi/users/{quote(username, safe='')}/roles")
            if not isinstance(roles, list):
                raise NotUnderstoodError("XNAT's list of roles is not a list")
            if USER_ROLE in roles:
                return True
            switch = await self.get(session, "log-in switch", f"/xapi/jupyterhub/preferences/{SWITCH}")
            if not isinstance(switch, dict) or not isinstance(switch.get(SWITCH), bool):
                raise NotUnderstoodError(f"XNAT's preference {SWITCH} is neither true nor false")
            return bool(switch[SWITCH])
        finally:
            # XNAT opens a session for every call (1.6): end this one in the background, so the user need not wait.
            task = asyncio.create_task(self.log_out(session))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def log_out(self, session: aiohttp.ClientSession) -> None:
        """End a session, also in XNAT if it was opened there."""
        try:
            if is_open(session):
                async with session.delete(self._base + "/data/JSESSION", allow_redirects=False):
                    pass
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("Could not end the session in XNAT (%s); it will expire", type(error).__name__)
        finally:
            await session.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._background:
            await asyncio.wait(self._background)
        if self._connector is not None:
            await self._connector.close()


def is_open(session: aiohttp.ClientSession) -> bool:
    """Return whether XNAT has opened a session."""
    return any(cookie.key == "JSESSIONID" for cookie in session.cookie_jar)


def check_name(username: str) -> None:
    """Raise InvalidNameError for a name that no user in XNAT can have."""
    bad = not username or username in {".", ".."} or "/" in username or ":" in username or not username.isprintable()
    if bad or len(username) > NAME_LENGTH:
        raise InvalidNameError(f"{username[:NAME_LENGTH]!r} is not a valid user name in XNAT")


def _tls(site: XnatSite) -> ssl.SSLContext:
    # With a CA bundle of the site, only that is trusted.
    context = ssl.create_default_context(cafile=site.ca_file)
    if not site.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if site.client_certificate_file:
        context.load_cert_chain(site.client_certificate_file)
    return context


def _check_status(label: str, base: str, path: str, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    if status == 401:
        raise BadCredentialsError("XNAT does not accept this name and password, or the account is disabled or locked")
    if status == 403:
        raise NotPermittedError(f"XNAT does not permit this account the {label}")
    if status == 404:
        raise NotFoundError(f"XNAT answered the {label} with 404: not found")
    if 300 <= status < 400:
        raise _redirected(judge(base, path, response.headers.get("Location", "")))
    if status >= 500:
        raise UnavailableError(f"XNAT failed at the {label} (status {status})")
    raise NotUnderstoodError(f"XNAT answered the {label} with status {status}")


def _redirected(redirect: Redirect) -> XnatError:
    place = redirect.target
    error, text = {
        "setup": (NotInitialisedError, "XNAT is not set up yet"),
        "moved": (MovedError, f"XNAT is at {place}: set site_xnat_url to that address"),
        "sign-on": (
            MovedError,
            f"XNAT's address redirects to the log-in page {place}, perhaps of a single sign-on: set site_xnat_url to an"
            " address where XNAT itself accepts user names and passwords",
        ),
        "password": (
            ActionRequiredError,
            "The password in XNAT has expired: log in to XNAT and choose a new password",
        ),
        "inactive": (ActionRequiredError, "XNAT disabled this account for inactivity: ask your XNAT administrator"),
        "email": (ActionRequiredError, "Your e-mail address is not verified in XNAT: log in to XNAT and verify it"),
        "page": (
            ActionRequiredError,
            f"XNAT requires an action before you can log in (it redirects to {place}): log in to XNAT and complete it",
        ),
    }[redirect.kind]
    return error(text)
