"""JupyterLab's scripts, styles and fonts at one address for all servers of a release: `/hub/assets/DIGEST/NAME`.

Each server has a path of its own, so a browser would otherwise load JupyterLab again at each launch. The image has the
files with compressed copies (files/assets); a notebook server names this address in its page if it has the same files
(files/singleuser/xnat_notebook/delivery.py). They are JupyterLab's as released, and public.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Any

from tornado import web

from xnat_hub.handlers import add_site_headers

FOLDER = "/opt/assets"
PATH = r"/assets/([0-9a-f]{32}/[A-Za-z0-9_][A-Za-z0-9_.-]*)"  # no directory, and nothing above the folder
FOREVER = "public, max-age=31536000, immutable"
# Debian's small images have no /etc/mime.types, and a module or a style sheet of a wrong type is refused (nosniff).
TYPES = {
    ".css": "text/css",
    ".eot": "application/vnd.ms-fontobject",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
WITHOUT_GZIP = re.compile(r"gzip\s*;\s*q=0(\.0*)?\s*(,|$)")


class Assets(web.StaticFileHandler):
    """The files, compressed for clients that take gzip. They need no log-in and set no cookie."""

    SUPPORTED_METHODS = ("GET", "HEAD")

    _type = ""
    _encoding = ""

    def parse_url_path(self, url_path: str) -> str:
        """Return the file to send: the compressed copy, if there is one and the client takes it."""
        self._type = TYPES.get(PurePath(url_path).suffix, "application/octet-stream")
        wanted = self.request.headers.get("Accept-Encoding", "").lower()
        if "gzip" in wanted and not WITHOUT_GZIP.search(wanted) and os.path.isfile(f"{self.root}/{url_path}.gz"):
            self._encoding = "gzip"
            return f"{url_path}.gz"
        return url_path

    def get_content_type(self) -> str:
        """Return the type of the file, whether compressed or not."""
        return self._type

    def set_extra_headers(self, path: str) -> None:
        """Let browsers of all origins keep the file, since its address changes with its content."""
        add_site_headers(self)
        self.set_header("Cache-Control", FOREVER)
        self.set_header("Vary", "Accept-Encoding")
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        if self._encoding:
            self.set_header("Content-Encoding", self._encoding)


def handlers(folder: str = FOLDER) -> list[tuple[Any, ...]]:
    """Return the handler of the files. folder: with DIGEST/NAME and DIGEST/NAME.gz."""
    return [(PATH, Assets, {"path": folder})]
