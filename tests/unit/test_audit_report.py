"""What `playbooks/audit.yml` makes of the audit log: which lines a node sends, and who had what until when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from module_utils.xnat_site.audit import name_hash, query, report, select
from tests.unit.conftest import ROOT

P1 = {"source": "/srv/xnat/archive/P1/arc001/S1", "target": "/data/projects/P1/experiments/S1", "mode": "ro"}
SHARED = {"source": "/srv/xnat/archive/P2/arc001/S2", "target": "/data/projects/P1/experiments/S2", "mode": "ro"}
NOBODY: dict[str, Any] = query({})
Record = dict[str, Any]


def at(day: int, time: str = "12:00:00") -> str:
    return f"2026-11-{day:02}T{time}.000Z"


def line(event: str, day: int, time: str = "12:00:00", **fields: Any) -> Record:
    return {"time": at(day, time), "event": event, "deployment": "jupyterhub", "schema": 1, **fields}


def of(user: str, project: str = "P1") -> Record:
    return {"user": user, "server": f"s-{user}", "service": f"jupyterhub-{user}", "project": project}


def launch(user: str, day: int, time: str = "12:00:00", project: str = "P1", **fields: Any) -> Record:
    wanted = {"item": "S1", "xsi_type": "xnat:mrSessionData", "mounts": [P1], "result": "started", **fields}
    return line("launch", day, time, **of(user, project), **wanted)


def running(user: str, day: int, time: str = "12:00:05", node: str = "w1", **fields: Any) -> Record:
    return line("running", day, time, **of(user), node=node, **fields)


def end(user: str, day: int, time: str = "13:00:10", **fields: Any) -> Record:
    return line("end", day, time, **of(user), **{"node": "w1", "at": "", "reason": "exit 0", **fields})


def stop(user: str, day: int, time: str = "13:00:00") -> Record:
    return line("stop", day, time, **of(user), by="hub")


def snapshot(day: int, *users: str, time: str = "00:00:01") -> list[Record]:
    """What the launcher writes on a new day, and at its start."""
    mark = at(day, time)
    return [
        *(running(user, day, time, round=mark) for user in users),
        line("snapshot", day, time, round=mark, count=len(users)),
    ]


class Node:
    """The files of one node. opened: the days that were read."""

    def __init__(self, *records: Record) -> None:
        self.files: dict[str, list[bytes]] = {}
        self.opened: list[str] = []
        for record in records:
            self.files.setdefault(record["time"][:10], []).append(json.dumps(record).encode() + b"\n")

    def read(self, day: str) -> Iterator[bytes]:
        self.opened.append(day)
        yield from self.files[day]

    def select(self, **asked: Any) -> list[Record]:
        lines, broken = select(self.files, self.read, **asked)
        assert broken == 0
        return lines


def answer(*nodes: Sequence[Record], **asked: Any) -> dict[str, Any]:
    """What is reported for lines of nodes w0, w1, ..."""
    results = {f"w{number}": {"found": True, "lines": lines, "broken": 0} for number, lines in enumerate(nodes)}
    return report(results, list(results), query({"project": "P1", **asked}))


def shown(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    return [(one["person"], one["from"], one["until"], one["state"]) for one in found["launches"]]


# ---- the question


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        pytest.param({}, ["missing"], id="nothing"),
        pytest.param({"project": " ", "until": "2026-11-01"}, ["missing"], id="blank"),
        pytest.param({"person": "jdoe", "since": "last week"}, ["time"], id="words"),
        pytest.param({"since": "2026-11-31", "until": "x"}, ["time", "time"], id="both-times"),
        pytest.param({"since": "2026-11-02", "until": "2026-11-01"}, ["order"], id="order"),
        pytest.param({"project": "P1", "audit_file": "/nowhere/a/b.json"}, ["file"], id="no-directory"),
        pytest.param({"project": "P1", "audit_file": "b.json"}, [], id="project"),
        pytest.param({"person": "jdoe"}, [], id="person"),
        pytest.param({"since": "2026-11-01"}, [], id="since"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_by_its_argument(arguments: Record, ids: list[str]) -> None:
    findings = query(arguments)["findings"]
    assert [finding["id"] for finding in findings] == ids
    assert all(finding["name"] in finding["text"] and finding["text"].endswith(".") for finding in findings)


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-11-28", "2026-11-28T00:00:00.000Z", "2026-11-28T23:59:59.999Z"),
        ("2026-11-28T14:30", "2026-11-28T14:30:00.000Z", "2026-11-28T14:30:00.000Z"),
        ("2026-11-28T14:30:01Z", "2026-11-28T14:30:01.000Z", "2026-11-28T14:30:01.000Z"),
        ("2026-11-28T01:00+02:00", "2026-11-27T23:00:00.000Z", "2026-11-27T23:00:00.000Z"),
    ],
)
def test_dates_and_times_are_utc(text: str, since: str, until: str) -> None:
    assert query({"since": text})["since"] == since
    assert query({"until": text})["until"] == until


# ---- what a node sends


def test_a_node_sends_the_lines_of_the_project_and_of_nobody_else() -> None:
    node = Node(
        line("log_in", 1, user="jdoe", source="192.0.2.1", result="ok", reason="accepted"),
        launch("jdoe", 1), running("jdoe", 1), stop("jdoe", 1), end("jdoe", 1),
        launch("asmith", 1, project="P3", mounts=[]), running("asmith", 1), end("asmith", 1),
        launch("rjones", 1, project="P1", mounts=[SHARED]), end("rjones", 1),
    )  # fmt: skip
    assert {record["user"] for record in node.select(project="P1")} == {"jdoe", "rjones"}
    assert [record["event"] for record in node.select(project="P1", person="jdoe")] == [
        "launch",
        "running",
        "stop",
        "end",
    ]
    assert {record["user"] for record in node.select(project="P2")} == {"rjones"}  # data of P2 was shared into P1
    assert next(record["event"] for record in node.select(person="jdoe")) == "log_in"
    assert node.select(project="P") == []
    assert len(node.select()) == 10


def test_a_node_reads_no_older_file_than_it_needs() -> None:
    node = Node(
        launch("old", 1), end("old", 1), launch("jdoe", 2), running("jdoe", 2),
        launch("asmith", 3, project="P3", mounts=[]),
        *snapshot(4, "jdoe", "asmith"), *snapshot(5, "jdoe", "asmith"), end("jdoe", 5), launch("new", 6), *snapshot(7),
    )  # fmt: skip
    lines = node.select(since=at(5), project="P1")
    assert node.opened == [f"2026-11-0{day}" for day in (5, 6, 7, 4, 3, 2)]
    assert {record["user"] for record in lines if record["event"] == "launch"} == {"jdoe", "new"}
    node.opened.clear()
    node.select(since=at(6, "00:00:00"))
    assert node.opened == [f"2026-11-0{day}" for day in (6, 7)]
    node.opened.clear()
    assert node.select(since=at(20), person="new") == snapshot(7)  # the newest file, on a node that the hub has left
    assert node.opened == ["2026-11-07"]


BROKEN = [b'{"time": "2026-11-01T0', b"[]", b"{}", b"\xff", b'{"schema": 99, "time": "x", "event": "x"}', b"[" * 10_000]


def test_lines_that_cannot_be_read_are_skipped_and_counted() -> None:
    node = Node(launch("jdoe", 1))
    node.files["2026-11-01"] += [*BROKEN, b"\n"]
    node.files["2026-11-01"].append(json.dumps(end("jdoe", 1)).encode())
    lines, broken = select(node.files, node.read)
    assert ([record["event"] for record in lines], broken) == (["launch", "end"], len(BROKEN))
    found = report({"w0": {"found": True, "lines": lines, "broken": broken}}, ["w0"], query({"project": "P1"}))
    assert any(f"w0: {broken}" in note for note in found["notes"])


# ---- who had what until when


def test_a_launch_is_paired_with_its_node_and_its_end() -> None:
    found = answer([launch("jdoe", 1), running("jdoe", 1), stop("jdoe", 1), end("jdoe", 1), *snapshot(2)])
    (one,) = found["launches"]
    assert one == {
        "person": "jdoe", "server": "s-jdoe", "project": "P1", "item": "S1", "xsi_type": "xnat:mrSessionData",
        "image": "", "image_id": "", "mounts": [P1], "from": at(1), "until": at(1, "13:00:10"), "state": "ended",
        "node": "w1", "reason": "exit 0", "service": "jupyterhub-jdoe",
    }  # fmt: skip
    table = found["table"]
    assert all(
        text in table for text in ("jdoe", "P1", "S1", at(1), at(1, "13:00:10"), "w1", P1["source"], P1["target"])
    )


@pytest.mark.parametrize(
    ("rest", "until", "state"),
    [
        pytest.param([], "", "running", id="running"),
        pytest.param([*snapshot(2, "jdoe"), *snapshot(3, "jdoe")], "", "running", id="running-for-days"),
        pytest.param([end("jdoe", 2, at="2026-11-02T01:02:03.4567Z")], "2026-11-02T01:02:03.456Z", "ended", id="at"),
        pytest.param([end("jdoe", 2, at="nonsense")], at(2, "13:00:10"), "ended", id="time-of-the-line"),
        pytest.param([stop("jdoe", 1)], at(1, "13:00:00"), "ended", id="stopped"),
        pytest.param([stop("jdoe", 1), *snapshot(2)], at(1, "13:00:00"), "ended", id="stopped-before-a-snapshot"),
        pytest.param(snapshot(2, "other"), at(2, "00:00:01"), "ended", id="ended-while-no-launcher-ran"),
        pytest.param(
            [launch("jdoe", 1, "12:00:01", result="failed", begun=True, kind="docker", reason="no")],
            at(1, "12:00:01"), "failed", id="not-created",
        ),
    ],
)  # fmt: skip
def test_until_when_a_launch_had_its_data(rest: list[Record], until: str, state: str) -> None:
    found = answer([launch("jdoe", 1), *rest])
    assert shown(found)[0] == ("jdoe", at(1), until, state)
    assert ("still running" in found["table"].splitlines()[1]) is not bool(until)


def test_a_newer_launch_of_the_same_server_ends_the_older_and_a_refused_one_does_not() -> None:
    refused = launch("jdoe", 1, "14:00:00", result="refused", begun=False, kind="mounts", reason="no", mounts=[])
    found = answer([launch("jdoe", 1), refused, launch("jdoe", 2), end("jdoe", 2)])
    assert shown(found) == [
        ("jdoe", at(1), at(2), "ended"),
        ("jdoe", at(1, "14:00:00"), at(1, "14:00:00"), "refused"),
        ("jdoe", at(2), at(2, "13:00:10"), "ended"),
    ]


def test_a_hub_that_moved_has_its_log_on_two_nodes() -> None:
    old, new = Node(launch("jdoe", 1), *snapshot(2, "jdoe")), Node(*snapshot(5, "jdoe"), end("jdoe", 6))
    asked = {"project": "P1", "since": at(6)}
    found = answer(old.select(**asked), new.select(**asked), since=at(6))
    assert shown(found) == [("jdoe", at(1), at(6, "13:00:10"), "ended")]
    assert found["launches"][0]["mounts"] == [P1]


def test_a_server_whose_launch_is_in_no_file_is_shown_all_the_same() -> None:
    node = Node(*snapshot(5, "jdoe"), end("jdoe", 5))
    found = answer(node.select(project="P1"))
    assert shown(found) == [("jdoe", "", at(5, "13:00:10"), "ended")]
    assert "not known" in found["table"].splitlines()[1]


def test_a_period_contains_what_ran_in_it() -> None:
    lines = [launch("a", 1), end("a", 1), launch("b", 1), end("b", 3), launch("c", 3), launch("d", 5)]
    assert [one[0] for one in shown(answer(lines, since=at(2), until=at(4)))] == ["b", "c"]


def test_log_ins_dropped_lines_and_silent_nodes_are_in_the_answer() -> None:
    lines = [
        line("log_in", 1, user="jd\x1boe", source="192.0.2.1", result="refused", reason="credentials"),
        line("log_in", 1, user="", user_hash="0123abcd", source="192.0.2.1", result="refused", reason="credentials"),
        line("dropped", 1, "12:01:00", what="refused log-ins", count=7),
    ]
    results: dict[str, Record] = {
        "w0": {"found": True, "lines": lines, "broken": 0, "newest": at(9)}, "w1": {"found": False},
    }  # fmt: skip
    found = report(results, ["w0", "w1", "w2"], query({"person": "jdoe"}))
    assert [(one["person"], one["result"], one["reason"]) for one in found["log_ins"]] == [
        ("jd\x1boe", "refused", "credentials"), ("jdoe", "refused", "credentials"),
    ]  # fmt: skip
    table = found["table"]
    assert "\x1b" not in table
    assert all(text in table for text in ("192.0.2.1", "7 refused log-ins", "w2 did not answer", at(9), "No launch"))
    unknown = report(results, ["w0"], query({"since": "2026-11-01"}))["table"]
    assert "as an unknown name (hash 0123abcd)" in unknown
    assert any("No node" in note for note in report({}, ["w0"], query({"person": "x"}))["notes"])


def test_a_person_finds_the_refused_log_ins_of_the_name_that_nobody_knew() -> None:
    key = b"k" * 32
    tried = {"source": "192.0.2.1", "result": "refused", "reason": "credentials"}
    lines = [
        line("log_in", 1, user="", user_hash=name_hash(key, "jdeo"), **tried),
        line("log_in", 1, user="", user_hash=name_hash(key, "hunter2"), **tried),
        line("log_in", 1, user="jdoe", **tried),
    ]
    read = {"2026-11-01": [json.dumps(each).encode() for each in lines]}
    assert select(read, read.__getitem__, person="jdeo", key=key) == ([lines[0]], 0)
    assert select(read, read.__getitem__, person="jdeo") == ([], 0)
    assert select(read, read.__getitem__, person="jdoe", key=key) == ([lines[2]], 0)
    assert select(read, read.__getitem__, since=at(1), key=key) == (lines, 0)


# ---- the playbook and its module


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume of an engine that is a shell script."""
    folder = tmp_path / "volume"
    folder.mkdir()
    docker = tmp_path / "bin/docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n[ "$5" = site1-audit ] && echo "{folder}" || exit 1\n')
    docker.chmod(0o755)
    return folder


