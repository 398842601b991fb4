"""The hosts of an inventory, what they report, and the nodes that Swarm knows, as dataclasses.

Used on the control node; only the standard library is imported. A host is a machine of the inventory, a node is a
member of the swarm as a manager lists it, a report is what `library/node_report.py` returns for a host. Plain data
become dataclasses in `inventory_hosts` and the class methods, and plain data again in `Host.as_dict`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, cast

HOST_LABEL = "org.xnat.jupyterhub.host"  # on a node that this project has joined: its name in the inventory
HUB_LABEL = "org.xnat.jupyterhub.hub"  # followed by the deployment: the node that has the hub's database
# The groups of an inventory whose hosts are judged.
SWARM, MANAGERS, WORKERS, DEMO_XNAT, EDGES = "swarm", "managers", "workers", "demo_xnat", "edges"
ROLES = {MANAGERS: "manager", WORKERS: "worker"}
MEMBER_STATES = ("active", "pending", "error")
# A new swarm without a pool of its site gets the first of these to which no host has a route.
ADDRESS_POOLS = ("10.77.0.0/16", "10.177.0.0/16", "172.28.0.0/16", "192.168.128.0/17")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


# Variables of single hosts, which no role has as an option: `inventory_hosts` reads them.
HOST_VARIABLES = ("docker_swarm_availability", "docker_swarm_labels")


@dataclass(frozen=True)
class Membership:
    """What an engine knows of its swarm.

    state: Docker's LocalNodeState; empty if no engine answers. manager: whether it manages a swarm. error: why it
    cannot. managers: addresses of the managers it knows, such as 192.0.2.11:2377. subnet_size: of new networks,
    data_path_port: of traffic between containers; both 0 if unknown.
    """

    state: str = ""
    manager: bool = False
    node_id: str = ""
    address: str = ""
    error: str = ""
    cluster: str = ""
    managers: tuple[str, ...] = ()
    subnet_size: int = 0
    data_path_port: int = 0

    @classmethod
    def from_report(cls, swarm: Mapping[str, Any]) -> Membership:
        """Return the membership that `engine.swarm` of a report shows, which is empty if no engine answers."""
        if not swarm:
            return cls()
        return cls(
            state=swarm["state"],
            manager=swarm["manager"],
            node_id=swarm["node_id"],
            address=swarm["address"],
            error=swarm["error"],
            cluster=swarm["cluster"],
            managers=tuple(swarm["managers"]),
            subnet_size=swarm["subnet_size"],
            data_path_port=swarm["data_path_port"],
        )

    @property
    def is_member(self) -> bool:
        """Whether the engine is in a swarm, even if the swarm has lost or removed it."""
        return self.state in MEMBER_STATES

    @property
    def lives(self) -> bool:
        """Whether the engine manages a swarm that has a leader."""
        return self.state == "active" and self.manager and not self.error


@dataclass(frozen=True)
class Node:
    """A node as a manager lists it.

    state: ready, down, unknown or disconnected. address: its address as the managers see it. manager_address: the
    address at which new nodes find this manager; empty for a worker.
    """

    id: str
    hostname: str
    role: str
    availability: str
    labels: Mapping[str, str]
    state: str
    address: str
    manager_address: str

    @classmethod
    def from_report(cls, node: Mapping[str, Any]) -> Node:
        """Return a node of `engine.nodes` in a report."""
        return cls(
            id=node["id"],
            hostname=node["hostname"],
            role=node["role"],
            availability=node["availability"],
            labels=node["labels"],
            state=node["state"],
            address=node["address"],
            manager_address=node["manager_address"],
        )


@dataclass(frozen=True)
class Report:
    """What the module `node_report` has found on a host.

    time, asked_at: seconds since 1970 by the host's and by the control node's clock. networks: those to which the host
    has routes, in CIDR notation. kernel: whether it has a feature, None if unknown. accounts: names by
    forbidden user id. held_ports: dictionaries with port, purpose, variable, holder. security: what confines the
    engine's containers, such as apparmor. deployed: whether anything of the deployment exists. network,
    former_network: driver, encryption and subnets of the servers' network and of the single network of an earlier
    release, empty without one. images: ids by name. firewall_sources: networks that the loaded rules of the role
    node_firewall let in, None without such rules. raw: the whole report.
    """

    hostname: str
    user_id: int
    time: float
    asked_at: float
    address: str
    networks: Sequence[str]
    codename: str
    system: str
    family: frozenset[str]
    architecture: str
    memory_mb: int
    disk: str
    free_mb: int
    kernel_release: str
    kernel: Mapping[str, bool | None]
    accounts: Mapping[str, str]
    held_ports: Sequence[Mapping[str, Any]]
    answers: bool
    version: str
    security: frozenset[str]
    options_broken: bool
    deployed: bool
    swarm: Membership
    nodes: tuple[Node, ...]
    network: Mapping[str, Any]
    former_network: Mapping[str, Any]
    images: Mapping[str, str]
    firewall_sources: tuple[str, ...] | None
    raw: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> Report:
        """Return what `node_report` has returned as C(report)."""
        engine, system, kernel, disk = report["engine"], report["system"], report["kernel"], report["disk"]
        firewall = report["firewall"]
        return cls(
            hostname=report["hostname"],
            user_id=report["user_id"],
            time=report["time"],
            asked_at=report["asked_at"],
            address=report["address"],
            networks=report["networks"],
            codename=system["codename"],
            system=system["name"],
            family=frozenset(f"{system['id']} {system['like']}".split()),
            architecture=report["architecture"],
            memory_mb=report["memory_mb"],
            disk=disk["path"],
            free_mb=disk["free_mb"],
            kernel_release=kernel["release"],
            kernel={key: value for key, value in kernel.items() if key != "release"},
            accounts=report["accounts"],
            held_ports=report["held_ports"],
            answers=engine["answers"],
            version=engine["version"],
            security=frozenset(engine["security"]),
            options_broken=engine["options_broken"],
            deployed=engine["deployed"],
            swarm=Membership.from_report(engine["swarm"]),
            nodes=tuple(Node.from_report(node) for node in engine["nodes"]),
            network=engine["network"],
            former_network=engine["former_network"],
            images=engine["images"],
            firewall_sources=tuple(firewall["sources"]) if firewall["loaded"] else None,
            raw=report,
        )

    @property
    def is_red_hat(self) -> bool:
        """Whether the system is of the Red Hat family."""
        return bool({"rhel", "fedora", "centos"} & self.family)


@dataclass(frozen=True)
class Host:
    """What the inventory wants of a host, and which node it is.

    groups: those of `inventory_hosts` that have it. role: manager, worker, or empty for a host outside the swarm.
    address: where other nodes reach it; empty without a report. current_address: the inventory's, otherwise that of its
    default route now. data_path_address: the inventory's for the traffic between containers, mostly empty. node_id: its
    id in Swarm; empty if unknown. answers: whether it has reported. engine: whether its
    engine answers. managers: addresses of the managers that its engine knows. Roles get these fields too.
    """

    name: str
    groups: tuple[str, ...]
    role: str
    address: str
    current_address: str
    data_path_address: str
    availability: str
    labels: Mapping[str, str]
    node_id: str
    answers: bool
    engine: bool
    managers: tuple[str, ...]

    @classmethod
    def from_inventory(cls, name: str, said: Mapping[str, Any], report: Report | None) -> Host:
        """Return a host of `inventory_hosts`, with its report."""
        groups = tuple(said["groups"])
        swarm = report.swarm if report else Membership()
        current = report.address if report else ""
        return cls(
            name=name,
            groups=groups,
            role=next((role for group, role in ROLES.items() if group in groups), ""),
            address=said["advertise_addr"] or swarm.address or current,
            current_address=said["advertise_addr"] or current,
            data_path_address=said["data_path_addr"],
            availability=said["availability"],
            labels=said["labels"],
            node_id=swarm.node_id,
            answers=report is not None,
            engine=bool(report and report.answers),
            managers=swarm.managers,
        )

    @classmethod
    def from_dict(cls, host: Mapping[str, Any]) -> Host:
        """Return the host from the plain data of `as_dict`."""
        values = {one.name: host[one.name] for one in fields(cls)}
        return cls(**{**values, "groups": tuple(host["groups"]), "managers": tuple(host["managers"])})

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for Ansible."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**values, "groups": list(self.groups), "labels": dict(self.labels), "managers": list(self.managers)}


@dataclass(frozen=True)
class Limits:
    """What a site must have; see `fleet`. now: seconds since 1970 by the control node's clock after the last report."""

    deployment: str
    disk_gb: int
    memory_mb: int
    clock_skew: int
    now: float
    address_pools: tuple[str, ...]
    subnet_size: int
    network: str
    former_network: str
    network_subnet: str
    network_encrypted: bool | None
    servers: int

    @classmethod
    def from_dict(cls, limits: Mapping[str, Any]) -> Limits:
        """Return the limits from those of the role `preflight`."""
        return cls(
            deployment=str(limits["deployment"]),
            disk_gb=int(limits["disk_gb"]),
            memory_mb=int(limits["memory_mb"]),
            clock_skew=int(limits["clock_skew"]),
            now=float(limits["now"]),
            address_pools=_listed(limits["address_pools"]),
            subnet_size=int(limits["subnet_size"]),
            network=str(limits["network"]),
            former_network=str(limits["former_network"]),
            network_subnet=str(limits["network_subnet"]),
            network_encrypted=limits["network_encrypted"],
            servers=int(limits["servers"]),
        )


