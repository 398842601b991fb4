"""The notebook "Start here": what was opened in XNAT, where its files are, and a few lines that open the first image.

It is made from XNAT's variables (docs/xnat-contract.md, 4.1) and from the container's mounts, without asking XNAT. It
needs nothing of this image but the packages in requirements.txt, so a copy of it runs in other notebook images as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "Start here.ipynb"
LISTED = 12  # directories that the notebook names; a stored search may have thousands
# A directory that XNAT mounts: /data/projects/PROJECT/experiments/SESSION/SCANS/SCAN, or a part of it (contract, 3).
PLACE = re.compile(
    r"/projects/(?P<project>[^/]+)(?:/(?P<kind>[^/]+)(?:/(?P<label>[^/]+)(?:/SCANS/(?P<scan>[^/]+))?)?)?"
)
OCTAL = re.compile(r"\\([0-7]{3})")  # how the kernel writes a blank, a tab, a line break and a backslash

INTRODUCTION = """# Start here

You opened {what} in XNAT.

{where}

* **Your own files** belong into the workspace, {workspace}: they are still there next time. Everything else, such as
  `/tmp` and the home directory, ends with this server.
* **This notebook** is made anew for each server and is read-only. To keep it, choose *File > Save Notebook As*.
"""

FIRST_IMAGE = """## The first image

These lines look for a DICOM or NIfTI file and show its middle slice."""

# A DICOM file without rows, such as a DICOMDIR or a report, has no image.
FIND = """import os
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pydicom
from pydicom.misc import is_dicom


def is_image(path):
    if path.name.endswith((".nii", ".nii.gz")):
        return True
    return path.is_file() and is_dicom(path) and "Rows" in pydicom.dcmread(path, stop_before_pixels=True)