def play(volume: Path, *words: str, code: int = 0) -> str:
    inventory = volume.parent / "hosts.yml"
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(
        json.dumps({"swarm": {"hosts": {"w1": host}, "vars": {"site_deployment": "site1"}}})
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    programs = Path(sys.executable).parent
    ran = subprocess.run(
        [programs / "ansible-playbook", "-i", inventory, ROOT / "playbooks/audit.yml", *words],
        cwd=volume.parent, capture_output=True, text=True, timeout=120, check=False,
        env={**environment, "PATH": f"{volume.parent}/bin:{programs}:{environment['PATH']}",
             "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_the_playbook_shows_and_writes_who_had_what(volume: Path) -> None:
    (volume / "2026-11-01.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in (launch("jdoe", 1), running("jdoe", 1), end("jdoe", 1)))
    )
    text = play(volume, "-e", "project=P1", "-e", "audit_file=answer.json", "-e", "since=2026-10-31")
    assert P1["source"] in text
    assert "changed=1" in text  # the file on the control node
    file = volume.parent / "answer.json"
    assert json.loads(file.read_text())["launches"][0]["person"] == "jdoe"
    assert file.stat().st_mode & 0o777 == 0o600
    again = play(volume, "-e", "person=nobody", "--check")
    assert "No launch matches" in again
    assert "changed=0" in again
    assert "id: missing" not in again


def test_the_playbook_refuses_a_question_without_a_subject(volume: Path) -> None:
    assert "-e project=PROJECT" in play(volume, code=2)
