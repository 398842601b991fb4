"""The launcher's client of Docker's API, against a small server at a unix socket that gives good and bad answers."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Iterator
from itertools import repeat
from typing import Any

import pytest
from aiohttp import web
from xnat_launcher import docker
from xnat_launcher.docker import (
    ConflictError,
    Docker,
    MissingError,
    SwarmError,
    UnreachableError,
)

from tests.unit.launcher_bed import NO_LEAKS

pytestmark = NO_LEAKS
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[[Docker], Awaitable[Any]]
API = {"Api-Version": "1.45"}
GOOD_PINGS = repeat(200)


def ask(
    socket: str, handler: Handler, question: Ask, ping: dict[str, str] | None = None, pings: Iterator[int] = GOOD_PINGS
) -> Any:
    """Serve an engine, put the question to it, and return the answer. pings: the status of one ping after the other."""

    async def pinged(request: web.Request) -> web.Response:
        return web.Response(status=next(pings), text="OK", headers=API if ping is None else ping)

    async def run() -> Any:
        app = web.Application()
        app.router.add_get("/_ping", pinged)
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, socket).start()
        client = Docker(socket)
        try:
            return await question(client)
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(run())


def gives(status: int, body: bytes = b"", **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return handler


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def hangs_up(request: web.Request) -> web.StreamResponse:
    assert request.transport
    request.transport.abort()
    return web.Response()


def frames(*texts: bytes) -> bytes:
    """A log as Docker multiplexes it."""
    return b"".join(struct.pack(">BxxxL", 1 + number % 2, len(text)) + text for number, text in enumerate(texts))


async def info(client: Docker) -> Any:
    return await client.get("/info")


@pytest.mark.parametrize(
    ("ping", "path"),
    [({"Api-Version": "1.52"}, "/v1.52/tasks"), ({}, f"/v{docker.OLDEST_API}/tasks")],
    ids=["a-newer-engine", "an-engine-that-does-not-say"],
)
def test_the_engines_own_version_of_the_api_is_asked(socket: str, ping: dict[str, str], path: str) -> None:
    """Engine 29 refuses versions that Engine 20.10 knows."""

    async def handler(request: web.Request) -> web.Response:
        return web.json_response([request.path, request.query.get("filters")])

    async def question(client: Docker) -> Any:
        return [await client.get("/tasks", {"label": ["a=b"]}), await client.get("/tasks")]

    assert ask(socket, handler, question, ping) == [[path, '{"label": ["a=b"]}'], [path, None]]


def test_objects_are_made_and_removed_by_quoted_names(socket: str) -> None:
    asked: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.method, request.raw_path, await request.text()))
        return web.json_response({"ID": "abc"}, status=201) if request.method == "POST" else web.Response(status=204)

    async def question(client: Docker) -> str:
        made = await client.create("services", {"Name": "x"})
        await client.delete("services", "a/../b?force")
        return made

    assert ask(socket, handler, question) == "abc"
    assert asked == [
        ("POST", "/v1.45/services/create", '{"Name": "x"}'),
        ("DELETE", "/v1.45/services/a%2F..%2Fb%3Fforce", ""),
    ]


@pytest.mark.parametrize(
    ("handler", "error", "fact"),
    [
        pytest.param(gives(404, b'{"message": "service x not found"}'), MissingError, "service x not found", id="404"),
        pytest.param(gives(409, b'{"message": "name conflicts"}'), ConflictError, "name conflicts", id="409"),
        pytest.param(gives(500, b'{"message": "rpc error"}'), SwarmError, "rpc error", id="500"),
        pytest.param(gives(503, b""), SwarmError, "503", id="no-text"),
        pytest.param(gives(400, b"client is too old"), SwarmError, "too old", id="no-json-error"),
        pytest.param(gives(500, b"[1]"), SwarmError, "[1]", id="a-list-as-error"),
        pytest.param(gives(500, b"\xff\xfe{"), SwarmError, "{", id="no-text-error"),
        pytest.param(gives(500, b"x" * 10_000), SwarmError, "xxx", id="a-long-error"),
        pytest.param(gives(200, b"<html>"), SwarmError, "JSON", id="html"),
        pytest.param(gives(200, b'["\xff"]'), SwarmError, "JSON", id="not-utf-8"),
        pytest.param(gives(200, b"[" * 200_000), SwarmError, "JSON", id="deep-json"),
        pytest.param(
            gives(200, b"no gzip, as it says", **{"Content-Encoding": "gzip"}),
            UnreachableError,
            "",
            id="broken-compression",
        ),
        pytest.param(hangs_up, UnreachableError, "", id="closed-connection"),
    ],
)
def test_an_odd_answer_is_a_named_error(socket: str, handler: Handler, error: type[SwarmError], fact: str) -> None:
    async def question(client: Docker) -> None:
        with pytest.raises(SwarmError) as caught:
            await info(client)
        assert type(caught.value) is error
        assert fact in str(caught.value)
        assert len(str(caught.value)) < 1100

    ask(socket, handler, question)


@pytest.mark.parametrize("answer", [b"null", b"[]", b'{"ID": null}', b'{"Id": "x"}', b""], ids=repr)
def test_a_made_object_without_an_id_is_a_named_error(socket: str, answer: bytes) -> None:
    async def question(client: Docker) -> None:
        with pytest.raises(SwarmError, match="id"):
            await client.create("secrets", {})

    ask(socket, gives(201, answer), question)


def test_an_engine_that_hangs_is_unreachable_in_time(socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "TIMEOUT", 0.1)

    async def question(client: Docker) -> None:
        with pytest.raises(UnreachableError):
            await info(client)

    ask(socket, hangs, question)


def test_an_engine_that_is_away_is_asked_again_when_it_is_back(socket: str) -> None:
    async def question(client: Docker) -> Any:
        assert await info(client) == {"a": 1}
        return await info(client)

    async def away() -> None:
        client = Docker(socket)
        for call in (info(client), client.log_end("x", 5)):
            with pytest.raises(UnreachableError):
                await call
        await client.close()

    asyncio.run(away())
    assert ask(socket, gives(200, b'{"a": 1}'), question) == {"a": 1}


def test_an_engine_that_fails_at_first_is_asked_for_its_version_again(socket: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(request.path)

    async def question(client: Docker) -> Any:
        with pytest.raises(SwarmError):
            await info(client)
        return await info(client)

    assert ask(socket, handler, question, pings=iter([500, 200])) == "/v1.45/info"


async def last_lines(client: Docker) -> bytes:
    return await client.log_end("a-service", 15)


def test_a_multiplexed_log_is_read(socket: str) -> None:
    asked: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append((request.path, dict(request.query)))
        return web.Response(body=frames(b"one\n", b"", "zwei ä\n".encode()))

    assert ask(socket, handler, last_lines) == "one\nzwei ä\n".encode()
    assert asked == [("/v1.45/services/a-service/logs", {"stdout": "1", "stderr": "1", "tail": "15"})]


def streams(*parts: bytes, end: Callable[[web.Request], Awaitable[object]]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for part in parts:
            await answer.write(part)
        await end(request)
        return answer

    return handler


async def nothing(request: web.Request) -> None:
    return None


@pytest.mark.parametrize(
    ("handler", "log"),
    [
        pytest.param(gives(200), b"", id="empty"),
        pytest.param(streams(frames(b"one"), end=hangs), b"one", id="a-node-that-is-silent"),
        pytest.param(streams(end=hangs), b"", id="all-nodes-silent"),
        pytest.param(hangs, b"", id="an-engine-that-hangs"),
        pytest.param(streams(frames(b"one"), frames(b"two")[:9], end=nothing), b"one", id="cut-in-a-line"),
        pytest.param(streams(frames(b"one"), b"\x01\0", end=nothing), b"one", id="cut-in-a-header"),
        pytest.param(streams(frames(b"one"), end=hangs_up), b"one", id="closed-connection"),
        pytest.param(streams(frames(b"one"), b"\x01\0\0\0\xff\xff\xff\xff", end=nothing), b"one", id="a-false-length"),
    ],
)
def test_what_there_is_of_a_log_is_read_in_time(
    socket: str, monkeypatch: pytest.MonkeyPatch, handler: Handler, log: bytes
) -> None:
    monkeypatch.setattr(docker, "LOG_TIMEOUT", 0.2)
    assert ask(socket, handler, last_lines) == log


def test_no_more_of_a_log_is_read_than_fits(socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "LOG_BYTES", 10)
    assert ask(socket, gives(200, frames(b"123456", b"789012", b"3")), last_lines) == b"1234567890"


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        pytest.param(gives(404, b'{"message": "gone"}'), MissingError, id="404"),
        pytest.param(gives(500, json.dumps({"message": "x"}).encode()), SwarmError, id="500"),
        pytest.param(hangs_up, UnreachableError, id="closed-connection"),
    ],
)
def test_a_log_that_cannot_be_had_is_a_named_error(socket: str, handler: Handler, error: type[SwarmError]) -> None:
    async def question(client: Docker) -> None:
        with pytest.raises(error):
            await last_lines(client)

    ask(socket, handler, question)
