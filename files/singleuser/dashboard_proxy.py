#!/opt/venv/bin/python3
"""`jhsingle-native-proxy` as XNAT's dashboard commands call it (docs/xnat-contract.md, 4.2), with what 0.8.3 lacks.

Lies in the image under that name, so that the commands stay as XNAT makes them.
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

# How long a framework may take until it listens: its first imports take 2 to 8 seconds, on a busy node far more.
READY_SECONDS = 120

# JupyterHub puts the token of XNAT's link into a cookie unless the handler is a WebSocketHandler. This proxy has one
# handler for pages and websockets: without a cookie, a page opens and nothing that it loads does.
auth.WebSocketHandler = ()

_open_websocket = SuperviseAndProxyHandler.ws_get


async def _authenticated_websocket(self: Any, *args: Any, **kwargs: Any) -> None:
    """The proxy asks for log-in on pages only: anybody who knew the address could open a dashboard's websocket."""
    if self.authtype == "oauth" and not self.current_user:
        raise web.HTTPError(403)
    await _open_websocket(self, *args, **kwargs)


async def _ready(process: Any) -> bool:
    """Wait until the framework listens; False when it has ended or the time is up.

    The proxy would ask for the first page with one second's patience (Voila runs the notebook for it), at growing
    intervals, and would start a broken dashboard again and again until the time is up.
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
    """Whether something accepts connections at the framework's port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
    except OSError:
        return False
    writer.close()
    return True


def _same_origin(self: Any, origin: str) -> bool:
    """What Tornado did up to 6.5. From 6.6 on it compares before it calls this, but the proxy calls this alone."""
    return bool(urlsplit(origin).netloc.lower() == self.request.host.lower())


# Dash makes its addresses from this; XNAT's command names no prefix. An application that sets one itself wins.
os.environ.setdefault("DASH_REQUESTS_PATHNAME_PREFIX", os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/"))
SuperviseAndProxyHandler.check_origin = _same_origin
SuperviseAndProxyHandler.ws_get = _authenticated_websocket
SuperviseAndProxyHandler._http_ready_func = _listens
SupervisedProcess.ready = _ready

if __name__ == "__main__":
    main.run()
