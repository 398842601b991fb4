"""The models of what administrators configure for starts: hardware, compute environments, constraints
(docs/xnat-contract.md, 5.4) and dashboards with their frameworks (4.2).

The models read JSON as XNAT's Jackson does: unknown fields are ignored, texts and numbers are converted to each other,
a missing list is empty and a missing boolean false.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, StrictBool

Json = dict[str, Any]
T = TypeVar("T")
ScopeName = Literal["Site", "Project", "Subject", "Experiment", "User", "DataType"]
# The name of each scope in a query. A row with a scope is offered only if the scope's id is given.
SCOPES = {"Site": "site", "Project": "prj", "Subject": "subj", "Experiment": "experiment", "User": "user"}
SCOPES |= {"DataType": "datatype"}


class ComputeError(ValueError):
    """XNAT refuses this or fails on it; the text is XNAT's own message if there is one."""


def _not_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("A boolean is not a number.")
    return value


Id = Annotated[int, BeforeValidator(_not_boolean)]
Number = Annotated[float, BeforeValidator(_not_boolean)]
Flag = Annotated[StrictBool, BeforeValidator(lambda value: False if value is None else value)]
Many = Annotated[list[T], BeforeValidator(lambda value: [] if value is None else value)]


class Model(BaseModel):
    """Base of all models."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    def row(self) -> Json:
        """The JSON that XNAT stores and returns: without nulls."""
        return self.model_dump(exclude_none=True)


class _Scope(Model):
    scope: ScopeName | None = None
    enabled: Flag = False
    ids: Many[str] = []


class _Scopes(Model):
    Site: _Scope | None = None
    Project: _Scope | None = None
    Subject: _Scope | None = None
    Experiment: _Scope | None = None
    User: _Scope | None = None
    DataType: _Scope | None = None


class _Constraint(Model):
    key: str | None = None
    values: Many[str] = []
    operator: Literal["IN", "NOT_IN"] | None = None


class _Variable(Model):
    key: str | None = None
    value: str | None = None


class _GenericResource(Model):
    name: str | None = None
    value: str | None = None


class _Mount(Model):
    volumeName: str | None = None
    localPath: str | None = None
    containerPath: str | None = None
    readOnly: Flag = False


class _Reference(Model):
    id: Id | None = None


class _Hardware(Model):
    name: str | None = None
    cpuLimit: Number | None = None
    cpuReservation: Number | None = None
    memoryLimit: str | None = None
    memoryReservation: str | None = None
    constraints: Many[_Constraint] = []
    environmentVariables: Many[_Variable] = []
    genericResources: Many[_GenericResource] = []


class _ComputeEnvironment(Model):
    name: str | None = None
    image: str | None = None
    command: str | None = None
    environmentVariables: Many[_Variable] = []
    mounts: Many[_Mount] = []


class _HardwareOptions(Model):
    allowAllHardware: Flag = False
    hardwareConfigs: list[_Reference] | None = None


class _Dashboard(Model):
    name: str | None = None
    description: str | None = None
    framework: str | None = None
    command: str | None = None
    fileSource: str | None = None
    gitRepoUrl: str | None = None
    gitRepoBranch: str | None = None
    mainFilePath: str | None = None


class Config(Model):
    """The common fields of all kinds of configuration."""

    id: Id | None = None
    scopes: _Scopes | None = None


class _HardwareConfig(Config):
    hardware: _Hardware | None = None


class _EnvironmentConfig(Config):
    configTypes: Many[Literal["JUPYTERHUB", "CONTAINER_SERVICE", "GENERAL"]] = []
    computeEnvironment: _ComputeEnvironment | None = None
    hardwareOptions: _HardwareOptions | None = None


class _ConstraintConfig(Config):
    constraint: _Constraint | None = None


class _DashboardConfig(Config):
    dashboard: _Dashboard | None = None
    computeEnvironmentConfig: _Reference | None = None
    hardwareConfig: _Reference | None = None


class Framework(Model):
    """How the dashboards of one framework are started."""

    id: Id | None = None
    name: str | None = None
    commandTemplate: str | None = None


NULL, EMPTY = "null", "null or empty"


@dataclass(frozen=True)
class Kind:
    """One kind of configuration.

    required: the path of a field, what it must not be (NULL, or EMPTY: null, blank or empty) and XNAT's message if it
    is. invalid: the message that contains these. wrong_id: XNAT's message if the ids in path and body differ.
    public: whether everybody may read the rows. offered: whether ``/available`` lists what a user may start.
    """

    model: type[Config]
    required: tuple[tuple[str, str, str], ...]
    invalid: str
    wrong_id: str
    public: bool = False
    offered: bool = False

    def problems(self, row: Json) -> Iterator[str]:
        """XNAT's messages about missing fields. Below a missing field, nothing is checked."""
        missing: list[str] = []
        for path, wrong, sentence in self.required:
            if any(path.startswith(f"{parent}.") for parent in missing):
                continue
            value: Any = row
            for name in path.split("."):
                value = value.get(name)
            if value is None or (wrong == EMPTY and is_empty(value)):
                missing.append(path)
                yield sentence


