"""A limit on refused log-ins, so that the hub cannot be used to lock XNAT accounts (docs/xnat-contract.md, 1.6).

XNAT locks an account for an hour after 20 failures. The hub asks it no further about a name that failed too often.
"""

from __future__ import annotations

import time
from collections.abc import Callable

NAMES = 10_000  # names that are remembered, so that made-up ones do not fill the memory


class FailedLogins:
    """Tries that failed, by name. At most `limit` within `window` seconds; running tries count until they end well."""

    def __init__(self, limit: int, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._tries: dict[str, list[float]] = {}

    def wait(self, name: str) -> float:
        """Return the seconds until the next try for this name; 0 for at once."""
        tries = self._recent(name)
        return tries[-self._limit] + self._window - self._clock() if len(tries) >= self._limit else 0.0

    def begin(self, name: str) -> float:
        """Note a try and return it for `forget`."""
        now = self._clock()
        tries = self._recent(name)
        self._tries.pop(name, None)
        while len(self._tries) >= NAMES:
            del self._tries[next(iter(self._tries))]
        self._tries[name] = [*tries, now]
        return now

    def forget(self, name: str, begun: float) -> None:
        """Take a try back that XNAT did not refuse."""
        tries = self._tries.get(name, [])
        if begun in tries:
            tries.remove(begun)
        if not tries:
            self._tries.pop(name, None)

    def succeeded(self, name: str) -> None:
        """Forget all tries of a name, as XNAT does."""
        self._tries.pop(name, None)

    def _recent(self, name: str) -> list[float]:
        earliest = self._clock() - self._window
        return [begun for begun in self._tries.get(name, []) if begun > earliest]
