"""What the spawner does with the launcher's answers; tests/site runs it on a real swarm."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web as aioweb
from aiohttp.test_utils import TestServer
from jupyterhub import orm
from jupyterhub.objects import Hub, Server
from tornado import web
from xnat_hub import spawner
from xnat_hub.settings import Settings
from xnat_hub.spawner import XnatSpawner
from xnat_wire.launcher import HUB_VARIABLES, STATUS, Kind, RefusedError, Seen

from tests.unit.launcher_bed import NO_LEAKS

pytestmark = NO_LEAKS
RUNNING = Seen("running", "the container runs", "", None)
PENDING = Seen("pending", "Swarm is looking for a node", "", None)
AWAY = RefusedError(Kind.AWAY, "The launcher does not answer.")
Check = Callable[["XnatSpawner", "Launcher"], Awaitable[None]]


class Launcher:
    """Stands for the launcher. seen: how the server is at one look after the other, the last one for ever."""

    def __init__(self) -> None:
        self.place = "127.0.0.1", 1
        self.seen: list[Seen | Exception] = [RUNNING]
        self.starting: Exception | Callable[[], Awaitable[None]] | None = None
        self.stopping: list[Exception | bool] = [True]
        self.living: set[tuple[str, str]] | Exception = set()
        self.text = ""
        self.calls: list[tuple[Any, ...]] = []

    async def start(self, user: str, server: str, env: dict[str, str]) -> tuple[str, int]:
        self.calls.append(("start", user, server))
        if isinstance(self.starting, Exception):
            raise self.starting
        if self.starting:
            await self.starting()
        return self.place

    async def one(self, user: str, server: str) -> Seen:
        await asyncio.sleep(0)
        found = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def lives(self, user: str, server: str) -> bool:
        if isinstance(self.living, Exception):
            raise self.living
        return (user, server) in self.living

    async def stop(self, user: str, server: str, patience: float, service_id: str = "") -> bool:
        self.calls.append(("stop", user, server, patience))
        found = self.stopping.pop(0) if len(self.stopping) > 1 else self.stopping[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def log(self, user: str, server: str) -> str:
        return self.text

    @property
    def stops(self) -> list[float]:
        """The patience of each stop."""
        return [call[3] for call in self.calls if call[0] == "stop"]


@pytest.fixture
def db() -> Iterator[Any]:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    session = orm.new_session_factory("sqlite://")()
    yield session
    session.close()
    session.get_bind().dispose()


@pytest.fixture
def run(db: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[Check], None]:
    """Run a check with a spawner whose launcher and Jupyter are here."""
    monkeypatch.setattr(spawner, "ANSWER_INTERVAL", 0.001)
    monkeypatch.setattr(spawner, "TASK_INTERVAL", 0.0)
    monkeypatch.setattr(spawner, "AWAY_INTERVAL", 0.001)
    monkeypatch.setattr(spawner, "load", lambda: settings)
    launcher = Launcher()
    monkeypatch.setattr(spawner, "shared_launcher", lambda: launcher)
    owner = orm.User(name="jdoe")
    address = orm.Server(base_url="/jupyterhub/user/jdoe/s1/")
    row = orm.Spawner(name="s1", user=owner, server=address)
    db.add_all([owner, row])
    db.commit()
    home = "/jupyterhub/user/jdoe/"
    user = SimpleNamespace(name="jdoe", escaped_name="jdoe", url=home, base_url=home, settings={}, host="")
    user.api_tokens = owner.api_tokens
    hub = Hub(ip="hub", port=8081, base_url="/jupyterhub/hub/")
    made: Any = XnatSpawner(db=db, user=user, orm_spawner=row, hub=hub, oauth_client_id="c", start_timeout=60)
    made.server = Server(orm_server=address)

    async def jupyter(request: aioweb.Request) -> aioweb.Response:
        return aioweb.json_response({"version": "1"})

    def at_work(check: Check) -> None:
        async def serve() -> None:
            app = aioweb.Application()
            app.router.add_get("/jupyterhub/user/jdoe/s1/api", jupyter)
            async with TestServer(app, host="127.0.0.1") as served:
                launcher.place = "127.0.0.1", served.port or 0
                await check(made, launcher)

        asyncio.run(serve())

    return at_work


async def failed(call: Awaitable[object]) -> tuple[int, str]:
    """Return status and sentence of a call that fails."""
    with pytest.raises(web.HTTPError) as caught:
        await call
    return caught.value.status_code, str(caught.value.log_message) % caught.value.args


def test_a_server_is_started_where_the_launcher_says(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.seen = [Seen("new", "accepted", "", None), PENDING, RUNNING]
        assert await made.start() == launcher.place
        assert launcher.calls == [("start", "jdoe", "s1")]
        assert set(made.get_env()) - HUB_VARIABLES == {"JUPYTER_IMAGE_SPEC"}  # which the launcher says itself
        assert made.get_state() == {}

    run(check)


def test_with_an_origin_for_each_person_the_cookies_of_earlier_servers_expire(
    run: Callable[[Check], None], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        made.cookie_options = {"secure": True}
        options = [json.loads(made.get_env()["JUPYTERHUB_COOKIE_OPTIONS"])]
        monkeypatch.setattr(spawner, "load", lambda: replace(settings, person_origins=True))
        options.append(json.loads(made.get_env()["JUPYTERHUB_COOKIE_OPTIONS"]))
        assert options == [{"secure": True}, {"secure": True, "expires_days": 2.0}]

    run(check)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.AWAY], ids=str)
def test_a_refused_start_has_the_launchers_status_and_sentence(run: Callable[[Check], None], kind: Kind) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.starting = RefusedError(kind, "Because 5% of it.")
        assert await failed(made.start()) == (STATUS[kind], "Because 5% of it.")
        assert launcher.stops == [spawner.REMOVAL]

    run(check)


def test_a_launcher_that_restarts_is_asked_for_the_start_again(
    run: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        async def answers(*_: object) -> bool:
            return True

        monkeypatch.setattr(spawner, "_answers", answers)
        away = [AWAY, AWAY]

        async def starting() -> None:
            if away:
                raise away.pop()

        launcher.starting = starting
        assert await made.start() == launcher.place
        assert [call[0] for call in launcher.calls] == ["start"] * 3

    run(check)


ENDED = Seen("failed", "it ended on node w2 with exit code 3", "", 3)
NO_NODE = Seen("pending", "Swarm is looking for a node", "No node can run this server: no node has a gpu.", None)
MISSING = Seen("missing", "the server was removed", "", "its service was removed")


@pytest.mark.parametrize(
    ("seen", "status", "fact"),
    [
        pytest.param([ENDED], 500, "exit code 3", id="ended"),
        pytest.param([PENDING, NO_NODE], 503, "no node has a gpu", id="no-node"),
        pytest.param([MISSING], 500, "removed", id="removed"),
        pytest.param([RefusedError(Kind.DOCKER, "Docker is away.")], 503, "Docker is away.", id="docker-away"),
    ],
)
def test_a_server_that_does_not_come_to_run_ends_in_words_and_is_removed(
    run: Callable[[Check], None], seen: list[Seen | Exception], status: int, fact: str
) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.seen = seen
        found, sentence = await failed(made.start())
        assert found == status
        assert fact in sentence
        assert launcher.stops == [spawner.REMOVAL]

    run(check)


def test_a_server_that_ends_before_jupyter_answers_is_said_at_once(
    run: Callable[[Check], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        made.log = logging.getLogger("hub")
        launcher.seen, launcher.text = [RUNNING, RUNNING, ENDED], "Traceback 100%\nModuleNotFoundError"
        launcher.place = "127.0.0.1", 1  # nothing answers there
        async with asyncio.timeout(5):
            assert (await failed(made.start()))[0] == 500
        assert launcher.text in caplog.text

    run(check)


def test_a_log_that_cannot_be_had_changes_no_reason(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        async def log(user: str, server: str) -> str:
            raise AWAY

        launcher.seen, launcher.log = [ENDED], log  # type: ignore[method-assign]
        assert "exit code 3" in (await failed(made.start()))[1]

    run(check)


def test_a_start_that_takes_too_long_says_what_was_seen_last(
    run: Callable[[Check], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        monkeypatch.setattr(spawner, "CLEANUP", 59.95)
        launcher.seen = [PENDING]
        status, sentence = await failed(made.start())
        assert status == 504
        assert PENDING.words in sentence
        assert launcher.stops == [spawner.REMOVAL]

    run(check)


def test_a_launcher_that_restarts_ends_no_start(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.seen = [PENDING, AWAY, AWAY, PENDING, RUNNING]
        assert await made.start() == launcher.place
        assert not launcher.stops

    run(check)


@pytest.mark.parametrize(
    ("stopping", "stops"),
    [
        pytest.param([AWAY, AWAY, True], 3, id="back-soon"),
        pytest.param([AWAY], spawner.AWAY_TRIES, id="away"),
        pytest.param([RefusedError(Kind.DOCKER, "No.")], 1, id="refused"),
    ],
)
def test_what_did_not_start_is_removed_when_the_launcher_is_back(
    run: Callable[[Check], None], stopping: list[Exception | bool], stops: int
) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.starting, launcher.stopping = AWAY, stopping
        assert (await failed(made.start()))[0] == STATUS[Kind.AWAY]
        assert len(launcher.stops) == stops

    run(check)


def test_a_start_that_is_cancelled_ends_the_launchers_start_at_once(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            await asyncio.Event().wait()

        launcher.starting = hang
        start = asyncio.create_task(made.start())
        await begun.wait()
        start.cancel()
        status, sentence = await failed(start)
        assert status == 503
        assert "stopped" in sentence
        assert launcher.stops == [0]

    run(check)


def test_a_hub_that_stops_during_the_removal_lets_it_go_on(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.starting, launcher.stopping = asyncio.Event().wait, [AWAY, AWAY, AWAY, True]  # type: ignore[assignment]
        start = asyncio.create_task(made.start())
        await asyncio.sleep(0)
        start.cancel()
        await asyncio.sleep(0)
        start.cancel()
        with suppress(asyncio.CancelledError, web.HTTPError):
            await start
        await asyncio.sleep(0.05)
        assert len(launcher.stops) == 4

    run(check)


def test_an_unforeseen_fault_of_a_start_leaves_nothing(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.starting = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            await made.start()
        assert launcher.stops == [spawner.REMOVAL]

    run(check)


def test_progress_tells_each_state_once(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        told: list[tuple[int, str]] = []

        async def follow() -> None:
            async for event in made.progress():
                told.append((event["progress"], event["message"]))

        following = asyncio.create_task(follow())
        for number in range(15):
            made._state_text = f"state {number // 2}"
            await asyncio.sleep(0.005)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        assert [message for _, message in told] == [f"state {number}" for number in range(8)]
        steps = [progress for progress, _ in told]
        assert steps == sorted(steps)
        assert steps[-1] < 100

    run(check)


@pytest.mark.parametrize(
    ("living", "seen", "ended", "stops"),
    [
        pytest.param({("jdoe", "s1")}, ENDED, None, 0, id="lived-a-moment-ago"),
        pytest.param(set(), RUNNING, None, 0, id="started-a-moment-ago"),
        pytest.param(set(), ENDED, 3, 1, id="ended"),
        pytest.param(set(), Seen("complete", "it ended", "", 0), 0, 1, id="ended-well"),
        pytest.param(set(), MISSING, "its service was removed", 1, id="removed"),
        pytest.param(AWAY, ENDED, None, 0, id="launcher-away"),
        pytest.param(set(), AWAY, None, 0, id="launcher-goes-away"),
        pytest.param(set(), RefusedError(Kind.DOCKER, "x"), None, 0, id="docker-away"),
        pytest.param({("jdoe", "s2"), ("JDoe", "s1")}, MISSING, "its service was removed", 1, id="others-live"),
    ],
)
def test_a_poll_ends_what_has_ended_and_nothing_else(
    run: Callable[[Check], None], living: Any, seen: Seen | Exception, ended: object, stops: int
) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.living, launcher.seen = living, [seen]
        assert await made.poll() == ended
        assert len(launcher.stops) == stops

    run(check)


@pytest.mark.parametrize(("now", "patience"), [(False, 20.0), (True, 0.0)], ids=["waits", "at-once"])
def test_a_stop_waits_as_long_as_a_container_may_take(run: Callable[[Check], None], now: bool, patience: float) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.stopping = [False, True]
        await made.stop(now)
        await made.stop(now)
        assert launcher.stops == [patience] * 2

    run(check)


def test_a_stop_waits_for_a_launcher_that_restarts(run: Callable[[Check], None]) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.stopping = [AWAY, AWAY, True]
        await made.stop()
        assert len(launcher.stops) == 3

    run(check)


def test_the_tokens_of_a_server_end_with_it(run: Callable[[Check], None], db: Any) -> None:
    """JupyterHub keeps those of a DockerSpawner, and those that it gave before its own restart."""
    notes = {"Server at /jupyterhub/user/jdoe/s1/": 2, "Server at /jupyterhub/user/jdoe/s2/": 1, "mine": 1}
    db.add(orm.OAuthClient(identifier="jupyterhub"))
    owner = orm.User.find(db, "jdoe")
    for note, count in notes.items():
        for _ in range(count):
            owner.new_api_token(note=note)

    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        assert not made.will_resume
        made.run_post_stop_hook()
        db.commit()

    run(check)
    left = [token.note for token in db.query(orm.APIToken)]
    assert sorted(left) == ["Server at /jupyterhub/user/jdoe/s2/", "mine"]


@pytest.mark.parametrize("error", [AWAY, RefusedError(Kind.DOCKER, "Docker is away.")], ids=["launcher", "docker"])
def test_a_stop_that_fails_is_an_error_of_the_hub(run: Callable[[Check], None], error: RefusedError) -> None:
    async def check(made: XnatSpawner, launcher: Launcher) -> None:
        launcher.stopping = [error]
        assert await failed(made.stop()) == (503, str(error))

    run(check)
