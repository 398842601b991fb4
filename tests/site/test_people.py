"""Who can log in to a real hub, and who may do what there (docs/xnat-contract.md, 1.2, 2.2, 2.8, 6.11, 6.30, 6.31)."""

from __future__ import annotations

import time

import pytest
import requests

from tests.site.conftest import TIMEOUT, Site, wait_for

LOOKS = 1_000_000
MOVED = "https://setup.example.org/xapi/users/jdoe/roles"


@pytest.mark.parametrize(
    ("user", "fault", "words"),
    [
        ("nobody", None, "XNAT does not accept this name and password"),
        ("disabled", None, "or the account is disabled or locked"),
        ("expired", None, "log in to XNAT and choose a new password"),
        ("auth0:1", None, "is not a valid user name in XNAT"),
        ("asmith", None, "ask your XNAT administrator for the role Jupyter"),
        ("jdoe", {"status": 503}, "XNAT failed at the log-in check (status 503)"),
        ("jdoe", {"status": 302, "content_type": "text/html"}, "XNAT requires an action before you can log in"),
        ("jdoe", {"status": 301, "location": MOVED}, "XNAT is at https://setup.example.org: set site_xnat_url"),
        ("jdoe", {"status": 302, "location": "https://id.example.org/auth"}, "single sign-on"),
        ("jdoe", {"status": 200, "content_type": "text/html", "body": "<p>"}, "with text/html instead of JSON"),
    ],
)
def test_the_log_in_page_says_what_keeps_somebody_out(
    site: Site, user: str, fault: dict[str, object] | None, words: str
) -> None:
    if fault:
        site.faults({"path": "/roles$", **fault})
    _, page = site.browser(user)
    assert page.status_code in {400, 403, 502, 503}
    assert words in page.text
    assert 'name="password"' in page.text


def test_somebody_of_openid_has_no_password_here_and_gets_in_by_xnats_button(site: Site) -> None:
    _, page = site.browser("openid")
    assert page.status_code == 403
    assert "OpenID" in page.text
    assert 'press "Start Jupyter"' in page.text
    xnat = requests.Session()
    xnat.headers["X-Requested-With"] = "XMLHttpRequest"
    login = {"username": "openid", "password": site.password}
    assert xnat.post(f"{site.xnat}/demo/openid-login", data=login, timeout=TIMEOUT).status_code == 200
    server = site.launch("openid", site.environment(command=None), 2, session=xnat)
    assert site.outcome(server, session=xnat), site.hub_log(server.began)
    query = {"note": "t", "expiresIn": "600"}
    tokens = f"{site.xnat}/xapi/jupyterhub/users/openid/tokens"
    token = xnat.post(tokens, params=query, timeout=TIMEOUT).json()["token"]
    url = f"{site.origin}{site.servers('openid')[server.name]['url']}"
    opened = site.tab().get(url, params={"token": token}, timeout=TIMEOUT)
    assert opened.status_code == 200
    assert opened.url.startswith(url)  # and not the hub's log-in
    assert "jupyter-config-data" in opened.text
    site.ask("DELETE", f"{site.hub}hub/api/users/openid/servers/{server.name}", json={"remove": True})
    wait_for("removal", lambda: not site.left(), 30)


def test_the_home_page_lists_what_servers_hold(site: Site) -> None:
    server = site.launch(itemLabel="MR_S01_MR1")
    assert site.outcome(server), site.hub_log(server.began)
    browser, page = site.browser("jdoe")
    assert "Session MR_S01_MR1 of project DEMO_MR" in page.text
    assert f"Open {server.name}" in page.text
    site.stop(server)
    assert "No server is running" in browser.get(f"{site.hub}hub/home", timeout=TIMEOUT).text


def test_people_who_differ_in_letter_case_are_two(site: Site) -> None:
    for user in ("jdoe", "JDoe"):
        browser, page = site.browser(user)
        assert page.status_code == 200
        me = browser.get(f"{site.hub}hub/api/user", params={"_xsrf": browser.cookies["_xsrf"]}, timeout=TIMEOUT)
        assert me.json()["name"] == user


@pytest.fixture(scope="module")
def refused(site: Site) -> list[requests.Response]:
    """The pages that rjones saw after six tries with a wrong password."""
    return [site.browser("rjones", "wrong")[1] for _ in range(6)]


def test_refused_log_ins_are_limited_before_xnat_locks_the_account(
    site: Site, refused: list[requests.Response]
) -> None:
    assert "XNAT does not accept" in refused[4].text
    assert refused[5].status_code == 429
    assert "XNAT refused rjones too often" in refused[5].text
    assert "too often" in site.browser("rjones")[1].text
    assert site.ask("GET", f"{site.xnat}/xapi/users/rjones/roles", "rjones").status_code == 200
    assert "too often" not in site.browser("jdoe")[1].text


