"""The HTTP side of the demo XNAT: log-in as XNAT does it, the REST calls, and one page for people.

Deliberate differences from XNAT, none in a call of docs/xnat-contract.md: there is no guest, and a change made with
the session cookie alone needs the header ``X-Requested-With: XMLHttpRequest``, which no foreign page can send.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from . import archive
from .compute import KINDS, SCOPES, ComputeError
from .faults import Faults
from .people import PEOPLE, Person
from .plugin import Hub, HubError, Plugin, StartRequest, may_start
from .settings import Secrets, Settings
from .state import RefusedError, State

LOG = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SETTINGS = web.AppKey("settings", Settings)
SECRETS = web.AppKey("secrets", Secrets)
STATE = web.AppKey("state", State)
PLUGIN = web.AppKey("plugin", Plugin)
FAULTS = web.AppKey("faults", Faults)
TASKS = web.AppKey("tasks", set[asyncio.Task[None]])
PERSON = web.RequestKey("person", Person)
SESSION_ID = web.RequestKey("session_id", str)
NEW_SESSION = web.RequestKey("new_session", bool)

_COOKIE = "JSESSIONID"
_EXPIRED_PAGE = "/app/template/XDATScreen_UpdateUser.vm"
_OPEN_PATHS = ("/healthz", "/data/services/auth", _EXPIRED_PAGE)
_PAGE = Path(__file__).with_name("page.html")
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


def make_app(settings: Settings, passwords: Secrets, state: State | None = None) -> web.Application:
    """The application; nothing is opened before it starts."""
    app = web.Application(middlewares=[_fail_as_ordered, _answer_as_xnat])
    app[FAULTS] = Faults()
    app[SETTINGS] = settings
    app[SECRETS] = passwords
    app[STATE] = state or State(passwords, settings.concurrent_max_sessions)
    app[TASKS] = set()
    app.cleanup_ctx.append(_plugin_context)
    app.add_routes(routes)
    return app


async def _plugin_context(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        hub = Hub(app[SETTINGS].hub.api_url, app[SECRETS].hub_token, http)
        app[PLUGIN] = Plugin(app[SETTINGS], app[STATE], hub)
        yield
        for task in app[TASKS]:
            task.cancel()
        await asyncio.gather(*app[TASKS], return_exceptions=True)


# ---- every request ---------------------------------------------------------------------------------------------


@web.middleware
async def _fail_as_ordered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the ordered fault happen, before any log-in; /demo/ and /healthz, no part of XNAT, are never affected."""
    if request.path.startswith("/demo/") or request.path == "/healthz":
        return await handler(request)
    try:
        user = (_basic_credentials(request) or (None,))[0]
    except XapiError:
        user = None
    fault = request.app[FAULTS].take(request.method, request.path, user)
    if fault is None:
        return await handler(request)
    LOG.warning("%s %s %s: a fault is ordered", user or "-", request.method, request.path)
    await asyncio.sleep(fault.delay or 0)
    if fault.status is None and not fault.ignore:
        return await handler(request)
    headers = {"Content-Type": fault.content_type or "text/plain"}
    return web.Response(status=fault.status or 200, body=(fault.body or "").encode(), headers=headers)


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
    except ComputeError as error:
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
        raise web.HTTPFound(request.app[SETTINGS].site_url.rstrip("/") + _EXPIRED_PAGE)
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


def _open_session(request: web.Request, login: str, password: str) -> Person:
    """Check the credentials and make a session; a part before "/" names the provider, here only ``localdb``."""
    provider, _, name = login.rpartition("/")
    state = request.app[STATE]
    try:
        if provider not in ("", "localdb"):
            raise RefusedError
        person = state.check_password(name, password)
        request[SESSION_ID] = state.open_session(person)
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
    return _known_person(username)


def _known_person(username: str) -> Person:
    if username not in PEOPLE:
        raise XapiError(404, f"User {username} was not found.")
    return PEOPLE[username]


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


@routes.get("/xapi/users/{username}/roles")
async def get_roles(request: web.Request) -> web.Response:
    """Call A: the role keys; an admin who asks for an unknown name gets 200 with an empty body (1.2)."""
    username = request.match_info["username"]
    _require(_person(request).may_act_for(username))
    return web.json_response(list(PEOPLE[username].roles)) if username in PEOPLE else web.Response()


