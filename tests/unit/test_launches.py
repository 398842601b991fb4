"""The launcher behind its socket: what it starts, answers, stops and logs, and what remains after a failure."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from demo_xnat.faults import Faults
from demo_xnat.state import State
from xnat_hub.launcher import Launcher
from xnat_launcher import __main__ as program
from xnat_launcher import launches, swarm
from xnat_launcher.docker import SwarmError, UnreachableError
from xnat_launcher.launches import WORDS, _workspace_only
from xnat_launcher.options import parse_launch
from xnat_launcher.policy import allowed_mounts
from xnat_launcher.service import LABEL, former_service_name, service_name
from xnat_launcher.settings import Settings
from xnat_wire.launcher import Kind, Limits, RefusedError, Standing

from tests.unit.conftest import SAMPLES
from tests.unit.launcher_bed import (
    HUB_ENV,
    HUB_TOKEN,
    IMAGE_ID,
    LAUNCH,
    NO_LEAKS,
    Bed,
    MemoryDocker,
    demo_xnat,
    launcher_bed,
    service_account,
    site,
    store_launch,
    until,
)
from tests.unit.test_demo_xnat import SERVICE_PASSWORD

pytestmark = NO_LEAKS
NAME = service_name("jupyterhub", "jdoe", LAUNCH)
Check = Callable[[Bed, State], Awaitable[None]]
Run = Callable[[Check], Bed]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have looks take no time."""
    monkeypatch.setattr(swarm, "LOOK", 0.001)
    monkeypatch.setattr(swarm, "NODES_AGE", 0.0)
    monkeypatch.setattr(swarm, "ADDRESSES_AGE", 0.0)


@pytest.fixture
def run(launcher_settings: Settings, tmp_path: Path, socket: str) -> Run:
    """Run a check with a launcher and a demo XNAT that has a launch of jdoe."""

    def at_work(check: Check) -> Bed:
        async def serve() -> Bed:
            async with demo_xnat(tmp_path) as (place, state), launcher_bed(launcher_settings, place, socket) as bed:
                store_launch(state, "jdoe", LAUNCH)
                await check(bed, state)
                bed.check()
                assert not bed.launcher._under_way
            return bed

        return asyncio.run(serve())

    return at_work


async def refused(call: Awaitable[object]) -> Kind:
    """Return why a call is refused."""
    with pytest.raises(RefusedError) as caught:
        await call
    assert str(caught.value).endswith(".")
    return caught.value.kind


def audited(bed: Bed) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bed.audit]


