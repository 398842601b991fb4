"""The modules that manage XNAT's settings, accounts and roles, against the demo XNAT: predictions, changes, unmanaged
values, drift, and an XNAT that fails or reports success falsely.
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from demo_xnat.people import SERVICE_ACCOUNT

from tests.unit.authority import Authority
from tests.unit.test_demo_xnat import SECRETS, SERVICE_PASSWORD
from tests.unit.xnat_modules import Xnat, load, run_module, served, xnat_fixture

__all__ = ["xnat_fixture"]
SITE, PREFERENCES = "xnat_site_config", "xnat_plugin_preferences"
TABLE = {
    "archive": {"xnat_path": "/data/xnat/archive", "node_path": "/srv/a", "access": "read_only"},
    "workspaces": {"xnat_path": "/data/xnat/workspaces", "node_path": "/srv/w", "access": "read_write"},
}

# module, options, a request that makes it differ again, names of what differs then
KEPT: list[tuple[str, dict[str, Any], tuple[str, str, Any], list[str]]] = [
    (
        SITE,
        {"settings": {"processingUrl": "https://x.example.org", "concurrentMaxSessions": "77", "initialized": True}},
        ("POST", "/xapi/siteConfig", {"concurrentMaxSessions": 5, "processingUrl": "elsewhere"}),
        ["concurrentMaxSessions", "processingUrl"],
    ),
    (
        PREFERENCES,
        {
            "preferences": {"maxNamedServers": "5", "allUsersCanStartJupyter": True, "startTimeout": 200},
            "token": "new-token",
        },
        ("POST", "/xapi/jupyterhub/preferences", {"maxNamedServers": 1, "jupyterHubToken": "other"}),
        ["jupyterHubToken", "maxNamedServers"],
    ),
    (
        "xnat_user",
        {
            "name": "rjones",
            "email": "new@example.org",
            "last_name": "Jones",
            "password": "new password",
            "roles": ["Jupyter", "b"],
        },
        ("PUT", "/xapi/users/rjones", {"enabled": False, "lastName": "x"}),
        ["enabled", "lastName", "password"],  # it cannot be tried while the account is closed
    ),
    (
        "xnat_user",
        {
            "name": "mlee",
            "email": "m@example.org",
            "first_name": "M",
            "last_name": "Lee",
            "password": "secret",
            "roles": ["x"],
        },
        ("DELETE", "/xapi/users/mlee/roles", ["x"]),
        ["roles"],
    ),
    (
        "xnat_user",
        {"name": "jdoe", "state": "absent"},
        ("PUT", "/xapi/users/jdoe/enabled/true", None),
        ["enabled"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "drift", "differs"), KEPT, ids=[f"{row[0]}-{list(row[1])}" for row in KEPT]
)
def test_what_differs_is_predicted_changed_once_and_mended(
    xnat: Xnat, name: str, options: dict[str, Any], drift: tuple[str, str, Any], differs: list[str]
) -> None:
    args = {"xnat": xnat.options, **options}
    predicted = run_module(name, args, check=True, diff=True)
    assert predicted["changed"]
    assert xnat.writes() == []
    done = run_module(name, args, diff=True)
    assert {key: done[key] for key in ("changed", "changes", "diff")} == {
        key: predicted[key] for key in ("changed", "changes", "diff")
    }
    wrote = xnat.writes()
    assert wrote
    for check in (True, False):
        again = run_module(name, args, check=check, diff=True)
        assert not again["changed"]
        assert again["changes"] == []
        assert again["diff"] == {"before": {}, "after": {}}
    assert xnat.writes() == wrote
    xnat.must(*drift)
    assert run_module(name, args, check=True)["changes"] == differs
    assert run_module(name, args)["changes"] == differs
    assert not run_module(name, args)["changed"]


@pytest.mark.parametrize(
    ("name", "options", "drift", "differs"), KEPT, ids=[f"{row[0]}-{list(row[1])}" for row in KEPT]
)
def test_an_xnat_that_answers_well_and_does_nothing_is_caught(
    xnat: Xnat, name: str, options: dict[str, Any], drift: tuple[str, str, Any], differs: list[str]
) -> None:
    xnat.faults(*[{"path": "/xapi/", "method": method, "ignore": True} for method in ("POST", "PUT")])
    failed = run_module(name, {"xnat": xnat.options, **options})
    assert failed["failed"]
    assert "did not keep" in failed["msg"] or "XNAT did not make the change" in failed["msg"]
    xnat.faults()
    assert run_module(name, {"xnat": xnat.options, **options})["changed"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (PREFERENCES, {"preferences": {"maxNamedServers": 5}}, "did not keep maxNamedServers: it still is '3'"),
        (PREFERENCES, {"token": "new-token"}, "did not keep jupyterHubToken: it still is '********'"),
        ("xnat_user", {"name": "jdoe", "password": "new password"}, "did not keep password of jdoe"),
        ("xnat_user", {"name": "jdoe", "roles": ["more"]}, "did not keep roles of jdoe"),
    ],
)
def test_what_was_not_kept_is_said_and_shown_unless_it_is_secret(
    xnat: Xnat, name: str, options: dict[str, Any], words: str
) -> None:
    xnat.faults(*[{"path": "/xapi/", "method": method, "ignore": True} for method in ("POST", "PUT")])
    assert words in run_module(name, {"xnat": xnat.options, **options})["msg"]


def test_the_diff_shows_values_but_no_secret(xnat: Xnat) -> None:
    args = {"xnat": xnat.options, "preferences": {"maxNamedServers": 5}, "token": "new-token"}
    assert run_module(PREFERENCES, args, diff=True)["diff"] == {
        "before": {"jupyterHubToken": "******** (old)", "maxNamedServers": "3"},
        "after": {"jupyterHubToken": "******** (new)", "maxNamedServers": "5"},
    }
    assert xnat.must("GET", "/xapi/jupyterhub/preferences")["jupyterHubToken"] == "new-token"
    user = {"xnat": xnat.options, "name": "jdoe", "password": "new password", "roles": ["Jupyter", "more"]}
    assert run_module("xnat_user", user, diff=True)["diff"] == {
        "before": {"password": "******** (old)", "roles": ["Jupyter"]},
        "after": {"password": "******** (new)", "roles": ["Jupyter", "more"]},
    }


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (SITE, {"settings": {"noSuch": 1}}, "XNAT has no setting noSuch: use one of "),
        (SITE, {"settings": {"siteUrl": None}}, "siteUrl must be a text, a number or a boolean"),
        (SITE, {"settings": {"siteUrl": ["x"]}}, "siteUrl must be a text, a number or a boolean"),
        (PREFERENCES, {"preferences": {"jupyterHubToken": "x"}}, "Set jupyterHubToken with the option token"),
        (
            PREFERENCES,
            {"preferences": {"jupyterHubApiUrl": "http://h/hub/api/"}},
            "jupyterHubApiUrl must not end with a slash",
        ),
        (PREFERENCES, {"preferences": {"maxNamedServers": 0}}, "maxNamedServers must be at least 1"),
        (
            "xnat_user",
            {"name": "new", "email": "a@b"},
            "XNAT has no account new: to create it, set password, first_name, last_name",
        ),
        (
            "xnat_user",
            {"name": "new", "email": "a@b", "first_name": "a", "last_name": "b", "password": "abc"},
            "XNAT refused it|status 400",
        ),
        (
            "xnat_role_members",
            {"role": "Jupyter", "members": ["Jdoe"]},
            "XNAT has no account Jdoe to give the role Jupyter to",
        ),
        (
            "xnat_role_members",
            {"role": "Jupyter", "members": ["jdoe", "Jdoe"], "state": "absent"},
            "XNAT has no account Jdoe to take the role Jupyter from",
        ),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_changed(
    xnat: Xnat, name: str, options: dict[str, Any], sentence: str
) -> None:
    failed = run_module(name, {"xnat": xnat.options, **options})
    assert failed["failed"]
    assert any(words in failed["msg"] for words in sentence.split("|")), failed["msg"]
    assert [call for call in xnat.writes() if call != ("POST", "/xapi/users")] == []


def test_an_account_that_is_not_there_is_absent(xnat: Xnat) -> None:
    assert not run_module("xnat_user", {"xnat": xnat.options, "name": "nobody", "state": "absent"})["changed"]


def test_a_password_is_tried_once_and_no_session_is_left(xnat: Xnat) -> None:
    args = {"xnat": xnat.options, "name": SERVICE_ACCOUNT, "password": SERVICE_PASSWORD}
    assert not run_module("xnat_user", args)["changed"]
    tries = [call for call in xnat.calls if call[:2] == ("GET", "/data/JSESSION")]
    assert len(tries) == 1
    assert [call[:2] for call in xnat.calls].count(("DELETE", "/data/JSESSION")) == 2  # the account's, the module's


def test_a_password_is_not_tried_on_a_closed_account_and_not_set_on_one_that_is_to_be_closed(xnat: Xnat) -> None:
    args = {"xnat": xnat.options, "name": "jdoe", "password": SECRETS.password}
    assert run_module("xnat_user", {**args, "state": "absent", "password": "other"})["changes"] == ["enabled"]
    assert run_module("xnat_user", args, check=True)["changes"] == ["enabled", "password"]
    assert ("GET", "/data/JSESSION") not in [call[:2] for call in xnat.calls]
    xnat.must("PUT", "/xapi/users/jdoe", {"enabled": True, "verified": False})
    assert run_module("xnat_user", args, check=True)["changes"] == ["password", "verified"]
    assert ("GET", "/data/JSESSION") not in [call[:2] for call in xnat.calls]


def test_an_account_is_sent_what_differs_and_nothing_else(xnat: Xnat) -> None:
    args = {"xnat": xnat.options, "name": "jdoe", "email": "new@example.org", "roles": ["Jupyter", "more"]}
    run_module("xnat_user", args)
    sent = {(method, path): json.loads(body) for method, path, body in xnat.calls if method == "PUT"}
    assert sent == {
        ("PUT", "/xapi/users/jdoe"): {"email": "new@example.org"},
        ("PUT", "/xapi/users/jdoe/roles"): ["more"],
    }


def test_the_role_is_given_and_with_purge_taken_away(xnat: Xnat) -> None:
    args = {"xnat": xnat.options, "role": "Jupyter", "members": ["asmith", "jdoe"]}
    assert run_module("xnat_role_members", args, check=True)["given"] == ["asmith"]
    done = run_module("xnat_role_members", args, diff=True)
    assert (done["given"], done["taken"]) == (["asmith"], [])
    assert done["diff"]["after"]["Jupyter"] == sorted([*done["diff"]["before"]["Jupyter"], "asmith"])
    assert not run_module("xnat_role_members", args)["changed"]
    purged = run_module("xnat_role_members", {**args, "purge": True}, diff=True)
    assert set(purged["taken"]) >= {"JDoe", "rjones"}
    assert purged["diff"]["after"]["Jupyter"] == ["asmith", "jdoe"]
    assert sorted(xnat.must("GET", "/xapi/users/roles/Jupyter")) == ["asmith", "jdoe"]
    absent = {**args, "members": ["asmith", "jdoe", "rjones"], "state": "absent"}
    assert run_module("xnat_role_members", absent)["taken"] == ["asmith", "jdoe"]
    assert not run_module("xnat_role_members", {**args, "state": "absent"})["changed"]


def test_a_role_that_xnat_did_not_give_is_told(xnat: Xnat) -> None:
    for answer in ({"ignore": True}, {"status": 202, "content_type": "application/json", "body": '["Jupyter"]'}):
        xnat.faults({"path": "/roles$", "method": "PUT", **answer})
        failed = run_module("xnat_role_members", {"xnat": xnat.options, "role": "Jupyter", "members": ["asmith"]})
        assert failed["msg"] == "XNAT reported success but did not change the role Jupyter of asmith"


# One session, limits, and what is told


def test_a_run_has_one_session_and_ends_it(xnat: Xnat) -> None:
    session = run_module("xnat_session", {"xnat": xnat.options})["session"]
    shared = {**xnat.options, "session": session}
    before = len(xnat.calls)
    assert run_module(SITE, {"xnat": shared, "settings": {"siteId": "XNAT"}})["changed"] is False
    assert [call[:2] for call in xnat.calls[before:]] == [("GET", "/xapi/siteConfig")]
    run_module("xnat_session", {"xnat": shared, "state": "absent"})
    assert xnat.calls[-1][:2] == ("DELETE", "/data/JSESSION")
    # The module's own session is ended, too, also after a failure.
    for settings in ({"siteId": "XNAT"}, {"noSuch": 1}):
        run_module(SITE, {"xnat": xnat.options, "settings": settings})
        assert xnat.calls[-1][:2] == ("DELETE", "/data/JSESSION")


def test_a_run_outlives_a_restart_of_xnat(xnat: Xnat) -> None:
    session = run_module("xnat_session", {"xnat": xnat.options})["session"]
    xnat.faults({"path": "/xapi/siteConfig", "restart": 0.5, "times": 1})
    args = {"xnat": {**xnat.options, "session": session}, "settings": {"processingUrl": "after"}}
    assert run_module(SITE, args)["changed"]
    assert xnat.calls[-1][:2] == ("DELETE", "/data/JSESSION"), "the session that XNAT made anew is ended"


def test_a_change_is_not_tried_twice(xnat: Xnat) -> None:
    xnat.faults({"path": "/xapi/siteConfig", "method": "POST", "status": 503})
    failed = run_module(SITE, {"xnat": xnat.options, "settings": {"processingUrl": "x"}})
    assert "status 503" in failed["msg"]
    assert xnat.writes() == [("POST", "/xapi/siteConfig")]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 200, "content_type": "text/html", "body": "<html>log in</html>"}, "log-in or set-up page"),
        ({"status": 200, "content_type": "application/json", "body": "[]"}, "unexpected content (application/json)"),
        ({"status": 500, "body": "There was an error : why"}, "status 500, XNAT refused it (There was an error : why)"),
        ({"status": 401}, "status 401, XNAT does not accept admin"),
        ({"status": 403}, "status 403, admin is not an administrator of XNAT"),
        (
            {"status": 301, "location": "https://other.example.org/xapi/siteConfig"},
            "XNAT is at https://other.example.org",
        ),
        ({"delay": 3}, "no answer within 0.5 s"),
        ({"restart": 9, "times": 1}, "XNAT closed the connection (RemoteDisconnected)"),
    ],
)
def test_what_goes_wrong_is_told_with_the_call_and_no_secret(xnat: Xnat, fault: dict[str, Any], words: str) -> None:
    xnat.faults({"path": "/xapi/siteConfig", **fault})
    options = {**xnat.options, "timeout": 0.5, "retry_for": 0.2}
    failed = run_module(SITE, {"xnat": options, "settings": {"processingUrl": "x"}})
    assert words in failed["msg"]
    assert f"{xnat.url}/xapi/siteConfig" in failed["msg"]
    assert SECRETS.admin_password not in failed["msg"].replace(xnat.url, "")


def session(xnat: Xnat, wait: float = 1, jupyterhub: str = "5.5.4", **options: Any) -> dict[str, Any]:
    """Run xnat_session."""
    args = {"xnat": {**xnat.options, **options}, "wait": wait, "jupyterhub_version": jupyterhub}
    return run_module("xnat_session", args)


def test_a_ready_xnat_tells_its_versions(xnat: Xnat) -> None:
    found = session(xnat)
    assert (found["changed"], found["xnat_version"], found["plugin_version"]) == (False, "1.9.1", "1.3.4")


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        (
            {},
            {"url": "http://127.0.0.1:9"},
            "XNAT was not ready within 1 s. GET http://127.0.0.1:9/data/JSESSION: XNAT cannot be reached",
        ),
        ({"path": "/data/JSESSION", "status": 503}, {}, "XNAT was not ready within 1 s."),
        ({"path": "/data/JSESSION", "status": 403}, {}, "XNAT is not set up yet: open it in a browser"),
        (
            {"path": "/data/JSESSION", "status": 200, "content_type": "text/html", "body": "<html>"},
            {},
            "XNAT is not set up yet",
        ),
        ({}, {"password": "wrong"}, "XNAT does not accept admin with this password"),
        ({}, {"username": "jdoe", "password": SECRETS.password}, "jdoe is not an administrator of XNAT"),
        ({}, {"username": "expired", "password": SECRETS.password}, "the password of expired has expired"),
        (
            {"path": "/data/JSESSION", "status": 302, "location": "https://setup.example.org/data/JSESSION"},
            {},
            "XNAT is at https://setup.example.org: set site_xnat_public_url",
        ),
        (
            {"path": "/data/JSESSION", "status": 308, "location": "https://xnat.example.org/data/JSESSION"},
            {},
            "XNAT is at https://xnat.example.org:",
        ),
        (
            {"path": "/data/JSESSION", "status": 302, "location": "https://id.example.org/auth?state=hidden"},
            {},
            "log-in page https://id.example.org/auth, perhaps of a single sign-on",
        ),
        ({"path": "/data/JSESSION", "status": 302, "location": "/setup"}, {}, "XNAT is not set up yet"),
        ({"path": "/data/JSESSION", "status": 302, "location": "/app/other"}, {}, "/app/other: log in to XNAT once"),
        ({"path": "/data/JSESSION", "status": 302}, {}, "XNAT redirects admin to no address"),
        (
            {"path": "JupyterHubPlugin", "status": 404},
            {},
            "XNAT 1.9.1 has no JupyterHub plugin: install xnat-jupyterhub-plugin-VERSION.jar",
        ),
        (
            {"path": "preferences", "status": 200, "content_type": "application/json", "body": "{}"},
            {},
            "the JupyterHub plugin 1.3.4 has no preference jupyterHubHostUrl",
        ),
        (
            {"path": "buildInfo", "status": 200, "content_type": "application/json", "body": '{"version": "1.8.9"}'},
            {},
            "XNAT 1.8.9 has no compute environments",
        ),
    ],
)
def test_why_xnat_cannot_be_configured_is_told_apart(
    xnat: Xnat, fault: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    xnat.faults(*[fault] if fault else [])
    failed = session(xnat, **options)
    assert words in failed["msg"]
    assert "session" not in failed


@pytest.mark.parametrize(
    ("hours", "timeout", "said"),
    [(48, "", False), (49, "", True), (0, "", True), (72, "3 days", False), (48, "1 day", True)],
)
def test_servers_that_outlive_their_alias_token_are_told(xnat: Xnat, hours: int, timeout: str, said: bool) -> None:
    args = {"xnat": xnat.options, "wait": 1, "max_server_lifetime": hours, "alias_token_timeout": timeout}
    sentence = run_module("xnat_session", args)["outlived"]  # the demo's aliasTokenTimeout is 2 days
    assert bool(sentence) is said
    assert not said or ("aliasTokenTimeout" in sentence and (timeout or "2 days") in sentence)


def test_too_many_sessions_are_told_apart_from_a_wrong_password(xnat: Xnat) -> None:
    xnat.must("POST", "/xapi/siteConfig", {"concurrentMaxSessions": 1})
    failed = session(xnat)
    assert "XNAT accepts the password of admin but opens no more sessions" in failed["msg"]
    tries = [call[:2] for call in xnat.calls if call[0] == "POST"]
    assert tries == [("POST", "/data/services/auth")]


def test_a_wrong_password_is_tried_once_by_either_call_and_not_again(xnat: Xnat) -> None:
    session(xnat, wait=5, password="wrong")
    assert [call[:2] for call in xnat.calls] == [("GET", "/data/JSESSION"), ("POST", "/data/services/auth")]


def test_an_xnat_that_becomes_ready_is_waited_for(xnat: Xnat) -> None:
    xnat.faults({"path": "/data/JSESSION", "status": 502, "times": 2})
    assert session(xnat, wait=10)["session"]


def test_versions_that_do_not_go_together_end_the_session(xnat: Xnat) -> None:
    assert "JupyterHub 6.0.0 refuses the names" in session(xnat, jupyterhub="6.0.0")["msg"]
    assert xnat.calls[-1][:2] == ("DELETE", "/data/JSESSION")


@pytest.mark.parametrize(
    ("bundle", "verify", "shown", "words"),
    [
        ("ours", True, "ours", ""),
        ("ours", True, "", "another client certificate"),
        ("ours", True, "other", "another client certificate"),
        ("other", True, "ours", "XNAT's certificate is not trusted: add the certificate"),
        ("", True, "ours", "XNAT's certificate is not trusted"),
        ("", False, "ours", ""),
    ],
)
def test_private_authority_and_client_certificate(
    tmp_path: Path, bundle: str, verify: bool, shown: str, words: str
) -> None:
    authorities = {name: Authority(tmp_path, name) for name in ("ours", "other")}
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authorities["ours"].bundle))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(authorities["ours"].certificate("xnat"))
    options: dict[str, Any] = {
        "ca_pem": authorities[bundle].bundle.read_text() if bundle else "",
        "client_certificate_pem": authorities[shown].certificate("admin").read_text() if shown else "",
        "validate_certs": verify,
    }
    with served(tmp_path, tls) as xnat:
        found = session(xnat, **options)
    assert words in found.get("msg", "")
    assert bool(found.get("session")) == (words == "")


# What a launch would mount


def mounts(xnat: Xnat, **item: str) -> dict[str, Any]:
    return run_module("xnat_mounts_info", {"xnat": xnat.options, "launched_by": "jdoe", "storage": TABLE, **item})


def test_what_a_launch_would_mount_is_that_of_the_launch(xnat: Xnat, tmp_path: Path) -> None:
    found = mounts(xnat, type="session", id="XNAT_E00001")
    workspace, data = found["mounts"]
    assert (found["project"], found["allowed"]) == ("DEMO_MR", True)
    assert workspace["source"] == "/srv/w/users/jdoe"
    assert data["xnat_source"] == f"{tmp_path / 'archive'}/DEMO_MR/arc001/MR_S01_MR1/"
    assert data["source"] == "/srv/a/DEMO_MR/arc001/MR_S01_MR1/"
    assert data["target"] == "/data/projects/DEMO_MR/experiments/MR_S01_MR1"
    scan = mounts(xnat, type="scan", id="XNAT_E00001", scan="1")["mounts"][1]
    assert (scan["source"], scan["target"]) == (f"{data['source']}SCANS/1", f"{data['target']}/SCANS/1")
    project = mounts(xnat, type="project", id="DEMO_MR")["mounts"]
    assert [row["source"] for row in project[1:]] == [
        f"/srv/a/DEMO_MR/{name}" for name in ("arc001", "resources", "subjects")
    ]
    (item,) = xnat.must("GET", "/data/experiments/XNAT_E00001")["items"]
    subject = mounts(xnat, type="subject", id=item["data_fields"]["subject_ID"])["mounts"]
    assert data in subject
    assert subject[1]["target"].startswith("/data/projects/DEMO_MR/subject-resources/")


def test_what_the_policy_refuses_is_said(xnat: Xnat) -> None:
    xnat.must("POST", "/xapi/jupyterhub/preferences", {"pathTranslationArchiveDockerPrefix": "/elsewhere"})
    found = mounts(xnat, type="session", id="XNAT_E00001")
    assert not found["allowed"]
    assert found["mounts"][0]["allowed"]
    assert "/elsewhere/DEMO_MR/arc001/MR_S01_MR1 (for " in found["mounts"][1]["reason"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"type": "session", "id": "none"}, "status 404"),
        ({"type": "project", "id": "none"}, "status 404"),
        ({"type": "scan", "id": "XNAT_E00001"}, "type is scan but all of the following are missing: scan"),
        ({"type": "session", "id": "XNAT_E00001", "storage": {}}, "site_storage must be a table of rows"),
    ],
)
def test_an_item_that_cannot_be_found_is_told(xnat: Xnat, item: dict[str, Any], words: str) -> None:
    assert words in mounts(xnat, **item)["msg"]


def test_nothing_secret_is_in_what_a_module_returns(xnat: Xnat) -> None:
    args = {"xnat": xnat.options, "name": "rjones", "password": "long and secret", "roles": ["Jupyter"]}
    text = str(run_module("xnat_user", args, diff=True))
    assert "long and secret" not in text
    text = str(run_module(PREFERENCES, {"xnat": xnat.options, "token": "a token of the tests"}, diff=True))
    assert "a token of the tests" not in text


def test_texts_are_compared_as_xnat_stores_them() -> None:
    load(SITE)
    from ansible.module_utils.xnat_settings import as_text, differences

    assert [as_text(value) for value in (True, False, 7, " x ", "7")] == ["true", "false", "7", "x", "7"]
    assert differences({"a": "1", "b": True, "c": "x"}, {"a": 1, "b": "true", "c": "y", "d": 1}) == {"c": "x"}
