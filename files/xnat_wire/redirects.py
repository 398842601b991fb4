"""The meaning of XNAT's redirects (docs/xnat-contract.md, 1.2 and 1.6). Shared by the hub and the Ansible modules.

XNAT's REST calls normally do not redirect, so every redirect means that somebody must do something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urljoin, urlsplit

Kind = Literal["setup", "password", "inactive", "email", "moved", "sign-on", "page"]

# How the paths of XNAT's own pages end, in lower case: XnatInitCheckFilter.java, SecurityConfig.java.
PAGES: dict[str, Kind] = {
    "/setup": "setup",
    "/app/template/unconfigured.vm": "setup",
    "/app/template/xdatscreen_updateuser.vm": "password",
    "/app/template/inactiveaccount.vm": "inactive",
    "/app/template/verifyemail.vm": "email",
}
SIGN_ON = re.compile(r"(oauth|openid|oidc|saml|shibboleth|login|signin|adfs)|\b(sso|cas)\b")
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Redirect:
    """The meaning of one redirect.

    kind: `setup`, XNAT is not initialised; `password`, the password has expired; `inactive`, the account is inactive;
    `email`, its e-mail address is not verified; `moved`, the same call at another scheme, host or prefix; `sign-on`, a
    log-in page of XNAT or of a single sign-on; `page`, anything else. target: the new address without user, query and
    fragment; for `moved`, XNAT's base URL.
    """

    kind: Kind
    target: str


def judge(base: str, path: str, location: str) -> Redirect:
    """Return what the redirect of a call means.

    base: XNAT's URL as configured. path: the path of the call. location: the answer's Location header, empty for none.
    """
    asked = base.rstrip("/") + path
    try:
        target = urlsplit(urljoin(asked, location))
        place = _origin(target) + target.path
    except ValueError:  # no URL
        return Redirect("page", "an invalid address")
    if not location:
        return Redirect("page", "no address")
    found = target.path.rstrip("/")
    for end, kind in PAGES.items():
        if found.lower().endswith(end):
            return Redirect(kind, place)
    source = urlsplit(asked)
    call = path.partition("?")[0].rstrip("/")
    # Many reverse proxies redirect every http: call to the start page of https:.
    upgraded = (source.scheme, target.scheme, source.hostname) == ("http", "https", target.hostname) and not found
    if upgraded or found.endswith(call):
        prefix = found.removesuffix(call)
        moved = _origin(target) + prefix
        if moved != _origin(source) + source.path.partition("?")[0].rstrip("/").removesuffix(call):
            return Redirect("moved", moved)
    if _origin(target) != _origin(source) or SIGN_ON.search(found.lower()):
        return Redirect("sign-on", place)
    return Redirect("page", place)


def _origin(url: SplitResult) -> str:
    """Return scheme, host and port, without the scheme's default port. Raises ValueError for an invalid URL."""
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    port = "" if url.port in (None, PORTS.get(url.scheme)) else f":{url.port}"
    return f"{url.scheme}://{host}{port}"
