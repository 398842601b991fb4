"""The test bed: Docker's API without a library, swarm, networks, hubs with their parts, and the removal of all this.

It runs in a container on the networks of the hubs, so that it reaches everything as hubs and browsers do. PREFIX is the
control network of all hubs. One that has a guard also has an internal network for its servers, as the roles create it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pwd
import sys
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from xnat_launcher.service import SCRATCH_LABEL
from yarl import URL

from benchmarks.slow_xnat import PASSWORD

PREFIX = "xnatjh-bench"
DRIVER = f"{PREFIX}-driver"  # this container
SOCKET = "/var/run/docker.sock"
RUNTIME = "localhost/xnat-jupyter/runtime"
SINGLEUSER = "localhost/xnat-jupyter/singleuser"
GUARD = "localhost/xnat-jupyter/guard"
ASSETS = "localhost/xnat-jupyter/assets"
GUARD_CODE = "/opt/xnat-guard/xnat_guard"  # of that image
IMAGES = f"localhost/{PREFIX}"
FEATHER = f"{IMAGES}/feather:latest"
NOTEBOOKS = f"{PREFIX}-notebooks"  # a network that only the measure `transfer` creates
SERVICE_LABEL = "com.docker.swarm.service.name"
GUARD_SUFFIX = "-guard"  # of the name of its service
STUB_DIR = "/run/bench-docker"  # of this container: an anonymous volume, for the socket of the stub of Docker's API
# With the network's name, since hubs and this container share a second network, which the guard closes for this.
XNAT_URL = f"http://{DRIVER}.{PREFIX}:8080"
CONFIGS = "/opt/bench"  # of hubs' images
ROOT = Path(__file__).resolve().parents[1]
LOCKED = {"CapDrop": ["ALL"]}
SECRETS = {
    "cookie_secret": "0f" * 32,
    "proxy_token": "proxy-token-of-the-benchmarks",
    "service_token": "service-token-of-the-benchmarks",
    "xnat_password": PASSWORD,
}


# The role's times, except for starts: 20 real servers at once on 2 cores are slow in any hub.
START_TIMEOUT, HTTP_TIMEOUT = 140, 120
XNAT = {
    "url": XNAT_URL,
    "verify": True,
    "ca_file": None,
    "client_certificate_file": None,
    "connect_timeout": 5,
    "timeout": 20,
}
SERVER_UID = 1500  # the single-user image's, as inventory/demo makes it
SETTINGS = """
import json, sys
from benchmarks.bed import hub_settings, launcher_settings
print(json.dumps([hub_settings(sys.argv[1]), launcher_settings(sys.argv[1], sys.argv[2:])]))
"""


def hub_settings(name: str) -> dict[str, Any]:
    """Return the settings of the hub `name`, as xnat_hub.settings reads them."""
    return {
        "base_url": "/jupyterhub/",
        "public_url": "http://hub.example.org",  # visitors come without TLS
        "person_origins": False,
        "title": "JupyterHub",
        "logo": None,
        "xnat_public_url": "http://xnat.example.org",
        "trusted_proxies": [],
        "hub_host": f"{PREFIX}-{name}-hub",
        "proxy_api_url": f"http://{PREFIX}-{name}-proxy.{PREFIX}:8001",
        "launcher_socket": "/run/xnat-launcher/launcher.sock",
        "xnat": XNAT,
        "xnat_username": "jupyterhub",
        "failed_logins": 5,
        "failed_logins_window": 86400,
        "auth_refresh_age": 300,
        "start_timeout": START_TIMEOUT,
        "http_timeout": HTTP_TIMEOUT,
        "stop_grace_period": 10,
        "prune_interval": 300,
        "token_expires_in_max": 172800,
    }


def launcher_settings(name: str, images: list[str]) -> dict[str, Any]:
    """Return the settings of the launcher beside the hub `name`, as xnat_launcher.settings reads them.

    Limits are those that the roles compute for a swarm of this one node.
    """
    cpus = os.cpu_count() or 1
    return {
        "deployment": f"{PREFIX}-{name}",
        "network": f"{PREFIX}-{name}-notebooks",
        "proxy_url": f"http://{PREFIX}-{name}-gate:3128",
        "no_proxy": f"localhost,127.0.0.1,::1,{PREFIX}-{name}-hub,xnat.example.org",
        "hub_uid": hub_uid(),
        "xnat": XNAT,
        "xnat_username": "jupyterhub",
        "ca_config_id": None,
        "ca_config_name": None,
        "failed_logins": 5,
        "failed_logins_window": 86400,
        "default_server": "refuse",
        "uid": SERVER_UID,
        "gid": SERVER_UID,
        "groups": [],
        "stop_grace_period": 10,
        "pids_limit": 4096,
        "constraints": [],
        "cpu_ceiling": float(cpus),
        "memory_ceiling": "1T",
        "cpu_default": cpus / 2,
        "memory_default": "1G",
        "read_only": True,
        "home": "/home/jovyan",
        "tmp_size": "",
        "home_size": "",
        "shm_size": "",
        "images": images,
        "image_names": {},
        "guard": True,
        "cull_idle": 0,
        "cull_connected": False,
        "busy_is_activity": True,
        "roots": [
            {"name": "archive", "path": "/srv/archive", "read_only": True, "targets": ["/data"], "per_user": False}
        ],
        "audit_days": 1,
        "audit_failure": "refuse",
        "audit_syslog": "",
    }


def hub_uid() -> int:
    """Return the user id that hubs run as; this container has the same image."""
    return pwd.getpwnam("jupyterhub").pw_uid


class DockerError(Exception):
    """Docker refused a call; the message is Docker's."""


