"""The role systemd_timer, with a systemctl that is a shell script."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import node_report
import pytest

from tests.unit.conftest import ROOT
from tests.unit.test_preflight_plays import play

NAME = "xnat-jupyter-test-x"
# What the module systemd_service asks and does, with the state of one timer in a folder.
SYSTEMCTL = """#!/bin/sh
cd {folder} || exit 1
wants=units/timers.target.wants/{name}.timer
case "$*" in
daemon-reload) touch loaded ;;
"show {name}.timer")
    [ -e units/{name}.timer ] && echo LoadState=loaded || echo LoadState=not-found
    [ -e active ] && echo ActiveState=active || echo ActiveState=inactive ;;
"is-active --quiet {name}.timer") [ -e active ] ;;
"is-enabled {name}.timer" | "is-enabled {name}.timer -l")
    [ -L $wants ] && echo enabled || {{ echo disabled; exit 1; }} ;;
"enable {name}.timer") mkdir -p units/timers.target.wants && ln -s ../{name}.timer $wants ;;
"disable {name}.timer") rm $wants ;;
"start {name}.timer") [ -e loaded ] && touch active ;;
"stop {name}.timer") rm active ;;
*) echo "unexpected: $*" >>unexpected; exit 1 ;;
esac
"""


class Node:
    """A node whose units are in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.units = folder / "units"
        self.units.mkdir()
        (folder / "bin").mkdir()
        (folder / "bin/systemctl").write_text(SYSTEMCTL.format(folder=folder, name=NAME))
        (folder / "bin/systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder / "bin"), prepend=":")
        monkeypatch.setattr(node_report, "UNITS", str(self.units))

    def report(self) -> dict[str, Any]:
        """What node_report says of the timer."""

        def run(command: list[str]) -> tuple[int, str, str]:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        return node_report.timer_report(NAME, run)

    def run(self, *words: str, entry: str = "main", service: str = "[Service]\nExecStart=/bin/true\n") -> str:
        """Run the role with the report of now, and return how many tasks have changed something."""
        options = {
            "systemd_timer_name": NAME, "systemd_timer_report": self.report(), "systemd_timer_description": "Test",
            "systemd_timer_calendar": "hourly", "systemd_timer_delay": "10min", "systemd_timer_service": service,
            "__systemd_timer_dir": str(self.units),
        }  # fmt: skip
        task = {"ansible.builtin.include_role": {"name": "systemd_timer", "tasks_from": entry}, "vars": options}
        (self.folder / "run").mkdir()
        done = play(self.folder / "run", [task], "{}", *words)
        shutil.rmtree(self.folder / "run")
        assert done.returncode == 0, done.stdout
        assert not (self.folder / "unexpected").exists()
        return done.stdout.partition("changed=")[2].split()[0]


def test_the_timer_is_installed_once_repaired_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(tmp_path, monkeypatch)
    assert node.run("--check") == "1"
    assert list(node.units.iterdir()) == []

    assert node.run() == "2"
    assert (tmp_path / "active").exists()
    assert (node.units / f"{NAME}.service").read_text() == "[Service]\nExecStart=/bin/true\n"
    text = (node.units / f"{NAME}.timer").read_text()
    assert all(line in text for line in ("Description=Test\n", "OnCalendar=hourly\n", "RandomizedDelaySec=10min\n"))
    assert node.run() == node.run("--check") == "0"

    (tmp_path / "active").unlink()
    assert node.run() == "1"
    assert (tmp_path / "active").exists()
    (tmp_path / "loaded").unlink()
    assert node.run(service="[Service]\nExecStart=/bin/false\n") == "1"
    assert (tmp_path / "loaded").exists()

    assert node.run("--check", entry="remove") == "2"
    assert (tmp_path / "active").exists()
    assert node.run(entry="remove") == "2"
    assert not (tmp_path / "active").exists()
    assert [path for path in node.units.rglob("*") if not path.is_dir()] == []
    assert node.run(entry="remove") == "0"


def test_no_other_role_has_a_timer_of_its_own() -> None:
    found = [path for path in (ROOT / "roles").rglob("*.yml") if "OnCalendar=" in path.read_text()]
    assert [path.relative_to(ROOT).parts[1] for path in found] == ["systemd_timer"]
