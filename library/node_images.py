#!/usr/bin/python
"""Transfers images between nodes through a registry; images are compared by id, not by name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_images
short_description: Transfer a node's images through a registry
description:
  - V(pushed) pushes images of this engine to a registry and returns the digests by which other nodes pull them.
  - V(present) pulls missing images by digest, compares their ids with the builder's, and tags them with the names that
    services use. So services do not depend on the registry, and a name stands for the same image on every node.
  - V(cleaned) removes all but the newest images of each name, except O(images) and images that a container uses.
  - V(pulled) pulls the C(source) of images that this engine has neither by C(source) nor by C(name), and returns the
    ids of all O(images). V(named) tags images, given by id, with their names.
options:
  state: {description: The action., type: str, choices: [pushed, present, cleaned, pulled, named], required: true}
  images:
    description: Names with tags; for V(present) and V(named) also their ids.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: "Name and tag, as services use it.", type: str, required: true}
      id: {description: The image's id on the builder., type: str, default: ""}
      source: {description: "Repository and digest, for V(pulled) also a tag.", type: str, default: ""}
  registry: {description: "Registry and path for V(pushed), as registry.example.org/path.", type: str, default: ""}
  username: {description: User name for the registry. Empty for none., type: str, default: ""}
  password: {description: Password for the registry., type: str, default: ""}
  registry_auths:
    description: Credentials for V(pulled) by registry, as docker login writes them. If empty, those of root are used.
    type: dict
    default: {}
  prefix: {description: V(cleaned) only removes images whose names begin with it., type: str, default: ""}
  keep: {description: How many images of each name V(cleaned) keeps., type: int, default: 3}
  timeout: {description: Seconds without an answer from the engine or the registry., type: int, default: 300}
requirements: [docker Python package]
attributes:
  check_mode: {support: full, description: Predicts what would be pulled or removed.}
"""
EXAMPLES = r"""
- name: Pull the hub image
  node_images:
    state: present
    images:
      - name: localhost/xnat-jupyter/hub:3f9c0a1b2c3d
        id: sha256:2ae0a07e75e7...
        source: 192.0.2.11:5000/xnat-jupyter/hub@sha256:0123...
"""
RETURN = r"""
images:
  description:
    - O(images) with C(id) and C(source); for V(pulled) without images that do not exist.
  type: list
  elements: dict
  returned: pushed, pulled
sizes: {description: Sizes of O(images) in bytes by name., type: dict, returned: pulled}
moved: {description: "Names that were pushed, pulled, tagged or removed.", type: list, elements: str, returned: always}
kept: {description: Names of the remaining images., type: list, elements: str, returned: cleaned}
bytes: {description: Bytes of the pulled layers., type: int, returned: present}
"""

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import docker

    HAS_DOCKER = True
except ImportError:
    HAS_DOCKER = False


T = TypeVar("T")

ATTEMPTS = 3
PAUSE = 5  # seconds
# Engines' errors for a busy registry or network; Docker itself retries only layers.
PASSING = re.compile(
    r"time-?out|timed out|\bEOF\b|connection (refused|reset)|too many requests|unavailable|bad gateway", re.IGNORECASE
)


class ImageError(Exception):
    """An error with one sentence for the administrator."""


def repeated(transfer: Callable[..., T], *arguments: Any) -> T:
    """Return the result of a transfer; try again after a temporary failure."""
    for _ in range(ATTEMPTS - 1):
        try:
            return transfer(*arguments)
        except (ImageError, docker.errors.DockerException, OSError) as error:
            if not PASSING.search(str(error)):
                raise
            time.sleep(PAUSE)
    return transfer(*arguments)


def remote_name(registry: str, name: str) -> str:
    """Return the repository in the registry for a name without tag: in lower case, without a port in the path."""
    path = re.sub(r"[^a-z0-9._/-]", "-", name.lower())
    return f"{registry}/{path}"


def split(name: str) -> tuple[str, str]:
    """Return repository and tag."""
    repository, _, tag = name.rpartition(":")
    return (repository, tag) if repository and "/" not in tag else (name, "latest")


def messages(stream: Iterable[dict[str, Any]], what: str) -> Iterable[dict[str, Any]]:
    """Yield the engine's messages about a transfer. Raises ImageError for an error."""
    for message in stream:
        if "error" in message:
            raise ImageError(f"{what}: {message['error']}")
        yield message


def image_id(client: Any, name: str) -> str:
    """Return an image's id, empty if it does not exist."""
    try:
        return str(client.inspect_image(name)["Id"])
    except docker.errors.NotFound:
        return ""


def push(client: Any, name: str, registry: str, auth: dict[str, str] | None) -> dict[str, str]:
    """Push one image. Returns name, id and source."""
    repository, tag = split(name)
    remote = remote_name(registry, repository)
    client.tag(name, remote, tag)
    digest = ""
    try:
        stream = client.push(remote, tag=tag, stream=True, decode=True, auth_config=auth)
        for message in messages(stream, f"{name} cannot be sent to {registry}"):
            digest = (message.get("aux") or {}).get("Digest", digest)
    finally:
        client.remove_image(f"{remote}:{tag}", noprune=True)
    if not digest:
        raise ImageError(f"{registry} did not return a digest for {name}")
    return {"name": name, "id": image_id(client, name), "source": f"{remote}@{digest}"}


