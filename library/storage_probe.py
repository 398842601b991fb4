#!/usr/bin/python
"""Inspects the storage of a node as its containers use it, without hanging on a dead server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_probe
short_description: Compare a node's storage with the storage table
description:
  - For each row of the filter P(xnat_node_mounts#filter), inspects its mount, its line in C(/etc/fstab), and whether
    the site's user can use it. Returns findings in sentences, and the changes that the role C(node_storage) must make.
    Changes nothing itself except as described for O(write).
  - Every access to a row happens in a child process with a time limit. A child that hangs in the kernel is
    left behind, and the row is reported as hung. All rows are inspected at the same time.
  - Nothing is written if a file system other than the wanted one is mounted.
options:
  mounts:
    description: The result of P(xnat_node_mounts#filter).
    type: list
    elements: dict
    required: true
  uid: {description: User ID of XNAT and its notebooks on the file system., type: int, required: true}
  gid: {description: Their group ID., type: int, required: true}
  timeout: {description: Seconds that the rows may take to answer., type: int, default: 10}
  write:
    description:
      - Whether to test writing. In a row with access read_write the user O(uid) creates and removes a directory, and
        leaves the file C(.xnat-jupyter-storage) with a random token, which shows whether nodes see the same directory.
        In a read-only mount root and the user try to create a file, which must be refused.
      - Never done in check mode. Without it the kernel is asked whether the user may write.
    type: bool
    default: false
  files:
    description: SHA-256 by path of the files that mounts need. They must belong to root and have mode 0600.
    type: dict
    default: {}
  drop_in:
    description: The wanted content of O(drop_in_path) if systemd runs. Empty means that the file should not exist.
    type: str
    default: ""
  drop_in_path:
    description: The systemd drop-in that starts Docker Engine after the mounts.
    type: path
    default: /etc/systemd/system/docker.service.d/xnat-storage.conf
attributes:
  check_mode: {support: full, description: Writes nothing.}
"""
EXAMPLES = r"""
- name: Inspect the storage of this node
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
  description: The identity of each directory, in the order of O(mounts), so that nodes can be compared.
  type: list
  elements: dict
  returned: always
  contains:
    name: {description: The row., type: str}
    path: {description: Its directory on the node., type: str}
    owner: {description: 'uid:gid of the directory. Empty if not seen.', type: str}
    token: {description: 'Content of C(.xnat-jupyter-storage), for access read_write. Empty if not seen.', type: str}
wanted: {description: O(mounts)., type: list, elements: dict, returned: always}
findings: {description: Problems and what to do about them., type: list, elements: str, returned: always}
unfixable: {description: The findings that RV(changes) does not fix., type: list, elements: str, returned: always}
proved:
  description: Whether there are no findings and no changes, and each row with access read_write has its token.
  type: bool
  returned: always
change_needed: {description: Whether RV(changes) has anything to do., type: bool, returned: always}
predictions: {description: RV(changes) in sentences, for check mode., type: list, elements: str, returned: always}
changes:
  description: The changes that bring the node to the state of the table; each list is in the order of execution.
  type: dict
  returned: always
  contains:
    packages:
      description: Packages of missing mount programs, by their names for the node's package manager.
      type: list
      elements: str
    helpers: {description: Types of file systems whose mount program is missing., type: list, elements: str}
    files: {description: 'Paths of O(files) to write.', type: list, elements: str}
    unmount:
      description: Mounts to remove, each with C(path) and C(force), which is true for a mount that hangs.
      type: list
      elements: dict
    fstab_remove: {description: Paths of our lines in C(/etc/fstab) without a row., type: list, elements: str}
    fstab:
      description: Lines of C(/etc/fstab) to write, each with C(src), C(path), C(fstype) and C(opts).
      type: list
      elements: dict
    drop_in: {description: 'Whether to write or remove O(drop_in_path).', type: bool}
    directories:
      description: Directories to create, each with C(path), C(uid) and C(gid).
      type: list
      elements: dict
    mount: {description: 'Entries of O(mounts) to mount.', type: list, elements: dict}
systemd: {description: Whether systemd runs the node., type: bool, returned: always}
package_manager: {description: 'apt, dnf or empty.', type: str, returned: always}
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat_site.storage import MOUNT_MARK

TOKEN = ".xnat-jupyter-storage"  # noqa: S105  a file's name
OWNED_ROWS = ("archive", "workspaces")
HELPERS = {"nfs": "mount.nfs", "cifs": "mount.cifs", "fuse.sshfs": "sshfs"}
REDHAT_PACKAGES = {"nfs": "nfs-utils", "cifs": "cifs-utils", "fuse.sshfs": "fuse-sshfs"}  # Debian's come with the rows
SAME_FSTYPE = {"nfs4": "nfs", "smb3": "cifs"}
REFUSALS = ("EROFS", "EACCES", "EPERM")
DENIED = ("EACCES", "EPERM")

Tell = Callable[..., None]
"""Called with fields of `Seen`, by name, as soon as each is known."""


# Input: the row, the mount table, /etc/fstab


@dataclass(frozen=True)
class User:
    """The site's user on the file system."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


