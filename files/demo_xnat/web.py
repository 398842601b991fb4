"""The HTTP side of the demo XNAT: log-in as XNAT does it, the REST calls, and one page for people.

It has the calls that hub, modules, proof, tests and the page make. Deliberate differences from XNAT: there is no guest;
a change made with the session cookie alone needs the header ``X-Requested-With: XMLHttpRequest``, which no foreign page
can send; lists of users and others' profiles are for admins only; of a change that is refused nothing is done.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import html
import io
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from . import archive, compute, configuration, people
from .compute import KINDS, SCOPES, Compute, ComputeError
from .configuration import Configuration, ConfigurationError
from .database import Database
from .faults import Faults
from .people import Person
from .plugin import Hub, HubError, Plugin, StartRequest, may_start
from .schema import SCHEMAS
from .settings import Secrets, Settings
from .state import RefusedError, State

LOG = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CONFIGURATION = web.AppKey("configuration", Configuration)
COMPUTE = web.AppKey("compute", Compute)
STATE = web.AppKey("state", State)
PLUGIN = web.AppKey("plugin", Plugin)
FAULTS = web.AppKey("faults", Faults)
TASKS = web.AppKey("tasks", set[asyncio.Task[None]])
PERSON = web.RequestKey("person", Person)
SESSION_ID = web.RequestKey("session_id", str)
NEW_SESSION = web.RequestKey("new_session", bool)

_COOKIE = "JSESSIONID"
_EXPIRED_PAGE = "/app/template/XDATScreen_UpdateUser.vm"
_BUILD_INFO = "/xapi/siteConfig/buildInfo"
_PLUGIN = {"id": "JupyterHubPlugin", "name": "JupyterHub Plugin (demo)", "version": "1.3.4"}
_OPEN_PATHS = ("/healthz", "/data/services/auth", _EXPIRED_PAGE, _BUILD_INFO)
_PAGE = Path(__file__).with_name("page.html")
_USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9_\-'.]{0,63}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_HUMAN_NAME = re.compile(r'[^&<>"/]+')
_PASSWORD_LENGTH = 4
_NOT_XNAT = "<p>This is a demo stand-in. It is not XNAT.</p>"
routes = web.RouteTableDef()


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


def make_app(settings: Settings, passwords: Secrets, clock: Callable[[], float] = time.time) -> web.Application:
    """The application with its database, filled as a fresh XNAT if it is empty; raises ``DatabaseError``."""
    database = Database(Path(settings.database))
    if database.is_empty():
        database.write({
            **configuration.first_start(settings.site_url, settings.archive_path),
            **people.first_start(),
            **compute.first_start(),
        })  # fmt: skip
    database.write(people.new_passwords(database, passwords))
    app = web.Application(middlewares=[_fail_as_ordered, _answer_as_xnat])
    app[FAULTS] = Faults()
    app[CONFIGURATION] = Configuration(database)
    app[COMPUTE] = Compute(database)
    app[STATE] = State(database, app[CONFIGURATION], clock)
    app[TASKS] = set()
    app.cleanup_ctx.append(_plugin_context)
    app.add_routes(routes)

    async def close(_: web.Application) -> None:
        database.close()

    app.on_cleanup.append(close)
    return app


async def _plugin_context(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        hub = Hub(app[CONFIGURATION], http)
        app[PLUGIN] = Plugin(app[CONFIGURATION], app[STATE], app[COMPUTE], hub)
        yield
        await _end_tasks(app)


async def _end_tasks(app: web.Application) -> None:
    """End the starts and stops that run in the background."""
    for task in app[TASKS]:
        task.cancel()
    await asyncio.gather(*app[TASKS], return_exceptions=True)


# ---- every request ---------------------------------------------------------------------------------------------


@web.middleware
async def _fail_as_ordered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the ordered fault happen, before any log-in; /demo/ and /healthz, no part of XNAT, are never affected."""
    if request.path.startswith("/demo/") or request.path == "/healthz":
        return await handler(request)
    faults, clock = request.app[FAULTS], request.app[STATE].clock
    if clock() < faults.down_until:
        return _dropped(request)
    try:
        user = (_basic_credentials(request) or (None,))[0]
    except XapiError:
        user = None
    fault = faults.take(request.method, request.path, user)
    if fault is None:
        return await handler(request)
    LOG.warning("%s %s %s: a fault is ordered", user or "-", request.method, request.path)
    await asyncio.sleep(fault.delay or 0)
    if fault.restart is not None:
        faults.down_until = clock() + fault.restart
        await _end_tasks(request.app)
        request.app[STATE].restart()
        return _dropped(request)
    if fault.status is None and not fault.ignore:
        return await handler(request)
    headers = {"Content-Type": fault.content_type or "text/plain"}
    if fault.location is not None:
        headers["Location"] = fault.location
    return web.Response(status=fault.status or 200, body=(fault.body or "").encode(), headers=headers)


