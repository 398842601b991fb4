"""JupyterLab's files at the hub: how the image gets them, and how the hub delivers them."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from singleuser.xnat_notebook.lab_files import digest, lab_files
from tornado import netutil, web
from tornado.httpserver import HTTPServer
from xnat_hub import assets
from xnat_hub.authenticator import XnatAuthenticator
from xnat_hub.handlers import security_headers
from yarl import URL

from tests.hub_settings import settings_data
from tests.unit.conftest import ROOT

MAIN, CORE, FONT = "main.efd36b46f3b45eb8.js", "jlab_core.8811dd2733d03721.js", "0e53fe4feaaacc48.woff2"
SCRIPT = b"// a script\n" * 1000
INDEX = '<script src="{{page_config.fullStaticUrl}}/main.efd36b46f3b45eb8.js?v=efd36b46f3b45eb8"></script>'


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


Get = Callable[..., Coroutine[Any, Any, Answer]]


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """JupyterLab's static folder."""
    folder = tmp_path / "static"
    folder.mkdir()
    for name, content in {
        "index.html": INDEX.encode(), "package.json": b"{}", "bootstrap.js": b"//", MAIN: SCRIPT, CORE: SCRIPT * 2,
        FONT: bytes(range(256)), "1584.f43d421d2384c719.wasm": b"\0asm", "16.6cda5b6d5f0fa449.mjs": b"//",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
    return folder


def collect(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "files/assets/collect.py"), str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def folder(static: Path, tmp_path: Path) -> Path:
    """The folder that the image has."""
    assert collect(static, tmp_path / "assets").returncode == 0
    return tmp_path / "assets"


# ---- the image


def test_files_whose_names_tell_their_content_are_collected_with_compressed_copies(static: Path, folder: Path) -> None:
    (found,) = folder.iterdir()
    assert found.name == digest(lab_files(str(static)))
    names = {MAIN, CORE, FONT, "1584.f43d421d2384c719.wasm", "16.6cda5b6d5f0fa449.mjs"}
    assert {path.name for path in found.iterdir()} == names | {f"{MAIN}.gz", f"{CORE}.gz"}
    assert gzip.decompress((found / f"{CORE}.gz").read_bytes()) == (found / CORE).read_bytes() == SCRIPT * 2


def test_another_file_name_or_size_is_another_digest(static: Path) -> None:
    before = digest(lab_files(str(static)))
    (static / "package.json").write_text("changed")
    assert digest(lab_files(str(static))) == before
    (static / FONT).write_bytes(b"longer" * 100)
    changed = digest(lab_files(str(static)))
    (static / FONT).rename(static / "1e53fe4feaaacc48.woff2")
    assert len({before, changed, digest(lab_files(str(static)))}) == 3


def test_a_jupyterlab_whose_page_names_another_script_ends_the_build(static: Path, tmp_path: Path) -> None:
    for page in (INDEX.replace("main.efd36b46f3b45eb8.js", "main.js"), "<html>"):
        (static / "index.html").write_text(page)
        done = collect(static, tmp_path / "none")
        assert done.returncode == 1
        assert "adapt lab_files.py" in done.stderr


# ---- the hub


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Get]:
    """Run the handler. Yields a function that sends a request, without unpacking its answer."""
    app = web.Application(assets.handlers(str(folder)), headers=security_headers("https://hub.example.org"))
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server = HTTPServer(app)
    server.add_sockets(sockets)
    async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as http:

        async def get(path: str, method: str = "GET", **headers: str) -> Answer:
            url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/assets/{path}"
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with http.request(method, URL(url, encoded=True), headers=named) as answer:
                return Answer(answer.status, answer.headers, await answer.read())

        yield get
    server.stop()


def check(folder: Path, wanted: Callable[[Get, str], Coroutine[Any, Any, None]]) -> None:
    (digest,) = [path.name for path in folder.iterdir()]

    async def run() -> None:
        async with asyncio.timeout(30), serving(folder) as get:
            await wanted(get, digest)

    asyncio.run(run())


