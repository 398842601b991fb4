"""What hub, launcher and proxy get of a site, and what follows when a secret or a service changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from module_utils.xnat_site.services import (
    ROTATIONS,
    config_mounts,
    former_network,
    hub_local_url,
    network_differs,
    network_options,
    rotation,
    service_limits,
    service_secrets,
    to_roll_back,
)
from tests.unit.conftest import ROOT
from tests.unit.test_preflight_plays import play

NAMES = ["cookie_secret", "proxy_token", "service_token", "xnat_password"]


def created(name: str, **changes: Any) -> dict[str, Any]:
    """What `docker_secret` returns in a loop."""
    return {"item": name, "secret_id": f"id-{name}", "secret_name": f"hub-{name}_v1", "changed": True, **changes}


def files(secrets: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {service: [mount["filename"] for mount in mounts] for service, mounts in secrets.items()}


def test_each_service_gets_the_secrets_that_are_for_it_and_no_other() -> None:
    assert files(service_secrets(map(created, NAMES))) == {
        "hub": ["cookie_secret", "proxy_token", "service_token"],
        "launcher": ["xnat_password"],
        "proxy": ["proxy_token"],
    }


def test_the_client_certificate_of_a_site_that_has_one_is_for_hub_and_launcher() -> None:
    assert files(service_secrets(map(created, [*NAMES, "xnat_client_certificate"]))) == {
        "hub": ["cookie_secret", "proxy_token", "service_token", "xnat_client_certificate"],
        "launcher": ["xnat_password", "xnat_client_certificate"],
        "proxy": ["proxy_token"],
    }


def test_a_secret_is_mounted_by_its_newest_version_and_nothing_else_of_it_is_passed_on() -> None:
    (mount,) = service_secrets([*map(created, NAMES)])["proxy"]
    assert mount == {"secret_id": "id-proxy_token", "secret_name": "hub-proxy_token_v1", "filename": "proxy_token"}


def test_in_check_mode_a_new_secret_has_no_id_yet() -> None:
    results: list[dict[str, Any]] = [{"item": name} for name in NAMES]
    assert service_secrets(results)["proxy"][0] == {"secret_id": "", "secret_name": "", "filename": "proxy_token"}
    assert service_secrets(created(name, secret_id=None) for name in NAMES)["proxy"][0]["secret_id"] is None


def test_a_secret_that_is_missing_is_named_and_no_value_is() -> None:
    with pytest.raises(KeyError) as caught:
        service_secrets([created("cookie_secret", data="0f0f0f"), created("service_token", data="s3cret")])
    assert str(caught.value) == "'proxy_token'"


@pytest.mark.parametrize(
    ("results", "mounts"),
    [
        pytest.param(
            {"/a": {"config_id": "1", "config_name": "a_v1"}, "/b": {"config_id": "2", "config_name": "b_v3"}},
            [
                {"config_id": "1", "config_name": "a_v1", "filename": "/a"},
                {"config_id": "2", "config_name": "b_v3", "filename": "/b"},
            ],
            id="two",
        ),
        pytest.param({"/a": {"changed": False, "skipped": True}}, [], id="skipped"),
        pytest.param({"/a": {"changed": True}}, [{"config_id": "", "config_name": "", "filename": "/a"}], id="new"),
        pytest.param({}, [], id="none"),
    ],
)
def test_configs_are_mounted_unless_they_were_skipped(results: dict[str, Any], mounts: list[dict[str, Any]]) -> None:
    assert config_mounts(results) == mounts


@pytest.mark.parametrize(
    ("wanted", "node", "expected"),
    [
        pytest.param(2, 4, 2, id="room"),
        pytest.param(4, 2, 2, id="cut"),
        pytest.param(0.5, 1, 0.5, id="part"),
        pytest.param("1.5", 1, 1, id="text"),
    ],
)
def test_a_limit_is_no_more_than_the_node_has(wanted: float | str, node: float, expected: float) -> None:
    assert service_limits({"cpus": wanted, "memory": "1G"}, node) == {"cpus": expected, "memory": "1G"}


MTU = {"com.docker.network.driver.mtu": "1400"}
ENCRYPTED = {"encrypted": ""}


@pytest.mark.parametrize(
    ("mtu", "encrypted", "options"),
    [
        pytest.param(0, False, {}, id="dockers-own"),
        pytest.param(1400, False, MTU, id="mtu"),
        pytest.param(0, True, ENCRYPTED, id="encrypted"),
        pytest.param(1400, True, {**MTU, **ENCRYPTED}, id="both"),
    ],
)
def test_the_network_has_the_options_that_are_set(mtu: int, encrypted: bool, options: dict[str, str]) -> None:
    assert network_options(mtu, encrypted=encrypted) == options


@pytest.mark.parametrize(
    ("options", "network", "differs"),
    [
        pytest.param(MTU, None, False, id="no-network"),
        pytest.param(MTU, {"Options": MTU}, False, id="same"),
        pytest.param({}, {"Options": MTU}, False, id="more"),
        pytest.param({}, {"Options": None}, False, id="none-of-both"),
        pytest.param(MTU, {"Options": None}, True, id="none"),
        pytest.param(MTU, {}, True, id="nothing-told"),
        pytest.param(MTU, {"Options": {"com.docker.network.driver.mtu": "1500"}}, True, id="another-value"),
        pytest.param(ENCRYPTED, {"Options": MTU}, True, id="another-option"),
    ],
)
def test_a_network_differs_where_it_lacks_an_option(
    options: dict[str, str], network: dict[str, Any] | None, differs: bool
) -> None:
    assert network_differs(options, network) is differs


FORMER = {"Id": "n1", "Name": "x"}


def on(name: str, *networks: str, user: str = "") -> dict[str, Any]:
    """A service as Docker lists it."""
    labels = {"org.xnat.jupyterhub.deployment": "x"} | ({"org.xnat.jupyterhub.user": user} if user else {})
    attached = {"Networks": [{"Target": network} for network in networks]} if networks else {}
    return {"ID": f"id-{name}", "Spec": {"Name": name, "Labels": labels, "TaskTemplate": attached}}


@pytest.mark.parametrize(
    ("services", "servers", "names"),
    [
        pytest.param([], 0, [], id="nothing"),
        pytest.param([on("x-hub", "n1"), on("x-jdoe", "n1", user="jdoe")], 1, ["x-hub", "x-jdoe"], id="both"),
        pytest.param([on("x-hub", "n2", "n1"), on("x-jdoe", "n2", user="jdoe")], 0, ["x-hub"], id="server-elsewhere"),
        pytest.param([on("x-jdoe", "x", user="jdoe"), on("x-b", "n1", user="b")], 2, ["x-b", "x-jdoe"], id="by-name"),
        pytest.param([on("x-registry"), on("x-hub", "n2")], 0, [], id="others"),
    ],
)
def test_what_is_on_the_network_of_an_earlier_release_is_found_by_the_services_themselves(
    services: list[dict[str, Any]], servers: int, names: list[str]
) -> None:
    assert former_network(FORMER, services) == {"exists": True, "servers": servers, "services": names}


def test_a_site_without_that_network_has_nothing_on_it() -> None:
    assert former_network(None, [on("x-jdoe", "x", user="jdoe")]) == {"exists": False, "servers": 0, "services": []}


CHANGED, SAME, NOT_RUN = {"changed": True}, {"changed": False}, dict[str, Any]()


@pytest.mark.parametrize(
    ("launcher", "proxy", "hub", "services"),
    [
        pytest.param(CHANGED, CHANGED, CHANGED, ["proxy", "launcher"], id="hub-fails"),
        pytest.param(CHANGED, CHANGED, NOT_RUN, ["launcher"], id="proxy-fails"),
        pytest.param(CHANGED, NOT_RUN, NOT_RUN, [], id="launcher-fails"),
        pytest.param(CHANGED, SAME, CHANGED, ["launcher"], id="hub-fails-proxy-same"),
        pytest.param(SAME, CHANGED, CHANGED, ["proxy"], id="hub-fails-launcher-same"),
        pytest.param(SAME, SAME, CHANGED, [], id="hub-alone"),
        pytest.param(SAME, SAME, SAME, [], id="nothing-changed"),
    ],
)
def test_what_was_changed_before_the_service_that_failed_is_rolled_back(
    launcher: dict[str, Any], proxy: dict[str, Any], hub: dict[str, Any], services: list[str]
) -> None:
    assert to_roll_back({"launcher": launcher, "proxy": proxy, "hub": hub}) == services


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("join_tokens", (True, (), ()), id="join_tokens"),
        pytest.param("ca", (True, (), ()), id="ca"),
        pytest.param("service_token", (False, ("service_token",), ("xnat", "hub")), id="service_token"),
        pytest.param("service_password", (False, ("xnat_password",), ("xnat", "hub")), id="service_password"),
        pytest.param("hub_secrets", (False, ("cookie_secret", "proxy_token"), ("hub",)), id="hub_secrets"),
    ],
)
def test_a_rotation_is_of_secrets_or_of_something_of_the_swarm(name: str, expected: tuple[Any, ...]) -> None:
    found = rotation(name, ["vault_of_another", "site_service_token"])
    assert (found["refusal"], found["swarm"], found["secrets"], found["layers"]) == ("", *expected)


@pytest.mark.parametrize("name", ["", "service_tokens", "all"])
def test_an_unknown_name_is_refused_with_all_that_are_known(name: str) -> None:
    found = rotation(name)
    assert all(known in found["refusal"] for known in ROTATIONS)
    assert (found["swarm"], found["secrets"], found["layers"]) == (False, (), ())


@pytest.mark.parametrize(
    ("name", "variables", "named"),
    [
        pytest.param("service_token", ["vault_service_token"], ["vault_service_token"], id="one"),
        pytest.param("service_password", ["vault_xnat_password"], ["vault_xnat_password"], id="by-its-file"),
        pytest.param("hub_secrets", ["vault_proxy_token"], ["vault_proxy_token"], id="one-of-two"),
        pytest.param("hub_secrets", ["vault_proxy_token", "vault_cookie_secret"],
                     ["vault_cookie_secret", "vault_proxy_token"], id="both"),
    ],
)  # fmt: skip
def test_a_secret_in_the_vault_is_left_to_its_owner(name: str, variables: list[str], named: list[str]) -> None:
    found = rotation(name, variables)
    assert " and ".join(named) in found["refusal"]
    assert found["secrets"] == ()


def test_the_role_takes_the_secrets_of_every_rotation() -> None:
    specs = yaml.safe_load((ROOT / "roles/secret_rotation/meta/argument_specs.yml").read_text())["argument_specs"]
    known = specs["main"]["options"]["secret_rotation_names"]["choices"]
    assert {secret for each in ROTATIONS.values() for secret in each.secrets} == set(known)


# ---- the hub's address on its own node

ADDRESSES: list[tuple[dict[str, Any], str]] = [
    ({}, "http://127.0.0.1:8000/jupyterhub/"),
    ({"jupyterhub_listen_address": ""}, "http://127.0.0.1:8000/jupyterhub/"),
    ({"jupyterhub_listen_address": "192.0.2.11"}, "http://192.0.2.11:8000/jupyterhub/"),
    ({"site_hub_base_url": "jhub", "site_hub_port": 8100}, "http://127.0.0.1:8100/jhub/"),
    ({"jupyterhub_base_url": "/own", "jupyterhub_port": 8200}, "http://127.0.0.1:8200/own/"),
]


@pytest.mark.parametrize(("variables", "url"), ADDRESSES)
def test_the_hub_is_asked_at_the_address_on_which_it_listens(variables: dict[str, Any], url: str) -> None:
    assert hub_local_url({"site_hub_port": 8000, **variables}) == url


def test_playbooks_and_the_hubs_role_ask_the_hub_at_the_same_address(tmp_path: Path) -> None:
    """Drain, restart and upgrade by the playbooks' expression; deployment and announcements by the role's."""
    listens = {"site_hub_port": 8000, "site_hub_base_url": "jhub", "jupyterhub_listen_address": "192.0.2.11"}
    names = ("drain", "rolling_restart")
    plays = {name: yaml.safe_load((ROOT / f"playbooks/{name}.yml").read_text()) for name in names}
    role = yaml.safe_load((ROOT / "roles/jupyterhub/vars/main.yml").read_text())
    defaults = yaml.safe_load((ROOT / "roles/jupyterhub/defaults/main.yml").read_text())
    texts = {
        "drain": plays["drain"][-1]["tasks"][0]["vars"]["node_maintenance_hub_url"],
        "rolling_restart": plays["rolling_restart"][-1]["vars"]["node_maintenance_hub_url"],
        "role": role["__jupyterhub_local_url"],
    }
    variables = {
        **{name: defaults[name] for name in ("jupyterhub_port", "jupyterhub_base_url", "jupyterhub_behind_edge")},
        **{name: role[name] for name in ("__jupyterhub_place", "__jupyterhub_listen_address")},
        **listens, "preflight_fleet": {"manager": "m1"}, "found": texts,
    }  # fmt: skip
    done = play(tmp_path, [{"ansible.builtin.debug": {"var": "found"}}], yaml.safe_dump(variables))
    assert done.stdout.count("http://192.0.2.11:8000/jhub/") == len(texts), done.stdout