def _dropped(request: web.Request) -> web.Response:
    """Close the connection: what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


@web.middleware
async def _answer_as_xnat(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Log in, call the handler, turn errors into XNAT's form, and hand out the session cookie of a new session."""
    path = request.raw_path.partition("?")[0]
    try:
        if "//" in path:  # refused by XNAT's firewall (docs/xnat-contract.md, 6.3)
            raise XapiError(400, "The request was rejected because the URL contained a double slash.")
        if "%2f" in path.lower():
            raise XapiError(404)
        if path not in _OPEN_PATHS:
            _log_in(request)
        response = await handler(request)
    except XapiError as error:
        response = _unauthorized(request) if error.status == 401 else _text(error.status, error.text)
    except (ComputeError, ConfigurationError) as error:
        response = _text(500, f"There was an error in the request : {error}")
    except HubError as error:
        LOG.error("%s %s: %s", request.method, path, error)
        response = _text(500, "There was an error in the request : JupyterHub did not answer as expected")
    except web.HTTPException as error:
        response = _text(error.status, error.reason)
        if location := error.headers.get("Location"):
            response.headers["Location"] = location
    except Exception:
        LOG.exception("%s %s failed", request.method, path)
        response = _text(500, "There was an error in the request : unexpected error")
    if request.get(NEW_SESSION):
        secure = request.headers.get("X-Forwarded-Proto") == "https"
        response.set_cookie(_COOKIE, request[SESSION_ID], httponly=True, samesite="Lax", secure=secure)
    if path != "/healthz":
        # Neither the query nor the referer is logged: JupyterLab's address may carry a token.
        person = request.get(PERSON)
        LOG.info("%s %s %s %s", person.username if person else "-", request.method, path, response.status)
    return response


def _log_in(request: web.Request) -> None:
    """Put the person into the request, or raise 401, 403 (forgery) or a redirect (expired password).

    As in XNAT, a live session is used without looking at the password when the Basic name is the session's own.
    """
    state = request.app[STATE]
    session_id = request.cookies.get(_COOKIE, "")
    person = state.find_session(session_id)
    basic = _basic_credentials(request)
    if person is not None and (basic is None or person.username in (basic[0], state.owner_of_alias(basic[0]))):
        request[SESSION_ID] = session_id
    elif basic is not None:
        person = _open_session(request, *basic)
    elif request.path == "/":
        return
    else:
        raise XapiError(401)
    request[PERSON] = person
    if person.password_expired and "non_expiring" not in person.roles:
        raise web.HTTPFound(request.app[CONFIGURATION].site["siteUrl"].rstrip("/") + _EXPIRED_PAGE)
    changes = request.method not in ("GET", "HEAD") and request.path != "/data/JSESSION"
    if changes and basic is None and request.headers.get("X-Requested-With") != "XMLHttpRequest":
        raise XapiError(403, "A change made with the session cookie needs the header X-Requested-With.")


def _basic_credentials(request: web.Request) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        login, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError as error:
        raise XapiError(401) from error
    return login, password


def _open_session(request: web.Request, login: str, password: str, limited: bool = True) -> Person:
    """Check the credentials and make a session; a part before "/" names the provider, here only ``localdb``."""
    provider, _, name = login.rpartition("/")
    state = request.app[STATE]
    try:
        if provider not in ("", "localdb"):
            raise RefusedError
        person = state.check_password(name, password)
        request[SESSION_ID] = state.open_session(person, limited)
        request[NEW_SESSION] = True
    except RefusedError as error:
        raise XapiError(401) from error
    return person


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text) if text else web.Response(status=status)


def _unauthorized(request: web.Request) -> web.Response:
    page = "<!doctype html><html><head><title>HTTP Status 401 - Unauthorized</title></head>"
    page += f"<body><h1>HTTP Status 401 - Unauthorized</h1>{_NOT_XNAT}</body></html>"
    response = web.Response(status=401, text=page, content_type="text/html")
    if "X-Requested-With" not in request.headers:  # else the browser would put its own dialog over the page
        response.headers["WWW-Authenticate"] = 'Basic realm="XNAT"'
    return response


def _person(request: web.Request) -> Person:
    return request[PERSON]


def _subject_of_path(request: web.Request) -> Person:
    """The person named in the path, whom the caller must be or administer: 403 for others, 404 for unknown names."""
    username = request.match_info["username"]
    if not _person(request).may_act_for(username):
        raise XapiError(403)
    return _known_person(request, username)


