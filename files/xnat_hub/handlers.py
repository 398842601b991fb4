"""JupyterHub's REST API where XNAT needs another answer."""

from __future__ import annotations

from typing import Any

from jupyterhub.apihandlers.users import UserServerAPIHandler


class ServerHandler(UserServerAPIHandler):
    """Servers by name. To stop one that is being started or stopped already is no failure.

    JupyterHub 5 answers 500 to that, and XNAT then tells the user that it failed (docs/xnat-contract.md, 2.5).
    """

    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Stop a server; 202 when it is on its way out."""
        try:
            await super().delete(user_name, server_name)
        except (KeyError, RuntimeError) as error:
            self.log.info("Server %s:%s is being stopped already (%s)", user_name, server_name, error)
            self.set_status(202)


HANDLERS: list[tuple[str, Any]] = [(r"/api/users/([^/]+)/servers/([^/]*)", ServerHandler)]
