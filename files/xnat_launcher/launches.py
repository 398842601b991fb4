"""Starts, inspects and stops servers for the hub, which identifies a server by its user and name only.

The mounts, image, user, node and limits of a server come from XNAT and are checked by the policy. The hub cannot
influence them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from xnat_wire.launcher import Kind, Limits, LogIn, RefusedError, Seen, Standing
from xnat_wire.rest import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    NotFoundError,
    NotPermittedError,
    TooManyFailuresError,
    XnatError,
)
from xnat_wire.shared import Shared

from xnat_launcher.audit import Audit, AuditError, Server
from xnat_launcher.diagnostics import failure, how_it_ended, node_name, unschedulable, without_address
from xnat_launcher.docker import MissingError, SwarmError
from xnat_launcher.options import Launch, OptionsError, parse_launch
from xnat_launcher.policy import MountError, is_below
from xnat_launcher.proxies import proxy_variables
from xnat_launcher.service import (
    BUSY_VARIABLE,
    CA_FILE,
    CA_VARIABLES,
    PORT,
    keep_apart,
    labels,
    secret_values,
    service_name,
    split_env,
    task_template,
)
from xnat_launcher.settings import Settings
from xnat_launcher.swarm import GUARDS_AGE, Swarm, Task, guard_name
from xnat_launcher.watch import Watch
from xnat_launcher.xnat import ServiceAccount

log = logging.getLogger("xnat_launcher.launches")

GRACE = 3.0  # seconds that a task may be without node or address before that counts as a failure
LIMITS_AGE = 30.0  # seconds for which an answer of XNAT about its limits is reused
GUARD_PATIENCE = 10.0  # seconds for which a start waits for a node whose guard runs, as after a restart of the guard
LONE = 120.0  # a secret that is older (in seconds) and has no service is an orphan
REMEMBERED = 900.0  # seconds for which a start is remembered; longer than any start takes
# Launches that XNAT or the site does not allow. All others that do not start are failures.
REFUSALS = frozenset({Kind.NAME, Kind.DEFAULT_SERVER, Kind.NO_LAUNCH, Kind.OPTIONS, Kind.MOUNTS})
LONGEST_MESSAGE = 2000  # characters: a refused path from XNAT can have any length
WORDS = {
    "new": "Swarm has accepted the server",
    "pending": "Swarm is looking for a node",
    "assigned": "a node was chosen",
    "accepted": "the node has accepted the server",
    "preparing": "the node is preparing image and data",
    "ready": "the container was created",
    "starting": "the container is starting",
    "running": "the container is running, Jupyter is starting",
}


@dataclass
class Start:
    """A recent start. Times are those of the event loop.

    secrets: values to remove from its log; None if unknown, because an earlier launcher process started the server.
    state: the state of its task at the last check. since: when it entered that state. unschedulable: since when no node
    can run it.
    """

    at: float
    secrets: list[str] | None = field(repr=False)
    state: str = ""
    since: float = 0.0
    unschedulable: float | None = None


@dataclass
class UnderWay:
    """A server with pending calls. lock: held by the call that changes it. stops: the number of stop calls so far."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0
    stops: int = 0


@dataclass
class Asked:
    """A pending start. launch: None until XNAT has answered. recorded: whether the audit log may say `started`."""

    user: str
    server: str
    service: str
    launch: Launch | None = None
    recorded: bool = False

    def audited(self) -> Server:
        """Return the server as the audit log names it."""
        return Server(self.user, self.server, self.service, self.launch.project if self.launch else "")


