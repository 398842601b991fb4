"""XNAT's user-options: every trap of docs/xnat-contract.md, 1.4 and 6."""

from __future__ import annotations

import contextlib
import copy
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xnat_launcher.options import MAX_TEXT, Launch, OptionsError, parse_launch, parse_memory

from tests.unit.conftest import SAMPLES

BY_NAME = {sample["name"]: sample["response"]["body"] for sample in SAMPLES}
PLAIN = BY_NAME["project_plain"]


def changed(path: str, value: object) -> dict[str, Any]:
    """The plain sample with one field changed; the path starts below task_template."""
    body: dict[str, Any] = copy.deepcopy(PLAIN)
    at = body["task_template"]
    *parents, last = path.split(".")
    for name in parents:
        at = at[name]
    at[last] = value
    return body


def parsed(body: dict[str, Any]) -> Launch:
    return parse_launch(body, body["servername"])


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample["name"] for sample in SAMPLES])
def test_xnats_samples_are_read_as_expected(sample: dict[str, Any]) -> None:
    body, expect = sample["response"]["body"], sample["expect"]
    if expect.get("refuse"):
        with pytest.raises(OptionsError):
            parse_launch(body, sample["hub_servername"])
        return
    launch = parse_launch(body, sample["hub_servername"])
    if "argv" in expect:
        assert launch.command == tuple(expect["argv"])
    if "argv_len" in expect:
        assert launch.command is not None
        assert (len(launch.command), launch.command[0], launch.command[-1]) == (
            expect["argv_len"],
            expect["argv0"],
            expect["argv_last"],
        )
    if "generic_resources" in expect:
        assert launch.generic_resources == expect["generic_resources"]
    if "constraints" in expect:
        assert list(launch.constraints) == expect["constraints"]
    if "cpu_limit" in expect:
        assert launch.cpu_limit == expect["cpu_limit"]
    if "mem_limit_bytes" in expect:
        assert launch.mem_limit == expect["mem_limit_bytes"]
    if expect.get("no_limits"):
        assert (launch.cpu_limit, launch.cpu_reservation, launch.mem_limit, launch.mem_reservation) == (None,) * 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None), ("", None), ("0", None), ("8G", 8 * 2**30), ("4g", 4 * 2**30), ("4Gi", 4 * 2**30),
        ("512MB", 512 * 2**20), ("0.5G", 2**29), ("1024", 1024), ("2T", 2**41), (" 1K ", 1024), ("1KiB", 1024),
    ],
    ids=repr,
)  # fmt: skip
def test_memory_in_all_the_spellings_that_rest_lets_through(value: object, expected: int | None) -> None:
    assert parse_memory(value, "x") == expected


@pytest.mark.parametrize(
    "value", ["lots", "8 G B", "-1G", "G", 5, True, "1e9", "9999999999T", "\N{FULLWIDTH DIGIT ONE}G"], ids=ascii
)
def test_memory_that_is_not_understood_is_refused_by_name(value: object) -> None:
    with pytest.raises(OptionsError, match=r"resources\.mem_limit"):
        parsed(changed("resources.mem_limit", value))


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("container_spec", None, "container_spec"),
        ("container_spec", [], "container_spec"),
        ("container_spec.image", None, "image"),
        ("container_spec.image", " ", "image"),
        ("container_spec.image", "a b", "image"),
        ("container_spec.env", [], "env"),
        ("container_spec.env", {"a b": "x"}, "env"),
        ("container_spec.env", {"A": 1}, r"env\.A"),
        ("container_spec.env", {"A": "x\0y"}, r"env\.A"),
        ("container_spec.mounts", {}, "mounts"),
        ("container_spec.command", ["a"], "command"),
        ("container_spec.command", "a 'b", "command"),
        ("resources.cpu_limit", "2", "cpu_limit"),
        ("resources.cpu_limit", -1, "cpu_limit"),
        ("resources.cpu_limit", True, "cpu_limit"),
        ("resources.cpu_limit", float("nan"), "cpu_limit"),
        ("resources.cpu_limit", 0.5, "cpu_reservation"),
        ("resources.mem_limit", "1G", "mem_reservation"),
        ("resources.generic_resources", [], "generic_resources"),
        ("resources.generic_resources", {"gpu": None}, "gpu"),
        ("placement.constraints", ["gpu"], "constraint"),
        ("placement.constraints", [None], "constraint"),
        ("placement.constraints", "node.role==worker", "constraints"),
    ],
    ids=ascii,
)
def test_what_does_not_fit_is_refused_naming_the_field(path: str, value: object, field: str) -> None:
    with pytest.raises(OptionsError, match=field):
        parsed(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("container_spec.env", {"A": "x\ud800"}, "container_spec.env.A"),
        ("container_spec.env", {"A\udfff": "x"}, "container_spec.env"),
        ("container_spec.command", "echo \ud83d", "container_spec.command"),
        ("container_spec.image", "x\ud800", "container_spec.image"),
        ("container_spec.mounts", [{"source": "/srv/\ud800"}], "container_spec.mounts[0].source"),
        ("placement.constraints", ["node.labels.a==\ud800"], "placement.constraints[0]"),
        ("resources.generic_resources", {"gpu": "\ud800"}, "resources.generic_resources.gpu"),
    ],
    ids=["value", "name", "command", "image", "mount", "constraint", "resource"],
)
def test_half_a_character_is_refused_by_field_in_a_text_that_can_be_sent(path: str, value: object, field: str) -> None:
    with pytest.raises(OptionsError, match=re.escape(field)) as refused:
        parsed(changed(path, value))
    assert str(refused.value).encode()
    assert parsed(changed("container_spec.env", {"A": "\U0001f600 ä"})).env == {"A": "\U0001f600 ä"}


