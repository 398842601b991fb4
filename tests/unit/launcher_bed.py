"""A launcher for tests: behind its real socket, with XNAT over HTTP and an engine in memory."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import xnat_hub.launcher
from aiohttp import web
from aiohttp.test_utils import TestServer
from demo_xnat.faults import Faults
from demo_xnat.people import PEOPLE
from demo_xnat.state import State
from demo_xnat.web import FAULTS, STATE, make_app
from xnat_launcher import server
from xnat_launcher.audit import Audit
from xnat_launcher.docker import ConflictError, Docker, MissingError, SwarmError
from xnat_launcher.launches import Launcher
from xnat_launcher.policy import allowed_mounts
from xnat_launcher.service import OPEN_NAMES
from xnat_launcher.settings import Settings
from xnat_launcher.swarm import SERVER, USER, Swarm
from xnat_launcher.xnat import ServiceAccount
from xnat_wire.rest import Rest
from xnat_wire.site import XnatSite
from xnat_wire.throttle import Throttle

from tests.hub_settings import XNAT
from tests.unit.test_demo_xnat import SECRETS, SERVICE_PASSWORD, Clock, make_settings

PASSWORD = SECRETS.password
LAUNCH = "20260115T093012345Z"  # a server's name, as XNAT gives it
HUB_TOKEN = "a-token-of-the-hub-0123456789"
HUB_ENV = {"JUPYTERHUB_API_TOKEN": HUB_TOKEN, "JUPYTERHUB_USER": "jdoe", "JUPYTERHUB_SERVICE_PREFIX": "/user/jdoe/x/"}
NETWORK = {"Name": "jupyterhub", "Id": "N", "IPAM": {"Config": [{"Subnet": "10.0.0.0/24"}]}}
IMAGE_ID = f"sha256:{'5e' * 32}"
NO_LEAKS = [
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]


def site(url: str) -> XnatSite:
    """Return the settings for the calls to an XNAT."""
    return replace(XnatSite.parse(XNAT), url=url)


def service_account(place: XnatSite, password: str = SERVICE_PASSWORD) -> ServiceAccount:
    """Return the service account of an XNAT."""
    return ServiceAccount(Rest(place), "jupyterhub", password, Throttle(5, 86400))


@asynccontextmanager
async def demo_xnat(
    tmp_path: Path, all_users: bool = False, faults: Faults | None = None
) -> AsyncIterator[tuple[XnatSite, State]]:
    """Serve a demo XNAT."""
    app = make_app(make_settings(tmp_path, all_users=all_users), SECRETS, Clock())
    if faults:
        app[FAULTS] = faults
    async with TestServer(app) as served:
        yield site(str(served.make_url("/"))), app[STATE]


@asynccontextmanager
async def small_xnat(answer: Callable[[str], web.StreamResponse]) -> AsyncIterator[XnatSite]:
    """Serve an XNAT with given answers by path."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return answer(request.path)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as served:
        yield site(str(served.make_url("/")))


def store_launch(state: State, person: str, name: str, **changes: Any) -> dict[str, str]:
    """Store a launch of `person` with its alias token in XNAT. Returns its variables. changes: of the container."""
    alias, secret = state.issue_alias(PEOPLE[person])
    env = {"XNAT_USER": alias, "XNAT_PASS": secret, "XNAT_HOST": "http://xnat.example.org"}
    workspace = {
        "source": f"/srv/xnat/workspaces/users/{person}", "target": f"/workspace/{person}", "type": "bind",
        "read_only": False,
    }  # fmt: skip
    container = {"image": "localhost/x:1", "env": env, "mounts": [workspace], **changes}
    options = {
        "servername": name, "projectId": "DEMO_MR", "itemId": "DEMO_MR", "xsiType": "xnat:projectData",
        "task_template": {"container_spec": container},
    }  # fmt: skip
    state.store_options(PEOPLE[person], options)
    return env


