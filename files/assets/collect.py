"""Copy JupyterLab's files for browsers, each with a compressed copy: ``collect.py FROM TO``.

They get to TO/DIGEST/NAME and, where that saves a tenth or more, TO/DIGEST/NAME.gz.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

from lab_files import digest, lab_files

WORTHWHILE = 0.9  # of a file's size, at most that of its compressed copy


def collect(source: Path, target: Path) -> None:
    """Copy the files. Raises SystemExit if the script that JupyterLab's page names is not among them."""
    files = lab_files(str(source))
    wanted = set(re.findall(r"fullStaticUrl\s*}}/([^\"?]+)", (source / "index.html").read_text()))
    if not wanted or wanted - files.keys():
        sys.exit(f"{source}/index.html names {sorted(wanted) or 'no script'}: adapt lab_files.py to this JupyterLab.")
    folder = target / digest(files)
    folder.mkdir(parents=True)
    for name in files:
        content = (source / name).read_bytes()
        (folder / name).write_bytes(content)
        packed = gzip.compress(content, mtime=0)
        if len(packed) <= WORTHWHILE * len(content):
            (folder / f"{name}.gz").write_bytes(packed)


if __name__ == "__main__":
    collect(Path(sys.argv[1]), Path(sys.argv[2]))
