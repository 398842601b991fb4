"""The storage table, and what is derived from it for the launcher's policy and for XNAT."""

from __future__ import annotations

import re
from typing import Any

import pytest

from module_utils.xnat_launcher.policy import MountError
from module_utils.xnat_site.storage import mount_policy, path_translation, storage_rows
from tests.hub_settings import ATLASES, STORAGE


def table(**rows: object) -> dict[str, Any]:
    return {**STORAGE, **rows}


BAD_TABLES: list[tuple[object, str]] = [
    (None, "site_storage must be a table of rows such as archive and workspaces"),
    ({}, "site_storage must be a table of rows such as archive and workspaces"),
    (
        {"archive": STORAGE["archive"]},
        "site_storage has no row 'workspaces': add a row for XNAT's workspaces directory",
    ),
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
        "site_storage.archive.node_path is missing: set an absolute path",
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
        "site_storage.archive.node_path '/srv/../etc' contains '..', which is not allowed",
    ),
    (
        table(shared={**STORAGE["archive"], "xnat_path": "/data/xnat/shared"}),
        "site_storage.archive and site_storage.shared have the same node_path /srv/xnat/archive",
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
    with pytest.raises(MountError, match=rf"site_storage\.archive\.{key} .* which Swarm would expand"):
        mount_policy(table(archive={**STORAGE["archive"], key: "/srv/{{.Node.ID}}"}))
    for half in ("source", "target"):
        entry = {"source": "/srv/a", "target": "/opt/a", "access": "read_only"} | {half: "/opt/{{.Node.ID}}"}
        with pytest.raises(MountError, match=rf"the {half} of .* which Swarm would expand"):
            mount_policy(STORAGE, [entry])


def test_no_row_lies_where_users_could_put_a_link_in_its_place() -> None:
    inside = {"xnat_path": "/x", "node_path": "/srv/xnat/workspaces/users/jdoe/x", "access": "read_only"}
    with pytest.raises(MountError, match=r"site_storage\.x\.node_path .* which users can change"):
        storage_rows(table(x=inside))
    assert storage_rows(table(x={**inside, "node_path": "/srv/xnat/workspaces/shared"}))


def test_path_translation_is_empty_where_paths_agree() -> None:
    same = {**STORAGE["archive"], "node_path": "/data/xnat/archive/"}
    assert path_translation(table(archive=same)) == {
        "pathTranslationArchivePrefix": "",
        "pathTranslationArchiveDockerPrefix": "",
        "pathTranslationWorkspacePrefix": "/data/xnat/workspaces",
        "pathTranslationWorkspaceDockerPrefix": "/srv/xnat/workspaces",
    }
