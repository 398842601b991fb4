"""Log-in with an XNAT account (docs/xnat-contract.md, 1.2, 1.3)."""

from __future__ import annotations

from typing import Any

from jupyterhub.auth import Authenticator
from tornado import web

from xnat_hub.client import BadCredentialsError, XnatError, shared_client


class XnatAuthenticator(Authenticator):
    """Lets in whom XNAT lets start Jupyter: role `Jupyter`, or the site's switch for everybody.

    Who passes `authenticate` is allowed; users that XNAT's plugin makes by REST get in by the token in their link.
    """

    def normalize_username(self, username: str) -> str:
        """Keep the name as it is: XNAT's `JDoe` and `jdoe` are two people (contract 6.11)."""
        return username

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Everybody whom XNAT authenticated with the right to start Jupyter; the right is asked in `authenticate`."""
        return True

    async def authenticate(self, handler: web.RequestHandler, data: dict[str, str]) -> dict[str, Any] | None:
        """Ask XNAT. None for a wrong name or password; HTTPError 403, 502 or 503 with the reason for all else."""
        username = data["username"]
        try:
            allowed = await shared_client().may_start_jupyter(username, data["password"])
        except BadCredentialsError:
            return None
        except XnatError as error:
            self.log.warning("Log-in of %r not decided: %s", username, error)
            raise web.HTTPError(error.status, f"{error}.") from error
        if not allowed:
            raise web.HTTPError(
                403, "Your XNAT account may not use Jupyter: ask your XNAT administrator for the role Jupyter."
            )
        return {"name": username}
