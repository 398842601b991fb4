"""What the launcher does for the hub: start, look, stop. A server is named by its user and its name only.

The mounts, image, user, node and limits of a server come from XNAT, judged by the policy; the hub has no say in them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from xnat_wire.launcher import Kind, RefusedError, Seen, Standing
from xnat_wire.rest import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    NotFoundError,
    NotPermittedError,
    TooManyFailuresError,
    XnatError,
)

from xnat_launcher.audit import Audit
from xnat_launcher.diagnostics import failure, how_it_ended, node_name, unschedulable, without_address
from xnat_launcher.docker import MissingError, SwarmError
from xnat_launcher.options import Launch, OptionsError, parse_launch
from xnat_launcher.policy import MountError, is_below
from xnat_launcher.service import (
    CA_FILE,
    CA_VARIABLES,
    PORT,
    labels,
    secret_values,
    service_name,
    split_env,
    task_template,
)
from xnat_launcher.settings import Settings
from xnat_launcher.swarm import Swarm, Task
from xnat_launcher.xnat import ServiceAccount

log = logging.getLogger("xnat_launcher.launches")

GRACE = 3.0  # seconds that a task may be without node or address before that is believed
LONE = 120.0  # seconds after which a secret has its service, or will never have it
REMEMBERED = 900.0  # seconds for which a start is remembered, more than any start lasts
LONGEST_MESSAGE = 2000  # characters: XNAT can have the policy refuse a path of any length
WORDS = {
    "new": "Swarm has accepted the server",
    "pending": "Swarm is looking for a node",
    "assigned": "a node was chosen",
    "accepted": "the node has accepted the server",
    "preparing": "the node prepares image and data",
    "ready": "the container is made",
    "starting": "the container starts",
    "running": "the container runs, Jupyter starts in it",
}


@dataclass
class Start:
    """A start that was made not long ago. Times are those of the event loop.

    secrets: values that must not be seen in its log; None where they are not known, of a start before this launcher's.
    state: of its task at the last look, since when. unschedulable: since when no node could take it.
    """

    at: float
    secrets: list[str] | None = field(repr=False)
    state: str = ""
    since: float = 0.0
    unschedulable: float | None = None


@dataclass
class UnderWay:
    """A server that calls under way are about. lock: held by the one that changes it. stops: how many there were."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0
    stops: int = 0


