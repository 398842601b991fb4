"""Checks the times, limits and addresses of the role jupyterhub, and what notebooks may reach.

Used on the control node by the filter `xnat_hub_findings`; imports only the standard library. A finding is one
problem::

    {"id": "range",                       # the rule
     "name": "jupyterhub_failed_logins",  # the variable to change
     "text": "..."}                       # one sentence: what is wrong and what to set
"""

from __future__ import annotations

import base64
import ipaddress
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..xnat_launcher.policy import DATA_TARGETS, is_below
from .egress import egress_findings
from .inventory import is_true
from .storage import SYSTEM_DIRS

Finding = dict[str, str]

LOCKED = ", since XNAT locks an account for an hour after 20 failed log-ins"
# The minimum and maximum of a number, and the reason.
RANGES: dict[str, tuple[int, int | None, str]] = {
    "jupyterhub_start_timeout": (30, None, ""),
    "jupyterhub_failed_logins": (1, 19, LOCKED),
    "jupyterhub_failed_logins_window": (3600, None, LOCKED),
    "jupyterhub_prune_interval": (10, None, ""),
    "jupyterhub_audit_days": (0, None, ", or to 0 to keep all files"),
    "jupyterhub_notebook_pids_limit": (100, None, ", since without a limit a server can use up a node's processes"),
    "jupyterhub_notebook_cpu_ceiling": (0, None, ""),
    "jupyterhub_notebook_cpu_default": (0, None, ""),
}
LEAST_CULL_IDLE = 60  # seconds; a kernel needs a few to start
CEILINGS = (
    "jupyterhub_notebook_memory_ceiling",
    "jupyterhub_notebook_memory_default",
    "jupyterhub_notebook_tmp_size",
    "jupyterhub_notebook_home_size",
    "jupyterhub_notebook_shm_size",
)
SERVICES = ("hub", "launcher", "proxy", "gate", "squid")
CEILING = re.compile(r"([0-9]+(\.[0-9]+)?[KMGT]i?B?)?")
MEMORY = re.compile(r"[0-9]+(\.[0-9]+)?[KMGT]B?")
SYSLOG = re.compile(r"(?:udp|tcp|tls)://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
URL = re.compile(r"https?://[^/?#\s]+/?")
DOMAIN = re.compile(r"([a-z0-9-]+\.)+[a-z][a-z0-9-]*")  # below which browsers find other names; not an address
LOGO_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
LARGEST_LOGO = 200_000  # bytes: the hub's settings, which contain the logo, are a Docker config, at most 500 KiB


def logo(path: str) -> dict[str, str] | None:
    """Return the logo for the hub's settings: {"type": "image/png", "data": base64}; None for an empty path.

    path: a file on the control node. Raises ValueError if it cannot be read or cannot be a logo.
    """
    if not path:
        return None
    kind = LOGO_TYPES.get(Path(path).suffix.lower())
    if kind is None:
        raise ValueError(f"jupyterhub_logo is {path}: set a file whose name ends in .png or .svg")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"jupyterhub_logo is {path}, which cannot be read: {error.strerror}") from error
    if not content or len(content) > LARGEST_LOGO:
        raise ValueError(
            f"jupyterhub_logo is {path}, which has {len(content)} bytes: set a file of at most {LARGEST_LOGO} bytes"
        )
    return {"type": kind, "data": base64.b64encode(content).decode()}


