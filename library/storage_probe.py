#!/usr/bin/python
"""Look at the storage of a node as its containers will meet it, without ever hanging on a dead server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_probe
short_description: Whether a node's storage is what the storage table says
description:
  - Looks at each row of the filter P(xnat_node_mounts#filter), at its mount, its line in C(/etc/fstab), and at what can
    be done with it, and says what is wrong in sentences. Nothing is changed but for what O(write) says.
  - Whatever touches a row happens in a child process with a time limit. A child that the kernel does not let go is
    left behind, and the row is reported as hung. All rows are looked at together.
  - Nothing is written where something else than what is wanted is mounted.
options:
  mounts:
    description: What P(xnat_node_mounts#filter) returns.
    type: list
    elements: dict
    required: true
  uid: {description: Who XNAT and its notebooks are on the file system., type: int, required: true}
  gid: {description: Their group., type: int, required: true}
  timeout: {description: Seconds that a row may take to answer., type: int, default: 10}
  write:
    description:
      - Whether writing is tried. In a row with access read_write the user O(uid) makes and removes a directory, and
        leaves the file C(.xnat-jupyter-storage) with a random word, by which nodes know that they see one directory.
        In what is mounted read-only root and the user try to make a file, which must be refused.
      - Never in check mode. Without it the system is asked whether the user might write.
    type: bool
    default: false
  files:
    description: SHA-256 of files that belong to the mounts, by path. They must be root's with mode 0600.
    type: dict
    default: {}
  drop_in:
    description: The text that O(drop_in_path) should hold where systemd runs. Empty means that it should not be there.
    type: str
    default: ""
  drop_in_path:
    description: The file that has the Docker Engine start after the mounts.
    type: path
    default: /etc/systemd/system/docker.service.d/xnat-storage.conf
attributes:
  check_mode: {support: full, description: Only looks.}
"""
EXAMPLES = r"""
- name: Look at the storage of this node
  storage_probe:
    mounts: "{{ site_storage | xnat_node_mounts(inventory_hostname, site_uid, site_gid) }}"
    uid: "{{ site_uid }}"
    gid: "{{ site_gid }}"
    write: true
  register: storage
  failed_when: storage.findings | length > 0
"""
RETURN = r"""
rows:
  description: What was seen, for each row in the order of O(mounts).
  type: list
  elements: dict
  returned: always
  contains:
    name: {description: The row., type: str}
    path: {description: Its directory on the node., type: str}
    hung: {description: Whether it did not answer in time., type: bool}
    owner: {description: 'uid:gid of the directory.', type: str}
    writable: {description: For access read_write whether the user can write. None if not seen., type: bool}
    token: {description: 'Content of C(.xnat-jupyter-storage), for access read_write.', type: str}
    to_do: {description: 'Steps that mend it: source, directory, unmount, fstab, mount.', type: list, elements: str}
    findings: {description: What is wrong and what to do., type: list, elements: str}
    lasting: {description: 'Those findings that O(to_do) does not mend.', type: list, elements: str}
wanted: {description: The rows that were asked for., type: list, elements: dict, returned: always}
leftovers:
  description: Lines of C(/etc/fstab) with the option C(x-xnat-jupyter) that no row wants, as path, src and mounted.
  type: list
  elements: dict
  returned: always
files_to_do: {description: 'Paths of O(files) that have to be written.', type: list, elements: str, returned: always}
drop_in_to_do: {description: 'Whether O(drop_in_path) has to be written or removed.', type: bool, returned: always}
helpers_missing:
  description: Types of file systems for which the program that mounts them is missing.
  type: list
  elements: str
  returned: always
systemd: {description: Whether systemd runs the node., type: bool, returned: always}
package_manager: {description: 'apt, dnf or empty.', type: str, returned: always}
to_do: {description: Whether anything is to be done., type: bool, returned: always}
findings: {description: Those of all rows., type: list, elements: str, returned: always}
lasting: {description: Those of all rows., type: list, elements: str, returned: always}
"""

import errno
import hashlib
import json
import os
import re
import select
import shutil
import signal
import stat
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat_site.storage import MOUNT_MARK

TOKEN = ".xnat-jupyter-storage"  # noqa: S105  a file's name
OWNED_ROWS = ("archive", "workspaces")
HELPERS = {"nfs": "mount.nfs", "cifs": "mount.cifs", "fuse.sshfs": "sshfs"}
SAME_FSTYPE = {"nfs4": "nfs", "smb3": "cifs"}
REFUSALS = ("EROFS", "EACCES", "EPERM")


