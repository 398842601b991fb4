"""The services of one deployment: one service and one secret for each server, whose names follow from its owner.

Simultaneous requests for several servers are combined into one.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

from xnat_wire.shared import Shared

from xnat_launcher.docker import ConflictError, Docker, MissingError, SwarmError
from xnat_launcher.service import ENV_SUFFIX, LABEL, former_service_name, secret_reference, service_name

LOOK = 0.1  # seconds for which calls for the state of tasks are collected into one request
NODES_AGE = 5.0  # seconds for which all callers reuse one list of nodes
ADDRESSES_AGE = 5.0  # the same for the addresses in use on the network
IMAGE_AGE = 60.0  # the same for the id of an image
IMAGE_TIMEOUT = 1.0  # seconds that a launch waits for the id of its image
GUARDS_AGE = 1.0  # the same for the nodes whose guard runs
LOG_LINES = 15
DEPLOYMENT, USER, SERVER = f"{LABEL}.deployment", f"{LABEL}.user", f"{LABEL}.server"
PROJECT = f"{LABEL}.project"
Owner = tuple[str, str]  # user and server
Found = TypeVar("Found")
ALIVE = frozenset({"new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"})


@dataclass(frozen=True)
class Task:
    """The newest Swarm task of a server. status: Docker's `Status` object; desired: Swarm's desired state.

    project: XNAT's project, empty if unknown.
    """

    node_id: str
    desired: str
    status: Mapping[str, Any] = field(repr=False)
    project: str = ""

    @property
    def state(self) -> str:
        """Swarm's state, such as `pending`, `running` or `rejected`."""
        return str(self.status["State"])

    @property
    def alive(self) -> bool:
        """Whether it runs or may still start."""
        return self.state in ALIVE

    @property
    def wanted(self) -> bool:
        """Whether it is alive and Swarm wants it to run."""
        return self.alive and self.desired == "running"


@dataclass(frozen=True)
class Addresses:
    """Everything that may have an address on the servers' network: Docker's network, tasks and services."""

    network: Mapping[str, Any]
    tasks: list[dict[str, Any]] = field(repr=False)
    services: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Guards:
    """The ids of the nodes that keep notebooks apart, and of all others. gateway: the network's, empty for none."""

    guarded: frozenset[str]
    unguarded: frozenset[str]
    gateway: str


