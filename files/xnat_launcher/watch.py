"""Notices where servers run and when they end, for the audit log. Swarm reports neither: its tasks are listed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime

from xnat_launcher.audit import Audit, Server
from xnat_launcher.diagnostics import Node, container_end, node_name
from xnat_launcher.docker import SwarmError
from xnat_launcher.service import service_name
from xnat_launcher.swarm import Owner, Swarm, Task

log = logging.getLogger("xnat_launcher.watch")

INTERVAL = 30.0  # seconds between two listings of all tasks: one takes Swarm about a second for 2000 servers
SOON = 3.0  # the same for the tasks of servers that have no node yet or are being stopped, ...
CHANGING = 60.0  # ... for so many seconds after their start or stop
GRACE = 3.0  # seconds within which Swarm lists the task of a new service, even if it is busy
MADE = 1.0  # the same, usually; before that the newest task can be that of a replaced service


@dataclass
class Watched:
    """A server that lives as far as the audit log knows.

    created, stopped: when its service was created and removed (time of the event loop), None until then.
    """

    server: Server
    node_id: str = ""
    node: str = ""
    created: float | None = None
    stopped: float | None = None

    @property
    def changing(self) -> bool:
        """Whether it has no node yet, or is being stopped."""
        return self.stopped is not None or not self.node_id


class Watch:
    """The living servers of a deployment, by the name of their service."""

    def __init__(self, swarm: Swarm, audit: Audit, deployment: str) -> None:
        self._swarm = swarm
        self._audit = audit
        self._deployment = deployment
        self._servers: dict[str, Watched] = {}
        self._day: date | None = None
        self._soon = asyncio.Event()

    @contextmanager
    def starting(self, server: Server) -> Iterator[None]:
        """Watch a server whose service is created meanwhile; it replaces one with the same name."""
        before = self._servers.get(server.service)
        watched = self._servers[server.service] = Watched(server)
        try:
            yield
        except BaseException:
            del self._servers[server.service]
            if before:  # it runs on, or the next look finds that it has ended
                self._servers[server.service] = before
            raise
        watched.created = self._now()
        self._soon.set()

    def stopping(self, server: Server) -> Server:
        """Note that a server's service was removed. Returns the server with its project, if that is known."""
        if watched := self._servers.get(server.service):
            watched.stopped = self._now()
            self._soon.set()
            return watched.server
        return server

    def saw(self, service: str, task: Task, nodes: Sequence[Node]) -> None:
        """Record the end of a server whose newest task the hub asked for: the hub removes the service right after that.

        nodes: Docker's list of nodes; may be empty if the task is wanted.
        """
        watched = self._servers.get(service)
        if watched is None or watched.created is None or self._now() - watched.created < MADE:
            return
        if (reason := ending(task, nodes)) is not None:
            self._end(service, watched.server, node_name(task.node_id, nodes), task, reason)

    async def run(self) -> None:
        """Look at the tasks until cancelled; a failed look is logged and repeated."""
        clock = asyncio.get_running_loop().time
        next_full = clock()
        while True:
            self._soon.clear()
            full = clock() >= next_full
            if full:
                next_full = clock() + INTERVAL
            try:
                await self.look(full)
            except SwarmError as error:
                log.warning("Could not check which servers run: %s", error)
            except Exception:  # for example an unexpected answer from Docker: the next look may succeed
                log.exception("Could not check which servers run")
            if self._any_changed_after(clock() - CHANGING):
                self._soon.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_full - clock())):
                    await self._soon.wait()
                    await asyncio.sleep(SOON)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _any_changed_after(self, past: float) -> bool:
        return any(each.changing and (each.stopped or each.created or 0) > past for each in self._servers.values())

    async def look(self, full: bool) -> None:
        """Record nodes and ends. full: look at all servers, also at those that were not known. Raises SwarmError.

        Otherwise only servers without a node and those that are being stopped are looked at.
        """
        now = self._now()
        settled = {
            name: watched
            for name, watched in self._servers.items()
            if (full or watched.changing) and watched.created is not None and now - watched.created > GRACE
        }
        wanted = [(each.server.user, each.server.name) for each in self._servers.values() if each.changing]
        if not full and not wanted:
            return
        found = {
            service_name(self._deployment, *owner): (owner, task)
            for owner, task in (await self._swarm.tasks(None if full else wanted)).items()
        }
        nodes = await self._swarm.nodes() if found else []
        first = full and self._day is None
        for name, (owner, task) in found.items():
            reason = ending(task, nodes)
            watched = self._servers.get(name)
            if reason is None:
                if watched is None and full:
                    watched = self._servers[name] = Watched(_server(name, owner, task), created=now)
                if watched and task.node_id and watched.node_id != task.node_id:
                    watched.node_id, watched.node = task.node_id, node_name(task.node_id, nodes)
                    if not first:  # the snapshot says it
                        self._audit.running(watched.server, watched.node)
            elif watched and watched is settled.get(name):
                self._end(name, watched.server, node_name(task.node_id, nodes), task, reason)
            elif first and watched is None:  # it ended while no launcher ran
                self._end(name, _server(name, owner, task), node_name(task.node_id, nodes), task, reason)
        for name, watched in settled.items():
            if name not in found and self._servers.get(name) is watched:
                self._end(name, watched.server, watched.node, None, "its service was removed")
        today = datetime.now(UTC).date()
        if full and today != self._day:
            self._day = today
            self._audit.snapshot([(each.server, each.node) for each in self._servers.values()])

    def _end(self, name: str, server: Server, node: str, task: Task | None, reason: str) -> None:
        at = "" if task is None or task.alive else str(task.status.get("Timestamp") or "")
        self._audit.ended(server, node, at, reason)
        self._servers.pop(name, None)


def ending(task: Task, nodes: Sequence[Node]) -> str | None:
    """Return how a server's container ended, None while it may still run. nodes: Docker's list of nodes."""
    end = container_end(task, nodes)
    return f"exit {end}" if isinstance(end, int) else end


def _server(name: str, owner: Owner, task: Task) -> Server:
    return Server(*owner, name, task.project)
