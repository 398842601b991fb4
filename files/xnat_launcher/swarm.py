"""The services of one deployment: one service and one secret for each server, named after it.

What several servers ask at the same moment is asked once.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from xnat_launcher.docker import ConflictError, Docker, MissingError
from xnat_launcher.service import ENV_SUFFIX, LABEL, secret_reference, service_name

Answer = TypeVar("Answer")

LOOK = 0.1  # seconds that a look at a task takes; whoever looks in that time shares its request
LISTING_AGE = 10.0  # seconds that one listing of the deployment's tasks serves the hub's regular polls
NODES_AGE = 5.0  # the same for the list of nodes
ADDRESSES_AGE = 5.0  # the same for what has addresses on the network
LOG_LINES = 15
USER, SERVER = f"{LABEL}.user", f"{LABEL}.server"
ALIVE = frozenset({"new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"})


@dataclass(frozen=True)
class Task:
    """Swarm's newest try to run a server. status: Docker's `Status` object; desired: what Swarm wants it to be."""

    node_id: str
    desired: str
    status: Mapping[str, Any] = field(repr=False)

    @property
    def state(self) -> str:
        """Swarm's word, such as `pending`, `running` or `rejected`."""
        return str(self.status["State"])

    @property
    def alive(self) -> bool:
        """Whether it runs or may still come to run."""
        return self.state in ALIVE

    @property
    def wanted(self) -> bool:
        """Whether it is alive and Swarm wants it to be."""
        return self.alive and self.desired == "running"


@dataclass(frozen=True)
class Addresses:
    """What has addresses on the servers' network: Docker's objects of the network, and of all tasks and services."""

    network: Mapping[str, Any]
    tasks: list[dict[str, Any]] = field(repr=False)
    services: list[dict[str, Any]] = field(repr=False)