class Docker:
    """The needed part of Docker's REST API on its unix socket, with about a tenth of docker-py's CPU time."""

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

    async def listed(self, kind: str, **filters: str) -> Any:
        """Return services, secrets, tasks, containers/json ... that match each filter: a list, except for volumes."""
        query = {"filters": json.dumps({key: [value] for key, value in filters.items()}), "all": "1"}
        return await self.call("GET", f"/{kind}", params=query)

    async def build(self, tag: str, files: Iterable[tuple[str, bytes]], **arguments: str) -> None:
        """Build an image of the files (one is the Dockerfile)."""
        query = {"t": tag, "buildargs": json.dumps(arguments), "rm": "1", "forcerm": "1"}
        async with self._session.post("/build", params=query, data=tar(files)) as response:
            lines = [json.loads(line) for line in (await response.text()).splitlines() if line.strip()]
        errors = [line.get("error") or line.get("message") for line in lines if "error" in line or "message" in line]
        if errors:
            raise DockerError(f"building {tag}: {errors[0]}")

    async def run(
        self,
        name: str,
        image: str,
        files: Iterable[tuple[str, bytes]] = (),
        networks: Mapping[str, Sequence[str]] | None = None,
        **config: Any,
    ) -> None:
        """Start a container on PREFIX and on other networks, with its aliases, after copying files (path, content)."""
        host = {"NetworkMode": PREFIX, "Init": True, **config.pop("HostConfig", {})}
        body = {"Image": image, "HostConfig": host, **config}
        await self.call("POST", "/containers/create", params={"name": name}, json=body)
        await self.call("PUT", f"/containers/{name}/archive", params={"path": "/"}, data=tar(files))
        for network, aliases in (networks or {}).items():
            await self.connect(network, name, aliases)
        await self.call("POST", f"/containers/{name}/start")

    async def connect(self, network: str, container: str, aliases: Sequence[str] = ()) -> None:
        """Connect a container to a network, where it also has the names `aliases`."""
        body = {"Container": container, "EndpointConfig": {"Aliases": list(aliases)}}
        await self.call("POST", f"/networks/{network}/connect", json=body)

    async def make_network(self, name: str, internal: bool) -> str:
        """Create an overlay network; return its id."""
        body = {"Name": name, "Driver": "overlay", "Attachable": True, "Internal": internal, "CheckDuplicate": True}
        return str((await self.call("POST", "/networks/create", json=body))["Id"])

    async def remove_network(self, name: str) -> None:
        """Remove a network, which may still have this container, and wait until it is gone."""
        found = await self.call("GET", f"/networks/{name}", missing_ok=True)
        if any(container["Name"] == DRIVER for container in ((found or {}).get("Containers") or {}).values()):
            await self.call("POST", f"/networks/{name}/disconnect", json={"Container": DRIVER, "Force": True})

        async def is_gone() -> bool:
            with contextlib.suppress(DockerError):  # a container that ended is still attached
                await self.call("DELETE", f"/networks/{name}", missing_ok=True)
            # Swarm answers before it is gone.
            return not await self.call("GET", f"/networks/{name}", missing_ok=True)

        await until(f"removal of the network {name}", is_gone)

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