@dataclass(frozen=True)
class Mount:
    """The mount on a path. access: read_only or read_write."""

    source: str
    fstype: str
    access: str


@dataclass(frozen=True)
class Line:
    """The first four fields of a line of /etc/fstab."""

    src: str
    path: str
    fstype: str
    opts: str


@dataclass(frozen=True)
class Row:
    """The wanted state of a node for one row of the storage table, as the filter xnat_node_mounts describes it."""

    name: str
    path: str
    type: str
    create: bool
    access: str
    sentinel: str
    src: str
    fstype: str
    opts: str
    unit: str
    packages: Sequence[str]

    @property
    def key(self) -> str:
        """The row's name in the inventory."""
        return f"site_storage.{self.name}"

    @property
    def managed(self) -> bool:
        """Whether this project mounts it."""
        return bool(self.fstype)

    @property
    def is_bind(self) -> bool:
        """Whether it is a bind mount of another directory of the node."""
        return self.fstype == "none"

    @property
    def line(self) -> Line:
        """Its line in /etc/fstab."""
        return Line(self.src, self.path, self.fstype, self.opts)


def unescape(word: str) -> str:
    """Return a field of /etc/fstab or /proc/self/mountinfo with its octal escapes resolved."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), word)


def mount_table(text: str) -> dict[str, Mount]:
    """Read /proc/self/mountinfo: {path: Mount}; for several mounts on one path, the last."""
    table: dict[str, Mount] = {}
    for line in text.splitlines():
        of_mount, _, of_file_system = line.partition(" - ")
        fields, rest = of_mount.split(), of_file_system.split(" ")
        if len(fields) < 6 or len(rest) < 2:
            continue
        options = fields[5].split(",") + (rest[2].split(",") if len(rest) > 2 else [])
        access = "read_only" if "ro" in options else "read_write"
        table[unescape(fields[4])] = Mount(unescape(rest[1]), rest[0], access)
    return table


def fstab_lines(text: str) -> list[Line]:
    """Read the entries of /etc/fstab, without comments and invalid lines."""
    entries = (line.split("#")[0].split() for line in text.splitlines())
    return [
        Line(unescape(fields[0]), unescape(fields[1]), fields[2], fields[3]) for fields in entries if len(fields) >= 4
    ]


def holds_source(row: Row, mount: Mount | None, same: bool | None) -> bool:
    """Return whether the mounted source is the row's. same: whether both directories of a bind mount are the same."""
    if not mount:
        return False
    if row.is_bind:
        return same is True
    return mount.source == row.src and SAME_FSTYPE.get(mount.fstype, mount.fstype) == row.fstype


def in_place(row: Row, mount: Mount | None, same: bool | None) -> bool:
    """Return whether a directory that answers is the wanted one, so that it may be tested and written to."""
    if not row.managed:
        return True
    return holds_source(row, mount, same) and mount is not None and mount.access == row.access


# Inspection, in a child process that may hang


@dataclass(frozen=True)
class Seen:
    """The result of a row's inspection; values that were not reached keep their default."""

    hung: bool = False  # the inspection did not end in time
    real: str = ""  # the path without symbolic links
    exists: bool = False
    directory: bool = False
    owner: str = ""  # such as 1500:1500
    mode: str = ""  # such as 0755
    error: str = ""  # name of the error when the path is accessed, such as ESTALE
    same: bool | None = None  # whether a bind mount shows its source
    source_exists: bool = False  # whether that source exists
    # For "root" and "user": the error of creating a file in a read-only row, empty if it was not refused.
    write_refused: Mapping[str, str] = field(default_factory=dict)
    # The following values are determined as the user.
    readable: bool | None = None
    sentinel_found: bool | None = None
    writable: bool | None = None
    write_error: str = ""  # name of the error that refused writing
    created_owner: str = ""  # owner of a file that the user created
    token: str = ""  # content of the file TOKEN


