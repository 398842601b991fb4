"""The mount rules: the table, the policy, and what XNAT may have mounted."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xnat_launcher.policy import Mount, MountError, allowed_mounts, clean_path, is_below, roots_from_policy

from module_utils.xnat_site.storage import mount_policy, path_translation, storage_rows
from tests.hub_settings import ATLASES, STORAGE
from tests.unit.conftest import SAMPLES, user_of

ROOTS = roots_from_policy(mount_policy(STORAGE, ATLASES))


def table(**rows: object) -> dict[str, Any]:
    return {**STORAGE, **rows}


def mount(source: object, target: object, read_only: object = True, type: object = "bind") -> dict[str, object]:
    return {"source": source, "target": target, "read_only": read_only, "type": type}


BAD_TABLES: list[tuple[object, str]] = [
    (None, "site_storage must be a table of rows such as archive and workspaces"),
    ({}, "site_storage must be a table of rows such as archive and workspaces"),
    ({"archive": STORAGE["archive"]}, "site_storage has no row 'workspaces': XNAT's workspaces directory must be said"),
    (table(extra="x"), "site_storage.extra must be a mapping with xnat_path, node_path and access"),
    (
        table(archive={**STORAGE["archive"], "access": "read_write"}),
        "site_storage.archive.access must be read_only: notebooks never write to the archive",
    ),
    (
        table(workspaces={**STORAGE["workspaces"], "access": "read_only"}),
        "site_storage.workspaces.access must be read_write: it is where users keep their work",
    ),
    (
        table(shared={**STORAGE["archive"], "access": "rw"}),
        "site_storage.shared.access is 'rw': set it to read_only or read_write",
    ),
    (
        table(archive={"xnat_path": "/a", "access": "read_only"}),
        "site_storage.archive.node_path is missing: give an absolute path",
    ),
    (
        table(archive={**STORAGE["archive"], "node_path": "srv"}),
        "site_storage.archive.node_path 'srv' is not an absolute path",
    ),
    (
        table(archive={**STORAGE["archive"], "node_path": "/"}),
        "site_storage.archive.node_path must not be the root directory '/'",
    ),
    (
        table(archive={**STORAGE["archive"], "node_path": "/srv/../etc"}),
        "site_storage.archive.node_path '/srv/../etc' holds '..', which is never followed",
    ),
    (
        table(shared={**STORAGE["archive"], "xnat_path": "/data/xnat/shared"}),
        "site_storage.archive and site_storage.shared have one node_path /srv/xnat/archive",
    ),
]


@pytest.mark.parametrize(("bad", "message"), BAD_TABLES)
def test_a_bad_storage_table_is_refused_with_row_and_key(bad: object, message: str) -> None:
    with pytest.raises(MountError, match=re.escape(message) + "$"):
        storage_rows(bad)


def test_the_policy_follows_from_the_table_and_the_allowed_compute_mounts() -> None:
    assert mount_policy(STORAGE, ATLASES[:1]) == [
        {
            "name": "archive",
            "path": "/srv/xnat/archive",
            "read_only": True,
            "targets": ["/data", "/workspace"],
            "per_user": False,
        },
        {
            "name": "workspaces",
            "path": "/srv/xnat/workspaces",
            "read_only": False,
            "targets": ["/data", "/workspace"],
            "per_user": True,
        },
        {
            "name": "allowed compute-environment mount 1",
            "path": "/srv/atlases",
            "read_only": True,
            "targets": ["/opt"],
            "per_user": False,
        },
    ]


@pytest.mark.parametrize("bad", ["/srv", 3, [{"source": "/a", "target": "/b"}], [{"access": "read_only"}], ["x"]])
def test_bad_compute_mounts_are_refused(bad: object) -> None:
    with pytest.raises(MountError):
        mount_policy(STORAGE, bad)


ROWS = table(
    scratch={"xnat_path": "/scratch", "node_path": "/srv/scratch", "access": "read_write"},
    old={"xnat_path": "/old", "node_path": "/srv/old", "access": "read_only"},
)
GROUND = [
    ("/srv/xnat/archive/P1", "read_write", "site_storage.archive"),
    ("/srv/xnat/archive", "read_only", "site_storage.archive"),
    ("/srv/xnat/workspaces/users/jdoe", "read_write", "site_storage.workspaces"),
    ("/srv/xnat/workspaces/tools", "read_only", "site_storage.workspaces"),
    ("/srv/xnat", "read_only", "site_storage.archive"),
    ("/srv", "read_only", "site_storage.archive"),
    ("/srv/scratch/a", "read_only", "site_storage.scratch"),
    ("/srv/old/a", "read_write", "site_storage.old"),
]


@pytest.mark.parametrize(("source", "access", "row"), GROUND)
def test_a_compute_mount_opens_no_more_of_a_row_than_the_row_itself(source: str, access: str, row: str) -> None:
    wanted = [{"source": "/srv/atlases", "target": "/opt/atlases", "access": "read_write"}]
    wanted += [{"source": source, "target": "/opt/x", "access": access}]
    with pytest.raises(MountError, match=rf"allowed compute-environment mount 2.*{re.escape(row)} "):
        mount_policy(ROWS, wanted)


def test_a_compute_mount_may_show_a_part_of_read_only_data() -> None:
    (root,) = mount_policy(ROWS, [{"source": "/srv/old/a", "target": "/opt/x", "access": "read_only"}])[4:]
    assert (root["path"], root["read_only"], root["targets"]) == ("/srv/old/a", True, ["/opt/x"])


@pytest.mark.parametrize(
    "target",
    ["/etc", "/usr/local/lib", "/run/secrets", "/var/run", "/dev/shm", "/lib64/x", "/bin", "/proc", "//sys/", "/root"],
)
def test_a_compute_mount_on_the_system_of_the_container_is_refused(target: str) -> None:
    wanted = [{"source": "/srv/atlases", "target": target, "access": "read_only"}]
    with pytest.raises(MountError, match=r"the target of allowed compute-environment mount 1 .* container's system"):
        mount_policy(STORAGE, wanted)


@pytest.mark.parametrize("key", ["xnat_path", "node_path"])
def test_no_path_of_the_site_holds_what_swarm_would_fill_in(key: str) -> None:
    with pytest.raises(MountError, match=rf"site_storage\.archive\.{key} .* which Swarm would fill in"):
        mount_policy(table(archive={**STORAGE["archive"], key: "/srv/{{.Node.ID}}"}))
    for half in ("source", "target"):
        entry = {"source": "/srv/a", "target": "/opt/a", "access": "read_only"} | {half: "/opt/{{.Node.ID}}"}
        with pytest.raises(MountError, match=rf"the {half} of .* which Swarm would fill in"):
            mount_policy(STORAGE, [entry])


def test_no_row_lies_where_users_could_put_a_link_in_its_place() -> None:
    inside = {"xnat_path": "/x", "node_path": "/srv/xnat/workspaces/users/jdoe/x", "access": "read_only"}
    with pytest.raises(MountError, match=r"site_storage\.x\.node_path .* which users can change"):
        storage_rows(table(x=inside))
    assert storage_rows(table(x={**inside, "node_path": "/srv/xnat/workspaces/shared"}))


def test_a_writable_mount_holds_no_other_root() -> None:
    nested = table(
        all={"xnat_path": "/all", "node_path": "/srv/all", "access": "read_write"},
        deep={"xnat_path": "/deep", "node_path": "/srv/all/a/b", "access": "read_write"},
    )
    roots = roots_from_policy(mount_policy(nested))
    with pytest.raises(MountError, match="deep lies in it"):
        allowed_mounts([mount("/srv/all/a", "/data/x", False)], roots, "jdoe")
    assert allowed_mounts([mount("/srv/all/a/b/c", "/data/x", False)], roots, "jdoe")


def test_a_name_with_a_slash_reaches_no_deeper_than_a_users_directory() -> None:
    with pytest.raises(MountError, match="only that is mounted"):
        allowed_mounts([mount("/srv/xnat/workspaces/users/jdoe/sub", "/workspace/x", False)], ROOTS, "jdoe/sub")


def test_many_mounts_are_judged_in_a_time_that_grows_with_their_number() -> None:
    wanted = [mount(f"/srv/xnat/archive/P1/{number}", f"/data/{number}") for number in range(50_000)]
    begin = time.process_time()
    assert len(allowed_mounts(wanted, ROOTS, "jdoe")) == len(wanted)
    assert time.process_time() - begin < 15  # each compared with each takes minutes


def test_path_translation_is_empty_where_paths_agree() -> None:
    same = {**STORAGE["archive"], "node_path": "/data/xnat/archive/"}
    assert path_translation(table(archive=same)) == {
        "pathTranslationArchivePrefix": "",
        "pathTranslationArchiveDockerPrefix": "",
        "pathTranslationWorkspacePrefix": "/data/xnat/workspaces",
        "pathTranslationWorkspaceDockerPrefix": "/srv/xnat/workspaces",
    }


def test_trailing_and_doubled_slashes_and_dots_are_normalised() -> None:
    wanted = [mount("//srv/xnat//archive/./P1/arc001/S1/", "/data/projects/P1/experiments/S1/")]
    assert allowed_mounts(wanted, ROOTS, "jdoe") == [
        Mount("/srv/xnat/archive/P1/arc001/S1", "/data/projects/P1/experiments/S1", True)
    ]


def test_several_targets_of_one_source_are_all_kept() -> None:  # contract 6.5
    source = "/srv/atlases/mni"
    made = allowed_mounts([mount(source, "/opt/a"), mount(source, "/opt/b")], ROOTS, "jdoe")
    assert [entry.target for entry in made] == ["/opt/a", "/opt/b"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (mount("/etc", "/data/etc"), "outside the directories"),
        (mount("/var/run/docker.sock", "/data/docker.sock"), "outside the directories"),
        (mount("/srv/xnat/archive2/P1", "/data/projects/P1"), "outside the directories"),
        (mount("/srv/xnat/archive/../../../etc", "/data/etc"), "'..'"),
        (mount("srv/xnat/archive/P1", "/data/x"), "not an absolute path"),
        (mount(None, "/data/x"), "is missing"),
        (mount("", "/data/x"), "is missing"),
        (mount("/srv/xnat/archive/P1", None), "is missing"),
        (mount("/srv/xnat/archive/P1\n", "/data/x"), "control character"),
        (mount("/srv/xnat/archive", "/data/all"), "the whole of archive"),
        (mount("/srv/xnat/workspaces/", "/workspace/jdoe", False), "the whole of workspaces"),
        (mount("/srv/xnat/archive/P1", "/data/projects/P1", False), "must be mounted read-only"),
        (mount("/srv/xnat/workspaces/users/asmith", "/workspace/jdoe", False), "is not users/jdoe of workspaces"),
        (mount("/srv/xnat/workspaces/users/JDoe", "/workspace/jdoe", False), "is not users/jdoe of workspaces"),
        (mount("/srv/xnat/workspaces/users", "/workspace/all", True), "is not users/jdoe of workspaces"),
        (mount("/srv/xnat/workspaces/users/jdoe/sub", "/workspace/jdoe"), "is not users/jdoe of workspaces"),
        (mount("/srv/shared/sub", "/home/jovyan/x", False), "is not /srv/shared itself: allowed compute-environment m"),
        (mount("/srv/shared/sub", "/opt/shared/x"), "is not /srv/shared itself: allowed compute-environment mount 3"),
        (mount('/srv/xnat/archive/P1/{{"."}}{{"."}}/x', "/data/x"), "'{{', which Swarm would fill in"),
        (mount("/srv/xnat/archive/P1", '/data/{{"."}}{{"."}}/x'), "'{{', which Swarm would fill in"),
        (mount("/srv/atlases/{{.Node.Hostname}}", "/opt/x"), "'{{', which Swarm would fill in"),
        (mount("/srv/atlases/a", "/dev/shm"), "lies outside /opt"),
        (mount("/srv/atlases", "/opt/atlases", False), "must be mounted read-only"),
        (mount("/srv/xnat/archive/P1", "/usr/lib"), "lies outside /data, /workspace"),
        (mount("/srv/xnat/archive/P1", "/data"), "would hide every other mount"),
        (mount("/srv/atlases/a", "/data/x"), "lies outside /opt"),
        (mount("/srv/xnat/archive/P1", "/data/x", None), "does not say whether"),
        (mount("/srv/xnat/archive/P1", "/data/x", "true"), "does not say whether"),
        (mount("/srv/xnat/archive/P1", "/data/x", True, "volume"), "only bind mounts"),  # contract 3.6
        (mount("/srv/xnat/archive/P1", "/data/x", True, None), "only bind mounts"),
        ("no mapping", "is not a mapping"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused_in_words(wanted: object, words: str) -> None:
    with pytest.raises(MountError, match=re.escape(words)):
        allowed_mounts([wanted], ROOTS, "jdoe")


def test_two_mounts_on_one_target_are_refused() -> None:
    wanted = [mount("/srv/xnat/archive/P1/a", "/data/x"), mount("/srv/xnat/archive/P2/a", "/data/x/")]
    with pytest.raises(MountError, match="two mounts have one target /data/x"):
        allowed_mounts(wanted, ROOTS, "jdoe")


def test_a_writable_mount_above_a_read_only_root_is_refused() -> None:
    nested = table(
        archive={**STORAGE["archive"], "node_path": "/srv/all/xnat/archive"},
        all={"xnat_path": "/all", "node_path": "/srv/all", "access": "read_write"},
    )
    roots = roots_from_policy(mount_policy(nested))
    with pytest.raises(MountError, match="archive lies in it"):
        allowed_mounts([mount("/srv/all/xnat", "/data/x", False)], roots, "jdoe")
    assert allowed_mounts([mount("/srv/all/other", "/data/x", False)], roots, "jdoe")
    with pytest.raises(MountError, match="is not directly below /srv/all: all is writable"):
        allowed_mounts([mount("/srv/all/other/link", "/data/x")], roots, "jdoe")
    assert allowed_mounts([mount("/srv/all/xnat", "/data/x", True)], roots, "jdoe")


def test_a_mount_above_all_users_workspaces_is_refused() -> None:
    nested = table(all={"xnat_path": "/all", "node_path": "/srv/xnat", "access": "read_only"})
    roots = roots_from_policy(mount_policy(nested))
    with pytest.raises(MountError, match="the whole of all"):
        allowed_mounts([mount("/srv/xnat", "/data/x")], roots, "jdoe")
    nested = table(all={"xnat_path": "/all", "node_path": "/srv", "access": "read_only"})
    roots = roots_from_policy(mount_policy(nested))
    with pytest.raises(MountError, match="holds the directories of all users in workspaces"):
        allowed_mounts([mount("/srv/xnat", "/data/x")], roots, "jdoe")


@pytest.mark.parametrize("sample", SAMPLES, ids=[sample["name"] for sample in SAMPLES])
def test_xnats_samples_are_judged_as_expected(sample: dict[str, Any]) -> None:
    body = sample["response"]["body"]
    wanted = body["task_template"]["container_spec"]["mounts"]
    if sample["expect"].get("refuse"):
        with pytest.raises(MountError):
            allowed_mounts(wanted, ROOTS, user_of(body))
        return
    made = allowed_mounts(wanted, ROOTS, user_of(body))
    assert len(made) == sample["expect"].get("mounts", len(wanted or []))
    if "rw_targets" in sample["expect"]:
        assert [entry.target for entry in made if not entry.read_only] == sample["expect"]["rw_targets"]


PIECES = st.sampled_from(
    [
        "",
        "/",
        "//",
        ".",
        "..",
        "srv",
        "xnat",
        "archive",
        "workspaces",
        "users",
        "jdoe",
        "atlases",
        "P1",
        "data",
        "opt",
        "etc",
        '{{"."}}',
        "\0",
        "ä",
    ]
)
PATHS = st.lists(PIECES, max_size=8).map("/".join) | st.none() | st.integers()
MOUNTS = st.fixed_dictionaries(
    {},
    optional={
        "source": PATHS,
        "target": PATHS,
        "type": st.sampled_from(["bind", "bind", "volume", None]),
        "read_only": st.sampled_from([True, False, None]),
    },
)


@given(st.lists(MOUNTS | st.none() | st.text(max_size=3), max_size=4))
def test_whatever_xnat_sends_what_is_mounted_is_inside_the_policy(wanted: list[object]) -> None:
    try:
        made = allowed_mounts(wanted, ROOTS, "jdoe")
    except MountError:
        return
    assert len(made) == len(wanted)
    assert not any("workspaces" in entry.source and not entry.source.endswith("/users/jdoe") for entry in made)
    assert not any("{{" in entry.source + entry.target for entry in made)
    assert len({entry.target for entry in made}) == len(made)
    for entry in made:
        assert ".." not in entry.source.split("/")
        fitting = [
            root
            for root in ROOTS
            if is_below(entry.source, root.path) and any(is_below(entry.target, target) for target in root.targets)
        ]
        assert fitting
        assert entry.read_only or not all(root.read_only for root in fitting)


@given(PATHS)
def test_clean_paths_are_absolute_and_stay_as_they_are(value: object) -> None:
    try:
        path = clean_path(value, "x")
    except MountError:
        return
    assert path.startswith("/")
    assert path != "/"
    assert clean_path(path, "x") == path


def test_a_target_within_what_the_user_can_write_to_is_refused() -> None:
    wanted = [
        mount("/srv/xnat/archive/P1/a", "/workspace/jdoe/x"),
        mount("/srv/xnat/workspaces/users/jdoe", "/workspace/jdoe", False),
    ]
    with pytest.raises(MountError, match="the target /workspace/jdoe/x lies in /workspace/jdoe"):
        allowed_mounts(wanted, ROOTS, "jdoe")
    beside = mount("/srv/xnat/archive/P1/a", "/workspace/jdoe2")
    assert len(allowed_mounts([beside, wanted[1]], ROOTS, "jdoe")) == 2
