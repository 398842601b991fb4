"""The reverse proxies in front of the hub's own that may say for whom they ask."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class TrustedProxies:
    """A set of addresses and networks, such as 192.0.2.1 and 10.77.48.0/20. Raises ValueError for anything else."""

    def __init__(self, addresses: Iterable[object]) -> None:
        self._networks = [ipaddress.ip_network(str(address)) for address in addresses]

    def __contains__(self, text: object) -> bool:
        try:
            address = ipaddress.ip_address(str(text))
        except ValueError:
            return False
        return any(address in network for network in self._networks)
