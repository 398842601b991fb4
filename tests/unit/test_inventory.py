"""Findings in an inventory: each has a rule and a variable, and is reported before anything changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from xnat_launcher.service import service_name

from module_utils.xnat_site.inventory import (
    DEPLOYMENT_LENGTH,
    ROLE_SECRETS,
    SECRET_KINDS,
    SITE_SECRETS,
    VERIFY_SECRETS,
    deployment_findings,
    hub_path,
    inventory_findings,
    secret_findings,
    unknown_limits,
)
from tests.unit.conftest import ROOT
from tests.unit.test_inventories import asked_for

TOKEN = "t" * 16
GOOD: dict[str, Any] = {
    "site_bundle": "",
    "site_ca_bundle": "",
    "site_deployment": "jupyterhub",
    "site_uid": 1000,
    "site_gid": 1000,
    "site_storage": {},
    "site_secrets_dir": "/nowhere",
    "site_jupyter_users": [],
    "site_xnat_admin_username": "admin",
    "site_hub_port": 8000,
    "site_registry": "",
    "site_registry_port": 5000,
    "site_hub_base_url": "/jupyterhub/",
    "site_xnat_url": "https://xnat.example.org",
    "site_xnat_public_url": "https://xnat.example.org",
    "site_hub_public_url": "https://xnat.example.org",
    "site_hub_api_url": "https://xnat.example.org/jupyterhub/hub/api",
    "site_cookie_secret": "0f" * 32,
    "site_proxy_token": TOKEN,
    "site_service_token": TOKEN,
    "site_xnat_password": "correct horse",
    "site_xnat_admin_password": "",
    "verify_username": "jupyter-check",
    "verify_password": "pw",
    "verify_experiment": "XNAT_E00001",
}


class Variables(Mapping[str, Any]):
    """A host's variables as Ansible's `hostvars` give them: evaluated when they are read."""

    def __init__(self, raw: dict[str, Any], evaluated: dict[str, Any]) -> None:
        self.raw, self.evaluated = raw, evaluated

    def __getitem__(self, name: str) -> Any:
        value = self.evaluated.get(name, self.raw[name])
        if isinstance(value, Exception):
            raise value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)


class HostVars(dict[str, Variables]):
    def raw_get(self, host: str) -> dict[str, Any]:
        return self[host].raw


def found(
    changes: dict[str, Any] | None = None,
    *,
    evaluated: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    **known: Any,
) -> list[tuple[str, str]]:
    """The rule and variable of each finding; `evaluated` is what templates come to, an exception for broken ones."""
    raw = {key: value for key, value in {**GOOD, **(changes or {})}.items() if key not in without}
    hostvars = HostVars(m1=Variables(raw, evaluated or {}))
    findings = inventory_findings(hostvars, "m1", **known)
    assert all(finding["name"] in finding["text"] for finding in findings)
    return [(finding["id"], finding["name"]) for finding in findings]


def named(changes: dict[str, Any], *, deployed: bool = False, deployments: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The rule and variable of each finding about the deployment's name."""
    hostvars = HostVars(m1=Variables({**GOOD, **changes}, {}))
    findings = deployment_findings(hostvars, "m1", deployed=deployed, deployments=deployments)
    return [(finding["id"], finding["name"]) for finding in findings]


def test_a_good_inventory_has_no_findings() -> None:
    assert found() == []
    assert found({"site_registry": "registry.example.org:5000/a-b/c_d"}) == []
    assert found(without=("site_hub_base_url",)) == []  # an inventory that is older than the variable


