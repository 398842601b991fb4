"""The test bed: Docker's API without a library, swarm, network, hubs with their proxies, and what removes it all.

Runs in a container of its own on the network of the hubs, so that it reaches everything as hubs and browsers do.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from benchmarks.slow_xnat import PASSWORD
from module_utils.xnat_site.storage import mount_policy
from tests import hub_settings

PREFIX = "xnatjh-bench"
DRIVER = f"{PREFIX}-driver"  # this container
SOCKET = "/var/run/docker.sock"
RUNTIME = "localhost/xnat-jupyter/runtime"
SINGLEUSER = "localhost/xnat-jupyter/singleuser"
FEATHER = f"{PREFIX}/feather:latest"
HUB = f"{PREFIX}/hub:latest"
XNAT_URL = f"http://{DRIVER}:8080"
ROOT = Path(__file__).resolve().parents[1]
SECRETS = {
    "cookie_secret": "0f" * 32,
    "proxy_token": "proxy-token-of-the-benchmarks",
    "service_token": "service-token-of-the-benchmarks",
    "xnat_password": PASSWORD,
}


def settings_data(name: str, images: list[str]) -> dict[str, Any]:
    """The settings file's JSON for the hub `name` that starts these images; times are the role's, but as said."""
    storage = {
        "archive": {"xnat_path": "/data/archive", "node_path": "/srv/archive", "access": "read_only"},
        "workspaces": {"xnat_path": "/data/workspaces", "node_path": "/srv/workspaces", "access": "read_write"},
    }
    return hub_settings.settings_data(
        deployment=f"{PREFIX}-{name}",
        public_url="http://hub.example.org",  # visitors come without TLS
        hub_host=f"{PREFIX}-{name}-hub",
        proxy_api_url=f"http://{PREFIX}-{name}-proxy:8001",
        network=PREFIX,
        xnat_url=XNAT_URL,
        xnat_connect_timeout=5,
        xnat_timeout=20,
        uid=1500,  # the single-user image's, as inventory/demo makes it
        gid=1500,
        groups=[],
        images=images,
        start_timeout=140,
        http_timeout=120,  # 20 real servers at once on 2 cores are slow in any hub: measured, not refused
        roots=mount_policy(storage),
    )


class DockerError(Exception):
    """Docker refused a call; the text is Docker's."""


