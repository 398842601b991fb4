"""A service that was just changed: whether it was rolled back, and the log of the failed task."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from swarm_service_status import judge, judge_rollback, log_of

GONE_BACK = "and Swarm rolled back to the previous one"
SERVICE = {
    "UpdatedAt": "2026-01-02T00:00:00Z",
    "Spec": {"Mode": {"Replicated": {"Replicas": 2}}, "TaskTemplate": {"ContainerSpec": {"Image": "old"}}},
}


def task(
    state: str, error: str = "", *, at: int = 1, image: str = "old", desired: str = "running", on: str = "m1"
) -> dict[str, Any]:
    return {
        "ID": f"task{at}",
        "NodeID": on,
        "CreatedAt": f"2026-01-02T00:00:{at:02}Z",
        "DesiredState": desired,
        "Spec": {"ContainerSpec": {"Image": image}},
        "Status": {"State": state, "Timestamp": f"2026-01-02T00:01:{at:02}Z", **({"Err": error} if error else {})},
    }


def update(state: str) -> dict[str, Any]:
    return {"State": state, "StartedAt": "2026-01-02T00:00:05Z", "Message": "update rolled back"}


RUNS = [task("running"), task("running", at=2)]


@pytest.mark.parametrize(
    ("state", "updated", "expected"),
    [
        ("completed", True, (True, False, "running")),
        ("updating", True, (False, False, "running")),
        ("rollback_started", False, (False, False, "running")),
        ("rollback_completed", False, (True, False, "running")),  # of an earlier change
        ("rollback_started", True, (False, False, f"the new version failed (update rolled back), {GONE_BACK}")),
        ("rollback_completed", True, (False, True, f"the new version failed (update rolled back), {GONE_BACK}")),
        ("rollback_paused", True, (False, True, f"the new version failed (update rolled back), {GONE_BACK}")),
    ],
)
def test_a_roll_back_is_a_failure_of_the_change_that_was_just_made(
    state: str, updated: bool, expected: tuple[bool, bool, str]
) -> None:
    judged = judge({**SERVICE, "UpdateStatus": update(state)}, RUNS, 3, updated)
    assert (judged["converged"], judged["unrecoverable"], judged["state"]) == expected
    assert ("task" in judged) == (updated and state.startswith("rollback_"))


@pytest.mark.parametrize(
    ("tasks", "reason", "failed"),
    [
        ([], "update rolled back", ""),
        ([task("failed", "before", at=4)], "update rolled back", ""),
        ([task("failed", "exit 1", at=5), *RUNS], "exit 1", "task5"),
        ([task("failed", "first", at=6), task("rejected", "second", at=8), task("failed", "x", at=7)],
         "second", "task8"),
        ([task("complete", at=6)], "it ended", "task6"),
        ([task("shutdown", "told to", at=6)], "update rolled back", ""),
    ],
)  # fmt: skip
def test_the_newest_task_that_failed_since_the_change_is_the_reason(
    tasks: list[dict[str, Any]], reason: str, failed: str
) -> None:
    judged = judge_rollback(tasks, update("rollback_completed"))
    assert (judged["state"], judged["task"]) == (f"the new version failed ({reason}), {GONE_BACK}", failed)


@pytest.mark.parametrize(
    ("spec", "tasks", "expected"),
    [
        ({}, RUNS, (True, False, "running")),
        ({}, RUNS[:1], (False, False, "running")),
        ({"TaskTemplate": {"ContainerSpec": {"Image": "old"}, "ForceUpdate": 1}}, RUNS, (False, False, "no task yet")),
        ({}, [task("failed", "first", at=1), task("failed", "last", at=2), task("starting", at=3)],
         (False, False, "starting: last")),
        ({}, [task("failed", "early", at=1, image="new"), task("starting", at=3)], (False, False, "starting")),
    ],
)  # fmt: skip
def test_a_service_has_converged_with_all_its_tasks_and_tells_the_last_error(
    spec: dict[str, Any], tasks: list[dict[str, Any]], expected: tuple[bool, bool, str]
) -> None:
    judged = judge({**SERVICE, "Spec": {**SERVICE["Spec"], **spec}}, tasks, 3)  # type: ignore[dict-item]
    assert (judged["converged"], judged["unrecoverable"], judged["state"]) == expected


BOTH = {"m1": "active", "m2": "active"}
ONE_PAUSED = {"m1": "active", "m2": "pause"}
ONE_DOWN = {"m1": "active"}


def failed(number: int) -> list[dict[str, Any]]:
    """Tasks of m1 and m2 that have failed, in turn, and one each that starts."""
    ended = [task("failed", on=f"m{at % 2 + 1}", at=at, desired="shutdown") for at in range(number)]
    return [*ended, task("starting", on="m1", at=number), task("starting", on="m2", at=number)]


@pytest.mark.parametrize(
    ("ready", "status", "tasks", "expected"),
    [
        pytest.param(BOTH, "", [task("running"), task("running", on="m2")], (True, False), id="all"),
        pytest.param(BOTH, "", [task("running"), task("starting", on="m2")], (False, False), id="one-starts"),
        pytest.param(BOTH, "", [task("running"), task("running", on="m2", image="x")], (False, False), id="one-old"),
        pytest.param(BOTH, "", [], (False, False), id="none-yet"),
        pytest.param(ONE_DOWN, "", [task("running"), task("running", on="m2")], (True, False), id="one-down"),
        pytest.param(ONE_PAUSED, "", [task("running"), task("running", on="m2", image="x")], (True, False),
                     id="one-paused-and-old"),
        pytest.param({"m1": "pause"}, "", [task("running")], (True, False), id="paused"),
        pytest.param({"m1": "pause"}, "", [task("running", image="x")], (False, False), id="paused-and-old"),
        pytest.param(BOTH, "updating", [task("running"), task("running", on="m2")], (False, False), id="watched"),
        pytest.param(BOTH, "", [task("running"), task("new", on="m2", desired="ready")], (False, False),
                     id="one-waits"),
        pytest.param(ONE_DOWN, "updating", [task("running"), task("new", on="m2")], (True, False), id="lost-in-update"),
        pytest.param(BOTH, "", failed(3), (False, False), id="three-tries-on-two"),
        pytest.param(BOTH, "", failed(6), (False, True), id="six-tries-on-two"),
    ],
)  # fmt: skip
def test_a_global_service_runs_on_the_nodes_that_are_ready(
    ready: dict[str, str], status: str, tasks: list[dict[str, Any]], expected: tuple[bool, bool]
) -> None:
    service = {**SERVICE, "Spec": {**SERVICE["Spec"], "Mode": {"Global": {}}}}  # type: ignore[dict-item]
    judged = judge({**service, "UpdateStatus": update(status)}, tasks, 3, ready=ready)
    assert (judged["converged"], judged["unrecoverable"]) == expected


def test_a_share_of_the_nodes_may_be_enough_for_a_global_service() -> None:
    service = {**SERVICE, "Spec": {**SERVICE["Spec"], "Mode": {"Global": {}}}}  # type: ignore[dict-item]
    ready = dict.fromkeys(("n1", "n2", "n3"), "active")
    tasks = [{**RUNS[0], "NodeID": "n1"}, {**RUNS[0], "NodeID": "n2"}]
    lacking = {**RUNS[0], "NodeID": "n3", "Status": {"State": "rejected", "Err": "No such image"}}
    converged = [judge(service, [*tasks, lacking], 3, ready=ready, share=share)["converged"] for share in (0.5, 1.0)]
    assert converged == [True, False]
    assert not judge(service, [tasks[0], lacking, {**lacking, "NodeID": "n2"}], 3, ready=ready, share=0.5)["converged"]


def test_the_log_is_that_of_the_service_or_of_the_task_that_failed() -> None:
    asked: list[tuple[str, int, int]] = []

    @contextmanager
    def get(url: str, params: dict[str, int], **_: Any) -> Iterator[Any]:
        asked.append((url, params["details"], params["tail"]))
        prefix = b"com.docker.swarm.node.id=n,com.docker.swarm.task.id="
        parts = [b"one\ntw", b"o\nthree \xff\n"]
        if params["details"]:
            parts = [prefix + b"t1 of one\n", prefix + b"t2 of " + prefix + b"t1\n", prefix + b"t1 more words\n"]
        framed = b"".join(b"\1\0\0\0" + len(part).to_bytes(4, "big") + part for part in parts)
        yield SimpleNamespace(raw=io.BytesIO(framed))

    client = SimpleNamespace(base_url="http+docker://localhost", api_version="1.45", get=get)
    assert log_of(client, "hub", "", 2) == ["two", "three \ufffd"]
    assert log_of(client, "hub", "t1", 20) == ["of one", "more words"]
    assert log_of(client, "hub", "t1", 1) == ["more words"]
    url = "http+docker://localhost/v1.45/services/hub/logs"
    assert asked == [(url, 0, 20), (url, 1, 200), (url, 1, 10)]
