"""A site's front on one machine: haproxy as the edge, JupyterHub's own proxy, a hub as configured for sites, servers.

JupyterHub runs this file as its configuration, and origins_server.py for users.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.edge_bed import HAPROXY, certificate, config, here
from tests.hub_settings import settings_data
from tests.unit.conftest import ROOT
from tests.unit.plain_hub import TOKEN, free_port

DOMAIN = "hub.example.org"
BASE = "/jupyterhub/"
PROGRAM = ROOT / ".cache/proxy/node_modules/.bin/configurable-http-proxy"  # `make unit` installs it if there is Node.js
CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 120  # seconds
SECRETS = {"cookie_secret": "0f" * 32, "proxy_token": "proxy-token-of-the-tests", "service_token": TOKEN}


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Return the condition's first true value; fail with `what` after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return value


class Front:
    """Edge, proxy and hub, with or without an origin for each person. Servers outlive each change between the two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("edge", "health", "proxy", "api", "hub")}
        self.hub = f"https://{DOMAIN}:{self.ports['edge']}"
        self.person_origins: bool | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, value in SECRETS.items():
            (folder / name).write_text(value)
        (folder / "certificates").mkdir()
        (folder / "certificates/certificate-0.pem").write_text(certificate("edge"))

    def origin(self, label: str) -> str:
        """Return the origin of the person with that label."""
        return f"https://{label}.{DOMAIN}:{self.ports['edge']}" if self.person_origins else self.hub

    def deploy(self, person_origins: bool) -> None:
        """Have the site with or without an origin for each person."""
        if self.person_origins is not person_origins:
            self.stop()
            self.person_origins = person_origins
            self._start()

    def _start(self) -> None:
        text = config(hub_url=self.hub, person_origins=self.person_origins, xnat_upstream="", http_port=0)
        ports = {8443: self.ports["edge"], 8404: self.ports["health"]}
        (self.folder / "haproxy.cfg").write_text(here(text, self.folder, self.ports["proxy"], ports))
        self._run("edge", [HAPROXY, "-db", "-f", str(self.folder / "haproxy.cfg")])
        self._start_proxy()
        settings = settings_data(
            public_url=self.hub, person_origins=self.person_origins, trusted_proxies=["127.0.0.1"],
            proxy_api_url=f"http://127.0.0.1:{self.ports['api']}",
        )  # fmt: skip
        (self.folder / "settings.json").write_text(json.dumps(settings))
        variables = {
            "ORIGINS_BED": str(self.folder),
            "ORIGINS_BED_HUB": str(self.ports["hub"]),
            "XNAT_HUB_SETTINGS": str(self.folder / "settings.json"),
            "XNAT_HUB_SECRETS": str(self.folder),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'files'}",
        }
        self._run("hub", [sys.executable, "-m", "jupyterhub", "--config", __file__], **variables)
        until("the hub answers through edge and proxy", lambda: self._answers() == 200)
        until("the proxy has the servers of before", self._routed)

    def _start_proxy(self) -> None:
        listen = ["--ip=127.0.0.1", f"--port={self.ports['proxy']}", "--api-ip=127.0.0.1"]
        listen += [f"--api-port={self.ports['api']}", f"--default-target=http://127.0.0.1:{self.ports['hub']}"]
        routing = ["--host-routing"] if self.person_origins else []
        self._run("proxy", [str(PROGRAM), *listen, *routing], CONFIGPROXY_AUTH_TOKEN=SECRETS["proxy_token"])

    def restart_proxy(self) -> None:
        """Restart the proxy, which loses its routes."""
        proxy = self._processes.pop("proxy")
        proxy.kill()
        proxy.wait()
        self._start_proxy()

    def _run(self, name: str, command: list[str], **variables: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = {**os.environ, **variables}
            self._processes[name] = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)

    def _answers(self) -> int:
        for process in self._processes.values():
            assert process.poll() is None, self.log()
        try:
            return self.ask("GET", "info").status_code
        except requests.ConnectionError:
            return 0

    def _routed(self) -> bool:
        """Whether the proxy has a route to each server: the hub answers before it has added those of earlier ones."""
        headers = {"Authorization": f"token {SECRETS['proxy_token']}"}
        url = f"http://127.0.0.1:{self.ports['api']}/api/routes"
        routes = requests.get(url, headers=headers, timeout=PATIENCE).json().values()
        servers = [server for user in self.ask("GET", "users").json() for server in user["servers"]]
        return len([route for route in routes if "user" in route]) >= len(servers)

    def log(self) -> str:
        """Return the end of all logs."""
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log")))

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        """Call the hub's API as XNAT does, at an address of its own."""
        url = f"http://127.0.0.1:{self.ports['proxy']}{BASE}hub/api/{path}"
        headers = {"Authorization": f"token {TOKEN}"}
        return requests.request(method, url, json=body, headers=headers, timeout=PATIENCE, allow_redirects=False)

    def launch(self, user: str, server: str) -> dict[str, Any]:
        """Start a server, if it does not run, and return the hub's JSON of it."""
        if self.ask("POST", f"users/{user}").status_code == 201 or server not in self.servers(user):
            assert self.ask("POST", f"users/{user}/servers/{server}").status_code in (201, 202), self.log()
        until(f"{user}'s server", lambda: self.servers(user)[server]["ready"])
        return dict(self.servers(user)[server])

    def servers(self, user: str) -> dict[str, Any]:
        """Return a user's servers."""
        return dict(self.ask("GET", f"users/{user}").json()["servers"])

    def token(self, user: str) -> str:
        """Return a token for XNAT's link."""
        body = {"note": "link", "expires_in": 600, "scopes": [f"access:servers!user={user}"]}
        return str(self.ask("POST", f"users/{user}/tokens", body).json()["token"])

    def notes(self, user: str) -> list[str]:
        """Return the notes of a user's tokens."""
        return [str(token["note"]) for token in self.ask("GET", f"users/{user}/tokens").json()["api_tokens"]]

    def stop(self) -> None:
        """Stop hub, proxy and edge, and not the servers."""
        for name, process in reversed(self._processes.items()):
            if name == "hub":
                process.terminate()  # so that it ends its own services
            else:
                process.kill()
            process.wait(PATIENCE)
        self._processes = {}


