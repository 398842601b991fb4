"""How a notebook server delivers: whether its page names the hub's files, what is compressed, what browsers do."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from singleuser.xnat_notebook import delivery
from singleuser.xnat_notebook.delivery import Compression, HubFiles
from singleuser.xnat_notebook.lab_files import digest, lab_files
from tornado import netutil, web, websocket
from tornado.httpserver import HTTPServer
from xnat_hub import assets

from tests.unit.conftest import ROOT

CHROMIUM = shutil.which("chromium") or ""
LOG = logging.getLogger("test")
LARGE = b'{"a": "b"}' * 1000


@pytest.fixture
def static(tmp_path: Path) -> Path:
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "main.efd36b46f3b45eb8.js").write_text("//")
    (folder / "jlab_core.8811dd2733d03721.js").write_text("// the largest")
    return folder


@asynccontextmanager
async def serving(handlers: list[tuple[Any, ...]], *transforms: type[web.OutputTransform]) -> AsyncIterator[str]:
    """Run a web server and yield its URL."""
    app = web.Application(handlers)
    for transform in transforms:
        app.add_transform(transform)
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server = HTTPServer(app)
    server.add_sockets(sockets)
    yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    server.stop()
    await server.close_all_connections()


# ---- where JupyterLab's files are


def asked(static: Path, api: str, host: str = "") -> str:
    """What a page names as the address of the files."""
    variables = {"JUPYTERHUB_API_URL": api, "JUPYTERHUB_BASE_URL": "/jupyterhub/", "JUPYTERHUB_HOST": host}
    return asyncio.run(HubFiles(variables, LOG).url(str(static)))


def asked_of(static: Path, handlers: list[tuple[Any, ...]], host: str = "") -> str:
    async def run() -> str:
        async with serving(handlers) as url:
            variables = {
                "JUPYTERHUB_API_URL": f"{url}/jupyterhub/hub/api",
                "JUPYTERHUB_BASE_URL": "/jupyterhub/",
                "JUPYTERHUB_HOST": host,
            }
            return await HubFiles(variables, LOG).url(str(static))

    return asyncio.run(run())


def hub_with(files: Path) -> list[tuple[Any, ...]]:
    return [(f"/jupyterhub/hub{path}", handler, options) for path, handler, options in assets.handlers(str(files))]


@pytest.mark.parametrize("host", ["", "https://hub.example.org"])
def test_a_page_names_the_hub_if_that_has_the_same_files(static: Path, tmp_path: Path, host: str) -> None:
    name = digest(lab_files(str(static)))
    shutil.copytree(static, tmp_path / "hub" / name)
    for path in (tmp_path / "hub" / name).iterdir():  # what browsers get has another size
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert asked_of(static, hub_with(tmp_path / "hub"), host) == f"{host}/jupyterhub/hub/assets/{name}"


def test_a_page_names_its_own_server_if_the_hub_has_another_release(static: Path, tmp_path: Path) -> None:
    shutil.copytree(static, tmp_path / "hub" / digest(lab_files(str(static))))
    (static / "16.6cda5b6d5f0fa449.js").write_text("// of a newer JupyterLab")
    assert asked_of(static, hub_with(tmp_path / "hub")) == ""


class Answer(web.RequestHandler):
    """The same answer to everything."""

    def initialize(self, status: int, headers: dict[str, str]) -> None:
        self.answer = status, headers

    def head(self, _: str) -> None:
        self.set_status(self.answer[0])
        for name, value in self.answer[1].items():
            self.set_header(name, value)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {}),
        (200, {"Content-Length": "15"}),
        (302, {"Location": "/jupyterhub/hub/login"}),
        (403, {"Content-Length": "14"}),
        (404, {}),
        (500, {}),
        (503, {}),
    ],
)
def test_no_other_answer_makes_a_page_name_the_hub(static: Path, status: int, headers: dict[str, str]) -> None:
    assert asked_of(static, [("/(.*)", Answer, {"status": status, "headers": headers})]) == ""


def test_the_same_answer_with_the_right_size_does(static: Path) -> None:
    answer = {"status": 200, "headers": {"Content-Length": "14"}}
    assert asked_of(static, [("/(.*)", Answer, answer)]) != ""


@pytest.mark.parametrize(
    "answer", [b"", b"rubbish\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\0" * 70000]
)
def test_rubbish_makes_a_page_name_its_own_server(static: Path, answer: bytes) -> None:
    async def run() -> str:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await HubFiles({"JUPYTERHUB_API_URL": f"http://127.0.0.1:{port}/hub/api"}, LOG).url(str(static))

    assert asyncio.run(run()) == ""


def test_a_hub_that_hangs_holds_a_page_up_for_the_limit_only(static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "LIMIT", 0.2)

    async def run() -> str:
        closed = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await closed.wait()
            writer.close()

        async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                return await HubFiles({"JUPYTERHUB_API_URL": f"http://127.0.0.1:{port}/hub/api"}, LOG).url(str(static))
            finally:
                closed.set()

    began = time.monotonic()
    assert asyncio.run(run()) == ""
    assert 0.2 <= time.monotonic() - began < 5


@pytest.mark.parametrize("api", ["", "http://127.0.0.1:9/hub/api", "http://127.0.0.1/other", "rubbish/api"])
def test_without_a_hub_a_page_names_its_own_server(static: Path, api: str) -> None:
    assert asked(static, api) == ""


def test_a_folder_without_such_files_is_not_shared(tmp_path: Path) -> None:
    answer = {"status": 200, "headers": {"Content-Length": "0"}}
    (tmp_path / "main.js").touch()
    assert asked_of(tmp_path, [("/(.*)", Answer, answer)]) == ""
    assert asked_of(tmp_path / "missing", [("/(.*)", Answer, answer)]) == ""


# ---- compression


class Typed(web.RequestHandler):
    """A body of a type, in one piece or in several."""

    async def get(self) -> None:
        self.set_header("Content-Type", self.get_argument("type"))
        self.set_status(int(self.get_argument("status", "200")))
        for _ in range(int(self.get_argument("pieces", "1"))):
            self.write(LARGE * int(self.get_argument("times", "1")))
            if self.get_argument("pieces", ""):
                await self.flush()


class Echo(websocket.WebSocketHandler):
    """Sends back what it gets."""

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


def compressed(check: Callable[[aiohttp.ClientSession, str], Any]) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(30),
            serving([("/", Typed), ("/ws", Echo)], Compression) as url,
            aiohttp.ClientSession() as http,
        ):
            await check(http, url)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "packed"),
    [
        ({"type": "application/json"}, True),
        ({"type": "application/json; charset=UTF-8"}, True),
        ({"type": "text/javascript"}, True),
        ({"type": "text/css", "pieces": "3"}, True),
        ({"type": "text/html"}, False),  # contains tokens
        ({"type": "text/plain"}, False),
        ({"type": "image/png"}, False),
        ({"type": "application/json", "times": "300"}, False),  # 3 MB at once would hold up kernels
        ({"type": "application/json", "status": "206"}, False),  # a part of the plain file
    ],
)
def test_only_large_answers_without_tokens_are_compressed(query: dict[str, str], packed: bool) -> None:
    async def check(http: aiohttp.ClientSession, url: str) -> None:
        async with http.get(url, params=query) as answer:
            body = await answer.read()
        assert body == LARGE * int(query.get("times", "1")) * int(query.get("pieces", "1"))
        assert (answer.headers.get("Content-Encoding") == "gzip") is packed
        assert answer.headers["Vary"] == "Accept-Encoding"
        async with http.get(url, params=query, headers={"Accept-Encoding": "identity"}) as answer:
            assert "Content-Encoding" not in answer.headers

    compressed(check)


def test_a_websocket_works_as_without_compression() -> None:
    async def check(http: aiohttp.ClientSession, url: str) -> None:
        async with http.ws_connect(f"{url}/ws", headers={"Accept-Encoding": "gzip"}) as socket:
            await socket.send_bytes(LARGE)
            assert (await socket.receive()).data == LARGE.decode()
            assert "Content-Encoding" not in socket._response.headers

    compressed(check)


# ---- what a browser does


@contextmanager
def web_server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder. Yields the URL and the paths that were asked for."""
    paths: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            paths.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", paths
        finally:
            server.shutdown()


