"""The hub's XNAT client and log-in, against the demo XNAT over HTTP (docs/xnat-contract.md, 1 and 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from demo_xnat.state import State
from demo_xnat.web import make_app
from xnat_hub.client import (
    BadCredentialsError,
    NotFoundError,
    NotInitialisedError,
    NotPermittedError,
    NotUnderstoodError,
    PasswordExpiredError,
    UnavailableError,
    XnatClient,
    XnatError,
)
from xnat_hub.settings import Settings

from tests.unit.test_demo_xnat import SECRETS, Clock, make_settings

Check = Callable[[XnatClient, State], Awaitable[None]]
PASSWORD = SECRETS.user_password


def against_demo(settings: Settings, tmp_path: Path, check: Check, all_users: bool = False) -> None:
    """Run the check with a client of a served demo XNAT."""

    async def serve() -> None:
        state = State(SECRETS, 1000, Clock())
        async with TestServer(make_app(make_settings(tmp_path, all_users=all_users), SECRETS, state)) as server:
            client = XnatClient(replace(settings, xnat_url=str(server.make_url("/"))))
            try:
                await check(client, state)
            finally:
                await client.close()

    asyncio.run(serve())


def against_answer(settings: Settings, answer: Callable[[], web.Response], timeout: float = 2) -> XnatError:
    """Return the error of a log-in at an XNAT that gives one answer to everything."""

    async def serve() -> XnatError:
        async def handler(_: web.Request) -> web.Response:
            return answer()

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        async with TestServer(app) as server:
            client = XnatClient(replace(settings, xnat_url=str(server.make_url("/")), xnat_timeout=timeout))
            try:
                with pytest.raises(XnatError) as caught:
                    await client.may_start_jupyter("jdoe", "x")
                return caught.value
            finally:
                await client.close()

    return asyncio.run(serve())


@pytest.mark.parametrize(
    ("username", "all_users", "allowed"),
    [("jdoe", False, True), ("JDoe", False, True), ("asmith", False, False), ("asmith", True, True)],
)
def test_role_or_switch_lets_people_in(
    settings: Settings, tmp_path: Path, username: str, all_users: bool, allowed: bool
) -> None:
    async def check(client: XnatClient, state: State) -> None:
        assert await client.may_start_jupyter(username, PASSWORD) is allowed

    against_demo(settings, tmp_path, check, all_users)


@pytest.mark.parametrize(
    ("username", "password", "error"),
    [
        ("jdoe", "wrong", BadCredentialsError),
        ("nobody", PASSWORD, BadCredentialsError),
        ("disabled", PASSWORD, BadCredentialsError),
        ("expired", PASSWORD, PasswordExpiredError),
        ("", PASSWORD, BadCredentialsError),
        ("..", PASSWORD, BadCredentialsError),
        ("jdoe/../admin", PASSWORD, BadCredentialsError),
        ("a:b", PASSWORD, BadCredentialsError),
        ("JDOE", PASSWORD, BadCredentialsError),
    ],
)
def test_a_log_in_that_fails_says_which_way(
    settings: Settings, tmp_path: Path, username: str, password: str, error: type[XnatError]
) -> None:
    async def check(client: XnatClient, state: State) -> None:
        with pytest.raises(error):
            await client.may_start_jupyter(username, password)

    against_demo(settings, tmp_path, check)


def test_a_log_in_leaves_no_session_behind(settings: Settings, tmp_path: Path) -> None:  # contract 1.6
    async def check(client: XnatClient, state: State) -> None:
        for _ in range(5):
            await client.may_start_jupyter("jdoe", PASSWORD)
        await client.close()
        assert state.session_count() == 0

    against_demo(settings, tmp_path, check)


def test_the_service_account_keeps_one_session(settings: Settings, tmp_path: Path) -> None:  # contract 1.6
    async def check(client: XnatClient, state: State) -> None:
        for _ in range(5):
            with pytest.raises(NotFoundError):
                await client.user_options("jdoe", "20260115T093012345Z")
        assert state.session_count() == 1
        await client.close()
        assert state.session_count() == 0

    against_demo(settings, tmp_path, check)


@pytest.mark.parametrize("name", ["..a/b", "a b", "a?b", "a#b", "%2e%2e", "x" * 65])
def test_server_names_that_would_change_the_path_are_refused(settings: Settings, name: str) -> None:  # contract 6.4
    with pytest.raises(NotPermittedError):
        asyncio.run(XnatClient(settings).user_options("jdoe", name))


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            lambda: web.Response(text="<html>", content_type="text/html"),
            NotUnderstoodError,
            "text/html instead of JSON",
        ),
        (lambda: web.Response(status=200), NotUnderstoodError, "instead of JSON"),
        (lambda: web.Response(text="{", content_type="application/json"), NotUnderstoodError, "cannot be read"),
        (lambda: web.json_response({"a": 1}), NotUnderstoodError, "no list"),
        (lambda: web.Response(status=302, headers={"Location": "/setup"}), NotInitialisedError, "not set up"),
        (lambda: web.Response(status=302, headers={"Location": "/app"}), PasswordExpiredError, "a new password"),
        (lambda: web.Response(status=403), NotPermittedError, "does not permit"),
        (lambda: web.Response(status=500), UnavailableError, "status 500"),
        (lambda: web.Response(status=418), NotUnderstoodError, "status 418"),
    ],
)
def test_an_odd_answer_is_a_named_error(
    settings: Settings, answer: Callable[[], web.Response], error: type[XnatError], words: str
) -> None:
    caught = against_answer(settings, answer)
    assert type(caught) is error
    assert words in str(caught)


def test_an_xnat_that_hangs_is_unavailable_in_time(settings: Settings) -> None:
    async def hang() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = XnatClient(replace(settings, xnat_url=f"http://127.0.0.1:{port}", xnat_timeout=0.2))
        with pytest.raises(UnavailableError, match=r"within 0\.2 s"):
            await client.may_start_jupyter("jdoe", "x")
        await client.close()
        server.close()

    asyncio.run(hang())


def test_an_xnat_that_is_away_is_unavailable(settings: Settings) -> None:
    async def away() -> None:
        client = XnatClient(replace(settings, xnat_url="http://127.0.0.1:1"))
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await client.may_start_jupyter("jdoe", "x")
        await client.close()

    asyncio.run(away())
