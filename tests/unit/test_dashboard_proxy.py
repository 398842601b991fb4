"""What the dashboards' proxy refuses. The packages that it changes are in the image only; stand-ins have their place."""

from __future__ import annotations

import importlib.util
import os
import sys
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


def handler(method: str, origin: str | None) -> Any:
    made = MagicMock()
    made.request.method, made.request.host = method, HOST
    made.request.headers = {} if origin is None else {"Origin": origin}
    return made


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_dashboard_takes_no_requests_of_other_peoples_pages(prepare: Any, method: str) -> None:
    for origin in ("https://mallory.hub.example.org:8443", "https://jdoe.hub.example.org", "null", ""):
        with pytest.raises(web.HTTPError) as refused:
            prepare(handler(method, origin))
        assert refused.value.status_code == 403
    for own in (None, f"https://{HOST}", f"https://{HOST.upper()}"):
        prepare(handler(method, own))
    prepare(handler("GET", "https://mallory.hub.example.org:8443"))  # the answer cannot be read there
