"""What admins set up to be started: hardware, compute environments, constraints (docs/xnat-contract.md, 5.4), and
dashboards with their frameworks (4.2). Kept as the JSON that XNAT gives out; a null is left out there, as in XNAT.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .database import Changes, Database

Json = dict[str, Any]
# What a scope is called in a query; an item that has a scope is on offer only where the scope's id is known.
SCOPES = {"Site": "site", "Project": "prj", "Subject": "subj", "Experiment": "experiment", "User": "user"}
SCOPES |= {"DataType": "datatype"}
TEMPLATE_LENGTH = 4096

# Shapes: the fields that XNAT knows. A list holds one shape; a tuple holds the allowed words; others are ignored.
_CONSTRAINT = {"key": str, "values": [str], "operator": ("IN", "NOT_IN")}
_VARIABLES = [{"key": str, "value": str}]
_SCOPE = {"scope": tuple(SCOPES), "enabled": bool, "ids": [str]}
_SCOPED = {"id": int, "scopes": dict.fromkeys(SCOPES, _SCOPE)}
_HARDWARE = _SCOPED | {
    "hardware": {
        "name": str,
        "cpuLimit": float,
        "cpuReservation": float,
        "memoryLimit": str,
        "memoryReservation": str,
        "constraints": [_CONSTRAINT],
        "environmentVariables": _VARIABLES,
        "genericResources": [{"name": str, "value": str}],
    },
}
_ENVIRONMENT = _SCOPED | {
    "configTypes": [("JUPYTERHUB", "CONTAINER_SERVICE", "GENERAL")],
    "computeEnvironment": {
        "name": str,
        "image": str,
        "command": str,
        "environmentVariables": _VARIABLES,
        "mounts": [{"volumeName": str, "localPath": str, "containerPath": str, "readOnly": bool}],
    },
    "hardwareOptions": {"allowAllHardware": bool, "hardwareConfigs": [{"id": int}]},
}
_DASHBOARD = _SCOPED | {
    "dashboard": {"name": str, "description": str, "framework": str, "command": str}
    | {"fileSource": str, "gitRepoUrl": str, "gitRepoBranch": str, "mainFilePath": str},
    "computeEnvironmentConfig": {"id": int},
    "hardwareConfig": {"id": int},
}
_FRAMEWORK = {"id": int, "name": str, "commandTemplate": str}


class ComputeError(ValueError):
    """XNAT does not take this, or fails over it; the text is XNAT's sentence where XNAT has one."""


def shaped(value: Any, shape: Any) -> Any:
    """Read JSON as Jackson does: known fields only, texts and numbers turned into each other, nulls left out.

    Raises ``ComputeError`` for what cannot be read at all. A missing list is empty, a missing boolean is false.
    """
    unreadable = ComputeError("Could not read the JSON document.")
    if value is None:
        return [] if isinstance(shape, list) else False if shape is bool else None
    if isinstance(shape, dict) and isinstance(value, dict):
        fields = {name: shaped(value.get(name), part) for name, part in shape.items()}
        return {name: part for name, part in fields.items() if part is not None}
    if isinstance(shape, list) and isinstance(value, list):
        return [shaped(item, shape[0]) for item in value]
    if isinstance(shape, tuple):
        if value not in shape:
            raise unreadable
        return value
    if isinstance(value, dict | list) or isinstance(shape, dict | list) or (shape is bool) != isinstance(value, bool):
        raise unreadable
    try:
        return shape(value)
    except ValueError as error:
        raise unreadable from error


@dataclass(frozen=True)
class Kind:
    """One kind of configuration: the shape of its JSON and XNAT's sentences.

    problems: what XNAT finds wrong. invalid: the sentence around these. wrong_id: when path and body disagree.
    """

    shape: Json
    problems: Callable[[Json], list[str]]
    invalid: Callable[[list[str]], str]
    wrong_id: str
    public: bool = False


def _blank(text: str | None) -> bool:
    return not (text or "").strip()


def _scope_problems(config: Json, needed: Iterable[str], no_scopes: str, no_scope: str) -> list[str]:
    scopes = config.get("scopes")
    words = {"Site": "site", "User": "user", "Project": "project", "DataType": "data type"}
    return [no_scope.format(words[name]) for name in needed if name not in scopes] if scopes else [no_scopes]