class Launcher:
    """The servers of one deployment."""

    def __init__(self, settings: Settings, xnat: ServiceAccount, swarm: Swarm, audit: Audit) -> None:
        self._settings = settings
        self._xnat = xnat
        self._swarm = swarm
        self._audit = audit
        self._starts: dict[str, Start] = {}
        self._under_way: dict[str, UnderWay] = {}

    async def start(self, user: str, server: str, env: Mapping[str, str]) -> tuple[str, int]:
        """Create the service of a server. Returns (host, port) at which it will answer.

        env: the hub's own variables. Raises RefusedError; nothing is left behind then. Once it is called it goes on to
        its end, also when the hub has gone away; a stop in the meantime ends it.
        """
        name = self._name(user, server)
        with self._called_for(name) as under_way:
            stops = under_way.stops
            try:
                launch = await self._ask_xnat(user, server)
                variables = self._variables(launch, env)
                service_labels = labels(self._settings.deployment, user, server, launch.project)
                open_env, secret_env = split_env(variables)
                template, mounts = task_template(launch, self._settings, user, open_env, service_labels)
            except MountError as error:
                message = f"The mounts of this launch are refused: {error}."
                raise self._refusal(user, server, Kind.MOUNTS, message) from error
            except OptionsError as error:
                message = f"The launch in XNAT cannot be used: {error}."
                raise self._refusal(user, server, Kind.OPTIONS, message) from error
            if launch.dropped_env:
                log.warning("Variables not passed on to %s's %r: %s", user, server, ", ".join(launch.dropped_env))
            owner = (self._settings.uid, self._settings.gid)
            async with under_way.lock:
                if under_way.stops != stops:
                    raise RefusedError(Kind.STOPPED, "The server was stopped while it started.")
                # Before it is given anything, so that no line is missing whatever happens then.
                self._audit.started(user, server, launch.project, launch.image, mounts, name)
                try:
                    await self._swarm.create(name, template, service_labels, secret_env.encode(), owner)
                except SwarmError as error:
                    await self._remove_quietly(name)
                    message = f"Docker does not start the server: {error}."
                    raise self._refusal(user, server, Kind.DOCKER, message) from error
                self._remember(name, secret_values(variables))
        return name, PORT

    async def one(self, user: str, server: str) -> Seen:
        """Return how a server is. Raises RefusedError."""
        name = self._name(user, server)
        try:
            return await self._judge(name, await self._swarm.task(name))
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker does not say how the server is: {error}.") from error

    async def all(self) -> dict[tuple[str, str], str]:
        """Return every (user, server) that has a service, with the service's id. Raises RefusedError."""
        try:
            return await self._swarm.servers()
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker does not list the servers: {error}.") from error

    async def living(self) -> list[tuple[str, str]]:
        """Return every (user, server) that runs or may come to run. Raises RefusedError."""
        try:
            return await self._swarm.living()
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker does not list the servers: {error}.") from error

    async def stop(self, user: str, server: str, patience: float, service_id: str = "") -> bool:
        """Remove a server's service and secret where they exist, and end a start under way. Raises RefusedError.

        service_id: that of the service which is meant, which is not waited for; a newer one, or a start under way, then
        goes on. Returns whether its container has ended within `patience` seconds; Swarm ends it in any case.
        """
        name = self._name(user, server)
        with self._called_for(name) as under_way:
            if not service_id:
                under_way.stops += 1
            async with under_way.lock:
                try:
                    if service_id:
                        removed, ended = await self._swarm.remove_by_id(service_id, user, server), True
                    else:
                        removed, ended = await self._swarm.remove(name, patience)
                except SwarmError as error:
                    raise RefusedError(Kind.DOCKER, f"Docker does not stop the server: {error}.") from error
                if removed:
                    self._starts.pop(name, None)
                    self._audit.stopped(user, server)
        return ended

    async def log(self, user: str, server: str) -> str:
        """Return the last lines of a server that was started not long ago, without its secrets; else nothing.

        What a launcher that was restarted no longer knows it cannot blot out, so it shows nothing of it.
        """
        name = self._name(user, server)
        start = self._starts.get(name)
        if start is None or start.secrets is None:
            return ""
        try:
            text = await self._swarm.log_end(name)
        except MissingError:
            return ""
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker does not show the log: {error}.") from error
        for value in start.secrets:
            text = text.replace(value, "***")
        return "".join(char if char.isprintable() or char == "\n" else " " for char in text).rstrip()

    async def standing(self, user: str, server: str) -> Standing:
        """Return whether XNAT still stands behind a launch. Raises RefusedError."""
        try:
            return await self._xnat.standing(user, server)
        except XnatError as error:
            raise RefusedError(Kind.XNAT, f"{error}.") from error

    async def tidy(self) -> None:
        """Remove secrets without a service, as a launcher leaves them that is killed between both."""
        self._forget()
        for name in await self._swarm.remove_lone_secrets(LONE, but=set(self._under_way)):
            log.warning("Removed the secret %s, which has no service", name)

    async def _ask_xnat(self, user: str, server: str) -> Launch:
        if not server and self._settings.default_server == "refuse":
            raise RefusedError(
                Kind.DEFAULT_SERVER, "Servers are started from XNAT: open a project, subject or session there."
            )
        try:
            launch = parse_launch(await self._xnat.user_options(user, server), server)
        except InvalidNameError as error:
            raise RefusedError(Kind.NAME, f"{error}.") from error
        except NotFoundError as error:
            raise self._refusal(
                user,
                server,
                Kind.NO_LAUNCH,
                "XNAT has nothing to start here: the data are no longer readable for you, or the launch is old.",
            ) from error
        except (BadCredentialsError, NotPermittedError, ActionRequiredError, TooManyFailuresError) as error:
            raise RefusedError(Kind.SERVICE_ACCOUNT, f"XNAT does not accept the service account: {error}.") from error
        except XnatError as error:
            raise RefusedError(Kind.XNAT, f"Could not get the launch options from XNAT: {error}.") from error
        return launch if server else _workspace_only(launch)

    def _variables(self, launch: Launch, env: Mapping[str, str]) -> dict[str, str]:
        variables = {**launch.env, **env}
        # XNAT's plugin opens servers with ?token=, which JupyterHub 5 ignores unless told (contract 2.7).
        variables |= {"JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1", "JUPYTER_IMAGE_SPEC": launch.image}
        if self._settings.ca_config_id:
            variables = dict.fromkeys(CA_VARIABLES, CA_FILE) | variables
        return variables

    async def _judge(self, name: str, task: Task | None) -> Seen:
        now = asyncio.get_running_loop().time()
        start = self._starts.get(name)
        if task is None and start is not None and now - start.at < GRACE:
            return Seen("new", WORDS["new"], "", None)
        ended = how_it_ended(task, [] if task is None or task.wanted else await self._swarm.nodes())
        if task is None:
            return Seen("missing", "the server was removed", "", ended)
        if not task.alive:
            return Seen(task.state, failure(task.status, node_name(task.node_id, await self._swarm.nodes())), "", ended)
        words = WORDS.get(task.state, task.state)
        if task.state == "running" or ended is not None:
            return Seen(task.state, words, "", ended)
        if start is None:  # of a launcher before this one
            start = self._remember(name, None)
        if task.state != start.state:
            start.state, start.since = task.state, now
        error = str(task.status.get("Err") or "")
        if task.state == "pending" and error:
            reason = unschedulable(await self._template(name), await self._swarm.nodes(), error)
            start.unschedulable = start.unschedulable or now
            failed = f"No node can run this server: {reason}." if now - start.unschedulable > GRACE else ""
            return Seen(task.state, f"{words}: {reason}", failed, None)
        start.unschedulable = None
        # Swarm says nothing of a task without an address; it stays as it is.
        if task.state in {"new", "preparing"} and now - start.since > GRACE:
            reason, final = without_address(task, await self._swarm.addresses())
            return Seen(task.state, reason or words, f"The server cannot start: {reason}." if final else "", None)
        return Seen(task.state, words, "", None)

    async def _template(self, name: str) -> dict[str, Any]:
        try:
            return await self._swarm.template(name)
        except MissingError:
            return {}

    def _remember(self, name: str, secrets: list[str] | None) -> Start:
        self._forget()
        now = asyncio.get_running_loop().time()
        start = self._starts[name] = Start(now, secrets, since=now)
        return start

    def _forget(self) -> None:
        """Forget starts of long ago, and their secrets."""
        now = asyncio.get_running_loop().time()
        self._starts = {key: start for key, start in self._starts.items() if now - start.at < REMEMBERED}

    def _refusal(self, user: str, server: str, kind: Kind, message: str) -> RefusedError:
        message = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"
        log.error("Launch of %s's %r refused: %s", user, server, message)
        self._audit.refused(user, server, message)
        return RefusedError(kind, message)

    async def _remove_quietly(self, name: str) -> None:
        try:
            await self._swarm.remove(name, 0)
        except SwarmError as error:
            log.error("What was made for %s could not be removed: %s", name, error)

    @contextmanager
    def _called_for(self, name: str) -> Iterator[UnderWay]:
        """Note a call that is under way for a server."""
        under_way = self._under_way.setdefault(name, UnderWay())
        under_way.calls += 1
        try:
            yield under_way
        finally:
            under_way.calls -= 1
            if not under_way.calls:
                del self._under_way[name]

    def _name(self, user: str, server: str) -> str:
        return service_name(self._settings.deployment, user, server)


def _workspace_only(launch: Launch) -> Launch:
    """Return the launch without data: the server without a name is XNAT's to start, but not to stop (contract 2.5)."""
    inside = [mount for mount in launch.mounts if isinstance(mount, Mapping) and _is_workspace(mount.get("target"))]
    return replace(launch, mounts=inside)


def _is_workspace(target: object) -> bool:
    return isinstance(target, str) and is_below(target, "/workspace")
