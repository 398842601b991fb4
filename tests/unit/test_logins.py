"""Log-ins of people, against the demo XNAT over HTTP (docs/xnat-contract.md, 1.2, 1.3, 1.6)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from demo_xnat.state import State
from xnat_hub.logins import Logins
from xnat_wire.rest import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    NotPermittedError,
    Rest,
    TooManyFailuresError,
    UnavailableError,
    XnatError,
)
from xnat_wire.site import XnatSite
from xnat_wire.throttle import Throttle

from tests.unit.launcher_bed import NO_LEAKS, PASSWORD, demo_xnat, site

pytestmark = NO_LEAKS
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"
Check = Callable[[Logins, State], Awaitable[None]]


def make(place: XnatSite) -> Logins:
    return Logins(Rest(place), "jupyterhub", Throttle(5, 86400))


def against_demo(tmp_path: Path, check: Check, all_users: bool = False) -> None:
    """Run the check with the log-ins at a served demo XNAT."""

    async def serve() -> None:
        async with demo_xnat(tmp_path, all_users) as (place, state):
            logins = make(place)
            try:
                await check(logins, state)
            finally:
                await logins.close()

    asyncio.run(serve())


@pytest.mark.parametrize(
    ("username", "all_users", "allowed"),
    [
        pytest.param("jdoe", False, True, id="role"),
        pytest.param("JDoe", False, True, id="role-of-another-letter-case"),
        pytest.param("asmith", False, False, id="no-role"),
        pytest.param("asmith", True, True, id="switch-for-everybody"),
    ],
)
def test_role_or_switch_lets_people_in(tmp_path: Path, username: str, all_users: bool, allowed: bool) -> None:
    async def check(logins: Logins, state: State) -> None:
        assert await logins.may_start_jupyter(username, PASSWORD, HOME) is allowed

    against_demo(tmp_path, check, all_users)


@pytest.mark.parametrize(
    ("username", "password", "error"),
    [
        pytest.param("jdoe", "wrong", BadCredentialsError, id="wrong-password"),
        pytest.param("nobody", PASSWORD, BadCredentialsError, id="unknown-name"),
        pytest.param("disabled", PASSWORD, BadCredentialsError, id="disabled"),
        pytest.param("expired", PASSWORD, ActionRequiredError, id="expired"),
        pytest.param("", PASSWORD, InvalidNameError, id="no-name"),
        pytest.param("..", PASSWORD, InvalidNameError, id="dots"),
        pytest.param("jdoe/../admin", PASSWORD, InvalidNameError, id="path"),
        pytest.param("auth0:1", PASSWORD, InvalidNameError, id="colon"),
        pytest.param("j\xa0doe", PASSWORD, InvalidNameError, id="not-printable"),
        pytest.param("j" * 256, PASSWORD, InvalidNameError, id="too-long"),
        pytest.param("JDOE", PASSWORD, BadCredentialsError, id="letter-case"),
    ],
)
def test_a_log_in_that_fails_says_which_way(
    tmp_path: Path, username: str, password: str, error: type[XnatError]
) -> None:
    async def check(logins: Logins, state: State) -> None:
        with pytest.raises(error):
            await logins.may_start_jupyter(username, password, HOME)

    against_demo(tmp_path, check)


def test_a_log_in_leaves_no_session_behind(tmp_path: Path) -> None:  # contract 1.6
    async def check(logins: Logins, state: State) -> None:
        for _ in range(5):
            await logins.may_start_jupyter("jdoe", PASSWORD, HOME)
        await logins.close()
        assert state.session_count() == 0

    against_demo(tmp_path, check)


def test_the_end_of_the_hub_closes_all_connections(tmp_path: Path) -> None:
    async def hub() -> None:
        async with demo_xnat(tmp_path) as (place, state):
            assert await make(place).may_start_jupyter("jdoe", PASSWORD, HOME)
            # As JupyterHub does when it stops.
            tasks = [task for task in asyncio.all_tasks() if task.get_coro().__name__ == "_close_at_end"]  # type: ignore[union-attr]
            assert len(tasks) == 1
            tasks[0].cancel()
            await asyncio.wait(tasks)
            assert state.session_count() == 0

    asyncio.run(hub())  # a connector that is still open would be a ResourceWarning


def test_xnat_is_not_asked_about_a_name_that_it_refused_too_often(tmp_path: Path) -> None:
    async def check(logins: Logins, state: State) -> None:
        for _ in range(5):
            with pytest.raises(BadCredentialsError):
                await logins.may_start_jupyter("jdoe", "wrong", HOME)
        for _ in range(30):
            with pytest.raises(TooManyFailuresError, match=r"jdoe .* 30 s"):
                await logins.may_start_jupyter("jdoe", "wrong", HOME)
        assert await logins.may_start_jupyter("JDoe", PASSWORD, HOME)
        assert await logins.may_start_jupyter("jdoe", PASSWORD, ELSEWHERE)
        state.check_password("jdoe", PASSWORD)  # raises if the account were locked

    against_demo(tmp_path, check)


def test_an_address_that_tries_many_names_is_told_to_wait(tmp_path: Path) -> None:
    async def check(logins: Logins, state: State) -> None:
        tries = [logins.may_start_jupyter(f"u{number}", "wrong", HOME) for number in range(25)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, TooManyFailuresError)]
        assert len(refused) == 5
        assert "from your address" in str(refused[0])
        assert await logins.may_start_jupyter("jdoe", PASSWORD, ELSEWHERE)

    against_demo(tmp_path, check)


def test_tries_at_once_are_limited_too(tmp_path: Path) -> None:
    async def check(logins: Logins, state: State) -> None:
        tries = [logins.may_start_jupyter("jdoe", "wrong", HOME) for _ in range(40)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(answer, BadCredentialsError) for answer in answers) == 5
        assert sum(isinstance(answer, TooManyFailuresError) for answer in answers) == 35

    against_demo(tmp_path, check)


@pytest.mark.parametrize(
    ("username", "error"), [("jupyterhub", NotPermittedError), ("jdoe", UnavailableError)], ids=["ours", "a-persons"]
)
def test_the_hubs_own_account_is_not_tried_at_the_log_in_form(username: str, error: type[XnatError]) -> None:
    async def log_in() -> None:
        logins = make(site("http://127.0.0.1:1"))  # nothing listens: an asked XNAT is unavailable
        try:
            with pytest.raises(error):
                await logins.may_start_jupyter(username, "x", HOME)
        finally:
            await logins.close()

    asyncio.run(log_in())


def test_no_password_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def check(logins: Logins, state: State) -> None:
        await logins.may_start_jupyter("jdoe", PASSWORD, HOME)
        with pytest.raises(BadCredentialsError):
            await logins.may_start_jupyter("jdoe", "a-wrong-one", HOME)
        for secret in (PASSWORD, "a-wrong-one"):
            assert secret not in caplog.text

    against_demo(tmp_path, check)
