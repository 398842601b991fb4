"""Variables that nothing reads: misspelled, renamed or removed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from module_utils.xnat_site.variables import known_variables, unknown_variables
from tests.unit.conftest import ROOT
from tests.unit.test_inventories import DEMO_ONLY, INVENTORIES, asked_for, variables
from tests.unit.test_roles import NAMES, options


def test_the_options_of_the_roles_and_the_sites_variables_are_known() -> None:
    roles, names = known_variables(ROOT)
    assert roles == set(NAMES)
    assert {name for role in roles for name in options(role)} <= names
    assert asked_for() | DEMO_ONLY <= names
    assert {"preflight_fleet", "preflight_report", "docker_swarm_labels"} <= names  # facts, and a host's own


def test_the_inventories_of_the_tests_set_nothing_else() -> None:
    for path in ROOT.glob("molecule/**/*.yml"):
        found = yaml.safe_load(path.read_text())
        if isinstance(found, dict):
            assert unknown_variables({"m1": found}, ROOT) == [], path


@pytest.mark.parametrize("inventory", INVENTORIES, ids=[path.name for path in INVENTORIES])
def test_the_shipped_inventories_set_nothing_else(inventory: Any) -> None:
    assert unknown_variables({"m1": variables(inventory)}, ROOT) == []


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("jupyterhub_notebok_egress", ["rename it to jupyterhub_notebook_egress."]),
        ("docker_swarm_lables", ["rename it to docker_swarm_labels."]),
        ("site_hub_publc_url", ["rename it to site_hub_public_url."]),
        ("jupyterhub_registry_auths", ["rename it to hub_images_registry_auths."]),
        ("demo_xnat_something_of_an_older_release", ["remove it."]),
        ("site_contact", []),
        ("verify_experiment", []),
        ("vault_verify_password", []),
        ("ansible_host", []),
        ("nodes", []),
    ],
)
def test_a_variable_without_effect_is_named_with_what_to_do(name: str, facts: list[str]) -> None:
    assert [sentence.partition(": ")[2] for sentence in unknown_variables({"m1": {name: 1}}, ROOT)] == facts


def test_a_variable_of_some_hosts_is_named_with_them() -> None:
    hostvars: dict[str, dict[str, Any]] = {"m1": {}, "w1": {"docker_swarm_lables": {}}, "w2": {"node_storage": 1}}
    (sentence,) = unknown_variables(hostvars, ROOT)
    assert sentence.startswith("docker_swarm_lables (of w1) ")
