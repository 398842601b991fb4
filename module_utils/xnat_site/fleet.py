"""What the inventory wants of the swarm, what its nodes report, and what follows from both.

Used on the controller by the filters `xnat_fleet` and `xnat_swarm_changes`; only the standard library is imported. A
host is a machine of the inventory, a node is what Swarm knows; a report is what `library/node_report.py` returns for a
host. Hosts are plain data::

    {"role": "manager",                 # "worker", or "" for a host outside the swarm
     "address": "192.0.2.11",           # where other nodes reach it; empty until it has reported
     "availability": "active", "labels": {"gpu": "true"},
     "node_id": "",                     # as Swarm calls it; empty where it is not known
     "report": {...}}                   # None for a host that does not answer
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HOST_LABEL = "org.xnat.jupyterhub.host"  # on a node that this project has joined: its name in the inventory
KEYS_LABEL = (
    "org.xnat.jupyterhub.labels"  # the keys of the labels that the inventory has set, so that they can go again
)
HUB_LABEL = "org.xnat.jupyterhub.hub"  # followed by the deployment: the node that has the hub's database
QUORUMS = (1, 3, 5)
AVAILABILITY = ("active", "pause", "drain")
OLDEST_ENGINE = (20, 10)
SYSTEMS = {"bookworm": "Debian 12", "trixie": "Debian 13", "jammy": "Ubuntu 22.04", "noble": "Ubuntu 24.04"}
ARCHITECTURES = ("x86_64", "aarch64")
NEEDED_FEATURES = ("overlay", "vxlan", "bridge", "veth")
MANAGER_PORTS = ("2377/tcp",)
NODE_PORTS = ("7946/tcp", "7946/udp", "4789/udp")
MEMBER_STATES = ("active", "pending", "error")
# Where a site names no pool for a new swarm, the first of these to which no host has a route.
ADDRESS_POOLS = ("10.77.0.0/16", "10.177.0.0/16", "172.28.0.0/16", "192.168.192.0/18")
# Addresses of a network that no server gets: its own, the broadcast's, the gateway's, those of hub, proxy, demo
# XNAT and of the tasks that replace them. Each node takes one more.
RESERVED_ADDRESSES = 16
DOCKERS_SUBNET_SIZE = 24

Host = Mapping[str, Any]
Node = Mapping[str, Any]


def inventory_hosts(hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, Host]:
    """Return the hosts of the groups managers, workers and demo_xnat, from Ansible's variables of the same names."""
    roles = dict.fromkeys(groups.get("workers", ()), "worker") | dict.fromkeys(groups["managers"], "manager")
    hosts: dict[str, Host] = {}
    for name in [*groups["managers"], *groups.get("workers", ()), *groups.get("demo_xnat", ())]:
        variables = hostvars[name]
        report = (variables.get("preflight_report") or {}).get("report")
        address = variables.get("docker_swarm_advertise_addr") or ""
        if report and not address:
            address = report["engine"]["swarm"].get("address") or report["address"]
        hosts[str(name)] = {
            "role": roles.get(name, ""),
            "address": str(address),
            "availability": str(variables.get("docker_swarm_availability") or "active"),
            "labels": {
                str(key): _label_value(value) for key, value in (variables.get("docker_swarm_labels") or {}).items()
            },
            "node_id": variables.get("docker_swarm_node_id") or _reported_swarm(report).get("node_id") or "",
            "report": report,
        }
    return hosts


