"""The hub's REST API where XNAT needs a different answer, with JupyterHub's own handlers over HTTP."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tornado import web
from xnat_hub.handlers import HANDLERS, UserHandler, security_headers


class Spawner:
    """A server; `slow` ones are still stopping when the hub no longer waits."""

    def __init__(self, pending: str | None = None, slow: bool = False, active: bool = True) -> None:
        self.pending = pending
        self.slow = slow
        self.active = active
        self._spawn_future: asyncio.Future[None] | None = None
        self._stop_future: asyncio.Future[None] | None = None


def delete(**spawners: Spawner) -> tuple[int, str, dict[str, Spawner]]:
    """Delete a user who has these servers; return status, sentence and the servers."""

    async def run() -> tuple[int, str]:
        handler = SimpleNamespace(
            find_user=lambda name: SimpleNamespace(name=name, spawners=spawners),
            current_user=SimpleNamespace(name="xnat"),
            slow_stop_timeout=0.05,
        )
        handler._stop = lambda user, name: UserHandler._stop(handler, user, name)  # type: ignore[arg-type]

        async def stop_single_user(user: Any, name: str) -> None:
            assert not user.spawners[name].pending
            user.spawners[name].active = user.spawners[name].slow

        handler.stop_single_user = stop_single_user
        for spawner in spawners.values():
            if spawner.pending == "spawn":
                spawner._spawn_future = asyncio.ensure_future(asyncio.sleep(60))

                def ended(_: Any, spawner: Spawner = spawner) -> None:
                    spawner.pending = None

                spawner._spawn_future.add_done_callback(ended)
            if spawner.pending == "stop":
                spawner._stop_future = asyncio.ensure_future(asyncio.sleep(0.01 if not spawner.slow else 60))

                def stopped(_: Any, spawner: Spawner = spawner) -> None:
                    spawner.pending, spawner.active = None, False

                spawner._stop_future.add_done_callback(stopped)
        try:
            await UserHandler.stop_servers(handler, handler.find_user("jdoe"))  # type: ignore[arg-type]
        except web.HTTPError as error:
            return error.status_code, str(error.log_message)
        return 204, ""

    status, text = asyncio.run(run())
    return status, text, spawners


def test_all_servers_of_a_user_are_stopped_before_the_user_goes() -> None:
    status, _, servers = delete(s1=Spawner(), s2=Spawner("spawn"), s3=Spawner("stop"), s4=Spawner(active=False))
    assert status == 204
    assert not any(server.active for server in servers.values())


@pytest.mark.parametrize(
    "slow", [Spawner(slow=True), Spawner("stop", slow=True), Spawner("check")], ids=["slow", "stopping", "checked"]
)
def test_a_server_that_does_not_stop_in_time_is_named(slow: Spawner) -> None:
    status, text, _ = delete(s1=slow, s2=Spawner())
    assert status == 400
    assert "'s1'" in text
    assert "'s2'" not in text


def test_users_and_servers_are_ours_before_jupyterhubs() -> None:
    paths = [path for path, _ in HANDLERS]
    assert paths == [r"/api/users/([^/]+)/servers/([^/]*)", r"/api/users/([^/]+)", r"/api/users"]


@pytest.mark.parametrize(
    ("url", "hsts"), [("https://hub.example.org", True), ("http://hub.example.org", False)], ids=["https", "http"]
)
def test_pages_have_security_headers_and_hsts_where_they_are_https(url: str, hsts: bool) -> None:
    headers = security_headers(url)
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert ("Strict-Transport-Security" in headers) is hsts
