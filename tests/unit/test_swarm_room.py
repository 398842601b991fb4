"""Whether reservations fit on a node, computed from Docker's API."""

from __future__ import annotations

import pytest
from swarm_room import has_room

NODE = {"Description": {"Resources": {"NanoCPUs": 2 * 10**9, "MemoryBytes": 4000}}}
HUB = {"ServiceID": "hub", "Spec": {"Resources": {"Reservations": {"NanoCPUs": 10**9, "MemoryBytes": 1000}}}}
NOTEBOOK = {"ServiceID": "n1", "Spec": {"Resources": {"Reservations": {"NanoCPUs": 10**9, "MemoryBytes": 2500}}}}
FREE = {"ServiceID": "n2", "Spec": {"Resources": {}}}


@pytest.mark.parametrize(
    ("tasks", "cpus", "memory", "fits"),
    [
        ([], 2 * 10**9, 4000, True),
        ([], 2 * 10**9 + 1, 1, False),
        ([NOTEBOOK, FREE], 10**9, 1500, True),
        ([NOTEBOOK], 1, 1501, False),
        ([NOTEBOOK], 10**9 + 1, 1, False),
        ([NOTEBOOK, HUB], 10**9, 1500, True),
        ([{"ServiceID": "n3", "Spec": {}}], 2 * 10**9, 4000, True),
    ],
)
def test_what_others_have_reserved_is_no_room(
    tasks: list[dict[str, object]], cpus: int, memory: int, fits: bool
) -> None:
    assert has_room(NODE, tasks, {"hub"}, cpus, memory) is fits
