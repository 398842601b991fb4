"""Run the guard: `python -m xnat_guard --network ID --hub NAME --proxy NAME --gate NAME --gate-ports PORT,PORT`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path

from xnat_guard.guard import Guard, Services, UnguardedError
from xnat_guard.names import Names
from xnat_guard.namespaces import release

HEARTBEAT = Path("/run/xnat-guard/alive")


def main() -> None:
    """Run until stopped. The rules stay, so that notebooks are kept apart while a guard is replaced."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname).1s %(asctime)s %(name)s] %(message)s")
    parser = argparse.ArgumentParser(prog="xnat_guard", description=__doc__)
    parser.add_argument("--network", required=True, help="the id of the notebooks' network")
    for service in ("hub", "proxy", "gate"):
        parser.add_argument(f"--{service}", required=True, help="the name of the service on this network")
    parser.add_argument(
        "--gate-ports", required=True, type=_ports, help="the ports of the gate, with commas; empty for none"
    )
    given = parser.parse_args()
    services = Services(given.hub, given.proxy, given.gate, given.gate_ports)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        release(given.network)
        Guard(given.network, services, Names((given.hub, given.proxy, given.gate)).look, HEARTBEAT).run()
    except (UnguardedError, OSError) as error:
        sys.exit(f"Notebooks on this node are not kept apart: {error}.")


def _ports(text: str) -> tuple[int, ...]:
    ports = tuple(int(part) for part in text.split(",") if part)
    if not all(0 < port < 2**16 for port in ports):
        raise ValueError(text)
    return ports


if __name__ == "__main__":
    main()
