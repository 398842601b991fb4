"""What XNAT's JupyterHub plugin does towards the hub (docs/xnat-contract.md, 2): start, stop, tokens.

The requests and their order are the plugin's. Unlike the plugin, which waits for ever, each call has a timeout.
Left out, as nothing here needs them: culling of idle and old servers (2.6), shared data (3.1).
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from . import archive, options
from .compute import Compute
from .configuration import Configuration
from .people import JUPYTER, Person
from .state import State

LOG = logging.getLogger(__name__)

# A start is answered by the hub within its slow_spawn_timeout of 10 s.
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?(Z|[+-]\d\d(:?\d\d)?)")
_USER_FIELDS = ("name", "admin", "roles", "groups", "server", "pending", "last_activity")
_SERVER_FIELDS = ("name", "ready", "pending", "url", "progress_url", "user_options", "started", "last_activity")
_SYSTEM_LOGS = "Check the XNAT and JupyterHub system logs for error messages."
_NOT_ONLINE = (
    "Failed to connect to JupyterHub. Please ensure the following:\n"
    "(1) JupyterHub is running \n"
    "(2) Verify the correct API URL is set in the plugin settings."
)
_NOT_ACCEPTED = (
    "Failed to connect to JupyterHub. Please check the following: \n"
    "(1) Ensure that JupyterHub is running. \n"
    "(2) Verify the correct API URL is set in the plugin settings. \n"
    "(3) Confirm XNATs token for authenticating with JupyterHub is correctly set in "
    "both the plugin settings and JupyterHub configuration."
)


class HubError(Exception):
    """The hub did not answer as the plugin needs; the text has the call and the status, never the token."""


class StartFailedError(Exception):
    """A start that ends with a sentence of its own."""


@dataclass(frozen=True)
class StartRequest:
    """The body of a start (docs/xnat-contract.md, 2.4 step 1); every field may be missing, unknown ones are ignored."""

    username: str | None
    servername: str | None
    xsiType: str | None
    itemId: str | None
    itemLabel: str | None
    projectId: str | None
    eventTrackingId: str | None
    computeEnvironmentConfigId: int | None
    hardwareConfigId: int | None
    dashboardConfigId: int | None

    @classmethod
    def from_json(cls, body: Any) -> StartRequest:
        """Take the known fields; raises ``ValueError`` for a body that is no object or an id that is no integer."""
        if not isinstance(body, dict):
            raise ValueError("The request body must be a JSON object.")
        values: dict[str, Any] = {}
        for item in fields(cls):
            value = body.get(item.name)
            if value is not None:
                value = int(value) if item.name.endswith("ConfigId") else str(value)
            values[item.name] = value
        return cls(**values)

    def application(self) -> str:
        """What the messages call it."""
        return "Jupyter notebook" if self.dashboardConfigId is None else "dashboard"

    def problems(self, person: Person) -> list[str]:
        """The plugin's complaints, in its order."""
        named = {
            "Username": self.username,
            "XSI type": self.xsiType,
            "Item ID": self.itemId,
            "Item label": self.itemLabel,
            "Project ID": self.projectId,
            "Event tracking ID": self.eventTrackingId,
        }
        found = [] if self.username == person.username else ["Usernames do not match"]
        found += [f"{name} cannot be blank" for name, value in named.items() if not (value or "").strip()]
        if self.computeEnvironmentConfigId is None:
            found.append("Compute environment config ID cannot be null")
        if self.hardwareConfigId is None:
            found.append("hardware config id cannot be null")
        return found