def error_name(error: OSError) -> str:
    """Return the name of an error, such as ENOENT."""
    return errno.errorcode.get(error.errno or 0, str(error))


def try_to_create(path: str) -> str:
    """Try to create and remove a file; return the name of the error, or an empty text if it worked."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        return error_name(error)
    os.unlink(path)
    return ""


def try_to_work(path: str) -> tuple[str, str]:
    """Create a directory with a file, read it, remove both; return the name of an error and the file's "uid:gid"."""
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
        return error_name(error), ""
    return "" if content == b"written" else "EIO", f"{status.st_uid}:{status.st_gid}"


def read_token(directory: str, create: bool) -> str:
    """Return the token of a directory, created if it is missing and `create` is set; empty if there is none."""
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
        time.sleep(0.2)  # another node has just created it but not written it yet
    return ""


def inspect(row: Row, mounts: Mapping[str, Mount], user: User, write: bool, tell: Tell) -> None:
    """Inspect one row as root and then as `user`; this process cannot become root again.

    Each result is reported at once, in case the process hangs later. Raises nothing for errors of the file system.
    """
    tell(real=os.path.join(os.path.realpath(os.path.dirname(row.path)), os.path.basename(row.path)))
    is_root = os.geteuid() == 0
    error = inspect_directory(row.path, tell)
    same = inspect_bind_source(row, error, tell) if row.is_bind else None
    if error and not (error in DENIED and is_root):
        tell(**({"exists": False} if error == "ENOENT" else {"error": error}))
        return
    real = os.path.realpath(row.path)
    tell(real=real)
    mount = mounts.get(real)
    if not in_place(row, mount, same):
        return
    test_refusal = write and row.access == "read_only" and mount is not None and mount.access == "read_only"
    refused: dict[str, str] = {}
    if test_refusal and is_root:
        refused["root"] = try_to_create(probe_path(row))
        tell(write_refused=refused)
    if is_root:
        become(user)
    if error:  # a server may refuse root but not the user
        error = inspect_directory(row.path, tell)
        if error:
            tell(error=error)
            return
    inspect_reading(row, tell)
    if row.access == "read_write":
        inspect_writing(row, write, tell)
    elif test_refusal:
        refused["user"] = try_to_create(probe_path(row))
        tell(write_refused=refused)


def inspect_directory(path: str, tell: Tell) -> str:
    """Report what the path is; return the name of the error when it is accessed, or an empty text."""
    try:
        status = os.stat(path)
        os.statvfs(path)  # asks the server, whereas stat may use a cache
    except OSError as error:
        return error_name(error)
    owner, mode = f"{status.st_uid}:{status.st_gid}", f"{stat.S_IMODE(status.st_mode):04o}"
    tell(exists=True, directory=stat.S_ISDIR(status.st_mode), owner=owner, mode=mode)
    return ""


def inspect_bind_source(row: Row, error: str, tell: Tell) -> bool | None:
    """Return whether the directory is the source of its bind mount, None if the source does not exist."""
    same = None
    try:
        source = os.stat(row.src)
        tell(source_exists=True)
        same = not error and os.path.samestat(source, os.stat(row.path))
        tell(same=same)
    except OSError:
        tell(source_exists=False)
    return same


def inspect_reading(row: Row, tell: Tell) -> None:
    """Report whether this process can read the directory and finds its sentinel."""
    tell(readable=os.access(row.path, os.R_OK | os.X_OK))
    if row.sentinel:
        try:
            os.stat(os.path.join(row.path, row.sentinel))
            tell(sentinel_found=True)
        except OSError:
            tell(sentinel_found=False)


def inspect_writing(row: Row, write: bool, tell: Tell) -> None:
    """Report whether this process can write to the directory, by writing or by asking the kernel, and its token."""
    if write:
        error, owner = try_to_work(probe_path(row))
        tell(writable=not error, write_error=error, created_owner=owner)
    else:
        tell(writable=os.access(row.path, os.W_OK | os.X_OK))
    tell(token=read_token(row.path, write))


