"""Names of images on a node and in a registry, and which ones are old."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker
import node_images
import pytest
from node_images import ATTEMPTS, ImageError, messages, old_images, remote_name, repeated, run, split


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


class Engine:
    """The few calls of an engine that has images by id, and of a registry."""

    def __init__(self, images: dict[str, list[str]], registry: dict[str, str] | None = None) -> None:
        self.images_by_id, self.registry = images, registry or {}
        self.pulled: list[str] = []

    def inspect_image(self, name: str) -> dict[str, Any]:
        for identity, names in self.images_by_id.items():
            if name == identity or name in names:
                return {"Id": identity, "Size": 7, "RepoTags": names}
        raise docker.errors.ImageNotFound(name)

    def pull(self, repository: str, tag: str, stream: bool, decode: bool) -> list[dict[str, Any]]:
        name = f"{repository}{'@' if tag.startswith('sha256:') else ':'}{tag}"
        self.pulled.append(name)
        if name not in self.registry:
            return [{"error": "manifest unknown"}]
        self.images_by_id.setdefault(self.registry[name], []).append(name)
        return [{"status": "done"}]

    def tag(self, image: str, repository: str, tag: str) -> None:
        identity = self.inspect_image(image)["Id"]
        name = f"{repository}:{tag}"
        for names in self.images_by_id.values():
            if name in names:
                names.remove(name)
        self.images_by_id[identity].append(name)


def wanted(state: str, *images: dict[str, str]) -> dict[str, Any]:
    return {"state": state, "username": "", "images": [{"id": "", "source": "", **image} for image in images]}


OWN, FURTHER = "localhost/p/user:1", "localhost/p/further/quay.io/x:1"
SOURCE = "quay.io/x:1"


@pytest.mark.parametrize(
    ("there", "pulled", "identity"),
    [
        ({}, [SOURCE], "i9"),
        ({"i2": [SOURCE]}, [], "i2"),
        ({"i1": [FURTHER]}, [], "i1"),  # as a bundle brings it
        ({"i1": [FURTHER], "i2": [SOURCE]}, [], "i2"),  # brought anew by hand
        ({"i1": [SOURCE, FURTHER]}, [], "i1"),
    ],
)
def test_an_image_from_elsewhere_is_pulled_once(there: dict[str, list[str]], pulled: list[str], identity: str) -> None:
    engine = Engine({"i0": ["other:1", OWN, "another:2"], **there}, {SOURCE: "i9"})
    call = wanted("pulled", {"name": OWN}, {"name": FURTHER, "source": SOURCE}, {"name": "localhost/p/missing:1"})
    predicted = run(engine, call, check_mode=True)
    assert (engine.pulled, predicted["changed"]) == ([], bool(pulled))
    done = run(engine, call, check_mode=False)
    assert (engine.pulled, done["moved"], done["changed"]) == (pulled, pulled, bool(pulled))
    assert [(image["name"], image["id"]) for image in done["images"]] == [(OWN, "i0"), (FURTHER, identity)]
    assert not run(engine, call, check_mode=False)["changed"]


def test_an_image_by_digest_is_pulled_by_it_and_one_that_nobody_has_is_an_error() -> None:
    digest = f"quay.io/x@sha256:{'1' * 64}"
    engine = Engine({}, {digest: "i1"})
    done = run(engine, wanted("pulled", {"name": "p/x:1", "source": digest}), check_mode=False)
    assert done["images"] == [{"name": "p/x:1", "source": digest, "id": "i1"}]
    assert done["sizes"] == {"p/x:1": 7}
    with pytest.raises(ImageError, match=r"^quay\.io/y:1 cannot be pulled: manifest unknown$"):
        run(engine, wanted("pulled", {"name": "p/y:1", "source": "quay.io/y:1"}), check_mode=False)


def test_a_name_is_given_to_the_image_that_was_tried() -> None:
    engine = Engine({"i1": [FURTHER], "i2": [SOURCE]})
    call = wanted("named", {"name": FURTHER, "id": "i2"})
    assert run(engine, call, check_mode=True) == {"changed": True, "moved": [FURTHER]}
    assert engine.images_by_id["i1"] == [FURTHER]
    run(engine, call, check_mode=False)
    assert engine.images_by_id == {"i1": [], "i2": [SOURCE, FURTHER]}
    assert run(engine, call, check_mode=False) == {"changed": False, "moved": []}