def unescape(word: str) -> str:
    """Return a field of /etc/fstab or /proc/self/mountinfo with its octal escapes resolved."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), word)


def mount_table(text: str) -> dict[str, dict[str, str]]:
    """Read /proc/self/mountinfo: {path: {"source", "fstype", "access"}}; of mounts on one path the last."""
    table: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        ours, _, theirs = line.partition(" - ")
        fields, rest = ours.split(), theirs.split(" ")
        if len(fields) < 6 or len(rest) < 2:
            continue
        options = fields[5].split(",")
        further = rest[2].split(",") if len(rest) > 2 else []
        table[unescape(fields[4])] = {
            "source": unescape(rest[1]),
            "fstype": rest[0],
            "access": "read_only" if "ro" in options or "ro" in further else "read_write",
        }
    return table


def fstab_lines(text: str) -> list[dict[str, str]]:
    """Read /etc/fstab: [{"src", "path", "fstype", "opts"}, ...], without comments and what is no entry."""
    lines = []
    for line in text.splitlines():
        fields = line.split("#")[0].split()
        if len(fields) >= 4:
            src, path = unescape(fields[0]), unescape(fields[1])
            lines.append({"src": src, "path": path, "fstype": fields[2], "opts": fields[3]})
    return lines


def holds_source(entry: Mapping[str, Any], mount: Mapping[str, str] | None, same: bool | None) -> bool:
    """Whether what is mounted comes from where the row says. same: whether a bind's two directories are one."""
    if not mount:
        return False
    if entry["fstype"] == "none":
        return same is True
    fstype = SAME_FSTYPE.get(mount["fstype"], mount["fstype"])
    return bool(mount["source"] == entry["src"] and fstype == entry["fstype"])


def in_place(entry: Mapping[str, Any], mount: Mapping[str, str] | None, same: bool | None) -> bool:
    """Whether a directory that answers is the wanted one, so that it may be judged and written to."""
    if not entry["fstype"]:
        return True
    return holds_source(entry, mount, same) and mount is not None and mount["access"] == entry["access"]


