"""How a notebook server delivers to browsers: JupyterLab's files by the hub if it has them, and compressed answers.

The hub has the files of its own release at an address that is the same for all servers, so that a browser loads them
once. A server of another release, or with another JupyterLab, delivers its own files as usual. `page.py` uses both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from tornado import httputil, web
from tornado.httpclient import AsyncHTTPClient

from .lab_files import digest, lab_files

LIMIT = 1.0  # seconds that a page waits for the hub


class Wanted(NamedTuple):
    """What the hub must have. path: of the files below /hub/. name, size: of the largest one; "" without files."""

    path: str
    name: str
    size: int


def wanted(folder: str) -> Wanted:
    """Return what the hub must have for JupyterLab's static folder. Raises OSError."""
    files = lab_files(folder)
    name, size = max(files.items(), key=lambda item: item[1], default=("", 0))
    return Wanted(f"assets/{digest(files)}", name, size)


class HubFiles:
    """Finds out where browsers get JupyterLab's files. environment: the variables that JupyterHub gives to a server."""

    def __init__(self, environment: Mapping[str, str], log: logging.Logger) -> None:
        self._api = environment.get("JUPYTERHUB_API_URL", "")
        self._public = f"{environment.get('JUPYTERHUB_HOST', '')}{environment.get('JUPYTERHUB_BASE_URL', '/')}hub/"
        self._log = log
        self._wanted: dict[str, Wanted] = {}

    async def url(self, folder: str) -> str:
        """Return the URL of the files at the hub, without a slash at its end; empty if the hub does not have them.

        folder: JupyterLab's static folder. Called for each page, because a hub that restarts, or has another release by
        now, must not be named. Takes at most LIMIT.
        """
        if not self._api.endswith("/api"):
            return ""
        try:
            if folder not in self._wanted:
                self._wanted[folder] = await asyncio.to_thread(wanted, folder)
            path, name, size = self._wanted[folder]
            has = bool(name) and await self._has(f"{self._api.removesuffix('api')}{path}/{name}", size)
        except Exception as error:  # whatever the hub answers, the page opens
            self._log.warning("The hub does not answer whether it has the files of JupyterLab: %r", error)
            return ""
        return f"{self._public}{path}" if has else ""

    async def _has(self, url: str, size: int) -> bool:
        """Return whether the hub has a file of that size. Raises any error of an HTTP client."""
        request = AsyncHTTPClient().fetch(
            url,
            method="HEAD",
            request_timeout=LIMIT,
            decompress_response=False,
            follow_redirects=False,
            raise_error=False,
        )
        answer = await asyncio.wait_for(request, LIMIT)
        return answer.code == 200 and answer.headers.get("Content-Length") == str(size)


class Compression(web.GZipContentEncoding):
    """Compresses what is large and public or the user's own data: scripts, styles, JSON.

    Not pages (HTML): they contain tokens, whose compressed length could tell an eavesdropper about them (BREACH).
    """

    CONTENT_TYPES = {  # noqa: RUF012  (as in the class of tornado)
        "application/javascript",
        "application/json",
        "application/wasm",
        "image/svg+xml",
        "text/css",
        "text/javascript",
    }
    GZIP_LEVEL = 4
    LARGEST = 2**21  # bytes of an answer in one piece; more would hold up kernels' messages, since it takes over 0.1 s

    def _compressible_type(self, ctype: str) -> bool:
        return ctype in self.CONTENT_TYPES

    def transform_first_chunk(
        self, status_code: int, headers: httputil.HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, httputil.HTTPHeaders, bytes]:
        """Called by tornado with the begin of an answer."""
        if status_code != 200 or len(chunk) > self.LARGEST:  # 206 is a part of the uncompressed file
            self._gzipping = False
        return super().transform_first_chunk(status_code, headers, chunk, finishing)
