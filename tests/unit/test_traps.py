"""The traps of docs/xnat-contract.md, 6: the tests for each, and the cases that no other file has."""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from traitlets.config import Config
from xnat_hub.settings import parse
from xnat_launcher.options import OptionsError, parse_launch
from xnat_launcher.policy import MountError
from xnat_launcher.service import labels, split_env, task_template
from xnat_launcher.settings import Settings
from xnat_launcher.settings import parse as parse_launcher
from xnat_wire.settings import SettingsError

from tests.hub_settings import XNAT, launcher_settings_data, settings_data
from tests.unit.conftest import ROOT, SAMPLES, user_of
from tests.unit.test_config import hub_config  # noqa: F401  (a fixture)

TRAPS: dict[str, list[str]] = {
    "6.1 blocking calls": [
        "test_an_xnat_that_hangs_is_unavailable_in_time",
        "test_an_engine_that_hangs_is_unreachable_in_time",
    ],
    "6.2 redirects and HTML": [
        "test_an_odd_answer_is_a_named_error",
        "test_the_log_in_page_says_what_keeps_somebody_out",
    ],
    "6.3 unnamed server": [
        "test_a_start_without_a_server_name_is_refused_in_words",
        "test_the_server_without_a_name_is_asked_for_by_its_own_call",
    ],
    "6.4 unquoted names": [
        "test_server_names_that_would_change_the_path_are_refused",
        "test_an_answer_for_another_server_is_refused",
    ],
    "6.5 mounts keyed by source": ["test_several_targets_of_one_source_are_all_kept"],
    "6.6 volumes as binds": ["test_what_the_policy_does_not_allow_is_refused_in_words"],
    "6.7 no allowed sources, root": [
        "test_whatever_xnat_sends_the_service_is_inside_the_policy_or_is_not_made",
        "test_the_container_is_closed",
    ],
    "6.8 state of an earlier start": ["test_a_launch_is_made_of_its_own_answer_only"],
    "6.9 TLS for Docker instead of XNAT": ["test_private_authority_client_certificate_and_verify_apply_to_xnat"],
    "6.10 verify as a text": ["test_verify_must_be_a_truth_value"],
    "6.11 letter case": [
        "test_people_who_differ_in_letter_case_are_two",
        "test_people_who_differ_in_letter_case_have_different_services",
    ],
    "6.12 long service names": ["test_service_names_are_dns_safe_and_short"],
    "6.13 split at blanks": ["test_xnats_samples_are_read_as_expected"],
    "6.15 image inspected on the hub's node": ["test_a_command_is_always_given"],
    "6.16 silence on rejected tasks": ["test_a_launch_that_cannot_run_ends_at_once_and_the_hub_says_why"],
    "6.17 nulls": ["test_null_at_any_level_is_no_type_error"],
    "6.18 memory": [
        "test_memory_in_all_the_spellings_that_rest_lets_through",
        "test_memory_that_is_not_understood_is_refused_by_name",
    ],
    "6.19 generic resources": ["test_a_launch_becomes_a_closed_service"],
    "6.20 variables that override the hub's": ["test_variables_that_would_steer_past_the_hub_are_dropped"],
    "6.21 database in the container": ["test_database_and_cookie_secret_outlive_the_container"],
    "6.22 clean-up of servers": ["test_the_hub_keeps_servers_and_gives_users_no_right_to_start"],
    "6.23 shutdown on log-out": ["test_logging_out_leaves_servers_alone"],
    "6.24 stopped servers": ["test_servers_that_ended_or_were_removed_are_noticed_and_leave_the_list"],
    "6.25 secrets in the environment": ["test_no_secret_is_in_a_services_environment"],
    "6.26 list of users cut": ["test_the_hub_keeps_servers_and_gives_users_no_right_to_start"],
    "6.27 anything started by anyone": ["test_users_cannot_start_servers_and_xnat_holds_eight_scopes"],
    "6.28 tokens in URLs": ["test_a_dashboard_opens_with_xnats_link_and_its_websocket_is_closed_to_others"],
    "6.29 JupyterHub 6": ["test_another_jupyterhub_than_5_is_refused"],
    "6.30 check_allowed": ["test_who_has_no_authentication_is_no_error"],
    "6.31 lost role": ["test_a_lost_role_and_a_disabled_account_are_noticed"],
    "6.32 bare errors": ["test_an_xnat_that_is_slow_or_broken_ends_a_start_in_words"],
    "6.33 secrets in logs": [
        "test_nothing_secret_is_logged",
        "test_what_a_failed_server_wrote_last_is_in_the_log_without_its_secrets",
    ],
    "6.34 admins": ["test_an_admin_of_xnat_is_no_admin_of_the_hub"],
    "6.35 entrypoint": ["test_a_launch_becomes_a_closed_service", "test_the_container_is_closed"],
    "6.38 templates": [
        "test_what_the_policy_does_not_allow_is_refused_in_words",
        "test_an_open_variable_is_the_same_after_swarm_has_expanded_it",
        "test_variables_and_arguments_arrive_as_xnat_sent_them_and_are_not_shown",
    ],
    "6.39 any image": ["test_an_image_that_the_site_does_not_list_is_refused_by_name"],
    "6.40 sizes and half characters": [
        "test_more_than_a_process_can_be_started_with_is_refused_with_field_and_size",
        "test_half_a_character_is_refused_by_field_in_a_text_that_can_be_sent",
    ],
    "6.37 sessions": ["test_the_service_account_keeps_one_session", "test_calls_of_one_moment_open_one_session"],
}
BODIES = {sample["name"]: sample["response"]["body"] for sample in SAMPLES}


