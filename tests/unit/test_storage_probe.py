"""What is seen of a node's storage, and what is said about it; that nothing hangs."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storage_probe import (
    TOKEN,
    files_to_do,
    fstab_lines,
    holds_source,
    in_place,
    judge,
    look,
    look_at_all,
    mount_table,
    read_token,
    try_to_create,
    try_to_work,
    unescape,
)

from module_utils.xnat_site.storage import node_mounts
from tests.hub_settings import STORAGE

MOUNTINFO = r"""
29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
100 29 0:50 / /srv/xnat/archive ro,nosuid,relatime shared:9 - nfs4 nfs.example.org:/xnat/archive rw,vers=4.2,hard
101 29 0:51 / /srv/my\040data rw - fuse.sshfs xnat@x:/my\040data rw,user_id=0
102 29 0:52 / /srv/twice rw - tmpfs first rw
103 29 0:53 / /srv/twice rw - tmpfs second ro
not a line
"""
NFS = {"type": "nfs", "server": "nfs.example.org", "path": "/xnat/archive"}
MINE = (os.geteuid(), os.getegid())


def entries(source: object = None, row: str = "archive") -> list[dict[str, Any]]:
    table = {**STORAGE, row: {**STORAGE[row], **({"source": source} if source else {})}}
    return node_mounts(table, "node1", 1500, 1500)


def entry(source: object = None, row: str = "archive", **changes: object) -> dict[str, Any]:
    return {**next(one for one in entries(source, row) if one["name"] == row), **changes}


def told(**changes: object) -> dict[str, Any]:
    return {"exists": True, "directory": True, "owner": "1500:1500", "mode": "0755", "hung": False, **changes}


def mount_of(one: dict[str, Any], **changes: str) -> dict[str, dict[str, str]]:
    kind = "overlay" if one["fstype"] == "none" else one["fstype"]
    found = {"source": one["src"], "fstype": kind, "access": one["access"]}
    return {one["path"]: {**found, **changes}}


def line_of(one: dict[str, Any], **changes: str) -> list[dict[str, str]]:
    return [{**{key: one[key] for key in ("src", "path", "fstype", "opts")}, **changes}]


def judged(
    one: dict[str, Any],
    seen: dict[str, Any],
    mounts: dict[str, dict[str, str]] | None = None,
    lines: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    if one["fstype"]:
        mounts = mount_of(one) if mounts is None else mounts
        lines = line_of(one) if lines is None else lines
    return judge(one, seen, mounts or {}, lines or [], 1500, 1500, 10)


def test_the_mount_table_is_read() -> None:
    table = mount_table(MOUNTINFO)
    assert table["/srv/xnat/archive"] == {
        "source": "nfs.example.org:/xnat/archive",
        "fstype": "nfs4",
        "access": "read_only",
    }
    assert table["/srv/my data"]["source"] == "xnat@x:/my data"
    assert (table["/srv/twice"]["source"], table["/srv/twice"]["access"]) == ("second", "read_only")
    assert table["/"]["access"] == "read_write"


def test_fstab_is_read() -> None:
    text = "# no\n\nLABEL=x / ext4 defaults 0 1 # yes\nx:/a\\040b  /a\\040b nfs ro,x-xnat-jupyter\nbad line\n"
    assert fstab_lines(text) == [
        {
            "src": "LABEL=x",
            "path": "/",
            "fstype": "ext4",
            "opts": "defaults",
        },
        {
            "src": "x:/a b",
            "path": "/a b",
            "fstype": "nfs",
            "opts": "ro,x-xnat-jupyter",
        },
    ]
    assert unescape(r"a\134b") == "a\\b"


def test_a_mount_is_known_by_its_source_and_type() -> None:
    nfs = entry(NFS)
    mounts = mount_table(MOUNTINFO)
    assert holds_source(nfs, mounts["/srv/xnat/archive"], None)
    assert in_place(nfs, mounts["/srv/xnat/archive"], None)
    assert not in_place({**nfs, "access": "read_write"}, mounts["/srv/xnat/archive"], None)
    assert not holds_source({**nfs, "src": "other:/x"}, mounts["/srv/xnat/archive"], None)
    assert not in_place(nfs, None, None)
    bind = entry({"type": "bind", "path": "/mnt/a"})
    assert in_place(bind, mounts["/srv/xnat/archive"], True)
    assert not in_place(bind, mounts["/srv/xnat/archive"], False)
    assert in_place(entry(), None, None)


def test_a_row_that_is_well_has_nothing_to_say() -> None:
    for one in (entry(), entry(NFS), entry({"type": "directory"}), entry({"type": "bind", "path": "/mnt/a"})):
        row = judged(one, told(same=True, source_exists=True, write_refused={"root": "EROFS", "user": "EACCES"}))
        assert (row["findings"], row["to_do"]) == ([], [])
    assert judged(entry(), told(), mount_of(entry(NFS), source="x:/y"))["findings"] == []  # somebody else's


A = "site_storage.archive: /srv/xnat/archive "
W = "site_storage.workspaces: /srv/xnat/workspaces "


@pytest.mark.parametrize(
    ("one", "seen", "mounts", "finding", "to_do"),
    [
        (
            entry(NFS),
            {"hung": True},
            None,
            A
            + "does not answer within 10 s: the mount of nfs.example.org:/xnat/archive hangs; look at the server, then"
            " `umount -f -l /srv/xnat/archive`",
            ["unmount", "mount"],
        ),
        (
            entry(),
            {"hung": True},
            None,
            A + "does not answer within 10 s: a mount above it hangs; look at `findmnt` and its server",
            [],
        ),
        (
            entry(),
            told(error="ESTALE"),
            mount_of(entry(NFS)),
            A + "answers with ESTALE: look at the mount of nfs.example.org:/xnat/archive, then"
            " `umount -l /srv/xnat/archive` and mount it again",
            [],
        ),
        (
            entry(),
            {"exists": False, "hung": False},
            None,
            A + "does not exist: mount it, or say in site_storage.archive.source where it is to be mounted from",
            [],
        ),
        (
            entry({"type": "directory"}),
            {"exists": False, "hung": False},
            None,
            A + "does not exist: make it, or set site_storage.archive.source.create to true",
            [],
        ),
        (
            entry(NFS),
            told(error="EACCES"),
            None,
            A + "cannot be entered by root nor by 1500:1500 (EACCES): open the directories above it, or the export",
            [],
        ),
        (entry(), told(directory=False), None, A + "is not a directory: move it out of the way", []),
        (
            entry(NFS),
            told(owner="0:0"),
            None,
            A + "belongs to 0:0 and site_uid:site_gid say 1500:1500: set them to the owner of the archive",
            [],
        ),
        (
            entry({**NFS, "sentinel": "P1"}),
            told(sentinel_found=False),
            None,
            A + "does not hold P1, which 1500:1500 should see there: the right directory is not mounted, or"
            " site_storage.archive.source.sentinel is wrong",
            [],
        ),
        (
            entry(),
            told(readable=False, mode="0700"),
            None,
            A + "cannot be read by 1500:1500 (mode 0700, owner 1500:1500): let that user read it",
            [],
        ),
        (
            entry(NFS),
            told(write_refused={"root": "", "user": "EROFS"}),
            None,
            A + "can be written to by root: mount it read-only (access is read_only)",
            [],
        ),
        (
            entry(row="workspaces"),
            told(writable=False, write_error="EDQUOT"),
            None,
            W + "cannot be written to by 1500:1500 (EDQUOT): let that user write, and look at space and quota of the"
            " server",
            [],
        ),
        (
            entry(row="workspaces"),
            told(writable=True, created_owner="65534:65534"),
            None,
            W + "gives what 1500:1500 makes to 65534:65534: the server maps users; let it keep them (NFS without"
            " all_squash), or log in to it as the user with that uid (sshfs)",
            [],
        ),
        (
            entry({"type": "bind", "path": "/mnt/a"}),
            told(same=True, source_exists=False),
            None,
            A + "is to show /mnt/a, which does not exist: make it, or correct the path in site_storage.archive.source",
            ["unmount", "mount"],
        ),
    ],
)
def test_what_only_an_administrator_can_mend_is_lasting(
    one: dict[str, Any],
    seen: dict[str, Any],
    mounts: dict[str, dict[str, str]] | None,
    finding: str,
    to_do: list[str],
) -> None:
    row = judged(one, seen, mounts)
    assert finding in row["lasting"]
    if "same" not in seen:
        assert row["findings"] == [finding]
        assert row["to_do"] == to_do


@pytest.mark.parametrize(
    ("one", "seen", "mounts", "lines", "finding", "to_do"),
    [
        (
            entry(NFS),
            {"exists": False, "hung": False},
            {},
            [],
            A + "is not a mount point: nfs.example.org:/xnat/archive has to be mounted there",
            ["directory", "mount", "fstab"],
        ),
        (
            entry(NFS),
            told(),
            mount_of(entry(NFS), source="old:/xnat"),
            None,
            A + "has old:/xnat mounted, and the table says nfs.example.org:/xnat/archive",
            ["unmount", "mount"],
        ),
        (
            entry(NFS),
            told(),
            mount_of(entry(NFS), access="read_write"),
            None,
            A + "can be written to by root: mount it read-only (access is read_only)",
            ["unmount", "mount"],
        ),
        (
            entry(NFS, row="workspaces"),
            told(),
            mount_of(entry(NFS, row="workspaces"), access="read_only"),
            None,
            W + "is mounted read-only, and its access is read_write",
            ["unmount", "mount"],
        ),
        (
            entry(NFS),
            told(error="ENOTCONN"),
            None,
            None,
            A + "answers with ENOTCONN: the mount of nfs.example.org:/xnat/archive is broken and has to be made again",
            ["unmount", "mount"],
        ),
        (entry(NFS), told(), None, [], A + "has no line in /etc/fstab", ["fstab"]),
        (
            entry(NFS),
            told(),
            None,
            line_of(entry(NFS), opts="ro"),
            A + "has not the wanted line in /etc/fstab",
            ["fstab"],
        ),
        (
            entry({"type": "directory", "create": True}),
            {"exists": False, "hung": False},
            None,
            None,
            A + "does not exist and has to be made",
            ["directory"],
        ),
        (
            entry({"type": "bind", "path": "/mnt/a", "create": True}),
            told(source_exists=False),
            {},
            None,
            A + "is to show /mnt/a, which does not exist and has to be made",
            ["mount", "source"],
        ),
    ],
)
def test_what_the_role_mends_is_to_do(
    one: dict[str, Any],
    seen: dict[str, Any],
    mounts: dict[str, dict[str, str]] | None,
    lines: list[dict[str, str]] | None,
    finding: str,
    to_do: list[str],
) -> None:
    row = judged(one, seen, mounts, lines)
    assert finding in row["findings"]
    assert (row["lasting"], row["to_do"]) == ([], to_do)


def looked_at(*ones: dict[str, Any], write: bool = True, uid: int = 1500, timeout: float = 10) -> list[dict[str, Any]]:
    """Look in children, as root with another user's number, else as the user who runs the tests."""
    user = (uid, uid) if os.geteuid() == 0 else MINE

    def work(one: dict[str, Any]) -> Callable[[Callable[..., None]], None]:
        return lambda tell: look(one, {}, *user, write, tell)

    return look_at_all([work(one) for one in ones], timeout)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of the user 1500, where the tests may give files away, below directories that all may enter."""
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.geteuid() and str(parent) not in ("/", "/tmp"):
            parent.chmod(0o755)
    path = tmp_path / "storage"
    path.mkdir()
    if os.geteuid() == 0:
        os.chown(path, 1500, 1500)
    return path


def plain(path: Path, row: str = "workspaces", **changes: object) -> dict[str, Any]:
    return entry({"type": "directory"}, row, path=str(path), **changes)


def test_the_user_writes_and_leaves_only_the_token(directory: Path) -> None:
    first, second = looked_at(plain(directory), plain(directory))
    owner = "{}:{}".format(*((1500, 1500) if os.geteuid() == 0 else MINE))
    assert (first["writable"], first["write_error"], first["created_owner"], first["owner"]) == (True, "", owner, owner)
    assert len(first["token"]) == 36
    assert first["token"] == second["token"]
    assert os.listdir(directory) == [TOKEN]
    assert (directory / TOKEN).stat().st_uid == (1500 if os.geteuid() == 0 else MINE[0])
    assert not first["hung"]


def test_without_write_nothing_is_written(directory: Path) -> None:
    (seen,) = looked_at(plain(directory), write=False)
    assert (seen["writable"], seen["token"]) == (True, "")
    assert os.listdir(directory) == []


def test_a_directory_that_is_read_only_by_the_table_is_left_alone(directory: Path) -> None:
    (directory / "P1").mkdir()
    found, missing = looked_at(plain(directory, "archive", sentinel="P1"), plain(directory, "archive", sentinel="P2"))
    assert (found["sentinel_found"], missing["sentinel_found"]) == (True, False)
    assert "write_refused" not in found
    assert os.listdir(directory) == ["P1"]


def test_where_the_wanted_mount_is_missing_nothing_is_written(directory: Path) -> None:
    (seen,) = looked_at(entry(NFS, "workspaces", path=str(directory)))
    assert "token" not in seen
    assert os.listdir(directory) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_user_who_may_not_write_is_told_so(directory: Path) -> None:
    (seen,) = looked_at(plain(directory), uid=1501)
    assert (seen["writable"], seen["write_error"], seen["token"]) == (False, "EACCES", "")
    directory.chmod(0o700)
    (seen,) = looked_at(plain(directory), uid=1501)
    assert seen["readable"] is False


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    (seen,) = looked_at(plain(tmp_path / "none"))
    assert (seen["exists"], seen["hung"]) == (False, False)
    bind = entry({"type": "bind", "path": str(tmp_path / "none")}, path=str(tmp_path))
    assert looked_at(bind)[0]["source_exists"] is False


def test_what_hangs_is_given_up_and_the_others_are_seen() -> None:
    def slow(tell: Callable[..., None]) -> None:
        tell(real="/x")
        time.sleep(60)

    def quick(tell: Callable[..., None]) -> None:
        tell(exists=True)

    def broken(tell: Callable[..., None]) -> None:
        raise ValueError("bad")

    begin = time.monotonic()
    seen = look_at_all([slow, quick, broken, slow], 1)
    assert time.monotonic() - begin < 3
    assert seen[0] == {"real": "/x", "hung": True} == seen[3]
    assert seen[1] == {"exists": True, "hung": False}
    assert seen[2] == {"error": "ValueError: bad", "hung": False}


def test_refusals_are_named(tmp_path: Path) -> None:
    assert try_to_create(str(tmp_path / "a")) == ""
    assert try_to_create(str(tmp_path / "none" / "a")) == "ENOENT"
    assert try_to_work(str(tmp_path / "b")) == ("", f"{MINE[0]}:{MINE[1]}")
    assert try_to_work(str(tmp_path / "none" / "b")) == ("ENOENT", "")
    assert os.listdir(tmp_path) == []


def test_a_token_is_made_once(tmp_path: Path) -> None:
    assert read_token(str(tmp_path), False) == ""
    token = read_token(str(tmp_path), True)
    assert token == read_token(str(tmp_path), True) == read_token(str(tmp_path), False) != ""


def test_files_that_differ_have_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "key"
    digest = hashlib.sha256(b"secret").hexdigest()
    assert files_to_do({str(path): digest}) == [str(path)]
    path.write_text("secret")
    path.chmod(0o600)
    assert files_to_do({str(path): digest}) == ([] if os.geteuid() == 0 else [str(path)])
    assert files_to_do({str(path): "0"}) == [str(path)]
    path.chmod(0o644)
    assert files_to_do({str(path): digest}) == [str(path)]
