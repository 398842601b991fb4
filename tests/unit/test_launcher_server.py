"""The launcher's interface with hostile input: whatever a hub or XNAT sends, nothing outside the policy happens."""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import json
import os
import shlex
import socket as sockets
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from xnat_launcher import server, swarm
from xnat_launcher.server import CALLS
from xnat_launcher.settings import Settings, parse
from xnat_wire.launcher import HUB_VARIABLES, MAX_BODY, MAX_VALUE, STATUS, Kind, RefusedError

from tests.hub_settings import launcher_settings_data
from tests.unit.conftest import SAMPLES, examples, user_of
from tests.unit.launcher_bed import (
    HUB_ENV,
    HUB_TOKEN,
    LAUNCH,
    NO_LEAKS,
    Bed,
    MemoryDocker,
    launcher_bed,
    site,
    small_xnat,
)

pytestmark = NO_LEAKS
BODIES: list[dict[str, Any]] = [sample["response"]["body"] for sample in SAMPLES]
PLAIN = BODIES[0]
NAMED = Kind.BAD_REQUEST, Kind.NAME


ENV: dict[str, str] = PLAIN["task_template"]["container_spec"]["env"]
OWN_VARIABLES = (
    "JUPYTERHUB_ALLOW_TOKEN_IN_URL", "JUPYTERHUB_XNAT_BUSY_IS_ACTIVITY", "JUPYTER_IMAGE_SPEC", "HOME", "http_proxy",
    "https_proxy", "no_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip


class Served:
    """A launcher that stays up between the examples of a property. options: what XNAT answers for every launch."""

    def __init__(self, socket: str, settings: Settings) -> None:
        self.options: Any = PLAIN
        self.socket = socket
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._settings = settings
        self.bed = self.run(self._begin())
        self.http = self.run(self._connect())

    async def _begin(self) -> Bed:
        place = await self._stack.enter_async_context(small_xnat(self._answer))
        return await self._stack.enter_async_context(launcher_bed(self._settings, place, self.socket))

    async def _connect(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(self.socket)
        return await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))

    def _answer(self, path: str) -> web.StreamResponse:
        if path.endswith("/user-options"):
            return web.Response(text=json.dumps(self.options), content_type="application/json")
        return web.json_response(["Jupyter"])

    def run(self, call: Awaitable[Any]) -> Any:
        return self._loop.run_until_complete(call)

    def post(self, name: str, data: bytes, method: str = "POST") -> tuple[int, Any]:
        """Send bytes; return status and answer."""

        async def call() -> tuple[int, Any]:
            async with self.http.request(method, f"http://launcher/{name}", data=io.BytesIO(data)) as answer:
                return answer.status, await answer.json()

        found: tuple[int, Any] = self.run(call())
        return found

    def check(self) -> None:
        """Check what the launcher has made, and remove it."""
        self.bed.check()
        assert not self.bed.launcher._under_way
        assert len(self.bed.launcher._starts) <= max(1, len(self.bed.docker.services))
        self.bed.docker.clear()
        self.bed.launcher._starts.clear()
        self.bed.audit.clear()

    def close(self) -> None:
        self.run(self._stack.aclose())
        self.run(self._loop.shutdown_asyncgens())
        self._loop.close()