def _hardware_problems(config: Json) -> list[str]:
    hardware = config.get("hardware")
    found = ["Hardware cannot be null"] if hardware is None else []
    if hardware is not None and _blank(hardware.get("name")):
        found.append("Hardware name cannot be blank")
    return found + _scope_problems(
        config,
        ("Site", "User", "Project"),
        "Hardware scopes cannot be null or empty",
        "Hardware scopes must contain a {} scope",
    )


def _environment_problems(config: Json) -> list[str]:
    environment = config.get("computeEnvironment")
    found = []
    if not config["configTypes"]:
        found.append("ComputeEnvironmentConfig must have at least one config type")
    if environment is None:
        found.append("ComputeEnvironment cannot be null")
    else:
        blank = [name for name in ("name", "image") if _blank(environment.get(name))]
        found += [f"ComputeEnvironment {name} cannot be blank" for name in blank]
    found += _scope_problems(
        config,
        ("Site", "User", "Project"),
        "ComputeEnvironmentConfig must have at least one scope",
        "ComputeEnvironmentConfig must have a {} scope",
    )
    if "hardwareOptions" not in config:
        found.append("ComputeEnvironmentHardwareOptions cannot be null")
    return found


def _constraint_problems(config: Json) -> list[str]:
    constraint = config.get("constraint")
    if constraint is None:
        found = ["Constraint cannot be null"]
    else:
        found = ["Constraint key cannot be null or blank"] if _blank(constraint.get("key")) else []
        found += [] if constraint["values"] else ["Constraint values cannot be null or empty"]
        found += [] if "operator" in constraint else ["Constraint operator cannot be null"]
    return found + _scope_problems(
        config, ("Site", "Project"), "Scopes cannot be null or empty", "Scopes must contain a {} scope"
    )


def _dashboard_problems(config: Json) -> list[str]:
    dashboard = config.get("dashboard")
    found = ["Dashboard cannot be null"] if dashboard is None else []
    if dashboard is not None and _blank(dashboard.get("name")):
        found.append("Dashboard name cannot be blank")
    found += _scope_problems(
        config,
        ("Site", "Project", "DataType"),
        "Dashboard scopes cannot be empty",
        "Dashboard scopes must contain a {} scope",
    )
    found += [] if "computeEnvironmentConfig" in config else ["Compute environment config cannot be null"]
    return found + ([] if "hardwareConfig" in config else ["Hardware config cannot be null"])


def _joined(start: str) -> Callable[[list[str]], str]:
    return lambda problems: f"{start} is invalid: {', '.join(problems)}"


# Keys are the paths below /xapi/.
KINDS = {
    "compute/hardware": Kind(
        _HARDWARE,
        _hardware_problems,
        _joined("Hardware config"),
        "The hardware config ID in the path must match the ID in the body.",
    ),
    "compute/environments": Kind(
        _ENVIRONMENT,
        _environment_problems,
        lambda problems: f"ComputeEnvironmentConfig is invalid: [{', '.join(problems)}]",
        "The ID in the path must match the ID in the body.",
    ),
    "compute/constraints": Kind(
        _SCOPED | {"constraint": _CONSTRAINT},
        _constraint_problems,
        _joined("Constraint config"),
        "The ID in the path must match the ID in the body.",
    ),
    "jupyterhub/dashboards/configs": Kind(
        _DASHBOARD,
        _dashboard_problems,
        _joined("Dashboard config"),
        "Dashboard config id does not match id in request path.",
        public=True,
    ),
}
HARDWARE, ENVIRONMENTS, CONSTRAINTS, DASHBOARDS = KINDS

_REPOSITORY = "--repo {repo} --repobranch {repobranch} --repofolder /home/jovyan/dashboards"
_FILE = "/home/jovyan/dashboards/{mainFilePath}"
# {--}, {port}, {origin_host} and {base_url} are for jhsingle-native-proxy and stay.
BUILT_IN = {
    "Panel": f"jhsingle-native-proxy --port 8888 --destport 5006 {_REPOSITORY} bokeh-root-cmd {_FILE} "
    "{--}port={port} {--}allow-websocket-origin={origin_host} {--}prefix={base_url} {--}server=panel",
    "Streamlit": f"jhsingle-native-proxy --port 8888 --destport 8501 {_REPOSITORY} streamlit run {_FILE} "
    "{--}server.port {port} {--}server.headless True {--}server.fileWatcherType none",
    "Voila": f"jhsingle-native-proxy --port 8888 --destport 0 {_REPOSITORY} voila {_FILE} "
    "{--}port {port} {--}no-browser {--}Voila.base_url={base_url}/ {--}Voila.server_url=/ {--}Voila.ip=0.0.0.0 "
    "{--}Voila.tornado_settings allow_origin={origin_host} --progressive",
    "Dash": "jhsingle-native-proxy --port=8888 --destport=8050 --repo={repo} --repobranch={repobranch} "
    f"--repofolder=/home/jovyan/dashboards plotlydash-tornado-cmd {_FILE} "
    "{--}port={port} {--}ip 0.0.0.0",
}


