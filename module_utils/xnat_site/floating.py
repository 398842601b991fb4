"""Plans the floating address of several edges: keepalived's file, and what is wrong with its settings.

Used on the control node by the filters of `filter_plugins/floating.py`; imports only the standard library.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

Finding = dict[str, str]
NOBODY = "/usr/bin/setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs"
INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


def mark(deployment: str) -> str:
    """Return the first line of the file of a deployment. A file with another one belongs to somebody else."""
    return f"# Written by the role floating_address for {deployment}."


def floating_config(settings: Mapping[str, Any]) -> str:
    """Return keepalived's file for one node: the filter `xnat_floating_config`.

    settings: {"deployment", "address" ("192.0.2.10/24"), "interface", "router_id" (1 to 255), "own" (the node's
    address), "peers" (addresses of the other edges), "port" (of the edge)}, without findings of `floating_findings`.
    """
    # keepalived 2.2 ends its check of the file by a signal if scripts have a user other than root: the script itself
    # changes its user. A message that has passed a router has less than 255 left to live.
    peers = "\n".join(f"        {peer} min_ttl 255" for peer in settings["peers"])
    return f"""\
{mark(settings["deployment"])}
global_defs {{
    enable_script_security
    script_user root
}}
vrrp_script edge {{
    # Any answer by TLS will do.
    script "{NOBODY} /usr/bin/curl --silent --insecure --output /dev/null --max-time 2 https://127.0.0.1:{settings["port"]}/"
    interval 2
    fall 2
    rise 2
}}
vrrp_instance edge {{
    state BACKUP
    # Otherwise the address returns when the first node is back, and ends all connections once more.
    nopreempt
    interface {settings["interface"]}
    virtual_router_id {settings["router_id"]}
    priority 100
    unicast_src_ip {settings["own"]}
    unicast_peer {{
{peers}
    }}
    check_unicast_src
    virtual_ipaddress {{
        {settings["address"]}
    }}
    track_script {{
        edge
    }}
}}
"""


def floating_findings(settings: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the settings of a node, by variable: the filter `xnat_floating_findings`.

    settings: those of `floating_config`, "host", and of the node's report "systemd" (whether it is there) and
    "other_file" (whether keepalived has the settings of somebody else). An empty address has no findings.
    """
    return list(_findings(settings)) if settings["address"] else []


def _findings(settings: Mapping[str, Any]) -> Iterator[Finding]:
    host, text = settings["host"], str(settings["address"])
    if settings["other_file"]:
        yield _finding(
            "other_file",
            "floating_address_cidr",
            f"{host}: /etc/keepalived/keepalived.conf is not of this deployment. Leave floating_address_cidr empty, and"
            " add the address there, or remove the file.",
        )
    if not settings["systemd"]:
        yield _finding(
            "no_systemd",
            "floating_address_cidr",
            f"{host} has no systemd, which runs keepalived: leave floating_address_cidr empty.",
        )
    try:
        floating = ipaddress.ip_interface(text)
        own = ipaddress.ip_address(str(settings["own"]))
        peers = [ipaddress.ip_address(str(peer)) for peer in settings["peers"]]
    except ValueError as error:
        yield _finding(
            "address",
            "floating_address_cidr",
            f"{host}: {error}. Set floating_address_cidr to an address with its prefix, such as 192.0.2.10/24, and the"
            " addresses of the edges' nodes to IP addresses.",
        )
        return
    if "/" not in text or floating.network.num_addresses == 1:
        yield _finding(
            "prefix",
            "floating_address_cidr",
            f"floating_address_cidr is {text!r}: add the prefix of the edges' network, such as 192.0.2.10/24.",
        )
    elif any(address not in floating.network for address in (own, *peers)):
        yield _finding(
            "network",
            "floating_address_cidr",
            f"{host}: not all nodes of the group edges have addresses in {floating.network}: choose a floating address"
            " in the network that they share.",
        )
    if floating.ip in (own, *peers):
        yield _finding(
            "taken",
            "floating_address_cidr",
            f"floating_address_cidr is {text!r}, which is the address of a node: choose one that nothing has.",
        )
    if not peers:
        yield _finding(
            "one_edge",
            "floating_address_cidr",
            "floating_address_cidr is set, but the group edges has one node: list at least two, or leave it empty.",
        )
    if not INTERFACE.fullmatch(str(settings["interface"])):
        yield _finding(
            "interface",
            "floating_address_interface",
            f"{host}: floating_address_interface is {settings['interface']!r}: set it to the network interface that has"
            f" {own}, such as eth0.",
        )
    if not 1 <= int(settings["router_id"]) <= 255:
        yield _finding(
            "router_id",
            "floating_address_router_id",
            f"floating_address_router_id is {settings['router_id']}: set it to 1 to 255.",
        )


def _finding(rule: str, name: str, text: str) -> Finding:
    return {"id": rule, "name": name, "text": text}
