"""Checks whether servers outlive the alias tokens that XNAT gives them. Imports only the standard library."""

from __future__ import annotations

import re

UNITS = {  # seconds, by the first letters of PostgreSQL's units of an interval
    "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "mon": 30 * 86400, "y": 365.25 * 86400,
}  # fmt: skip
PART = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>mon(?=s?\b|ths?\b)|min|[smhdwy])[a-z]*\s*")
CLOCK = re.compile(r"(\d+):(\d\d)(?::(\d\d))?$")


def interval_seconds(text: str) -> float | None:
    """Return the seconds of a PostgreSQL interval such as `2 days` or `1 day 12:00`; None if it cannot be parsed.

    XNAT passes the text of `aliasTokenTimeout` to PostgreSQL (docs/xnat-contract.md, 5.3).
    """
    rest = text.strip().lower()
    total = 0.0
    while match := PART.match(rest):
        total += float(match["number"]) * UNITS[match["unit"]]
        rest = rest[match.end() :]
    if match := CLOCK.match(rest):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total += hours * 3600 + minutes * 60 + seconds
        rest = ""
    return total if total > 0 and not rest else None


def outlived(alias_token_timeout: str, max_server_lifetime: float) -> str:
    """Return a sentence if a server can outlive its alias token, else an empty text.

    alias_token_timeout: an interval, empty if it is unknown. max_server_lifetime: hours, 0 for unlimited.
    """
    seconds = interval_seconds(alias_token_timeout)
    if not alias_token_timeout or (seconds is not None and 0 < max_server_lifetime * 3600 <= seconds):
        return ""
    servers = f"after {max_server_lifetime:g} h" if max_server_lifetime else "never"
    ends = (
        f"end after {alias_token_timeout!r}"
        if seconds
        else f"end after {alias_token_timeout!r}, which cannot be parsed"
    )
    return (
        f"XNAT's alias tokens {ends} (aliasTokenTimeout), servers {servers} (maxServerLifetime): a server that outlives"
        " its token can no longer read from XNAT, and its user is logged out of the hub. Increase aliasTokenTimeout in"
        " xnat_jupyterhub_site_config, or decrease xnat_jupyterhub_max_server_lifetime"
    )
