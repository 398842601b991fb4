"""Log-in apart from XNAT's answer: whose address counts, and who is logged out when XNAT is asked again."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from tornado import web
from tornado.httputil import HTTPHeaders
from xnat_hub import authenticator
from xnat_hub.authenticator import XnatAuthenticator, client_address, last_untrusted, source_of
from xnat_hub.logins import OwnAccountError
from xnat_hub.settings import Settings, parse
from xnat_wire.launcher import Kind, LogIn, RefusedError, Standing
from xnat_wire.rest import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    NotPermittedError,
    TooManyFailuresError,
    UnavailableError,
    XnatError,
)

from tests.hub_settings import settings_data

HANGS = None
PROXY, CLIENT, TLS = "127.0.0.1", "203.0.113.9", "10.0.0.4"


def request(peer: str, **headers: str) -> Any:
    """A request as tornado gives it, with remote_ip as a client can forge it."""
    context = SimpleNamespace(address=(peer, 4711), remote_ip="198.51.100.66")
    return SimpleNamespace(
        connection=SimpleNamespace(context=context),
        headers=HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()}),
        remote_ip="198.51.100.66",
    )


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (CLIENT, CLIENT),
        (f"198.51.100.66, 10.0.0.4,{CLIENT}", CLIENT),  # what a client wrote itself is before what the proxy appended
        (f"198.51.100.66, {CLIENT}, {TLS}", CLIENT),
        (f"{CLIENT}, ::ffff:{TLS}", CLIENT),
        ("2001:DB8::1", "2001:db8::1"),
        (TLS, TLS),
        (f"made up, {TLS}", TLS),
        ("made up", PROXY),
        ("", PROXY),
    ],
    ids=[
        "one",
        "forged-before",
        "behind-a-trusted-proxy",
        "mapped-ipv4",
        "ipv6",
        "only-trusted",
        "no-address-before",
        "no-address",
        "nothing",
    ],
)
def test_the_last_address_that_is_not_trusted_is_the_clients(forwarded: str, address: str) -> None:
    assert last_untrusted(PROXY, forwarded, (TLS,)) == address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (PROXY, CLIENT),
        ("10.77.0.9", "10.77.0.9"),  # a notebook that speaks to the hub itself
    ],
    ids=["proxy", "notebook"],
)
def test_only_the_proxy_may_say_for_whom_it_speaks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, peer: str, address: str
) -> None:
    site = parse(settings_data(proxy_api_url="http://localhost:8001", trusted_proxies=[TLS]), settings.secrets_dir)
    monkeypatch.setattr(authenticator, "load", lambda: site)
    found = request(peer, X_Forwarded_For=f"192.0.2.7, {CLIENT}, {TLS}", X_Real_Ip="198.51.100.66")
    assert asyncio.run(client_address(found)) == address


def test_a_proxy_that_cannot_be_found_makes_nobody_trusted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    site = parse(settings_data(proxy_api_url="http://proxy.invalid:8001"), settings.secrets_dir)
    monkeypatch.setattr(authenticator, "load", lambda: site)
    assert asyncio.run(client_address(request(PROXY, X_Forwarded_For=CLIENT))) == PROXY


@pytest.mark.parametrize(
    ("address", "source"),
    [("192.0.2.1", "192.0.2.1"), ("2001:db8::1:2", "2001:db8::/64"), ("unknown", "unknown")],
    ids=["ipv4", "ipv6", "no-address"],
)
def test_a_subscribers_addresses_count_as_one(address: str, source: str) -> None:
    assert source_of(address) == source


class Client:
    """Stands for the checks of log-ins and for the launcher. standings: by a server's name; HANGS for no answer."""

    def __init__(self) -> None:
        self.standings: dict[str, Standing | Exception | None] = {}
        self.error: XnatError | None = None
        self.asked = 0
        self.recorded: list[tuple[str, str, LogIn, bool]] = []

    def logged_in(self, user: str, source: str, reason: LogIn, known: bool) -> None:
        self.recorded.append((user, source, reason, known))

    async def standing(self, user: str, server: str) -> Standing:
        self.asked += 1
        await asyncio.sleep(0)
        standing = self.standings[server]
        if isinstance(standing, Exception):
            raise standing
        if standing is HANGS:
            await asyncio.Event().wait()
        assert standing
        return standing

    async def may_start_jupyter(self, username: str, password: str, source: str) -> bool:
        if self.error:
            raise self.error
        return password == f"right from {source}"


