"""The helpers in the services' containers: the health check, and the relay that listens on one address."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import ClientSession, WSMsgType, web
from aiohttp.test_utils import TestServer, unused_port

from tests.unit.conftest import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.fixture
def check(tmp_path: Path) -> Path:
    """The health check with short times, and a mark of its own."""
    text = (ROOT / "files/healthy").read_text()
    for before, after in (
        ("PAUSE=30 LIMIT=60 ANSWER=20", "PAUSE=2 LIMIT=1 ANSWER=1"),
        ("/dev/shm/healthy", str(tmp_path / "well")),
    ):
        assert before in text
        text = text.replace(before, after)
    path = tmp_path / "healthy"
    path.write_text(text)
    return path


async def checked(path: Path, port: int, page: str = "/health") -> tuple[int, float]:
    """Exit code of a check and the seconds that it took."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec("bash", path, str(port), page, stdout=subprocess.DEVNULL)
    return await asyncio.wait_for(process.wait(), 20), time.monotonic() - began


@asynccontextmanager
async def service(status: int = 200, port: int | None = None) -> AsyncIterator[TestServer]:
    async def health(request: web.Request) -> web.Response:
        return web.Response(status=status if request.path == "/health" else 404)

    app = web.Application()
    app.router.add_get("/{path:.*}", health)
    server = TestServer(app, port=port)
    async with server:
        yield server


def test_a_service_that_is_well_is_left_alone_for_a_while(check: Path) -> None:
    async def main() -> None:
        async with service() as server:
            assert server.port
            code, seconds = await checked(check, server.port)
            assert (code, seconds < 1.5) == (0, True)
            code, seconds = await checked(check, server.port)
            assert (code, seconds >= 2) == (0, True)

    asyncio.run(main())


def test_one_check_waits_for_a_service_that_starts(check: Path) -> None:
    async def main() -> None:
        port = unused_port()
        waiting = asyncio.create_task(checked(check, port))
        await asyncio.sleep(0.1)
        async with service(port=port):
            assert (await waiting)[0] == 0

    asyncio.run(main())


@pytest.mark.parametrize(("status", "page"), [(503, "/health"), (200, "/other"), (302, "/health")])
def test_only_200_is_well_and_the_next_check_does_not_pause(check: Path, status: int, page: str) -> None:
    async def main() -> None:
        check.with_name("well").touch()
        async with service(status) as server:
            assert server.port
            assert (await checked(check, server.port, page))[0] == 1
            assert not check.with_name("well").exists()

    asyncio.run(main())


def test_a_service_that_says_nothing_is_not_well(check: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        code, seconds = asyncio.run(checked(check, silent.getsockname()[1]))
    assert (code, seconds < 10) == (1, True)


def relay_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("relay", ROOT / "files/runtime/relay.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def relayed(port: int) -> AsyncIterator[int]:
    """A port whose connections go to another."""
    listen = unused_port()
    task = asyncio.create_task(relay_module().serve(listen, "127.0.0.1", port))
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", listen)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            break
    yield listen
    task.cancel()


def test_pages_and_websockets_pass_the_relay_both_ways() -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(message.data)
        return answer

    async def big(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 5_000_000)

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/echo", echo)
        app.router.add_get("/big", big)
        async with TestServer(app) as server, ClientSession() as client:
            assert server.port
            async with relayed(server.port) as port:
                async with client.get(f"http://127.0.0.1:{port}/big") as answer:
                    assert len(await answer.read()) == 5_000_000
                async with client.ws_connect(f"http://127.0.0.1:{port}/echo") as websocket:
                    await websocket.send_str("hello")
                    message = await websocket.receive(timeout=10)
                    assert (message.type, message.data) == (WSMsgType.TEXT, "hello")

    asyncio.run(main())


def test_the_relay_closes_what_nobody_answers_and_goes_on() -> None:
    async def main() -> None:
        port = unused_port()
        async with relayed(port) as listen:
            reader, writer = await asyncio.open_connection("127.0.0.1", listen)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            url = f"http://127.0.0.1:{listen}/health"
            async with service(port=port), ClientSession() as client, client.get(url) as answer:
                assert answer.status == 200

    asyncio.run(main())
