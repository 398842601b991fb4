"""The demo XNAT over HTTP: status codes, log-in, permissions, user-options. No hub runs; tests/site covers the rest.

Section numbers are those of docs/xnat-contract.md.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from demo_xnat import archive, compute, configuration, people
from demo_xnat.configuration import Configuration
from demo_xnat.database import LAST_ID, Changes, Database
from demo_xnat.kinds import ENVIRONMENTS
from demo_xnat.kinds import HARDWARE as HARDWARE_ROWS
from demo_xnat.people import PEOPLE, Person
from demo_xnat.plugin import Plugin, StartRequest
from demo_xnat.settings import Secrets, Settings
from demo_xnat.web import PLUGIN, STATE, make_app

SECRETS = Secrets(password="people", admin_password="the admins")
SERVICE_PASSWORD = "service"
SCOPES: dict[str, Any] = {name: {"scope": name, "enabled": True, "ids": []} for name in ("Site", "Project", "User")}
ENVIRONMENT = {
    "id": 1,
    "scopes": SCOPES,
    "configTypes": ["JUPYTERHUB"],
    "computeEnvironment": {
        "name": "JupyterLab",
        "image": "xnat-jupyter/singleuser:abc",
        "environmentVariables": [{"key": "COMPUTE_ENV", "value": "1"}, {"key": "XNAT_DATA", "value": "loses"}],
        "mounts": [
            {"volumeName": "", "localPath": "/srv/atlases", "containerPath": "/opt/atlases", "readOnly": True},
        ],
    },
    "hardwareOptions": {"allowAllHardware": True, "hardwareConfigs": []},
}
HARDWARE = {
    "id": 1,
    "scopes": SCOPES,
    "hardware": {
        "name": "Small",
        "cpuLimit": 1.0,
        "memoryLimit": "1G",
        "constraints": [{"key": "node.role", "operator": "IN", "values": ["worker"]}],
        "environmentVariables": [],
        "genericResources": [{"name": "gpu", "value": "1"}],
    },
}
SERVER = "20260115T093012345Z"

Client = TestClient[web.Request, web.Application]
Check = Callable[[Client], Awaitable[None]]


class Clock:
    """Seconds that a test moves."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def fresh_settings(tmp_path: Path) -> Settings:
    """Settings of a demo XNAT that nobody has configured yet."""
    return Settings(
        port=0,
        site_url="http://xnat.example.org",
        archive_path=str(tmp_path / "archive"),
        database=str(tmp_path / "xnat.db"),
        secrets_file="",
    )


def make_settings(tmp_path: Path, concurrent_max_sessions: int = 1000, all_users: bool = False) -> Settings:
    """Settings of a demo XNAT whose database is configured: people have their roles, the hub is away."""
    settings = fresh_settings(tmp_path)
    database = Database(Path(settings.database))
    database.write({
        **configuration.first_start(settings.site_url, settings.archive_path),
        **accounts(),
        **compute.first_start(),
        (ENVIRONMENTS, "1"): ENVIRONMENT,
        (HARDWARE_ROWS, "1"): HARDWARE,
        **{(HARDWARE_ROWS, str(number)): None for number in (2, 3, 4)},
        (HARDWARE_ROWS, LAST_ID): 1,
    })  # fmt: skip
    configured = Configuration(database)
    configured.set_site({"processingUrl": "http://demo-xnat:8080", "concurrentMaxSessions": concurrent_max_sessions})
    configured.set_preferences({
        "jupyterHubApiUrl": "http://127.0.0.1:1/jupyterhub/hub/api",  # nothing listens there
        "jupyterHubHostUrl": "http://localhost:8000",
        "jupyterHubToken": "hub-token",
        "startPollingInterval": 1,
        "stopPollingInterval": 1,
        "maxNamedServers": 3,
        "allUsersCanStartJupyter": all_users,
        "workspacePath": str(tmp_path / "workspaces"),
        "pathTranslationArchivePrefix": str(tmp_path / "archive"),
        "pathTranslationArchiveDockerPrefix": "/srv/a",
        "pathTranslationWorkspacePrefix": str(tmp_path / "workspaces"),
        "pathTranslationWorkspaceDockerPrefix": "/srv/w",
    })  # fmt: skip
    database.close()
    return settings


