"""Shared code of the REST interface's sections: XNAT's form of errors, the caller, JSON bodies."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from .people import Person
from .state import State

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Routes = list[web.RouteDef]
M = TypeVar("M", bound=BaseModel)
PERSON = web.RequestKey("person", Person)  # set for every path that needs a log-in
SESSION_ID = web.RequestKey("session_id", str)
NEW_SESSION = web.RequestKey("new_session", bool)
EXPIRED_PAGE = "/app/template/XDATScreen_UpdateUser.vm"
BUILD_INFO = "/xapi/siteConfig/buildInfo"
NOT_XNAT = "<p>This is a demo stand-in. It is not XNAT.</p>"


class Section(Protocol):
    """One section of the REST interface."""

    def routes(self) -> Routes:
        """Its calls."""


class XapiError(Exception):
    """An answer other than 200: status and text, in XNAT's form of errors (docs/xnat-contract.md, 1.4)."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def bad_argument(text: str) -> XapiError:
    """XNAT answers 500, not 400, to an argument it cannot use (docs/xnat-contract.md, 1.4)."""
    return XapiError(500, f"There was an error in the request : {text}")


def not_found(text: str) -> XapiError:
    """A 404 with XNAT's sentence."""
    return XapiError(404, f"Unable to find requested file or resource: {text}")


def text_response(status: int, text: str) -> web.Response:
    """The answer with that text; without a content type if it is empty."""
    return web.Response(status=status, text=text) if text else web.Response(status=status)


def require(allowed: bool) -> None:
    """Raise 403 unless the caller may do this."""
    if not allowed:
        raise XapiError(403)


def require_administrator(request: web.Request) -> None:
    """Raise 403 unless the caller is an administrator."""
    require(request[PERSON].is_administrator())


def known_person(request: web.Request, state: State) -> Person:
    """The person named in the path: 404 for an unknown name."""
    username = request.match_info["username"]
    person = state.people.get(username)
    if person is None:
        raise XapiError(404, f"User {username} was not found.")
    return person


def own_person(request: web.Request, state: State) -> Person:
    """The person named in the path, if the caller may act for them: 403 for others, 404 for an unknown name."""
    require(request[PERSON].may_act_for(request.match_info["username"]))
    return known_person(request, state)


def basic_credentials(request: web.Request) -> tuple[str, str] | None:
    """Login name and password of HTTP Basic authentication, None without it. Raises 401 if it cannot be parsed."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        login, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError as error:
        raise XapiError(401) from error
    return login, password


async def json_body(request: web.Request) -> Any:
    """The body: 415 if it is not declared as JSON, 500 if it cannot be read."""
    if request.content_type != "application/json":
        raise XapiError(415)
    try:
        return await request.json()
    except ValueError as error:
        raise _unreadable() from error


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body, which must be an object: 415 or 500."""
    body = await json_body(request)
    if not isinstance(body, dict):
        raise _unreadable()
    return body


async def read_as(request: web.Request, model: type[M]) -> M:
    """The body as this model: 415 or 500."""
    try:
        return model.model_validate(await json_body(request))
    except ValidationError as error:
        raise _unreadable() from error


def _unreadable() -> XapiError:
    return bad_argument("Could not read the JSON document.")