def test_one_address_may_not_try_many_names_whatever_it_says_of_itself(site: Site) -> None:
    assert site.browser("jdoe")[1].status_code == 200
    began = time.time()

    def try_as(number: int) -> int:
        forged = {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-Ip": f"203.0.113.{number}"}
        body = {"auth": {"username": f"made-up-{began}-{number}", "password": "x"}}
        url = f"{site.hub}hub/api/users/jdoe/tokens"
        return site.tab().post(url, json=body, headers=forged, timeout=TIMEOUT).status_code

    assert {try_as(number) for number in range(25)} == {403}
    wait_for("log", lambda: "Too many log-ins from your address" in site.hub_log(began))
    assert site.browser("jdoe")[1].status_code == 200  # who was let in from there before is not kept out
    page = wait_for("another try", lambda: "from your address" not in (text := site.browser("nobody")[1].text) and text)
    assert "XNAT does not accept" in page


def test_pages_carry_security_headers_and_lead_to_the_public_address(site: Site) -> None:
    browser = site.tab()
    form = browser.get(f"{site.hub}hub/login", timeout=TIMEOUT)
    style = browser.get(f"{site.hub}hub/static/css/style.min.css", timeout=TIMEOUT)
    for answer in (form, style):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert form.cookies
    assert all(cookie.secure for cookie in form.cookies)
    start = browser.get(site.hub, timeout=TIMEOUT, allow_redirects=False)
    assert start.headers["Location"] == "https://hub.localhost:8443/jupyterhub/hub/"


def test_many_cookies_of_the_sites_domain_are_no_error(site: Site) -> None:
    cookies = {"Cookie": "; ".join(f"other{number}={'x' * 3000}" for number in range(20))}
    assert site.tab().get(f"{site.hub}hub/login", headers=cookies, timeout=TIMEOUT).status_code == 200


def test_to_delete_a_user_stops_the_servers_first(site: Site) -> None:
    server = site.launch("JDoe", itemId="XNAT_E00005", projectId="DEMO_CT")
    assert site.outcome(server)
    url = f"{site.hub}hub/api/users/JDoe"
    answer = site.ask("DELETE", url)
    assert answer.status_code == 204 or (answer.status_code == 400 and server.name in answer.text), answer.text
    wait_for("deletion", lambda: site.ask("DELETE", url).status_code in {204, 404}, 60)
    assert site.ask("GET", url).status_code == 404
    wait_for("removal", lambda: not site.left(), 30)


def test_a_server_name_that_xnat_cannot_have_is_refused_by_name(site: Site) -> None:
    site.ask("POST", f"{site.hub}hub/api/users/jdoe")
    answer = site.ask("POST", f"{site.hub}hub/api/users/jdoe/servers/my%20server", json={})
    assert (answer.status_code, "my server" in answer.text) == (400, True), answer.text
    site.ask("DELETE", f"{site.hub}hub/api/users/jdoe/servers/my%20server", json={"remove": True})


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


def watch_looks(site: Site, **fault: object) -> None:
    """Count from now on the requests to XNAT for jdoe's roles, whatever it answers."""
    site.faults({"path": "/users/jdoe/roles$", "delay": 0, "times": LOOKS, **fault})


def looks(site: Site) -> int:
    """Return the number of these requests."""
    (fault,) = site.ask("GET", f"{site.xnat}/demo/faults", "admin").json()
    return LOOKS - int(fault["times"])


@pytest.mark.parametrize("fault", [{"status": 200, "content_type": "application/json", "body": "[]"}, {"status": 401}])
def test_a_lost_role_and_a_disabled_account_are_noticed(site: Site, fault: dict[str, object]) -> None:
    server = site.launch()
    assert site.outcome(server)
    browser, page = site.browser("jdoe")
    assert page.status_code == 200

    def inside() -> bool:
        return browser.get(f"{site.hub}hub/home", timeout=TIMEOUT, allow_redirects=False).status_code == 200

    # Only who was seen to have the right can be seen to lose it.
    watch_looks(site)
    wait_for("a look that XNAT accepted", lambda: inside() and looks(site) > 0, 30)
    site.faults({"path": "/users/jdoe/roles$", **fault})
    wait_for("notice", lambda: not inside(), 30)
    site.faults()
    site.stop(server)


def test_an_alias_that_xnat_never_accepted_logs_nobody_out(site: Site) -> None:
    browser, page = site.browser("jdoe")
    assert page.status_code == 200
    watch_looks(site, status=401)
    server = site.launch()
    assert site.outcome(server)

    def refused_twice() -> bool:
        page = browser.get(f"{site.hub}hub/home", timeout=TIMEOUT, allow_redirects=False)
        assert page.status_code == 200
        return looks(site) >= 2

    wait_for("two looks that XNAT refused", refused_twice, 60)
    site.faults()
    site.stop(server)


def test_a_large_body_of_a_stranger_is_not_read(site: Site) -> None:
    with pytest.raises((requests.ConnectionError, requests.HTTPError)):  # 400, or the end of the connection before it
        site.tab().post(f"{site.hub}hub/login", data=b"x" * 5_000_000, timeout=TIMEOUT).raise_for_status()
    assert site.answers()


@pytest.mark.usefixtures("refused")
def test_refused_log_ins_are_not_limited_for_an_hour_after_so_few(site: Site) -> None:
    """Last, since it waits: XNAT itself would not have locked the account."""
    wait_for("another try", lambda: "too often" not in site.browser("rjones")[1].text, 60)