def test_a_file_is_compressed_kept_for_a_year_and_public(folder: Path) -> None:
    async def wanted(get: Get, digest: str) -> None:
        answer = await get(f"{digest}/{CORE}?v=8811dd2733d03721", Accept_Encoding="gzip, deflate, br")
        assert answer.status == 200
        assert gzip.decompress(answer.body) == SCRIPT * 2
        expected = {
            "Content-Encoding": "gzip", "Content-Type": "text/javascript", "Vary": "Accept-Encoding",
            "Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff",
            "Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin",
        }  # fmt: skip
        assert expected.items() <= dict(answer.headers).items()
        assert "Set-Cookie" not in answer.headers
        assert answer.headers["Strict-Transport-Security"]
        assert (
            await get(f"{digest}/{CORE}", Accept_Encoding="gzip", If_None_Match=answer.headers["ETag"])
        ).status == 304

    check(folder, wanted)


def test_a_client_without_gzip_gets_the_file_as_it_is(folder: Path) -> None:
    async def wanted(get: Get, digest: str) -> None:
        for accepted in ("", "br", "gzip;q=0", "gzip; q=0.0, br"):
            answer = await get(f"{digest}/{MAIN}", Accept_Encoding=accepted)
            assert answer.body == SCRIPT
            assert "Content-Encoding" not in answer.headers
            assert answer.headers["Vary"] == "Accept-Encoding"
        assert "Content-Encoding" in (await get(f"{digest}/{MAIN}", Accept_Encoding="br, gzip;q=0.5")).headers
        font = await get(f"{digest}/{FONT}", Accept_Encoding="gzip")  # has no compressed copy
        assert (font.body, font.headers.get("Content-Encoding")) == (bytes(range(256)), None)

    check(folder, wanted)


def test_every_kind_of_file_has_its_type(folder: Path) -> None:
    async def wanted(get: Get, digest: str) -> None:
        for name, expected in {
            FONT: "font/woff2", "1584.f43d421d2384c719.wasm": "application/wasm",
            "16.6cda5b6d5f0fa449.mjs": "text/javascript",
        }.items():  # fmt: skip
            assert (await get(f"{digest}/{name}")).headers["Content-Type"] == expected

    check(folder, wanted)


def test_only_files_are_delivered_and_only_to_get_and_head(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (next(folder.iterdir()) / "link").symlink_to(folder.parent / "secret")

    async def wanted(get: Get, digest: str) -> None:
        head = await get(f"{digest}/{MAIN}", "HEAD", Accept_Encoding="identity")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(SCRIPT)))
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert (await get(f"{digest}/{MAIN}", method)).status == 405
        for path in (
            "", digest, f"{digest}/", f"{digest}/.", f"{digest}/..", f"{digest}/../../secret",
            f"{digest}/..%2f..%2fsecret",
            f"{digest}/%2e%2e/%2e%2e/secret", f"..%2f{digest}/{MAIN}", f"{'0' * 32}/{MAIN}", f"{digest}/nothing.js",
            f"{digest}//etc/passwd", f"{digest}/{MAIN}%00.js", f"{digest}/{MAIN}/", f"{digest}/link",
        ):  # fmt: skip
            answer = await get(path, Accept_Encoding="gzip")
            assert answer.status in (403, 404), path
            assert "immutable" not in answer.headers.get("Cache-Control", "")
            assert b"secret" not in answer.body

    check(folder, wanted)


def test_the_hub_has_the_handler(monkeypatch: pytest.MonkeyPatch, secrets_dir: Path) -> None:
    from xnat_hub import authenticator
    from xnat_hub.settings import parse

    monkeypatch.setattr(authenticator, "load", lambda: parse(settings_data(), secrets_dir))
    found = {handler[0]: handler[1:] for handler in XnatAuthenticator().get_handlers(None)}
    assert found[assets.PATH] == (assets.Assets, {"path": "/opt/assets"})
    assert "/opt/assets" in (ROOT / "files/assets/Dockerfile").read_text()
