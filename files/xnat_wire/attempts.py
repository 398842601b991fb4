"""Counts log-ins at XNAT, so that wrong passwords do not lock accounts and cannot be guessed by brute force."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .rest import BadCredentialsError, TooManyFailuresError
from .throttle import Throttle, Wait


@asynccontextmanager
async def counted(throttle: Throttle, name: str, source: str, patience: float) -> AsyncIterator[None]:
    """Allow one log-in at XNAT unless a limit is reached, and count its outcome.

    source: the address that the log-in comes from. patience: seconds to wait for a turn. Raises TooManyFailuresError.
    """
    attempt = await throttle.begin_in_line(name, source, patience)
    if isinstance(attempt, Wait):
        raise TooManyFailuresError(_please_wait(attempt, name))
    try:
        yield
    except BadCredentialsError:
        attempt.refused()
        raise
    except BaseException:
        attempt.take_back()
        raise
    attempt.succeeded()


def _please_wait(wait: Wait, name: str) -> str:
    seconds = math.ceil(wait.seconds)
    later = f"try again in {math.ceil(seconds / 60)} min" if seconds > 60 else f"try again in {seconds} s"
    if wait.reason == "name":
        return f"XNAT refused {name} too often, and further tries would lock the account: {later}"
    where = "from your address" if wait.reason == "source" else "at this hub"
    return f"Too many log-ins {where} were refused or are still being checked: {later}"
