"""What the hub's pages show: name and logo of the site, its message, and what servers hold."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from xnat_hub import ends
from xnat_hub.handlers import add_site_headers
from xnat_hub.kept import DIRECTORY, Kept
from xnat_hub.settings import Settings, load

LONGEST_MESSAGE = 1000  # characters
# The logo may be an SVG file: opened as a page of its own, it must not run scripts as the hub.
LOGO_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
TYPES = {"xnat:projectData": "Project", "xnat:subjectData": "Subject", "xdat:stored_search": "Stored search"}


def held(user_options: object) -> str:
    """Return what a server holds, such as "Session MR_S01_MR1 of project DEMO_MR"; empty if XNAT did not say.

    user_options: what XNAT sent when it started the server (docs/xnat-contract.md, 2.4).
    """
    options = user_options if isinstance(user_options, Mapping) else {}
    xsi_type, label, item, project = (
        value if isinstance(value := options.get(name), str) else ""
        for name in ("xsiType", "itemLabel", "itemId", "projectId")
    )
    name = label or item
    kind = TYPES.get(xsi_type, "")
    if not kind and xsi_type.endswith(("SessionData", ":experimentData")):
        kind = "Session"
    if not kind and xsi_type.lower().endswith("scandata"):
        kind = "Scan"
    if not name:
        return f"Project {project}" if project else ""
    if kind == "Project" or not project:
        return f"{kind} {name}".strip()
    return f"{kind or 'Data'} {name} of project {project}"


def since(started: datetime | None) -> str:
    """Return when a server was started, for people. started: UTC without a zone, as JupyterHub stores it."""
    return started.replace(tzinfo=UTC).strftime("%Y-%m-%d %H:%M UTC") if started else ""


MESSAGE = Kept(DIRECTORY / "message.json", "")


def template_vars(settings: Settings) -> dict[str, Any]:
    """Return the variables of all pages. For each page, JupyterHub calls the functions with the user."""
    functions: dict[str, Callable[[Any], object]] = {
        "site_message": lambda _: MESSAGE.get(),
        "held": lambda _: held,
        "since": lambda _: since,
    }
    return {"site_title": settings.title, "xnat_url": settings.xnat_public_url, **functions}


class Logo(web.RequestHandler):
    """The logo of the site, from the hub's settings."""

    def get(self) -> None:
        """Send the logo."""
        logo = load().logo or {}
        add_site_headers(self)
        self.set_header("Content-Security-Policy", LOGO_POLICY)
        self.set_header("Content-Type", logo["type"])
        self.set_header("Cache-Control", "max-age=3600")
        self.finish(base64.b64decode(logo["data"]))


class MessagePage(web.RequestHandler):
    """The message as JSON for JupyterLab, which may have another origin. It is public, as on the log-in page."""

    def get(self) -> None:
        """Send the message."""
        add_site_headers(self)
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cache-Control", "no-cache")
        self.finish({"message": MESSAGE.get()})


class MessageHandler(APIHandler):
    """Changes the message."""

    @needs_scope("admin:users")  # type: ignore[untyped-decorator]
    def put(self) -> None:
        """Store {"message": TEXT}; empty removes the message."""
        text = (self.get_json_body() or {}).get("message")
        if not isinstance(text, str) or len(text) > LONGEST_MESSAGE:
            raise web.HTTPError(400, f"The message is a text of at most {LONGEST_MESSAGE} characters.")
        MESSAGE.set(text.strip())
        self.finish({"message": MESSAGE.get()})


def handlers(settings: Settings) -> list[tuple[str, Any]]:
    """Return the handlers of this module; JupyterHub's own logo stays without one of the site."""
    found: list[tuple[str, Any]] = [(r"/message", MessagePage), (r"/api/message", MessageHandler)]
    found += ends.HANDLERS
    return [*found, (r"/logo", Logo)] if settings.logo else found
