"""The modules that manage XNAT's rows: run against the demo XNAT, and their shared logic alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import count
from random import Random
from typing import Any

import pytest
from ansible.module_utils import xnat as xnat_client
from ansible.module_utils import xnat_rows as rows
from ansible.module_utils.basic import AnsibleModule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.test_demo_xnat import SECRETS
from tests.unit.xnat_modules import Xnat, run_module, xnat_fixture  # noqa: F401

Json = dict[str, Any]
MASK = "********"
SECRET = "correct-horse-battery"

HARDWARE: Json = {
    "name": "GPU",
    "cpu_limit": 8,
    "cpu_reservation": 0.5,
    "memory_limit": "32G",
    "memory_reservation": "16G",
    "constraints": [{"key": "node.labels.gpu", "value": "true"}, {"key": "a", "operator": "NOT_IN", "value": "b"}],
    "environment": {"TOKEN": SECRET, "THREADS": 2},
    "generic_resources": {"gpu": 1, "disk": "ssd"},
    "projects": ["DEMO_MR", "DEMO_CT"],
    "users": ["jdoe"],
}
ENVIRONMENT: Json = {
    "name": "Data science",
    "image": "registry.example.org/ds:1",
    "command": "start  'a b'",
    "environment": {"TOKEN": SECRET, "EMPTY": ""},
    "mounts": [{"source": "/srv/a", "target": "/a"}, {"source": "/srv/b", "target": "/b", "read_only": False}],
    "hardware": ["Small"],
    "projects": ["DEMO_MR"],
    "users": ["jdoe", "asmith"],
    "enabled": False,
}
CONSTRAINT: Json = {"key": "node.labels.room", "operator": "NOT_IN", "value": "x", "projects": ["DEMO_MR"]}
FRAMEWORK: Json = {"name": "Shiny", "command_template": "shiny {repo} {repobranch} {mainFilePath} {--}port={port}"}
DASHBOARD: Json = {
    "name": "Volumes",
    "description": "Volumes of regions",
    "framework": "Dash",
    "git_repo_url": "https://git.example.org/boards",
    "git_repo_branch": "main",
    "main_file_path": "volumes/app.py",
    "environment": "JupyterLab",
    "hardware": "Small",
    "projects": ["DEMO_MR"],
    "data_types": ["xnat:mrSessionData"],
}

# module: option, kind, a row with all options, name of the row
MODULES: dict[str, tuple[str, Any, Json, str]] = {
    "xnat_hardware": ("hardware", rows.HARDWARE, HARDWARE, "GPU"),
    "xnat_compute_environment": ("environments", rows.ENVIRONMENTS, ENVIRONMENT, "Data science"),
    "xnat_constraint": ("constraints", rows.CONSTRAINTS, CONSTRAINT, "node.labels.room NOT_IN"),
    "xnat_dashboard_framework": ("frameworks", rows.FRAMEWORKS, FRAMEWORK, "Shiny"),
    "xnat_dashboard": ("dashboards", rows.DASHBOARDS, DASHBOARD, "Volumes"),
}
OTHER_SCOPE = {"enabled": True, "ids": ["x"]}
# module: place in XNAT's JSON, what somebody else puts there, the option that differs then
DRIFTS: dict[str, list[tuple[str, Any, str]]] = {
    "xnat_hardware": [
        ("hardware.cpuLimit", 7.0, "cpu_limit"),
        ("hardware.cpuReservation", None, "cpu_reservation"),
        ("hardware.memoryLimit", "32M", "memory_limit"),
        ("hardware.memoryReservation", "", "memory_reservation"),
        ("hardware.constraints", [], "constraints"),
        ("hardware.environmentVariables", [{"key": "TOKEN", "value": "x"}], "environment"),
        ("hardware.genericResources", [{"name": "gpu", "value": "2"}, {"name": "disk", "value": "ssd"}],
         "generic_resources"),
        ("scopes.Project.ids", ["DEMO_MR"], "projects"),
        ("scopes.Project.enabled", True, "projects"),
        ("scopes.User.ids", ["JDoe"], "users"),
        ("scopes.Site.enabled", False, "enabled"),
    ],
    "xnat_compute_environment": [
        ("computeEnvironment.image", "registry.example.org/ds:2", "image"),
        ("computeEnvironment.command", None, "command"),
        ("computeEnvironment.environmentVariables", [{"key": "TOKEN", "value": SECRET}], "environment"),
        ("computeEnvironment.mounts", [], "mounts"),
        ("hardwareOptions", {"allowAllHardware": True, "hardwareConfigs": []}, "hardware"),
        ("hardwareOptions.hardwareConfigs", [], "hardware"),
        ("scopes.Project.ids", [], "projects"),
        ("scopes.User.ids", ["jdoe"], "users"),
        ("scopes.Site.enabled", True, "enabled"),
        ("scopes.Site.ids", ["XNAT"], "enabled"),
    ],
    "xnat_constraint": [
        ("constraint.values", ["x", "y"], "value"),
        ("scopes.Project", {"scope": "Project"} | OTHER_SCOPE, "projects"),
        ("scopes.Site.enabled", False, "enabled"),
    ],
    "xnat_dashboard_framework": [("commandTemplate", "shiny", "command_template")],
    "xnat_dashboard": [
        ("dashboard.description", None, "description"),
        ("dashboard.framework", "Voila", "framework"),
        ("dashboard.fileSource", "upload", "file_source"),
        ("dashboard.gitRepoUrl", "x", "git_repo_url"),
        ("dashboard.gitRepoBranch", "x", "git_repo_branch"),
        ("dashboard.mainFilePath", "x", "main_file_path"),
        ("computeEnvironmentConfig", {"id": 2}, "environment"),
        ("hardwareConfig", {"id": 2}, "hardware"),
        ("scopes.Project.ids", [], "projects"),
        ("scopes.DataType.ids", [], "data_types"),
        ("scopes.Site.enabled", False, "enabled"),
    ],
}  # fmt: skip
SCOPES: Json = {name: {"scope": name, "enabled": True, "ids": []} for name in ("Site", "Project", "User")}
SMALL = {"id": 1, "hardware": {"name": "Small"}, "scopes": SCOPES}


def args(xnat: Xnat, module: str, *given: Json, **more: Any) -> Json:
    return {"xnat": xnat.options, MODULES[module][0]: list(given), **more}


def keep(xnat: Xnat, module: str, *given: Json, check: bool = False, diff: bool = True, **more: Any) -> Json:
    """Run a module that must succeed."""
    result = run_module(module, args(xnat, module, *given, **more), check, diff)
    assert not result.get("failed"), result["msg"]
    assert SECRET not in json.dumps(result)
    return result


def fail(xnat: Xnat, module: str, *given: Json, check: bool = False, **more: Any) -> Json:
    """Run a module that must fail."""
    result = run_module(module, args(xnat, module, *given, **more), check)
    assert result.get("failed"), result
    assert SECRET not in json.dumps(result)
    assert "\n" not in result["msg"]
    return result


def summary(result: Json) -> tuple[bool, list[str], list[str], list[str]]:
    return result["changed"], result["created"], result["updated"], result["deleted"]


def stored(xnat: Xnat, module: str) -> list[Json]:
    found: list[Json] = xnat.must("GET", MODULES[module][1].path)
    return found


def named(xnat: Xnat, module: str) -> Json:
    """The row of the test."""
    _, kind, _, name = MODULES[module]
    return next(row for row in stored(xnat, module) if rows.name_of(kind, rows.stored_row(kind, row)) == name)


def changed_at(row: Json, place: str, value: Any) -> Json:
    found = deepcopy(row)
    *parents, last = place.split(".")
    part = found
    for parent in parents:
        part = part[parent]
    part[last] = value
    return found


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xnat_client, "PAUSE", 0.05)


# Against the demo XNAT


@pytest.mark.parametrize("module", MODULES)
def test_check_mode_predicts_the_first_run_does_it_and_the_second_changes_nothing(xnat: Xnat, module: str) -> None:
    row, name = MODULES[module][2:]
    before = stored(xnat, module)
    predicted = keep(xnat, module, row, check=True)
    assert stored(xnat, module) == before
    assert xnat.writes() == []
    assert summary(predicted) == (True, [name], [], [])
    assert predicted["rows"] == {name: None}
    assert predicted["diff"]["before"] == {}
    made = keep(xnat, module, row)
    assert made["diff"] == predicted["diff"]
    assert summary(made) == summary(predicted)
    assert made["rows"] == {name: named(xnat, module)["id"]}
    assert [other for other in stored(xnat, module) if other in before] == before
    assert [method for method, _ in xnat.writes()] == ["POST"]
    xnat.calls.clear()
    for check in (True, False):
        again = keep(xnat, module, row, check=check)
        assert summary(again) == (False, [], [], [])
        assert again["rows"] == made["rows"]
        assert again["diff"] == {"before": {}, "after": {}}
    assert xnat.writes() == []
    assert [path for method, path, _ in xnat.calls if method == "GET"].count(MODULES[module][1].path) == 2
    assert "diff" not in keep(xnat, module, row, diff=False)


@pytest.mark.parametrize("module", MODULES)
def test_what_others_change_is_put_right_field_by_field(xnat: Xnat, module: str) -> None:
    row, name = MODULES[module][2:]
    keep(xnat, "xnat_compute_environment", {"name": "Second", "image": "x"})
    keep(xnat, "xnat_hardware", {"name": "Second"})
    keep(xnat, module, row)
    right = named(xnat, module)
    path = MODULES[module][1].path
    own = f"{path}/{right['name'] if 'name' in right else right['id']}"
    seen = set()
    for place, value, option in DRIFTS[module]:
        xnat.must("PUT", own, changed_at(right, place, value))
        assert named(xnat, module) != right, place
        predicted = keep(xnat, module, row, check=True)
        result = keep(xnat, module, row)
        assert summary(result) == summary(predicted) == (True, [], [name], []), place
        assert result["diff"] == predicted["diff"]
        assert result["rows"] == {name: right["id"]}
        before, after = result["diff"]["before"][name], result["diff"]["after"][name]
        assert [key for key in after if after[key] != before[key]] == [option], place
        assert named(xnat, module) == right, place
        assert xnat.writes()[-1] == ("PUT", own)
        seen.add(option)
    field_options = {field.option for field in MODULES[module][1].fields}
    assert seen == field_options - set(MODULES[module][1].keys) - {"command" if module == "xnat_dashboard" else ""}


def test_a_dashboard_goes_from_a_framework_to_a_command_of_its_own_and_back(xnat: Xnat) -> None:
    own = {key: value for key, value in DASHBOARD.items() if key != "framework"} | {"command": "app {mainFilePath}"}
    for row, option in ((DASHBOARD, "Dash"), (own, None), (own | {"command": "app 2"}, None), (DASHBOARD, "Dash")):
        result = keep(xnat, "xnat_dashboard", row)
        assert result["changed"]
        assert result["diff"]["after"]["Volumes"]["framework"] == option
        assert result["diff"]["after"]["Volumes"]["command"] == row.get("command")
        assert not keep(xnat, "xnat_dashboard", row)["changed"]
    assert not keep(xnat, "xnat_dashboard", DASHBOARD | {"command": " "})["changed"]
    assert not keep(xnat, "xnat_dashboard", DASHBOARD, check=True)["changed"]
    assert keep(xnat, "xnat_dashboard", own | {"framework": "Custom"})["diff"]["after"]["Volumes"]["framework"] is None


@pytest.mark.parametrize("module", MODULES)
def test_absent_needs_the_name_only_and_removes_once(xnat: Xnat, module: str) -> None:
    kind, row, name = MODULES[module][1:]
    before = stored(xnat, module)
    keep(xnat, module, row)
    only_name = {key: row[key] for key in kind.keys}
    predicted = keep(xnat, module, only_name, check=True, state="absent")
    assert len(stored(xnat, module)) == len(before) + 1
    result = keep(xnat, module, only_name, state="absent")
    assert summary(result) == summary(predicted) == (True, [], [], [name])
    assert result["diff"] == predicted["diff"]
    assert list(result["diff"]["before"]) == [name]
    assert result["diff"]["after"] == result["rows"] == {}
    assert stored(xnat, module) == before
    assert not keep(xnat, module, only_name, state="absent")["changed"]


@pytest.mark.parametrize("module", MODULES)
def test_purge_removes_all_other_rows(xnat: Xnat, module: str) -> None:
    kind, row, name = MODULES[module][1:]
    keep(xnat, module, row)
    others = [rows.name_of(kind, rows.stored_row(kind, other)) for other in stored(xnat, module)]
    others.remove(name)
    row = row | {"hardware": []} if module == "xnat_compute_environment" else row
    predicted = keep(xnat, module, row, check=True, purge=True)
    result = keep(xnat, module, row, purge=True)
    assert result["deleted"] == predicted["deleted"] == others
    assert result["diff"] == predicted["diff"]
    assert len(stored(xnat, module)) == 1
    assert not keep(xnat, module, row, purge=True)["changed"]
    assert keep(xnat, module, purge=True)["deleted"] == [name]
    assert stored(xnat, module) == []
    result = fail(xnat, module, row, purge=True, state="absent")
    assert result["msg"] == "purge removes all rows that are not listed, so it cannot be combined with state absent"


def test_environments_of_other_types_are_left_alone(xnat: Xnat) -> None:
    path = rows.ENVIRONMENTS.path
    row = xnat.must("GET", path)[0]
    both = changed_at(row, "configTypes", ["JUPYTERHUB", "GENERAL"])
    foreign = changed_at(row, "configTypes", ["CONTAINER_SERVICE"])
    xnat.must("PUT", f"{path}/1", both)
    xnat.must("POST", path, changed_at(foreign, "computeEnvironment.name", ENVIRONMENT["name"]))
    result = keep(xnat, "xnat_compute_environment", ENVIRONMENT, purge=True)
    assert summary(result) == (True, ["Data science"], [], [])
    keep(xnat, "xnat_compute_environment", {"name": "JupyterLab", "image": "x"})
    types = {found["id"]: found["configTypes"] for found in xnat.must("GET", path)}
    assert types == {1: ["JUPYTERHUB", "GENERAL"], 2: ["CONTAINER_SERVICE"], 3: ["JUPYTERHUB"]}
    result = keep(xnat, "xnat_compute_environment", {"name": "JupyterLab"}, {"name": "Data science"}, state="absent")
    assert result["deleted"] == ["JupyterLab", "Data science"]
    assert [found["id"] for found in xnat.must("GET", path)] == [2]


def test_the_images_of_all_environments_on_offer_are_told(xnat: Xnat) -> None:
    path = rows.ENVIRONMENTS.path
    row = xnat.must("GET", path)[0]
    name, image = row["computeEnvironment"]["name"], row["computeEnvironment"]["image"]
    off = changed_at(changed_at(row, "computeEnvironment.name", "Off"), "scopes.Site.enabled", False)
    foreign = changed_at(changed_at(row, "computeEnvironment.name", "Foreign"), "configTypes", ["CONTAINER_SERVICE"])
    for other in (off, foreign):
        xnat.must("POST", path, other)
    wanted = {**ENVIRONMENT, "enabled": True}
    assert keep(xnat, "xnat_compute_environment", wanted, check=True)["images"] == {name: image}
    expected = {name: image, ENVIRONMENT["name"]: ENVIRONMENT["image"]}
    assert keep(xnat, "xnat_compute_environment", wanted)["images"] == expected


@pytest.mark.parametrize("module", MODULES)
def test_a_lying_xnat_is_found_out(xnat: Xnat, module: str) -> None:
    kind, row, name = MODULES[module][1:]
    what = f"{kind.noun} {name}"
    lie = {"path": kind.path, "content_type": "application/json", "times": 1}
    kept = "XNAT reported success but did not keep the change: "
    for fault, part in (
        ({"method": "POST", "ignore": True}, f"POST {xnat.url}{kind.path}"),
        ({"method": "POST", "status": 201 if kind.created == 200 else 200, "body": '{"id": 9}'}, "was not created: "),
        ({"method": "POST", "status": kind.created, "body": "[]"}, f"{what} was not created: XNAT answered POST"),
        ({"method": "POST", "status": kind.created, "body": "{}"}, "with a row that has another id or none"),
        ({"method": "POST", "status": kind.created, "body": '{"id": "9"}'}, "with a row that has another id or none"),
        ({"method": "POST", "status": kind.created, "body": '{"id": 99}'}, f"{kept}{what} does not exist"),
    ):
        xnat.faults(lie | fault)
        assert part in fail(xnat, module, row)["msg"]
    xnat.faults()
    keep(xnat, module, row)
    right = named(xnat, module)
    place, value, option = DRIFTS[module][0]
    wrong = changed_at(right, place, value)
    own = f"{kind.path}/{right.get('name', right['id'])}"
    xnat.must("PUT", own, wrong)
    for fault, part in (
        ({"method": "PUT", "ignore": True}, f"{what} was not updated: XNAT answered PUT {xnat.url}{own}"),
        ({"method": "PUT", "status": 200, "body": '{"id": 99}'}, "with a row that has another id or none"),
        ({"method": "PUT", "status": 201, "body": json.dumps(right)}, f"{what} was not updated: PUT"),
        ({"method": "PUT", "status": 200, "body": json.dumps(right)}, f"{kept}{option} of {what}: it has "),
    ):
        xnat.faults(lie | fault)
        assert part in fail(xnat, module, row)["msg"]
    xnat.faults()
    only_name = {key: row[key] for key in kind.keys}
    status = kind.deleted
    for fault, part in (
        ({"method": "DELETE", "status": 404 - status}, f"{what} was not deleted: DELETE {xnat.url}{own}"),
        ({"method": "DELETE", "status": status}, f"{kept}{what} still exists"),
    ):  # fmt: skip
        xnat.faults(lie | fault)
        assert part in fail(xnat, module, only_name, state="absent")["msg"]


def test_the_sentence_about_what_is_not_kept_has_both_values_but_no_secret(xnat: Xnat) -> None:
    keep(xnat, "xnat_hardware", HARDWARE)
    right = named(xnat, "xnat_hardware")
    answer = {"path": rows.HARDWARE.path, "content_type": "application/json", "times": 1}
    wanted = HARDWARE | {"memory_limit": "1G", "environment": {"TOKEN": "other-" + SECRET}, "users": []}
    xnat.faults(answer | {"method": "PUT", "status": 200, "body": json.dumps(right)})
    result = fail(xnat, "xnat_hardware", wanted)
    assert result["msg"] == (
        "XNAT reported success but did not keep the change: memory_limit of hardware GPU: it has"
        ' "32G" instead of "1G"; environment of hardware GPU; users of hardware GPU: it has {"enabled": false, "ids":'
        ' ["jdoe"]} instead of {"enabled": true, "ids": []}'
    )
    assert summary(result) == (True, [], ["GPU"], [])


@pytest.mark.parametrize("module", MODULES)
def test_an_answer_that_is_no_list_of_rows_stops_before_any_change(xnat: Xnat, module: str) -> None:
    kind, row = MODULES[module][1:3]
    fault = {"path": f"{kind.path}$", "method": "GET", "status": 200}
    for kind_of, text in (
        ("text/html", "<html>Log in</html>"),
        ("application/json", "{}"),
        ("application/json", '[{"name": "x"}]'),
        ("application/json", '[{"id": "1"}]'),
        ("application/json", "[1]"),
    ):
        xnat.faults(fault | {"content_type": kind_of, "body": text})
        assert "XNAT answered GET" in fail(xnat, module, row)["msg"]
    assert xnat.writes() == []


def test_an_error_of_xnat_is_told_with_its_sentence_and_what_was_done_before(xnat: Xnat) -> None:
    path = f"^{rows.HARDWARE.path}$"
    passes = {"path": path, "method": "POST", "delay": 0, "times": 1}
    given = [{"name": name} for name in ("A", "B", "C")]
    refused = {"path": path, "method": "POST", "status": 500, "body": "There was an error in the request : full"}
    xnat.faults(passes, refused | {"times": 1})
    result = fail(xnat, "xnat_hardware", *given)
    assert result["msg"] == (
        f"hardware B was not created: POST {xnat.url}{rows.HARDWARE.path}: status 500, XNAT refused it (There was an"
        " error in the request : full); done before: created A; run the playbook again to continue"
    )
    assert summary(result) == (True, ["A"], [], [])
    assert [row["hardware"]["name"] for row in stored(xnat, "xnat_hardware")] == ["Small", "A"]
    xnat.faults(refused)
    result = fail(xnat, "xnat_hardware", given[1])
    assert result["msg"].endswith("(There was an error in the request : full)")
    assert summary(result) == (False, [], [], [])
    xnat.faults()
    assert summary(keep(xnat, "xnat_hardware", *given)) == (True, ["B", "C"], [], [])


def test_what_a_dashboard_uses_is_not_removed_and_xnat_says_why(xnat: Xnat) -> None:
    keep(xnat, "xnat_dashboard", DASHBOARD)
    changed = {"name": "Small", "memory_limit": "2G"}
    result = fail(xnat, "xnat_hardware", {"name": "New"}, purge=True)
    assert (
        "(There was an error in the request : Cannot delete HardwareConfig because it is in use by a Dash"
        in result["msg"]
    )
    assert result["msg"].startswith("hardware Small was not deleted: DELETE")
    assert "; done before: created New; " in result["msg"]
    result = fail(xnat, "xnat_compute_environment", {"name": "JupyterLab"}, state="absent")
    assert "Cannot delete ComputeEnvironmentConfig because" in result["msg"]
    assert "could not execute" in fail(xnat, "xnat_dashboard_framework", {"name": "Dash"}, state="absent")["msg"]
    assert summary(keep(xnat, "xnat_hardware", changed)) == (True, [], ["Small"], [])


@pytest.mark.usefixtures("_quick")
def test_a_restart_of_xnat_costs_one_change_at_most(xnat: Xnat) -> None:
    path = rows.HARDWARE.path
    given = [{"name": name} for name in ("A", "B", "C")]
    passes = {"path": path, "method": "POST", "delay": 0, "times": 1}
    xnat.faults(passes, {"path": path, "method": "POST", "restart": 0.2, "times": 1})
    result = fail(xnat, "xnat_hardware", *given)
    assert "hardware B was not created" in result["msg"]
    assert "XNAT closed the connection" in result["msg"]
    assert summary(result) == (True, ["A"], [], [])
    assert summary(keep(xnat, "xnat_hardware", *given)) == (True, ["B", "C"], [], [])
    xnat.faults(
        {"path": path, "method": "GET", "delay": 0, "times": 1},
        {"path": path, "method": "GET", "restart": 0.2, "times": 1},
    )
    assert summary(keep(xnat, "xnat_hardware", *given, {"name": "D"})) == (True, ["D"], [], [])


def test_two_rows_of_one_name_must_be_one_but_both_can_be_removed(xnat: Xnat) -> None:
    path = rows.HARDWARE.path
    for _ in range(2):
        xnat.must("POST", path, {"hardware": {"name": "Twin"}, "scopes": SCOPES})
    sentence = "XNAT has the hardware Twin more than once, with the ids 2 and 3: delete all but one"
    for check in (True, False):
        assert fail(xnat, "xnat_hardware", {"name": "New"}, {"name": "Twin"}, check=check)["msg"] == sentence
        twin = ENVIRONMENT | {"hardware": ["Twin"]}
        assert fail(xnat, "xnat_compute_environment", twin, check=check)["msg"] == sentence
    xnat.must("POST", rows.ENVIRONMENTS.path, {
        "configTypes": ["JUPYTERHUB"], "computeEnvironment": {"name": "T", "image": "t"}, "scopes": SCOPES,
        "hardwareOptions": {"allowAllHardware": False, "hardwareConfigs": [{"id": 3}, {"id": 1}]},
    })  # fmt: skip
    result = keep(xnat, "xnat_compute_environment", {"name": "T", "image": "t"})
    assert result["diff"]["before"]["T"]["hardware"] == ["Small", "Twin (id 3)"]
    assert result["diff"]["after"]["T"]["hardware"] == "all"
    assert xnat.writes() == [("PUT", f"{rows.ENVIRONMENTS.path}/2")]
    result = keep(xnat, "xnat_hardware", {"name": "Twin"}, state="absent")
    assert result["deleted"] == list(result["diff"]["before"]) == ["Twin (id 2)", "Twin (id 3)"]


def test_rows_that_others_refer_to_must_be_there_except_in_check_mode(xnat: Xnat) -> None:
    environment = ENVIRONMENT | {"hardware": ["Tiny", "Small", "Huge"]}
    result = fail(xnat, "xnat_compute_environment", environment)
    missing = [f"compute environment Data science: XNAT has no hardware {name}" for name in ("Huge", "Tiny")]
    assert result["msg"] == "; ".join(missing)
    predicted = keep(xnat, "xnat_compute_environment", environment, check=True)
    assert summary(predicted) == (True, ["Data science"], [], [])
    assert [warning["event"]["msg"] for warning in predicted["warnings"]] == [f"{text} (yet)" for text in missing]
    dashboard = DASHBOARD | {"environment": "Data science", "hardware": "Tiny", "framework": "Shiny"}
    parts = ("dashboard framework Shiny", "compute environment Data science", "hardware Tiny")
    assert fail(xnat, "xnat_dashboard", dashboard)["msg"] == "; ".join(
        f"dashboard Volumes: XNAT has no {part}" for part in parts
    )
    predicted_dashboard = keep(xnat, "xnat_dashboard", dashboard, check=True)
    assert xnat.writes() == []
    for name in ("Tiny", "Huge"):
        keep(xnat, "xnat_hardware", {"name": name})
    made = keep(xnat, "xnat_compute_environment", environment)
    assert made["diff"] == predicted["diff"]
    assert made["diff"]["after"]["Data science"]["hardware"] == ["Huge", "Small", "Tiny"]
    keep(xnat, "xnat_dashboard_framework", FRAMEWORK)
    assert keep(xnat, "xnat_dashboard", dashboard)["diff"] == predicted_dashboard["diff"]
    assert predicted_dashboard["diff"]["after"]["Volumes"]["hardware"] == "Tiny"
    # from some to others that are only about to be made
    changed = keep(xnat, "xnat_compute_environment", ENVIRONMENT | {"hardware": ["Late"]}, check=True)
    assert summary(changed) == (True, [], ["Data science"], [])


def test_a_dashboard_without_what_its_command_needs_is_refused(xnat: Xnat) -> None:
    bare = {key: value for key, value in DASHBOARD.items() if not key.startswith("git_")} | {"main_file_path": " "}
    needs = [
        f"dashboard Volumes: set {option}, which its command needs for {placeholder}"
        for option, placeholder in (
            ("git_repo_url", "{repo}"), ("git_repo_branch", "{repobranch}"), ("main_file_path", "{mainFilePath}")
        )
    ]  # fmt: skip
    for check in (True, False):
        assert fail(xnat, "xnat_dashboard", bare, check=check)["msg"] == "; ".join(needs)
    own = {key: value for key, value in bare.items() if key != "framework"}
    assert fail(xnat, "xnat_dashboard", own | {"command": "app {repobranch}"})["msg"] == needs[1]
    assert keep(xnat, "xnat_dashboard", own | {"command": "app {port}"})["changed"]
    assert keep(xnat, "xnat_dashboard", bare | {"framework": "Shiny"}, check=True)["changed"]
    assert keep(xnat, "xnat_dashboard", {"name": "Volumes"}, state="absent")["changed"]


WRONG: list[tuple[str, Json, str]] = [
    ("xnat_hardware", {"name": " "}, "hardware number 1: name is missing"),
    ("xnat_hardware", {"name": None}, "hardware number 1: name is missing"),
    ("xnat_dashboard_framework", {"name": None}, "dashboard framework number 1: name is missing"),
    ("xnat_hardware", {"cpu_limit": -1}, "cpu_limit is -1.0, which is not a number of CPUs"),
    ("xnat_hardware", {"cpu_reservation": "inf"}, "cpu_reservation is inf, which is not a number of CPUs"),
    ("xnat_hardware", {"cpu_reservation": "nan"}, "cpu_reservation is nan, which is not a number of CPUs"),
    ("xnat_hardware", {"memory_limit": "4Gi"},
     "memory_limit is 4Gi; use a whole number with K, M, G or T, such as 512M"),
    ("xnat_hardware", {"memory_reservation": "0.5G", "memory_limit": "4g"}, "memory_limit is 4g; use a whole"
     " number with K, M, G or T, such as 512M; hardware GPU: memory_reservation is 0.5G; use a whole number with"
     " K, M, G or T, such as 512M"),
    ("xnat_hardware", {"constraints": [{"key": " ", "value": "x"}]},
     "constraints has an entry whose key or value is blank"),
    ("xnat_hardware", {"constraints": [{"key": "a", "value": "b"}, {"key": "x", "value": ""}]},
     "constraints has an entry whose key or value is blank"),
    ("xnat_hardware", {"environment": {" ": "x"}}, "environment has an entry without a name"),
    ("xnat_hardware", {"environment": {"A": "1", "B": None}},
     "environment has no text for B: put the value in quotes"),
    ("xnat_hardware", {"environment": {"A": True}}, "environment has no text for A: put the value in quotes"),
    ("xnat_hardware", {"environment": {"A": ["x"]}}, "environment has no text for A: put the value in quotes"),
    ("xnat_hardware", {"generic_resources": {"gpu": 1, "tpu": ""}}, "generic_resources has no value for tpu"),
    ("xnat_hardware", {"generic_resources": {"": 1}}, "generic_resources has an entry without a name"),
    ("xnat_hardware", {"generic_resources": {"gpu": True}},
     "generic_resources has no text for gpu: put the value in quotes"),
    ("xnat_hardware", {"projects": ["a", ""]}, "projects has a blank entry"),
    ("xnat_hardware", {"users": [" "]}, "users has a blank entry"),
    ("xnat_compute_environment", {"image": ""}, "image is missing"),
    ("xnat_compute_environment", {"image": None}, "image is missing"),
    ("xnat_compute_environment", {"hardware": [""]}, "hardware has a blank entry"),
    ("xnat_compute_environment", {"environment": {"A": None}},
     "environment has no text for A: put the value in quotes"),
    ("xnat_compute_environment", {"mounts": [{"source": "/a", "target": "/b"}, {"source": "c", "target": "/d"}]},
     "mounts has c instead of an absolute path"),
    ("xnat_compute_environment", {"mounts": [{"source": "/a", "target": ""}]},
     "mounts has a blank path instead of an absolute path"),
    ("xnat_constraint", {"value": " "}, "value is missing"),
    ("xnat_constraint", {"key": "", "operator": "IN"}, "constraint IN: key is missing"),
    ("xnat_constraint", {"projects": [""]}, "projects has a blank entry"),
    ("xnat_dashboard_framework", {"command_template": None}, "command_template is missing"),
    ("xnat_dashboard_framework", {"command_template": "x" * 4097},
     "command_template has 4097 characters; XNAT allows at most 4096"),
    *[("xnat_dashboard_framework", {"name": f"a{sign}b"},
       f"dashboard framework a{sign}b: name must not contain any of / \\ ; %") for sign in "/\\;%"],
    ("xnat_dashboard", {"framework": ""}, "needs a framework or its own command"),
    ("xnat_dashboard", {"framework": "CUSTOM", "command": " "}, "needs a framework or its own command"),
    ("xnat_dashboard", {"command": "x"}, "has a framework and a command: set only one of them"),
    ("xnat_dashboard", {"environment": None, "hardware": ""},
     "environment is missing; dashboard Volumes: hardware is missing"),
    *[("xnat_dashboard", {option: value}, f"{option} must not contain $ or \\, which XNAT would change")
      for option in ("git_repo_url", "git_repo_branch", "main_file_path") for value in ("a$b", "a\\b")],
    ("xnat_dashboard", {"data_types": [""]}, "data_types has a blank entry"),
    ("xnat_dashboard", {"projects": [""]}, "projects has a blank entry"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "change", "sentence"), WRONG)
def test_what_cannot_work_is_said_at_once(module: str, change: Json, sentence: str) -> None:
    kind, row, name = MODULES[module][1:]
    change = {key: float(value) if key.startswith("cpu") else value for key, value in change.items()}
    whole = sentence if {*change} & {*kind.keys} else f"{kind.noun} {name}: {sentence}"
    with pytest.raises(rows.RowsError) as error:
        rows.wanted_rows(kind, [row | change], "present")
    assert str(error.value) == whole
    assert error.value.done == ()
    if not {*change} & {*kind.keys}:
        assert rows.wanted_rows(kind, [row | change], "absent") == {name: {}}


@pytest.mark.parametrize("module", MODULES)
def test_wrong_options_stop_before_any_call_and_name_all_rows(xnat: Xnat, module: str) -> None:
    kind, row, name = MODULES[module][1:]
    for state in ("present", "absent"):
        result = fail(xnat, module, row, row, state=state, check=True)
        assert result["msg"] == f"{kind.noun} {name}: is listed twice"
        assert summary(result) == (False, [], [], [])
    blank = {key: " " for key in kind.keys if key != "operator"}
    problems = fail(xnat, module, blank, row, row, state="absent")["msg"].split("; ")
    assert problems[0].endswith(f"{kind.keys[0]} is missing")
    assert problems[1] == f"{kind.noun} {name}: is listed twice"
    assert xnat.calls == []


def test_secrets_are_neither_returned_nor_logged(xnat: Xnat, monkeypatch: pytest.MonkeyPatch) -> None:
    def logged(self: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(AnsibleModule, "_log_invocation", logged)
    result = keep(xnat, "xnat_hardware", HARDWARE | {"environment": {"A": SECRET}})
    assert result["invocation"]["module_args"]["hardware"][0]["environment"] == MASK
    assert result["invocation"]["module_args"]["hardware"][0]["memory_limit"] == "32G"
    assert result["diff"]["after"]["GPU"]["environment"] == [f"A={MASK}"]
    environment = {"A": f"other-{SECRET}", "B": SECRET}
    result = keep(xnat, "xnat_hardware", HARDWARE | {"environment": environment})
    assert result["diff"]["before"]["GPU"]["environment"] == [f"A={MASK} (old)"]
    assert result["diff"]["after"]["GPU"]["environment"] == [f"A={MASK} (new)", f"B={MASK}"]
    fail(xnat, "xnat_hardware", HARDWARE, HARDWARE)
    wrong = fail(xnat, "xnat_hardware", HARDWARE | {"cpu_limit": "x"})
    assert wrong["invocation"]["module_args"]["hardware"][0]["environment"] == MASK
    wrong = run_module("xnat_hardware", {"xnat": xnat.options, "hardware": [f"{{{SECRET}"]})
    assert wrong["failed"]
    assert SECRET not in json.dumps(wrong)
    unreadable: list[Any] = [SECRET, None, [HARDWARE, SECRET], {}]
    for given_rows in unreadable:
        found = rows.without_values(rows.HARDWARE, {"hardware": given_rows, "state": "absent"})
        assert found == {"hardware": MASK, "state": "absent"}
    empty = {"hardware": [{"name": "x", "environment": {}}], "state": "absent"}
    assert rows.without_values(rows.HARDWARE, empty) == empty
    dashboard = keep(xnat, "xnat_dashboard", DASHBOARD)
    assert dashboard["invocation"]["module_args"]["dashboards"][0]["environment"] == "JupyterLab"


def test_an_account_that_is_no_administrator_is_told_so(xnat: Xnat) -> None:
    given = args(xnat, "xnat_hardware", HARDWARE)
    result = run_module(
        "xnat_hardware", given | {"xnat": xnat.options | {"username": "jdoe", "password": SECRETS.password}}
    )
    assert result["failed"]
    assert result["msg"].endswith("status 403, jdoe is not an administrator of XNAT")


# The thinking alone


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        *[(rows.text, value, None) for value in (None, "", " \n")],
        (rows.text, " a ", " a "),
        (rows.text, 2, "2"),
        *[(rows.number, value, 2.0) for value in (2, 2.0, "2", "2.0", " 2 ")],
        *[(rows.number, value, None) for value in (None, "", " ")],
        (rows.number, 0, 0.0),
        (rows.number, "two", "two"),
        *[(rows.count, value, "2") for value in (2, 2.0, "2", "2.0", "2.00")],
        (rows.count, "2.5", "2.5"),
        (rows.count, "12.0", "12"),
        (rows.count, "2.0G", "2.0G"),
        (rows.count, "GPU-1", "GPU-1"),
        (rows.count, None, None),
        (rows.count, " ", None),
        (rows.value_of, "", ""),
        (rows.value_of, None, None),
        (rows.value_of, 2, "2"),
        (rows.names_in, None, []),
        (rows.names_in, ["b", "a", "b", 1], ["1", "a", "b"]),
        (rows.ordered, [{"b": 1}, {"a": 2}, {"a": 1}], [{"a": 1}, {"a": 2}, {"b": 1}]),
        (rows.ordered, [{"b": 1, "a": 2}, {"a": 1, "b": 3}], [{"a": 1, "b": 3}, {"a": 2, "b": 1}]),
        (rows.hardware_found, None, []),
        (rows.hardware_found, {"allowAllHardware": True, "hardwareConfigs": [{"id": 1}]}, rows.ALL),
        (rows.hardware_found, {"hardwareConfigs": [{"id": 2, "hardware": {}}, {"id": 1}]}, [1, 2]),
        (rows.hardware_found, {"allowAllHardware": False, "hardwareConfigs": None}, []),
        (rows.scope_found, None, None),
        (rows.scope_found, {"scope": "Site", "ids": None}, {"enabled": False, "ids": []}),
        (rows.mount, {"localPath": "", "volumeName": None},
         {"volumeName": "", "localPath": None, "containerPath": None, "readOnly": False}),
        (rows.mount, {"volumeName": "v", "readOnly": True},
         {"volumeName": "v", "localPath": None, "containerPath": None, "readOnly": True}),
        (rows.wanted_mount, {"source": "/a", "target": "/b", "read_only": None},
         {"volumeName": "", "localPath": "/a", "containerPath": "/b", "readOnly": True}),
        (rows.wanted_placement, {"key": "k", "value": "v", "operator": None},
         {"key": "k", "operator": "IN", "values": ["v"]}),
    ],
)  # fmt: skip
def test_each_value_has_one_normal_form(form: Any, value: Any, expected: Any) -> None:
    found = form(value)
    assert found == expected
    assert type(found) is type(expected)


EMPTY: dict[str, Json] = {
    "xnat_hardware": {"hardware": {"name": "GPU", "cpuLimit": "", "memoryLimit": " ", "constraints": None}},
    "xnat_compute_environment": {
        "computeEnvironment": {"name": "Data science", "image": "x", "command": "", "environmentVariables": None},
        "hardwareOptions": {"allowAllHardware": True},
    },
    "xnat_constraint": {"constraint": {"key": "node.labels.room", "operator": "NOT_IN", "values": ["x"]}},
    "xnat_dashboard_framework": {"name": "Shiny", "commandTemplate": "x"},
    "xnat_dashboard": {
        "dashboard": {"name": "Volumes", "framework": "custom", "command": "x", "fileSource": "git", "description": ""},
        "computeEnvironmentConfig": {"id": 1, "computeEnvironment": {}},
        "hardwareConfig": {"id": 1},
    },
}


@pytest.mark.parametrize("module", MODULES)
def test_what_is_left_out_or_null_is_what_xnat_keeps_as_nothing(module: str) -> None:
    kind = MODULES[module][1]
    needed = {"image": "x", "value": "x", "command_template": "x", "command": "x"}
    needed |= {key: value for key, value in MODULES[module][2].items() if key in kind.keys}
    left_out = {key: value for key, value in needed.items() if key in {field.option for field in kind.fields}}
    if module == "xnat_compute_environment":
        del left_out["command"]
    references = {"environment": 1, "hardware": 1} if module == "xnat_dashboard" else {}
    nulls = dict.fromkeys(field.option for field in kind.fields) | left_out
    row = EMPTY[module] | {"id": 3, "unknown": 1}
    if module != "xnat_dashboard_framework":
        row["scopes"] = SCOPES | {"DataType": {"scope": "DataType", "enabled": True}}
    for options in (left_out, nulls):
        assert rows.wanted_row(kind, options) | references == rows.stored_row(kind, row)


def test_what_may_be_given_is_taken() -> None:
    options = {"name": "x", "cpu_limit": 0.0, "cpu_reservation": 64.0, "memory_limit": "10T", "environment": {1: 0.5}}
    normal = rows.wanted_rows(rows.HARDWARE, [options], "present")["x"]
    assert normal["environment"] == [{"key": "1", "value": "0.5"}]
    assert normal["cpu_limit"] == 0
    options = {"name": "x", "command_template": "x" * 4096}
    assert rows.wanted_rows(rows.FRAMEWORKS, [options], "present")
    options = {"key": "k", "operator": None, "value": "v"}
    assert list(rows.wanted_rows(rows.CONSTRAINTS, [options], "present")) == ["k IN"]
    assert not rows.ENVIRONMENTS.ours({"configTypes": None})


def test_a_row_of_which_hardly_anything_is_there_can_be_read() -> None:
    for _, kind, _, _ in MODULES.values():
        normal = rows.stored_row(kind, {"id": 1})
        assert rows.name_of(kind, normal) == ""
        changes = rows.plan(kind, [{"id": 1, "configTypes": ["JUPYTERHUB"]}], {}, purge=True)
        assert [(change.label, change.action) for change in changes] == [("(id 1)", "delete")]


def options_of(kind: Any) -> st.SearchStrategy[Json]:
    """Rows as the module gets them."""
    name = st.text("abc", min_size=1, max_size=2)
    texts = st.none() | st.text("ab ", max_size=3)
    some = st.lists(name, max_size=3)
    values = st.dictionaries(name, st.text("ab", max_size=2) | st.integers(0, 3), max_size=3)
    known: dict[str, Any] = {
        "cpu_limit": st.none() | st.floats(0, 64),
        "cpu_reservation": st.none() | st.integers(0, 64),
        "constraints": st.lists(st.fixed_dictionaries({"key": name, "value": name}), max_size=3),
        "generic_resources": st.dictionaries(name, name | st.integers(0, 3) | st.just("2.0"), max_size=3),
        "environment": values,
        "mounts": st.lists(
            st.fixed_dictionaries({"source": name, "target": name, "read_only": st.booleans()}), max_size=3
        ),
        "operator": st.sampled_from(["IN", "NOT_IN"]),
        "enabled": st.booleans(),
        "framework": st.sampled_from(["Dash", "custom", None]),
        **dict.fromkeys(("projects", "users", "data_types"), some),
    }
    chosen = {field.option: known.get(field.option, name if field.required else texts) for field in kind.fields}
    if kind is rows.DASHBOARDS:
        chosen |= {"environment": st.just("E"), "hardware": st.just("H")}
    if kind is rows.ENVIRONMENTS:
        chosen |= {"hardware": st.lists(st.sampled_from(["H", "I"]), max_size=2)}
    return st.fixed_dictionaries(chosen)


NAMES = {
    rows.HARDWARE.path: {1: "H", 2: "I", 10: "J"},
    rows.ENVIRONMENTS.path: {7: "E"},
    rows.FRAMEWORKS.path: {5: "Dash"},
}


def made(kind: Any, found: list[Json], changes: list[Any], ids: Iterator[int]) -> list[Json]:
    """What an XNAT that does as it is told has after the changes."""
    kept = {row["id"]: row for row in found}
    for change in changes:
        if change.action == "delete":
            del kept[change.number]
        else:
            row = json.loads(json.dumps(rows.body(kind, change)))
            kept[change.number or next(ids)] = row
    for number, row in kept.items():
        row["id"] = number
    return list(kept.values())


def shuffle(value: Any, order: Random) -> None:
    """Put all lists within a row into another order."""
    for part in value.values() if isinstance(value, dict) else value:
        if isinstance(part, (dict, list)):
            shuffle(part, order)
    if isinstance(value, list):
        order.shuffle(value)


@pytest.mark.parametrize("module", MODULES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_once_done_there_is_nothing_to_do_in_whatever_order_xnat_keeps_lists(module: str, data: st.DataObject) -> None:
    kind = MODULES[module][1]
    ids, order = count(1000), Random(data.draw(st.integers(0, 99)))  # noqa: S311
    found: list[Json] = []
    for purge in (False, data.draw(st.booleans())):
        given_rows = data.draw(st.lists(options_of(kind), max_size=2))
        normals = [rows.wanted_row(kind, options) for options in given_rows]
        wanted, problems = rows.resolved(kind, {rows.name_of(kind, normal): normal for normal in normals}, NAMES)
        assert problems == []
        changes = rows.plan(kind, found, wanted, "present", purge)
        assert all(change.before != change.after for change in changes)
        before = {row["id"] for row in found}
        found = made(kind, found, changes, ids)
        assert all(row["unknown"] == row["id"] for row in found if row["id"] in before)
        for row in found:
            row["unknown"] = row["id"]
            shuffle(row, order)
        assert rows.plan(kind, found, wanted, "present", purge) == []
        assert rows.not_kept(kind, found, [change for change in changes if change.number], NAMES) == []
        assert not purge or len(found) == len(wanted)
    removed = rows.plan(kind, found, {name: {} for name in wanted}, "absent")
    assert [change.action for change in removed] == ["delete"] * len(wanted)


def change_to(kind: Any, row: Json | None, **differing: Any) -> Any:
    """A change of a row in some fields."""
    before = None if row is None else rows.stored_row(kind, row)
    return rows.Change("x", row and row["id"], row, before, {**(before or {}), **differing})


def test_a_body_keeps_what_the_module_does_not_know_and_all_that_does_not_differ() -> None:
    variables = [{"key": "B", "value": "2", "note": "theirs"}, {"key": "A", "value": "1"}]
    row = {
        "id": 4,
        "configTypes": ["JUPYTERHUB", "GENERAL"],
        "owner": "them",
        "computeEnvironment": {"name": "E", "image": "i", "environmentVariables": variables, "extra": [1]},
        "scopes": {
            "Site": {"scope": "Site", "enabled": True, "ids": [], "note": "theirs"},
            "Subject": {"scope": "Subject", "enabled": False, "ids": ["S"]},
        },
        "hardwareOptions": {"allowAllHardware": False, "note": "x", "hardwareConfigs": [SMALL]},
    }
    before = deepcopy(row)
    change = change_to(
        rows.ENVIRONMENTS, row, image="j", enabled={"enabled": False, "ids": []}, users={"enabled": True, "ids": []}
    )
    body = rows.body(rows.ENVIRONMENTS, change)
    expected = deepcopy(row)
    expected["computeEnvironment"]["image"] = "j"  # type: ignore[index]
    expected["scopes"]["Site"]["enabled"] = False  # type: ignore[index]
    expected["scopes"]["User"] = {"scope": "User", "enabled": True, "ids": []}  # type: ignore[index]
    expected["hardwareOptions"]["hardwareConfigs"] = [{"id": 1}]  # type: ignore[index]
    assert body == expected
    assert row == before
    assert rows.ENVIRONMENTS.new == {"configTypes": ["JUPYTERHUB"]}
    dashboard = {"id": 1, "computeEnvironmentConfig": row, "hardwareConfig": SMALL, "dashboard": None}
    body = rows.body(rows.DASHBOARDS, change_to(rows.DASHBOARDS, dashboard, description="d"))
    assert body == {
        "id": 1,
        "computeEnvironmentConfig": {"id": 4},
        "hardwareConfig": {"id": 1},
        "dashboard": {"description": "d"},
    }


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("xnat_hardware", {
            "hardware": {
                "name": "GPU", "cpuLimit": 8.0, "cpuReservation": 0.5, "memoryLimit": "32G", "memoryReservation": "16G",
                "constraints": [{"key": "a", "operator": "NOT_IN", "values": ["b"]},
                                {"key": "node.labels.gpu", "operator": "IN", "values": ["true"]}],
                "environmentVariables": [{"key": "THREADS", "value": "2"}, {"key": "TOKEN", "value": SECRET}],
                "genericResources": [{"name": "disk", "value": "ssd"}, {"name": "gpu", "value": "1"}],
            },
            "scopes": {"Site": {"scope": "Site", "enabled": True, "ids": []},
                       "Project": {"scope": "Project", "enabled": False, "ids": ["DEMO_CT", "DEMO_MR"]},
                       "User": {"scope": "User", "enabled": False, "ids": ["jdoe"]}},
        }),
        ("xnat_compute_environment", {
            "configTypes": ["JUPYTERHUB"],
            "computeEnvironment": {
                "name": "Data science", "image": "registry.example.org/ds:1", "command": "start  'a b'",
                "environmentVariables": [{"key": "EMPTY", "value": ""}, {"key": "TOKEN", "value": SECRET}],
                "mounts": [{"volumeName": "", "localPath": "/srv/a", "containerPath": "/a", "readOnly": True},
                           {"volumeName": "", "localPath": "/srv/b", "containerPath": "/b", "readOnly": False}],
            },
            "scopes": {"Site": {"scope": "Site", "enabled": False, "ids": []},
                       "Project": {"scope": "Project", "enabled": False, "ids": ["DEMO_MR"]},
                       "User": {"scope": "User", "enabled": False, "ids": ["asmith", "jdoe"]}},
            "hardwareOptions": {"allowAllHardware": False, "hardwareConfigs": [{"id": 1}]},
        }),
        ("xnat_constraint", {
            "constraint": {"key": "node.labels.room", "operator": "NOT_IN", "values": ["x"]},
            "scopes": {"Site": {"scope": "Site", "enabled": True, "ids": []},
                       "Project": {"scope": "Project", "enabled": False, "ids": ["DEMO_MR"]}},
        }),
        ("xnat_dashboard_framework", {"name": "Shiny", "commandTemplate": FRAMEWORK["command_template"]}),
        ("xnat_dashboard", {
            "dashboard": {
                "name": "Volumes", "description": "Volumes of regions", "framework": "Dash", "command": None,
                "fileSource": "git", "gitRepoUrl": "https://git.example.org/boards", "gitRepoBranch": "main",
                "mainFilePath": "volumes/app.py",
            },
            "scopes": {"Site": {"scope": "Site", "enabled": True, "ids": []},
                       "Project": {"scope": "Project", "enabled": False, "ids": ["DEMO_MR"]},
                       "DataType": {"scope": "DataType", "enabled": False, "ids": ["xnat:mrSessionData"]}},
            "computeEnvironmentConfig": {"id": 7}, "hardwareConfig": {"id": 1},
        }),
    ],
)  # fmt: skip
def test_a_new_row_is_sent_in_xnat_s_form(module: str, expected: Json) -> None:
    kind, row, name = MODULES[module][1:]
    wanted = rows.wanted_rows(kind, [row], "present")
    assert list(wanted) == [name]
    names = {
        rows.HARDWARE.path: {1: "Small"}, rows.ENVIRONMENTS.path: {7: "JupyterLab"}, rows.FRAMEWORKS.path: {5: "Dash"}
    }  # fmt: skip
    wanted, _ = rows.resolved(kind, wanted, names)
    (change,) = rows.plan(kind, [], wanted)
    assert rows.body(kind, change) == expected


@pytest.mark.parametrize(
    ("field", "value", "normal"),
    [
        (rows.Field, " a ", " a "),
        (rows.Cpus, 2, 2.0),
        (rows.Memory, " ", None),
        (rows.Operator, None, "IN"),
        (rows.ConstraintValue, "x", ["x"]),
        (rows.FileSource, None, "git"),
        (rows.Variables, {"B": 1, "A": ""}, [{"key": "A", "value": ""}, {"key": "B", "value": "1"}]),
        (rows.GenericResources, {"gpu": 2.0}, [{"name": "gpu", "value": "2"}]),
        (rows.Scope, [], {"enabled": True, "ids": []}),
        (rows.Scope, ["B", "A"], {"enabled": False, "ids": ["A", "B"]}),
        (rows.SiteScope, None, {"enabled": True, "ids": []}),
        (rows.SiteScope, False, {"enabled": False, "ids": []}),
        (rows.AllowedHardware, [], rows.ALL),
        (rows.AllowedHardware, ["B", "A"], ["A", "B"]),
        (rows.Reference, "E", "E"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else json.dumps(value),
)
def test_each_field_has_one_normal_form_of_its_option(field: Any, value: Any, normal: Any) -> None:
    one = field("option", ("part", "Name"))
    assert one.wanted(value) == normal
    assert one.problem(value) == ""


def test_fields_tell_what_is_secret_and_what_is_referred_to_by_id() -> None:
    fields = {(kind.option, field.option): field for _, kind, _, _ in MODULES.values() for field in kind.fields}
    assert {key for key, field in fields.items() if field.secret} == {
        ("hardware", "environment"),
        ("environments", "environment"),
    }
    assert {key for key, field in fields.items() if field.by_id} == {
        ("environments", "hardware"),
        ("dashboards", "environment"),
        ("dashboards", "hardware"),
    }
    assert {key for key, field in fields.items() if field.refers and not field.by_id} == {("dashboards", "framework")}


def test_all_hardware_is_sent_as_such() -> None:
    (change,) = rows.plan(rows.ENVIRONMENTS, [], {"x": rows.wanted_row(rows.ENVIRONMENTS, {"name": "x"})})
    assert rows.body(rows.ENVIRONMENTS, change)["hardwareOptions"] == {"allowAllHardware": True, "hardwareConfigs": []}


def test_references_are_shown_by_names() -> None:
    names = {1: "A", 2: "B", 3: "B"}
    assert [rows.called(names, value) for value in (1, 2, 4, "new", None)] == [
        "A",
        "B (id 2)",
        "id 4",
        "new",
        "id None",
    ]


def test_a_hardware_called_all_is_one_and_not_all() -> None:
    names = {rows.HARDWARE.path: {4: "all"}, rows.ENVIRONMENTS.path: {1: "all"}, rows.FRAMEWORKS.path: {1: "all"}}
    wanted = rows.wanted_rows(rows.ENVIRONMENTS, [{"name": "E", "image": "i", "hardware": ["all"]}], "present")
    assert rows.resolved(rows.ENVIRONMENTS, wanted, names)[0]["E"]["hardware"] == [4]
    options = DASHBOARD | {"environment": "all", "hardware": "all", "framework": "all"}
    wanted = rows.wanted_rows(rows.DASHBOARDS, [options], "present")
    found, missing = rows.resolved(rows.DASHBOARDS, wanted, names)
    assert missing == []
    assert [found["Volumes"][key] for key in ("environment", "hardware", "framework")] == [1, 4, "all"]
    assert wanted["Volumes"]["hardware"] == "all"


def test_a_duplicate_variable_in_xnat_is_a_difference() -> None:
    twice = [{"key": "A", "value": "1"}, {"key": "A", "value": "1"}]
    row = {"id": 1, "hardware": {"name": "x", "environmentVariables": twice}, "scopes": SCOPES}
    wanted = rows.wanted_rows(rows.HARDWARE, [{"name": "x", "environment": {"A": "1"}}], "present")
    (change,) = rows.plan(rows.HARDWARE, [row], wanted)
    assert rows.shown(rows.HARDWARE, change.before, change.after, "", {})["environment"] == [f"A={MASK}"] * 2
    nothing = deepcopy(row)
    nothing["hardware"]["environmentVariables"] = [{"key": "A", "value": None}]  # type: ignore[index]
    wanted = rows.wanted_rows(rows.HARDWARE, [{"name": "x", "environment": {"A": ""}}], "present")
    assert len(rows.plan(rows.HARDWARE, [nothing], wanted)) == 1


def test_a_command_that_does_not_count_is_no_difference() -> None:
    dashboard = {"name": "x", "framework": "Dash", "command": "left over", "fileSource": "git"}
    normal = rows.stored_row(rows.DASHBOARDS, {"id": 1, "dashboard": dashboard})
    assert (normal["framework"], normal["command"]) == ("Dash", None)
    for framework in ("Custom", " ", None):
        normal = rows.stored_row(rows.DASHBOARDS, {"id": 1, "dashboard": dashboard | {"framework": framework}})
        assert (normal["framework"], normal["command"]) == (None, "left over")


def test_rows_of_one_name_are_told_in_the_order_of_their_ids() -> None:
    sentence = "XNAT has the dashboard x more than once, with the ids 1 and 3 and 20: delete all but one"
    assert rows.twice(rows.DASHBOARDS, "x", [20, 3, 1]) == sentence


def test_changes_come_in_the_option_s_order_and_removals_last() -> None:
    found = [{"id": number, "name": name, "commandTemplate": "x"} for number, name in ((1, "D"), (2, "A"), (3, "E"))]
    given_rows = [{"name": name, "command_template": "y"} for name in ("C", "A", "B")]
    wanted = rows.wanted_rows(rows.FRAMEWORKS, given_rows, "present")
    changes = rows.plan(rows.FRAMEWORKS, found, wanted, purge=True)
    expected = ["create C", "update A", "create B", "delete D", "delete E"]
    assert [f"{change.action} {change.label}" for change in changes] == expected
    assert rows.lists(changes) == {"created": ["C", "B"], "updated": ["A"], "deleted": ["D", "E"]}
    assert [change.label for change in rows.plan(rows.FRAMEWORKS, found, wanted)] == ["C", "A", "B"]
