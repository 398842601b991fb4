"""The firewall of a node: who may use Swarm's ports, what containers may reach on the node, and the nftables rules.

Used on the control node by the filters of `filter_plugins/fleet.py`; only the standard library is imported. The
rules are in a table of our own and only drop. A drop of any table is final and an accept is not, so they open nothing
and work beside the rules of Docker, firewalld and ufw.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .hosts import HOST_LABEL, Network, Site, match_nodes, parsed_address, parsed_network

TABLE = "xnat_jupyter"
MANAGER_PORT, GOSSIP_PORT, VXLAN_PORT = 2377, 7946, 4789
# Docker's bridges: the default one, that of Swarm's services, and those of networks, `br-` and 12 hexadecimal digits.
BRIDGES = ("docker0", "docker_gwbridge", "br-*")
PORT = re.compile(r"([1-9][0-9]{0,4})/(tcp|udp)")
INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,14}[A-Za-z0-9_.*-]?")

RULES_FILE = "/etc/xnat-jupyter/firewall.nft"
UNIT = f"""\
# Written by the role node_firewall.
[Unit]
Description=Firewall rules of XNAT JupyterHub
Documentation=man:nft(8)
ConditionPathExists={RULES_FILE}
DefaultDependencies=no
Wants=network-pre.target
After=nftables.service
Before=network-pre.target docker.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {RULES_FILE}
ExecStop=-/usr/sbin/nft delete table inet {TABLE}

[Install]
WantedBy=sysinit.target
"""
DROP_IN = f"""\
# Written by the role node_firewall: whatever this service does flushes all tables, also that of XNAT JupyterHub.
[Service]
ExecStartPost=-/usr/sbin/nft -f {RULES_FILE}
ExecReload=-/usr/sbin/nft -f {RULES_FILE}
ExecStopPost=-/usr/sbin/nft -f {RULES_FILE}
"""


class FirewallError(ValueError):
    """A setting is invalid: one sentence that says what to set. id: the violated rule, for tests."""

    def __init__(self, id: str, text: str) -> None:
        super().__init__(text)
        self.id = id


# ---- who may talk to Swarm


def firewall_facts(site: Site) -> dict[str, Any]:
    """Return what all nodes' rules have in common, as part of `fleet`.

    Returns::

        {"before": ["192.0.2.11/32"],  # networks whose hosts may use Swarm's ports before hosts join and nodes leave
         "after": ["192.0.2.11/32"],   # afterwards
         "ports": ["2377/tcp", ...]}   # Swarm's ports, as this swarm has them

    They contain the addresses of all hosts of the inventory's swarm, silent ones too, and of all nodes that Swarm
    lists. A node of this project that the inventory no longer has is only in `before`: its tasks end regularly.
    """
    members = {name: host for name, host in site.hosts.items() if host.role}
    found = match_nodes(members, site.nodes)
    leaving = {node.id for node in site.nodes if node.id not in found and HOST_LABEL in node.labels}
    stay: set[str] = set()
    for name, host in members.items():
        stay |= {host.address, host.current_address, host.data_path_address, site.swarm(name).address}
    for node in site.nodes:
        stay |= {node.address, node.manager_address} if node.id not in leaving else set()
    leave = {address for node in site.nodes if node.id in leaving for address in (node.address, node.manager_address)}
    return {
        "before": [str(network) for network in _node_networks(stay | leave)],
        "after": [str(network) for network in _node_networks(stay)],
        "ports": _swarm_ports(site),
    }


def _node_networks(addresses: Iterable[str]) -> list[Network]:
    parsed = [address for text in addresses if (address := parsed_address(text))]
    return collapsed(
        ipaddress.ip_network(address) for address in parsed if not (address.is_loopback or address.is_unspecified)
    )


def _swarm_ports(site: Site) -> list[str]:
    """Return Swarm's ports: managers can listen elsewhere than on 2377, and a swarm can have another data path port."""
    listed = {manager.rpartition(":")[2] for name in site.reports for manager in site.swarm(name).managers}
    managers = sorted({MANAGER_PORT, *(int(port) for port in listed if port.isdigit())})
    data_path = next((port for name in site.live_managers if (port := site.swarm(name).data_path_port)), VXLAN_PORT)
    vxlan = sorted({VXLAN_PORT, data_path})
    return [*(f"{port}/tcp" for port in (*managers, GOSSIP_PORT)), *(f"{port}/udp" for port in (GOSSIP_PORT, *vxlan))]


