"""Plans what notebooks may reach outside their network: the gate, its resolver, and the forward proxy.

The gate (haproxy, TCP only) is the only way out of the notebooks' network. It has XNAT's host names there and passes
connections on to XNAT, and to the forward proxy (squid), which decides by host names and addresses. Docker's resolver
tells the gate its own address for XNAT's names; so it asks a resolver (unbound) on another network, where these names
mean XNAT itself. Used on the control node by the filters of `filter_plugins/services.py`; imports only the standard
library.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Finding = dict[str, str]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NONE, INTERNET = "none", "internet"
PREFIX = "jupyterhub_notebook_egress"
DOCKER_RESOLVER = "127.0.0.11"
PROXY_PORT = 3128  # of the gate, or the next one that XNAT does not use
SQUID_PORT, SQUID_HEALTH_PORT = 3128, 3129
NAMES_PORT = 5353  # of the gate's resolver, and of the gate on its loopback address, or the next one there
HEALTH_PORT = 8404  # of the gate, on the loopback address only
POLICY_ZONE = "policy.invalid."
POLICY_FILE = "/etc/xnat-egress/policy.zone"
MAX_TTL = 10  # seconds: Docker gives its services' addresses 600, also to those that have moved
PLAIN_PORT = 80  # the only port without CONNECT
MAX_FILES = 16000  # of haproxy, two for each connection; fewer where the engine allows fewer
MAX_CONNECTIONS_EACH = 200  # of one notebook, of the hub, or of squid to XNAT
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
# Addresses of the node, its links and of nobody: never reached, not even as an internal host.
LOCAL = (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/127", "fe80::/10", "fec0::/10",
    "ff00::/8",
)  # fmt: skip
# Private, shared and reserved addresses, and those that contain an IPv4 address.
PRIVATE = (
    "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
    "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """An address of XNAT that notebooks use: host in lower case, port, and whether TLS is spoken there."""

    host: str
    port: int
    tls: bool


def egress_plan(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return names, ports and files of gate, resolver and forward proxy: the filter `xnat_egress_plan`.

    settings: {"name" (of the deployment), "xnat_urls" (XNAT's URLs for notebooks and hub), "egress" ("none",
    "internet" or a list of hosts), "internal_hosts", "refused_networks", "ports", "upstream", "nodes" (addresses of the
    swarm's nodes)}, without findings of `egress_findings`. Returns::

        {"aliases": ["xnat.example.org"],      # names of the gate on the notebooks' network
         "ports": [443, 3128],                 # TCP ports of the gate
         "health": 8404,                       # port of the gate's health check, on the loopback address
         "names_port": 5353,                   # of its resolver
         "forward": True,                      # whether there is a forward proxy
         "proxy_url": "http://...:3128",       # of the forward proxy for notebooks, empty for none
         "no_proxy": "localhost,...",          # what notebooks reach without it
         "files": {"gate": "...", "names": "...",
                   "squid": "...", "unbound": "...", "policy": "..."}}  # the last three only with "forward"
    """
    name = str(settings["name"])
    targets = xnat_targets(settings["xnat_urls"])
    taken = [target.port for target in targets]
    proxy_port = _free(PROXY_PORT, [*taken, SQUID_HEALTH_PORT])  # squid tells its checks by their port
    forward = _hosts(settings["egress"]) != [] or bool(settings["internal_hosts"])
    aliases = list(dict.fromkeys(target.host for target in targets))
    files = {"gate": gate_config(name, targets, proxy_port if forward else 0), "names": names_config()}
    if forward:
        files |= {
            "squid": squid_config(name, settings, targets),
            "unbound": unbound_config(name, settings),
            "policy": policy_zone(name, targets),
        }
    return {
        "aliases": aliases,
        "ports": [*dict.fromkeys(taken), *([proxy_port] if forward else [])],
        "health": _free(HEALTH_PORT, _taken(targets, proxy_port)),
        "names_port": NAMES_PORT,
        "forward": forward,
        "proxy_url": f"http://{name}-gate:{proxy_port}" if forward else "",
        "no_proxy": ",".join(["localhost", "127.0.0.1", "::1", f"{name}-hub", *aliases]),
        "files": files,
    }


