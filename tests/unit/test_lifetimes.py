"""Whether servers run longer than the alias tokens that XNAT gives them."""

from __future__ import annotations

import pytest

from module_utils.xnat_site.lifetimes import interval_seconds, outlived

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2 days", 2 * DAY),
        ("1 day", DAY),
        ("36 hours", 36 * HOUR),
        ("1 day 12:00", 36 * HOUR),
        ("1 day 02:03:04", DAY + 2 * HOUR + 184),
        ("48:00:00", 2 * DAY),
        ("1.5 hours 10 minutes 3 secs", 1.5 * HOUR + 603),
        ("2 mins", 120),
        ("1 week", 7 * DAY),
        ("1 mon", 30 * DAY),
        ("2 months", 60 * DAY),
        ("1 year", 365.25 * DAY),
        ("2d", 2 * DAY),
        ("", None),
        ("soon", None),
        ("2 days ago or so", None),
        ("0 days", None),
        ("-2 days", None),
    ],
)
def test_intervals_are_read_as_postgresql_reads_them(text: str, seconds: float | None) -> None:
    assert interval_seconds(text) == seconds


@pytest.mark.parametrize(
    ("timeout", "hours", "said"),
    [
        ("2 days", 48, False),
        ("2 days", 48.5, True),
        ("2 days", 0, True),
        ("1 hour", 48, True),
        ("a while", 48, True),
        ("", 0, False),
    ],
)
def test_servers_that_outlive_their_token_are_said(timeout: str, hours: float, said: bool) -> None:
    sentence = outlived(timeout, hours)
    assert bool(sentence) is said
    if said:
        assert {timeout in sentence, "xnat_jupyterhub_max_server_lifetime" in sentence} == {True}
