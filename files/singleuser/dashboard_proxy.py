#!/opt/venv/bin/python3
"""`jhsingle-native-proxy` 0.8.3 with fixes, for XNAT's dashboard commands (docs/xnat-contract.md, 4.2).

The image has it under the name `jhsingle-native-proxy`, so XNAT's commands work unchanged.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import urlsplit

from jhsingle_native_proxy import main
from jhsingle_native_proxy.proxyhandlers import SuperviseAndProxyHandler
from jupyterhub.services import auth
from simpervisor import SupervisedProcess
from tornado import web

# Seconds until a framework must listen: its imports take 2 to 8 seconds, and far longer on a busy node.
READY_SECONDS = 120

# JupyterHub stores the token of XNAT's link in a cookie unless the handler is a WebSocketHandler. This proxy has one
# handler for pages and websockets: without the cookie, a page opens but its resources do not load.
auth.WebSocketHandler = ()

READS = ("GET", "HEAD", "OPTIONS")

# Headers of all pages, unless the framework has set them. Pages of the same origin may frame a dashboard, since
# Streamlit's components are frames.
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_open_websocket = SuperviseAndProxyHandler.ws_get


def _is_foreign(self: Any) -> bool:
    """Whether a page of another origin sends this request, and does not just open this page or a websocket.

    The proxy leaves forgery to the frameworks, of which some do not care. Browsers send cookies with a request from
    another host of the same site, such as another person's origin. `check_origin` judges websockets.
    """
    headers, reads = self.request.headers, self.request.method in READS
    if reads and headers.get("Sec-Fetch-Mode") in ("navigate", "websocket"):
        return False
    if headers.get("Sec-Fetch-Site") in ("same-site", "cross-site"):
        return True
    origin = headers.get("Origin")
    return not reads and origin is not None and not _same_origin(self, origin)


def _prepare(self: Any) -> None:
    """Refuse requests of other origins' pages, and add the headers to all answers.

    The headers are added when the first part of an answer leaves: the proxy replaces all that were set before.
    """
    flush = self.flush  # of this handler alone, since the proxy gives each one its own

    def flush_with_headers(include_footers: bool = False) -> Any:
        if not self._headers_written:
            for name, value in HEADERS.items():
                if name not in self._headers:
                    self.set_header(name, value)
        return flush(include_footers)

    self.flush = flush_with_headers
    if _is_foreign(self):
        raise web.HTTPError(403, "This dashboard accepts no requests from pages of other origins.")


async def _authenticated_websocket(self: Any, *args: Any, **kwargs: Any) -> None:
    """Require a log-in for websockets as well; the proxy requires it only for pages."""
    if self.authtype == "oauth" and not self.current_user:
        raise web.HTTPError(403)
    await _open_websocket(self, *args, **kwargs)


async def _ready(process: Any) -> bool:
    """Wait until the framework listens; return False if it has ended or the time is up.

    The proxy itself would request the first page with a timeout of one second, though Voila runs the notebook for it,
    at growing intervals, and would restart a broken dashboard again and again until the time is up.
    """
    first = process.proc
    for _ in range(5 * READY_SECONDS):
        if process.proc is not first or first.returncode is not None:
            return False
        if await process.ready_func(process):
            return True
        await asyncio.sleep(0.2)
    first.kill()  # the proxy reads its output to the end
    return False


async def _listens(self: Any, process: Any) -> bool:
    """Return whether the framework's port accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
    except OSError:
        return False
    writer.close()
    return True


def _same_origin(self: Any, origin: str) -> bool:
    """Compare origin and host as Tornado did up to 6.5; since 6.6 the method that the proxy calls no longer does."""
    return bool(urlsplit(origin).netloc.lower() == self.request.host.lower())


# Dash builds its URLs with this prefix; XNAT's command sets none. A prefix set by the application takes precedence.
os.environ.setdefault("DASH_REQUESTS_PATHNAME_PREFIX", os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/"))
SuperviseAndProxyHandler.check_origin = _same_origin
SuperviseAndProxyHandler.prepare = _prepare
SuperviseAndProxyHandler.ws_get = _authenticated_websocket
SuperviseAndProxyHandler._http_ready_func = _listens
SupervisedProcess.ready = _ready

if __name__ == "__main__":
    main.run()