FRAMEWORKS = "jupyterhub/dashboards/frameworks"
_LAST_ID = "last_id"


class Table:
    """Rows by id, kept in the database under the table's name; ids are never used again."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        stored = database.table(name)
        self.rows: dict[int, Json] = {int(key): row for key, row in stored.items() if key != _LAST_ID}
        self._last_id: int = stored.get(_LAST_ID, 0)

    def put(self, row: Json, number: int | None = None) -> Json:
        """Store a row under its id, or under a new one, and return it."""
        number = number or self._last_id + 1
        row = row | {"id": number}
        last_id = max(self._last_id, number)
        self._database.write({(self._name, str(number)): row, (self._name, _LAST_ID): last_id})
        self._last_id = last_id
        self.rows[number] = row
        return row

    def delete(self, number: int) -> bool:
        """Remove a row; False if there is none."""
        self._database.write({(self._name, str(number)): None})
        return self.rows.pop(number, None) is not None


class Compute:
    """Hardware, environments, constraints, dashboards and frameworks."""

    def __init__(self, database: Database) -> None:
        self.tables = {path: Table(database, path) for path in KINDS}
        self.frameworks = Table(database, FRAMEWORKS)

    def all(self, path: str, where: Json | None = None) -> list[Json]:
        """All rows, or those on offer in a place: scope name to id, such as ``{"User": "jdoe"}``."""
        numbers = sorted(self.tables[path].rows)
        found = [row for number in numbers if (row := self.get(path, number, where)) is not None]
        return [row for row in found if where is None or _enabled(row, where)]

    def get(self, path: str, number: int | None, where: Json | None = None) -> Json | None:
        """One row with the rows that it refers to; only hardware that is on offer in the place, if there is one."""
        row = self.tables[path].rows.get(number or 0)
        if row is None or path in (HARDWARE, CONSTRAINTS):
            return row
        if path == DASHBOARDS:
            environment = self.get(ENVIRONMENTS, row["computeEnvironmentConfig"]["id"])
            hardware = self.get(HARDWARE, row["hardwareConfig"]["id"])
            return row | {"computeEnvironmentConfig": environment, "hardwareConfig": hardware}
        chosen = row["hardwareOptions"]
        ids = {item.get("id") for item in chosen["hardwareConfigs"]}
        hardware_list = [item for item in self.all(HARDWARE, where) if chosen["allowAllHardware"] or item["id"] in ids]
        return row | {"hardwareOptions": chosen | {"hardwareConfigs": hardware_list}}

    def put(self, path: str, body: Any, number: int | None = None) -> Json | None:
        """Create a row, or replace the row of that id; None if there is none. Raises ``ComputeError``."""
        config = self._checked(path, body, number)
        if number is not None and number not in self.tables[path].rows:
            return None
        return self.get(path, self.tables[path].put(config, number)["id"])

    def _checked(self, path: str, body: Any, number: int | None) -> Json:
        kind = KINDS[path]
        config: Json = shaped(body, kind.shape) or {}
        if number is not None and config.get("id") != number:
            raise ComputeError(kind.wrong_id)
        problems = kind.problems(config)
        if "hardwareOptions" in config and body["hardwareOptions"].get("hardwareConfigs") is None:
            problems.append("ComputeEnvironmentHardwareOptions hardware configs cannot be null")
        if problems:
            raise ComputeError(kind.invalid(problems))
        if path == DASHBOARDS:
            self._check_dashboard(config)
        return config

    def _check_dashboard(self, config: Json) -> None:
        framework = config["dashboard"].get("framework")
        if _custom(framework):
            config["dashboard"].pop("framework", None)
        elif self.framework(framework) is None:
            raise ComputeError("Dashboard framework does not exist")
        if self.get(ENVIRONMENTS, config["computeEnvironmentConfig"].get("id")) is None:
            raise ComputeError("Compute environment config does not exist")
        if self.get(HARDWARE, config["hardwareConfig"].get("id")) is None:
            raise ComputeError("Hardware config does not exist")

    def delete(self, path: str, number: int) -> bool:
        """Remove a row; False if there is none. Raises ``ComputeError`` for what a dashboard needs."""
        needed = {HARDWARE: "hardwareConfig", ENVIRONMENTS: "computeEnvironmentConfig"}.get(path)
        if needed and any(row[needed]["id"] == number for row in self.tables[DASHBOARDS].rows.values()):
            name = needed[0].upper() + needed[1:]
            raise ComputeError(f"Cannot delete {name} because it is in use by a DashboardConfig.")
        return self.tables[path].delete(number)

    # Dashboard frameworks

    def framework(self, name: str | None) -> Json | None:
        """The framework of that name."""
        return next((row for row in self.frameworks.rows.values() if row.get("name") == name), None)

    def put_framework(self, body: Any, create: bool) -> Json | None:
        """Create a framework, or replace the one whose *id* the body has; None if there is none.

        Raises ``ComputeError`` where XNAT's database would refuse: a name that is taken, a template that is too long.
        """
        row: Json = shaped(body, _FRAMEWORK) or {}
        number = None if create else row.get("id")
        if not create and number not in self.frameworks.rows:
            return None
        taken = self.framework(row.get("name"))
        if len(row.get("commandTemplate", "")) > TEMPLATE_LENGTH or (taken and taken["id"] != number):
            raise ComputeError("could not execute statement")
        return self.frameworks.put(row, number)

    def delete_framework(self, name: str) -> None:
        """Remove a framework, if any. Raises ``ComputeError`` for one that a dashboard needs."""
        if any(row["dashboard"].get("framework") == name for row in self.tables[DASHBOARDS].rows.values()):
            raise ComputeError("could not execute statement")
        if found := self.framework(name):
            self.frameworks.delete(found["id"])

    # Starts

    def may_start(self, environment: int | None, hardware: int | None, dashboard: int | None, where: Json) -> bool:
        """Whether environment and hardware, or the dashboard with just these, are on offer in that place."""
        found = self.get(ENVIRONMENTS, environment)
        if found is None:
            return False
        allowed = any(item["id"] == hardware for item in found["hardwareOptions"]["hardwareConfigs"])
        if dashboard is None:
            return allowed and _enabled(found, where) and _enabled(self.tables[HARDWARE].rows[hardware or 0], where)
        row = self.tables[DASHBOARDS].rows.get(dashboard)
        ids = row and (row["computeEnvironmentConfig"]["id"], row["hardwareConfig"]["id"])
        return allowed and row is not None and ids == (environment, hardware) and _enabled(row, where)

    def task_template(self, environment: int, hardware: int, dashboard: int | None, where: Json) -> Json:
        """What environment, hardware, site constraints and dashboard give to ``task_template`` (1.4.1).

        Every field is there, null included. Raises ``ComputeError`` where XNAT fails: equal names in one list, a
        variable without a value, a dashboard's command that cannot be made.
        """
        image = self.tables[ENVIRONMENTS].rows[environment]["computeEnvironment"]
        limits = self.tables[HARDWARE].rows[hardware]["hardware"]
        constraints = limits["constraints"] + [row["constraint"] for row in self.all(CONSTRAINTS, where)]
        command = image.get("command")
        if dashboard is not None:
            command = self.command(self.tables[DASHBOARDS].rows[dashboard]["dashboard"]) or command
        return {
            "container_spec": {
                "image": image["image"],
                "command": command,
                "env": _map(image["environmentVariables"], "key") | _map(limits["environmentVariables"], "key"),
                "labels": {},
                "mounts": [
                    {
                        "target": mount.get("containerPath"),
                        "source": mount.get("localPath"),  # also for a volume, whose name is lost (3.6)
                        "type": "volume" if mount.get("volumeName") else "bind",
                        "read_only": mount["readOnly"],
                    }
                    for mount in image["mounts"]
                ],
            },
            "resources": {
                "cpu_limit": limits.get("cpuLimit"),
                "cpu_reservation": limits.get("cpuReservation"),
                "mem_limit": limits.get("memoryLimit"),
                "mem_reservation": limits.get("memoryReservation"),
                "generic_resources": _map(limits["genericResources"], "name"),
            },
            "placement": {"constraints": [text for item in constraints for text in _docker_constraints(item)]},
        }

    def command(self, dashboard: Json) -> str | None:
        """A dashboard's command, None if it is blank (docs/xnat-contract.md, 4.2); raises ``ComputeError``."""
        framework = dashboard.get("framework")
        found = dashboard if _custom(framework) else self.framework(framework)
        if found is None:
            raise ComputeError(f"DashboardFramework {framework} does not exist")
        command = found.get("command" if found is dashboard else "commandTemplate")
        if command is None:
            raise ComputeError("null command")
        for name, key in (("repo", "gitRepoUrl"), ("repobranch", "gitRepoBranch"), ("mainFilePath", "mainFilePath")):
            command = replace_all(command, f"{{{name}}}", dashboard.get(key))
        command = re.sub(r"\s+", " ", command, flags=re.ASCII)
        return None if _blank(command) else command