@dataclass(frozen=True)
class Site:
    """All hosts of an inventory, the reports of those that answer, the limits, and values derived from them."""

    hosts: Mapping[str, Host]
    reports: Mapping[str, Report]
    limits: Limits

    @classmethod
    def from_inventory(cls, inventory: Mapping[str, Mapping[str, Any]], limits: Mapping[str, Any]) -> Site:
        """Return the site of `inventory_hosts`."""
        reports = {name: Report.from_report(said["report"]) for name, said in inventory.items() if said["report"]}
        hosts = {name: Host.from_inventory(name, said, reports.get(name)) for name, said in inventory.items()}
        return cls(hosts, reports, Limits.from_dict(limits))

    def of_group(self, group: str) -> list[str]:
        """Return the names of a group's hosts."""
        return [name for name, host in self.hosts.items() if group in host.groups]

    def swarm(self, name: str) -> Membership:
        """Return the membership of a host's engine."""
        return self.reports[name].swarm if name in self.reports else Membership()

    @cached_property
    def silent(self) -> list[str]:
        """Hosts that do not answer."""
        return [name for name, host in self.hosts.items() if not host.answers]

    @cached_property
    def live_managers(self) -> list[str]:
        """Hosts that manage a swarm now and have listed its nodes, in any group of the inventory."""
        return [name for name in self.hosts if self.swarm(name).lives and self.reports[name].nodes]

    @cached_property
    def servers_network(self) -> Mapping[str, Any]:
        """The servers' network as a live manager reports it, empty if it does not exist."""
        return self.reports[self.live_managers[0]].network if self.live_managers else {}

    @cached_property
    def managers(self) -> list[str]:
        """Live managers that the inventory wants as managers."""
        return [name for name in self.live_managers if name in self.of_role("manager")]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes as a live manager lists them; empty without a swarm."""
        return self.reports[self.live_managers[0]].nodes if self.live_managers else ()

    @cached_property
    def leaderless(self) -> list[str]:
        """Hosts that manage a swarm without a quorum."""
        return [name for name in self.hosts if self.swarm(name).manager and self.swarm(name).error]

    @cached_property
    def strays(self) -> list[str]:
        """Hosts of the inventory's swarm that are members of a swarm but not managers."""
        return [
            name
            for name, host in self.hosts.items()
            if host.role and self.swarm(name).is_member and not self.swarm(name).manager
        ]

    @cached_property
    def host_of(self) -> dict[str, str]:
        """Names of hosts by the id of their node."""
        return match_nodes(self.hosts, self.nodes)

    @cached_property
    def joining(self) -> list[str]:
        """Hosts that answer and are not nodes of the swarm yet, managers first."""
        members = {node.id for node in self.nodes}
        found = [
            name for name, host in self.hosts.items() if host.answers and host.role and host.node_id not in members
        ]
        return sorted(found, key=lambda name: self.hosts[name].role != "manager")

    @cached_property
    def hub_label_host(self) -> str:
        """The host whose node has the label of the hub's database; empty for none."""
        key = f"{HUB_LABEL}.{self.limits.deployment}"
        node = next((node for node in self.nodes if node.labels.get(key)), None)
        return self.host_of.get(node.id, node.labels.get(HOST_LABEL, node.hostname)) if node else ""

    @cached_property
    def manager(self) -> str:
        """The live manager to work through, if possible the hub's, or the host that creates a swarm; empty for none."""
        if not self.nodes and not (self.silent or self.leaderless or self.strays):
            return next(iter(self.of_role("manager")), "")
        return self.hub_label_host if self.hub_label_host in self.managers else next(iter(self.managers), "")

    @cached_property
    def address_pools(self) -> tuple[str, ...]:
        """The pools of a new swarm: the site's, else the first to which no host has a route, else the first."""
        if self.limits.address_pools:
            return self.limits.address_pools
        routed = [
            ipaddress.ip_network(text)
            for report in self.reports.values()
            for text in report.networks
            if text != "0.0.0.0/0"
        ]
        free = (
            pool for pool in ADDRESS_POOLS if not any(ipaddress.ip_network(pool).overlaps(taken) for taken in routed)
        )
        return (next(free, ADDRESS_POOLS[0]),)

    def of_role(self, role: str) -> list[str]:
        """Return the hosts that the inventory wants in this role."""
        return [name for name, host in self.hosts.items() if host.role == role]