def try_to_create(path: str) -> str:
    """Try to make a file and remove it again; return the name of the error that refused it, or an empty text."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    os.unlink(path)
    return ""


def try_to_work(path: str) -> tuple[str, str]:
    """Make a directory with a file, read it, remove both; return the error's name and the file's "uid:gid"."""
    name = os.path.join(path, "file")
    try:
        os.mkdir(path, 0o700)
        try:
            try:
                Path(name).write_bytes(b"written")
                content = Path(name).read_bytes()
                status = os.stat(name)
            finally:
                Path(name).unlink(missing_ok=True)
        finally:
            os.rmdir(path)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error)), ""
    return "" if content == b"written" else "EIO", f"{status.st_uid}:{status.st_gid}"


def read_token(directory: str, create: bool) -> str:
    """Return the random word of a directory, made where it is missing and `create` is set; empty if there is none."""
    path = os.path.join(directory, TOKEN)
    if create:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except OSError:
            pass
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(f"{uuid.uuid4()}\n".encode())
    for _ in range(5):
        try:
            token = Path(path).read_bytes().decode().strip()
        except (OSError, ValueError):
            return ""
        if token or not create:
            return token[:64]
        time.sleep(0.2)  # another node has just made it and not written yet
    return ""


def look(
    entry: Mapping[str, Any],
    mounts: Mapping[str, Mapping[str, str]],
    uid: int,
    gid: int,
    write: bool,
    tell: Callable[..., None],
) -> None:
    """Touch one row, as root and then as uid:gid, which this process becomes for good; `tell` each thing as it is seen.

    Bytes are written and read: who has become another user may not be able to import a codec any more.
    Told are real, exists, directory, owner, mode, error, same, source_exists, write_refused, readable, sentinel_found,
    writable, write_error, created_owner, token. Raises nothing that the file system says.
    """
    path = str(entry["path"])
    probe = os.path.join(path, f".xnat-jupyter-probe-{uuid.uuid4().hex}")
    root = os.geteuid() == 0

    def see() -> str:
        try:
            status = os.stat(path)
            os.statvfs(path)  # asks the server; what stat says may come from a cache
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        owner, mode = f"{status.st_uid}:{status.st_gid}", f"{stat.S_IMODE(status.st_mode):04o}"
        tell(exists=True, directory=stat.S_ISDIR(status.st_mode), owner=owner, mode=mode)
        return ""

    def real() -> str:
        found = os.path.realpath(path)
        tell(real=found)
        return found

    tell(real=os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)))
    error = see()
    same: bool | None = None
    if entry["fstype"] == "none":
        try:
            source = os.stat(entry["src"])
            tell(source_exists=True)
            same = not error and os.path.samestat(source, os.stat(path))
            tell(same=same)
        except OSError:
            tell(source_exists=False)
    if error and not (error in ("EACCES", "EPERM") and root):
        if error == "ENOENT":
            tell(exists=False)
        else:
            tell(error=error)
        return
    mount = mounts.get(real())
    if not in_place(entry, mount, same):
        return
    read_only = mount is not None and mount["access"] == "read_only" == entry["access"]
    refused: dict[str, str] = {}
    if write and read_only and root:
        refused["root"] = try_to_create(probe)
        tell(write_refused=refused)
    if root:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if error:
        error = see()
        if error:
            tell(error=error)
            return
    tell(readable=os.access(path, os.R_OK | os.X_OK))
    if entry["sentinel"]:
        try:
            os.stat(os.path.join(path, entry["sentinel"]))
            tell(sentinel_found=True)
        except OSError:
            tell(sentinel_found=False)
    if entry["access"] == "read_only":
        if write and read_only:
            refused["user"] = try_to_create(probe)
            tell(write_refused=refused)
        return
    if write:
        failed, owner = try_to_work(probe)
        tell(writable=not failed, write_error=failed, created_owner=owner)
    else:
        tell(writable=os.access(path, os.W_OK | os.X_OK))
    tell(token=read_token(path, write))


def in_child(work: Callable[[Callable[..., None]], None]) -> tuple[int, int]:
    """Start `work` in a child process and return its number and the pipe on which it tells; it ends with the child.

    The child holds none of this process's files: one that the kernel never lets go must not keep a connection open.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        pipe = os.dup2(writing, 3) if writing != 3 else 3
        os.closerange(4, 1024)
        os.umask(0o022)

        def tell(**seen: Any) -> None:
            os.write(pipe, (json.dumps(seen) + "\n").encode())

        try:
            work(tell)
            tell(done=True)
            code = 0
        except Exception as error:
            tell(error=f"{type(error).__name__}: {error}", done=True)
    finally:
        os._exit(code)
    raise AssertionError  # never reached


def look_at_all(works: Sequence[Callable[[Callable[..., None]], None]], timeout: float) -> list[dict[str, Any]]:
    """Do all works at once, each in a child; return what each told, merged, with `hung` where one was not done in time.

    timeout: seconds for all of them together. Returns within a second of it, whatever the file systems do.
    """
    children = [in_child(work) for work in works]
    texts = [b"" for _ in works]
    open_pipes = {pipe: number for number, (_, pipe) in enumerate(children)}
    deadline = time.monotonic() + timeout
    while open_pipes and time.monotonic() < deadline:
        for pipe in select.select(list(open_pipes), [], [], max(0.0, deadline - time.monotonic()))[0]:
            text = os.read(pipe, 65536)
            texts[open_pipes[pipe]] += text
            if not text:
                del open_pipes[pipe]
    results = []
    for number, (child, pipe) in enumerate(children):
        os.close(pipe)
        seen: dict[str, Any] = {}
        for line in texts[number].decode(errors="replace").splitlines(keepends=True):
            if line.endswith("\n"):
                seen.update(json.loads(line))
        seen["hung"] = not seen.pop("done", False)
        if seen["hung"]:
            os.kill(child, signal.SIGKILL)
        results.append(seen)
    waiting = {child for child, _ in children}
    patience = time.monotonic() + 0.5
    while waiting:
        waiting = {child for child in waiting if os.waitpid(child, os.WNOHANG) == (0, 0)}
        if time.monotonic() > patience:
            break  # the kernel does not let go of them: init takes what is left
        if waiting:
            time.sleep(0.01)
    return results


