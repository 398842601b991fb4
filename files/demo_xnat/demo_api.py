"""The demo's own calls: its page, its health check, and injected faults."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import secrets
from pathlib import Path

from aiohttp import web

from .faults import Faults
from .plugin import Background
from .state import State
from .xapi import PERSON, Handler, Routes, XapiError, basic_credentials, require_administrator

LOG = logging.getLogger(__name__)
FAULTS = web.AppKey("faults", Faults)
_PAGE = Path(__file__).with_name("page.html")


class DemoApi:
    """The demo's own calls, and the middleware that applies the faults kept in ``app[FAULTS]``."""

    def __init__(self, state: State, background: Background) -> None:
        self._state = state
        self._background = background

    def routes(self) -> Routes:
        """The calls."""
        return [
            web.get("/", self.get_page),
            web.get("/healthz", self.get_health),
            web.get("/demo/faults", self.get_faults),
            web.put("/demo/faults", self.set_faults),
        ]

    async def get_page(self, request: web.Request) -> web.Response:
        """The page: a log-in form, or the user's choices and running servers."""
        person = request.get(PERSON)
        nonce = secrets.token_urlsafe(16)
        page = await asyncio.to_thread(_PAGE.read_text, encoding="utf-8")
        page = page.replace("%NONCE%", nonce).replace("%USERNAME%", html.escape(person.username if person else ""))
        policy = (
            f"default-src 'self'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        )
        headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def get_health(self, request: web.Request) -> web.Response:
        """Report that the demo is alive; opens no session."""
        return web.Response(text="ok")

    async def get_faults(self, request: web.Request) -> web.Response:
        """The faults that apply now, for administrators."""
        require_administrator(request)
        return web.json_response(request.app[FAULTS].to_json())

    async def set_faults(self, request: web.Request) -> web.Response:
        """Replace the faults, for administrators: 200 with the faults as they apply, 400 with a sentence."""
        require_administrator(request)
        try:
            request.app[FAULTS].set(await request.json())
        except json.JSONDecodeError as error:
            raise XapiError(400, "The faults are not JSON.") from error
        except ValueError as error:
            raise XapiError(400, str(error)) from error
        return web.json_response(request.app[FAULTS].to_json())

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Apply the matching fault before any log-in. /demo/ and /healthz are not part of XNAT and have no faults."""
        if request.path.startswith("/demo/") or request.path == "/healthz":
            return await handler(request)
        faults = request.app[FAULTS]
        if self._state.clock() < faults.down_until:
            return _dropped(request)
        user = _claimed_name(request)
        fault = faults.take(request.method, request.path, user)
        if fault is None:
            return await handler(request)
        LOG.warning("%s %s %s: a fault applies", user or "-", request.method, request.path)
        await asyncio.sleep(fault.delay or 0)
        if fault.restart is not None:
            faults.down_until = self._state.clock() + fault.restart
            await self._background.end()
            self._state.restart()
            return _dropped(request)
        if fault.status is None and not fault.ignore:
            return await handler(request)
        headers = {"Content-Type": fault.content_type or "text/plain"}
        if fault.location is not None:
            headers["Location"] = fault.location
        return web.Response(status=fault.status or 200, body=(fault.body or "").encode(), headers=headers)


def _claimed_name(request: web.Request) -> str | None:
    """The user name in the request's Basic authentication, unchecked."""
    try:
        credentials = basic_credentials(request)
    except XapiError:
        return None
    return credentials[0] if credentials else None


def _dropped(request: web.Request) -> web.Response:
    """Close the connection; the returned answer is not sent."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()