def probe_path(row: Row) -> str:
    """Return a new path in the row's directory for a write test."""
    return os.path.join(row.path, f".xnat-jupyter-probe-{uuid.uuid4().hex}")


def become(user: User) -> None:
    """Switch this process to the user. Afterwards it may be unable to import anything, such as a codec."""
    os.setgroups([])
    os.setgid(user.gid)
    os.setuid(user.uid)


def in_child(work: Callable[[Tell], None]) -> tuple[int, int]:
    """Start `work` in a child process; return its process ID and the pipe with its reports, which ends with the child.

    The child closes this process's files: a child that hangs in the kernel must not keep a connection open.
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


def in_children(works: Sequence[Callable[[Tell], None]], timeout: float) -> list[dict[str, Any]]:
    """Run all works in parallel, each in a child; return each one's merged reports, and `hung` if it was not finished.

    timeout: seconds for all of them together. Returns at most a second later, whatever the file systems do.
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
    wait_briefly({child for child, _ in children})
    return results


def wait_briefly(children: set[int]) -> None:
    """Wait for child processes for half a second. Some may hang in the kernel; init collects these later."""
    deadline = time.monotonic() + 0.5
    while children:
        children = {child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)}
        if time.monotonic() > deadline:
            return
        if children:
            time.sleep(0.01)


# Findings


@dataclass(frozen=True)
class Finding:
    """A problem of a row.

    id: the check that found it. text: what is wrong and what to do, to be appended to the path. steps: how to fix it:
    unmount, fstab, source, directory or mount. unfixable: an administrator must fix it.
    """

    id: str
    text: str
    steps: tuple[str, ...] = ()
    unfixable: bool = False


def by_administrator(id: str, text: str, *steps: str) -> Finding:
    """Return a finding that an administrator must fix, even if steps may fix it."""
    return Finding(id, text, steps, unfixable=True)


@dataclass(frozen=True)
class Case:
    """Everything known about a row. mount: the mount there. line: its line in /etc/fstab. timeout: in seconds."""

    row: Row
    seen: Seen
    mount: Mount | None
    line: Line | None
    user: User
    timeout: float

    @property
    def source(self) -> str:
        """The mounted source, empty for none."""
        return self.mount.source if self.mount else ""

    @property
    def answers(self) -> bool:
        """Whether the directory was reached, or is known not to exist."""
        return not self.seen.hung and not self.seen.error


Check = Callable[[Case], "Finding | None"]


def check_hung(case: Case) -> Finding | None:
    """The directory does not answer in time."""
    if not case.seen.hung:
        return None
    late = f"does not answer within {case.timeout:g} s"
    if not case.mount:
        return by_administrator("hung", f"{late}: a mount above it hangs. Find it with `findmnt` and check its server")
    steps = ("unmount", "mount") if case.row.managed else ()
    text = (
        f"{late}: the mount of {case.source} hangs. Check its server, then unmount it with `umount -f -l"
        f" {case.row.path}`"
    )
    return by_administrator("mount_hung", text, *steps)


def check_denied(case: Case) -> Finding | None:
    """Neither root nor the user may enter the directory."""
    if case.seen.error not in DENIED:
        return None
    text = (
        f"cannot be entered by root or by {case.user} ({case.seen.error}): change the permissions of the directories"
        " above it, or the server's export"
    )
    return by_administrator("denied", text)


def check_error(case: Case) -> Finding | None:
    """The directory answers with an error."""
    error = case.seen.error
    if not error:
        return None
    if case.mount and case.row.managed:
        text = f"fails with {error}: the mount of {case.source} is broken and must be mounted again"
        return Finding("mount_broken", text, ("unmount", "mount"))
    what = f"the mount of {case.source}" if case.mount else "it"
    text = f"fails with {error}: check {what}, then run `umount -l {case.row.path}` and mount it again"
    return by_administrator("broken", text)


def check_mounted(case: Case) -> Finding | None:
    """Nothing is mounted there."""
    if not case.row.managed or case.mount:
        return None
    steps = ("mount",) if case.seen.exists else ("directory", "mount")
    return Finding("not_mounted", f"is not a mount point: {case.row.src} must be mounted there", steps)


def check_source(case: Case) -> Finding | None:
    """Something else is mounted there."""
    if not case.row.managed or holds_source(case.row, case.mount, case.seen.same):
        return None
    text = f"has {case.source} mounted, but {case.row.key}.source is {case.row.src}"
    return Finding("other_source", text, ("unmount", "mount"))