class Hub:
    """The plugin's hub client: the calls of docs/xnat-contract.md, 2.2, but the list of users. All raise ``HubError``.

    URL and token are read at each use (2.1).
    """

    def __init__(self, configuration: Configuration, http: aiohttp.ClientSession) -> None:
        self._configuration = configuration
        self._http = http

    async def version(self) -> dict[str, Any]:
        """``GET /``, without the token: is the hub online?"""
        _, answer = await self._call("GET", "/", authorised=False)
        return {"version": answer["version"]}

    async def info(self) -> dict[str, Any]:
        """``GET /info``: is the token right?"""
        _, answer = await self._call("GET", "/info")
        return {key: answer[key] for key in ("version", "python", "authenticator", "spawner") if key in answer}

    async def user(self, username: str) -> dict[str, Any] | None:
        """``GET /users/{u}``; None if the hub does not know the name."""
        status, answer = await self._call("GET", f"/users/{_quoted(username)}", accepted=(404,))
        return None if status == 404 else _read_user(answer)

    async def create_user(self, username: str) -> dict[str, Any]:
        """``POST /users/{u}`` with an empty body."""
        _, answer = await self._call("POST", f"/users/{_quoted(username)}")
        return _read_user(answer)

    async def server(self, username: str, servername: str) -> dict[str, Any] | None:
        """The active server of that name; None if there is none."""
        user = await self.user(username)
        found: dict[str, Any] | None = user["servers"].get(servername) if user else None
        return found

    async def start(self, username: str, servername: str | None, body: dict[str, Any]) -> None:
        """``POST`` of a server; 201 and 202 are the same to the plugin."""
        await self._call("POST", _server_path(username, servername), body)

    async def stop(self, username: str, servername: str) -> None:
        """``DELETE`` of a server with ``remove: true``; 404 is fine."""
        await self._call("DELETE", _server_path(username, servername), {"remove": True}, accepted=(404,))

    async def create_token(self, username: str, note: str, expires_in: int) -> dict[str, Any]:
        """A token with which a browser may open this person's servers; ``expires_in`` in seconds."""
        unset = ("token", "id", "user", "kind", "service", "oauth_client", "session_id")
        body: dict[str, Any] = dict.fromkeys((*unset, "expires_at", "created", "last_activity"))
        body |= {"note": note, "expires_in": expires_in, "scopes": [f"access:servers!user={username}"]}
        _, answer = await self._call("POST", f"/users/{_quoted(username)}/tokens", body)
        return {key: value for key, value in answer.items() if key in body and value is not None}

    async def _call(
        self, method: str, path: str, body: Any = None, accepted: tuple[int, ...] = (), authorised: bool = True
    ) -> tuple[int, Any]:
        """One request; the answer is ``(status, JSON or None)`` for 2xx and the accepted statuses."""
        token = self._configuration.text("jupyterHubToken")
        headers = {"Authorization": f"token {token}"} if authorised else {}
        try:
            url = URL(self._configuration.text("jupyterHubApiUrl") + path, encoded=True)
            async with self._http.request(
                method, url, json=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                if response.status in accepted:
                    return response.status, None
                if not 200 <= response.status < 300:
                    raise HubError(f"{method} {path}: status {response.status}")
                text = await response.text()
                return response.status, await response.json() if text else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise HubError(f"{method} {path}: {type(error).__name__}") from error


def _quoted(name: str) -> str:
    return quote(name, safe="'")


def _server_path(username: str, servername: str | None) -> str:
    path = f"/users/{_quoted(username)}"
    return f"{path}/servers/{_quoted(servername)}" if servername and servername.strip() else f"{path}/server"


def _read_user(answer: dict[str, Any]) -> dict[str, Any]:
    """Parse a user as strictly as the plugin does (docs/xnat-contract.md, 2.2 "JSON it needs")."""
    if not isinstance(answer.get("servers"), dict):
        raise HubError("A user came without servers: the token lacks the scope read:servers")
    user = _known(answer, _USER_FIELDS)
    user["servers"] = {name: _known(server, _SERVER_FIELDS) for name, server in answer["servers"].items()}
    return user


def _known(answer: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for name in ("last_activity", "started"):
        value = answer.get(name)
        if name in names and value is not None and not _DATE.fullmatch(value):
            raise HubError(f"{name} is not a date that the plugin can read")
    options_of_user = answer.get("user_options") or {}
    if any(isinstance(value, (dict, list)) for value in options_of_user.values()):
        raise HubError("user_options holds a nested value, which the plugin cannot read")
    return {name: answer[name] for name in names if answer.get(name) is not None}


def may_start(configuration: Configuration, person: Person, request: StartRequest) -> bool:
    """Whether the person may start this: a dashboard, by role, or by the switch (docs/xnat-contract.md, 1.3)."""
    is_dashboard = request.dashboardConfigId is not None
    return is_dashboard or configuration.all_users_can_start() or JUPYTER in person.roles


class Plugin:
    """Starts and stops servers; ``start`` and ``stop`` are to run in the background and never raise."""

    def __init__(self, configuration: Configuration, state: State, compute: Compute, hub: Hub) -> None:
        self.configuration = configuration
        self.state = state
        self.compute = compute
        self.hub = hub

    async def start(self, person: Person, request: StartRequest) -> None:
        """The start sequence of docs/xnat-contract.md, 2.4, for a request without problems."""
        what = request.application()
        key = request.eventTrackingId or ""
        try:
            self._progress(person, key, f"Starting {what} for user {person.username}.")
            self._check_request(person, request)
            await self._check_hub()
            await self._start_on_hub(person, request, key)
        except StartFailedError as failure:
            self.state.track(person, key, "Failed", str(failure))
        except (HubError, OSError) as error:
            LOG.error("Start %s of %s failed: %s", key, person.username, error)
            self.state.track(person, key, "Failed", f"Failed to launch {what}. {_SYSTEM_LOGS}")
        except Exception:
            LOG.exception("Start %s of %s failed", key, person.username)
            self.state.track(person, key, "Failed", f"Failed to launch {what}. {_SYSTEM_LOGS}")

    def _progress(self, person: Person, key: str, message: str) -> None:
        self.state.track(person, key, "InProgress", message)

    def _check_request(self, person: Person, request: StartRequest) -> None:
        """Read permission and availability, as they are before the hub is asked."""
        project, item, xsi_type = request.projectId or "", request.itemId or "", request.xsiType or ""
        if not self.state.can_read(person, project, item, xsi_type):
            raise StartFailedError(
                f"Failed to launch {request.application()}. "
                f"Permission denied to read {xsi_type} {item} in project {project}"
            )
        ids = request.computeEnvironmentConfigId, request.hardwareConfigId, request.dashboardConfigId
        if self.compute.may_start(*ids, self._place(person, request)):
            return
        if request.dashboardConfigId is not None:
            raise StartFailedError("Failed to start dashboard. The dashboard is not available to the user.")
        raise StartFailedError(
            "Failed to launch Jupyter notebook server. "
            "The compute environment or hardware configuration is not available to the user."
        )

    def _place(self, person: Person, request: StartRequest) -> dict[str, Any]:
        """Where something is started, as the scopes of the configuration see it."""
        return {
            "Site": "XNAT",
            "Project": request.projectId,
            "User": person.username,
            "DataType": request.xsiType,
        }

    async def _check_hub(self) -> None:
        try:
            await self.hub.version()
        except HubError as error:
            LOG.error("The hub is not online: %s", error)
            raise StartFailedError(_NOT_ONLINE) from error
        try:
            await self.hub.info()
        except HubError as error:
            LOG.error("The hub does not accept the token: %s", error)
            raise StartFailedError(_NOT_ACCEPTED) from error

    async def _start_on_hub(self, person: Person, request: StartRequest, key: str) -> None:
        preference = self.configuration.number
        self._progress(person, key, "Checking for existing Jupyter servers.")
        user = await self.hub.user(person.username) or await self.hub.create_user(person.username)
        if len(user["servers"]) >= preference("maxNamedServers"):
            raise StartFailedError(
                "Failed to launch Jupyter notebook. Maximum number of running Jupyter servers reached."
            )
        self._progress(person, key, "Building container configuration.")
        await self.store_options(person, request)
        self._progress(person, key, "Saved container configuration. Sending start request to JupyterHub.")
        await self._send_start(person, request)
        self._progress(person, key, "JupyterHub is spawning container.")
        waited = 0
        while waited < preference("startTimeout"):
            await asyncio.sleep(preference("startPollingInterval"))
            server = await self.hub.server(person.username, request.servername or "")
            if server is None:
                self._progress(person, key, "Waiting for JupyterHub to spawn server.")
            elif server["ready"]:
                message = f"Jupyter notebook is available at: {server['url']}"
                self.state.track(person, key, "Completed", message)
                return
            waited += preference("startPollingInterval")
        raise StartFailedError(
            "Failed to launch Jupyter notebook."
            f"Timeout exceeded while waiting for JupyterHub to spawn server. {_SYSTEM_LOGS}"
        )

    async def _send_start(self, person: Person, request: StartRequest) -> None:
        user = await self.hub.user(person.username)
        if user is None:
            raise StartFailedError("Failed to launch Jupyter notebook. User not found.")
        if (request.servername or "") in user["servers"]:
            raise StartFailedError("Failed to launch Jupyter notebook. A server with the same name is already running.")
        # The mounts are not sent: people could forge them. The hub asks for the user-options itself.
        body = {
            "userId": person.user_id,
            "servername": None,
            "xsiType": request.xsiType,
            "itemId": request.itemId,
            "itemLabel": request.itemLabel,
            "projectId": request.projectId,
            "eventTrackingId": request.eventTrackingId,
            "dashboardConfigId": request.dashboardConfigId,
            "task_template": None,
        }
        await self.hub.start(person.username, request.servername, body)

    async def store_options(self, person: Person, request: StartRequest) -> None:
        """Build the user-options row; nothing is stored if the item is no longer readable (3.5 of the contract)."""
        project, item, xsi_type = request.projectId or "", request.itemId or "", request.xsiType or ""
        if not self.state.can_read(person, project, item, xsi_type):
            return
        general_type = archive.generalised(xsi_type)
        configured = self.compute.task_template(
            request.computeEnvironmentConfigId or 0,
            request.hardwareConfigId or 0,
            request.dashboardConfigId,
            self._place(person, request),
        )
        template = await asyncio.to_thread(
            options.task_template,
            self.configuration,
            person,
            configured,
            general_type,
            item,
            self.state.issue_alias(person),
        )
        row = {
            "userId": person.user_id,
            "servername": request.servername,
            "xsiType": general_type,
            "itemId": item,
            "projectId": project,
            "eventTrackingId": request.eventTrackingId,
            "task_template": template,
        }
        self.state.store_options(person, row)

    async def stop(self, person: Person, servername: str, key: str) -> None:
        """The stop sequence of docs/xnat-contract.md, 2.5; the row is removed when the server is gone."""
        preference = self.configuration.number
        try:
            self._progress(person, key, "Stopping Jupyter Server.")
            self._progress(person, key, "Sending stop request to JupyterHub.")
            await self.hub.server(person.username, servername)
            await self.hub.stop(person.username, servername)
            waited = 0
            while waited < preference("stopTimeout"):
                await asyncio.sleep(preference("stopPollingInterval"))
                if await self.hub.server(person.username, servername) is None:
                    self.state.remove_options(person, servername)
                    self.state.track(person, key, "Completed", "Jupyter Server Stopped.")
                    return
                waited += preference("stopPollingInterval")
            self.state.track(person, key, "Failed", "Failed to stop Jupyter Server.")
        except Exception as error:
            LOG.error("Stop %s of %s failed: %s", key, person.username, error)
            self.state.track(person, key, "Failed", "Failed to stop Jupyter Server.")