def collapsed(networks: Iterable[Network]) -> list[Network]:
    """Return the fewest networks with the same addresses, IPv4 first: a set of nftables refuses overlapping ones."""
    listed = list(networks)
    v4 = [network for network in listed if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in listed if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]


def lets_in(sources: Sequence[str], address: str) -> bool:
    """Whether a node whose loaded rules have these networks as sources lets in an address."""
    parsed = parsed_address(address)
    networks = [network for text in sources if (network := parsed_network(text))]
    return parsed is not None and any(parsed in network for network in networks)


# ---- the rules of one node


def firewall_plan(
    sources: Sequence[str],
    report: Mapping[str, Any],
    ports: Sequence[str],
    allowed: Sequence[str],
    closed: Sequence[str],
    state: str = "present",
) -> dict[str, Any]:
    """Return the wanted rules of a node and what must be done for them: the filter `xnat_firewall_plan`.

    sources: networks whose hosts may use Swarm's ports, in CIDR notation. report: `firewall` of `node_report`. ports:
    Swarm's, such as "2377/tcp". allowed: ports of the node that containers may reach. closed: those of BRIDGES whose
    containers reach nothing else on the node. state: "present", or "absent" for no rules. Raises FirewallError.

    Returns::

        {"rules": "...",    # content of RULES_FILE
         "unit": "...",     # content of the systemd unit
         "drop_in": "...",  # content of the drop-in for the distribution's nftables.service
         "install": False,  # whether the program nft is missing
         "load": True,      # whether rules must be loaded and tested
         "remove": False,   # whether rules or files must be removed
         "done": False}     # whether nothing must be changed
    """
    if state == "absent":
        there = any(report[key] for key in ("loaded", "rules", "unit", "drop_in", "enabled", "pending"))
        return {
            "rules": "",
            "unit": "",
            "drop_in": "",
            "install": False,
            "load": False,
            "remove": there,
            "done": not there,
        }
    rules = ruleset(sources, ports, allowed, closed, report["bridges"], report["other_bridges"])
    loaded = (report["loaded"], report["count"]) == (_chain_id(rules), _rule_count(rules)) and not report["pending"]
    current = loaded and report["rules"] == _digest(rules)
    files = (report["unit"], report["drop_in"]) == (_digest(UNIT), _digest(DROP_IN))
    boot = not report["systemd"] or (files and report["enabled"])
    return {
        "rules": rules,
        "unit": UNIT,
        "drop_in": DROP_IN,
        "install": not report["nft"],
        "load": not current,
        "remove": False,
        "done": current and boot,
    }


