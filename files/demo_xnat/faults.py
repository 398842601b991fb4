"""Injected faults: slow, wrong or missing answers of the demo XNAT, set with ``PUT /demo/faults``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .settings import problem


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


class Fault(BaseModel):
    """One fault. A null condition matches any request; a null effect does nothing.

    Conditions: path is a regular expression, searched for in the request's path; method and user are the request's
    method and the name in its Basic authentication. Effects: delay is the number of seconds to wait first; status,
    content_type, location and body replace XNAT's answer; with ignore the answer is 200 and empty, and nothing is done;
    with restart XNAT restarts for that many seconds: this request and all others until then end without an answer, and
    sessions and event tracking are lost. times: how often it still applies.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    path: Annotated[str, AfterValidator(_regular_expression)]
    method: str | None = None
    user: str | None = None
    delay: float | None = Field(None, ge=0)
    status: int | None = Field(None, ge=200, le=599)
    content_type: str | None = None
    location: str | None = None
    body: str | None = None
    ignore: bool | None = None
    restart: float | None = Field(None, ge=0)
    times: int | None = Field(None, ge=0)


_FAULTS = TypeAdapter(list[Fault])


@dataclass
class Faults:
    """The faults that apply now; the first one that matches a request is applied.

    down_until: the time at which XNAT is back from its last restart.
    """

    items: list[Fault] = field(default_factory=list)
    down_until: float = 0.0

    def to_json(self) -> list[dict[str, Any]]:
        """The list in the form of ``PUT /demo/faults``, with the remaining ``times``."""
        return [fault.model_dump() for fault in self.items]

    def set(self, body: Any) -> None:
        """Replace the faults. Raises ``ValueError`` with one sentence if the body is not a list of faults."""
        try:
            self.items = _FAULTS.validate_python(body)
        except ValidationError as error:
            raise ValueError(problem(error)) from error

    def take(self, method: str, path: str, user: str | None) -> Fault | None:
        """The fault for this request, if any; it is counted."""
        for index, fault in enumerate(self.items):
            matches = re.search(fault.path, path) and fault.method in (None, method) and fault.user in (None, user)
            if matches and fault.times != 0:
                if fault.times is not None:
                    self.items[index] = fault.model_copy(update={"times": fault.times - 1})
                return fault
        return None
