"""The parts import each other in one direction only; for example, nothing outside the hub imports it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.conftest import ROOT

PARTS = {
    "filters": "filter_plugins",
    "modules": "library",
    "module_utils": "module_utils",
    "xnat_site": "module_utils/xnat_site",
    "xnat_hub": "files/xnat_hub",
    "xnat_launcher": "files/xnat_launcher",
    "xnat_wire": "files/xnat_wire",
    "xnat_verify": "files/xnat_verify",
    "xnat_guard": "files/xnat_guard",
    "demo_xnat": "files/demo_xnat",
    "runtime": "files/runtime",
    "registry": "files/registry",
    "edge": "files/edge",
    "singleuser": "files/singleuser",
    "assets": "files/assets",
}
# What each part may import of the others. A part that is not named is imported by nobody.
ARROWS: dict[str, tuple[str, ...]] = {
    "filters": ("xnat_site",),
    "modules": ("module_utils", "xnat_site", "xnat_launcher.policy"),
    "module_utils": ("xnat_wire.redirects",),
    "xnat_site": ("xnat_launcher.policy", "xnat_launcher.options"),
    "xnat_hub": ("xnat_wire",),
    "xnat_launcher": ("xnat_wire",),
    "xnat_verify": ("xnat_wire",),
}
# What Ansible takes to hosts, where there is Python and nothing else.
ALONE = ("files/xnat_launcher/policy.py", "files/xnat_launcher/options.py", "files/xnat_wire/redirects.py")
SHARED = {"xnat", "xnat_rows", "xnat_settings"}  # module_utils/*.py


def sources(part: str) -> list[Path]:
    folder = ROOT / PARTS[part]
    found = folder.glob("*.py") if part == "module_utils" else folder.rglob("*.py")
    return sorted(path for path in found if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere, relative ones resolved against the project."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = path.relative_to(ROOT).parts[: -node.level]
                base = ".".join([*package, *filter(None, [base])])
            yield from (f"{base}.{name.name}" for name in node.names)


def ours(name: str) -> str:
    """`part.module` of a dotted name, `part` for the part itself, empty for what is not of this project."""
    words = name.split(".")
    for prefix in (["ansible", "module_utils"], ["module_utils"], ["files"]):
        if words[: len(prefix)] == prefix:
            words = words[len(prefix) :]
            if words and words[0] in SHARED:
                return "module_utils"
            break
    if (
        not words
        or words[0] not in PARTS
        or words[0] in ("filters", "modules", "runtime", "registry", "edge", "singleuser", "assets")
    ):
        return ""
    return ".".join(words[:2])


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_it_may(part: str) -> None:
    allowed = (part, *ARROWS.get(part, ()))
    found = {(path.name, name) for path in sources(part) for name in map(ours, imports(path)) if name}
    assert sources(part)
    assert [
        each for each in sorted(found) if not any(each[1] == one or each[1].startswith(f"{one}.") for one in allowed)
    ] == []


@pytest.mark.parametrize("part", [part for part, arrows in ARROWS.items() if arrows])
def test_every_arrow_is_used(part: str) -> None:
    found = {name for path in sources(part) for name in map(ours, imports(path))}
    used = {one for one in ARROWS[part] if any(name == one or name.startswith(f"{one}.") for name in found)}
    assert used == set(ARROWS[part])


def test_the_hubs_configuration_imports_of_ours_the_hub_alone() -> None:
    found = {ours(name).partition(".")[0] for name in imports(ROOT / "files/jupyterhub_config.py")} - {""}
    assert found == {"xnat_hub"}


@pytest.mark.parametrize("path", [*(ROOT / one for one in ALONE), *sources("xnat_site")], ids=lambda path: path.name)
def test_what_goes_to_hosts_needs_only_the_standard_library(path: Path) -> None:
    foreign = {name for name in imports(path) if not ours(name)}
    assert {name.partition(".")[0] for name in foreign} <= sys.stdlib_module_names
    if path in (ROOT / one for one in ALONE):
        assert not any(map(ours, imports(path)))
