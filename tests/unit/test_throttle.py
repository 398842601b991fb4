"""The limits on refused log-ins."""

from __future__ import annotations

import asyncio

import pytest
from xnat_wire import throttle
from xnat_wire.throttle import LONGEST_PAUSE, SOURCE_LIMIT, TOTAL_LIMIT, TOTAL_PAUSE, Attempt, Throttle, Wait

WINDOW = 86400.0
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Throttle:
    return Throttle(5, WINDOW, clock)


def fail(limits: Throttle, name: str, source: str) -> Wait | None:
    """Try with a wrong password; return what kept XNAT from being asked."""
    begun = limits.begin(name, source)
    if isinstance(begun, Wait):
        return begun
    begun.refused()
    return None


def succeed(limits: Throttle, name: str, source: str) -> Wait | None:
    """Try with the right password."""
    begun = limits.begin(name, source)
    if isinstance(begun, Wait):
        return begun
    begun.succeeded()
    return None


def attack(limits: Throttle, clock: Clock, name: str, sources: list[str], seconds: float) -> int:
    """Try without a break from each address as soon as it may; return how often XNAT was asked."""
    asked, end = 0, clock.now + seconds
    while clock.now < end:
        waits = [fail(limits, name, source) for source in sources]
        asked += waits.count(None)
        clock.now += min((wait.seconds for wait in waits if wait), default=0.0) + 0.001
    return asked


def test_after_the_limit_the_pauses_double_up_to_what_xnats_lock_lasts(limits: Throttle, clock: Clock) -> None:
    assert [fail(limits, "jdoe", HOME) for _ in range(5)] == [None] * 5
    pauses = []
    for _ in range(10):
        wait = fail(limits, "jdoe", HOME)
        assert wait is not None
        assert wait.reason == "name"
        pauses.append(wait.seconds)
        clock.now += wait.seconds
        assert fail(limits, "jdoe", HOME) is None
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert not fail(limits, "JDoe", HOME)


def test_one_address_cannot_lock_an_account_within_hours(limits: Throttle, clock: Clock) -> None:  # contract 1.6
    assert attack(limits, clock, "jdoe", [ELSEWHERE], 8 * 3600) < 20


def test_many_addresses_cannot_either(limits: Throttle, clock: Clock) -> None:
    sources = [f"198.51.100.{number}" for number in range(200)]
    assert attack(limits, clock, "jdoe", sources, 3 * 3600) < 20


@pytest.mark.parametrize("limit", [1, 5, 19])
def test_strangers_together_have_fewer_free_tries_than_lock_an_account(clock: Clock, limit: int) -> None:
    limits = Throttle(limit, WINDOW, clock)
    waits = [fail(limits, "jdoe", f"host{number}") for number in range(40)]
    assert limit <= waits.count(None) < 20


def test_five_tries_of_a_stranger_cost_the_person_less_than_a_minute(limits: Throttle, clock: Clock) -> None:
    for _ in range(5):
        fail(limits, "jdoe", ELSEWHERE)
    assert succeed(limits, "jdoe", HOME) is None
    for _ in range(5):
        fail(limits, "asmith", HOME)  # from the same address, as behind a proxy that is not trusted
    wait = succeed(limits, "asmith", HOME)
    assert wait is not None
    assert wait.seconds <= 30
    clock.now += 30
    assert succeed(limits, "asmith", HOME) is None


def test_whoever_logged_in_from_there_before_is_not_kept_out_by_others_elsewhere(
    limits: Throttle, clock: Clock
) -> None:
    assert succeed(limits, "jdoe", HOME) is None
    attack(limits, clock, "jdoe", [f"198.51.100.{number}" for number in range(50)], 7200)
    for number in range(2 * TOTAL_LIMIT):
        fail(limits, f"u{number}", f"203.0.113.{number % 250}")
    assert fail(limits, "jdoe", ELSEWHERE) is not None
    assert succeed(limits, "jdoe", HOME) is None


