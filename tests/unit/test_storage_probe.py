"""The probe of a node's storage: observations, findings, required changes; and nothing hangs."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from storage_mount import ADVICE, failure
from storage_probe import (
    TOKEN,
    Case,
    Changes,
    Finding,
    Host,
    Judgement,
    Line,
    Mount,
    Row,
    Seen,
    User,
    files_to_write,
    fstab_lines,
    holds_source,
    in_children,
    in_place,
    inspect,
    is_proved,
    judge,
    mount_table,
    plan_changes,
    predictions,
    read_token,
    sentences,
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
BIND = {"type": "bind", "path": "/mnt/a"}
SITE = User(1500, 1500)
MINE = User(os.geteuid(), os.getegid())
IS_ROOT = os.geteuid() == 0


def row(source: object = None, name: str = "archive", **changes: Any) -> Row:
    """A row of the storage table with another source, as the filter describes it."""
    table = {**STORAGE, name: {**STORAGE[name], **({"source": source} if source else {})}}
    found = next(one for one in node_mounts(table, "node1", 1500, 1500) if one["name"] == name)
    return replace(Row(**found), **changes)


def workspaces(source: object = None) -> Row:
    return row(source, "workspaces")


def seen(**changes: Any) -> Seen:
    """What is seen of a directory that is well."""
    return replace(
        Seen(exists=True, directory=True, owner="1500:1500", mode="0755", same=True, source_exists=True), **changes
    )


MISSING = Seen(exists=False)


def mount_of(one: Row, **changes: str) -> Mount | None:
    """What is mounted where all is well."""
    kind = "overlay" if one.is_bind else one.fstype
    return replace(Mount(one.src, kind, one.access), **changes) if one.managed or changes else None


def judged(one: Row, found: Seen, *, mount: Mount | str | None = "", line: Line | str | None = "") -> Judgement:
    """Judge a row; mount and line are the wanted ones if not given."""
    mounted = mount_of(one) if isinstance(mount, str) else mount
    written = (one.line if one.managed else None) if isinstance(line, str) else line
    return judge(Case(one, found, mounted, written, SITE, 10))


def ids(judgement: Judgement) -> list[str]:
    return [finding.id for finding in judgement.findings]


def test_the_mount_table_is_read() -> None:
    table = mount_table(MOUNTINFO)
    assert table["/srv/xnat/archive"] == Mount("nfs.example.org:/xnat/archive", "nfs4", "read_only")
    assert table["/srv/my data"].source == "xnat@x:/my data"
    assert table["/srv/twice"] == Mount("second", "tmpfs", "read_only")
    assert table["/"].access == "read_write"


def test_fstab_is_read() -> None:
    text = "# no\n\nLABEL=x / ext4 defaults 0 1 # yes\nx:/a\\040b  /a\\040b nfs ro,x-xnat-jupyter\nbad line\n"
    assert fstab_lines(text) == [
        Line("LABEL=x", "/", "ext4", "defaults"),
        Line("x:/a b", "/a b", "nfs", "ro,x-xnat-jupyter"),
    ]
    assert unescape(r"a\134b") == "a\\b"


def test_a_mount_is_known_by_its_source_and_type() -> None:
    nfs, mount = row(NFS), mount_table(MOUNTINFO)["/srv/xnat/archive"]
    assert holds_source(nfs, mount, None)
    assert in_place(nfs, mount, None)
    assert not in_place(replace(nfs, access="read_write"), mount, None)
    assert not holds_source(replace(nfs, src="other:/x"), mount, None)
    assert not holds_source(nfs, replace(mount, fstype="cifs"), None)
    assert not in_place(nfs, None, None)
    assert in_place(row(BIND), mount, True)
    assert not in_place(row(BIND), mount, False)
    assert in_place(row(), None, None)


@pytest.mark.parametrize(
    ("one", "mount"),
    [
        pytest.param(row(), None, id="mounted by somebody else"),
        pytest.param(row(), Mount("x:/y", "nfs", "read_write"), id="another mount of somebody else"),
        pytest.param(row(NFS), mount_of(row(NFS)), id="nfs"),
        pytest.param(row({"type": "directory"}), None, id="directory"),
        pytest.param(row(BIND), mount_of(row(BIND)), id="bind"),
    ],
)
def test_nothing_is_found_wrong_with_a_row_that_is_well(one: Row, mount: Mount | None) -> None:
    found = judged(one, seen(write_refused={"root": "EROFS", "user": "EACCES"}), mount=mount)
    assert (found.findings, found.steps) == ((), ())


@pytest.mark.parametrize(
    ("id", "one", "found", "mount", "facts", "steps"),
    [
        pytest.param(
            "mount_hung", row(NFS), Seen(hung=True), mount_of(row(NFS)),
            ["10 s", "nfs.example.org:/xnat/archive", "`umount -f -l /srv/xnat/archive`"], ("unmount", "mount"),
            id="our mount hangs",
        ),
        pytest.param(
            "mount_hung", row(), Seen(hung=True), mount_of(row(), source="x:/y"), ["10 s", "x:/y"], (),
            id="a mount of somebody else hangs",
        ),
        pytest.param("hung", row(), Seen(hung=True), None, ["10 s", "findmnt"], (), id="something above hangs"),
        pytest.param(
            "broken", row(), seen(error="ESTALE"), mount_of(row(), source="x:/y"),
            ["ESTALE", "x:/y", "`umount -l /srv/xnat/archive`"], (), id="a mount of somebody else is broken",
        ),
        pytest.param("broken", row(), seen(error="EIO"), None, ["EIO"], (), id="the directory is broken"),
        pytest.param("missing", row(), MISSING, None, ["site_storage.archive.source"], (), id="nobody mounts it"),
        pytest.param(
            "missing", row({"type": "directory"}), MISSING, None, ["site_storage.archive.source.create"], (),
            id="nobody creates it",
        ),
        pytest.param(
            "denied", row(NFS), seen(error="EACCES"), mount_of(row(NFS)), ["1500:1500", "EACCES", "export"], (),
            id="nobody may enter it",
        ),
        pytest.param("not_a_directory", row(), seen(directory=False), None, [], (), id="a file"),
        pytest.param(
            "other_owner", row(NFS), seen(owner="0:0"), mount_of(row(NFS)),
            ["0:0", "site_uid:site_gid is 1500:1500"], (), id="root's",
        ),
        pytest.param("other_owner", row(), seen(owner="65534:65534"), None, ["nobody", "export"], (), id="nobody's"),
        pytest.param(
            "no_sentinel", row({**NFS, "sentinel": "P1"}), seen(sentinel_found=False), mount_of(row(NFS)),
            ["P1", "1500:1500", "site_storage.archive.source.sentinel"], (), id="no sentinel",
        ),
        pytest.param(
            "not_readable", row(), seen(readable=False, mode="0700"), None, ["0700", "1500:1500"], (), id="not readable"
        ),
        pytest.param(
            "root_can_write", row(NFS), seen(write_refused={"root": "", "user": "EROFS"}), mount_of(row(NFS)),
            ["by root", "read_only"], (), id="root writes to what is read-only",
        ),
        pytest.param(
            "user_can_write", row(NFS), seen(write_refused={"root": "EROFS", "user": ""}), mount_of(row(NFS)),
            ["by 1500:1500", "read_only"], (), id="the user writes to what is read-only",
        ),
        pytest.param(
            "root_can_write", row(NFS), seen(write_refused={"root": "EIO"}), mount_of(row(NFS)), ["EIO", "root"], (),
            id="another error than a refusal",
        ),
        pytest.param(
            "not_writable", workspaces(), seen(writable=False, write_error="EDQUOT"), None,
            ["1500:1500", "EDQUOT", "quota"], (), id="quota",
        ),
        pytest.param("not_writable", workspaces(), seen(writable=False), None, ["1500:1500"], (), id="not writable"),
        pytest.param(
            "other_created_owner", workspaces(), seen(writable=True, created_owner="65534:65534"), None,
            ["1500:1500", "65534:65534", "all_squash"], (), id="the server maps users",
        ),
        pytest.param(
            "source_missing", row(BIND), seen(source_exists=False), mount_of(row(BIND)),
            ["/mnt/a", "site_storage.archive.source.path"], (), id="no source of a bind mount",
        ),
    ],
)  # fmt: skip
def test_what_only_an_administrator_can_fix_is_unfixable(
    id: str, one: Row, found: Seen, mount: Mount | None, facts: list[str], steps: tuple[str, ...]
) -> None:
    judgement = judged(one, found, mount=mount)
    assert ids(judgement) == [id]
    assert judgement.steps == steps
    (sentence,) = sentences([judgement], unfixable=True)
    assert sentence.startswith(f"site_storage.{one.name}: {one.path} ")
    assert [fact for fact in facts if fact not in sentence] == []
    assert sentences([judgement], unfixable=False) == []


@pytest.mark.parametrize(
    ("id", "one", "found", "mount", "line", "facts", "steps"),
    [
        pytest.param(
            "not_mounted", row(NFS), MISSING, None, None, ["nfs.example.org:/xnat/archive"],
            ("directory", "mount", "fstab"), id="not mounted, no mount point",
        ),
        pytest.param("not_mounted", row(NFS), seen(), None, row(NFS).line, [], ("mount",), id="not mounted"),
        pytest.param(
            "other_source", row(NFS), seen(), mount_of(row(NFS), source="old:/xnat"), row(NFS).line,
            ["old:/xnat", "nfs.example.org:/xnat/archive"], ("unmount", "mount"), id="another source",
        ),
        pytest.param(
            "other_source", row(BIND), seen(same=False), mount_of(row(BIND)), row(BIND).line, ["/mnt/a"],
            ("unmount", "mount"), id="another bind mount",
        ),
        pytest.param(
            "mounted_read_write", row(NFS), seen(), mount_of(row(NFS), access="read_write"), row(NFS).line,
            ["read-write", "site_storage.archive.access", "read_only"], ("unmount", "mount"), id="too much access",
        ),
        pytest.param(
            "mounted_read_only", workspaces(NFS), seen(), mount_of(workspaces(NFS), access="read_only"),
            workspaces(NFS).line, ["read-only", "site_storage.workspaces.access", "read_write"], ("unmount", "mount"),
            id="too little access",
        ),
        pytest.param(
            "mount_broken", row(NFS), seen(error="ENOTCONN"), mount_of(row(NFS)), row(NFS).line,
            ["ENOTCONN", "nfs.example.org:/xnat/archive"], ("unmount", "mount"), id="broken mount",
        ),
        pytest.param(
            "fstab_missing", row(NFS), seen(), mount_of(row(NFS)), None, ["/etc/fstab"], ("fstab",), id="no line"
        ),
        pytest.param(
            "fstab_differs", row(NFS), seen(), mount_of(row(NFS)), replace(row(NFS).line, opts="ro"), ["/etc/fstab"],
            ("fstab",), id="another line",
        ),
        pytest.param(
            "to_create", row({"type": "directory", "create": True}), MISSING, None, None, [], ("directory",),
            id="a directory to create",
        ),
        pytest.param(
            "source_to_create", row({**BIND, "create": True}), seen(source_exists=False), mount_of(row(BIND)),
            row(BIND).line, ["/mnt/a"], ("source",), id="a source to create",
        ),
    ],
)  # fmt: skip
def test_what_the_role_fixes_has_steps(
    id: str, one: Row, found: Seen, mount: Mount | None, line: Line | None, facts: list[str], steps: tuple[str, ...]
) -> None:
    judgement = judged(one, found, mount=mount, line=line)
    assert ids(judgement) == [id]
    assert judgement.steps == steps
    (sentence,) = sentences([judgement], unfixable=False)
    assert [fact for fact in facts if fact not in sentence] == []
    assert sentences([judgement], unfixable=True) == []


def test_a_row_may_have_several_findings() -> None:
    found = seen(owner="0:0", readable=False, writable=False)
    assert ids(judged(workspaces(), found)) == ["other_owner", "not_readable", "not_writable"]
    unmounted = judged(row({**BIND, "create": True}), seen(source_exists=False), mount=None, line=None)
    assert ids(unmounted) == ["not_mounted", "source_to_create"]
    assert unmounted.steps == ("mount", "source", "fstab")


def test_nobody_is_told_how_to_use_what_is_not_there() -> None:
    found = seen(hung=True, owner="0:0", readable=False, source_exists=False)
    assert ids(judged(row(BIND), found)) == ["mount_hung"]


def test_only_archive_and_workspaces_must_belong_to_the_sites_user() -> None:
    assert ids(judged(replace(row(), name="atlases"), seen(owner="0:0"))) == []


NOTHING = Changes([], [], [], [], [], [], False, [], [])


def changes_of(
    *judgements: Judgement, lines: list[Line] | None = None, mounted: tuple[str, ...] = (), **host: Any
) -> Changes:
    mounts = {path: Mount("x", "nfs", "read_only") for path in mounted}
    return plan_changes(judgements, lines or [], mounts, SITE, Host(**host))


def with_steps(one: Row, *steps: str, hung: bool = False) -> Judgement:
    return Judgement(one, seen(hung=hung), (Finding("x", "is wrong", steps),), steps)


def test_a_node_that_is_well_needs_no_changes() -> None:
    found = changes_of(
        judged(row(), seen()), judged(row(NFS), seen()), lines=[row(NFS).line, Line("/", "/", "ext4", "ro")]
    )
    assert found == NOTHING
    assert not found.needed


def test_paths_are_mounted_after_those_above_and_unmounted_before() -> None:
    above, below = row(NFS, path="/srv/a"), row(NFS, path="/srv/a/b")
    old = Line("x", "/srv/a/b/c", "nfs", "ro,x-xnat-jupyter")
    steps = ("unmount", "directory", "mount", "fstab")
    found = changes_of(
        with_steps(below, *steps), with_steps(above, *steps, hung=True), lines=[old], mounted=("/srv/a/b/c",)
    )
    assert found.unmount == [
        {"path": "/srv/a/b/c", "force": False},
        {"path": "/srv/a/b", "force": False},
        {"path": "/srv/a", "force": True},
    ]
    assert [mount["path"] for mount in found.mount] == ["/srv/a", "/srv/a/b"]
    assert found.mount[0] == asdict(above)
    assert [line["path"] for line in found.fstab] == ["/srv/a/b", "/srv/a"]
    assert found.fstab[1] == {key: getattr(above, key) for key in ("src", "path", "fstype", "opts")}
    assert found.directories == [{"path": path, "uid": 0, "gid": 0} for path in ("/srv/a", "/srv/a/b")]
    assert found.fstab_remove == ["/srv/a/b/c"]


def test_directories_of_the_node_belong_to_the_sites_user_and_mount_points_to_root() -> None:
    bind = row({**BIND, "create": True})
    found = changes_of(
        with_steps(row({"type": "directory"}, path="/b"), "directory"), with_steps(bind, "source", "directory")
    )
    user, root = {"uid": 1500, "gid": 1500}, {"uid": 0, "gid": 0}
    assert found.directories == [{"path": "/mnt/a", **user}, {"path": "/b", **user}, {"path": bind.path, **root}]


@pytest.mark.parametrize(
    ("line", "mounted", "removed", "unmounted"),
    [
        pytest.param(Line("x", "/old", "nfs", "ro,x-xnat-jupyter"), (), ["/old"], [], id="ours"),
        pytest.param(Line("x", "/old", "nfs", "ro,x-xnat-jupyter"), ("/old",), ["/old"], ["/old"], id="ours, mounted"),
        pytest.param(Line("x", "/old", "nfs", "ro"), ("/old",), [], [], id="somebody else's"),
        pytest.param(Line("x", row().path, "nfs", "ro,x-xnat-jupyter"), (), [row().path], [], id="no longer ours"),
        pytest.param(Line("x", row(NFS, "workspaces").path, "nfs", "x-xnat-jupyter"), (), [], [], id="a row's"),
    ],
)
def test_lines_of_a_former_table_are_removed(
    line: Line, mounted: tuple[str, ...], removed: list[str], unmounted: list[str]
) -> None:
    judgements = judged(row(), seen()), judged(workspaces(NFS), seen())
    found = changes_of(*judgements, lines=[line], mounted=mounted)
    assert found.fstab_remove == removed
    assert [one["path"] for one in found.unmount] == unmounted


@pytest.mark.parametrize(("manager", "names"), [("apt", ["nfs-common", "sshfs"]), ("dnf", ["nfs-utils", "fuse-sshfs"])])
def test_missing_mount_programs_are_installed(manager: str, names: list[str]) -> None:
    sshfs = row({"type": "sshfs", "server": "x", "path": "/x", "user": "u"})
    rows = [judged(one, seen()) for one in (row(NFS), workspaces(NFS), sshfs)]
    found = changes_of(*rows, helpers_missing=["nfs", "fuse.sshfs"], package_manager=manager)
    assert found.packages == names
    assert changes_of(*rows, package_manager=manager).packages == []


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        pytest.param({"fstab_remove": ["/old"]}, ["/old", "unmounted"], id="former row"),
        pytest.param({"files": ["/etc/key"]}, ["/etc/key", "written"], id="file"),
        pytest.param({"helpers": ["nfs"], "packages": ["nfs-common"]}, ["nfs", "installed"], id="mount program"),
        pytest.param({"drop_in": True}, ["/etc/drop-in.conf"], id="drop-in"),
    ],
)
def test_changes_are_predicted_in_sentences(changes: dict[str, Any], facts: list[str]) -> None:
    wanted = replace(NOTHING, **changes)
    assert wanted.needed
    (sentence,) = predictions([judged(row(), seen())], wanted, "/etc/drop-in.conf")
    assert [fact for fact in facts if fact not in sentence] == []


def test_what_is_fixed_is_predicted_and_what_is_unfixable_is_not() -> None:
    judgements = [judged(row(NFS), seen(), mount=None), judged(workspaces(), seen(readable=False))]
    assert predictions(judgements, NOTHING, "/x") == sentences(judgements, unfixable=False)
    assert sentences(judgements) == sentences(judgements, unfixable=False) + sentences(judgements, unfixable=True)


@pytest.mark.parametrize(
    ("found", "changes", "proved"),
    [
        pytest.param(seen(writable=True, token="t"), NOTHING, True, id="tested"),
        pytest.param(seen(writable=True), NOTHING, False, id="never tested"),
        pytest.param(seen(writable=True, token="t"), replace(NOTHING, drop_in=True), False, id="a change"),
        pytest.param(seen(writable=False, token="t"), NOTHING, False, id="a finding"),
    ],
)
def test_storage_is_proved_once_writing_was_tested(found: Seen, changes: Changes, proved: bool) -> None:
    assert is_proved([judged(workspaces(), found), judged(row(), seen())], changes) is proved


def inspected(*rows: Row, write: bool = True, user: User | None = None, timeout: float = 10) -> list[Seen]:
    """Inspect in children, as root with another user's number, else as the user who runs the tests."""
    chosen = (user or SITE) if IS_ROOT else MINE

    def work(one: Row) -> Callable[[Callable[..., None]], None]:
        return lambda tell: inspect(one, {}, chosen, write, tell)

    return [Seen(**told) for told in in_children([work(one) for one in rows], timeout)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of the user 1500, where the tests may give files away, below directories that all may enter."""
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.stat().st_uid == os.geteuid() and str(parent) not in ("/", "/tmp"):
            parent.chmod(0o755)
    path = tmp_path / "storage"
    path.mkdir()
    if IS_ROOT:
        os.chown(path, 1500, 1500)
    return path


def plain(path: Path, name: str = "workspaces", **changes: Any) -> Row:
    return row({"type": "directory"}, name, path=str(path), **changes)


def test_the_user_writes_and_leaves_only_the_token(directory: Path) -> None:
    first, second = inspected(plain(directory), plain(directory))
    owner = str(SITE if IS_ROOT else MINE)
    assert (first.writable, first.write_error, first.created_owner, first.owner) == (True, "", owner, owner)
    assert len(first.token) == 36
    assert first.token == second.token
    assert os.listdir(directory) == [TOKEN]
    assert (directory / TOKEN).stat().st_uid == (SITE if IS_ROOT else MINE).uid
    assert not first.hung


def test_without_write_nothing_is_written(directory: Path) -> None:
    (found,) = inspected(plain(directory), write=False)
    assert (found.writable, found.token) == (True, "")
    assert os.listdir(directory) == []


def test_a_directory_that_is_read_only_by_the_table_is_left_alone(directory: Path) -> None:
    (directory / "P1").mkdir()
    found, missing = inspected(plain(directory, "archive", sentinel="P1"), plain(directory, "archive", sentinel="P2"))
    assert (found.sentinel_found, missing.sentinel_found) == (True, False)
    assert found.write_refused == {}
    assert os.listdir(directory) == ["P1"]


@pytest.mark.parametrize("source", [NFS, BIND], ids=["nfs", "bind"])
def test_where_the_wanted_mount_is_missing_nothing_is_written(directory: Path, source: object) -> None:
    (found,) = inspected(row(source, "workspaces", path=str(directory)))
    assert found.exists
    assert (found.readable, found.writable, found.token) == (None, None, "")
    assert os.listdir(directory) == []


def test_a_bind_mount_is_known_by_its_source(directory: Path) -> None:
    (found,) = inspected(row({"type": "bind", "path": str(directory)}, path=str(directory)))
    assert (found.source_exists, found.same) == (True, True)
    (found,) = inspected(row({"type": "bind", "path": str(directory.parent)}, path=str(directory)))
    assert (found.source_exists, found.same) == (True, False)


def test_where_something_is_mounted_read_only_writing_is_tried(directory: Path) -> None:
    one = plain(directory, "archive")
    mounts = {os.path.realpath(directory): Mount("x", "nfs", "read_only")}
    user = SITE if IS_ROOT else MINE
    (told,) = in_children([lambda tell: inspect(one, mounts, user, True, tell)], 10)
    assert told["write_refused"] == ({"root": "", "user": ""} if IS_ROOT else {"user": ""})
    (told,) = in_children([lambda tell: inspect(one, mounts, user, False, tell)], 10)
    assert "write_refused" not in told
    assert os.listdir(directory) == []


@pytest.mark.skipif(not IS_ROOT, reason="needs another user")
def test_a_user_who_may_not_write_is_told_so(directory: Path) -> None:
    (found,) = inspected(plain(directory), user=User(1501, 1501))
    assert (found.writable, found.write_error, found.token) == (False, "EACCES", "")
    directory.chmod(0o700)
    (found,) = inspected(plain(directory), user=User(1501, 1501))
    assert found.readable is False


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    (found,) = inspected(plain(tmp_path / "none"))
    assert (found.exists, found.error, found.hung) == (False, "", False)
    assert found.real == str(tmp_path / "none")
    (found,) = inspected(row({"type": "bind", "path": str(tmp_path / "none")}, path=str(tmp_path)))
    assert (found.source_exists, found.same) == (False, None)
    (tmp_path / "file").touch()
    (found,) = inspected(plain(tmp_path / "file" / "none"))
    assert (found.exists, found.error) == (False, "ENOTDIR")


def test_what_hangs_is_given_up_and_the_others_are_seen() -> None:
    def slow(tell: Callable[..., None]) -> None:
        tell(real="/x")
        time.sleep(60)

    def quick(tell: Callable[..., None]) -> None:
        tell(exists=True)

    def broken(tell: Callable[..., None]) -> None:
        raise ValueError("bad")

    begin = time.monotonic()
    told = in_children([slow, quick, broken, slow], 1)
    assert time.monotonic() - begin < 3
    assert told[0] == {"real": "/x", "hung": True} == told[3]
    assert told[1] == {"exists": True, "hung": False}
    assert told[2] == {"error": "ValueError: bad", "hung": False}


def test_refusals_are_named(tmp_path: Path) -> None:
    assert try_to_create(str(tmp_path / "a")) == ""
    assert try_to_create(str(tmp_path / "none" / "a")) == "ENOENT"
    assert try_to_work(str(tmp_path / "b")) == ("", str(MINE))
    assert try_to_work(str(tmp_path / "none" / "b")) == ("ENOENT", "")
    assert os.listdir(tmp_path) == []


def test_a_token_is_made_once(tmp_path: Path) -> None:
    assert read_token(str(tmp_path), False) == ""
    token = read_token(str(tmp_path), True)
    assert token == read_token(str(tmp_path), True) == read_token(str(tmp_path), False) != ""


def test_files_that_differ_have_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "key"
    digest = hashlib.sha256(b"secret").hexdigest()
    assert files_to_write({str(path): digest}) == [str(path)]
    path.write_text("secret")
    path.chmod(0o600)
    assert files_to_write({str(path): digest}) == ([] if IS_ROOT else [str(path)])
    assert files_to_write({str(path): "0"}) == [str(path)]
    path.chmod(0o644)
    assert files_to_write({str(path): digest}) == [str(path)]


class Programs:
    """Stands in for the programs of a node. answers: exit code and standard error of each."""

    def __init__(self, **answers: tuple[int, str]) -> None:
        self.answers = answers
        self.calls: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> tuple[int, str, str]:
        self.calls.append(list(command))
        code, errors = self.answers[command[3]]
        return code, "", errors


SSHFS = row({"type": "sshfs", "server": "files", "path": "/x", "user": "u"})


def test_a_mount_that_works_is_not_talked_about() -> None:
    programs = Programs(mount=(0, "warning"))
    assert failure(asdict(row(NFS)), 30, programs) == ""
    assert programs.calls == [["timeout", "--kill-after=5", "30", "mount", "/srv/xnat/archive"]]


@pytest.mark.parametrize(
    ("one", "programs", "facts"),
    [
        pytest.param(row(NFS), Programs(mount=(32, " no \n\nno\nyes")), ["(no; yes)", "showmount"], id="errors"),
        pytest.param(row(NFS), Programs(mount=(124, "")), ["30 s", "showmount"], id="stopped"),
        pytest.param(row(NFS), Programs(mount=(137, "")), ["30 s"], id="killed"),
        pytest.param(row(BIND), Programs(mount=(1, "")), ["/mnt/a", "exit code 1"], id="silent"),
        pytest.param(
            SSHFS, Programs(mount=(1, "reset by peer"), sshfs=(1, "bad key")),
            ["(bad key)", "node_storage_ssh_key", "node_storage_ssh_known_hosts"], id="ssh says why",
        ),
        pytest.param(SSHFS, Programs(mount=(1, "reset by peer"), sshfs=(124, "")), ["(reset by peer)"], id="ssh works"),
    ],
)  # fmt: skip
def test_a_mount_that_fails_is_named_with_its_reason(one: Row, programs: Programs, facts: list[str]) -> None:
    sentence = failure(asdict(one), 30, programs)
    assert [fact for fact in [f"site_storage.{one.name}", one.src, one.path, *facts] if fact not in sentence] == []


def test_each_file_system_has_advice() -> None:
    cifs = row({"type": "cifs", "server": "x", "path": "/x"})
    assert {one.fstype for one in (row(NFS), row(BIND), SSHFS, cifs)} == set(ADVICE)