# Loads scripts as JupyterLab does, and writes into the page which have run and what was told of each.
PAGE = """<!DOCTYPE html><html><head>
<script id="jupyter-config-data" type="application/json">%s</script>
<script src="xnat.js"></script></head><body><script>
for (const [name, url] of Object.entries(%s)) {
  const script = document.createElement("script");
  script.onload = () => document.body.append(` ${name} loaded;`);
  script.onerror = () => document.body.append(` ${name} failed;`);
  script.src = url;
  document.head.append(script);
}
</script></body></html>"""


@pytest.mark.skipif(not CHROMIUM, reason="no chromium")
def test_a_script_that_the_hub_no_longer_has_comes_from_the_server(tmp_path: Path) -> None:
    shared, base = "/hub/assets/0123", "/user/jdoe/x/"
    for path, text in {
        "hub/assets/0123/there.js": "there", "user/jdoe/x/static/lab/gone.js": "gone", "other/there.js": "other",
    }.items():  # fmt: skip
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"document.body.append(' {text} ran;')")
    scripts = {
        "there": f"{shared}/there.js", "gone": f"{shared}/gone.js?v=1", "nowhere": f"{shared}/nowhere.js",
        "other": "/other/there.js", "missing": "/other/missing.js",
    }  # fmt: skip
    options = {"baseUrl": base, "fullStaticUrl": shared, "hubHost": "", "hubPrefix": "/hub/"}
    (tmp_path / "page.html").write_text(PAGE % (json.dumps(options), json.dumps(scripts)))
    shutil.copy(ROOT / "files/singleuser/labextension/static/xnat.js", tmp_path)
    with web_server(tmp_path) as (url, paths):
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path}/p",
            "--virtual-time-budget=10000", "--dump-dom", f"{url}/page.html",
        ]  # fmt: skip
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    for expected in ("there ran;", "there loaded;", "gone ran;", "gone loaded;", "other ran;", "other loaded;"):
        assert expected in page, page
    for expected in ("nowhere failed;", "missing failed;"):
        assert expected in page, page
    assert "gone failed" not in page
    assert f"{base}static/lab/gone.js?v=1" in paths
    assert not any("static/lab/missing" in path or "static/lab/there" in path for path in paths)
