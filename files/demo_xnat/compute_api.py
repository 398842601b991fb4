"""Hardware, compute environments, constraints and dashboards (docs/xnat-contract.md, 5.4): all have the same calls."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from .compute import Compute
from .kinds import KINDS, SCOPES
from .xapi import PERSON, Routes, not_found, read_as, require, require_administrator


class ComputeApi:
    """The rows of one kind; ``path`` is its key in ``KINDS``. Administrators change them."""

    def __init__(self, compute: Compute, path: str) -> None:
        self._compute = compute
        self._path = path
        self._kind = KINDS[path]

    def routes(self) -> Routes:
        """The calls."""
        rows = f"/xapi/{self._path}"
        found = [
            web.get(rows, self.get_rows),
            web.post(rows, self.create),
            web.get(rows + r"/{id:\d+}", self.get_row),
            web.put(rows + r"/{id:\d+}", self.replace),
            web.delete(rows + r"/{id:\d+}", self.delete),
        ]
        return [web.get(f"{rows}/available", self.get_available), *found] if self._kind.offered else found

    async def get_available(self, request: web.Request) -> web.Response:
        """What is on offer in the place that the query names, for everybody: environments with their hardware, or
        dashboards. A row with a scope that the query lacks is left out.
        """
        where = {name: request.query[code] for name, code in SCOPES.items() if code in request.query}
        return web.json_response(_of_type(request, self._compute.all(self._path, where)))

    async def get_rows(self, request: web.Request) -> web.Response:
        """All rows; ``?type=JUPYTERHUB`` chooses environments."""
        self._require_reader(request)
        return web.json_response(_of_type(request, self._compute.all(self._path)))

    async def get_row(self, request: web.Request) -> web.Response:
        """One row."""
        self._require_reader(request)
        return row_response(self._compute.get(self._path, int(request.match_info["id"])))

    async def create(self, request: web.Request) -> web.Response:
        """Create: 201 with the row and its new id; 500 with all problems."""
        require_administrator(request)
        return row_response(self._compute.put(self._path, await read_as(request, self._kind.model)), 201)

    async def replace(self, request: web.Request) -> web.Response:
        """Replace as a whole; the body must name the same id."""
        require_administrator(request)
        number = int(request.match_info["id"])
        return row_response(self._compute.put(self._path, await read_as(request, self._kind.model), number))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete: 204."""
        require_administrator(request)
        if not self._compute.delete(self._path, int(request.match_info["id"])):
            raise not_found("No such configuration.")
        return web.Response(status=204)

    def _require_reader(self, request: web.Request) -> None:
        require(self._kind.public or request[PERSON].is_administrator())


def row_response(row: dict[str, Any] | None, status: int = 200) -> web.Response:
    """The row; 404 if there is none."""
    if row is None:
        raise not_found("No such configuration.")
    return web.json_response(row, status=status)


def _of_type(request: web.Request, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kind = request.query.get("type")
    return [row for row in rows if kind is None or "configTypes" not in row or kind in row["configTypes"]]
