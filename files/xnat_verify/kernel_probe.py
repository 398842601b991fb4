"""What a notebook sees. The smoke test sends this file as text to a kernel and calls `look` there."""

from __future__ import annotations

import glob
import json  # noqa: F401  (for the call that is sent behind this file)
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import requests

TIMEOUT = 20  # seconds for one call of XNAT
PREAMBLE = 128  # bytes before the mark of a DICOM file


def look(mark: str) -> dict[str, Any]:
    """Read, try to write, log in to XNAT, and leave `mark` in the workspace. Returns what was seen.

    closed: whether there are neither capabilities nor a way to new privileges. files: how many there are below /data;
    first: one that is DICOM, with its modality and the shape of its pixels; each None where there is none. refused:
    a sentence for each directory that cannot be written to. before: the mark that an earlier server left. xnat: the
    status of a log-in. by_xnat, by_pyxnat: projects as these libraries list them, else their error.
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
    """Whether a file has the mark of DICOM."""
    with open(path, "rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def is_closed(status: str) -> bool:
    """Whether a process, by its /proc/PID/status, has no capability and no way to new privileges."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return fields["CapBnd"].strip("0\n") == "" and fields["NoNewPrivs"].strip() == "1"


def refusals(folders: list[str]) -> list[str]:
    """Return why these directories cannot be written to; one that can be is not among them."""
    refused = []
    for folder in folders:
        try:
            Path(folder, "verify-must-not-write").touch()
        except OSError as error:
            refused.append(f"{folder}: {error.strerror}")
    return refused


def exchange(path: Path, mark: str) -> str:
    """Write a file and return what was in it, empty where there was none."""
    before = path.read_text() if path.exists() else ""
    path.write_text(mark)
    return before


def log_in(host: str, login: tuple[str, str]) -> int:
    """Return the status of a log-in at XNAT; the session is ended."""
    answer = requests.get(f"{host}/data/JSESSION", auth=login, timeout=TIMEOUT, allow_redirects=False)
    requests.delete(f"{host}/data/JSESSION", cookies=answer.cookies, timeout=TIMEOUT)
    return answer.status_code


def projects(library: Callable[[], list[str]]) -> list[str] | str:
    """Return the projects that a library lists, else its error."""
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
        # Not select.projects(), which takes every error for an empty list.
        return [row["ID"] for row in interface._get_json("/data/projects")]
    finally:
        interface.disconnect()
