"""What the keeper takes away; it is seen at work on a real swarm in tests/site."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xnat_hub.reconciler import orphans, owner_of
from xnat_launcher.service import labels


def found(name: str, *owner: str) -> dict[str, Any]:
    return {"ID": name, "Spec": {"Name": name, "Labels": labels("d", *owner)}}


@pytest.mark.parametrize(
    ("owner", "servers", "lost"),
    [
        ((), {}, False),  # the hub itself
        (("jdoe", "s"), {("jdoe", "s"): False}, False),
        (("jdoe", "s"), {("jdoe", "s"): True}, True),  # stopped
        (("jdoe", "s"), {("JDoe", "s"): False}, True),
        (("jdoe", "s"), {("jdoe", "t"): False}, True),
        (("jdoe",), {("jdoe", ""): False}, False),
        (("jdoe", "s"), {}, True),
    ],
)
def test_a_service_or_secret_is_lost_when_no_running_server_owns_it(
    owner: tuple[str, ...], servers: dict[tuple[str, str], bool], lost: bool
) -> None:
    one = found("x", *owner)
    assert orphans([one], [one], servers) == (([one], [one]) if lost else ([], []))


OWNERS = st.tuples(st.sampled_from(["jdoe", "JDoe", "x"]), st.sampled_from(["", "a", "b"]))


@given(st.sets(OWNERS), st.dictionaries(OWNERS, st.booleans()))
def test_no_running_server_ever_loses_its_service(owners: set[tuple[str, str]], servers: dict[Any, bool]) -> None:
    services = [found(f"{user}-{name}", user, name) for user, name in owners]
    lost, _ = orphans(services, [], servers)
    gone = {owner_of(service["Spec"]["Labels"]) for service in lost}
    assert gone == {owner for owner in owners if servers.get(owner, True)}