class Swarm:
    """The services of one deployment, on one network."""

    def __init__(self, docker: Docker, deployment: str, network: str) -> None:
        self._docker = docker
        self._network = network
        self._deployment = deployment
        self._mine = {"label": [f"{LABEL}.deployment={deployment}"]}
        self._wanted: set[str] = set()
        self._round: asyncio.Future[dict[str, Task]] | None = None
        self._listing = Shared(self._list_all, LISTING_AGE)
        self._nodes = Shared(self._list_nodes, NODES_AGE)
        self._addresses = Shared(self._list_addresses, ADDRESSES_AGE)

    async def create(
        self, name: str, template: dict[str, Any], labels: Mapping[str, str], secret: bytes, owner: tuple[int, int]
    ) -> str:
        """Make a server's secret and service, in place of older ones of that name. Returns the service's id.

        template: the `TaskTemplate` without the secret. owner: (uid, gid) that may read the secret. Raises SwarmError.
        """
        try:
            return await self._make(name, template, labels, secret, owner)
        except ConflictError:
            await self.remove(name)
            return await self._make(name, template, labels, secret, owner)

    async def _make(
        self, name: str, template: dict[str, Any], labels: Mapping[str, str], secret: bytes, owner: tuple[int, int]
    ) -> str:
        secret_name = name + ENV_SUFFIX
        data = base64.b64encode(secret).decode()
        made = await self._docker.post("/secrets/create", {"Name": secret_name, "Data": data, "Labels": dict(labels)})
        container = {**template["ContainerSpec"], "Secrets": [secret_reference(made["ID"], secret_name, *owner)]}
        created = await self._docker.post(
            "/services/create",
            {
                "Name": name,
                "Labels": dict(labels),
                "TaskTemplate": {**template, "ContainerSpec": container},
                "Mode": {"Replicated": {"Replicas": 1}},
                "EndpointSpec": {"Mode": "dnsrr"},
            },
        )
        return str(created["ID"])

    async def remove(self, name: str, patience: float = 20) -> tuple[bool, bool]:
        """Remove service and secret of a server where they exist, and wait until its container has ended.

        Returns whether there was a service, and False if the end took longer than `patience` seconds: Swarm then ends it
        by itself. Raises SwarmError.
        """
        try:
            await self._docker.delete("services", name)
            removed, ended = True, await self._until_ended(name, patience)
        except MissingError:
            removed, ended = False, True
        with suppress(MissingError):
            await self._docker.delete("secrets", name + ENV_SUFFIX)
        return removed, ended

    async def _until_ended(self, name: str, patience: float) -> bool:
        # A quick restart must not meet the old server on the same files.
        try:
            async with asyncio.timeout(patience):
                while (task := await self.task(name)) and task.alive:
                    pass
        except TimeoutError:
            return False
        return True

    async def task(self, name: str, from_listing: bool = False) -> Task | None:
        """Return a service's newest task after LOOK seconds, None when there is none. Raises SwarmError.

        from_listing: be content with a listing of up to LISTING_AGE seconds if the task was alive then.
        """
        if from_listing:
            listed = (await self._listing.get()).get(name)
            if listed and listed.alive:
                return listed
        self._wanted.add(name)
        if self._round is None:
            self._round = asyncio.ensure_future(self._ask_round())
        return (await asyncio.shield(self._round)).get(name)

    async def template(self, name: str) -> dict[str, Any]:
        """Return a service's `TaskTemplate`. Raises SwarmError."""
        return dict((await self._docker.get(f"/services/{name}"))["Spec"]["TaskTemplate"])

    async def nodes(self) -> list[dict[str, Any]]:
        """Return Docker's list of nodes, at most NODES_AGE seconds old. Raises SwarmError."""
        return await self._nodes.get()

    async def addresses(self) -> Addresses:
        """Return what has addresses on the network, at most ADDRESSES_AGE seconds old. Raises SwarmError."""
        return await self._addresses.get()

    async def servers(self) -> list[tuple[str, str]]:
        """Return (user, server) of every server of this deployment that has a service. Raises SwarmError."""
        found = await self._docker.get("/services", self._mine)
        labels = [service["Spec"].get("Labels") or {} for service in found]
        return [(each[USER], each.get(SERVER, "")) for each in labels if each.get(USER)]

    async def log_end(self, name: str) -> str:
        """Return the last lines that a server wrote. Raises SwarmError."""
        return (await self._docker.log_end(name, LOG_LINES)).decode(errors="replace")

    async def remove_lone_secrets(self, older_than: float) -> list[str]:
        """Remove servers' secrets without a service, as a launcher leaves them that is killed between both.

        older_than: seconds; younger ones may belong to a start under way. Returns their names. Raises SwarmError.
        """
        secrets = await self._docker.get("/secrets", self._mine)
        services = {service["Spec"]["Name"] for service in await self._docker.get("/services", self._mine)}
        removed = []
        for secret in secrets:
            name = secret["Spec"]["Name"]
            owned = USER in (secret["Spec"].get("Labels") or {})
            if owned and name.removesuffix(ENV_SUFFIX) not in services and _age(secret["CreatedAt"]) > older_than:
                with suppress(MissingError):
                    await self._docker.delete("secrets", secret["ID"])
                removed.append(name)
        return removed

    async def _ask_round(self) -> dict[str, Task]:
        await asyncio.sleep(LOOK)
        names, self._wanted, self._round = self._wanted, set(), None
        # By the beginning of the tasks' names: unlike a service's name, one that is unknown makes no error.
        return await self._tasks({"name": [f"{name}." for name in sorted(names)]})

    async def _list_nodes(self) -> list[dict[str, Any]]:
        return list(await self._docker.get("/nodes"))

    async def _list_addresses(self) -> Addresses:
        network = await self._docker.get(f"/networks/{self._network}")
        return Addresses(network, list(await self._docker.get("/tasks")), list(await self._docker.get("/services")))

    async def _list_all(self) -> dict[str, Task]:
        return await self._tasks(self._mine)

    async def _tasks(self, filters: Mapping[str, Any]) -> dict[str, Task]:
        """Return the newest task of each server's service, by the service's name."""
        newest: dict[str, Any] = {}
        for found in await self._docker.get("/tasks", filters):
            labels = found["Spec"]["ContainerSpec"].get("Labels") or {}
            user = labels.get(USER)
            if not user:
                continue
            name = service_name(self._deployment, user, labels.get(SERVER, ""))
            if name not in newest or newest[name]["CreatedAt"] < found["CreatedAt"]:
                newest[name] = found
        return {
            name: Task(found.get("NodeID", ""), found["DesiredState"], found["Status"])
            for name, found in newest.items()
        }


def _age(created: str) -> float:
    """Return the seconds since a time of Docker's, such as 2026-11-27T16:40:00.123456789Z."""
    return (datetime.now(UTC) - datetime.fromisoformat(created[:19] + "+00:00")).total_seconds()


class Shared(Generic[Answer]):
    """A question whose answer serves everybody who asks within `age` seconds; one that failed is asked again."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, Answer]], age: float) -> None:
        self._ask = ask
        self._age = age
        self._asked = 0.0
        self._answer: asyncio.Future[Answer] | None = None

    async def get(self) -> Answer:
        """Return the answer, or raise the asking's error."""
        now = asyncio.get_running_loop().time()
        answer = self._answer
        if answer is None or (
            answer.done() and (answer.cancelled() or answer.exception() or now - self._asked > self._age)
        ):
            self._asked = now
            answer = self._answer = asyncio.ensure_future(self._ask())
        return await asyncio.shield(answer)
