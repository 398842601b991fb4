"""Starts and stops servers as XNAT's JupyterHub plugin does (docs/xnat-contract.md, 2.4 and 2.5).

The requests and their order are the plugin's. Not implemented: culling of idle and old servers (2.6), shared data
(3.1).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from pydantic import BaseModel, ConfigDict

from . import archive, options
from .compute import Compute
from .configuration import Configuration
from .hub import Hub, HubError
from .people import JUPYTER, Person
from .state import State

LOG = logging.getLogger(__name__)
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


class StartFailedError(Exception):
    """A start failed with its own message."""


class StartRequest(BaseModel):
    """The body of a start (docs/xnat-contract.md, 2.4 step 1); every field may be missing, unknown ones are ignored."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    username: str | None = None
    servername: str | None = None
    xsiType: str | None = None
    itemId: str | None = None
    itemLabel: str | None = None
    projectId: str | None = None
    eventTrackingId: str | None = None
    computeEnvironmentConfigId: int | None = None
    hardwareConfigId: int | None = None
    dashboardConfigId: int | None = None

    def application(self) -> str:
        """The server's name in messages."""
        return "Jupyter notebook" if self.dashboardConfigId is None else "dashboard"

    def problems(self, person: Person) -> list[str]:
        """The plugin's error messages, in its order."""
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


def may_start(configuration: Configuration, person: Person, request: StartRequest) -> bool:
    """Whether the person may start this: a dashboard, by role, or by the switch (docs/xnat-contract.md, 1.3)."""
    is_dashboard = request.dashboardConfigId is not None
    return is_dashboard or configuration.all_users_can_start() or JUPYTER in person.roles


class Background:
    """Starts and stops that run after their request was answered."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a separate task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Cancel everything that runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Plugin:
    """Starts and stops servers. ``start`` and ``stop`` wait for the hub: they run in the background and never raise."""

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
        """The place of a start, for the scopes of the configuration."""
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
