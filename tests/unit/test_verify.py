"""The smoke test: how it handles wrong answers, and what it runs in a notebook."""

from __future__ import annotations

import ast
import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from xnat_verify import checks, kernel_probe
from xnat_verify.checks import KERNEL_PROBE, Check, SmokeTest, table

WANTED: dict[str, Any] = {
    "base_url": "/jupyterhub/", "username": "jdoe", "password": "secret", "service_username": "jupyterhub",
    "service_password": "other", "service_token": "token", "experiment": "E1", "uid": 1500, "gid": 1501,
    "deployment": "jh", "environment": "JupyterLab", "timeout": 5, "ca_pem": "", "restart_hub": False,
    "file_servers": [], "egress_host": "", "person_origins": False, "hosts": {},
}  # fmt: skip


class Engine:
    """Docker's services, as far as the smoke test asks for them."""

    def __init__(self, *attributes: dict[str, Any]) -> None:
        self.found = [SimpleNamespace(name="jh-jdoe", attrs=attrs) for attrs in attributes]
        self.labels: list[str] = []
        self.services = SimpleNamespace(list=self.list)

    def list(self, filters: dict[str, list[str]]) -> list[SimpleNamespace]:
        self.labels = filters["label"]
        return self.found


def fake(*attributes: dict[str, Any]) -> Any:
    """An engine with a service for each of these; for the type checker it is one."""
    return Engine(*attributes)


def run(routes: dict[str, Callable[[], web.Response]]) -> SmokeTest:
    """Run the smoke test against an XNAT that has these paths only, which is the hub as well."""

    async def answer(request: web.Request) -> web.Response:
        made = routes.get(request.path)
        return made() if made else web.Response(status=404)

    async def check() -> SmokeTest:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server:
            url = str(server.make_url("")).rstrip("/")
            test = SmokeTest({**WANTED, "xnat_url": url, "hub_url": url}, fake())
            assert not await test.run()
            return test

    return asyncio.run(check())


def failed(test: SmokeTest) -> Check:
    """The last check, the only one that failed."""
    *before, last = test.checks
    assert all(check.ok for check in before)
    assert not last.ok
    return last


def session() -> web.Response:
    answer = web.Response(text="1")
    answer.set_cookie("JSESSIONID", "1")
    return answer


API = "/jupyterhub/hub/api"
LOGGED_IN = {"/data/JSESSION": session}
HUB = {
    f"{API}/": lambda: web.json_response({"version": "5.5.4"}),
    f"{API}/info": lambda: web.json_response({"authenticator": {"class": "a"}, "spawner": {"class": "s"}}),
}


@pytest.mark.parametrize(
    ("routes", "number", "fact"),
    [
        ({"/data/JSESSION": lambda: web.Response(status=401)}, 1, "site_xnat_password"),
        ({"/data/JSESSION": lambda: web.Response(status=302, headers={"Location": "https://sso.example.org/saml"})},
         1, "site_xnat_public_url"),
        ({**LOGGED_IN, "/xapi/jupyterhub/users/jdoe/server/verify-unknown/user-options":
            lambda: web.Response(status=403)}, 2, "role JupyterHub"),
        (LOGGED_IN, 3, "playbooks/hub.yml"),
        ({**LOGGED_IN, f"{API}/": HUB[f"{API}/"], f"{API}/info": lambda: web.Response(status=403)}, 4, "service token"),
        ({**LOGGED_IN, **HUB}, 5, "jupyterHubApiUrl"),
    ],
    ids=["password", "sign-on", "role", "hub", "token", "api_url"],
)  # fmt: skip
def test_the_first_check_that_fails_ends_the_run_with_what_to_set(
    routes: dict[str, Callable[[], web.Response]], number: int, fact: str
) -> None:
    test = run(routes)
    assert len(test.checks) == number
    assert fact in failed(test).advice


def test_a_service_that_does_not_answer_is_a_failed_check() -> None:
    test = SmokeTest({**WANTED, "xnat_url": "http://127.0.0.1:9", "hub_url": "http://127.0.0.1:9"}, fake())
    assert not asyncio.run(test.run())
    assert "ClientConnectorError" in failed(test).seen