def xnat_targets(urls: Iterable[object]) -> list[Target]:
    """Return the addresses of URLs, each once, in their order.

    A URL with an IP address or localhost is omitted: the gate cannot have it as a name. A port of 0 is a URL without a
    valid port.
    """
    found: dict[tuple[str, int], Target] = {}
    for url in urls:
        target = _target(str(url))
        if target and target.port and _is_name(target.host):
            found.setdefault((target.host, target.port), target)
    return list(found.values())


def _target(url: str) -> Target | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    tls = parts.scheme == "https"
    return Target(host.removesuffix("."), (443 if tls else 80) if port is None else port, tls)


def _is_name(host: str) -> bool:
    """Whether a host is a name that a resolver asks for: no address in any notation, and not this machine."""
    if not re.fullmatch(HOST, host) or re.fullmatch(r"([0-9]+|0x[0-9a-f]*)", host.rpartition(".")[2]):
        return False
    return host.rpartition(".")[2] != "localhost"


def _free(port: int, taken: Iterable[int]) -> int:
    while port in taken:
        port += 1
    return port


# ---- haproxy


def gate_config(name: str, targets: Sequence[Target], proxy_port: int) -> str:
    """Return haproxy's file of the gate. name: of the deployment. proxy_port: of the forward proxy, 0 for none."""
    taken = _taken(targets, proxy_port)
    parts = [_haproxy(name, _free(HEALTH_PORT, taken), _free(NAMES_PORT, taken))]
    each = (
        "    tcp-request connection track-sc0 src table clients\n"
        f"    tcp-request connection reject if {{ sc0_conn_cur(clients) gt {MAX_CONNECTIONS_EACH} }}\n"
    )
    for port in dict.fromkeys(target.port for target in targets):
        rules = "".join(f"    {rule}\n" for rule in _by_name(port, targets))
        parts.append(f"frontend port{port}\n    bind :{port}\n{each}{rules}")
    for number, target in enumerate(targets):
        parts.append(f"backend xnat{number}\n    server xnat {target.host}:{target.port} resolvers site\n")
    if proxy_port:
        parts.append(
            f"frontend forward\n    bind :{proxy_port}\n{each}    default_backend squid\n\n"
            # So that squid's log has the notebook's address.
            f"backend squid\n    server squid {name}-squid:{SQUID_PORT} resolvers docker send-proxy-v2\n"
        )
    return "\n".join(parts)


def _haproxy(name: str, health_port: int, names_port: int) -> str:
    return f"""\
global
    fd-hard-limit {MAX_FILES}
    tune.pipesize 524288
    log stdout format raw daemon notice

defaults
    mode tcp
    log global
    timeout connect 5s
    timeout client 1d
    timeout server 1d
    option clitcpka
    option srvtcpka
    option splice-request
    option splice-response
    default-server resolve-prefer ipv4 init-addr none

# A name that cannot be resolved for a moment keeps its address, and a service that has moved is found again.
{resolvers("docker", f"{DOCKER_RESOLVER}:53")}
{resolvers("site", f"tcp@127.0.0.1:{names_port}")}
# Here XNAT's names are the gate's own. The resolver of another service answers as XNAT's network does; it is reached by
# its name, because it can move too.
listen names
    bind 127.0.0.1:{names_port}
    server names {name}-names:{NAMES_PORT} resolvers docker

frontend health
    mode http
    timeout client 5s
    bind 127.0.0.1:{health_port}
    monitor-uri /healthz
    http-request return status 404

backend clients
    stick-table type ip size 64k expire 1d store conn_cur
"""


def resolvers(name: str, server: str) -> str:
    """Return haproxy's section for a name server, by which it asks again every few seconds. server: ADDRESS:PORT."""
    return f"""\
resolvers {name}
    nameserver {name} {server}
    accepted_payload_size 4096
    resolve_retries 3
    timeout resolve 1s
    timeout retry 1s
    hold valid 2s
    hold nx 5s
    hold obsolete 5s
    hold refused 1h
    hold timeout 1h
    hold other 1h
"""


