"""The measures. Each takes the test bed and a number of repetitions and returns rows of the table.

Repetitions are interleaved (floor, plain, before, ours, floor, ...), so that a slower machine is slower for all sides.
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

from benchmarks import transfer as bulk
from benchmarks.bed import CONFIGS, DRIVER, FEATHER, PREFIX, STUB_DIR, XNAT_URL, Bed, Hub, Visitor, until
from benchmarks.slow_xnat import HANG, PASSWORD, SlowXnat
from benchmarks.stub_docker import StubDocker

USERS = [f"user{number:03d}" for number in range(50)]
FLOOR = "floor"
CORE = ("hub", "launcher")  # the parts that are this project's own code
SETTLE = 20.0  # seconds before the memory or the idle CPU time of hubs is measured
MEMORY = 170.0  # MB of hub, launcher and proxy together, at most
_numbers = itertools.count()


@dataclass
class Row:
    """A line of the table. runs: the values of each side. limits: targets for `ours`, None where one does not apply."""

    measure: str
    unit: str
    limits: Sequence[Callable[[Row], float | None]] = ()
    runs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, side: str, value: float) -> None:
        """Record a value, and print it."""
        self.runs.setdefault(side, []).append(value)
        print(f"  {self.measure}: {side} {value:.3g} {self.unit}", flush=True)

    def median(self, side: str) -> float | None:
        """The middle value of a side, None if it was not measured."""
        return statistics.median(self.runs[side]) if self.runs.get(side) else None

    def target(self) -> float | None:
        """The strictest target, None if the row has none."""
        return min((value for limit in self.limits if (value := limit(self)) is not None), default=None)


def at_most(value: float) -> Callable[[Row], float | None]:
    """Return a constant target."""
    return lambda _: value


def beside(side: str, plus: float = 0.0, times: float = 1.0) -> Callable[[Row], float | None]:
    """Return a target derived from the median of another side."""

    def limit(row: Row) -> float | None:
        median = row.median(side)
        return None if median is None else times * median + plus

    return limit


def rotated(n: int, sides: Sequence[str]) -> list[str]:
    """Return the sides n times, in a different order each time, so that none always follows the same one."""
    orders = ([*sides[number % len(sides) :], *sides[: number % len(sides)]] for number in range(n))
    return list(itertools.chain.from_iterable(orders))


def launches(count: int, prefix: str = "s") -> list[tuple[str, str]]:
    """Names (user, server) of new servers: XNAT gives each launch a name of its own."""
    return [(USERS[number], f"{prefix}{next(_numbers)}") for number in range(count)]


async def logins(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """Many people log in at once while XNAT is slow. The floor is one request to XNAT for each."""
    rows = []
    for count, delay, limit in ((50, 0.2, 0.8), (20, 2.0, 2.3)):
        row = Row(f"{count} log-ins at once, XNAT at {delay:g} s", "s", [at_most(limit)])
        rows.append(row)
        for side in rotated(n, [FLOOR, *bed.sides]):
            xnat.delay = 0.0
            if side == FLOOR:
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
    """XNAT hangs at one person's log-in or start; it answers the others at once, who should not notice."""
    rows = []
    xnat.delay = 0.0
    xnat.image, xnat.command = FEATHER, "perl /feather.pl"
    stuck, others = USERS[0], USERS[1:11]
    for what in ("log-in", "start"):
        log_in = Row(f"XNAT hangs {HANG:g} s at a {what}: worst log-in of others", "s", [at_most(0.150)])
        health = Row(f"XNAT hangs {HANG:g} s at a {what}: worst /hub/health", "s", [at_most(0.050)])
        rows += [log_in, health]
        for side in rotated(n, list(bed.sides)):
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
    """Return the specification of a service that our hub creates for USERS[0]; the service is removed."""
    hub, names = bed.hubs["ours"], launches(1)
    await hub.start(names)
    found = await bed.docker.listed("services", name=f"{PREFIX}-ours-", label=f"org.xnat.jupyterhub.user={USERS[0]}")
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
    """Start `count` servers at once, n times; return the row, and the CPU time of hub and launcher for each start."""
    cpu = Row(f"CPU of hub and launcher for each of {count} starts", "s")
    xnat.delay = 0.2
    spec = await specimen(bed)
    for side in rotated(n, [FLOOR, *bed.sides]):
        servers = launches(count)
        if side == FLOOR:
            row.add(side, await floor_start(bed, spec, count))
        else:
            hub = bed.hubs[side]
            before = await hub.usage()
            row.add(side, await hub.start(servers))
            after = await hub.usage()
            cpu.add(side, sum(after[part][0] - before[part][0] for part in CORE if part in after) / count)
            await hub.stop(servers)
        await bed.clear_servers()
    return [row, cpu]