def check_access(case: Case) -> Finding | None:
    """It is mounted read-only and should be writable, or the other way round."""
    if not case.row.managed or not case.mount or case.mount.access == case.row.access:
        return None
    mounted, wanted = (access.replace("_", "-") for access in (case.mount.access, case.row.access))
    text = f"is mounted {mounted}, but {case.row.key}.access is {wanted.replace('-', '_')}"
    return Finding(f"mounted_{case.mount.access}", text, ("unmount", "mount"))


def check_exists(case: Case) -> Finding | None:
    """The directory is missing, and we do not mount it."""
    row = case.row
    if row.managed or case.seen.exists:
        return None
    if row.create:
        return Finding("to_create", "does not exist and must be created", ("directory",))
    if row.type == "directory":
        return by_administrator("missing", f"does not exist: create it, or set {row.key}.source.create to true")
    text = f"does not exist: mount it, or set {row.key}.source to the file system to mount there"
    return by_administrator("missing", text)


def check_directory(case: Case) -> Finding | None:
    """The path is not a directory."""
    if case.seen.directory:
        return None
    return by_administrator("not_a_directory", "is not a directory: move it out of the way")


def check_owner(case: Case) -> Finding | None:
    """Archive and workspaces belong to somebody other than the site's user."""
    owner = case.seen.owner
    if case.row.name not in OWNED_ROWS or owner == str(case.user):
        return None
    nobody = " (65534 is nobody: the server maps users, check its export)" if "65534" in owner.split(":") else ""
    text = f"belongs to {owner}{nobody}, but site_uid:site_gid is {case.user}: set these to the owner of the archive"
    return by_administrator("other_owner", text)


def check_sentinel(case: Case) -> Finding | None:
    """The sentinel, which exists only in the right directory, is missing."""
    if case.seen.sentinel_found is not False:
        return None
    text = (
        f"does not contain {case.row.sentinel}, or {case.user} cannot see it there: mount the right directory, or"
        f" correct {case.row.key}.source.sentinel"
    )
    return by_administrator("no_sentinel", text)


def check_readable(case: Case) -> Finding | None:
    """The user cannot read the directory."""
    if case.seen.readable is not False:
        return None
    text = (
        f"cannot be read by {case.user} (mode {case.seen.mode}, owner {case.seen.owner}): give that user permission to"
        " read it"
    )
    return by_administrator("not_readable", text)


def check_root_refused(case: Case) -> Finding | None:
    """Root can write to a read-only row."""
    return not_refused(case, "root", "root")


def check_user_refused(case: Case) -> Finding | None:
    """The user can write to a read-only row."""
    return not_refused(case, "user", str(case.user))


def not_refused(case: Case, who: str, name: str) -> Finding | None:
    """Return a finding if a write test was not refused with an error of a read-only file system."""
    refusal = case.seen.write_refused.get(who)
    if refusal is None or refusal in REFUSALS:
        return None
    how = f"fails with {refusal} when {name} writes to it" if refusal else f"can be written to by {name}"
    text = f"{how}, but {case.row.key}.access is read_only: mount it read-only"
    return by_administrator(f"{who}_can_write", text)


def check_writable(case: Case) -> Finding | None:
    """The user cannot write to the directory."""
    if case.seen.writable is not False:
        return None
    why = f" ({case.seen.write_error})" if case.seen.write_error else ""
    text = (
        f"cannot be written to by {case.user}{why}: give that user permission to write, and check the server's free"
        " space and quota"
    )
    return by_administrator("not_writable", text)


def check_created_owner(case: Case) -> Finding | None:
    """The server assigns the user's files to somebody else."""
    owner = case.seen.created_owner
    if owner in (str(case.user), ""):
        return None
    text = (
        f"assigns files that {case.user} creates to {owner}, because the server maps users: disable that (NFS:"
        " no all_squash), or log in to the server as the user with that uid (sshfs)"
    )
    return by_administrator("other_created_owner", text)


def check_bind_source(case: Case) -> Finding | None:
    """The source of a bind mount does not exist."""
    row = case.row
    if not row.is_bind or not case.answers or case.seen.source_exists:
        return None
    missing = f"is a bind mount of {row.src}, which does not exist"
    if row.create:
        return Finding("source_to_create", f"{missing} and must be created", ("source",))
    return by_administrator("source_missing", f"{missing}: create it, or correct {row.key}.source.path")


