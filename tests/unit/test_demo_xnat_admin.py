"""The demo XNAT at its start, its configuration by REST, and what survives a restart (contract 5.1-5.4)."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from demo_xnat.configuration import DEFAULTS, ConfigurationError, seconds
from demo_xnat.database import Database
from demo_xnat.hub import HubError
from demo_xnat.people import PEOPLE, SERVICE_ACCOUNT, hashed, matches, missing_accounts, new_passwords
from demo_xnat.settings import Secrets, Settings
from demo_xnat.web import PLUGIN, STATE, make_app

from module_utils.xnat_site.launch_preview import archive_root, session_directory
from tests.unit.conftest import ROOT
from tests.unit.test_demo_xnat import (
    OPTIONS,
    SECRETS,
    SERVER,
    Client,
    Clock,
    answer,
    basic,
    fresh_settings,
    make_settings,
    run,
    start_body,
    store,
)

USERS, PREFERENCES, SITE = "/xapi/users", "/xapi/jupyterhub/preferences", "/xapi/siteConfig"
NEW = {"username": "mlee", "firstName": "Mary", "lastName": "Lee", "email": "mlee@example.org", "password": "secret"}


async def got(client: Client, path: str, login: str = "admin", password: str = "") -> Any:
    status, _, text = await answer(client, login, "GET", path, password)
    assert status == 200, text
    return json.loads(text)


async def change(client: Client, method: str, path: str, body: Any = None, login: str = "admin") -> int:
    options = {} if body is None else {"json": body}
    return (await answer(client, login, method, path, **options))[0]


# A fresh XNAT


def test_a_fresh_xnat_has_its_people_without_roles_and_a_closed_service_account(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        for name, person in PEOPLE.items():
            assert (await got(client, f"{USERS}/profile/{name}"))["id"] == person.user_id
        roles = {name: await got(client, f"{USERS}/{name}/roles") for name in PEOPLE}
        assert roles == {name: [] for name in PEOPLE} | {
            "admin": ["Administrator"], "jupyterhub": ["JupyterHub"], "expired": ["Jupyter"], "disabled": ["Jupyter"],
            "openid": ["Jupyter"],
        }  # fmt: skip
        service = await got(client, f"{USERS}/profile/jupyterhub")
        assert (service["enabled"], service["verified"]) == (False, True)
        assert (await answer(client, "jupyterhub", "GET", "/data/JSESSION", "jupyterhub"))[0] == 401
        assert await change(client, "PUT", f"{USERS}/jupyterhub/enabled/true") == 200
        assert (await answer(client, "jupyterhub", "GET", "/data/JSESSION", "jupyterhub"))[0] == 200
        assert (await answer(client, "jupyterhub", "GET", OPTIONS, "jupyterhub"))[0] == 404
        assert (await answer(client, "expired", "GET", f"{USERS}/expired/roles"))[0] == 302
        assert (await answer(client, "disabled", "GET", f"{USERS}/disabled/roles"))[0] == 401

    run(fresh_settings(tmp_path), check)


def test_a_fresh_plugin_has_the_defaults_of_the_contract(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        expected = DEFAULTS | {"jupyterHubHostUrl": "http://xnat.example.org"}
        assert await got(client, PREFERENCES) == expected
        assert expected["jupyterHubToken"] == "secret-token"
        assert await got(client, SITE) == {
            "siteId": "XNAT",
            "siteUrl": "http://xnat.example.org",
            "processingUrl": "",
            "archivePath": str(tmp_path / "archive"),
            "aliasTokenTimeout": "2 days",
            "concurrentMaxSessions": 1000,
            "sessionTimeout": "15 minutes",
            "initialized": True,
        }
        assert await got(client, SITE, "asmith") == {
            "siteId": "XNAT",
            "siteUrl": "http://xnat.example.org",
            "processingUrl": "",
        }
        assert (await answer(client, "", "GET", SITE))[0] == 401
        for name, value in (("concurrentMaxSessions", "1000"), ("initialized", "true")):
            assert (await answer(client, "admin", "GET", f"{SITE}/{name}"))[2] == value

    run(fresh_settings(tmp_path), check)


def test_a_fresh_plugin_offers_one_environment_with_four_kinds_of_hardware_to_all(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        place = "type=JUPYTERHUB&site=XNAT&user=asmith&prj=DEMO_MR"
        [row] = await got(client, f"/xapi/compute/environments/available?{place}", "asmith")
        image = row["computeEnvironment"]
        assert (image["name"], image["image"]) == ("XNAT Datascience Notebook", "xnat/datascience-notebook:latest")
        names = ("name", "cpuLimit", "cpuReservation", "memoryLimit", "memoryReservation")
        hardware = [[item["hardware"][name] for name in names] for item in row["hardwareOptions"]["hardwareConfigs"]]
        assert hardware == [
            ["Small", 2.0, 2.0, "2G", "2G"],
            ["Medium", 2.0, 2.0, "4G", "4G"],
            ["Large", 2.0, 2.0, "8G", "8G"],
            ["XLarge", 4.0, 4.0, "16G", "16G"],
        ]
        assert await change(client, "PUT", f"/xapi/compute/environments/{row['id']}", row) == 200  # what GET gave
        assert len(await got(client, "/xapi/jupyterhub/dashboards/frameworks")) == 4

    run(fresh_settings(tmp_path), check)


def test_a_fresh_xnat_refuses_a_start_for_want_of_the_role_and_then_for_want_of_a_hub(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        path = f"/xapi/jupyterhub/users/jdoe/server/{SERVER}"
        assert await change(client, "POST", path, start_body(), "jdoe") == 403
        await change(client, "PUT", f"{USERS}/jdoe/roles", ["Jupyter"])
        assert await change(client, "POST", path, start_body(), "jdoe") == 200
        await change(client, "POST", PREFERENCES, {"jupyterHubApiUrl": "no address"})
        assert (await answer(client, "admin", "GET", "/xapi/jupyterhub/info"))[0] == 500

    run(fresh_settings(tmp_path), check)


def test_the_plugin_says_its_version_and_no_other_is_there(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        assert (await got(client, "/xapi/plugins/JupyterHubPlugin"))["version"] == "1.3.4"
        assert (await answer(client, "admin", "GET", "/xapi/plugins/nix"))[0] == 404

    run(fresh_settings(tmp_path), check)


def test_the_page_knows_the_address_by_which_no_hub_is_set_up(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        preference = await got(client, f"{PREFERENCES}/jupyterHubApiUrl", "asmith")
        status, _, page = await answer(client, "asmith", "GET", "/")
        assert status == 200
        assert f'NO_HUB = "{preference["jupyterHubApiUrl"]}";' in page

    run(fresh_settings(tmp_path), check)


# Who may call what

CALLS: list[tuple[str, str, Any, int]] = [
    # method, path, body, status for an admin; everybody else gets 403
    ("POST", USERS, NEW, 201),
    ("GET", f"{USERS}/profile/asmith", None, 200),
    ("GET", f"{USERS}/profile/nobody", None, 404),
    ("PUT", f"{USERS}/asmith", {"firstName": "Anna"}, 200),
    ("PUT", f"{USERS}/asmith", {}, 304),
    ("PUT", f"{USERS}/nobody", {"firstName": "Anna"}, 404),
    ("PUT", f"{USERS}/asmith/enabled/false", None, 200),
    ("PUT", f"{USERS}/nobody/enabled/true", None, 404),
    ("PUT", f"{USERS}/asmith/enabled/perhaps", None, 404),
    ("PUT", f"{USERS}/asmith/roles", ["Jupyter"], 200),
    ("DELETE", f"{USERS}/asmith/roles", ["Jupyter"], 200),
    ("PUT", f"{USERS}/asmith/roles", {"Jupyter": 1}, 500),
    ("PUT", f"{USERS}/nobody/roles", ["Jupyter"], 404),
    ("GET", f"{USERS}/roles/Jupyter", None, 200),
    ("POST", SITE, {"processingUrl": "http://x"}, 200),
    ("POST", SITE, ["processingUrl"], 500),
    ("GET", f"{SITE}/siteId", None, 200),
    ("GET", f"{SITE}/nix", None, 404),
    ("POST", PREFERENCES, {"startTimeout": 5}, 200),
    ("POST", PREFERENCES, {"startTimeout": None}, 500),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), CALLS, ids=[f"{c[0]} {c[1]} {c[3]}" for c in CALLS])
def test_admins_get_the_contract_s_status_and_all_others_403(
    tmp_path: Path, method: str, path: str, body: Any, status: int
) -> None:
    async def check(client: Client) -> None:
        if status != 404 or "perhaps" not in path:
            for login in ("jdoe", "jupyterhub"):
                assert await change(client, method, path, body, login) == 403
        assert await change(client, method, path, body, "") == 401
        assert await change(client, method, path, body) == status

    run(make_settings(tmp_path), check)


# Accounts


def test_an_account_is_made_201_once_and_can_be_used(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        status, kind, text = await answer(
            client, "admin", "POST", USERS, json=NEW | {"enabled": True, "verified": True}
        )
        assert (status, kind) == (201, "application/json")
        assert json.loads(text) == {
            "id": 18, "username": "mlee", "firstName": "Mary", "lastName": "Lee", "email": "mlee@example.org",
            "enabled": True, "verified": True, "secured": True,
        }  # fmt: skip
        assert await change(client, "POST", USERS, NEW) == 409
        assert (await answer(client, "mlee", "GET", f"{USERS}/mlee/roles", "secret"))[2] == "[]"
        assert (await got(client, f"{USERS}/profile/mlee", "mlee", "secret"))["id"] == 18
        assert (await got(client, "/data/projects", "mlee", "secret"))["ResultSet"]["Result"] == []
        second = NEW | {"username": "Mlee", "password": None}  # another person, closed and without a password
        assert await change(client, "POST", USERS, second) == 201
        await change(client, "PUT", f"{USERS}/Mlee", {"enabled": True, "verified": True})
        assert (await answer(client, "Mlee", "GET", "/data/JSESSION", "None"))[0] == 401

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"username": None}, 400),
        ({"username": "1lee"}, 400),
        ({"username": "m lee"}, 400),
        ({"username": "m" * 65}, 400),
        ({"email": " "}, 400),
        ({"email": "mlee"}, 400),
        ({"firstName": None}, 400),
        ({"lastName": "<b>"}, 400),
        ({"password": "abc"}, 400),
        ({"enabled": "yes"}, 500),
        ({"username": "JDOE"}, 201),
        ({"username": "m_l-e.e'"}, 201),
    ],
    ids=[
        "no name", "name begins with a digit", "name with a blank", "name too long", "blank e-mail",
        "no e-mail address", "no first name", "markup in the last name", "short password", "text for a boolean",
        "another letter case", "all signs that a name may have",
    ],
)  # fmt: skip
def test_an_account_with_bad_fields_is_not_made(tmp_path: Path, changes: dict[str, Any], status: int) -> None:
    async def check(client: Client) -> None:
        assert await change(client, "POST", USERS, NEW | changes) == status
        assert len(client.app[STATE].people) == len(PEOPLE) + (status == 201)

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"firstName": "Demo", "email": "asmith@example.org", "enabled": True, "verified": True}, 304),
        ({"username": "asmith", "password": " ", "lastName": ""}, 304),
        ({"username": "jdoe"}, 400),
        ({"email": "nowhere"}, 400),
        ({"password": "abc"}, 400),
        ({"password": "people"}, 200),
        ({"lastName": "Smith"}, 200),
        ({"verified": 1}, 500),
        ([], 500),
    ],
    ids=[
        "all as it is", "blank fields", "another name", "no e-mail address", "short password", "the same password",
        "another last name", "number for a boolean", "no object",
    ],
)  # fmt: skip
def test_a_change_of_an_account_is_200_and_none_is_304_but_a_password_always_is_one(
    tmp_path: Path, body: Any, status: int
) -> None:
    async def check(client: Client) -> None:
        assert await change(client, "PUT", f"{USERS}/asmith", body) == status
        assert (await answer(client, "asmith", "GET", "/data/JSESSION"))[0] == 200

    run(make_settings(tmp_path), check)


def test_a_password_counts_at_once_and_is_not_expired(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        assert await change(client, "PUT", f"{USERS}/expired", {"password": "anew"}) == 200
        assert (await answer(client, "expired", "GET", "/data/JSESSION"))[0] == 401
        assert (await answer(client, "expired", "GET", f"{USERS}/expired/roles", "anew"))[2] == '["Jupyter"]'

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize("flag", ["enabled", "verified"])
def test_a_closed_account_is_out_at_once_with_its_sessions_and_alias_tokens(tmp_path: Path, flag: str) -> None:
    async def switch(client: Client, value: bool) -> int:
        if flag == "enabled":  # by its own call, which keeps the alias tokens
            return await change(client, "PUT", f"{USERS}/jdoe/enabled/{json.dumps(value)}")
        return await change(client, "PUT", f"{USERS}/jdoe", {flag: value})

    async def check(client: Client) -> None:
        alias, secret = client.app[STATE].issue_alias(client.app[STATE].people["jdoe"])
        cookie = {"Cookie": f"JSESSIONID={(await answer(client, 'jdoe', 'GET', '/data/JSESSION'))[2]}"}

        async def statuses() -> list[int]:
            by_cookie = await answer(client, "", "GET", "/data/JSESSION", headers=cookie)
            by_password = await answer(client, "jdoe", "GET", "/data/JSESSION")
            return [by_cookie[0], by_password[0], (await answer(client, alias, "GET", "/data/auth", secret))[0]]

        assert await statuses() == [200, 200, 200]
        for again in (200, 200 if flag == "enabled" else 304):
            assert await switch(client, False) == again
            assert await statuses() == [401, 401, 401]
        assert await switch(client, True) == 200
        assert await statuses() == [200, 200, 200]

    run(make_settings(tmp_path), check)


def test_who_is_disabled_as_a_change_of_the_account_loses_the_alias_tokens_for_good(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        state = client.app[STATE]
        alias, secret = state.issue_alias(state.people["jdoe"])
        other, its_secret = state.issue_alias(state.people["JDoe"])
        for enabled in (False, True):
            assert await change(client, "PUT", f"{USERS}/jdoe", {"enabled": enabled}) == 200
        assert (await answer(client, alias, "GET", "/data/auth", secret))[0] == 401
        assert (await answer(client, other, "GET", "/data/auth", its_secret))[0] == 200

    run(make_settings(tmp_path), check)


def test_roles_are_added_and_removed_at_once_and_only_blank_ones_fail(tmp_path: Path) -> None:
    roles = f"{USERS}/asmith/roles"

    async def check(client: Client) -> None:
        assert (await answer(client, "admin", "PUT", roles, json=["Jupyter", "nix"]))[::2] == (200, "[]")
        assert (await answer(client, "admin", "PUT", roles, json=["Jupyter"]))[::2] == (200, "[]")
        assert await got(client, roles, "asmith") == ["Jupyter", "nix"]
        assert await got(client, f"{USERS}/roles/Jupyter") == [
            "jdoe",
            "JDoe",
            "asmith",
            "rjones",
            "expired",
            "disabled",
            "openid",
        ]
        assert await got(client, f"{USERS}/roles/none") == []
        assert (await answer(client, "admin", "PUT", roles, json=["", " ", "third"]))[::2] == (202, '["", " "]')
        assert (await answer(client, "admin", "DELETE", roles, json=["Jupyter", "absent"]))[::2] == (200, "[]")
        assert await got(client, roles, "asmith") == ["nix", "third"]
        assert await change(client, "PUT", roles, ["Administrator"]) == 200
        assert await change(client, "GET", f"{USERS}/roles/nix", login="asmith") == 200
        assert await change(client, "DELETE", roles, ["Administrator"]) == 200
        assert await change(client, "GET", f"{USERS}/roles/nix", login="asmith") == 403

    run(make_settings(tmp_path), check)


# Preferences and site configuration


def test_preferences_are_trimmed_texts_that_are_given_out_by_their_kind(tmp_path: Path) -> None:
    body = {"jupyterHubToken": " 123 ", "startTimeout": " 300", "stopTimeout": "soon", "maxNamedServers": 5, "nix": 1}

    async def check(client: Client) -> None:
        before = await got(client, PREFERENCES)
        sent = body | {"allUsersCanStartJupyter": "true"}
        assert (await answer(client, "admin", "POST", PREFERENCES, json=sent))[::2] == (200, "")
        changes = {"jupyterHubToken": "123", "startTimeout": 300, "stopTimeout": "soon", "maxNamedServers": 5}
        assert await got(client, PREFERENCES) == before | changes | {"allUsersCanStartJupyter": True}
        assert await change(client, "POST", PREFERENCES, {"allUsersCanStartJupyter": False}) == 200
        assert await got(client, f"{PREFERENCES}/allUsersCanStartJupyter", "jdoe") == {"allUsersCanStartJupyter": False}
        assert await change(client, "POST", PREFERENCES, {"startTimeout": 7, "stopTimeout": None}) == 500
        assert (await got(client, PREFERENCES))["startTimeout"] == 300  # nothing was done
        assert (await answer(client, "admin", "POST", PREFERENCES, data=b"x"))[0] == 415

    run(make_settings(tmp_path), check)


def test_the_hub_s_url_and_token_count_without_a_restart(tmp_path: Path) -> None:
    async def info(request: web.Request) -> web.Response:
        right = request.headers["Authorization"] == "token right"
        return web.json_response({"version": "5.5.4"}, status=200 if right else 403)

    async def check(client: Client) -> None:
        app = web.Application()
        app.router.add_get("/hub/api/info", info)
        async with TestServer(app) as hub:
            await change(client, "POST", PREFERENCES, {"jupyterHubApiUrl": str(hub.make_url("/hub/api"))})
            assert (await answer(client, "admin", "GET", "/xapi/jupyterhub/info"))[0] == 500
            await change(client, "POST", PREFERENCES, {"jupyterHubToken": "right"})
            assert await got(client, "/xapi/jupyterhub/info") == {"version": "5.5.4"}
        with pytest.raises(HubError):
            await client.app[PLUGIN].hub.info()

    run(make_settings(tmp_path), check)


def test_site_configuration_is_kept_as_texts_and_what_is_no_number_or_duration_is_500(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        body = {"processingUrl": " http://x:1 ", "siteId": "Demo", "nix": "y"}
        assert (await answer(client, "admin", "POST", SITE, json=body))[::2] == (200, "")
        found = await got(client, SITE)
        assert (found["processingUrl"], found["siteId"], "nix" in found) == ("http://x:1", "Demo", False)
        assert (await answer(client, "admin", "GET", f"{SITE}/processingUrl"))[2] == "http://x:1"  # bare
        for wrong in ({"siteId": None}, {"aliasTokenTimeout": "soon"}, {"concurrentMaxSessions": "many"}):
            assert await change(client, "POST", SITE, wrong | {"siteUrl": "http://lost"}) == 500
        assert await got(client, SITE) == found

    run(make_settings(tmp_path), check)


def test_session_limit_and_life_of_alias_tokens_follow_the_site_configuration(tmp_path: Path) -> None:
    clock = Clock()

    async def check(client: Client) -> None:
        alias, secret = client.app[STATE].issue_alias(client.app[STATE].people["JDoe"])
        clock.now += 3601
        assert (await answer(client, alias, "GET", "/data/auth", secret))[0] == 200
        assert await change(client, "POST", SITE, {"aliasTokenTimeout": "1 hour", "concurrentMaxSessions": 2}) == 200
        assert (await answer(client, alias, "GET", "/data/auth", secret))[0] == 401
        assert [(await answer(client, "jdoe", "GET", "/data/JSESSION"))[0] for _ in range(3)] == [200, 200, 401]

    run(make_settings(tmp_path), check, clock)


def test_durations_are_read_as_xnat_writes_them() -> None:
    expected = {"1 second": 1, "15 minutes": 900, "2 hours": 7200, "2 days": 172800}
    assert {text: seconds(text) for text in expected} == expected
    for text in ("", "2", "2days", "-1 day", "1 week", "1.5 hours"):
        with pytest.raises(ConfigurationError):
            seconds(text)


def test_containers_reach_xnat_by_the_site_s_url_until_a_processing_url_is_set(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await change(client, "POST", SITE, {"siteUrl": "http://site"})
        assert client.app[PLUGIN].configuration.host() == "http://site"
        await change(client, "POST", SITE, {"processingUrl": "http://inside"})
        assert client.app[PLUGIN].configuration.host() == "http://inside"

    run(fresh_settings(tmp_path), check)


# What a restart leaves


def test_configuration_accounts_options_and_alias_tokens_outlive_a_restart_and_sessions_do_not(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    hardware = {"hardware": {"name": "GPU"}, "scopes": {name: {"scope": name} for name in ("Site", "Project", "User")}}
    framework = {"name": "Shiny", "commandTemplate": "shiny"}
    kept: dict[str, Any] = {}
    paths = [f"{USERS}/roles/Jupyter", SITE, PREFERENCES, f"{USERS}/profile/mlee", f"{USERS}/mlee/roles", OPTIONS]
    paths += ("/xapi/compute/hardware", "/xapi/compute/environments", "/xapi/jupyterhub/dashboards/frameworks")

    async def before(client: Client) -> None:
        await change(client, "POST", USERS, NEW | {"enabled": True, "verified": True})
        await change(client, "PUT", f"{USERS}/mlee/roles", ["Jupyter"])
        await change(client, "POST", SITE, {"processingUrl": "http://kept"})
        await change(client, "POST", PREFERENCES, {"jupyterHubToken": "kept", "startTimeout": 7})
        for _ in range(2):
            await change(client, "POST", "/xapi/compute/hardware", hardware)
        await change(client, "DELETE", "/xapi/compute/hardware/3")
        await change(client, "POST", "/xapi/jupyterhub/dashboards/frameworks", framework)
        await store(client.app[PLUGIN])
        kept["alias"] = client.app[STATE].issue_alias(client.app[STATE].people["mlee"])
        client.app[STATE].track(client.app[STATE].people["jdoe"], "key", "InProgress", "Starting.")
        kept["cookie"] = {"Cookie": f"JSESSIONID={(await answer(client, 'jdoe', 'GET', '/data/JSESSION'))[2]}"}
        kept["answers"] = [await got(client, path) for path in paths]

    async def after(client: Client) -> None:
        assert [await got(client, path) for path in paths] == kept["answers"]
        alias, secret = kept["alias"]
        assert (await answer(client, alias, "GET", "/data/auth", secret))[2] == "User 'mlee' is logged in"
        assert (await answer(client, "mlee", "GET", "/data/JSESSION", "secret"))[0] == 200
        assert (await answer(client, "", "GET", "/data/JSESSION", headers=kept["cookie"]))[0] == 401
        assert (await answer(client, "jdoe", "GET", "/xapi/event_tracking/key"))[0] == 404
        created = await answer(client, "admin", "POST", "/xapi/compute/hardware", json=hardware)
        assert json.loads(created[2])["id"] == 4  # 3 was deleted, and ids are not used again

    run(settings, before)
    run(settings, after)


def test_options_that_a_stop_removed_stay_removed(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)

    async def before(client: Client) -> None:
        await store(client.app[PLUGIN])
        client.app[STATE].remove_options(client.app[STATE].people["jdoe"], SERVER)

    async def after(client: Client) -> None:
        assert (await answer(client, "jupyterhub", "GET", OPTIONS))[0] == 404

    run(settings, before)
    run(settings, after)


def test_a_second_start_with_other_settings_changes_nothing_that_is_stored(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        assert (await got(client, SITE))["siteUrl"] == "http://xnat.example.org"

    run(fresh_settings(tmp_path), check)
    run(replace(fresh_settings(tmp_path), site_url="http://other"), check)


def test_the_file_is_its_owner_s_only_and_holds_no_password(tmp_path: Path) -> None:
    settings = fresh_settings(tmp_path)

    async def check(client: Client) -> None:
        await change(client, "PUT", f"{USERS}/asmith", {"password": "a-word-to-find"})
        look()

    def look() -> None:
        for path in tmp_path.glob("xnat.db*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert b"a-word-to-find" not in path.read_bytes()

    run(settings, check)
    look()
    assert [path.name for path in tmp_path.iterdir()] == ["xnat.db"]


def test_hashes_are_salted_and_an_empty_one_matches_nothing() -> None:
    first, second = hashed("a"), hashed("a")
    assert first != second
    assert matches(first, "a")
    assert matches(second, "a")
    assert not matches(first, "b")
    assert not matches("", "")


def documents(settings: Settings) -> list[tuple[str, str, str]]:
    connection = sqlite3.connect(settings.database)
    found = connection.execute("SELECT kind, key, json FROM documents ORDER BY kind, key").fetchall()
    connection.close()
    return found


def test_a_process_that_is_killed_within_a_change_leaves_nothing_of_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    before = documents(settings)
    program = f"""
