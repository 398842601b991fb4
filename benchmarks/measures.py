"""What is measured. Each measure takes the test bed and a number of repetitions and returns rows of the table.

Repetitions are interleaved (floor, plain, ours, floor, ...), so that a machine that gets slower does so for all.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.bed import DRIVER, FEATHER, PREFIX, XNAT_URL, Bed, Hub, Visitor, until
from benchmarks.slow_xnat import HANG, PASSWORD, SlowXnat
from benchmarks.stub_docker import PORT, StubDocker

USERS = [f"user{number:03d}" for number in range(50)]
SIDES = ("floor", "plain", "ours")
_numbers = itertools.count()


@dataclass
class Row:
    """A line of the table. runs: the values of each side. limit: the target, from the median of the floor."""

    measure: str
    unit: str
    limit: Callable[[float], float] | None = None
    runs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, side: str, value: float) -> None:
        """Note a value, and say it."""
        self.runs.setdefault(side, []).append(value)
        print(f"  {self.measure}: {side} {value:.3g} {self.unit}", flush=True)

    def median(self, side: str) -> float | None:
        """The middle value of a side, None if it was not measured."""
        return statistics.median(self.runs[side]) if self.runs.get(side) else None

    def target(self) -> float | None:
        """The target's value, None if the row has none."""
        return self.limit(self.median("floor") or 0.0) if self.limit else None


def rotated(repetition: int, sides: Sequence[str] = SIDES) -> list[str]:
    """The sides in another order each time, so that none always comes after the same one."""
    first = repetition % len(sides)
    return [*sides[first:], *sides[:first]]


def launches(count: int, prefix: str = "s") -> list[tuple[str, str]]:
    """Names (user, server) of new servers: XNAT gives each launch a name of its own."""
    return [(USERS[number], f"{prefix}{next(_numbers)}") for number in range(count)]