def test_each_trap_of_the_contract_has_a_test_and_each_test_exists() -> None:
    listed = set(re.findall(r"^\| (6\.\d+) \|", (ROOT / "docs/xnat-contract.md").read_text(), re.MULTILINE))
    assert {name.split()[0] for name in TRAPS} == listed
    written = set()
    for folder in ("tests/unit", "tests/site"):
        for path in (ROOT / folder).glob("test_*.py"):
            written |= {
                node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
            }
    assert not {test for tests in TRAPS.values() for test in tests} - written


def spec(body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    launch = parse_launch(body, body["servername"])
    return task_template(launch, settings, user_of(body), split_env(launch.env)[0], labels("d"))[0]


@pytest.fixture
def settings(launcher_settings: Settings) -> Settings:
    return launcher_settings


def test_a_launch_is_made_of_its_own_answer_only(settings: Settings) -> None:  # 6.8
    alone = spec(BODIES["project_plain"], settings)
    spec(BODIES["session_gpu_constraints"], settings)
    assert spec(BODIES["project_plain"], settings) == alone


@pytest.mark.parametrize("verify", ["False", "true", 0, None, "/etc/ssl/ca.crt"], ids=repr)
def test_verify_must_be_a_truth_value(secrets_dir: Path, verify: object) -> None:  # 6.10
    xnat = {**XNAT, "verify": verify}
    with pytest.raises(SettingsError, match=r"xnat\.verify"):
        parse(settings_data(xnat=xnat), secrets_dir)
    with pytest.raises(SettingsError, match=r"xnat\.verify"):
        parse_launcher(launcher_settings_data(xnat=xnat))


def test_a_command_is_always_given(settings: Settings) -> None:  # 6.15
    assert BODIES["project_plain"]["task_template"]["container_spec"]["command"] is None
    container = spec(BODIES["project_plain"], settings)["ContainerSpec"]
    assert container["Args"] == ["jupyterhub-singleuser"]
    assert container["Command"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to everything in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in inside for place in places(item, (*path, key))]


@pytest.mark.parametrize("place", places(BODIES["session_gpu_constraints"]), ids=str)
def test_null_at_any_level_is_no_type_error(settings: Settings, place: tuple[Any, ...]) -> None:  # 6.17
    for absent in (False, True):
        body = copy.deepcopy(BODIES["session_gpu_constraints"])
        inner = body
        for key in place[:-1]:
            inner = inner[key]
        if absent:
            del inner[place[-1]]
        else:
            inner[place[-1]] = None
        try:
            launch = parse_launch(body, BODIES["session_gpu_constraints"]["servername"])
            made, _ = task_template(launch, settings, "o'neil.x_y-1", split_env(launch.env)[0], {})
        except (OptionsError, MountError):
            continue
        assert json.dumps(made)


SERVICES: dict[str, dict[str, Any]] = {
    task["name"]: task["community.docker.docker_swarm_service"]
    for path in sorted((ROOT / "roles/jupyterhub/tasks").glob("*.yml"))
    for task in yaml.safe_load(path.read_text())
    if task["name"].startswith("Run the ") and "community.docker.docker_swarm_service" in task
}


def test_database_and_cookie_secret_outlive_the_container(hub_config: Config) -> None:  # 6.21  # noqa: F811
    mounts = [mount for mount in SERVICES["Run the hub"]["mounts"] if isinstance(mount, dict)]
    targets = {mount["target"]: mount["type"] for mount in mounts}
    assert targets["/srv/jupyterhub"] == "volume"
    assert hub_config.JupyterHub.db_url == "sqlite:////srv/jupyterhub/jupyterhub.sqlite"
    assert hub_config.JupyterHub.cookie_secret == bytes.fromhex("0f" * 32)  # from a secret


def test_logging_out_leaves_servers_alone(hub_config: Config) -> None:  # 6.23  # noqa: F811
    assert hub_config.JupyterHub.shutdown_on_logout is False
    assert "named_server_limit_per_user" not in hub_config.JupyterHub


def test_no_secret_is_in_a_services_environment() -> None:  # 6.25
    assert set(SERVICES) == {"Run the guard on every node", "Run the hub", "Run the launcher", "Run the proxy"}
    for name, service in SERVICES.items():
        assert "env" not in service
        assert ("secrets" in service) is (name != "Run the guard on every node")  # which has none at all


def test_who_has_no_authentication_is_no_error() -> None:  # 6.30
    from xnat_hub.authenticator import XnatAuthenticator

    assert XnatAuthenticator().check_allowed("jdoe", None) is True


def test_an_admin_of_xnat_is_no_admin_of_the_hub(hub_config: Config) -> None:  # 6.34  # noqa: F811
    assert "admin_users" not in hub_config.Authenticator
    assert "admin" not in {role["name"] for role in hub_config.JupyterHub.load_roles}


def test_a_payload_for_another_server_is_refused_whoever_it_is_for() -> None:  # 6.4
    with pytest.raises(OptionsError, match="are for server"):
        parse_launch(BODIES["project_plain"], "another")
