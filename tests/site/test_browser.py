"""The site in a browser: from XNAT's button to a slice on the screen, over TLS through the edge, and the hub's pages.

Pictures are written to `.cache/pictures`, or to XNATJH_PICTURES, as `make pictures` does for the README.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Playwright, Request, expect, sync_playwright

from tests.site.conftest import BASE_URL, NAMES, ROOT, Site, wait_for

XNAT = "https://xnat.localhost:8443/"
PICTURES = Path(os.environ.get("XNATJH_PICTURES") or ROOT / ".cache/pictures")
PROJECT = "Demo MR"  # the name of DEMO_MR
PATIENCE = 60_000  # milliseconds for what a person waits for
OPTIONS = (
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    "--no-proxy-server", "--no-sandbox",
)  # fmt: skip

expect.set_options(timeout=PATIENCE)  # five seconds if nothing is set, and a kernel takes longer
WATCH = """
new MutationObserver((_, observer) => {
  if (document.querySelector(".jp-LauncherCard") && document.querySelector(".jp-DirListing-item")?.checkVisibility()) {
    window.shownAt = performance.now();
    observer.disconnect();
  }
}).observe(document, { attributes: true, childList: true, subtree: true });
"""
# When JupyterLab saved the workspace: the second request for it, after the one that loaded it.
SAVED = """() => {
  const found = performance.getEntriesByType("resource").filter((one) => one.name.includes("/lab/api/workspaces/"));
  return found[1]?.startTime;
}"""


@dataclass
class Seen:
    """What a browser has noticed. errors: of consoles and scripts. elsewhere: addresses outside the site."""

    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        """Keep an error that a page wrote."""
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def request(self, request: Request) -> None:
        """Keep a request that leaves the site."""
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname not in NAMES:
            self.elsewhere.append(request.url)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Playwright's driver."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(site: Site, playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Debian's Chromium, for which the site's names lead to the node, and which trusts the site's authority."""
    home = tmp_path_factory.mktemp("home")
    database = home / ".pki/nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    add = [*certutil, "-A", "-n", "site", "-t", "C,,", "-i", str(site.authority)]
    subprocess.run(add, check=True)
    rules = ",".join(f"MAP {name} {site.address}" for name in NAMES)
    browser = playwright.chromium.launch(
        executable_path="/usr/bin/chromium",
        args=[*OPTIONS, f"--host-resolver-rules={rules}"],
        env={**os.environ, "HOME": str(home)},
    )
    yield browser
    browser.close()


@pytest.fixture
def seen() -> Seen:
    """What the browser of this test notices."""
    return Seen()


@pytest.fixture
def context(browser: Any, seen: Seen) -> Iterator[BrowserContext]:
    """A browser's window, without cookies."""
    context: BrowserContext = browser.new_context(viewport={"width": 1100, "height": 720})
    context.set_default_timeout(PATIENCE)
    context.on("console", seen.console)
    context.on("weberror", lambda error: seen.errors.append(str(error.error)))
    context.on("request", seen.request)
    yield context
    context.close()