async def start(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """One start of a server that costs nothing."""
    xnat.image, xnat.command = FEATHER, "perl /feather.pl"
    row = Row("1 featherweight start, XNAT at 0.2 s", "s", [beside(FLOOR, 0.2 + 0.2)])
    await _starts(bed, xnat, n, 1, row)
    return [row, *more_than_before(row, 0.1)]


def more_than_before(row: Row, limit: float) -> list[Row]:
    """Return a row with what `ours` takes more than `before` in each repetition; none without `before`."""
    if not row.runs.get("before"):
        return []
    found = [ours - before for ours, before in zip(row.runs["ours"], row.runs["before"], strict=True)]
    return [Row(f"{row.measure}: ours - before", row.unit, [at_most(limit)], {"ours": found})]


async def starts(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """Twenty starts at once of servers that cost nothing."""
    xnat.image, xnat.command = FEATHER, "perl /feather.pl"
    limits = [beside(FLOOR, times=1.25)]
    return await _starts(bed, xnat, n, 20, Row("20 featherweight starts at once, XNAT at 0.2 s", "s", limits))


async def real(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """Twenty real single-user servers at once. The target: half of the official hub's 41.7 s."""
    xnat.image, xnat.command = bed.singleuser, None
    row = Row("20 real single-user servers at once, XNAT at 0.2 s", "s", [at_most(41.7 / 2)])
    return (await _starts(bed, xnat, n, 20, row))[:1]


async def memory(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """Memory of fresh hubs and their parts, with no server and with 20."""
    xnat.image, xnat.command, xnat.delay = FEATHER, "perl /feather.pl", 0.0
    rows: dict[str, Row] = {}
    for side in rotated(n, list(bed.sides)):
        hub = await bed.hub(f"memory-{side}", side)
        await hub.add_users(USERS)
        for count in (0, 20):
            if count:
                await hub.start(launches(count))
            await asyncio.sleep(SETTLE)
            used = await hub.usage()
            name = f"memory of hub, launcher and proxy, {count} servers"
            row = rows.setdefault(name, Row(name, "MB", [at_most(MEMORY)]))
            row.add(side, sum(megabytes for _, megabytes in used.values()))
            for part, (_, megabytes) in used.items():
                name = f"memory of the {part}, {count} servers"
                rows.setdefault(name, Row(name, "MB")).add(side, megabytes)
        await hub.stop(await hub.servers())
        await bed.remove_hub(hub.name)
        await bed.clear_servers()
    return list(rows.values())


async def idle(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """CPU time of idle hubs in n minutes, with no server and with 20, all sides in the same minutes."""
    xnat.image, xnat.command, xnat.delay = FEATHER, "perl /feather.pl", 0.0
    rows: dict[str, Row] = {}
    for count in (0, 20):
        if count:
            for side in bed.sides:
                await bed.hubs[side].start(launches(count))
        await asyncio.sleep(SETTLE)
        before = {side: await bed.hubs[side].usage() for side in bed.sides}
        for _ in range(n):
            await asyncio.sleep(60)
            after = {side: await bed.hubs[side].usage() for side in bed.sides}
            for side, found in after.items():
                spent = {part: seconds - before[side][part][0] for part, (seconds, _) in found.items()}
                name = f"idle, {count} servers: CPU of hub and launcher in a minute"
                row = rows.setdefault(name, Row(name, "s", [beside("before")]))
                row.add(side, sum(seconds for part, seconds in spent.items() if part in CORE))
                for part, seconds in spent.items():
                    name = f"idle, {count} servers: CPU of the {part} in a minute"
                    rows.setdefault(name, Row(name, "s")).add(side, seconds)
            before = after
    for side in bed.sides:
        await bed.hubs[side].stop(await bed.hubs[side].servers())
    await bed.clear_servers()
    return list(rows.values())


async def many(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """A hundred and then a thousand running servers, on a stub of Docker's API."""
    xnat.image, xnat.command, xnat.delay = FEATHER, "perl /feather.pl", 0.0
    rows: dict[str, Row] = {}

    def add(measure: str, unit: str, side: str, value: float) -> None:
        rows.setdefault(measure, Row(measure, unit)).add(side, value)

    for side in rotated(n, list(bed.sides)):
        stub = StubDocker()
        await stub.up(f"{STUB_DIR}/docker.sock")
        hub = await bed.hub(
            f"many-{side}",
            side,
            config=bed.sides[side].config if side == "plain" else f"{CONFIGS}/stub_config.py",
            environment=[f"BENCH_SERVER={DRIVER}"],
            docker_socket=f"{await bed.stub_dir()}/docker.sock",
        )
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
            before = await hub.usage()
            await asyncio.sleep(60)
            after = await hub.usage()
            core = [part for part in CORE if part in after]
            memory.append(sum(after[part][1] for part in core))
            spent = {part: after[part][0] - before[part][0] for part in core}
            add(f"{count} servers: CPU of hub and launcher in a minute", "s", side, sum(spent.values()))
            add(f"{count} servers: requests to Docker in a minute", "", side, stub.requests.total())
            add(f"{count} servers: memory of hub and launcher", "MB", side, memory[-1])
            for part in core:
                add(f"{count} servers: CPU of the {part} in a minute", "s", side, spent[part])
                add(f"{count} servers: memory of the {part}", "MB", side, after[part][1])
            health, user, users = await _latencies(hub, running, 30)
            for name, values in (("/hub/health", health), ("GET user", user)):
                cuts = statistics.quantiles(values, n=100, method="inclusive")
                add(f"{count} servers: {name}, median", "s", side, cuts[49])
                add(f"{count} servers: {name}, 99 %", "s", side, cuts[98])
                add(f"{count} servers: {name}, worst", "s", side, max(values))
            add(f"{count} servers: GET all users", "s", side, users)
        add("memory of hub and launcher for each 100 servers", "MB", side, (memory[1] - memory[0]) / 9)
        await bed.remove_hub(hub.name)
        await stub.down()
    return list(rows.values())


async def _latencies(
    hub: Hub, running: Sequence[tuple[str, str]], seconds: float
) -> tuple[list[float], list[float], float]:
    """Return the seconds of each /hub/health and each GET of a user, sent alternately, and of one GET of all users."""
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


async def transfer(bed: Bed, xnat: SlowXnat, n: int) -> list[Row]:
    """A gigabyte from XNAT to a notebook through the gate. The floor is without it; the bound, 80 % of that speed."""
    rows = [Row(f"1 GB from XNAT {line}", "s", [beside(FLOOR, times=1 / 0.8)]) for line in bulk.LINES]
    addresses = await bulk.up(bed)
    try:
        for address in addresses.values():
            await bulk.ready(address)
        for row, rate in zip(rows, bulk.LINES.values(), strict=True):
            for side in rotated(n, list(addresses)):
                row.add(side, await asyncio.to_thread(bulk.fetch, addresses[side], bulk.SIZE, rate))
    finally:
        await bulk.down(bed)
    return rows


MEASURES = {  # name: the measure, and its default number of repetitions
    "logins": (logins, 5),
    "hang": (hang, 2),
    "start": (start, 10),
    "starts": (starts, 3),
    "real": (real, 3),
    "memory": (memory, 3),
    "idle": (idle, 5),
    "many": (many, 1),
    "transfer": (transfer, 7),
}
