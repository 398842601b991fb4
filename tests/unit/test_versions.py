"""Which versions work together, and the project's own: VERSION, CHANGELOG.md and a release's tag."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from module_utils.xnat_site.versions import OLDEST_PLUGIN, OLDEST_XNAT, numbers, unsupported
from tests.unit.conftest import ROOT


@pytest.mark.parametrize(
    ("xnat", "plugin", "jupyterhub", "words"),
    [
        ("1.8.10", "1.2", "5.5.1", []),
        ("1.8.10", "1.2.0-rc.1", "5.5.4", []),
        ("1.9.1", "1.3.4", "5.5.4", []),
        ("1.10.1-SNAPSHOT", "1.3.5-SNAPSHOT", "5.6", []),
        ("Unknown", "unknown", "", []),
        ("1.8.9.2", "1.2.0", "5.5.4", ["XNAT 1.8.9.2 has no compute environments"]),
        ("1.9", "1.0.1", "5.5.4", ["the JupyterHub plugin 1.0.1 starts servers without a name"]),
        ("1.8.10", "1.1.1", "5.5.4", ["the JupyterHub plugin 1.1.1 starts servers without a name"]),
        ("1.9", "1.3.4", "6.0.0", ["JupyterHub 6.0.0 refuses the names that the JupyterHub plugin 1.3.4 gives"]),
        ("1.9", "1.3.4", "6", ["JupyterHub 6 refuses the names"]),
        ("1.9", "1.3.4", "5.5.0", ["JupyterHub 5.5.0 was not tested with the JupyterHub plugin 1.3.4"]),
        ("1.7", "1.0", "4", ["XNAT 1.7", "plugin 1.0", "JupyterHub 4"]),
    ],
)
def test_each_pair_that_does_not_work_has_a_sentence(xnat: str, plugin: str, jupyterhub: str, words: list[str]) -> None:
    sentences = unsupported(xnat, plugin, jupyterhub)
    assert len(sentences) == len(words)
    assert all(word in sentence for word, sentence in zip(words, sentences, strict=True))


def test_the_numbers_of_a_version() -> None:
    assert numbers("1.10.1-SNAPSHOT") == (1, 10, 1)
    assert numbers("unknown") == ()


@pytest.mark.parametrize("place", ["docs/site.md", "roles/xnat_jupyterhub/tasks/by_hand.yml"])
def test_people_are_told_the_versions_that_are_checked(place: str) -> None:
    text = (ROOT / place).read_text()
    told = re.findall(r"XNAT (\S+) or later with the JupyterHub plugin (\S+) or later", text)
    assert [(numbers(xnat), numbers(plugin)) for xnat, plugin in told] == [(OLDEST_XNAT, OLDEST_PLUGIN)]


def release_findings(version: str, changelog: str, tags_here: list[str], tags: list[str]) -> list[str]:
    """Return the rules of a release (CONTRIBUTING.md) that are broken.

    version: what VERSION holds. tags_here, tags: the releases' tags of this commit, and of all.
    """
    sections = re.findall(r"^## \[(.+)\] - (.+)$", changelog, re.MULTILINE)
    numbers_of_sections = [numbers(number) for number, _ in sections]
    found = {
        "number": not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version),
        "newest section": not sections or sections[0][0] != version,
        "order": numbers_of_sections != sorted(set(numbers_of_sections), reverse=True),
        "date": not all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in sections[0 if tags_here else 1 :]),
        "tag": any(tag != f"v{version}" for tag in tags_here),
        "released before": f"v{version}" in tags and not tags_here,
    }
    return [rule for rule, broken in found.items() if broken]


OPEN = "# Changelog\n\n## [0.2.0] - Unreleased\n\n- x\n\n## [0.1.0] - 2026-12-01\n"
CLOSED = OPEN.replace("Unreleased", "2027-01-31")


@pytest.mark.parametrize(
    ("version", "changelog", "tags_here", "tags", "rules"),
    [
        ("0.2.0", OPEN, [], ["v0.1.0"], []),
        ("0.2.0", CLOSED, [], ["v0.1.0"], []),
        ("0.2.0", CLOSED, ["v0.2.0"], ["v0.1.0", "v0.2.0"], []),
        ("0.2", OPEN, [], [], ["number", "newest section"]),
        ("0.1.0", OPEN, [], [], ["newest section"]),
        ("0.3.0", OPEN, [], [], ["newest section"]),
        ("0.2.0", "# Changelog\n", [], [], ["newest section"]),
        ("0.2.0", OPEN.replace("0.1.0", "0.3.0"), [], [], ["order"]),
        ("0.2.0", OPEN.replace("2026-12-01", "Unreleased"), [], [], ["date"]),
        ("0.2.0", OPEN, ["v0.2.0"], ["v0.2.0"], ["date"]),
        ("0.2.0", CLOSED, ["v0.3.0"], ["v0.3.0"], ["tag"]),
        ("0.2.0", CLOSED, [], ["v0.1.0", "v0.2.0"], ["released before"]),
    ],
    ids=[
        "in work", "dated", "released", "no semantic version", "version too low", "version too high", "no section",
        "sections in disorder", "older one without date", "tagged without date", "tag of another version",
        "work goes on without a new number",
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_release_is_found(
    version: str, changelog: str, tags_here: list[str], tags: list[str], rules: list[str]
) -> None:
    assert release_findings(version, changelog, tags_here, tags) == rules


def test_version_changelog_and_tag_agree() -> None:
    version, changelog = ((ROOT / name).read_text() for name in ("VERSION", "CHANGELOG.md"))
    git = shutil.which("git")
    tags: dict[str, list[str]] = {"--points-at=HEAD": [], "--list": []}  # none outside of a checkout
    for which in tags if git else ():
        listed = subprocess.run([str(git), "-C", str(ROOT), "tag", which], check=False, capture_output=True, text=True)
        tags[which] = re.findall(r"^v\d+\.\d+\.\d+$", listed.stdout, re.MULTILINE)
    assert version.endswith("\n")
    assert release_findings(version.strip(), changelog, tags["--points-at=HEAD"], tags["--list"]) == []