def _known_person(request: web.Request, username: str) -> Person:
    person = request.app[STATE].people.get(username)
    if person is None:
        raise XapiError(404, f"User {username} was not found.")
    return person


def _require(allowed: bool) -> None:
    if not allowed:
        raise XapiError(403)


def _in_background(app: web.Application, work: Any) -> None:
    task: asyncio.Task[None] = asyncio.create_task(work)
    app[TASKS].add(task)
    task.add_done_callback(app[TASKS].discard)


# ---- people and sessions (docs/xnat-contract.md, 1) ----------------------------------------------------------------


@routes.get("/healthz")
async def healthz(request: web.Request) -> web.Response:
    """Alive; makes no session."""
    return web.Response(text="ok")


@routes.get("/data/JSESSION")
async def get_session(request: web.Request) -> web.Response:
    """The session's id as text; the cheapest probe of credentials (1.5)."""
    return web.Response(text=request[SESSION_ID])


@routes.delete("/data/JSESSION")
async def end_session(request: web.Request) -> web.Response:
    """Log out."""
    request.app[STATE].close_session(request[SESSION_ID])
    request[NEW_SESSION] = False
    response = web.Response()
    response.del_cookie(_COOKIE)
    return response


@routes.post("/data/services/auth")
async def authenticate(request: web.Request) -> web.Response:
    """Log in with form fields ``username`` and ``password``: the new session's id as text, or 401 (1.5).

    Unlike Basic, this takes no notice of how many sessions there are (1.6).
    """
    form = await request.post()
    if form.get("provider", "localdb") != "localdb" or "authenticatorId" in form:
        raise XapiError(400, "Unknown or ambiguous authentication provider.")
    username, password = str(form.get("username", "")), str(form.get("password", ""))
    request[PERSON] = _open_session(request, username, password, limited=False)
    return web.Response(text=request[SESSION_ID])


@routes.get(_EXPIRED_PAGE)
async def expired_page(request: web.Request) -> web.Response:
    """Where an expired password leads: a client that follows redirects sees 200 text/html (1.2)."""
    page = f"<!doctype html><title>Password expired</title><h1>Your password has expired</h1>{_NOT_XNAT}"
    response = web.Response(text=page + '<p><a href="/">Back</a></p>', content_type="text/html")
    response.del_cookie(_COOKIE)
    return response


# ---- accounts (docs/xnat-contract.md, 1.2 and 5.3) -----------------------------------------------------------------


@routes.get("/data/auth")
async def get_auth(request: web.Request) -> web.Response:
    """Who is logged in, as the library xnat reads it."""
    return web.Response(text=f"User '{_person(request).username}' is logged in")


@routes.get("/xapi/users")
async def get_users(request: web.Request) -> web.Response:
    """All login names, for admins."""
    _require_administrator(request)
    return web.json_response(list(request.app[STATE].people))


@routes.post("/xapi/users")
async def create_user(request: web.Request) -> web.Response:
    """Create: 201, 400 for missing or bad fields, 409 for a name that is taken."""
    _require_administrator(request)
    body = await _user_fields(request)
    state, username, email = request.app[STATE], body.get("username", ""), body.get("email", "")
    if not _USERNAME.fullmatch(username):
        raise XapiError(400, "username is blank or has characters that are not allowed")
    if not _EMAIL.fullmatch(email):
        raise XapiError(400, "email is blank or no address")
    for name in ("firstName", "lastName"):
        if not _HUMAN_NAME.fullmatch(body.get(name, "")):
            raise XapiError(400, f"{name} is blank or has characters that are not allowed")
    if username in state.people:
        raise XapiError(409, f"A user with the name {username} already exists.")
    person = Person(0, username, enabled=False, verified=False)
    return web.json_response(state.create(_changed(request, person, body)).to_json(), status=201)


@routes.get("/xapi/users/profile/{username}")
async def get_profile(request: web.Request) -> web.Response:
    """One account: 404 for an unknown name."""
    return web.json_response(_subject_of_path(request).to_json())


@routes.get("/xapi/users/roles/{role}")
async def get_users_with_role(request: web.Request) -> web.Response:
    """The names of all who have the role, for admins."""
    _require_administrator(request)
    role = request.match_info["role"]
    return web.json_response([name for name, person in request.app[STATE].people.items() if role in person.roles])


