"""What runs on the control node needs no root there, and every playbook requires an inventory."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.conftest import ROOT

FILES = [path for folder in ("roles", "playbooks", "molecule") for path in sorted((ROOT / folder).rglob("*.yml"))]
PLAYBOOKS = [ROOT / "site.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
ESCALATION = {
    "ansible_become": True,
    "ansible_become_exe": "/bin/false",
    "ansible_connection": "ssh",
    "ansible_port": 1,
}


def ansible_playbook(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook with the project's configuration and nobody's environment."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), *words],
        cwd=ROOT,
        env={**plain, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a YAML document, nested ones included."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else []:
        yield from mappings(item)


def test_the_role_control_node_alone_delegates_to_the_control_node() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for mapping in mappings(yaml.safe_load(path.read_text()))
        if mapping.get("delegate_to") in ("localhost", "127.0.0.1") or "local_action" in mapping or "become" in mapping
    ]
    assert found == ["roles/control_node/tasks/main.yml"]


@pytest.mark.parametrize("host", ["node", "localhost"])
def test_tasks_on_the_control_node_need_no_rights_there(tmp_path: Path, host: str) -> None:
    # localhost may itself be a node, with a connection of its own.
    secret, lock = tmp_path / "service_token", tmp_path / "a.ansible_lockfile"
    for path in (secret, lock):
        path.touch()
        os.utime(path, (0, 0))
    inventory = {"all": {"hosts": {host: {}}, "vars": ESCALATION}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    rotation = {"secret_rotation_names": ["service_token"], "secret_rotation_directory": str(tmp_path)}
    locks = {"name": "control_node", "tasks_from": "secrets"}
    tasks = [
        {"ansible.builtin.include_role": locks, "vars": {"control_node_secrets_dir": str(tmp_path)}, "run_once": True},
        {"ansible.builtin.include_role": {"name": "secret_rotation"}, "vars": rotation},
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": host, "gather_facts": False, "tasks": tasks}]))
    # Ansible would not become root as root, which would hide the failure.
    words = (tmp_path / "play.yml", "-i", tmp_path / "hosts.yml", "--become")
    run = ansible_playbook(*words, ANSIBLE_BECOME_ALLOW_SAME_USER="true")
    assert run.returncode == 0, run.stdout + run.stderr
    assert not secret.exists()
    assert not lock.exists()


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/unlock.yml"])
def test_a_run_without_an_inventory_fails_in_words(tmp_path: Path, playbook: str) -> None:
    # An empty file stands for what the machine may have as Ansible's default.
    (tmp_path / "hosts").touch()
    run = ansible_playbook(playbook, ANSIBLE_INVENTORY=str(tmp_path / "hosts"))
    assert run.returncode == 2, run.stdout
    assert "names no host in the group swarm" in " ".join(run.stdout.split())
    assert "-i inventory/mysite" in " ".join(run.stdout.split())


def test_a_run_with_an_empty_group_swarm_fails_in_words(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("swarm: {children: {managers: {}, workers: {}}}\nxnat: {hosts: {x1: {}}}\n")
    for playbook in ("site.yml", "playbooks/xnat_plugin.yml"):
        run = ansible_playbook(playbook, "-i", tmp_path / "hosts.yml")
        assert run.returncode == 2, run.stdout
        assert "names no host in the group swarm" in " ".join(run.stdout.split())


def test_a_misspelled_name_in_the_limit_ends_the_run(tmp_path: Path) -> None:
    # Ansible itself only fails if no name is known (ansible.cfg: host_pattern_mismatch).
    hosts = {name: {"ansible_connection": "local"} for name in ("m1", "w1")}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"swarm": {"children": {"managers": {"hosts": hosts}}}}))
    words = ("playbooks/inventory.yml", "-i", tmp_path / "hosts.yml", "--limit")
    run = ansible_playbook(*words, "m1,w1,w9")
    assert run.returncode == 2, run.stdout
    assert "--limit names w9," in run.stdout
    assert run.stdout.count("fatal: ") == 1
    assert ansible_playbook(*words, "m1,w1").returncode == 0


def test_the_configuration_names_no_inventory() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "ansible.cfg")
    assert "inventory" not in settings["defaults"]


def made_groups() -> set[str]:
    """The groups that playbooks fill while they run."""
    tasks = [task for path in PLAYBOOKS for task in mappings(yaml.safe_load(path.read_text()))]
    made = {name for task in tasks for name in task.get("ansible.builtin.add_host", {}).get("groups", ())}
    keys = [task["ansible.builtin.group_by"]["key"] for task in tasks if "ansible.builtin.group_by" in task]
    return made.union(*(re.findall(r"^\w+$|(?<=')\w+(?=')", key) for key in keys))


def test_every_group_that_a_play_names_is_an_inventorys_or_filled_by_a_playbook() -> None:
    # Ansible is told not to complain of groups that are not there, so a misspelled one would skip its play in silence.
    known = made_groups() | {"swarm", "managers", "workers", "demo_xnat", "xnat", "localhost"}
    plays = {
        (path.name, play["hosts"])
        for path in PLAYBOOKS
        for play in yaml.safe_load(path.read_text())
        if "hosts" in play and "{{" not in play["hosts"]
    }
    named = {(place, name) for place, hosts in plays for name in re.findall(r"\w+", hosts)}
    assert len(named) > 10
    assert sorted((place, name) for place, name in named if name not in known) == []


@pytest.mark.parametrize("path", PLAYBOOKS, ids=[path.stem for path in PLAYBOOKS])
def test_every_playbook_begins_with_the_check_of_the_inventory(path: Path) -> None:
    while path.stem != "inventory":
        first = yaml.safe_load(path.read_text())[0]
        path = path.parent / first["ansible.builtin.import_playbook"]


@pytest.mark.parametrize("path", PLAYBOOKS, ids=[path.stem for path in PLAYBOOKS])
def test_no_play_lists_roles(path: Path) -> None:
    # Ansible checks a listed role's arguments whatever --tags leaves out, and earlier tasks set those of later layers.
    assert [play["name"] for play in yaml.safe_load(path.read_text()) if "roles" in play] == []


def test_every_command_in_the_documentation_names_its_inventory() -> None:
    texts = {path: path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "Makefile")}
    lines = [line for text in texts.values() for line in text.splitlines()]
    commands = [line for line in lines if re.search(r"(ansible-playbook|\$\(PLAY\)) \S*\.yml", line)]
    assert len(commands) >= 6
    assert [line for line in commands if not re.search(r" -i (tests/vm/)?inventory\b", line)] == []
    demo = [line for line in commands if "inventory/demo" in line]
    assert all("$(PLAY)" in line for line in demo), "only make means the demo"
