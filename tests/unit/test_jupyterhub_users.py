"""The module jupyterhub_users, against a real JupyterHub (plain_hub.py) with the roles of this project's hub."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from tests.unit import plain_hub
from tests.unit.conftest import ROOT
from tests.unit.test_config import hub_config  # noqa: F401  (a fixture)
from tests.unit.xnat_modules import run_module


@dataclass
class Hub:
    """A hub that runs. url: of its API."""

    url: str

    @property
    def options(self) -> dict[str, Any]:
        """The option `hub` of the module."""
        return {"api_url": self.url, "token": plain_hub.TOKEN, "timeout": 10}

    def ask(self, method: str, path: str, token: str = plain_hub.TOKEN) -> tuple[int, Any]:
        """Return status and JSON of a request; status 0 while nobody listens."""
        headers = {"Authorization": f"token {token}"}
        data = b"{}" if method == "POST" else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                text = response.read()
                return response.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None

    def user(self, name: str, *servers: str) -> str:
        """Make a user with servers that run, and return a token of the user."""
        assert self.ask("POST", f"/users/{name}")[0] == 201
        for server in servers:
            assert self.ask("POST", f"/users/{name}/servers/{server}")[0] == 201
        token: str = self.ask("POST", f"/users/{name}/tokens")[1]["token"]
        assert self.ask("GET", "/user", token)[0] == 200
        return token


@pytest.fixture
def hub(tmp_path: Path, hub_config: Config) -> Iterator[Hub]:  # noqa: F811
    roles = [role for role in hub_config.JupyterHub.load_roles if role["name"] != "reconciler"]
    with plain_hub.running(tmp_path, roles, PYTHONPATH=str(ROOT)) as url:
        yield Hub(f"{url}/api")


def test_servers_tokens_and_the_user_go_and_others_stay(hub: Hub) -> None:
    token, other = hub.user("jdoe", "a", "b"), hub.user("JDoe", "a")
    args = {"hub": hub.options, "names": ["jdoe", "nobody"]}
    predicted = run_module("jupyterhub_users", args, check=True)
    assert (predicted["changed"], predicted["removed"], predicted["stopped"]) == (True, ["jdoe"], ["jdoe/a", "jdoe/b"])
    assert hub.ask("GET", "/user", token)[0] == 200
    assert set(hub.ask("GET", "/users/jdoe")[1]["servers"]) == {"a", "b"}
    done = run_module("jupyterhub_users", args)
    assert {**done, "invocation": None} == {**predicted, "invocation": None}
    assert hub.ask("GET", "/user", token)[0] == 403
    assert hub.ask("GET", "/users/jdoe")[0] == 404
    assert hub.ask("GET", "/user", other)[0] == 200
    assert hub.ask("GET", "/users/JDoe")[1]["servers"]["a"]["ready"]
    assert not run_module("jupyterhub_users", args)["changed"]


def test_what_cannot_be_done_is_told(hub: Hub) -> None:
    token = hub.user("jdoe", "stuck")
    args = {"hub": hub.options, "names": ["jdoe"], "stop_timeout": 1}
    failed = run_module("jupyterhub_users", args)
    assert "stuck of jdoe did not end within 1 s" in failed["msg"]
    assert hub.ask("GET", "/user", token)[0] == 200
    wrong = run_module("jupyterhub_users", {**args, "hub": {**hub.options, "token": "wrong"}})
    assert "the hub does not accept the service token" in wrong["msg"]
    page = run_module("jupyterhub_users", {**args, "hub": {**hub.options, "api_url": hub.url.replace("/api", "")}})
    assert page["failed"]
    gone = run_module("jupyterhub_users", {**args, "hub": {**hub.options, "api_url": "http://127.0.0.1:1/hub/api"}})
    assert "the hub cannot be reached" in gone["msg"]
