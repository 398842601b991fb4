"""Compares what the inventory wants of the swarm with what its hosts report.

Used on the control node by the filters of `filter_plugins/fleet.py`; only the standard library is imported. A check is
a small function that yields a `Finding` for each problem; `HOST_CHECKS` and `SITE_CHECKS` list them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .firewall import firewall_facts, lets_in
from .hosts import (
    HOST_LABEL,
    HUB_LABEL,
    MANAGERS,
    SWARM,
    WORKERS,
    Host,
    Limits,
    Node,
    Report,
    Site,
    match_nodes,
    parsed_address,
    parsed_network,
)

# On the same nodes: the keys of the labels that the inventory has set, so that they can be removed later.
KEYS_LABEL = "org.xnat.jupyterhub.labels"
QUORUMS = (1, 3, 5)
AVAILABILITY = ("active", "pause", "drain")
OLDEST_ENGINE = (20, 10)
SYSTEMS = {"bookworm": "Debian 12", "trixie": "Debian 13", "jammy": "Ubuntu 22.04", "noble": "Ubuntu 24.04"}
ARCHITECTURES = ("x86_64", "aarch64")
NEEDED_FEATURES = ("overlay", "vxlan", "bridge", "veth")
MANAGER_PORTS = ("2377/tcp",)
NODE_PORTS = ("7946/tcp", "7946/udp", "4789/udp")
ESP = "50/ip"
# Addresses of a network that no server gets: the network's own, broadcast, gateway, those of hub, proxy, gate and of
# the tasks that replace them. Each node takes one more.
RESERVED_ADDRESSES = 16
DOCKERS_SUBNET_SIZE = 24
NETWORKS = 7  # of a new swarm: its own, four of the deployment, and one for each service on one address of its node
RECREATE = "end all servers, run playbooks/remove.yml (database and files stay), and run site.yml"
READY = "ready"  # Swarm's word for a node that takes tasks

ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Finding:
    """One problem or note.

    id: the rule, for tests. severity: an ERROR fails the run before anything changes; every playbook reports a WARNING,
    and preflight a NOTE. text: one sentence that says what is wrong and what to do.
    """

    id: str
    severity: str
    text: str


def fleet(inventory: Mapping[str, Mapping[str, Any]], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Check the whole inventory by what its hosts report, before anything changes: the filter `xnat_fleet`.

    inventory: of `inventory_hosts`. limits: {"deployment", "disk_gb", "memory_mb", "clock_skew" (seconds), "now"
    (seconds since 1970, by the control node's clock, after the last report), "address_pools" (CIDR texts for a new
    swarm, empty to choose one here), "subnet_size" (prefix length of the networks in the pools), "network" (name of the
    servers' network), "former_network" (that of the single network of an earlier release), "network_subnet" (its CIDR
    text, "" for one from the pool), "network_encrypted" (whether new networks are encrypted; None: where every kernel
    has ESP), "servers" (how many can run at once)}. Returns::

        {"errors": ["sentence", ...],    # the run fails if there are any
         "warnings": ["sentence", ...],  # every playbook reports these
         "notes": ["sentence", ...],     # preflight reports these
         "manager": "m1",                # the live manager to work through, or the first of a new swarm; "" for none
         "live_managers": ["m1", "m2"],  # all that are managers now
         "members": ["m1", "w1"],        # hosts whose engine is in a swarm now
         "hub_host": "m1",               # the host that has or gets the hub's database
         "hub_deployed": True,           # whether the hub may exist already
         "deployed": True,               # whether anything of the deployment is on any host
         "deployments": ["xnat"],        # those with a hub in the swarm, by the labels of its nodes
         "hosts": {"m1": {...}},         # Host.as_dict of each
         "addresses": {"m1": "..."},     # of the hosts that answer, like everything that follows
         "codenames": {"m1": "trixie"}, "architectures": {"m1": "x86_64"},
         "images": {"m1": {name: id}},
         "engines": {"m1": {...}},       # what the role docker_engine reads of a report
         "joining": ["w3"],              # hosts that are not members yet, managers first
         "address_pools": ["10.77.0.0/16"],  # for a new swarm
         "stale": [],                    # those of `joining` that must leave an old swarm first
         "network_encrypted": True,      # whether the overlay networks are encrypted, or will be
         "peers": {"w3": [{"host", "address", "ports": ["2377/tcp", ...]}, ...]},  # what each host must reach
         "firewall": {...},              # of `firewall_facts`
         "firewalls": {"m1": {...}},     # C(firewall) of each report
         "cleanups": {"m1": {...}},      # C(cleanup) of each report
         "edges": {"m1": {...}},         # C(edge) of each report
         "keepalived": {"m1": {...}},    # C(keepalived) of each report
         "local_ports": {"m1": [443]}}   # of the site's addresses that are on this host
    """
    site = Site.from_inventory(inventory, limits)
    found = findings(site)
    hub_host = site.hub_label_host or site.manager
    reports = site.reports
    return {
        "errors": [finding.text for finding in found if finding.severity == ERROR],
        "warnings": [finding.text for finding in found if finding.severity == WARNING],
        "notes": [finding.text for finding in found if finding.severity == NOTE],
        "manager": site.manager,
        "live_managers": site.live_managers,
        "members": [name for name, report in reports.items() if report.swarm.state == "active"],
        "hub_host": hub_host,
        "hub_deployed": reports[hub_host].deployed if hub_host in reports else bool(site.hub_label_host),
        "deployed": any(report.deployed for report in reports.values()),
        "deployments": _deployments(reports.values()),
        "hosts": {name: host.as_dict() for name, host in site.hosts.items()},
        "addresses": {name: site.hosts[name].address for name in reports},
        "codenames": {name: report.codename for name, report in reports.items()},
        "architectures": {name: report.architecture for name, report in reports.items()},
        "images": {name: dict(report.images) for name, report in reports.items()},
        "engines": {name: _engine(report.raw) for name, report in reports.items()},
        "joining": site.joining,
        "address_pools": list(site.address_pools),
        "stale": [name for name in site.joining if site.swarm(name).is_member],
        "network_encrypted": network_encrypted(site),
        "peers": {name: peers for name in reports if (peers := _open_peers(site, name))},
        "firewall": firewall_facts(site),
        "firewalls": {name: dict(report.raw["firewall"]) for name, report in reports.items()},
        "cleanups": {name: dict(report.raw["cleanup"]) for name, report in reports.items()},
        "edges": {name: dict(report.raw["edge"]) for name, report in reports.items()},
        "keepalived": {name: dict(report.raw["keepalived"]) for name, report in reports.items()},
        "local_ports": {name: list(report.raw["local_ports"]) for name, report in reports.items()},
    }


