"""The rules of the notebooks' network, as text for `nft --file`.

Pure functions. The table is of the family `bridge`, since a frame from one container to another passes only the bridge
in the namespace of the overlay network: between two containers of a node, and between a container and the VXLAN device
that leads to the other nodes. So both nodes of a connection judge each of its frames.

The rules have no state, because kernels may lack connection tracking for bridges. Each connection has a rule for either
direction. Answers must not be requests: without that, a notebook could connect from its own port 8888 to any port of
the proxy. They rely on addresses: a notebook has neither NET_RAW nor NET_ADMIN and cannot forge them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TABLE = "xnat_guard"
NOTEBOOK_PORT = 8888  # xnat_launcher.service.PORT
HUB_PORT = 8081
# Answers on the address of the network's gateway while the rules are loaded; a server waits for it before it starts.
READY_PORT = 60900
# Every segment of TCP that does not open a connection.
NO_REQUEST = "tcp flags & (fin | syn | rst | ack) != syn"
# The only kind of ARP that a network with IPv4 needs.
ARP = "ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation { request, reply }"


@dataclass(frozen=True)
class Addresses:
    """The IPv4 addresses on the notebooks' network. gate: the only way out of it."""

    hub: tuple[str, ...] = ()
    proxy: tuple[str, ...] = ()
    gate: tuple[str, ...] = ()


def rules(addresses: Addresses, gate_ports: Iterable[int]) -> str:
    """Return the script that replaces the table in one step. What no rule accepts is dropped.

    Nobody reaches anything while no address is known. gate_ports: the ports of the gate that notebooks may reach.
    """
    visitors = _set([*addresses.hub, *addresses.proxy])
    forward = [
        *_connections("saddr", visitors, NOTEBOOK_PORT),
        *_connections("daddr", _set(addresses.hub), HUB_PORT),
        *(rule for port in sorted(set(gate_ports)) for rule in _connections("daddr", _set(addresses.gate), port)),
    ]
    if services := _set([*addresses.hub, *addresses.proxy, *addresses.gate]):
        # A notebook cannot even ask for the address of another one.
        forward += [f"{ARP} arp {end} ip {services} accept" for end in ("saddr", "daddr")]
    chains = {
        "forward": forward,
        "input": [f"{ARP} accept", f"ether type ip tcp dport {READY_PORT} accept"],
        "output": [f"{ARP} accept", f"ether type ip tcp sport {READY_PORT} {NO_REQUEST} accept"],
    }
    lines = [f"add table bridge {TABLE}", f"delete table bridge {TABLE}", f"table bridge {TABLE} {{"]
    for hook, accepted in chains.items():
        lines += [f"  chain {hook} {{", f"    type filter hook {hook} priority filter; policy drop;"]
        lines += [f"    {rule}" for rule in accepted] + ["  }"]
    return "\n".join([*lines, "}", ""])


def _connections(visitor: str, addresses: str, port: int) -> list[str]:
    """Return the rules for connections to a port: with `saddr` from these addresses, with `daddr` to them."""
    if not addresses:
        return []
    answer = {"saddr": "daddr", "daddr": "saddr"}[visitor]
    return [
        f"ether type ip ip {visitor} {addresses} tcp dport {port} accept",
        f"ether type ip ip {answer} {addresses} tcp sport {port} {NO_REQUEST} accept",
    ]


def _set(addresses: Iterable[str]) -> str:
    found = sorted(set(addresses))
    return f"{{ {', '.join(found)} }}" if found else ""