class Docker:
    """Docker's REST API on its unix socket, as little as is needed: about a tenth of docker-py's CPU time."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            "http://docker", connector=aiohttp.UnixConnector(SOCKET, limit=0), timeout=aiohttp.ClientTimeout(total=600)
        )

    async def call(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> Any:
        """Return the answer's JSON (None for an empty one, or for 404 with missing_ok). Raises DockerError."""
        async with self._session.request(method, path, **options) as response:
            text = await response.text()
            if response.status == 404 and missing_ok:
                return None
            if response.status >= 400:
                raise DockerError(f"{method} {path}: {response.status} {text.strip()}")
            return json.loads(text) if text and response.content_type == "application/json" else None

    async def listed(self, kind: str, **filters: str) -> list[dict[str, Any]]:
        """Return services, secrets, tasks, containers/json ... that match each filter."""
        query = {"filters": json.dumps({key: [value] for key, value in filters.items()}), "all": "1"}
        found: list[dict[str, Any]] = await self.call("GET", f"/{kind}", params=query)
        return found

    async def build(self, tag: str, files: Iterable[tuple[str, bytes]], **arguments: str) -> None:
        """Build an image of the files (one is the Dockerfile)."""
        query = {"t": tag, "buildargs": json.dumps(arguments), "rm": "1", "forcerm": "1"}
        async with self._session.post("/build", params=query, data=tar(files)) as response:
            lines = [json.loads(line) for line in (await response.text()).splitlines() if line.strip()]
        errors = [line.get("error") or line.get("message") for line in lines if "error" in line or "message" in line]
        if errors:
            raise DockerError(f"building {tag}: {errors[0]}")

    async def run(
        self, name: str, image: str, command: list[str], files: Iterable[tuple[str, bytes]] = (), **config: Any
    ) -> None:
        """Start a container on the network of the benchmarks, with files (path, content) put into it before."""
        host = {"NetworkMode": PREFIX, "Init": True, **config.pop("HostConfig", {})}
        body = {"Image": image, "Cmd": command, "HostConfig": host, **config}
        await self.call("POST", "/containers/create", params={"name": name}, json=body)
        await self.call("PUT", f"/containers/{name}/archive", params={"path": "/"}, data=tar(files))
        await self.call("POST", f"/containers/{name}/start")

    async def usage(self, name: str) -> tuple[float, float]:
        """Return a container's CPU seconds so far and its memory in MB, without the kernel's file cache."""
        stats = await self.call("GET", f"/containers/{name}/stats", params={"stream": "false", "one-shot": "true"})
        memory = stats["memory_stats"]
        cache = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))
        return stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, (memory["usage"] - cache) / 1e6

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return an archive of (path, content), readable by everybody."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files:
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def until(what: str, condition: Callable[[], Awaitable[Any]], within: float = 120, interval: float = 0.1) -> Any:
    """Return the first true answer of `condition`. Raises TimeoutError that says what was waited for."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if answer := await condition():
            return answer
        await asyncio.sleep(interval)
    raise TimeoutError(f"no {what} within {within:g} s")


class Hub:
    """A hub with its proxy, and the calls that browsers and XNAT make to it."""

    def __init__(self, docker: Docker, name: str, images: list[str]) -> None:
        self.docker = docker
        self.name = name
        self.images = images
        self.container = f"{PREFIX}-{name}-hub"
        self.proxy = f"{PREFIX}-{name}-proxy"
        self.url = f"http://{self.proxy}:8000/jupyterhub/hub"
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"token {SECRETS['service_token']}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=600),
        )

    async def up(self, config: str, *, environment: Iterable[str] = (), docker_socket: bool = True) -> None:
        """Start both with the configuration at `config` of the image HUB, and wait until the hub answers."""
        settings = json.dumps(settings_data(self.name, self.images)).encode()
        files = [("/run/bench/settings.json", settings)]
        files += [(f"/run/bench/secrets/{name}", value.encode()) for name, value in SECRETS.items()]
        token = f"CONFIGPROXY_AUTH_TOKEN={SECRETS['proxy_token']}"
        target = f"--default-target=http://{self.container}:8081"
        listen = ["--ip=0.0.0.0", "--port=8000", "--api-ip=0.0.0.0", "--api-port=8001"]
        await self.docker.run(self.proxy, HUB, ["configurable-http-proxy", *listen, target], Env=[token])
        host: dict[str, Any] = {"Mounts": [{"Type": "volume", "Target": "/srv/jupyterhub"}]}
        if docker_socket:
            host |= {"Binds": [f"{SOCKET}:{SOCKET}"], "GroupAdd": [str(os.stat(SOCKET).st_gid)]}
        paths = ["XNAT_HUB_SETTINGS=/run/bench/settings.json", "XNAT_HUB_SECRETS=/run/bench/secrets"]
        await self.docker.run(
            self.container, HUB, ["jupyterhub", "--config", config], files, Env=[*paths, *environment], HostConfig=host
        )
        await until(f"answer of {self.container}", self._answers)

    async def _answers(self) -> bool:
        try:
            return bool(await self.api("GET", "info"))
        except (aiohttp.ClientError, RuntimeError):
            return False

    async def down(self) -> None:
        """Remove both containers, with the hub's database."""
        await self._session.close()
        for name in (self.container, self.proxy):
            await self.docker.call("DELETE", f"/containers/{name}", params={"force": "1", "v": "1"}, missing_ok=True)

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        """Make a REST call as XNAT does. Raises RuntimeError for a status other than 2xx."""
        async with self._session.request(method, f"{self.url}/api/{path}", json=body) as response:
            if not response.ok:
                raise RuntimeError(f"{self.name}: {method} {path}: {response.status} {await response.text()}")
            return await response.json() if response.content_type == "application/json" else response.status

    async def add_users(self, names: Iterable[str]) -> None:
        """Make the users, so that all repetitions meet the same database."""
        for name in names:
            await self.api("POST", f"users/{name}")

    async def start(self, servers: Iterable[tuple[str, str]]) -> float:
        """Start all (user, server) at once; return the seconds until the last one is ready.

        The hub answers 201 when a server is ready within 10 s; later ones are looked for every 0.2 s with one call.
        """
        wanted = set(servers)
        begin = time.monotonic()

        async def one(user: str, server: str) -> None:
            answer = await self.api("POST", f"users/{user}/servers/{server}", {"eventTrackingId": server})
            if answer == 201:
                wanted.discard((user, server))

        async def none_is_pending() -> bool:
            listed = {user["name"]: user["servers"] for user in await self.api("GET", "users")} if wanted else {}
            for user, server in list(wanted):
                state = listed[user].get(server, {"ready": False, "pending": None})
                if not state["ready"] and not state["pending"]:
                    raise RuntimeError(f"{self.name}: server {user}/{server} failed, see docker logs {self.container}")
                if state["ready"]:
                    wanted.discard((user, server))
            return not wanted

        await asyncio.gather(*(one(*names) for names in list(wanted)))
        await until("ready servers", none_is_pending, within=240, interval=0.2)
        return time.monotonic() - begin

    async def stop(self, servers: Iterable[tuple[str, str]]) -> None:
        """Stop and forget all (user, server) at once, and wait until the hub knows none."""
        paths = [f"users/{user}/servers/{server}" for user, server in servers]
        await asyncio.gather(*(self.api("DELETE", path, {"remove": True}) for path in paths))

        async def none_is_left() -> bool:
            return not await self.servers()

        await until("end of all servers", none_is_left)

    async def servers(self) -> list[tuple[str, str]]:
        """Return (user, server) of all that the hub knows to run."""
        return [(user["name"], server) for user in await self.api("GET", "users") for server in user["servers"]]

    async def health(self) -> float:
        """Return the seconds of one `/hub/health`, asked past the proxy."""
        begin = time.monotonic()
        async with self._session.get(f"http://{self.container}:8081/jupyterhub/hub/health") as response:
            await response.read()
        return time.monotonic() - begin


