"""XNAT's data in JupyterLab: the directory `data` and the notebook "Start here" in the file browser."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from swarm_service_status import read_log

from tests.site.conftest import TIMEOUT, Site, wait_for

PATIENCE = 90  # seconds until the notebook has run
# What the container's entrypoint has read for the server.
ENVIRONMENT = ". /run/secrets/server-env; export XNAT_HOST XNAT_USER XNAT_PASS http_proxy https_proxy no_proxy; "
EXECUTE = (
    f"{ENVIRONMENT} cd; timeout {PATIENCE} jupyter nbconvert --log-level ERROR --to notebook --execute --stdout"
    " /tmp/xnat-*/*.ipynb 2>/dev/null"
)
NOTEBOOK = {"type": "file", "format": "text", "content": "x"}


class Files:
    """The file browser of a server that is open with the token of XNAT's link."""

    def __init__(self, site: Site, name: str) -> None:
        answer = site.ask("POST", f"{site.xnat}/xapi/jupyterhub/users/jdoe/tokens?note=t&expiresIn=600", "jdoe")
        self.headers = {"Authorization": f"token {answer.json()['token']}"}
        self.site, self.url = site, f"{site.origin}{site.servers('jdoe')[name]['url']}"

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        """Send a request to the server's REST API."""
        url = f"{self.url}{path}"
        return self.site.tab().request(method, url, headers=self.headers, json=body, timeout=TIMEOUT)

    def names(self, path: str = "") -> dict[str, bool]:
        """Return the names in a directory, and whether each can be written to."""
        answer = self.ask("GET", f"api/contents/{path}")
        assert answer.status_code == 200, answer.text
        return {entry["name"]: entry["writable"] for entry in answer.json()["content"]}


@pytest.mark.parametrize(
    ("item", "place"),
    [
        ({"itemId": "XNAT_E00001"}, "projects/DEMO_MR/experiments/MR_S01_MR1/SCANS/1/DICOM/MR_small.dcm"),
        ({"xsiType": "xnat:projectData", "itemId": "DEMO_CT", "projectId": "DEMO_CT"},
         "projects/DEMO_CT/experiments/CT_S01_CT1/SCANS/1/DICOM/CT_small.dcm"),
    ],
    ids=["session", "project"],
)  # fmt: skip
def test_data_and_start_here_lie_beside_the_workspace_and_run(site: Site, item: dict[str, Any], place: str) -> None:
    server = site.launch(environment=site.environment(command=None), hardware=2, **item)
    assert site.outcome(server), site.hub_log(server.began)
    log = read_log(site.docker, site.service(server)["Spec"]["Name"], {"stdout": 1, "stderr": 1})
    assert b"xnat_notebook.activity | extension was successfully loaded" in log
    assert site.run(server, "cd /workspace/jdoe && rm -rf data* Start* && touch own")[0] == 0
    files = Files(site, server.name)
    found = files.names()
    assert (found["own"], found["data"], found["Start here.ipynb"]) == (True, False, False)
    path, _, file = place.rpartition("/")
    assert not files.names(f"data/{path}")[file]
    assert files.ask("GET", f"files/data/{place}").content[128:132] == b"DICM"
    for method, target, body in (
        ("PUT", "data/x", NOTEBOOK), ("POST", "data", {"type": "directory"}), ("DELETE", f"data/{place}", None),
        ("PATCH", "own", {"path": "data/own"}), ("PUT", "Start here.ipynb", NOTEBOOK),
    ):  # fmt: skip
        answer = files.ask(method, f"api/contents/{target}", body)
        assert answer.status_code == 403
        assert "read-only" in answer.json()["message"]
    assert files.ask("GET", f"api/contents/data/{place}/checkpoints").json() == []
    assert files.ask("POST", "api/contents", {"copy_from": f"data/{place}"}).status_code == 201

    code, text = site.run(server, EXECUTE)
    assert code == 0, text[-2000:]
    outputs = [output for cell in json.loads(text)["cells"] for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", ()) for output in outputs)
    assert any("<ProjectData" in str(output.get("data")) for output in outputs)

    # An entry of that name, which a person may create at any time, is shown and never overwritten.
    assert site.run(server, "cd /workspace/jdoe && ls data Start*")[0] != 0
    assert site.run(server, "cd /workspace/jdoe && mkdir data && echo mine | tee data/x > 'Start here.ipynb'")[0] == 0
    found = files.names()
    assert (found["data"], found["data (XNAT)"], found["Start here (XNAT).ipynb"]) == (True, False, False)
    assert list(files.names("data")) == ["x"]
    assert list(files.names("data (XNAT)")) == ["projects"]
    assert site.run(server, "cd /workspace/jdoe && cat data/x 'Start here.ipynb'") == (0, "mine\nmine\n")
    assert site.run(server, f"cd /workspace/jdoe && rm -r data Start* own {file}")[0] == 0
    site.stop(server)
    wait_for("removal", lambda: not site.left(), 30)
