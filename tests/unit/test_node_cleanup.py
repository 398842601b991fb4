"""The hourly cleanup of a node: the script of the role node_cleanup with an engine that is a shell script."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from xnat_launcher.audit import Archive
from xnat_launcher.service import SCRATCH_LABEL

from tests.unit.conftest import ROOT

SCRIPT = ROOT / "roles/node_cleanup/files/cleanup.sh"
ENGINE = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
"volume ls "*) {listing} ;;
"volume rm "*) echo removed ;;
"volume inspect "*) [ "$5" = site1-audit ] && echo {audit} || exit 1 ;;
*) exit 1 ;;
esac
"""


def run(
    tmp_path: Path, days: int, listing: str = "true", volume: str = "site1-audit"
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script. listing: what the engine does when asked for unused volumes. Returns also what it was asked."""
    (tmp_path / "audit").mkdir(exist_ok=True)
    docker, log = tmp_path / "docker", tmp_path / "log"
    docker.write_text(ENGINE.format(log=log, listing=listing, audit=tmp_path / "audit"))
    docker.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = ["/bin/sh", str(SCRIPT), str(days), volume]
    ran = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, timeout=30, check=False)
    return ran, log.read_text().splitlines()


def test_unused_volumes_of_servers_are_removed(tmp_path: Path) -> None:
    ran, asked = run(tmp_path, 0, "echo v1; echo v2")
    assert ran.returncode == 0, ran.stderr
    assert asked == [
        f"volume ls --quiet --filter dangling=true --filter label={SCRATCH_LABEL}", "volume rm --force v1 v2",
    ]  # fmt: skip
    assert ran.stdout  # what the role takes for a change


def test_a_node_without_unused_volumes_removes_none(tmp_path: Path) -> None:
    ran, asked = run(tmp_path, 0)
    assert (ran.returncode, ran.stdout, len(asked)) == (0, "", 1)


def test_an_engine_that_does_not_answer_is_a_failure(tmp_path: Path) -> None:
    ran, _ = run(tmp_path, 1, "exit 1")
    assert ran.returncode


@pytest.mark.parametrize("days", [0, 1, 30])
def test_old_files_are_removed_as_by_the_launcher(tmp_path: Path, days: int) -> None:
    today = datetime.now(UTC).date()
    names = [f"{today - timedelta(days=age)}.jsonl" for age in (0, 1, 2, 29, 30, 31, 3000)]
    kept = ["notes.txt", "key", "2020-01-01.jsonl.gz", "-2020-01-01.jsonl"]
    left = []
    for folder in (tmp_path / "audit", tmp_path / "launcher"):
        folder.mkdir()
        for name in (*names, *kept):
            (folder / name).touch()
        if folder.name == "audit":
            assert run(tmp_path, days)[0].returncode == 0
        else:
            Archive(folder, days).expire(today)
        left.append(sorted(path.name for path in folder.iterdir()))
    assert left[0] == left[1]
    assert len(left[0]) == len(kept) + {0: 7, 1: 2, 30: 5}[days]


def test_the_log_of_another_deployment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/2020-01-01.jsonl").touch()
    ran, _ = run(tmp_path, 1, volume="site2-audit")
    assert ran.returncode == 0
    assert (tmp_path / "audit/2020-01-01.jsonl").exists()


def test_nodes_remove_files_at_the_age_at_which_the_launcher_does() -> None:
    default = yaml.safe_load((ROOT / "roles/jupyterhub/defaults/main.yml").read_text())["jupyterhub_audit_days"]
    assert f"jupyterhub_audit_days | default({default})" in (ROOT / "playbooks/nodes.yml").read_text()