@pytest.mark.parametrize("variable", [name for name in GOOD if name.startswith("site_xnat_pass") or "token" in name])
@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda value: value + "\n", "secret_edge"),
        (lambda value: value + " ", "secret_edge"),
        (lambda value: value + "\u00a0", "secret_edge"),
        (lambda value: "\t" + value, "secret_edge"),
        (lambda value: f"{value}\r\n{value}", "secret_control"),
        (lambda value: f"{value}\x7f{value}", "secret_control"),
        (lambda value: "", "secret_missing"),
        (lambda value: None, "secret_missing"),
        (lambda value: " ", "secret_edge"),
        (lambda value: value[:5], "secret_short"),
    ],
)
def test_a_secret_has_one_form_everywhere_or_is_refused(variable: str, make: Any, rule: str) -> None:
    assert found({variable: make(GOOD[variable])}) == [(rule, variable)]
    vault = f"vault_{variable.removeprefix('site_')}"
    changes = {vault: make(GOOD[variable]), variable: "{{ " + vault + " }}"}
    assert found(changes, evaluated={variable: changes[vault]}) == [(rule, vault)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"site_cookie_secret": "0f" * 32 + "\n"}, [("secret_edge", "site_cookie_secret")]),
        ({"site_cookie_secret": "0f" * 15}, [("secret_short", "site_cookie_secret")]),
        ({"site_cookie_secret": "0" * 65}, [("secret_characters", "site_cookie_secret")]),
        ({"site_cookie_secret": "xy" * 32}, [("secret_characters", "site_cookie_secret")]),
        ({"site_service_token": "a b" * 8}, [("secret_characters", "site_service_token")]),
        ({"site_service_token": "é" * 16}, [("secret_characters", "site_service_token")]),
        ({"site_xnat_password": "pässwörter"}, []),
        ({"site_xnat_password": "jupyterhub"}, [("secret_known", "site_xnat_password")]),
        ({"site_xnat_password": 12345678}, [("secret_type", "site_xnat_password")]),
        ({"verify_password": ["a"]}, [("secret_type", "verify_password")]),
        ({"site_xnat_admin_password": "x\n"}, [("secret_edge", "site_xnat_admin_password")]),
        ({"site_xnat_admin_password": "admin"}, []),
        ({"verify_password": "x "}, [("secret_edge", "verify_password")]),
        ({"verify_password": ""}, [("secret_missing", "verify_password")]),
        ({"vault_swarm_unlock_key": "SWMKEY-1-x\n"}, [("secret_edge", "vault_swarm_unlock_key")]),
        ({"vault_swarm_unlock_key": "SWMKEY-1-x"}, []),
        ({"node_storage_cifs_password": "x\ndomain=other"}, [("secret_control", "node_storage_cifs_password")]),
        ({"node_storage_cifs_password": ""}, []),
        ({"node_images_registry_password": "x\n"}, [("secret_edge", "node_images_registry_password")]),
        ({"verify_service_token": "x"}, [("secret_short", "verify_service_token")]),
        ({"hub_images_registry_auths": {"r.example.org": {"auth": "eDp5"}}}, []),
        ({"hub_images_registry_auths": {"r.example.org": {"auth": "eDp5\n"}}},
         [("secret_edge", "hub_images_registry_auths[r.example.org]")]),
    ],
)  # fmt: skip
def test_each_secret_is_judged_by_what_it_is_for(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"site_uid": 0}, [("user_id", "site_uid")]),
        ({"site_gid": "xnat"}, [("user_id", "site_gid")]),
        ({"site_uid": "1500"}, []),
        ({"site_jupyter_users": {"jdoe": True}}, [("people", "site_jupyter_users")]),
        ({"site_jupyter_users": "jdoe, rjones"}, [("people", "site_jupyter_users")]),
        ({"site_jupyter_users": [["jdoe"]]}, [("people", "site_jupyter_users")]),
        ({"site_jupyter_users": None}, [("people", "site_jupyter_users")]),
        ({"site_jupyter_users": []}, []),
    ],
)
def test_owner_and_people_are_what_they_must_be(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(changes) == expected


@given(value=st.text(min_size=1), kind=st.sampled_from(sorted(SECRET_KINDS)))
def test_no_sentence_holds_a_secret_and_what_passes_needs_no_stripping(value: str, kind: str) -> None:
    findings = secret_findings({"vault_x": {"value": f"<{value}>" if value.strip() else value, "kind": kind}})
    assert all(f"<{value}>" not in finding["text"] for finding in findings)
    if not secret_findings({"vault_x": {"value": value, "kind": kind}}):
        assert value == value.strip()
        assert "\n" not in value


BROKEN = ValueError("Syntax error in template")


@pytest.mark.parametrize(
    ("written", "evaluated", "rule"),
    [
        ("ab{{cd efgh", BROKEN, "vault_template"),
        ("ab{%cdefgh", BROKEN, "vault_template"),
        ("ab{#cd#}efgh", "abefgh", "vault_template"),  # a password that would silently be another one
        ("ab{{ 1 }}cdefgh", "ab1cdefgh", "vault_template"),
        ("{{ undefined }}", BROKEN, "vault_template"),
        ("ab{{cd efgh", "ab{{cd efgh", None),  # !unsafe
        ("{{ lookup('other_vault', 'x') }}", "correct horse", None),
    ],
)
def test_what_ansible_takes_for_a_template_in_a_vault_is_named(written: str, evaluated: Any, rule: str | None) -> None:
    changes = {"vault_xnat_password": written, "site_xnat_password": "{{ vault_xnat_password }}"}
    values = {"vault_xnat_password": evaluated, "site_xnat_password": evaluated}
    assert found(changes, evaluated=values) == ([(rule, "vault_xnat_password")] if rule else [])
    assert found({"vault_of_somebody": written}, evaluated={"vault_of_somebody": evaluated}) == (
        [(rule, "vault_of_somebody")] if rule else []
    )


class Locked:
    def __str__(self) -> str:
        raise ValueError("Decryption failed")


def test_what_cannot_be_decrypted_is_named() -> None:
    assert found({"vault_xnat_password": Locked()}) == [("vault_unreadable", "vault_xnat_password")]


@pytest.mark.parametrize(
    ("without", "changes", "evaluated", "expected"),
    [
        (("verify_experiment",), {}, {}, [("missing", "verify_experiment")]),
        (("verify_password",), {}, {}, [("missing", "vault_verify_password")]),
        ((), {"verify_password": "{{ vault_verify_password }}"}, {"verify_password": BROKEN},
         [("missing", "vault_verify_password")]),
        ((), {"verify_password": "{{ mine }}"}, {"verify_password": BROKEN}, [("unusable", "verify_password")]),
        ((), {"verify_experiment": "{{ mine }}"}, {"verify_experiment": BROKEN}, [("unusable", "verify_experiment")]),
        ((), {"verify_username": ""}, {}, [("missing", "verify_username")]),
        ((), {"verify_username": "jdoe\n"}, {}, [("edge", "verify_username")]),
        (("site_jupyter_users",), {}, {}, [("missing", "site_jupyter_users")]),
        ((), {"site_storage": "{{ mine }}"}, {"site_storage": BROKEN}, [("unusable", "site_storage")]),
        (("site_service_token",), {}, {}, [("missing", "vault_service_token")]),
        (("site_hub_public_url",), {}, {}, [("missing", "site_hub_public_url")]),
    ],
)  # fmt: skip
def test_what_a_later_layer_needs_is_named_when_it_is_missing(
    without: tuple[str, ...], changes: dict[str, Any], evaluated: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert found(changes, evaluated=evaluated, without=without) == expected


def test_every_variable_that_roles_ask_a_site_for_is_looked_at() -> None:
    optional = {"site_hub_base_url", "site_hub_person_origins", "site_swarm_unlock_key"}
    asked = {name for name in asked_for() if not name.startswith("site_demo_")} - optional
    assert {name for name in asked if ("missing", name) not in found(without=(name,))} <= {
        "site_xnat_admin_password",  # empty where XNAT is not ours to touch
        *(name for name in SITE_SECRETS if name in GOOD),
    }
    for name, (vault_name, kind) in SITE_SECRETS.items():
        assert (("missing", vault_name) in found(without=(name,))) is (kind != "optional")


def test_every_secret_of_a_role_is_judged() -> None:
    """Those that come from site variables are judged as these, but a site may set each by itself."""
    secret = re.compile(r"^\w+_(password|token|secret|unlock_key)$")
    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    options = {
        name
        for spec in specs
        for entry in spec["argument_specs"].values()
        for name, option in entry.get("options", {}).items()
        if secret.match(name) and option["type"] == "str"
    }
    options.remove("docker_swarm_join_token")  # Swarm's own, handed on by a playbook
    assert {name for name in options if not name.startswith("demo_xnat_")} <= {*ROLE_SECRETS, *VERIFY_SECRETS}


def test_a_run_that_leaves_out_the_smoke_test_needs_nobody_for_it() -> None:
    missing = ("verify_username", "verify_password", "verify_experiment")
    assert [name for _, name in found(without=missing)] == [
        "vault_verify_password", "verify_username", "verify_experiment",
    ]  # fmt: skip
    assert found(without=missing, skipped_tags=("verify",)) == []


def test_the_demo_needs_its_own_password_and_port() -> None:
    assert found(demo=True) == [("missing", "site_demo_password"), ("port", "site_demo_xnat_port")]
    settings = {"site_demo_password": "long enough", "site_demo_xnat_port": "8080"}
    assert found(settings, demo=True) == []
    assert found({**settings, "site_demo_xnat_port": 8000}, demo=True) == [("port_twice", "site_demo_xnat_port")]


@pytest.mark.parametrize("name", ["j", "jupyterhub", "hub-2", "a" * DEPLOYMENT_LENGTH])
def test_a_deployment_is_called_as_docker_and_dns_can_call_it(name: str) -> None:
    assert found({"site_deployment": name}) == []
    assert service_name(name, "u", "s").startswith(f"{name}-")  # nothing of it is cut off


@pytest.mark.parametrize(
    "name",
    ["", "a" * (DEPLOYMENT_LENGTH + 1), "a" * 57, "my.hub", "my hub", "Hub", "hub_2", "-hub", "hub-", "2hub", "hüb",
     "a/b", "hub\n"],
)  # fmt: skip
def test_another_name_is_refused_unless_its_servers_run(name: str) -> None:
    assert named({"site_deployment": name}) == [("deployment", "site_deployment")]
    assert named({"site_deployment": name}, deployed=True) == []
    assert named({"jupyterhub_name": name}) == [("deployment", "jupyterhub_name")]


def test_two_deployments_of_one_swarm_have_names_that_differ_where_it_counts() -> None:
    long = "a" * DEPLOYMENT_LENGTH
    assert named({"site_deployment": long}, deployments=[long, "other"]) == []
    twin = [f"{long}-two"]
    assert named({"site_deployment": long}, deployed=True, deployments=twin) == [("deployment_twin", "site_deployment")]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("site_xnat_url", "xnat.example.org"),
        ("site_xnat_url", "ftp://xnat.example.org"),
        ("site_xnat_url", "https:/xnat.example.org"),
        ("site_xnat_url", "https://"),
        ("site_xnat_url", "https://xnat.example.org/"),
        ("site_xnat_url", "https://xnat.example.org:0"),
        ("site_xnat_url", "https://xnat.example.org:"),
        ("site_xnat_url", "https://xnat.example.org:99999"),
        ("site_xnat_url", "https://xnat.example.org:https"),
        ("site_xnat_url", "https://user:pw@xnat.example.org"),
        ("site_xnat_url", "https://xnat.example.org?x=1"),
        ("site_xnat_url", "https://xnat.example.org#x"),
        ("site_xnat_url", "https://xnat..example.org"),
        ("site_xnat_url", "https://-xnat.example.org"),
        ("site_xnat_url", "https://xnat.example.org/a/../b"),
        ("site_xnat_url", "https://xnat.example.org//b"),
        ("site_xnat_url", "https://xnat.exa mple.org"),
        ("site_xnat_url", "https://[::1"),
        ("site_xnat_url", "https://[xnat]"),
        ("site_hub_public_url", "https://xnat.example.org/"),
        ("site_hub_public_url", "https://xnat.example.org/jupyterhub"),
        ("site_hub_api_url", "https://xnat.example.org/jupyterhub/hub/api/"),
        ("jupyterhub_xnat_url", "xnat"),
        ("verify_hub_url", "https://xnat.example.org/jupyterhub"),
        ("xnat_jupyterhub_processing_url", "https://xnat.example.org/"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(name: str, url: str) -> None:
    assert found({name: url}) == [("url", name)]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("site_xnat_url", "http://xnat_web:8080/xnat"),
        ("site_xnat_url", "http://192.0.2.1:8080"),
        ("site_xnat_url", "http://[2001:db8::1]:8080"),
        ("site_xnat_public_url", "https://xnat.example.org/"),
        ("site_hub_api_url", "http://jupyterhub-proxy:8000/jupyterhub/hub/api"),
    ],
)
def test_an_address_that_works_passes(name: str, url: str) -> None:
    assert found({name: url}) == []


@pytest.mark.parametrize(("registry", "good"), [
    ("registry.example.org", True), ("registry.example.org:5000/xnat/hub", True),
    ("https://registry.example.org", False), ("registry.example.org/", False), ("registry.example.org/Hub", False),
    ("registry.example.org /hub", False),
])  # fmt: skip
def test_a_registry_is_a_host_with_a_path(registry: str, good: bool) -> None:
    assert found({"site_registry": registry}) == ([] if good else [("registry", "site_registry")])


@pytest.mark.parametrize(
    ("text", "path"),
    [("/jhub", "/jhub/"), ("/jhub/", "/jhub/"), ("jhub", "/jhub/"), ("", "/jupyterhub/"), (None, "/jupyterhub/"),
     ("/", "/"), ("/a/b", "/a/b/"), ("//a//b//", "/a/b/")],
)  # fmt: skip
def test_the_path_of_the_hub_is_one_however_it_is_written(text: str | None, path: str) -> None:
    assert hub_path(text) == path
    api = f"https://xnat.example.org{path}hub/api"
    assert found({"site_hub_base_url": text or "", "site_hub_api_url": api}) == []


@pytest.mark.parametrize("text", ["/j hub", "/jhub?", "/../etc", "/jhub/./", "/jhüb", "/jhub\n", "https://x/jhub"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be the path of the hub"):
        hub_path(text)
    assert ("hub_path", "site_hub_base_url") in found({"site_hub_base_url": text})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"site_hub_base_url": "/jhub"}, [("hub_path_api", "site_hub_api_url")]),
        ({"jupyterhub_base_url": "/jhub"},
         [("hub_path_twice", "verify_base_url"), ("hub_path_api", "site_hub_api_url")]),
        ({"verify_base_url": "/jhub"}, [("hub_path_twice", "verify_base_url")]),
        ({"xnat_jupyterhub_hub_api_url": "https://x/hub/api"}, [("hub_path_api", "xnat_jupyterhub_hub_api_url")]),
        ({"site_hub_person_origins": True, "site_hub_api_url": "https://api.xnat.example.org/jupyterhub/hub/api"},
         [("api_origin", "site_hub_api_url")]),
        ({"site_hub_person_origins": "no", "site_hub_api_url": "https://api.xnat.example.org/jupyterhub/hub/api"}, []),
        ({"site_hub_person_origins": True}, []),
        ({"jupyterhub_base_url": "/jhub/", "verify_base_url": "/jhub/",
          "site_hub_api_url": "https://xnat.example.org/jhub/hub/api"}, []),  # as older inventories say it
    ],
)  # fmt: skip
def test_the_path_of_the_hub_is_the_same_for_all(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(changes) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"site_hub_port": 0}, [("port", "site_hub_port")]),
        ({"site_hub_port": 65536}, [("port", "site_hub_port")]),
        ({"site_hub_port": "http"}, [("port", "site_hub_port")]),
        ({"site_hub_port": "8000"}, []),
        ({"site_hub_port": 2377}, [("port_swarm", "site_hub_port")]),
        ({"site_hub_port": 5000}, [("port_twice", "site_registry_port")]),
        ({"site_hub_port": 5000, "site_registry": "registry.example.org"}, []),
    ],
)
def test_ports_are_free_of_each_other_and_of_swarm(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(changes, several_nodes=True) == expected


def test_a_port_that_nothing_uses_is_not_judged() -> None:
    assert found({"site_hub_port": 5000}) == []


@pytest.mark.parametrize(
    ("limit", "unknown"),
    [
        ("", []),
        ("m1,w1", []),
        ("m1, workers ,localhost", []),
        ("m1,w9", ["w9"]),
        ("m1:w9:workers", ["w9"]),
        ("swarm,!w9,&w8,w9", ["w9", "w8"]),
        ("2001:db8::1", []),
        ("m1,2001:db8::2", ["2001:db8::2"]),
        ("w[8:9]", []),
        ("m1:w[8:9]:wrkers", ["wrkers"]),
        ("m1,x*,w?,~y.+,@failed.retry,workers[0]", []),
    ],
)
def test_a_misspelled_name_in_the_limit_is_found(limit: str, unknown: list[str]) -> None:
    groups = {"all": ["m1", "w1", "2001:db8::1"], "ungrouped": [], "swarm": ["m1", "w1"], "workers": ["w1"]}
    assert unknown_limits(limit, groups) == unknown
