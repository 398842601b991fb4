"""XNAT's rows as Ansible state: hardware, compute environments, constraints, dashboards, dashboard frameworks.

Wanted and stored rows are compared in one normal form: a dict of the module's options. In it lists have no order, a
blank optional text is None, and a reference to another row is its id. Section numbers are those of
docs/xnat-contract.md.
"""
# ruff: noqa: D102  Field explains the methods that its subclasses override

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import ARGUMENTS, MASK, Client, XnatError, quoted

Row = dict[str, Any]  # as XNAT returns it
Normal = dict[str, Any]  # option: value

NAMES: dict[str, Any] = {"type": "list", "elements": "str", "default": []}
OFFERED: dict[str, Any] = {"projects": NAMES, "enabled": {"type": "bool", "default": True}}
"""The options of most rows for where they are offered."""
PLACEMENT: dict[str, Any] = {
    "key": {"type": "str", "required": True},
    "operator": {"type": "str", "choices": ["IN", "NOT_IN"], "default": "IN"},
}
"""The options of a constraint, except its value."""

ALL = True  # the normal form of "all hardware"
TEMPLATE_LENGTH = 4096
MEMORY = re.compile(r"[1-9][0-9]*[KMGT]")  # as XNAT's page allows; the REST API does not check it (1.4.2)
WHOLE_NUMBER = re.compile(r"([0-9]+)(\.0+)?")


class RowsError(Exception):
    """An error with one sentence for the administrator. done: the changes that were made before it."""

    def __init__(self, text: str, done: Sequence[Change] = ()) -> None:
        super().__init__(text)
        self.done = done


# The normal form of values


def text(value: Any) -> str | None:
    """Return a text, or None if it is blank."""
    return str(value) if value is not None and str(value).strip() else None


def number(value: Any) -> Any:
    """Return a number that may be given as text, None for a blank one; other values are returned unchanged."""
    try:
        return None if text(value) is None else float(value)
    except ValueError:
        return value


def count(value: Any) -> str | None:
    """Return the value of a generic resource, which XNAT stores as text: 2, 2.0 and "2" are equal."""
    whole = WHOLE_NUMBER.fullmatch(str(value))
    return whole[1] if whole else text(value)


def value_of(value: Any) -> str | None:
    """Return the value of a variable, which may be blank."""
    return None if value is None else str(value)


def ordered(items: Iterable[Any]) -> list[Any]:
    """Return the items in an order that depends only on their content."""
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def names_in(values: Iterable[Any] | None) -> list[str]:
    """Return a set of names as a list."""
    return sorted({str(value) for value in values or ()})