paths = (Path(folder, name) for folder, _, names in os.walk({data}) for name in sorted(names))
image = next((path for path in paths if is_image(path)), None)
print(image or "No DICOM or NIfTI file was found.")"""

SHOW = """if image and is_dicom(image):
    dataset = pydicom.dcmread(image)
    pixels = dataset.pixel_array
    if dataset.get("NumberOfFrames", 1) > 1:
        pixels = pixels[len(pixels) // 2]
elif image:
    volume = nibabel.load(image).dataobj
    middle = [size // 2 for size in volume.shape[2:3]]
    first = [0 for _ in volume.shape[3:]]  # of a series of volumes
    pixels = np.rot90(volume[(slice(None), slice(None), *middle, *first)])
if image:
    plt.imshow(pixels, cmap="gray")
    plt.title(image.name)
    plt.axis("off");"""

ASK_XNAT = """## XNAT itself

One line connects to XNAT as you, with a password that ends after a while: with [XNATpy](https://xnat.readthedocs.io/)"""

XNATPY = """import xnat

session = xnat.connect(os.environ["XNAT_HOST"], user=os.environ["XNAT_USER"], password=os.environ["XNAT_PASS"])
{example}"""

OR_PYXNAT = "or with [pyxnat](https://pyxnat.github.io/pyxnat/)."

PYXNAT = """import pyxnat

interface = pyxnat.Interface(os.environ["XNAT_HOST"], os.environ["XNAT_USER"], os.environ["XNAT_PASS"])
{example}"""


def mounts_below(mountinfo: str, directory: str) -> list[str]:
    """Return the mount points below `directory`, sorted. mountinfo: the content of /proc/self/mountinfo."""
    points = (line.split()[4] for line in mountinfo.splitlines() if len(line.split()) > 4)
    found = {OCTAL.sub(lambda match: chr(int(match[1], 8)), point) for point in points}
    return sorted(point for point in found if point.startswith(f"{directory.rstrip('/')}/"))


def what_was_opened(xsi_type: str, item: str, places: Sequence[Mapping[str, str]]) -> str:
    """Return project, subject, session or scan as Markdown.

    xsi_type, item: XNAT_XSI_TYPE and XNAT_ITEM_ID. places: a match of PLACE, as a dictionary, for each mount.
    """
    projects = sorted({place["project"] for place in places})
    sessions = [place["label"] for place in places if place["kind"] == "experiments" and place["label"]]
    subjects = [place["label"] for place in places if place["kind"] == "subject-resources" and place["label"]]
    scans = [place["scan"] for place in places if place["scan"]]
    of_project = f" of {_listed('project', projects)}" if projects else ""
    if xsi_type == "xnat:projectData":
        return f"the project {_code(item)}"
    if xsi_type == "xnat:subjectData":
        return f"the subject {_code(*(subjects[:1] or [item]))}{of_project}"
    if xsi_type == "xnat:experimentData":
        return f"the session {_code(*(sessions[:1] or [item]))}{of_project}"
    if xsi_type == "xnat:imageScanData" and scans:
        return f"scan {_code(scans[0])} of the session {_code(sessions[0])}{of_project}"
    if len(sessions) > 1:
        return f"{len(sessions)} sessions{of_project}"
    return f"data{of_project}" if projects else f"{_code(item)}" if item else "Jupyter"


def notebook(variables: Mapping[str, str], mountinfo: str, shown_as: str) -> dict[str, Any]:
    """Return the notebook as JSON (nbformat 4.5).

    variables: the server's environment. mountinfo: the content of /proc/self/mountinfo. shown_as: the name of the
    directory of XNAT's data in the file browser.
    """
    data = variables.get("XNAT_DATA") or "/data"
    mounts = mounts_below(mountinfo, data)
    matches = (PLACE.fullmatch(mount.removeprefix(data)) for mount in mounts)
    places = [{name: part or "" for name, part in match.groupdict().items()} for match in matches if match]
    item, xsi_type = variables.get("XNAT_ITEM_ID", ""), variables.get("XNAT_XSI_TYPE", "")
    introduction = INTRODUCTION.format(
        what=what_was_opened(xsi_type, item, places),
        where=_where(mounts, data, shown_as),
        workspace=_code(variables.get("JUPYTERHUB_ROOT_DIR") or "the directory that the file browser shows"),
    )
    cells = [
        _cell("markdown", introduction),
        _cell("markdown", FIRST_IMAGE),
        _cell("code", FIND.replace("{data}", json.dumps(data))),
        _cell("code", SHOW),
    ]
    if {"XNAT_HOST", "XNAT_USER", "XNAT_PASS"} <= set(variables):
        by_xnat, by_pyxnat = "session", "interface"
        if places:
            project = json.dumps(places[0]["project"])
            by_xnat, by_pyxnat = (
                f"session.projects[{project}]",
                f"interface.select.project({project}).subjects().get()[:10]",
            )
        cells += [
            _cell("markdown", ASK_XNAT),
            _cell("code", XNATPY.replace("{example}", by_xnat)),
            _cell("markdown", OR_PYXNAT),
            _cell("code", PYXNAT.replace("{example}", by_pyxnat)),
        ]
    for number, cell in enumerate(cells):
        cell["id"] = f"start-{number}"
    python = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": python}, "nbformat": 4, "nbformat_minor": 5}


def _where(mounts: Sequence[str], data: str, shown_as: str) -> str:
    if not mounts:
        return (
            "* **There are no files of XNAT here**: XNAT found none on its disk for this. If you expected some, ask"
            " XNAT's administrator."
        )
    lines = [f"  * {_code(mount)}" for mount in mounts[:LISTED]]
    if len(mounts) > LISTED:
        lines.append(f"  * and {len(mounts) - LISTED} more")
    listed = "\n".join(lines)
    return (
        f"* **The files from XNAT** are below {_code(data)}, and nobody can change them there. The file browser shows"
        f" them as {_code(shown_as)}; in code, a path begins with a slash, such as {_code(mounts[0])}:\n{listed}"
    )


def _listed(noun: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"the {noun}{'s' if len(names) > 1 else ''} {', '.join(map(_code, names[:LISTED]))}{more}"


def _code(text: str) -> str:
    """Return a text as code in Markdown, on one line; names come from XNAT and may contain anything."""
    plain = "".join(char if char.isprintable() else " " for char in text).replace("`", "'")
    return f"`{plain}`"


def _cell(kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": source}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
