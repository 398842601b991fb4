"""Docker's API over its unix socket, as far as the launcher needs it. Nothing here blocks; each call has a time limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

SOCKET = "/var/run/docker.sock"
API = "http://docker/v1.41"  # Engine 20.10, the oldest that is supported; the host name is no one's
TIMEOUT = 20.0  # seconds for one call
CONNECTIONS = 32
LOG_TIMEOUT = 5.0  # seconds for the end of a log: Docker waits for ever when a node does not send its part
LOG_BYTES = 2**18


class SwarmError(Exception):
    """Docker did not do what it was asked: one sentence for the log."""


class UnreachableError(SwarmError):
    """Docker did not answer, or not in time."""


class MissingError(SwarmError):
    """What was asked for does not exist."""


class ConflictError(SwarmError):
    """What should be made exists already."""


class Docker:
    """One engine, a manager of the swarm."""

    def __init__(self, socket: str = SOCKET) -> None:
        self._socket = socket
        self._http: aiohttp.ClientSession | None = None

    async def get(self, path: str, filters: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a path. filters: Docker's, each a list of values. Raises SwarmError."""
        return await self._call("GET", path, params={"filters": json.dumps(filters)} if filters else None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON, and return the answer's. Raises SwarmError."""
        return await self._call("POST", path, json=body)

    async def delete(self, kind: str, name: str) -> None:
        """Remove an object. kind: such as `services`. Raises SwarmError."""
        await self._call("DELETE", f"/{kind}/{quote(name, safe='')}")

    async def log_end(self, service: str, lines: int) -> bytes:
        """Return the last lines that a service wrote, as far as they come in time. Raises SwarmError."""
        parts: list[bytes] = []
        params = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        try:
            async with (
                asyncio.timeout(LOG_TIMEOUT),
                self._session().get(f"{API}/services/{quote(service, safe='')}/logs", params=params) as answer,
            ):
                if answer.status >= 400:
                    raise _error(answer.status, await answer.text())
                while sum(map(len, parts)) < LOG_BYTES:
                    header = await answer.content.readexactly(8)  # stream, three zeros, length
                    parts.append(await answer.content.readexactly(min(int.from_bytes(header[4:], "big"), LOG_BYTES)))
        except (TimeoutError, asyncio.IncompleteReadError):
            pass
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(f"Docker does not answer ({type(error).__name__})") from error
        return b"".join(parts)

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=self._socket, limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            )
        return self._http

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            async with self._session().request(method, API + path, **options) as answer:
                if answer.status >= 400:
                    raise _error(answer.status, await answer.text())
                text = await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(f"Docker does not answer ({type(error).__name__})") from error
        try:
            return json.loads(text) if text.strip() else None
        except ValueError as error:
            raise SwarmError(f"Docker answered {path} with something that is no JSON") from error


def _error(status: int, text: str) -> SwarmError:
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, TypeError, KeyError):
        message = text.strip() or f"status {status}"
    return {404: MissingError, 409: ConflictError}.get(status, SwarmError)(message)
