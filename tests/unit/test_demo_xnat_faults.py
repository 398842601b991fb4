"""The demo XNAT's faults: `PUT /demo/faults` affects the requests that match, and no others."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from demo_xnat.web import BACKGROUND, STATE

from tests.unit.test_demo_xnat import Client, Clock, answer, make_settings, run

ROLES = "/xapi/users/jdoe/roles"
FAULTS = "/demo/faults"
NULLS = dict.fromkeys(
    ("path", "method", "user", "delay", "status", "content_type", "location", "body", "ignore", "restart", "times")
)


async def order(client: Client, *faults: Any) -> None:
    assert (await answer(client, "admin", "PUT", FAULTS, json=list(faults)))[0] == 200


def test_a_fault_answers_instead_of_xnat_and_before_any_log_in(tmp_path: Path) -> None:
    page = {"path": "/roles$", "status": 200, "content_type": "text/html", "body": "<html>"}

    async def check(client: Client) -> None:
        await order(client, page)
        assert await answer(client, "jdoe", "GET", ROLES) == (200, "text/html", "<html>")
        assert await answer(client, "", "GET", ROLES) == (200, "text/html", "<html>")
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 200
        await order(client, {"path": ".", "status": 503})
        assert await answer(client, "jdoe", "GET", ROLES) == (503, "text/plain", "")
        await order(client)
        assert (await answer(client, "jdoe", "GET", ROLES))[2] == '["Jupyter"]'

    run(make_settings(tmp_path), check)


def test_a_fault_is_for_one_method_one_user_and_so_many_times(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await order(client, {"path": "^/data/JSESSION", "method": "GET", "user": "jdoe", "status": 500, "times": 2})
        assert (await answer(client, "JDoe", "GET", "/data/JSESSION"))[0] == 200
        assert (await answer(client, "jdoe", "DELETE", "/data/JSESSION"))[0] == 200
        assert (await answer(client, "", "GET", "/data/JSESSION"))[0] == 401
        got = [(await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] for _ in range(3)]
        assert got == [500, 500, 200]

    run(make_settings(tmp_path), check)


def test_the_first_fault_that_still_applies_happens_and_the_list_says_what_is_left(tmp_path: Path) -> None:
    once, then = {"path": "roles", "status": 502, "times": 1}, {"path": "roles", "status": 503}

    async def check(client: Client) -> None:
        await order(client, once, then)
        assert [(await answer(client, "jdoe", "GET", ROLES))[0] for _ in range(2)] == [502, 503]
        left = json.loads((await answer(client, "admin", "GET", FAULTS))[2])
        assert left == [NULLS | once | {"times": 0}, NULLS | then]

    run(make_settings(tmp_path), check)


def test_an_ignored_change_is_200_and_not_done(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        session = (await answer(client, "jdoe", "GET", "/data/JSESSION"))[2]
        cookie = {"Cookie": f"JSESSIONID={session}"}
        await order(client, {"path": "JSESSION", "method": "DELETE", "ignore": True})
        assert (await answer(client, "", "DELETE", "/data/JSESSION", headers=cookie))[::2] == (200, "")
        assert (await answer(client, "", "GET", "/data/JSESSION", headers=cookie))[0] == 200

    run(make_settings(tmp_path), check)


def test_a_delay_comes_before_the_handler_and_holds_up_nobody_else(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await order(client, {"path": "roles", "user": "jdoe", "delay": 0.3})
        started = time.monotonic()
        slow = asyncio.create_task(answer(client, "jdoe", "GET", ROLES))
        assert (await answer(client, "JDoe", "GET", "/xapi/users/JDoe/roles"))[0] == 200
        assert not slow.done()
        assert (await slow)[2] == '["Jupyter"]'
        assert time.monotonic() - started >= 0.3

    run(make_settings(tmp_path), check)


def test_neither_the_switch_nor_the_health_check_is_ever_affected_and_only_admins_may_use_it(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await order(client, {"path": "", "status": 500})
        assert (await answer(client, "", "GET", "/healthz"))[0] == 200
        for method in ("GET", "PUT"):
            assert (await answer(client, "jupyterhub", method, FAULTS, json=[]))[0] == 403
            assert (await answer(client, "", method, FAULTS, json=[]))[0] == 401
            assert (await answer(client, "admin", method, FAULTS, json=[]))[0] == 200

    run(make_settings(tmp_path), check)


def test_a_restart_drops_every_request_for_a_while_and_forgets_sessions_and_progress(tmp_path: Path) -> None:
    clock = Clock()

    async def check(client: Client) -> None:
        state = client.app[STATE]
        alias, secret = state.issue_alias(state.people["jdoe"])
        cookie = {"Cookie": f"JSESSIONID={(await answer(client, 'jdoe', 'GET', '/data/JSESSION'))[2]}"}
        state.track(state.people["jdoe"], "key", "InProgress", "Starting.")
        for _ in range(20):
            await answer(client, "JDoe", "GET", "/data/JSESSION", "wrong")
        await order(client, {"path": "roles", "restart": 30, "times": 1})
        for path in (ROLES, "/data/JSESSION", "/", ROLES):
            with pytest.raises(aiohttp.ClientConnectionError):
                await answer(client, "jdoe", "GET", path)
        assert (await answer(client, "", "GET", "/healthz"))[0] == 200
        assert (await answer(client, "admin", "GET", FAULTS))[0] == 200
        clock.now += 30
        assert (await answer(client, "", "GET", "/data/JSESSION", headers=cookie))[0] == 401
        assert (await answer(client, "jdoe", "GET", "/xapi/event_tracking/key"))[0] == 404
        assert (await answer(client, "JDoe", "GET", "/data/JSESSION"))[0] == 200  # was locked
        assert (await answer(client, alias, "GET", ROLES, secret))[2] == '["Jupyter"]'

    run(make_settings(tmp_path), check, clock)


def test_a_restart_ends_what_runs_in_the_background(tmp_path: Path) -> None:
    ended: list[bool] = []

    async def for_ever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def check(client: Client) -> None:
        client.app[BACKGROUND].run(for_ever())
        await asyncio.sleep(0)  # it begins
        await order(client, {"path": "roles", "restart": 0, "times": 1})
        with pytest.raises(aiohttp.ClientConnectionError):
            await answer(client, "jdoe", "GET", ROLES)
        assert ended == [True]
        assert (await answer(client, "jdoe", "GET", ROLES))[0] == 200

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        pytest.param(b"[", "The faults are not JSON.", id="no JSON"),
        pytest.param(b"{}", "", id="no list"),
        pytest.param(b"[1]", "0: ", id="no object"),
        pytest.param(b"[{}]", "0.path: ", id="no path"),
        pytest.param(b'[{"path": "a"}, {"path": "("}]', "1.path: ", id="no regular expression"),
        pytest.param(b'[{"path": "a", "state": 1}]', "0.state: ", id="unknown key"),
        pytest.param(b'[{"path": "a", "status": "500"}]', "0.status: ", id="text for a number"),
        pytest.param(b'[{"path": "a", "status": 99}]', "0.status: ", id="no status"),
        pytest.param(b'[{"path": "a", "delay": -1}]', "0.delay: ", id="negative delay"),
        pytest.param(b'[{"path": "a", "restart": -1}]', "0.restart: ", id="negative restart"),
        pytest.param(b'[{"path": "a", "delay": NaN}]', "0.delay: ", id="not a number"),
    ],
)
def test_a_wrong_order_is_400_with_the_place_of_the_problem_and_changes_nothing(
    tmp_path: Path, body: bytes, place: str
) -> None:
    async def check(client: Client) -> None:
        await order(client, {"path": "roles", "status": 500})
        status, _, text = await answer(client, "admin", "PUT", FAULTS, data=body)
        assert status == 400
        assert text.startswith(place)
        assert (await answer(client, "jdoe", "GET", ROLES))[0] == 500

    run(make_settings(tmp_path), check)
