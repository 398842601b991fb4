"""The limit on refused log-ins."""

from __future__ import annotations

from xnat_hub import throttle
from xnat_hub.throttle import FailedLogins


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_after_the_limit_a_name_waits_for_the_window_to_pass() -> None:
    clock = Clock()
    failed = FailedLogins(3, 60, clock)
    for _ in range(3):
        assert failed.wait("jdoe") == 0
        failed.begin("jdoe")
        clock.now += 10
    assert failed.wait("jdoe") == 30
    assert failed.wait("JDoe") == 0
    clock.now += 30
    assert failed.wait("jdoe") == 0


def test_tries_under_way_count_too() -> None:
    failed = FailedLogins(2, 60, Clock())
    failed.begin("jdoe")
    failed.begin("jdoe")
    assert failed.wait("jdoe") == 60


def test_what_xnat_did_not_refuse_is_taken_back() -> None:
    clock = Clock()
    failed = FailedLogins(2, 60, clock)
    first = failed.begin("jdoe")
    clock.now += 1
    failed.begin("jdoe")
    failed.forget("jdoe", first)
    assert failed.wait("jdoe") == 0
    failed.begin("jdoe")
    assert failed.wait("jdoe") > 0
    failed.succeeded("jdoe")
    assert failed.wait("jdoe") == 0


def test_made_up_names_do_not_fill_the_memory() -> None:
    failed = FailedLogins(2, 60, Clock())
    for number in range(throttle.NAMES + 5):
        failed.begin(f"u{number}")
    assert len(failed._tries) == throttle.NAMES