@routes.put("/xapi/users/{username}")
async def update_user(request: web.Request) -> web.Response:
    """Change an account: 304 if nothing changes. A password always is a change; who is disabled loses alias tokens."""
    person = _administered(request)
    body = await _user_fields(request)
    if body.get("username", person.username) != person.username:
        raise XapiError(400, "The username for the submitted user object must match the username for the API call")
    if "email" in body and not _EMAIL.fullmatch(body["email"]):
        raise XapiError(400, "Invalid email format")
    changed = _changed(request, person, body)
    if changed == person:
        raise XapiError(304)
    disabled = person.enabled and not changed.enabled
    return web.json_response(request.app[STATE].save(changed, drop_aliases=disabled).to_json())


@routes.put("/xapi/users/{username}/{flag:enabled|verified}/{value:true|false}")
async def set_flag(request: web.Request) -> web.Response:
    """Open or close an account: 200, also if it is so already."""
    flag, value = request.match_info["flag"], request.match_info["value"] == "true"
    person = _administered(request)
    request.app[STATE].save(replace(person, enabled=value) if flag == "enabled" else replace(person, verified=value))
    return web.Response()


@routes.get("/xapi/users/{username}/roles")
async def get_roles(request: web.Request) -> web.Response:
    """Call A: the role keys; an admin who asks for an unknown name gets 200 with an empty body (1.2)."""
    username = request.match_info["username"]
    _require(_person(request).may_act_for(username))
    person = request.app[STATE].people.get(username)
    return web.Response() if person is None else web.json_response(list(person.roles))


@routes.put("/xapi/users/{username}/roles")
@routes.delete("/xapi/users/{username}/roles")
async def change_roles(request: web.Request) -> web.Response:
    """Add or remove the roles of a JSON list: 200 with [], or 202 with those that failed. No name is unknown."""
    person = _administered(request)
    names = await _json(request)
    if not isinstance(names, list):
        raise bad_argument("Could not read the JSON document.")
    failed = [name for name in names if not isinstance(name, str) or not name.strip()]
    _change_roles(request, person, [name for name in names if name not in failed])
    return web.json_response(failed, status=202 if failed else 200)


def _change_roles(request: web.Request, person: Person, names: list[str]) -> None:
    kept = [role for role in person.roles if role not in names]
    added = list(dict.fromkeys([*person.roles, *names]))
    request.app[STATE].save(replace(person, roles=tuple(kept if request.method == "DELETE" else added)))


def _require_administrator(request: web.Request) -> None:
    _require(_person(request).is_administrator())


def _administered(request: web.Request) -> Person:
    """The person named in the path, for admins only: 403 for others, 404 for unknown names."""
    _require_administrator(request)
    return _known_person(request, request.match_info["username"])


async def _user_fields(request: web.Request) -> dict[str, Any]:
    """The known fields of an account that are there: texts that are not blank, and truth values."""
    body = await _json_object(request)
    kinds: dict[str, type] = dict.fromkeys(("username", "password", "firstName", "lastName", "email"), str)
    kinds |= dict.fromkeys(("enabled", "verified"), bool)
    found = {name: body[name] for name in kinds if body.get(name) is not None}
    if any(not isinstance(value, kinds[name]) for name, value in found.items()):
        raise bad_argument("Could not read the JSON document.")
    return {name: value for name, value in found.items() if not isinstance(value, str) or value.strip()}


def _changed(request: web.Request, person: Person, body: dict[str, Any]) -> Person:
    """The account with the fields of the body."""
    password = body.get("password")
    if password is not None:
        if len(password) < _PASSWORD_LENGTH:
            raise XapiError(400, f"A password must have {_PASSWORD_LENGTH} characters or more.")
        person = request.app[STATE].set_password(person, password)
    return replace(
        person,
        email=body.get("email", person.email),
        first_name=body.get("firstName", person.first_name),
        last_name=body.get("lastName", person.last_name),
        enabled=body.get("enabled", person.enabled),
        verified=body.get("verified", person.verified),
    )


# ---- preferences and site configuration (docs/xnat-contract.md, 5) -------------------------------------------------


async def _json_object(request: web.Request) -> dict[str, Any]:
    body = await _json(request)
    if not isinstance(body, dict):
        raise bad_argument("Could not read the JSON document.")
    return body


@routes.get("/xapi/jupyterhub/preferences")
async def get_preferences(request: web.Request) -> web.Response:
    """All preferences; people without a managing role get only ``allUsersCanStartJupyter`` (5.2)."""
    preferences = request.app[CONFIGURATION].preferences()
    if not _person(request).is_plugin_manager():
        preferences = {"allUsersCanStartJupyter": preferences["allUsersCanStartJupyter"]}
    return web.json_response(preferences)


@routes.post("/xapi/jupyterhub/preferences")
async def set_preferences(request: web.Request) -> web.Response:
    """Change preferences: 200, empty; unknown names are skipped, null is 500 (5.2)."""
    _require_administrator(request)
    request.app[CONFIGURATION].set_preferences(await _json_object(request))
    return web.Response()