import os, signal
from pathlib import Path
from demo_xnat.database import Database

class Killing(dict):
    def items(self):
        for number, item in enumerate(super().items()):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

Database(Path({settings.database!r})).write(Killing({{
    ("siteConfig", "siteId"): "half", ("users", "jdoe"): None, ("users", "JDoe"): None,
}}))
"""
    ended = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT / "files")}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert documents(settings) == before

    async def check(client: Client) -> None:
        assert (await got(client, SITE))["siteId"] == "XNAT"
        assert await change(client, "PUT", f"{USERS}/jdoe/roles", ["third"]) == 200

    run(settings, check)


def test_a_change_that_cannot_be_written_is_not_in_memory_either(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db")
    database.write({("a", "1"): {"old": [1, (2,)]}})
    with pytest.raises(TypeError):
        database.write({("a", "1"): "new", ("b", "2"): object()})
    assert database.table("a") == {"1": {"old": [1, [2]]}}
    assert database.table("b") == {}
    database.close()
    again = Database(tmp_path / "x.db")
    assert (again.table("a"), again.is_empty()) == ({"1": {"old": [1, [2]]}}, False)
    again.close()


def test_a_first_start_that_was_interrupted_is_begun_anew(tmp_path: Path) -> None:
    Database(Path(fresh_settings(tmp_path).database)).close()

    async def check(client: Client) -> None:
        assert client.app[STATE].people.keys() == PEOPLE.keys()

    run(fresh_settings(tmp_path), check)


# The libraries xnat and pyxnat, with an alias token


def test_the_library_xnat_connects_with_an_alias_token_and_lists_projects(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        alias, secret = client.app[STATE].issue_alias(client.app[STATE].people["JDoe"])
        assert (await answer(client, "", "GET", "/"))[0] == 200
        login = basic(alias, secret)
        async with client.get("/", headers=login) as response:
            cookie = {"Cookie": f"JSESSIONID={response.cookies['JSESSIONID'].value}"}

        async def ask(path: str) -> tuple[int, str | None, str]:
            return await answer(client, "", "GET", path, headers=cookie)

        assert await ask("/data/auth") == (200, "text/plain", "User 'JDoe' is logged in")
        assert (await ask("/data/JSESSION"))[0] == 200
        assert (await ask("/data/version"))[0] == 404
        assert json.loads((await ask("/xapi/siteConfig/buildInfo?format=json"))[2])["version"] == "1.9.1"
        names = json.loads((await ask("/xapi/schemas?format=json"))[2])
        assert names == ["xdat", "xnat"]
        for name in names:
            status, kind, text = await ask(f"/xapi/schemas/{name}")
            assert (status, kind) == (200, "application/xml")
            assert text.startswith("<?xml")
        assert 'name="projectData"' in text
        assert (await ask("/xapi/schemas/nix"))[0] == 404
        assert json.loads((await ask("/data/search/elements?format=json"))[2])["ResultSet"]["Result"] == []
        rows = json.loads((await ask("/data/archive/projects?columns=ID%2CURI%2Cname&format=json"))[2])
        assert [(row["ID"], row["name"]) for row in rows["ResultSet"]["Result"]] == [("DEMO_CT", "Demo CT")]
        [item] = json.loads((await ask("/data/archive/projects/DEMO_CT?format=json"))[2])["items"]
        assert item["data_fields"]["ID"] == "DEMO_CT"
        assert (await ask("/data/projects/DEMO_MR"))[0] == 404
        assert (await answer(client, "", "DELETE", "/data/JSESSION", headers=cookie))[0] == 200

    run(make_settings(tmp_path), check)


def test_the_library_pyxnat_connects_with_an_alias_token_and_lists_projects(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        alias, secret = client.app[STATE].issue_alias(client.app[STATE].people["JDoe"])
        assert (await answer(client, alias, "GET", "/data/JSESSION", secret))[0] == 200
        path = "/data/projects?format=csv&columns=ID,xsiType"
        status, kind, text = await answer(client, alias, "GET", path, secret)
        assert (status, kind) == (200, "text/csv")
        head, row = text.splitlines()
        assert head.startswith('"ID","name",')
        assert row.startswith('"DEMO_CT","Demo CT",')
        assert (await answer(client, "rjones", "GET", path))[2] == '"ID"\n'

    run(make_settings(tmp_path), check)


def test_a_new_password_of_the_demo_is_that_of_its_people_and_of_nobody_else(tmp_path: Path) -> None:
    settings = fresh_settings(tmp_path)

    async def status(password: str, login: str, given: str, admin: str = "of the admin") -> int:
        app = make_app(settings, Secrets(password, admin))
        async with TestClient(TestServer(app), cookie_jar=aiohttp.DummyCookieJar()) as client:
            headers = {"Authorization": aiohttp.encode_basic_auth(login, given)}
            async with client.get("/data/JSESSION", headers=headers) as response:
                return response.status

    assert asyncio.run(status("first", "jdoe", "first")) == 200
    assert asyncio.run(status("first", "admin", "first")) == 401
    assert asyncio.run(status("second", "jdoe", "first")) == 401
    assert asyncio.run(status("second", "admin", "of the admin")) == 200
    assert asyncio.run(status("second", "admin", "another", admin="another")) == 200
    assert asyncio.run(status("second", "jdoe", "second")) == 200
    document = Database(Path(settings.database)).table("users")[SERVICE_ACCOUNT]
    assert matches(document["password"], SERVICE_ACCOUNT)


def test_the_administrator_of_an_older_demo_gets_a_password_of_its_own(tmp_path: Path) -> None:
    database = Database(tmp_path / "xnat.db")
    database.write(missing_accounts({}))
    one_for_all = hashed("one for all")
    old = {("users", "admin"): {**database.table("users")["admin"], "password": one_for_all}}
    database.write({**old, ("seed", "password"): one_for_all})
    database.write(new_passwords(database, Secrets("one for all", "its own")))
    assert matches(database.table("users")["admin"]["password"], "its own")
    assert new_passwords(database, Secrets("one for all", "its own")) == {}


def test_an_older_demo_gets_the_accounts_that_came_later(tmp_path: Path) -> None:
    database, passwords = Database(tmp_path / "xnat.db"), Secrets("one for all", "its own")
    database.write(missing_accounts({}))
    database.write(new_passwords(database, passwords))
    assert missing_accounts(database.table("users")) == {}
    created = {**database.table("users")["openid"], "username": "created"}
    database.write({("users", "openid"): None, ("users", "created"): created})
    database.write(missing_accounts(database.table("users")))
    database.write(new_passwords(database, passwords))
    openid = database.table("users")["openid"]
    assert (openid["provider"], openid["roles"], openid["user_id"]) == ("openid", ["Jupyter"], 18)
    assert matches(openid["password"], "one for all")


def test_where_an_item_is_can_be_asked(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        admin = basic("admin")
        async with client.get("/data/projects/DEMO_MR/archive_spec", headers=admin) as response:
            assert response.content_type == "text/xml"
            root = f"{tmp_path / 'archive'}/DEMO_MR"
            assert archive_root(await response.text(), "/unused", "DEMO_MR") == (root, "arc001")
        async with client.get("/data/projects/DEMO_MR/archive_spec", headers=basic("rjones")) as response:
            assert response.status == 404
        async with client.get("/data/experiments/XNAT_E00001", headers=admin) as response:
            (session,) = (await response.json())["items"]
            label = session["data_fields"]["label"]
            assert session_directory(session, "/unused", "arc009") == f"{root}/arc001/{label}/"
        subject = session["data_fields"]["subject_ID"]
        async with client.get(f"/data/subjects/{subject}", headers=admin) as response:
            (item,) = (await response.json())["items"]
        path = f"/data/projects/DEMO_MR/subjects/{item['data_fields']['label']}/experiments"
        async with client.get(path, headers=admin) as response:
            rows = (await response.json())["ResultSet"]["Result"]
            assert "XNAT_E00001" in [row["ID"] for row in rows]
        for path in ("/data/subjects/none", "/data/projects/DEMO_MR/subjects/none/experiments"):
            async with client.get(path, headers=admin) as response:
                assert response.status == 404

    run(make_settings(tmp_path), check)


def test_the_auth_service_takes_no_notice_of_the_number_of_sessions(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        async with client.get("/data/JSESSION", headers=basic("jdoe")) as response:
            assert response.status == 200
        async with client.get("/data/JSESSION", headers=basic("jdoe")) as response:
            assert response.status == 401
        form = {"username": "jdoe", "password": SECRETS.password}
        async with client.post("/data/services/auth", data=form) as response:
            assert response.status == 200

    run(make_settings(tmp_path, concurrent_max_sessions=1), check)
