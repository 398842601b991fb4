"""The demo XNAT's archive on disk, its path translation and its two configuration files."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import nibabel
import pydicom
import pytest
from demo_xnat import archive
from demo_xnat.__main__ import main
from demo_xnat.options import translate
from demo_xnat.settings import Secrets, Settings, SettingsError, load

SESSIONS = [session for project in archive.PROJECTS for _, session in project.sessions()]
SETTINGS: dict[str, Any] = {
    "port": 8080,
    "site_url": "http://localhost:8080",
    "archive_path": "/data/xnat/archive",
    "database": "/var/lib/demo_xnat/xnat.db",
    "secrets_file": "/run/secrets/demo_xnat",
}


def files_below(root: Path) -> dict[str, int]:
    """Path -> time of the last change in nanoseconds, for every file."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_archive_has_xnat_s_layout_and_files_that_can_be_read(tmp_path: Path) -> None:
    archive.lay_out(tmp_path)
    dicom = sorted(tmp_path.glob("*/arc001/*/SCANS/*/DICOM/*.dcm"))
    nifti = sorted(tmp_path.glob("*/arc001/*/SCANS/*/NIFTI/*.nii*"))
    assert len(dicom) >= 20
    assert {str(pydicom.dcmread(path).Modality) for path in dicom} == {"MR", "CT"}
    assert all(pydicom.dcmread(path).pixel_array.any() for path in dicom)
    images = [nibabel.load(path) for path in nifti]
    assert [image.ndim for image in images if isinstance(image, nibabel.Nifti1Image)] == [4, 3]
    for project in archive.PROJECTS:
        assert (tmp_path / project.id / "resources").is_dir()
        assert all((tmp_path / project.id / "subjects" / subject.label).is_dir() for subject in project.subjects)


def test_the_archive_lists_one_session_that_is_not_on_disk(tmp_path: Path) -> None:
    archive.lay_out(tmp_path)
    missing = [session.label for session in SESSIONS if not list(tmp_path.glob(f"*/arc001/{session.label}"))]
    assert missing == ["missing_session"]


def test_ids_and_keys_are_unique() -> None:
    sessions = [session.id for session in SESSIONS]
    keys = [scan.key for session in SESSIONS for scan in session.scans]
    assert len(set(sessions)) == len(sessions)
    assert len(set(keys)) == len(keys)


def test_a_second_layout_writes_nothing(tmp_path: Path) -> None:
    assert archive.lay_out(tmp_path) > 0
    before = files_below(tmp_path)
    assert archive.lay_out(tmp_path) == 0
    assert files_below(tmp_path) == before


def test_an_interrupted_layout_is_completed_and_right_files_stay(tmp_path: Path) -> None:
    archive.lay_out(tmp_path)
    before = files_below(tmp_path)
    removed, truncated = sorted(tmp_path.glob("*/arc001/*/SCANS/*/DICOM/*.dcm"))[:2]
    part = removed.with_name(f".{removed.name}.part")
    removed.unlink()
    part.write_bytes(b"half")
    truncated.write_bytes(truncated.read_bytes()[:100])
    removed.parent.chmod(0o700)
    assert archive.lay_out(tmp_path) == 2
    after = files_below(tmp_path)
    assert after.keys() == before.keys()
    assert {path for path in before if after[path] != before[path]} == {str(removed), str(truncated)}
    assert stat.S_IMODE(removed.parent.stat().st_mode) == 0o755


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        archive.lay_out(tmp_path / "archive")
    finally:
        os.umask(old)
    below = [tmp_path / "archive", *(tmp_path / "archive").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in below if path.is_dir()} == {0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in below if path.is_file()} == {0o644}


def test_an_archive_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "DEMO_MR").write_text("in the way")
    with pytest.raises(archive.ArchiveError, match=r"Cannot create the demo archive: .*DEMO_MR.*: File exists\."):
        archive.lay_out(tmp_path)


TRANSLATIONS = [
    ("prefix", "/a/archive/P1", "/a/archive", "/mnt", "/mnt/P1"),
    ("every occurrence", "/x/P/x/y", "/x", "/m", "/m/P/m/y"),
    ("not anchored", "/srv/a/archive/P1", "/a/archive", "/mnt", "/srv/mnt/P1"),
    ("no slash is mended", "/a/archive/P1", "/a/archive/", "/mnt", "/mntP1"),
    ("blank pair is off", "/a/archive/P1", " ", "/mnt", "/a/archive/P1"),
    ("half a pair is off", "/a/archive/P1", "/a/archive", "", "/a/archive/P1"),
    ("other path", "/b/P1", "/a/archive", "/mnt", "/b/P1"),
]


@pytest.mark.parametrize(
    ("path", "prefix", "docker_prefix", "expected"),
    [case[1:] for case in TRANSLATIONS],
    ids=[c[0] for c in TRANSLATIONS],
)
def test_paths_are_translated_as_java_replaces(path: str, prefix: str, docker_prefix: str, expected: str) -> None:
    assert translate(path, prefix, docker_prefix) == expected


def test_the_settings_file_is_read_with_its_types(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS))
    assert load(path, Settings) == Settings(**SETTINGS)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        pytest.param(SETTINGS | {"port": "8080"}, "port: ", id="text for a number"),
        pytest.param(SETTINGS | {"port": True}, "port: ", id="a boolean is no number"),
        pytest.param({key: SETTINGS[key] for key in SETTINGS if key != "database"}, "database: ", id="missing"),
        pytest.param(SETTINGS | {"colour": "red"}, "colour: ", id="unknown"),
        pytest.param([1], "", id="a list"),
    ],
)
def test_a_wrong_settings_file_is_named_with_the_place_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, place: str
) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: {place}")


def test_a_missing_secrets_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(SETTINGS | {"secrets_file": str(tmp_path / "none")}))
    assert main([str(path)]) == 2
    assert capsys.readouterr().err == f"Cannot read {tmp_path}/none: No such file or directory.\n"


def test_secrets_appear_in_no_message_and_no_representation(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"password": "secret-1", "admin_password": "secret-1", "other": "secret-2"}))
    with pytest.raises(SettingsError) as failure:
        load(path, Secrets)
    assert str(failure.value).startswith(f"{path}: other: ")
    assert "secret-" not in str(failure.value)
    assert failure.value.__cause__ is None
    assert "secret-1" not in repr(Secrets("secret-1", "secret-1"))


@pytest.mark.parametrize(
    ("database", "sentence"),
    [("none/xnat.db", "No such file or directory."), ("text", "file is not a database.")],
)
def test_a_database_that_cannot_be_used_is_named_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str, sentence: str
) -> None:
    (tmp_path / "text").write_text("no database at all " * 100)
    (tmp_path / "secrets.json").write_text(json.dumps({"password": "people", "admin_password": "x"}))
    paths = {"archive_path": "archive", "database": database, "secrets_file": "secrets.json"}
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(SETTINGS | {name: str(tmp_path / path) for name, path in paths.items()}))
    assert main([str(settings)]) == 1
    assert capsys.readouterr().err == f"Cannot use the database {tmp_path / database}: {sentence}\n"
