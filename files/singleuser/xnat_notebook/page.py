"""Extension of the notebook server: JupyterLab's page names the hub's copy of its files, and answers are compressed.

xnat_notebook.json names it.
"""

from __future__ import annotations

import os
from typing import Any

from jupyterlab_server.handlers import LabHandler
from tornado import web

from .delivery import Compression, HubFiles

HUB_FILES = "xnat_hub_files"  # name of a setting


class Page(LabHandler):
    """JupyterLab's page."""

    _hub_url = ""

    @web.authenticated
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Send the page; ask the hub for the files before."""
        self._hub_url = await self.settings[HUB_FILES].url(self.extensionapp.static_dir)
        super().get(*args, **kwargs)

    def get_page_config(self) -> dict[str, Any]:
        """Return the options of the page, with the address of JupyterLab's files."""
        options = super().get_page_config()
        return {**options, "fullStaticUrl": self._hub_url or self.static_url_prefix.rstrip("/")}


def _load_jupyter_server_extension(serverapp: Any) -> None:
    """Called by jupyter_server, after JupyterLab's own function, since it goes by the alphabet."""
    app = serverapp.web_app
    app.add_transform(Compression)
    app.settings[HUB_FILES] = HubFiles(os.environ, serverapp.log)
    rules = [rule for host in app.default_router.rules for rule in getattr(host.target, "rules", ())]
    pages = [rule for rule in rules if rule.target is LabHandler]
    for rule in pages:
        rule.target = Page
    if not pages:
        serverapp.log.warning("JupyterLab's page is not there, so browsers do not share its files between servers.")
