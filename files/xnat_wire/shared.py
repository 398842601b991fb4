"""Combines simultaneous identical requests into one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")


class Shared(Generic[Answer]):
    """A request whose answer is reused by all callers for `age` seconds; a failed one is made again."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, Answer]], age: float) -> None:
        self._ask = ask
        self._age = age
        self._asked = 0.0
        self._answer: asyncio.Future[Answer] | None = None

    async def get(self) -> Answer:
        """Return the answer, or raise the request's error."""
        now = asyncio.get_running_loop().time()
        answer = self._answer
        if answer is None or (
            answer.done() and (answer.cancelled() or answer.exception() or now - self._asked > self._age)
        ):
            self._asked = now
            answer = self._answer = asyncio.ensure_future(self._ask())
        return await asyncio.shield(answer)