@routes.get("/xapi/jupyterhub/preferences/{name}")
async def get_preference(request: web.Request) -> web.Response:
    """Call B and its like: every value but the hub token is readable by everybody (1.3, 5.2)."""
    name = request.match_info["name"]
    preferences = request.app[CONFIGURATION].preferences()
    if name not in preferences:
        raise not_found(f"No JupyterHub plugin preference named {name}")
    _require(name != "jupyterHubToken" or _person(request).is_plugin_manager())
    return web.json_response({name: preferences[name]})


@routes.get("/xapi/siteConfig")
async def get_site_configuration(request: web.Request) -> web.Response:
    """The site configuration, as far as the person may see it (5.3)."""
    return web.json_response(request.app[CONFIGURATION].visible_site(_person(request).is_administrator()))


@routes.post("/xapi/siteConfig")
async def set_site_configuration(request: web.Request) -> web.Response:
    """Change the site configuration: 200, empty; unknown names are skipped, null is 500."""
    _require_administrator(request)
    request.app[CONFIGURATION].set_site(await _json_object(request))
    return web.Response()


@routes.get(_BUILD_INFO)
async def get_build_info(request: web.Request) -> web.Response:
    """The version, for everybody and without a log-in, and that this is a demo."""
    return web.json_response({"version": "1.9.1", "demo": True})


@routes.get("/xapi/siteConfig/{name}")
async def get_site_config(request: web.Request) -> web.Response:
    """One site preference, for admins. Strings come bare, without quotes, although typed as JSON (5.2)."""
    _require_administrator(request)
    value = request.app[CONFIGURATION].site.get(request.match_info["name"])
    if value is None:
        raise XapiError(404)
    return web.Response(text=value, content_type="application/json")


@routes.get("/xapi/plugins/{id}")
async def get_plugin(request: web.Request) -> web.Response:
    """The one plugin with its version; 404 for all others (5.3)."""
    if request.match_info["id"] != _PLUGIN["id"]:
        raise not_found(f"No plugin with ID {request.match_info['id']} could be found on this system")
    return web.json_response(_PLUGIN)


@routes.get("/xapi/schemas")
async def get_schemas(request: web.Request) -> web.Response:
    """The names of the data-type schemas, from which the library xnat makes its classes."""
    return web.json_response(list(SCHEMAS))


@routes.get("/xapi/schemas/{name}")
async def get_schema(request: web.Request) -> web.Response:
    """The part of XNAT's data model that the demo archive has."""
    schema = SCHEMAS.get(request.match_info["name"])
    if schema is None:
        raise not_found(f"No schema named {request.match_info['name']}")
    return web.Response(text=schema, content_type="application/xml")


# ---- what can be started (docs/xnat-contract.md, 4.2 and 5.4) ------------------------------------------------------

_CONFIGS = f"/xapi/{{path:{'|'.join(KINDS)}}}"
_FRAMEWORKS = "/xapi/jupyterhub/dashboards/frameworks"


async def _json(request: web.Request) -> Any:
    if request.content_type != "application/json":
        raise XapiError(415)
    try:
        return await request.json()
    except ValueError as error:
        raise bad_argument("Could not read the JSON document.") from error


@routes.get("/xapi/{path:compute/environments|jupyterhub/dashboards/configs}/available")
async def get_available(request: web.Request) -> web.Response:
    """What is on offer in the place that the query names, for everybody: environments with their hardware, or
    dashboards. What has a scope that the query lacks is left out.
    """
    where = {name: request.query[code] for name, code in SCOPES.items() if code in request.query}
    rows = request.app[COMPUTE].all(request.match_info["path"], where)
    return web.json_response(_of_type(request, rows))


