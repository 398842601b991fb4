"""JupyterLab's files for browsers: which ones, and a digest that two images with the same JupyterLab share.

files/assets has a link to this file, so that hub and notebook compute the same digest. Imports only the standard
library.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping

# JupyterLab's build puts a hash of the content into these names: `main.efd36b46f3b45eb8.js`, `0e53fe4feaaacc48.woff`.
NAME = re.compile(r"(?:[A-Za-z0-9_-]+\.)*[0-9a-f]{16,}(?:\.[A-Za-z0-9]+)+")
DIGITS = 32  # of a digest, hexadecimal


def lab_files(folder: str) -> dict[str, int]:
    """Return the sizes, in bytes, of the files in JupyterLab's static folder whose names tell their content.

    Raises OSError.
    """
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if NAME.fullmatch(entry.name) and entry.is_file()}


def digest(files: Mapping[str, int]) -> str:
    """Return the digest of files. Their names and sizes are enough, so that a notebook server computes it in 2 ms."""
    lines = "".join(f"{name} {size}\n" for name, size in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:DIGITS]
