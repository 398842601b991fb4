"""The plugin's calls for servers, user-options, tokens and event tracking (docs/xnat-contract.md, 1.4 and 2)."""

from __future__ import annotations

from aiohttp import web

from .plugin import Background, Plugin, StartRequest, may_start
from .xapi import (
    PERSON,
    Routes,
    XapiError,
    bad_argument,
    known_person,
    not_found,
    own_person,
    read_as,
    require,
    require_administrator,
)

_HUB = "/xapi/jupyterhub"
_USER = _HUB + "/users/{username}"
_SERVER = _USER + "/server/{servername}"


class JupyterHubApi:
    """The plugin's calls for users and the hub."""

    def __init__(self, plugin: Plugin, background: Background) -> None:
        self._plugin = plugin
        self._state = plugin.state
        self._background = background

    def routes(self) -> Routes:
        """The calls."""
        return [
            web.get(f"{_HUB}/version", self.get_version),
            web.get(f"{_HUB}/info", self.get_info),
            web.get(_USER, self.get_user),
            web.get(f"{_USER}/server/user-options", self.get_user_options),
            web.get(f"{_SERVER}/user-options", self.get_user_options),
            web.post(_SERVER, self.start),
            web.delete(_SERVER, self.stop),
            web.post(f"{_USER}/tokens", self.create_token),
            web.get("/xapi/event_tracking/{key}", self.get_tracking),
        ]

    async def get_version(self, request: web.Request) -> web.Response:
        """The hub's version."""
        return web.json_response(await self._plugin.hub.version())

    async def get_info(self, request: web.Request) -> web.Response:
        """The hub's details, for administrators: shows that the hub is reachable and the token right (5.3)."""
        require_administrator(request)
        return web.json_response(await self._plugin.hub.info())

    async def get_user(self, request: web.Request) -> web.Response:
        """One hub user with the running servers; 404 if the hub does not know the person yet."""
        person = own_person(request, self._state)
        user = await self._plugin.hub.user(person.username)
        if user is None:
            raise not_found(f"No user with name {person.username} exists on JupyterHub.")
        return web.json_response(user)

    async def get_user_options(self, request: web.Request) -> web.Response:
        """Calls C and C0, for the service account and administrators: the stored row without nulls at the top (1.4)."""
        require(request[PERSON].is_plugin_manager())
        person = known_person(request, self._state)
        row = self._state.find_options(person, request.match_info.get("servername", ""))
        if row is None:
            named = "servername" in request.match_info
            raise not_found("User options not found." if named else "Jupyter server configuration not found.")
        return web.json_response({key: value for key, value in row.items() if value is not None})

    async def start(self, request: web.Request) -> web.Response:
        """Check the body, then start in the background; 200 with an empty body at once (2.4)."""
        person = request[PERSON]
        require(person.may_act_for(request.match_info["username"]))
        order = await read_as(request, StartRequest)
        if request.match_info["servername"] != order.servername:
            raise bad_argument("Server name in path does not match server name in request body.")
        require(may_start(self._plugin.configuration, person, order))
        if problems := order.problems(person):
            raise bad_argument(", ".join(problems))
        self._background.run(self._plugin.start(person, order))
        return web.Response()

    async def stop(self, request: web.Request) -> web.Response:
        """Stop in the background; 200 with an empty body at once (2.5)."""
        person = own_person(request, self._state)
        key = _required_parameter(request, "eventTrackingId")
        self._background.run(self._plugin.stop(person, request.match_info["servername"], key))
        return web.Response()

    async def create_token(self, request: web.Request) -> web.Response:
        """A hub token for opening this person's servers; ``expiresIn`` in seconds (2.7)."""
        person = own_person(request, self._state)
        note = _required_parameter(request, "note")
        try:
            expires_in = int(_required_parameter(request, "expiresIn"))
        except ValueError as error:
            raise bad_argument("expiresIn must be an integer") from error
        return web.json_response(await self._plugin.hub.create_token(person.username, note, expires_in))

    async def get_tracking(self, request: web.Request) -> web.Response:
        """The progress of one's own start or stop; 404 for all others (2.4)."""
        tracking = self._state.find_tracking(request[PERSON], request.match_info["key"])
        if tracking is None:
            raise XapiError(404)
        return web.json_response(tracking)


def _required_parameter(request: web.Request, name: str) -> str:
    if name not in request.query:
        raise bad_argument(f"Required parameter '{name}' is not present")
    return request.query[name]
