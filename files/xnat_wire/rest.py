"""Calls to XNAT's REST API (docs/xnat-contract.md, 1), each with time limits and one way to fail.

No redirect is followed, and only 200 with JSON counts as an answer; anything else is one of the errors below. Nothing
here logs a password, token, cookie or variable's value.
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
    """A call to XNAT that gave no usable answer; the text is fit for users. status: what the hub answers with."""

    status = 502


class InvalidNameError(XnatError):
    """XNAT is not asked: it can have no user or server of this name."""

    status = 400


class BadCredentialsError(XnatError):
    """XNAT answered 401: wrong name or password, disabled or locked account, too many sessions (1.2)."""

    status = 401


class TooManyFailuresError(XnatError):
    """XNAT is not asked: it refused this account, or others from the same address, too often (1.6, throttle.py)."""

    status = 429


class NotPermittedError(XnatError):
    """XNAT answered 403: the account may not make this call."""

    status = 403


class ActionRequiredError(XnatError):
    """XNAT redirected to a page of its own: the password has expired, the account is inactive, or such (1.2)."""

    status = 403


class MovedError(XnatError):
    """XNAT redirected the call to another address of its own, or to a single sign-on: the hub's URL is wrong (1.2)."""

    status = 503


class NotInitialisedError(XnatError):
    """XNAT redirected to its set-up page: the site is not initialised yet."""

    status = 503


class NotFoundError(XnatError):
    """XNAT answered 404: no options stored, or the user lost access, or the name is unknown (1.4)."""

    status = 404


class UnavailableError(XnatError):
    """XNAT did not answer in time, refused the connection, or failed itself (5xx)."""

    status = 503


class NotUnderstoodError(XnatError):
    """XNAT answered something that is not what the contract says, such as an HTML page."""


class Rest:
    """Asynchronous calls to one XNAT. Its connections open at the first call."""

    def __init__(self, site: XnatSite) -> None:
        self.site = site
        self._base = site.url.rstrip("/")
        self._connector: aiohttp.TCPConnector | None = None
        self._background: set[asyncio.Task[None]] = set()

    def session(self, username: str, password: str) -> aiohttp.ClientSession:
        """Return a session of an account, which log_out ends. Raises ValueError for a name with a colon."""
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
        """Return the JSON of a path. label: what the call is for, in sentences. Raises a XnatError."""
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
            raise NotUnderstoodError(f"XNAT answered the {label} with JSON that cannot be read") from error

    async def may_use_jupyter(self, username: str, login: str, password: str) -> bool:
        """Return whether a user has the right to start Jupyter, by calls A and B (1.2, 1.3). Raises a XnatError.

        login, password: by which XNAT is asked, the user's own or an alias token of theirs.
        """
        try:
            session = self.session(login, password)
        except ValueError as error:  # a colon in the name, half a character
            raise NotUnderstoodError("XNAT names an account that cannot log in anywhere") from error
        try:
            roles = await self.get(session, "log-in check", f"/xapi/users/{quote(username, safe='')}/roles")
            if not isinstance(roles, list):
                raise NotUnderstoodError("XNAT's list of roles is no list")
            if USER_ROLE in roles:
                return True
            switch = await self.get(session, "log-in switch", f"/xapi/jupyterhub/preferences/{SWITCH}")
            if not isinstance(switch, dict) or not isinstance(switch.get(SWITCH), bool):
                raise NotUnderstoodError(f"XNAT's preference {SWITCH} is no truth value")
            return bool(switch[SWITCH])
        finally:
            # XNAT keeps a session for every call (1.6): end this one, without letting the user wait for it.
            task = asyncio.create_task(self.log_out(session))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def log_out(self, session: aiohttp.ClientSession) -> None:
        """End a session, in XNAT too if it was opened there."""
        try:
            if is_open(session):
                async with session.delete(self._base + "/data/JSESSION", allow_redirects=False):
                    pass
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("XNAT's session was not ended (%s); it ends by itself", type(error).__name__)
        finally:
            await session.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._background:
            await asyncio.wait(self._background)
        if self._connector is not None:
            await self._connector.close()


def is_open(session: aiohttp.ClientSession) -> bool:
    """Whether XNAT has opened a session."""
    return any(cookie.key == "JSESSIONID" for cookie in session.cookie_jar)


def check_name(username: str) -> None:
    """Raise InvalidNameError for a name that no user of XNAT can have."""
    bad = not username or username in {".", ".."} or "/" in username or ":" in username or not username.isprintable()
    if bad or len(username) > NAME_LENGTH:
        raise InvalidNameError(f"XNAT can have no user of the name {username[:NAME_LENGTH]!r}")


def _tls(site: XnatSite) -> ssl.SSLContext:
    # A bundle of the site is all that is trusted, not something further.
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
        raise NotPermittedError(f"XNAT does not permit the {label} to this account")
    if status == 404:
        raise NotFoundError(f"XNAT knows nothing for the {label}")
    if 300 <= status < 400:
        raise _redirected(judge(base, path, response.headers.get("Location", "")))
    if status >= 500:
        raise UnavailableError(f"XNAT failed at the {label} (status {status})")
    raise NotUnderstoodError(f"XNAT answered the {label} with status {status}")


def _redirected(redirect: Redirect) -> XnatError:
    place = redirect.target
    error, text = {
        "setup": (NotInitialisedError, "XNAT is not set up yet"),
        "moved": (MovedError, f"XNAT is at {place}: set site_xnat_url to that"),
        "sign-on": (
            MovedError,
            f"XNAT's address leads to the log-in page {place}, as of a single sign-on, instead of to XNAT: set"
            " site_xnat_url to an address at which XNAT itself takes names and passwords",
        ),
        "password": (
            ActionRequiredError,
            "The password in XNAT has expired: log in to XNAT and choose a new password",
        ),
        "inactive": (ActionRequiredError, "XNAT has closed this account for inactivity: ask your XNAT administrator"),
        "email": (ActionRequiredError, "XNAT wants this account's e-mail address verified first: log in to XNAT"),
        "page": (ActionRequiredError, f"XNAT wants something done first (it sends to {place}): log in to XNAT"),
    }[redirect.kind]
    return error(text)