@pytest.mark.parametrize(
    ("path", "fits", "field"),
    [
        ("container_spec.env", lambda size: {"A": "x" * (size - 3)}, "container_spec.env.A"),
        ("container_spec.env", lambda size: {"A": "ä" * ((size - 3) // 2) + "x"}, "container_spec.env.A"),
        ("container_spec.command", lambda size: "x" * (size - 1), "container_spec.command"),
    ],
    ids=["variable", "variable-not-ascii", "command"],
)
def test_more_than_a_process_can_be_started_with_is_refused_with_field_and_size(
    path: str, fits: Callable[[int], object], field: str
) -> None:
    parsed(changed(path, fits(MAX_TEXT)))
    with pytest.raises(OptionsError, match=rf"{re.escape(field)} is {MAX_TEXT + 2} bytes.* {MAX_TEXT} "):
        parsed(changed(path, fits(MAX_TEXT + 2)))


def test_the_kernel_starts_what_is_allowed_and_no_more() -> None:
    value = "x" * (MAX_TEXT - len("A=") - 1)
    assert subprocess.run(["/bin/true"], env={"A": value}, check=True)
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/true"], env={"A": value + "x"}, check=True)


def test_contradictory_constraints_are_reported_as_such() -> None:  # contract 1.4.2
    with pytest.raises(OptionsError, match="which no node fulfils"):
        parsed(changed("placement.constraints", ["node.labels.p==A", "node.labels.p==B"]))


def test_an_answer_for_another_server_is_refused() -> None:  # contract 6.4
    with pytest.raises(OptionsError, match="not 'other'"):
        parse_launch(PLAIN, "other")


def test_variables_that_would_steer_past_the_hub_are_dropped() -> None:  # contract 6.20
    env = {
        "JUPYTERHUB_API_TOKEN": "x", "JUPYTERHUB_ROOT_DIR": "/workspace/jdoe", "NB_UID": "0", "LD_PRELOAD": "x",
        "PATH": "/tmp", "PYTHONPATH": "/tmp", "XNAT_HOST": "h", "CUSTOM": "y",
    }  # fmt: skip
    launch = parsed(changed("container_spec.env", env))
    assert launch.env == {"JUPYTERHUB_ROOT_DIR": "/workspace/jdoe", "XNAT_HOST": "h", "CUSTOM": "y"}
    assert launch.dropped_env == ("JUPYTERHUB_API_TOKEN", "LD_PRELOAD", "NB_UID", "PATH", "PYTHONPATH")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LEAVES = [
    "container_spec", "container_spec.image", "container_spec.env", "container_spec.mounts", "container_spec.command",
    "resources", "resources.cpu_limit", "resources.mem_limit", "resources.generic_resources", "placement",
    "placement.constraints",
]  # fmt: skip


@given(st.sampled_from(LEAVES), JSON)
def test_whatever_a_field_holds_only_the_named_error_leaves(path: str, value: object) -> None:
    with contextlib.suppress(OptionsError):
        parsed(changed(path, value))


@given(JSON)
def test_whatever_the_answer_is_only_the_named_error_leaves(answer: object) -> None:
    with pytest.raises(OptionsError):
        parse_launch(answer, "20260115T093012345Z")


@pytest.mark.parametrize(
    "resources", [{"cpu_limit": 1e-10}, {"mem_limit": "0.5"}, {"mem_limit": "1M"}, {"mem_reservation": "1"}], ids=str
)
def test_an_amount_too_small_to_count_is_not_taken_for_no_limit(resources: dict[str, Any]) -> None:
    answer: dict[str, Any] = {"task_template": {"container_spec": {"image": "lab:1"}, "resources": resources}}
    with pytest.raises(OptionsError, match=next(iter(resources))):
        parse_launch(answer, "")
