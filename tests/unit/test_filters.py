"""The filters: each is a function of module_utils/xnat_site, is documented beside it, and is found by Ansible."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.conftest import ROOT

PLUGINS = ROOT / "filter_plugins"
FILTERS: dict[str, Callable[..., Any]] = {
    name: function
    for path in sorted(PLUGINS.glob("*.py"))
    for name, function in importlib.import_module(f"filter_plugins.{path.stem}").FilterModule().filters().items()
}


def test_every_filter_has_its_documentation_and_nothing_else_has() -> None:
    assert FILTERS
    assert {path.stem for path in PLUGINS.glob("*.yml")} == set(FILTERS)


@pytest.mark.parametrize("name", FILTERS)
def test_the_documentation_has_the_functions_parameters_with_their_defaults(name: str) -> None:
    documented = yaml.safe_load((PLUGINS / f"{name}.yml").read_text())
    assert documented["DOCUMENTATION"]["name"] == name
    assert name in documented["EXAMPLES"]
    assert set(documented["RETURN"]) == {"_value"}
    options = documented["DOCUMENTATION"]["options"]
    parameters = list(inspect.signature(FILTERS[name]).parameters.values())
    assert set(options) == {"_input", *(parameter.name for parameter in parameters[1:])}
    for parameter in parameters[1:]:
        required = parameter.default is parameter.empty
        assert bool(options[parameter.name].get("required")) == required, parameter.name
        if not required:
            assert (options[parameter.name].get("default") or None) == (parameter.default or None), parameter.name


def test_ansible_finds_every_filter_and_its_documentation(tmp_path: Path) -> None:
    # From elsewhere, so that it is no search path of the tests by which the filters find what they import.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHONPATH"))}
    shown = subprocess.run(
        [Path(sys.executable).with_name("ansible-doc"), "-t", "filter", "--json", *FILTERS],
        cwd=tmp_path, env={**environment, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    found = json.loads(shown.stdout)
    assert {name.rpartition(".")[2] for name in found} == set(FILTERS)
    assert all(entry["doc"]["short_description"] for entry in found.values())
