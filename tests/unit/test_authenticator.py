"""What the log-in does beside asking XNAT: whose address counts, and who is logged out when XNAT is asked again."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from tornado import web
from tornado.httputil import HTTPHeaders
from xnat_hub import authenticator
from xnat_hub.authenticator import XnatAuthenticator, client_address, last_untrusted
from xnat_hub.client import InvalidNameError, Look, TooManyFailuresError, UnavailableError, XnatError
from xnat_hub.settings import Settings, parse

from tests.hub_settings import settings_data

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
)
def test_the_last_address_that_is_not_trusted_is_the_clients(forwarded: str, address: str) -> None:
    assert last_untrusted(PROXY, forwarded, (TLS,)) == address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (PROXY, CLIENT),
        ("10.77.0.9", "10.77.0.9"),  # a notebook that speaks to the hub itself
    ],
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


class Client:
    """Stands for the hub's client of XNAT."""

    def __init__(self) -> None:
        self.looks: dict[str, Look | Exception] = {}
        self.error: XnatError | None = None

    async def look(self, username: str, server_name: str, is_dashboard: bool) -> Look:
        look = self.looks[server_name]
        if isinstance(look, Exception):
            raise look
        return look

    async def may_start_jupyter(self, username: str, password: str, source: str) -> bool:
        if self.error:
            raise self.error
        return password == f"right from {source}"


@pytest.fixture
def xnat(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(authenticator, "shared_client", lambda: client)
    monkeypatch.setattr(authenticator, "load", lambda: settings)
    return client


@pytest.mark.parametrize(
    ("data", "error", "status"),
    [
        ({"username": "jdoe", "password": "right from 10.0.0.1"}, None, 200),
        ({"username": "jdoe", "password": "x"}, None, 403),
        ({"username": "jdoe", "password": "x"}, InvalidNameError("x"), 400),
        ({"username": "jdoe", "password": "x"}, TooManyFailuresError("x"), 429),
        ({"username": "jdoe"}, None, 400),
        ({"username": 5, "password": ["x"]}, None, 400),
        (None, None, 400),
        ("jdoe", None, 400),
    ],
)
def test_whatever_is_sent_as_a_log_in_gets_an_answer(
    xnat: Client, data: Any, error: XnatError | None, status: int
) -> None:
    xnat.error = error

    async def log_in() -> int:
        try:
            handler: Any = SimpleNamespace(request=request("10.0.0.1"))
            found = await XnatAuthenticator().authenticate(handler, data)
        except web.HTTPError as refused:
            return refused.status_code
        return 200 if found == {"name": "jdoe"} else 0

    assert asyncio.run(log_in()) == status


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
    xnat.looks = {"s1": Look.REFUSED}
    assert may_stay(hub, person)
    assert may_stay(hub, person)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "jupyterhub_auth_refresh_age" in warnings[0]
    assert "aliasTokenTimeout" in warnings[0]
    xnat.looks = {"s1": Look.ALLOWED}
    assert may_stay(hub, person)
    xnat.looks = {"s1": Look.REFUSED}
    assert not may_stay(hub, person)


def test_a_restarted_hub_knows_which_alias_was_accepted(xnat: Client) -> None:
    person = Person("s1")
    xnat.looks = {"s1": Look.ALLOWED}
    assert may_stay(XnatAuthenticator(), person)
    person.restart()
    xnat.looks = {"s1": Look.REFUSED}
    assert not may_stay(XnatAuthenticator(), person)


@pytest.mark.parametrize(
    ("looks", "stays"),
    [
        ({}, False),
        ({"s1": Look.GONE}, False),
        ({"s1": Look.GONE, "s2": Look.REFUSED}, True),
        ({"s1": Look.NO_RIGHT}, False),
        ({"s1": Look.NO_RIGHT, "s2": Look.REFUSED}, False),
        ({"s1": Look.NO_RIGHT, "s2": Look.ALLOWED}, True),
        ({"s1": Look.REFUSED, "s2": Look.ALLOWED}, True),
        ({"s1": UnavailableError("away")}, True),
    ],
)
def test_who_stays_logged_in_follows_from_all_running_servers(xnat: Client, looks: dict[str, Any], stays: bool) -> None:
    xnat.looks = looks
    assert may_stay(XnatAuthenticator(), Person(*looks)) is stays
