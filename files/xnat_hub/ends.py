"""When a server ends, for JupyterLab: XNAT's limits (docs/xnat-contract.md, 2.6), and maintenance of its node.

JupyterLab asks the hub itself, with the token of its page, which gives access to this server. A question through the
server would count as activity there, so that XNAT would never end a server whose page is open.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web
from xnat_wire.launcher import Limits, RefusedError

from xnat_hub.kept import DIRECTORY, Kept
from xnat_hub.launcher import shared_launcher

AGE = 60.0  # seconds after which XNAT's limits are asked for again
EXPIRY = 600.0  # seconds for which they are shown while XNAT or the launcher does not answer
FIRST = 2.0  # seconds that a page waits for the first answer; all others come from memory
LONGEST = 7 * 86400  # seconds; no maintenance is announced earlier
OVERDUE = 900.0  # seconds after its time, when an announcement that nobody has removed is no longer shown

# Announcements by node: {"ends": seconds since the epoch, "servers": [[user, server], ...]}.
MAINTENANCE: Kept[dict[str, Any]] = Kept(DIRECTORY / "maintenance.json", {})


class KnownLimits:
    """XNAT's limits, asked for in the background, so that no page waits for a slow XNAT. clock: seconds."""

    def __init__(self, ask: Callable[[], Awaitable[Limits]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._limits = Limits()
        self._answered = -math.inf
        self._asked = -math.inf
        self._question: asyncio.Task[None] | None = None

    async def get(self) -> Limits:
        """Return the limits, as far as they are known."""
        now = self._clock()
        under_way = self._question is not None and not self._question.done()
        if not under_way and now - self._asked > AGE:
            self._asked = now
            self._question = asyncio.create_task(self._refresh())
        if self._question is not None and now - self._answered >= EXPIRY:
            await asyncio.wait({self._question}, timeout=FIRST)
        fresh = self._clock() - self._answered < EXPIRY
        return self._limits if fresh else Limits()

    async def _refresh(self) -> None:
        try:
            self._limits = await self._ask()
        except RefusedError:  # the launcher's log has the reason
            return
        self._answered = self._clock()


LIMITS = KnownLimits(lambda: shared_launcher().limits())


def left(since: datetime | None, limit: float | None, now: datetime) -> dict[str, float] | None:
    """Return {"limit", "left"} in seconds; None without a limit.

    since: UTC without a zone, as JupyterHub stores it. limit: in seconds; 0 is none. now: with a zone. The time left is
    not below 0.
    """
    if not limit or since is None:
        return None
    return {"limit": limit, "left": max(0.0, limit - (now - since.replace(tzinfo=UTC)).total_seconds())}


def maintenance_left(announced: Mapping[str, Any], user: str, server: str, now: float) -> float | None:
    """Return the seconds until the maintenance of a server's node; None if none is announced.

    announced: the value of MAINTENANCE. now: seconds since the epoch. The result is not below 0.
    """
    ends = [each["ends"] - now for each in announced.values() if [user, server] in each["servers"]]
    due = [seconds for seconds in ends if seconds > -OVERDUE]
    return max(0.0, min(due)) if due else None


class EndHandler(APIHandler):
    """When one server ends. Whoever may open it may ask."""

    def set_default_headers(self) -> None:
        """Let pages of another origin ask: of a notebook, if it has one of its own. Cookies are of no use for that."""
        super().set_default_headers()
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Access-Control-Allow-Headers", "authorization")
        self.set_header("Cache-Control", "no-cache")

    @needs_scope("access:servers")  # type: ignore[untyped-decorator]
    async def get(self, user_name: str, server_name: str = "") -> None:
        """Send {"lifetime", "inactivity", "maintenance"}: {"limit", "left"} in seconds each, or null.

        limit is null for maintenance. Status 410 if the server has ended.
        """
        user = self.find_user(user_name)
        spawner = user.spawners[server_name] if user is not None and server_name in user.spawners else None
        if spawner is None or not spawner.active:
            raise web.HTTPError(410, "This server has ended.")
        limits = await LIMITS.get()
        now = datetime.now(UTC)
        started, last_activity = spawner.orm_spawner.started, spawner.orm_spawner.last_activity
        maintenance = maintenance_left(MAINTENANCE.get(), user_name, server_name, time.time())
        self.finish(
            {
                "lifetime": left(started, limits.lifetime, now),
                "inactivity": left(last_activity or started, limits.inactivity, now),
                "maintenance": None if maintenance is None else {"limit": None, "left": maintenance},
            }
        )


class MaintenanceHandler(APIHandler):
    """The announced maintenance of one node, for the playbooks."""

    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    def get(self, node: str) -> None:
        """Send {"left", "servers": [{"user", "server"}, ...]}: seconds until it begins; what it ends."""
        found = MAINTENANCE.get().get(node, {"ends": time.time(), "servers": []})
        servers = [{"user": user, "server": server} for user, server in found["servers"]]
        self.finish({"left": max(0.0, found["ends"] - time.time()), "servers": servers})

    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    def put(self, node: str) -> None:
        """Store {"left", "servers"}, as `get` sends them; no servers: remove the announcement."""
        body = self.get_json_body() or {}
        seconds, servers = body.get("left"), body.get("servers")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST:
            raise web.HTTPError(400, f"left is a number of seconds up to {LONGEST}.")
        if not isinstance(servers, list):
            raise web.HTTPError(400, "servers is a list.")
        now = time.time()
        announced = {name: each for name, each in MAINTENANCE.get().items() if each["ends"] > now - OVERDUE}
        announced.pop(node, None)
        if servers:
            announced[node] = {"ends": now + seconds, "servers": list(_pairs(servers))}
        MAINTENANCE.set(announced)
        self.get(node)


def _pairs(servers: list[Any]) -> Iterator[list[str]]:
    for each in servers:
        user, server = (each.get("user"), each.get("server")) if isinstance(each, Mapping) else (None, None)
        if not isinstance(user, str) or not isinstance(server, str):
            raise web.HTTPError(400, "Each server is an object with the strings user and server.")
        yield [user, server]


HANDLERS: list[tuple[str, Any]] = [
    (r"/api/users/([^/]+)/servers/([^/]+)/end", EndHandler),
    (r"/api/users/([^/]+)/server/end", EndHandler),
    (r"/api/maintenance/([0-9A-Za-z]{1,64})", MaintenanceHandler),
]