@routes.get("/data/JSESSION")
@routes.post("/data/JSESSION")
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
@routes.put("/data/services/auth")
async def authenticate(request: web.Request) -> web.Response:
    """Log in with form fields ``username`` and ``password``: the new session's id as text, or 401 (1.5)."""
    form = await request.post()
    if form.get("provider", "localdb") != "localdb" or "authenticatorId" in form:
        raise XapiError(400, "Unknown or ambiguous authentication provider.")
    request[PERSON] = _open_session(request, str(form.get("username", "")), str(form.get("password", "")))
    return web.Response(text=request[SESSION_ID])


@routes.get(_EXPIRED_PAGE)
async def expired_page(request: web.Request) -> web.Response:
    """Where an expired password leads: a client that follows redirects sees 200 text/html (1.2)."""
    page = f"<!doctype html><title>Password expired</title><h1>Your password has expired</h1>{_NOT_XNAT}"
    response = web.Response(text=page + '<p><a href="/">Back</a></p>', content_type="text/html")
    response.del_cookie(_COOKIE)
    return response


# ---- preferences and site configuration (docs/xnat-contract.md, 5) -------------------------------------------------


def _preferences(app: web.Application) -> dict[str, Any]:
    settings = app[SETTINGS]
    return {
        **vars(settings.preferences),
        "jupyterHubHostUrl": settings.hub.host_url,
        "jupyterHubApiUrl": settings.hub.api_url,
        "jupyterHubToken": app[SECRETS].hub_token,
        "workspacePath": settings.workspace_path,
        "pathTranslationArchivePrefix": settings.translation.archive_prefix,
        "pathTranslationArchiveDockerPrefix": settings.translation.archive_docker_prefix,
        "pathTranslationWorkspacePrefix": settings.translation.workspace_prefix,
        "pathTranslationWorkspaceDockerPrefix": settings.translation.workspace_docker_prefix,
    }


@routes.get("/xapi/jupyterhub/preferences")
async def get_preferences(request: web.Request) -> web.Response:
    """All preferences; people without a managing role get only ``allUsersCanStartJupyter`` (5.2)."""
    preferences = _preferences(request.app)
    if not _person(request).is_plugin_manager():
        preferences = {"allUsersCanStartJupyter": preferences["allUsersCanStartJupyter"]}
    return web.json_response(preferences)


@routes.get("/xapi/jupyterhub/preferences/{name}")
async def get_preference(request: web.Request) -> web.Response:
    """Call B and its like: every value but the hub token is readable by everybody (1.3, 5.2)."""
    name = request.match_info["name"]
    preferences = _preferences(request.app)
    if name not in preferences:
        raise not_found(f"No JupyterHub plugin preference named {name}")
    _require(name != "jupyterHubToken" or _person(request).is_plugin_manager())
    return web.json_response({name: preferences[name]})


@routes.get("/xapi/siteConfig/buildInfo")
async def get_build_info(request: web.Request) -> web.Response:
    """The version, recognisable as a demo."""
    return web.json_response({"version": "1.9-demo"})


@routes.get("/xapi/siteConfig/{name}")
async def get_site_config(request: web.Request) -> web.Response:
    """One site preference, for admins. Strings come bare, without quotes, although typed as JSON (5.2)."""
    _require(_person(request).is_administrator())
    settings = request.app[SETTINGS]
    values = {
        "siteUrl": settings.site_url,
        "processingUrl": settings.processing_url,
        "aliasTokenTimeout": "2 days",
        "concurrentMaxSessions": str(settings.concurrent_max_sessions),
    }
    name = request.match_info["name"]
    if name not in values:
        raise XapiError(404)
    return web.Response(text=values[name], content_type="application/json")


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
    rows = request.app[PLUGIN].compute.all(request.match_info["path"], where)
    return web.json_response(_of_type(request, rows))


