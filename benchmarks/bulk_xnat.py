"""Sends as many bytes from memory as a client asks for: `python3 bulk_xnat.py PORT`, in a container of its own.

A request is one line, "BYTES RATE"; RATE in bytes per second stands for a line between XNAT and nodes, 0 for none.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

CHUNK = 1 << 26
PACING = 47  # SO_MAX_PACING_RATE of Linux, which Python does not name


def send(client: socket.socket, memory: int) -> None:
    """Answer one request and close the connection."""
    with client, client.makefile("rb") as request:
        left, rate = map(int, request.readline().split())
        if rate:
            client.setsockopt(socket.SOL_SOCKET, PACING, rate)
        while left > 0:
            left -= os.sendfile(client.fileno(), memory, 0, min(left, CHUNK))


def main(port: int) -> None:
    """Serve each connection in a thread."""
    memory = os.memfd_create("body")
    os.write(memory, os.urandom(1 << 20) * (CHUNK >> 20))
    with socket.create_server(("", port)) as server:
        while True:
            client, _ = server.accept()
            threading.Thread(target=send, args=(client, memory), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
