"""The launcher starts servers only on nodes whose guard runs, and they start only once it answers there."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from demo_xnat.state import State
from xnat_launcher import launches, service, swarm
from xnat_launcher.docker import SwarmError
from xnat_launcher.service import ENTRYPOINT, ENTRYPOINT_SCRIPT, WAIT_FOR_GUARD, keep_apart
from xnat_launcher.settings import Settings
from xnat_wire.launcher import Kind, RefusedError

from tests.unit.launcher_bed import HUB_ENV, LAUNCH, NO_LEAKS, Bed, demo_xnat, launcher_bed, store_launch

pytestmark = NO_LEAKS
GATEWAY = "10.0.0.1"
Check = Callable[[Bed, State], Awaitable[None]]


@pytest.fixture
def run(launcher_settings: Settings, tmp_path: Path, socket: str) -> Callable[[Check], Bed]:
    """Run a check with a launcher whose site has a guard."""

    def at_work(check: Check) -> Bed:
        async def serve() -> Bed:
            settings = replace(launcher_settings, guard=True)
            async with demo_xnat(tmp_path) as (place, state), launcher_bed(settings, place, socket) as bed:
                bed.docker.network["IPAM"]["Config"][0]["Gateway"] = GATEWAY
                store_launch(state, "jdoe", LAUNCH)
                await check(bed, state)
                bed.check()
            return bed

        return asyncio.run(serve())

    return at_work


def node(name: str, state: str = "ready") -> dict[str, Any]:
    return {"ID": name, "Spec": {"Role": "worker", "Availability": "active"}, "Status": {"State": state}}


def guard(on: str, state: str = "running", service: str = "jupyterhub-guard") -> dict[str, Any]:
    return {
        "Name": f"{service}.{on}.x", "NodeID": on, "DesiredState": "running", "Status": {"State": state}, "Spec": {},
        "CreatedAt": "2026-01-01T00:00:00Z", "Service": service,
    }  # fmt: skip


def constraints(bed: Bed) -> list[str]:
    (made,) = bed.docker.services.values()
    return list(made["Spec"]["TaskTemplate"]["Placement"]["Constraints"])


@pytest.mark.parametrize(
    ("nodes", "tasks", "excluded"),
    [
        ([node("a"), node("b")], [guard("a"), guard("b")], []),
        ([node("a"), node("b"), node("c")], [guard("a")], ["b", "c"]),
        ([node("a"), node("b")], [guard("a"), guard("b", "starting")], ["b"]),
        ([node("a"), node("b")], [guard("a"), guard("b", "failed"), guard("b")], []),
        ([node("a"), node("b", "down")], [guard("a"), guard("b")], ["b"]),
        ([node("a"), node("b")], [guard("a"), guard("b", service="jupyterhub-guardian")], ["b"]),
    ],
    ids=["all", "one", "not-healthy", "restarted", "down", "another-service"],
)
def test_nodes_without_a_running_guard_are_excluded(
    run: Callable[[Check], Bed], nodes: list[dict[str, Any]], tasks: list[dict[str, Any]], excluded: Sequence[str]
) -> None:
    async def check(bed: Bed, state: State) -> None:
        bed.docker.nodes, bed.docker.tasks = nodes, tasks
        await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        assert [each for each in constraints(bed) if "node.id" in each] == [f"node.id!={name}" for name in excluded]

    run(check)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have waits take no time."""
    monkeypatch.setattr(swarm, "GUARDS_AGE", 0.0)
    monkeypatch.setattr(launches, "GUARD_PATIENCE", 0.0)


