"""The content of the demo archive, and how it is written to disk in XNAT's directory layout.

The images are real DICOM and NIfTI files, copied out of the installed pydicom and nibabel packages.
"""

from __future__ import annotations

import filecmp
import importlib.resources
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT_TYPE = "xnat:projectData"
SUBJECT_TYPE = "xnat:subjectData"
EXPERIMENT_TYPE = "xnat:experimentData"
SCAN_TYPE = "xnat:imageScanData"
CURRENT_ARC = "arc001"
_DIRECTORIES = {"pydicom": "data/test_files", "nibabel": "tests/data"}
_ORIGIN = (
    "The images of this demo archive are test files of the pydicom and nibabel projects.\n"
    "They show nobody's current data and are of no clinical use.\n"
)


class ArchiveError(RuntimeError):
    """The archive could not be created; the text names the file or directory and the cause."""


@dataclass(frozen=True)
class Scan:
    """One scan. ``key`` is XNAT's site-wide integer key, ``id`` the number within the session.

    ``files`` are "package:path" names; ``folder`` is the resource they lie in (DICOM or NIFTI).
    """

    key: int
    id: str
    xsi_type: str
    description: str
    folder: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Session:
    """One imaging session; ``on_disk`` is False for the session that is listed but has no directory."""

    id: str
    label: str
    xsi_type: str
    date: str
    scans: tuple[Scan, ...]
    on_disk: bool = True


@dataclass(frozen=True)
class Subject:
    """One subject."""

    id: str
    label: str
    sessions: tuple[Session, ...]


@dataclass(frozen=True)
class Project:
    """One project; ``id`` is also its directory name."""

    id: str
    name: str
    description: str
    subjects: tuple[Subject, ...]

    def sessions(self) -> Iterator[tuple[Subject, Session]]:
        """Every session with its subject."""
        for subject in self.subjects:
            for session in subject.sessions:
                yield subject, session

    def scans(self) -> Iterator[tuple[Session, Scan]]:
        """Every scan with its session."""
        for _, session in self.sessions():
            for scan in session.scans:
                yield session, scan


def _dicomdir(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"pydicom:dicomdirtests/{folder}/{name}" for name in names)


MR, CT = ("xnat:mrSessionData", "xnat:mrScanData"), ("xnat:ctSessionData", "xnat:ctScanData")

# Labels contain only letters, digits, "_" and "-", as XNAT requires.
PROJECTS = (
    Project("DEMO_MR", "Demo MR", "Small MR sessions, DICOM and NIfTI", (
        Subject("XNAT_S00001", "MR_S01", (
            Session("XNAT_E00001", "MR_S01_MR1", MR[0], "2004-08-26", (
                Scan(101, "1", MR[1], "Brain", "DICOM", ("pydicom:MR_small.dcm",)),
                Scan(102, "2", MR[1], "Time series", "NIFTI", ("nibabel:example4d.nii.gz",)),
            )),
            Session("XNAT_E00002", "MR_S01_MR2", MR[0], "2003-05-05", (
                Scan(103, "2", MR[1], "Pilot", "DICOM", _dicomdir("98892003/MR2", "6273", "6605", "6935")),
                Scan(104, "700", MR[1], "Angiography", "DICOM", _dicomdir(
                    "98892003/MR700", "4467", "4528", "4558", "4588", "4618", "4648", "4678")),
            )),
        )),
        Subject("XNAT_S00002", "MR_S02", (
            Session("XNAT_E00003", "MR_S02_MR1", MR[0], "2009-01-19", (
                Scan(105, "1", MR[1], "Mosaic", "DICOM", ("nibabel:0.dcm", "nibabel:1.dcm")),
                Scan(106, "2", MR[1], "Anatomical", "NIFTI", ("nibabel:anatomical.nii",)),
            )),
            Session("XNAT_E00004", "missing_session", MR[0], "2009-01-20", (
                Scan(107, "1", MR[1], "Listed, but not on disk", "DICOM", ()),
            ), on_disk=False),
        )),
    )),
    Project("DEMO_CT", "Demo CT", "Small CT sessions, DICOM", (
        Subject("XNAT_S00003", "CT_S01", (
            Session("XNAT_E00005", "CT_S01_CT1", CT[0], "2004-01-19", (
                Scan(201, "1", CT[1], "Thorax", "DICOM", ("pydicom:CT_small.dcm",)),
            )),
        )),
        Subject("XNAT_S00004", "CT-S02", (
            Session("XNAT_E00006", "CT-S02_Follow-up-2", CT[0], "1995-09-03", (
                Scan(202, "2", CT[1], "Routine brain", "DICOM", _dicomdir(
                    "77654033/CT2", "17106", "17136", "17166", "17196")),
            )),
            Session("XNAT_E00007", "CT-S02_CT3", CT[0], "2001-01-01", (
                Scan(203, "4", CT[1], "Scout", "DICOM", _dicomdir("98892001/CT2N", "6293", "6924")),
                Scan(204, "5", CT[1], "Gated", "DICOM", _dicomdir(
                    "98892001/CT5N", "2062", "2392", "2693", "3023", "3353")),
            )),
        )),
    )),
)  # fmt: skip