@contextmanager
def front(folder: Path) -> Iterator[Front]:
    """Yield a front, which is not deployed yet. At the end nothing runs."""
    made = Front(folder)
    try:
        yield made
    finally:
        made.stop()
        (folder / "end").touch()  # the servers look for it
        until("the end of the servers", lambda: not [*filter(lives, folder.glob("server-*"))])


def lives(mark: Path) -> bool:
    """Whether the server that has left this mark still runs."""
    process = Path("/proc", mark.name.removeprefix("server-"), "cmdline")
    return process.exists() and b"origins_server" in process.read_bytes()


if "ORIGINS_BED_HUB" in os.environ:
    from jupyterhub.spawner import SimpleLocalProcessSpawner
    from xnat_hub import ends, handlers, pages
    from xnat_hub.kept import Kept
    from xnat_hub.settings import load

    from tests.unit.plain_hub import AnyPassword

    class Anybody(AnyPassword):
        """Anybody logs in; the hub has our handlers."""

        def get_handlers(self, app: Any) -> list[Any]:
            return [*super().get_handlers(app), *handlers.HANDLERS, *pages.handlers(load())]

    class Local(SimpleLocalProcessSpawner):  # type: ignore[misc]
        """Servers on this machine."""

        def get_env(self) -> dict[str, str]:
            ours = {name: os.environ[name] for name in ("ORIGINS_BED", "PYTHONPATH")}
            return {**super().get_env(), **ours, "JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1"}

    c = get_config()  # type: ignore[name-defined]  # noqa: F821  (JupyterHub defines it)
    load_subconfig(str(ROOT / "files/jupyterhub_config.py"))  # type: ignore[name-defined]  # noqa: F821  (the same)
    pages.MESSAGE = Kept(Path(os.environ["ORIGINS_BED"], "message.json"), "")
    ends.MAINTENANCE = Kept(Path(os.environ["ORIGINS_BED"], "maintenance.json"), {})
    c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['ORIGINS_BED_HUB']}"
    c.JupyterHub.hub_connect_url = f"http://127.0.0.1:{os.environ['ORIGINS_BED_HUB']}"
    c.JupyterHub.db_url = f"sqlite:///{os.environ['ORIGINS_BED']}/hub.sqlite"
    c.JupyterHub.authenticator_class = Anybody
    c.JupyterHub.spawner_class = Local
    c.Authenticator.auth_refresh_age = 0
    c.Spawner.cmd = [sys.executable, str(Path(__file__).with_name("origins_server.py"))]
