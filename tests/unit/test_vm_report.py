"""The table of results that `make test-vm` writes into docs/tested.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import conftest
from tests.vm.machines import MACHINES, Machine


class Answering(Machine):
    """A machine that needs no start."""

    def run(self, command: str, seconds: float = 120) -> str:
        if command.startswith("docker info"):
            return "26.1.5|2 (systemd)|overlay2|name=apparmor name=seccomp,profile=builtin \n"
        return "13.2\n6.12.118+deb13-cloud-amd64\n"


def test_the_table_has_machines_and_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "CACHE", tmp_path)
    (tmp_path / "accelerator").write_text("tcg\n")
    results = {
        "tests/vm/test_1_site.py::test_second_run_changes_nothing": ("changed=0", "passed", 61.4),
        "tests/vm/test_2_walls.py::test_a_notebook_is_confined[vm3]": ("", "failed", 2.0),
    }
    text = conftest.table((Answering("vm1", "trixie", 11, 4000),), results)
    assert "TCG" in text
    assert "| vm1 | 13.2 | 6.12.118+deb13-cloud-amd64 | 26.1.5 | v2 (systemd) | overlay2 | apparmor, seccomp |" in text
    assert "| Second run changes nothing | passed | 61 | changed=0 |" in text
    assert "| A notebook is confined: vm3 | failed | 2 |  |" in text


def test_all_machines_together_need_less_than_eleven_gigabytes() -> None:
    """Each also takes what the emulator keeps of translated code."""
    assert sum(machine.memory + 256 for machine in MACHINES) < 11 * 1024
    assert [machine.manager for machine in MACHINES] == [True, False, False]
    assert {machine.suite for machine in MACHINES if not machine.manager} == {"trixie", "bookworm"}
