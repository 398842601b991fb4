"""Faults on purpose: answers of the demo XNAT that are slow, wrong or missing, as `PUT /demo/faults` orders them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .settings import SettingsError, read


@dataclass(frozen=True)
class Fault:
    """One fault; null is "any" for what a request must match, and "not" for what happens to it.

    path: regular expression, searched for in the request's path. method, user: the request's method and the name
    that it sends for Basic log-in. delay: seconds to wait first. status, content_type, location, body: the answer
    instead of XNAT's. ignore: the answer is 200 and empty, and nothing is done. restart: XNAT restarts for so many
    seconds: this request and all others until then end without an answer, sessions and event tracking are lost. times:
    how often it still applies.
    """

    path: str
    method: str | None
    user: str | None
    delay: float | None
    status: int | None
    content_type: str | None
    location: str | None
    body: str | None
    ignore: bool | None
    restart: float | None
    times: int | None


@dataclass
class Faults:
    """The faults that apply now; the first that matches a request is the one that happens to it.

    down_until: the time at which XNAT is back from its last restart.
    """

    items: list[Fault] = field(default_factory=list)
    down_until: float = 0.0

    def to_json(self) -> list[dict[str, Any]]:
        """The list as `PUT /demo/faults` takes it, with the `times` that are left."""
        return [asdict(fault) for fault in self.items]

    def set(self, body: Any) -> None:
        """Replace the faults; raises `ValueError` with one sentence if the body is not a list of faults."""
        if not isinstance(body, list):
            raise SettingsError("The faults must be a list.")
        names = [item.name for item in fields(Fault)]
        body = [dict.fromkeys(names) | item if isinstance(item, dict) else item for item in body]
        items = list(read(body, tuple[Fault, ...], "faults"))
        for index, fault in enumerate(items):
            try:
                re.compile(fault.path)
            except re.error as error:
                raise SettingsError(f"faults[{index}].path is no regular expression: {error}.") from error
            if fault.status is not None and not 200 <= fault.status <= 599:
                raise SettingsError(f"faults[{index}].status must be from 200 to 599.")
            if not all((value or 0) >= 0 for value in (fault.delay, fault.restart, fault.times)):  # not a number, too
                raise SettingsError(f"faults[{index}].delay, .restart and .times must not be negative.")
        self.items = items

    def take(self, method: str, path: str, user: str | None) -> Fault | None:
        """The fault that happens to this request, if any; it is counted."""
        for index, fault in enumerate(self.items):
            matches = re.search(fault.path, path) and fault.method in (None, method) and fault.user in (None, user)
            if matches and fault.times != 0:
                if fault.times is not None:
                    self.items[index] = replace(fault, times=fault.times - 1)
                return fault
        return None
