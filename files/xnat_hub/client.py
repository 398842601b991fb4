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
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from xnat_hub.options import SERVER_NAME
from xnat_hub.settings import Settings, load
from xnat_hub.throttle import FailedLogins

log = logging.getLogger("xnat_hub.client")

USER_ROLE = "Jupyter"
SWITCH = "allUsersCanStartJupyter"
SESSION_IDLE = 600.0  # seconds of rest after which XNAT may have ended a session; it does after 15 minutes (1.6)


class XnatError(Exception):
    """A call to XNAT that gave no usable answer. status: the HTTP status that the hub answers with."""

    status = 502


class BadCredentialsError(XnatError):
    """XNAT answered 401: wrong name or password, disabled or locked account, too many sessions (1.2)."""

    status = 401


class TooManyFailuresError(XnatError):
    """XNAT is not asked: it refused this account so often that it would soon lock it (1.6)."""

    status = 429


class NotPermittedError(XnatError):
    """XNAT answered 403: the account may not make this call."""

    status = 403


class PasswordExpiredError(XnatError):
    """XNAT redirected to a page: the local password has expired or the account is inactive (1.2)."""

    status = 403


class AliasRefusedError(XnatError):
    """XNAT no longer accepts a launch's alias token: the account is disabled, expired or gone, or the token is."""

    status = 403


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
        self._failed_people = FailedLogins(limit, window)
        self._failed_service = FailedLogins(limit, window)

    async def may_start_jupyter(self, username: str, password: str) -> bool:
        """Check a log-in by calls A and B: whether this person, so authenticated, may use Jupyter (1.2, 1.3).

        Raises a XnatError when XNAT does not accept the log-in or gives no usable answer.
        """
        _check_name(username)
        with _counted(self._failed_people, username):
            return await self._has_right(username, username, password)

    async def still_allowed(self, username: str, servers: Mapping[str, bool]) -> bool:
        """Ask again, by the alias token of a running server's launch, whether its user may use Jupyter.

        servers: the names of the running servers, and whether each is a dashboard. True if for one of them XNAT still
        gives the launch to the hub (1.4), the account still exists and is enabled, and it has the right, which a
        dashboard does not need (1.3). Raises a XnatError when XNAT gives no usable answer.
        """
        for name, is_dashboard in servers.items():
            try:
                env = (await self.user_options(username, name))["task_template"]["container_spec"]["env"]
                right = await self._has_right(username, str(env["XNAT_USER"]), str(env["XNAT_PASS"]))
            except (NotFoundError, AliasRefusedError, KeyError, TypeError):
                continue
            if right or is_dashboard:
                return True
        return False

    async def _has_right(self, username: str, login: str, password: str) -> bool:
        session = self._session(login, password)
        try:
            try:
                roles = await self._get(session, "log-in check", f"/xapi/users/{quote(username, safe='')}/roles")
            except (BadCredentialsError, PasswordExpiredError, NotPermittedError) as error:
                if login != username:
                    raise AliasRefusedError(str(error)) from error
                raise
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
            raise NotPermittedError(f"the server name {server_name!r} is not one that XNAT gives")
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
                        with _counted(self._failed_service, self._settings.xnat_username):
                            yield self._service
                    finally:
                        self._service_used = time.monotonic()
                    return
        self._service_used = time.monotonic()
        yield self._service

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
                _check_status(label, response)
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
        except ValueError as error:
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


@contextmanager
def _counted(failed: FailedLogins, name: str) -> Iterator[None]:
    """Let XNAT be asked with an account's password unless it was refused too often; count how it goes."""
    if wait := failed.wait(name):
        minutes = math.ceil(wait / 60)
        raise TooManyFailuresError(
            f"XNAT refused {name} too often, and further tries would lock the account: try again in {minutes} min"
        )
    begun = failed.begin(name)
    try:
        yield
    except BadCredentialsError:
        raise
    except BaseException:
        failed.forget(name, begun)
        raise
    failed.succeeded(name)


def _check_name(username: str) -> None:
    if not username or username in {".", ".."} or "/" in username or ":" in username or not username.isprintable():
        raise BadCredentialsError("this is not a name that XNAT gives")


def _check_status(label: str, response: aiohttp.ClientResponse) -> None:
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
        if "setup" in response.headers.get("Location", "").lower():
            raise NotInitialisedError("XNAT is not set up yet")
        raise PasswordExpiredError("XNAT wants something done first, for example a new password: log in to XNAT")
    if status >= 500:
        raise UnavailableError(f"XNAT failed at the {label} (status {status})")
    raise NotUnderstoodError(f"XNAT answered the {label} with status {status}")


@functools.cache
def shared_client() -> XnatClient:
    """Return the hub's one client."""
    return XnatClient(load())
