"""A running site from outside, as `molecule` deploys it: what XNAT, a researcher and an administrator can do with it.

molecule/default/verify.yml runs these tests. They need root: they use the node's Docker socket through the node's own
view of the file system.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from swarm_service_status import read_log

ROOT = Path(__file__).resolve().parents[2]
BASE_URL = "/jupyterhub/"
NAMES = ("hub.localhost", "xnat.localhost")  # of the site for browsers, which reach it by its edge
LABEL = "org.xnat.jupyterhub"
DEPLOYMENT = f"{LABEL}.deployment=jupyterhub"
ALL: dict[str, Any] = {name: {"scope": name, "enabled": True, "ids": []} for name in ("Site", "Project", "User")}
FEATHER = "python3 -m http.server 8888 --directory /tmp"  # answers at once, which is all that the hub asks
TIMEOUT = 20
PLAY_TIMEOUT = 600


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the condition's first true value; fail with `what` after that many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return value


@dataclass
class Server:
    """One launch. began: seconds since the epoch."""

    user: str
    name: str
    began: float


@dataclass
class Run:
    """A playbook run's output and exit code: 0 success, 2 failure, 4 unreachable hosts."""

    code: int
    text: str

    @property
    def flat(self) -> str:
        """The text on one line, because Ansible wraps long sentences."""
        return " ".join(self.text.split())

    def changed(self) -> set[str]:
        """Return the hosts on which something changed."""
        counts = re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", self.text, re.M)
        assert counts, f"no recap in {self.text[-500:]}"
        return {host for host, count in counts if count != "0"}


