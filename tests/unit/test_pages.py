"""The hub's pages by a real JupyterHub: name, logo, message, and what servers hold."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from email.message import Message as Headers
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit

import pytest
from xnat_hub.handlers import PAGE_POLICY
from xnat_hub.kept import Kept
from xnat_hub.pages import LONGEST_MESSAGE, held, since

from tests.hub_settings import settings_data
from tests.unit import plain_hub
from tests.unit.conftest import ROOT
from tests.unit.test_preflight_plays import play

MR = {"xsiType": "xnat:mrSessionData", "itemId": "XNAT_E00001", "itemLabel": "MR_S01_MR1", "projectId": "DEMO_MR"}
SVG = {"type": "image/svg+xml", "data": "PHN2Zy8+"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (MR, "Session MR_S01_MR1 of project DEMO_MR"),
        (MR | {"itemLabel": None}, "Session XNAT_E00001 of project DEMO_MR"),
        (MR | {"xsiType": "xnat:experimentData"}, "Session MR_S01_MR1 of project DEMO_MR"),
        (MR | {"xsiType": "xnat:mrScanData", "itemLabel": "2"}, "Scan 2 of project DEMO_MR"),
        (MR | {"xsiType": "xnat:subjectData", "itemLabel": "S1"}, "Subject S1 of project DEMO_MR"),
        (MR | {"xsiType": "xnat:projectData", "itemLabel": "Demo MR"}, "Project Demo MR"),
        (MR | {"xsiType": "other", "itemLabel": "x"}, "Data x of project DEMO_MR"),
        ({"projectId": "DEMO_MR"}, "Project DEMO_MR"),
        ({"xsiType": 1, "itemId": []}, ""), ({}, ""), (None, ""), ("text", ""),
    ],
)  # fmt: skip
def test_a_server_is_named_by_what_it_holds(options: object, words: str) -> None:
    assert held(options) == words


def test_the_start_of_a_server_is_told_in_utc() -> None:
    assert since(datetime(2026, 1, 2, 3, 4, 5)) == "2026-01-02 03:04 UTC"
    assert since(None) == ""


def test_the_message_outlives_the_hub_and_a_broken_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "message.json"
    assert Kept(file, "").get() == ""
    Kept(file, "").set("Maintenance at 17:00")
    assert Kept(file, "").get() == "Maintenance at 17:00"
    for broken in ("{", "[1]"):
        file.write_text(broken)
        assert Kept(file, "").get() == ""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a hub with these pages; the user `jdoe` logs in with any password."""
    folder = tmp_path_factory.mktemp("hub")
    settings = settings_data(title="Imaging & Lab", logo=SVG)
    (folder / "settings.json").write_text(json.dumps(settings))
    roles = [{"name": "xnat", "services": ["xnat"], "scopes": ["admin:users", "servers"]}]
    with plain_hub.running(
        folder,
        roles,
        PLAIN_HUB_PAGES=str(ROOT / "files/templates"),
        PLAIN_HUB_KEPT=str(folder),
        XNAT_HUB_SETTINGS=str(folder / "settings.json"),
        XNAT_HUB_SECRETS=str(folder),
        PYTHONPATH=f"{ROOT}:{ROOT / 'files'}",
    ) as url:
        yield f"{url}/"


def ask(method: str, url: str, body: object = None, token: str = "") -> tuple[int, str, Headers]:
    """Return status, text and headers of a request; status 0 while nobody listens."""
    headers = {"Authorization": f"token {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers
    except OSError:
        return 0, "", Headers()


def test_the_log_in_has_the_sites_name_and_says_what_to_do_without_a_password(hub: str) -> None:
    status, page, headers = ask("GET", f"{hub}login")
    assert status == 200
    assert headers["Content-Security-Policy"] == PAGE_POLICY
    # The policy allows no script of another origin, and the page has none.
    assert re.findall(r"<script[^>]* src=[\"']?(?:https?:)?//", page) == []
    assert "Imaging &amp; Lab</title>" in page
    assert "your XNAT account" in page
    assert 'href="https://xnat.example.org"' in page
    assert "OpenID" in page


def test_the_logo_is_the_sites_and_cannot_run_scripts(hub: str) -> None:
    status, content, headers = ask("GET", f"{hub}logo")
    assert (status, content) == (200, "<svg/>")
    assert headers["Content-Type"] == "image/svg+xml"
    assert "sandbox" in headers["Content-Security-Policy"]


def test_the_message_is_shown_as_text_and_only_the_site_changes_it(hub: str) -> None:
    text = "<b>Maintenance</b> at 17:00"
    assert ask("PUT", f"{hub}api/message", {"message": text})[0] == 403
    for wrong in (None, 1, "x" * (LONGEST_MESSAGE + 1)):
        assert ask("PUT", f"{hub}api/message", {"message": wrong}, plain_hub.TOKEN)[0] == 400
    assert ask("PUT", f"{hub}api/message", {"message": f" {text} "}, plain_hub.TOKEN)[0] == 200
    assert json.loads(ask("GET", f"{hub}message")[1]) == {"message": text}
    assert "&lt;b&gt;Maintenance&lt;/b&gt; at 17:00" in ask("GET", f"{hub}login")[1]
    assert ask("PUT", f"{hub}api/message", {"message": ""}, plain_hub.TOKEN)[0] == 200
    assert "site-message" not in ask("GET", f"{hub}login")[1]


ANNOUNCE = {"ansible.builtin.include_role": {"name": "jupyterhub", "tasks_from": "announce"}}


def announce(folder: Path, hub: str, message: str, *words: str) -> tuple[int, str]:
    """Run the role's tasks against the hub. Returns the number of changes, -1 for a failure, and what was printed."""
    variables = {
        "jupyterhub_port": urlsplit(hub).port,
        "jupyterhub_base_url": "/jupyterhub/",
        "jupyterhub_listen_address": "",
        "jupyterhub_service_token": plain_hub.TOKEN,
        "jupyterhub_message": message,
    }
    run = play(Path(mkdtemp(dir=folder)), [ANNOUNCE], json.dumps(variables), *words)
    assert plain_hub.TOKEN not in run.stdout
    changed = re.search(r"changed=([0-9]+)", run.stdout)
    return (int(changed[1]) if changed and run.returncode == 0 else -1), run.stdout


def test_a_message_is_announced_once_predicted_and_removed(hub: str, tmp_path: Path) -> None:
    def shown() -> object:
        return json.loads(ask("GET", f"{hub}message")[1])["message"]

    changes, text = announce(tmp_path, hub, "Reboot at 17:00", "--check")
    assert (changes, shown()) == (1, ""), text
    for expected in (1, 0):
        changes, text = announce(tmp_path, hub, "Reboot at 17:00")
        assert (changes, shown()) == (expected, "Reboot at 17:00"), text
    refused, text = announce(tmp_path, hub, "x" * (LONGEST_MESSAGE + 1))
    assert (refused, shown()) == (-1, "Reboot at 17:00")
    assert str(LONGEST_MESSAGE) in text
    changes, text = announce(tmp_path, hub, "")
    assert (changes, shown()) == (1, ""), text


def test_errors_are_told_in_words_with_a_way_on(hub: str) -> None:
    status, page, _ = ask("GET", f"{hub}nowhere")
    assert status == 404
    assert "There is no such page" in page
    assert 'href="https://xnat.example.org"' in page