_PROJECT_BY_ID = {project.id: project for project in PROJECTS}


def find_project(project_id: str) -> Project | None:
    """The project of that exact id."""
    return _PROJECT_BY_ID.get(project_id)


def find_session(session_id: str) -> tuple[Project, Subject, Session] | None:
    """The session with that accession id, with its project and subject."""
    for project in PROJECTS:
        for subject, session in project.sessions():
            if session.id == session_id:
                return project, subject, session
    return None


def generalised(xsi_type: str) -> str:
    """The type stored in user-options: sessions and scans become their general type (docs/xnat-contract.md, 1.4.2)."""
    if xsi_type == EXPERIMENT_TYPE or xsi_type.endswith("SessionData"):
        return EXPERIMENT_TYPE
    if xsi_type.endswith("ScanData"):
        return SCAN_TYPE
    return xsi_type


def holds(project: Project, item_id: str) -> bool:
    """Whether the project contains a subject, session or scan of that id (scans: the integer key as text)."""
    ids = {subject.id for subject in project.subjects}
    ids |= {session.id for _, session in project.sessions()}
    ids |= {str(scan.key) for _, scan in project.scans()}
    return item_id in ids


def lay_out(archive_path: Path) -> int:
    """Create the archive below ``archive_path`` and return the number of written files.

    Correct files stay untouched, and each file appears whole or not at all, so the next start completes one that
    was interrupted. Directories get mode 0755, files 0644, whatever the umask.

    Raises:
        ArchiveError: a source file is not in the installed packages, or the disk refuses.

    """
    written = 0
    try:
        for project in PROJECTS:
            root = archive_path / project.id
            written += _write(archive_path, root / "resources" / "documents" / "ORIGIN.txt", _ORIGIN)
            for subject in project.subjects:
                note = f"{subject.label}: {len(subject.sessions)} session(s) in {project.id}\n"
                written += _write(archive_path, root / "subjects" / subject.label / "notes" / "notes.txt", note)
            for session, scan in project.scans():
                if not session.on_disk:
                    continue
                folder = root / CURRENT_ARC / session.label / "SCANS" / scan.id / scan.folder
                for name in scan.files:
                    written += _write(archive_path, folder / _target_name(name), _source(name))
    except OSError as error:
        raise ArchiveError(f"Cannot create the demo archive: {error.filename}: {error.strerror}.") from error
    return written


def _source(name: str) -> Path:
    package, _, relative = name.partition(":")
    path = Path(str(importlib.resources.files(package))) / _DIRECTORIES[package] / relative
    if not path.is_file():
        raise ArchiveError(f"The installed package {package} does not contain {_DIRECTORIES[package]}/{relative}.")
    return path


def _target_name(name: str) -> str:
    base = Path(name.partition(":")[2]).name
    return base if "." in base else f"{base}.dcm"


def _write(archive_path: Path, target: Path, content: Path | str) -> int:
    """Write the content to ``target`` unless it exists; return 1 if it was written, else 0."""
    _make_directories(archive_path, target.parent)
    if target.is_file() and _is_right(target, content):
        return 0
    part = target.with_name(f".{target.name}.part")
    if isinstance(content, str):
        part.write_text(content, encoding="utf-8")
    else:
        shutil.copyfile(content, part)
    part.chmod(0o644)
    os.replace(part, target)
    return 1


def _is_right(target: Path, content: Path | str) -> bool:
    if isinstance(content, str):
        return target.read_bytes() == content.encode()
    return filecmp.cmp(content, target, shallow=False)


def _make_directories(archive_path: Path, directory: Path) -> None:
    """Create ``directory`` and its parents below the archive; an existing archive root is not changed."""
    if not archive_path.exists():
        archive_path.mkdir(parents=True)
        archive_path.chmod(0o755)
    path = archive_path
    for part in directory.relative_to(archive_path).parts:
        path = path / part
        path.mkdir(exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) != 0o755:
            path.chmod(0o755)