@pytest.fixture
def xnat(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(authenticator, "shared_logins", lambda: client)
    monkeypatch.setattr(authenticator, "shared_launcher", lambda: client)
    monkeypatch.setattr(authenticator, "REFRESH_TIMEOUT", 0.05)
    monkeypatch.setattr(authenticator, "load", lambda: settings)
    return client


PASSES = {"username": "jdoe", "password": "right from 10.0.0.1"}
NO_ROLE = {"username": "jdoe", "password": "x"}


@pytest.mark.parametrize(
    ("data", "error", "status", "user", "result"),
    [
        pytest.param(PASSES, None, 200, "jdoe", LogIn.ACCEPTED, id="right"),
        pytest.param(NO_ROLE, None, 403, "jdoe", LogIn.NO_RIGHT, id="no-role"),
        pytest.param(NO_ROLE, BadCredentialsError("x"), 403, "jdoe", LogIn.CREDENTIALS, id="wrong-password"),
        pytest.param(NO_ROLE, InvalidNameError("x"), 400, "jdoe", LogIn.NAME, id="name"),
        pytest.param(NO_ROLE, NotPermittedError("x"), 403, "jdoe", LogIn.NOT_PERMITTED, id="not-permitted"),
        pytest.param(NO_ROLE, OwnAccountError("x"), 403, "jdoe", LogIn.NAME, id="service-account"),
        pytest.param(NO_ROLE, ActionRequiredError("x"), 403, "jdoe", LogIn.ACTION, id="expired"),
        pytest.param(NO_ROLE, TooManyFailuresError("x"), 429, "jdoe", LogIn.TOO_OFTEN, id="too-often"),
        pytest.param(NO_ROLE, UnavailableError("x"), 503, "jdoe", LogIn.XNAT, id="xnat-away"),
        pytest.param({"username": "jdoe"}, None, 400, "jdoe", LogIn.FORM, id="no-password"),
        pytest.param({"username": 5, "password": ["x"]}, None, 400, "", LogIn.FORM, id="wrong-types"),
        pytest.param(None, None, 400, "", LogIn.FORM, id="nothing"),
        pytest.param("jdoe", None, 400, "", LogIn.FORM, id="text"),
        pytest.param({"username": "hunter2", "password": ""}, BadCredentialsError("x"), 403, "hunter2",
                     LogIn.CREDENTIALS, id="password-as-name"),
        pytest.param({"username": "hunter2", "password": ""}, UnavailableError("x"), 503, "hunter2", LogIn.XNAT,
                     id="password-as-name-xnat-away"),
        pytest.param({"username": "j\ud800", "password": ""}, UnavailableError("x"), 503, "j\ud800", LogIn.XNAT,
                     id="half-a-character"),
    ],
)  # fmt: skip
def test_whatever_is_sent_as_a_log_in_gets_an_answer_and_is_recorded_once(
    xnat: Client, data: Any, error: XnatError | None, status: int, user: str, result: LogIn,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    xnat.error = error
    known = {"jdoe": object()}

    async def log_in() -> int:
        try:
            handler: Any = SimpleNamespace(request=request("10.0.0.1"), find_user=known.get)
            found = await XnatAuthenticator().authenticate(handler, data)
        except web.HTTPError as refused:
            return refused.status_code
        return 200 if found == {"name": "jdoe"} else 0

    assert asyncio.run(log_in()) == status
    assert xnat.recorded == [(user, "10.0.0.1", result, user == "jdoe")]
    assert "hunter2" not in caplog.text


class Person:
    """A user of the hub with running servers, of which the database keeps the state."""

    name = "jdoe"

    def __init__(self, *servers: str) -> None:
        self.spawners: dict[str, Any] = {name: self._server(None) for name in servers}

    def restart(self) -> None:
        """Keep only what is in the database."""
        self.spawners = {name: self._server(server.orm_spawner.state) for name, server in self.spawners.items()}

    @staticmethod
    def _server(state: Any) -> Any:
        db, row = SimpleNamespace(commit=lambda: None), SimpleNamespace(state=state)
        return SimpleNamespace(active=True, user_options={}, db=db, orm_spawner=row)


def may_stay(hub: XnatAuthenticator, person: Person) -> bool:
    return asyncio.run(hub.refresh_user(person))


def test_only_an_alias_that_was_accepted_and_no_longer_is_means_lost(
    xnat: Client, caplog: pytest.LogCaptureFixture
) -> None:
    hub, person = XnatAuthenticator(), Person("s1")
    hub.log = logging.getLogger("hub")
    xnat.standings = {"s1": Standing.REFUSED}
    assert may_stay(hub, person)
    assert may_stay(hub, person)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "jupyterhub_auth_refresh_age" in warnings[0]
    assert "aliasTokenTimeout" in warnings[0]
    xnat.standings = {"s1": Standing.ALLOWED}
    assert may_stay(hub, person)
    xnat.standings = {"s1": Standing.REFUSED}
    assert not may_stay(hub, person)


def test_a_restarted_hub_knows_which_alias_was_accepted(xnat: Client) -> None:
    person = Person("s1")
    xnat.standings = {"s1": Standing.ALLOWED}
    assert may_stay(XnatAuthenticator(), person)
    person.restart()
    xnat.standings = {"s1": Standing.REFUSED}
    assert not may_stay(XnatAuthenticator(), person)


AWAY = RefusedError(Kind.AWAY, "away")


@pytest.mark.parametrize(
    ("standings", "stays"),
    [
        pytest.param({}, False, id="no-server"),
        pytest.param({"s1": Standing.ALLOWED}, True, id="allowed"),
        pytest.param({"s1": Standing.GONE}, False, id="gone"),
        pytest.param({"s1": Standing.GONE, "s2": Standing.REFUSED}, True, id="gone-and-never-accepted"),
        pytest.param({"s1": Standing.NO_RIGHT}, False, id="no-right"),
        pytest.param({"s1": Standing.NO_RIGHT, "s2": Standing.REFUSED}, False, id="no-right-and-never-accepted"),
        pytest.param({"s1": Standing.NO_RIGHT, "s2": Standing.ALLOWED}, True, id="no-right-and-allowed"),
        pytest.param({"s1": Standing.REFUSED, "s2": Standing.ALLOWED}, True, id="refused-and-allowed"),
        pytest.param({"s1": AWAY}, True, id="launcher-away"),
        pytest.param({"s1": Standing.NO_RIGHT, "s2": AWAY}, True, id="launcher-goes-away"),
        pytest.param({"s1": RefusedError(Kind.XNAT, "away")}, True, id="xnat-away"),
        pytest.param({"s1": HANGS}, True, id="no-answer"),
    ],
)
def test_who_stays_logged_in_follows_from_all_running_servers(
    xnat: Client, standings: dict[str, Any], stays: bool
) -> None:
    xnat.standings = standings
    assert may_stay(XnatAuthenticator(), Person(*standings)) is stays


def test_a_server_that_does_not_run_says_nothing(xnat: Client) -> None:
    person = Person("s1")
    person.spawners["s1"].active = False
    xnat.standings = {"s1": Standing.ALLOWED}
    assert not may_stay(XnatAuthenticator(), person)
    assert not xnat.asked


@pytest.mark.parametrize(("options", "stays"), [({"dashboardConfigId": 3}, True), ({}, False), (None, False)], ids=str)
def test_a_dashboard_needs_no_right_to_start_jupyter(xnat: Client, options: Any, stays: bool) -> None:  # contract 1.3
    person = Person("s1")
    person.spawners["s1"].user_options = options
    xnat.standings = {"s1": Standing.NO_RIGHT}
    assert may_stay(XnatAuthenticator(), person) is stays


def test_requests_of_one_moment_ask_once(xnat: Client) -> None:
    async def pages() -> list[bool]:
        hub, person = XnatAuthenticator(), Person("s1")
        found = await asyncio.gather(*(hub.refresh_user(person) for _ in range(10)))
        assert xnat.asked == 1
        found.append(await hub.refresh_user(person))
        assert xnat.asked == 2
        return found

    xnat.standings = {"s1": Standing.ALLOWED}
    assert asyncio.run(pages()) == [True] * 11
