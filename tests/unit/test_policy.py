"""The mount policy: what XNAT may have mounted."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xnat_launcher.policy import Mount, MountError, allowed_mounts, clean_path, is_below, roots_from_policy

from module_utils.xnat_site.storage import mount_policy
from tests.hub_settings import ATLASES, STORAGE
from tests.unit.conftest import SAMPLES, user_of

ROOTS = roots_from_policy(mount_policy(STORAGE, ATLASES))


def table(**rows: object) -> dict[str, Any]:
    return {**STORAGE, **rows}


def mount(source: object, target: object, read_only: object = True, type: object = "bind") -> dict[str, object]:
    return {"source": source, "target": target, "read_only": read_only, "type": type}


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
    with pytest.raises(MountError, match="only that may be mounted"):
        allowed_mounts([mount("/srv/xnat/workspaces/users/jdoe/sub", "/workspace/x", False)], ROOTS, "jdoe/sub")


def test_many_mounts_are_judged_in_a_time_that_grows_with_their_number() -> None:
    wanted = [mount(f"/srv/xnat/archive/P1/{number}", f"/data/{number}") for number in range(50_000)]
    begin = time.process_time()
    assert len(allowed_mounts(wanted, ROOTS, "jdoe")) == len(wanted)
    assert time.process_time() - begin < 15  # each compared with each takes minutes


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
        (mount('/srv/xnat/archive/P1/{{"."}}{{"."}}/x', "/data/x"), "'{{', which Swarm would expand"),
        (mount("/srv/xnat/archive/P1", '/data/{{"."}}{{"."}}/x'), "'{{', which Swarm would expand"),
        (mount("/srv/atlases/{{.Node.Hostname}}", "/opt/x"), "'{{', which Swarm would expand"),
        (mount("/srv/atlases/a", "/dev/shm"), "lies outside /opt"),
        (mount("/srv/atlases", "/opt/atlases", False), "must be mounted read-only"),
        (mount("/srv/xnat/archive/P1", "/usr/lib"), "lies outside /data, /workspace"),
        (mount("/srv/xnat/archive/P1", "/data"), "would hide every other mount"),
        (mount("/srv/atlases/a", "/data/x"), "lies outside /opt"),
        (mount("/srv/xnat/archive/P1", "/data/x", None), "read_only of the mount on /data/x"),
        (mount("/srv/xnat/archive/P1", "/data/x", "true"), "read_only of the mount on /data/x"),
        (mount("/srv/xnat/archive/P1", "/data/x", True, "volume"), "only bind mounts"),  # contract 3.6
        (mount("/srv/xnat/archive/P1", "/data/x", True, None), "only bind mounts"),
        ("no mapping", "is not an object"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused_in_words(wanted: object, words: str) -> None:
    with pytest.raises(MountError, match=re.escape(words)):
        allowed_mounts([wanted], ROOTS, "jdoe")


def test_two_mounts_on_one_target_are_refused() -> None:
    wanted = [mount("/srv/xnat/archive/P1/a", "/data/x"), mount("/srv/xnat/archive/P2/a", "/data/x/")]
    with pytest.raises(MountError, match="two mounts have the same target /data/x"):
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
    with pytest.raises(MountError, match="contains the directories of all users in workspaces"):
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
