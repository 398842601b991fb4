"""Names of images on a node and in a registry, and which are old."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import node_images
import pytest
from node_images import ATTEMPTS, ImageError, messages, old_images, remote_name, repeated, split


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost/x/hub:3f9c", ("localhost/x/hub", "3f9c")),
        ("localhost/x/hub", ("localhost/x/hub", "latest")),
        ("r.example.org:5000/hub:1", ("r.example.org:5000/hub", "1")),
        ("r.example.org:5000/hub", ("r.example.org:5000/hub", "latest")),
        ("hub", ("hub", "latest")),
    ],
)
def test_a_name_has_a_repository_and_a_tag(name: str, expected: tuple[str, str]) -> None:
    assert split(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("localhost/xnat-jupyter/hub", "192.0.2.11:5000/localhost/xnat-jupyter/hub"),
        ("Registry.example.org:5000/Team_1/Hub", "192.0.2.11:5000/registry.example.org-5000/team_1/hub"),
    ],
)
def test_a_name_in_the_registry_is_lower_case_and_has_no_port_within(name: str, expected: str) -> None:
    assert remote_name("192.0.2.11:5000", name) == expected


def test_a_transfer_ends_with_the_engines_error() -> None:
    heard: list[str] = []
    told = [{"status": "Preparing"}, {"error": "no basic auth credentials"}, {"status": "never seen"}]
    with pytest.raises(ImageError, match=r"^hub:1 cannot be sent to r: no basic auth credentials$"):
        heard.extend(message["status"] for message in messages(told, "hub:1 cannot be sent to r"))
    assert list(messages(told[:1], "x")) == told[:1]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ImageError("hub:1 cannot be fetched from r: net/http: TLS handshake timeout"), ATTEMPTS),
        (ImageError("hub:1 cannot be fetched from r: dial tcp 192.0.2.11:5000: connect: connection refused"), ATTEMPTS),
        (ImageError("hub:1 cannot be fetched from r: unexpected EOF"), ATTEMPTS),
        (TimeoutError("timed out"), ATTEMPTS),
        (ImageError("hub:1 cannot be sent to r: unauthorized: authentication required"), 1),
        (ImageError("hub:1 is sha256:1 here and sha256:2 where it was built"), 1),
    ],
)
def test_a_transfer_is_tried_again_only_for_what_may_pass(
    error: Exception, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_images, "PAUSE", 0)
    tries: list[int] = []

    def fails(times: int) -> str:
        tries.append(1)
        if len(tries) <= times:
            raise error
        return "done"

    with pytest.raises(type(error)):
        repeated(fails, ATTEMPTS)
    assert len(tries) == attempts
    if attempts > 1:
        tries.clear()
        assert repeated(fails, ATTEMPTS - 1) == "done"


def image(created: int, *names: str) -> dict[str, Any]:
    return {"Created": created, "RepoTags": list(names) or None}


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (0, ["p/hub:4", "p/hub:3", "p/hub:2", "p/hub:1", "p/user:9"]),
        (1, ["p/hub:3", "p/hub:2", "p/hub:1"]),
        (3, ["p/hub:1"]),
        (4, []),
    ],
)
def test_all_but_the_newest_of_each_repository_are_old(keep: int, expected: list[str]) -> None:
    there = [
        image(2, "p/hub:2", "other/hub:2"), image(4, "p/hub:4"), image(1, "p/hub:1"), image(3, "p/hub:3"),
        image(0, "p/user:9"), image(0, "other/hub:1"), image(0), image(0, "<none>:<none>"),
    ]  # fmt: skip
    assert old_images(SimpleNamespace(images=lambda: there), "p/", keep, []) == expected
    assert old_images(SimpleNamespace(images=lambda: there), "p/", keep, expected) == []