class Launcher:
    """The servers of one deployment."""

    def __init__(self, settings: Settings, xnat: ServiceAccount, swarm: Swarm, audit: Audit) -> None:
        self._settings = settings
        self._xnat = xnat
        self._swarm = swarm
        self._audit = audit
        self._watch = Watch(swarm, audit, settings.deployment)
        self._limits = Shared(xnat.limits, LIMITS_AGE)
        self._starts: dict[str, Start] = {}
        self._under_way: dict[str, UnderWay] = {}

    async def start(self, user: str, server: str, env: Mapping[str, str]) -> tuple[str, int]:
        """Create the service of a server. Returns (host, port) at which it will answer.

        env: the hub's own variables. Raises RefusedError; service and secret are then removed. The call runs to its end
        even if the hub disconnects; a stop call ends it.
        """
        asked = Asked(user, server, self._name(user, server))
        try:
            return await self._start(asked, env)
        except RefusedError as error:
            self._record_failure(asked, error.kind, str(error))
            raise
        except Exception as error:
            self._record_failure(asked, Kind.INTERNAL, f"the launcher failed: {type(error).__name__}")
            raise

    async def _start(self, asked: Asked, env: Mapping[str, str]) -> tuple[str, int]:
        user, server, name = asked.user, asked.server, asked.service
        with self._called_for(name) as under_way:
            stops = under_way.stops
            try:
                launch = asked.launch = await self._ask_xnat(user, server)
                variables = self._variables(launch, env)
                service_labels = labels(self._settings.deployment, user, server, launch.project)
                open_env, secret_env = split_env(variables)
                template, mounts = task_template(launch, self._settings, user, open_env, service_labels)
            except MountError as error:
                message = f"The mount policy refuses this launch: {error}."
                raise self._refusal(user, server, Kind.MOUNTS, message) from error
            except OptionsError as error:
                message = f"The launch options from XNAT are invalid: {error}."
                raise self._refusal(user, server, Kind.OPTIONS, message) from error
            if launch.dropped_env:
                log.warning("Dropped variables of %s's server %r: %s", user, server, ", ".join(launch.dropped_env))
            if self._settings.guard:
                template = await self._keep_apart(user, server, template)
            reader = (self._settings.uid, self._settings.gid)
            image_id = await self._swarm.image_id(template["ContainerSpec"]["Image"])
            async with under_way.lock:
                if under_way.stops != stops:
                    raise RefusedError(Kind.STOPPED, "The server was stopped while it was starting.")
                # Before the service is created, so that the line is never missing.
                audited = asked.audited()
                try:
                    self._audit.check()
                    asked.recorded = True
                    with self._watch.starting(audited):
                        await self._audit.started(audited, launch.xsi_type, launch.item, launch.image, image_id, mounts)
                        await self._swarm.create((user, server), template, service_labels, secret_env.encode(), reader)
                except AuditError as error:
                    asked.recorded = error.unsure
                    raise self._refusal(user, server, Kind.AUDIT, str(error)) from error
                except SwarmError as error:
                    await self._remove_quietly(user, server)
                    message = f"Docker could not create the server: {error}."
                    raise self._refusal(user, server, Kind.DOCKER, message) from error
                self._remember(name, secret_values(variables))
        return name, PORT

    async def one(self, user: str, server: str) -> Seen:
        """Return the state of a server. Raises RefusedError."""
        try:
            return await self._judge(user, server, await self._swarm.task((user, server)))
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker could not report the server's state: {error}.") from error

    async def all(self) -> dict[tuple[str, str], str]:
        """Return the service id of every (user, server) that has a service. Raises RefusedError."""
        try:
            return await self._swarm.servers()
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker could not list the servers: {error}.") from error

    async def living(self) -> list[tuple[str, str]]:
        """Return every (user, server) that runs or may still start. Raises RefusedError."""
        try:
            return await self._swarm.living()
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker could not list the servers: {error}.") from error

    async def stop(self, user: str, server: str, patience: float, service_id: str = "") -> bool:
        """Remove a server's service and secret if they exist, and end a pending start. Raises RefusedError.

        service_id: remove only the service with this id and do not wait for its end; a newer one or a pending start is
        left alone. Returns whether the container ended within `patience` seconds; Swarm ends it in any case.
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
                        removed, ended = await self._swarm.remove((user, server), patience)
                except SwarmError as error:
                    raise RefusedError(Kind.DOCKER, f"Docker could not stop the server: {error}.") from error
                if removed:
                    self._starts.pop(name, None)
                    stopped = self._watch.stopping(Server(user, server, name))
                    self._audit.stopped(stopped, "reconciler" if service_id else "hub")
        return ended

    async def log(self, user: str, server: str) -> str:
        """Return the last log lines of a recently started server, without its secrets; empty for any other server.

        After a restart the launcher does not know the secrets of earlier starts, so it cannot remove them from the log.
        """
        start = self._starts.get(self._name(user, server))
        if start is None or start.secrets is None:
            return ""
        try:
            text = await self._swarm.log_end((user, server))
        except MissingError:
            return ""
        except SwarmError as error:
            raise RefusedError(Kind.DOCKER, f"Docker could not read the server's log: {error}.") from error
        for value in start.secrets:
            text = text.replace(value, "***")
        return "".join(char if char.isprintable() or char == "\n" else " " for char in text).rstrip()

    async def standing(self, user: str, server: str) -> Standing:
        """Return whether XNAT still permits a launch. Raises RefusedError."""
        try:
            return await self._xnat.standing(user, server)
        except XnatError as error:
            raise RefusedError(Kind.XNAT, f"{error}.") from error

    async def limits(self) -> Limits:
        """Return when XNAT ends servers, from an answer that is at most LIMITS_AGE seconds old. Raises RefusedError."""
        try:
            return await self._limits.get()
        except XnatError as error:
            log.warning("Could not get XNAT's limits on servers: %s", error)
            raise RefusedError(Kind.XNAT, f"{error}.") from error

    def logged_in(self, user: str, source: str, reason: LogIn, known: bool) -> None:
        """Record a log-in at the hub's form. user: as entered. source: the client's address. known: to the hub."""
        self._audit.logged_in(user, source, reason, known)

    async def watch(self) -> None:
        """Record in the audit log where servers run and when they end, until cancelled."""
        await self._watch.run()

    async def tidy(self) -> None:
        """Remove secrets without a service, as left by a launcher that was killed before it created the service.

        Removes old files of the audit log as well.
        """
        try:
            await self._audit.tidy()
        except OSError as error:
            log.warning("Could not remove old files of the audit log: %s", error)
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
                "XNAT has no such launch: it is too old, or you no longer have access to its data. Start it from XNAT"
                " again.",
            ) from error
        except (BadCredentialsError, NotPermittedError, ActionRequiredError, TooManyFailuresError) as error:
            raise RefusedError(Kind.SERVICE_ACCOUNT, f"XNAT does not accept the service account: {error}.") from error
        except XnatError as error:
            raise RefusedError(Kind.XNAT, f"Could not get the launch options from XNAT: {error}.") from error
        return launch if server else _workspace_only(launch)

    def _variables(self, launch: Launch, env: Mapping[str, str]) -> dict[str, str]:
        proxies = proxy_variables(launch.env, self._settings.proxy_url, self._settings.no_proxy)
        variables = {**launch.env, **proxies, **env}
        # XNAT's plugin opens servers with ?token=, which JupyterHub 5 ignores without this variable (contract 2.7).
        variables |= {"JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1", "JUPYTER_IMAGE_SPEC": launch.image}
        variables[BUSY_VARIABLE] = "1" if self._settings.busy_is_activity else "0"
        if self._settings.read_only:
            variables["HOME"] = self._settings.home
        if self._settings.ca_config_id:
            variables = dict.fromkeys(CA_VARIABLES, CA_FILE) | variables
        return variables

    async def _judge(self, user: str, server: str, task: Task | None) -> Seen:
        now = asyncio.get_running_loop().time()
        name = self._name(user, server)
        start = self._starts.get(name)
        if task is None and start is not None and now - start.at < GRACE:
            return Seen("new", WORDS["new"], "", None)
        nodes = [] if task is None or task.wanted else await self._swarm.nodes()
        ended = how_it_ended(task, nodes)
        if task is None:
            return Seen("missing", "the server was removed", "", ended)
        self._watch.saw(name, task, nodes)
        if not task.alive:
            return Seen(task.state, failure(task.status, node_name(task.node_id, nodes)), "", ended)
        words = WORDS.get(task.state, task.state)
        if task.state == "running" or ended is not None:
            return Seen(task.state, words, "", ended)
        if start is None:  # from before a restart of the launcher
            start = self._remember(name, None)
        if task.state != start.state:
            start.state, start.since = task.state, now
        error = str(task.status.get("Err") or "")
        if task.state == "pending" and error:
            reason = unschedulable(await self._template(user, server), await self._swarm.nodes(), error)
            start.unschedulable = start.unschedulable or now
            failed = f"No node can run this server: {reason}." if now - start.unschedulable > GRACE else ""
            return Seen(task.state, f"{words}: {reason}", failed, None)
        start.unschedulable = None
        # Swarm reports nothing about a task that gets no address; the task stays in its state.
        if task.state in {"new", "preparing"} and now - start.since > GRACE:
            reason, final = without_address(task, await self._swarm.addresses())
            return Seen(task.state, reason or words, f"The server cannot start: {reason}." if final else "", None)
        return Seen(task.state, words, "", None)

    async def _keep_apart(self, user: str, server: str, template: dict[str, Any]) -> dict[str, Any]:
        """Return the template for the nodes that keep notebooks apart. Raises RefusedError if there is none."""
        deadline = asyncio.get_running_loop().time() + GUARD_PATIENCE
        try:
            guards = await self._swarm.guards()
            while not guards.guarded and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(GUARDS_AGE / 2)
                guards = await self._swarm.guards()
        except SwarmError as error:
            message = f"Docker could not report which nodes keep notebooks apart: {error}."
            raise self._refusal(user, server, Kind.DOCKER, message) from error
        if not guards.guarded or not guards.gateway:
            guard = guard_name(self._settings.deployment)
            message = (
                f"No node keeps notebooks apart: the service {guard} is healthy on none of them. Ask the administrator"
                f" to run docker service ps {guard} and to run site.yml again."
                if guards.gateway
                else f"The network {self._settings.network} has no gateway, so that no node can show that it keeps"
                " notebooks apart. Ask the administrator to create it again: run playbooks/remove.yml, then site.yml."
            )
            raise self._refusal(user, server, Kind.UNGUARDED, message)
        return keep_apart(template, guards.unguarded, str(ipaddress.IPv4Address(guards.gateway)))

    async def _template(self, user: str, server: str) -> dict[str, Any]:
        try:
            return await self._swarm.template((user, server))
        except MissingError:
            return {}

    def _remember(self, name: str, secrets: list[str] | None) -> Start:
        self._forget()
        now = asyncio.get_running_loop().time()
        start = self._starts[name] = Start(now, secrets, since=now)
        return start

    def _forget(self) -> None:
        """Forget old starts and their secrets."""
        now = asyncio.get_running_loop().time()
        self._starts = {key: start for key, start in self._starts.items() if now - start.at < REMEMBERED}

    def _refusal(self, user: str, server: str, kind: Kind, message: str) -> RefusedError:
        message = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"
        log.error("Refused to launch %s's server %r: %s", user, server, message)
        return RefusedError(kind, message)

    def _record_failure(self, asked: Asked, kind: Kind, reason: str) -> None:
        launch = asked.launch
        item = (launch.xsi_type, launch.item, launch.image) if launch else ("", "", "")
        self._audit.not_started(
            asked.audited(), *item, kind, reason, failed=kind not in REFUSALS, recorded=asked.recorded
        )

    async def _remove_quietly(self, user: str, server: str) -> None:
        try:
            await self._swarm.remove((user, server), 0)
        except SwarmError as error:
            log.error("Could not remove the service of %s's server %r: %s", user, server, error)

    @contextmanager
    def _called_for(self, name: str) -> Iterator[UnderWay]:
        """Register a pending call for a server."""
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
    """Return the launch without data: XNAT can start the default server, but not stop it (contract 2.5)."""
    inside = [mount for mount in launch.mounts if isinstance(mount, Mapping) and _is_workspace(mount.get("target"))]
    return replace(launch, mounts=inside)


def _is_workspace(target: object) -> bool:
    return isinstance(target, str) and is_below(target, "/workspace")