def test_nobody_waits_longer_than_xnats_lock(limits: Throttle, clock: Clock) -> None:
    attack(limits, clock, "jdoe", [HOME, ELSEWHERE], 20 * 3600)
    for number in range(2 * TOTAL_LIMIT):
        fail(limits, f"u{number}", HOME)
    assert fail(limits, "jdoe", ELSEWHERE) is None
    waits = [fail(limits, "jdoe", source) for source in (HOME, ELSEWHERE, "203.0.113.1")]
    assert [wait is not None and 0 < wait.seconds <= LONGEST_PAUSE for wait in waits] == [True] * 3


def test_one_address_may_not_try_many_names(limits: Throttle, clock: Clock) -> None:
    waits = [fail(limits, f"u{number}", ELSEWHERE) for number in range(25)]
    assert waits.count(None) == SOURCE_LIMIT < 25
    assert {wait.reason for wait in waits if wait} == {"source"}
    assert fail(limits, "jdoe", HOME) is None
    clock.now += throttle.SOURCE_PAUSE
    assert [fail(limits, f"v{number}", ELSEWHERE) for number in range(2)].count(None) == 1


def test_all_addresses_together_have_a_limit(limits: Throttle) -> None:
    waits = [fail(limits, f"u{number}", f"host{number}") for number in range(TOTAL_LIMIT + 50)]
    assert waits.count(None) == TOTAL_LIMIT
    assert {wait.reason for wait in waits if wait} == {"total"}


def test_made_up_names_push_no_counter_out_and_do_not_fill_the_memory(limits: Throttle, clock: Clock) -> None:
    for _ in range(5):
        fail(limits, "jdoe", ELSEWHERE)
    for number in range(10_000):
        fail(limits, f"u{number}", f"host{number}")
    assert fail(limits, "jdoe", ELSEWHERE) is not None
    assert len(limits) <= 4 * TOTAL_LIMIT
    for number in range(30_000):  # ten per second, while what counted a day ago is forgotten
        clock.now += 0.1
        fail(limits, f"v{number}", f"host{number}")
    assert len(limits) <= 4 * (TOTAL_LIMIT + 30_000 * 0.1 / TOTAL_PAUSE)
    clock.now += WINDOW
    fail(limits, "x", "y")
    assert len(limits) == 4


def test_tries_under_way_count_too(limits: Throttle) -> None:
    begun = [limits.begin("jdoe", HOME) for _ in range(8)]
    assert [isinstance(attempt, Attempt) for attempt in begun] == [True] * 5 + [False] * 3


def test_a_course_that_logs_in_at_once_stands_in_line_and_gets_in(limits: Throttle) -> None:
    most = under_way = 0

    async def person(number: int) -> bool:
        nonlocal most, under_way
        begun = await limits.begin_in_line(f"p{number}", HOME, 10)
        if isinstance(begun, Wait):
            return False
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        begun.succeeded()
        return True

    async def course() -> list[bool]:
        return await asyncio.gather(*(person(number) for number in range(200)))

    assert all(asyncio.run(course()))
    assert most == SOURCE_LIMIT
    assert len(limits) == 2  # the levels of that address and of the hub, which have sunk to nothing


def test_who_stands_in_line_is_let_go_when_the_others_were_refused_or_take_too_long(limits: Throttle) -> None:
    async def crowd() -> None:
        first = [limits.begin(f"u{number}", HOME) for number in range(SOURCE_LIMIT)]
        late = await limits.begin_in_line("jdoe", HOME, 0.01)
        assert isinstance(late, Wait)
        assert late.in_line
        waiting = asyncio.create_task(limits.begin_in_line("jdoe", HOME, 10))
        await asyncio.sleep(0)
        for attempt in first:
            assert isinstance(attempt, Attempt)
            attempt.refused()
        refused = await waiting
        assert isinstance(refused, Wait)
        assert not refused.in_line

    asyncio.run(crowd())


def test_what_xnat_did_not_refuse_is_taken_back(limits: Throttle) -> None:
    for _ in range(3 * TOTAL_LIMIT):
        begun = limits.begin("jdoe", HOME)
        assert isinstance(begun, Attempt)
        begun.take_back()
    for _ in range(4):
        assert fail(limits, "jdoe", HOME) is None
    assert succeed(limits, "jdoe", HOME) is None
    assert [fail(limits, "jdoe", HOME) for _ in range(5)] == [None] * 5  # from nothing again, as XNAT counts
    assert fail(limits, "jdoe", HOME) is not None
