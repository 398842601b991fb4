"""Changes to JupyterHub's REST API that XNAT needs, the headers of the hub's pages, and its web server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.apihandlers.users import UserAPIHandler, UserListAPIHandler, UserServerAPIHandler
from jupyterhub.handlers.static import CacheControlStaticFilesHandler
from jupyterhub.scopes import needs_scope
from tornado import web
from tornado.httpserver import HTTPServer

from xnat_hub.proxies import TrustedProxies

# JupyterHub's templates have scripts in the page, and Bootstrap's style sheet has images in data URLs. There is no
# form-action: browsers apply it to redirects too, and a log-in may lead to another origin.
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HSTS = f"max-age={365 * 86400}"  # without includeSubDomains: subdomains may not have TLS


def security_headers(public_url: str) -> dict[str, str]:
    """Return the headers of all pages of the hub; with HSTS if browsers reach it by https."""
    headers = {
        "Content-Security-Policy": PAGE_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
    }
    if public_url.startswith("https:"):
        headers["Strict-Transport-Security"] = HSTS
    return headers


class Server(HTTPServer):
    """The hub's web server. Its log has the client's address; tornado alone compares addresses, not networks.

    trusted_proxies, router: as `HTTPServer.configure` passes them. router: returns what answers instead of the web
    application, which is its argument.
    """

    def initialize(  # type: ignore[override]
        self,
        application: Any,
        *,
        trusted_proxies: TrustedProxies,
        router: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        """Called by tornado."""
        super().initialize(router(application) if router else application, **options)
        self._trusted_proxies = trusted_proxies

    def start_request(self, server_conn: object, request_conn: Any) -> Any:
        """Called by tornado before it reads the headers of a request."""
        request_conn.context.trusted_downstream = self._trusted_proxies
        return super().start_request(server_conn, request_conn)


def add_site_headers(handler: web.RequestHandler) -> None:
    """Add the headers from tornado's setting `headers`, which JupyterHub adds to its own pages only."""
    for name, value in handler.settings.get("headers", {}).items():
        handler.set_header(name, value)


class StaticFiles(CacheControlStaticFilesHandler):
    """The hub's style sheets, scripts and images, with the same headers as its pages."""

    def set_extra_headers(self, path: str) -> None:
        """Add the headers of the site."""
        super().set_extra_headers(path)
        add_site_headers(self)


class PathModels:
    """Servers with their path as `url`, which XNAT joins to the hub's URL (docs/xnat-contract.md, 2.7).

    With an origin for each person JupyterHub has the whole URL there; it stays in `full_url`.
    """

    def server_model(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the JSON of a server."""
        model: dict[str, Any] = super().server_model(*args, **options)  # type: ignore[misc]
        model["url"] = path_of(model["url"])
        return model

    def user_model(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the JSON of a user; `server` is the URL of the one without a name."""
        model: dict[str, Any] = super().user_model(*args, **options)  # type: ignore[misc]
        if model.get("server"):
            model["server"] = path_of(model["server"])
        return model


def path_of(url: str) -> str:
    """Return the path of a URL; what begins with a slash is one."""
    return url if url.startswith("/") else urlsplit(url).path


class UsersHandler(PathModels, UserListAPIHandler):
    """All users, with the paths of their servers."""


class ServerHandler(UserServerAPIHandler):
    """Named servers. Stopping a server that is starting or already stopping is not an error.

    JupyterHub 5 answers 500 in that case, and XNAT then reports a failure to the user (docs/xnat-contract.md, 2.5).
    """

    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Stop a server; answer 202 while it is stopping."""
        try:
            await super().delete(user_name, server_name)
        except (KeyError, RuntimeError) as error:
            self.log.info("Server %s:%s is already stopping (%s)", user_name, server_name, error)
            self.set_status(202)


class UserHandler(PathModels, UserAPIHandler):
    """Users, with the paths of their servers. Deleting a user stops their servers first.

    JupyterHub 5 stops only the default server, and answers 500 while a named one runs.
    """

    @needs_scope("delete:users")  # type: ignore[untyped-decorator]
    async def delete(self, user_name: str) -> None:
        """Stop the user's servers, then delete the user; answer 400 with a message while one is still stopping."""
        user = self.find_user(user_name)
        if user is not None and user.name != self.current_user.name:
            await self.stop_servers(user)
        await super().delete(user_name)

    async def stop_servers(self, user: Any) -> None:
        """Stop all servers of a user. Raises web.HTTPError while one is still stopping."""
        await asyncio.gather(*(self._stop(user, name) for name, server in user.spawners.items() if server.active))
        if left := sorted(repr(name) for name, server in user.spawners.items() if server.active):
            raise web.HTTPError(
                400, f"Servers of {user.name} are still stopping ({', '.join(left)}). Delete the user again later."
            )

    async def _stop(self, user: Any, name: str) -> None:
        """Stop one server in whatever state it is; wait at most JupyterHub's `slow_stop_timeout`."""
        spawner = user.spawners[name]
        if spawner.pending == "spawn" and spawner._spawn_future:
            spawner._spawn_future.cancel()
            await asyncio.wait([spawner._spawn_future], timeout=self.slow_stop_timeout)
        if spawner.pending == "stop" and spawner._stop_future:
            await asyncio.wait([spawner._stop_future], timeout=self.slow_stop_timeout)
        elif spawner.active and not spawner.pending:
            await self.stop_single_user(user, name)


HANDLERS: list[tuple[str, Any]] = [
    (r"/api/users/([^/]+)/servers/([^/]*)", ServerHandler),
    (r"/api/users/([^/]+)", UserHandler),
    (r"/api/users", UsersHandler),
]
