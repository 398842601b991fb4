"""What the reconciler stops and removes from the hub's list; tests/site runs it on a real swarm."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xnat_hub import reconciler
from xnat_hub.reconciler import CallError, Hub, Owner, Servers, orphans, routes_are_lost, tidy
from xnat_hub.settings import Settings

JDOE = ("jdoe", "s")


@pytest.mark.parametrize(
    ("servers", "lost"),
    [
        pytest.param({JDOE: False}, False, id="runs"),
        pytest.param({JDOE: True}, True, id="stopped"),
        pytest.param({("JDoe", "s"): False}, True, id="another-letter-case"),
        pytest.param({("jdoe", "t"): False}, True, id="another-server"),
        pytest.param({}, True, id="unknown"),
    ],
)
def test_a_server_is_lost_when_the_hub_does_not_run_it(servers: dict[Owner, bool], lost: bool) -> None:
    assert orphans({JDOE: "i1"}, servers) == ({JDOE: "i1"} if lost else {})


OWNERS = st.tuples(st.sampled_from(["jdoe", "JDoe", "x"]), st.sampled_from(["", "a", "b"]))


@given(st.dictionaries(OWNERS, st.text()), st.dictionaries(OWNERS, st.booleans()))
def test_no_running_server_ever_loses_its_service(running: dict[Owner, str], servers: dict[Owner, bool]) -> None:
    lost = orphans(running, servers)
    assert set(lost) == {owner for owner in running if servers.get(owner, True)}
    assert lost.items() <= running.items()


class FakeHub(Hub):
    """A hub with these servers, by whether each is stopped."""

    def __init__(self, servers: dict[Owner, bool], calls: list[Any]) -> None:
        self.found = servers
        self.calls = calls

    def servers(self) -> dict[Owner, bool]:
        self.calls.append("hub")
        return dict(self.found)

    def forget(self, owner: Owner) -> None:
        self.calls.append(("forget", owner))
        del self.found[owner]

    def give_routes(self) -> None:
        self.calls.append("routes")


class FakeServers(Servers):
    """A launcher with these services."""

    def __init__(self, running: dict[Owner, str], calls: list[Any]) -> None:
        self.running = running
        self.calls = calls

    def all(self) -> dict[Owner, str]:
        self.calls.append("launcher")
        return dict(self.running)

    def stop(self, user: str, server: str, service_id: str) -> None:
        self.calls.append(("stop", user, server, service_id))


def test_orphans_are_stopped_by_their_ids_and_the_hub_is_asked_last() -> None:
    calls: list[Any] = []
    hub = FakeHub({("jdoe", "a"): False, ("jdoe", "b"): True}, calls)
    launcher = FakeServers({("jdoe", "a"): "i1", ("jdoe", "b"): "i2", ("jdoe", ""): "i3"}, calls)
    tidy(hub, launcher, set())
    assert calls == ["launcher", "hub", ("stop", "jdoe", "b", "i2"), ("stop", "jdoe", "", "i3")]


def test_a_stopped_server_leaves_the_list_in_the_second_round_and_the_unnamed_never() -> None:
    calls: list[Any] = []
    hub = FakeHub({("jdoe", "a"): True, ("jdoe", ""): True, ("jdoe", "b"): False}, calls)
    launcher = FakeServers({}, calls)
    stopped = tidy(hub, launcher, set())
    assert stopped == {("jdoe", "a")}
    assert set(hub.found) == {("jdoe", "a"), ("jdoe", ""), ("jdoe", "b")}
    hub.found["jdoe", "b"] = True
    stopped = tidy(hub, launcher, stopped)
    assert set(hub.found) == {("jdoe", ""), ("jdoe", "b")}
    assert stopped == {("jdoe", "b")}


def test_a_server_that_was_started_again_stays_on_the_list() -> None:
    calls: list[Any] = []
    hub = FakeHub({("jdoe", "a"): True}, calls)
    stopped = tidy(hub, FakeServers({}, calls), set())
    hub.found["jdoe", "a"] = False
    assert tidy(hub, FakeServers({("jdoe", "a"): "i1"}, calls), stopped) == set()
    assert calls == ["launcher", "hub"] * 2


@pytest.mark.parametrize(
    ("person_origins", "routes", "lost"),
    [
        pytest.param(False, {"/jupyterhub": {"hub": True}}, False, id="hub"),
        pytest.param(False, {"/jupyterhub": {"target": "x"}}, True, id="default-route"),
        pytest.param(False, {}, True, id="none"),
        pytest.param(True, {"/": {"hub": True}}, False, id="by-host"),
        pytest.param(True, {"/": {"target": "x"}}, True, id="by-host-default-route"),
    ],
)
def test_a_proxy_that_does_not_know_the_hub_has_lost_its_routes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, person_origins: bool, routes: Any, lost: bool
) -> None:
    settings = replace(settings, person_origins=person_origins)
    monkeypatch.setattr(reconciler, "ask_url", lambda method, url, token: (200, json.loads(json.dumps(routes))))
    assert routes_are_lost(settings) is lost
    monkeypatch.setattr(reconciler, "ask_url", lambda method, url, token: (403, None))
    with pytest.raises(CallError, match="403"):
        routes_are_lost(settings)


class EnoughError(Exception):
    pass


def test_a_round_that_fails_is_tried_again_and_routes_are_looked_at_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    rounds = iter([CallError("x"), None])
    answers: list[bool | Exception] = [False, False, True, CallError("proxy"), False, False]
    lost = iter(answers)

    def looked(_: Settings) -> bool:
        calls.append("look")
        found = next(lost)
        if isinstance(found, Exception):
            raise found
        return found

    def tidied(*_: object) -> set[Owner]:
        calls.append("tidy")
        if error := next(rounds):
            raise error
        return set()

    def slept(_: float) -> None:
        if calls.count("look") == 6:
            raise EnoughError

    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://hub")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "t")
    monkeypatch.setattr(reconciler, "load", lambda: replace(settings, prune_interval=1000))
    monkeypatch.setattr(reconciler, "Hub", lambda url, token: FakeHub({}, calls))
    monkeypatch.setattr(reconciler, "routes_are_lost", looked)
    monkeypatch.setattr(reconciler, "tidy", tidied)
    monkeypatch.setattr(time, "sleep", slept)
    with pytest.raises(EnoughError):
        reconciler.main()
    assert calls == ["look", "tidy", "look", "tidy", "look", "routes", "look", "look", "look"]
