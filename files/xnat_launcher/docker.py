"""An asynchronous client for the part of Docker's API that the launcher needs. Each call has a time limit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

SOCKET = "/var/run/docker.sock"
ENGINE = "http://docker"  # the host name is not used
OLDEST_API = "1.41"  # of Engine 20.10
TIMEOUT = 20.0  # seconds for one call
CONNECTIONS = 32
LOG_TIMEOUT = 5.0  # seconds to read the end of a log: Docker waits forever if a node does not send its part
LOG_BYTES = 2**18


class SwarmError(Exception):
    """The Docker request failed; the text is one sentence."""


class UnreachableError(SwarmError):
    """Docker did not answer, or not in time."""


class MissingError(SwarmError):
    """The object does not exist."""


class ConflictError(SwarmError):
    """The object to create exists already."""


class Docker:
    """The client for one engine, a manager of the swarm."""

    def __init__(self, socket: str = SOCKET) -> None:
        self._socket = socket
        self._http: aiohttp.ClientSession | None = None
        self._api = ""

    async def get(self, path: str, filters: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON of a path. filters: Docker's filters, each a list of values. Raises SwarmError."""
        return await self._call("GET", path, params={"filters": json.dumps(filters)} if filters else None)

    async def create(self, kind: str, body: Mapping[str, Any]) -> str:
        """Create an object and return its id. kind: for example `services`. Raises SwarmError."""
        answer = await self._call("POST", f"/{kind}/create", json=body)
        found = answer.get("ID") if isinstance(answer, dict) else None
        if not isinstance(found, str) or not found:
            raise SwarmError(f"Docker's answer to the creation of {kind} has no id")
        return found

    async def delete(self, kind: str, name: str) -> None:
        """Remove an object. kind: for example `services`. Raises SwarmError."""
        await self._call("DELETE", f"/{kind}/{quote(name, safe='')}")

    async def log_end(self, service: str, lines: int) -> bytes:
        """Return the last log lines of a service, as many as arrive within the time limit. Raises SwarmError."""
        parts: list[bytes] = []
        params = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        try:
            async with asyncio.timeout(LOG_TIMEOUT):
                url = f"{await self._base()}/services/{quote(service, safe='')}/logs"
                async with self._session().get(url, params=params) as answer:
                    if answer.status >= 400:
                        raise _error(answer.status, await answer.read())
                    await _read_frames(answer.content, parts)
        except (TimeoutError, asyncio.IncompleteReadError):
            pass
        except (aiohttp.ClientError, OSError) as error:
            if not parts:
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

    async def _base(self) -> str:
        """Return the API's URL in the engine's own version, since newer engines refuse old versions of the API."""
        if not self._api:
            async with self._session().get(f"{ENGINE}/_ping") as answer:
                body = await answer.read()
                if answer.status >= 500:
                    raise _error(answer.status, body)
                self._api = f"{ENGINE}/v{answer.headers.get('Api-Version', OLDEST_API)}"
        return self._api

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            url = await self._base() + path
            async with self._session().request(method, url, **options) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(f"Docker does not answer ({type(error).__name__})") from error
        if answer.status >= 400:
            raise _error(answer.status, body)
        try:
            return json.loads(body) if body.strip() else None
        except (ValueError, RecursionError) as error:
            raise SwarmError(f"Docker answered {path} with invalid JSON") from error


async def _read_frames(content: aiohttp.StreamReader, parts: list[bytes]) -> None:
    """Append the frames of a multiplexed log to `parts`, at most LOG_BYTES. Raises IncompleteReadError at its end."""
    left = LOG_BYTES
    while left > 0:
        header = await content.readexactly(8)  # stream, three zeros, length
        part = await content.readexactly(min(int.from_bytes(header[4:], "big"), left))
        parts.append(part)
        left -= len(part)


def _error(status: int, body: bytes) -> SwarmError:
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, TypeError, KeyError, RecursionError):
        message = body.decode(errors="replace").strip() or f"status {status}"
    return {404: MissingError, 409: ConflictError}.get(status, SwarmError)(message[:1000])