def fleet(
    hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], limits: Mapping[str, Any]
) -> dict[str, Any]:
    """Judge the whole inventory by what its hosts report, before anything is changed.

    limits: {"deployment", "disk_gb", "memory_mb", "clock_skew" (seconds), "now" (seconds since 1970, by the
    controller's clock, after the last report), "address_pools" (CIDR texts that the swarm is told to use, none for one
    that is chosen here), "subnet_size" (prefix length of the networks cut from them), "network" (name of
    the servers' network), "network_subnet" (its CIDR text, "" for one of the pool), "servers" (how many are to run at
    once)}. Returns::

        {"errors": ["sentence", ...],    # anything here forbids a change
         "notes": ["sentence", ...],     # worth knowing, worked with
         "manager": "m1",                # the live manager to work through, or the one that begins a swarm; "" for none
         "live_managers": ["m1", "m2"],  # all that are managers now
         "hub_host": "m1",               # the host that has the hub's database, or is going to
         "addresses": {"m1": "..."},     # of the hosts that answer
         "joining": ["w3"],              # hosts that are no members yet, managers first
         "address_pools": ["10.77.0.0/16"],  # for a swarm that is begun
         "stale": [],                    # those of them that must leave an old membership before
         "peers": {"w3": [{"host", "address", "ports": ["2377/tcp", ...]}, ...]}}  # whom each has to reach first
    """
    hosts = inventory_hosts(hostvars, groups)
    errors = _group_errors(groups) + _host_errors(hosts, limits) + _clashes(hosts) + _pool_errors(hosts, limits)
    notes = _notes(hosts)
    nodes, through = _swarm(hosts)
    hub_key = f"{HUB_LABEL}.{limits['deployment']}"
    found = match_nodes(hosts, nodes)
    hub_node = next((node for node in nodes if node["labels"].get(hub_key)), None)
    hub_host = found.get(hub_node["id"], hub_node["labels"].get(HOST_LABEL, hub_node["hostname"])) if hub_node else ""
    lives = [name for name in through if hosts[name]["role"] == "manager"]
    manager = hub_host if hub_host in lives else next(iter(lives), "")
    pools = list(limits["address_pools"]) or _free_pool(hosts)
    network_errors, network_notes = _network(hosts, nodes, through, pools, limits)
    errors += network_errors
    notes += network_notes
    swarm_errors, swarm_notes = _swarm_errors(hosts, nodes, through, lives)
    errors += swarm_errors
    notes += swarm_notes
    answering = [name for name, host in hosts.items() if host["report"]]
    if not nodes and not swarm_errors:
        manager = next((name for name in answering if hosts[name]["role"] == "manager"), "")
    if hub_host and hosts.get(hub_host, {}).get("role") != "manager":
        errors.append(
            f"The hub runs on {hub_host}, which is to be no manager any more: keep it in the group managers, since the"
            " hub's database is there."
        )
    elif hub_host and hosts[hub_host]["availability"] != "active":
        errors.append(
            f"docker_swarm_availability of {hub_host} is {hosts[hub_host]['availability']}, but it has the hub, which"
            " cannot run elsewhere: set it to active."
        )
    elif hub_host and hub_host not in answering:
        notes.append(
            f"{hub_host}, which has the hub and its database, does not answer: the swarm is looked after through"
            f" {manager or 'nobody'}, the hub cannot be."
        )
    members = {node["id"] for node in nodes}
    joining = [name for name in answering if hosts[name]["role"] and hosts[name]["node_id"] not in members]
    address_errors, address_notes = _told_addresses(hosts, nodes, found, joining)
    errors += address_errors
    notes += address_notes
    stale = [name for name in joining if _membership(hosts[name]).get("state") in MEMBER_STATES]
    return {
        "errors": errors,
        "notes": notes,
        "manager": manager,
        "live_managers": through,
        "hub_host": hub_host or manager,
        "addresses": {name: hosts[name]["address"] for name in answering},
        "joining": sorted(joining, key=lambda name: hosts[name]["role"] != "manager"),
        "address_pools": pools,
        "stale": stale,
        "peers": {name: peers for name in answering if (peers := port_peers(hosts, joining, name))},
    }