class Visitor:
    """A person who has the hub's log-in form open in a browser."""

    def __init__(self, hub: Hub, user: str) -> None:
        self.hub = hub
        self.user = user
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600))

    async def __aenter__(self) -> Self:
        async with self._session.get(f"{self.hub.url}/login") as response:
            response.raise_for_status()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def log_in(self) -> float:
        """Send the form; return the seconds until the hub has let the person in. Raises RuntimeError if it has not."""
        url = f"{self.hub.url}/login"
        form = {"username": self.user, "password": PASSWORD}
        form["_xsrf"] = self._session.cookie_jar.filter_cookies(URL(url))["_xsrf"].value
        begin = time.monotonic()
        async with self._session.post(url, data=form, allow_redirects=False) as response:
            if response.status != 302:
                raise RuntimeError(f"{self.hub.name}: log-in of {self.user}: {response.status}")
        return time.monotonic() - begin


class Bed:
    """Swarm, network and images of the benchmarks; `docker` and the hubs by name."""

    def __init__(self) -> None:
        self.docker = Docker()
        self.hubs: dict[str, Hub] = {}
        self.singleuser = ""

    async def up(self) -> None:
        """Make everything; what an earlier run left behind goes first. Raises DockerError with what is missing."""
        await self.clear()
        runtime = await self.newest(RUNTIME)
        self.singleuser = await self.newest(SINGLEUSER)
        state = (await self.docker.call("GET", "/info"))["Swarm"]["LocalNodeState"]
        if state != "active":
            mark = {"Labels": {PREFIX: "made"}}  # so that a later run knows, too
            body = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1", "Spec": mark}
            await self.docker.call("POST", "/swarm/init", json=body)
        network = {"Name": PREFIX, "Driver": "overlay", "Attachable": True, "CheckDuplicate": True}
        await self.docker.call("POST", "/networks/create", json=network)
        await self.docker.call("POST", f"/networks/{PREFIX}/connect", json={"Container": DRIVER})
        files, here = ROOT / "files", ROOT / "benchmarks"
        context = [(str(path.relative_to(files)), path.read_bytes()) for path in sorted(files.glob("xnat_hub/*.py"))]
        context += [(str(path.relative_to(files)), path.read_bytes()) for path in sorted(files.glob("templates/*"))]
        context += [("jupyterhub_config.py", (files / "jupyterhub_config.py").read_bytes())]
        context += [("Dockerfile", (files / "hub/Dockerfile").read_bytes())]
        await self.docker.build(f"{PREFIX}/project:latest", context, RUNTIME=runtime)
        dockerfile = f"FROM {PREFIX}/project:latest\nCOPY plain_config.py stub_config.py /opt/bench/\n"
        configs = [(f"{name}_config.py", (here / f"{name}_config.py").read_bytes()) for name in ("plain", "stub")]
        await self.docker.build(HUB, [("Dockerfile", dockerfile.encode()), *configs])
        feather = [("Dockerfile", f"FROM {runtime}\nCOPY feather.pl /\n".encode())]
        await self.docker.build(FEATHER, [*feather, ("feather.pl", (here / "feather.pl").read_bytes())])

    async def newest(self, repository: str) -> str:
        """Return the name of the image made last. Raises DockerError when there is none."""
        images = await self.docker.listed("images/json", reference=repository)
        if not images:
            raise DockerError(f"there is no image {repository}: run `make demo` first")
        newest = max(images, key=lambda image: image["Created"])
        return next(str(tag) for tag in newest["RepoTags"] if tag.startswith(f"{repository}:"))

    async def hub(self, name: str, config: str, **options: Any) -> Hub:
        """Start one more hub."""
        self.hubs[name] = Hub(self.docker, name, [FEATHER, self.singleuser])
        await self.hubs[name].up(config, **options)
        return self.hubs[name]

    async def clear(self) -> None:
        """Remove all that the benchmarks ever make, but images; leave a swarm that they made and nobody else uses."""
        for hub in self.hubs.values():
            await hub.down()
        self.hubs.clear()
        for container in await self.docker.listed("containers/json", name=f"^/{PREFIX}-"):
            name = container["Names"][0].lstrip("/")
            if name != DRIVER and "com.docker.swarm.service.name" not in container["Labels"]:
                await self.docker.call("DELETE", f"/containers/{name}?force=1&v=1", missing_ok=True)
        swarm = await self.docker.call("GET", "/swarm") if await self._is_manager() else None
        if swarm:
            await self.clear_servers()
        network = f"/networks/{PREFIX}"
        if found := await self.docker.call("GET", network, missing_ok=True):
            if any(container["Name"] == DRIVER for container in (found.get("Containers") or {}).values()):
                await self.docker.call("POST", f"{network}/disconnect", json={"Container": DRIVER, "Force": True})
            await until("removal of the network", self._network_removed)
        if swarm and swarm["Spec"]["Labels"].get(PREFIX):
            if await self.docker.listed("services"):
                print("The swarm that the benchmarks made stays: it has services of somebody else.")
            else:
                await self.docker.call("POST", "/swarm/leave?force=1")

    async def _is_manager(self) -> bool:
        return bool((await self.docker.call("GET", "/info"))["Swarm"]["ControlAvailable"])

    async def _network_removed(self) -> bool:
        try:
            await self.docker.call("DELETE", f"/networks/{PREFIX}", missing_ok=True)
        except DockerError:
            return False  # a container that ended is still attached
        return True

    async def remove_images(self) -> None:
        """Remove the images of the benchmarks."""
        for tag in (FEATHER, HUB, f"{PREFIX}/project:latest"):
            await self.docker.call("DELETE", f"/images/{quote(tag)}?force=1", missing_ok=True)

    async def clear_servers(self) -> None:
        """Remove services and secrets, and wait until no container of them is left."""
        for kind in ("services", "secrets"):
            for found in await self.docker.listed(kind, name=PREFIX):
                await self.docker.call("DELETE", f"/{kind}/{found['ID']}", missing_ok=True)

        async def no_container() -> bool:
            filters = {"label": "com.docker.swarm.service.name", "name": f"^/{PREFIX}-"}
            return not await self.docker.listed("containers/json", **filters)

        await until("end of all containers of servers", no_container)
