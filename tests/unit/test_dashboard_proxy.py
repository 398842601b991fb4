"""What the dashboards' proxy refuses. The packages that it changes are in the image only; here are stand-ins."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock

import pytest
from jupyterhub.services import auth
from tornado import web

from tests.unit.conftest import ROOT

HOST = "jdoe.hub.example.org:8443"


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the proxy does before each request."""
    for name in ("jhsingle_native_proxy", "jhsingle_native_proxy.proxyhandlers", "simpervisor"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.setattr(auth, "WebSocketHandler", auth.WebSocketHandler)  # restored at the end
    monkeypatch.setattr(os, "environ", dict(os.environ))
    spec = importlib.util.spec_from_file_location("dashboard_proxy", ROOT / "files/singleuser/dashboard_proxy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._prepare


def refused(prepare: Any, method: str, **headers: str) -> bool:
    """Whether a request with these headers is refused; they are written with underscores."""
    made = MagicMock()
    made.request.method, made.request.host = method, HOST
    made.request.headers = {name.replace("_", "-"): text for name, text in headers.items()}
    with suppress(web.HTTPError):
        prepare(made)
        return False
    return True


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_dashboard_takes_no_requests_of_other_peoples_pages(prepare: Any, method: str) -> None:
    for origin in ("https://mallory.hub.example.org:8443", "https://jdoe.hub.example.org", "null", ""):
        assert refused(prepare, method, Origin=origin)
    assert refused(prepare, method, Sec_Fetch_Site="same-site", Sec_Fetch_Mode="navigate")  # a form
    assert not refused(prepare, method)
    assert not refused(prepare, method, Origin=f"https://{HOST}", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")
    assert not refused(prepare, method, Origin=f"https://{HOST.upper()}")


@pytest.mark.parametrize(
    ("site", "mode", "expected"),
    [
        ("same-site", "navigate", False),  # XNAT's link
        ("none", "navigate", False),
        ("same-site", "websocket", False),  # check_origin judges it
        ("same-origin", "no-cors", False),
        ("same-origin", "cors", False),
        ("same-site", "no-cors", True),  # a script or picture that tells something of its own
        ("cross-site", "cors", True),
    ],
)
def test_what_others_may_open_they_may_not_embed(prepare: Any, site: str, mode: str, expected: bool) -> None:
    assert refused(prepare, "GET", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode) is expected
    assert not refused(prepare, "GET")