def check_fstab(case: Case) -> Finding | None:
    """/etc/fstab does not have the row's line."""
    if not case.row.managed or case.line == case.row.line:
        return None
    if case.line is None:
        return Finding("fstab_missing", "has no line in /etc/fstab", ("fstab",))
    return Finding("fstab_differs", "has a line in /etc/fstab that differs from site_storage", ("fstab",))


STATE_CHECKS: tuple[Check, ...] = (
    check_hung,
    check_denied,
    check_error,
    check_mounted,
    check_source,
    check_access,
    check_exists,
    check_directory,
)
"""Whether the wanted directory exists. After a finding, the following checks and USE_CHECKS are meaningless."""

USE_CHECKS: tuple[Check, ...] = (
    check_owner,
    check_sentinel,
    check_readable,
    check_root_refused,
    check_user_refused,
    check_writable,
    check_created_owner,
)
"""Whether the wanted directory is usable."""


@dataclass(frozen=True)
class Judgement:
    """The findings about a row, and the steps that fix them."""

    row: Row
    seen: Seen
    findings: tuple[Finding, ...]
    steps: tuple[str, ...]


def found_by(checks: Sequence[Check], case: Case) -> Iterator[Finding]:
    """Yield the findings of the checks."""
    for check in checks:
        finding = check(case)
        if finding:
            yield finding


def judge(case: Case) -> Judgement:
    """Return the findings about a row and the steps that fix them."""
    state = next(found_by(STATE_CHECKS, case), None)
    findings = [state] if state else list(found_by(USE_CHECKS, case))
    findings += found_by([check_bind_source], case)
    steps = [step for finding in findings for step in finding.steps]
    fstab = check_fstab(case)
    if fstab:
        steps.append("fstab")
        if "mount" not in steps:  # otherwise the finding about the mount is sufficient
            findings.append(fstab)
    return Judgement(case.row, case.seen, tuple(findings), tuple(dict.fromkeys(steps)))


def sentences(judgements: Sequence[Judgement], *, unfixable: bool | None = None) -> list[str]:
    """Return the findings about all rows as sentences: all of them, the unfixable ones, or the others."""
    return [
        f"{judgement.row.key}: {judgement.row.path} {finding.text}"
        for judgement in judgements
        for finding in judgement.findings
        if unfixable is None or finding.unfixable is unfixable
    ]


# Changes


@dataclass(frozen=True)
class Host:
    """The state of the node apart from its mounts.

    helpers_missing: types of file systems whose mount program is missing. files: files to write. drop_in: whether the
    drop-in must be written or removed. package_manager: apt, dnf or empty.
    """

    helpers_missing: Sequence[str] = ()
    files: Sequence[str] = ()
    drop_in: bool = False
    package_manager: str = ""


@dataclass(frozen=True)
class Changes:
    """The changes that the role must make, see `changes` in RETURN."""

    packages: list[str]
    helpers: list[str]
    files: list[str]
    unmount: list[dict[str, Any]]
    fstab_remove: list[str]
    fstab: list[dict[str, Any]]
    drop_in: bool
    directories: list[dict[str, Any]]
    mount: list[dict[str, Any]]

    @property
    def needed(self) -> bool:
        """Whether there is anything to change."""
        return any(asdict(self).values())


def plan_changes(
    judgements: Sequence[Judgement], lines: Sequence[Line], mounts: Mapping[str, Mount], user: User, host: Host
) -> Changes:
    """Return the changes that bring the node to the state of the table. lines: of /etc/fstab. mounts: present mounts.

    Directories are created and mounted before those below them, and unmounted after them. A mount point belongs to
    root, so that nobody writes to it while nothing is mounted there.
    """
    managed = {judgement.row.path for judgement in judgements if judgement.row.managed}
    leftovers = [line.path for line in lines if MOUNT_MARK in line.opts.split(",") and line.path not in managed]
    unmount = {path: False for path in leftovers if path in mounts}
    unmount |= {one.row.path: one.seen.hung for one in judgements if "unmount" in one.steps}

    def rows_with(step: str) -> list[Row]:
        return [judgement.row for judgement in judgements if step in judgement.steps]

    def directory(path: str, owner: User) -> dict[str, Any]:
        return {"path": path, **asdict(owner)}

    root = User(0, 0)
    sources = sorted(row.src for row in rows_with("source"))
    directories = sorted(rows_with("directory"), key=lambda row: row.path)
    return Changes(
        packages=packages(judgements, host),
        helpers=list(host.helpers_missing),
        files=list(host.files),
        unmount=[{"path": path, "force": unmount[path]} for path in sorted(unmount, reverse=True)],
        fstab_remove=leftovers,
        fstab=[asdict(row.line) for row in rows_with("fstab")],
        drop_in=host.drop_in,
        directories=[directory(path, user) for path in sources]
        + [directory(row.path, root if row.managed else user) for row in directories],
        mount=[asdict(row) for row in sorted(rows_with("mount"), key=lambda row: row.path)],
    )