def _of_type(request: web.Request, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kind = request.query.get("type")
    return [row for row in rows if kind is None or "configTypes" not in row or kind in row["configTypes"]]


@routes.get(_CONFIGS)
async def get_configs(request: web.Request) -> web.Response:
    """All rows of one kind; ``?type=JUPYTERHUB`` chooses environments."""
    path = _may_read_configs(request)
    return web.json_response(_of_type(request, request.app[COMPUTE].all(path)))


@routes.get(_CONFIGS + r"/{id:\d+}")
async def get_config(request: web.Request) -> web.Response:
    """One row."""
    return _config(request.app[COMPUTE].get(_may_read_configs(request), int(request.match_info["id"])))


def _may_read_configs(request: web.Request) -> str:
    path = request.match_info["path"]
    _require(KINDS[path].public or _person(request).is_administrator())
    return path


def _config(row: dict[str, Any] | None, status: int = 200) -> web.Response:
    if row is None:
        raise not_found("No such configuration.")
    return web.json_response(row, status=status)


@routes.post(_CONFIGS)
async def create_config(request: web.Request) -> web.Response:
    """Create: 201 with the row and its new id; 500 with all problems."""
    _require_administrator(request)
    return _config(request.app[COMPUTE].put(request.match_info["path"], await _json(request)), 201)


@routes.put(_CONFIGS + r"/{id:\d+}")
async def update_config(request: web.Request) -> web.Response:
    """Replace as a whole; the body must name the same id."""
    _require_administrator(request)
    number = int(request.match_info["id"])
    return _config(request.app[COMPUTE].put(request.match_info["path"], await _json(request), number))


@routes.delete(_CONFIGS + r"/{id:\d+}")
async def delete_config(request: web.Request) -> web.Response:
    """Delete: 204."""
    _require_administrator(request)
    if not request.app[COMPUTE].delete(request.match_info["path"], int(request.match_info["id"])):
        raise not_found("No such configuration.")
    return web.Response(status=204)


@routes.get(_FRAMEWORKS)
async def get_frameworks(request: web.Request) -> web.Response:
    """All dashboard frameworks, for everybody."""
    return web.json_response(list(request.app[COMPUTE].frameworks.rows.values()))


@routes.get(_FRAMEWORKS + "/{name}")
async def get_framework(request: web.Request) -> web.Response:
    """One framework by its name."""
    return _config(request.app[COMPUTE].framework(request.match_info["name"]))


@routes.post(_FRAMEWORKS)
@routes.put(_FRAMEWORKS + "/{name}")
async def put_framework(request: web.Request) -> web.Response:
    """Create, or replace: 200 both times. A PUT goes by the id in the body, whatever the path names."""
    _require_administrator(request)
    return _config(request.app[COMPUTE].put_framework(await _json(request), request.method == "POST"))


@routes.delete(_FRAMEWORKS + "/{name}")
async def delete_framework(request: web.Request) -> web.Response:
    """Delete: 200, also for an unknown name."""
    _require_administrator(request)
    request.app[COMPUTE].delete_framework(request.match_info["name"])
    return web.Response()


# ---- the JupyterHub plugin (docs/xnat-contract.md, 1.4 and 2) ------------------------------------------------------


@routes.get("/xapi/jupyterhub/version")
async def get_hub_version(request: web.Request) -> web.Response:
    """The hub's version."""
    return web.json_response(await request.app[PLUGIN].hub.version())


@routes.get("/xapi/jupyterhub/info")
async def get_hub_info(request: web.Request) -> web.Response:
    """The hub's details, for admins: shows that the hub is reachable and the token right (5.3)."""
    _require_administrator(request)
    return web.json_response(await request.app[PLUGIN].hub.info())


@routes.get("/xapi/jupyterhub/users/{username}")
async def get_hub_user(request: web.Request) -> web.Response:
    """One hub user with the running servers; 404 if the hub does not know the person yet."""
    person = _subject_of_path(request)
    user = await request.app[PLUGIN].hub.user(person.username)
    if user is None:
        raise not_found(f"No user with name {person.username} exists on JupyterHub.")
    return web.json_response(user)


@routes.get("/xapi/jupyterhub/users/{username}/server/user-options")
@routes.get("/xapi/jupyterhub/users/{username}/server/{servername}/user-options")
async def get_user_options(request: web.Request) -> web.Response:
    """Calls C and C0, for the service account and admins: the stored row, nulls at the top level left out (1.4)."""
    _require(_person(request).is_plugin_manager())
    person = _known_person(request, request.match_info["username"])
    row = request.app[STATE].find_options(person, request.match_info.get("servername", ""))
    if row is None:
        named = "servername" in request.match_info
        raise not_found("User options not found." if named else "Jupyter server configuration not found.")
    return web.json_response({key: value for key, value in row.items() if value is not None})


@routes.post("/xapi/jupyterhub/users/{username}/server/{servername}")
async def start_server(request: web.Request) -> web.Response:
    """Check the body, then start in the background; 200 with an empty body at once (2.4)."""
    person = _person(request)
    _require(person.may_act_for(request.match_info["username"]))
    try:
        order = StartRequest.from_json(await _json(request))
    except ValueError as error:
        raise bad_argument("Could not read the JSON document.") from error
    if request.match_info["servername"] != order.servername:
        raise bad_argument("Server name in path does not match server name in request body.")
    _require(may_start(request.app[CONFIGURATION], person, order))
    if problems := order.problems(person):
        raise bad_argument(", ".join(problems))
    _in_background(request.app, request.app[PLUGIN].start(person, order))
    return web.Response()


@routes.delete("/xapi/jupyterhub/users/{username}/server/{servername}")
async def stop_server(request: web.Request) -> web.Response:
    """Stop in the background; 200 with an empty body at once (2.5)."""
    person = _subject_of_path(request)
    key = _required_parameter(request, "eventTrackingId")
    _in_background(request.app, request.app[PLUGIN].stop(person, request.match_info["servername"], key))
    return web.Response()


@routes.post("/xapi/jupyterhub/users/{username}/tokens")
async def create_token(request: web.Request) -> web.Response:
    """A hub token for opening this person's servers; ``expiresIn`` in seconds (2.7)."""
    person = _subject_of_path(request)
    note = _required_parameter(request, "note")
    try:
        expires_in = int(_required_parameter(request, "expiresIn"))
    except ValueError as error:
        raise bad_argument("expiresIn must be an integer") from error
    return web.json_response(await request.app[PLUGIN].hub.create_token(person.username, note, expires_in))


def _required_parameter(request: web.Request, name: str) -> str:
    if name not in request.query:
        raise bad_argument(f"Required parameter '{name}' is not present")
    return request.query[name]


@routes.get("/xapi/event_tracking/{key}")
async def get_tracking(request: web.Request) -> web.Response:
    """The progress of one's own start or stop; 404 for all others (2.4)."""
    tracking = request.app[STATE].find_tracking(_person(request), request.match_info["key"])
    if tracking is None:
        raise XapiError(404)
    return web.json_response(tracking)


# ---- archive data, as notebooks ask for them ---------------------------------------------------------------------

_DATA = "/data{archive:(?:/archive)?}"


def _result_set(request: web.Request, rows: list[dict[str, str]]) -> web.Response:
    """Rows as JSON, or as CSV with ``format=csv``, which the library pyxnat asks for."""
    if request.query.get("format") == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["ID"], quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return web.Response(text=text.getvalue(), content_type="text/csv")
    return web.json_response({"ResultSet": {"Result": rows, "totalRecords": str(len(rows))}})


def _readable_project(request: web.Request) -> archive.Project:
    project = archive.find_project(request.match_info["project"])
    if project is None or not request.app[STATE].can_read_project(_person(request), project.id):
        raise XapiError(404)
    return project


@routes.get("/data/search/elements")
async def get_search_elements(request: web.Request) -> web.Response:
    """What can be searched, which the library xnat asks for: nothing here."""
    return _result_set(request, [])


@routes.get(_DATA + "/projects")
async def get_projects(request: web.Request) -> web.Response:
    """The projects that the person may read."""
    state, person = request.app[STATE], _person(request)
    return _result_set(request, [
        {
            "ID": project.id,
            "name": project.name,
            "secondary_ID": project.id,
            "description": project.description,
            "URI": f"/data/projects/{project.id}",
        }
        for project in archive.PROJECTS
        if state.can_read_project(person, project.id)
    ])  # fmt: skip


@routes.get(_DATA + "/projects/{project}")
async def get_project(request: web.Request) -> web.Response:
    """One project, in XNAT's nested form."""
    project = _readable_project(request)
    fields = {"ID": project.id, "name": project.name, "secondary_ID": project.id, "description": project.description}
    return web.json_response({"items": [_item(archive.PROJECT_TYPE, fields)]})


@routes.get(_DATA + "/projects/{project}/archive_spec")
async def get_archive_specification(request: web.Request) -> web.Response:
    """Where the project's files are: always XML (1.7)."""
    project = _readable_project(request)
    path = f"{request.app[CONFIGURATION].site['archivePath'].rstrip('/')}/{project.id}/"
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<arc:project id="{project.id}" current_arc="{archive.CURRENT_ARC}"'
        ' quarantine_code="0" prearchive_code="0" xmlns:arc="http://nrg.wustl.edu/arc">'
        f"<arc:paths><arc:archivePath>{html.escape(path)}</arc:archivePath></arc:paths></arc:project>"
    )
    return web.Response(text=text, content_type="text/xml")


