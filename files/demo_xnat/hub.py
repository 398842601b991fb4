"""The hub client of XNAT's JupyterHub plugin (docs/xnat-contract.md, 2.1, 2.2 and 2.7).

Unlike in the plugin, which waits forever, each call has a timeout.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from .configuration import Configuration

# The hub answers a start within its slow_spawn_timeout of 10 s.
_TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?(Z|[+-]\d\d(:?\d\d)?)")
_USER_FIELDS = ("name", "admin", "roles", "groups", "server", "pending", "last_activity")
_SERVER_FIELDS = ("name", "ready", "pending", "url", "progress_url", "user_options", "started", "last_activity")


class HubError(Exception):
    """The hub's answer is not what the plugin expects; the text has the call and the status, never the token."""


class Hub:
    """The calls of docs/xnat-contract.md, 2.2, except the list of users. All raise ``HubError``.

    URL and token are read at each use (2.1).
    """

    _http: aiohttp.ClientSession

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """The context in which calls can be made."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as self._http:
            yield

    async def version(self) -> dict[str, Any]:
        """``GET /``, without the token: is the hub online?"""
        _, answer = await self._call("GET", "/", authorised=False)
        return {"version": answer["version"]}

    async def info(self) -> dict[str, Any]:
        """``GET /info``: is the token right?"""
        _, answer = await self._call("GET", "/info")
        return {key: answer[key] for key in ("version", "python", "authenticator", "spawner") if key in answer}

    async def user(self, username: str) -> dict[str, Any] | None:
        """``GET /users/{u}``; None if the hub does not know the name."""
        status, answer = await self._call("GET", f"/users/{_quoted(username)}", accepted=(404,))
        return None if status == 404 else _read_user(answer)

    async def create_user(self, username: str) -> dict[str, Any]:
        """``POST /users/{u}`` with an empty body."""
        _, answer = await self._call("POST", f"/users/{_quoted(username)}")
        return _read_user(answer)

    async def server(self, username: str, servername: str) -> dict[str, Any] | None:
        """The active server of that name; None if there is none."""
        user = await self.user(username)
        found: dict[str, Any] | None = user["servers"].get(servername) if user else None
        return found

    async def start(self, username: str, servername: str | None, body: dict[str, Any]) -> None:
        """``POST`` of a server; 201 and 202 are the same to the plugin."""
        await self._call("POST", _server_path(username, servername), body)

    async def stop(self, username: str, servername: str) -> None:
        """``DELETE`` of a server with ``remove: true``; 404 is fine."""
        await self._call("DELETE", _server_path(username, servername), {"remove": True}, accepted=(404,))

    async def create_token(self, username: str, note: str, expires_in: int) -> dict[str, Any]:
        """A token with which a browser may open this user's servers; ``expires_in`` in seconds."""
        unset = ("token", "id", "user", "kind", "service", "oauth_client", "session_id")
        body: dict[str, Any] = dict.fromkeys((*unset, "expires_at", "created", "last_activity"))
        body |= {"note": note, "expires_in": expires_in, "scopes": [f"access:servers!user={username}"]}
        _, answer = await self._call("POST", f"/users/{_quoted(username)}/tokens", body)
        return {key: value for key, value in answer.items() if key in body and value is not None}

    async def _call(
        self, method: str, path: str, body: Any = None, accepted: tuple[int, ...] = (), authorised: bool = True
    ) -> tuple[int, Any]:
        """One request; the answer is ``(status, JSON or None)`` for 2xx and the accepted statuses."""
        token = self._configuration.text("jupyterHubToken")
        headers = {"Authorization": f"token {token}"} if authorised else {}
        try:
            url = URL(self._configuration.text("jupyterHubApiUrl") + path, encoded=True)
            async with self._http.request(
                method, url, json=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                if response.status in accepted:
                    return response.status, None
                if not 200 <= response.status < 300:
                    raise HubError(f"{method} {path}: status {response.status}")
                text = await response.text()
                return response.status, await response.json() if text else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise HubError(f"{method} {path}: {type(error).__name__}") from error


def _quoted(name: str) -> str:
    return quote(name, safe="'")


def _server_path(username: str, servername: str | None) -> str:
    path = f"/users/{_quoted(username)}"
    return f"{path}/servers/{_quoted(servername)}" if servername and servername.strip() else f"{path}/server"


def _read_user(answer: dict[str, Any]) -> dict[str, Any]:
    """Parse a user as strictly as the plugin does (docs/xnat-contract.md, 2.2 "JSON it needs")."""
    if not isinstance(answer.get("servers"), dict):
        raise HubError("A user came without servers: the token lacks the scope read:servers")
    user = _known(answer, _USER_FIELDS)
    user["servers"] = {name: _known(server, _SERVER_FIELDS) for name, server in answer["servers"].items()}
    return user


def _known(answer: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for name in ("last_activity", "started"):
        value = answer.get(name)
        if name in names and value is not None and not _DATE.fullmatch(value):
            raise HubError(f"{name} is not a date that the plugin can read")
    options_of_user = answer.get("user_options") or {}
    if any(isinstance(value, (dict, list)) for value in options_of_user.values()):
        raise HubError("user_options holds a nested value, which the plugin cannot read")
    return {name: answer[name] for name in names if answer.get(name) is not None}
