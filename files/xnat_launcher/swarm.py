"""Docker Swarm as the spawner uses it: one service and one secret for each server, named after it.

Docker's client library blocks, so each call runs in a thread, with the client's time limit. What several servers ask
at the same moment is asked once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import requests
from docker.errors import APIError, DockerException
from urllib3.exceptions import HTTPError

from xnat_hub.service import ENV_SUFFIX, LABEL, secret_reference, service_name

Answer = TypeVar("Answer")

THREADS = 16
LOOK = 0.1  # seconds that a look at a task takes; whoever looks in that time shares its request
LISTING_AGE = 10.0  # seconds that one listing of the deployment's tasks serves the hub's regular polls
NODES_AGE = 5.0  # the same for the list of nodes
ADDRESSES_AGE = 5.0  # the same for what has addresses on the network
LOG_LINES = 15
LOG_TIMEOUT = 5.0  # seconds without a word of a log that is read
ALIVE = frozenset({"new", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"})


class SwarmError(Exception):
    """Docker did not do what it was asked: one sentence for the log."""


class UnreachableError(SwarmError):
    """Docker did not answer, or not in time."""


class MissingError(SwarmError):
    """What was asked for does not exist."""


class ConflictError(SwarmError):
    """What should be made exists already."""


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
    """The services of one deployment, on one network.

    connect: makes Docker's client; called in a thread, since it may block.
    """

    def __init__(self, connect: Callable[[], Any], deployment: str, network: str) -> None:
        self._connect = connect
        self._network = network
        self._client: Any = None
        self._deployment = deployment
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="docker")
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
        A cancelled call ends only when Docker has answered, so that what it made can be removed.
        """
        making = asyncio.ensure_future(self._create(name, template, labels, secret, owner))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            await asyncio.wait([making])
            raise

    async def _create(
        self, name: str, template: dict[str, Any], labels: Mapping[str, str], secret: bytes, owner: tuple[int, int]
    ) -> str:
        try:
            return await self._make(name, template, labels, secret, owner)
        except ConflictError:
            await self.remove(name)
            return await self._make(name, template, labels, secret, owner)

    async def _make(
        self, name: str, template: dict[str, Any], labels: Mapping[str, str], secret: bytes, owner: tuple[int, int]
    ) -> str:
        secret_name = name + ENV_SUFFIX
        made = await self._call("create_secret", secret_name, secret, labels=labels)
        container = {**template["ContainerSpec"], "Secrets": [secret_reference(made["ID"], secret_name, *owner)]}
        created = await self._call(
            "create_service",
            {**template, "ContainerSpec": container},
            name=name,
            labels=labels,
            mode={"Replicated": {"Replicas": 1}},
            endpoint_spec={"Mode": "dnsrr"},
        )
        return str(created["ID"])

    async def remove(self, name: str, patience: float = 20) -> bool:
        """Remove service and secret of a server where they exist, and wait until its container has ended.

        Returns False if that took longer than `patience` seconds: Swarm then ends it by itself. Raises SwarmError.
        """
        try:
            await self._call("remove_service", name)
        except MissingError:
            ended = True
        else:
            ended = await self._until_ended(name, patience)
        with suppress(MissingError):
            await self._call("remove_secret", name + ENV_SUFFIX)
        return ended

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

    async def nodes(self) -> list[dict[str, Any]]:
        """Return Docker's list of nodes, at most NODES_AGE seconds old. Raises SwarmError."""
        return await self._nodes.get()

    async def addresses(self) -> Addresses:
        """Return what has addresses on the network, at most ADDRESSES_AGE seconds old. Raises SwarmError."""
        return await self._addresses.get()

    async def log_end(self, name: str) -> str:
        """Return the last lines that a server wrote. Raises SwarmError."""
        text = await self._in_thread(lambda client: read_log(client, name, tail=LOG_LINES))
        return text.decode(errors="replace")

    async def _ask_round(self) -> dict[str, Task]:
        await asyncio.sleep(LOOK)
        names, self._wanted, self._round = self._wanted, set(), None
        # By the beginning of the tasks' names: unlike a service's name, one that is unknown makes no error.
        return await self._tasks({"name": [f"{name}." for name in sorted(names)]})

    async def _list_nodes(self) -> list[dict[str, Any]]:
        return list(await self._call("nodes"))

    async def _list_addresses(self) -> Addresses:
        network = await self._call("inspect_network", self._network)
        return Addresses(network, list(await self._call("tasks")), list(await self._call("services")))

    async def _list_all(self) -> dict[str, Task]:
        return await self._tasks({"label": [f"{LABEL}.deployment={self._deployment}"]})

    async def _tasks(self, filters: Mapping[str, Any]) -> dict[str, Task]:
        """Return the newest task of each server's service, by the service's name."""
        newest: dict[str, Any] = {}
        for found in await self._call("tasks", filters=filters):
            labels = found["Spec"]["ContainerSpec"].get("Labels") or {}
            user = labels.get(f"{LABEL}.user")
            if not user:
                continue
            name = service_name(self._deployment, user, labels.get(f"{LABEL}.server", ""))
            if name not in newest or newest[name]["CreatedAt"] < found["CreatedAt"]:
                newest[name] = found
        return {
            name: Task(found.get("NodeID", ""), found["DesiredState"], found["Status"])
            for name, found in newest.items()
        }

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await self._in_thread(lambda client: getattr(client, method)(*args, **kwargs))

    async def _in_thread(self, ask: Callable[[Any], Answer]) -> Answer:
        def work() -> Answer:
            if self._client is None:
                self._client = self._connect()
            return ask(self._client)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except APIError as error:
            named = {404: MissingError, 409: ConflictError}.get(error.status_code or 0, SwarmError)
            raise named(str(error.explanation or error)) from error
        except (DockerException, requests.RequestException) as error:
            raise UnreachableError(f"Docker does not answer ({type(error).__name__})") from error


def read_log(client: Any, service: str, **options: int) -> bytes:
    """Return what a service wrote, as far as it comes within LOG_TIMEOUT seconds of each other.

    Docker's own function waits for ever when a node does not send its part. options: `tail`, `since`, as Docker has
    them.
    """
    url = f"{client.base_url}/v{client.api_version}/services/{service}/logs"
    parts: list[bytes] = []
    parameters = {"stdout": 1, "stderr": 1, **options}
    with client.get(url, params=parameters, stream=True, timeout=LOG_TIMEOUT) as answer:
        answer.raise_for_status()
        with suppress(OSError, HTTPError):
            while header := answer.raw.read(8):  # stream, three zeros, length
                parts.append(answer.raw.read(int.from_bytes(header[4:], "big")))
    return b"".join(parts)


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