@routes.get(_DATA + "/projects/{project}/subjects/{subject}/experiments")
async def get_experiments_of_subject(request: web.Request) -> web.Response:
    """The sessions of a subject, which is named by label or id."""
    project = _readable_project(request)
    named = request.match_info["subject"]
    found = [subject for subject in project.subjects if named in (subject.id, subject.label)]
    if not found:
        raise XapiError(404)
    return _sessions(request, project, [(found[0], session) for session in found[0].sessions])


@routes.get(_DATA + "/subjects/{subject}")
async def get_subject(request: web.Request) -> web.Response:
    """One subject by its id, in XNAT's nested form."""
    state, person = request.app[STATE], _person(request)
    for project in archive.PROJECTS:
        for subject in project.subjects:
            if subject.id == request.match_info["subject"] and state.can_read_project(person, project.id):
                fields = {"ID": subject.id, "label": subject.label, "project": project.id}
                return web.json_response({"items": [_item(archive.SUBJECT_TYPE, fields)]})
    raise XapiError(404)


@routes.get(_DATA + "/projects/{project}/subjects")
async def get_subjects(request: web.Request) -> web.Response:
    """The subjects of a project."""
    project = _readable_project(request)
    return _result_set(request, [
        {
            "ID": subject.id,
            "label": subject.label,
            "project": project.id,
            "URI": f"/data/subjects/{subject.id}",
        }
        for subject in project.subjects
    ])  # fmt: skip