async def logins(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """Many people log in at once while XNAT is slow. The floor asks XNAT once for each, and nothing else."""
    rows = []
    for count, delay, limit in ((50, 0.2, 0.8), (20, 2.0, 2.3)):
        row = Row(f"{count} log-ins at once, XNAT at {delay:g} s", "s", lambda _, limit=limit: limit)  # type: ignore[misc]
        rows.append(row)
        for side in itertools.chain.from_iterable(rotated(repetition) for repetition in range(n)):
            xnat.delay = 0.0
            if side == "floor":
                async with aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", PASSWORD)) as session:
                    xnat.delay = delay
                    begin = time.monotonic()
                    await asyncio.gather(
                        *(_fetch(session, f"{XNAT_URL}/xapi/users/{name}/roles") for name in USERS[:count])
                    )
                    row.add(side, time.monotonic() - begin)
            else:
                async with AsyncExitStack() as stack:
                    visitors = [
                        await stack.enter_async_context(Visitor(bed.hubs[side], name)) for name in USERS[:count]
                    ]
                    xnat.delay = delay
                    begin = time.monotonic()
                    await asyncio.gather(*(visitor.log_in() for visitor in visitors))
                    row.add(side, time.monotonic() - begin)
    return rows


async def _fetch(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url) as response:
        response.raise_for_status()
        await response.read()


async def hang(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """XNAT hangs at one person's log-in or start; the others, for whom it answers at once, should not notice."""
    rows = []
    xnat.delay = 0.0
    xnat.image, xnat.command = FEATHER, "perl /feather.pl"
    stuck, others = USERS[0], USERS[1:11]
    for what in ("log-in", "start"):
        log_in = Row(f"XNAT hangs {HANG:g} s at a {what}: worst log-in of others", "s", lambda _: 0.150)
        health = Row(f"XNAT hangs {HANG:g} s at a {what}: worst /hub/health", "s", lambda _: 0.050)
        rows += [log_in, health]
        for side in itertools.chain.from_iterable(rotated(repetition, ("plain", "ours")) for repetition in range(n)):
            hub = bed.hubs[side]
            async with AsyncExitStack() as stack:
                visitors = [await stack.enter_async_context(Visitor(hub, name)) for name in (stuck, *others)]
                xnat.hanging = {stuck}
                first = visitors[0].log_in() if what == "log-in" else hub.start([(stuck, f"s{next(_numbers)}")])
                hanging = asyncio.ensure_future(first)
                await until("request that hangs", _is_asked(xnat, stuck))
                waiting = [
                    asyncio.create_task(_later(0.3 * number, visitor.log_in))
                    for number, visitor in enumerate(visitors[1:])
                ]
                worst = 0.0
                while not all(task.done() for task in waiting) or not hanging.done():
                    worst = max(worst, await hub.health())
                    await asyncio.sleep(0.05)
                log_in.add(side, max(await asyncio.gather(*waiting)))
                health.add(side, worst)
                await asyncio.gather(hanging, return_exceptions=True)  # the hub may give up on XNAT, and should
                xnat.hanging = set()
            await hub.stop(await hub.servers())
            await bed.clear_servers()
    return rows


def _is_asked(xnat: SlowXnat, user: str) -> Callable[[], Any]:
    async def condition() -> bool:
        return user in xnat.asked

    return condition


async def _later(seconds: float, call: Callable[[], Any]) -> float:
    await asyncio.sleep(seconds)
    return float(await call())


async def specimen(bed: Bed) -> dict[str, Any]:
    """Return the specification of a service that our hub makes for USERS[0]; it is gone again."""
    hub, names = bed.hubs["ours"], launches(1)
    await hub.start(names)
    found = await bed.docker.listed("services", name=f"{PREFIX}-ours-")
    await hub.stop(names)
    await bed.clear_servers()
    text = json.dumps(found[0]["Spec"]).replace(f'"{PREFIX}-ours"', f'"{PREFIX}-floor"')  # labels: not that hub's own
    spec: dict[str, Any] = json.loads(text)
    return spec


async def floor_start(bed: Bed, spec: dict[str, Any], count: int) -> float:
    """Start servers like `spec` with nothing but Docker's API; return the seconds until all of them answer."""
    docker = bed.docker
    container = spec["TaskTemplate"]["ContainerSpec"]
    path = dict(variable.split("=", 1) for variable in container["Env"])["JUPYTERHUB_SERVICE_PREFIX"]
    # A real server asks the hub who it is. All are the same person's here, since they have one specification.
    token = (await bed.hubs["ours"].api("POST", f"users/{USERS[0]}/tokens"))["token"]
    variables = b64encode(f"JUPYTERHUB_API_TOKEN={token}\n".encode()).decode()

    async def one(http: aiohttp.ClientSession, name: str) -> None:
        secret = await docker.call("POST", "/secrets/create", json={"Name": f"{name}-env", "Data": variables})
        reference = {**container["Secrets"][0], "SecretID": secret["ID"], "SecretName": f"{name}-env"}
        template = {**spec["TaskTemplate"], "ContainerSpec": {**container, "Secrets": [reference]}}
        await docker.call("POST", "/services/create", json={**spec, "Name": name, "TaskTemplate": template})

        async def runs() -> bool:
            tasks = await docker.call("GET", "/tasks", params={"filters": json.dumps({"service": [name]})})
            return bool(tasks) and tasks[0]["Status"]["State"] == "running"

        async def answers() -> bool:
            try:
                async with http.get(f"http://{name}:8888{path}", allow_redirects=False) as response:
                    return response.status < 500
            except aiohttp.ClientError:
                return False

        await until(f"running task of {name}", runs)
        await until(f"answer of {name}", answers)

    async with aiohttp.ClientSession() as http:
        begin = time.monotonic()
        await asyncio.gather(*(one(http, f"{PREFIX}-floor-{next(_numbers)}") for _ in range(count)))
        return time.monotonic() - begin


async def _starts(bed: Bed, xnat: SlowXnat, n: int, count: int, row: Row) -> list[Row]:
    """Start `count` servers at once, n times; return the row, and the hubs' CPU time and memory for each start."""
    cpu = Row(f"hub's CPU for each of {count} starts", "s")
    memory = Row(f"hub's memory for each of {count} starts", "MB")
    xnat.delay = 0.2
    spec = await specimen(bed)
    for side in itertools.chain.from_iterable(rotated(repetition) for repetition in range(n)):
        servers = launches(count)
        if side == "floor":
            row.add(side, await floor_start(bed, spec, count))
        else:
            hub = bed.hubs[side]
            before = await bed.docker.usage(hub.container)
            row.add(side, await hub.start(servers))
            after = await bed.docker.usage(hub.container)
            cpu.add(side, (after[0] - before[0]) / count)
            memory.add(side, (after[1] - before[1]) / count)
            await hub.stop(servers)
        await bed.clear_servers()
    return [row, cpu, memory]


async def start(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """One start of a server that costs nothing."""
    xnat.image, xnat.command = FEATHER, "perl /feather.pl"
    row = Row("1 featherweight start, XNAT at 0.2 s", "s", lambda floor: floor + 0.2 + 0.2)
    return (await _starts(bed, xnat, n, 1, row))[:1]


async def starts(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """Twenty starts at once of servers that cost nothing."""
    xnat.image, xnat.command = FEATHER, "perl /feather.pl"
    row = Row("20 featherweight starts at once, XNAT at 0.2 s", "s", lambda floor: 1.25 * floor)
    return await _starts(bed, xnat, n, 20, row)


async def real(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """Twenty real single-user servers at once. The target of the issue: half of the official hub's 41.7 s."""
    xnat.image, xnat.command = bed.singleuser, None
    row = Row("20 real single-user servers at once, XNAT at 0.2 s", "s", lambda _: 41.7 / 2)
    return (await _starts(bed, xnat, n, 20, row))[:1]


async def many(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """A hundred and then a thousand running servers, on a stub of Docker's API."""
    xnat.image, xnat.command, xnat.delay = FEATHER, "perl /feather.pl", 0.0
    rows: dict[str, Row] = {}

    def add(measure: str, unit: str, side: str, value: float) -> None:
        rows.setdefault(measure, Row(measure, unit)).add(side, value)

    for side in itertools.chain.from_iterable(rotated(repetition, ("plain", "ours")) for repetition in range(n)):
        config = "/opt/bench/stub_config.py" if side == "ours" else "/opt/bench/plain_config.py"
        stub = StubDocker()
        await stub.up()
        environment = [f"DOCKER_HOST=tcp://{DRIVER}:{PORT}", f"BENCH_SERVER={DRIVER}"]
        hub = await bed.hub(f"many-{side}", config, environment=environment, docker_socket=False)
        running: list[tuple[str, str]] = []
        memory: list[float] = []
        for count in (100, 1000):
            begin = time.monotonic()
            while len(running) < count:
                batch = [(f"many{number:04d}", "s") for number in range(len(running), len(running) + 50)]
                await hub.add_users(user for user, _ in batch)
                await hub.start(batch)
                running += batch
            print(f"  {side}: {count} servers run after {time.monotonic() - begin:.0f} s", flush=True)
            await asyncio.sleep(2 * 30)  # JupyterHub polls each server every 30 s: two rounds
            stub.requests.clear()
            before = await bed.docker.usage(hub.container)
            await asyncio.sleep(60)
            after = await bed.docker.usage(hub.container)
            memory.append(after[1])
            add(f"{count} servers: hub's CPU in a minute", "s", side, after[0] - before[0])
            add(f"{count} servers: requests to Docker in a minute", "", side, stub.requests.total())
            add(f"{count} servers: hub's memory", "MB", side, after[1])
            health, user, users = await _latencies(hub, running, 30)
            for name, values in (("/hub/health", health), ("GET user", user)):
                cuts = statistics.quantiles(values, n=100, method="inclusive")
                add(f"{count} servers: {name}, median", "s", side, cuts[49])
                add(f"{count} servers: {name}, 99 %", "s", side, cuts[98])
                add(f"{count} servers: {name}, worst", "s", side, max(values))
            add(f"{count} servers: GET all users", "s", side, users)
        add("hub's memory for each 100 servers", "MB", side, (memory[1] - memory[0]) / 9)
        await bed.hubs.pop(hub.name).down()
        await stub.down()
    return list(rows.values())


async def _latencies(
    hub: Hub, running: Sequence[tuple[str, str]], seconds: float
) -> tuple[list[float], list[float], float]:
    """Seconds of each /hub/health and each GET of a user, asked in turn, and of one GET of all users."""
    health, user = [], []
    names = itertools.cycle(name for name, _ in running)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        health.append(await hub.health())
        begin = time.monotonic()
        await hub.api("GET", f"users/{next(names)}")
        user.append(time.monotonic() - begin)
        await asyncio.sleep(0.05)
    begin = time.monotonic()
    await hub.api("GET", "users")
    return health, user, time.monotonic() - begin


MEASURES = {  # name: the measure, and how often it is repeated if nobody says
    "logins": (logins, 5),
    "hang": (hang, 2),
    "start": (start, 10),
    "starts": (starts, 3),
    "real": (real, 3),
    "many": (many, 1),
}
