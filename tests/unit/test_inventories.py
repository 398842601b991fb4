"""Every shipped inventory sets the variables that the roles require."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from module_utils.xnat_site.storage import storage_rows
from tests.unit.conftest import ROOT

INVENTORIES = sorted(path for path in (ROOT / "inventory").iterdir() if path.is_dir())
DEMO_ONLY = {
    "site_demo_xnat_port",
    "site_demo_listen_address",
    "site_demo_password",
    "site_demo_admin_password",
    "site_demo_tls",
}
# Of the oldest inventories that can be upgraded (tests/drills): what came later is only asked for with a default.
OLDEST = {
    "site_bundle",
    "site_ca_bundle",
    "site_cookie_secret",
    "site_deployment",
    "site_gid",
    "site_hub_api_url",
    "site_hub_base_url",
    "site_hub_port",
    "site_hub_public_url",
    "site_jupyter_users",
    "site_proxy_token",
    "site_registry",
    "site_registry_port",
    "site_secrets_dir",
    "site_service_token",
    "site_storage",
    "site_swarm_unlock_key",
    "site_uid",
    "site_xnat_admin_password",
    "site_xnat_admin_username",
    "site_xnat_password",
    "site_xnat_public_url",
    "site_xnat_url",
} | (DEMO_ONLY - {"site_demo_tls"})


def variables(inventory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((inventory / "group_vars/all").glob("*.yml")):
        found.update(yaml.safe_load(path.read_text()))
    return found


def asked_for(follows: str = "") -> set[str]:
    """Return the site's variables that roles and playbooks ask for, if they are followed by this pattern."""
    places = [*ROOT.glob("roles/*/defaults/main.yml"), *ROOT.glob("playbooks/*.yml")]
    lines = [line for path in places for line in path.read_text().splitlines() if not line.startswith("#")]
    return {name for line in lines for name in re.findall(rf"\b(site_[a-z_]+)\b{follows}", line)}


def test_a_variable_that_older_inventories_lack_has_a_default() -> None:
    assert asked_for(r"(?! \| default\()") <= OLDEST


@pytest.mark.parametrize("inventory", INVENTORIES, ids=[path.name for path in INVENTORIES])
def test_an_inventory_defines_every_site_variable(inventory: Path) -> None:
    wanted = asked_for() if inventory.name == "demo" else asked_for() - DEMO_ONLY
    assert wanted - set(variables(inventory)) == set()


@pytest.mark.parametrize("inventory", INVENTORIES, ids=[path.name for path in INVENTORIES])
def test_an_inventorys_storage_table_holds(inventory: Path) -> None:
    assert storage_rows(variables(inventory)["site_storage"])


@pytest.mark.parametrize("inventory", INVENTORIES, ids=[path.name for path in INVENTORIES])
def test_the_documented_variables_are_those_of_the_inventory(inventory: Path) -> None:
    page = (ROOT / "docs/settings.md").read_text()
    told = set(re.findall(r"`(site_[a-z_]+)`", page))
    assert {name for name in variables(inventory) if name in asked_for()} - told <= {
        "site_cookie_secret",
        "site_proxy_token",
        "site_service_token",
        "site_swarm_unlock_key",
        "site_xnat_password",
        "site_demo_password",
        "site_demo_admin_password",
    }


def test_the_path_of_the_hub_is_said_once() -> None:
    places = [
        *ROOT.glob("roles/*/*/*.yml"),
        *ROOT.glob("playbooks/*.yml"),
        *ROOT.glob("inventory/*/group_vars/all/*.yml"),
    ]
    said = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in places
        for line in path.read_text().splitlines()
        if re.search(r"(?<![a-z])/jupyterhub/", line) and not line.startswith("site_hub_base_url:")
    ]
    assert said == []
