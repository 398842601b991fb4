"""Inspects a notebook's environment. The smoke test sends this file as text to a kernel and calls `look` there."""

from __future__ import annotations

import glob
import json  # noqa: F401  (used by the call that is sent after this file)
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import requests

TIMEOUT = 20  # seconds for one call to XNAT
PREAMBLE = 128  # bytes before the magic number of a DICOM file


def look(mark: str) -> dict[str, Any]:
    """Read data, try to write, log in to XNAT, and write `mark` to the workspace. Returns the results.

    closed: whether the process has no capabilities and cannot gain privileges. files: the number of files below /data.
    first: the path of a DICOM file there, with its modality and the shape of its pixels; each None if there is none.
    refused: a text for each directory that cannot be written to. before: the mark that an earlier server wrote. xnat:
    the status of a log-in. by_xnat, by_pyxnat: the projects that these libraries list, or their error.
    """
    files = [path for path in glob.iglob("/data/**", recursive=True) if os.path.isfile(path)]
    first = next((path for path in files if is_dicom(path)), None)
    image = pydicom.dcmread(first) if first else None
    host, login = os.environ["XNAT_HOST"], (os.environ["XNAT_USER"], os.environ["XNAT_PASS"])
    return {
        "closed": is_closed(Path("/proc/self/status").read_text()),
        "files": len(files),
        "first": first,
        "modality": str(image.get("Modality")) if image is not None else None,
        "pixels": str(image.pixel_array.shape) if image is not None and "PixelData" in image else None,
        "refused": refusals([*sorted({os.path.dirname(path) for path in files})[:1], "/data"]),
        "before": exchange(Path(os.environ["JUPYTERHUB_ROOT_DIR"], ".xnat-jupyter-verify"), mark),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "xnat": log_in(host, login),
        "by_xnat": projects(lambda: by_xnat(host, login)),
        "by_pyxnat": projects(lambda: by_pyxnat(host, login)),
    }


def is_dicom(path: str) -> bool:
    """Return whether a file has DICOM's magic number."""
    with open(path, "rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def is_closed(status: str) -> bool:
    """Return whether a process has no capabilities and cannot gain privileges. status: its /proc/PID/status."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return fields["CapBnd"].strip("0\n") == "" and fields["NoNewPrivs"].strip() == "1"


def refusals(folders: list[str]) -> list[str]:
    """Try to write to these directories; return the error of each that refuses."""
    refused = []
    for folder in folders:
        try:
            Path(folder, "verify-must-not-write").touch()
        except OSError as error:
            refused.append(f"{folder}: {error.strerror}")
    return refused


def exchange(path: Path, mark: str) -> str:
    """Write a file and return its old content, empty if it did not exist."""
    before = path.read_text() if path.exists() else ""
    path.write_text(mark)
    return before


def log_in(host: str, login: tuple[str, str]) -> int:
    """Log in to XNAT, log out, and return the status of the log-in."""
    answer = requests.get(f"{host}/data/JSESSION", auth=login, timeout=TIMEOUT, allow_redirects=False)
    requests.delete(f"{host}/data/JSESSION", cookies=answer.cookies, timeout=TIMEOUT)
    return answer.status_code


def projects(library: Callable[[], list[str]]) -> list[str] | str:
    """Return the projects that a library lists, or its error."""
    try:
        return sorted(library())
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]


def by_xnat(host: str, login: tuple[str, str]) -> list[str]:
    """List projects with the library xnat."""
    import xnat

    limits = {"default_timeout": 30, "pilot_timeout": 30}
    with xnat.connect(host, user=login[0], password=login[1], loglevel="ERROR", **limits) as session:
        return [project.id for project in session.projects.values()]


def by_pyxnat(host: str, login: tuple[str, str]) -> list[str]:
    """List projects with the library pyxnat."""
    import pyxnat

    interface = pyxnat.Interface(server=host, user=login[0], password=login[1])
    try:
        # Not select.projects(), which returns an empty list on any error.
        return [row["ID"] for row in interface._get_json("/data/projects")]
    finally:
        interface.disconnect()
