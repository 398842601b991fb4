"""Whether an image from elsewhere can serve: the script in its container, and the findings from its result."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupyterhub
import pytest
import singleuser_probe
from singleuser_probe import PORT, SCRIPT, WORKSPACE, container, finding, host, run
from xnat_launcher.options import parse_launch
from xnat_launcher.service import task_template
from xnat_launcher.settings import Settings

from tests.unit.conftest import SAMPLES

WANTED: dict[str, Any] = {"uid": 1500, "gid": 1501, "groups": [20], "jupyterhub_version": "5.5.4", "timeout": 60}
WANTED |= {"read_only": True, "home": "/home/jovyan"}
WRITABLE = {**WANTED, "read_only": False}
SEEN: dict[str, Any] = {
    "home": "/home/jovyan", "owner": "1000:100", "writable": False, "served": True, "code": None, "version": "5.5.4",
    "said": "last words", "unwritable": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "kind", "facts"),
    [
        ({"error": "exec: python3: not found"}, "start", ["exec: python3: not found", "/bin/sh"]),
        ({"version": ""}, "missing", ["hub_images_jupyterhub_version"]),
        ({"version": "5.5.3"}, "version", ["5.5.3", "5.5.4", "hub_images_jupyterhub_version"]),
        ({"version": "5.5.3", "served": False, "code": 1}, "version", ["5.5.3"]),
        ({"served": False, "code": 1}, "user",
         ["1500:1501", "site_uid", "exit code 1", "last words", "/home/jovyan belongs to 1000:100", "not writable",
          "[20]", "jupyterhub_notebook_groups"]),
        ({"served": False}, "user", ["does not answer"]),
        ({"served": False, "code": 1, "owner": ""}, "user", ["/home/jovyan does not exist"]),
    ],
)  # fmt: skip
def test_an_image_that_cannot_serve_has_a_finding(changes: dict[str, Any], kind: str, facts: list[str]) -> None:
    found = finding("quay.io/x:1", {**SEEN, **changes}, WRITABLE)
    assert found
    assert (found["kind"], found["image"]) == (kind, "quay.io/x:1")
    assert all(fact in found["text"] for fact in ["quay.io/x:1", *facts])


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"code": 1, "unwritable": ["/opt/x", "/srv"]}, ["exit code 1", "could not write /opt/x, /srv."]),
        ({}, ["does not answer", "jupyterhub_notebook_home", "/home/jovyan"]),
    ],
)
def test_an_image_that_needs_a_writable_root_has_a_finding(changes: dict[str, Any], facts: list[str]) -> None:
    found = finding("quay.io/x:1", {**SEEN, "served": False, **changes}, WANTED)
    assert found
    assert found["kind"] == "read_only"
    assert all(fact in found["text"] for fact in ["quay.io/x:1", "jupyterhub_notebook_read_only", "last words", *facts])
    assert ("could not write" in found["text"]) is bool(changes)


class Engine:
    """Has images with volumes, and starts none of them."""

    def __init__(self, *volumes: str) -> None:
        self.config: dict[str, Any] = {"Volumes": {path: {} for path in volumes} or None}

    def inspect_image(self, image: str) -> dict[str, Any]:
        return {"Id": image, "Config": self.config}


IMAGES = {"images": [{"source": "quay.io/x:1", "id": "sha256:1"}]}


def test_an_image_with_volumes_could_fill_the_disk_and_is_not_even_started() -> None:
    (found,) = run(Engine("/srv/b/", "/srv/a", "/tmp", "/home/jovyan/"), WANTED | IMAGES)
    assert (found["kind"], found["image"]) == ("volume", "quay.io/x:1")
    assert all(fact in found["text"] for fact in ("quay.io/x:1", "/srv/a, /srv/b:", "jupyterhub_notebook_read_only"))


@pytest.mark.parametrize(
    ("volumes", "wanted"), [((), WANTED), (("/tmp/", "/home/jovyan"), WANTED), (("/srv",), WRITABLE)],
    ids=["none", "covered", "writable-anyway"],
)  # fmt: skip
def test_volumes_that_change_nothing_are_no_finding(
    volumes: tuple[str, ...], wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(singleuser_probe, "probe", lambda *_: SEEN)
    assert run(Engine(*volumes), wanted | IMAGES) == []


def test_an_image_that_serves_has_none() -> None:
    assert finding("quay.io/x:1", SEEN, WANTED) is None


def test_an_image_is_tried_as_the_hub_would_run_it(launcher_settings: Settings) -> None:
    settings = launcher_settings
    body = SAMPLES[0]["response"]["body"]
    service = task_template(parse_launch(body, body["servername"]), settings, "jdoe", [], {})[0]["ContainerSpec"]
    assert settings.home == WANTED["home"]
    wanted = {**WANTED, "uid": settings.uid, "gid": settings.gid, "groups": list(settings.groups)}
    made, place = container("sha256:1", wanted), host(wanted)
    assert made["user"] == service["User"]
    assert place["group_add"] == service["Groups"]
    assert place["cap_drop"] == service["CapabilityDrop"]
    assert ("no-new-privileges" in place["security_opt"]) == service["Privileges"]["NoNewPrivileges"]
    assert place["init"] == service["Init"]
    scratches = [mount["Target"] for mount in service["Mounts"] if mount["Type"] == "volume"]
    assert place["read_only"] == service["ReadOnly"]
    assert [mount["Target"] for mount in place["mounts"]] == scratches
    assert place["tmpfs"] == {WORKSPACE: f"uid={settings.uid},gid={settings.gid},mode=0700"}
    assert made["environment"]["HOME"] == settings.home
    assert host({**wanted, "read_only": False})["mounts"] == []
    assert "HOME" not in container("sha256:1", {**wanted, "read_only": False})["environment"]
    assert made["environment"]["JUPYTERHUB_ROOT_DIR"] == WORKSPACE


SERVES = """#!{python}
import http.server, urllib.request
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404)
        self.send_header("X-JupyterHub-Version", "5.5.3")
        self.end_headers()