def port_peers(hosts: Mapping[str, Host], joining: Sequence[str], me: str) -> list[dict[str, Any]]:
    """Return whom `me` has to try before nodes join: [{"host", "address", "ports": ["2377/tcp", ...]}, ...].

    What a member's engine holds answers to TCP only, and members have proved to each other that they are in reach.
    """
    peers = []
    for name, host in hosts.items():
        if name == me or not hosts[me]["role"] or not host["role"] or not host["report"]:
            continue
        if not {me, name} & set(joining):
            continue
        ports = [*(MANAGER_PORTS if host["role"] == "manager" else ()), *NODE_PORTS]
        if name not in joining:
            ports = [port for port in ports if port.endswith("/tcp")]
        peers.append({"host": name, "address": host["address"], "ports": ports})
    return peers


def match_nodes(hosts: Mapping[str, Host], nodes: Sequence[Node]) -> dict[str, str]:
    """Return which host a node is, by the node's id: the host's own word, else our label, else the host name."""
    found: dict[str, str] = {}
    for node in nodes:
        name = next((name for name, host in hosts.items() if host["node_id"] == node["id"]), None)
        if name is None:
            named = node["labels"].get(HOST_LABEL, node["hostname"])
            if named in hosts and not hosts[named]["report"]:
                name = named
        if name is not None:
            found[node["id"]] = name
    return found


def swarm_changes(
    hostvars: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]], nodes: Sequence[Node]
) -> dict[str, Any]:
    """Return what makes the swarm that of the inventory.

    nodes: what a live manager lists, as `node_report` shortens it. Returns::

        {"updates": [{"id", "host", "role": "manager" or None for no change, "availability": the same,
                      "labels": {to set}, "labels_to_remove": [keys], "why": "promote, label gpu"}, ...],
         "removals": [{"id", "host", "state": "down", "manager": False}, ...]}

    Promotions come first and demotions last, so that there are never fewer managers than before or after. Labels that
    the inventory did not set are left alone, nodes that this project has not joined as well.
    """
    hosts = {name: host for name, host in inventory_hosts(hostvars, groups).items() if host["role"]}
    found = match_nodes(hosts, nodes)
    kept: dict[str, dict[str, str]] = {}  # a host that has left and joined again still has the hub's database
    for node in nodes:
        if node["id"] not in found:
            marks = {key: value for key, value in node["labels"].items() if key.startswith(f"{HUB_LABEL}.")}
            kept.setdefault(node["labels"].get(HOST_LABEL, ""), {}).update(marks)
    updates, removals = [], []
    for node in nodes:
        name = found.get(node["id"])
        if name is None and HOST_LABEL in node["labels"]:
            removals.append(
                {
                    "id": node["id"],
                    "host": node["labels"][HOST_LABEL],
                    "state": node["state"],
                    "manager": node["role"] == "manager",
                }
            )
        elif name is not None:
            update = _update(name, hosts[name], node, kept.get(name, {}))
            if update["why"]:
                updates.append(update)
    updates.sort(key=lambda update: {"manager": 0, None: 1, "worker": 2}[update["role"]])
    return {"updates": updates, "removals": removals}


def _update(name: str, host: Host, node: Node, kept: Mapping[str, str]) -> dict[str, Any]:
    wanted = {**host["labels"], HOST_LABEL: name, **kept}
    managed = {key for key in node["labels"].get(KEYS_LABEL, "").split(",") if key}
    if host["labels"]:
        wanted[KEYS_LABEL] = ",".join(sorted(host["labels"]))
    gone = sorted(key for key in (managed | {KEYS_LABEL}) - set(wanted) if key in node["labels"])
    changed = {key: value for key, value in wanted.items() if node["labels"].get(key) != value}
    role = host["role"] if node["role"] != host["role"] else None
    availability = host["availability"] if node["availability"] != host["availability"] else None
    why = [
        *([{"manager": "promote", "worker": "demote"}[role]] if role else ()),
        *([f"availability {availability}"] if availability else ()),
        *(f"label {key}={value}" for key, value in sorted(changed.items())),
        *(f"no label {key}" for key in gone),
    ]
    return {
        "id": node["id"],
        "host": name,
        "role": role,
        "availability": availability,
        "labels": changed,
        "labels_to_remove": gone,
        "why": ", ".join(why),
    }


