"""Every role follows the conventions that no linter checks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xnat_hub.settings
import xnat_launcher.settings
import yaml
from jinja2 import Environment, nodes
from xnat_wire.launcher import SOCKET
from xnat_wire.site import XnatSite

from module_utils.xnat_site.inventory import ROLE_SECRETS
from module_utils.xnat_site.services import CERTIFICATE, SERVICE_SECRETS
from tests.unit.test_unused import JINJA, texts
from tests.unit.test_unused import load as load_tagged

ROLES = Path(__file__).resolve().parents[2] / "roles"
LIBRARY = {path.stem for path in (ROLES.parent / "library").glob("*.py")}
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())
SECRET = re.compile(r"(password|token|secret|unlock_key)$")
SITE = re.compile(r"\{\{ (site_\w+) \}\}")
KEYWORDS = {
    "always",
    "any_errors_fatal",
    "args",
    "async",
    "become",
    "become_user",
    "block",
    "changed_when",
    "check_mode",
    "delay",
    "delegate_facts",
    "delegate_to",
    "diff",
    "environment",
    "failed_when",
    "ignore_errors",
    "listen",
    "loop",
    "loop_control",
    "module_defaults",
    "name",
    "no_log",
    "notify",
    "poll",
    "register",
    "rescue",
    "retries",
    "run_once",
    "tags",
    "throttle",
    "timeout",
    "until",
    "vars",
    "when",
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else None


def entry_points(role: str) -> dict[str, Any]:
    specs = load(ROLES / role / "meta" / "argument_specs.yml")
    assert specs, f"{role} has no argument specification"
    found: dict[str, Any] = specs["argument_specs"]
    return found


def options(role: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for spec in entry_points(role).values():
        merged.update(spec.get("options", {}))
    return merged


def nested(name: str, table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, option in table.items():
        yield f"{name}.{key}", option
        yield from nested(f"{name}.{key}", option.get("options", {}))


def tasks(role: str) -> Iterator[dict[str, Any]]:
    def walk(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for task in items:
            yield task
            for part in ("block", "rescue", "always"):
                yield from walk(task.get(part, []))

    for folder in ("tasks", "handlers"):
        for path in sorted((ROLES / role / folder).glob("**/*.yml")):
            yield from walk(load(path) or [])


def passed(role: str) -> set[str]:
    """The options of other roles that this one runs: it may set them there, and nothing else of theirs."""
    names: set[str] = set()
    for task in tasks(role):
        for module in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
            if module in task:
                names |= set(task.get("vars", {})) & set(options(task[module]["name"]))
    return names


def is_ours(role: str, name: str) -> bool:
    return name.startswith((f"{role}_", f"__{role}_"))


@pytest.mark.parametrize("role", NAMES)
def test_every_option_is_typed_and_described(role: str) -> None:
    for spec in entry_points(role).values():
        assert spec["short_description"]
    for name, option in nested(role, options(role)):
        assert option.get("type"), name
        assert option.get("description"), name
        assert option["type"] != "list" or option.get("elements"), f"{name} does not say what its elements are"
        assert not (option.get("required") and "default" in option), f"{name} is required and has a default"


@pytest.mark.parametrize("role", NAMES)
def test_defaults_are_those_of_the_specification(role: str) -> None:
    defaults = load(ROLES / role / "defaults" / "main.yml") or {}
    found = {name: option for name, option in options(role).items() if not option.get("required")}
    secrets = {name for name, default in defaults.items() if SECRET.search(name) and SITE.fullmatch(str(default))}
    documented = {name: option.get("default") for name, option in found.items() if name not in secrets}
    assert {name: default for name, default in defaults.items() if name not in secrets} == documented
    # Ansible prints the evaluated defaults of the specification where any other argument is wrong.
    for name in sorted(secrets):
        (source,) = SITE.findall(defaults[name])
        assert "default" not in found[name], name
        assert f"C({source})" in found[name]["description"], name


@pytest.mark.parametrize("role", NAMES)
def test_every_variable_carries_the_name_of_its_role(role: str) -> None:
    names = set(options(role))
    for folder in ("defaults", "vars"):
        for path in (ROLES / role / folder).glob("**/*.yml"):
            names |= set(load(path) or {})
    for task in tasks(role):
        names |= set(task.get("vars", {}))
        names |= {key for key in task.get("ansible.builtin.set_fact", {}) if key != "cacheable"}
        names |= {task["register"]} if "register" in task else set()
        names |= {value for key, value in task.get("loop_control", {}).items() if key in ("loop_var", "index_var")}
    assert [name for name in sorted(names - passed(role)) if not is_ours(role, name)] == []


@pytest.mark.parametrize("role", NAMES)
def test_modules_have_full_names(role: str) -> None:
    for task in tasks(role):
        modules = [key for key in task if key not in KEYWORDS]
        assert all(module.count(".") >= 2 or module in LIBRARY for module in modules), task.get("name")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # regular expressions in Jinja's texts
@pytest.mark.parametrize("role", NAMES)
def test_a_role_knows_neither_the_inventory_nor_other_roles(role: str) -> None:
    others = {name for other in NAMES if other != role for name in options(other)}
    for path in sorted((ROLES / role).glob("**/*.yml")):
        text = path.read_text()
        names = {node.name for one in texts(load_tagged(path)) for node in JINJA.parse(one).find_all(nodes.Name)}
        assert not names & {"hostvars", "groups", "group_names"}, f"{path} reads the inventory"
        words = set(re.findall(r"\w+", text))
        assert words & others <= passed(role), f"{path} reads variables of another role"


@pytest.mark.parametrize("role", NAMES)
def test_a_task_is_never_delegated_to_an_empty_name(role: str) -> None:
    # Ansible evaluates delegate_to before `when`, and fails for an empty host name.
    empty = {name for name, option in options(role).items() if option.get("default") == ""}
    hosts = {str(task["delegate_to"]) for task in tasks(role) if "delegate_to" in task}
    assert [host for host in hosts if re.sub(r"[{} ]", "", host) in empty] == []


def test_preflight_looks_for_accounts_with_the_hubs_user_id() -> None:
    default = load(ROLES / "hub_images" / "defaults" / "main.yml")["hub_images_hub_uid"]
    assert f"hub_images_hub_uid | default({default})" in (ROLES.parent / "playbooks" / "gather.yml").read_text()
    assert 60577 < default < 61184  # what neither Debian (policy, 9.2.2) nor systemd (UIDS-GIDS) gives out


def secret_files() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every dictionary in a role or playbook that says how a service gets a secret or config."""

    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if {"secret_name", "config_name"} & set(value):
                yield value
            yield from (found for item in value.values() for found in walk(item))
        elif isinstance(value, list):
            yield from (found for item in value for found in walk(item))

    for folder in ("roles", "playbooks", "molecule"):
        for path in sorted((ROLES.parent / folder).glob("**/*.yml")):
            yield from ((path, found) for found in walk(load(path)))