@routes.get(_DATA + "/projects/{project}/experiments")
async def get_experiments(request: web.Request) -> web.Response:
    """The sessions of a project."""
    project = _readable_project(request)
    return _sessions(request, project, project.sessions())


def _sessions(
    request: web.Request, project: archive.Project, found: Iterable[tuple[archive.Subject, archive.Session]]
) -> web.Response:
    return _result_set(request, [
        {
            "ID": session.id,
            "label": session.label,
            "project": project.id,
            "subject_ID": subject.id,
            "date": session.date,
            "xsiType": session.xsi_type,
            "URI": f"/data/experiments/{session.id}",
        }
        for subject, session in found
    ])  # fmt: skip


@routes.get(_DATA + "/experiments/{experiment}")
async def get_experiment(request: web.Request) -> web.Response:
    """One session with its scans, in XNAT's nested form."""
    found = archive.find_session(request.match_info["experiment"])
    if found is None or not request.app[STATE].can_read_project(_person(request), found[0].id):
        raise XapiError(404)
    project, subject, session = found
    root = request.app[CONFIGURATION].site["archivePath"].rstrip("/")
    folder = f"{root}/{project.id}/{archive.CURRENT_ARC}/{session.label}/SCANS"
    scans = [
        _item(
            scan.xsi_type,
            {
                "ID": scan.id,
                "type": scan.description,
                "xnat_imagescandata_id": scan.key,
                "image_session_ID": session.id,
            },
            {"field": "file", "items": [_resource(folder, scan)]},
        )
        for scan in session.scans
    ]
    fields = {
        "ID": session.id,
        "label": session.label,
        "project": project.id,
        "subject_ID": subject.id,
        "date": session.date,
    }
    return web.json_response({"items": [_item(session.xsi_type, fields, {"field": "scans/scan", "items": scans})]})


def _item(xsi_type: str, fields: dict[str, Any], *children: dict[str, Any]) -> dict[str, Any]:
    """One item in XNAT's nested form."""
    return {"children": list(children), "meta": {"xsi:type": xsi_type}, "data_fields": fields}


def _resource(folder: str, scan: archive.Scan) -> dict[str, Any]:
    """A scan's files, whose catalog has an absolute path on XNAT's machine (1.7)."""
    fields = {
        "label": scan.folder,
        "format": scan.folder,
        "URI": f"{folder}/{scan.id}/{scan.folder}/scan_{scan.id}_catalog.xml",
        "file_count": len(scan.files),
    }
    return _item("xnat:resourceCatalog", fields)


# ---- faults on purpose; XNAT has nothing like it -------------------------------------------------------------------


@routes.get("/demo/faults")
async def get_faults(request: web.Request) -> web.Response:
    """The faults that apply now, for admins."""
    _require_administrator(request)
    return web.json_response(request.app[FAULTS].to_json())


@routes.put("/demo/faults")
async def set_faults(request: web.Request) -> web.Response:
    """Replace the faults, for admins: a JSON list, 200 with the faults as they apply, 400 with a sentence."""
    _require_administrator(request)
    try:
        request.app[FAULTS].set(await request.json())
    except json.JSONDecodeError as error:
        raise XapiError(400, "The faults are not JSON.") from error
    except ValueError as error:
        raise XapiError(400, str(error)) from error
    return web.json_response(request.app[FAULTS].to_json())


# ---- the page ------------------------------------------------------------------------------------------------------


@routes.get("/")
async def get_page(request: web.Request) -> web.Response:
    """The page: a log-in form, or what the person may start and what runs."""
    person = request.get(PERSON)
    nonce = secrets.token_urlsafe(16)
    page = await asyncio.to_thread(_PAGE.read_text, encoding="utf-8")
    page = page.replace("%NONCE%", nonce).replace("%USERNAME%", html.escape(person.username if person else ""))
    policy = (
        f"default-src 'self'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(text=page, content_type="text/html", headers=headers)
