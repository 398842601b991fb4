"""What people can start: hardware, compute environments, constraints (docs/xnat-contract.md, 5.4) and dashboards (4.2).

Rows are kept as the JSON that XNAT returns.
"""

from __future__ import annotations

from typing import Any

from .dashboards import BUILT_IN, FRAMEWORKS, Frameworks, is_custom
from .database import LAST_ID, Changes, Database, Table
from .kinds import CONSTRAINTS, DASHBOARDS, ENVIRONMENTS, HARDWARE, KINDS, ComputeError, Config, Json


class Compute:
    """Hardware, environments, constraints, dashboards and frameworks.

    ``path`` is a key of ``KINDS``. ``where`` is a place: scope name to id, such as ``{"User": "jdoe"}``.
    """

    def __init__(self, database: Database) -> None:
        self._tables = {path: Table(database, path) for path in KINDS}
        self.frameworks = Frameworks(database, self._tables[DASHBOARDS])

    def all(self, path: str, where: Json | None = None) -> list[Json]:
        """All rows, or those offered in a place."""
        numbers = sorted(self._tables[path].rows)
        found = [row for number in numbers if (row := self.get(path, number, where)) is not None]
        return [row for row in found if where is None or _is_enabled(row, where)]

    def get(self, path: str, number: int | None, where: Json | None = None) -> Json | None:
        """One row with the rows that it refers to. In a place, only with the hardware that is offered there."""
        row = self._tables[path].rows.get(number or 0)
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

    def put(self, path: str, config: Config, number: int | None = None) -> Json | None:
        """Create a row, or replace the row of that id; None if there is none. Raises ``ComputeError``."""
        kind = KINDS[path]
        if number not in (None, config.id):
            raise ComputeError(kind.wrong_id)
        row = config.row()
        if problems := list(kind.problems(row)):
            raise ComputeError(kind.invalid.format(", ".join(problems)))
        if path == DASHBOARDS:
            self._check_dashboard(row)
        if number is not None and number not in self._tables[path].rows:
            return None
        return self.get(path, self._tables[path].put(row, number)["id"])

    def _check_dashboard(self, row: Json) -> None:
        framework = row["dashboard"].get("framework")
        if is_custom(framework):
            row["dashboard"].pop("framework", None)
        elif self.frameworks.get(framework) is None:
            raise ComputeError("Dashboard framework does not exist")
        if self.get(ENVIRONMENTS, row["computeEnvironmentConfig"].get("id")) is None:
            raise ComputeError("Compute environment config does not exist")
        if self.get(HARDWARE, row["hardwareConfig"].get("id")) is None:
            raise ComputeError("Hardware config does not exist")

    def delete(self, path: str, number: int) -> bool:
        """Remove a row; False if there is none. Raises ``ComputeError`` if a dashboard uses it."""
        used_as = {HARDWARE: "hardwareConfig", ENVIRONMENTS: "computeEnvironmentConfig"}.get(path)
        if used_as and any(row[used_as]["id"] == number for row in self._tables[DASHBOARDS].rows.values()):
            name = used_as[0].upper() + used_as[1:]
            raise ComputeError(f"Cannot delete {name} because it is in use by a DashboardConfig.")
        return self._tables[path].delete(number)

    def may_start(self, environment: int | None, hardware: int | None, dashboard: int | None, where: Json) -> bool:
        """Whether environment and hardware, or the dashboard with exactly these, are offered in that place."""
        found = self.get(ENVIRONMENTS, environment)
        if found is None:
            return False
        allowed = any(item["id"] == hardware for item in found["hardwareOptions"]["hardwareConfigs"])
        if dashboard is None:
            limits = self._tables[HARDWARE].rows
            return allowed and _is_enabled(found, where) and _is_enabled(limits[hardware or 0], where)
        row = self._tables[DASHBOARDS].rows.get(dashboard)
        ids = row and (row["computeEnvironmentConfig"]["id"], row["hardwareConfig"]["id"])
        return allowed and row is not None and ids == (environment, hardware) and _is_enabled(row, where)

    def task_template(self, environment: int, hardware: int, dashboard: int | None, where: Json) -> Json:
        """The parts of ``task_template`` from environment, hardware, site constraints and dashboard (1.4.1).

        Every field is there, null included. Raises ``ComputeError`` where XNAT fails: equal names in one list, a
        variable without a value, a dashboard's command that cannot be made.
        """
        image = self._tables[ENVIRONMENTS].rows[environment]["computeEnvironment"]
        limits = self._tables[HARDWARE].rows[hardware]["hardware"]
        constraints = limits["constraints"] + [row["constraint"] for row in self.all(CONSTRAINTS, where)]
        command = image.get("command")
        if dashboard is not None:
            command = self.frameworks.command(self._tables[DASHBOARDS].rows[dashboard]["dashboard"]) or command
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


def _is_enabled(row: Json, where: Json) -> bool:
    """Whether each scope of the row is known in that place, and enabled for all or for this id."""
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
    """What a fresh plugin offers to everybody (5.4): one environment, four hardware profiles, and the frameworks."""
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
        found[path, LAST_ID] = len(rows)
    return found
