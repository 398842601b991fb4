"""The frameworks of dashboards (docs/xnat-contract.md, 4.2 and 5.4)."""

from __future__ import annotations

from aiohttp import web

from .compute_api import row_response
from .dashboards import FRAMEWORKS, Frameworks
from .kinds import Framework
from .xapi import Routes, read_as, require_administrator


class FrameworkApi:
    """Frameworks: everybody may read them, administrators change them."""

    def __init__(self, frameworks: Frameworks) -> None:
        self._frameworks = frameworks

    def routes(self) -> Routes:
        """The calls."""
        return [
            web.get(f"/xapi/{FRAMEWORKS}", self.get_frameworks),
            web.post(f"/xapi/{FRAMEWORKS}", self.create),
            web.put(f"/xapi/{FRAMEWORKS}/{{name}}", self.replace),
            web.delete(f"/xapi/{FRAMEWORKS}/{{name}}", self.delete),
        ]

    async def get_frameworks(self, request: web.Request) -> web.Response:
        """All frameworks."""
        return web.json_response(self._frameworks.all())

    async def create(self, request: web.Request) -> web.Response:
        """Create: 200."""
        require_administrator(request)
        return row_response(self._frameworks.create(await read_as(request, Framework)))

    async def replace(self, request: web.Request) -> web.Response:
        """Replace: 200. The id in the body selects the framework, not the name in the path."""
        require_administrator(request)
        return row_response(self._frameworks.replace(await read_as(request, Framework)))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete: 200, also for an unknown name."""
        require_administrator(request)
        self._frameworks.delete(request.match_info["name"])
        return web.Response()
