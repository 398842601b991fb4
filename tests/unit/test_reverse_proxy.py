"""The files of docs/reverse-proxy.md, each run by its program if this machine has it.

tests/site/test_reverse_proxy.py runs all three, in front of a real hub.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.edge_bed import LIMIT, Server, certificate, listens
from tests.reverse_proxies import PROXIES, Proxy
from tests.unit.plain_hub import free_port

HOST = "jupyter.example.org"
PERSON = f"jdoe.{HOST}"
TOKEN = "0123456789abcdef"
SLOW = 1.0  # seconds without a message
FOUND = [
    pytest.param(proxy, id=proxy.name, marks=pytest.mark.skipif(not proxy.found, reason=f"no {proxy.program}"))
    for proxy in PROXIES
]


@pytest.mark.parametrize("proxy", FOUND)
def test_a_documented_reverse_proxy_does_what_the_document_asks(tmp_path: Path, proxy: Proxy) -> None:
    asyncio.run(check(tmp_path, proxy))
    logs = {path.name: path.read_text() for path in tmp_path.iterdir() if "log" in path.name or path.name == "output"}
    assert "/jupyterhub/lab" in "".join(logs.values())
    assert [name for name, text in logs.items() if TOKEN in text] == []


@pytest.mark.parametrize("proxy", FOUND)
@pytest.mark.parametrize("people", [True, False], ids=["people", "one"])
def test_names_of_people_pass_if_it_has_the_documented_lines(tmp_path: Path, proxy: Proxy, people: bool) -> None:
    passed = people or not proxy.other  # haproxy's file has no names at all
    assert asyncio.run(passes_people(tmp_path, proxy, people)) == (PERSON if passed else "")


@pytest.mark.parametrize("proxy", PROXIES, ids=[proxy.name for proxy in PROXIES])
def test_a_documented_reverse_proxy_leaves_websockets_idle_for_a_day(proxy: Proxy) -> None:
    ((number, unit),) = re.findall(
        r"^ *(?:proxy_read_timeout|ProxyTimeout|timeout tunnel) (\d+)(h?);?$", proxy.text(), re.MULTILINE
    )
    assert int(number) * (3600 if unit else 1) > 86400


async def check(folder: Path, proxy: Proxy) -> None:
    server, http, https = Server(), free_port(), free_port()
    (folder / "site.pem").write_text(certificate("first"))
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(3 * LIMIT), server.run():
        process = proxy.start(folder, f"127.0.0.1:{server.port}", http, https)
        try:
            while not await listens(https):
                assert process.poll() is None, (folder / "output").read_text()
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls), cookie_jar=aiohttp.DummyCookieJar()
            ) as client:
                await requests_pass(client, http, https)
                await websockets_idle(client, https)
                await uploads_stream(client, https, server)
                await server.stop()
                path = f"https://127.0.0.1:{https}/jupyterhub/lab?token={TOKEN}"
                async with client.get(
                    path, headers={"Host": HOST, "Referer": f"https://{HOST}/?token={TOKEN}"}
                ) as answer:
                    assert answer.status in (502, 503)
        finally:
            process.terminate()
            process.wait(LIMIT)


async def passes_people(folder: Path, proxy: Proxy, people: bool) -> str:
    """Return the host of a request for a person's origin as the hub's proxy gets it, empty if it does not."""
    server, http, https = Server(), free_port(), free_port()
    (folder / "site.pem").write_text(certificate("first"))
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(3 * LIMIT), server.run():
        process = proxy.start(folder, f"127.0.0.1:{server.port}", http, https, people=people)
        try:
            while not await listens(https):
                assert process.poll() is None, (folder / "output").read_text()
            url, headers = f"https://127.0.0.1:{https}/jupyterhub/user/jdoe/s/", {"Host": PERSON}
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as client,
                client.get(url, headers=headers, server_hostname=PERSON) as answer,
            ):
                return str((await answer.json())["headers"]["Host"][0]) if answer.status == 200 else ""
        finally:
            process.terminate()
            process.wait(LIMIT)


async def requests_pass(client: aiohttp.ClientSession, http: int, https: int) -> None:
    """Headers are those of the proxy, whatever a client says."""
    forged = {"X-Forwarded-For": "198.51.100.66", "X-Real-IP": "198.51.100.66", "Forwarded": "for=198.51.100.66",
              "X-Scheme": "http", "X-Forwarded-Proto": "http", "Cookie": f"a={'x' * 60000}"}  # fmt: skip
    url = f"https://127.0.0.1:{https}/jupyterhub/lab%2Fx?token={TOKEN}"
    async with client.get(url, headers={"Host": HOST, **forged}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        told: dict[str, Any] = await answer.json()
    got = told["headers"]
    assert got["X-Forwarded-For"] == ["127.0.0.1"]
    assert got["X-Forwarded-Proto"] == ["https"]
    assert got["Host"] == [HOST]
    assert len(got["Cookie"][0]) == 60002
    assert not {"X-Real-Ip", "Forwarded", "X-Scheme"} & got.keys()
    async with client.get(f"https://127.0.0.1:{https}/xapi", headers={"Host": HOST}) as answer:
        assert answer.status == 404
    async with client.get(
        f"http://127.0.0.1:{http}/jupyterhub/?token={TOKEN}", headers={"Host": HOST}, allow_redirects=False
    ) as answer:
        assert answer.status == 301
        assert answer.headers["Location"] == f"https://{HOST}/jupyterhub/?token={TOKEN}"


async def websockets_idle(client: aiohttp.ClientSession, https: int) -> None:
    url = f"https://127.0.0.1:{https}/jupyterhub/ws"
    async with client.ws_connect(url, headers={"Host": HOST}) as socket:
        await socket.send_str("first")
        assert (await socket.receive(timeout=LIMIT)).data == "first"
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=SLOW)
        await socket.send_str("second")
        assert (await socket.receive(timeout=LIMIT)).data == "second"


async def uploads_stream(client: aiohttp.ClientSession, https: int, server: Server) -> None:
    """Nothing waits for the end of an upload."""
    arrived: list[int] = []

    async def pieces() -> Any:
        for number in range(3):
            yield bytes(2**20)
            while sum(arrived) < (number + 1) * 2**20:
                arrived.append(len(await asyncio.wait_for(server.uploads.get(), LIMIT)))

    url = f"https://127.0.0.1:{https}/jupyterhub/user/x/files/a"
    async with client.put(url, data=pieces(), headers={"Host": HOST}) as answer:
        assert answer.status == 201
    assert sum(arrived) == 3 * 2**20