class Playbooks:
    """The project's playbooks with one inventory, as an administrator runs them.

    programs: the directory of ansible-playbook; None: that of these tests' Python.
    """

    def __init__(self, inventory: Path, programs: Path | None = None) -> None:
        self.inventory = inventory
        self.programs = programs or Path(sys.executable).parent

    def command(self, *words: str, project: Path = ROOT) -> subprocess.Popen[str]:
        """Start a playbook in a process group of its own."""
        # Molecule, by which these tests are run, asks for colours, which would hide what `changed` looks for.
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))},
            "PATH": f"{self.programs}:/usr/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        return subprocess.Popen(
            [f"{self.programs}/ansible-playbook", "-i", str(self.inventory), *words],
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Who was started in the background has Ctrl-C ignored, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def play(self, *words: str, code: int = 0, project: Path = ROOT, seconds: float = PLAY_TIMEOUT) -> Run:
        """Run a playbook to its end, within `seconds`; its exit code must be `code`."""
        process = self.command(*words, project=project)
        try:
            text, _ = process.communicate(timeout=seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == code, f"{words} ended with {process.returncode}:\n{text[-6000:]}"
        return Run(process.returncode, text)

    def until(self, line: str, *words: str) -> subprocess.Popen[str]:
        """Start a playbook and return as soon as it prints `line`."""
        process = self.command(*words)
        assert process.stdout
        seen = []
        for text in process.stdout:
            seen.append(text)
            if line in text:
                return process
        raise AssertionError(f"{words} ended without {line!r}:\n{''.join(seen)[-4000:]}")

    def kill_at(self, line: str, *words: str) -> None:
        """Start a playbook and kill it with all its processes as soon as it prints `line`."""
        process = self.until(line, *words)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Site:
    """The node `node0` with everything on it.

    xnat, hub: their addresses; the hub's by the edge, if the site has one. port: of the node, where browsers find it.
    directory: where `run` runs commands; None: where the server runs.
    """

    directory: str | None = None

    def __init__(self, container: str, secrets: Path) -> None:
        self.outer = docker.from_env().api
        inspected = self.outer.inspect_container(container)
        (network,) = inspected["NetworkSettings"]["Networks"].values()
        self.address = network["IPAddress"]
        self.container = container
        self.socket = f"/proc/{inspected['State']['Pid']}/root/run/docker.sock"
        self.docker = docker.APIClient(base_url=f"unix://{self.socket}", version="auto", timeout=TIMEOUT)
        self.xnat = f"http://{self.address}:8080"
        self.secrets = secrets
        # An edge listens beside the hub, whose own port is then on 127.0.0.1 only.
        self.port = 8443 if self.authority.exists() else 8000
        self.origin = "https://hub.localhost:8443" if self.authority.exists() else f"http://{self.address}:8000"
        self.hub = f"{self.origin}{BASE_URL}"
        self.password = (secrets / "demo_password").read_text().strip()
        self.admin_password = (secrets / "demo_admin_password").read_text().strip()
        self.http = requests.Session()
        self._numbers = itertools.count(1)

    @property
    def token(self) -> dict[str, str]:
        """The header that identifies XNAT to the hub; the token may have been rotated."""
        return {"Authorization": f"token {(self.secrets / 'service_token').read_text().strip()}"}

    def ask(self, method: str, url: str, user: str = "", **options: Any) -> requests.Response:
        """Send a request to XNAT as a user, or to the hub as XNAT if no user is given. Sessions are not kept."""
        auth = (user, self.admin_password if user == "admin" else self.password) if user else None
        headers = None if user else self.token
        return requests.request(
            method,
            url,
            auth=auth,
            headers=headers,
            timeout=TIMEOUT,
            allow_redirects=False,
            verify=self.trusted,
            **options,
        )

    def answers(self) -> bool:
        """Whether hub and XNAT answer; they may just have been restarted."""
        try:
            return all(
                self.ask("GET", url).status_code == 200 for url in (f"{self.hub}hub/api/", f"{self.xnat}/healthz")
            )
        except requests.ConnectionError:
            return False

    def on_node(self, *command: str) -> str:
        """Run a command on the node."""
        made = self.outer.exec_create(self.container, list(command))
        output: bytes = self.outer.exec_start(made["Id"])
        code = self.outer.exec_inspect(made["Id"])["ExitCode"]
        assert code == 0, f"{command} ended with {code}: {output.decode()}"
        return output.decode()

    def image(self, name: str) -> str:
        """Return this project's newest image of that name."""
        tags = [tag for image in self.docker.images() for tag in image["RepoTags"] or ()]
        return str(next(tag for tag in tags if tag.startswith(f"localhost/xnat-jupyter/{name}:")))

    @functools.cached_property
    def feather(self) -> int:
        """A compute environment whose servers cost next to nothing."""
        return self.environment()

    def environment(self, **changes: Any) -> int:
        """Add a compute environment in XNAT and return its id."""
        environment = {
            "name": f"Test {next(self._numbers)}",
            "image": self.image("singleuser"),
            "command": FEATHER,
            "environmentVariables": [],
            "mounts": [],
            **changes,
        }
        body = {
            "configTypes": ["JUPYTERHUB"],
            "computeEnvironment": environment,
            "scopes": ALL,
            "hardwareOptions": {"allowAllHardware": True, "hardwareConfigs": []},
        }
        answer = self.ask("POST", f"{self.xnat}/xapi/compute/environments", "admin", json=body)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def hardware(self, **changes: Any) -> int:
        """Add hardware in XNAT and return its id."""
        hardware = {"name": f"Test {next(self._numbers)}", "constraints": [], "genericResources": [], **changes}
        body = {"hardware": {"environmentVariables": [], **hardware}, "scopes": ALL}
        answer = self.ask("POST", f"{self.xnat}/xapi/compute/hardware", "admin", json=body)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def launch(
        self,
        user: str = "jdoe",
        environment: int | None = None,
        hardware: int = 1,
        session: requests.Session | None = None,
        **changes: Any,
    ) -> Server:
        """Press "Start Jupyter" on a session that jdoe and asmith may read.

        session: of a browser in which the user has logged in to XNAT; without one, the password is sent.
        """
        name = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"{next(self._numbers):03d}Z"
        body = {
            "username": user,
            "servername": name,
            "eventTrackingId": name,
            "xsiType": "xnat:mrSessionData",
            "itemId": "XNAT_E00001",
            "itemLabel": "x",
            "projectId": "DEMO_MR",
            "computeEnvironmentConfigId": environment or self.feather,
            "hardwareConfigId": hardware,
            "dashboardConfigId": None,
            **changes,
        }
        url = f"{self.xnat}/xapi/jupyterhub/users/{user}/server/{name}"
        answer = session.post(url, json=body, timeout=TIMEOUT) if session else self.ask("POST", url, user, json=body)
        assert answer.status_code == 200, answer.text
        return Server(user, name, time.time())

    def outcome(self, server: Server, seconds: float = 90, session: requests.Session | None = None) -> bool:
        """Wait until XNAT reports the result of a launch. session: as for `launch`.

        Without a session all requests share a new one: otherwise each opens one, and XNAT limits how many a person has.
        """
        url = f"{self.xnat}/xapi/event_tracking/{server.name}"
        browser = session or requests.Session()
        if not session:
            browser.auth = (server.user, self.password)

        def said() -> Any:
            answer = browser.get(url, timeout=TIMEOUT)
            assert answer.status_code != 401, answer.text
            return answer.status_code == 200 and answer.json()["succeeded"] is not None and answer.json()

        return bool(wait_for(f"end of the launch {server.name}", said, seconds)["succeeded"])

    def stop(self, server: Server) -> None:
        """Press "Stop" in XNAT and wait until the hub no longer lists the server."""
        url = f"{self.xnat}/xapi/jupyterhub/users/{server.user}/server/{server.name}"
        answer = self.ask("DELETE", url, server.user, params={"eventTrackingId": server.name})
        assert answer.status_code == 200, answer.text
        wait_for(f"stop of {server.name}", lambda: server.name not in self.servers(server.user))

    def servers(self, user: str, stopped: bool = False) -> dict[str, Any]:
        """Return the hub's servers of a user."""
        query = "?include_stopped_servers=1" if stopped else ""
        answer = self.ask("GET", f"{self.hub}hub/api/users/{user}{query}")
        return dict(answer.json()["servers"]) if answer.status_code == 200 else {}

    def services(self) -> list[dict[str, Any]]:
        """Return the Swarm services of users' servers."""
        found = self.docker.services(filters={"label": DEPLOYMENT})
        return [service for service in found if f"{LABEL}.user" in service["Spec"]["Labels"]]

    def service(self, server: Server) -> dict[str, Any]:
        """Return the Swarm service of a server."""
        (found,) = [one for one in self.services() if one["Spec"]["Labels"].get(f"{LABEL}.server") == server.name]
        return found

    def left(self) -> list[str]:
        """Return the names of all services and secrets of users' servers."""
        secrets = self.docker.secrets(filters={"label": DEPLOYMENT})
        owned = [secret for secret in secrets if f"{LABEL}.user" in secret["Spec"]["Labels"]]
        return [found["Spec"]["Name"] for found in [*self.services(), *owned]]

    def hub_log(self, since: float) -> str:
        """Return what the hub has written."""
        wanted = {"stdout": 1, "stderr": 1, "since": int(since)}
        return read_log(self.docker, "jupyterhub-hub", wanted).decode(errors="replace")

    def task(self, server: Server) -> dict[str, Any]:
        """Return the only task of a server."""
        (found,) = self.docker.tasks(filters={"service": self.service(server)["ID"]})
        return dict(found)

    def node_of(self, server: Server) -> str:
        """Return the host name of the node on which a server runs."""
        names = {node["ID"]: node["Description"]["Hostname"] for node in self.docker.nodes()}
        return str(names[self.task(server)["NodeID"]])

    def engine_of(self, server: Server) -> Any:
        """Return a client of the engine on which a server runs."""
        return self.docker

    def run(self, server: Server, command: str) -> tuple[int, str]:
        """Run a shell command in a server's container. Returns exit code and output."""
        engine, container = self.engine_of(server), self.task(server)["Status"]["ContainerStatus"]["ContainerID"]
        made = engine.exec_create(container, ["sh", "-c", command], workdir=self.directory)
        output: bytes = engine.exec_start(made["Id"])
        return int(engine.exec_inspect(made["Id"])["ExitCode"]), output.decode()

    def faults(self, *faults: dict[str, Any]) -> None:
        """Make XNAT give wrong answers from now on."""
        answer = self.ask("PUT", f"{self.xnat}/demo/faults", "admin", json=list(faults))
        assert answer.status_code == 200, answer.text

    @property
    def authority(self) -> Path:
        """The certificate of the authority that browsers trust."""
        return self.secrets / "edge/ca.crt"

    @property
    def trusted(self) -> str | bool:
        """What requests trusts."""
        return str(self.authority) if self.authority.exists() else True

    def tab(self) -> requests.Session:
        """Return a browser that nobody has logged in with."""
        browser = requests.Session()
        browser.trust_env = False  # a bundle of the environment would come before `verify`
        browser.verify = self.trusted
        browser.headers["Sec-Fetch-Mode"] = "navigate"
        return browser

    def link(self, user: str = "jdoe") -> dict[str, str]:
        """Return the header with the token of XNAT's link to servers of a user whom the hub knows."""
        answer = self.ask("POST", f"{self.xnat}/xapi/jupyterhub/users/{user}/tokens?note=t&expiresIn=600", user)
        return {"Authorization": f"token {answer.json()['token']}"}

    def end(self, server: Server, link: dict[str, str]) -> requests.Response:
        """Ask the hub when a server ends, as JupyterLab does."""
        url = f"{self.hub}hub/api/users/{server.user}/servers/{server.name}/end"
        return self.tab().get(url, headers=link, timeout=TIMEOUT)

    def browser(self, user: str, password: str | None = None) -> tuple[requests.Session, requests.Response]:
        """Log in at the hub's form. Returns the browser's session and the page."""
        browser = self.tab()
        form = browser.get(f"{self.hub}hub/login", timeout=TIMEOUT)
        assert form.status_code == 200
        (xsrf,) = {cookie.value for cookie in browser.cookies if cookie.name == "_xsrf"}
        data = {"username": user, "password": password or self.password, "_xsrf": xsrf}
        return browser, browser.post(f"{self.hub}hub/login", data=data, timeout=TIMEOUT)


@contextmanager
def named(site: Site) -> Iterator[None]:
    """Let the site's host names lead to its node, as the site's name server does."""
    real = socket.getaddrinfo

    def found(host: Any, *words: Any, **options: Any) -> Any:
        return real(site.address if host in NAMES else host, *words, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", found)
        yield


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """The site under test."""
    site = Site(os.environ["XNATJH_NODE"], Path(os.environ["XNATJH_SECRETS"]))
    with named(site):
        yield site
    site.docker.close()


@pytest.fixture(autouse=True)
def nothing_left(site: Site) -> Iterator[None]:
    """Every test leaves no service, secret or fault. Leftovers of a failed test are removed first."""
    wait_for("hub and XNAT answer", site.answers)
    site.faults()
    for user in site.ask("GET", f"{site.hub}hub/api/users?include_stopped_servers=1").json():
        for name in user["servers"]:
            site.ask("DELETE", f"{site.hub}hub/api/users/{user['name']}/servers/{name}", json={"remove": True})
    wait_for(f"removal of {site.left()}", lambda: not site.left(), 60)
    yield
    wait_for("hub and XNAT answer", site.answers)
    site.faults()
    wait_for(f"removal of {site.left()}", lambda: not site.left(), 60)