def packages(judgements: Sequence[Judgement], host: Host) -> list[str]:
    """Return the packages of the missing mount programs, by their names for the node's package manager."""
    if host.package_manager == "dnf":
        return [REDHAT_PACKAGES[fstype] for fstype in host.helpers_missing]
    rows = [judgement.row for judgement in judgements if judgement.row.fstype in host.helpers_missing]
    return list(dict.fromkeys(name for row in rows for name in row.packages))


def predictions(judgements: Sequence[Judgement], changes: Changes, drop_in_path: str) -> list[str]:
    """Return the changes as sentences."""
    return [
        *sentences(judgements, unfixable=False),
        *(f"{path} is no longer in site_storage and must be unmounted" for path in changes.fstab_remove),
        *(f"{path} must be written" for path in changes.files),
        *(f"the program that mounts {fstype} must be installed" for fstype in changes.helpers),
        *([f"{drop_in_path}, which starts Docker Engine after the mounts, must be changed"] if changes.drop_in else []),
    ]


def is_proved(judgements: Sequence[Judgement], changes: Changes) -> bool:
    """Return whether nothing must change, and writing was tested once in each row with access read_write."""
    well = not changes.needed and not any(judgement.findings for judgement in judgements)
    return well and all(judgement.seen.token for judgement in judgements if judgement.seen.writable)


def files_to_write(files: Mapping[str, str]) -> list[str]:
    """Return the paths of files with another SHA-256 than wanted, or without owner root and mode 0600."""
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
    options = module.params
    rows = [Row(**entry) for entry in options["mounts"]]
    user, timeout, write = User(options["uid"], options["gid"]), options["timeout"], options["write"]
    mounts, lines = mount_table(read("/proc/self/mountinfo")), fstab_lines(read("/etc/fstab"))

    def work(row: Row) -> Callable[[Tell], None]:
        return lambda tell: inspect(row, mounts, user, write and not module.check_mode, tell)

    def case(row: Row, seen: Seen) -> Case:
        line = next((line for line in lines if line.path == row.path), None)
        return Case(row, seen, mounts.get(seen.real or row.path), line, user, timeout)

    told = in_children([work(row) for row in rows], timeout)
    judgements = [judge(case(row, Seen(**seen))) for row, seen in zip(rows, told)]  # noqa: B905  Python 3.9
    systemd = os.path.isdir("/run/systemd/system")
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    fstypes = dict.fromkeys(row.fstype for row in rows if row.fstype in HELPERS)
    host = Host(
        helpers_missing=[fstype for fstype in fstypes if not shutil.which(HELPERS[fstype], path=search)],
        files=files_to_write(options["files"]),
        drop_in=systemd and read(options["drop_in_path"]) != options["drop_in"],
        package_manager=next((name for name in ("apt-get", "dnf") if shutil.which(name, path=search)), "")[:3],
    )
    changes = plan_changes(judgements, lines, mounts, user, host)
    module.exit_json(
        changed=False,
        rows=[
            {"name": one.row.name, "path": one.row.path, "owner": one.seen.owner, "token": one.seen.token}
            for one in judgements
        ],
        wanted=options["mounts"],
        findings=sentences(judgements),
        unfixable=sentences(judgements, unfixable=True),
        proved=is_proved(judgements, changes),
        change_needed=changes.needed,
        predictions=predictions(judgements, changes, options["drop_in_path"]),
        changes=asdict(changes),
        systemd=systemd,
        package_manager=host.package_manager,
    )


if __name__ == "__main__":
    main()
