#!/usr/bin/python
"""Tests whether nodes can reach each other's ports before anything listens there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_probe
short_description: Test whether nodes can reach each other's ports
description:
  - Run it in three steps, each on all nodes before the next - V(listening), V(probed), V(stopped).
  - The listener is a separate process. It answers on all ports that are not in use until it is stopped or its time is
    over.
options:
  state:
    description:
      - V(listening) starts the listener.
      - V(probed) tries the ports of O(peers).
      - V(stopped) ends the listener and frees the ports.
    type: str
    choices: [listening, probed, stopped]
    required: true
  ports:
    description:
      - Ports to listen on, each as number/tcp or number/udp.
      - V(50/ip) means IP protocol 50 (ESP), in which the overlay networks are encrypted.
    type: list
    elements: str
    default: []
  peers:
    description: Nodes to try.
    type: list
    elements: dict
    default: []
    suboptions:
      host: {description: Its name., type: str, required: true}
      address: {description: Its address., type: str, required: true}
      ports: {description: "Ports to try, as in O(ports).", type: list, elements: str, required: true}
  seconds: {description: Seconds after which the listener ends by itself., type: int, default: 120}
  timeout: {description: Seconds for one try of one port., type: float, default: 3}
attributes:
  check_mode: {support: full, description: No permanent changes are made.}
"""
EXAMPLES = r"""
- name: Listen
  port_probe:
    state: listening
    ports: [2377/tcp, 7946/tcp, 7946/udp, 4789/udp]
"""
RETURN = r"""
out_of_reach: {description: A sentence for each port that does not answer., type: list, elements: str, returned: probed}
"""

import os
import selectors
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PID_FILE = Path("/run/xnat-jupyter-port-probe.pid")
QUESTION = b"xnat-jupyter port probe"
# A raw socket gets all packets of its protocol, so questions and answers differ. The first four bytes of an ESP packet
# are the number of a security association; no node has one of this number.
RAW_QUESTION, RAW_ANSWER = b"xnat-jupyter question", b"xnat-jupyter answer"
IP_HEADER = 20  # bytes, before the payload of what a raw socket receives; more with options, which nobody sets here
TRIES = 3


def open_ports(ports: list[str]) -> list[socket.socket]:
    """Return listening sockets for all of the ports that are not in use."""
    opened: list[socket.socket] = []
    for text in ports:
        number, _, protocol = text.partition("/")
        if protocol == "ip":
            opened.append(socket.socket(type=socket.SOCK_RAW, proto=int(number)))
            continue
        sock = socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(protocol == "tcp"))
        try:
            sock.bind(("", int(number)))
        except OSError:
            sock.close()
            continue
        if protocol == "tcp":
            sock.listen(64)
        opened.append(sock)
    return opened


def serve(sockets: list[socket.socket], seconds: float) -> None:
    """Answer on all sockets until the time is over."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_READ, sock)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                with suppress(OSError):
                    answer(key.data)


def answer(sock: socket.socket) -> None:
    """Accept a connection and close it, or send a datagram back."""
    if sock.type == socket.SOCK_STREAM:
        sock.accept()[0].close()
    elif sock.type == socket.SOCK_RAW:
        data, sender = sock.recvfrom(IP_HEADER + len(RAW_QUESTION))
        if data[IP_HEADER:] == RAW_QUESTION:
            sock.sendto(RAW_ANSWER, sender)
    else:
        data, sender = sock.recvfrom(len(QUESTION))
        sock.sendto(data, sender)


def listen(ports: list[str], seconds: float) -> None:
    """Start the listener as a separate process on all of the ports that are not in use."""
    stop()
    sockets = open_ports(ports)
    child = os.fork() if sockets else None
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        try:
            serve(sockets, seconds)
        finally:
            PID_FILE.unlink(missing_ok=True)
            os._exit(0)
    if child:
        PID_FILE.write_text(f"{child} {started(child)}")
    for sock in sockets:
        sock.close()


def started(pid: int) -> int:
    """Return when a process was started, in the kernel's ticks."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def stop() -> None:
    """End a listener and wait until its ports are free."""
    try:
        pid, start = map(int, PID_FILE.read_text().split())
        if started(pid) == start:  # otherwise another process has this number now
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 5
            while os.path.exists(f"/proc/{pid}/fd/0") and time.monotonic() < deadline:
                time.sleep(0.05)
    except (OSError, ValueError):
        pass
    PID_FILE.unlink(missing_ok=True)


def answers(address: str, port: str, timeout: float) -> str:
    """Try one port. Returns why it does not answer, empty if it does."""
    number, _, protocol = port.partition("/")
    reason = "no answer"
    for _ in range(TRIES):
        try:
            if protocol == "tcp":
                socket.create_connection((address, int(number)), timeout).close()
                return ""
            if protocol == "ip":
                if raw_answers(address, int(number), timeout):
                    return ""
                continue
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                sock.settimeout(timeout)
                sock.connect((address, int(number)))
                sock.send(QUESTION)
                if sock.recv(len(QUESTION)) == QUESTION:
                    return ""
        except ConnectionRefusedError:
            reason = "refused"
        except OSError as error:
            reason = error.strerror or "no answer"
    return reason


def raw_answers(address: str, protocol: int, timeout: float) -> bool:
    """Send a question in an IP protocol. Returns whether its answer arrives in time."""
    deadline = time.monotonic() + timeout
    with socket.socket(type=socket.SOCK_RAW, proto=protocol) as sock:
        sock.connect((address, 0))
        sock.send(RAW_QUESTION)
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if sock.recv(IP_HEADER + len(RAW_ANSWER))[IP_HEADER:] == RAW_ANSWER:
                return True
    return False


def sentence(me: str, peer: dict[str, Any], port: str, reason: str) -> str:
    """Return what does not answer and what to do."""
    if port == "50/ip":
        return (
            f"{me} does not reach {peer['host']} ({peer['address']}) with IP protocol 50 (ESP), which encrypts the"
            f" traffic between containers: {reason}. Allow this protocol between the nodes, or set"
            " jupyterhub_network_encrypted to false before the networks are created."
        )
    return (
        f"{me} does not reach {port} of {peer['host']} ({peer['address']}): {reason}. Open this port between the nodes."
    )


def probe(peers: list[dict[str, Any]], timeout: float, me: str) -> list[str]:
    """Return a sentence for each port of each peer that does not answer."""
    tries = [(peer, port) for peer in peers for port in peer["ports"]]
    with ThreadPoolExecutor(max_workers=32) as pool:
        reasons = pool.map(lambda pair: answers(pair[0]["address"], pair[1], timeout), tries)
    return [
        sentence(me, peer, port, reason)
        for (peer, port), reason in zip(tries, reasons)  # noqa: B905  (Red Hat 9 has Python 3.9)
        if reason
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["listening", "probed", "stopped"], "required": True},
            "ports": {"type": "list", "elements": "str", "default": []},
            "peers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "host": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "ports": {"type": "list", "elements": "str", "required": True},
                },
            },
            "seconds": {"type": "int", "default": 120},
            "timeout": {"type": "float", "default": 3},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    if wanted["state"] == "listening":
        listen(wanted["ports"], wanted["seconds"])
    elif wanted["state"] == "probed":
        module.exit_json(changed=False, out_of_reach=probe(wanted["peers"], wanted["timeout"], socket.gethostname()))
    else:
        stop()
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