@pytest.fixture
def served(socket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(swarm, "LOOK", 0.0)
    data = launcher_settings_data(default_server="workspace", cpu_ceiling=16.0, memory_ceiling="32G")
    found = Served(socket, parse(data))
    yield found
    found.close()


def checked(status: int, answer: Any) -> Kind | None:
    """Return why a call was refused, None if it was not; a fault of the launcher itself is none of its answers."""
    if status == 200:
        assert isinstance(answer, dict)
        return None
    kind = Kind(answer["kind"])
    assert kind is not Kind.INTERNAL
    assert STATUS[kind] == status
    assert answer["message"].endswith((".", "…"))
    assert len(answer["message"]) < 4000
    return kind


def variables(docker: MemoryDocker, service: dict[str, Any]) -> set[str]:
    """Return the names of all variables that a server gets."""
    container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
    secret = docker.secrets[container["Secrets"][0]["SecretID"]]
    hidden = [word for word in shlex.split(base64.b64decode(secret["Spec"]["Data"]).decode()) if "=" in word]
    return {word.partition("=")[0] for word in [*container["Env"], *hidden]}


# A hub that was taken over.

VALID: dict[str, dict[str, Any]] = {
    "start": {"user": "jdoe", "server": LAUNCH, "env": HUB_ENV},
    "one": {"user": "jdoe", "server": LAUNCH},
    "all": {},
    "living": {},
    "stop": {"user": "jdoe", "server": LAUNCH, "patience": 0, "id": ""},
    "log": {"user": "jdoe", "server": LAUNCH},
    "standing": {"user": "jdoe", "server": LAUNCH},
    "limits": {},
    "logged_in": {"user": "jdoe", "source": "192.0.2.1", "reason": "accepted", "known": True},
}
TEXTS = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["", ".", "..", "../..", "a/b", "a:b", "jdoe", "asmith", LAUNCH, "%2e%2e%2f", "{{.Node.ID}}", "\0", "\ud800",
     "j\u202edoe", "x" * 300, "x" * (MAX_VALUE + 1), "-", "'; rm -rf /", "jdoe\n", " jdoe", "\N{FULLWIDTH SOLIDUS}"]
)  # fmt: skip
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1e308, float("nan"), float("inf")])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["PATH", "LD_PRELOAD", "XNAT_PASS", "NVIDIA_VISIBLE_DEVICES", "DOCKER_HOST", "UID", ""])
ENVS = st.dictionaries(st.sampled_from(sorted(HUB_VARIABLES)) | NAMES | TEXTS, TEXTS | JSON, max_size=4)
FIELDS = {
    "user": st.just("jdoe") | TEXTS | JSON,
    "server": st.just(LAUNCH) | TEXTS | JSON,
    "env": st.just(HUB_ENV) | ENVS | JSON,
    "patience": st.just(0) | NUMBERS.filter(lambda number: not 0 < number <= 600) | JSON.filter(
        lambda value: isinstance(value, bool) or not isinstance(value, int | float)
    ),
    "id": st.just("") | TEXTS | JSON,
    "source": st.just("192.0.2.1") | TEXTS | JSON,
    "reason": st.just("accepted") | TEXTS | JSON,
    "known": st.booleans() | JSON,
    "mounts": JSON,
    "image": JSON,
}  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A request of the hub with some of its fields made up."""
    name = draw(st.sampled_from(["start", "start", *VALID]))
    body = dict(VALID[name])
    for key in draw(st.lists(st.sampled_from([*body, *FIELDS]), max_size=2)):
        body[key] = draw(FIELDS[key])
    for key in draw(st.lists(st.sampled_from(list(VALID[name]) or [""]), max_size=1)):
        if draw(st.integers(0, 9)) == 0:
            body.pop(key, None)
    return name, body


@pytest.mark.drill
@examples(400)
@given(st.lists(requests(), min_size=1, max_size=3), JSON)
def test_whatever_a_hub_asks_for_is_within_the_policy(served: Served, asked: list[tuple[str, Any]], odd: Any) -> None:
    for name, body in [*asked, (asked[0][0], odd)]:
        kind = checked(*served.post(name, json.dumps(body).encode()))
        if json.dumps(body) == json.dumps(VALID[name]):  # False is 0 otherwise
            assert kind is None
    for service in served.bed.docker.services.values():
        assert service["Spec"]["Labels"]["org.xnat.jupyterhub.user"] == "jdoe"  # whose workspace XNAT names
        assert variables(served.bed.docker, service) <= {*HUB_VARIABLES, *ENV, *OWN_VARIABLES}
    served.check()


@pytest.mark.drill
@examples(200)
@given(
    st.sampled_from([*VALID, "", "containers/create", "../start", "start/", "START"]),
    st.sampled_from(["POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]),
    st.binary(max_size=50) | st.sampled_from([b"[" * 100_000, b'{"user": ' * 20_000, b"1" * 5000, b"\xff\xfe{\0}\0"]),
)
def test_bytes_that_are_no_request_are_refused_by_name(served: Served, name: str, method: str, data: bytes) -> None:
    async def call() -> tuple[int, bytes]:
        async with served.http.request(method, f"http://launcher/{name}", data=data) as answer:
            return answer.status, await answer.read()

    status, text = served.run(call())
    assert status == 400
    assert method == "HEAD" or json.loads(text)["kind"] == Kind.BAD_REQUEST
    served.check()
    assert not served.bed.docker.calls


@st.composite
def broken_http(draw: st.DrawFn) -> bytes:
    """A request in which one part of HTTP is broken or cut off."""
    body = json.dumps(VALID["start"]).encode()
    lines = [b"POST /start HTTP/1.1", b"Host: launcher", b"Content-Length: %d" % len(body)]
    odd = draw(
        st.binary(max_size=40)
        | st.sampled_from([
            b"Content-Length: 99999999999999999999", b"Content-Length: -1", b"Transfer-Encoding: chunked",
            b"Content-Encoding: gzip", b"Content-Encoding: deflate", b"Expect: 100-continue", b"Upgrade: websocket",
            b"Connection: upgrade", b"Content-Length: 3", b"Content-Type: x; charset=\xff", b"X: " + b"x" * 9000,
            b"POST http://[::1/start HTTP/1.1", b"GET / HTTP/9.9", b"POST /start HTTP/0.9", b"Host: a\0b",
        ])
    )  # fmt: skip
    place = draw(st.integers(0, len(lines)))
    lines[place : place + draw(st.integers(0, 1))] = [odd]
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + body
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


@pytest.mark.drill
@examples(200)
@given(broken_http())
def test_broken_http_is_one_connections_trouble(served: Served, data: bytes) -> None:
    async def send() -> bytes:
        reader, writer = await asyncio.open_unix_connection(served.socket)
        try:
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(0.05):
                return await reader.read()
        except (OSError, TimeoutError):
            return b""
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    answered = served.run(send())
    assert b'"internal"' not in answered
    assert checked(*served.post("all", b"{}")) is None
    served.bed.check()
    for _ in range(100):
        if not served.bed.launcher._under_way:
            break
        served.run(asyncio.sleep(0.001))
    served.check()


# An XNAT that was taken over, or is misconfigured.

PATHS = [
    "/srv/xnat/archive", "/srv/xnat/archive/P1", "/srv/xnat/archive/../../etc", "/srv/xnat/archive/./P1/", "/", "/etc",
    "/srv/xnat/archive/{{.Node.Hostname}}", '/srv/xnat/archive/{{"."}}{{"."}}/x', "/srv/xnat/workspaces/users/jdoe",
    "/srv/xnat/workspaces/users/jdoe/link", "/srv/xnat/workspaces/users/asmith", "/srv/xnat/workspaces/users",
    "/srv/xnat/workspaces", "//srv/xnat/archive/P1", "srv/xnat", "/srv/xnat/archive\n/P1", "/srv/shared",
    "/srv/shared/link", "/srv/atlases", "/var/run/docker.sock", "/proc", "/srv/xnat/archive2", "", "/data", "/data/x",
    "/workspace/jdoe", "/workspace/jdoe/x", "/home/jovyan", "/home/jovyan/.ssh", "/opt", "/opt/shared", "/run/secrets",
    "/dev/shm", "/usr/bin", "/data/../usr", "/srv/\ud800",
]  # fmt: skip
VALUES = st.sampled_from(
    [*PATHS, "bind", "volume", "tmpfs", "npipe", "8G", "999T", "-1", "1e9", "node.role==manager", "localhost/x:1",
     "evil/image:1", "sh -c 'id'", "jupyterhub-singleuser --allow-root", "a 'b", True, False, None, 0, 64, 10**30, 2.5,
     [], {}, [None], {"LD_PRELOAD": "/x"}, {"NB_UID": "0"}, {"A": "{{.Node.ID}}"}, {"JUPYTERHUB_API_TOKEN": "x"}]
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to everything in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in inside for place in places(item, (*path, key))]


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, str, Any]:
    """What XNAT answers for a launch of a user: a sample with some of it made up."""
    body = copy.deepcopy(draw(st.sampled_from(BODIES)))
    user, name = user_of(body), str(body["servername"])
    container = (body.get("task_template") or {}).get("container_spec") or {}
    if draw(st.integers(0, 3)) == 0 and isinstance(container.get("mounts"), list):
        mount = {"target": VALUES, "source": VALUES, "type": st.just("bind"), "read_only": st.booleans()}
        container["mounts"].append(copy.deepcopy(draw(st.fixed_dictionaries(mount))))
    for _ in range(draw(st.integers(0, 3))):
        *parents, last = draw(st.sampled_from(places(body)))
        inner = body
        for key in parents:
            inner = inner[key]
        inner[last] = copy.deepcopy(draw(VALUES | JSON))
        if not places(body):
            break
    return draw(st.sampled_from([user, user, user, "asmith"])), name, body


@pytest.mark.drill
@examples(600)
@given(answers())
def test_whatever_xnat_answers_the_server_is_within_the_policy(served: Served, answer: tuple[str, str, Any]) -> None:
    user, name, served.options = answer
    try:
        wanted = {"user": user, "server": name, "env": HUB_ENV}
        kind = checked(*served.post("start", json.dumps(wanted).encode()))
        assert len(served.bed.docker.services) == len(served.bed.docker.secrets) == (kind is None)
        checked(*served.post("standing", json.dumps({"user": user, "server": name}).encode()))
        served.check()
    finally:
        served.options = PLAIN


@pytest.mark.drill
@examples(100)
@given(JSON)
def test_an_answer_of_xnats_of_any_shape_starts_nothing(served: Served, options: Any) -> None:
    served.options = options
    try:
        assert checked(*served.post("start", json.dumps(VALID["start"]).encode())) in {Kind.OPTIONS, Kind.XNAT}
        assert checked(*served.post("standing", json.dumps(VALID["standing"]).encode())) in {None, Kind.XNAT}
        assert not served.bed.docker.services
        served.check()
    finally:
        served.options = PLAIN


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample["name"] for sample in SAMPLES])
def test_xnats_own_answers_are_started_where_nothing_is_wrong_with_them(served: Served, sample: dict[str, Any]) -> None:
    """The properties would say little if nothing were started."""
    served.options = body = sample["response"]["body"]
    image = body["task_template"]["container_spec"]["image"]
    listed = sample["expect"].get("refuse") or image in served.bed.settings.images
    wanted = {"user": user_of(body), "server": sample["hub_servername"], "env": HUB_ENV}
    kind = checked(*served.post("start", json.dumps(wanted).encode()))
    assert (kind is None) == bool(listed and not sample["expect"].get("refuse"))
    served.check()


@pytest.mark.parametrize("name", VALID)
def test_each_call_takes_exactly_its_fields(served: Served, name: str) -> None:
    body = VALID[name]
    assert checked(*served.post(name, json.dumps(body).encode())) is None
    for changed in [{**body, "more": 1}, *({k: v for k, v in body.items() if k != key} for key in body)]:
        assert checked(*served.post(name, json.dumps(changed).encode())) is Kind.BAD_REQUEST
    served.check()


def test_the_calls_are_those_that_are_described() -> None:
    assert set(CALLS) == set(VALID)
    assert set(STATUS) == set(Kind)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("env", {"PATH": "/x"}, id="unlisted-name"),
        pytest.param("env", {"XNAT_PASS": "x"}, id="xnats-name"),
        pytest.param("env", {"JUPYTERHUB_USER": "x" * (MAX_VALUE + 1)}, id="long-value"),
        pytest.param("env", {"JUPYTERHUB_USER": "a\0b"}, id="nul"),
        pytest.param("env", {"JUPYTERHUB_USER": "\ud800"}, id="half-a-character"),
        pytest.param("env", {"JUPYTERHUB_USER": 1}, id="number"),
        pytest.param("user", ["jdoe"], id="list"),
        pytest.param("user", "jdoe/../asmith", id="path"),
        pytest.param("server", "../x", id="server-path"),
        pytest.param("server", f"{LAUNCH}\n", id="newline"),
    ],
)
def test_values_that_the_hub_may_not_send_are_refused(served: Served, field: str, value: object) -> None:
    body = {**VALID["start"], field: value}
    assert checked(*served.post("start", json.dumps(body).encode())) in NAMED
    assert not served.bed.docker.calls


@pytest.mark.parametrize("patience", [-1, 601, 10**400, "1", True, None, [], float("nan"), float("inf")], ids=str)
def test_the_patience_of_a_stop_is_a_number_of_seconds(served: Served, patience: object) -> None:
    body = {**VALID["stop"], "patience": patience}
    assert checked(*served.post("stop", json.dumps(body).encode())) is Kind.BAD_REQUEST


@pytest.mark.parametrize("service_id", ["x" * 65, "../x", "A", 1, None, "a b"], ids=str)
def test_the_id_of_a_stop_is_one_of_a_service(served: Served, service_id: object) -> None:
    body = {**VALID["stop"], "id": service_id}
    assert checked(*served.post("stop", json.dumps(body).encode())) is Kind.BAD_REQUEST


def test_a_large_request_is_refused(served: Served) -> None:
    for size, kind in [(MAX_BODY + 1, Kind.BAD_REQUEST), (10 * MAX_BODY, Kind.BAD_REQUEST)]:
        assert checked(*served.post("all", b" " * size)) is kind
    assert checked(*served.post("all", b"{" + b" " * (MAX_BODY - 10) + b"}")) is None


def test_a_compressed_request_is_no_way_around_the_limit(served: Served) -> None:
    import zlib

    async def call() -> tuple[int, Any]:
        data = zlib.compress(b" " * (50 * MAX_BODY))
        headers = {"Content-Encoding": "deflate"}
        async with served.http.post("http://launcher/all", data=data, headers=headers) as answer:
            return answer.status, await answer.json()

    assert checked(*served.run(call())) is Kind.BAD_REQUEST


def test_another_user_is_not_answered(launcher_settings: Settings, socket: str) -> None:
    async def serve() -> None:
        place = site("http://127.0.0.1:1")
        async with launcher_bed(launcher_settings, place, socket, hub_uid=os.getuid() + 1) as bed:
            for call in (bed.hub.all(), bed.hub.start("jdoe", LAUNCH, HUB_ENV), bed.hub.stop("jdoe", LAUNCH, 0)):
                with pytest.raises(RefusedError, match="only the hub") as caught:
                    await call
                assert caught.value.kind is Kind.BAD_REQUEST
            assert not bed.docker.calls

    asyncio.run(serve())


def test_the_peers_user_is_the_kernels_word() -> None:
    here, there = sockets.socketpair(sockets.AF_UNIX)
    with here, there:
        transport: Any = type("Transport", (), {"get_extra_info": lambda self, name: here})()
        request: Any = type("Request", (), {"transport": transport})()
        assert server._peer(request) == os.getuid()
        for gone in (None, type("Transport", (), {"get_extra_info": lambda self, name: None})()):
            request.transport = gone
            assert server._peer(request) == -1


def test_more_calls_than_the_launcher_takes_are_refused_and_others_go_on(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "AT_ONCE", 2)

    async def calls() -> list[Kind | None]:
        opened = asyncio.Event()

        async def wait(method: str, path: str) -> None:
            await opened.wait()

        served.bed.docker.before = wait
        waiting = [asyncio.create_task(served.bed.hub.all()) for _ in range(2)]
        await asyncio.sleep(0.05)
        kinds: list[Kind | None] = []
        try:
            await served.bed.hub.all()
        except RefusedError as error:
            kinds.append(error.kind)
        opened.set()
        await asyncio.gather(*waiting)
        await served.bed.hub.all()
        return kinds

    assert served.run(calls()) == [Kind.BUSY]


def test_half_a_request_holds_no_call(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "AT_ONCE", 1)
    monkeypatch.setattr(server, "READ_TIMEOUT", 0.2)

    async def calls() -> tuple[bytes, object]:
        reader, writer = await asyncio.open_unix_connection(served.socket)
        writer.write(b"POST /all HTTP/1.1\r\nHost: launcher\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(10):
            answer = await reader.readline()
            found = await served.bed.hub.all()
        writer.close()
        await writer.wait_closed()
        return answer, found

    answer, found = served.run(calls())
    assert b" 400 " in answer
    assert found == {}


def test_a_fault_of_the_launcher_is_one_calls_trouble(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def fault(method: str, path: str) -> None:
        raise ZeroDivisionError(HUB_TOKEN)

    served.bed.docker.before = fault
    status, answer = served.post("all", b"{}")
    assert (status, answer["kind"]) == (500, Kind.INTERNAL)
    assert HUB_TOKEN not in answer["message"]
    served.bed.docker.before = None
    assert checked(*served.post("all", b"{}")) is None


def test_the_hubs_variables_are_those_that_jupyterhub_gives() -> None:
    """What JupyterHub gives to every server, and the launcher does not take, would be missing there."""
    import inspect
    import re

    from jupyterhub.spawner import Spawner

    given_ = set(re.findall(r"env\[['\"]([A-Z_]+)['\"]\]", inspect.getsource(Spawner.get_env)))
    assert given_ - HUB_VARIABLES == {
        # Of options that jupyterhub_config.py does not set.
        "JUPYTERHUB_ADMIN_ACCESS", "MEM_LIMIT", "MEM_GUARANTEE", "CPU_LIMIT", "CPU_GUARANTEE",
        "JUPYTERHUB_SSL_KEYFILE", "JUPYTERHUB_SSL_CERTFILE", "JUPYTERHUB_SSL_CLIENT_CA", "JUPYTERHUB_ROOT_DIR",
        "JUPYTERHUB_DEBUG", "JUPYTERHUB_DISABLE_USER_CONFIG",
    }  # fmt: skip


def test_a_server_without_limits_of_xnat_gets_those_of_the_site(served: Served) -> None:
    served.options = {**PLAIN, "task_template": {**PLAIN["task_template"], "resources": None}}
    assert checked(*served.post("start", json.dumps(VALID["start"]).encode())) is None
    (service,) = served.bed.docker.services.values()
    limits = service["Spec"]["TaskTemplate"]["Resources"]["Limits"]
    assert limits == {"NanoCPUs": 2 * 10**9, "MemoryBytes": 4 * 2**30, "Pids": 4096}
