"""Which versions go together."""

from __future__ import annotations

import re

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


@pytest.mark.parametrize("place", ["README.md", "roles/xnat_jupyterhub/tasks/by_hand.yml"])
def test_people_are_told_the_versions_that_are_checked(place: str) -> None:
    text = (ROOT / place).read_text()
    told = re.findall(r"XNAT (\S+) or later with the JupyterHub plugin (\S+) or later", text)
    assert [(numbers(xnat), numbers(plugin)) for xnat, plugin in told] == [(OLDEST_XNAT, OLDEST_PLUGIN)]