def _label_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reported_swarm(report: Mapping[str, Any] | None) -> Mapping[str, Any]:
    swarm: Mapping[str, Any] = report["engine"]["swarm"] if report else {}
    return swarm


def _membership(host: Host) -> Mapping[str, Any]:
    return _reported_swarm(host["report"])


def _swarm(hosts: Mapping[str, Host]) -> tuple[list[Node], list[str]]:
    """Return the nodes as a live manager lists them, and the hosts that are live managers."""
    through = [
        name
        for name, host in hosts.items()
        if _membership(host).get("state") == "active"
        and _membership(host).get("manager")
        and not _membership(host).get("error")
        and host["report"]["engine"]["nodes"]
    ]
    nodes = hosts[through[0]]["report"]["engine"]["nodes"] if through else []
    return list(nodes), through


def _group_errors(groups: Mapping[str, Sequence[str]]) -> list[str]:
    errors = []
    managers, workers = list(groups["managers"]), list(groups.get("workers", ()))
    if len(managers) not in QUORUMS:
        reason = {
            0: "a swarm needs a manager",
            2: "two managers stop when either is lost, which is worse than one",
            4: "four managers stand the loss of one, as three do",
        }.get(len(managers), "more than five only make each change slower")
        errors.append(
            f"The group managers has {len(managers)} hosts ({', '.join(managers) or 'none'}): {reason}. List 1, 3 or 5."
        )
    errors += [
        f"{name} is in the groups managers and workers: leave it in one of them."
        for name in managers
        if name in workers
    ]
    return errors


def _host_errors(hosts: Mapping[str, Host], limits: Mapping[str, Any]) -> list[str]:
    return (
        [text for name, host in hosts.items() if host["report"] for text in _errors_of(name, host, limits)]
        + [
            f"docker_swarm_availability of {name} is {host['availability']!r}: set it to {', '.join(AVAILABILITY)}."
            for name, host in hosts.items()
            if host["availability"] not in AVAILABILITY
        ]
        + [
            f"docker_swarm_advertise_addr of {name} is {host['address']!r}: set it to an address such as 192.0.2.11."
            for name, host in hosts.items()
            if host["address"] and not _parsed(host["address"])
        ]
    )


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None


def _errors_of(name: str, host: Host, limits: Mapping[str, Any]) -> Iterable[str]:
    report = host["report"]
    engine, system = report["engine"], report["system"]
    family = f"{system['id']} {system['like']}"
    if report["user_id"] != 0:
        yield (f"The playbook is not root on {name}: run it with --become, or set ansible_become in the inventory.")
    if system["codename"] not in SYSTEMS and not _is_red_hat(family):
        yield (
            f"{name} runs {system['name'] or 'an unknown system'}, which is not supported: use"
            f" {', '.join(SYSTEMS.values())}."
        )
    if report["architecture"] not in ARCHITECTURES:
        yield f"{name} is a {report['architecture']} machine, which is not supported: use {' or '.join(ARCHITECTURES)}."
    if report["memory_mb"] < int(limits["memory_mb"]):
        yield (
            f"{name} has {report['memory_mb']} MB of memory and needs {limits['memory_mb']}: give it more, or lower"
            " preflight_memory_mb if you know that less will do."
        )
    if not engine["deployed"] and report["disk"]["free_mb"] < int(limits["disk_gb"]) * 1000:
        yield (
            f"{name} has {report['disk']['free_mb'] // 100 / 10:.1f} GB free for {report['disk']['path']} and needs"
            f" {limits['disk_gb']}: make room, or lower preflight_disk_gb if you know that less will do."
        )
    if engine["options_broken"]:
        yield f"/etc/docker/daemon.json of {name} is no JSON: correct it, or remove it."
    if engine["answers"] and _version(engine["version"]) < OLDEST_ENGINE:
        yield f"{name} has Docker Engine {engine['version']}, and 20.10 or newer is needed: upgrade it."
    for feature in NEEDED_FEATURES:
        if report["kernel"].get(feature) is False:
            yield f"The kernel of {name} ({report['kernel']['release']}) has no {feature}, which Swarm's networks need."
    if _membership(host).get("state") == "locked":
        yield f"The swarm on {name} is locked: run playbooks/unlock.yml."
    skew = _skew(report, float(limits["now"]))
    if abs(skew) > float(limits["clock_skew"]):
        yield (
            f"The clock of {name} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}: set up time"
            " synchronisation there (chrony or systemd-timesyncd)."
        )
    for user_id, account in report["accounts"].items():
        yield (
            f"The account {account} of {name} has the user id {user_id}, which hub, proxy and registry run as, and"
            " could read their secrets: set hub_images_hub_uid to an id that no account of the nodes has."
        )
    for held in report["held_ports"]:
        yield (
            f"Port {held['port']} on {name} is taken by {held['holder']}, and {held['purpose']} needs it: stop what"
            f" listens there, or set {held['variable']} to a free port."
        )


