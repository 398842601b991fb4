"""Runs this project's XNAT modules in this process against a demo XNAT served over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import io
import json
import ssl
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from aiohttp import web
from ansible.module_utils import urls
from ansible.module_utils.common import warnings
from ansible.module_utils.testing import patch_module_args
from demo_xnat.web import make_app

from tests.unit.test_demo_xnat import SECRETS, make_settings

ROOT = Path(__file__).resolve().parents[2]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Xnat:
    """A running demo XNAT. calls: method, path and body of each request so far, except those of `ask`."""

    url: str
    calls: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """The option `xnat` of every module."""
        password = SECRETS.admin_password
        return {"url": self.url, "username": "admin", "password": password, "timeout": 10, "retry_for": 10}

    def ask(self, method: str, path: str, body: Any = None, user: str = "admin") -> tuple[int, Any]:
        """Return status and JSON, or text, of a request that `calls` does not record."""
        password = SECRETS.admin_password if user == "admin" else SECRETS.password
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json", "X-Behind": "1"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def must(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to an administrator's request, whose status must be 2xx."""
        status, value = self.ask(method, path, body)
        assert 200 <= status < 300, (method, path, status, value)
        return value

    def faults(self, *faults: dict[str, Any]) -> None:
        """Set the faults from now on (demo_xnat/faults.py); without arguments, none."""
        self.must("PUT", "/demo/faults", list(faults))

    def writes(self) -> list[tuple[str, str]]:
        """Return method and path of the modules' requests that change something, except log-ins and log-outs."""
        found = [(method, path) for method, path, _ in self.calls if method != "GET"]
        return [call for call in found if call[1] != "/data/JSESSION"]


@contextlib.contextmanager
def served(directory: Path, tls: ssl.SSLContext | None = None) -> Iterator[Xnat]:
    """Serve a demo XNAT from a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    xnat = Xnat("")

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "X-Behind" not in request.headers:
            xnat.calls.append((request.method, request.path, await request.text()))
        return await handler(request)

    async def start() -> web.AppRunner:
        app = make_app(make_settings(directory), SECRETS)
        app.middlewares.insert(0, record)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return runner

    try:
        runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        host, port = runner.addresses[0][:2]
        xnat.url = f"{'https' if tls else 'http'}://{host}:{port}"
        yield xnat
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(name="xnat")
def xnat_fixture(tmp_path: Path) -> Iterator[Xnat]:
    """A demo XNAT for one test, with the rows of `make_settings`. A test file imports this under its own name."""
    with served(tmp_path) as running:
        yield running


def load(name: str) -> ModuleType:
    """Return a module of library/ by its name; a filter may have the same name."""
    key = f"library_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, ROOT / "library" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[key] = module
    return sys.modules[key]


def run_module(name: str, args: dict[str, Any], check: bool = False, diff: bool = False) -> dict[str, Any]:
    """Run a module of library/ and return its results, including `failed` if it failed."""
    module = load(name)
    warnings._global_warnings.clear()  # one process is one module elsewhere
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as directory:
        control = {"_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_tmpdir": directory}
        given = patch_module_args({**args, **control})
        plain = (args["xnat"]["url"] if "xnat" in args else args["hub"]["api_url"]).startswith("http:")
        # Ansible reads the host's certificates for each call, even one without TLS: most of a test's time
        context = mock.patch.object(urls, "make_context", return_value=None) if plain else contextlib.nullcontext()
        with given, context, contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
            module.main()
        assert not list(Path(directory).iterdir()), "the module left files behind"
    result: dict[str, Any] = json.loads(out.getvalue().strip().splitlines()[-1])
    assert end.value.code == int(bool(result.get("failed")))
    return result
