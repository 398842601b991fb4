"""What a launch on an item would mount (docs/xnat-contract.md, 3)."""

from __future__ import annotations

from typing import Any

import pytest

from module_utils.xnat_launcher.policy import roots_from_policy
from module_utils.xnat_site import launch_preview
from module_utils.xnat_site.storage import mount_policy, path_translation

TABLE: dict[str, Any] = {
    "archive": {"xnat_path": "/data/xnat/archive", "node_path": "/srv/archive", "access": "read_only"},
    "workspaces": {"xnat_path": "/data/xnat/workspaces", "node_path": "/srv/workspaces", "access": "read_write"},
}
ROOTS = roots_from_policy(mount_policy(TABLE))
PREFERENCES = {"workspacePath": "/data/xnat/workspaces/", **path_translation(TABLE)}
SPECIFICATION = """<?xml version="1.0" encoding="UTF-8"?>
<arc:project id="P" current_arc="arc002" xmlns:arc="http://nrg.wustl.edu/arc">
  <arc:paths>{}</arc:paths>
</arc:project>"""


def session(*uris: str) -> dict[str, Any]:
    """A session in XNAT's nested form, with a scan for each catalog."""
    scans = [
        {"data_fields": {"ID": "1"}, "children": [{"field": "file", "items": [{"data_fields": {"URI": uri}}]}]}
        for uri in uris
    ]
    return {"data_fields": {"label": "S1", "project": "P"}, "children": [{"field": "scans/scan", "items": scans}]}


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        (SPECIFICATION.format("<arc:archivePath>/other/P/</arc:archivePath>"), ("/other/P", "arc002")),
        (SPECIFICATION.format("<arc:archivePath> </arc:archivePath>"), ("/data/xnat/archive/P", "arc002")),
        (SPECIFICATION.format(""), ("/data/xnat/archive/P", "arc002")),
        ('<arc:project xmlns:arc="http://nrg.wustl.edu/arc"/>', ("/data/xnat/archive/P", "arc001")),
    ],
)
def test_a_projects_directory_is_its_own_or_below_the_sites(specification: str, expected: tuple[str, str]) -> None:
    assert launch_preview.archive_root(specification, "/data/xnat/archive/", "P") == expected


def test_a_specification_that_is_no_xml_is_told() -> None:
    with pytest.raises(launch_preview.ItemError, match="XNAT's archive specification of P is not valid XML"):
        launch_preview.archive_root("<html>", "/a", "P")


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        (["/data/xnat/archive/P/arc001/S1/SCANS/1/DICOM/scan_1_catalog.xml"], "/data/xnat/archive/P/arc001/S1/"),
        (["relative/S1/x", "/old/P/arc003/S1/x"], "/old/P/arc003/S1/"),
        (["/elsewhere/catalog.xml"], "/r/arc002/S1/"),
        ([], "/r/arc002/S1/"),
    ],
)
def test_a_sessions_directory_is_where_its_catalogs_are(uris: list[str], expected: str) -> None:
    assert launch_preview.session_directory(session(*uris), "/r", "arc002") == expected


def test_targets_and_sources_are_the_plugins() -> None:
    target = "/data/projects/P"
    assert launch_preview.project_paths("P", "/r", "arc001") == {
        f"{target}/experiments": "/r/arc001",
        f"{target}/resources": "/r/resources",
        f"{target}/subjects": "/r/subjects",
    }
    assert launch_preview.subject_paths("P", "/r", "SUB", {"S1": "/r/arc001/S1/"}) == {
        f"{target}/subject-resources/SUB": "/r/subjects/SUB",
        f"{target}/experiments/S1": "/r/arc001/S1/",
    }
    assert launch_preview.session_paths("P", "S1", "/r/arc001/S1/") == {f"{target}/experiments/S1": "/r/arc001/S1/"}
    assert launch_preview.scan_paths("P", "S1", "/r/arc001/S1/", "4") == {
        f"{target}/experiments/S1/SCANS/4": "/r/arc001/S1/SCANS/4"
    }


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "expected"),
    [
        ("/a/archive/P1", "/a/archive", "/mnt", "/mnt/P1"),
        ("/a/archive/P1", "/a/archive/", "/mnt", "/mntP1"),
        ("/a/x/a", "/a", "/b", "/b/x/b"),
        ("/a/x", "", "/b", "/a/x"),
        ("/a/x", "/a", " ", "/a/x"),
        ("/a x", " ", "/b", "/a x"),
    ],
)
def test_translation_is_xnats(path: str, prefix: str, replacement: str, expected: str) -> None:
    assert launch_preview.translated(path, prefix, replacement) == expected


def test_a_launch_has_the_workspace_first_and_a_verdict_for_each_mount() -> None:
    paths = {"/data/projects/P/experiments/S1": "/data/xnat/archive/P/arc001/S1/", "/data/projects/P/x": "/old/P/x"}
    workspace, data, outside = launch_preview.launch_mounts(paths, PREFERENCES, "jdoe", ROOTS)
    assert workspace == {
        "target": "/workspace/jdoe", "xnat_source": "/data/xnat/workspaces/users/jdoe",
        "source": "/srv/workspaces/users/jdoe", "read_only": False, "allowed": True, "reason": "",
    }  # fmt: skip
    assert (data["source"], data["read_only"], data["allowed"]) == ("/srv/archive/P/arc001/S1/", True, True)
    assert outside["source"] == "/old/P/x"
    assert not outside["allowed"]
    assert outside["reason"].startswith("/old/P/x (for /data/projects/P/x) lies outside the directories")


def test_a_workspace_path_that_is_not_the_tables_is_refused() -> None:
    (workspace,) = launch_preview.launch_mounts(
        {}, {**PREFERENCES, "workspacePath": "/data/xnat/archive"}, "jdoe", ROOTS
    )
    assert not workspace["allowed"]
