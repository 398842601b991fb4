"""The mount rules: one storage table, and what follows from it for nodes, hub and XNAT.

XNAT says what a user should see, the table says what a container may ever see. Used at deployment by the
filters of `filter_plugins/` and at spawn by `xnat_hub.service`, so both judge by the same code. Only the standard
library is imported, so that a controller with nothing but ansible-core can use it.

The table (`site_storage` in the inventory) maps a row's name to::

    {"xnat_path": "/data/xnat/archive",   # how XNAT calls the directory
     "node_path": "/srv/xnat/archive",    # how every swarm node calls it
     "access": "read_only"}               # or "read_write"

The rows `archive` and `workspaces` are required: XNAT translates exactly these two (docs/xnat-contract.md, 3.2).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ACCESS = ("read_only", "read_write")
REQUIRED_ROWS = ("archive", "workspaces")
DATA_TARGETS = ("/data", "/workspace")


class MountError(ValueError):
    """A storage table or a mount that is refused; the text is one sentence for users and operators."""


@dataclass(frozen=True)
class Root:
    """A directory of the nodes below which containers may be given data.

    name: the row it comes from. path: the directory on every node. read_only: whether mounts below it must be.
    targets: the directories of a container below which such a mount may appear. per_user: whether a server may have
    only its own user's directory of it, `users/<username>` (docs/xnat-contract.md, 3).
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

    `what` names the value in the sentence of the MountError that anything else raises: no string, relative, the
    root directory, a `..`, or a control character.
    """
    if not isinstance(value, str) or not value.strip():
        raise MountError(f"{what} is missing: give an absolute path")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise MountError(f"{what} {value!r} holds a control character")
    if not value.startswith("/"):
        raise MountError(f"{what} {value!r} is not an absolute path")
    if ".." in value.split("/"):
        raise MountError(f"{what} {value!r} holds '..', which is never followed")
    path = "/" + posixpath.normpath(value).lstrip("/")
    if path == "/":
        raise MountError(f"{what} must not be the root directory '/'")
    return path


def is_below(path: str, root: str) -> bool:
    """Whether a clean path is `root` itself or lies below it, by whole components."""
    return path == root or path.startswith(root + "/")


def storage_rows(table: object) -> dict[str, dict[str, Any]]:
    """Check a storage table and return it with clean paths. Raises MountError naming row and key."""
    if not isinstance(table, Mapping) or not table:
        raise MountError("site_storage must be a table of rows such as archive and workspaces")
    for name in REQUIRED_ROWS:
        if name not in table:
            raise MountError(f"site_storage has no row '{name}': XNAT's {name} directory must be said")
    rows: dict[str, dict[str, Any]] = {}
    for name, row in table.items():
        where = f"site_storage.{name}"
        if not isinstance(row, Mapping):
            raise MountError(f"{where} must be a mapping with xnat_path, node_path and access")
        if row.get("access") not in ACCESS:
            raise MountError(f"{where}.access is {row.get('access')!r}: set it to read_only or read_write")
        rows[str(name)] = {
            **row,
            "xnat_path": clean_path(row.get("xnat_path"), f"{where}.xnat_path"),
            "node_path": clean_path(row.get("node_path"), f"{where}.node_path"),
        }
    if rows["archive"]["access"] != "read_only":
        raise MountError("site_storage.archive.access must be read_only: notebooks never write to the archive")
    if rows["workspaces"]["access"] != "read_write":
        raise MountError("site_storage.workspaces.access must be read_write: it is where users keep their work")
    for kind in ("xnat_path", "node_path"):
        seen: dict[str, str] = {}
        for name, row in rows.items():
            other = seen.setdefault(row[kind], name)
            if other != name:
                raise MountError(f"site_storage.{other} and site_storage.{name} have one {kind} {row[kind]}")
    return rows


def mount_policy(table: object, compute_mounts: object = ()) -> list[dict[str, Any]]:
    """Return the roots that the hub enforces at spawn, as plain data for its settings file.

    table: the storage table. compute_mounts: what compute environments may mount beside XNAT's data, a list of
    {"source": "/srv/atlases", "target": "/opt/atlases", "access": "read_only"}; sources and targets are prefixes.
    Returns [{"name", "path", "read_only", "targets", "per_user"}, ...]. Raises MountError.
    """
    roots = [
        {
            "name": name,
            "path": row["node_path"],
            "read_only": row["access"] == "read_only",
            "targets": list(DATA_TARGETS),
            "per_user": name == "workspaces",
        }
        for name, row in storage_rows(table).items()
    ]
    if not isinstance(compute_mounts, Sequence) or isinstance(compute_mounts, str):
        raise MountError("the allowed compute-environment mounts must be a list of source, target and access")
    for number, entry in enumerate(compute_mounts, 1):
        where = f"allowed compute-environment mount {number}"
        if not isinstance(entry, Mapping) or entry.get("access") not in ACCESS:
            raise MountError(f"{where} must have source, target and access read_only or read_write")
        roots.append(
            {
                "name": where,
                "path": clean_path(entry.get("source"), f"the source of {where}"),
                "read_only": entry["access"] == "read_only",
                "targets": [clean_path(entry.get("target"), f"the target of {where}")],
                "per_user": False,
            }
        )
    return roots


def path_translation(table: object) -> dict[str, str]:
    """Return XNAT's four path-translation preferences for a storage table (docs/xnat-contract.md, 3.2).

    Where XNAT and the nodes agree on a path its pair is empty, which switches the translation off. Raises MountError
    for a table that does not hold.
    """
    rows = storage_rows(table)
    preferences: dict[str, str] = {}
    for row, name in (("archive", "Archive"), ("workspaces", "Workspace")):
        xnat_path, node_path = rows[row]["xnat_path"], rows[row]["node_path"]
        same = xnat_path == node_path
        preferences[f"pathTranslation{name}Prefix"] = "" if same else xnat_path
        preferences[f"pathTranslation{name}DockerPrefix"] = "" if same else node_path
    return preferences


def roots_from_policy(policy: Sequence[Mapping[str, Any]]) -> tuple[Root, ...]:
    """Turn the plain data of `mount_policy` back into roots, checking it again. Raises MountError."""
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
    """Judge the `mounts` list of XNAT's user-options (docs/xnat-contract.md, 1.4) by the policy.

    requested: [{"source", "target", "type", "read_only"}, ...], None for none. username: whose server it is. Returns
    the mounts in their order, several of one source included. Raises MountError with the sentence for the first that
    is refused: a missing, relative or `..` path, a type other than bind (contract 3.6), a source outside the roots, a
    root itself or another user's workspace, a writable mount of or above read-only data, a target outside what its
    root allows, two mounts on one target.
    """
    if requested is None:
        return []
    if not isinstance(requested, Sequence) or isinstance(requested, str):
        raise MountError("XNAT's mounts are not a list")
    mounts: list[Mount] = []
    for entry in requested:
        mount = _allowed_mount(entry, roots, username)
        for other in mounts:
            if other.target == mount.target:
                raise MountError(f"two mounts have one target {mount.target}: {other.source} and {mount.source}")
        mounts.append(mount)
    return mounts


def _allowed_mount(entry: object, roots: Sequence[Root], username: str) -> Mount:
    if not isinstance(entry, Mapping):
        raise MountError("a mount of XNAT's answer is not a mapping with source and target")
    target = clean_path(entry.get("target"), "a mount's target")
    source = clean_path(entry.get("source"), f"the source of the mount on {target}")
    if entry.get("type") != "bind":
        raise MountError(f"the mount on {target} has type {entry.get('type')!r}: only bind mounts are made")
    read_only = entry.get("read_only")
    if not isinstance(read_only, bool):
        raise MountError(f"the mount on {target} does not say whether it is read_only")
    holding = [root for root in roots if is_below(source, root.path)]
    if not holding:
        raise MountError(f"{source} (for {target}) lies outside the directories that this site lets notebooks see")
    depth = max(len(root.path) for root in holding)
    nearest = [root for root in holding if len(root.path) == depth]
    fitting = [root for root in nearest if any(is_below(target, allowed) for allowed in root.targets)]
    if not fitting:
        allowed_targets = ", ".join(allowed for root in nearest for allowed in root.targets)
        raise MountError(f"the target {target} (of {source}) lies outside {allowed_targets}")
    root = min(fitting, key=lambda candidate: candidate.read_only)
    if source == root.path and root.targets == DATA_TARGETS:
        raise MountError(f"{source} (for {target}) is the whole of {root.name}: only directories below it are mounted")
    if root.per_user and not is_below(source, f"{root.path}/users/{username}"):
        raise MountError(f"{source} (for {target}) is not in the directory of {username} in {root.name}")
    deeper = [other for other in roots if len(other.path) > depth and is_below(other.path, source)]
    for other in [root, *deeper]:
        if other.read_only and not read_only:
            raise MountError(f"{source} (for {target}) must be mounted read-only: {other.name} is read-only here")
        if other.per_user and other is not root:
            raise MountError(f"{source} (for {target}) holds the directories of all users in {other.name}")
    if target in DATA_TARGETS:
        raise MountError(f"the target {target} (of {source}) would hide every other mount: a directory below is meant")
    return Mount(source=source, target=target, read_only=read_only)