assert b"version" in urllib.request.urlopen("http://127.0.0.1:{hub}/hub/api/").read()
http.server.HTTPServer(("127.0.0.1", {port}), Server).serve_forever()
"""
ENDS = """#!/bin/sh
echo first
echo "mkdir: cannot create directory '/opt/x': Read-only file system"
echo "OSError: [Errno 30] Read-only file system: '/srv/y/z'"
echo "cannot write below $HOME"
exit 3
"""


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (SERVES, {"served": True, "code": None, "version": "5.5.3"}),
        (
            ENDS,
            {
                "served": False,
                "code": 3,
                "version": jupyterhub.__version__,
                "said": "cannot write below {home}",
                "unwritable": ["/opt/x", "/srv/y/z"],
            },
        ),
        (None, {"served": False, "code": 127, "version": jupyterhub.__version__}),
    ],
)
def test_the_script_tells_what_becomes_of_the_server(
    program: str | None, expected: dict[str, Any], tmp_path: Path
) -> None:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        hub, port = first.getsockname()[1], second.getsockname()[1]
    if program:
        path = tmp_path / "jupyterhub-singleuser"
        path.write_text(program.format(python=sys.executable, hub=hub, port=port) if program is SERVES else program)
        path.chmod(0o755)
    script = SCRIPT.replace(WORKSPACE, str(tmp_path)).replace("8081", str(hub)).replace(f":{PORT}/", f":{port}/")
    done = subprocess.run(
        [sys.executable, "-c", script, "5.5.4", "30"],
        env={**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout.strip().rpartition("\n")[2])
    assert seen["owner"] == f"{tmp_path.stat().st_uid}:{tmp_path.stat().st_gid}"
    assert seen["writable"]
    for key, value in expected.items():
        assert seen[key] == (value.format(home=tmp_path) if isinstance(value, str) else value)