def test_a_start_waits_for_a_guard_that_is_restarted(
    run: Callable[[Check], Bed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "GUARD_PATIENCE", 10.0)
    monkeypatch.setattr(launches, "GUARDS_AGE", 0.01)

    async def check(bed: Bed, state: State) -> None:
        bed.docker.nodes = [node("a")]
        start = asyncio.create_task(bed.hub.start("jdoe", LAUNCH, HUB_ENV))
        await asyncio.sleep(0.1)
        assert not start.done()
        bed.docker.tasks.append(guard("a"))
        await start

    run(check)


@pytest.mark.parametrize(("gateway", "tasks"), [(GATEWAY, []), (GATEWAY, [guard("a", "starting")]), ("", [guard("a")])])
def test_without_a_node_that_keeps_notebooks_apart_nothing_is_started(
    run: Callable[[Check], Bed], gateway: str, tasks: list[dict[str, Any]]
) -> None:
    async def check(bed: Bed, state: State) -> None:
        bed.docker.nodes, bed.docker.tasks = [node("a")], tasks
        bed.docker.network["IPAM"]["Config"][0]["Gateway"] = gateway
        with pytest.raises(RefusedError) as caught:
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        assert caught.value.kind is Kind.UNGUARDED
        assert "site.yml" in str(caught.value)
        assert not bed.docker.services
        assert not bed.docker.secrets

    run(check)


def test_a_docker_that_does_not_list_the_guards_refuses_the_start(run: Callable[[Check], Bed]) -> None:
    async def check(bed: Bed, state: State) -> None:
        async def fail(method: str, path: str) -> None:
            if path == "/nodes":
                raise SwarmError("no leader")

        bed.docker.before = fail
        with pytest.raises(RefusedError) as caught:
            await bed.hub.start("jdoe", LAUNCH, HUB_ENV)
        assert caught.value.kind is Kind.DOCKER
        assert not bed.docker.services

    run(check)


def test_starts_at_once_ask_docker_once(run: Callable[[Check], Bed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "GUARDS_AGE", 60.0)

    async def check(bed: Bed, state: State) -> None:
        bed.docker.nodes, bed.docker.tasks = [node("a")], [guard("a")]
        names = [f"20260115T0930123{number:02}Z" for number in range(20)]
        for name in names:
            store_launch(state, "jdoe", name)
        await asyncio.gather(*(bed.hub.start("jdoe", name, HUB_ENV) for name in names))
        assert bed.docker.calls.count("GET /nodes") == 1

    run(check)


def test_the_server_waits_before_anything_of_the_launch_is_read() -> None:
    template = {"ContainerSpec": {"Command": list(ENTRYPOINT), "Args": ["x"]}, "Placement": {"Constraints": ["a==b"]}}
    kept = keep_apart(template, ["n2", "n1"], GATEWAY)
    assert kept["Placement"]["Constraints"] == ["a==b", "node.id!=n1", "node.id!=n2"]
    _, _, script, _ = kept["ContainerSpec"]["Command"]
    assert script.startswith("python3 -I -S -c ")
    assert f"{GATEWAY} {service.GUARD_PORT} || exit 1\n" in script
    assert script.endswith(ENTRYPOINT_SCRIPT)
    assert template["ContainerSpec"]["Command"] == list(ENTRYPOINT)


def waited(port: int, limit: str = "30") -> subprocess.CompletedProcess[str]:
    script = WAIT_FOR_GUARD.format(gateway="127.0.0.1", port=port).replace("+ 30", f"+ {limit}")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    shell = shutil.which("sh")
    assert shell
    return subprocess.run(
        [shell, "-c", f"{script}echo started"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("linger", [False, True], ids=["closed", "reset"])
def test_a_guard_that_answers_later_lets_the_server_start(linger: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))

        def answer() -> None:
            time.sleep(0.3)
            listener.listen()
            caller, _ = listener.accept()
            if linger:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            caller.close()

        thread = threading.Thread(target=answer)
        thread.start()
        done = waited(listener.getsockname()[1])
        thread.join()
    assert (done.returncode, done.stdout) == (0, "started\n")


def test_a_server_without_a_guard_ends_with_a_sentence() -> None:
    done = waited(1, "0.2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "keeps notebooks apart" in done.stderr
