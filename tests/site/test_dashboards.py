"""XNAT's four dashboard frameworks, started from a git repository on the node (docs/xnat-contract.md, 4.2)."""

from __future__ import annotations

import asyncio
import functools
import shlex
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from tests.site.conftest import TIMEOUT, Site, wait_for

HERE = Path(__file__).parent / "dashboards"
FRAMEWORKS = {
    "Panel": ("panel.py", "Panel example"),
    "Streamlit": ("streamlit.py", "<title>Streamlit</title>"),
    "Voila": ("voila.ipynb", "Voila example"),
    "Dash": ("dash.py", "Dash example"),
}
BACKEND = ("#!/bin/sh", "export GIT_HTTP_EXPORT_ALL=1 GIT_PROJECT_ROOT=/tmp/git", "exec git http-backend")
PATIENCE = 90  # seconds until a framework shows its page


@pytest.fixture(scope="module")
def repository(site: Site) -> Iterator[str]:
    """A repository with the four examples on a web server, which notebooks reach through the forward proxy."""
    image = site.image("singleuser")
    files = {path.name: path.read_text() for path in sorted(HERE.iterdir())}
    writes = [f"cat > {name} <<'END_OF_FILE'\n{text}\nEND_OF_FILE\n" for name, text in files.items()]
    script = "\n".join(
        [
            "set -e; mkdir -p /tmp/work /tmp/git; cd /tmp/work; git init --quiet --initial-branch main",
            *writes,
            "git add .; git -c user.name=x -c user.email=x@example.org commit --quiet --message x",
            "git clone --quiet --bare . /tmp/git/examples.git",
            "mkdir -p /tmp/www/cgi-bin; cd /tmp/www",
            f"printf '%s\\n' {' '.join(map(shlex.quote, BACKEND))} > cgi-bin/git; chmod 755 cgi-bin/git",
            "exec python3 -u -m http.server --cgi 80",
        ]
    )
    made = site.docker.create_service(
        {
            "ContainerSpec": {"Image": image, "Command": ["sh", "-c", script]},
            "Networks": [{"Target": "jupyterhub-egress"}],
        },
        name="test-git",
        endpoint_spec={"Mode": "dnsrr"},
    )
    ready = b"Serving HTTP"
    logs = functools.partial(site.docker.service_logs, made["ID"], stdout=True, stderr=True, is_tty=False)
    wait_for("the web server", lambda: ready in b"".join(logs()))
    yield "http://test-git/cgi-bin/git/examples.git"
    site.docker.remove_service(made["ID"])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_dashboard_opens_with_xnats_link_and_its_websocket_is_closed_to_others(
    site: Site, repository: str, framework: str
) -> None:
    file, _ = FRAMEWORKS[framework]
    scopes: dict[str, object] = {
        name: {"scope": name, "enabled": True, "ids": []} for name in ("Site", "Project", "DataType")
    }
    environment = site.environment(image=site.image("singleuser"), command=None)
    body = {
        "dashboard": {
            "name": f"{framework} example", "description": "x", "framework": framework, "command": None,
            "fileSource": "git", "gitRepoUrl": repository, "gitRepoBranch": "main", "mainFilePath": file,
        },
        "scopes": scopes,
        "computeEnvironmentConfig": {"id": environment},
        "hardwareConfig": {"id": 2},
    }  # fmt: skip
    made = site.ask("POST", f"{site.xnat}/xapi/jupyterhub/dashboards/configs", "admin", json=body)
    assert made.status_code == 201, made.text
    # Whoever may read the data may open a dashboard, without the role Jupyter.
    server = site.launch("asmith", environment, 2, dashboardConfigId=made.json()["id"])
    assert site.outcome(server)
    url = f"{site.origin}{site.servers('asmith')[server.name]['url']}"
    answer = site.ask("POST", f"{site.xnat}/xapi/jupyterhub/users/asmith/tokens?note=t&expiresIn=600", "asmith")
    trusted = ssl.create_default_context(cafile=site.authority)
    asyncio.run(opened(url, answer.json()["token"], framework, trusted))
    site.stop(server)


async def opened(url: str, token: str, framework: str, trusted: ssl.SSLContext) -> None:
    """Open the page as a browser does, with the link's token once and with its cookie from then on."""
    _, words = FRAMEWORKS[framework]
    jar = aiohttp.CookieJar(unsafe=True)
    connector, patience = aiohttp.TCPConnector(ssl=trusted), aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=patience) as browser:
        address = f"{url}?token={token}"
        async with asyncio.timeout(PATIENCE):
            while True:
                # Voila has been seen to leave a page hanging, about once in forty: then a person loads it again.
                with suppress(TimeoutError):
                    async with browser.get(address) as response:
                        address = url
                        text = await response.text()
                    if response.status == 200 and words in text:
                        assert response.headers["X-Content-Type-Options"] == "nosniff"
                        assert response.headers["Referrer-Policy"] == "same-origin"
                        assert "frame-ancestors" in response.headers["Content-Security-Policy"]
                        break
                    await asyncio.sleep(0.5)
        # Without this, a browser would let the pages of other people at the same site press the buttons.
        async with browser.post(url, data=b"x", headers={"Origin": "https://mallory.hub.localhost:8443"}) as response:
            assert response.status == 403
        if framework == "Dash":
            await dash_computes(browser, url)
        if framework == "Streamlit":
            await streamlit_computes(browser, url)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted)) as stranger:
        async with stranger.get(url, allow_redirects=False) as response:
            assert response.status in {302, 403}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stranger.ws_connect(f"{url}_stcore/stream", origin=origin(url))
        assert refused.value.status == 403


async def dash_computes(browser: aiohttp.ClientSession, url: str) -> None:
    """Move Dash's slider."""
    square = {"id": "square", "property": "children"}
    body = {
        "output": "square.children",
        "outputs": square,
        "inputs": [{"id": "number", "property": "value", "value": 7}],
        "changedPropIds": ["number.value"],
    }
    async with browser.post(f"{url}_dash-update-component", json=body) as response:
        assert "Square: 49" in await response.text()


async def streamlit_computes(browser: aiohttp.ClientSession, url: str) -> None:
    """Open Streamlit's websocket, which carries the whole page."""
    address = f"{url}_stcore/stream"
    async with browser.ws_connect(address, protocols=["streamlit"], origin=origin(url)) as websocket:
        await websocket.send_bytes(b"\x5a\x00")  # its message "run the script"
        async with asyncio.timeout(PATIENCE):
            async for message in websocket:
                if b"Square: 9" in message.data:
                    return
    raise AssertionError("Streamlit's page did not come")


def origin(url: str) -> str:
    """Return what a browser sends as Origin from that page."""
    return "/".join(url.split("/")[:3])
