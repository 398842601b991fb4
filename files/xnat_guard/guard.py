"""Keeps the rules in the notebooks' network up to date: a new namespace or address is noticed within a second."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xnat_guard.namespaces import LoadError, Namespace, find
from xnat_guard.rules import READY_PORT, Addresses, rules

log = logging.getLogger("xnat_guard")

INTERVAL = 1.0  # seconds between two checks
AGAIN = 30.0  # seconds after which unchanged rules are loaded again, in case something removed or replaced them
PATIENCE = 10.0  # seconds without rules in a namespace after which the guard ends, so that Swarm counts the node out
ANSWERS = 64  # connections that are answered in one go, so that many of them do not delay the checks


class UnguardedError(Exception):
    """The rules could not be loaded for PATIENCE seconds; the text is one sentence."""


@dataclass(frozen=True)
class Services:
    """The names of the services that notebooks may reach or that may reach them, and the ports of the gate."""

    hub: str
    proxy: str
    gate: str
    gate_ports: tuple[int, ...]


class Guard:
    """The guard of one network on this node.

    look: returns the addresses of each service's name. heartbeat: a file that is touched while the rules are loaded.
    """

    def __init__(
        self,
        network: str,
        services: Services,
        look: Callable[[], Mapping[str, Sequence[str]]],
        heartbeat: Path,
        search: Callable[[str], Mapping[int, Path]] = find,
        namespace: Callable[[Path, int], Namespace] = Namespace,
    ) -> None:
        self._network = network
        self._services = services
        self._look = look
        self._heartbeat = heartbeat
        self._search = search
        self._namespace = namespace
        self._namespaces: dict[int, Namespace] = {}
        self._addresses = Addresses()
        self._loaded_at = 0.0
        self._well_at = time.monotonic()

    def run(self) -> None:
        """Check once a second, forever. Raises UnguardedError."""
        while True:
            self.check()
            self.answer(time.monotonic() + INTERVAL)

    def check(self) -> None:
        """Load the rules where they are missing or have changed. Raises UnguardedError."""
        now = time.monotonic()
        try:
            self._find()
            self._load(now)
        except (LoadError, OSError) as error:
            log.warning("Without rules: %s", error)
            self._heartbeat.unlink(missing_ok=True)
            if now - self._well_at > PATIENCE:
                raise UnguardedError(f"{error}") from error
            return
        self._well_at = now
        self._heartbeat.touch()

    def answer(self, until: float) -> None:
        """Answer servers that ask whether the rules are loaded. until: when to end, of the monotonic clock."""
        while (left := until - time.monotonic()) > 0:
            asked = [each for each in self._namespaces.values() if each.fileno() >= 0]
            ready, _, _ = select.select(asked, [], [], left)
            for each in ready:
                each.answer(ANSWERS)

    def _find(self) -> None:
        found = self._search(self._network)
        if not found:
            raise LoadError(f"Docker has no namespace for the network {self._network} on this node")
        for inode in self._namespaces.keys() - found.keys():
            self._namespaces.pop(inode).close()
        for inode in found.keys() - self._namespaces.keys():
            log.info("The network is in the namespace %s", found[inode])
            self._namespaces[inode] = self._namespace(found[inode], READY_PORT)

    def _load(self, now: float) -> None:
        names = self._look()
        addresses = Addresses(
            *(tuple(names[name]) for name in (self._services.hub, self._services.proxy, self._services.gate))
        )
        if addresses != self._addresses:
            log.info("Addresses: %s", addresses)
            self._addresses = addresses
        text = self._text()
        again = now - self._loaded_at > AGAIN
        for namespace in self._namespaces.values():
            if again or namespace.loaded != text:
                namespace.load(text)
        if again:
            self._loaded_at = now

    def _text(self) -> str:
        return rules(self._addresses, self._services.gate_ports)
