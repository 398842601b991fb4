"""The mount policy: the directories that a container may see at all, whatever XNAT asks for.

The launcher enforces it at each start. On the control node it is derived from the storage table and used to check
launches before anything changes. It imports only the standard library, so that both can use it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DATA_TARGETS = ("/data", "/workspace")
USERS = "users"
"""The directory in the row `workspaces` that contains one directory for each user (docs/xnat-contract.md, 3)."""


class MountError(ValueError):
    """A storage table or a mount is refused; the text is one sentence for users and administrators."""


@dataclass(frozen=True)
class Root:
    """A directory of the nodes from which containers may mount data.

    name: the row it comes from. path: the directory on every node. read_only: whether mounts from it must be read-only.
    targets: the directories of a container below which such a mount may appear. per_user: whether a server may mount
    only its own user's directory, `users/<username>` (docs/xnat-contract.md, 3).
    """

    name: str
    path: str
    read_only: bool
    targets: tuple[str, ...] = DATA_TARGETS
    per_user: bool = False


@dataclass(frozen=True)
class Mount:
    """One bind mount that the policy allows: absolute, normalised paths without a trailing slash."""

    source: str
    target: str
    read_only: bool


def clean_path(value: object, what: str) -> str:
    """Return an absolute path without `.`, doubled or trailing slashes.

    what: the name of the value in messages. Raises MountError for anything else: not a string, a relative path, the
    root directory, a `..`, a control character, or a `{{`, because Swarm would expand that on the node after the policy
    was applied (swarmkit's template/expand.go: environment, host name, and each mount's source and target).
    """
    if not isinstance(value, str) or not value.strip():
        raise MountError(f"{what} is missing: set an absolute path")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise MountError(f"{what} {value!r} contains a control character")
    if not value.startswith("/"):
        raise MountError(f"{what} {value!r} is not an absolute path")
    if "{{" in value:
        raise MountError(f"{what} {value!r} contains '{{{{', which Swarm would expand as a template")
    if ".." in value.split("/"):
        raise MountError(f"{what} {value!r} contains '..', which is not allowed")
    path = "/" + posixpath.normpath(value).lstrip("/")
    if path == "/":
        raise MountError(f"{what} must not be the root directory '/'")
    return path


def is_below(path: str, root: str) -> bool:
    """Return whether a clean path is `root` itself or lies below it, compared by whole components."""
    return path == root or path.startswith(root + "/")


def roots_from_policy(policy: Sequence[Mapping[str, Any]]) -> tuple[Root, ...]:
    """Turn the plain data of `mount_policy` back into roots and check it again. Raises MountError."""
    return tuple(
        Root(
            name=str(entry["name"]),
            path=clean_path(entry["path"], "a root of the mount policy"),
            read_only=entry["read_only"] is not False,
            targets=tuple(clean_path(target, "a target of the mount policy") for target in entry["targets"]),
            per_user=entry["per_user"] is not False,
        )
        for entry in policy
    )


def allowed_mounts(requested: object, roots: Sequence[Root], username: str) -> list[Mount]:
    """Check the `mounts` list of XNAT's user-options (docs/xnat-contract.md, 1.4) against the policy.

    requested: [{"source", "target", "type", "read_only"}, ...], None for none. username: the owner of the server.
    Returns the mounts in their order; one source may appear several times. Raises MountError for the first mount that
    is refused: a missing or relative path or one with `..` or `{{`, a type other than bind (contract 3.6), a source
    outside the roots, a root itself, anything in the workspaces except the user's own directory, a directory deeper in
    a writable root (a user could replace it with a symbolic link), a writable mount of or above read-only data or
    another root, a target outside what its root allows, two mounts on one target, or a target inside a directory that
    the user can write to.
    """
    if requested is None:
        return []
    if not isinstance(requested, Sequence) or isinstance(requested, str):
        raise MountError("the mounts in XNAT's user-options are not a list")
    mounts: dict[str, Mount] = {}
    for entry in requested:
        mount = _allowed_mount(entry, roots, username)
        other = mounts.setdefault(mount.target, mount)
        if other is not mount:
            raise MountError(f"two mounts have the same target {mount.target}: {other.source} and {mount.source}")
    writable = {mount.target for mount in mounts.values() if not mount.read_only}
    for target in mounts if writable else ():
        path = target
        while path := path.rpartition("/")[0]:
            if path in writable:
                raise MountError(
                    f"the target {target} lies in {path}, where the user can create symbolic links: choose another one"
                )
    return list(mounts.values())


def _allowed_mount(entry: object, roots: Sequence[Root], username: str) -> Mount:
    if not isinstance(entry, Mapping):
        raise MountError("a mount in XNAT's user-options is not an object with source and target")
    target = clean_path(entry.get("target"), "a mount's target")
    source = clean_path(entry.get("source"), f"the source of the mount on {target}")
    if entry.get("type") != "bind":
        raise MountError(f"the mount on {target} has type {entry.get('type')!r}: only bind mounts are allowed")
    read_only = entry.get("read_only")
    if not isinstance(read_only, bool):
        raise MountError(f"read_only of the mount on {target} is neither true nor false")
    holding = [root for root in roots if is_below(source, root.path)]
    if not holding:
        raise MountError(f"{source} (for {target}) lies outside the directories that notebooks may mount at this site")
    depth = max(len(root.path) for root in holding)
    nearest = [root for root in holding if len(root.path) == depth]
    fitting = [root for root in nearest if any(is_below(target, allowed) for allowed in root.targets)]
    if not fitting:
        allowed_targets = ", ".join(allowed for root in nearest for allowed in root.targets)
        raise MountError(f"the target {target} (of {source}) lies outside {allowed_targets}")
    root = min(fitting, key=lambda candidate: candidate.read_only)
    whole = source == root.path
    if whole and root.targets == DATA_TARGETS:
        raise MountError(
            f"{source} (for {target}) is the whole of {root.name}: only directories below it may be mounted"
        )
    if root.per_user and ("/" in username or source != f"{root.path}/{USERS}/{username}"):
        raise MountError(f"{source} (for {target}) is not {USERS}/{username} of {root.name}: only that may be mounted")
    writable = [other for other in nearest if not other.read_only and not other.per_user]
    if writable and not whole:
        # A user who can write to a directory can put a symbolic link in it, and mounts below it would follow the link.
        if writable[0].targets != DATA_TARGETS:
            raise MountError(f"{source} (for {target}) is not {root.path} itself: {writable[0].name} is writable")
        if posixpath.dirname(source) != root.path:
            raise MountError(f"{source} (for {target}) is not directly below {root.path}: {root.name} is writable")
    if root.read_only and not read_only:
        raise MountError(f"{source} (for {target}) must be mounted read-only: {root.name} is read-only here")
    for inner in roots:
        if len(inner.path) <= depth or not is_below(inner.path, source):
            continue
        if inner.per_user:
            raise MountError(f"{source} (for {target}) contains the directories of all users in {inner.name}")
        if not read_only:
            raise MountError(f"{source} (for {target}) must be mounted read-only: {inner.name} lies in it")
    if target in DATA_TARGETS:
        raise MountError(f"the target {target} (of {source}) would hide every other mount: use a directory below it")
    return Mount(source=source, target=target, read_only=read_only)