def _is_red_hat(family: str) -> bool:
    return bool({"rhel", "fedora", "centos"} & set(family.split()))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("-")[0].split("+")[0].split(".")[:2] if part.isdigit())


def _skew(report: Mapping[str, Any], now: float) -> float:
    """Return by how many seconds a clock is surely wrong: the host was asked after `asked_at` and before `now`."""
    if report["time"] < report["asked_at"]:
        return float(report["time"] - report["asked_at"])
    return max(0.0, float(report["time"] - now))


def _clashes(hosts: Mapping[str, Host]) -> list[str]:
    members = [name for name, host in hosts.items() if host["role"]]
    errors = [
        f"{name} has no default route, so its address is not known: set docker_swarm_advertise_addr for it."
        for name in members
        if len(members) > 1 and hosts[name]["report"] and not hosts[name]["address"]
    ]
    for key, what, set_what in (
        ("address", "address", "docker_swarm_advertise_addr of one of them"),
        ("hostname", "host name", "another host name on one of them"),
    ):
        seen: dict[str, str] = {}
        for name, host in hosts.items():
            value = host["address"] if key == "address" else (host["report"] or {}).get("hostname", "")
            if not value or not host["role"]:
                continue
            other = seen.setdefault(str(value), name)
            if other != name:
                errors.append(f"{other} and {name} have one {what}, {value}: set {set_what}.")
    return errors


def _pool_errors(hosts: Mapping[str, Host], limits: Mapping[str, Any]) -> list[str]:
    errors = []
    for text in limits["address_pools"]:
        try:
            pool = ipaddress.ip_network(str(text))
        except ValueError:
            errors.append(f"docker_swarm_default_addr_pool has {text!r}, which is no network such as 10.77.0.0/16.")
            continue
        errors += [
            f"docker_swarm_default_addr_pool has {text}, which holds the address {host['address']} of {name}: choose"
            " another network."
            for name, host in hosts.items()
            if (address := _parsed(host["address"])) and address in pool
        ]
    return errors


def _free_pool(hosts: Mapping[str, Host]) -> list[str]:
    """Return a pool of addresses for a new swarm to which no host has a route, the first one if there is none."""
    routed = [
        ipaddress.ip_network(text)
        for host in hosts.values()
        for text in (host["report"] or {}).get("networks", ())
        if text != "0.0.0.0/0"
    ]
    return [next((pool for pool in ADDRESS_POOLS if _apart(pool, routed)), ADDRESS_POOLS[0])]