def pull(client: Any, wanted: dict[str, str], auth: dict[str, str] | None) -> int:
    """Pull one image and tag it. Returns the bytes of the pulled layers."""
    remote, _, digest = wanted["source"].partition("@")
    sizes: dict[str, int] = {}
    stream = client.pull(remote, tag=digest, stream=True, decode=True, auth_config=auth)
    for message in messages(stream, f"{wanted['name']} cannot be pulled from {remote}"):
        total = (message.get("progressDetail") or {}).get("total")
        if message.get("status") == "Downloading" and total:
            sizes[message["id"]] = total
    found = image_id(client, wanted["source"])
    if found != wanted["id"]:
        raise ImageError(
            f"{wanted['name']} has the id {found} here and {wanted['id']} on the builder: both engines must use the"
            " same image store (enable the containerd image store on both or on neither)"
        )
    client.tag(wanted["source"], *split(wanted["name"]))
    client.remove_image(wanted["source"], noprune=True)
    return sum(sizes.values())


def old_images(client: Any, prefix: str, keep: int, wanted: list[str]) -> list[str]:
    """Return the names of images to remove: not among the newest of their repository and not wanted."""
    found: dict[str, list[tuple[int, str]]] = {}
    for image in client.images():
        for name in image.get("RepoTags") or ():
            if name.startswith(prefix):
                found.setdefault(split(name)[0], []).append((image["Created"], name))
    old = [name for names in found.values() for _, name in sorted(names, reverse=True)[keep:]]
    return [name for name in old if name not in wanted]


def clean(client: Any, names: list[str], check_mode: bool) -> list[str]:
    """Remove images that no container uses. Returns their names."""
    removed = []
    for name in names:
        try:
            if not check_mode:
                client.remove_image(name)
            removed.append(name)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):
                raise
    return removed


def here(client: Any, wanted: dict[str, str]) -> str:
    """Return the id of an image by its source, which may have been updated by hand, or else by its name."""
    return (image_id(client, wanted["source"]) if wanted["source"] else "") or image_id(client, wanted["name"])


def log_in(client: Any, auths: dict[str, dict[str, str]], directory: str) -> None:
    """Let a client use these credentials, by registry, instead of the host's. directory: readable for the user only."""
    with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".json") as file:
        json.dump({"auths": auths}, file)
        file.flush()
        client.reload_config(file.name)


def pull_source(client: Any, source: str) -> None:
    """Pull an image from the registry in its name, with this client's credentials for it."""
    name, _, digest = source.partition("@")
    repository, tag = (name, digest) if digest else split(name)
    try:
        stream = client.pull(repository, tag=tag, stream=True, decode=True)
    except docker.errors.APIError as error:
        raise ImageError(f"{source} cannot be pulled: {error.explanation or error}") from error
    for _ in messages(stream, f"{source} cannot be pulled"):
        pass


def run(client: Any, wanted: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Do the wanted action. Returns the module's results."""
    auth = {"username": wanted["username"], "password": wanted["password"]} if wanted["username"] else None
    names = [image["name"] for image in wanted["images"]]
    if wanted["state"] == "cleaned":
        removed = clean(client, old_images(client, wanted["prefix"], wanted["keep"], names), check_mode)
        kept = [
            name
            for image in client.images()
            for name in image.get("RepoTags") or ()
            if name.startswith(wanted["prefix"])
        ]
        return {"changed": bool(removed), "moved": removed, "kept": sorted(kept)}
    if wanted["state"] == "pushed":
        sent = [] if check_mode else names
        pushed = [repeated(push, client, name, wanted["registry"], auth) for name in sent]
        return {"changed": bool(names), "moved": names, "images": pushed}
    if wanted["state"] == "pulled":
        missing = [image["source"] for image in wanted["images"] if image["source"] and not here(client, image)]
        for source in [] if check_mode else missing:
            repeated(pull_source, client, source)
        found = [{**image, "id": identity} for image in wanted["images"] if (identity := here(client, image))]
        sizes = {image["name"]: client.inspect_image(image["id"])["Size"] for image in found}
        return {"changed": bool(missing), "moved": missing, "images": found, "sizes": sizes}
    if wanted["state"] == "named":
        unnamed = [image for image in wanted["images"] if image_id(client, image["name"]) != image["id"]]
        for image in [] if check_mode else unnamed:
            client.tag(image["id"], *split(image["name"]))
        return {"changed": bool(unnamed), "moved": [image["name"] for image in unnamed]}
    lacking = [image for image in wanted["images"] if image_id(client, image["name"]) != image["id"]]
    moved = 0 if check_mode else sum(repeated(pull, client, image, auth) for image in lacking)
    return {"changed": bool(lacking), "moved": [image["name"] for image in lacking], "bytes": moved}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["pushed", "present", "cleaned", "pulled", "named"], "required": True},
            "images": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "id": {"type": "str", "default": ""},
                    "source": {"type": "str", "default": ""},
                },
            },
            "registry": {"type": "str", "default": ""},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "registry_auths": {"type": "dict", "default": {}, "no_log": True},
            "prefix": {"type": "str", "default": ""},
            "keep": {"type": "int", "default": 3},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    if not HAS_DOCKER:
        module.fail_json(msg=missing_required_lib("docker"))
    client = docker.APIClient(version="auto", timeout=module.params["timeout"])
    if module.params["registry_auths"]:
        log_in(client, module.params["registry_auths"], module.tmpdir)
    try:
        module.exit_json(**run(client, module.params, module.check_mode))
    except ImageError as error:
        module.fail_json(msg=f"{error}.")
    except (docker.errors.DockerException, OSError) as error:
        module.fail_json(msg=f"Docker request failed: {error}")


if __name__ == "__main__":
    main()
