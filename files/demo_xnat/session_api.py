"""Log-in calls (docs/xnat-contract.md, 1.2 and 1.5)."""

from __future__ import annotations

from aiohttp import web

from .login import COOKIE, OPENID_PAGE, Login
from .people import LOCAL
from .state import State
from .xapi import EXPIRED_PAGE, NEW_SESSION, NOT_XNAT, PERSON, SESSION_ID, Routes, XapiError


class SessionApi:
    """Sessions, and the page for expired passwords."""

    def __init__(self, state: State, login: Login) -> None:
        self._state = state
        self._login = login

    def routes(self) -> Routes:
        """The calls."""
        return [
            web.get("/data/JSESSION", self.get_session),
            web.delete("/data/JSESSION", self.end_session),
            web.get("/data/auth", self.get_auth),
            web.post("/data/services/auth", self.authenticate),
            web.post(OPENID_PAGE, self.openid_log_in),
            web.get(EXPIRED_PAGE, self.get_expired_page),
        ]

    async def get_session(self, request: web.Request) -> web.Response:
        """The session's id as text; the cheapest probe of credentials (1.5)."""
        return web.Response(text=request[SESSION_ID])

    async def end_session(self, request: web.Request) -> web.Response:
        """Log out."""
        self._state.close_session(request[SESSION_ID])
        request[NEW_SESSION] = False
        response = web.Response()
        response.del_cookie(COOKIE)
        return response

    async def get_auth(self, request: web.Request) -> web.Response:
        """Who is logged in, as the library xnat reads it."""
        return web.Response(text=f"User '{request[PERSON].username}' is logged in")

    async def authenticate(self, request: web.Request) -> web.Response:
        """Log in with form fields ``username`` and ``password``: the new session's id as text, or 401 (1.5).

        Unlike Basic, this ignores how many sessions there are (1.6).
        """
        form = await request.post()
        if form.get("provider", LOCAL) != LOCAL or "authenticatorId" in form:
            raise XapiError(400, "Unknown or ambiguous authentication provider.")
        username, password = str(form.get("username", "")), str(form.get("password", ""))
        request[PERSON] = self._login.open_session(request, username, password, limited=False)
        return web.Response(text=request[SESSION_ID])

    async def openid_log_in(self, request: web.Request) -> web.Response:
        """Log in with form fields ``username`` and ``password``, in place of an OpenID provider.

        Accounts of the provider have no password in XNAT: neither Basic nor ``authenticate`` accepts them.
        """
        form = await request.post()
        username, password = str(form.get("username", "")), str(form.get("password", ""))
        request[PERSON] = self._login.open_session(request, username, password, limited=False, openid=True)
        return web.Response(text=request[SESSION_ID])

    async def get_expired_page(self, request: web.Request) -> web.Response:
        """The page for expired passwords: a client that follows redirects gets 200 text/html (1.2)."""
        page = f"<!doctype html><title>Password expired</title><h1>Your password has expired</h1>{NOT_XNAT}"
        response = web.Response(text=page + '<p><a href="/">Back</a></p>', content_type="text/html")
        response.del_cookie(COOKIE)
        return response
