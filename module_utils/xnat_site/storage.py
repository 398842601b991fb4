"""The storage table, and the settings of nodes, launcher and XNAT that are derived from it.

XNAT decides what a user should see; the table limits what a container may see. Imports only the standard library.

The table (`site_storage` in the inventory) maps a row's name to::

    {"xnat_path": "/data/xnat/archive",   # the directory's path in XNAT
     "node_path": "/srv/xnat/archive",    # its path on every swarm node
     "access": "read_only",               # or "read_write"
     "source": {"type": "nfs", ...}}      # what a node mounts there, see `_source`; absent: mounted by other means

The rows `archive` and `workspaces` are required: XNAT translates exactly these two (docs/xnat-contract.md, 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..xnat_launcher.policy import DATA_TARGETS, USERS, MountError, clean_path, is_below

ACCESS = ("read_only", "read_write")
REQUIRED_ROWS = ("archive", "workspaces")
SYSTEM_DIRS = frozenset(
    {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "root", "run", "sbin", "sys", "usr", "var"}
)
"""The top-level directories of a container that its system and Docker use (Filesystem Hierarchy Standard 3.0)."""

SOURCE_KEYS: dict[str, tuple[str, ...]] = {
    "mounted": (),
    "directory": (),
    "bind": ("path",),
    "nfs": ("server", "path"),
    "cifs": ("server", "path"),
    "sshfs": ("server", "path", "user"),
}
"""The required keys of each type of source."""

FURTHER_SOURCE_KEYS: dict[str, tuple[str, ...]] = {
    "mounted": ("sentinel",),
    "directory": ("sentinel", "create"),
    "bind": ("sentinel", "create"),
    "nfs": ("sentinel", "create", "server_host", "options"),
    "cifs": ("sentinel", "options"),
    "sshfs": ("sentinel", "create", "server_host", "options"),
}
"""The optional keys of each type of source, in addition to `type`."""

STORAGE_DIR = "/etc/xnat-jupyter"
"""The directory on a node with the credentials of mounts; only root can read it."""

MOUNT_MARK = "x-xnat-jupyter"
"""The option that marks our lines in /etc/fstab; mount programs, kernel and systemd ignore options with `x-`."""

MOUNT_PACKAGES = {"nfs": ["nfs-common"], "cifs": ["cifs-utils"], "fuse.sshfs": ["sshfs"]}
"""The Debian packages that mount a file system, by fstype."""

# Options with the same meaning, so that a site's option replaces ours.
SAME_OPTION = {"soft": "hard", "vers": "nfsvers", "guest": "credentials"}

FSTAB_WORD = re.compile(r"[^\s#&\\,\"']+")
SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*")


def storage_rows(table: object) -> dict[str, dict[str, Any]]:
    """Check a storage table and return it with clean paths and, in each row, a `source` with a `type`.

    Raises MountError naming row and key.
    """
    if not isinstance(table, Mapping) or not table:
        raise MountError("site_storage must be a table of rows such as archive and workspaces")
    for name in REQUIRED_ROWS:
        if name not in table:
            raise MountError(f"site_storage has no row '{name}': add a row for XNAT's {name} directory")
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
            "source": _source(row.get("source"), f"{where}.source"),
        }
        source = rows[str(name)]["source"]
        if "path" in source:
            _fstab_word(rows[str(name)]["node_path"], f"{where}.node_path")
        if source["type"] == "bind" and source["path"] == rows[str(name)]["node_path"]:
            raise MountError(f"{where}.source.path is the node_path itself: set source.type to directory")
    if rows["archive"]["access"] != "read_only":
        raise MountError("site_storage.archive.access must be read_only: notebooks never write to the archive")
    if rows["workspaces"]["access"] != "read_write":
        raise MountError("site_storage.workspaces.access must be read_write: it is where users keep their work")
    for kind in ("xnat_path", "node_path"):
        seen: dict[str, str] = {}
        for name, row in rows.items():
            other = seen.setdefault(row[kind], name)
            if other != name:
                raise MountError(f"site_storage.{other} and site_storage.{name} have the same {kind} {row[kind]}")
    users = f"{rows['workspaces']['node_path']}/{USERS}"
    for name, row in rows.items():
        if is_below(row["node_path"], users):
            raise MountError(
                f"site_storage.{name}.node_path {row['node_path']} lies in {users}, which users can change: move it"
            )
    return rows


def _source(value: object, where: str) -> dict[str, Any]:
    """Check the source of a row's directory and return it with its `type`. where: its name in messages.

    mounted: it is mounted by other means. directory: a plain directory of the node. bind: another directory `path` of
    the node. nfs, cifs, sshfs: `path` (cifs: the share) of `server`; for sshfs with the login `user`, whose files there
    must be owned by the site's uid and gid. Optional: `create` (create a missing directory on the node), `sentinel` (a
    path that exists only in the right directory), `server_host` (the server's name in the inventory if it is a node
    itself; it then uses its own directory) and mount `options`. Raises MountError.
    """
    if value is None:
        return {"type": "mounted"}
    if not isinstance(value, Mapping):
        raise MountError(f"{where} must be a mapping with type and the keys of that type")
    kind = value.get("type", "mounted")
    if not isinstance(kind, str) or kind not in SOURCE_KEYS:
        raise MountError(f"{where}.type is {kind!r}: set it to {', '.join(SOURCE_KEYS)}")
    known = ("type", *SOURCE_KEYS[kind], *FURTHER_SOURCE_KEYS[kind])
    for key in value:
        if key not in known:
            raise MountError(f"{where}.{key} is not valid for the type {kind}: use {', '.join(known)}")
    source: dict[str, Any] = {**value, "type": kind}
    if "server" in known:
        source["server"] = _name(value.get("server"), SERVER_NAME, f"{where}.server", "the server's name or address")
    if "user" in known:
        source["user"] = _name(value.get("user"), USER_NAME, f"{where}.user", "the login on the server")
    if "path" in known:
        whole = value.get("path") == "/" and kind in ("nfs", "sshfs")
        source["path"] = "/" if whole else _fstab_word(clean_path(value.get("path"), f"{where}.path"), f"{where}.path")
    if "sentinel" in value:
        source["sentinel"] = _relative_path(value["sentinel"], f"{where}.sentinel")
    if "create" in value and not isinstance(value["create"], bool):
        raise MountError(f"{where}.create is {value['create']!r}: set it to true or false")
    if "server_host" in value:
        if not isinstance(value["server_host"], str) or not value["server_host"].strip():
            raise MountError(f"{where}.server_host must be the server's name in the inventory")
        if source["path"] == "/":
            raise MountError(f"{where}.server_host needs a path other than '/'")
    elif value.get("create") and "server" in known:
        raise MountError(f"{where}.create needs server_host: directories are created on nodes only")
    if "options" in value:
        source["options"] = _options(value["options"], f"{where}.options")
    return source


def _name(value: object, pattern: re.Pattern[str], what: str, meaning: str) -> str:
    if not isinstance(value, str) or not value:
        raise MountError(f"{what} is missing: set {meaning}")
    if not pattern.fullmatch(value):
        raise MountError(f"{what} {value!r} is not valid: set {meaning}")
    return value


def _fstab_word(value: str, what: str) -> str:
    if not FSTAB_WORD.fullmatch(value):
        raise MountError(f"{what} {value!r} contains a space, a quote or one of # & \\ , which mounts do not support")
    return value


def _relative_path(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MountError(f"{what} is empty: set a path below node_path, or remove it")
    if value.startswith("/"):
        raise MountError(f"{what} {value!r} must be relative to node_path")
    path = clean_path(f"/{value}", what)
    return path.removeprefix("/")


def _options(value: object, what: str) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise MountError(f"{what} must be a list of mount options")
    for option in value:
        if not isinstance(option, str) or not FSTAB_WORD.fullmatch(option):
            raise MountError(f"{what} contains {option!r}: write each mount option as a list entry of its own")
        if option in ("ro", "rw"):
            raise MountError(f"{what} contains {option!r}: set the row's access instead")
        if option.startswith("pass"):
            raise MountError(f"{what} contains a password, which every user of the node could read in /etc/fstab")
    return list(value)


def node_mounts(table: object, host: str, uid: int, gid: int) -> list[dict[str, Any]]:
    """Return the wanted state of one node for each row of a storage table, in the table's order.

    host: the node's name in the inventory. uid, gid: XNAT's ids on the file system. Each entry has

    - name, path (the row's node_path), access, sentinel ("" for none)
    - type: the source's type on this node: a server that is a node uses its own directory, as directory or bind
    - create: whether a missing directory is created (for bind: the one that is mounted)
    - src, fstype, opts: the first, third and fourth field of its line in /etc/fstab, opts as one string; all three
      are empty for mounted and directory
    - unit: the name of its mount unit in systemd; packages: the Debian packages that mount it; empty in the same cases

    Raises MountError for an invalid table.
    """
    uid, gid = int(uid), int(gid)
    return [_node_mount(name, row, host, uid, gid) for name, row in storage_rows(table).items()]


def _node_mount(name: str, row: dict[str, Any], host: str, uid: int, gid: int) -> dict[str, Any]:
    source = row["source"]
    kind = source["type"]
    served_here = source.get("server_host") == host
    if served_here:
        kind = "directory" if source["path"] == row["node_path"] else "bind"
    access = "ro" if row["access"] == "read_only" else "rw"
    theirs = [] if served_here else source.get("options", [])
    src, fstype = "", ""
    options: list[str] = []
    server = source.get("server", "")
    if ":" in server and kind != "cifs":
        server = f"[{server}]"
    if kind == "bind":
        # Without nofail a node with a missing source would not boot: mounts without _netdev belong to local-fs.target.
        src, fstype, options = source["path"], "none", ["bind", "nofail"]
    elif kind == "nfs":
        src, fstype, options = f"{server}:{source['path']}", "nfs", ["nfsvers=4.2", "hard", "_netdev"]
    elif kind == "cifs":
        src, fstype = f"//{server}{source['path']}", "cifs"
        options = [f"credentials={STORAGE_DIR}/storage_cifs", f"uid={uid}", f"gid={gid}", "forceuid", "forcegid"]
        options += ["file_mode=0640", "dir_mode=0750", "_netdev"]
    elif kind == "sshfs":
        # With default_permissions the kernel checks owner and mode; otherwise every user of the node could write. sshfs
        # has no nofail and needs none: a mount with _netdev does not prevent a node from booting.
        src, fstype = f"{source['user']}@{server}:{source['path']}", "fuse.sshfs"
        options = ["_netdev", "allow_other", "default_permissions", "reconnect"]
        options += ["ServerAliveInterval=15", "ServerAliveCountMax=3", "ConnectTimeout=15", "BatchMode=yes"]
        options += [f"IdentityFile={STORAGE_DIR}/storage_key", "StrictHostKeyChecking=yes"]
        options += [f"UserKnownHostsFile={STORAGE_DIR}/storage_known_hosts"]
    if fstype not in ("", "none"):
        options += ["nosuid", "nodev"]
    return {
        "name": name,
        "path": row["node_path"],
        "type": kind,
        "create": kind in ("directory", "bind") and bool(source.get("create", False)),
        "access": row["access"],
        "sentinel": source.get("sentinel", ""),
        "src": src,
        "fstype": fstype,
        "opts": ",".join([access, *_merged(options, theirs), MOUNT_MARK]) if fstype else "",
        "unit": mount_unit(row["node_path"]) if fstype else "",
        "packages": list(MOUNT_PACKAGES.get(fstype, [])),
    }


def _merged(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Add a site's mount options to ours; each replaces one with the same name or is appended."""
    merged: dict[str, str] = {}
    for option in [*ours, *theirs]:
        key = option.partition("=")[0]
        merged[SAME_OPTION.get(key, key)] = option
    return list(merged.values())


def mount_unit(path: str) -> str:
    """Return the name of systemd's mount unit for a clean path, as `systemd-escape --path --suffix=mount` does."""
    name = ""
    for char in path.strip("/"):
        plain = char.isascii() and (char.isalnum() or char in ":_" or (char == "." and name))
        name += "-" if char == "/" else char if plain else "".join(f"\\x{byte:02x}" for byte in char.encode())
    return f"{name}.mount"


def storage_disagreements(seen: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Compare the storage of the nodes and return a sentence for each difference; an empty list means none.

    seen: for each host the rows that the module storage_probe returned there; `name`, `path`, `token` and `owner` are
    read. An empty token or owner is unknown and not compared.
    """
    sentences: list[str] = []
    names = dict.fromkeys(str(row["name"]) for rows in seen.values() for row in rows)
    for name in names:
        for key in ("token", "owner"):
            hosts: dict[str, list[str]] = {}
            paths: set[str] = set()
            for host, rows in seen.items():
                for row in rows:
                    if row["name"] == name and row.get(key):
                        hosts.setdefault(str(row[key]), []).append(host)
                        paths.add(str(row["path"]))
            if len(hosts) < 2:
                continue
            path = " and ".join(sorted(paths))
            if key == "token":
                groups = "; ".join(", ".join(group) for group in hosts.values())
                sentences.append(
                    f"site_storage.{name}: {path} is not the same directory on all nodes ({groups}: each group has"
                    " another .xnat-jupyter-storage). Mount the same export on all of them"
                )
            else:
                groups = ", ".join(f"{owner} on {', '.join(group)}" for owner, group in hosts.items())
                sentences.append(
                    f"site_storage.{name}: {path} belongs to {groups}. Use the same export and the same user mapping on"
                    " all nodes"
                )
    return sentences


def mount_policy(table: object, compute_mounts: object = ()) -> list[dict[str, Any]]:
    """Return the roots that the launcher enforces at each start, as plain data for its settings file.

    table: the storage table. compute_mounts: additional mounts that compute environments may have, a list of
    {"source": "/srv/atlases", "target": "/opt/atlases", "access": "read_only"}. target is a prefix; source is one only
    if it is read-only. Returns [{"name", "path", "read_only", "targets", "per_user"}, ...]. Raises MountError.
    """
    rows = storage_rows(table)
    roots = [
        {
            "name": name,
            "path": row["node_path"],
            "read_only": row["access"] == "read_only",
            "targets": list(DATA_TARGETS),
            "per_user": name == "workspaces",
        }
        for name, row in rows.items()
    ]
    if not isinstance(compute_mounts, Sequence) or isinstance(compute_mounts, str):
        raise MountError("the allowed compute-environment mounts must be a list of source, target and access")
    for number, entry in enumerate(compute_mounts, 1):
        where = f"allowed compute-environment mount {number}"
        if not isinstance(entry, Mapping) or entry.get("access") not in ACCESS:
            raise MountError(f"{where} must have source, target and access read_only or read_write")
        read_only = entry["access"] == "read_only"
        source = clean_path(entry.get("source"), f"the source of {where}")
        target = clean_path(entry.get("target"), f"the target of {where}")
        _check_ground(source, read_only, rows, where)
        if target.split("/")[1] in SYSTEM_DIRS:
            raise MountError(f"the target of {where} is {target}, which belongs to the container's system")
        roots.append({"name": where, "path": source, "read_only": read_only, "targets": [target], "per_user": False})
    return roots


def _check_ground(source: str, read_only: bool, rows: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Refuse a compute mount that would allow more access to a storage row than the row itself; name the row."""
    for name, row in rows.items():
        path, row_name = row["node_path"], f"site_storage.{name}"
        if is_below(path, source):
            raise MountError(
                f"the source of {where}, {source}, contains {row_name} ({path}): choose a directory outside it"
            )
        if not is_below(source, path):
            continue
        if row["access"] != "read_only":
            raise MountError(f"the source of {where}, {source}, lies in {row_name} ({path}), which users can write to")
        if not read_only:
            raise MountError(f"{where} must be read_only: its source {source} lies in {row_name} ({path})")


def path_translation(table: object) -> dict[str, str]:
    """Return XNAT's four path-translation preferences for a storage table (docs/xnat-contract.md, 3.2).

    If XNAT and the nodes use the same path, its pair is empty, which disables the translation. Raises MountError for
    an invalid table.
    """
    rows = storage_rows(table)
    preferences: dict[str, str] = {}
    for row, name in (("archive", "Archive"), ("workspaces", "Workspace")):
        xnat_path, node_path = rows[row]["xnat_path"], rows[row]["node_path"]
        same = xnat_path == node_path
        preferences[f"pathTranslation{name}Prefix"] = "" if same else xnat_path
        preferences[f"pathTranslation{name}DockerPrefix"] = "" if same else node_path
    return preferences