def _by_name(port: int, targets: Sequence[Target]) -> Iterator[str]:
    """Yield the rules that choose XNAT's address for a connection to one port.

    The first message of TLS has the server's name in clear text. A connection with TLS must name XNAT: whatever else
    the machine at XNAT's address serves under other names is not for notebooks. Without TLS there is no name.
    """
    numbers = [number for number, target in enumerate(targets) if target.port == port]
    with_tls = [number for number in numbers if targets[number].tls]
    plain = [number for number in numbers if not targets[number].tls]
    default = (plain or with_tls)[0]
    if with_tls:
        hosts = " ".join(targets[number].host for number in with_tls)
        yield "tcp-request inspect-delay 5s"
        yield f"tcp-request content accept if {{ req.ssl_hello_type 1 }} {{ req.ssl_sni -i {hosts} }}"
        yield f"tcp-request content reject{' if { req.ssl_hello_type 1 }' if plain else ''}"
    for number in with_tls:
        if number != default:
            yield f"use_backend xnat{number} if {{ req.ssl_sni -i {targets[number].host} }}"
    yield f"default_backend xnat{default}"


def _taken(targets: Sequence[Target], proxy_port: int) -> list[int]:
    return [proxy_port, *(target.port for target in targets)]


# ---- squid and unbound


def _hosts(egress: object) -> list[str] | None:
    """Return the hosts that a site allows in squid's form, None for the internet."""
    if egress == INTERNET:
        return None
    return [] if egress == NONE or isinstance(egress, str) or egress is None else names(egress)  # type: ignore[arg-type]


def names(hosts: Iterable[object]) -> list[str]:
    """Return host names in lower case without those that another one covers: `.conda.io` covers `a.conda.io`."""
    wanted = sorted({str(host).lower() for host in hosts})
    suffixes = [host for host in wanted if host.startswith(".")]
    return [host for host in wanted if not any(_covers(suffix, host) for suffix in suffixes)]


def _covers(suffix: str, host: str) -> bool:
    return host != suffix and (host == suffix[1:] or host.endswith(suffix))


def refused_networks(settings: Mapping[str, Any]) -> list[str]:
    """Return the addresses that names may not have: private ones, those of nodes, and what the site refuses."""
    return [*PRIVATE, *_networks(settings["refused_networks"])]


def _networks(texts: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(ipaddress.ip_network(str(text))) for text in texts))


def _node_networks(nodes: Iterable[object]) -> list[str]:
    """Return the addresses of nodes as networks. nodes: addresses or networks; empty texts are left out."""
    return list(dict.fromkeys(str(ipaddress.ip_network(str(node))) for node in nodes if node))