def _deployments(reports: Iterable[Report]) -> list[str]:
    prefix = f"{HUB_LABEL}."
    labels = {label for report in reports for node in report.nodes for label in node.labels}
    return sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))


def _engine(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the role docker_engine reads: a report without its long parts."""
    engine = {
        key: value
        for key, value in report["engine"].items()
        if key not in ("images", "nodes", "network", "former_network")
    }
    return {**{key: report[key] for key in ("packages", "system", "systemd")}, "engine": engine}


def port_peers(hosts: Mapping[str, Host], joining: Sequence[str], me: str) -> list[dict[str, Any]]:
    """Return what `me` must reach before nodes join: [{"host", "address", "ports": ["2377/tcp", ...]}, ...].

    The ports in use by the engine of a member only answer to TCP, also if it is in an old swarm that it will leave.
    Members already reach each other.
    """
    peers = []
    for name, host in hosts.items():
        if name == me or not hosts[me].role or not host.role or not host.answers:
            continue
        if not {me, name} & set(joining):
            continue
        ports = [*(MANAGER_PORTS if host.role == "manager" else ()), *NODE_PORTS]
        if name not in joining or host.node_id:
            ports = [port for port in ports if port.endswith("/tcp")]
        peers.append({"host": name, "address": host.address, "ports": ports})
    return peers


def _open_peers(site: Site, me: str) -> list[dict[str, Any]]:
    """Return the peers of `port_peers` without those whose own rules do not let this host in yet.

    The layer `swarm` changes these rules before the host joins, and tests the same ports then. Protocol 50, which these
    rules let through, is tested for encrypted networks: between all hosts before they are created, then for hosts that
    join.
    """
    address = site.hosts[me].address

    def is_open(name: str) -> bool:
        sources = site.reports[name].firewall_sources
        return sources is None or lets_in(sources, address)

    peers = [peer for peer in port_peers(site.hosts, site.joining, me) if is_open(peer["host"])]
    if not network_encrypted(site) or not site.hosts[me].role:
        return peers
    ports = {peer["host"]: peer["ports"] for peer in peers}
    for name in site.reports:
        untested = not site.servers_network or {me, name} & set(site.joining)
        if name != me and site.hosts[name].role and untested:
            ports[name] = [*ports.get(name, ()), ESP]
    return [{"host": name, "address": site.hosts[name].address, "ports": tried} for name, tried in ports.items()]


def firewall_peers(
    hosts: Mapping[str, Mapping[str, Any]], joining: Sequence[str], host: str
) -> dict[str, list[dict[str, Any]]]:
    """Return which ports `host` must reach when firewall rules change: the filter `xnat_firewall_peers`.

    hosts, joining: of `fleet`. Returns {"known": [...], "new": [...]}, lists as of `port_peers`: pairs of members,
    which reach each other unless something is wrong already, and pairs that include a joining host.
    """
    found = {name: Host.from_dict(one) for name, one in hosts.items()}
    known = []
    for name, other in found.items():
        there = name != host and bool(other.role and other.answers and other.engine and other.address)
        if there and found[host].role and not {name, host} & set(joining):
            ports = ("2377/tcp", "7946/tcp") if other.role == "manager" else ("7946/tcp",)
            known.append({"host": name, "address": other.address, "ports": list(ports)})
    return {"known": known, "new": port_peers(found, joining, host)}


# ---- hosts and nodes


def _members(hosts: Mapping[str, Mapping[str, Any]], joined: Mapping[str, str]) -> dict[str, Host]:
    """Return the hosts of the swarm; those that have joined since they were inspected have the ids in `joined`."""
    found = {name: Host.from_dict(host) for name, host in hosts.items()}
    return {
        name: replace(host, node_id=joined[name], engine=True) if name in joined else host
        for name, host in found.items()
        if host.role
    }


def swarm_changes(
    hosts: Mapping[str, Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    joined: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the changes that make the swarm match the inventory: the filter `xnat_swarm_changes`.

    hosts: of `fleet`. nodes: what a live manager lists, as `node_report` shortens it. joined: ids of the nodes that
    have joined since the hosts were inspected, by host. Returns::

        {"updates": [{"id", "host", "role": "manager" or None for no change, "availability": the same,
                      "labels": {to set}, "labels_to_remove": [keys], "why": "promote, label gpu"}, ...],
         "removals": [{"id", "host", "state": "down", "manager": False}, ...]}

    Promotions come first and demotions last, so that there are never fewer managers than before or after. Labels that
    the inventory did not set and nodes that this project has not joined stay unchanged.
    """
    members = _members(hosts, joined or {})
    listed = [Node.from_report(node) for node in nodes]
    found = match_nodes(members, listed)
    kept: dict[str, dict[str, str]] = {}  # a host that left and joined again still has the hub's database
    for node in listed:
        if node.id not in found:
            marks = {key: value for key, value in node.labels.items() if key.startswith(f"{HUB_LABEL}.")}
            kept.setdefault(node.labels.get(HOST_LABEL, ""), {}).update(marks)
    updates, removals = [], []
    for node in listed:
        name = found.get(node.id)
        if name is None and HOST_LABEL in node.labels:
            removals.append(
                {
                    "id": node.id,
                    "host": node.labels[HOST_LABEL],
                    "state": node.state,
                    "manager": node.role == "manager",
                }
            )
        elif name is not None:
            update = _update(members[name], node, kept.get(name, {}))
            if update["why"]:
                updates.append(update)
    updates.sort(key=lambda update: {"manager": 0, None: 1, "worker": 2}[update["role"]])
    return {"updates": updates, "removals": removals}


def _update(host: Host, node: Node, kept: Mapping[str, str]) -> dict[str, Any]:
    wanted = {**host.labels, HOST_LABEL: host.name, **kept}
    managed = {key for key in node.labels.get(KEYS_LABEL, "").split(",") if key}
    if host.labels:
        wanted[KEYS_LABEL] = ",".join(sorted(host.labels))
    gone = sorted(key for key in (managed | {KEYS_LABEL}) - set(wanted) if key in node.labels)
    changed = {key: value for key, value in wanted.items() if node.labels.get(key) != value}
    role = host.role if node.role != host.role else None
    availability = host.availability if node.availability != host.availability else None
    why = [
        *([{"manager": "promote", "worker": "demote"}[role]] if role else ()),
        *([f"availability {availability}"] if availability else ()),
        *(f"label {key}={value}" for key, value in sorted(changed.items())),
        *(f"no label {key}" for key in gone),
    ]
    return {
        "id": node.id,
        "host": host.name,
        "role": role,
        "availability": availability,
        "labels": changed,
        "labels_to_remove": gone,
        "why": ", ".join(why),
    }


def unready_nodes(
    hosts: Mapping[str, Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    joined: Mapping[str, str] | None = None,
) -> list[str]:
    """Return a sentence for each node that is not ready although its host answers: the filter `xnat_unready_nodes`.

    Arguments as those of `swarm_changes`.
    """
    listed = [Node.from_report(node) for node in nodes]
    return [finding.text for finding in _unready(_members(hosts, joined or {}), listed, ERROR)]


# ---- checks of one host


def _root(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if report.user_id != 0:
        yield _error(
            "not_root",
            f"The playbook does not run as root on {host.name}: use --become, or set ansible_become in the inventory.",
        )


def _system(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if report.codename not in SYSTEMS and not report.is_red_hat:
        yield _error(
            "system",
            f"{host.name} runs {report.system or 'an unknown system'}, which is not supported: use"
            f" {', '.join(SYSTEMS.values())}.",
        )


def _architecture(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if report.architecture not in ARCHITECTURES:
        yield _error(
            "architecture",
            f"{host.name} is a {report.architecture} machine, which is not supported: use"
            f" {' or '.join(ARCHITECTURES)}.",
        )


def _memory(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if report.memory_mb < limits.memory_mb:
        yield _error(
            "memory",
            f"{host.name} has {report.memory_mb} MB of memory and needs {limits.memory_mb}: add memory, or lower"
            " preflight_memory_mb if less is enough.",
        )


def _disk(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if not report.deployed and report.free_mb < limits.disk_gb * 1000:
        yield _error(
            "disk",
            f"{host.name} has {report.free_mb // 100 / 10:.1f} GB free for {report.disk} and needs {limits.disk_gb}:"
            " free some, or lower preflight_disk_gb if less is enough.",
        )


def _engine_options(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if report.options_broken:
        yield _error(
            "engine_options", f"/etc/docker/daemon.json on {host.name} is not valid JSON: correct or remove it."
        )


def _engine_version(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if report.answers and _version(report.version) < OLDEST_ENGINE:
        yield _error(
            "engine_version",
            f"{host.name} has Docker Engine {report.version}: upgrade it to 20.10 or newer.",
        )


def _kernel(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    for feature in NEEDED_FEATURES:
        if report.kernel.get(feature) is False:
            yield _error(
                "kernel",
                f"The kernel of {host.name} ({report.kernel_release}) lacks {feature}, which Swarm's networks need.",
            )


def _locked(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    if report.swarm.state == "locked":
        yield _error("locked", f"The swarm on {host.name} is locked: run playbooks/unlock.yml.")


def _clock(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    skew = _skew(report, limits.now)
    if abs(skew) > limits.clock_skew:
        yield _error(
            "clock",
            f"The clock of {host.name} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}: set up time"
            " synchronisation there (chrony or systemd-timesyncd).",
        )


def _accounts(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    for user_id, account in report.accounts.items():
        yield _error(
            "account",
            f"The account {account} on {host.name} has the user id {user_id} of hub, proxy and registry, and could read"
            " their secrets: set hub_images_hub_uid to an id that no account on the nodes has.",
        )


def _held_ports(host: Host, report: Report, limits: Limits) -> Iterable[Finding]:
    for held in report.held_ports:
        yield _error(
            "port",
            f"Port {held['port']} on {host.name} is in use by {held['holder']}, but {held['purpose']} needs it: stop"
            f" that program, or set {held['variable']} to a free port.",
        )


HOST_CHECKS: tuple[Callable[[Host, Report, Limits], Iterable[Finding]], ...] = (
    _root,
    _system,
    _architecture,
    _memory,
    _disk,
    _engine_options,
    _engine_version,
    _kernel,
    _locked,
    _clock,
    _accounts,
    _held_ports,
)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split("+")[0].split(".")[:2] if part.isdigit())


def _skew(report: Report, now: float) -> float:
    """Return by how many seconds a clock is wrong at least: the host was asked after `asked_at` and before `now`."""
    if report.time < report.asked_at:
        return float(report.time - report.asked_at)
    return max(0.0, float(report.time - now))


# ---- checks of all hosts together


def _quorum(site: Site) -> Iterable[Finding]:
    managers = site.of_group(MANAGERS)
    if len(managers) in QUORUMS:
        return
    reason = {
        0: "a swarm needs a manager",
        2: "with two managers the swarm has no quorum when either fails",
        4: "four managers tolerate the loss of one, as three do",
    }.get(len(managers), "more than five only make each change slower")
    yield _error(
        "quorum",
        f"The group managers has {len(managers)} hosts ({', '.join(managers) or 'none'}): {reason}. List 1, 3 or 5.",
    )


def _two_groups(site: Site) -> Iterable[Finding]:
    for name in site.of_group(MANAGERS):
        if WORKERS in site.hosts[name].groups:
            yield _error("two_groups", f"{name} is in the groups managers and workers: leave it in one of them.")


def _no_role(site: Site) -> Iterable[Finding]:
    for name, host in site.hosts.items():
        if SWARM in host.groups and not host.role:
            yield _error(
                "no_role",
                f"{name} is in the group swarm, but neither in managers nor in workers: add it to one of them.",
            )


def _each_host(site: Site) -> Iterable[Finding]:
    for name, report in site.reports.items():
        for check in HOST_CHECKS:
            yield from check(site.hosts[name], report, site.limits)


def _availability(site: Site) -> Iterable[Finding]:
    for name, host in site.hosts.items():
        if host.availability not in AVAILABILITY:
            yield _error(
                "availability",
                f"docker_swarm_availability of {name} is {host.availability!r}: set it to {', '.join(AVAILABILITY)}.",
            )


def _advertised(site: Site) -> Iterable[Finding]:
    for name, host in site.hosts.items():
        if host.address and not parsed_address(host.address):
            yield _error(
                "advertise_addr",
                f"docker_swarm_advertise_addr of {name} is {host.address!r}: set it to an address such as 192.0.2.11.",
            )


def _no_address(site: Site) -> Iterable[Finding]:
    members = [host for host in site.hosts.values() if host.role]
    for host in members:
        if len(members) > 1 and host.answers and not host.address:
            yield _error(
                "no_address",
                f"{host.name} has no default route, so its address is unknown: set its docker_swarm_advertise_addr.",
            )


def _same_address(site: Site) -> Iterable[Finding]:
    for one, other, address in _twins(site, {name: host.address for name, host in site.hosts.items()}):
        yield _error(
            "same_address",
            f"{one} and {other} have the same address, {address}: set docker_swarm_advertise_addr of one of them.",
        )


def _same_hostname(site: Site) -> Iterable[Finding]:
    for one, other, name in _twins(site, {name: report.hostname for name, report in site.reports.items()}):
        yield _error(
            "same_hostname",
            f"{one} and {other} have the same host name, {name}: set another host name on one of them.",
        )


def _twins(site: Site, values: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    """Yield each host of the swarm that has the value of an earlier one, as (earlier, host, value)."""
    seen: dict[str, str] = {}
    for name, host in site.hosts.items():
        value = values.get(name, "")
        if not value or not host.role:
            continue
        other = seen.setdefault(value, name)
        if other != name:
            yield other, name, value


def _pools(site: Site) -> Iterable[Finding]:
    for text in site.limits.address_pools:
        pool = parsed_network(text)
        if not pool:
            yield _error(
                "pool_form",
                f"docker_swarm_default_addr_pool has {text!r}, which is not a network such as 10.77.0.0/16.",
            )
            continue
        for name, host in site.hosts.items():
            if (address := parsed_address(host.address)) and address in pool:
                yield _error(
                    "pool_address",
                    f"docker_swarm_default_addr_pool has {text}, which contains the address {host.address} of {name}:"
                    " choose another network.",
                )


def _ipvs(site: Site) -> Iterable[Finding]:
    without = [name for name, report in site.reports.items() if report.kernel.get("ip_vs") is not True]
    if without:
        yield _note(
            "no_ipvs",
            f"{', '.join(without)} may lack IPVS. It is not needed: services here use DNS round robin and host ports.",
        )


def _unconfined(site: Site) -> Iterable[Finding]:
    """Yield which engines run containers without the kernel's confinement. It is one wall of several, so only notes."""
    security = {name: report.security for name, report in site.reports.items() if report.answers}
    without = [name for name, found in security.items() if not found & {"apparmor", "selinux"}]
    if without:
        yield _note(
            "no_apparmor",
            f"Docker Engine on {', '.join(without)} does not confine containers with AppArmor: install the package"
            " apparmor, boot a kernel that has AppArmor enabled, and restart the engine.",
        )
    without = [name for name, found in security.items() if "seccomp" not in found]
    if without:
        yield _note(
            "no_seccomp",
            f"Docker Engine on {', '.join(without)} does not restrict the system calls of containers with seccomp:"
            " remove seccomp-profile from /etc/docker/daemon.json, or boot a kernel with CONFIG_SECCOMP_FILTER.",
        )


def network_encrypted(site: Site) -> bool:
    """Return whether the overlay networks are encrypted.

    As they exist, else as the site wants, else where every kernel has ESP.
    """
    if site.servers_network:
        return bool(site.servers_network["encrypted"])
    if site.limits.network_encrypted is not None:
        return site.limits.network_encrypted
    return not _without_esp(site)


def _without_esp(site: Site) -> list[str]:
    """Return the hosts of the swarm whose kernel has no ESP, or may have none."""
    return [
        name for name, report in site.reports.items() if site.hosts[name].role and report.kernel.get("esp4") is not True
    ]


def _encryption(site: Site) -> Iterable[Finding]:
    without, there, wanted = _without_esp(site), site.servers_network, site.limits.network_encrypted
    if there and wanted is not None and wanted is not there["encrypted"]:
        yield _note(
            "encryption_kept",
            f"jupyterhub_network_encrypted is {str(wanted).lower()}, but the network {site.limits.network} is"
            f" {'encrypted' if there['encrypted'] else 'not encrypted'} and remains so, since a network in use cannot"
            f" be changed. To change it, {RECREATE}.",
        )
    if not without:
        return
    listed = f"the kernels of {', '.join(without)} may lack ESP (module esp4)"
    if network_encrypted(site):
        other = "take these hosts out of the inventory" if there else "set jupyterhub_network_encrypted to false"
        yield _error(
            "encrypted_without_esp",
            f"The overlay networks are encrypted, but {listed}: install a kernel that has it, or {other}.",
        )
    elif _member_count(site) > 1:
        yield _note("no_esp", f"The traffic between containers of different nodes is not encrypted: {listed}.")


def _engines_differ(site: Site) -> Iterable[Finding]:
    versions = {name: report.version for name, report in site.reports.items() if report.answers}
    if len({_version(version) for version in versions.values()}) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        yield _note(
            "engines_differ", f"The hosts have different versions of Docker Engine: {listed}. Swarm supports that."
        )


def _untested_system(site: Site) -> Iterable[Finding]:
    untested = [name for name, report in site.reports.items() if report.is_red_hat]
    if untested:
        yield _note(
            "untested_system", f"{', '.join(untested)} run a system of the Red Hat family, which is not tested."
        )


def _servers_network(site: Site) -> Iterable[Finding]:
    """Yield how the servers' network differs from what the site wants.

    An existing network is kept, since Docker cannot change a network in use, so a difference is a note. A new network
    must fit.
    """
    there = site.servers_network
    if not there:
        yield from _new_network(site)
    elif there["driver"] != "overlay":
        yield _error(
            "network_driver",
            f"The network {site.limits.network} has the driver {there['driver']}, but the deployment needs an overlay"
            " network of this name: remove the network, or set site_deployment to another name.",
        )
    else:
        yield from _kept_network(site, there["subnets"])


def _new_network(site: Site) -> Iterable[Finding]:
    said, size = site.limits.network_subnet, site.limits.subnet_size
    if said:
        subnet = parsed_network(said)
        if not subnet:
            yield _error(
                "subnet_form",
                f"jupyterhub_network_subnet is {said!r}, which is not a network such as 10.77.16.0/20.",
            )
            return
        former = site.reports[site.live_managers[0]].former_network if site.live_managers else {}
        taken = [text for text in former.get("subnets", ()) if (net := parsed_network(text)) and net.overlaps(subnet)]
        if taken:
            yield _error(
                "subnet_taken",
                f"jupyterhub_network_subnet is {said}, but the network {site.limits.former_network} of an earlier"
                f" release has {taken[0]} until its last server has ended: set jupyterhub_network_subnet to an unused"
                f" network of /{subnet.prefixlen}.",
            )
            return
        size = subnet.prefixlen
    elif site.nodes:
        size = site.swarm(site.live_managers[0]).subnet_size or DOCKERS_SUBNET_SIZE
    else:
        small = [pool for pool in site.address_pools if (net := parsed_network(pool)) and net.prefixlen > size]
        for pool in small:
            yield _error(
                "pool_small",
                f"docker_swarm_default_addr_pool has {pool}, which has no room for networks of /{size}: make it larger,"
                " or set docker_swarm_subnet_size.",
            )
        if small:
            return
        prefixes = [net.prefixlen for pool in site.address_pools if (net := parsed_network(pool))]
        if prefixes and sum(2 ** (size - prefix) for prefix in prefixes) < NETWORKS:
            yield _error(
                "pool_small",
                f"docker_swarm_default_addr_pool ({', '.join(site.address_pools)}) has no room for the"
                f" {NETWORKS} networks of /{size} that are needed: make it larger, or set docker_swarm_subnet_size.",
            )
            return
    members, wanted = _member_count(site), site.limits.servers
    room = _room(size, members)
    if room < wanted:
        yield _error(
            "network_small",
            f"The network {site.limits.network} would have addresses for {room} servers at once (/{size}), but"
            f" preflight_servers is {wanted}: set jupyterhub_network_subnet to an unused network of"
            f" /{_size_for(wanted, members)}, or lower preflight_servers.",
        )


def _kept_network(site: Site, subnets: Sequence[str]) -> Iterable[Finding]:
    name, said, wanted = site.limits.network, site.limits.network_subnet, site.limits.servers
    members, listed = _member_count(site), ", ".join(subnets)
    if said and said not in subnets:
        yield _note(
            "network_kept",
            f"jupyterhub_network_subnet is {said}, but the network {name} has {listed} and keeps it, since a network in"
            f" use cannot be changed. To change it, {RECREATE}.",
        )
    networks = [network for subnet in subnets if (network := parsed_network(subnet))]
    room = max((_room(network.prefixlen, members) for network in networks), default=wanted)
    if room < wanted:
        yield _note(
            "network_kept_small",
            f"The network {name} ({listed}) has addresses for {room} servers at once, and preflight_servers is"
            f" {wanted}. It is kept, since a network in use cannot be changed. For a larger one, set"
            f" jupyterhub_network_subnet to a network of /{_size_for(wanted, members)}, and {RECREATE}.",
        )


def _member_count(site: Site) -> int:
    return sum(1 for host in site.hosts.values() if host.role)


def _room(size: int, members: int) -> int:
    return int(max(0, 2 ** (32 - size) - RESERVED_ADDRESSES - members))


def _size_for(servers: int, members: int) -> int:
    """Return the longest prefix whose network has room for so many servers."""
    return next((size for size in range(30, 8, -1) if _room(size, members) >= servers), 8)


def _without_swarm(site: Site) -> Iterable[Finding]:
    """Yield what prevents the creation of a swarm, if there is no live manager."""
    if site.nodes:
        return
    for name in site.leaderless:
        yield _error(
            "no_leader",
            f"{name} reports a swarm error: {site.swarm(name).error}. Start the missing managers; if they are lost for"
            f" good, run `docker swarm init --force-new-cluster` on {name}.",
        )
    if not site.leaderless and not any(name in site.silent for name in site.of_role("manager")):
        for name in site.strays:
            yield _error(
                "managed_elsewhere",
                f"{name} is a worker of a swarm that another host manages: run `docker swarm leave` on it, or list the"
                " manager of that swarm in the group managers.",
            )
    for name in site.silent:
        yield _error(
            "silent_at_first",
            f"{name} does not answer: start it, or remove it from the inventory. To create a swarm, all hosts must"
            " answer.",
        )


def _no_wanted_manager(site: Site) -> Iterable[Finding]:
    if site.nodes and not site.managers:
        yield _error(
            "no_manager_listed",
            f"The group managers has no manager of the swarm, which {', '.join(site.live_managers)} manages: keep that"
            " host in the group for this run, and remove it for the next.",
        )


def _several_swarms(site: Site) -> Iterable[Finding]:
    if len({site.swarm(name).cluster for name in site.live_managers}) > 1:
        yield _error(
            "several_swarms",
            f"{', '.join(site.live_managers)} manage different swarms: run `docker swarm leave --force` on those that"
            " should join the other.",
        )


def _foreign_nodes(site: Site) -> Iterable[Finding]:
    if not site.nodes:
        return
    ours = {node.address for node in site.nodes} | {host.address for host in site.hosts.values()}
    members = {node.id for node in site.nodes}
    for name, host in site.hosts.items():
        swarm = site.swarm(name)
        if not host.role or name in site.live_managers or swarm.state != "active" or swarm.node_id in members:
            continue
        if not {address.rpartition(":")[0] for address in swarm.managers} & (ours - {host.address}):
            yield _error("foreign_node", f"{name} is a node of another swarm: run `docker swarm leave --force` on it.")


def _silent(site: Site) -> Iterable[Finding]:
    if site.nodes:
        for name in site.silent:
            yield _note("silent", f"{name} does not answer and is left as it is.")


def _silent_firewalls(site: Site) -> Iterable[Finding]:
    """Tell of nodes whose rules cannot be changed in this run, so that they let in no node that joins now."""
    silent = [name for name in site.silent if site.hosts[name].role]
    if site.nodes and silent and site.joining:
        yield _note(
            "silent_firewall",
            f"{', '.join(site.joining)} will join while {', '.join(silent)} cannot be changed: the firewall there does"
            " not let new nodes in until you run site.yml again without --limit and with these hosts started.",
        )


def _hub_host(site: Site) -> Iterable[Finding]:
    name = site.hub_label_host
    if not name:
        return
    if name not in site.of_role("manager"):
        yield _error(
            "hub_no_manager",
            f"The hub runs on {name}, which is not in the group managers: list it there, since it has the hub's"
            " database.",
        )
    elif site.hosts[name].availability != "active":
        yield _error(
            "hub_availability",
            f"docker_swarm_availability of {name} is {site.hosts[name].availability}, but {name} has the hub, which"
            " cannot run elsewhere: set it to active.",
        )
    elif not site.hosts[name].answers:
        yield _note(
            "hub_silent",
            f"{name}, which has the hub and its database, does not answer: everything except the hub is managed"
            f" through {site.manager or 'nobody'}.",
        )


def _told_addresses(site: Site) -> Iterable[Finding]:
    """Compare the addresses at which Swarm tells new nodes to find its managers with those of the inventory.

    Swarm never changes the address with which a manager joined. `docker swarm init --force-new-cluster
    --advertise-addr` ends all containers of services and changes what `docker info` shows, but not this (Docker 26.1).
    """
    managers = [node for node in site.nodes if node.manager_address]
    for node in managers:
        name, told = site.host_of.get(node.id, ""), node.manager_address
        if name not in site.reports:
            continue
        wanted = site.hosts[name].address
        at = parsed_address(told)
        local = bool(at and at.is_loopback)
        if at == parsed_address(wanted) and not (local and site.joining):
            continue
        way = _leave(name, node, len(managers))
        if local:
            text = f"The swarm tells new nodes to find its manager {name} at {told}, which only {name} itself reaches"
            other = "set docker_swarm_advertise_addr to an address that they reach, "
        else:
            text = f"The swarm tells new nodes to find its manager {name} at {told}, not at its address {wanted}"
            other = f"set docker_swarm_advertise_addr to {told} if they reach it there; otherwise "
        if site.joining:
            yield _error("told_address", f"{text}, and Swarm does not change that: {other}{way}.")
        else:
            yield _note("told_address", f"{text}, and Swarm does not change that. Before a node joins, {other}{way}.")


def _leave(name: str, node: Node, managers: int) -> str:
    """Return how a manager gets another address in Swarm: it leaves, and joins or creates a swarm again."""
    if managers > 1:
        return (
            f"run `docker node demote {node.hostname}` on another manager and `docker swarm leave` on {name}, and run"
            " site.yml again"
        )
    return (
        "end all servers, run playbooks/remove.yml (database and files stay), run `docker swarm leave --force` on"
        f" {name}, and run site.yml again"
    )


def _not_ready(site: Site) -> Iterable[Finding]:
    """Only warn: the engine may be starting. The layer `swarm` waits for it, and fails after its timeout."""
    members = {name: host for name, host in site.hosts.items() if host.role}
    yield from _unready(members, site.nodes, WARNING)


SITE_CHECKS: tuple[Callable[[Site], Iterable[Finding]], ...] = (
    _quorum,
    _two_groups,
    _no_role,
    _each_host,
    _availability,
    _advertised,
    _no_address,
    _same_address,
    _same_hostname,
    _pools,
    _ipvs,
    _unconfined,
    _encryption,
    _engines_differ,
    _untested_system,
    _servers_network,
    _without_swarm,
    _no_wanted_manager,
    _several_swarms,
    _foreign_nodes,
    _silent,
    _silent_firewalls,
    _hub_host,
    _told_addresses,
    _not_ready,
)


def findings(site: Site) -> list[Finding]:
    """Return all problems and notes of a site, in the order of the checks."""
    return [finding for check in SITE_CHECKS for finding in check(site)]


def _unready(hosts: Mapping[str, Host], nodes: Sequence[Node], severity: str) -> Iterable[Finding]:
    """Yield the nodes that are not ready although their hosts answer, with their addresses in Swarm and on the hosts.

    This happens after a reboot with another address: the engine reports itself as an active member, but reaches no
    manager, or is a manager that no node reaches.
    """
    found = _node_hosts(hosts, nodes)
    managers = [node for node in nodes if node.manager_address]
    moved = {
        found[node.id]: node
        for node in managers
        if node.id in found and _differs(node.manager_address, hosts[found[node.id]])
    }
    for node in nodes:
        name = found.get(node.id, "")
        if node.state == READY or name not in hosts or not hosts[name].answers:
            continue
        host = hosts[name]
        facts = [f"Swarm reports the node {name} as {node.state}, although its host answers."]
        if node.address and _differs(node.address, host):
            facts.append(f"Its address in Swarm is {node.address}, but it has {host.current_address} now.")
        others = {other: one for other, one in moved.items() if other != name}
        facts += [
            f"Swarm has the address {one.manager_address} for its manager {other}, which has"
            f" {hosts[other].current_address} now."
            for other, one in others.items()
        ]
        yield Finding("unready", severity, " ".join([*facts, _way_back(host, node, managers, others)]))


def _node_hosts(hosts: Mapping[str, Host], nodes: Sequence[Node]) -> dict[str, str]:
    """Return `match_nodes`, and by our label the nodes whose host answers and whose engine does not."""
    by_label = {node.id: node.labels.get(HOST_LABEL, "") for node in nodes}
    stopped = {name for name, host in hosts.items() if host.answers and not host.engine}
    return {node: name for node, name in by_label.items() if name in stopped} | match_nodes(hosts, nodes)


def _differs(address: str, host: Host) -> bool:
    """Whether a host that answers now has another address than this one."""
    return bool(
        host.answers and host.current_address and parsed_address(address) != parsed_address(host.current_address)
    )


def _way_back(host: Host, node: Node, managers: Sequence[Node], moved: Mapping[str, Node]) -> str:
    """Return what to do about a node that is not ready. moved: managers whose address differs from that in Swarm.

    A machine can have more addresses than that of its default route, so such a manager may still be reachable.
    """
    if not host.engine:
        return "No Docker Engine answers there: run playbooks/nodes.yml."
    if node.manager_address:
        leave = _leave(host.name, node, len(managers))
    else:
        leave = f"run `docker swarm leave` on {host.name}, and run site.yml again"
    told = {one.manager_address for one in managers}
    known = {place.rpartition(":")[0].strip("[]") for place in host.managers}
    if not moved and (node.manager_address or not known & told):
        return f"{leave[0].upper()}{leave[1:]}."
    ways = [
        f"If {other} has lost the address {one.manager_address}, restore it, or {_leave(other, one, len(managers))}."
        for other, one in moved.items()
    ]
    check = (
        f"Check that {host.name} reaches 2377/tcp of {', '.join(sorted(told))}, and read the log of its engine"
        f" (`journalctl --unit=docker`). If the node does not become ready, {leave}."
    )
    return " ".join([*ways, check])


def _error(rule: str, text: str) -> Finding:
    return Finding(rule, ERROR, text)


def _note(rule: str, text: str) -> Finding:
    return Finding(rule, NOTE, text)