def judge(
    entry: Mapping[str, Any],
    seen: Mapping[str, Any],
    mounts: Mapping[str, Mapping[str, str]],
    lines: Sequence[Mapping[str, str]],
    uid: int,
    gid: int,
    timeout: float,
) -> dict[str, Any]:
    """Say what is wrong with a row, given what `look` told, the mounts and the lines of /etc/fstab: a row of RETURN."""
    name, path = entry["name"], entry["path"]
    where, row = f"site_storage.{name}: {path}", f"site_storage.{name}"
    mount = mounts.get(seen.get("real", path))
    line = next((line for line in lines if line["path"] == path), None)
    managed = bool(entry["fstype"])
    same = seen.get("same")
    error = seen.get("error", "")
    came_from = mount["source"] if mount else ""
    findings: list[str] = []
    lasting: list[str] = []
    to_do: list[str] = []

    def lacks(sentence: str, *steps: str) -> None:
        findings.append(f"{where} {sentence}")
        if steps:
            to_do.extend(step for step in steps if step not in to_do)
        else:
            lasting.append(findings[-1])

    answers = not seen.get("hung") and not error
    if seen.get("hung"):
        if mount:
            lacks(
                f"does not answer within {timeout:g} s: the mount of {came_from} hangs; look at the server, then"
                f" `umount -f -l {path}`"
            )
        else:
            lacks(f"does not answer within {timeout:g} s: a mount above it hangs; look at `findmnt` and its server")
        if mount and managed:
            to_do += ["unmount", "mount"]
    elif error in ("EACCES", "EPERM"):
        lacks(f"cannot be entered by root nor by {uid}:{gid} ({error}): open the directories above it, or the export")
    elif error and mount and managed:
        lacks(f"answers with {error}: the mount of {came_from} is broken and has to be made again", "unmount", "mount")
    elif error:
        what = f"the mount of {came_from}" if mount else "it"
        lacks(f"answers with {error}: look at {what}, then `umount -l {path}` and mount it again")
    elif managed and not mount:
        steps = ([] if seen.get("exists") else ["directory"]) + ["mount"]
        lacks(f"is not a mount point: {entry['src']} has to be mounted there", *steps)
    elif managed and not holds_source(entry, mount, same):
        lacks(f"has {came_from} mounted, and the table says {entry['src']}", "unmount", "mount")
    elif managed and mount and mount["access"] != entry["access"]:
        if entry["access"] == "read_only":
            lacks("can be written to by root: mount it read-only (access is read_only)", "unmount", "mount")
        else:
            lacks("is mounted read-only, and its access is read_write", "unmount", "mount")
    elif not managed and not seen.get("exists"):
        if entry["create"]:
            lacks("does not exist and has to be made", "directory")
        elif entry["type"] == "directory":
            lacks(f"does not exist: make it, or set {row}.source.create to true")
        else:
            lacks(f"does not exist: mount it, or say in {row}.source where it is to be mounted from")
    elif not seen.get("directory"):
        lacks("is not a directory: move it out of the way")
    else:
        _judge_use(entry, seen, uid, gid, lacks)

    if entry["fstype"] == "none" and answers and not seen.get("source_exists"):
        if entry["create"]:
            lacks(f"is to show {entry['src']}, which does not exist and has to be made", "source")
        else:
            lacks(f"is to show {entry['src']}, which does not exist: make it, or correct the path in {row}.source")
    wanted_line = {key: entry[key] for key in ("src", "path", "fstype", "opts")}
    if managed and (line is None or any(line[key] != value for key, value in wanted_line.items())):
        if "mount" in to_do:
            to_do.append("fstab")
        else:
            lacks(f"has {'no' if line is None else 'not the wanted'} line in /etc/fstab", "fstab")
    return {
        "name": name,
        "path": path,
        "hung": bool(seen.get("hung")),
        "owner": seen.get("owner", ""),
        "writable": seen.get("writable"),
        "token": seen.get("token", ""),
        "to_do": to_do,
        "findings": findings,
        "lasting": lasting,
    }


