"""XNAT's REST calls that the hub makes (docs/xnat-contract.md, 1), each with time limits and one way to fail.

No redirect is followed, and only 200 with JSON of the expected shape counts as an answer; anything else is one of the
errors below, whose text is fit for a user's eyes. Nothing here logs a password, token, cookie or variable's value.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from xnat_hub.options import SERVER_NAME
from xnat_hub.redirects import Redirect, judge
from xnat_hub.settings import Settings, load
from xnat_hub.throttle import NAME_LENGTH, Throttle, Wait

log = logging.getLogger("xnat_hub.client")

USER_ROLE = "Jupyter"
SWITCH = "allUsersCanStartJupyter"
SESSION_IDLE = 600.0  # seconds of rest after which XNAT may have ended a session; it does after 15 minutes (1.6)


class Look(Enum):
    """What XNAT says when a running server's launch is looked at again."""

    ALLOWED = "the user may still use it"
    NO_RIGHT = "the user has lost the right to start Jupyter"
    REFUSED = "XNAT does not accept the launch's alias token"
    GONE = "XNAT no longer gives this launch"


class XnatError(Exception):
    """A call to XNAT that gave no usable answer. status: the HTTP status that the hub answers with."""

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


class XnatClient:
    """Asynchronous calls to one XNAT. Created once for a hub; its connections open at the first call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = settings.xnat_url.rstrip("/")
        self._connector: aiohttp.TCPConnector | None = None
        self._service: aiohttp.ClientSession | None = None
        self._service_opening = asyncio.Lock()
        self._service_used = 0.0
        self._service_end: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        limit, window = settings.failed_logins, settings.failed_logins_window
        # Apart, so that nobody can use up the service account's tries at the log-in form.
        self._people = Throttle(limit, window)
        self._hub_itself = Throttle(limit, window)

    async def may_start_jupyter(self, username: str, password: str, source: str) -> bool:
        """Check a log-in by calls A and B: whether this person, so authenticated, may use Jupyter (1.2, 1.3).

        source: the address that the log-in comes from. Raises a XnatError when XNAT does not accept the log-in or
        gives no usable answer.
        """
        _check_name(username)
        if username == self._settings.xnat_username:  # whom strangers could lock, and so end all launches
            raise NotPermittedError("the hub's own account is no person's")
        async with self._counted(self._people, username, source):
            return await self._has_right(username, username, password)

    async def look(self, username: str, server_name: str, is_dashboard: bool) -> Look:
        """Ask again, by the alias token of a running server's launch, whether its user may use Jupyter.

        A dashboard does not need the right to start Jupyter (1.3). Raises a XnatError when XNAT gives no usable answer.
        """
        try:
            env = (await self.user_options(username, server_name))["task_template"]["container_spec"]["env"]
            login, password = str(env["XNAT_USER"]), str(env["XNAT_PASS"])
        except (NotFoundError, KeyError, TypeError):
            return Look.GONE
        try:
            right = await self._has_right(username, login, password)
        except (BadCredentialsError, ActionRequiredError, NotPermittedError) as error:
            log.info("Alias token of %r's server %r: %s", username, server_name, error)
            return Look.REFUSED
        return Look.ALLOWED if right or is_dashboard else Look.NO_RIGHT

    async def _has_right(self, username: str, login: str, password: str) -> bool:
        try:
            session = self._session(login, password)
        except ValueError as error:  # a colon in the name, half a character
            raise NotUnderstoodError("XNAT names an account that cannot log in anywhere") from error
        try:
            roles = await self._get(session, "log-in check", f"/xapi/users/{quote(username, safe='')}/roles")
            if not isinstance(roles, list):
                raise NotUnderstoodError("XNAT's list of roles is no list")
            if USER_ROLE in roles:
                return True
            switch = await self._get(session, "log-in switch", f"/xapi/jupyterhub/preferences/{SWITCH}")
            if not isinstance(switch, dict) or not isinstance(switch.get(SWITCH), bool):
                raise NotUnderstoodError(f"XNAT's preference {SWITCH} is no truth value")
            return bool(switch[SWITCH])
        finally:
            # XNAT keeps a session for every call (1.6): end this one, without letting the user wait for it.
            task = asyncio.create_task(self._log_out(session))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def user_options(self, username: str, server_name: str) -> dict[str, Any]:
        """Return the JSON of call C (1.4), of C0 for the server without a name, asked with the service account.

        Raises a XnatError; NotFoundError when XNAT has no launch of that name which the user may still read.
        """
        _check_name(username)
        if server_name and not SERVER_NAME.fullmatch(server_name):
            raise InvalidNameError(f"XNAT gives no server the name {server_name!r}")
        server = f"/{server_name}" if server_name else ""
        path = f"/xapi/jupyterhub/users/{quote(username, safe='')}/server{server}/user-options"
        async with self._service_session() as session:
            try:
                answer = await self._get(session, "user-options", path)
            except BadCredentialsError:
                session.cookie_jar.clear()  # so that the next call is counted as a log-in
                raise
        if not isinstance(answer, dict):
            raise NotUnderstoodError("XNAT's user-options are no object")
        return answer

    @asynccontextmanager
    async def _service_session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Give the service account's one session.

        Calls that may have to open it go one after the other, so that XNAT keeps no second one and a wrong password
        is not tried by all of them (1.6).
        """
        if self._service is None:
            self._service = self._session(self._settings.xnat_username, self._settings.secret("xnat_password"))
            self._service_end = asyncio.create_task(self._log_out_at_end(self._service))
        if not self._session_is_fresh(self._service):
            async with self._service_opening:
                if not self._session_is_fresh(self._service):
                    try:
                        async with self._counted(self._hub_itself, self._settings.xnat_username, ""):
                            yield self._service
                    finally:
                        self._service_used = time.monotonic()
                    return
        self._service_used = time.monotonic()
        yield self._service

    @asynccontextmanager
    async def _counted(self, throttle: Throttle, name: str, source: str) -> AsyncIterator[None]:
        """Let XNAT be asked with an account's password unless a limit is reached; count how it goes."""
        attempt = await throttle.begin_in_line(name, source, self._settings.xnat_timeout)
        if isinstance(attempt, Wait):
            raise TooManyFailuresError(_please_wait(attempt, name))
        try:
            yield
        except BadCredentialsError:
            attempt.refused()
            raise
        except BaseException:
            attempt.take_back()
            raise
        attempt.succeeded()

    def _session_is_fresh(self, session: aiohttp.ClientSession) -> bool:
        return _is_open(session) and time.monotonic() - self._service_used < SESSION_IDLE

    async def _log_out_at_end(self, session: aiohttp.ClientSession) -> None:
        """Wait for the end, which is a cancellation: JupyterHub cancels all tasks when it stops, and waits for them."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._log_out(session)

    async def close(self) -> None:
        """Log the service account out and close all connections."""
        if self._service_end is not None:
            self._service_end.cancel()
            await asyncio.wait([self._service_end])
        if self._background:
            await asyncio.wait(self._background)
        if self._connector is not None:
            await self._connector.close()

    def _session(self, username: str, password: str) -> aiohttp.ClientSession:
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(ssl=_tls(self._settings), limit=100)
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            headers={"Accept": "application/json", "Authorization": aiohttp.encode_basic_auth(username, password)},
            timeout=aiohttp.ClientTimeout(
                total=self._settings.xnat_timeout, sock_connect=self._settings.xnat_connect_timeout
            ),
        )

    async def _get(self, session: aiohttp.ClientSession, label: str, path: str) -> Any:
        try:
            async with session.get(URL(self._base + path, encoded=True), allow_redirects=False) as response:
                _check_status(label, self._base, path, response)
                if response.content_type != "application/json":
                    raise NotUnderstoodError(
                        f"XNAT answered the {label} with {response.content_type or 'nothing'} instead of JSON"
                    )
                return await response.json()
        except aiohttp.ConnectionTimeoutError as error:
            limit = self._settings.xnat_connect_timeout
            raise UnavailableError(f"XNAT could not be reached for the {label} within {limit:g} s") from error
        except TimeoutError as error:
            raise UnavailableError(
                f"XNAT did not answer the {label} within {self._settings.xnat_timeout:g} s"
            ) from error
        except aiohttp.ClientError as error:
            raise UnavailableError(f"XNAT cannot be reached for the {label} ({type(error).__name__})") from error
        except (ValueError, RecursionError) as error:
            raise NotUnderstoodError(f"XNAT answered the {label} with JSON that cannot be read") from error

    async def _log_out(self, session: aiohttp.ClientSession) -> None:
        try:
            if _is_open(session):
                async with session.delete(self._base + "/data/JSESSION", allow_redirects=False):
                    pass
        except (aiohttp.ClientError, TimeoutError) as error:
            log.debug("XNAT's session was not ended (%s); it ends by itself", type(error).__name__)
        finally:
            await session.close()


def _is_open(session: aiohttp.ClientSession) -> bool:
    return any(cookie.key == "JSESSIONID" for cookie in session.cookie_jar)


def _tls(settings: Settings) -> ssl.SSLContext:
    # A bundle of the site is all that is trusted, not something further.
    context = ssl.create_default_context(cafile=settings.xnat_ca_file)
    if not settings.xnat_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.xnat_client_certificate_file:
        context.load_cert_chain(settings.xnat_client_certificate_file)
    return context


def _please_wait(wait: Wait, name: str) -> str:
    seconds = math.ceil(wait.seconds)
    later = f"try again in {math.ceil(seconds / 60)} min" if seconds > 60 else f"try again in {seconds} s"
    if wait.reason == "name":
        return f"XNAT refused {name} too often, and further tries would lock the account: {later}"
    where = "from your address" if wait.reason == "source" else "at this hub"
    return f"Too many log-ins {where} were refused or are still being checked: {later}"


def _check_name(username: str) -> None:
    bad = not username or username in {".", ".."} or "/" in username or ":" in username or not username.isprintable()
    if bad or len(username) > NAME_LENGTH:
        raise InvalidNameError(f"XNAT can have no user of the name {username[:NAME_LENGTH]!r}")


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


@functools.cache
def shared_client() -> XnatClient:
    """Return the hub's one client."""
    return XnatClient(load())