@functools.cache  # the hashes take a while
def accounts() -> Changes:
    """The accounts as an admin configures them: three people and the service account have their roles."""
    found = dict(people.missing_accounts({}))
    known = {name: Person.stored(document) for (_, name), document in found.items()}
    for name in ("jdoe", "JDoe", "rjones"):
        found |= replace(known[name], roles=(people.JUPYTER,)).change()
    service = replace(known[people.SERVICE_ACCOUNT], enabled=True, roles=(people.JUPYTERHUB, "non_expiring"))
    return found | dict(replace(service, password=people.hashed(SERVICE_PASSWORD)).change())


def run(settings: Settings, check: Check, clock: Clock | None = None) -> None:
    """Run the check against a served demo XNAT; the client keeps no cookies."""

    async def serve() -> None:
        server = TestServer(make_app(settings, SECRETS, clock or Clock()))
        async with TestClient(server, cookie_jar=aiohttp.DummyCookieJar()) as client:
            await check(client)

    asyncio.run(serve())


def basic(login: str, password: str = "") -> dict[str, str]:
    others = {people.SERVICE_ACCOUNT: SERVICE_PASSWORD, people.ADMIN: SECRETS.admin_password}
    default = others.get(login, SECRETS.password)
    return {"Authorization": aiohttp.encode_basic_auth(login, password or default)}


async def answer(
    client: Client, login: str, method: str, path: str, password: str = "", **options: Any
) -> tuple[int, str | None, str]:
    """Status, content type (None if the answer has none) and body of one request, redirects not followed."""
    headers = (basic(login, password) if login else {}) | options.pop("headers", {})
    async with client.request(method, path, headers=headers, allow_redirects=False, **options) as response:
        kind = response.headers.get("Content-Type")
        return response.status, kind and kind.partition(";")[0], await response.text()


def start_body(username: str = "jdoe", **changes: Any) -> dict[str, Any]:
    body = {
        "username": username,
        "servername": SERVER,
        "xsiType": "xnat:mrSessionData",
        "itemId": "XNAT_E00001",
        "itemLabel": "MR_S01_MR1",
        "projectId": "DEMO_MR",
        "eventTrackingId": SERVER,
        "computeEnvironmentConfigId": 1,
        "hardwareConfigId": 1,
        "dashboardConfigId": None,
    }
    return body | changes


