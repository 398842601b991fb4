"""requirements.yml names exactly the collections that the project uses, in the versions of the locked `ansible`."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.unit.conftest import ROOT

BUILT_IN = {"ansible.builtin", "ansible.legacy"}
COLLECTION = re.compile(r"\b((?:ansible|community|containers|kubernetes)\.[a-z][a-z0-9_]*)\.[a-z][a-z0-9_]*\b")
# What may name a module, a filter, a lookup, a callback or a connection; module_utils is Ansible's own.
PLACES = (
    "*.yml", "ansible.cfg", "roles/**/*.yml", "playbooks/**/*.yml", "inventory/**/*.yml", "molecule/**/*.yml",
    ".config/**/*.yml", "benchmarks/**/*.py",
)  # fmt: skip
WANTED = {row["name"]: row["version"] for row in yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]}


def test_the_collections_that_are_used_are_those_that_are_named() -> None:
    texts = [path.read_text() for place in PLACES for path in ROOT.glob(place) if path.name != "requirements.yml"]
    used = {name for text in texts for name in COLLECTION.findall(text)} - BUILT_IN
    assert used == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_the_locked_ansible_brings_a_version_that_is_asked_for(name: str) -> None:
    found = importlib.util.find_spec("ansible_collections")
    assert found
    assert found.submodule_search_locations
    (place,) = [
        path for path in map(Path, found.submodule_search_locations) if (path / name.replace(".", "/")).is_dir()
    ]
    manifest = json.loads((place / name.replace(".", "/") / "MANIFEST.json").read_text())
    assert manifest["collection_info"]["version"] in SpecifierSet(WANTED[name])