def placement(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normal form of one of XNAT's constraints."""
    values = names_in(rule.get("values"))
    return {"key": text(rule.get("key")), "operator": rule.get("operator"), "values": values}


def wanted_placement(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normal form of one constraint in the option. It has only one value: two would never fit (1.4.2)."""
    return placement({"key": rule["key"], "operator": rule.get("operator") or "IN", "values": [rule["value"]]})


def mount(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normal form of one of XNAT's mounts; a mount with a volume's name would not work (3.6)."""
    return {
        "volumeName": text(found.get("volumeName")) or "",
        "localPath": text(found.get("localPath")),
        "containerPath": text(found.get("containerPath")),
        "readOnly": bool(found.get("readOnly")),
    }


def wanted_mount(option: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normal form of one mount in the option."""
    read_only = option.get("read_only") is not False
    return mount({"localPath": option["source"], "containerPath": option["target"], "readOnly": read_only})


def scope_found(value: Any) -> Any:
    """Return the normal form of one of XNAT's scopes: enabled for all, or for the ids."""
    return value and {"enabled": bool(value.get("enabled")), "ids": names_in(value.get("ids"))}


def hardware_found(options: Any) -> Any:
    """Return the normal form of an environment's allowed hardware: ALL, or ids."""
    options = options or {}
    if options.get("allowAllHardware"):
        return ALL
    return ordered(row.get("id") for row in options.get("hardwareConfigs") or ())


# Fields of rows


@dataclass(frozen=True)
class Field:
    """One field of a row. It is a text unless a subclass overrides how it is read, compared and sent.

    option: its name in the module. place: its place in XNAT's JSON. required: must be set. refers: the path of the kind
    of rows that it names. by_id: XNAT stores the ids of these rows instead of their names. secret: its values must not
    be shown.
    """

    option: str
    place: tuple[str, ...]
    required: bool = False
    refers: str = ""

    by_id: ClassVar[bool] = False
    secret: ClassVar[bool] = False

    def wanted(self, value: Any) -> Any:
        """Return the normal form of the option's value."""
        return text(value)

    def stored(self, value: Any) -> Any:
        """Return the normal form of XNAT's value."""
        return text(value)

    def sent(self, normal: Any, old: Any) -> Any:
        """Return the value to send. normal: its normal form. old: XNAT's present value."""
        return normal

    def problem(self, value: Any) -> str:
        """Return what is wrong with the option's value, as the rest of a sentence; empty if it is valid."""
        return ""


class Cpus(Field):
    """A number of CPUs."""

    def wanted(self, value: Any) -> Any:
        return number(value)

    def stored(self, value: Any) -> Any:
        return number(value)

    def problem(self, value: Any) -> str:
        return "" if value is None or 0 <= value < math.inf else f"is {value}, which is not a number of CPUs"


class Memory(Field):
    """An amount of memory."""

    def problem(self, value: Any) -> str:
        fits = text(value) is None or MEMORY.fullmatch(value)
        return "" if fits else f"is {value}; use a whole number with K, M, G or T, such as 512M"


class PathPart(Field):
    """A name that is used in a URL's path: XNAT's firewall rejects these characters, even if they are quoted."""

    def problem(self, value: Any) -> str:
        return "must not contain any of / \\ ; %" if re.search(r"[/\\;%]", value or "") else ""


class CommandTemplate(Field):
    """A framework's command."""

    def problem(self, value: Any) -> str:
        if value is None or len(value) <= TEMPLATE_LENGTH:
            return ""
        return f"has {len(value)} characters; XNAT allows at most {TEMPLATE_LENGTH}"


class CommandPart(Field):
    """A text that XNAT inserts into a command with Java's replaceAll (4.2)."""

    def problem(self, value: Any) -> str:
        if re.search(r"[$\\]", value or ""):
            return "must not contain $ or \\, which XNAT would change"
        return ""


class Operator(Field):
    """The operator of a constraint."""

    def wanted(self, value: Any) -> Any:
        return value or "IN"


class ConstraintValue(Field):
    """The value of a constraint; XNAT stores a list of values."""

    def wanted(self, value: Any) -> Any:
        return [value]

    def stored(self, value: Any) -> Any:
        return names_in(value)


class FileSource(Field):
    """The source of a dashboard's files: XNAT has only one, and the module has no option for it."""

    def wanted(self, value: Any) -> Any:
        return "git"


class NamedValues(Field):
    """Named values: a dict in the option, a list of entries in XNAT, each with its name under `name_key`."""

    name_key: ClassVar[str]

    def normal_value(self, value: Any) -> Any:
        """Return the normal form of one value."""
        raise NotImplementedError

    def wanted(self, value: Any) -> Any:
        named = value or {}
        return ordered({self.name_key: str(name), "value": self.normal_value(named[name])} for name in named)

    def stored(self, value: Any) -> Any:
        return ordered(
            {self.name_key: entry.get(self.name_key), "value": self.normal_value(entry.get("value"))}
            for entry in value or ()
        )

    def problem(self, value: Any) -> str:
        """Refuse null, with which every launch fails (5.4), and booleans, which can be written in several ways."""
        for name, item in (value or {}).items():
            if text(name) is None:
                return "has an entry without a name"
            if isinstance(item, bool) or not isinstance(item, (str, int, float)):
                return f"has no text for {name}: put the value in quotes"
        return ""


class Variables(NamedValues):
    """Environment variables; their values may be secrets."""

    name_key = "key"
    secret = True

    def normal_value(self, value: Any) -> Any:
        return value_of(value)


class GenericResources(NamedValues):
    """Generic resources of the swarm, such as GPUs."""

    name_key = "name"

    def normal_value(self, value: Any) -> Any:
        return count(value)

    def problem(self, value: Any) -> str:
        blank = [name for name, item in (value or {}).items() if text(item) is None]
        return f"has no value for {blank[0]}" if blank else super().problem(value)


class Constraints(Field):
    """Constraints on nodes."""

    def wanted(self, value: Any) -> Any:
        return ordered(map(wanted_placement, value or ()))

    def stored(self, value: Any) -> Any:
        return ordered(map(placement, value or ()))

    def problem(self, value: Any) -> str:
        complete = all(text(rule["key"]) and text(rule["value"]) for rule in value or ())
        return "" if complete else "has an entry whose key or value is blank"


class Mounts(Field):
    """Mounts of an environment."""

    def wanted(self, value: Any) -> Any:
        return ordered(map(wanted_mount, value or ()))

    def stored(self, value: Any) -> Any:
        return ordered(map(mount, value or ()))

    def problem(self, value: Any) -> str:
        paths = [mount[side] for mount in value or () for side in ("source", "target")]
        wrong = [path for path in paths if not path.startswith("/")]
        return f"has {wrong[0] or 'a blank path'} instead of an absolute path" if wrong else ""


class Scope(Field):
    """To whom a row is offered: the names in the option, or all if it is empty. The last part of place is its type."""

    def wanted(self, value: Any) -> Any:
        return {"enabled": not value, "ids": names_in(value)}

    def stored(self, value: Any) -> Any:
        return scope_found(value)

    def sent(self, normal: Any, old: Any) -> Any:
        return {**(old or {}), "scope": self.place[-1], **normal}

    def problem(self, value: Any) -> str:
        return names_problem(value)


class SiteScope(Scope):
    """Whether a row is offered at all."""

    def wanted(self, value: Any) -> Any:
        return {"enabled": value is not False, "ids": []}

    def problem(self, value: Any) -> str:
        return ""


class AllowedHardware(Field):
    """The hardware that an environment allows: the names in the option, or all if it is empty."""

    by_id = True

    def wanted(self, value: Any) -> Any:
        return names_in(value) or ALL

    def stored(self, value: Any) -> Any:
        return hardware_found(value)

    def sent(self, normal: Any, old: Any) -> Any:
        """Return only the ids: XNAT returns whole rows but does not need them."""
        chosen = [] if normal is ALL else [{"id": item} for item in normal]
        return {**(old or {}), "allowAllHardware": normal is ALL, "hardwareConfigs": chosen}

    def problem(self, value: Any) -> str:
        return names_problem(value)


class Reference(Field):
    """A reference to one other row."""

    by_id = True

    def stored(self, value: Any) -> Any:
        return (value or {}).get("id")

    def sent(self, normal: Any, old: Any) -> Any:
        return {"id": normal}


def names_problem(value: Any) -> str:
    """Return what is wrong with a list of names."""
    return "" if all(text(name) for name in value or ()) else "has a blank entry"


PROJECTS = Scope("projects", ("scopes", "Project"))
USERS = Scope("users", ("scopes", "User"))
DATA_TYPES = Scope("data_types", ("scopes", "DataType"))
SITE = SiteScope("enabled", ("scopes", "Site"))


# Kinds of rows


def unchanged(normal: Normal) -> Normal:
    """Return the row unchanged: the default of Kind.tidy."""
    return normal


def nothing_wrong(row: Mapping[str, Any]) -> str:
    """Return no problem: the default of Kind.problem."""
    return ""


def every_row(row: Row) -> bool:
    """Return True for every row: the default of Kind.ours and Kind.purged."""
    return True


@dataclass(frozen=True)
class Kind:
    """One kind of rows.

    noun: its name in messages. option: the module's option. path: of the REST calls. fields: the fields of a row. keys:
    the options that form a row's name. new: additional values of a new row. created, deleted: the expected status.
    path_by_name: a row's path ends in its name instead of its id. tidy: drops fields that are meaningless in
    combination with others. problem: returns what is wrong with a row as a whole. ours: whether the module reads a row;
    purged: whether it may purge it.
    """

    noun: str
    option: str
    path: str
    fields: tuple[Field, ...]
    new: Row
    keys: tuple[str, ...] = ("name",)
    created: int = 201
    deleted: int = 204
    path_by_name: bool = False
    tidy: Callable[[Normal], Normal] = unchanged
    problem: Callable[[Mapping[str, Any]], str] = nothing_wrong
    ours: Callable[[Row], bool] = every_row
    purged: Callable[[Row], bool] = every_row


TYPE = "JUPYTERHUB"
"""The type of compute environments for notebooks. One environment may have several types."""


def is_for_jupyterhub(environment: Row) -> bool:
    """Return whether an environment is for notebooks."""
    return TYPE in (environment.get("configTypes") or ())


def is_only_for_jupyterhub(environment: Row) -> bool:
    """Return whether an environment is only for notebooks, so that it may be removed."""
    return environment.get("configTypes") == [TYPE]


def own_command(framework: Any) -> bool:
    """Return whether a dashboard has its own command: its framework is blank or "custom" (4.2)."""
    return (text(framework) or "custom").lower() == "custom"


def one_command(normal: Normal) -> Normal:
    """Return a dashboard with only the framework or the command, whichever XNAT uses."""
    own = own_command(normal["framework"])
    return {**normal, "framework": None if own else normal["framework"], "command": normal["command"] if own else None}


def dashboard_problem(row: Mapping[str, Any]) -> str:
    """Return what is wrong with a dashboard's command."""
    framework, command = not own_command(row.get("framework")), text(row.get("command")) is not None
    if framework and command:
        return "has a framework and a command: set only one of them"
    return "" if framework or command else "needs a framework or its own command"


FRAMEWORKS_PATH = "/xapi/jupyterhub/dashboards/frameworks"

HARDWARE = Kind(
    "hardware",
    "hardware",
    "/xapi/compute/hardware",
    (
        Field("name", ("hardware", "name"), required=True),
        Cpus("cpu_limit", ("hardware", "cpuLimit")),
        Cpus("cpu_reservation", ("hardware", "cpuReservation")),
        Memory("memory_limit", ("hardware", "memoryLimit")),
        Memory("memory_reservation", ("hardware", "memoryReservation")),
        Constraints("constraints", ("hardware", "constraints")),
        Variables("environment", ("hardware", "environmentVariables")),
        GenericResources("generic_resources", ("hardware", "genericResources")),
        PROJECTS,
        USERS,
        SITE,
    ),
    {},
)
ENVIRONMENTS = Kind(
    "compute environment",
    "environments",
    "/xapi/compute/environments",
    (
        Field("name", ("computeEnvironment", "name"), required=True),
        Field("image", ("computeEnvironment", "image"), required=True),
        Field("command", ("computeEnvironment", "command")),
        Variables("environment", ("computeEnvironment", "environmentVariables")),
        Mounts("mounts", ("computeEnvironment", "mounts")),
        AllowedHardware("hardware", ("hardwareOptions",), refers=HARDWARE.path),
        PROJECTS,
        USERS,
        SITE,
    ),
    {"configTypes": [TYPE]},
    ours=is_for_jupyterhub,
    purged=is_only_for_jupyterhub,
)
CONSTRAINTS = Kind(
    "constraint",
    "constraints",
    "/xapi/compute/constraints",
    (
        Field("key", ("constraint", "key"), required=True),
        Operator("operator", ("constraint", "operator")),
        ConstraintValue("value", ("constraint", "values"), required=True),
        PROJECTS,
        SITE,
    ),
    {},
    keys=("key", "operator"),
)
FRAMEWORKS = Kind(
    "dashboard framework",
    "frameworks",
    FRAMEWORKS_PATH,
    (
        PathPart("name", ("name",), required=True),
        CommandTemplate("command_template", ("commandTemplate",), required=True),
    ),
    {},
    created=200,
    deleted=200,
    path_by_name=True,
)
DASHBOARDS = Kind(
    "dashboard",
    "dashboards",
    "/xapi/jupyterhub/dashboards/configs",
    (
        Field("name", ("dashboard", "name"), required=True),
        Field("description", ("dashboard", "description")),
        Field("framework", ("dashboard", "framework"), refers=FRAMEWORKS.path),
        Field("command", ("dashboard", "command")),
        FileSource("file_source", ("dashboard", "fileSource")),
        CommandPart("git_repo_url", ("dashboard", "gitRepoUrl")),
        CommandPart("git_repo_branch", ("dashboard", "gitRepoBranch")),
        CommandPart("main_file_path", ("dashboard", "mainFilePath")),
        Reference("environment", ("computeEnvironmentConfig",), required=True, refers=ENVIRONMENTS.path),
        Reference("hardware", ("hardwareConfig",), required=True, refers=HARDWARE.path),
        PROJECTS,
        DATA_TYPES,
        SITE,
    ),
    {},
    tidy=one_command,
    problem=dashboard_problem,
)
KINDS = {kind.path: kind for kind in (HARDWARE, ENVIRONMENTS, CONSTRAINTS, FRAMEWORKS, DASHBOARDS)}


# Rows


def dig(row: Any, place: Sequence[str]) -> Any:
    """Return the value at a place in a row, None if it has no such place."""
    for name in place:
        row = (row or {}).get(name)
    return row


def name_of(kind: Kind, normal: Normal) -> str:
    """Return the name of a row."""
    return " ".join(normal[key] for key in kind.keys if normal[key])


def stored_row(kind: Kind, row: Row) -> Normal:
    """Return the normal form of one of XNAT's rows; its other values are ignored."""
    return kind.tidy({field.option: field.stored(dig(row, field.place)) for field in kind.fields})


def wanted_row(kind: Kind, options: Mapping[str, Any]) -> Normal:
    """Return the normal form of a row in the module's option, with names where XNAT has ids."""
    return kind.tidy({field.option: field.wanted(options.get(field.option)) for field in kind.fields})


def row_problems(kind: Kind, options: Mapping[str, Any], state: str) -> list[str]:
    """Return what is wrong with a row in the module's option; with state absent only its name is checked."""
    fields = [field for field in kind.fields if state == "present" or field.option in kind.keys]
    missing = [field.option for field in fields if field.required and text(options.get(field.option)) is None]
    found = [f"{option} is missing" for option in missing]
    if state == "present":
        problems = [(field.option, field.problem(options.get(field.option))) for field in fields]
        found += [f"{option} {problem}" for option, problem in problems if problem]
        problem = kind.problem(options)
        found += [problem] if problem else []
    return found


def wanted_rows(kind: Kind, given: Sequence[Mapping[str, Any]], state: str) -> dict[str, Normal]:
    """Return the rows in the module's option by name; only names for state absent. Raises RowsError with all errors."""
    wanted: dict[str, Normal] = {}
    problems = []
    for place, options in enumerate(given, start=1):
        normal = wanted_row(kind, options)
        name = name_of(kind, normal)
        found = row_problems(kind, options, state)
        if name in wanted:
            found.append("is listed twice")
        problems += [f"{kind.noun} {name or f'number {place}'}: {problem}" for problem in found]
        wanted[name] = normal if state == "present" else {}
    if problems:
        raise RowsError("; ".join(problems))
    return wanted


# References to other rows


Names = dict[str, dict[int, str]]
"""The names of rows, by the path of their kind and their id."""


def names_of(kind: Kind, rows: Sequence[Row]) -> dict[int, str]:
    """Return the names of rows by their ids."""
    return {row["id"]: name_of(kind, stored_row(kind, row)) for row in rows}


def targets(kind: Kind) -> list[Kind]:
    """Return the kinds that this one refers to."""
    return [KINDS[field.refers] for field in kind.fields if field.refers]


def resolved(kind: Kind, wanted: Mapping[str, Normal], names: Names) -> tuple[dict[str, Normal], list[str]]:
    """Return the rows with names replaced by ids where XNAT has ids, and a sentence for each missing reference.

    A missing row is left as a name. Raises RowsError for a name that several rows have.
    """
    found: dict[str, Normal] = {}
    missing = []
    for name, normal in wanted.items():
        found[name] = dict(normal)
        for field in kind.fields:
            value = normal.get(field.option)
            if not field.refers or value is None or value is ALL:
                continue
            target = KINDS[field.refers]
            ids = {}
            for item in value if isinstance(value, list) else [value]:
                same = [number for number, other in names[field.refers].items() if other == item]
                if len(same) > 1:
                    raise RowsError(twice(target, item, same))
                if not same:
                    missing.append(f"{kind.noun} {name}: XNAT has no {target.noun} {item}")
                ids[item] = same[0] if same else item
            if field.by_id:
                found[name][field.option] = ordered(ids.values()) if isinstance(value, list) else ids[value]
    return found, missing


def twice(kind: Kind, name: str, ids: Sequence[int]) -> str:
    """Return the error message for a name that several rows have."""
    listed = " and ".join(map(str, sorted(ids)))
    return f"XNAT has the {kind.noun} {name} more than once, with the ids {listed}: delete all but one"


def incomplete(dashboards: Mapping[str, Normal], frameworks: Sequence[Row]) -> list[str]:
    """Return a sentence for each option that a dashboard's command needs but lacks: its launches would fail (4.2)."""
    templates = {row.get("name"): row.get("commandTemplate") for row in frameworks}
    needed = {"{repo}": "git_repo_url", "{repobranch}": "git_repo_branch", "{mainFilePath}": "main_file_path"}
    return [
        f"dashboard {name}: set {option}, which its command needs for {placeholder}"
        for name, normal in dashboards.items()
        for placeholder, option in needed.items()
        if normal[option] is None and placeholder in (normal["command"] or templates.get(normal["framework"]) or "")
    ]


# Changes


@dataclass(frozen=True)
class Change:
    """One change to make. label: the row's name, with its id if several rows have this name.

    row: XNAT's row, None to create one. before, after: the normal forms; after is None to delete.
    """

    label: str
    number: int | None
    row: Row | None
    before: Normal | None
    after: Normal | None

    @property
    def action(self) -> str:
        """The action: create, update or delete."""
        if self.after is None:
            return "delete"
        return "create" if self.before is None else "update"


def plan(
    kind: Kind, rows: Sequence[Row], wanted: Mapping[str, Normal], state: str = "present", purge: bool = False
) -> list[Change]:
    """Return the changes that turn XNAT's rows into the wanted ones. Raises RowsError for a name of several rows."""
    stored = [(row, stored_row(kind, row)) for row in rows]
    by_name: dict[str, list[tuple[Row, Normal]]] = {}
    for row, normal in stored:
        by_name.setdefault(name_of(kind, normal), []).append((row, normal))
    changes = []
    for name, after in wanted.items() if state == "present" else ():
        same = by_name.get(name, [])
        if len(same) > 1:
            raise RowsError(twice(kind, name, [row["id"] for row, _ in same]))
        if not same:
            changes.append(Change(name, None, None, None, after))
        elif same[0][1] != after:
            row, before = same[0]
            changes.append(Change(name, row["id"], row, before, after))
    for row, before in stored:
        name = name_of(kind, before)
        unwanted = name in wanted if state == "absent" else purge and name not in wanted and kind.purged(row)
        if unwanted:
            label = name if name and len(by_name[name]) == 1 else f"{name} (id {row['id']})".strip()
            changes.append(Change(label, row["id"], row, before, None))
    return changes


def body(kind: Kind, change: Change) -> Row:
    """Return the JSON of a row to create or update; values that the module does not know are kept.

    Fields that do not differ are kept as well, except references: XNAT returns these as whole rows and expects ids.
    """
    after = change.after or {}
    found = deepcopy(kind.new if change.row is None else change.row)
    for field in kind.fields:
        if change.before is not None and not field.by_id and change.before[field.option] == after[field.option]:
            continue
        part = found
        for name in field.place[:-1]:
            part[name] = part.get(name) or {}
            part = part[name]
        part[field.place[-1]] = field.sent(after[field.option], part.get(field.place[-1]))
    return found


# Output


def masked(mine: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], mark: str) -> list[str]:
    """Return names with masked values; the mark shows that the other side has another value."""
    keys = [pair["key"] for pair in other]
    return [f"{pair['key']}={MASK}{mark if pair not in other and pair['key'] in keys else ''}" for pair in mine]


def called(names: Mapping[int, str], value: Any) -> str:
    """Return the name for an id, with the id if several rows have this name."""
    if isinstance(value, str):  # the name of a row that does not exist yet
        return value
    if value not in names:
        return f"id {value}"
    name = names[value]
    return name if list(names.values()).count(name) == 1 else f"{name} (id {value})"


def shown(kind: Kind, mine: Normal, other: Normal | None, mark: str, names: Names) -> dict[str, Any]:
    """Return a row with names for ids and masked secrets."""
    found: dict[str, Any] = {}
    for field in kind.fields:
        value = mine[field.option]
        if field.secret:
            value = masked(value, other[field.option] if other else [], mark)
        elif field.by_id and isinstance(value, list):
            value = sorted(called(names[field.refers], item) for item in value)
        elif field.by_id:
            value = "all" if value is ALL else called(names[field.refers], value)
        found[field.option] = value
    return found


def difference(kind: Kind, changes: Sequence[Change], names: Names) -> dict[str, dict[str, Any]]:
    """Return the rows that differ, before and after, for Ansible's --diff."""
    return {
        "before": {
            change.label: shown(kind, change.before, change.after, " (old)", names)
            for change in changes
            if change.before is not None
        },
        "after": {
            change.label: shown(kind, change.after, change.before, " (new)", names)
            for change in changes
            if change.after is not None
        },
    }


def lists(changes: Sequence[Change]) -> dict[str, list[str]]:
    """Return the labels of created, updated and deleted rows."""
    return {
        f"{action}d": [change.label for change in changes if change.action == action]
        for action in ("create", "update", "delete")
    }


def not_kept(kind: Kind, rows: Sequence[Row], done: Sequence[Change], names: Names) -> list[str]:
    """Return a sentence for each change that XNAT reported as successful but did not keep."""
    by_id = {row["id"]: row for row in rows}
    found = []
    for change in done:
        row = by_id.get(change.number)
        what = f"{kind.noun} {change.label}"
        if change.after is None:
            found += [] if row is None else [f"{what} still exists"]
        elif row is None:
            found.append(f"{what} does not exist")
        else:
            kept = stored_row(kind, row)
            is_shown = shown(kind, kept, change.after, "", names)
            to_be = shown(kind, change.after, kept, "", names)
            for field in kind.fields:
                if kept[field.option] != change.after[field.option]:
                    told = f": it has {plain(is_shown[field.option])} instead of {plain(to_be[field.option])}"
                    found.append(f"{field.option} of {what}{'' if field.secret else told}")
    return found


def plain(value: Any) -> str:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


# Calls


def read(client: Client, kind: Kind) -> list[Row]:
    """Return XNAT's rows of a kind. Raises XnatError."""
    answer = client.get(kind.path)
    rows = answer.json(list)
    if not all(isinstance(row, dict) and isinstance(row.get("id"), int) for row in rows):
        raise XnatError(f"XNAT answered {answer.call} with rows without an id")
    return [row for row in rows if kind.ours(row)]


def make(client: Client, kind: Kind, change: Change) -> Change:
    """Make one change; returns it with the row's id. Raises XnatError."""
    if change.row is None:
        answer = client.change("POST", kind.path, body(kind, change), (kind.created,))
    else:
        name = (change.before or {})["name"] if kind.path_by_name else str(change.number)
        path = f"{kind.path}/{quoted(name)}"
        if change.after is None:
            client.change("DELETE", path, None, (kind.deleted,))
            return change
        answer = client.change("PUT", path, body(kind, change))
    given = answer.json(dict).get("id")
    if not isinstance(given, int) or change.number not in (None, given):
        raise XnatError(
            f"XNAT answered {answer.call} with a row that has another id or none: it may not have made the change"
        )
    return replace(change, number=given)


def make_all(client: Client, kind: Kind, changes: Sequence[Change]) -> list[Change]:
    """Make all changes in turn; returns them with the rows' ids. Raises RowsError at the first failure."""
    done: list[Change] = []
    for change in changes:
        try:
            done.append(make(client, kind, change))
        except XnatError as error:
            before = [f"{action} {', '.join(names)}" for action, names in lists(done).items() if names]
            before = [f"; done before: {', '.join(before)}; run the playbook again to continue"] if before else []
            text = f"{kind.noun} {change.label} was not {change.action}d: {error}{''.join(before)}"
            raise RowsError(text, done) from error
    return done


def nothing_more(rows: Sequence[Row]) -> dict[str, Any]:
    """Return no additional results."""
    return {}


def keep(
    client: Client,
    kind: Kind,
    options: Mapping[str, Any],
    check_mode: bool,
    warn: Callable[[str], None],
    more: Callable[[Sequence[Row]], dict[str, Any]] = nothing_more,
) -> dict[str, Any]:
    """Change XNAT's rows to the wanted state, or predict the changes in check mode. Raises RowsError and XnatError.

    more: returns additional results of a module from all rows of its kind after the changes.
    """
    present = options["state"] == "present"
    if options["purge"] and not present:
        raise RowsError("purge removes all rows that are not listed, so it cannot be combined with state absent")
    wanted = wanted_rows(kind, options[kind.option], options["state"])
    rows = read(client, kind)
    others = {target.path: read(client, target) for target in targets(kind)}
    names = {path: names_of(KINDS[path], found) for path, found in others.items()}
    wanted, problems = resolved(kind, wanted, names)
    if check_mode:
        for sentence in problems:
            warn(f"{sentence} (yet)")
        problems = []
    if kind is DASHBOARDS and present:
        problems += incomplete(wanted, others[FRAMEWORKS.path])
    if problems:
        raise RowsError("; ".join(problems))
    changes = plan(kind, rows, wanted, options["state"], options["purge"])
    if changes and not check_mode:
        done = make_all(client, kind, changes)
        rows = read(client, kind)
        lost = not_kept(kind, rows, done, names)
        if lost:
            raise RowsError(f"XNAT reported success but did not keep the change: {'; '.join(lost)}", done)
    ids = {name: number for number, name in names_of(kind, rows).items()}
    return {
        "changed": bool(changes),
        "rows": {name: ids.get(name) for name in wanted} if present else {},
        **lists(changes),
        "diff": difference(kind, changes, names),
        **more([row for row in rows if kind.ours(row)]),
    }


# The module


def without_values(kind: Kind, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's parameters without the values of variables, which may be secrets."""
    secret = [field.option for field in kind.fields if field.secret]
    rows = params.get(kind.option)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return {**params, kind.option: MASK}
    clean = [{name: MASK if name in secret and value else value for name, value in row.items()} for row in rows]
    return {**params, kind.option: clean}


class RowsModule(AnsibleModule):  # type: ignore[misc]
    """A module that neither logs nor returns the values of variables."""

    def __init__(self, kind: Kind, options: Mapping[str, Any]) -> None:
        self._kind = kind
        super().__init__(
            argument_spec={
                **ARGUMENTS,
                kind.option: {"type": "list", "elements": "dict", "required": True, "options": options},
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                "purge": {"type": "bool", "default": False},
            },
            supports_check_mode=True,
            no_log=True,  # log nothing on the host
        )

    def _given(self) -> dict[str, Any]:
        return {"module_args": without_values(self._kind, self.params)}

    def exit_json(self, **result: Any) -> None:
        """Exit with the results."""
        super().exit_json(invocation=self._given(), **result)

    def fail_json(self, msg: str, **result: Any) -> None:
        """Exit with an error."""
        super().fail_json(msg, invocation=self._given(), **result)


def main(
    kind: Kind, options: Mapping[str, Any], more: Callable[[Sequence[Row]], dict[str, Any]] = nothing_more
) -> None:
    """Run the module for a kind of rows. options: the options of one row."""
    module = RowsModule(kind, options)
    try:
        with Client(module) as client:
            result = keep(client, kind, module.params, module.check_mode, module.warn, more)
    except RowsError as error:
        module.fail_json(str(error), changed=bool(error.done), **lists(error.done))
    except XnatError as error:
        module.fail_json(str(error))
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)