def replace_all(text: str, placeholder: str, value: str | None) -> str:
    r"""Java's ``String.replaceAll`` of a fixed text: ``$0`` in the value is the placeholder, ``\`` takes the next
    character as it is. Raises ``ComputeError`` where Java fails: null, another group, a backslash at the end.
    """
    if placeholder not in text:
        return text
    if value is None:
        raise ComputeError("null value")

    def one(match: re.Match[str]) -> str:
        mark, following = match[0][0], match[0][1:]
        if not following or (mark == "$" and following != "0"):
            raise ComputeError("Illegal group reference" if mark == "$" else "character to be escaped is missing")
        return placeholder if mark == "$" else following

    return text.replace(placeholder, re.sub(r"[\\$].?", one, value, flags=re.DOTALL))


def _custom(framework: str | None) -> bool:
    return _blank(framework) or (framework or "").lower() == "custom"


def _enabled(row: Json, where: Json) -> bool:
    """Each scope that the row has is known in that place, and is on for all or for this id."""
    scopes = row["scopes"].items()
    return all(name in where and (scope["enabled"] or where[name] in scope["ids"]) for name, scope in scopes)


def _map(entries: list[Json], name: str) -> dict[str, str]:
    """Java's ``Collectors.toMap``: fails for equal names and for null values."""
    found: dict[str, str] = {}
    for entry in entries:
        if "value" not in entry or entry.get(name) in found:
            raise ComputeError("Duplicate key or null value")
        found[entry.get(name, "null")] = entry["value"]
    return found


