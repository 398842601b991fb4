"""Measure how fast a single-user image starts: `.venv/bin/python benchmarks/singleuser_start.py [IMAGE ...]`.

Runs a real JupyterHub (a container of the runtime image) and notebook servers of each image beside it on a bridge
network of this machine's Docker Engine, started as the hub starts them: same entrypoint, user, variables, no
capabilities. Several images take turns, so that a busy machine slows all of them. Nothing passes or fails.

It prints, as medians of `--runs` starts and then for `--together` servers started at once:

cpu       CPU-seconds of the container (user and system, from its cgroup), until the server first answers at its `/api`
wall      seconds from Docker's start call to that answer
lab wall  seconds that the first request for JupyterLab's page then takes
lab cpu   CPU-seconds of the container until that page is there

While something else runs, compare the CPU-seconds. Columns `ratio` divide by the first image's figure.

IMAGE defaults to the newest `localhost/xnat-jupyter/singleuser`. Everything created here is named `singleuser-start-*`
and removed at the end. Servers find the hub by its address, so that Docker's name server does not affect the result.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import secrets
import statistics
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "files"))

from xnat_launcher.service import ENTRYPOINT_SCRIPT, PORT

PREFIX = "singleuser-start"
USER = "bench"
BASE_URL = "/jupyterhub/"
WORKSPACE = f"/workspace/{USER}"
POLL_INTERVAL = 0.02  # seconds between two requests to a server that starts
HUB_CONFIG = f"""
c.JupyterHub.base_url = "{BASE_URL}"
c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.services = [{{"name": "bench", "api_token": "TOKEN", "admin": True}}]
"""


@dataclass(frozen=True)
class Start:
    """One start, in seconds: see the top of this file."""

    cpu: float
    wall: float
    lab: float = 0.0
    lab_cpu: float = 0.0


@dataclass
class Bench:
    """A running hub, and the engine that runs its servers."""

    engine: docker.DockerClient
    hub_api: str
    token: str
    network: str
    deadline: float

    def environment(self, server: str) -> dict[str, str]:
        """Return the variables that JupyterHub and XNAT give to a server."""
        prefix = f"{BASE_URL}user/{USER}/{server}/"
        return {
            "JUPYTERHUB_ACTIVITY_URL": f"{self.hub_api}/users/{USER}/activity",
            "JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1",
            "JUPYTERHUB_API_TOKEN": self.token,
            "JUPYTERHUB_API_URL": self.hub_api,
            "JUPYTERHUB_BASE_URL": BASE_URL,
            "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{USER}-{server}",
            "JUPYTERHUB_DEFAULT_URL": "/lab",
            "JUPYTERHUB_HOST": "",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([f"access:servers!user={USER}"]),
            "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{prefix}oauth_callback",
            "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES": "[]",
            "JUPYTERHUB_OAUTH_SCOPES": json.dumps([f"access:servers!user={USER}"]),
            "JUPYTERHUB_ROOT_DIR": WORKSPACE,
            "JUPYTERHUB_SERVER_NAME": server,
            "JUPYTERHUB_SERVICE_PREFIX": prefix,
            "JUPYTERHUB_SERVICE_URL": f"http://0.0.0.0:{PORT}{prefix}",
            "JUPYTERHUB_USER": USER,
            "XDG_CONFIG_HOME": WORKSPACE,
        }

    @contextlib.contextmanager
    def server(self, image: str) -> Iterator[tuple[Container, str]]:
        """Yield a server's container, created but not started, and the path of its pages; remove it at the end."""
        name = f"{PREFIX}-{secrets.token_hex(4)}"
        container = self.engine.containers.create(
            image,
            name=name,
            entrypoint=["/bin/sh", "-c", ENTRYPOINT_SCRIPT.replace("/run/secrets/server-env", "/dev/null"), "server"],
            command=["jupyterhub-singleuser"],
            environment=self.environment(name),
            network=self.network,
            init=True,
            cap_drop=["ALL"],
            tmpfs={WORKSPACE: "mode=1777"},
        )
        try:
            yield container, f"{BASE_URL}user/{USER}/{name}/"
        finally:
            container.remove(force=True, v=True)

    def measure(self, container: Container, path: str, lab: bool = True) -> Start:
        """Start the container and return its figures. lab: whether to request JupyterLab's page, too."""
        begun = time.monotonic()
        container.start()
        address = ip_address(container, self.network)
        while not answers(address, f"{path}api"):
            if time.monotonic() - begun > self.deadline:
                raise TimeoutError(f"no answer within {self.deadline} s:\n{container.logs(tail=30).decode()}")
            time.sleep(POLL_INTERVAL)
        wall = time.monotonic() - begun
        start = Start(cpu_seconds(container), wall)
        if not lab:
            return start
        asked = time.monotonic()
        request = urllib.request.Request(
            f"http://{address}:{PORT}{path}lab", headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=self.deadline) as answer:  # noqa: S310
            if b"jupyter-config-data" not in answer.read():
                raise ValueError(f"{path}lab is not JupyterLab's page")
        return Start(start.cpu, wall, time.monotonic() - asked, cpu_seconds(container))


