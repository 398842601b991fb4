"""The notebook "Start here": what it says for each kind of launch. Real servers run it in tests/site/test_data.py."""

from __future__ import annotations

import ast
import json

import pytest
from singleuser.xnat_notebook.start_here import LISTED, mounts_below, notebook

ACCOUNT = {"XNAT_HOST": "http://x", "XNAT_USER": "u", "XNAT_PASS": "secret of the alias"}
PROJECT = "/data/projects/DEMO_MR"
SEVERAL = [f"/data/projects/P{number}/experiments/S{number}" for number in range(1, 31)]


def mountinfo(*points: str) -> str:
    """Return /proc/self/mountinfo with these mount points, written as the kernel does."""
    lines = ["22 1 0:5 / / ro - overlay overlay rw", "23 22 0:6 / /database rw - tmpfs tmpfs rw"]
    for number, point in enumerate(points):
        escaped = point.replace("\\", "\\134").replace(" ", "\\040")
        lines.append(f"{30 + number} 22 8:1 /srv {escaped} ro,relatime - ext4 /dev/sda1 rw")
    return "\n".join(lines) + "\n"


def made(xsi_type: str, item: str, *points: str) -> tuple[str, list[str]]:
    """Return the notebook's introduction and its code cells."""
    variables = {"XNAT_XSI_TYPE": xsi_type, "XNAT_ITEM_ID": item, "JUPYTERHUB_ROOT_DIR": "/workspace/jdoe", **ACCOUNT}
    cells = notebook(variables, mountinfo(*points), "data (XNAT)")["cells"]
    return cells[0]["source"], [cell["source"] for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    ("xsi_type", "item", "points", "words"),
    [
        ("xnat:projectData", "DEMO_MR", [f"{PROJECT}/experiments", f"{PROJECT}/resources"], "the project `DEMO_MR` "),
        pytest.param("xnat:projectData", "DEMO_MR", [PROJECT], "the project `DEMO_MR` ", id="shared-data"),
        ("xnat:subjectData", "XNAT_S1", [f"{PROJECT}/experiments/MR1", f"{PROJECT}/subject-resources/S01"],
         "the subject `S01` of the project `DEMO_MR` "),
        ("xnat:subjectData", "XNAT_S1", [f"{PROJECT}/experiments/MR1"],
         "the subject `XNAT_S1` of the project `DEMO_MR` "),
        ("xnat:experimentData", "XNAT_E1", [f"{PROJECT}/experiments/MR1"],
         "the session `MR1` of the project `DEMO_MR` "),
        ("xnat:imageScanData", "102", [f"{PROJECT}/experiments/MR1/SCANS/2"],
         "scan `2` of the session `MR1` of the project `DEMO_MR` "),
        ("xdat:stored_search", "xs1", SEVERAL, "30 sessions of the projects `P1`, "),
        ("xdat:stored_search", "xs1", [f"{PROJECT}/experiments", "/data/projects/A/experiments"],
         "data of the projects `A`, `DEMO_MR` "),
    ],
)  # fmt: skip
def test_it_names_what_was_opened_and_its_directories(xsi_type: str, item: str, points: list[str], words: str) -> None:
    text, code = made(xsi_type, item, *points)
    assert f"You opened {words}" in text
    for point in sorted(points)[:LISTED]:
        assert f"`{point}`" in text
    assert ("more" in text) == (len(points) > LISTED)
    assert "`data (XNAT)`" in text
    assert "`/workspace/jdoe`" in text
    assert "/database" not in text
    for cell in code:
        ast.parse(cell)


def test_without_data_it_says_so_and_still_connects_to_xnat() -> None:
    text, code = made("xnat:experimentData", "XNAT_E00004")
    assert "`XNAT_E00004`" in text
    assert "no files of XNAT" in text
    assert "xnat.connect" in code[2]


def test_without_an_account_it_does_not_connect() -> None:
    cells = notebook({}, mountinfo(), "data")["cells"]
    assert "xnat.connect" not in json.dumps(cells)


def test_names_from_xnat_stay_text_and_no_secret_is_written() -> None:
    hostile = '/data/projects/"]; import evil #`<script>\n\\'
    assert mounts_below(mountinfo(hostile.replace("\n", " ")), "/data/") == [hostile.replace("\n", " ")]
    text, code = made("xnat:x`\n# title", "`\n# title\n<script>alert()</script>", hostile.replace("\n", " "))
    assert "\n# title" not in text
    assert text.count("`") % 2 == 0
    for cell in code:
        for node in ast.walk(ast.parse(cell)):
            assert not (isinstance(node, ast.Import) and node.names[0].name == "evil")
    assert ACCOUNT["XNAT_PASS"] not in text + "".join(code)