@pytest.mark.parametrize(
    ("attributes", "ok"),
    [
        ([{"Env": ["JUPYTERHUB_USER=jdoe"]}], True),
        ([{"Env": ["XNAT_PASS=x"]}], False),
        ([{"Env": ["JUPYTERHUB_API_TOKEN=x"]}], False),
        ([], False),
    ],
    ids=["none", "password", "token", "no-service"],
)
def test_a_secret_in_the_services_environment_is_found(attributes: list[dict[str, Any]], ok: bool) -> None:
    engine = fake(*attributes)
    test = SmokeTest({**WANTED, "xnat_url": "http://x", "hub_url": "http://x"}, engine)
    if ok:
        assert "jh-jdoe" in asyncio.run(test._no_secret({"name": "S1"}))
    else:
        with pytest.raises(checks.FailedCheckError):
            asyncio.run(test._no_secret({"name": "S1"}))
    assert engine.labels == [
        "org.xnat.jupyterhub.deployment=jh", "org.xnat.jupyterhub.user=jdoe", "org.xnat.jupyterhub.server=S1",
    ]  # fmt: skip


SERVER = {"name": "S1", "url": "/jupyterhub/user/jdoe/S1/", "token": "t"}


def opened(answers: dict[tuple[str, str], web.Response]) -> str:
    """Check a server's origin on a hub at `localhost` that has these answers by host and path."""

    async def answer(request: web.Request) -> web.Response:
        return answers.get((request.host.partition(":")[0], request.path), web.Response(status=404))

    async def check() -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server:
            for found in answers.values():
                if "Location" in found.headers:
                    found.headers["Location"] = found.headers["Location"].replace("PORT", str(server.port))
            wanted = {"xnat_url": "http://x", "hub_url": f"http://localhost:{server.port}", "person_origins": True}
            # Only the hub's name has an address; those below it get the same.
            test = SmokeTest({**WANTED, **wanted, "hosts": {"localhost": "127.0.0.1"}}, fake())
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=test.names)) as test.http:
                return await test._apart({**SERVER, "origin": await test._origin(SERVER)})

    return asyncio.run(check())


def redirect(location: str, **headers: str) -> web.Response:
    return web.Response(status=307, headers={"Location": location, **headers})


LINK = "http://jdoe.localhost:PORT/jupyterhub/user/jdoe/S1/?token=t"


@pytest.mark.parametrize(
    ("link", "api", "login", "fact"),
    [
        (redirect(LINK), redirect("http://x"), web.Response(status=302), ""),
        (redirect("http://evil.example.org/jupyterhub/user/jdoe/S1/"), None, None, "evil.example.org"),
        (redirect("http://localhost:PORT/jupyterhub/user/jdoe/S1/"), None, None, "status 307"),
        (redirect("http://jdoe.localhost:PORT/jupyterhub/hub/user/jdoe/S1/"), None, None, "/jupyterhub/hub/user"),
        (web.Response(text="JupyterLab"), None, None, "status 200"),
        (redirect(LINK), web.Response(text="{}"), web.Response(status=302), "status 200"),  # the hub's host has it, too
        (redirect(LINK), redirect("http://x"), web.Response(text="log-in"), "hub/login"),
        (redirect(LINK), redirect("http://x", **{"Set-Cookie": "a=1"}), None, "status 307"),
    ],
    ids=["good", "elsewhere", "same", "path", "served", "both", "hub", "cookie"],
)
def test_a_link_must_lead_to_an_origin_that_has_the_server_alone(
    link: web.Response, api: web.Response | None, login: web.Response | None, fact: str
) -> None:
    missing = web.Response(status=404)
    answers = {
        ("localhost", SERVER["url"]): link,
        ("localhost", f"{SERVER['url']}api/status"): api or missing,
        ("jdoe.localhost", f"{SERVER['url']}api/status"): web.Response(text="{}"),
        ("jdoe.localhost", "/jupyterhub/hub/login"): login or missing,
    }
    if fact:
        with pytest.raises(checks.FailedCheckError) as failure:
            opened(answers)
        assert fact in failure.value.seen
    else:
        assert "http://jdoe.localhost:" in opened(answers)


