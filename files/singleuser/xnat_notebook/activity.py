"""Extension of the notebook server: a kernel that computes counts as activity, if the site says so.

JupyterHub tells the hub when the server was last active, and XNAT ends servers that were inactive for too long
(docs/xnat-contract.md, 2.6). A cell that computes without output is no activity for Jupyter while no browser shows it.
xnat_notebook.json names this module. Other notebook images work without it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from tornado.ioloop import PeriodicCallback

VARIABLE = "JUPYTERHUB_XNAT_BUSY_IS_ACTIVITY"  # the launcher sets it to 1 or 0; XNAT cannot
SETTING = "xnat_last_activity"  # jupyter_server counts every setting whose name ends like this
INTERVAL = 60.0  # seconds; JupyterHub reports activity every five minutes


def is_busy(manager: Any) -> bool:
    """Return whether a kernel runs a cell. manager: jupyter_server's manager of kernels."""
    kernels = [manager.get_kernel(kernel) for kernel in manager.list_kernel_ids()]
    return any(getattr(kernel, "execution_state", "") == "busy" for kernel in kernels)


def _load_jupyter_server_extension(serverapp: Any) -> None:
    """Called by jupyter_server."""
    if os.environ.get(VARIABLE) != "1":
        return

    def look() -> None:
        if is_busy(serverapp.kernel_manager):
            serverapp.web_app.settings[SETTING] = datetime.now(UTC)

    serverapp.io_loop.add_callback(PeriodicCallback(look, INTERVAL * 1000).start)
