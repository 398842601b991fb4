"""The server of a user, for origins_bed.py: pages with the log-in, cookies and xsrf tokens of jupyterhub-singleuser.

One user, `mallory`, runs a program of her own instead: her pages need no log-in, and keep the cookies of whoever opens
them.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado import ioloop, web, websocket

MALLORY = "mallory"
# A service worker that shows a page of its own in place of everything.
WORKER = """
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(clients.claim()));
self.addEventListener("fetch", (event) => {
  const answer = new Response("<h1>Your password, please</h1>", { headers: { "Content-Type": "text/html" } });
  if (event.request.mode === "navigate") event.respondWith(answer);
});
"""
SET_COOKIE = "set"  # the query's name: cookies that her page sets


def serve() -> None:
    """Serve until a file `end` is in the bed's folder."""
    prefix, user = os.environ["JUPYTERHUB_SERVICE_PREFIX"], os.environ["JUPYTERHUB_USER"]
    folder = Path(os.environ["ORIGINS_BED"])
    mark = folder / f"server-{os.getpid()}"

    class Page(HubOAuthenticated, web.RequestHandler):  # type: ignore[misc]
        """A page for those who may use this server."""

        @web.authenticated
        def get(self, *_: str) -> None:
            """Say whose page it is, and who sees it."""
            assert self.xsrf_token  # which sets a cookie
            self.finish(f"<h1>{user}'s server</h1><p id=who>{self.current_user['name']}</p><p id=pid>{os.getpid()}</p>")

        @web.authenticated
        def post(self, *_: str) -> None:
            """Do something, which leaves a trace."""
            (folder / f"done-on-{user}").touch()
            self.finish("done")

    class Channel(HubOAuthenticated, websocket.WebSocketHandler):  # type: ignore[misc]
        """A websocket, such as a kernel's."""

        @web.authenticated
        async def get(self, *words: str, **options: str) -> None:  # type: ignore[override]
            """Accept the websocket of somebody who may use this server."""
            await super().get(*words, **options)

        def open(self, *_: str, **__: str) -> None:
            """Greet."""
            self.write_message("secret")

    class Hostile(web.RequestHandler):
        """A page without a log-in."""

        def get(self, *_: str) -> None:
            """Keep the visitor's cookies, and send the page with the cookies of the query, which may be any bytes."""
            with (folder / "cookies").open("a") as kept:
                kept.write(f"{self.request.headers.get('Cookie', '')}\n")
            for cookie in self.request.query_arguments.get(SET_COOKIE, ()):
                self.add_header("Set-Cookie", cookie)
            if self.request.path.endswith("worker.js"):
                self.set_header("Service-Worker-Allowed", "/")
                self.set_header("Content-Type", "text/javascript")
                self.finish(WORKER)
                return
            self.set_header("Content-Type", "text/html")
            self.finish("<h1>Free data</h1>")

        post = get

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    handlers: list[Any] = [(f"{prefix}oauth_callback", HubOAuthCallbackHandler), (f"{prefix}channel", Channel)]
    handlers.append((r".*", Hostile if user == MALLORY else Page))
    web.Application(handlers, cookie_secret=os.urandom(32), xsrf_cookies=user != MALLORY).listen(
        int(urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port or 0), "127.0.0.1", xheaders=True
    )
    mark.touch()
    loop = ioloop.IOLoop.current()

    def look() -> None:
        if (folder / "end").exists():
            loop.stop()

    ioloop.PeriodicCallback(look, 200).start()
    loop.start()


if __name__ == "__main__":
    serve()
