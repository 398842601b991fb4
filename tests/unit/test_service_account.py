"""The launcher's calls to XNAT, against the demo XNAT over HTTP (docs/xnat-contract.md, 1.4, 1.6, 6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from demo_xnat.faults import Faults
from demo_xnat.state import State
from xnat_launcher import xnat
from xnat_launcher.xnat import ServiceAccount
from xnat_wire.launcher import Limits, Standing
from xnat_wire.rest import (
    BadCredentialsError,
    InvalidNameError,
    MovedError,
    NotFoundError,
    NotUnderstoodError,
    Rest,
    TooManyFailuresError,
)

from tests.unit.launcher_bed import NO_LEAKS, demo_xnat, service_account, site, small_xnat, store_launch
from tests.unit.test_demo_xnat import SERVICE_PASSWORD

pytestmark = NO_LEAKS
Check = Callable[[ServiceAccount, State], Awaitable[None]]


def against_demo(tmp_path: Path, check: Check, faults: Faults | None = None, password: str = SERVICE_PASSWORD) -> None:
    """Run the check with the service account of a served demo XNAT."""

    async def serve() -> None:
        async with demo_xnat(tmp_path, faults=faults) as (place, state):
            account = service_account(place, password)
            try:
                await check(account, state)
            finally:
                await account.close()

    asyncio.run(serve())


def test_the_service_account_keeps_one_session(tmp_path: Path) -> None:  # contract 1.6
    async def check(account: ServiceAccount, state: State) -> None:
        for _ in range(5):
            with pytest.raises(NotFoundError):
                await account.user_options("jdoe", "20260115T093012345Z")
        assert state.session_count() == 1
        await account.close()
        assert state.session_count() == 0

    against_demo(tmp_path, check)


def test_calls_of_one_moment_open_one_session(tmp_path: Path) -> None:  # contract 1.6
    async def check(account: ServiceAccount, state: State) -> None:
        calls = [account.user_options("jdoe", f"s{number}") for number in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {NotFoundError}
        assert state.session_count() == 1

    against_demo(tmp_path, check)


def test_a_session_that_xnat_may_have_ended_is_opened_by_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(account: ServiceAccount, state: State) -> None:
        with pytest.raises(NotFoundError):
            await account.user_options("jdoe", "s")
        monkeypatch.setattr(xnat, "SESSION_IDLE", 0.0)
        under_way = most = 0

        class Watched(Rest):
            async def get(self, *args: Any) -> Any:
                nonlocal under_way, most
                under_way += 1
                most = max(most, under_way)
                try:
                    return await super().get(*args)
                finally:
                    under_way -= 1

        account._rest.__class__ = Watched
        await asyncio.gather(*(account.user_options("jdoe", "s") for _ in range(5)), return_exceptions=True)
        assert most == 1

    against_demo(tmp_path, check)


@pytest.mark.parametrize(
    "name",
    ["..a/b", "a b", "a?b", "a#b", "%2e%2e", "x" * 65],
    ids=["slash", "blank", "question-mark", "hash", "percent", "too-long"],
)
def test_server_names_that_would_change_the_path_are_refused(name: str) -> None:  # contract 6.4
    account = service_account(site("http://127.0.0.1:1"))
    with pytest.raises(InvalidNameError) as caught:
        asyncio.run(account.user_options("jdoe", name))
    assert caught.value.status == 400
    assert repr(name) in str(caught.value)


def test_the_server_without_a_name_is_asked_for_by_its_own_call(tmp_path: Path) -> None:  # 6.3
    async def check(account: ServiceAccount, state: State) -> None:
        with pytest.raises(NotFoundError):
            await account.user_options("jdoe", "")
        store_launch(state, "jdoe", "")
        assert (await account.user_options("jdoe", ""))["servername"] == ""

    against_demo(tmp_path, check)


def test_a_wrong_password_of_the_service_account_does_not_lock_it(tmp_path: Path) -> None:
    async def check(account: ServiceAccount, state: State) -> None:
        for error in [BadCredentialsError] * 5 + [TooManyFailuresError] * 30:
            with pytest.raises(error):
                await account.user_options("jdoe", "s")
        state.check_password("jupyterhub", SERVICE_PASSWORD)  # raises if the account were locked

    against_demo(tmp_path, check, password="wrong")


@pytest.mark.parametrize("answer", [[], None, "x", 1], ids=["list", "null", "text", "number"])
def test_user_options_that_are_no_object_are_a_named_error(answer: object) -> None:
    async def serve() -> None:
        async with small_xnat(lambda _: web.json_response(answer)) as place:
            account = service_account(place)
            with pytest.raises(NotUnderstoodError):
                await account.user_options("jdoe", "s")
            await account.close()

    asyncio.run(serve())


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        pytest.param({}, Standing.ALLOWED, id="as-before"),
        pytest.param({"roles": ()}, Standing.NO_RIGHT, id="role-lost"),
        pytest.param({"enabled": False}, Standing.REFUSED, id="account-disabled"),
    ],
)
def test_who_lost_the_right_is_known_by_the_alias_token(
    tmp_path: Path, changes: dict[str, Any], seen: Standing
) -> None:  # contract 6.31
    async def check(account: ServiceAccount, state: State) -> None:
        store_launch(state, "jdoe", "s1")
        state.save(replace(state.people["jdoe"], **changes))
        assert await account.standing("jdoe", "s1") is seen
        assert await account.standing("jdoe", "other") is Standing.GONE

    against_demo(tmp_path, check)


def test_who_may_no_longer_read_the_data_is_not_known(tmp_path: Path) -> None:
    async def check(account: ServiceAccount, state: State) -> None:
        store_launch(state, "jdoe", "s1")
        state.readable["jdoe"].clear()
        assert await account.standing("jdoe", "s1") is Standing.GONE

    against_demo(tmp_path, check)


@pytest.mark.parametrize(
    "body",
    [{}, {"task_template": None}, {"task_template": {"container_spec": {"env": None}}}, {"task_template": []}],
    ids=["nothing", "no-template", "no-env", "list"],
)
def test_a_launch_without_an_alias_token_says_nothing_about_who_may(body: object) -> None:
    async def serve() -> None:
        async with small_xnat(lambda _: web.json_response(body)) as place:
            account = service_account(place)
            assert await account.standing("jdoe", "s1") is Standing.GONE
            await account.close()

    asyncio.run(serve())


def test_an_xnat_that_fails_says_nothing_about_who_may(tmp_path: Path) -> None:
    async def check(account: ServiceAccount, state: State) -> None:
        store_launch(state, "jdoe", "s1")
        with pytest.raises(BadCredentialsError):
            await account.standing("jdoe", "s1")

    against_demo(tmp_path, check, password="wrong")


@pytest.mark.parametrize(
    "place",
    ["https://xnat.example.org/xapi/users/jdoe/roles", "https://id.example.org/login"],
    ids=["moved", "sign-on"],
)
def test_an_xnat_that_moved_says_nothing_about_who_may(tmp_path: Path, place: str) -> None:
    async def check(account: ServiceAccount, state: State) -> None:
        store_launch(state, "jdoe", "s1")
        faults.set([{"path": "/roles$", "status": 302, "location": place}])
        with pytest.raises(MovedError):
            await account.standing("jdoe", "s1")

    faults = Faults()
    against_demo(tmp_path, check, faults)


def test_xnats_limits_are_read_in_seconds_with_the_service_account(tmp_path: Path) -> None:  # contract 2.6, 5.2
    async def check(account: ServiceAccount, state: State) -> None:
        assert await account.limits() == Limits(inactivity=60 * 60.0, lifetime=48 * 3600.0)
        assert state.session_count() == 1

    against_demo(tmp_path, check)


ODD_NUMBERS: tuple[object, ...] = (None, True, -1, "", "two", [], {}, float("1e999"), 10**400)


@pytest.mark.parametrize(
    ("body", "hours"),
    [
        ({"maxServerLifetime": "48"}, 48.0),
        ({"maxServerLifetime": 0}, 0.0),
        *[({"maxServerLifetime": odd}, None) for odd in ODD_NUMBERS],
        ({}, None), ([48], None), ("48", None),
    ],
)  # fmt: skip
def test_a_limit_that_is_no_number_is_unknown(body: object, hours: float | None) -> None:
    def answer(path: str) -> web.StreamResponse:
        if path.endswith("/inactivityTimeout"):
            return web.Response(status=404)  # an older plugin
        return web.json_response(body)

    async def serve() -> None:
        async with small_xnat(answer) as place:
            account = service_account(place)
            assert await account.limits() == Limits(None, None if hours is None else hours * 3600)
            await account.close()

    asyncio.run(serve())


def test_nothing_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def check(account: ServiceAccount, state: State) -> None:
        store_launch(state, "jdoe", "s1")
        env = (await account.user_options("jdoe", "s1"))["task_template"]["container_spec"]["env"]
        assert await account.standing("jdoe", "s1") is Standing.ALLOWED
        state.save(replace(state.people["jdoe"], enabled=False))
        assert await account.standing("jdoe", "s1") is Standing.REFUSED
        for secret in (SERVICE_PASSWORD, env["XNAT_USER"], env["XNAT_PASS"]):
            assert secret not in caplog.text

    against_demo(tmp_path, check)
