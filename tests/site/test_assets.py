"""JupyterLab's files at one address for all servers, so that browsers load them once."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tests.site.conftest import BASE_URL, TIMEOUT, Site, wait_for
from tests.site.test_data import Files

SCRIPT = re.compile(r'<script defer="defer" src="([^"?]+)')


def test_pages_of_two_servers_name_the_same_files_which_the_hub_delivers(site: Site) -> None:
    environment = site.environment(command=None)
    servers = [site.launch(environment=environment, hardware=2) for _ in range(2)]
    scripts = []
    for server in servers:
        assert site.outcome(server), site.hub_log(server.began)
        files = Files(site, server.name)
        page = files.ask("GET", "lab")
        assert page.status_code == 200
        assert "Content-Encoding" not in page.headers  # contains a token
        scripts += SCRIPT.findall(page.text)
        settings = files.ask("GET", "lab/api/settings?ids_only=false")
        assert (settings.status_code, settings.headers["Content-Encoding"]) == (200, "gzip")
    assert len(scripts) == 2
    assert len(set(scripts)) == 1
    path = urlsplit(scripts[0]).path  # at the hub's public address
    assert re.fullmatch(rf"{BASE_URL}hub/assets/[0-9a-f]{{32}}/main\.[0-9a-f]+\.js", path)
    answer = site.tab().get(f"{site.origin}{path}", timeout=TIMEOUT)
    assert answer.status_code == 200
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "immutable" in answer.headers["Cache-Control"]
    assert "webpack" in answer.text
    for server in servers:
        site.stop(server)
    wait_for("removal", lambda: not site.left(), 30)
