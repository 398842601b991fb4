"""The storage table, and what follows from it for nodes, launcher and XNAT.

XNAT says what a user should see, the table says what a container may ever see. Only the standard library is imported.

The table (`site_storage` in the inventory) maps a row's name to::

    {"xnat_path": "/data/xnat/archive",   # how XNAT calls the directory
     "node_path": "/srv/xnat/archive",    # how every swarm node calls it
     "access": "read_only",               # or "read_write"
     "source": {"type": "nfs", ...}}      # where a node gets it from, see `_source`; absent: somebody else mounts it

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
"""The directories at the top of a container that its system and Docker use (Filesystem Hierarchy Standard 3.0)."""

SOURCE_KEYS: dict[str, tuple[str, ...]] = {
    "mounted": (),
    "directory": (),
    "bind": ("path",),
    "nfs": ("server", "path"),
    "cifs": ("server", "path"),
    "sshfs": ("server", "path", "user"),
}
"""What each type of source needs, by type."""

FURTHER_SOURCE_KEYS: dict[str, tuple[str, ...]] = {
    "mounted": ("sentinel",),
    "directory": ("sentinel", "create"),
    "bind": ("sentinel", "create"),
    "nfs": ("sentinel", "create", "server_host", "options"),
    "cifs": ("sentinel", "options"),
    "sshfs": ("sentinel", "create", "server_host", "options"),
}
"""What each type of source may have beside that and `type`."""

STORAGE_DIR = "/etc/xnat-jupyter"
"""Where a node keeps what the mounts need to log in to their servers: readable by root only."""

MOUNT_MARK = "x-xnat-jupyter"
"""The option by which lines of /etc/fstab are known as ours; mount programs, kernel and systemd pass over `x-`."""

MOUNT_PACKAGES = {"nfs": ["nfs-common"], "cifs": ["cifs-utils"], "fuse.sshfs": ["sshfs"]}
"""What mounts a file system, by fstype, as Debian calls the packages."""

# Options that say the same thing, so that one of a site replaces ours.
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
                raise MountError(f"site_storage.{other} and site_storage.{name} have one {kind} {row[kind]}")
    users = f"{rows['workspaces']['node_path']}/{USERS}"
    for name, row in rows.items():
        if is_below(row["node_path"], users):
            raise MountError(
                f"site_storage.{name}.node_path {row['node_path']} lies in {users}, which users can change: move it"
            )
    return rows


def _source(value: object, where: str) -> dict[str, Any]:
    """Check where a node gets a row's directory from, `where` naming it in sentences, and return it with its `type`.

    mounted: somebody else mounts it. directory: a plain directory of the node. bind: another directory `path` of the
    node. nfs, cifs, sshfs: `path` (cifs: the share) of `server`, for sshfs by the login `user`, whose files there must
    be owned by the site's uid and gid. Beside that `create` (a directory of the node that is missing is made),
    `sentinel` (what exists below it, and only there), `server_host` (the server's name in the inventory when it is a
    node itself: it uses its own directory) and `options` of the mount. Raises MountError.
    """
    if value is None:
        return {"type": "mounted"}
    if not isinstance(value, Mapping):
        raise MountError(f"{where} must be a mapping with type and what that type needs")
    kind = value.get("type", "mounted")
    if not isinstance(kind, str) or kind not in SOURCE_KEYS:
        raise MountError(f"{where}.type is {kind!r}: set it to {', '.join(SOURCE_KEYS)}")
    known = ("type", *SOURCE_KEYS[kind], *FURTHER_SOURCE_KEYS[kind])
    for key in value:
        if key not in known:
            raise MountError(f"{where}.{key} is not known for the type {kind}: there are {', '.join(known)}")
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
            raise MountError(f"{where}.server_host needs a path: the whole of a node is not mounted into itself")
    elif value.get("create") and "server" in known:
        raise MountError(f"{where}.create needs server_host: directories are made on nodes only")
    if "options" in value:
        source["options"] = _options(value["options"], f"{where}.options")
    return source


def _name(value: object, pattern: re.Pattern[str], what: str, meaning: str) -> str:
    if not isinstance(value, str) or not value:
        raise MountError(f"{what} is missing: give {meaning}")
    if not pattern.fullmatch(value):
        raise MountError(f"{what} {value!r} is not {meaning}")
    return value


def _fstab_word(value: str, what: str) -> str:
    if not FSTAB_WORD.fullmatch(value):
        raise MountError(f"{what} {value!r} holds a blank, a quote or one of # & \\ , which no mount here can have")
    return value


def _relative_path(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MountError(f"{what} is empty: give a path below node_path, or leave it out")
    if value.startswith("/"):
        raise MountError(f"{what} {value!r} must be relative to node_path")
    path = clean_path(f"/{value}", what)
    return path.removeprefix("/")


def _options(value: object, what: str) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise MountError(f"{what} must be a list of mount options")
    for option in value:
        if not isinstance(option, str) or not FSTAB_WORD.fullmatch(option):
            raise MountError(f"{what} holds {option!r}: give each mount option as one word")
        if option in ("ro", "rw"):
            raise MountError(f"{what} holds {option!r}, which the row's access decides")
        if option.startswith("pass"):
            raise MountError(f"{what} holds a password, which every user of the node could read there")
    return list(value)


def node_mounts(table: object, host: str, uid: int, gid: int) -> list[dict[str, Any]]:
    """Return what one node has to have for each row of a storage table, in the table's order.

    host: the node's name in the inventory. uid, gid: the site's, who XNAT is on the file system. Each entry has

    - name, path (the row's node_path), access, sentinel ("" for none)
    - type: the source's type on this node: a server that is a node uses its own directory, as directory or bind
    - create: whether the directory, for bind the one that is mounted, is made where it is missing
    - src, fstype, opts: the first, third and fourth field of its line in /etc/fstab, opts as one string; all three
      are empty for mounted and directory
    - unit: the name of its mount unit in systemd, packages: what mounts it in Debian; empty in the same cases

    Raises MountError for a table that does not hold.
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
        # Without nofail a node whose source is gone would not boot: mounts without _netdev belong to local-fs.target.
        src, fstype, options = source["path"], "none", ["bind", "nofail"]
    elif kind == "nfs":
        src, fstype, options = f"{server}:{source['path']}", "nfs", ["nfsvers=4.2", "hard", "_netdev"]
    elif kind == "cifs":
        src, fstype = f"//{server}{source['path']}", "cifs"
        options = [f"credentials={STORAGE_DIR}/storage_cifs", f"uid={uid}", f"gid={gid}", "forceuid", "forcegid"]
        options += ["file_mode=0640", "dir_mode=0750", "_netdev"]
    elif kind == "sshfs":
        # The kernel judges by the owners that the server tells (default_permissions); else every user of the node
        # could write. sshfs knows no nofail and needs none: a mount with _netdev never keeps a node from booting.
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
    """Put a site's mount options to ours, each in the place of one with its name, or at the end."""
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
    """Compare what the nodes see and return a sentence for each row in which they differ; an empty list is well.

    seen: for each host the rows that the module storage_probe returned there, of which `name`, `path`, `token` and
    `owner` are read. A token or owner that is empty was not seen and is not compared.
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
                    f"site_storage.{name}: {path} is not one directory on all nodes ({groups}: each group has its own"
                    " .xnat-jupyter-storage): mount the same export on all of them"
                )
            else:
                groups = ", ".join(f"{owner} on {', '.join(group)}" for owner, group in hosts.items())
                sentences.append(
                    f"site_storage.{name}: {path} belongs to {groups}: give all nodes the same export and the same"
                    " mapping of users"
                )
    return sentences


def mount_policy(table: object, compute_mounts: object = ()) -> list[dict[str, Any]]:
    """Return the roots that the hub enforces at spawn, as plain data for its settings file.

    table: the storage table. compute_mounts: what compute environments may mount beside XNAT's data, a list of
    {"source": "/srv/atlases", "target": "/opt/atlases", "access": "read_only"}. target is a prefix, and so is source
    where it is read-only. Returns [{"name", "path", "read_only", "targets", "per_user"}, ...]. Raises MountError.
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
    """Refuse a compute mount that would open more of a storage row than the row's own rule, naming the row."""
    for name, row in rows.items():
        path, row_name = row["node_path"], f"site_storage.{name}"
        if is_below(path, source):
            raise MountError(
                f"the source of {where}, {source}, holds all of {row_name} ({path}): name a directory apart"
            )
        if not is_below(source, path):
            continue
        if row["access"] != "read_only":
            raise MountError(f"the source of {where}, {source}, lies in {row_name} ({path}), which users can write to")
        if not read_only:
            raise MountError(f"{where} must be read_only: its source {source} lies in {row_name} ({path})")


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