def hub_findings(settings: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with settings of the hub. settings: the role's variables that are checked here, by name."""
    return [
        *_times(settings),
        *_culling(settings),
        *_ceilings(settings),
        *_home(settings),
        *_limits(settings),
        *_addresses(settings),
        *_person_origins(settings),
        *_syslog(settings),
        *egress_findings(settings),
    ]


def _times(settings: Mapping[str, Any]) -> Iterator[Finding]:
    for name, (least, most, reason) in RANGES.items():
        if not least <= _number(settings[name]) <= (float("inf") if most is None else most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            yield _finding("range", name, f"{name} is {settings[name]}: set it to {wanted}{reason}.")
    names = ("jupyterhub_start_timeout", "jupyterhub_http_timeout", "jupyterhub_xnat_start_timeout")
    start, http, xnat = (_number(settings[name]) for name in names)
    if not start + http < xnat:
        yield _finding(
            "start_time",
            names[0],
            f"The hub waits {start:g} + {http:g} s for a server (jupyterhub_start_timeout + jupyterhub_http_timeout),"
            f" but XNAT only {xnat:g} s (jupyterhub_xnat_start_timeout): make the hub's sum smaller.",
        )


def _culling(settings: Mapping[str, Any]) -> Iterator[Finding]:
    name = "jupyterhub_notebook_cull_idle"
    if settings[name] != 0 and not _number(settings[name]) >= LEAST_CULL_IDLE:
        yield _finding(
            "cull_idle",
            name,
            f"{name} is {settings[name]}: set it to at least {LEAST_CULL_IDLE}, since a kernel that starts is idle as"
            " well, or to 0 to keep idle kernels.",
        )


def _ceilings(settings: Mapping[str, Any]) -> Iterator[Finding]:
    for name in CEILINGS:
        if not CEILING.fullmatch(str(settings[name])):
            yield _finding("ceiling", name, f"{name} is {settings[name]!r}: use the form 64G or leave it empty.")


def _home(settings: Mapping[str, Any]) -> Iterator[Finding]:
    name = "jupyterhub_notebook_home"
    home = str(settings[name])
    path = "/" + posixpath.normpath(home).lstrip("/")
    taken = path in ("/", "/tmp") or path.split("/")[1] in SYSTEM_DIRS  # noqa: S108  (of the container)
    if home != path or taken or "{{" in home or any(is_below(path, target) for target in DATA_TARGETS):
        yield _finding(
            "home",
            name,
            f"{name} is {home!r}: set it to a directory of the container such as /home/jovyan or /tmp/home, outside its"
            f" system directories and {' and '.join(DATA_TARGETS)}.",
        )


def _limits(settings: Mapping[str, Any]) -> Iterator[Finding]:
    for name in (f"jupyterhub_{service}_{kind}" for service in SERVICES for kind in ("limits", "reservations")):
        wanted = settings[name]
        if not MEMORY.fullmatch(str(wanted.get("memory"))) or not _number(wanted.get("cpus")) > 0:
            yield _finding("limits", name, f"{name} is {dict(wanted)}: use the form {{cpus: 2, memory: 1G}}.")


def _addresses(settings: Mapping[str, Any]) -> Iterator[Finding]:
    listen = str(settings["jupyterhub_listen_address"])
    if listen and not _is_address(listen, (4,)):
        yield _finding(
            "listen_address",
            "jupyterhub_listen_address",
            f"jupyterhub_listen_address is {listen!r}: set it to an IPv4 address of the hub's node, or leave it empty.",
        )
    url = str(settings["jupyterhub_public_url"])
    if not URL.fullmatch(url):
        yield _finding(
            "public_url",
            "jupyterhub_public_url",
            f"jupyterhub_public_url is {url!r}: set it to http:// or https:// and a host, without a path.",
        )
    wrong = [str(proxy) for proxy in settings["jupyterhub_trusted_proxies"] if not _is_address(str(proxy), (4, 6))]
    if wrong:
        yield _finding(
            "trusted_proxies",
            "jupyterhub_trusted_proxies",
            f"jupyterhub_trusted_proxies has {', '.join(wrong)}: set it to IP addresses without a mask.",
        )


def _person_origins(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield why people cannot have origins below the hub's host name."""
    urls = [str(settings[name]) for name in ("jupyterhub_public_url", "jupyterhub_xnat_public_url")]
    if not is_true(settings["jupyterhub_person_origins"]) or not URL.fullmatch(urls[0]):
        return
    hub, xnat = ((urlsplit(url).hostname or "").lower() for url in urls)
    needs = f"jupyterhub_person_origins is true, but {{}} (jupyterhub_public_url is {urls[0]!r}): {{}}."
    if not urls[0].startswith("https:"):
        advice = "set it to an https URL, or set site_hub_person_origins to false"
        yield _finding("origins_https", "jupyterhub_public_url", needs.format("the hub does not use TLS", advice))
    if not DOMAIN.fullmatch(hub):
        reason = "there is no name below the hub's host"
        advice = "give the hub a host name such as hub.example.org, or set site_hub_person_origins to false"
        yield _finding("origins_name", "jupyterhub_public_url", needs.format(reason, advice))
    elif f".{xnat.removesuffix('.')}".endswith(f".{hub}"):
        reason = f"XNAT's host {xnat} is the hub's or below it, where people's pages can set its cookies"
        advice = "give XNAT or the hub another host name"
        yield _finding("origins_xnat", "jupyterhub_public_url", needs.format(reason, advice))


def _syslog(settings: Mapping[str, Any]) -> Iterator[Finding]:
    url = str(settings["jupyterhub_audit_syslog"])
    found = SYSLOG.fullmatch(url)
    if url and not (found and 0 < int(found[1]) < 2**16):
        yield _finding(
            "syslog",
            "jupyterhub_audit_syslog",
            f"jupyterhub_audit_syslog is {url!r}: set it to the form udp://host:port, tcp://host:port or"
            " tls://host:port, or leave it empty.",
        )


def _number(value: object) -> float:
    """Return a value as a number; variables from the command line are texts. NaN, for no number, fails all checks."""
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def _is_address(text: str, versions: tuple[int, ...]) -> bool:
    try:
        return ipaddress.ip_address(text).version in versions
    except ValueError:
        return False


def _finding(rule: str, name: str, text: str) -> Finding:
    return {"id": rule, "name": name, "text": text}
