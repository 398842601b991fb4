"""Limits on refused log-ins, so that the hub is no means to guess passwords or to lock XNAT accounts.

XNAT locks an account for an hour after 20 failures since its last log-in that worked (docs/xnat-contract.md, 1.6). The
hub asks it ever more seldom long before that: after the first few failures the next try waits for seconds, then twice
as long each time, but never longer than XNAT's lock lasts. Hours of tries without a break can still lock an account.

There are four limits, and a try must keep all of them:

- one name from one address: `limit` failures, then pauses;
- one name from all addresses that it never logged in from: twice as many, but less than XNAT's 20, then pauses;
- one address, whatever the name: some tries at once, then one every few seconds;
- the whole hub, in the same way.

Tries under way count like refused ones, so that none gets through by haste. Who is under the last two limits for these
alone stands in line until they end: a whole course may log in at once from one address.

The last two are counted apart for those whom XNAT has accepted from that address before, who are not under the second:
others' tries from elsewhere cannot keep them out. What still counts is never forgotten for want of space: the limit of
the whole hub bounds how much there can be.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

XNAT_LIMIT = 20  # failures after which XNAT locks an account
FIRST_PAUSE = 30.0  # seconds after the last failure that is free; doubled by each further one
LONGEST_PAUSE = 3600.0  # seconds for which XNAT would lock the account
SOURCE_LIMIT, SOURCE_PAUSE = 20, 10.0  # tries of one address at once, and seconds for each one more
TOTAL_LIMIT, TOTAL_PAUSE = 200, 5.0  # tries of the hub at once, and seconds for each one more
SWEEP = 60.0  # seconds between two looks for what no longer counts
NAME_LENGTH = 255  # letters of the longest name that XNAT can have
ADDRESSES = 5  # from which somebody logged in last; further ones are those of a stranger again


@dataclass(frozen=True)
class Wait:
    """Why a try must wait and how long.

    reason: `name`, `source` or `total`. seconds: more than 0. in_line: only tries under way are in its way.
    """

    reason: str
    seconds: float
    in_line: bool = False


class _Limit(Protocol):
    """Counts tries by key, and says which must wait."""

    def wait(self, key: Hashable) -> float:
        """Return the seconds until the next try; 0 for at once."""

    def add(self, key: Hashable) -> None:
        """Count one try."""

    def ended(self, key: Hashable) -> None:
        """Note that a try that was counted is no longer under way."""

    def take_back(self, key: Hashable) -> None:
        """Count one try less."""

    def only_under_way(self, key: Hashable) -> bool:
        """Whether a try that must wait need not if all that are under way end well."""

    def __len__(self) -> int:
        """How many keys are remembered."""


class _Pauses:
    """`limit` tries, then pauses that double; all are forgotten after `window` seconds without a try."""

    def __init__(self, limit: int, window: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._tries: dict[Hashable, tuple[int, float]] = {}  # how many, and when the last one began
        self._swept = clock()

    def __len__(self) -> int:
        return len(self._tries)

    def wait(self, key: Hashable) -> float:
        count, last = self._recent(key)
        if count < self._limit:
            return 0.0
        # Not 2 ** count as it is, which has no bound.
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
        return False  # one person does not log in five times at once

    def take_back(self, key: Hashable) -> None:
        count, last = self._tries.get(key, (0, 0.0))
        if count > 1:
            self._tries[key] = (count - 1, last)
        else:
            self.clear(key)

    def clear(self, key: Hashable) -> None:
        """Forget a key's tries."""
        self._tries.pop(key, None)

    def _recent(self, key: Hashable) -> tuple[int, float]:
        count, last = self._tries.get(key, (0, 0.0))
        return (count, last) if self._clock() - last < self._window else (0, 0.0)


class _Levels:
    """At most `limit` tries at once, then one in each `pause` seconds: a level that each try raises and time lowers."""

    def __init__(self, limit: int, pause: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._pause = pause
        self._clock = clock
        self._empty_at: dict[Hashable, float] = {}  # when the level will have sunk to nothing
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
    """One try that was let through. One of the three calls must end it."""

    def __init__(self, throttle: Throttle, name: str, source: str, known: bool) -> None:
        self._throttle = throttle
        self._name = name
        self._source = source
        self._limits = throttle.limits(name, source, known)
        for _, limit, key in self._limits:
            limit.add(key)

    def refused(self) -> None:
        """XNAT refused it: it goes on counting."""
        for _, limit, key in self._limits:
            limit.ended(key)
        self._throttle.call_next()

    def take_back(self) -> None:
        """XNAT did not refuse it: it does not count."""
        for _, limit, key in self._limits:
            limit.take_back(key)
        self.refused()

    def succeeded(self) -> None:
        """XNAT accepted it, and counts this name's failures from nothing again; so does the hub."""
        self.take_back()
        self._throttle.accepted(self._name, self._source)


class Throttle:
    """The limits of one kind of accounts.

    limit: failures of one name from one address that are free. window: seconds without a try after which a name's
    failures are forgotten.
    """

    def __init__(self, limit: int, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pairs = _Pauses(limit, window, clock)
        self._names = _Pauses(min(2 * limit, XNAT_LIMIT - 1), window, clock)
        self._sources = _Levels(SOURCE_LIMIT, SOURCE_PAUSE, clock)
        self._total = _Levels(TOTAL_LIMIT, TOTAL_PAUSE, clock)
        self._known: dict[str, list[str]] = {}  # addresses by name; grows by right passwords only
        self._next = asyncio.Event()  # set, and replaced, when a try has ended

    def limits(self, name: str, source: str, known: bool) -> list[tuple[str, _Limit, Hashable]]:
        """Return the limits of a try: what each is about, the limit, and the key there."""
        found: list[tuple[str, _Limit, Hashable]] = [("name", self._pairs, (name, source))]
        if not known:
            found.append(("name", self._names, name))
        return [*found, ("source", self._sources, (source, known)), ("total", self._total, known)]

    def begin(self, name: str, source: str) -> Attempt | Wait:
        """Let a try of a name of at most NAME_LENGTH letters through, or tell which limit makes it wait longest."""
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
        """Begin as soon as no tries under way are in the way, which may take `patience` seconds."""
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
        """Let those who stand in line try."""
        self._next.set()
        self._next = asyncio.Event()

    def accepted(self, name: str, source: str) -> None:
        """Note that XNAT accepted the name from that address."""
        self._pairs.clear((name, source))
        self._names.clear(name)
        others = [address for address in self._known.get(name, ()) if address != source]
        self._known[name] = [*others, source][-ADDRESSES:]

    def __len__(self) -> int:
        """How much is remembered of tries."""
        return len(self._pairs) + len(self._names) + len(self._sources) + len(self._total)
