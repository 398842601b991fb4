"""Plans the edge: names, ports and haproxy's file of the service that ends TLS for hub and XNAT.

Used on the control node by the filters of `filter_plugins/edge.py`; imports only the standard library.

The edge reads only these parts of a request: host, path, method, and cookies if hub and XNAT share a host name.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .egress import DOCKER_RESOLVER, resolvers
from .hosts import HOST_LABEL

Finding = dict[str, str]

EDGE_LABEL = "org.xnat.jupyterhub.edge"  # of a node, followed by a dot and the deployment: an edge runs there
HTTP_TARGET, TLS_TARGET = 8080, 8443  # ports in the container; the next port of TLS has the next number
HEALTH_PORT = 8404
HTTPS_PORT = 443
CERTIFICATES = "/etc/xnat-edge/certificates"
SOCKET = "/tmp/haproxy.sock"  # noqa: S108  (a tmpfs of the container)
HEADERS_SIZE = 65536  # bytes of a request's headers, as the hub's proxy accepts them
MAX_FILES = 40000  # of haproxy, two for each connection; fewer where the engine allows fewer
IDLE = "25h"  # a websocket may be idle for a day
COMPRESSED = ("text/css", "text/javascript", "application/javascript", "image/svg+xml")
COOKIE_NAME = re.compile(r"[A-Za-z0-9_.-]+\*?")
URL = re.compile(r"https?://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:[1-9][0-9]{0,4})?")
ACME_URL = re.compile(r"https://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~/-]*)?")
MAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+")
# What a browser may send and only a reverse proxy may set.
FORWARDED = ("Forwarded", "X-Real-IP", "X-Scheme", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix")


@dataclass(frozen=True)
class Place:
    """Where browsers find the hub or XNAT. host: in lower case, IPv6 in brackets. path: begins with a slash and has
    none at its end, so it is empty for the whole host.
    """

    host: str
    port: int
    path: str
    tls: bool

    @property
    def origin(self) -> str:
        """The URL without its path."""
        return f"https://{self.host}{'' if self.port == HTTPS_PORT else f':{self.port}'}"


def place(url: str, path: str = "") -> Place:
    """Return the place of a public URL. path: instead of the URL's own. Raises ValueError for an invalid port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".")
    tls = parts.scheme == "https"
    port = parts.port or (HTTPS_PORT if tls else 80)
    return Place(f"[{host}]" if ":" in host else host, port, (path or parts.path).rstrip("/"), tls)


def shared_host(xnat_url: str, hub_url: str) -> str:
    """Return the host name that XNAT and hub share, empty if they have two: the filter `xnat_shared_host`.

    Browsers send a cookie to all ports of its host, so ports do not matter.
    """
    xnat, hub = place(xnat_url), place(hub_url)
    return hub.host if xnat.host == hub.host else ""