def test_a_server_is_started_seen_and_stopped(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        assert await bed.hub.start("jdoe", LAUNCH, HUB_ENV) == (NAME, 8888)
        (service,) = bed.docker.services.values()
        assert await bed.hub.all() == {("jdoe", LAUNCH): service["ID"]}
        assert await bed.hub.lives("jdoe", LAUNCH)
        seen = await bed.hub.one("jdoe", LAUNCH)
        assert (seen.state, seen.words, seen.failed, seen.ended) == ("running", WORDS["running"], "", None)
        assert await bed.hub.standing("jdoe", LAUNCH) is Standing.ALLOWED
        bed.check()
        assert await bed.hub.stop("jdoe", LAUNCH, 5)
        assert not bed.docker.services
        assert not bed.docker.secrets
        assert await bed.hub.all() == {}
        assert await bed.hub.stop("jdoe", LAUNCH, 5)

    bed = run(check)
    assert [(line["event"], line["user"], line["server"], line["service"]) for line in audited(bed)] == [
        ("launch", "jdoe", LAUNCH, NAME),
        ("stop", "jdoe", LAUNCH, NAME),
    ]
    launch, stop = audited(bed)
    assert launch["mounts"] == [
        {"source": "/srv/xnat/workspaces/users/jdoe", "target": "/workspace/jdoe", "mode": "rw"}
    ]
    assert (launch["result"], launch["project"], launch["item"]) == ("started", "DEMO_MR", "DEMO_MR")
    assert (launch["xsi_type"], launch["image"], launch["image_id"]) == ("xnat:projectData", "localhost/x:1", IMAGE_ID)
    assert (stop["project"], stop["by"]) == ("DEMO_MR", "hub")


def test_no_secret_is_in_service_audit_or_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def check(bed: Bed, state: State) -> None:
        env = store_launch(state, "jdoe", LAUNCH)
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        bed.docker.logs[NAME] = f"a {env['XNAT_PASS']} b {HUB_TOKEN}{env['XNAT_USER']}\x1b[0m\n ä ".encode()
        log = await bed.hub.log("jdoe", LAUNCH)
        assert log.splitlines()[0].startswith("a *** b ******")
        assert log.endswith("ä")
        assert "\x1b" not in log
        services = json.dumps(list(bed.docker.services.values()))
        for secret in (env["XNAT_PASS"], env["XNAT_USER"], HUB_TOKEN):
            assert secret not in services
            assert secret not in log
            assert secret not in "".join(bed.audit)
            assert secret not in caplog.text
        (kept,) = bed.docker.secrets.values()
        assert kept["Spec"]["Data"]

    run(check)


def test_a_launcher_that_was_restarted_shows_nothing_of_a_log_whose_secrets_it_does_not_know(
    run: Run, launcher_settings: Settings, socket: str
) -> None:
    async def check(bed: Bed, state: State) -> None:
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        bed.docker.logs[NAME] = HUB_TOKEN.encode()
        bed.docker.set_state(State="starting")
        async with launcher_bed(launcher_settings, site("http://127.0.0.1:1"), f"{socket}2", bed.docker) as later:
            assert (await later.hub.one("jdoe", LAUNCH)).state == "starting"  # by which it is known
            assert await later.hub.log("jdoe", LAUNCH) == ""

    run(check)


def test_two_starts_of_one_server_leave_one(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        starts = [bed.hub.start("jdoe", LAUNCH, HUB_ENV) for _ in range(5)]
        assert set(await asyncio.gather(*starts)) == {(NAME, 8888)}
        assert len(bed.docker.services) == len(bed.docker.secrets) == 1

    run(check)


class Gate:
    """Holds the first call that contains `call` until it is opened."""

    def __init__(self, call: str) -> None:
        self._call = call
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, method: str, path: str) -> None:
        if self._call in f"{method} {path}" and not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()


@pytest.mark.parametrize("made", ["secrets", "services"])
def test_a_stop_during_the_creation_leaves_nothing(run: Run, made: str) -> None:
    async def check(bed: Bed, state: State) -> None:
        gate = bed.docker.before = Gate(f"POST /{made}/create")
        start = asyncio.create_task(bed.hub.start("jdoe", LAUNCH, HUB_ENV))
        await gate.reached.wait()
        stop = asyncio.create_task(bed.hub.stop("jdoe", LAUNCH, 5))
        await asyncio.sleep(0.01)
        assert not stop.done()
        gate.opened.set()
        assert await stop
        await start
        assert not bed.docker.services
        assert not bed.docker.secrets

    run(check)


class SlowAccount:
    """A service account that XNAT lets wait."""

    def __init__(self, bed: Bed) -> None:
        self.asked, self.answered = asyncio.Event(), asyncio.Event()
        self._real = bed.xnat.user_options
        bed.xnat.user_options = self._ask  # type: ignore[method-assign]

    async def _ask(self, username: str, server_name: str) -> dict[str, Any]:
        self.asked.set()
        await self.answered.wait()
        return await self._real(username, server_name)


def test_a_stop_while_xnat_is_asked_is_at_once_and_ends_the_start(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        slow = SlowAccount(bed)
        start = asyncio.create_task(bed.hub.start("jdoe", LAUNCH, HUB_ENV))
        await slow.asked.wait()
        assert await bed.hub.stop("jdoe", LAUNCH, 5)
        later = asyncio.create_task(bed.hub.start("jdoe", LAUNCH, HUB_ENV))
        await asyncio.sleep(0.01)
        slow.answered.set()
        assert await refused(start) is Kind.STOPPED
        assert await later == (NAME, 8888)  # which was asked for after the stop

    run(check)


@pytest.mark.parametrize("stopped", [False, True], ids=["hub-killed", "start-cancelled"])
def test_a_hub_that_goes_away_during_a_start_leaves_what_the_reconciler_finds(run: Run, stopped: bool) -> None:
    async def check(bed: Bed, state: State) -> None:
        slow = SlowAccount(bed)
        start = asyncio.create_task(bed.hub.start("jdoe", LAUNCH, HUB_ENV))
        await slow.asked.wait()
        start.cancel()
        with suppress(asyncio.CancelledError):
            await start
        if stopped:  # what the spawner does then
            await bed.hub.stop("jdoe", LAUNCH, 0)
        slow.answered.set()
        await until(lambda: not bed.launcher._under_way)
        found = await Launcher(bed.socket).all()
        assert set(found) == (set() if stopped else {("jdoe", LAUNCH)})
        for (user, server), service_id in found.items():
            await Launcher(bed.socket).stop(user, server, 0, service_id)
        assert not bed.docker.services
        assert not bed.docker.secrets

    run(check)


def test_an_orphan_is_stopped_by_its_services_id_and_a_newer_server_is_not(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        orphan = (await bed.hub.all())["jdoe", LAUNCH]
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        current = (await bed.hub.all())["jdoe", LAUNCH]
        assert orphan != current
        await bed.hub.stop("jdoe", LAUNCH, 0, orphan)
        assert await bed.hub.all() == {("jdoe", LAUNCH): current}
        assert len(bed.docker.secrets) == 1
        slow = SlowAccount(bed)
        start = asyncio.create_task(bed.hub.start("jdoe", LAUNCH, HUB_ENV))
        await slow.asked.wait()
        await bed.hub.stop("jdoe", LAUNCH, 0, current)
        slow.answered.set()
        assert await start == (NAME, 8888)

    run(check)


OTHERS_LABELS = {
    "proxy": {f"{LABEL}.deployment": "jupyterhub"},
    "no label": {},
    "another person's": {f"{LABEL}.deployment": "jupyterhub", f"{LABEL}.user": "asmith", f"{LABEL}.server": LAUNCH},
    "another deployment's": {f"{LABEL}.deployment": "other", f"{LABEL}.user": "jdoe", f"{LABEL}.server": LAUNCH},
}


@pytest.mark.parametrize("labels", OTHERS_LABELS.values(), ids=OTHERS_LABELS)
def test_no_service_but_the_servers_own_is_removed_by_its_id(run: Run, labels: dict[str, str]) -> None:
    async def check(bed: Bed, state: State) -> None:
        other = await bed.docker.create(
            "services", {"Name": "other", "Labels": labels, "TaskTemplate": {"ContainerSpec": {"Secrets": []}}}
        )
        for service_id in (other, "0" * 25):
            await bed.hub.stop("jdoe", LAUNCH, 0, service_id)
        await bed.docker.delete("services", other)  # raises where there is none any more

    run(check)


def test_a_launcher_that_is_killed_between_secret_and_service_leaves_a_secret_that_is_removed_in_time(
    run: Run, launcher_settings: Settings, socket: str
) -> None:
    async def check(bed: Bed, state: State) -> None:
        gate = bed.docker.before = Gate("POST /services/create")
        start = asyncio.create_task(bed.launcher.start("jdoe", LAUNCH, HUB_ENV))
        await gate.reached.wait()
        bed.docker.age(launches.LONE + 60)  # as clocks may differ
        await bed.launcher.tidy()
        assert len(bed.docker.secrets) == 1  # that of a start under way
        start.cancel()
        with suppress(asyncio.CancelledError):
            await start
        bed.docker.before = None
        async with launcher_bed(launcher_settings, site("http://127.0.0.1:1"), f"{socket}2", bed.docker) as later:
            bed.docker.age(launches.LONE - 60)
            await later.launcher.tidy()
            assert len(bed.docker.secrets) == 1
            bed.docker.age(launches.LONE + 60)
            await later.launcher.tidy()
            assert not bed.docker.secrets

    run(check)


def test_tidying_leaves_secrets_of_services_and_of_others_alone(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        ours = {"org.xnat.jupyterhub.deployment": "jupyterhub"}
        others = {"org.xnat.jupyterhub.deployment": "other", "org.xnat.jupyterhub.user": "jdoe"}
        for name, marks in (("the-hubs-cookie", ours), ("other-x-env", others)):
            await bed.docker.create("secrets", {"Name": name, "Data": "", "Labels": marks})
        bed.docker.age(10**6)
        await bed.launcher.tidy()
        assert len(bed.docker.secrets) == 3

    run(check)


def test_old_starts_and_their_secrets_are_forgotten(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(bed: Bed, state: State) -> None:
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        assert set(bed.launcher._starts) == {NAME}
        monkeypatch.setattr(launches, "REMEMBERED", 0.0)
        await bed.launcher.tidy()
        assert not bed.launcher._starts

    run(check)


def test_a_service_of_that_name_from_before_is_replaced(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        await bed.docker.create("secrets", {"Name": f"{NAME}-env", "Data": "", "Labels": {}})
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        assert len(bed.docker.services) == len(bed.docker.secrets) == 1

    run(check)


FORMER = former_service_name("jupyterhub", "jdoe", LAUNCH)


async def former(bed: Bed) -> None:
    """Have the service and the secret of a server of a release whose names showed the user's."""
    await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
    for found in [*bed.docker.services.values(), *bed.docker.secrets.values()]:
        found["Spec"]["Name"] = found["Spec"]["Name"].replace(NAME, FORMER)
    for task in bed.docker.tasks:
        task["Name"] = f"{FORMER}.1.x"
    for reference in next(iter(bed.docker.services.values()))["Spec"]["TaskTemplate"]["ContainerSpec"]["Secrets"]:
        reference["SecretName"] = f"{FORMER}-env"


def test_a_server_of_a_former_release_is_seen_judged_logged_and_stopped(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(bed: Bed, state: State) -> None:
        await former(bed)
        (service,) = bed.docker.services.values()
        assert await bed.hub.all() == {("jdoe", LAUNCH): service["ID"]}
        assert (await bed.hub.one("jdoe", LAUNCH)).state == "running"
        assert await bed.hub.lives("jdoe", LAUNCH)
        bed.docker.logs[FORMER] = b"a line"
        assert await bed.hub.log("jdoe", LAUNCH) == "a line"
        bed.docker.nodes = [NODE]
        bed.docker.set_state(State="pending", Err="no suitable node")
        monkeypatch.setattr(launches, "GRACE", -1.0)
        await bed.hub.one("jdoe", LAUNCH)
        assert "no node has label jupyter=true" in (await bed.hub.one("jdoe", LAUNCH)).failed
        bed.docker.age(launches.LONE + 60)
        await bed.launcher.tidy()
        assert len(bed.docker.secrets) == 1
        assert await bed.hub.stop("jdoe", LAUNCH, 5)
        assert not bed.docker.services
        assert not bed.docker.secrets

    run(check)


def test_a_server_of_a_former_release_is_stopped_by_its_id_or_replaced(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        await former(bed)
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        assert [found["Spec"]["Name"] for found in bed.docker.services.values()] == [NAME]
        assert [found["Spec"]["Name"] for found in bed.docker.secrets.values()] == [f"{NAME}-env"]
        await former(bed)
        await bed.hub.stop("jdoe", LAUNCH, 0, (await bed.hub.all())["jdoe", LAUNCH])
        assert not bed.docker.services
        assert not bed.docker.secrets

    run(check)


def test_a_replaced_server_of_a_former_release_ends_before_the_new_one_starts(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        await former(bed)
        bed.docker.lingers = True
        start = asyncio.create_task(bed.hub.start("jdoe", LAUNCH, HUB_ENV))
        await until(lambda: not bed.docker.services)
        await asyncio.sleep(0.02)
        assert not bed.docker.services
        bed.docker.set_state(State="shutdown")
        await start
        assert len(bed.docker.services) == 1

    run(check)


def test_home_is_the_directory_that_the_site_says_unless_the_root_is_writable(
    run: Run, launcher_settings: Settings, socket: str
) -> None:
    async def check(bed: Bed, state: State) -> None:
        for read_only, expected in ((True, ["HOME=/home/jovyan"]), (False, [])):
            bed.launcher._settings = replace(launcher_settings, read_only=read_only)
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            (service,) = bed.docker.services.values()
            env = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]
            assert [line for line in env if line.startswith("HOME=")] == expected
        await bed.hub.stop("jdoe", LAUNCH, 0)

    run(check)


@pytest.mark.parametrize("call", ["POST /secrets/create", "POST /services/create"])
@pytest.mark.parametrize("error", [SwarmError("no"), UnreachableError("no")], ids=["refused", "away"])
def test_a_start_that_docker_refuses_leaves_nothing(run: Run, call: str, error: SwarmError) -> None:
    async def check(bed: Bed, state: State) -> None:
        async def before(method: str, path: str) -> None:
            if f"{method} {path}" == call:
                raise error

        bed.docker.before = before
        assert await refused(bed.hub.start("jdoe", LAUNCH, HUB_ENV)) is Kind.DOCKER
        assert not bed.docker.services
        assert not bed.docker.secrets

    bed = run(check)
    started, failed = audited(bed)
    assert (started["result"], failed["result"], failed["kind"], failed["begun"]) == (
        "started", "failed", "docker", True,
    )  # fmt: skip
    assert not bed.launcher._watch._servers


def test_an_engine_that_is_away_is_said_by_every_call(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)

        async def before(method: str, path: str) -> None:
            raise UnreachableError("away")

        bed.docker.before = before
        calls = [
            bed.hub.start("jdoe", LAUNCH, HUB_ENV), bed.hub.one("jdoe", LAUNCH), bed.hub.all(),
            bed.hub.lives("jdoe", LAUNCH), bed.hub.stop("jdoe", LAUNCH, 1), bed.hub.log("jdoe", LAUNCH),
        ]  # fmt: skip
        assert {await refused(call) for call in calls} == {Kind.DOCKER}
        bed.docker.before = None
        assert len(bed.docker.services) == 1  # nothing that runs ends by it

    run(check)


OTHERS = {"source": "/srv/xnat/workspaces/users/asmith", "target": "/workspace/x", "type": "bind", "read_only": False}


@pytest.mark.parametrize(
    ("user", "server", "changes", "kind", "fact"),
    [
        pytest.param("jdoe", "old", {}, Kind.NO_LAUNCH, "no such launch", id="no-launch"),
        pytest.param("nobody", LAUNCH, {}, Kind.NO_LAUNCH, "no such launch", id="unknown-user"),
        pytest.param("jdoe", "", {}, Kind.DEFAULT_SERVER, "XNAT", id="default-server"),
        pytest.param("jdoe", "my server", {}, Kind.NAME, "'my server'", id="server-name"),
        pytest.param("auth0:1", LAUNCH, {}, Kind.NAME, "'auth0:1'", id="user-name"),
        pytest.param("j\xa0doe", LAUNCH, {}, Kind.NAME, "'j\\xa0doe'", id="not-printable"),
        pytest.param("jdoe", LAUNCH, {"image": "evil:1"}, Kind.OPTIONS, "'evil:1'", id="image"),
        pytest.param("jdoe", LAUNCH, {"env": {"A": 1}}, Kind.OPTIONS, "env.A", id="variable"),
        pytest.param("jdoe", LAUNCH, {"mounts": [OTHERS]}, Kind.MOUNTS, "users/asmith", id="mount"),
    ],
)
def test_what_cannot_be_started_is_refused_in_words(
    run: Run, user: str, server: str, changes: dict[str, Any], kind: Kind, fact: str
) -> None:
    async def check(bed: Bed, state: State) -> None:
        store_launch(state, "jdoe", LAUNCH, **changes)
        with pytest.raises(RefusedError) as caught:
            await bed.hub.start(user, server, HUB_ENV)
        assert caught.value.kind is kind
        assert fact in str(caught.value)
        assert not [call for call in bed.docker.calls if not call.startswith("GET")]

    bed = run(check)
    lines = [(line["event"], line["result"], line["kind"], line["begun"]) for line in audited(bed)]
    by_its_name = (user != "jdoe" and kind is Kind.NAME) or " " in server  # refused before anything is asked for
    assert lines == ([] if by_its_name else [("launch", "refused", kind, False)])
    assert all(fact in line["reason"] for line in audited(bed))


def test_a_refusal_of_any_length_is_cut(run: Run) -> None:
    async def check(bed: Bed, state: State) -> None:
        mount = {"source": f"/{'x' * 50_000}", "target": "/data/x", "type": "bind", "read_only": True}
        store_launch(state, "jdoe", LAUNCH, mounts=[mount])
        assert await refused(Launcher(bed.socket).stop("jdoe", LAUNCH, -1)) is Kind.BAD_REQUEST
        with pytest.raises(RefusedError) as caught:
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        assert len(str(caught.value)) < 3000

    assert len(run(check).audit[-1]) < 3000


@pytest.mark.parametrize(
    ("password", "kind"), [("wrong", Kind.SERVICE_ACCOUNT), ("", Kind.XNAT)], ids=["wrong-password", "away"]
)
def test_an_xnat_that_does_not_serve_the_launcher_is_told_from_a_refusal(
    launcher_settings: Settings, tmp_path: Path, socket: str, password: str, kind: Kind
) -> None:
    async def serve() -> None:
        async with (
            demo_xnat(tmp_path) as (place, _),
            launcher_bed(launcher_settings, place if password else site("http://127.0.0.1:1"), socket) as bed,
        ):
            bed.launcher._xnat = account = service_account(bed.xnat._rest.site, password)
            assert await refused(bed.hub.start("jdoe", LAUNCH, HUB_ENV)) is kind
            assert await refused(bed.hub.standing("jdoe", LAUNCH)) is Kind.XNAT
            await account.close()
            assert not bed.docker.calls
        assert [(line["result"], line["kind"]) for line in audited(bed)] == [("failed", kind)]

    asyncio.run(serve())


def test_the_server_without_a_name_gets_its_workspace_and_no_data(launcher_settings: Settings) -> None:
    body = copy.deepcopy(next(sample for sample in SAMPLES if sample["name"] == "project_plain")["response"]["body"])
    body["servername"] = ""
    mounts = body["task_template"]["container_spec"]["mounts"]
    mounts += [None, {"target": "/workspaces"}, {"target": "/workspace/../data"}, {"target": None}]
    launch = _workspace_only(parse_launch(body, ""))
    targets = [mount["target"] for mount in launch.mounts]
    assert targets == ["/workspace/jdoe", "/workspace/../data"]  # the policy refuses the second
    made = allowed_mounts(launch.mounts[:1], launcher_settings.roots, "jdoe")
    assert [mount.source for mount in made] == ["/srv/xnat/workspaces/users/jdoe"]


def test_the_server_without_a_name_is_started_where_the_site_allows_it(
    launcher_settings: Settings, tmp_path: Path, socket: str
) -> None:
    async def serve() -> None:
        allowing = replace(launcher_settings, default_server="workspace", ca_config_id="C", ca_config_name="ca")
        async with demo_xnat(tmp_path) as (place, state), launcher_bed(allowing, place, socket) as bed:
            store_launch(state, "jdoe", "")
            await bed.hub.start("jdoe", "", HUB_ENV)
            assert set(await bed.hub.all()) == {("jdoe", "")}
            (service,) = bed.docker.services.values()
            container = service["Spec"]["TaskTemplate"]["ContainerSpec"]
            assert "REQUESTS_CA_BUNDLE=/etc/xnat-hub/ca.crt" in container["Env"]
            assert "JUPYTERHUB_ALLOW_TOKEN_IN_URL=1" in container["Env"]
            assert "JUPYTERHUB_XNAT_BUSY_IS_ACTIVITY=1" in container["Env"]
            assert "JUPYTER_IMAGE_SPEC=localhost/x:1" in container["Env"]
            assert container["Configs"][0]["ConfigID"] == "C"
            assert await bed.hub.stop("jdoe", "", 5)

    asyncio.run(serve())


def test_xnat_cannot_change_whether_a_busy_kernel_is_activity(
    launcher_settings: Settings, tmp_path: Path, socket: str
) -> None:
    async def serve() -> None:
        quiet = replace(launcher_settings, busy_is_activity=False)
        async with demo_xnat(tmp_path) as (place, state), launcher_bed(quiet, place, socket) as bed:
            store_launch(state, "jdoe", LAUNCH, env={"JUPYTERHUB_XNAT_BUSY_IS_ACTIVITY": "1"})
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            (service,) = bed.docker.services.values()
            lines = service["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"]
            assert [line for line in lines if "BUSY" in line] == ["JUPYTERHUB_XNAT_BUSY_IS_ACTIVITY=0"]

    asyncio.run(serve())


def test_the_hub_learns_xnats_limits_and_xnat_is_asked_once_for_all(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve() -> None:
        faults = Faults()
        async with (
            demo_xnat(tmp_path, faults=faults) as (place, _),
            launcher_bed(launcher_settings, place, socket) as bed,
        ):
            asked: list[str] = []
            get = bed.xnat._rest.get

            async def counting(session: Any, label: str, path: str) -> Any:
                asked.append(path.rpartition("/")[2])
                return await get(session, label, path)

            monkeypatch.setattr(bed.xnat._rest, "get", counting)
            faults.set([{"path": "/maxServerLifetime$", "status": 503}])
            with pytest.raises(RefusedError) as caught:
                await bed.hub.limits()
            assert caught.value.kind is Kind.XNAT
            faults.set([])
            asked.clear()
            expected = Limits(inactivity=3600.0, lifetime=172800.0)
            assert await asyncio.gather(*(bed.hub.limits() for _ in range(5))) == [expected] * 5
            assert asked == ["inactivityTimeout", "maxServerLifetime"]

    asyncio.run(serve())


NODE = {
    "ID": "node1", "Spec": {"Availability": "active", "Role": "worker"}, "Status": {"State": "ready"},
    "Description": {"Hostname": "w1", "Resources": {"NanoCPUs": 10**9, "MemoryBytes": 2**30}},
}  # fmt: skip
FAILED = {"State": "failed", "Err": "task: non-zero exit (3)", "ContainerStatus": {"ExitCode": 3}}


@pytest.mark.parametrize(
    ("status", "state", "fact", "failed", "ended"),
    [
        pytest.param({"State": "new"}, "new", WORDS["new"], False, None, id="new"),
        pytest.param({"State": "preparing"}, "preparing", WORDS["preparing"], False, None, id="preparing"),
        pytest.param({"State": "running"}, "running", WORDS["running"], False, None, id="running"),
        pytest.param(FAILED, "failed", "w1", False, 3, id="exit-code"),
        pytest.param({"State": "rejected", "Err": "No such image: x:1"}, "rejected", "x:1", False, "x:1", id="image"),
        pytest.param({"State": "pending", "Err": "no suitable node"}, "pending", "no node", True, None, id="no-node"),
    ],
)
def test_how_a_server_is_is_said_in_words(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    status: dict[str, Any],
    state: str,
    fact: str,
    failed: bool,
    ended: object,
) -> None:
    async def check(bed: Bed, _: State) -> None:
        bed.docker.nodes = [NODE]
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        bed.docker.set_state(**status)
        monkeypatch.setattr(launches, "GRACE", 60.0)
        first = await bed.hub.one("jdoe", LAUNCH)
        assert not first.failed  # not at once: Swarm may find a node yet
        monkeypatch.setattr(launches, "GRACE", -1.0)
        seen = await bed.hub.one("jdoe", LAUNCH)
        assert seen.state == first.state == state
        assert fact in (seen.failed or seen.words) or state in {"new", "preparing"}
        assert fact in first.words
        assert bool(seen.failed) is failed
        assert ended == seen.ended if isinstance(ended, int | None) else str(ended) in str(seen.ended)

    run(check)


@pytest.mark.parametrize(
    ("subnet", "failed", "fact"),
    [
        pytest.param("10.0.0.0/30", True, "no address left", id="full"),
        pytest.param("10.0.0.0/24", False, "waiting for an address on the network jupyterhub", id="waiting"),
    ],
)
def test_a_server_that_gets_no_address_ends_in_words_or_tells_what_it_waits_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, subnet: str, failed: bool, fact: str
) -> None:
    async def check(bed: Bed, _: State) -> None:
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        bed.docker.set_state(State="new")
        bed.docker.network["IPAM"]["Config"][0]["Subnet"] = subnet
        (service,) = bed.docker.services.values()
        service["Endpoint"] = {"VirtualIPs": [{"NetworkID": "N", "Addr": "10.0.0.2/24"}]}
        monkeypatch.setattr(launches, "GRACE", 60.0)
        assert (await bed.hub.one("jdoe", LAUNCH)).words == WORDS["new"]
        monkeypatch.setattr(launches, "GRACE", -1.0)
        seen = await bed.hub.one("jdoe", LAUNCH)
        assert bool(seen.failed) is failed
        assert fact in seen.words

    run(check)


def test_a_server_without_a_task_is_new_for_a_moment_and_then_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(bed: Bed, _: State) -> None:
        assert (await bed.hub.one("jdoe", LAUNCH)).state == "missing"
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        bed.docker.tasks.clear()
        assert (await bed.hub.one("jdoe", LAUNCH)).ended is None
        monkeypatch.setattr(launches, "GRACE", 0.0)
        seen = await bed.hub.one("jdoe", LAUNCH)
        assert (seen.state, seen.ended) == ("missing", "its service was removed")
        assert not await Launcher(bed.socket).lives("jdoe", LAUNCH)

    run(check)


def test_a_stop_waits_for_the_containers_end_as_long_as_it_is_told(run: Run) -> None:
    async def check(bed: Bed, _: State) -> None:
        bed.docker.lingers = True
        for patience in (0, 0.05):
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
            assert not await bed.hub.stop("jdoe", LAUNCH, patience)
            assert not bed.docker.secrets  # so that nothing is left if the launcher is killed while it waits
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        stop = asyncio.create_task(bed.hub.stop("jdoe", LAUNCH, 5))
        await asyncio.sleep(0.02)
        bed.docker.set_state(State="shutdown")
        assert await stop

    run(check)


def test_looks_of_one_moment_are_one_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(bed: Bed, _: State) -> None:
        monkeypatch.setattr(swarm, "LOOK", 0.1)
        bed.docker.calls.clear()
        await asyncio.gather(*(bed.hub.one("jdoe", f"s{number}") for number in range(30)))
        assert bed.docker.calls.count("GET /tasks") <= 2
        bed.docker.calls.clear()
        await asyncio.gather(*(bed.hub.lives("jdoe", f"s{number}") for number in range(30)))
        assert bed.docker.calls == ["GET /tasks"]

    run(check)


def test_the_end_of_the_launcher_logs_the_service_account_out_and_closes_everything(
    launcher_settings: Settings, tmp_path: Path, socket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audit").mkdir()
    monkeypatch.setattr(program, "DIRECTORY", str(tmp_path / "audit"))

    async def serve() -> None:
        async with demo_xnat(tmp_path) as (place, state):
            store_launch(state, "jdoe", LAUNCH)
            docker = MemoryDocker()
            settings = replace(launcher_settings, xnat=place)
            serving = asyncio.create_task(program.serve(settings, SERVICE_PASSWORD, Path(socket), docker))
            hub = Launcher(socket)
            await until(lambda: os.path.exists(Path(socket).with_name("alive")))
            await hub.start("jdoe", LAUNCH, HUB_ENV)
            assert state.session_count() == 1
            assert os.stat(socket).st_mode & 0o777 == 0o660
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
            assert state.session_count() == 0
            assert len(docker.services) == 1  # what runs goes on
            assert await refused(hub.all()) is Kind.AWAY

    asyncio.run(serve())
    (file,) = (tmp_path / "audit").glob("*.jsonl")
    assert "launch" in {json.loads(line)["event"] for line in file.read_text().splitlines()}
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("error", [SwarmError("x"), KeyError("x")], ids=["docker", "a-fault"])
def test_a_clean_up_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Failing:
        rounds = 0

        async def tidy(self) -> None:
            self.rounds += 1
            raise error

    async def rounds() -> int:
        monkeypatch.setattr(program, "TIDY_INTERVAL", 0.001)
        failing: Any = Failing()
        task = asyncio.create_task(program._tidy(failing))
        await asyncio.sleep(0.05)
        task.cancel()
        return int(failing.rounds)

    assert asyncio.run(rounds()) > 1


def test_the_program_ends_with_one_sentence_without_usable_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(program, "SETTINGS_FILE", str(tmp_path / "none.json"))
    with pytest.raises(SystemExit, match=r"none\.json"):
        program.main()


def test_the_hubs_calls_survive_a_launcher_that_answers_nonsense(socket: str) -> None:
    answers = iter([b"[]", b"{}", b"\xff", b'{"kind": "no", "message": 1}'])

    async def serve() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = next(answers)
            head = f"HTTP/1.1 500 x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(answer, socket)
        for _ in range(4):
            assert await refused(Launcher(socket).one("jdoe", LAUNCH)) is Kind.INTERNAL
        server.close()

    asyncio.run(serve())


def test_aiohttp_lets_a_call_go_on_when_its_caller_has_gone() -> None:
    """The launcher relies on it: what a start has made is recorded, so that a stop finds it."""
    assert aiohttp.web.AppRunner(aiohttp.web.Application())._kwargs.get("handler_cancellation", False) is False
