"""The hub's XNAT client and log-in, against the demo XNAT over HTTP (docs/xnat-contract.md, 1 and 6)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from demo_xnat.faults import Faults
from demo_xnat.people import PEOPLE
from demo_xnat.state import State
from demo_xnat.web import FAULTS, STATE, make_app
from xnat_hub.client import (
    ActionRequiredError,
    BadCredentialsError,
    InvalidNameError,
    Look,
    MovedError,
    NotFoundError,
    NotInitialisedError,
    NotPermittedError,
    NotUnderstoodError,
    TooManyFailuresError,
    UnavailableError,
    XnatClient,
    XnatError,
)
from xnat_hub.settings import Settings

from tests.unit.test_demo_xnat import SECRETS, SERVICE_PASSWORD, Clock, make_settings

Check = Callable[[XnatClient, State], Awaitable[None]]
PASSWORD = SECRETS.password
HOME = "192.0.2.1"


def against_demo(
    settings: Settings, tmp_path: Path, check: Check, all_users: bool = False, faults: Faults | None = None
) -> None:
    """Run the check with a client of a served demo XNAT."""

    async def serve() -> None:
        demo = make_app(make_settings(tmp_path, all_users=all_users), SECRETS, Clock())
        if faults:
            demo[FAULTS] = faults
        async with TestServer(demo) as server:
            client = XnatClient(replace(settings, xnat_url=str(server.make_url("/"))))
            try:
                await check(client, demo[STATE])
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
                    await client.may_start_jupyter("jdoe", "x", HOME)
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
        assert await client.may_start_jupyter(username, PASSWORD, HOME) is allowed

    against_demo(settings, tmp_path, check, all_users)


@pytest.mark.parametrize(
    ("username", "password", "error"),
    [
        ("jdoe", "wrong", BadCredentialsError),
        ("nobody", PASSWORD, BadCredentialsError),
        ("disabled", PASSWORD, BadCredentialsError),
        ("expired", PASSWORD, ActionRequiredError),
        ("", PASSWORD, InvalidNameError),
        ("..", PASSWORD, InvalidNameError),
        ("jdoe/../admin", PASSWORD, InvalidNameError),
        ("auth0:1", PASSWORD, InvalidNameError),
        ("j\xa0doe", PASSWORD, InvalidNameError),
        ("j" * 256, PASSWORD, InvalidNameError),
        ("JDOE", PASSWORD, BadCredentialsError),
    ],
)
def test_a_log_in_that_fails_says_which_way(
    settings: Settings, tmp_path: Path, username: str, password: str, error: type[XnatError]
) -> None:
    async def check(client: XnatClient, state: State) -> None:
        with pytest.raises(error):
            await client.may_start_jupyter(username, password, HOME)

    against_demo(settings, tmp_path, check)


def test_a_log_in_leaves_no_session_behind(settings: Settings, tmp_path: Path) -> None:  # contract 1.6
    async def check(client: XnatClient, state: State) -> None:
        for _ in range(5):
            await client.may_start_jupyter("jdoe", PASSWORD, HOME)
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
    with pytest.raises(InvalidNameError) as caught:
        asyncio.run(XnatClient(settings).user_options("jdoe", name))
    assert caught.value.status == 400
    assert repr(name) in str(caught.value)


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
        (lambda: web.Response(status=302, headers={"Location": "/app"}), ActionRequiredError, "/app"),
        (lambda: web.Response(status=302), ActionRequiredError, "log in to XNAT"),
        (lambda: web.Response(status=302, headers={"Location": "https://setup.example.org/x"}), MovedError, "single"),
        (
            lambda: web.Response(status=301, headers={"Location": "https://setup.example.org/xapi/users/jdoe/roles"}),
            MovedError,
            "XNAT is at https://setup.example.org: set site_xnat_url",
        ),
        (
            lambda: web.Response(status=302, headers={"Location": "/app/template/XDATScreen_UpdateUser.vm"}),
            ActionRequiredError,
            "a new password",
        ),
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
            await client.may_start_jupyter("jdoe", "x", HOME)
        await client.close()
        server.close()

    asyncio.run(hang())


def test_an_xnat_that_is_away_is_unavailable(settings: Settings) -> None:
    async def away() -> None:
        client = XnatClient(replace(settings, xnat_url="http://127.0.0.1:1"))
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await client.may_start_jupyter("jdoe", "x", HOME)
        await client.close()

    asyncio.run(away())


def test_calls_of_one_moment_open_one_session(settings: Settings, tmp_path: Path) -> None:  # contract 1.6
    async def check(client: XnatClient, state: State) -> None:
        calls = [client.user_options("jdoe", f"s{number}") for number in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {NotFoundError}
        assert state.session_count() == 1

    against_demo(settings, tmp_path, check)


def test_the_end_of_the_hub_logs_the_service_account_out(settings: Settings, tmp_path: Path) -> None:
    async def check(client: XnatClient, state: State) -> None:
        with pytest.raises(NotFoundError):
            await client.user_options("jdoe", "s")
        assert state.session_count() == 1
        assert client._service_end is not None
        client._service_end.cancel()  # as JupyterHub does with all tasks when it stops, and then waits
        await asyncio.wait([client._service_end])
        assert state.session_count() == 0

    against_demo(settings, tmp_path, check)


def test_xnat_is_not_asked_about_a_name_that_it_refused_too_often(settings: Settings, tmp_path: Path) -> None:
    async def check(client: XnatClient, state: State) -> None:
        for _ in range(5):
            with pytest.raises(BadCredentialsError):
                await client.may_start_jupyter("jdoe", "wrong", HOME)
        for _ in range(30):
            with pytest.raises(TooManyFailuresError, match=r"jdoe .*try again in 30 s"):
                await client.may_start_jupyter("jdoe", "wrong", HOME)
        assert await client.may_start_jupyter("JDoe", PASSWORD, HOME)
        assert await client.may_start_jupyter("jdoe", PASSWORD, "198.51.100.7")
        state.check_password("jdoe", PASSWORD)  # raises if the account were locked

    against_demo(settings, tmp_path, check)


def test_an_address_that_tries_many_names_is_told_to_wait(settings: Settings, tmp_path: Path) -> None:
    async def check(client: XnatClient, state: State) -> None:
        tries = [client.may_start_jupyter(f"u{number}", "wrong", HOME) for number in range(25)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, TooManyFailuresError)]
        assert len(refused) == 5
        assert "from your address" in str(refused[0])
        assert await client.may_start_jupyter("jdoe", PASSWORD, "198.51.100.7")

    against_demo(settings, tmp_path, check)


def test_tries_at_once_are_limited_too(settings: Settings, tmp_path: Path) -> None:
    async def check(client: XnatClient, state: State) -> None:
        tries = [client.may_start_jupyter("jdoe", "wrong", HOME) for _ in range(40)]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(answer, BadCredentialsError) for answer in answers) == 5
        assert sum(isinstance(answer, TooManyFailuresError) for answer in answers) == 35

    against_demo(settings, tmp_path, check)


def test_a_wrong_password_of_the_service_account_does_not_lock_it(settings: Settings, tmp_path: Path) -> None:
    (settings.secrets_dir / "xnat_password").write_text("wrong")

    async def check(client: XnatClient, state: State) -> None:
        for error in [BadCredentialsError] * 5 + [TooManyFailuresError] * 30:
            with pytest.raises(error):
                await client.user_options("jdoe", "s")
        state.check_password("jupyterhub", SERVICE_PASSWORD)
        assert await client.may_start_jupyter("jdoe", PASSWORD, HOME)

    against_demo(settings, tmp_path, check)


def still(state: State, person: str, name: str) -> None:
    """Have a launch of `person` with its alias token in XNAT."""
    alias, secret = state.issue_alias(PEOPLE[person])
    env = {"XNAT_USER": alias, "XNAT_PASS": secret}
    options = {
        "servername": name, "projectId": "DEMO_MR", "itemId": "DEMO_MR", "xsiType": "xnat:projectData",
        "task_template": {"container_spec": {"image": "x", "env": env, "mounts": []}},
    }  # fmt: skip
    state.store_options(PEOPLE[person], options)


@pytest.mark.parametrize(
    ("changes", "dashboard", "seen"),
    [
        ({}, False, Look.ALLOWED),
        ({"roles": ()}, False, Look.NO_RIGHT),
        ({"roles": ()}, True, Look.ALLOWED),
        ({"enabled": False}, False, Look.REFUSED),
        ({"enabled": False}, True, Look.REFUSED),
    ],
)
def test_who_lost_the_right_is_known_by_the_alias_token(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], dashboard: bool, seen: Look,
) -> None:  # contract 6.31  # fmt: skip
    async def check(client: XnatClient, state: State) -> None:
        still(state, "jdoe", "s1")
        state.save(replace(state.people["jdoe"], **changes))
        assert await client.look("jdoe", "s1", dashboard) is seen
        assert await client.look("jdoe", "other", dashboard) is Look.GONE

    against_demo(settings, tmp_path, check)


def test_who_may_no_longer_read_the_data_is_not_known(settings: Settings, tmp_path: Path) -> None:
    async def check(client: XnatClient, state: State) -> None:
        still(state, "jdoe", "s1")
        state.readable["jdoe"].clear()
        assert await client.look("jdoe", "s1", False) is Look.GONE

    against_demo(settings, tmp_path, check)


def test_an_xnat_that_fails_says_nothing_about_who_may(settings: Settings, tmp_path: Path) -> None:
    async def check(client: XnatClient, state: State) -> None:
        still(state, "jdoe", "s1")
        (settings.secrets_dir / "xnat_password").write_text("wrong")
        with pytest.raises(BadCredentialsError):
            await client.look("jdoe", "s1", False)

    against_demo(settings, tmp_path, check)


@pytest.mark.parametrize("place", ["https://xnat.example.org/xapi/users/jdoe/roles", "https://id.example.org/login"])
def test_an_xnat_that_moved_says_nothing_about_who_may(settings: Settings, tmp_path: Path, place: str) -> None:
    async def check(client: XnatClient, state: State) -> None:
        still(state, "jdoe", "s1")
        faults.set([{"path": "/roles$", "status": 302, "location": place}])
        with pytest.raises(MovedError):
            await client.look("jdoe", "s1", False)

    faults = Faults()
    against_demo(settings, tmp_path, check, faults=faults)


class Authority:
    """A private certificate authority, and certificates that it signs."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None), [])
        self.bundle = folder / f"{name}.pem"
        self.bundle.write_bytes(certificate)

    def _sign(self, subject: x509.Name, key: Any, constraints: x509.BasicConstraints, hosts: list[str]) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)) for host in hosts])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(constraints, critical=True)
            .add_extension(names, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def certificate(self, name: str) -> Path:
        """Return a PEM file with certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = self._sign(subject, key, x509.BasicConstraints(ca=False, path_length=None), ["127.0.0.1"])
        formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file = self._folder / f"{name}-{id(key)}.pem"
        file.write_bytes(pem + key.private_bytes(*formats))
        return file


@pytest.mark.parametrize(
    ("bundle", "verify", "shown", "reached"),
    [
        ("ours", True, "ours", True),
        ("ours", True, None, False),
        ("ours", True, "other", False),
        ("other", True, "ours", False),
        (None, True, "ours", False),
        (None, False, "ours", True),
        ("other", False, "ours", True),
        (None, False, None, False),
    ],
)
def test_private_authority_client_certificate_and_verify_apply_to_xnat(
    settings: Settings, tmp_path: Path, bundle: str | None, verify: bool, shown: str | None, reached: bool
) -> None:  # contract 6.9, 6.10
    authorities = {name: Authority(tmp_path, name) for name in ("ours", "other")}
    wanted = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authorities["ours"].bundle))
    wanted.verify_mode = ssl.CERT_REQUIRED
    wanted.load_cert_chain(authorities["ours"].certificate("xnat"))

    async def serve() -> None:
        demo = make_app(make_settings(tmp_path), SECRETS, Clock())
        server = TestServer(demo, scheme="https", host="127.0.0.1")
        await server.start_server(ssl=wanted)
        client = XnatClient(
            replace(
                settings,
                xnat_url=str(server.make_url("/")),
                xnat_verify=verify,
                xnat_ca_file=str(authorities[bundle].bundle) if bundle else None,
                xnat_client_certificate_file=str(authorities[shown].certificate("hub")) if shown else None,
            )
        )
        try:
            if reached:
                assert await client.may_start_jupyter("jdoe", PASSWORD, HOME)
            else:
                with pytest.raises(UnavailableError):
                    await client.may_start_jupyter("jdoe", PASSWORD, HOME)
        finally:
            await client.close()
            await server.close()

    asyncio.run(serve())


def test_nothing_secret_is_logged(settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def check(client: XnatClient, state: State) -> None:
        still(state, "jdoe", "s1")
        await client.may_start_jupyter("jdoe", PASSWORD, HOME)
        with pytest.raises(BadCredentialsError):
            await client.may_start_jupyter("jdoe", "a-wrong-one", HOME)
        env = (await client.user_options("jdoe", "s1"))["task_template"]["container_spec"]["env"]
        assert await client.look("jdoe", "s1", False) is Look.ALLOWED
        for secret in (PASSWORD, "a-wrong-one", SERVICE_PASSWORD, *env.values()):
            assert secret not in caplog.text

    against_demo(settings, tmp_path, check)


def test_the_server_without_a_name_is_asked_for_by_its_own_call(settings: Settings, tmp_path: Path) -> None:  # 6.3
    async def check(client: XnatClient, state: State) -> None:
        with pytest.raises(NotFoundError):
            await client.user_options("jdoe", "")
        still(state, "jdoe", "")
        assert (await client.user_options("jdoe", ""))["servername"] == ""

    against_demo(settings, tmp_path, check)


def test_the_hubs_own_account_is_not_tried_at_the_log_in_form(settings: Settings) -> None:
    site = replace(settings, xnat_url="http://127.0.0.1:1")  # nothing listens: an asked XNAT would be 503

    async def log_in() -> None:
        client = XnatClient(site)
        try:
            await client.may_start_jupyter(site.xnat_username, "x", "192.0.2.1")
        finally:
            await client.close()

    with pytest.raises(NotPermittedError):
        asyncio.run(log_in())