def _of_type(request: web.Request, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kind = request.query.get("type")
    return [row for row in rows if kind is None or "configTypes" not in row or kind in row["configTypes"]]


@routes.get(_CONFIGS)
async def get_configs(request: web.Request) -> web.Response:
    """All rows of one kind; ``?type=JUPYTERHUB`` chooses environments."""
    path = _may_read_configs(request)
    return web.json_response(_of_type(request, request.app[PLUGIN].compute.all(path)))


@routes.get(_CONFIGS + r"/{id:\d+}")
async def get_config(request: web.Request) -> web.Response:
    """One row."""
    return _config(request.app[PLUGIN].compute.get(_may_read_configs(request), int(request.match_info["id"])))


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
    _require(_person(request).is_administrator())
    return _config(request.app[PLUGIN].compute.put(request.match_info["path"], await _json(request)), 201)


@routes.put(_CONFIGS + r"/{id:\d+}")
async def update_config(request: web.Request) -> web.Response:
    """Replace as a whole; the body must name the same id."""
    _require(_person(request).is_administrator())
    number = int(request.match_info["id"])
    return _config(request.app[PLUGIN].compute.put(request.match_info["path"], await _json(request), number))


@routes.delete(_CONFIGS + r"/{id:\d+}")
async def delete_config(request: web.Request) -> web.Response:
    """Delete: 204."""
    _require(_person(request).is_administrator())
    if not request.app[PLUGIN].compute.delete(request.match_info["path"], int(request.match_info["id"])):
        raise not_found("No such configuration.")
    return web.Response(status=204)


@routes.get(_FRAMEWORKS)
async def get_frameworks(request: web.Request) -> web.Response:
    """All dashboard frameworks, for everybody."""
    return web.json_response(list(request.app[PLUGIN].compute.frameworks.rows.values()))


@routes.get(_FRAMEWORKS + "/{name}")
async def get_framework(request: web.Request) -> web.Response:
    """One framework by its name."""
    return _config(request.app[PLUGIN].compute.framework(request.match_info["name"]))


@routes.post(_FRAMEWORKS)
@routes.put(_FRAMEWORKS + "/{name}")
async def put_framework(request: web.Request) -> web.Response:
    """Create, or replace: 200 both times. A PUT goes by the id in the body, whatever the path names."""
    _require(_person(request).is_administrator())
    return _config(request.app[PLUGIN].compute.put_framework(await _json(request), request.method == "POST"))


@routes.delete(_FRAMEWORKS + "/{name}")
async def delete_framework(request: web.Request) -> web.Response:
    """Delete: 200, also for an unknown name."""
    _require(_person(request).is_administrator())
    request.app[PLUGIN].compute.delete_framework(request.match_info["name"])
    return web.Response()


# ---- the JupyterHub plugin (docs/xnat-contract.md, 1.4 and 2) ------------------------------------------------------


@routes.get("/xapi/jupyterhub/version")
async def get_hub_version(request: web.Request) -> web.Response:
    """The hub's version."""
    return web.json_response(await request.app[PLUGIN].hub.version())


@routes.get("/xapi/jupyterhub/info")
async def get_hub_info(request: web.Request) -> web.Response:
    """The hub's details, for admins: shows that the hub is reachable and the token right (5.3)."""
    _require(_person(request).is_administrator())
    return web.json_response(await request.app[PLUGIN].hub.info())


@routes.get("/xapi/jupyterhub/users")
async def get_hub_users(request: web.Request) -> web.Response:
    """All hub users with their running servers, for admins."""
    _require(_person(request).is_administrator())
    return web.json_response(await request.app[PLUGIN].hub.users())


@routes.get("/xapi/jupyterhub/users/{username}")
async def get_hub_user(request: web.Request) -> web.Response:
    """One hub user with the running servers; 404 if the hub does not know the person yet."""
    person = _subject_of_path(request)
    user = await request.app[PLUGIN].hub.user(person.username)
    if user is None:
        raise not_found(f"No user with name {person.username} exists on JupyterHub.")
    return web.json_response(user)


@routes.post("/xapi/jupyterhub/users/{username}")
async def create_hub_user(request: web.Request) -> web.Response:
    """Create the hub user."""
    await request.app[PLUGIN].hub.create_user(_subject_of_path(request).username)
    return web.Response()


@routes.get("/xapi/jupyterhub/users/{username}/server/user-options")
@routes.get("/xapi/jupyterhub/users/{username}/server/{servername}/user-options")
async def get_user_options(request: web.Request) -> web.Response:
    """Calls C and C0, for the service account and admins: the stored row, nulls at the top level left out (1.4)."""
    _require(_person(request).is_plugin_manager())
    person = _known_person(request.match_info["username"])
    row = request.app[STATE].find_options(person, request.match_info.get("servername", ""))
    if row is None:
        named = "servername" in request.match_info
        raise not_found("User options not found." if named else "Jupyter server configuration not found.")
    return web.json_response({key: value for key, value in row.items() if value is not None})


@routes.get("/xapi/jupyterhub/users/{username}/server")
@routes.get("/xapi/jupyterhub/users/{username}/server/{servername}")
async def get_server(request: web.Request) -> web.Response:
    """One running server; 200 with an empty body if there is none."""
    person = _subject_of_path(request)
    server = await request.app[PLUGIN].hub.server(person.username, request.match_info.get("servername", ""))
    return web.Response() if server is None else web.json_response(server)


@routes.post("/xapi/jupyterhub/users/{username}/server")
@routes.post("/xapi/jupyterhub/users/{username}/server/{servername}")
async def start_server(request: web.Request) -> web.Response:
    """Check the body, then start in the background; 200 with an empty body at once (2.4)."""
    person = _person(request)
    _require(person.may_act_for(request.match_info["username"]))
    try:
        order = StartRequest.from_json(await _json(request))
    except ValueError as error:
        raise bad_argument("Could not read the JSON document.") from error
    if "servername" in request.match_info and request.match_info["servername"] != order.servername:
        raise bad_argument("Server name in path does not match server name in request body.")
    _require(may_start(request.app[SETTINGS], person, order))
    if problems := order.problems(person):
        raise bad_argument(", ".join(problems))
    _in_background(request.app, request.app[PLUGIN].start(person, order))
    return web.Response()


@routes.delete("/xapi/jupyterhub/users/{username}/server")
@routes.delete("/xapi/jupyterhub/users/{username}/server/{servername}")
async def stop_server(request: web.Request) -> web.Response:
    """Stop in the background; 200 with an empty body at once (2.5)."""
    person = _subject_of_path(request)
    key = _required_parameter(request, "eventTrackingId")
    _in_background(request.app, request.app[PLUGIN].stop(person, request.match_info.get("servername", ""), key))
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


def _result_set(rows: list[dict[str, str]]) -> web.Response:
    return web.json_response({"ResultSet": {"Result": rows, "totalRecords": str(len(rows))}})


def _readable_project(request: web.Request) -> archive.Project:
    project = archive.find_project(request.match_info["project"])
    if project is None or not request.app[STATE].can_read_project(_person(request), project.id):
        raise XapiError(404)
    return project


@routes.get("/data/projects")
async def get_projects(request: web.Request) -> web.Response:
    """The projects that the person may read."""
    state, person = request.app[STATE], _person(request)
    return _result_set([
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


@routes.get("/data/projects/{project}/subjects")
async def get_subjects(request: web.Request) -> web.Response:
    """The subjects of a project."""
    project = _readable_project(request)
    return _result_set([
        {
            "ID": subject.id,
            "label": subject.label,
            "project": project.id,
            "URI": f"/data/subjects/{subject.id}",
        }
        for subject in project.subjects
    ])  # fmt: skip


@routes.get("/data/projects/{project}/experiments")
async def get_experiments(request: web.Request) -> web.Response:
    """The sessions of a project."""
    project = _readable_project(request)
    return _result_set([
        {
            "ID": session.id,
            "label": session.label,
            "project": project.id,
            "subject_ID": subject.id,
            "date": session.date,
            "xsiType": session.xsi_type,
            "URI": f"/data/experiments/{session.id}",
        }
        for subject, session in project.sessions()
    ])  # fmt: skip


@routes.get("/data/experiments/{experiment}")
async def get_experiment(request: web.Request) -> web.Response:
    """One session with its scans, in XNAT's nested form."""
    found = archive.find_session(request.match_info["experiment"])
    if found is None or not request.app[STATE].can_read_project(_person(request), found[0].id):
        raise XapiError(404)
    project, subject, session = found
    scans = [
        {
            "children": [],
            "meta": {"xsi:type": scan.xsi_type},
            "data_fields": {
                "ID": scan.id,
                "type": scan.description,
                "xnat_imagescandata_id": scan.key,
                "image_session_ID": session.id,
            },
        }
        for scan in session.scans
    ]
    item = {
        "children": [{"field": "scans/scan", "items": scans}],
        "meta": {"xsi:type": session.xsi_type},
        "data_fields": {
            "ID": session.id,
            "label": session.label,
            "project": project.id,
            "subject_ID": subject.id,
            "date": session.date,
        },
    }
    return web.json_response({"items": [item]})


# ---- faults on purpose; XNAT has nothing like it -------------------------------------------------------------------


@routes.get("/demo/faults")
async def get_faults(request: web.Request) -> web.Response:
    """The faults that apply now, for admins."""
    _require(_person(request).is_administrator())
    return web.json_response(request.app[FAULTS].to_json())


@routes.put("/demo/faults")
async def set_faults(request: web.Request) -> web.Response:
    """Replace the faults, for admins: a JSON list, 200 with the faults as they apply, 400 with a sentence."""
    _require(_person(request).is_administrator())
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
