"""Limits on refused log-ins, so that the hub cannot be used to guess passwords or to lock XNAT accounts.

XNAT locks an account for an hour after 20 failures since its last successful log-in (docs/xnat-contract.md, 1.6). The
hub slows down long before that: after the first few failures the next attempt must wait for seconds, then twice as long
each time, but never longer than XNAT's lock lasts. Hours of attempts without a break can still lock an account.

There are four limits, and an attempt must satisfy all of them:

- one name from one address: `limit` failures, then pauses;
- one name from all addresses that it never logged in from: twice as many, but fewer than XNAT's 20, then pauses;
- one address, whatever the name: some attempts at once, then one every few seconds;
- the whole hub, in the same way.

Pending attempts count like refused ones, so parallel attempts cannot bypass the limits. An attempt that exceeds one of
the last two limits only because of pending ones waits for these to end: a whole course may log in at once from one
address.

The last two limits are counted separately for users whom XNAT has accepted from that address before, and the second
does not apply to them: attempts by others from elsewhere cannot lock them out. Counts that still matter are never
dropped to save memory, because the limit of the whole hub bounds their number.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

XNAT_LIMIT = 20  # failures after which XNAT locks an account
FIRST_PAUSE = 30.0  # seconds after the last free failure; each further failure doubles it
LONGEST_PAUSE = 3600.0  # seconds for which XNAT would lock the account
SOURCE_LIMIT, SOURCE_PAUSE = 20, 10.0  # attempts from one address at once, and seconds for each additional one
TOTAL_LIMIT, TOTAL_PAUSE = 200, 5.0  # attempts at the whole hub at once, and seconds for each additional one
SWEEP = 60.0  # seconds between two clean-ups of expired counts
NAME_LENGTH = 255  # characters of the longest name that XNAT allows
ADDRESSES = 5  # number of addresses remembered for each user; older ones are treated as unknown


@dataclass(frozen=True)
class Wait:
    """Why an attempt must wait, and how long.

    reason: `name`, `source` or `total`. seconds: more than 0. in_line: whether only pending attempts delay it.
    """

    reason: str
    seconds: float
    in_line: bool = False


class _Limit(Protocol):
    """Counts attempts by key, and decides which must wait."""

    def wait(self, key: Hashable) -> float:
        """Return the seconds until the next attempt; 0 for at once."""

    def add(self, key: Hashable) -> None:
        """Count one attempt."""

    def ended(self, key: Hashable) -> None:
        """Record that a counted attempt is no longer pending."""

    def take_back(self, key: Hashable) -> None:
        """Count one attempt less."""

    def only_under_way(self, key: Hashable) -> bool:
        """Return whether a waiting attempt could proceed if all pending attempts succeeded."""

    def __len__(self) -> int:
        """Return the number of keys in memory."""


class _Pauses:
    """`limit` attempts, then pauses that double; the count is reset after `window` seconds without an attempt."""

    def __init__(self, limit: int, window: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._tries: dict[Hashable, tuple[int, float]] = {}  # the count, and when the last attempt began
        self._swept = clock()

    def __len__(self) -> int:
        return len(self._tries)

    def wait(self, key: Hashable) -> float:
        count, last = self._recent(key)
        if count < self._limit:
            return 0.0
        # The exponent is limited, because 2 ** count has no bound.
        pause = min(FIRST_PAUSE * 2.0 ** min(count - self._limit, 16), LONGEST_PAUSE)
        return max(0.0, last + pause - self._clock())

    def add(self, key: Hashable) -> None:
        now = self._clock()
        if now - self._swept >= SWEEP:
            self._swept = now
            self._tries = {key: tries for key, tries in self._tries.items() if now - tries[1] < self._window}
        self._tries[key] = (self._recent(key)[0] + 1, now)

    def ended(self, key: Hashable) -> None:
        pass

    def only_under_way(self, key: Hashable) -> bool:
        return False  # nobody logs in five times at once

    def take_back(self, key: Hashable) -> None:
        count, last = self._tries.get(key, (0, 0.0))
        if count > 1:
            self._tries[key] = (count - 1, last)
        else:
            self.clear(key)

    def clear(self, key: Hashable) -> None:
        """Reset a key's count."""
        self._tries.pop(key, None)

    def _recent(self, key: Hashable) -> tuple[int, float]:
        count, last = self._tries.get(key, (0, 0.0))
        return (count, last) if self._clock() - last < self._window else (0, 0.0)