def inventory_hosts(
    hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return the settings and reports of the hosts of a site, from Ansible's own variables.

    The value of each host of the groups swarm, managers, workers, demo_xnat and edges::

        {"groups": ["managers", "swarm"],  # those of the five that contain it
         "advertise_addr": "",           # docker_swarm_advertise_addr
         "data_path_addr": "",           # docker_swarm_data_path_addr
         "availability": "active",       # docker_swarm_availability
         "labels": {"gpu": "true"},      # docker_swarm_labels, in Swarm's form
         "report": {...}}                # of the module node_report; None if the host does not answer
    """
    names = {group: list(groups.get(group, ())) for group in (MANAGERS, WORKERS, DEMO_XNAT, SWARM, EDGES)}
    return {
        str(name): {
            "groups": [group for group, hosts in names.items() if name in hosts],
            "advertise_addr": str(hostvars[name].get("docker_swarm_advertise_addr") or ""),
            "data_path_addr": str(hostvars[name].get("docker_swarm_data_path_addr") or ""),
            "availability": str(hostvars[name].get("docker_swarm_availability") or "active"),
            "labels": {
                str(key): _label_value(value)
                for key, value in (hostvars[name].get("docker_swarm_labels") or {}).items()
            },
            "report": (hostvars[name].get("preflight_report") or {}).get("report"),
        }
        for name in dict.fromkeys(name for hosts in names.values() for name in hosts)
    }


def match_nodes(hosts: Mapping[str, Host], nodes: Sequence[Node]) -> dict[str, str]:
    """Return the host of each node, by the node's id: as the host reports it, else by our label, else by host name.

    A ready node is also found by our label if its host answers and knows no id, because its engine was started later.
    """
    found: dict[str, str] = {}
    for node in nodes:
        name = next((name for name, host in hosts.items() if host.node_id == node.id), None)
        if name is None:
            named = node.labels.get(HOST_LABEL, node.hostname)
            host = hosts.get(named)
            started = host and not host.node_id and node.state == "ready" and HOST_LABEL in node.labels
            if host and (not host.answers or started):
                name = named
        if name is not None:
            found[node.id] = name
    return found


def _listed(value: object) -> tuple[str, ...]:
    """Return the items of a list as text; a text, which somebody has written in place of a list, as one item."""
    return (value,) if isinstance(value, str) else tuple(str(item) for item in cast("Iterable[object]", value))


def _label_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parsed_address(address: str) -> Address | None:
    """Return the address, None if the text is not an address."""
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def parsed_network(text: str) -> Network | None:
    """Return the network, None if the text is not a network in CIDR notation."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None