def ruleset(
    sources: Sequence[str],
    ports: Sequence[str],
    allowed: Sequence[str],
    closed: Sequence[str],
    bridges: Sequence[str] = (),
    other_bridges: Sequence[str] = (),
) -> str:
    """Return the text for `nft -f`, which replaces the whole table in one transaction. Arguments as `firewall_plan`.

    bridges: names of Docker's bridges that no pattern of BRIDGES covers. other_bridges: interfaces whose names look
    like Docker's and are not, such as br-lan. The name of the empty chain identifies the rules. Swarm's ports come
    before the test for known connections, so a connection of a container that is older than the rules ends too.
    """
    networks = collapsed(_source(text) for text in sources)
    wrong = [name for name in closed if name not in BRIDGES]
    if wrong:
        raise FirewallError(
            "bridge",
            f"node_firewall_closed_bridges has {', '.join(map(repr, wrong))}: use {', '.join(BRIDGES)} only.",
        )
    ours = [*BRIDGES, *_interfaces(bridges)]
    shut = [name for name in ours if name in closed or (name not in BRIDGES and "br-*" in closed)]
    foreign = _interfaces(other_bridges)
    lines = [
        f"table inet {TABLE} {{",
        *_set("nodes4", "ipv4_addr", [network for network in networks if network.version == 4]),
        *_set("nodes6", "ipv6_addr", [network for network in networks if network.version == 6]),
        *_chain("swarm_ports", _verdicts(_ports("node_firewall_ports", ports), "counter drop")),
        *_chain(
            "closed",
            [
                "ct state established,related accept",
                "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept",
                *_verdicts(_ports("node_firewall_allowed_ports", allowed), "accept"),
                "counter drop",
            ],
        ),
        *_chain("from_containers", ["jump swarm_ports", *(f'iifname "{name}" goto closed' for name in shut)]),
        *_chain("from_network", ["ip saddr @nodes4 accept", "ip6 saddr @nodes6 accept", "goto swarm_ports"]),
        # Between containers of one machine Swarm's ports are nobody's business: those may be nodes of a test.
        *_chain(
            "out_of_containers",
            [
                *(f'oifname "{name}" goto swarm_ports' for name in foreign),
                *(f'oifname "{name}" accept' for name in ours),
                "goto swarm_ports",
            ],
        ),
        *_chain(
            "input",
            [
                "type filter hook input priority -5; policy accept;",
                'iifname "lo" accept',
                *(f'iifname "{name}" goto from_network' for name in foreign),
                *(f'iifname "{name}" goto from_containers' for name in ours),
                "goto from_network",
            ],
        ),
        *_chain(
            "forward",
            [
                "type filter hook forward priority -5; policy accept;",
                *(f'iifname "{name}" accept' for name in foreign),
                *(f'iifname "{name}" goto out_of_containers' for name in ours),
            ],
        ),
    ]
    body = "\n".join(lines)
    return (
        "# Written by the role node_firewall: only Swarm's nodes use Swarm's ports, and containers reach only the\n"
        "# listed ports of this node. These rules open nothing, since what another table drops stays dropped.\n"
        f"table inet {TABLE}\ndelete table inet {TABLE}\n{body}\n\tchain id_{_digest(body)[:16]} {{\n\t}}\n}}\n"
    )


def _chain_id(rules: str) -> str:
    match = re.search(r"chain id_([0-9a-f]{16}) ", rules)
    return match[1] if match else ""


def _rule_count(rules: str) -> int:
    verdict = re.compile(r"\t\t(.* )?(drop|accept|(goto|jump) \w+)")
    return sum(1 for line in rules.splitlines() if verdict.fullmatch(line))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _source(text: str) -> Network:
    network = parsed_network(text)
    if network is None:
        raise FirewallError(
            "source",
            f"node_firewall_more_sources has {text!r}, which is not an address or network such as 192.0.2.0/24.",
        )
    return network


def _ports(variable: str, ports: Sequence[str]) -> dict[str, list[int]]:
    """Return the numbers by protocol, sorted. Raises FirewallError for anything but NUMBER/PROTOCOL."""
    found: dict[str, set[int]] = {"tcp": set(), "udp": set()}
    for text in ports:
        match = PORT.fullmatch(text)
        if not match or int(match[1]) > 65535:
            raise FirewallError("port", f"{variable} has {text!r}: write each port as NUMBER/PROTOCOL, such as 53/udp.")
        found[match[2]].add(int(match[1]))
    return {protocol: sorted(numbers) for protocol, numbers in found.items() if numbers}


def _interfaces(names: Iterable[str]) -> list[str]:
    wrong = [name for name in names if not INTERFACE.fullmatch(name) or "*" in name]
    if wrong:
        raise FirewallError("interface", f"The interface {wrong[0]!r} has a name that nftables rules cannot contain.")
    return sorted(names)


def _verdicts(ports: Mapping[str, Sequence[int]], verdict: str) -> list[str]:
    return [f"{protocol} dport {{ {', '.join(map(str, numbers))} }} {verdict}" for protocol, numbers in ports.items()]


def _set(name: str, kind: str, networks: Sequence[Network]) -> list[str]:
    elements = [f"\t\telements = {{ {', '.join(map(str, networks))} }}"] if networks else []
    return [f"\tset {name} {{", f"\t\ttype {kind}", "\t\tflags interval", *elements, "\t}"]


def _chain(name: str, rules: Sequence[str]) -> list[str]:
    return [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]