def contents(files: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Return texts by path as `Docker.run` takes them."""
    return [(path, text.encode()) for path, text in files.items()]


def dockerfile(lines: Sequence[str]) -> tuple[str, bytes]:
    """Return a Dockerfile as `Docker.build` takes it."""
    return "Dockerfile", "".join(f"{line}\n" for line in lines).encode()


async def until(what: str, condition: Callable[[], Awaitable[Any]], within: float = 120, interval: float = 0.1) -> Any:
    """Return the first true answer of `condition`. Raises a TimeoutError that names what was missing."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if answer := await condition():
            return answer
        await asyncio.sleep(interval)
    raise TimeoutError(f"no {what} within {within:g} s")


@dataclass(frozen=True)
class Side:
    """What a column of the table runs: images of a checkout, and the configuration of its hub.

    launcher: None where the hub itself talks to Docker. guard: None where all servers of a hub reach each other.
    """

    checkout: Path
    hub: str
    launcher: str | None
    guard: str | None
    config: str

    async def settings(self, name: str, images: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings of the hub `name` and of its launcher. Raises DockerError.

        A checkout's own bed knows which settings it has.
        """
        if self.checkout == ROOT:
            return hub_settings(name), launcher_settings(name, images)
        paths = os.pathsep.join(str(path) for path in (self.checkout, self.checkout / "files"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SETTINGS, name, *images),
            cwd=self.checkout,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=asyncio.subprocess.PIPE,
        )
        answer, _ = await process.communicate()
        if process.returncode:
            raise DockerError(f"{self.checkout}/benchmarks/bed.py has no settings of a hub with a launcher")
        hub, launcher = json.loads(answer)
        return hub, launcher


class Hub:
    """A hub with its proxy and launcher, and the calls that browsers and XNAT make to it."""

    def __init__(self, docker: Docker, name: str, side: Side, images: list[str]) -> None:
        self.docker = docker
        self.name = name
        self.side = side
        self.images = images
        self.parts = {part: f"{PREFIX}-{name}-{part}" for part in ("hub", "proxy", "launcher")}
        if not side.launcher:
            del self.parts["launcher"]
        self.container = self.parts["hub"]
        self.guard = f"{PREFIX}-{name}{GUARD_SUFFIX}"
        self._network = PREFIX  # of its servers
        self._volume = f"{PREFIX}-{name}-launcher"
        self.url = f"http://{self.parts['proxy']}.{PREFIX}:8000/jupyterhub/hub"
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"token {SECRETS['service_token']}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=600),
        )

    async def up(self, *, config: str = "", environment: Iterable[str] = (), docker_socket: str = SOCKET) -> None:
        """Start all parts as the roles do, and wait until the hub answers.

        config: another configuration than the side's. docker_socket: the path on this machine that hub or
        launcher gets in place of Docker's socket; there is no guard then.
        """
        hub, launcher = await self.side.settings(self.name, self.images)
        if not self.side.launcher:
            hub |= {"deployment": f"{PREFIX}-{self.name}", "network": PREFIX}
        elif not self.side.guard:
            pass
        elif docker_socket != SOCKET:
            launcher |= {"guard": False, "network": PREFIX}
        else:
            self._network = launcher["network"]
            await self._run_guard(self.side.guard)
        networks = {} if self._network == PREFIX else {self._network: [self._visitors]}
        token = f"CONFIGPROXY_AUTH_TOKEN={SECRETS['proxy_token']}"
        target = f"--default-target=http://{self.container}:8081"
        listen = ["--ip=0.0.0.0", "--port=8000", "--api-ip=0.0.0.0", "--api-port=8001"]
        command = ["configurable-http-proxy", *listen, target]
        await self.docker.run(
            self.parts["proxy"], self.side.hub, networks=networks, Cmd=command, Env=[token], HostConfig=LOCKED
        )
        host: dict[str, Any] = {**LOCKED, "Mounts": [{"Type": "volume", "Target": "/srv/jupyterhub"}]}
        reach = {"Binds": [f"{docker_socket}:{SOCKET}"]}
        if self.side.launcher:
            shared = {"Type": "volume", "Source": self._volume, "Target": "/run/xnat-launcher"}
            host["Mounts"].append(shared)
            audit = {"Type": "volume", "Target": "/var/lib/xnat-audit"}
            await self.docker.run(
                self.parts["launcher"],
                self.side.launcher,
                contents(
                    {
                        "/etc/xnat-launcher/settings.json": json.dumps(launcher),
                        "/run/secrets/xnat_password": SECRETS["xnat_password"],
                    }
                ),
                HostConfig={**LOCKED, **reach, "Mounts": [shared, audit], "GroupAdd": [str(hub_uid())]},
            )
        else:
            host |= {**reach, "GroupAdd": [str(os.stat(SOCKET).st_gid)]}
        secrets = {key: value for key, value in SECRETS.items() if key != "xnat_password" or not self.side.launcher}
        files = {"settings.json": json.dumps(hub), **{f"secrets/{key}": value for key, value in secrets.items()}}
        paths = ["XNAT_HUB_SETTINGS=/run/bench/settings.json", "XNAT_HUB_SECRETS=/run/bench/secrets"]
        await self.docker.run(
            self.container,
            self.side.hub,
            contents({f"/run/bench/{path}": text for path, text in files.items()}),
            dict.fromkeys(networks, ()),
            Cmd=["jupyterhub", "--config", config or self.side.config],
            Env=[*paths, *environment],
            HostConfig=host,
        )
        await until(f"answer of {self.container}", self._answers)

    @property
    def _visitors(self) -> str:
        """The name that the guard lets reach servers: the proxy's, and this container's for the floor."""
        return f"{PREFIX}-{self.name}-visitors"

    async def _run_guard(self, image: str) -> None:
        """Create the servers' network and run its guard, as the roles do, and wait until its rules are loaded."""
        identity = await self.docker.make_network(self._network, internal=True)
        gate = f"{PREFIX}-{self.name}-gate"  # has XNAT's name
        await self.docker.connect(self._network, DRIVER, [self._visitors, gate])
        named = {"network": identity, "hub": self.container, "proxy": self._visitors, "gate": gate}
        netns = {"Type": "bind", "Source": "/run/docker/netns", "Target": "/run/docker/netns", "ReadOnly": True}
        container = {
            "Image": image,
            "Args": [*(f"--{key}={value}" for key, value in named.items()), "--gate-ports=3128,8080"],
            "Init": True,
            "User": "0:0",
            "CapabilityDrop": ["ALL"],
            "CapabilityAdd": ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"],
            "ReadOnly": True,
            "DNSConfig": {"Nameservers": ["192.0.2.1"]},
            "Mounts": [netns, {"Type": "tmpfs", "Target": "/run/xnat-guard"}],
            "Healthcheck": {"Test": ["CMD", "bash", "/usr/local/lib/healthy"], "Interval": 10**9, "Timeout": 10**11},
        }
        limits = {"Limits": {"NanoCPUs": 5 * 10**8, "MemoryBytes": 64 * 2**20}}
        template = {"ContainerSpec": container, "Resources": limits, "Networks": [{"Target": self._network}]}
        body = {"Name": self.guard, "TaskTemplate": template, "Mode": {"Global": {}}}
        await self.docker.call("POST", "/services/create", json={**body, "EndpointSpec": {"Mode": "dnsrr"}})

        async def runs() -> bool:
            tasks = await self.docker.listed("tasks", service=self.guard)
            return any(task["Status"]["State"] == "running" for task in tasks)

        await until(f"running {self.guard}", runs)

    async def usage(self) -> dict[str, tuple[float, float]]:
        """Return CPU seconds so far and memory in MB of each part."""
        found = await asyncio.gather(*(self.docker.usage(container) for container in self.parts.values()))
        return dict(zip(self.parts, found, strict=True))

    async def _answers(self) -> bool:
        try:
            return bool(await self.api("GET", "info"))
        except (aiohttp.ClientError, RuntimeError):
            return False

    async def down(self) -> None:
        """Remove all parts, with the hub's database."""
        await self._session.close()
        for name in self.parts.values():
            await self.docker.call("DELETE", f"/containers/{name}", params={"force": "1", "v": "1"}, missing_ok=True)
        await self.docker.call("DELETE", f"/volumes/{self._volume}", missing_ok=True)
        if self._network != PREFIX:
            await self.docker.call("DELETE", f"/services/{self.guard}", missing_ok=True)
            await self.docker.remove_network(self._network)

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        """Make a REST call as XNAT does. Raises RuntimeError for a status other than 2xx."""
        async with self._session.request(method, f"{self.url}/api/{path}", json=body) as response:
            if not response.ok:
                raise RuntimeError(f"{self.name}: {method} {path}: {response.status} {await response.text()}")
            return await response.json() if response.content_type == "application/json" else response.status

    async def add_users(self, names: Iterable[str]) -> None:
        """Create the users, so that all repetitions use the same database."""
        for name in names:
            await self.api("POST", f"users/{name}")

    async def start(self, servers: Iterable[tuple[str, str]]) -> float:
        """Start all (user, server) at once; return the seconds until the last one is ready.

        The hub answers 201 when a server is ready within 10 s; one call every 0.2 s polls for later ones.
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
        """Stop and remove all (user, server) at once, and wait until the hub lists none."""
        paths = [f"users/{user}/servers/{server}" for user, server in servers]
        await asyncio.gather(*(self.api("DELETE", path, {"remove": True}) for path in paths))

        async def none_is_left() -> bool:
            return not await self.servers()

        await until("end of all servers", none_is_left)

    async def servers(self) -> list[tuple[str, str]]:
        """Return (user, server) of all running servers of the hub."""
        return [(user["name"], server) for user in await self.api("GET", "users") for server in user["servers"]]

    async def health(self) -> float:
        """Return the seconds of one `/hub/health`, requested without the proxy."""
        begin = time.monotonic()
        async with self._session.get(f"http://{self.container}.{PREFIX}:8081/jupyterhub/hub/health") as response:
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
        """Send the form; return the seconds until the person is logged in. Raises RuntimeError if the log-in fails."""
        url = f"{self.hub.url}/login"
        form = {"username": self.user, "password": PASSWORD}
        form["_xsrf"] = self._session.cookie_jar.filter_cookies(URL(url))["_xsrf"].value
        begin = time.monotonic()
        async with self._session.post(url, data=form, allow_redirects=False) as response:
            if response.status != 302:
                raise RuntimeError(f"{self.hub.name}: log-in of {self.user}: {response.status}")
        return time.monotonic() - begin


class Bed:
    """Swarm, network and images of the benchmarks; `docker`, and sides and hubs by name."""

    def __init__(self) -> None:
        self.docker = Docker()
        self.sides: dict[str, Side] = {}
        self.hubs: dict[str, Hub] = {}
        self.singleuser = ""

    async def up(self, before: Path | None) -> None:
        """Create everything, after removing what an earlier run left. before: an older checkout to compare with.

        Raises DockerError with what is missing.
        """
        await self.clear()
        runtime = await self.newest(RUNTIME)
        self.singleuser = await self.newest(SINGLEUSER)
        state = (await self.docker.call("GET", "/info"))["Swarm"]["LocalNodeState"]
        if state != "active":
            mark = {"Labels": {PREFIX: "made"}}  # so that a later run recognizes it, too
            body = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1", "Spec": mark}
            await self.docker.call("POST", "/swarm/init", json=body)
        await self.docker.make_network(PREFIX, internal=False)
        await self.docker.connect(PREFIX, DRIVER)
        here = Path(__file__).parent
        ours = await self._side("ours", ROOT, runtime)
        self.sides = {"plain": Side(ROOT, ours.hub, None, None, f"{CONFIGS}/plain_config.py")}
        if before:
            self.sides["before"] = await self._side("before", before, runtime)
        self.sides["ours"] = ours
        feather = dockerfile([f"FROM {runtime}", "COPY feather.pl /"])
        await self.docker.build(FEATHER, [feather, ("feather.pl", (here / "feather.pl").read_bytes())])

    async def _side(self, name: str, checkout: Path, runtime: str) -> Side:
        """Build the images of a checkout, the hub's with the configurations of the benchmarks in it."""
        files = checkout / "files"
        found = sorted(path for part in ("xnat_*/**/*.py", "templates/*") for path in files.glob(part))
        context = [(str(path.relative_to(files)), path.read_bytes()) for path in found]
        context += [("jupyterhub_config.py", (files / "jupyterhub_config.py").read_bytes())]
        bare, hub, launcher, guard = (f"{IMAGES}/{name}-{part}:latest" for part in ("bare", "hub", "launcher", "guard"))
        under = {"ASSETS": await self.newest(ASSETS)} if (files / "assets").is_dir() else {"RUNTIME": runtime}
        for part, tag, arguments in (("hub", bare, under), ("launcher", launcher, {"RUNTIME": runtime})):
            text = (files / part / "Dockerfile").read_bytes()
            await self.docker.build(tag, [*context, ("Dockerfile", text)], **arguments)
        configs = [f"{config}_config.py" for config in ("plain", "stub")]
        here = [(config, (Path(__file__).parent / config).read_bytes()) for config in configs]
        lines = [f"FROM {bare}", f"COPY {' '.join(configs)} {CONFIGS}/"]
        await self.docker.build(hub, [*here, dockerfile(lines)])
        has_guard = (files / "guard").is_dir()
        if has_guard:  # on an image that has nftables already
            lines = [
                f"FROM {await self.newest(GUARD)}",
                "COPY healthy /usr/local/lib/",
                f"COPY xnat_guard {GUARD_CODE}",
            ]
            healthy = ("healthy", (files / "guard/healthy").read_bytes())
            await self.docker.build(guard, [*context, healthy, dockerfile(lines)])
        return Side(checkout, hub, launcher, guard if has_guard else None, "/opt/xnat-hub/jupyterhub_config.py")

    async def newest(self, repository: str) -> str:
        """Return the name of the newest image. Raises DockerError when there is none."""
        images = await self.docker.listed("images/json", reference=repository)
        if not images:
            raise DockerError(f"there is no image {repository}: run `make demo` first")
        newest = max(images, key=lambda image: image["Created"])
        return next(str(tag) for tag in newest["RepoTags"] if tag.startswith(f"{repository}:"))

    async def hub(self, name: str, side: str, **options: Any) -> Hub:
        """Start one more hub of a side."""
        self.hubs[name] = Hub(self.docker, name, self.sides[side], [FEATHER, self.singleuser])
        await self.hubs[name].up(**options)
        return self.hubs[name]

    async def remove_hub(self, name: str) -> None:
        """Remove a hub; its servers stay."""
        await self.hubs.pop(name).down()

    async def stub_dir(self) -> str:
        """Return the path of STUB_DIR on this machine."""
        mounts = (await self.docker.call("GET", f"/containers/{DRIVER}/json"))["Mounts"]
        return next(str(mount["Source"]) for mount in mounts if mount["Destination"] == STUB_DIR)

    async def clear(self) -> None:
        """Remove everything except images; leave a swarm that the benchmarks created and nobody else uses."""
        for hub in self.hubs.values():
            await hub.down()
        self.hubs.clear()
        for container in await self.docker.listed("containers/json", name=f"^/{PREFIX}-"):
            name = container["Names"][0].lstrip("/")
            if name != DRIVER and SERVICE_LABEL not in container["Labels"]:
                await self.docker.call("DELETE", f"/containers/{name}?force=1&v=1", missing_ok=True)
        swarm = await self.docker.call("GET", "/swarm") if await self._is_manager() else None
        if swarm:
            await self.clear_servers(guards=True)
        # Each start also leaves volumes that are never used (xnat_launcher.service.scratch).
        for filters in ({"name": f"{PREFIX}-"}, {"label": SCRATCH_LABEL, "dangling": "true"}):
            for volume in (await self.docker.listed("volumes", **filters))["Volumes"] or []:
                with contextlib.suppress(DockerError):  # another deployment's server has just got it
                    await self.docker.call("DELETE", f"/volumes/{volume['Name']}", missing_ok=True)
        for network in await self.docker.listed("networks", name=PREFIX):
            await self.docker.remove_network(network["Name"])
        if swarm and swarm["Spec"]["Labels"].get(PREFIX):
            if await self.docker.listed("services"):
                print("The swarm that the benchmarks created stays: somebody else has services in it.")
            else:
                await self.docker.call("POST", "/swarm/leave?force=1")

    async def _is_manager(self) -> bool:
        return bool((await self.docker.call("GET", "/info"))["Swarm"]["ControlAvailable"])

    async def remove_images(self) -> None:
        """Remove the images of the benchmarks."""
        for image in await self.docker.listed("images/json", reference=f"{IMAGES}/*"):
            for tag in image["RepoTags"]:
                await self.docker.call("DELETE", f"/images/{quote(tag)}?force=1", missing_ok=True)

    async def clear_servers(self, guards: bool = False) -> None:
        """Remove services and secrets, and wait until no container of them is left. guards: also those of guards."""

        def stays(service: str) -> bool:
            return service.endswith(GUARD_SUFFIX) and not guards

        for kind in ("services", "secrets"):
            for found in await self.docker.listed(kind, name=PREFIX):
                if not stays(found["Spec"]["Name"]):
                    await self.docker.call("DELETE", f"/{kind}/{found['ID']}", missing_ok=True)

        async def no_container() -> bool:
            filters = {"label": SERVICE_LABEL, "name": f"^/{PREFIX}-"}
            listed = await self.docker.listed("containers/json", **filters)
            return all(stays(container["Labels"][SERVICE_LABEL]) for container in listed)

        await until("end of all containers of servers", no_container)