def _judge_use(
    entry: Mapping[str, Any], seen: Mapping[str, Any], uid: int, gid: int, lacks: Callable[[str], None]
) -> None:
    """Tell `lacks` what is wrong with a directory that is the wanted one: owner, sentinel, reading and writing."""
    user = f"{uid}:{gid}"
    if entry["name"] in OWNED_ROWS and seen["owner"] != user:
        nobody = (
            " (65534 is nobody: the server maps users, look at its export)"
            if "65534" in seen["owner"].split(":")
            else ""
        )
        lacks(
            f"belongs to {seen['owner']}{nobody} and site_uid:site_gid say {user}: set them to the owner of the archive"
        )
    if seen.get("sentinel_found") is False:
        lacks(
            f"does not hold {entry['sentinel']}, which {user} should see there: the right directory is not mounted, or"
            f" site_storage.{entry['name']}.source.sentinel is wrong"
        )
    if seen.get("readable") is False:
        lacks(f"cannot be read by {user} (mode {seen['mode']}, owner {seen['owner']}): let that user read it")
    for who, refusal in seen.get("write_refused", {}).items():
        if refusal not in REFUSALS:
            name = "root" if who == "root" else user
            how = f"answers {refusal} to" if refusal else "can be written to by"
            lacks(f"{how} {name}: mount it read-only (access is read_only)")
    if seen.get("writable") is False:
        why = f" ({seen['write_error']})" if seen.get("write_error") else ""
        lacks(f"cannot be written to by {user}{why}: let that user write, and look at space and quota of the server")
    if seen.get("created_owner", user) not in (user, ""):
        lacks(
            f"gives what {user} makes to {seen['created_owner']}: the server maps users; let it keep them (NFS without"
            " all_squash), or log in to it as the user with that uid (sshfs)"
        )


def files_to_do(files: Mapping[str, str]) -> list[str]:
    """Return the paths whose content has another SHA-256 than is said, or that are not root's with mode 0600."""
    differing = []
    for path, digest in files.items():
        try:
            status = os.lstat(path)
            kept = (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600) and stat.S_ISREG(status.st_mode)
            same = kept and hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest
        except OSError:
            same = False
        if not same:
            differing.append(path)
    return differing


def read(path: str) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "mounts": {"type": "list", "elements": "dict", "required": True},
            "uid": {"type": "int", "required": True},
            "gid": {"type": "int", "required": True},
            "timeout": {"type": "int", "default": 10},
            "write": {"type": "bool", "default": False},
            "files": {"type": "dict", "default": {}, "no_log": True},
            "drop_in": {"type": "str", "default": ""},
            "drop_in_path": {"type": "path", "default": "/etc/systemd/system/docker.service.d/xnat-storage.conf"},
        },
        supports_check_mode=True,
    )
    wanted: list[dict[str, Any]] = module.params["mounts"]
    uid, gid, timeout = module.params["uid"], module.params["gid"], module.params["timeout"]
    write = module.params["write"] and not module.check_mode
    mounts, lines = mount_table(read("/proc/self/mountinfo")), fstab_lines(read("/etc/fstab"))

    def work(entry: Mapping[str, Any]) -> Callable[[Callable[..., None]], None]:
        return lambda tell: look(entry, mounts, uid, gid, write, tell)

    seen = look_at_all([work(entry) for entry in wanted], timeout)
    both = [(entry, seen[number]) for number, entry in enumerate(wanted)]
    rows = [judge(entry, told, mounts, lines, uid, gid, timeout) for entry, told in both]
    managed = {entry["path"] for entry in wanted if entry["fstype"]}
    leftovers = [
        {"path": line["path"], "src": line["src"], "mounted": line["path"] in mounts}
        for line in lines
        if MOUNT_MARK in line["opts"].split(",") and line["path"] not in managed
    ]
    systemd = os.path.isdir("/run/systemd/system")
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    fstypes = dict.fromkeys(entry["fstype"] for entry in wanted if entry["fstype"] in HELPERS)
    result: dict[str, Any] = {
        "rows": rows,
        "wanted": wanted,
        "leftovers": leftovers,
        "files_to_do": files_to_do(module.params["files"]),
        "drop_in_to_do": systemd and read(module.params["drop_in_path"]) != module.params["drop_in"],
        "helpers_missing": [fstype for fstype in fstypes if not shutil.which(HELPERS[fstype], path=search)],
        "systemd": systemd,
        "package_manager": next((name for name in ("apt-get", "dnf") if shutil.which(name, path=search)), "")[:3],
        "findings": [finding for row in rows for finding in row["findings"]],
        "lasting": [finding for row in rows for finding in row["lasting"]],
    }
    result["to_do"] = (
        any(row["to_do"] for row in rows)
        or any(result[key] for key in ("leftovers", "files_to_do", "helpers_missing"))
        or result["drop_in_to_do"]
    )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
