"""An origin for each person: jdoe's servers are at https://jdoe.hub.example.org, the hub alone at https://hub.example.org.

On one origin, a page of any person's server can act in the hub, and in the servers of whoever opens it. Here JupyterHub
and its proxy route by host (`subdomain_host`); this module names the hosts, and answers what JupyterHub does not:

- XNAT joins the hub's URL and a server's path to a link (docs/xnat-contract.md, 2.7). It is redirected to the person's
  origin, without a log-in: the person's name is in the path, and the token is in the link.
- A person's origin has servers and nothing else. The hub's own pages are never served there.
- A page of a person's origin cannot send a form to the hub.
- What a page of a server left on the hub's origin before the site had these origins loses its power.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from tornado import web
from tornado.httputil import HTTPMessageDelegate, HTTPServerRequest, split_host_and_port
from tornado.routing import Router

from xnat_hub.handlers import add_site_headers

PLAIN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST_PLAIN = 32  # characters of a name that is its own label
HASH_BYTES = 20  # 32 characters in base 32: a label with a hash is longer than every plain one
STUB = 20  # characters of a name before its hash
READS = ("GET", "HEAD", "OPTIONS")
# A service worker that removes itself. Before the site had these origins, any person's page could leave one of its own
# for all of the hub in its visitors' browsers. They look for a new version of it after each page, keep the old one if
# the answer is an error or a redirect, and put this one in its place.
REMOVE_WORKER = """\
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", async () => {
  await self.registration.unregister();
  for (const page of await self.clients.matchAll()) page.navigate(page.url);
});
"""
COOKIE_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 6265


def label(username: str) -> str:
    """Return the DNS label of a person, 63 characters at most: the name itself if it can be one.

    Other names, such as JDoe and j.doe, get a readable stub with a hash. Browsers do not distinguish upper and lower
    case in hosts; and whoever may choose a name must not find one with another person's label.
    """
    if len(username) <= LONGEST_PLAIN and PLAIN.fullmatch(username):
        return username
    digest = hashlib.sha256(username.encode("utf-8", "surrogatepass")).digest()[:HASH_BYTES]
    stub = re.sub(r"[^a-z0-9]", "", username.lower())[:STUB] or "user"
    return f"{stub}-{base64.b32encode(digest).decode().lower()}"


def subdomain_hook(name: str, domain: str, kind: str) -> str:
    """Return the host of a person, or of a service of JupyterHub: its `subdomain_hook`. kind: "user" or "service".

    No person's label has two hyphens in a row.
    """
    return f"{label(name)}.{domain}" if kind == "user" else f"{label(name)}--{kind}.{domain}"


@dataclass(frozen=True)
class Answer:
    """What is answered instead of JupyterHub. location: of a redirect. message: of an error. worker: a script."""

    status: int
    location: str = ""
    message: str = ""
    worker: str = ""


class Origins:
    """The origins of a hub. public_url: https, a host name, and a port if need be. base_url: such as /jupyterhub/."""

    def __init__(self, public_url: str, base_url: str) -> None:
        parts = urlsplit(public_url)
        self._domain = parts.hostname or ""
        self._port = f":{parts.port}" if parts.port not in (None, 443) else ""  # as browsers write an origin
        self._base = base_url
        self.hub = f"https://{self._domain}{self._port}"

    def of(self, username: str) -> str:
        """Return the origin of a person's servers."""
        return f"https://{subdomain_hook(username, self._domain, 'user')}{self._port}"

    def router(self, hub: web.Application) -> Router:
        """Return the hub's web application with these answers before it."""
        return OriginRouter(hub, self)

    def answer(self, method: str, host: str, uri: str, headers: Mapping[str, str]) -> Answer | None:
        """Return the answer to a request, None if JupyterHub answers it.

        host: with or without a port. uri: path and query as the client sent them.
        """
        name = split_host_and_port(host.lower())[0].removesuffix(".")
        is_servers = uri.startswith(f"{self._base}user/")
        if name.endswith(f".{self._domain}"):
            return self._on_persons_origin(method, uri, headers, is_servers=is_servers)
        if headers.get("Service-Worker") == "script":
            return Answer(200, worker=REMOVE_WORKER)
        if is_servers:
            person = re.split(r"[/?]", uri[len(f"{self._base}user/") :], maxsplit=1)[0]
            return Answer(307, f"{self.of(unquote(person))}{uri}") if person else None
        # Browsers name the page's origin in each of these requests.
        origin = headers.get("Origin")
        if method not in READS and origin not in (None, self.hub):
            return Answer(403, message="The hub accepts no requests from pages of other origins.")
        return None

    def _on_persons_origin(self, method: str, uri: str, headers: Mapping[str, str], *, is_servers: bool) -> Answer:
        """Return the answer to what the proxy has no server for."""
        opens_page = (
            method in ("GET", "HEAD")
            and headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
            and "Upgrade" not in headers
            and uri.startswith("/")
        )
        if is_servers and opens_page:  # JupyterHub says why the server does not run
            return Answer(302, f"{self.hub}{self._base}hub/{uri[len(self._base) :]}")
        if is_servers:  # JupyterLab understands this status, and does not follow a redirect to another origin
            return Answer(424, message="This server is not running. Start a new one in XNAT.")
        if opens_page:
            return Answer(302, f"{self.hub}{uri}")
        return Answer(404, message="This is the origin of a person's servers; the hub is elsewhere.")


def without_odd_cookies(cookies: str) -> str:
    """Return a Cookie header without the cookies that have no proper name.

    tornado strips all of Unicode's spaces from names. So it would take a cookie with the byte A0 or 85 before __Host-
    for the hub's own, whereas browsers let any host of the domain set it, as that is not the prefix.
    """
    parts = cookies.split(";")
    return ";".join(part for part in parts if COOKIE_NAME.fullmatch(part.partition("=")[0].strip(" \t")))


class OriginRouter(Router):
    """The hub's web application with the origins before it."""

    def __init__(self, hub: web.Application, origins: Origins) -> None:
        self._hub = hub
        self._origins = origins

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> HTTPMessageDelegate | None:
        """Called by tornado for each request."""
        answer = self._origins.answer(str(request.method), request.host, str(request.uri), request.headers)
        if answer is None:
            if "Cookie" in request.headers:
                request.headers["Cookie"] = without_odd_cookies(request.headers["Cookie"])
            return self._hub.find_handler(request, **options)
        return self._hub.get_handler_delegate(request, AnswerHandler, {"answer": answer})


class AnswerHandler(web.RequestHandler):
    """Sends an answer, without any cookie."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")

    def initialize(self, answer: Answer) -> None:
        """Called by tornado."""
        self._answer = answer

    def check_xsrf_cookie(self) -> None:
        """Do not check: nothing depends on who asks."""

    def prepare(self) -> None:
        """Send the answer, whatever the method."""
        add_site_headers(self)
        self.set_status(self._answer.status)
        if self._answer.location:
            self.set_header("Location", self._answer.location)
            self.set_header("Cache-Control", "no-store")
            self.finish()
        elif self._answer.worker:
            self.set_header("Cache-Control", "no-store")
            self.set_header("Content-Type", "text/javascript")
            self.set_header("Service-Worker-Allowed", "/")  # as the one that it replaces may have had
            self.finish(self._answer.worker)
        else:
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps({"status": self._answer.status, "message": self._answer.message}))