def squid_config(name: str, settings: Mapping[str, Any], targets: Sequence[Target]) -> str:
    """Return squid's file. name: of the deployment. settings: of `egress_plan`.

    Names are resolved by squid. Each of a host's addresses must be allowed, and a name that cannot be resolved is
    refused, except with an upstream proxy, which resolves the names that this site cannot. XNAT is reached here too,
    for programs that ignore no_proxy, such as pyxnat; by the gate, so that its rules apply.
    """
    hosts, internal = _hosts(settings["egress"]), names(settings["internal_hosts"])
    ports = [int(port) for port in settings["ports"]]
    nodes = _node_networks(settings["nodes"])
    upstream = urlsplit(str(settings["upstream"])) if settings["upstream"] else None
    lines = [
        f"http_port {SQUID_PORT} require-proxy-header",
        f"http_port 127.0.0.1:{SQUID_HEALTH_PORT}",
        "proxy_protocol_access allow all",
        f"visible_hostname {name}-squid",
        "# Nothing is kept.",
        "cache deny all",
        "cache_mem 0",
        "pid_filename none",
        "coredump_dir /tmp",
        "netdb_filename none",
        "pinger_enable off",
        "max_filedescriptors 16384",
        "shutdown_lifetime 1 second",
        "# Hosts outside learn nothing about the notebook.",
        "via off",
        "forwarded_for delete",
        "httpd_suppress_version_string on",
        "# The resolver beside it, not the container's own names.",
        "dns_nameservers 127.0.0.1",
        "dns_timeout 5 seconds",
        f"positive_dns_ttl {MAX_TTL} seconds",
        "negative_dns_ttl 1 second",
        "hosts_file none",
        "# Time, notebook, method, host and port, result, bytes: no path, since it may contain a secret.",
        "logformat notebook %tg %>a %rm %>rd:%>rP %Ss/%03>Hs %<st",
        f"acl checks localport {SQUID_HEALTH_PORT}",
        "access_log stdio:/dev/stdout notebook !checks",
        "cache_log stdio:/dev/stderr",
        f"acl web port {' '.join(map(str, ports))}",
        f"acl tunnels port {' '.join(str(port) for port in ports if port != PLAIN_PORT) or '0'}",
        # Squid ignores IPv6 networks where the container has no IPv6.
        r"acl ipv6 dstdom_regex -n ^\[",
        f"acl local dst {' '.join([*LOCAL, *nodes])}",
        f"acl refused dst {' '.join(refused_networks(settings))}",
        "acl resolved dst all",
    ]
    lines += [f"acl internal dstdomain -n {' '.join(internal)}"] if internal else []
    lines += [f"acl allowed dstdomain -n {' '.join(hosts)}"] if hosts else []
    for number, target in enumerate(targets):
        lines += [f"acl xnat{number} dstdomain -n {target.host}", f"acl xnat{number}port port {target.port}"]
    xnat = [f"allow xnat{number} xnat{number}port" for number in range(len(targets))]
    rules = [
        "allow checks manager",
        "deny checks",
        "deny manager",
        *xnat,
        "deny !web",
        "deny CONNECT !tunnels",
        "deny ipv6",
    ]
    # By name alone, and before any rule on addresses: squid would resolve a name to refuse it, and the question itself
    # can carry data to the name servers of its domain.
    listed = [f"!{name}" for name, found in (("allowed", hosts), ("internal", internal)) if found]
    rules += [f"deny {' '.join(listed)}"] if hosts is not None and listed else []
    rules += ["deny local", *(["allow internal"] if internal else [])]
    rules += ["deny all"] if hosts == [] else ["deny refused", *([] if upstream else ["deny !resolved"]), "allow all"]
    lines += [f"http_access {rule}" for rule in rules]
    # The page belongs to the last name of the rule that refuses.
    pages = {rule.split()[-1].lstrip("!") for rule in rules if rule.startswith("deny")} - {"checks", "manager"}
    lines += [
        f"deny_info 403:ERR_NOTEBOOK_EGRESS{'_NAME' if page == 'resolved' else ''} {page}" for page in sorted(pages)
    ]
    if upstream:
        lines.append(
            f"cache_peer {upstream.hostname} parent {upstream.port or PROXY_PORT} 0 no-query no-digest default"
        )
        lines += [f"always_direct {rule}" for rule in [*xnat, *(["allow internal"] if internal else [])]]
        lines.append("never_direct allow all")
    return "\n".join(lines) + "\n"


def _unbound(address: str, clients: str, modules: str, rules: Iterable[str]) -> list[str]:
    """Return unbound's file up to its zones. address: to listen on. clients: a network. rules: more of its server."""
    return [
        "server:",
        f"    interface: {address}",
        f"    access-control: {clients} allow",
        "    do-daemonize: no",
        '    username: ""',
        '    chroot: ""',
        '    directory: "/tmp"',
        '    pidfile: ""',
        "    use-syslog: no",
        '    logfile: ""',
        "    verbosity: 0",
        "    num-threads: 1",
        "    msg-cache-size: 4m",
        "    rrset-cache-size: 8m",
        f"    cache-max-ttl: {MAX_TTL}",
        "    cache-max-negative-ttl: 1",
        # There is only one server to ask: a minute without an answer must not become a quarter of an hour.
        "    infra-host-ttl: 5",
        "    infra-keep-probing: yes",
        "    do-not-query-localhost: no",
        f'    module-config: "{modules}"',
        *(f"    {rule}" for rule in rules),
        "remote-control:",
        "    control-enable: no",
        "forward-zone:",
        '    name: "."',
        f"    forward-addr: {DOCKER_RESOLVER}",
    ]


def names_config() -> str:
    """Return unbound's file of the gate's resolver, which forwards to the resolver that Docker gives its container."""
    return "\n".join(_unbound(f"0.0.0.0@{NAMES_PORT}", "0.0.0.0/0", "iterator", ())) + "\n"


def unbound_config(name: str, settings: Mapping[str, Any]) -> str:
    """Return squid's resolver's file: it forwards to Docker's and removes addresses that notebooks may not reach.

    name: of the deployment. Without this resolver, a name could have another address when squid connects than when
    squid has checked it. With an upstream proxy squid connects only to that and to internal hosts, and must see all
    addresses to refuse them.
    """
    rules = []
    if not settings["upstream"]:
        refused = [*LOCAL, *refused_networks(settings), *_node_networks(settings["nodes"])]
        # The last one is for the addresses behind IPv6's mapped form.
        rules += [f"private-address: {network}" for network in [*refused, "::ffff:0:0/96"]]
        own = [f"{name}-gate", *(host.lstrip(".") for host in names(settings["internal_hosts"]))]
        rules += [f'private-domain: "{host}"' for host in own]
    lines = _unbound("127.0.0.1", "127.0.0.0/8", "respip iterator", rules)
    lines += ["rpz:", f'    name: "{POLICY_ZONE}"', f'    zonefile: "{POLICY_FILE}"']
    return "\n".join(lines) + "\n"