class MemorySink:
    """Keeps audit lines. error: raised instead of keeping them. reserve: how many important lines fit nevertheless.

    expired: the days for which old files were removed.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.error: OSError | None = None
        self.reserve = 0
        self.expired: list[date] = []
        self.closed = False

    def append(self, day: str, lines: Sequence[bytes], use_reserve: bool = False) -> None:
        if self.error and not (use_reserve and self.reserve):
            raise self.error
        self.reserve -= len(lines) if self.error else 0
        assert all(b"\n" not in line and json.loads(line)["time"].startswith(day) for line in lines)
        self.lines += [line.decode("ascii") for line in lines]

    def expire(self, today: date) -> None:
        self.expired.append(today)

    def close(self) -> None:
        self.closed = True


class MemoryDocker(Docker):
    """An engine in memory, a manager of a swarm, behind the calls of `Docker`.

    state: of a new task. lingers: whether containers outlive their services. before: called before each
    call with its method and path; it may wait, or raise the call's exception.
    """

    def __init__(self) -> None:
        super().__init__("/nowhere/docker.sock")
        self.services: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, Any]] = {}
        self.tasks: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.network: dict[str, Any] = copy.deepcopy(NETWORK)
        self.logs: dict[str, bytes] = {}
        self.state: dict[str, Any] = {"State": "running"}
        self.lingers = False
        self.calls: list[str] = []
        self.before: Callable[[str, str], Awaitable[None]] | None = None
        self._made = 0

    async def get(self, path: str, filters: Mapping[str, Any] | None = None) -> Any:
        await self._begin("GET", path)
        kind, _, name = path.strip("/").partition("/")
        if kind == "networks":
            return copy.deepcopy(self.network)
        if kind == "nodes":
            return copy.deepcopy(self.nodes)
        if kind == "images":
            return {"Id": IMAGE_ID}
        if kind == "services" and name:
            return copy.deepcopy(self._find(self.services, name))
        listed = {"services": self.services.values(), "secrets": self.secrets.values(), "tasks": self.tasks}[kind]
        return copy.deepcopy([found for found in listed if _fits(found, filters or {})])

    async def create(self, kind: str, body: Mapping[str, Any]) -> str:
        await self._begin("POST", f"/{kind}/create")
        spec = json.loads(json.dumps(body, allow_nan=False))
        json.dumps(body, ensure_ascii=False).encode()
        held = self._held(kind)
        if any(found["Spec"]["Name"] == spec["Name"] for found in held.values()):
            raise ConflictError(f"{spec['Name']} exists")
        self._made += 1
        key = f"{kind[:2]}{self._made:05}"
        if kind == "services":
            container = spec["TaskTemplate"]["ContainerSpec"]
            if any(reference["SecretID"] not in self.secrets for reference in container["Secrets"]):
                raise SwarmError("secret not found")
            self.tasks.append({
                "ID": f"task{self._made}", "Name": f"{spec['Name']}.1.x", "Service": key, "NodeID": "node1",
                "CreatedAt": datetime.now(UTC).isoformat(), "DesiredState": "running", "Status": dict(self.state),
                "Spec": {"ContainerSpec": container},
            })  # fmt: skip
        held[key] = {"ID": key, "CreatedAt": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z", "Spec": spec}
        return key

    async def delete(self, kind: str, name: str) -> None:
        await self._begin("DELETE", f"/{kind}/{name}")
        held = self._held(kind)
        key = self._find(held, name)["ID"]
        used = [
            reference["SecretID"] for service in self.services.values() for reference in _container(service)["Secrets"]
        ]
        if kind == "secrets" and key in used:
            raise SwarmError("the secret is in use")
        del held[key]
        if not self.lingers:
            self.tasks = [task for task in self.tasks if task["Service"] != key]

    async def log_end(self, service: str, lines: int) -> bytes:
        await self._begin("GET", f"/services/{service}/logs")
        self._find(self.services, service)
        return self.logs.get(service, b"")

    def age(self, seconds: float) -> None:
        """Set the age of all objects."""
        for found in [*self.services.values(), *self.secrets.values()]:
            found["CreatedAt"] = f"{datetime.now(UTC) - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}Z"

    def set_state(self, **status: Any) -> None:
        """Change the state of all tasks."""
        for task in self.tasks:
            task["Status"] = status

    def clear(self) -> None:
        """Remove everything."""
        self.services, self.secrets, self.tasks, self.calls = {}, {}, [], []

    async def _begin(self, method: str, path: str) -> None:
        self.calls.append(f"{method} {path}")
        if self.before:
            await self.before(method, path)

    def _held(self, kind: str) -> dict[str, dict[str, Any]]:
        return {"services": self.services, "secrets": self.secrets}[kind]

    def _find(self, held: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
        for key, found in held.items():
            if name in (key, found["Spec"]["Name"]):
                return found
        raise MissingError(f"{name} not found")


def _container(service: Mapping[str, Any]) -> dict[str, Any]:
    return dict(service["Spec"]["TaskTemplate"]["ContainerSpec"])


def _fits(found: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    labels = found["Spec"].get("Labels") or found["Spec"].get("ContainerSpec", {}).get("Labels") or {}
    wanted = dict(text.split("=", 1) for text in filters.get("label", ()))
    names = filters.get("name", ())
    return labels.items() >= wanted.items() and (not names or str(found.get("Name")).startswith(tuple(names)))


@dataclass
class Bed:
    """A running launcher. hub: the hub's client for it. audit: the audit lines that were written so far."""

    docker: MemoryDocker
    launcher: Launcher
    xnat: ServiceAccount
    hub: xnat_hub.launcher.Launcher
    socket: str
    settings: Settings
    sink: MemorySink = field(default_factory=MemorySink)

    @property
    def audit(self) -> list[str]:
        return self.sink.lines

    async def written(self) -> None:
        """Wait until no audit line waits for the thread that writes them."""
        if writing := self.launcher._audit._writing:
            await asyncio.wait([writing])

    def check(self) -> None:
        """Check that every service that Docker holds is within the policy and shows no secret."""
        for service in self.docker.services.values():
            check_service(service, self.settings)
        shown = json.dumps([*self.docker.services.values(), self.audit])
        assert HUB_TOKEN not in shown