def _apart(pool: str, routed: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return not any(ipaddress.ip_network(pool).overlaps(network) for network in routed)


def _network(
    hosts: Mapping[str, Host],
    nodes: Sequence[Node],
    through: Sequence[str],
    pools: Sequence[str],
    limits: Mapping[str, Any],
) -> tuple[list[str], list[str]]:
    """Compare the network of the servers with what the site wants of it.

    One that is there is kept, since Docker changes no network that is in use: what does not fit is a note. One that is
    going to be made must fit.
    """
    name, wanted = limits["network"], int(limits["servers"])
    members = sum(1 for host in hosts.values() if host["role"])
    there = hosts[through[0]]["report"]["engine"]["network"] if through else {}
    if there:
        if there["driver"] != "overlay":
            return [
                f"There is a network {name} of the driver {there['driver']}, and the deployment needs an overlay"
                " network of this name: remove it, or set site_deployment to another name."
            ], []
        return [], _kept_network(name, there["subnets"], members, wanted, str(limits["network_subnet"]))
    said = str(limits["network_subnet"])
    if said:
        subnet = _network_of(said)
        if not subnet:
            return [f"jupyterhub_network_subnet is {said!r}, which is no network such as 10.77.16.0/20."], []
        size = subnet.prefixlen
    elif nodes:
        size = int(_membership(hosts[through[0]]).get("subnet_size") or DOCKERS_SUBNET_SIZE)
    else:
        size = int(limits["subnet_size"])
        errors = [
            f"docker_swarm_default_addr_pool has {pool}, which has no room for networks of /{size}: make it larger, or"
            " set docker_swarm_subnet_size."
            for pool in pools
            if (found := _network_of(pool)) and found.prefixlen > size
        ]
        if errors:
            return errors, []
    room = _room(size, members)
    if room >= wanted:
        return [], []
    return [
        f"The network {name} would have addresses for {room} servers at once (/{size}), and preflight_servers wants"
        f" {wanted}: set jupyterhub_network_subnet to a network of /{_size_for(wanted, members)} that nobody here uses,"
        " or lower preflight_servers."
    ], []


def _kept_network(name: str, subnets: Sequence[str], members: int, wanted: int, said: str) -> list[str]:
    notes = []
    networks = [network for subnet in subnets if (network := _network_of(subnet))]
    way = "end all servers, run playbooks/remove.yml (database and files stay), and run site.yml"
    if said and said not in subnets:
        notes.append(
            f"jupyterhub_network_subnet is {said}, but the network {name} has {', '.join(subnets)} and keeps it, since"
            f" a network in use cannot be changed. To change it, {way}."
        )
    room = max((_room(network.prefixlen, members) for network in networks), default=wanted)
    if room < wanted:
        notes.append(
            f"The network {name} ({', '.join(subnets)}) has addresses for {room} servers at once, and preflight_servers"
            f" is {wanted}. It is kept, since a network in use cannot be changed. For a larger one, set"
            f" jupyterhub_network_subnet to a network of /{_size_for(wanted, members)}, and {way}."
        )
    return notes


def _network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _room(size: int, members: int) -> int:
    return int(max(0, 2 ** (32 - size) - RESERVED_ADDRESSES - members))


def _size_for(servers: int, members: int) -> int:
    """Return the longest prefix whose network has room for so many servers."""
    return next((size for size in range(30, 8, -1) if _room(size, members) >= servers), 8)


def _told_addresses(
    hosts: Mapping[str, Host], nodes: Sequence[Node], found: Mapping[str, str], joining: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Compare the addresses that Swarm tells to nodes that join with those of the inventory.

    Swarm keeps a manager's address from its first day. `docker swarm init --force-new-cluster --advertise-addr` changes
    what `docker info` shows and ends all containers of services, but not this (Docker 26.1).
    """
    errors: list[str] = []
    notes: list[str] = []
    managers = [node for node in nodes if node["manager_address"]]
    for node in managers:
        name, told = found.get(node["id"], ""), node["manager_address"]
        if name not in hosts or not hosts[name]["report"]:
            continue
        wanted = hosts[name]["address"]
        at = _parsed(told)
        local = bool(at and at.is_loopback)
        if at == _parsed(wanted) and not (local and joining):
            continue
        if len(managers) > 1:
            way = (
                f"run `docker node demote {node['hostname']}` on another manager and `docker swarm leave` on {name},"
                " and run site.yml again"
            )
        else:
            way = (
                "end all servers, run playbooks/remove.yml (database and files stay), run `docker swarm leave --force`"
                f" on {name}, and run site.yml again"
            )
        if local:
            text = f"The swarm on {name} tells nodes that join to find it at {told}, which only {name} itself reaches"
            other = "set docker_swarm_advertise_addr to an address that they reach, "
        else:
            text = f"The swarm on {name} tells nodes that join to find it at {told}, not at its address {wanted}"
            other = f"set docker_swarm_advertise_addr to {told} if they reach it there; else "
        if joining:
            errors.append(f"{text}, and Swarm does not change that: {other}{way}.")
        else:
            notes.append(f"{text}, and Swarm does not change that. Before a node joins, {other}{way}.")
    return errors, notes


def _swarm_errors(
    hosts: Mapping[str, Host], nodes: Sequence[Node], through: Sequence[str], lives: Sequence[str]
) -> tuple[list[str], list[str]]:
    silent = [name for name, host in hosts.items() if not host["report"]]
    errors: list[str] = []
    notes: list[str] = []
    if not nodes:
        errors = [
            f"{name} says of its swarm: {_membership(host)['error']}. Bring back the managers that are missing; if they"
            f" are lost for good, run `docker swarm init --force-new-cluster` on {name}."
            for name, host in hosts.items()
            if _membership(host).get("manager") and _membership(host).get("error")
        ]
        waits = errors or any(hosts[name]["role"] == "manager" for name in silent)
        errors += [
            f"{name} is a worker of a swarm that another host manages: run `docker swarm leave` on it, or list the"
            " manager of that swarm under managers in the inventory."
            for name, host in hosts.items()
            if not waits
            and host["role"]
            and _membership(host).get("state") in MEMBER_STATES
            and not _membership(host)["manager"]
        ]
        errors += [
            f"{name} does not answer: bring it up, or take it out of the inventory. A new swarm begins with all of its"
            " hosts."
            for name in silent
        ]
        return errors, notes
    if not lives:
        errors.append(
            f"None of the managers of the inventory manages the swarm, {', '.join(through)} does: keep it under"
            " managers for this run, and take it out in the next."
        )
    clusters = {_membership(hosts[name])["cluster"] for name in through}
    if len(clusters) > 1:
        errors.append(
            f"{', '.join(through)} manage different swarms: run `docker swarm leave --force` on the wrong ones."
        )
    ours = {node["address"] for node in nodes} | {host["address"] for host in hosts.values()}
    members = {node["id"] for node in nodes}
    for name, host in hosts.items():
        swarm = _membership(host)
        known = {address.rpartition(":")[0] for address in swarm.get("managers", ())}
        if not host["role"] or name in through or swarm.get("state") != "active" or swarm["node_id"] in members:
            continue
        if not known & (ours - {host["address"]}):
            errors.append(f"{name} is a node of another swarm: run `docker swarm leave --force` on it.")
    notes += [f"{name} does not answer and is left as it is." for name in silent]
    return errors, notes


def _notes(hosts: Mapping[str, Host]) -> list[str]:
    notes = []
    reports = {name: host["report"] for name, host in hosts.items() if host["report"]}
    without = [name for name, report in reports.items() if report["kernel"].get("ip_vs") is not True]
    if without:
        notes.append(
            f"No IPVS to be seen on {', '.join(without)}: it is not needed, services here use DNS round robin and ports"
            " of their hosts."
        )
    versions = {name: report["engine"]["version"] for name, report in reports.items() if report["engine"]["answers"]}
    if len({_version(version) for version in versions.values()}) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        notes.append(f"The engines differ: {listed}. Swarm works with that.")
    untried = [
        name for name, report in reports.items() if _is_red_hat(f"{report['system']['id']} {report['system']['like']}")
    ]
    if untried:
        notes.append(f"{', '.join(untried)} run a system of the Red Hat family: written for, never tried.")
    return notes
