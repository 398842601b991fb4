"""XNAT's handling of every request: log-in, session cookie, form of errors (docs/xnat-contract.md, 1.2 and 1.6)."""

from __future__ import annotations

import logging

from aiohttp import web

from .configuration import Configuration, ConfigurationError
from .hub import HubError
from .kinds import ComputeError
from .people import LOCAL, OPENID, Person
from .state import RefusedError, State
from .xapi import (
    BUILD_INFO,
    EXPIRED_PAGE,
    NEW_SESSION,
    NOT_XNAT,
    PERSON,
    SESSION_ID,
    Handler,
    XapiError,
    bad_argument,
    basic_credentials,
    text_response,
)

LOG = logging.getLogger(__name__)
COOKIE = "JSESSIONID"
OPENID_PAGE = "/demo/openid-login"
_WITHOUT_LOGIN = ("/healthz", "/data/services/auth", OPENID_PAGE, EXPIRED_PAGE, BUILD_INFO)


class Login:
    """The middleware that logs in each request, and the log-in itself."""

    def __init__(self, state: State, configuration: Configuration) -> None:
        self._state = state
        self._configuration = configuration

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log in, call the handler, turn errors into XNAT's form, and set the session cookie of a new session."""
        path = request.raw_path.partition("?")[0]
        try:
            _check_path(path)
            if path not in _WITHOUT_LOGIN:
                self._log_in(request)
            response = await handler(request)
        except XapiError as error:
            response = _error_response(request, error)
        except (ComputeError, ConfigurationError) as error:
            response = _error_response(request, bad_argument(str(error)))
        except HubError as error:
            LOG.error("%s %s: %s", request.method, path, error)
            response = _error_response(request, bad_argument("JupyterHub did not answer as expected"))
        except web.HTTPException as error:
            response = text_response(error.status, error.reason)
            if location := error.headers.get("Location"):
                response.headers["Location"] = location
        except Exception:
            LOG.exception("%s %s failed", request.method, path)
            response = _error_response(request, bad_argument("unexpected error"))
        if request.get(NEW_SESSION):
            secure = request.headers.get("X-Forwarded-Proto") == "https"
            response.set_cookie(COOKIE, request[SESSION_ID], httponly=True, samesite="Lax", secure=secure)
        if path != "/healthz":
            # Neither the query nor the referer is logged: JupyterLab's address may carry a token.
            person = request.get(PERSON)
            LOG.info("%s %s %s %s", person.username if person else "-", request.method, path, response.status)
        return response

    def _log_in(self, request: web.Request) -> None:
        """Store the user in the request, or raise 401, 403 (forgery) or a redirect (expired password).

        As in XNAT, the password is not checked if there is a live session of the user named by Basic authentication.
        """
        session_id = request.cookies.get(COOKIE, "")
        person = self._state.find_session(session_id)
        basic = basic_credentials(request)
        if person is not None and (
            basic is None or person.username in (basic[0], self._state.owner_of_alias(basic[0]))
        ):
            request[SESSION_ID] = session_id
        elif basic is not None:
            person = self.open_session(request, *basic)
        elif request.path == "/":
            return
        else:
            raise XapiError(401)
        request[PERSON] = person
        if person.password_expired and "non_expiring" not in person.roles:
            raise web.HTTPFound(self._configuration.site["siteUrl"].rstrip("/") + EXPIRED_PAGE)
        changes = request.method not in ("GET", "HEAD") and request.path != "/data/JSESSION"
        if changes and basic is None and request.headers.get("X-Requested-With") != "XMLHttpRequest":
            raise XapiError(403, "A change made with the session cookie needs the header X-Requested-With.")

    def open_session(
        self, request: web.Request, login: str, password: str, limited: bool = True, openid: bool = False
    ) -> Person:
        """Check the credentials and make a session: 401 if they are refused.

        login: the part before a "/" names the provider, here only ``localdb``. limited: whether the number of the
        person's sessions counts. openid: whether these are credentials for the OpenID provider.
        """
        provider, _, name = login.rpartition("/")
        try:
            if provider not in ("", LOCAL):
                raise RefusedError
            person = self._state.check_password(name, password, OPENID if openid else LOCAL)
            request[SESSION_ID] = self._state.open_session(person, limited)
            request[NEW_SESSION] = True
        except RefusedError as error:
            raise XapiError(401) from error
        return person


def _check_path(path: str) -> None:
    if "//" in path:  # refused by XNAT's firewall (docs/xnat-contract.md, 6.3)
        raise XapiError(400, "The request was rejected because the URL contained a double slash.")
    if "%2f" in path.lower():
        raise XapiError(404)


def _error_response(request: web.Request, error: XapiError) -> web.Response:
    if error.status != 401:
        return text_response(error.status, error.text)
    page = "<!doctype html><html><head><title>HTTP Status 401 - Unauthorized</title></head>"
    page += f"<body><h1>HTTP Status 401 - Unauthorized</h1>{NOT_XNAT}</body></html>"
    response = web.Response(status=401, text=page, content_type="text/html")
    if "X-Requested-With" not in request.headers:  # otherwise the browser would show its own log-in dialog
        response.headers["WWW-Authenticate"] = 'Basic realm="XNAT"'
    return response
