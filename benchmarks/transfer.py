"""Large transfers from XNAT to a notebook: through the gate, and without it."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

from benchmarks.bed import DRIVER, NOTEBOOKS, PREFIX, RUNTIME, Bed, contents, until
from module_utils.xnat_site.egress import egress_plan

EGRESS = "localhost/xnat-jupyter/egress"
NAME = f"{PREFIX}-transfer"
XNAT, PORT = f"{NAME}-xnat", 8080
SIZE = 10**9  # bytes
LINES = {"from memory": 0, "over a line of 10 Gbit/s": 10 * 10**9 // 8, "over a line of 1 Gbit/s": 10**9 // 8}


async def up(bed: Bed) -> dict[str, str]:
    """Start XNAT, gate and resolver as a deployment has them, with this process as notebook.

    Returns the address at which each side connects: "floor" XNAT's own, "ours" that of the gate.
    """
    docker = bed.docker
    files = egress_plan(
        {
            "name": NAME, "xnat_urls": [f"http://{XNAT}:{PORT}"], "egress": "none", "internal_hosts": [],
            "refused_networks": [], "ports": [443], "upstream": "", "nodes": [],
        }
    )["files"]  # fmt: skip
    runtime, egress = await bed.newest(RUNTIME), await bed.newest(EGRESS)
    await docker.make_network(NOTEBOOKS, internal=True)
    await docker.connect(NOTEBOOKS, DRIVER)
    server = Path(__file__).with_name("bulk_xnat.py").read_bytes()
    await docker.run(XNAT, runtime, [("/bulk_xnat.py", server)], Cmd=["python3", "/bulk_xnat.py", str(PORT)])
    names = "/etc/unbound.conf"
    await docker.run(f"{NAME}-names", egress, [(names, files["names"].encode())], Cmd=["unbound", "-d", "-c", names])
    gate, command = "/etc/haproxy.cfg", ["haproxy", "-db", "-f", "/etc/haproxy.cfg"]
    await docker.run(f"{NAME}-gate", egress, contents({gate: files["gate"]}), {NOTEBOOKS: [XNAT]}, Cmd=command)

    async def address(container: str, network: str) -> str:
        found: dict[str, Any] = await docker.call("GET", f"/containers/{container}/json")
        return str(found["NetworkSettings"]["Networks"][network]["IPAddress"])

    return {"floor": await address(XNAT, PREFIX), "ours": await address(f"{NAME}-gate", NOTEBOOKS)}


async def down(bed: Bed) -> None:
    """Remove the containers; `Bed.clear` removes the network."""
    for part in ("xnat", "names", "gate"):
        await bed.docker.call("DELETE", f"/containers/{NAME}-{part}?force=1&v=1", missing_ok=True)


def fetch(address: str, size: int, rate: int) -> float:
    """Return the seconds that it takes to receive `size` bytes. Raises ConnectionError if there are fewer."""
    buffer = bytearray(1 << 20)
    begin, received = time.monotonic(), 0
    with socket.create_connection((address, PORT), 10) as connection:
        connection.sendall(b"%d %d\n" % (size, rate))
        while count := connection.recv_into(buffer):
            received += count
    if received != size:
        raise ConnectionError(f"{received} of {size} bytes from {address}")
    return time.monotonic() - begin


async def ready(address: str) -> None:
    """Wait until an address passes on a request: the gate must have asked for XNAT's name."""

    async def answers() -> bool:
        try:
            return await asyncio.to_thread(fetch, address, 1, 0) > 0
        except OSError:
            return False

    await until(f"answer of {address}", answers)