def policy_zone(name: str, targets: Sequence[Target]) -> str:
    """Return the zone by which XNAT's names, and no names below them, are the gate's in squid's resolver."""
    hosts = dict.fromkeys(target.host for target in targets)
    return "\n".join(
        [
            f"$ORIGIN {POLICY_ZONE}",
            f"$TTL {MAX_TTL}",
            "@ SOA localhost. root.localhost. 1 3600 600 86400 1",
            "@ NS localhost.",
            *(f"{host} CNAME {name}-gate." for host in hosts),
            "",
        ]
    )


# ---- findings


def egress_findings(settings: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the role's variables about what notebooks may reach, by their names."""
    return [*_xnat_urls(settings), *_egress(settings), *_lists(settings), *_upstream(settings)]


def _xnat_urls(settings: Mapping[str, Any]) -> Iterator[Finding]:
    urls = [str(url) for url in settings["jupyterhub_notebook_xnat_urls"]]
    wanted = {
        "jupyterhub_notebook_xnat_urls": urls[0] if urls else "",
        "jupyterhub_xnat_url": str(settings["jupyterhub_xnat_url"]),
    }
    for name, url in wanted.items():
        if not xnat_targets([url]):
            yield _finding(
                "xnat_name",
                name,
                f"Hub and notebooks reach XNAT by a host name, but {name} has {url!r}: give XNAT's machine a name in"
                " DNS, and set site_xnat_url (and xnat_jupyterhub_processing_url, if it is set) to a URL with it.",
            )


def _egress(settings: Mapping[str, Any]) -> Iterator[Finding]:
    egress = settings[PREFIX]
    if egress in (NONE, INTERNET):
        return
    if isinstance(egress, str) or not isinstance(egress, Sequence) or not egress:
        yield _finding(
            "egress",
            PREFIX,
            f"{PREFIX} is {egress!r}: set it to none, to internet, or to a list of host names such as"
            " [pypi.org, files.pythonhosted.org, .conda.io].",
        )
        return
    yield from _names(PREFIX, egress)


def _lists(settings: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _names(f"{PREFIX}_internal_hosts", settings[f"{PREFIX}_internal_hosts"])
    name = f"{PREFIX}_refused_networks"
    wrong = [str(text) for text in settings[name] if not _is_network(text)]
    if wrong:
        yield _finding("networks", name, f"{name} has {', '.join(wrong)}: write networks as 192.0.2.0/24.")
    name = f"{PREFIX}_ports"
    ports = [str(port) for port in settings[name]]
    if not ports or not all(re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) < 65536 for port in ports):
        yield _finding("ports", name, f"{name} is {settings[name]!r}: set it to a list of ports, such as [80, 443].")


def _names(variable: str, hosts: Iterable[object]) -> Iterator[Finding]:
    wrong = [str(host) for host in hosts if not _is_name(str(host).lower().removeprefix("."))]
    if wrong:
        yield _finding(
            "hosts",
            variable,
            f"{variable} has {', '.join(map(repr, wrong))}: write host names as pypi.org, or as .conda.io for all names"
            " that end so, without a scheme, a port or an IP address.",
        )


def _upstream(settings: Mapping[str, Any]) -> Iterator[Finding]:
    name = f"{PREFIX}_upstream"
    url = str(settings[name])
    if url and not re.fullmatch(r"http://[A-Za-z0-9._-]+(:[1-9][0-9]{0,4})?/?", url):
        yield _finding(
            "upstream",
            name,
            f"{name} is set to something other than http://HOST:PORT: write the proxy of your network in this form. A"
            " proxy that asks for a password cannot be used, since the password would be readable on the nodes.",
        )


def _is_network(text: object) -> bool:
    try:
        ipaddress.ip_network(str(text))
    except ValueError:
        return False
    return True


def _finding(rule: str, name: str, text: str) -> Finding:
    return {"id": rule, "name": name, "text": text}
