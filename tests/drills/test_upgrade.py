"""Upgrade an older release to this one while a notebook is open: `make drill-upgrade`, as root, half an hour.

The older release comes from git and is deployed by its own site.yml, from its own inventory; then this project's
site.yml runs with that same inventory. The node is `node0`, created by molecule.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from tests.site.conftest import ROOT, TIMEOUT, Playbooks, Server, Site, wait_for

# The last commit whose hub held Docker's socket itself, or a tag instead.
FROM = os.environ.get("XNATJH_UPGRADE_FROM") or "679e31a"
NODE = os.environ.get("XNATJH_NODE") or "xnatjh-node0"
PATIENCE = 1800  # seconds for a playbook: installs an engine and builds all images
EXPIRES = 3 * PATIENCE  # seconds for which the notebook's token is valid
OPEN_AGAIN = 60  # seconds after the end of site.yml within which a notebook must be reachable again
FORMER_NETWORK = "jupyterhub"  # the only one of releases before 0.1.0
SITE = ("site.yml", "--skip-tags", "verify")  # without the smoke test


class Notebook:
    """A person's JupyterLab with a Python kernel, used as a browser does: by the hub's address, with one token."""

    def __init__(self, site: Site, server: Server) -> None:
        self.address = f"{site.origin}{site.servers(server.user)[server.name]['url']}"
        tokens = f"{site.xnat}/xapi/jupyterhub/users/{server.user}/tokens?note=drill&expiresIn={EXPIRES}"
        answer = site.ask("POST", tokens, server.user)
        assert answer.status_code == 200, answer.text
        self.headers = {"Authorization": f"token {answer.json()['token']}"}
        made = self.ask("POST", "api/kernels", json={"name": "python3"})
        assert made.status_code == 201, made.text
        self.kernel = made.json()["id"]

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Ask the server itself."""
        return requests.request(method, f"{self.address}{path}", headers=self.headers, timeout=TIMEOUT, **options)

    def answers(self) -> bool:
        """Whether the server answers; a proxy that has just restarted has no route to it yet."""
        try:
            return self.ask("GET", "api/kernels", allow_redirects=False).status_code == 200
        except requests.RequestException:
            return False

    def run(self, code: str) -> str:
        """Run code in the kernel over a new websocket. Returns what it printed."""
        return asyncio.run(self._run(code))

    async def _run(self, code: str) -> str:
        message = uuid.uuid4().hex
        header = {
            "msg_id": message, "msg_type": "execute_request", "session": uuid.uuid4().hex, "username": "drill",
            "version": "5.3", "date": datetime.datetime.now(datetime.UTC).isoformat(),
        }  # fmt: skip
        request = {
            "header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],
            "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
        }  # fmt: skip
        channels = f"{self.address}api/kernels/{self.kernel}/channels"
        output = ""
        async with (
            asyncio.timeout(OPEN_AGAIN),
            aiohttp.ClientSession(headers=self.headers) as browser,
            browser.ws_connect(channels) as socket,
        ):
            await socket.send_json(request)
            async for received in socket:
                if received.type is not aiohttp.WSMsgType.TEXT:
                    continue
                reply = json.loads(received.data)
                if reply.get("parent_header", {}).get("msg_id") != message:
                    continue
                assert reply["msg_type"] != "error", reply["content"]
                if reply["msg_type"] == "stream":
                    output += reply["content"]["text"]
                if reply["msg_type"] == "status" and reply["content"]["execution_state"] == "idle":
                    return output
        raise AssertionError(f"the kernel's websocket was closed before {code!r} ended, after {output!r}")


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Path]:
    """The project as it was at the older release, in a work tree of its own."""
    git = [shutil.which("git") or "git", "-C", str(ROOT), "worktree"]
    project = tmp_path / "older"
    subprocess.run([*git, "add", "--detach", str(project), FROM], check=True)
    yield project
    subprocess.run([*git, "remove", "--force", str(project)], check=True)


def pins(project: Path) -> list[str]:
    """Return what a release's Ansible is made of."""
    lines = (project / "requirements.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def offered(site: Site, user: str) -> tuple[int, int]:
    """Return the ids of the JupyterLab that site.yml has put into XNAT, and of the hardware that reserves least."""
    query = f"type=JUPYTERHUB&site=XNAT&user={user}&prj=DEMO_MR"
    answer = site.ask("GET", f"{site.xnat}/xapi/compute/environments/available?{query}", user)
    assert answer.status_code == 200, answer.text
    (lab,) = [row for row in answer.json() if row["computeEnvironment"]["name"] == "JupyterLab"]
    choice = lab["hardwareOptions"]["hardwareConfigs"]
    return lab["id"], min(choice, key=lambda row: float(row["hardware"].get("cpuReservation") or 0))["id"]


def state(site: Site, server: Server) -> dict[str, Any]:
    """Return what outlives an upgrade: the service with its labels, its tasks' containers, what the hub knows of it."""
    service = site.service(server)
    tasks = site.docker.tasks(filters={"service": service["ID"]})
    known = site.servers(server.user)[server.name]
    return {
        "service": service["ID"],
        "spec": service["Spec"],
        "containers": [(task["Status"]["State"], task["Status"].get("ContainerStatus")) for task in tasks],
        "hub": {key: known[key] for key in ("ready", "pending", "started", "url")},
    }


def test_a_notebook_stays_open_while_its_site_is_upgraded(older: Path) -> None:
    programs = None
    if pins(older) != pins(ROOT):
        subprocess.run([shutil.which("make") or "make", ".venv/deploy.stamp"], cwd=older, check=True)
        programs = older / ".venv/bin"
    inventory = older / "molecule/inventory"
    Playbooks(inventory, programs).play(*SITE, project=older, seconds=PATIENCE)
    site = Site(NODE, inventory / ".secrets")
    wait_for("hub and XNAT answer", site.answers)
    environment, hardware = offered(site, "jdoe")
    server = site.launch("jdoe", environment, hardware)
    assert site.outcome(server), site.hub_log(server.began)
    notebook = Notebook(site, server)
    mark = uuid.uuid4().hex
    assert notebook.run(f"kept = {mark!r}; print(kept)") == f"{mark}\n"
    before = state(site, server)
    assert before["hub"]["ready"]
    assert [how for how, _ in before["containers"]] == ["running"]

    plays = Playbooks(inventory)
    run = plays.play("site.yml", seconds=PATIENCE)  # with the smoke test, beside the open notebook
    networks = {network["Name"]: network["Internal"] for network in site.docker.networks()}
    assert [networks[f"jupyterhub-{name}"] for name in ("control", "notebooks", "egress", "front")] == [
        True, True, False, False,
    ]  # fmt: skip
    former = FORMER_NETWORK in networks
    assert former == ("network jupyterhub of an earlier release: 1." in run.flat)
    wait_for("hub and XNAT answer", site.answers)
    wait_for("the new hub lists the server", lambda: site.servers("jdoe").get(server.name, {}).get("ready"))
    wait_for("the notebook answers through the new proxy", notebook.answers, OPEN_AGAIN)
    assert state(site, server) == before
    assert notebook.run("print(kept)") == f"{mark}\n"

    assert plays.play(*SITE, seconds=PATIENCE).changed() == set()
    assert state(site, server) == before
    site.stop(server)
    wait_for("removal", lambda: not site.left())

    plays.play(*SITE, seconds=PATIENCE)
    assert FORMER_NETWORK not in [network["Name"] for network in site.docker.networks()]
    assert plays.play(*SITE, seconds=PATIENCE).changed() == set()