@pytest.mark.parametrize(
    ("url", "hub", "below"),
    [
        ("https://jdoe.hub.example.org/x", "https://hub.example.org", True),
        ("https://jdoe.hub.example.org/x", "https://Hub.example.org:443", True),
        ("https://jdoe.hub.example.org:8443/x", "https://hub.example.org:8443", True),
        ("https://jdoe.hub.example.org:8443/x", "https://hub.example.org", False),
        ("http://jdoe.hub.example.org/x", "https://hub.example.org", False),
        ("https://a.b.hub.example.org/x", "https://hub.example.org", False),
        ("https://.hub.example.org/x", "https://hub.example.org", False),
        ("https://hub.example.org/x", "https://hub.example.org", False),
        ("", "https://hub.example.org", False),
    ],
)
def test_a_persons_origin_is_a_name_below_the_hubs_however_that_is_written(url: str, hub: str, below: bool) -> None:
    assert checks._is_below(url, hub) is below


def test_names_have_the_systems_address_unless_the_input_has_the_hubs() -> None:
    names = checks.Names({"hub.example.org": "192.0.2.1"}, "hub.example.org")
    asked = ("jdoe.hub.example.org", "hub.example.org", "xhub.example.org")
    assert [names.address(host) for host in asked] == ["192.0.2.1", *asked[1:]]
    assert checks.Names({"x": "192.0.2.1"}, "hub.example.org").address(asked[0]) == asked[0]


def test_the_table_has_a_line_for_each_check() -> None:
    shown = table([Check("a", "seen", True), Check("longer", "nothing", False, "do")])
    assert shown.splitlines() == ["ok      a       seen", "FAILED  longer  nothing"]


# ---- in the notebook


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUPYTERHUB_ROOT_DIR", str(tmp_path))
    for name in ("XNAT_HOST", "XNAT_USER", "XNAT_PASS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(kernel_probe, "log_in", lambda *_: 200)
    monkeypatch.setattr(kernel_probe, "refusals", lambda _: [])  # which would write to /data of this machine
    return tmp_path


def test_what_a_notebook_sees_has_all_that_the_checks_read(notebook: Path) -> None:
    tree = ast.parse(Path(checks.__file__).read_text())
    read = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
        and ast.unparse(node.value) in ("probe", "server['probe']", "of")
    }  # fmt: skip
    seen = kernel_probe.look("first")
    assert {"modality", "refused", "uid", "before", "xnat"} <= read <= set(seen)
    assert seen["before"] == ""
    assert kernel_probe.look("second")["before"] == "first"
    json.dumps(seen)


def test_the_text_for_the_kernel_is_the_linted_file_and_runs_there_as_it_is(notebook: Path, capsys: Any) -> None:
    assert Path(kernel_probe.__file__).read_text() == KERNEL_PROBE
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(KERNEL_PROBE, "<kernel>", "exec"), names)  # noqa: S102
    names |= {"log_in": kernel_probe.log_in, "refusals": kernel_probe.refusals}
    exec("print(json.dumps(look('mark')))", names)  # noqa: S102
    assert json.loads(capsys.readouterr().out)["uid"] == os.getuid()


@pytest.mark.parametrize(
    ("status", "closed"),
    [
        ("CapBnd:\t0000000000000000\nNoNewPrivs:\t1\n", True),
        ("CapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n", False),
        ("CapBnd:\t0000000000000000\nNoNewPrivs:\t0\n", False),
    ],
    ids=["closed", "capabilities", "privileges"],
)
def test_a_process_that_can_gain_privileges_is_told(status: str, closed: bool) -> None:
    assert kernel_probe.is_closed(status) is closed


def test_dicom_is_known_by_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "b").write_bytes(b"DICM")
    assert kernel_probe.is_dicom(str(tmp_path / "a"))
    assert not kernel_probe.is_dicom(str(tmp_path / "b"))
    assert kernel_probe.refusals([str(tmp_path / "none")])[0].startswith(f"{tmp_path}/none: ")
    assert kernel_probe.refusals([str(tmp_path)]) == []
