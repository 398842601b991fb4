"""The demo XNAT's hardware, compute environments, constraints and dashboards (docs/xnat-contract.md, 4.2 and 5.4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from demo_xnat.dashboards import BUILT_IN
from demo_xnat.kinds import ComputeError
from demo_xnat.people import PEOPLE
from demo_xnat.plugin import StartRequest
from demo_xnat.web import PLUGIN

from tests.unit.test_demo_xnat import OPTIONS, Client, answer, make_settings, outcome, run, start_body

HARDWARE, ENVIRONMENTS, CONSTRAINTS = (f"/xapi/compute/{name}" for name in ("hardware", "environments", "constraints"))
DASHBOARDS, FRAMEWORKS = (f"/xapi/jupyterhub/dashboards/{name}" for name in ("configs", "frameworks"))
PLACE = "type=JUPYTERHUB&site=XNAT&user=jdoe&prj=DEMO_MR"


def scopes(*names: str, **ids: list[str]) -> dict[str, Any]:
    """The scopes: on for all, or for the given ids only."""
    names = names or ("Site", "Project", "User")
    return {name: {"scope": name, "enabled": name not in ids, "ids": ids.get(name, [])} for name in names}


def hardware(name: str = "GPU", within: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"hardware": {"name": name} | fields, "scopes": within or scopes()}


def environment(
    within: dict[str, Any] | None = None, allowed: list[int] | None = None, **fields: Any
) -> dict[str, Any]:
    return {
        "configTypes": ["JUPYTERHUB"],
        "computeEnvironment": {"name": "Data science", "image": "registry.example.org/ds:1"} | fields,
        "scopes": within or scopes(),
        "hardwareOptions": {
            "allowAllHardware": allowed is None,
            "hardwareConfigs": [{"id": number} for number in allowed or []],
        },
    }


def constraint(*values: str, operator: str = "IN", within: dict[str, Any] | None = None) -> dict[str, Any]:
    wanted = {"key": "node.labels.room", "operator": operator, "values": list(values)}
    return {"constraint": wanted, "scopes": within or scopes()}


def dashboard(within: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    shown = {
        "name": "Volumes",
        "framework": "Dash",
        "fileSource": "git",
        "gitRepoUrl": "git://git.example.org/boards",
        "gitRepoBranch": "main",
        "mainFilePath": "volumes/app.py",
    }
    return {
        "dashboard": shown | fields,
        "scopes": within or scopes("Site", "Project", "DataType"),
        "computeEnvironmentConfig": {"id": 1},
        "hardwareConfig": {"id": 1},
    }


async def made(client: Client, path: str, body: Any) -> int:
    status, _, text = await answer(client, "admin", "POST", path, json=body)
    assert status == (200 if path == FRAMEWORKS else 201), text
    return int(json.loads(text)["id"])


async def got(client: Client, login: str, path: str) -> Any:
    status, _, text = await answer(client, login, "GET", path)
    assert status == 200, text
    return json.loads(text)


async def stored(client: Client, **changes: Any) -> dict[str, Any]:
    """The task template that a start stores and the hub reads."""
    await client.app[PLUGIN].store_options(PEOPLE["jdoe"], StartRequest.model_validate(start_body(**changes)))
    template: dict[str, Any] = (await got(client, "jupyterhub", OPTIONS))["task_template"]
    return template


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (HARDWARE, hardware()),
        (ENVIRONMENTS, environment()),
        (CONSTRAINTS, constraint("a")),
        (DASHBOARDS, dashboard()),
    ],
    ids=["hardware", "environments", "constraints", "dashboards"],
)
def test_rows_are_created_201_replaced_200_and_deleted_204_by_admins_only(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    async def check(client: Client) -> None:
        number = await made(client, path, body)
        row = f"{path}/{number}"
        first = await got(client, "admin", row)
        assert first["scopes"] == body["scopes"]
        for method, where in (("POST", path), ("PUT", row), ("DELETE", row)):
            for login in ("jdoe", "jupyterhub"):
                assert (await answer(client, login, method, where, json=body))[0] == 403
        assert (await answer(client, "admin", "POST", path, data=b"x"))[0] == 415
        assert (await answer(client, "admin", "PUT", row, json=body))[0] == 500  # no id in the body
        assert (await answer(client, "admin", "PUT", row, json=body | {"id": number + 1}))[0] == 500
        status, _, text = await answer(client, "admin", "PUT", row, json=body | {"id": number})
        assert (status, json.loads(text)) == (200, first)
        missing = body | {"id": 99}
        assert (await answer(client, "admin", "PUT", f"{path}/99", json=missing))[0] == 404
        assert (await answer(client, "admin", "DELETE", row))[::2] == (204, "")
        assert (await answer(client, "admin", "DELETE", row))[0] == 404
        assert (await answer(client, "admin", "GET", row))[0] == 404
        assert await made(client, path, body) > number  # ids are not used again

    run(make_settings(tmp_path), check)


def test_only_dashboards_are_listed_for_everybody(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await made(client, DASHBOARDS, dashboard())
        for path, status in ((HARDWARE, 403), (ENVIRONMENTS, 403), (CONSTRAINTS, 403), (DASHBOARDS, 200)):
            assert (await answer(client, "jdoe", "GET", path))[0] == status
            assert (await answer(client, "admin", "GET", path))[0] == 200
        assert (await answer(client, "jdoe", "GET", f"{HARDWARE}/1"))[0] == 403
        assert (await answer(client, "jdoe", "GET", f"{DASHBOARDS}/1"))[0] == 200

    run(make_settings(tmp_path), check)


def without(body: dict[str, Any], *path: str) -> dict[str, Any]:
    """The body with one field null."""
    name, rest = path[0], path[1:]
    return body | {name: without(body[name], *rest) if rest else None}


ERROR = "There was an error in the request : "
WRONG: list[tuple[str, Any, str]] = [
    (HARDWARE, hardware(" "), "Hardware config is invalid: Hardware name cannot be blank"),
    (HARDWARE, {}, "Hardware config is invalid: Hardware cannot be null, Hardware scopes cannot be null or empty"),
    (HARDWARE, hardware(within=scopes("Site", "User")),
     "Hardware config is invalid: Hardware scopes must contain a project scope"),
    (HARDWARE, [], "Could not read the JSON document."),
    (HARDWARE, hardware(cpuLimit="two"), "Could not read the JSON document."),
    (HARDWARE, hardware(constraints=[{"key": "a", "operator": "==", "values": ["b"]}]),
     "Could not read the JSON document."),
    (ENVIRONMENTS, environment(image=""),
     "ComputeEnvironmentConfig is invalid: [ComputeEnvironment image cannot be blank]"),
    (ENVIRONMENTS, environment(name=None, within=scopes("Project")),
     "ComputeEnvironmentConfig is invalid: [ComputeEnvironment name cannot be blank, "
     "ComputeEnvironmentConfig must have a site scope, ComputeEnvironmentConfig must have a user scope]"),
    (ENVIRONMENTS, without(environment(), "configTypes"),
     "ComputeEnvironmentConfig is invalid: [ComputeEnvironmentConfig must have at least one config type]"),
    (ENVIRONMENTS, without(environment(), "hardwareOptions"),
     "ComputeEnvironmentConfig is invalid: [ComputeEnvironmentHardwareOptions cannot be null]"),
    (ENVIRONMENTS, without(environment(), "hardwareOptions", "hardwareConfigs"),
     "ComputeEnvironmentConfig is invalid: [ComputeEnvironmentHardwareOptions hardware configs cannot be null]"),
    (CONSTRAINTS, constraint(), "Constraint config is invalid: Constraint values cannot be null or empty"),
    (CONSTRAINTS, constraint("a", within=scopes("User")),
     "Constraint config is invalid: Scopes must contain a site scope, Scopes must contain a project scope"),
    (DASHBOARDS, dashboard(name=""), "Dashboard config is invalid: Dashboard name cannot be blank"),
    (DASHBOARDS, dashboard(within=scopes()), "Dashboard config is invalid: "
     "Dashboard scopes must contain a data type scope"),
    (DASHBOARDS, without(dashboard(), "hardwareConfig"),
     "Dashboard config is invalid: Hardware config cannot be null"),
    (DASHBOARDS, dashboard(framework="Shiny"), "Dashboard framework does not exist"),
    (DASHBOARDS, dashboard() | {"computeEnvironmentConfig": {"id": 9}}, "Compute environment config does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "sentence"), WRONG, ids=[f"{case[0][6:]}: {case[2][-50:]}" for case in WRONG])
def test_what_xnat_cannot_use_is_500_with_all_problems(tmp_path: Path, path: str, body: Any, sentence: str) -> None:
    async def check(client: Client) -> None:
        before = await got(client, "admin", path)
        got_answer = await answer(client, "admin", "POST", path, json=body)
        assert got_answer == (500, "text/plain", ERROR + sentence)
        assert await got(client, "admin", path) == before

    run(make_settings(tmp_path), check)


def test_rows_keep_their_ids_and_are_given_out_in_xnat_s_form(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        [row] = await got(client, "admin", ENVIRONMENTS)
        assert row["id"] == 1
        assert row["computeEnvironment"]["mounts"] == [
            {"volumeName": "", "localPath": "/srv/atlases", "containerPath": "/opt/atlases", "readOnly": True}
        ]
        [small] = row["hardwareOptions"]["hardwareConfigs"]
        assert small == await got(client, "admin", f"{HARDWARE}/1")
        assert small["hardware"] == {  # nulls are left out
            "name": "Small",
            "cpuLimit": 1.0,
            "memoryLimit": "1G",
            "constraints": [{"key": "node.role", "operator": "IN", "values": ["worker"]}],
            "environmentVariables": [],
            "genericResources": [{"name": "gpu", "value": "1"}],
        }
        assert await made(client, HARDWARE, hardware()) == 2
        status, _, text = await answer(client, "admin", "PUT", f"{ENVIRONMENTS}/1", json=row)  # what GET gave
        assert (status, json.loads(text)["computeEnvironment"]) == (200, row["computeEnvironment"])

    run(make_settings(tmp_path), check)


def test_environments_are_chosen_by_type(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await made(client, ENVIRONMENTS, environment() | {"configTypes": ["CONTAINER_SERVICE"]})
        for path in (ENVIRONMENTS, f"{ENVIRONMENTS}/available"):
            rows = await got(client, "admin", f"{path}?{PLACE}")
            assert [row["id"] for row in rows] == [1]
        assert len(await got(client, "admin", ENVIRONMENTS)) == 2

    run(make_settings(tmp_path), check)


def test_an_environment_has_all_hardware_or_just_the_named(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        chosen = await made(client, ENVIRONMENTS, environment(allowed=[1, 77]))
        later = await made(client, HARDWARE, hardware("Later"))

        async def ids(number: int) -> list[int]:
            row = await got(client, "admin", f"{ENVIRONMENTS}/{number}")
            return [item["id"] for item in row["hardwareOptions"]["hardwareConfigs"]]

        assert (await ids(1), await ids(chosen)) == ([1, later], [1])
        await answer(client, "admin", "DELETE", f"{HARDWARE}/1")
        assert (await ids(1), await ids(chosen)) == ([later], [])

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize(
    ("within", "login", "project", "offered"),
    [
        (scopes(), "asmith", "DEMO_MR", True),
        (scopes("Site", "Project", "User", Site=[]), "jdoe", "DEMO_MR", False),
        (scopes("Site", "Project", "User", Site=["XNAT"]), "jdoe", "DEMO_MR", True),
        (scopes("Site", "Project", "User", User=["jdoe"]), "jdoe", "DEMO_MR", True),
        (scopes("Site", "Project", "User", User=["jdoe"]), "JDoe", "DEMO_MR", False),
        (scopes("Site", "Project", "User", Project=["DEMO_CT"]), "jdoe", "DEMO_MR", False),
        (scopes("Site", "Project", "User", Project=["DEMO_CT"]), "jdoe", "DEMO_CT", True),
    ],
    ids=["for all", "no site", "this site", "this user", "another user", "another project", "this project"],
)
def test_scopes_rule_environments_and_hardware_alike(
    tmp_path: Path, within: dict[str, Any], login: str, project: str, offered: bool
) -> None:
    async def check(client: Client) -> None:
        limited = await made(client, ENVIRONMENTS, environment(within))
        await made(client, HARDWARE, hardware(within=within))
        place = f"type=JUPYTERHUB&site=XNAT&user={login}&prj={project}"
        rows = await got(client, login, f"{ENVIRONMENTS}/available?{place}")
        assert (limited in [row["id"] for row in rows]) is offered
        assert (2 in [item["id"] for item in rows[0]["hardwareOptions"]["hardwareConfigs"]]) is offered
        compute = client.app[PLUGIN].compute
        where = {"Site": "XNAT", "User": login, "Project": project, "DataType": "xnat:mrSessionData"}
        assert compute.may_start(limited, 1, None, where) is offered
        assert compute.may_start(1, 2, None, where) is offered
        assert compute.may_start(1, 1, None, where)

    run(make_settings(tmp_path), check)


def test_a_query_without_one_of_the_scopes_finds_nothing(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        for query in ("type=JUPYTERHUB&user=jdoe&prj=DEMO_MR", "site=XNAT&prj=DEMO_MR", "site=XNAT&user=jdoe"):
            assert await got(client, "jdoe", f"{ENVIRONMENTS}/available?{query}") == []
        assert len(await got(client, "jdoe", f"{ENVIRONMENTS}/available?{PLACE}")) == 1

    run(make_settings(tmp_path), check)


def test_a_launch_carries_hardware_and_environment_as_they_are_typed(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"cpuLimit": "0.5", "cpuReservation": None, "memoryLimit": "4Gi", "memoryReservation": ""}

    async def check(client: Client) -> None:
        gpu = hardware(
            **limits,
            environmentVariables=[{"key": "A", "value": "hardware"}, {"key": "XNAT_DATA", "value": "loses"}],
            genericResources=[{"name": "gpu", "value": 2}],
            constraints=[{"key": "node.role", "operator": "NOT_IN", "values": ["manager"]}],
        )
        image = environment(
            command="start  'a b'",
            environmentVariables=[{"key": "A", "value": "loses"}, {"key": "B", "value": 1}],
            mounts=[
                {"volumeName": "atlases", "localPath": "/srv/atlases", "containerPath": "/opt/atlases"},
                {"volumeName": "cache", "localPath": None, "containerPath": "/cache", "readOnly": True},
                {"volumeName": "", "localPath": "/srv/x", "containerPath": None, "readOnly": True},
            ],
        )
        numbers = {"hardwareConfigId": await made(client, HARDWARE, gpu)}
        numbers |= {"computeEnvironmentConfigId": await made(client, ENVIRONMENTS, image)}
        template = await stored(client, **numbers)
        assert template["resources"] == {  # 1.4.2: memory is not checked, null stays, numbers become text
            "cpu_limit": 0.5,
            "cpu_reservation": None,
            "mem_limit": "4Gi",
            "mem_reservation": "",
            "generic_resources": {"gpu": "2"},
        }
        container = template["container_spec"]
        assert container["command"] == "start  'a b'"  # 4.2: spaces stay
        assert [container["env"][name] for name in ("A", "B", "XNAT_DATA")] == ["hardware", "1", "/data"]
        assert container["mounts"][:3] == [  # 3.6: a volume's name is lost
            {"target": "/opt/atlases", "source": "/srv/atlases", "type": "volume", "read_only": False},
            {"target": "/cache", "source": None, "type": "volume", "read_only": True},
            {"target": None, "source": "/srv/x", "type": "bind", "read_only": True},
        ]
        assert template["placement"]["constraints"] == ["node.role!=manager"]

    run(make_settings(tmp_path), check)


def test_a_constraint_with_two_values_is_two_texts_after_the_hardware_s_and_only_in_its_projects(
    tmp_path: Path,
) -> None:
    async def check(client: Client) -> None:
        within = scopes("Site", "Project", Project=["DEMO_MR"])
        await made(client, CONSTRAINTS, constraint("a", "b", within=within))
        await made(client, CONSTRAINTS, constraint("c", operator="NOT_IN", within=scopes("Site", "Project", Site=[])))
        template = await stored(client)
        expected = ["node.role==worker", "node.labels.room==a", "node.labels.room==b"]
        assert template["placement"]["constraints"] == expected
        template = await stored(client, projectId="DEMO_CT", itemId="DEMO_CT", xsiType="xnat:projectData")
        assert template["placement"]["constraints"] == ["node.role==worker"]

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize(
    "variables",
    [[{"key": "A", "value": "1"}, {"key": "A", "value": "2"}], [{"key": "A", "value": None}]],
    ids=["two of one name", "no value"],
)
def test_bad_variables_are_taken_but_no_launch_survives_them(tmp_path: Path, variables: list[dict[str, Any]]) -> None:
    async def check(client: Client) -> None:
        number = await made(client, ENVIRONMENTS, environment(environmentVariables=variables))
        with pytest.raises(ComputeError):
            await stored(client, computeEnvironmentConfigId=number)
        assert (await answer(client, "jupyterhub", "GET", OPTIONS))[0] == 404

    run(make_settings(tmp_path), check)


# Dashboards


def test_the_four_frameworks_are_there_for_everybody_and_can_be_changed_by_admins(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        assert {row["name"]: row["commandTemplate"] for row in await got(client, "jdoe", FRAMEWORKS)} == BUILT_IN
        shiny = {"name": "Shiny", "commandTemplate": "shiny {repo}"}
        assert (await answer(client, "jdoe", "POST", FRAMEWORKS, json=shiny))[0] == 403
        number = await made(client, FRAMEWORKS, shiny)
        assert (await answer(client, "admin", "POST", FRAMEWORKS, json=shiny))[0] == 500  # the name is taken
        long = {"name": "Long", "commandTemplate": "x" * 4097}
        assert (await answer(client, "admin", "POST", FRAMEWORKS, json=long))[0] == 500
        change = {"id": number, "name": "Shiny", "commandTemplate": "shiny 2"}
        assert (await answer(client, "admin", "PUT", f"{FRAMEWORKS}/any", json=change))[0] == 200  # the id decides
        assert change in await got(client, "jdoe", FRAMEWORKS)
        assert (await answer(client, "admin", "PUT", f"{FRAMEWORKS}/Shiny", json=shiny))[0] == 404
        for _ in range(2):  # an unknown name is 200, too
            assert (await answer(client, "admin", "DELETE", f"{FRAMEWORKS}/Shiny"))[0] == 200
        assert len(await got(client, "jdoe", FRAMEWORKS)) == 4

    run(make_settings(tmp_path), check)


def test_every_built_in_command_is_the_contract_s_after_substitution(tmp_path: Path) -> None:
    begin = "jhsingle-native-proxy --port 8888 --destport {} --repo R --repobranch B"
    begin += " --repofolder /home/jovyan/dashboards "
    expected = {
        "Panel": begin.format(5006) + "bokeh-root-cmd /home/jovyan/dashboards/F {--}port={port}"
        " {--}allow-websocket-origin={origin_host} {--}prefix={base_url} {--}server=panel",
        "Streamlit": begin.format(8501) + "streamlit run /home/jovyan/dashboards/F {--}server.port {port}"
        " {--}server.headless True {--}server.fileWatcherType none",
        "Voila": begin.format(0) + "voila /home/jovyan/dashboards/F {--}port {port} {--}no-browser"
        " {--}Voila.base_url={base_url}/ {--}Voila.server_url=/ {--}Voila.ip=0.0.0.0"
        " {--}Voila.tornado_settings allow_origin={origin_host} --progressive",
        "Dash": "jhsingle-native-proxy --port=8888 --destport=8050 --repo=R --repobranch=B"
        " --repofolder=/home/jovyan/dashboards plotlydash-tornado-cmd /home/jovyan/dashboards/F"
        " {--}port={port} {--}ip 0.0.0.0",
    }
    values = {"gitRepoUrl": "R", "gitRepoBranch": "B", "mainFilePath": "F"}

    async def check(client: Client) -> None:
        frameworks = client.app[PLUGIN].compute.frameworks
        assert {name: frameworks.command(values | {"framework": name}) for name in BUILT_IN} == expected
        # a framework that is blank or "custom" means the dashboard's own command, white space collapsed
        for own in (None, " ", "Custom"):
            fields = {"framework": own, "command": " a  {mainFilePath}\n\tb "}
            assert frameworks.command(values | fields) == " a F b "
        assert frameworks.command({"command": "\t "}) is None

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize("value", [None, "$1", "${r}", "cost$", "C:\\"])
def test_a_value_that_java_s_replace_all_refuses_ends_the_start(tmp_path: Path, value: str | None) -> None:
    async def check(client: Client) -> None:
        frameworks = client.app[PLUGIN].compute.frameworks
        with pytest.raises(ComputeError):
            frameworks.command({"command": "x {repo}", "gitRepoUrl": value})
        assert frameworks.command({"command": "x", "gitRepoUrl": value}) == "x"

    run(make_settings(tmp_path), check)


def test_a_dashboard_starts_without_the_role_and_its_command_overrides_the_environment_s(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        image = await made(client, ENVIRONMENTS, environment(command="loses"))
        config = dashboard() | {"computeEnvironmentConfig": {"id": image}}
        numbers = {"dashboardConfigId": await made(client, DASHBOARDS, config), "computeEnvironmentConfigId": image}
        row = await got(client, "asmith", f"{DASHBOARDS}/1")
        assert row["computeEnvironmentConfig"]["computeEnvironment"]["command"] == "loses"
        assert row["hardwareConfig"]["hardware"]["name"] == "Small"
        template = await stored(client, **numbers)
        assert template["container_spec"]["command"].startswith("jhsingle-native-proxy --port=8888")
        assert template["container_spec"]["image"] == "registry.example.org/ds:1"
        own = config | {"id": 1, "dashboard": {"name": "Blank", "command": " "}}
        assert (await answer(client, "admin", "PUT", f"{DASHBOARDS}/1", json=own))[0] == 200
        assert (await stored(client, **numbers))["container_spec"]["command"] == "loses"
        # asmith has no role "Jupyter": a notebook is 403, the dashboard gets as far as the hub, which is away
        body = start_body("asmith", **numbers)
        path = f"/xapi/jupyterhub/users/asmith/server/{body['servername']}"
        assert (await answer(client, "asmith", "POST", path, json=body | {"dashboardConfigId": None}))[0] == 403
        assert "Failed to connect to JupyterHub" in (await outcome(client, "asmith", body))["finalMessage"]

    run(make_settings(tmp_path), check)


@pytest.mark.parametrize(
    ("within", "changes", "offered"),
    [
        ({}, {}, True),
        ({}, {"hardwareConfigId": 2}, False),
        ({}, {"dashboardConfigId": 9}, False),
        ({"DataType": ["xnat:mrSessionData"]}, {}, True),
        ({"DataType": ["xnat:ctSessionData"]}, {}, False),
        ({"Project": ["DEMO_CT"]}, {}, False),
        ({"Site": []}, {}, False),
    ],
    ids=["for all", "other hardware", "unknown", "its data type", "other data type", "other project", "switched off"],
)
def test_a_dashboard_is_on_offer_by_its_own_scopes_with_its_own_hardware(
    tmp_path: Path, within: dict[str, list[str]], changes: dict[str, Any], offered: bool
) -> None:
    nobody = scopes("Site", "Project", "User", User=[])

    async def check(client: Client) -> None:
        await made(client, HARDWARE, hardware())
        image = await made(client, ENVIRONMENTS, environment(nobody))  # its scopes do not count for dashboards
        config = dashboard(scopes("Site", "Project", "DataType", **within))
        await made(client, DASHBOARDS, config | {"computeEnvironmentConfig": {"id": image}})
        body = start_body(dashboardConfigId=1, computeEnvironmentConfigId=image) | changes
        message = (await outcome(client, "jdoe", body))["finalMessage"]
        refusal = "Failed to start dashboard. The dashboard is not available to the user."
        assert (message != refusal) is offered
        if not changes:
            place = "site=XNAT&user=jdoe&prj=DEMO_MR&datatype=xnat:mrSessionData"
            assert len(await got(client, "jdoe", f"{DASHBOARDS}/available?{place}")) == offered

    run(make_settings(tmp_path), check)


def test_what_a_dashboard_needs_cannot_be_deleted(tmp_path: Path) -> None:
    async def check(client: Client) -> None:
        await made(client, DASHBOARDS, dashboard())
        for path in (f"{HARDWARE}/1", f"{ENVIRONMENTS}/1"):
            status, _, text = await answer(client, "admin", "DELETE", path)
            assert status == 500
            assert "because it is in use by a DashboardConfig." in text
        assert (await answer(client, "admin", "DELETE", f"{FRAMEWORKS}/Dash"))[0] == 500
        await answer(client, "admin", "DELETE", f"{DASHBOARDS}/1")
        for path in (f"{HARDWARE}/1", f"{ENVIRONMENTS}/1"):
            assert (await answer(client, "admin", "DELETE", path))[0] == 204

    run(make_settings(tmp_path), check)