def picture(page: Page, name: str) -> None:
    """Take a picture for the README."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def serious(page: Page) -> list[tuple[str, list[str]]]:
    """Return the serious faults that axe finds on a page, in light and in dark: rule, and elements."""
    found = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # colors that fade in have no contrast yet
        expect(page.locator("html")).to_have_attribute("data-bs-theme", scheme)
        # Without `preload`, by which axe loads style sheets itself, some from wrong addresses.
        for one in Axe().run(page, options={"preload": False}).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                found.append((one["id"], [node["html"] for node in one["nodes"]]))
    return found


def log_in_to_xnat(page: Page, site: Site, user: str) -> None:
    """Log in to XNAT."""
    page.goto(XNAT)
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password").fill(site.password)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.locator("#who")).to_have_text(user)


def choose(page: Page, kind: str, label: str) -> None:
    """Choose what to open in XNAT: a project, subject or session, once its page has finished the choice before."""
    choice = page.locator("#choice")
    expect(choice).to_contain_text("with the ")
    if choice.inner_text() != f"with the {kind} {label}":
        page.locator(f"#{kind}").select_option(label=label)
    expect(choice).to_have_text(f"with the {kind} {label}")


def test_from_xnats_button_to_a_slice_and_back(site: Site, context: BrowserContext, seen: Seen) -> None:
    xnat = context.new_page()
    log_in_to_xnat(xnat, site, "jdoe")
    for kind, label in (("project", PROJECT), ("subject", "MR_S01"), ("session", "MR_S01_MR1")):
        choose(xnat, kind, label)
    xnat.locator("#environment").select_option(label="JupyterLab")
    context.add_init_script(WATCH)
    began = time.monotonic()
    with context.expect_page(timeout=PATIENCE) as opened:
        xnat.get_by_role("button", name="Start Jupyter").click()
        expect(xnat.locator("#bar")).to_be_visible()
    lab = opened.value
    card = lab.locator(".jp-LauncherCard").filter(has_text="Start here")
    expect(card).to_be_visible()
    usable = time.monotonic() - began
    print(f"button to a usable JupyterLab: {usable:.1f} s")
    assert "token=" not in lab.url
    assert lab.wait_for_function(SAVED).json_value() > lab.evaluate("window.shownAt")  # xnat.js: showAtOnce
    expect(lab.get_by_role("tab", name="Launcher")).to_have_count(1)
    expect(xnat.locator("#log .good")).to_be_visible()
    picture(xnat, "xnat")

    files = lab.locator(".jp-DirListing-item")
    expect(files.filter(has_text="data")).to_have_attribute("title", wording("data"))
    card.click()
    notebook = lab.locator(".jp-NotebookPanel:visible")
    expect(notebook.locator(".jp-MarkdownOutput").first).to_contain_text("MR_S01_MR1")
    kernel = lab.locator("#jp-main-statusbar")
    expect(kernel).to_contain_text("Idle")  # JupyterLab runs nothing in a kernel that it does not know yet
    lab.locator("#jp-MainMenu").get_by_text("Run", exact=True).click()
    lab.get_by_text("Run All Cells", exact=True).click()
    slice_ = notebook.locator(".jp-RenderedImage img").first
    expect(slice_).to_be_visible()
    expect(kernel).to_contain_text("Idle")  # all cells have run
    expect(notebook.locator('[data-mime-type="application/vnd.jupyter.error"]')).to_have_count(0)
    slice_.scroll_into_view_if_needed()
    picture(lab, "jupyterlab")
    files.filter(has_text="data").dblclick()
    expect(files.filter(has_text="projects")).to_be_visible()

    xnat.bring_to_front()
    (server,) = site.servers("jdoe")
    with context.expect_page() as again:
        xnat.get_by_role("button", name="Open", exact=True).click()
    expect(again.value.locator("#jp-MainMenu")).to_be_visible()
    again.value.close()
    lab.close()
    xnat.get_by_role("button", name="Stop", exact=True).click()
    expect(xnat.locator("#servers-message")).to_have_text("None.")
    wait_for("removal", lambda: not site.left(), 30)
    assert seen.errors == []
    xnat.goto(f"{site.origin}{BASE_URL}user/jdoe/{server}/lab")
    assert "/hub/login" in xnat.url  # XNAT's link was a log-in to that server only
    expect(xnat.get_by_role("heading", level=1)).to_be_visible()
    assert seen.elsewhere == []


def wording(name: str) -> re.Pattern[str]:
    """Return what the tooltip of a read-only directory says."""
    return re.compile(rf"^Name: {name}\n.*Writable: false$", re.S)


def test_xnat_says_who_may_not_start_jupyter(site: Site, context: BrowserContext) -> None:
    xnat = context.new_page()
    log_in_to_xnat(xnat, site, "asmith")
    expect(xnat.get_by_role("button", name="Start Jupyter")).to_be_enabled()
    xnat.get_by_role("button", name="Start Jupyter").click()
    expect(xnat.locator("#log .bad")).to_contain_text("You may not start Jupyter")


def test_the_hubs_pages_can_be_used_by_everybody(site: Site, context: BrowserContext, seen: Seen) -> None:
    server = site.launch(itemLabel="MR_S01_MR1")
    assert site.outcome(server), site.hub_log(server.began)
    page = context.new_page()
    page.goto(f"{site.hub}hub/login")
    assert serious(page) == []
    for password in ("wrong", site.password):  # by keyboard alone: the name has the focus
        page.get_by_label("User name").fill("")
        page.keyboard.type("jdoe")
        page.keyboard.press("Tab")
        page.keyboard.type(password)
        page.keyboard.press("Enter")
        if password == "wrong":
            expect(page.get_by_role("alert")).to_contain_text("XNAT does not accept")
            assert serious(page) == []
            assert all("/hub/login" in error for error in seen.errors)  # the refusal itself
            seen.errors.clear()
    expect(page.get_by_role("link", name=f"Open {server.name}")).to_be_visible()
    expect(page.get_by_text("Session MR_S01_MR1 of project DEMO_MR")).to_be_visible()
    assert serious(page) == []
    assert seen.errors == []
    page.goto(f"{site.hub}hub/nowhere")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert serious(page) == []
    site.stop(server)
    page.goto(f"{site.hub}user/jdoe/{server.name}/")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert serious(page) == []
    assert seen.elsewhere == []
