"""The launcher's HTTP server on a unix socket, for the hub only (`xnat_wire.launcher` describes the calls).

All input is treated as hostile, as if an attacker had taken over the hub.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web
from xnat_wire.launcher import HUB_VARIABLES, MAX_BODY, MAX_LOG_IN, MAX_PATIENCE, MAX_VALUE, Kind, LogIn, RefusedError
from xnat_wire.rest import XnatError, check_name

from xnat_launcher.launches import Launcher
from xnat_launcher.options import SERVER_NAME

log = logging.getLogger("xnat_launcher.server")

AT_ONCE = 500  # pending calls
READ_TIMEOUT = 10.0  # seconds for the body of a request, so that half of one does not hold a call
SERVICE_ID = re.compile(r"[0-9a-z]{0,64}")
PEER = struct.Struct("iII")  # process, user, group: Linux' struct ucred

Body = dict[str, Any]
Call = Callable[[Launcher, Body], Awaitable[Body]]
LAUNCHER: web.AppKey[Launcher] = web.AppKey("launcher", Launcher)


def make_app(launcher: Launcher, hub_uid: int) -> web.Application:
    """Return the launcher's web application. hub_uid: the only user id that may connect."""
    under_way = 0

    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        nonlocal under_way
        try:
            if _peer(request) != hub_uid:
                raise _bad("only the hub may call it")
            if under_way >= AT_ONCE:
                raise RefusedError(Kind.BUSY, "The launcher is busy: try again later.")
            under_way += 1
            try:
                return await handler(request)
            finally:
                under_way -= 1
        except RefusedError as error:
            return _refusal(error)
        except web.HTTPException as error:
            return _refusal(_bad(error.reason))
        except Exception:
            log.exception("A call failed")
            return _refusal(RefusedError(Kind.INTERNAL, "The launcher failed; see its log for the reason."))

    app = web.Application(middlewares=[guard], client_max_size=MAX_BODY)
    app[LAUNCHER] = launcher
    app.add_routes([web.post(f"/{name}", _handler(call)) for name, call in CALLS.items()])
    return app


def _handler(call: Call) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        answer = await call(request.app[LAUNCHER], _body(await _read(request)))
        return web.json_response(answer)

    return handle


async def _start(launcher: Launcher, body: Body) -> Body:
    user, server = _server(body, "env")
    host, port = await launcher.start(user, server, _variables(body["env"]))
    return {"host": host, "port": port}


async def _one(launcher: Launcher, body: Body) -> Body:
    return (await launcher.one(*_server(body))).as_json()


async def _all(launcher: Launcher, body: Body) -> Body:
    _keys(body)
    found = await launcher.all()
    return {"servers": [{"user": user, "server": server, "id": found[user, server]} for user, server in found]}


async def _living(launcher: Launcher, body: Body) -> Body:
    _keys(body)
    return {"servers": [{"user": user, "server": server} for user, server in await launcher.living()]}


async def _stop(launcher: Launcher, body: Body) -> Body:
    user, server = _server(body, "patience", "id")
    patience, service_id = body["patience"], body["id"]
    if isinstance(patience, bool) or not isinstance(patience, int | float) or not 0 <= patience <= MAX_PATIENCE:
        raise _bad(f"patience must be a number of seconds up to {MAX_PATIENCE:g}")
    if not isinstance(service_id, str) or not SERVICE_ID.fullmatch(service_id):
        raise _bad("id is not a valid id of a service")
    return {"ended": await launcher.stop(user, server, patience, service_id)}


async def _log(launcher: Launcher, body: Body) -> Body:
    return {"text": await launcher.log(*_server(body))}


async def _standing(launcher: Launcher, body: Body) -> Body:
    return {"standing": await launcher.standing(*_server(body))}


async def _limits(launcher: Launcher, body: Body) -> Body:
    _keys(body)
    return asdict(await launcher.limits())


async def _logged_in(launcher: Launcher, body: Body) -> Body:
    _keys(body, "user", "source", "reason", "known")
    user, source, reason, known = body["user"], body["source"], body["reason"], body["known"]
    for text in (user, source):
        if not isinstance(text, str) or len(text) > MAX_LOG_IN:
            raise _bad(f"user and source must be strings of at most {MAX_LOG_IN} characters")
    if not isinstance(reason, str) or reason not in set(LogIn):
        raise _bad("reason is not a result of a log-in")
    if not isinstance(known, bool):
        raise _bad("known must be true or false")
    launcher.logged_in(user, source, LogIn(reason), known)
    return {}


CALLS: dict[str, Call] = {
    "start": _start,
    "one": _one,
    "all": _all,
    "living": _living,
    "stop": _stop,
    "log": _log,
    "standing": _standing,
    "limits": _limits,
    "logged_in": _logged_in,
}


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            return await request.read()
    except web.HTTPException:  # too large
        raise
    except Exception as error:  # invalid HTTP, invalid compression, or a hub that disconnected
        raise _bad(f"the request cannot be read ({type(error).__name__})") from error


def _body(data: bytes) -> Body:
    try:
        body = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise _bad("its body is not valid JSON") from error
    if not isinstance(body, dict):
        raise _bad("its body is not a JSON object")
    return body


def _keys(body: Body, *names: str) -> None:
    if set(body) != set(names):
        raise _bad(f"its body must have exactly these keys: {', '.join(names) or 'none'}")


def _server(body: Body, *more: str) -> tuple[str, str]:
    """Return user and server of a request whose keys are these and `more`."""
    _keys(body, "user", "server", *more)
    user, server = body["user"], body["server"]
    if not isinstance(user, str) or not isinstance(server, str):
        raise _bad("user and server must be strings")
    try:
        check_name(user)
    except XnatError as error:
        raise RefusedError(Kind.NAME, f"{error}.") from error
    if server and not SERVER_NAME.fullmatch(server):
        raise RefusedError(Kind.NAME, f"{server[:64]!r} is not a valid server name in XNAT.")
    return user, server


def _variables(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise _bad("env is not an object")
    for name, content in value.items():
        if name not in HUB_VARIABLES:
            raise _bad(f"env contains {name[:64]!a}, which the hub may not set")
        if not isinstance(content, str) or len(content) > MAX_VALUE or "\0" in content or not _encodes(content):
            raise _bad(f"env.{name} is not a valid value of a variable")
    return value


def _encodes(text: str) -> bool:
    """Return whether a text has no lone surrogate; JSON can contain these, but a variable cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _peer(request: web.Request) -> int:
    """Return the user id of the connected process; -1 if it is unknown."""
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is None:
        return -1
    try:
        _, uid, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    except OSError:
        return -1
    return int(uid)


def _bad(why: str) -> RefusedError:
    return RefusedError(Kind.BAD_REQUEST, f"The launcher refused the request: {why}.")


def _refusal(error: RefusedError) -> web.Response:
    return web.json_response({"kind": error.kind, "message": str(error)}, status=error.status)