def _docker_constraints(constraint: Json) -> list[str]:
    """One text for each value, which Swarm joins with "and" (docs/xnat-contract.md, 1.4.2)."""
    sign = "==" if constraint.get("operator") == "IN" else "!="
    return [f"{constraint.get('key')}{sign}{value}" for value in constraint["values"]]


def first_start() -> Changes:
    """What a fresh plugin offers to everybody (5.4): one environment with four kinds of hardware, and frameworks."""
    scopes: Json = {name: {"scope": name, "enabled": True, "ids": []} for name in ("Site", "Project", "User")}
    sizes = (("Small", 2.0, "2G"), ("Medium", 2.0, "4G"), ("Large", 2.0, "8G"), ("XLarge", 4.0, "16G"))
    hardware = [
        {"name": name, "cpuLimit": cpus, "cpuReservation": cpus, "memoryLimit": memory, "memoryReservation": memory}
        | {"constraints": [], "environmentVariables": [], "genericResources": []}
        for name, cpus, memory in sizes
    ]
    image = {"name": "XNAT Datascience Notebook", "image": "xnat/datascience-notebook:latest"}
    environment = {
        "scopes": scopes,
        "configTypes": ["JUPYTERHUB"],
        "computeEnvironment": image | {"environmentVariables": [], "mounts": []},
        "hardwareOptions": {"allowAllHardware": True, "hardwareConfigs": []},
    }
    tables: dict[str, list[Json]] = {
        HARDWARE: [{"scopes": scopes, "hardware": item} for item in hardware],
        ENVIRONMENTS: [environment],
        FRAMEWORKS: [{"name": name, "commandTemplate": template} for name, template in BUILT_IN.items()],
    }
    found: dict[tuple[str, str], Any] = {}
    for path, rows in tables.items():
        found |= {(path, str(number)): row | {"id": number} for number, row in enumerate(rows, start=1)}
        found[path, _LAST_ID] = len(rows)
    return found
