"""Calls to XNAT's REST API: an answer is usable or a named error, and TLS follows the settings (contract 1, 6)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from demo_xnat.web import make_app
from xnat_wire.rest import (
    ActionRequiredError,
    MovedError,
    NotInitialisedError,
    NotPermittedError,
    NotUnderstoodError,
    Rest,
    UnavailableError,
    XnatError,
)
from xnat_wire.settings import SettingsError
from xnat_wire.site import XnatSite

from tests.hub_settings import XNAT
from tests.unit.authority import Authority
from tests.unit.launcher_bed import NO_LEAKS, PASSWORD, site, small_xnat
from tests.unit.test_demo_xnat import SECRETS, Clock, make_settings

pytestmark = NO_LEAKS


async def ask(place: XnatSite) -> bool:
    """Ask whether somebody may use Jupyter."""
    rest = Rest(place)
    try:
        return await rest.may_use_jupyter("jdoe", "jdoe", PASSWORD)
    finally:
        await rest.close()


def against_answer(answer: Callable[[], web.Response]) -> XnatError:
    """Return the error of a call to an XNAT that gives one answer to everything."""

    async def serve() -> XnatError:
        async with small_xnat(lambda _: answer()) as place:
            with pytest.raises(XnatError) as caught:
                await ask(place)
        return caught.value

    return asyncio.run(serve())


def sends_to(place: str, status: int = 302) -> Callable[[], web.Response]:
    return lambda: web.Response(status=status, headers={"Location": place})


@pytest.mark.parametrize(
    ("answer", "error", "fact"),
    [
        pytest.param(
            lambda: web.Response(text="<html>", content_type="text/html"), NotUnderstoodError, "text/html", id="html"
        ),
        pytest.param(lambda: web.Response(status=200), NotUnderstoodError, "JSON", id="nothing"),
        pytest.param(
            lambda: web.Response(text="{", content_type="application/json"), NotUnderstoodError, "JSON", id="half-json"
        ),
        pytest.param(
            lambda: web.Response(body=b'["\xff"]', content_type="application/json", charset="utf-8"),
            NotUnderstoodError,
            "JSON",
            id="not-utf-8",
        ),
        pytest.param(
            lambda: web.Response(body=b"[" * 200_000, content_type="application/json"),
            NotUnderstoodError,
            "JSON",
            id="deep-json",
        ),
        pytest.param(lambda: web.json_response({"a": 1}), NotUnderstoodError, "list", id="no-list"),
        pytest.param(sends_to("/setup"), NotInitialisedError, "set up", id="set-up"),
        pytest.param(sends_to("/app"), ActionRequiredError, "/app", id="page"),
        pytest.param(lambda: web.Response(status=302), ActionRequiredError, "log in to XNAT", id="nowhere"),
        pytest.param(sends_to("https://setup.example.org/x"), MovedError, "https://setup.example.org/x", id="sign-on"),
        pytest.param(
            sends_to("https://setup.example.org/xapi/users/jdoe/roles", 301),
            MovedError,
            "https://setup.example.org: set site_xnat_url",
            id="moved",
        ),
        pytest.param(
            sends_to("/app/template/XDATScreen_UpdateUser.vm"), ActionRequiredError, "new password", id="expired"
        ),
        pytest.param(lambda: web.Response(status=403), NotPermittedError, "log-in check", id="403"),
        pytest.param(lambda: web.Response(status=500), UnavailableError, "500", id="500"),
        pytest.param(lambda: web.Response(status=418), NotUnderstoodError, "418", id="418"),
    ],
)
def test_an_odd_answer_is_a_named_error(answer: Callable[[], web.Response], error: type[XnatError], fact: str) -> None:
    caught = against_answer(answer)
    assert type(caught) is error
    assert fact in str(caught)


def test_an_xnat_that_hangs_is_unavailable_in_time() -> None:
    async def hang() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnavailableError, match=r"0\.2 s"):
            await ask(replace(site(f"http://127.0.0.1:{port}"), timeout=0.2))
        server.close()
        await server.wait_closed()

    asyncio.run(hang())


def test_an_xnat_that_is_away_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        asyncio.run(ask(site("http://127.0.0.1:1")))


@pytest.mark.parametrize("login", ["a:b", "a\ud800"], ids=["colon", "half-a-character"])
def test_an_alias_that_cannot_log_in_is_a_named_error(login: str) -> None:
    async def log_in() -> None:
        rest = Rest(site("http://127.0.0.1:1"))
        with pytest.raises(NotUnderstoodError):
            await rest.may_use_jupyter("jdoe", login, "x")
        await rest.close()

    asyncio.run(log_in())


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {**XNAT, "more": 1}, {**XNAT, "verify": "False"}, {**XNAT, "verify": None}],
    ids=["null", "list", "empty", "unknown-key", "text", "no-verify"],
)
def test_the_place_of_xnat_is_checked_when_it_is_read(data: object) -> None:
    assert XnatSite.parse(XNAT).url == XNAT["url"]
    with pytest.raises(SettingsError, match="xnat"):
        XnatSite.parse(data)


@pytest.mark.parametrize(
    ("bundle", "verify", "shown", "reached"),
    [
        pytest.param("ours", True, "ours", True, id="all-as-it-should-be"),
        pytest.param("ours", True, None, False, id="no-client-certificate"),
        pytest.param("ours", True, "other", False, id="certificate-of-another-authority"),
        pytest.param("other", True, "ours", False, id="another-authority"),
        pytest.param(None, True, "ours", False, id="public-authorities"),
        pytest.param(None, False, "ours", True, id="not-verified"),
        pytest.param("other", False, "ours", True, id="another-authority-not-verified"),
        pytest.param(None, False, None, False, id="not-verified-no-client-certificate"),
    ],
)
def test_private_authority_client_certificate_and_verify_apply_to_xnat(
    tmp_path: Path, bundle: str | None, verify: bool, shown: str | None, reached: bool
) -> None:  # contract 6.9, 6.10
    authorities = {name: Authority(tmp_path, name) for name in ("ours", "other")}
    wanted = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authorities["ours"].bundle))
    wanted.verify_mode = ssl.CERT_REQUIRED
    wanted.load_cert_chain(authorities["ours"].certificate("xnat"))

    async def serve() -> None:
        server = TestServer(make_app(make_settings(tmp_path), SECRETS, Clock()), scheme="https", host="127.0.0.1")
        await server.start_server(ssl=wanted)
        place = replace(
            site(str(server.make_url("/"))),
            verify=verify,
            ca_file=str(authorities[bundle].bundle) if bundle else None,
            client_certificate_file=str(authorities[shown].certificate("hub")) if shown else None,
        )
        try:
            if reached:
                assert await ask(place)
            else:
                with pytest.raises(UnavailableError):
                    await ask(place)
        finally:
            await server.close()

    asyncio.run(serve())