def test_the_modes_of_secrets_and_configs_are_what_they_look_like() -> None:
    """The module takes the mode as a number, and a text such as "0400" as a decimal one, which is 0620."""
    found = list(secret_files())
    modes = {(path, file["filename"]): file["mode"] for path, file in found if "mode" in file}
    assert len(found) > len(modes) > 0
    for place, mode in modes.items():
        number = int(Environment(autoescape=True).from_string(str(mode)).render())
        assert number in (0o400, 0o444), place


@pytest.mark.parametrize(
    ("variable", "settings", "elsewhere"),
    [
        pytest.param("__jupyterhub_settings", xnat_hub.settings.Settings, {"secrets_dir"}, id="hub"),
        pytest.param("__jupyterhub_launcher_settings", xnat_launcher.settings.Settings, set(), id="launcher"),
        pytest.param("__jupyterhub_xnat", XnatSite, set(), id="xnat"),
    ],
)
def test_a_settings_file_has_what_its_reader_knows(variable: str, settings: type, elsewhere: set[str]) -> None:
    written = load(ROLES / "jupyterhub" / "vars" / "main.yml")[variable]
    assert set(written) == {field.name for field in dataclasses.fields(settings)} - elsewhere


def test_hub_and_launcher_meet_at_one_socket() -> None:
    values = load(ROLES / "jupyterhub" / "vars" / "main.yml")
    assert values["__jupyterhub_settings"]["launcher_socket"] == SOCKET
    assert values["__jupyterhub_launcher_mount"]["target"] == str(Path(SOCKET).parent)
    assert str(Path(SOCKET).with_name("alive")) in values["__jupyterhub_launcher_healthy"]
    assert values["__jupyterhub_launcher_settings_file"] == xnat_launcher.settings.SETTINGS_FILE
    assert values["__jupyterhub_settings_file"] == xnat_hub.settings.SETTINGS_FILE