OPTIONS = f"/xapi/jupyterhub/users/jdoe/server/{SERVER}/user-options"
SWITCH = "/xapi/jupyterhub/preferences/allUsersCanStartJupyter"
UNNAMED = "/xapi/jupyterhub/users/jdoe/server/user-options"
NO_OPTIONS = "Unable to find requested file or resource: User options not found."
STATUS_CODES: list[tuple[str, str, str, int, str | None, str | None]] = [
    # what is tested, login, path, status, content type, body (None: any)
    ("1.2 own roles", "jdoe", "/xapi/users/jdoe/roles", 200, "application/json", '["Jupyter"]'),
    ("1.2 no role is an empty list", "asmith", "/xapi/users/asmith/roles", 200, "application/json", "[]"),
    ("1.2 another person's roles", "jdoe", "/xapi/users/asmith/roles", 403, None, ""),
    ("1.2 own name in other letter case", "jdoe", "/xapi/users/JDOE/roles", 403, None, ""),
    ("1.2 JDoe is not jdoe", "JDoe", "/xapi/users/jdoe/roles", 403, None, ""),
    ("1.2 admin sees others", "admin", "/xapi/users/jdoe/roles", 200, "application/json", '["Jupyter"]'),
    ("1.2 admin asks for an unknown name: empty 200", "admin", "/xapi/users/nobody/roles", 200, None, ""),
    ("1.2 unknown user", "nobody", "/xapi/users/nobody/roles", 401, "text/html", None),
    ("1.2 log-in name in other letter case", "JDOE", "/xapi/users/JDOE/roles", 401, "text/html", None),
    ("1.2 disabled account", "disabled", "/xapi/users/disabled/roles", 401, "text/html", None),
    ("1.2 expired password", "expired", "/xapi/users/expired/roles", 302, "text/plain", None),
    ("1.2 name with a slash", "jdoe", "/xapi/users/jd%2Foe/roles", 404, None, ""),
    ("1.2 unknown provider before the slash", "ldap/jdoe", "/xapi/users/jdoe/roles", 401, "text/html", None),
    ("1.2 no credentials", "", "/xapi/users/jdoe/roles", 401, "text/html", None),
    ("1.3 the switch", "asmith", SWITCH, 200, "application/json", '{"allUsersCanStartJupyter": false}'),
    ("1.3 unknown preference", "jdoe", "/xapi/jupyterhub/preferences/nix", 404, "text/plain", None),
    ("1.4 no options stored", "jupyterhub", OPTIONS, 404, "text/plain", NO_OPTIONS),
    ("1.4 admin may ask too", "admin", OPTIONS, 404, "text/plain", NO_OPTIONS),
    ("1.4 unnamed server", "jupyterhub", UNNAMED, 404, "text/plain", None),
    ("1.4 role JupyterHub is needed", "jdoe", OPTIONS, 403, None, ""),
    ("1.4 unknown user", "jupyterhub", OPTIONS.replace("jdoe", "nobody"), 404, "text/plain", None),
    ("6.3 double slash", "jupyterhub", OPTIONS.replace(SERVER, ""), 400, "text/plain", None),
    ("5.2 token for people", "jdoe", "/xapi/jupyterhub/preferences/jupyterHubToken", 403, None, ""),
    ("5.2 host URL for people", "jdoe", "/xapi/jupyterhub/preferences/jupyterHubHostUrl", 200, "application/json",
     '{"jupyterHubHostUrl": "http://localhost:8000"}'),
    ("5.2 few preferences for people", "jdoe", "/xapi/jupyterhub/preferences", 200, "application/json",
     '{"allUsersCanStartJupyter": false}'),
    ("5.3 site preference", "admin", "/xapi/siteConfig/processingUrl", 200, "application/json", "http://demo-xnat:8080"),
    ("5.3 site preference for people", "jdoe", "/xapi/siteConfig/processingUrl", 403, None, ""),
    ("5.3 build info", "jdoe", "/xapi/siteConfig/buildInfo", 200, "application/json",
     '{"version": "1.9.1", "demo": true}'),
    ("5.3 build info without a log-in", "", "/xapi/siteConfig/buildInfo", 200, "application/json", None),
    ("5.3 hub info without a hub", "admin", "/xapi/jupyterhub/info", 500, "text/plain", None),
    ("5.3 hub info for people", "jdoe", "/xapi/jupyterhub/info", 403, None, ""),
    ("2.4 unknown event", "jdoe", "/xapi/event_tracking/nix", 404, None, ""),
    ("unknown path", "jdoe", "/xapi/nix", 404, "text/plain", None),
    ("project without permission", "JDoe", "/data/projects/DEMO_MR/subjects", 404, None, ""),
    ("session without permission", "JDoe", "/data/experiments/XNAT_E00001", 404, None, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("login", "path", "status", "kind", "body"), [case[1:] for case in STATUS_CODES], ids=[c[0] for c in STATUS_CODES]
)
def test_each_call_answers_as_xnat_does(
    tmp_path: Path, login: str, path: str, status: int, kind: str | None, body: str | None
) -> None:
    async def check(client: Client) -> None:
        got = await answer(client, login, "GET", path)
        assert got[:2] == (status, kind)
        assert body is None or got[2] == body

    run(make_settings(tmp_path), check)


def test_a_wrong_password_is_401_and_the_service_account_has_a_password_of_its_own(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        for login, password in (("jdoe", "wrong"), ("jdoe", SERVICE_PASSWORD), ("jupyterhub", "people")):
            assert (await answer(client, login, "GET", "/data/JSESSION", password))[0] == 401
        assert (await answer(client, "localdb/jdoe", "GET", "/data/JSESSION"))[0] == 200

    run(make_settings(tmp_path), check)


def test_an_expired_password_leads_a_following_client_to_html_with_status_200(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        request = client.get("/xapi/users/expired/roles", headers=basic("expired"), allow_redirects=False)
        async with request as response:
            location = response.headers["Location"]
        assert location == "http://xnat.example.org/app/template/XDATScreen_UpdateUser.vm"
        page = await answer(client, "", "GET", "/app/template/XDATScreen_UpdateUser.vm")
        assert page[:2] == (200, "text/html")

    run(make_settings(tmp_path), check)


def test_each_call_without_a_cookie_takes_a_session_until_the_limit_and_a_log_out_frees_one(tmp_path: Path) -> None:
    clock = Clock()

    async def check(client: Client) -> None:
        sessions = [await answer(client, "jdoe", "GET", "/data/JSESSION") for _ in range(3)]
        assert [status for status, _, _ in sessions] == [200, 200, 200]
        assert len({session for _, _, session in sessions}) == 3
        cookie = {"Cookie": f"JSESSIONID={sessions[0][2]}"}
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 401
        assert (await answer(client, "JDoe", "GET", "/data/JSESSION"))[0] == 200
        assert (await answer(client, "", "GET", "/data/JSESSION", headers=cookie))[2] == sessions[0][2]
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION", headers=cookie))[0] == 200
        assert (await answer(client, "", "DELETE", "/data/JSESSION", headers=cookie))[0] == 200
        assert (await answer(client, "", "GET", "/data/JSESSION", headers=cookie))[0] == 401
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 200
        clock.now += 15 * 60
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 200
        assert (await answer(client, "", "GET", "/healthz"))[0] == 200

    run(make_settings(tmp_path, concurrent_max_sessions=3), check, clock)


def test_a_live_session_of_the_same_name_hides_a_wrong_password_but_not_another_name(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        session = (await answer(client, "jdoe", "GET", "/data/JSESSION"))[2]
        cookie = {"Cookie": f"JSESSIONID={session}"}
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION", "wrong", headers=cookie))[0] == 200
        assert (await answer(client, "JDoe", "GET", "/data/JSESSION", "wrong", headers=cookie))[0] == 401
        assert (await answer(client, "JDoe", "GET", "/xapi/users/JDoe/roles", headers=cookie))[0] == 200

    run(make_settings(tmp_path), check)


def test_twenty_failures_lock_the_account_for_an_hour_and_no_other(tmp_path: Path) -> None:
    clock = Clock()

    async def check(client: Client) -> None:
        for _ in range(20):
            await answer(client, "jdoe", "GET", "/data/JSESSION", "wrong")
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 401
        assert (await answer(client, "JDoe", "GET", "/data/JSESSION"))[0] == 200
        clock.now += 3599
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 401
        clock.now += 1
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 200

    run(make_settings(tmp_path), check, clock)


def test_failures_count_until_a_log_in_works_however_long_that_takes(tmp_path: Path) -> None:  # contract 1.6
    clock = Clock()

    async def check(client: Client) -> None:
        for right in (True, False):
            for _ in range(20):
                clock.now += 7200
                await answer(client, "jdoe", "GET", "/data/JSESSION", "wrong")
                if right:
                    assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 200
        assert (await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] == 401

    run(make_settings(tmp_path), check, clock)


def test_the_auth_service_takes_a_form_and_gives_a_session(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        path, form = "/data/services/auth", {"username": "jdoe", "password": "people"}
        status, _, session = await answer(client, "", "POST", path, data=form)
        cookie = {"Cookie": f"JSESSIONID={session}"}
        assert status == 200
        assert (await answer(client, "", "GET", "/xapi/users/jdoe/roles", headers=cookie))[0] == 200
        assert (await answer(client, "", "POST", path, data=form | {"password": "wrong"}))[0] == 401
        assert (await answer(client, "", "POST", path, data=form | {"provider": "ldap"}))[0] == 400

    run(make_settings(tmp_path), check)


def test_an_account_of_openid_has_no_password_in_xnat(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        form = {"username": "openid", "password": "people"}
        assert (await answer(client, "openid", "GET", "/data/JSESSION"))[0] == 401
        assert (await answer(client, "", "POST", "/data/services/auth", data=form))[0] == 401
        assert (await answer(client, "", "POST", "/demo/openid-login", data=form | {"username": "jdoe"}))[0] == 401
        status, _, session = await answer(client, "", "POST", "/demo/openid-login", data=form)
        cookie = {"Cookie": f"JSESSIONID={session}"}
        assert status == 200
        assert (await answer(client, "", "GET", "/xapi/users/openid/roles", headers=cookie))[0] == 200

    run(make_settings(tmp_path), check)


def test_a_change_made_with_the_cookie_alone_needs_the_header(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        session = (await answer(client, "jdoe", "GET", "/data/JSESSION"))[2]
        path, cookie = f"/xapi/jupyterhub/users/jdoe/server/{SERVER}", {"Cookie": f"JSESSIONID={session}"}
        assert (await answer(client, "", "POST", path, json=start_body(), headers=cookie))[0] == 403
        page = cookie | {"X-Requested-With": "XMLHttpRequest"}
        assert (await answer(client, "", "POST", path, json=start_body(), headers=page))[0] == 200

    run(make_settings(tmp_path), check)


def test_an_alias_token_acts_as_its_owner_for_two_days_only(tmp_path: Path) -> None:
    clock = Clock()

    async def check(client: Client) -> None:
        alias, secret = client.app[STATE].issue_alias(PEOPLE["JDoe"])
        _, _, body = await answer(client, alias, "GET", "/data/projects?format=json", secret)
        assert [row["ID"] for row in json.loads(body)["ResultSet"]["Result"]] == ["DEMO_CT"]
        assert (await answer(client, alias, "GET", "/xapi/users/JDoe/roles", secret))[0] == 200
        assert (await answer(client, alias, "GET", f"/xapi/users/{alias}/roles", secret))[0] == 403
        assert (await answer(client, alias, "GET", "/data/projects", "wrong"))[0] == 401
        clock.now += 2 * 24 * 3600
        assert (await answer(client, alias, "GET", "/data/projects", secret))[0] == 401

    run(make_settings(tmp_path), check, clock)


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        ("admin", ["DEMO_MR", "DEMO_CT"]),
        ("jdoe", ["DEMO_MR", "DEMO_CT"]),
        ("JDoe", ["DEMO_CT"]),
        ("asmith", ["DEMO_MR"]),
        ("rjones", []),
        ("jupyterhub", []),
    ],
)
def test_people_see_their_own_projects_only(tmp_path: Path, login: str, expected: list[str]) -> None:
    async def check(client: Client) -> None:
        _, _, body = await answer(client, login, "GET", "/data/projects?format=json")
        assert [row["ID"] for row in json.loads(body)["ResultSet"]["Result"]] == expected

    run(make_settings(tmp_path), check)


def test_the_archive_calls_have_xnat_s_shapes(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        subjects = json.loads((await answer(client, "jdoe", "GET", "/data/projects/DEMO_MR/subjects"))[2])
        assert subjects["ResultSet"]["totalRecords"] == "2"
        sessions = json.loads((await answer(client, "jdoe", "GET", "/data/projects/DEMO_MR/experiments"))[2])
        first = sessions["ResultSet"]["Result"][0]
        assert (first["ID"], first["label"], first["xsiType"]) == ("XNAT_E00001", "MR_S01_MR1", "xnat:mrSessionData")
        item = json.loads((await answer(client, "jdoe", "GET", "/data/experiments/XNAT_E00001"))[2])["items"][0]
        assert item["data_fields"]["subject_ID"] == "XNAT_S00001"
        assert [scan["data_fields"]["ID"] for scan in item["children"][0]["items"]] == ["1", "2"]

    run(make_settings(tmp_path), check)


STARTS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("for oneself", "jdoe", start_body(), 200, ""),
    ("without the role", "asmith", start_body("asmith"), 403, ""),
    ("a dashboard without the role", "asmith", start_body("asmith", dashboardConfigId=1), 200, ""),
    ("an admin for somebody else", "admin", start_body("jdoe"), 403, ""),
    ("blank fields", "jdoe", start_body(xsiType=" ", itemId="", itemLabel=None), 500,
     "There was an error in the request : XSI type cannot be blank, Item ID cannot be blank, "
     "Item label cannot be blank"),
    ("no configurations", "jdoe", start_body(computeEnvironmentConfigId=None, hardwareConfigId=None), 500,
     "There was an error in the request : Compute environment config ID cannot be null, "
     "hardware config id cannot be null"),
    ("another name in the body", "jdoe", start_body("JDoe"), 500,
     "There was an error in the request : Usernames do not match"),
    ("another server in the body", "jdoe", start_body(servername="other"), 500,
     "There was an error in the request : Server name in path does not match server name in request body."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("login", "body", "status", "text"), [case[1:] for case in STARTS], ids=[case[0] for case in STARTS]
)
def test_a_start_is_checked_before_it_is_taken(
    tmp_path: Path, login: str, body: dict[str, Any], status: int, text: str
) -> None:
    async def check(client: Client) -> None:
        path = f"/xapi/jupyterhub/users/{'jdoe' if login == 'admin' else login}/server/{SERVER}"
        assert (await answer(client, login, "POST", path, json=body))[::2] == (status, text)

    run(make_settings(tmp_path), check)


def test_an_admin_with_the_switch_on_still_cannot_start_for_somebody_else(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        path = f"/xapi/jupyterhub/users/jdoe/server/{SERVER}"
        status, _, text = await answer(client, "admin", "POST", path, json=start_body())
        assert (status, text) == (500, "There was an error in the request : Usernames do not match")
        path = f"/xapi/jupyterhub/users/asmith/server/{SERVER}"
        assert (await answer(client, "asmith", "POST", path, json=start_body("asmith")))[0] == 200

    run(make_settings(tmp_path, all_users=True), check)


async def outcome(client: Client, login: str, body: dict[str, Any]) -> dict[str, Any]:
    """Start, and return the event tracking as soon as the start has failed; no hub runs, so each one fails."""
    await answer(client, login, "POST", f"/xapi/jupyterhub/users/{login}/server/{SERVER}", json=body)
    for _ in range(250):
        tracking: dict[str, Any] = json.loads((await answer(client, login, "GET", f"/xapi/event_tracking/{SERVER}"))[2])
        if tracking["succeeded"] is not None:
            return tracking
        await asyncio.sleep(0.02)
    raise AssertionError("the start neither ended nor failed within 5 s")


FAILURES: list[tuple[str, str, dict[str, Any], str]] = [
    ("the hub is away", "jdoe", {},
     "Failed to connect to JupyterHub. Please ensure the following:\n(1) JupyterHub is running \n"
     "(2) Verify the correct API URL is set in the plugin settings."),
    ("no permission", "JDoe", {},
     "Failed to launch Jupyter notebook. "
     "Permission denied to read xnat:mrSessionData XNAT_E00001 in project DEMO_MR"),
    ("an item of another project", "jdoe", {"projectId": "DEMO_CT"},
     "Failed to launch Jupyter notebook. "
     "Permission denied to read xnat:mrSessionData XNAT_E00001 in project DEMO_CT"),
    ("unknown hardware", "jdoe", {"hardwareConfigId": 9},
     "Failed to launch Jupyter notebook server. "
     "The compute environment or hardware configuration is not available to the user."),
    ("dashboards are not offered", "jdoe", {"dashboardConfigId": 1},
     "Failed to start dashboard. The dashboard is not available to the user."),
]  # fmt: skip


@pytest.mark.parametrize(("login", "changes", "message"), [case[1:] for case in FAILURES], ids=[c[0] for c in FAILURES])
def test_a_start_that_fails_ends_with_the_plugin_s_sentence_for_its_owner_only(
    tmp_path: Path, login: str, changes: dict[str, Any], message: str
) -> None:
    async def check(client: Client) -> None:
        tracking = await outcome(client, login, start_body(login, **changes))
        assert (tracking["key"], tracking["succeeded"], tracking["finalMessage"]) == (SERVER, False, message)
        entries = json.loads(tracking["payload"])["entryList"]
        assert [entry["status"] for entry in entries] == ["InProgress", "Failed"]
        assert (await answer(client, "asmith", "GET", f"/xapi/event_tracking/{SERVER}"))[0] == 404

    run(make_settings(tmp_path), check)


def bind(target: str, source: str, read_only: bool = True) -> dict[str, Any]:
    return {"target": target, "source": source, "type": "bind", "read_only": read_only}


def data(target: str, source: str) -> dict[str, Any]:
    return bind(f"/data/projects/DEMO_MR/{target}", f"/srv/a/DEMO_MR/{source}")


ITEMS: list[tuple[str, str, str, str, list[dict[str, Any]]]] = [
    # what is tested, xsiType, item, general type, mounts of XNAT data (section 3)
    ("project", "xnat:projectData", "DEMO_MR", "xnat:projectData", [
        data("experiments", "arc001"), data("resources", "resources"), data("subjects", "subjects")]),
    ("subject with sessions ending in a slash", "xnat:subjectData", "XNAT_S00001", "xnat:subjectData", [
        data("subject-resources/MR_S01", "subjects/MR_S01"),
        data("experiments/MR_S01_MR1", "arc001/MR_S01_MR1/"),
        data("experiments/MR_S01_MR2", "arc001/MR_S01_MR2/")]),
    ("subject with a session not on disk", "xnat:subjectData", "XNAT_S00002", "xnat:subjectData", [
        data("subject-resources/MR_S02", "subjects/MR_S02"),
        data("experiments/MR_S02_MR1", "arc001/MR_S02_MR1/")]),
    ("session", "xnat:mrSessionData", "XNAT_E00001", "xnat:experimentData", [
        data("experiments/MR_S01_MR1", "arc001/MR_S01_MR1/")]),
    ("missing session: workspace only", "xnat:mrSessionData", "XNAT_E00004", "xnat:experimentData", []),
    ("scan", "xnat:mrScanData", "101", "xnat:imageScanData", [
        data("experiments/MR_S01_MR1/SCANS/1", "arc001/MR_S01_MR1/SCANS/1")]),
    ("missing scan is mounted unchecked", "xnat:mrScanData", "107", "xnat:imageScanData", [
        data("experiments/missing_session/SCANS/1", "arc001/missing_session/SCANS/1")]),
]  # fmt: skip


async def store(plugin: Plugin, **changes: Any) -> None:
    await plugin.store_options(PEOPLE["jdoe"], StartRequest.model_validate(start_body(**changes)))


@pytest.mark.parametrize(
    ("xsi_type", "item", "general_type", "mounts"), [case[1:] for case in ITEMS], ids=[case[0] for case in ITEMS]
)
def test_user_options_describe_the_item(
    tmp_path: Path, xsi_type: str, item: str, general_type: str, mounts: list[dict[str, Any]]
) -> None:
    archive.lay_out(tmp_path / "archive")

    async def check(client: Client) -> None:
        await store(client.app[PLUGIN], xsiType=xsi_type, itemId=item)
        status, kind, body = await answer(client, "jupyterhub", "GET", OPTIONS)
        assert (status, kind) == (200, "application/json")
        got = json.loads(body)
        env = got["task_template"]["container_spec"]["env"]
        assert len(env.pop("XNAT_USER")) == 36
        assert env.pop("XNAT_PASS").isalnum()
        assert got == {
            "userId": PEOPLE["jdoe"].user_id,
            "servername": SERVER,
            "xsiType": general_type,
            "itemId": item,
            "projectId": "DEMO_MR",
            "eventTrackingId": SERVER,
            "task_template": {
                "container_spec": {
                    "image": "xnat-jupyter/singleuser:abc",
                    "command": None,
                    "env": {
                        "COMPUTE_ENV": "1",
                        "XNAT_HOST": "http://demo-xnat:8080",
                        "XNAT_DATA": "/data",
                        "XNAT_XSI_TYPE": general_type,
                        "XNAT_ITEM_ID": item,
                        "JUPYTERHUB_ROOT_DIR": "/workspace/jdoe",
                        "XDG_CONFIG_HOME": "/workspace/jdoe",
                    },
                    "labels": {},
                    "mounts": [
                        bind("/opt/atlases", "/srv/atlases"),
                        bind("/workspace/jdoe", "/srv/w/users/jdoe", read_only=False),
                        *mounts,
                    ],
                },
                "resources": {
                    "cpu_limit": 1.0,
                    "cpu_reservation": None,
                    "mem_limit": "1G",
                    "mem_reservation": None,
                    "generic_resources": {"gpu": "1"},
                },
                "placement": {"constraints": ["node.role==worker"]},
            },
        }

    run(make_settings(tmp_path), check)


def test_user_options_are_gone_as_soon_as_the_person_may_not_read_the_item(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await store(client.app[PLUGIN])
        assert (await answer(client, "jupyterhub", "GET", OPTIONS))[0] == 200
        assert (await answer(client, "jupyterhub", "GET", OPTIONS.replace("jdoe", "JDoe")))[0] == 404
        client.app[STATE].readable["jdoe"].remove("DEMO_MR")
        assert (await answer(client, "jupyterhub", "GET", OPTIONS))[::2] == (404, NO_OPTIONS)

    run(make_settings(tmp_path), check)


def test_the_workspace_is_made_once_with_a_git_configuration(tmp_path: Path) -> None:
    config = tmp_path / "workspaces" / "users" / "jdoe" / "git" / "config"

    async def check(client: Client) -> None:
        await store(client.app[PLUGIN])
        assert config.read_text() == "[user]\n    name = jdoe\n    email = jdoe@example.org"
        config.write_text("mine")
        await store(client.app[PLUGIN])
        assert config.read_text() == "mine"

    run(make_settings(tmp_path), check)


def test_the_page_says_that_it_is_not_xnat_and_runs_no_foreign_code(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        async with client.get("/") as response:
            page = await response.text()
            policy = response.headers["Content-Security-Policy"]
        assert "This is a demo stand-in, not XNAT." in page
        assert "%NONCE%" not in page
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert page.count("://") == page.count("http://172.17.0.1/") == 1  # compared with, not called

    run(make_settings(tmp_path), check)