def edge_plan(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return names, ports and haproxy's file of the edge: the filter `xnat_edge_plan`.

    settings: {"hub_url", "hub_path", "hub_server" ("HOST:PORT" of the hub's proxy), "person_origins" (whether people's
    servers are at names below the hub's), "xnat_url", "xnat_upstream" (URL at which the edge reaches XNAT, "" if XNAT
    has its own way to browsers), "certificates" (names of the PEM files, the first one for clients that name no host),
    "http_port" (0 for none), "hsts" (seconds, 0 for none), "logins_each" (log-ins of one address in a minute, 0 for no
    limit), "hub_cookies", "ca" (whether the site has a CA bundle), "thumbprint" (of the ACME account whose challenges
    are answered, "" for none)}, without findings of `edge_findings`. Returns::

        {"ports": [{"published_port": 443, "target_port": 8443}, ...],  # first the hub's
         "health": 8404,  # port of the health check, on the loopback address
         "file": "..."}   # haproxy's
    """
    hub = place(settings["hub_url"], settings["hub_path"])
    xnat = place(settings["xnat_url"]) if settings["xnat_upstream"] else None
    places = [hub, *([xnat] if xnat else [])]
    tls_ports = list(dict.fromkeys(found.port for found in places))
    targets = {port: TLS_TARGET + number for number, port in enumerate(tls_ports)}
    http_port = int(settings["http_port"])
    return {
        "ports": [
            {"published_port": published, "target_port": target}
            for published, target in [*targets.items(), *([(http_port, HTTP_TARGET)] if http_port else [])]
        ],
        "health": HEALTH_PORT,
        "file": haproxy_config(settings, hub, xnat, targets),
    }


def edge_files(number: int) -> list[str]:
    """Return the names of the PEM files on a node: the filter `xnat_edge_files`. number: how many there are."""
    return [f"certificate-{index}.pem" for index in range(number)]


def edge_names(hub_url: str, xnat_url: str = "", *, person_origins: bool = False) -> dict[str, list[str]]:
    """Return the hosts of the edge: the filter `xnat_edge_names`. xnat_url: empty if it does not serve XNAT.

    person_origins: whether people's servers are at names below the hub's, which need a wildcard. Returns::

        {"names": ["hub.example.org", "2001:db8::1"],
         "alternatives": ["DNS:hub.example.org", "IP:2001:db8::1"],  # of a certificate
         "constraints": ["DNS:hub.example.org"]}                     # of the authority; addresses are not limited
    """
    urls = [hub_url, *([xnat_url] if xnat_url else [])]
    names = list(dict.fromkeys(place(url).host.strip("[]") for url in urls))
    if person_origins:
        names.insert(1, f"*.{names[0]}")
    kinds = ["IP" if _is_address(name) else "DNS" for name in names]
    alternatives = [f"{kind}:{name}" for kind, name in zip(kinds, names, strict=True)]
    return {
        "names": names,
        "alternatives": alternatives,
        # A name stands for those below it, too.
        "constraints": [name for name in alternatives if name.startswith("DNS:") and "*" not in name],
    }


def edge_ports(hub_url: str, xnat_url: str = "", http_port: int = 80) -> list[dict[str, Any]]:
    """Return the ports of a node on which the edge listens: the filter `xnat_edge_ports`.

    xnat_url: empty if it does not serve XNAT. http_port: 0 for none. Returns [{"port": 443, "purpose": "the edge",
    "variable": "site_hub_public_url"}, ...], nothing for URLs that have no valid port.
    """
    wanted = {"site_hub_public_url": hub_url, **({"site_xnat_public_url": xnat_url} if xnat_url else {})}
    try:
        ports = {place(str(url)).port: variable for variable, url in reversed(wanted.items())}
    except ValueError:  # preflight reports them
        return []
    if http_port:
        ports.setdefault(int(http_port), "edge_http_port")
    return [{"port": port, "purpose": "the edge", "variable": variable} for port, variable in ports.items()]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# ---- haproxy


def haproxy_config(settings: Mapping[str, Any], hub: Place, xnat: Place | None, targets: Mapping[int, int]) -> str:
    """Return haproxy's file. targets: the port in the container of each public port."""
    services = {"hub": hub, **({"xnat": xnat} if xnat else {})}
    if xnat and len(xnat.path) > len(hub.path):  # the longer path is tried first
        services = {"xnat": xnat, "hub": hub}
    parts = [_COMMON, _HEALTH]
    if settings["http_port"]:
        parts.append(_redirects(settings, services))
    parts += [_frontend(settings, services, port, target) for port, target in targets.items()]
    parts.append("backend logins\n    stick-table type ipv6 size 100k expire 2m store http_req_rate(1m)\n")
    parts.append(_hub_backend(settings))
    if xnat:
        parts.append(_xnat_backend(settings))
    return "\n".join(parts)


_COMMON = f"""\
global
    fd-hard-limit {MAX_FILES}
    tune.bufsize {HEADERS_SIZE + 4096}
    tune.maxrewrite 4096
    tune.http.maxhdr 256
    stats socket {SOCKET} mode 600 level admin
    log stdout format raw local0 info
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    ssl-default-bind-ciphers ECDHE+AESGCM:ECDHE+CHACHA20
    ssl-default-bind-curves X25519:P-256:P-384

defaults
    mode http
    log global
    option dontlognull
    option clitcpka
    option srvtcpka
    clitcpka-idle 60s
    srvtcpka-idle 60s
    timeout connect 5s
    timeout http-request 30s
    timeout http-keep-alive 1m
    timeout client 5m
    timeout client-fin 30s
    # XNAT may pack a large archive before its answer begins.
    timeout server 1h
    timeout tunnel {IDLE}
    default-server resolvers docker resolve-prefer ipv4 init-addr none

# A name that cannot be resolved for a moment keeps its address, and a service that has moved is found again.
{resolvers("docker", f"{DOCKER_RESOLVER}:53")}"""
_HEALTH = f"""\
frontend health
    no log
    timeout client 5s
    bind 127.0.0.1:{HEALTH_PORT}
    monitor-uri /healthz
    http-request return status 404
"""
# Client, method, host, path, status, bytes, milliseconds until the answer began, how it ended. Neither the query nor
# the referer, which carry tokens. Of a path not what follows a semicolon, such as a session's id, and not the alias
# token with its secret that XNAT takes there.
_LOG = """\
    log-format "%ci %[var(txn.method)] %[var(txn.host)] %[var(txn.path)] %ST %B %Tr %ts"
    http-request set-var(txn.method) method
    http-request set-var(txn.host) req.hdr(host),host_only,lower
    http-request set-var(txn.path) "path,regsub(';.*',''),regsub('(?<=/services/tokens/).*','')\""""
LOGINS = {
    "hub": ("hub/login",),
    "xnat": ("login", "data/JSESSION", "data/services/auth"),
}


def _matches(services: Mapping[str, Place]) -> list[str]:
    """Return the conditions at_NAME (the host is that of the service) and in_NAME (the path is)."""
    lines = []
    for name, found in services.items():
        lines.append(f"    acl at_{name} var(txn.host) -m str {found.host}")
        if found.path:
            lines += [f"    acl in_{name} path {found.path}", f"    acl in_{name} path_beg {found.path}/"]
        else:
            lines.append(f"    acl in_{name} always_true")
    return lines


def _people(settings: Mapping[str, Any], hub: Place | None) -> list[str]:
    """Return the conditions at_people (the host is a person's, below the hub's) and in_people (the path is of servers).

    Empty without an origin for each person. hub: None if this is not its port.
    """
    if not settings["person_origins"] or not hub:
        return []
    host = hub.host.replace(".", "[.]")
    return [
        f"    acl at_people var(txn.host) -m reg ^[a-z0-9-]+[.]{host}$",
        f"    acl in_people path_beg {hub.path}/user/",
    ]


def _hosts(services: Mapping[str, Place]) -> dict[str, str]:
    """Return the first service of each host, by the host."""
    found: dict[str, str] = {}
    for name, where in services.items():
        found.setdefault(where.host, name)
    return found


def _redirects(settings: Mapping[str, Any], services: Mapping[str, Place]) -> str:
    people, thumbprint = _people(settings, services["hub"]), str(settings["thumbprint"])
    lines = [f"frontend http\n    bind :{HTTP_TARGET}", _LOG, *_matches(services), *people]
    if thumbprint:
        # The answer follows from the account alone (RFC 8555, 8.3), so every edge answers for every other one. The
        # account's key is needed to make use of it.
        here = " || ".join(f"at_{name} challenge" for name in _hosts(services).values())
        lines += [
            "    acl challenge path_reg ^/[.]well-known/acme-challenge/[A-Za-z0-9_-]{1,200}$",
            "    http-request return status 200 content-type text/plain"
            f' lf-string "%[path,field(4,/)].{thumbprint}" if {here}',
        ]
    for name, found in services.items():
        lines.append(f"    http-request redirect prefix {found.origin} code 301 if at_{name} in_{name}")
    # A path of neither, such as the root.
    for name in _hosts(services).values():
        lines.append(f"    http-request redirect prefix {services[name].origin} code 301 if at_{name}")
    if people:
        origin = services["hub"].origin.replace(services["hub"].host, "%[var(txn.host)]")
        lines.append(f"    http-request redirect prefix {origin} code 301 if at_people")
    return "\n".join([*lines, "    http-request return status 421"]) + "\n"


def _frontend(settings: Mapping[str, Any], services: Mapping[str, Place], port: int, target: int) -> str:
    here = {name: found for name, found in services.items() if found.port == port}
    files = " ".join(f"crt {CERTIFICATES}/{name}" for name in settings["certificates"])
    people = _people(settings, here.get("hub"))
    lines = [f"frontend https{port}\n    bind :{target} ssl {files} alpn h2,http/1.1", _LOG, *_matches(here), *people]
    if int(settings["hsts"]):
        lines.append(f"    http-after-response set-header Strict-Transport-Security max-age={int(settings['hsts'])}")
    # The edge is the first proxy, so what a client says of others is forged.
    lines += [f"    http-request del-header {name}" for name in FORWARDED]
    lines += [
        "    http-request set-header X-Forwarded-For %[src]",
        "    http-request set-header X-Forwarded-Proto https",
    ]
    for host, name in _hosts(here).items():
        if all(found.path for found in here.values() if found.host == host):
            lines.append(f"    http-request redirect location {here[name].path}/ code 302 if at_{name} {{ path / }}")
    if people:
        lines.append(f"    http-request redirect prefix {here['hub'].origin} code 302 if at_people !in_people")
    served = {**{name: name for name in here}, **({"people": "hub"} if people else {})}
    lines.append(f"    http-request return status 421 unless {' || '.join(f'at_{name}' for name in served)}")
    lines.append(f"    http-request return status 404 unless {' || '.join(f'at_{name} in_{name}' for name in served)}")
    lines += _login_limit(int(settings["logins_each"]), here)
    lines += [f"    use_backend {backend} if at_{name} in_{name}" for name, backend in served.items()]
    return "\n".join(lines) + "\n"


def _login_limit(limit: int, here: Mapping[str, Place]) -> list[str]:
    """Return the rules that count log-ins of an address, or of an IPv6 network of one subscriber, and refuse some."""
    if not limit:
        return []
    lines = [
        f"    acl login_{name} path {' '.join(f'{found.path}/{path}' for path in LOGINS[name])}"
        for name, found in here.items()
    ]
    login = " || ".join(f"at_{name} login_{name} writes" for name in here)
    return [
        "    acl writes method POST PUT",
        *lines,
        f"    http-request track-sc0 src,ipmask(32,64) table logins if {login}",
        "    http-request return status 429 content-type text/plain hdr Retry-After 60"
        ' string "Too many log-ins from your address. Try again in a minute."'
        f" if {{ sc0_http_req_rate(logins) gt {limit} }}",
    ]


def _hub_backend(settings: Mapping[str, Any]) -> str:
    lines = [
        "backend hub",
        f"    server proxy {settings['hub_server']}",
        # What the hub and servers of other images send uncompressed. Not pages and JSON, which contain tokens (BREACH).
        "    compression algo gzip",
        f"    compression type {' '.join(COMPRESSED)}",
    ]
    if shared_host(str(settings["xnat_url"]), str(settings["hub_url"])):
        # Cookies of XNAT do not reach notebooks, and those that notebooks set do not reach XNAT.
        names = "|".join(_cookie(str(name)) for name in settings["hub_cookies"])
        lines += [
            f"    http-request set-header Cookie \"%[req.fhdr(cookie),regsub('(^|;)(?! *({names})=)[^;]*','',g),"
            "regsub('^[; ]*','')]\" if { req.hdr_cnt(cookie) gt 0 }",
            "    http-request del-header Cookie if { req.fhdr(cookie) -m len 0 }",
            # A header cannot be removed by its value. Browsers ignore an empty one.
            f"    http-response replace-header Set-Cookie '^(?!({names})=).*' '%[var(txn.nothing)]'",
        ]
    return "\n".join(lines) + "\n"


def _cookie(name: str) -> str:
    """Return the regular expression of a cookie's name; `*` at its end stands for the rest."""
    return name.replace(".", "[.]").replace("*", "[^=; ]*")


def _xnat_backend(settings: Mapping[str, Any]) -> str:
    parts = urlsplit(str(settings["xnat_upstream"]))
    tls = parts.scheme == "https"
    address = f"{parts.netloc}{'' if parts.port else ':443' if tls else ':80'}"
    options = ""
    if tls:
        ca = "/etc/xnat-edge/ca.crt" if settings["ca"] else "@system-ca"
        options = f" ssl verify required ca-file {ca} sni str({parts.hostname}) verifyhost {parts.hostname}"
    return f"backend xnat\n    server xnat {address}{options}\n"


# ---- nodes


def edge_labels(nodes: Iterable[Mapping[str, Any]], hosts: Sequence[str], deployment: str) -> list[dict[str, Any]]:
    """Return the nodes whose label must change: [{"id", "host", "add": True}, ...]: the filter `xnat_edge_labels`.

    nodes: Docker's JSON. hosts: those of the inventory where an edge runs. Raises ValueError with the hosts that are
    not nodes of this swarm.
    """
    label = f"{EDGE_LABEL}.{deployment}"
    labels = {str(node["ID"]): node["Spec"].get("Labels") or {} for node in nodes}
    found = {id: str(has.get(HOST_LABEL, "")) for id, has in labels.items()}
    if missing := sorted(set(hosts) - set(found.values())):
        raise ValueError(f"{', '.join(missing)} of the group edges is no node of this swarm: add it to workers")
    return [
        {"id": id, "host": host, "add": host in hosts}
        for id, host in found.items()
        if (labels[id].get(label) == "true") != (host in hosts)
    ]


# ---- findings


def edge_findings(settings: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the role's variables, by their names: the filter `xnat_edge_findings`.

    settings: the role's variables that are checked here, by name.
    """
    acme = _acme(settings) if settings["edge_certificate_source"] == "acme" else ()
    return [*_urls(settings), *_certificates(settings), *acme, *_numbers(settings), *_cookies(settings)]


def _urls(settings: Mapping[str, Any]) -> Iterator[Finding]:
    served = ["edge_hub_url", *(["edge_xnat_url"] if settings["edge_xnat_upstream"] else [])]
    for name in served:
        if not str(settings[name]).startswith("https://"):
            yield _finding(
                "https",
                name,
                f"The edge serves {name} by TLS, but it is {settings[name]!r}: set it to a URL that begins with"
                " https://, or leave the group edges empty.",
            )
    upstream = str(settings["edge_xnat_upstream"])
    if upstream and not URL.fullmatch(upstream):
        yield _finding(
            "upstream",
            "edge_xnat_upstream",
            f"edge_xnat_upstream is {upstream!r}: set it to the URL at which the edge reaches XNAT, without a path,"
            " such as http://xnat.internal:8080, or leave it empty.",
        )
    elif upstream and place(upstream) == place(str(settings["edge_xnat_url"]), "/"):
        yield _finding(
            "upstream_loop",
            "edge_xnat_upstream",
            "edge_xnat_upstream is XNAT's public address, which is the edge itself: set it to an address of XNAT's own"
            " web server.",
        )


def _certificates(settings: Mapping[str, Any]) -> Iterator[Finding]:
    source, files = settings["edge_certificate_source"], settings["edge_certificate_files"]
    if source == "files" and not files:
        yield _finding(
            "certificate_files",
            "edge_certificate_files",
            "edge_certificate_source is files, but edge_certificate_files is empty: list the files, such as"
            " [{certificate: /path/hub.crt, key: /path/hub.key}], or set edge_certificate_source to authority.",
        )


def _acme(settings: Mapping[str, Any]) -> Iterator[Finding]:
    directory = str(settings["edge_acme_directory"])
    if not ACME_URL.fullmatch(directory):
        yield _finding(
            "acme_directory",
            "edge_acme_directory",
            f"edge_acme_directory is {directory!r}: set it to the https:// URL of the ACME authority's directory.",
        )
    if not settings["edge_acme_terms_agreed"]:
        yield _finding(
            "acme_terms",
            "edge_acme_terms_agreed",
            f"edge_acme_terms_agreed is false: read the terms of service that {directory} names, and set it to true if"
            " your site agrees to them.",
        )
    contact = str(settings["edge_acme_contact"])
    if contact and not MAIL.fullmatch(contact):
        yield _finding(
            "acme_contact",
            "edge_acme_contact",
            f"edge_acme_contact is {contact!r}: set it to one e-mail address, or leave it empty.",
        )
    if bool(settings["edge_acme_eab_kid"]) != bool(settings["edge_acme_eab_key_set"]):
        yield _finding(
            "acme_eab",
            "edge_acme_eab_kid",
            "Only one of edge_acme_eab_kid and edge_acme_eab_key is set: set both to what the ACME authority gave you,"
            " or leave both empty.",
        )
    if settings["edge_acme_challenge"] == "dns-01" and not settings["edge_acme_hook"]:
        yield _finding(
            "acme_hook",
            "edge_acme_hook",
            "edge_acme_challenge is dns-01, but edge_acme_hook is empty: set it to a hook script of dehydrated that"
            " writes to your name server.",
        )
    if settings["edge_acme_challenge"] == "http-01" and not int(settings["edge_http_port"]):
        yield _finding(
            "acme_port",
            "edge_http_port",
            "edge_http_port is 0, but the ACME authority asks on port 80: set edge_http_port to 80, or"
            " edge_acme_challenge to dns-01.",
        )
    if settings["edge_acme_challenge"] == "http-01" and settings["edge_person_origins"]:
        yield _finding(
            "acme_wildcard",
            "edge_acme_challenge",
            "An origin for each person (site_hub_person_origins) needs a certificate for all names below the hub's,"
            " which ACME authorities issue by DNS only: set edge_acme_challenge to dns-01 and edge_acme_hook.",
        )
    names = edge_names(
        str(settings["edge_hub_url"]), str(settings["edge_xnat_url"]) if settings["edge_xnat_upstream"] else ""
    )["names"]
    for name in names:
        if _is_address(name) or "." not in name:
            yield _finding(
                "acme_name",
                "edge_certificate_source",
                f"ACME has no certificates for {name}: use a full host name in the public URL, or set"
                " edge_certificate_source to authority or files.",
            )


def _numbers(settings: Mapping[str, Any]) -> Iterator[Finding]:
    days, renew = int(settings["edge_certificate_days"]), int(settings["edge_renew_days"])
    if not 0 < renew < days <= 825:  # browsers refuse longer ones
        yield _finding(
            "days",
            "edge_certificate_days",
            f"edge_certificate_days is {days} and edge_renew_days is {renew}: set the first one to at most 825, and the"
            " second one to less.",
        )
    hub = urlsplit(str(settings["edge_hub_url"])).port or HTTPS_PORT
    xnat = (urlsplit(str(settings["edge_xnat_url"])).port or HTTPS_PORT) if settings["edge_xnat_upstream"] else hub
    http = int(settings["edge_http_port"])
    if http in (hub, xnat) or not 0 <= http < 65536:
        yield _finding(
            "http_port",
            "edge_http_port",
            f"edge_http_port is {http}: set it to a port that no public URL has, or to 0 for none.",
        )


def _cookies(settings: Mapping[str, Any]) -> Iterator[Finding]:
    wrong = [str(name) for name in settings["edge_hub_cookies"] if not COOKIE_NAME.fullmatch(str(name))]
    if wrong or not settings["edge_hub_cookies"]:
        yield _finding(
            "cookies",
            "edge_hub_cookies",
            f"edge_hub_cookies has {', '.join(map(repr, wrong)) or 'no names'}: list names of cookies, with * at the"
            " end for all that begin so.",
        )


def certificate_findings(
    certificates: Iterable[Mapping[str, Any]], keys: Iterable[Mapping[str, Any]], names: Sequence[str], now: str
) -> list[Finding]:
    """Return what is wrong with the site's certificate files: the filter `xnat_certificate_findings`.

    certificates: the result of `x509_certificate_info` for each of `edge_certificate_files`, which is its `item`. keys:
    that of `openssl_privatekey_info`, in the same order. names: hosts that the certificates must be for. now: such as
    "20261128035000Z".
    """
    variable = "edge_certificate_files"
    listed = list(zip(certificates, keys, strict=True))
    found = []
    for certificate, key in listed:
        files = certificate["item"]
        if certificate["public_key"] != key["public_key"]:
            found.append(_finding("key", variable, f"{files['key']} is not the key of {files['certificate']}."))
        if str(certificate["not_after"]) <= now:
            text = f"{files['certificate']} has expired: replace it by a new one."
            found.append(_finding("expired", variable, text))
    for name in names:
        if not any(_covers(str(one), name) for found_one, _ in listed for one in found_one["subject_alt_name"] or ()):
            other = "set site_hub_person_origins to false" if name.startswith("*.") else "correct the public URL"
            text = f"No certificate is for {name}: add one to edge_certificate_files, or {other}."
            found.append(_finding("uncovered", variable, text))
    return found


def _covers(pattern: str, name: str) -> bool:
    """Whether a subject alternative name, such as DNS:*.example.org, is for a host."""
    kind, _, value = pattern.lower().partition(":")
    if kind in ("ip", "ip address"):
        return _is_address(name) and ipaddress.ip_address(value) == ipaddress.ip_address(name)
    return kind == "dns" and (value == name or (value.startswith("*.") and name.partition(".")[2] == value[2:]))


# ---- ACME


def acme_thumbprint(key: Mapping[str, Any]) -> str:
    """Return the thumbprint (RFC 7638) of an ACME account's RSA key: the filter `xnat_acme_thumbprint`.

    key: its public part, {"exponent": 65537, "modulus": ...}; empty if there is none yet, which gives "".
    """
    if not key:
        return ""
    jwk = {"e": _base64url(_octets(key["exponent"])), "kty": "RSA", "n": _base64url(_octets(key["modulus"]))}
    canonical = json.dumps(jwk, separators=(",", ":"), sort_keys=True)
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def acme_fault(output: Sequence[str]) -> str:
    """Return why dehydrated has got no certificate, on one line: the filter `xnat_acme_fault`.

    output: the lines that it wrote. The authority's own sentence if there is one, otherwise dehydrated's error.
    """
    if details := re.findall(r'"detail"\]?\s*:?\s*"((?:[^"\\]|\\.)*)"', "\n".join(output)):
        return " ".join(str(details[-1]).split())
    lines = [line.strip() for line in output if line.strip()]
    errors = [line.partition("ERROR:")[2].strip() for line in lines if "ERROR:" in line]
    return (errors or lines or ["dehydrated wrote nothing"])[-1]


def _finding(rule: str, name: str, text: str) -> Finding:
    return {"id": rule, "name": name, "text": text}