def test_every_secret_that_the_hubs_role_creates_is_for_a_service() -> None:
    values = load(ROLES / "jupyterhub" / "vars" / "main.yml")
    created = {*values["__jupyterhub_always"], CERTIFICATE}
    assert CERTIFICATE in values["__jupyterhub_client_certificate"]
    assert {name for names in SERVICE_SECRETS.values() for name in names} == created


def test_the_hubs_role_and_preflight_judge_its_secrets_alike() -> None:
    judged = load(ROLES / "jupyterhub" / "vars" / "main.yml")["__jupyterhub_judged_secrets"]
    kinds = {name: kind for name, kind in ROLE_SECRETS.items() if name.startswith("jupyterhub_")}
    assert {name: secret["kind"] for name, secret in judged.items()} == kinds
    assert all(secret["value"] == f"{{{{ {name} }}}}" for name, secret in judged.items())


def test_the_one_look_at_a_host_tells_of_the_packages_that_the_engines_role_decides_by() -> None:
    told, needed = (load(ROLES / role / "defaults" / "main.yml") for role in ("preflight", "docker_engine"))
    assert told["preflight_packages"] == needed["docker_engine_known_packages"]


def test_plays_and_tasks_that_tests_wait_for_are_there() -> None:
    """Tests interrupt a run at a line of its output. Such a name may be cut short, but not wrong."""
    names = {
        f"{'TASK' if 'hosts' not in item else 'PLAY'} [{prefix}{item['name']}]"
        for path in [*ROLES.glob("*/tasks/*.yml"), *(ROLES.parent / "playbooks").glob("*.yml")]
        for prefix in ([f"{path.parents[1].name} : "] if path.parents[1].parent == ROLES else [""])
        for item in named(load(path))
    }
    asked = {
        name
        for path in [*(ROLES.parent / "tests/site").glob("*.py"), *(ROLES.parent / "tests/swarm").glob("*.py")]
        for name in re.findall(r'"((?:PLAY|TASK) \[[^"]*)"', path.read_text())
    }
    assert asked
    assert [name for name in sorted(asked) if not any(known.startswith(name) for known in names)] == []


def named(value: Any) -> Iterator[dict[str, Any]]:
    """Yield everything in plays and tasks that has a name."""
    if isinstance(value, dict):
        if isinstance(value.get("name"), str):
            yield value
        yield from (found for item in value.values() for found in named(item))
    elif isinstance(value, list):
        yield from (found for item in value for found in named(item))


@pytest.mark.parametrize("role", NAMES)
def test_roles_are_told_by_the_nodes_report_whether_there_is_systemd(role: str) -> None:
    asking = [path.name for path in (ROLES / role).rglob("*") if path.is_file() and "/run/systemd" in path.read_text()]
    assert asking == []