def ip_address(container: Container, network: str) -> str:
    """Return the address of a running container in the network."""
    container.reload()
    return str(container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"])


def answers(address: str, path: str) -> bool:
    """Return whether this address answers HTTP with any status."""
    connection = http.client.HTTPConnection(address, PORT, timeout=10)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def cpu_seconds(container: Container) -> float:
    """Return the CPU time that the container has used, from its cgroup."""
    stats: Any = container.stats(stream=False, one_shot=True)
    return float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


def call(method: str, url: str, token: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Call the hub's REST API and return its answer."""
    request = urllib.request.Request(  # noqa: S310
        url, method=method, headers={"Authorization": f"token {token}"}, data=json.dumps(body or {}).encode()
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        value: dict[str, Any] = json.loads(answer.read() or b"{}")
    return value


@contextlib.contextmanager
def bench(engine: docker.DockerClient, hub_image: str, deadline: float) -> Iterator[Bench]:
    """Yield a running hub with one user; remove it and its network at the end."""
    name = f"{PREFIX}-hub-{secrets.token_hex(3)}"
    token = secrets.token_hex(16)
    network = engine.networks.create(name)
    try:
        hub = engine.containers.run(
            hub_image,
            ["sh", "-c", 'printf %s "$CONFIG" > /tmp/config.py && exec jupyterhub -f /tmp/config.py'],
            name=name,
            network=name,
            environment={"CONFIG": HUB_CONFIG.replace("TOKEN", token)},
            detach=True,
        )
        try:
            api = f"http://{ip_address(hub, name)}:8081{BASE_URL}hub/api"
            until = time.monotonic() + deadline
            while True:
                try:
                    call("POST", f"{api}/users/{USER}", token)
                    break
                except (urllib.error.URLError, ConnectionError) as error:
                    if time.monotonic() > until:
                        raise TimeoutError(f"the hub does not answer:\n{hub.logs(tail=30).decode()}") from error
                    time.sleep(POLL_INTERVAL)
            users_token = call("POST", f"{api}/users/{USER}/tokens", token)["token"]
            yield Bench(engine, api, users_token, name, deadline)
        finally:
            hub.remove(force=True, v=True)
    finally:
        network.remove()


def together(running: Bench, image: str, count: int) -> Start:
    """Start servers at once; return the mean CPU-seconds of each, and the seconds until the last one answers."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(running.server(image)) for _ in range(count)]
        with ThreadPoolExecutor(max_workers=count) as threads:
            begun = time.monotonic()
            starts = list(threads.map(lambda one: running.measure(one[0], one[1], lab=False), made))
            wall = time.monotonic() - begun
    return Start(statistics.mean(start.cpu for start in starts), wall)


def newest(engine: docker.DockerClient, name: str) -> str:
    """Return the newest image of this name; raises SystemExit when there is none."""
    images = sorted(engine.images.list(name), key=lambda image: str(image.attrs["Created"]))
    if not images:
        raise SystemExit(f"There is no image {name}: build it first (make demo), or name another.")
    return str(images[-1].tags[0])


def show(title: str, rows: list[tuple[str, dict[str, float]]]) -> None:
    """Print a table; each figure is followed by its ratio to the first row's."""
    columns = list(rows[0][1])
    width = max(len(name) for name, _ in rows)
    print(f"\n{title}\n{'':{width}}" + "".join(f"{column:>12}{'ratio':>7}" for column in columns))
    for name, figures in rows:
        cells = "".join(f"{figures[c]:>11.2f}s{figures[c] / rows[0][1][c]:>7.2f}" for c in columns)
        print(f"{name:{width}}{cells}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--runs", type=int, default=5, help="single starts of each image (5)")
    parser.add_argument("--together", type=int, default=20, help="servers started at once (20; 0 leaves this out)")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions of that (1)")
    parser.add_argument("--hub-image", help="an image with JupyterHub (the newest localhost/xnat-jupyter/runtime)")
    parser.add_argument("--deadline", type=float, default=180, help="seconds that a server may take (180)")
    options = parser.parse_args()
    engine = docker.from_env(timeout=120)
    images = options.images or [newest(engine, "localhost/xnat-jupyter/singleuser")]
    hub_image = options.hub_image or newest(engine, "localhost/xnat-jupyter/runtime")
    with bench(engine, hub_image, options.deadline) as running:
        singles: dict[str, list[Start]] = {image: [] for image in images}
        for run in range(options.runs + 1):
            for image in images:
                with running.server(image) as (container, path):
                    start = running.measure(container, path)
                if run:  # the first one reads the image from disk
                    singles[image].append(start)
        if options.runs:
            medians = [
                (
                    image,
                    {
                        "cpu": statistics.median(start.cpu for start in starts),
                        "wall": statistics.median(start.wall for start in starts),
                        "lab wall": statistics.median(start.lab for start in starts),
                        "lab cpu": statistics.median(start.lab_cpu for start in starts),
                    },
                )
                for image, starts in singles.items()
            ]
            show(f"one server alone, medians of {options.runs}", medians)
        if options.together:
            crowds: dict[str, list[Start]] = {image: [] for image in images}
            for _ in range(options.rounds):
                for image in images:
                    crowds[image].append(together(running, image, options.together))
            rows = [
                (
                    image,
                    {
                        "cpu each": statistics.median(start.cpu for start in starts),
                        "wall of all": statistics.median(start.wall for start in starts),
                    },
                )
                for image, starts in crowds.items()
            ]
            show(f"{options.together} servers at once, medians of {options.rounds}", rows)


if __name__ == "__main__":
    main()