class _Levels:
    """A leaky bucket: at most `limit` attempts at once, then one every `pause` seconds."""

    def __init__(self, limit: int, pause: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._pause = pause
        self._clock = clock
        self._empty_at: dict[Hashable, float] = {}  # when the bucket will be empty
        self._under_way: Counter[Hashable] = Counter()
        self._swept = clock()

    def __len__(self) -> int:
        return len(self._empty_at)

    def wait(self, key: Hashable) -> float:
        return max(0.0, self._empty_at.get(key, 0.0) - self._clock() - (self._limit - 1) * self._pause)

    def only_under_way(self, key: Hashable) -> bool:
        return self.wait(key) <= self._under_way[key] * self._pause

    def add(self, key: Hashable) -> None:
        now = self._clock()
        if now - self._swept >= SWEEP:
            self._swept = now
            self._empty_at = {key: empty_at for key, empty_at in self._empty_at.items() if empty_at > now}
        self._empty_at[key] = max(self._empty_at.get(key, 0.0), now) + self._pause
        self._under_way[key] += 1

    def ended(self, key: Hashable) -> None:
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]

    def take_back(self, key: Hashable) -> None:
        if key in self._empty_at:
            self._empty_at[key] -= self._pause


class Attempt:
    """One attempt that may proceed. One of the three calls must end it."""

    def __init__(self, throttle: Throttle, name: str, source: str, known: bool) -> None:
        self._throttle = throttle
        self._name = name
        self._source = source
        self._limits = throttle.limits(name, source, known)
        for _, limit, key in self._limits:
            limit.add(key)

    def refused(self) -> None:
        """End it as refused by XNAT: it still counts."""
        for _, limit, key in self._limits:
            limit.ended(key)
        self._throttle.call_next()

    def take_back(self) -> None:
        """End it as not refused by XNAT: it does not count."""
        for _, limit, key in self._limits:
            limit.take_back(key)
        self.refused()

    def succeeded(self) -> None:
        """End it as accepted by XNAT, which resets this name's failures; so does the hub."""
        self.take_back()
        self._throttle.accepted(self._name, self._source)


class Throttle:
    """The limits for one kind of accounts.

    limit: free failures of one name from one address. window: seconds without an attempt after which a name's failures
    are reset.
    """

    def __init__(self, limit: int, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pairs = _Pauses(limit, window, clock)
        self._names = _Pauses(min(2 * limit, XNAT_LIMIT - 1), window, clock)
        self._sources = _Levels(SOURCE_LIMIT, SOURCE_PAUSE, clock)
        self._total = _Levels(TOTAL_LIMIT, TOTAL_PAUSE, clock)
        self._known: dict[str, list[str]] = {}  # addresses by name; only successful log-ins add entries
        self._next = asyncio.Event()  # set and replaced when an attempt has ended

    def limits(self, name: str, source: str, known: bool) -> list[tuple[str, _Limit, Hashable]]:
        """Return the limits that apply to an attempt, each as (reason, limit, key)."""
        found: list[tuple[str, _Limit, Hashable]] = [("name", self._pairs, (name, source))]
        if not known:
            found.append(("name", self._names, name))
        return [*found, ("source", self._sources, (source, known)), ("total", self._total, known)]

    def begin(self, name: str, source: str) -> Attempt | Wait:
        """Start an attempt, or return the longest wait. name: at most NAME_LENGTH characters."""
        known = source in self._known.get(name, ())
        limits = self.limits(name, source, known)
        waits = [
            Wait(reason, seconds, limit.only_under_way(key))
            for reason, limit, key in limits
            if (seconds := limit.wait(key)) > 0
        ]
        if not waits:
            return Attempt(self, name, source, known)
        return max(waits, key=lambda wait: (not wait.in_line, wait.seconds))

    async def begin_in_line(self, name: str, source: str, patience: float) -> Attempt | Wait:
        """Start an attempt; wait up to `patience` seconds while only pending attempts delay it."""
        found = self.begin(name, source)
        try:
            async with asyncio.timeout(patience):
                while isinstance(found, Wait) and found.in_line:
                    await self._next.wait()
                    found = self.begin(name, source)
        except TimeoutError:
            pass
        return found

    def call_next(self) -> None:
        """Wake the waiting attempts."""
        self._next.set()
        self._next = asyncio.Event()

    def accepted(self, name: str, source: str) -> None:
        """Record that XNAT accepted the name from that address."""
        self._pairs.clear((name, source))
        self._names.clear(name)
        others = [address for address in self._known.get(name, ()) if address != source]
        self._known[name] = [*others, source][-ADDRESSES:]

    def __len__(self) -> int:
        """Return the number of keys in memory, over all limits."""
        return len(self._pairs) + len(self._names) + len(self._sources) + len(self._total)