def is_empty(value: str | list[Any] | Json | None) -> bool:
    """Whether it is empty or only white space."""
    return not (value.strip() if isinstance(value, str) else value)


_ENVIRONMENT = "ComputeEnvironmentConfig"
# Keys are the paths below /xapi/.
KINDS = {
    "compute/hardware": Kind(
        _HardwareConfig,
        (
            ("hardware", NULL, "Hardware cannot be null"),
            ("hardware.name", EMPTY, "Hardware name cannot be blank"),
            ("scopes", EMPTY, "Hardware scopes cannot be null or empty"),
            ("scopes.Site", NULL, "Hardware scopes must contain a site scope"),
            ("scopes.User", NULL, "Hardware scopes must contain a user scope"),
            ("scopes.Project", NULL, "Hardware scopes must contain a project scope"),
        ),
        invalid="Hardware config is invalid: {}",
        wrong_id="The hardware config ID in the path must match the ID in the body.",
    ),
    "compute/environments": Kind(
        _EnvironmentConfig,
        (
            ("configTypes", EMPTY, f"{_ENVIRONMENT} must have at least one config type"),
            ("computeEnvironment", NULL, "ComputeEnvironment cannot be null"),
            ("computeEnvironment.name", EMPTY, "ComputeEnvironment name cannot be blank"),
            ("computeEnvironment.image", EMPTY, "ComputeEnvironment image cannot be blank"),
            ("scopes", EMPTY, f"{_ENVIRONMENT} must have at least one scope"),
            ("scopes.Site", NULL, f"{_ENVIRONMENT} must have a site scope"),
            ("scopes.User", NULL, f"{_ENVIRONMENT} must have a user scope"),
            ("scopes.Project", NULL, f"{_ENVIRONMENT} must have a project scope"),
            ("hardwareOptions", NULL, "ComputeEnvironmentHardwareOptions cannot be null"),
            (
                "hardwareOptions.hardwareConfigs",
                NULL,
                "ComputeEnvironmentHardwareOptions hardware configs cannot be null",
            ),
        ),
        invalid=_ENVIRONMENT + " is invalid: [{}]",
        wrong_id="The ID in the path must match the ID in the body.",
        offered=True,
    ),
    "compute/constraints": Kind(
        _ConstraintConfig,
        (
            ("constraint", NULL, "Constraint cannot be null"),
            ("constraint.key", EMPTY, "Constraint key cannot be null or blank"),
            ("constraint.values", EMPTY, "Constraint values cannot be null or empty"),
            ("constraint.operator", NULL, "Constraint operator cannot be null"),
            ("scopes", EMPTY, "Scopes cannot be null or empty"),
            ("scopes.Site", NULL, "Scopes must contain a site scope"),
            ("scopes.Project", NULL, "Scopes must contain a project scope"),
        ),
        invalid="Constraint config is invalid: {}",
        wrong_id="The ID in the path must match the ID in the body.",
    ),
    "jupyterhub/dashboards/configs": Kind(
        _DashboardConfig,
        (
            ("dashboard", NULL, "Dashboard cannot be null"),
            ("dashboard.name", EMPTY, "Dashboard name cannot be blank"),
            ("scopes", EMPTY, "Dashboard scopes cannot be empty"),
            ("scopes.Site", NULL, "Dashboard scopes must contain a site scope"),
            ("scopes.Project", NULL, "Dashboard scopes must contain a project scope"),
            ("scopes.DataType", NULL, "Dashboard scopes must contain a data type scope"),
            ("computeEnvironmentConfig", NULL, "Compute environment config cannot be null"),
            ("hardwareConfig", NULL, "Hardware config cannot be null"),
        ),
        invalid="Dashboard config is invalid: {}",
        wrong_id="Dashboard config id does not match id in request path.",
        public=True,
        offered=True,
    ),
}
HARDWARE, ENVIRONMENTS, CONSTRAINTS, DASHBOARDS = KINDS