def check_service(service: Mapping[str, Any], settings: Settings) -> None:
    """Check that this site's policy allows a service."""
    container = _container(service)
    user = service["Spec"]["Labels"][USER]
    mounts = [each for each in container["Mounts"] if each["Type"] == "bind"]
    *scratches, shm = container["Mounts"][len(mounts) :]
    assert (shm["Type"], shm["Target"]) == ("tmpfs", "/dev/shm")
    assert {each["Target"] for each in scratches} <= {"/tmp", settings.home}
    assert container["ReadOnly"] is True
    asked = [
        {"source": each["Source"], "target": each["Target"], "type": each["Type"], "read_only": each["ReadOnly"]}
        for each in mounts
    ]
    made = allowed_mounts(asked, settings.roots, user)
    assert [(each.source, each.target) for each in made] == [(each["Source"], each["Target"]) for each in mounts]
    assert all("{{" not in each["Source"] + each["Target"] for each in mounts)
    assert all(each["BindOptions"] == {"Propagation": "rprivate", "NonRecursive": True} for each in mounts)
    assert container["Image"] in {*settings.images, *settings.image_names.values()}
    assert container["User"] == f"{settings.uid}:{settings.gid}"
    assert container["Groups"] == [str(group) for group in settings.groups]
    assert {line.partition("=")[0] for line in container["Env"]} <= OPEN_NAMES
    assert container["CapabilityDrop"] == ["ALL"]
    assert "CapabilityAdd" not in container
    assert container["Privileges"] == {"NoNewPrivileges": True}
    assert [reference["SecretName"] for reference in container["Secrets"]] == [service["Spec"]["Name"] + "-env"]
    template = service["Spec"]["TaskTemplate"]
    assert template["Networks"] == [{"Target": settings.network}]
    assert template["Resources"]["Limits"]["Pids"] == settings.pids_limit
    assert 0 < template["Resources"]["Limits"]["NanoCPUs"] <= settings.cpu_ceiling * 10**9
    assert 0 < template["Resources"]["Limits"]["MemoryBytes"] <= settings.memory_ceiling
    assert set(settings.constraints) <= set(template["Placement"]["Constraints"])
    assert set(service["Spec"]) == {"Name", "Labels", "TaskTemplate", "Mode", "EndpointSpec"}
    assert container["Labels"].get(SERVER) == service["Spec"]["Labels"].get(SERVER)


@asynccontextmanager
async def launcher_bed(
    settings: Settings,
    place: XnatSite,
    socket: str,
    docker: MemoryDocker | None = None,
    hub_uid: int | None = None,
    sink: MemorySink | None = None,
) -> AsyncIterator[Bed]:
    """Serve a launcher."""
    docker = docker or MemoryDocker()
    sink = sink or MemorySink()
    audit = Audit(settings.deployment, sink, settings.audit_failure == "refuse")
    account = service_account(place)
    launcher = Launcher(settings, account, Swarm(docker, settings.deployment, settings.network), audit)
    app = server.make_app(launcher, settings.hub_uid if hub_uid is None else hub_uid)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.UnixSite(runner, socket).start()
        hub = xnat_hub.launcher.Launcher(socket)
        yield Bed(docker, launcher, account, hub, socket, settings, sink)
    finally:
        await runner.cleanup()
        await audit.close()
        await account.close()
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, at most five seconds."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError
