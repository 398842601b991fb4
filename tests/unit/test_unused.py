"""Nothing unused is kept: variables, results of modules and filters, routes of the demo XNAT.

Uses are found in the project's text without running it: Jinja expressions and Python are parsed, and a name counts as
read wherever an expression names it. So every finding is certainly unused; an unused name that something else shares
is missed.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from demo_xnat.web import make_app
from jinja2 import nodes

from tests.unit.conftest import ROOT
from tests.unit.test_demo_xnat import SECRETS, fresh_settings

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # regular expressions in Jinja's texts
JINJA = jinja2.Environment(autoescape=True)  # only parses
BARE = {"when", "until", "changed_when", "failed_when", "that", "var"}  # whose text is an expression without braces
NEW_NAMES = {"vars", "ansible.builtin.set_fact"}
ROLES = [path.name for path in (ROOT / "roles").iterdir() if path.is_dir()]
OF_A_ROLE = re.compile(rf"_{{0,2}}(?:{'|'.join(ROLES)})_\w+")


def files(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.is_file()]


# ---- Ansible's files


class Loader(yaml.SafeLoader):
    """Takes a vault's and other tagged values for texts."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))


@functools.cache
def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader)  # noqa: S506  (a safe loader)


def ansible_files() -> list[Path]:
    folders = ("tasks", "handlers", "defaults", "vars", "meta")
    return files(
        "site.yml", "playbooks/*.yml", *(f"roles/*/{name}/*.yml" for name in folders),
        "inventory/**/*.yml", "molecule/**/*.yml",
    )  # fmt: skip


def mappings(value: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(item)


def texts(value: Any, key: str = "") -> Iterator[str]:
    """Every text with Jinja in it, expressions without braces in braces."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from texts(str(name))
            yield from texts(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, key)
    elif isinstance(value, str):
        if "{{" in value or "{%" in value:
            yield value
        elif key in BARE:
            yield f"{{{{ {value} }}}}"


@functools.cache
def expressions() -> list[tuple[frozenset[str], frozenset[str]]]:
    """Of each text its variables, and all that it names: variables, attributes, and texts, which may name either."""
    found = []
    for path in ansible_files():
        for text in texts(load(path)):
            tree = JINJA.parse(text)
            local = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
            variables = {node.name for node in tree.find_all(nodes.Name)} - local
            attributes = {node.attr for node in tree.find_all(nodes.Getattr)}
            constants = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
            found.append((frozenset(variables), frozenset(variables | attributes | constants)))
    return found


def defined(path: Path) -> Iterator[str]:
    """The variables that a file makes."""
    content = load(path)
    if path.parent.name in ("defaults", "vars") or {"group_vars", "host_vars"} & set(path.parts):
        yield from content or {}
    elif path.parent.name == "meta":
        for entry in content["argument_specs"].values():
            yield from entry.get("options", {})
    else:
        for mapping in mappings(content):
            for key in NEW_NAMES & mapping.keys():
                yield from mapping[key] if isinstance(mapping[key], dict) else ()
            yield from (
                mapping[key] for key in ("register", "loop_var", "index_var") if isinstance(mapping.get(key), str)
            )


@functools.cache
def constants() -> frozenset[str]:
    """The texts in the code behind the filters, some of which get the variables of all hosts."""
    trees = [ast.walk(ast.parse(path.read_text())) for path in files("module_utils/xnat_site/*.py")]
    return frozenset(constant(node) for tree in trees for node in tree) - {""}


@pytest.mark.parametrize("path", ansible_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_variable_is_read_by_an_expression_or_by_the_code_that_gets_all_variables(path: Path) -> None:
    read = set().union(*(names for _, names in expressions()), constants())
    unread = {name for name in defined(path) if not name.startswith("ansible_")} - read - {"cacheable"}
    assert sorted(unread) == []


@pytest.mark.parametrize("role", ROLES)
def test_every_option_of_a_role_is_read_by_the_role_itself(role: str) -> None:
    folder = ROOT / "roles" / role
    own = [text for path in folder.glob("**/*.yml") if path.parent.name != "meta" for text in texts(load(path))]
    read = {node.name for text in own for node in JINJA.parse(text).find_all(nodes.Name)}
    assert sorted(set(defined(folder / "meta/argument_specs.yml")) - read) == []


def test_every_variable_of_a_role_that_is_read_is_made_somewhere() -> None:
    made = {name for path in ansible_files() for name in defined(path)} | constants()
    read = {name for variables, _ in expressions() for name in variables if OF_A_ROLE.fullmatch(name)}
    assert sorted(read - made) == []


def grouped(content: Any) -> Iterator[str]:
    for name, group in (content or {}).items():
        yield name
        yield from grouped((group or {}).get("children"))


def test_every_group_of_an_inventory_is_named_by_a_play_or_an_expression() -> None:
    plays = [mapping["hosts"] for path in ansible_files() for mapping in mappings(load(path)) if "hosts" in mapping]
    used = {word for hosts in plays if isinstance(hosts, str) for word in re.findall(r"\w+", hosts)}
    used |= set().union(*(names for _, names in expressions()), constants())
    there = {name for path in files("inventory/*/hosts.yml", "molecule/**/hosts.yml") for name in grouped(load(path))}
    assert sorted(there - used - {"all"}) == []


def test_every_variable_of_the_makefile_is_used() -> None:
    text = (ROOT / "Makefile").read_text()
    names = set(re.findall(r"^([A-Z_]+) *[:?]?=", text, re.MULTILINE)) - {"SHELL"}
    assert sorted(name for name in names if f"$({name})" not in text) == []


# ---- what is reported


@dataclass(frozen=True)
class Report:
    """Something that functions of a module return as dictionaries, and who has it.

    functions: those that make it; none for all. variables: which of Ansible's hold it, a regular expression; what an
    expression with one of them names is read. readers: "file" or "file function" of Python that gets it. sent: keys of
    dictionaries that these functions send to Docker.
    """

    file: str
    variables: str
    functions: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()


REPORTS = [
    Report(
        "library/node_report.py",
        r"\w*report|preflight_fleet|__offline_bundle_look|__docker_swarm_nodes|__node_firewall_(state|inspection)",
        readers=tuple(f"module_utils/xnat_site/{name}.py" for name in ("hosts", "engine", "firewall", "fleet")),
    ),
    Report(
        "library/storage_probe.py",
        r"_*node_storage_\w+",
        ("main", "plan_changes"),
        ("module_utils/xnat_site/storage.py storage_disagreements",),
    ),
    Report("library/storage_mount.py", r"_*node_storage_\w+", ("main",)),
    Report("library/port_probe.py", "__preflight_probe", ("main",)),
    Report("library/swarm_room.py", r"__\w+_room", ("main",), sent=("desired-state", "node", "role")),
    Report("library/singleuser_probe.py", r"__hub_images_\w+", ("main",)),
    Report(
        "library/node_images.py",
        r"_*node_images_\w+|__hub_images_pulled",
        ("run", "push"),
        ("library/node_images.py pull", "module_utils/xnat_site/images.py pulled_images"),
        ("username", "password"),
    ),
    Report(
        "library/swarm_service_status.py",
        "__swarm_wait_status",
        ("judge", "judge_rollback", "main"),
        sent=("service",),
    ),
    Report("library/context_archive.py", "__hub_images_packed", ("main",)),
    Report("module_utils/xnat_site/fleet.py", "preflight_fleet", ("fleet",)),
    Report("module_utils/xnat_site/fleet.py", r"__docker_swarm_(changes|node)|item", ("swarm_changes", "_update")),
    Report("module_utils/xnat_site/fleet.py", "peers", ("firewall_peers",), sent=("host", "address", "ports")),
    Report("module_utils/xnat_site/firewall.py", "preflight_fleet", ("firewall_facts",)),
    Report("module_utils/xnat_site/firewall.py", "node_firewall_plan|plans", ("firewall_plan",)),
    Report("module_utils/xnat_site/engine.py", "__docker_engine_plan", ("engine_plan",)),
    Report("module_utils/xnat_site/images.py", r"__hub_images_(builds|checked)", ("image_builds", "pulled_images")),
    Report("module_utils/xnat_site/maintenance.py", "__node_maintenance_quorum", ("manager_quorum",)),
]
FOR_ANSIBLE = {"changed"}
SENT = {"AnsibleModule", "dumps"}  # calls whose dictionaries are no report
UPDATES = {"exit_json", "update"}


def tree_of(place: str) -> Iterator[ast.AST]:
    """The nodes of a file, or of one function of it."""
    file, _, function = place.partition(" ")
    tree = ast.parse((ROOT / file).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            tree = ast.Module([node], [])
    yield from ast.walk(tree)


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def constant(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


class Keys(ast.NodeVisitor):
    """The keys of all dictionaries that functions make, without those that are taken out again."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.taken: set[str] = set()

    def visit_Call(self, node: ast.Call) -> None:
        if called(node) in SENT:
            return
        if called(node) in UPDATES:
            self.made |= {keyword.arg for keyword in node.keywords if keyword.arg}
        if called(node) == "pop" and node.args:
            self.taken.add(constant(node.args[0]))
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        self.made |= {constant(key) for key in node.keys}
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.value, ast.Dict):  # a table, read on the spot
            return
        if isinstance(node.ctx, ast.Store):
            self.made.add(constant(node.slice))
        self.generic_visit(node)