class Swarm:
    """The services of one deployment, on one network."""

    def __init__(self, docker: Docker, deployment: str, network: str) -> None:
        self._docker = docker
        self._network = network
        self._deployment = deployment
        self._mine = {"label": [f"{LABEL}.deployment={deployment}"]}
        self._wanted: set[Owner] = set()
        self._round: asyncio.Future[dict[Owner, Task]] | None = None
        self._nodes = Shared(self._list_nodes, NODES_AGE)
        self._addresses = Shared(self._list_addresses, ADDRESSES_AGE)
        self._images: dict[str, Shared[str]] = {}
        self._guards = Shared(self._list_guards, GUARDS_AGE)

    async def create(
        self, server: Owner, template: dict[str, Any], labels: Mapping[str, str], secret: bytes, reader: tuple[int, int]
    ) -> str:
        """Create a server's secret and service and replace older ones. Returns the service's id.

        template: the `TaskTemplate` without the secret. reader: (uid, gid) that may read the secret. Raises SwarmError.
        """
        name, former = self._names(server)
        with suppress(MissingError):
            await self._docker.get(f"/services/{former}")
            await self.remove(server)
        try:
            return await self._make(name, template, labels, secret, reader)
        except ConflictError:
            await self.remove(server)
            return await self._make(name, template, labels, secret, reader)

    async def _make(
        self, name: str, template: dict[str, Any], labels: Mapping[str, str], secret: bytes, reader: tuple[int, int]
    ) -> str:
        secret_name = name + ENV_SUFFIX
        data = base64.b64encode(secret).decode()
        made = await self._docker.create("secrets", {"Name": secret_name, "Data": data, "Labels": dict(labels)})
        container = {**template["ContainerSpec"], "Secrets": [secret_reference(made, secret_name, *reader)]}
        return await self._docker.create(
            "services",
            {
                "Name": name,
                "Labels": dict(labels),
                "TaskTemplate": {**template, "ContainerSpec": container},
                "Mode": {"Replicated": {"Replicas": 1}},
                "EndpointSpec": {"Mode": "dnsrr"},
            },
        )

    async def remove(self, server: Owner, patience: float = 20) -> tuple[bool, bool]:
        """Remove service and secret of a server if they exist, and wait until its container has ended.

        Returns whether there was a service, and whether its container ended within `patience` seconds; Swarm ends it in
        any case. Raises SwarmError.
        """
        removed = False
        for name in self._names(server):
            with suppress(MissingError):
                await self._docker.delete("services", name)
                removed = True
            # Before waiting, so that a launcher that is killed while it waits leaves no secret.
            with suppress(MissingError):
                await self._docker.delete("secrets", name + ENV_SUFFIX)
        return removed, not removed or await self._has_ended(server, patience)

    async def remove_by_id(self, service_id: str, user: str, server: str) -> bool:
        """Remove a service if its labels identify it as this server of this deployment, whatever its name.

        Any other service is left alone, since a caller may send any id. Returns whether it was removed. Raises
        SwarmError.
        """
        try:
            spec = (await self._docker.get(f"/services/{quote(service_id, safe='')}"))["Spec"]
            labels = spec.get("Labels") or {}
            if labels.get(DEPLOYMENT) != self._deployment or _owner(labels) != (user, server):
                return False
            await self._docker.delete("services", service_id)
        except MissingError:
            return False
        with suppress(MissingError):
            await self._docker.delete("secrets", spec["Name"] + ENV_SUFFIX)
        return True

    async def _has_ended(self, server: Owner, patience: float) -> bool:
        if not patience:
            return False
        # A server that is started again must not use the same files as the old one.
        try:
            async with asyncio.timeout(patience):
                while (task := await self.task(server)) and task.alive:
                    pass
        except TimeoutError:
            return False
        return True

    async def task(self, server: Owner) -> Task | None:
        """Return a server's newest task after LOOK seconds, None if there is none. Raises SwarmError."""
        self._wanted.add(server)
        if self._round is None:
            self._round = asyncio.ensure_future(self._ask_round())
        return (await asyncio.shield(self._round)).get(server)

    async def living(self) -> list[Owner]:
        """Return the servers that run or may still start. Raises SwarmError."""
        return [owner for owner, task in (await self._newest(self._mine)).items() if task.wanted]

    async def tasks(self, servers: Collection[Owner] | None = None) -> dict[Owner, Task]:
        """Return the newest task of each server. servers: only of these. Raises SwarmError."""
        return await self._newest(self._mine if servers is None else self._by_name(servers))

    async def image_id(self, name: str) -> str:
        """Return the id of an image on this node, `sha256:...`, at most IMAGE_AGE seconds old; empty if unknown.

        The rollout has compared the ids on all nodes. name: one of the few that the settings allow.
        """
        shared = self._images.setdefault(name, Shared(lambda: self._inspect_image(name), IMAGE_AGE))
        try:
            async with asyncio.timeout(IMAGE_TIMEOUT):
                return await shared.get()
        except (SwarmError, TimeoutError):
            return ""

    async def template(self, server: Owner) -> dict[str, Any]:
        """Return the `TaskTemplate` of a server's service. Raises SwarmError."""
        service = await self._of(server, lambda name: self._docker.get(f"/services/{name}"))
        return dict(service["Spec"]["TaskTemplate"])

    async def nodes(self) -> list[dict[str, Any]]:
        """Return Docker's list of nodes, at most NODES_AGE seconds old. Raises SwarmError."""
        return await self._nodes.get()

    async def addresses(self) -> Addresses:
        """Return what may have an address on the network, at most ADDRESSES_AGE seconds old. Raises SwarmError."""
        return await self._addresses.get()

    async def guards(self) -> Guards:
        """Return where servers may run, at most GUARDS_AGE seconds old. Raises SwarmError."""
        return await self._guards.get()

    async def servers(self) -> dict[Owner, str]:
        """Return the service id of every server of this deployment. Raises SwarmError."""
        found = {}
        for service in await self._docker.get("/services", self._mine):
            if owner := _owner(service["Spec"].get("Labels")):
                found[owner] = str(service["ID"])
        return found

    async def log_end(self, server: Owner) -> str:
        """Return the last log lines of a server. Raises SwarmError."""
        text = await self._of(server, lambda name: self._docker.log_end(name, LOG_LINES))
        return text.decode(errors="replace")

    async def remove_lone_secrets(self, older_than: float, but: Collection[str]) -> list[str]:
        """Remove servers' secrets without a service, as left by a launcher killed before it created the service.

        older_than: seconds; younger secrets may belong to a pending start, also on another manager. but: the services
        of servers that are starting. Returns the names of the removed secrets. Raises SwarmError.
        """
        secrets = await self._docker.get("/secrets", self._mine)
        services = {service["Spec"]["Name"] for service in await self._docker.get("/services", self._mine)}
        removed = []
        for secret in secrets:
            name = secret["Spec"]["Name"]
            service = name.removesuffix(ENV_SUFFIX)
            if not _owner(secret["Spec"].get("Labels")) or service in services or service in but:
                continue
            if _age(secret["CreatedAt"]) > older_than:
                with suppress(MissingError):
                    await self._docker.delete("secrets", secret["ID"])
                removed.append(name)
        return removed

    def _names(self, server: Owner) -> tuple[str, str]:
        """Return the names that a server's service may have: that of new ones, and that of former releases."""
        return service_name(self._deployment, *server), former_service_name(self._deployment, *server)

    async def _of(self, server: Owner, call: Callable[[str], Awaitable[Found]]) -> Found:
        """Make a call with the name that a server's service has. Raises SwarmError."""
        name, former = self._names(server)
        try:
            return await call(name)
        except MissingError:
            return await call(former)

    async def _ask_round(self) -> dict[Owner, Task]:
        await asyncio.sleep(LOOK)
        wanted, self._wanted, self._round = self._wanted, set(), None
        return await self._newest(self._by_name(wanted))

    def _by_name(self, servers: Collection[Owner]) -> dict[str, list[str]]:
        """Return a filter by the prefix of task names, since an unknown service name would be an error."""
        return {"name": [f"{name}." for server in sorted(servers) for name in self._names(server)]}

    async def _inspect_image(self, name: str) -> str:
        found = await self._docker.get(f"/images/{quote(name, safe='/:@')}/json")
        return str(found.get("Id", "")) if isinstance(found, dict) else ""

    async def _list_nodes(self) -> list[dict[str, Any]]:
        return list(await self._docker.get("/nodes"))

    async def _list_addresses(self) -> Addresses:
        network = await self._docker.get(f"/networks/{self._network}")
        return Addresses(network, list(await self._docker.get("/tasks")), list(await self._docker.get("/services")))

    async def _list_guards(self) -> Guards:
        # Swarm calls a task with a health check running once it is healthy: the guard's when the rules are loaded.
        running = {"name": [f"{guard_name(self._deployment)}."], "desired-state": ["running"]}
        tasks, nodes, network = await asyncio.gather(
            self._docker.get("/tasks", running),
            self._docker.get("/nodes"),
            self._docker.get(f"/networks/{self._network}"),
        )
        on = {str(task.get("NodeID")) for task in tasks if task["Status"]["State"] == "running"}
        ready = {str(node["ID"]) for node in nodes if (node.get("Status") or {}).get("State") == "ready"}
        pools = (network.get("IPAM") or {}).get("Config") or ()
        return Guards(
            frozenset(ready & on),
            frozenset(str(node["ID"]) for node in nodes) - (ready & on),
            next((str(pool["Gateway"]) for pool in pools if pool.get("Gateway")), ""),
        )

    async def _newest(self, filters: Mapping[str, Any]) -> dict[Owner, Task]:
        """Return the newest task of each server's service."""
        newest: dict[Owner, Any] = {}
        for found in await self._docker.get("/tasks", filters):
            owner = _owner(found["Spec"].get("ContainerSpec", {}).get("Labels"))
            if not owner:
                continue
            if owner not in newest or newest[owner]["CreatedAt"] < found["CreatedAt"]:
                newest[owner] = found
        return {
            owner: Task(
                found.get("NodeID", ""),
                found["DesiredState"],
                found["Status"],
                str(found["Spec"]["ContainerSpec"]["Labels"].get(PROJECT, "")),
            )
            for owner, found in newest.items()
        }


def _owner(labels: Mapping[str, str] | None) -> Owner | None:
    """Return the server that a service, secret or task with these labels belongs to; None for none."""
    user = (labels or {}).get(USER)
    return (user, (labels or {}).get(SERVER, "")) if user else None


def guard_name(deployment: str) -> str:
    """Return the name of the service that keeps notebooks apart on each node."""
    return f"{deployment}-guard"


def _age(created: str) -> float:
    """Return the seconds since one of Docker's timestamps, such as 2026-11-27T16:40:00.123456789Z."""
    return (datetime.now(UTC) - datetime.fromisoformat(created[:19] + "+00:00")).total_seconds()
