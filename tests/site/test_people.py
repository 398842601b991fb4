"""Who gets in, and who may do what, at a real hub (docs/xnat-contract.md, 1.2, 2.2, 2.8, 6.11, 6.30, 6.31)."""

from __future__ import annotations

import pytest

from tests.site.conftest import TIMEOUT, Site, wait_for


@pytest.mark.parametrize(
    ("user", "fault", "words"),
    [
        ("nobody", None, "XNAT does not accept this name and password"),
        ("disabled", None, "or the account is disabled or locked"),
        ("expired", None, "XNAT wants something done first, for example a new password"),
        ("asmith", None, "ask your XNAT administrator for the role Jupyter"),
        ("jdoe", {"status": 503}, "XNAT failed at the log-in check (status 503)"),
        ("jdoe", {"status": 302, "content_type": "text/html"}, "XNAT wants something done first"),
        ("jdoe", {"status": 200, "content_type": "text/html", "body": "<p>"}, "with text/html instead of JSON"),
    ],
)
def test_the_log_in_page_says_what_keeps_somebody_out(
    site: Site, user: str, fault: dict[str, object] | None, words: str
) -> None:
    if fault:
        site.faults({"path": "/roles$", **fault})
    _, page = site.browser(user)
    assert page.status_code in {403, 502, 503}
    assert words in page.text
    assert 'name="password"' in page.text


def test_people_who_differ_in_letter_case_are_two(site: Site) -> None:
    for user in ("jdoe", "JDoe"):
        browser, page = site.browser(user)
        assert page.status_code == 200
        me = browser.get(f"{site.hub}hub/api/user", params={"_xsrf": browser.cookies["_xsrf"]}, timeout=TIMEOUT)
        assert me.json()["name"] == user


def test_refused_log_ins_are_limited_before_xnat_locks_the_account(site: Site) -> None:
    pages = [site.browser("rjones", "wrong")[1] for _ in range(6)]
    assert "XNAT does not accept" in pages[4].text
    assert pages[5].status_code == 429
    assert "XNAT refused rjones too often" in pages[5].text
    assert "too often" in site.browser("rjones")[1].text
    assert site.ask("GET", f"{site.xnat}/xapi/users/rjones/roles", "rjones").status_code == 200
    assert "too often" not in site.browser("jdoe")[1].text


def test_users_cannot_start_servers_and_xnat_holds_eight_scopes(site: Site) -> None:
    answer = site.ask("POST", f"{site.xnat}/xapi/jupyterhub/users/jdoe/tokens?note=t&expiresIn=172800", "jdoe")
    link = {"Authorization": f"token {answer.json()['token']}"}
    browser, _ = site.browser("jdoe")
    for options in ({"headers": link}, {"cookies": browser.cookies, "params": {"_xsrf": browser.cookies["_xsrf"]}}):
        for path in ("server", "servers/forged"):
            forged = browser.post(f"{site.hub}hub/api/users/jdoe/{path}", json={}, timeout=TIMEOUT, **options)
            assert forged.status_code == 403, (path, forged.text)
    scopes = site.ask("GET", f"{site.hub}hub/api/user").json()["scopes"]
    eight = {
        "read:hub",
        "list:users",
        "read:users",
        "admin:users",
        "servers",
        "delete:servers",
        "read:servers",
        "tokens",
    }
    assert eight <= set(scopes)
    assert not {
        scope for scope in scopes if scope.startswith(("admin:servers", "access:", "proxy", "shutdown", "shares"))
    }


@pytest.mark.parametrize("fault", [{"status": 200, "content_type": "application/json", "body": "[]"}, {"status": 401}])
def test_a_lost_role_and_a_disabled_account_are_noticed(site: Site, fault: dict[str, object]) -> None:
    server = site.launch()
    assert site.outcome(server)
    browser, page = site.browser("jdoe")
    assert page.status_code == 200

    def inside() -> bool:
        return browser.get(f"{site.hub}hub/home", timeout=TIMEOUT, allow_redirects=False).status_code == 200

    assert inside()
    site.faults({"path": "/users/jdoe/roles$", **fault})
    wait_for("notice", lambda: not inside(), 30)
    site.faults()
    site.stop(server)