def reported(report: Report) -> set[str]:
    keys = Keys()
    tree = ast.parse((ROOT / report.file).read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and (not report.functions or node.name in report.functions):
            keys.visit(node)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "FEATURES":
            keys.made |= set(ast.literal_eval(node.value))
    return keys.made - keys.taken - FOR_ANSIBLE - {"", *report.sent}


def read_by(place: str) -> set[str]:
    """The keys that Python takes from dictionaries, one by one or by a list of them."""
    found: set[str] = set()
    for node in tree_of(place):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            found.add(constant(node.slice))
        elif isinstance(node, ast.Call) and called(node) in ("get", "pop") and node.args:
            found.add(constant(node.args[0]))
        elif isinstance(node, ast.Tuple | ast.List):
            found |= {constant(element) for element in node.elts}
    return found


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: f"{report.file} {' '.join(report.functions)}")
def test_all_that_is_reported_is_read(report: Report) -> None:
    holds = re.compile(report.variables)
    read = set().union(*(names for _, names in expressions() if any(map(holds.fullmatch, names))))
    read |= set().union(*map(read_by, report.readers))
    assert sorted(reported(report) - read) == []


def test_every_module_of_the_rollout_is_among_the_reports() -> None:
    """Those of XNAT and of the hub may be used alone, and what they return is for whoever does."""
    modules = {path.name for path in files("library/*.py") if not path.name.startswith(("xnat_", "jupyterhub_"))}
    assert modules == {Path(report.file).name for report in REPORTS if report.file.startswith("library/")}


# ---- routes of the demo XNAT

UNKNOWN = "\0"
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD")
BEGINNINGS = ("/xapi", "/data", "/demo", "/app", "/healthz")
Values = dict[str, list[ast.expr]]


def values(tree: ast.AST) -> Values:
    """What is assigned to each name anywhere in a file."""
    found: Values = {}
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            assert isinstance(node, ast.Assign)
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(node.value)
            names = target.elts if isinstance(target, ast.Tuple) else []
            several = (
                node.value.elts
                if isinstance(node.value, ast.Tuple)
                else [getattr(node.value, "elt", node.value)] * len(names)
            )
            for name, value in zip(names, several, strict=False):
                if isinstance(name, ast.Name):
                    found.setdefault(name.id, []).append(value)
    return found


def spelled(node: ast.expr, known: Values, depth: int = 3) -> set[str]:
    """What a text can be, with UNKNOWN for what is not known here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.FormattedValue):
        return spelled(node.value, known, depth)
    if isinstance(node, ast.JoinedStr):
        return {"".join(parts) for parts in itertools.product(*(spelled(part, known, depth) for part in node.values))}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return {a + b for a in spelled(node.left, known, depth) for b in spelled(node.right, known, depth)}
    if isinstance(node, ast.Name) and depth and node.id in known:
        return set().union(*(spelled(value, known, depth - 1) for value in known[node.id]))
    return {UNKNOWN}


def methods(nodes: Iterable[ast.AST]) -> set[str]:
    found = {constant(node) for node in nodes} | {called(node).upper() for node in nodes if isinstance(node, ast.Call)}
    return found & set(METHODS)


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Method and path of each call that a file may make. The method is named beside the path, else in its function."""
    tree = ast.parse(path.read_text())
    known = values(tree)
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for scope in [*scopes, tree]:
        around = methods(list(ast.walk(scope))) or {"GET"}
        for node in ast.walk(scope):
            near = methods([node, *ast.iter_child_nodes(node)]) if isinstance(node, ast.Call | ast.Tuple) else set()
            if scope is tree and not near:
                continue
            for child in ast.iter_child_nodes(node):
                for text in spelled(child, known) if isinstance(child, ast.expr) else ():
                    text = text.partition("?")[0].lstrip(UNKNOWN)
                    if text.startswith(BEGINNINGS):
                        yield from ((method, text) for method in near or around)


def fits(text: str, template: str) -> bool:
    """Whether a path, unknown parts included, can be the route's, whose own parts are in braces."""
    one, other = text.split("/"), template.split("/")
    return len(one) == len(other) and all(
        part.startswith("{") or re.fullmatch(".*".join(map(re.escape, said.split(UNKNOWN))), part)
        for said, part in zip(one, other, strict=True)
    )


def test_every_route_of_the_demo_xnat_is_called_by_something(tmp_path: Path) -> None:
    """By the hub, the launcher, a module, the smoke test or a test; its page calls nothing else."""
    made = {call for path in files("library/*.py", "module_utils/**/*.py", "files/xnat_*/*.py", "tests/**/*.py",
                                   "benchmarks/*.py") if path != Path(__file__) for call in calls(path)}  # fmt: skip
    uncalled = []
    for route in make_app(fresh_settings(tmp_path), SECRETS).router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if path != "/" and route.method != "HEAD" and not any(
            method == route.method and fits(text, path) for method, text in made
        ):  # fmt: skip
            uncalled.append(f"{route.method} {path}")
    assert uncalled == []
