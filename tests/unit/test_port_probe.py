"""Ports of nodes: listening, occupied, answering."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import port_probe
import pytest
from port_probe import answers, listen, open_ports, probe, serve, started, stop

HERE = "127.0.0.1"


def bound(protocol: str) -> socket.socket:
    sock = socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("", 0))
    if protocol == "tcp":
        sock.listen()
    return sock


def text(sock: socket.socket) -> str:
    return f"{sock.getsockname()[1]}/{'tcp' if sock.type == socket.SOCK_STREAM else 'udp'}"


@pytest.fixture
def held() -> Iterator[list[str]]:
    """A port of each protocol that somebody else holds; nobody answers on them."""
    with bound("tcp") as tcp, bound("udp") as udp:
        yield [text(tcp), text(udp)]


@pytest.fixture
def free() -> list[str]:
    """A port of each protocol that nobody holds."""
    with bound("tcp") as tcp, bound("udp") as udp:
        return [text(tcp), text(udp)]


@pytest.fixture
def pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a listener is noted; no listener outlives the test."""
    file = tmp_path / "probe.pid"
    children: list[int] = []
    fork = os.fork

    def noted() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(port_probe, "PID_FILE", file)
    monkeypatch.setattr(os, "fork", noted)
    yield file
    stop()
    for child in children:
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def test_ports_that_somebody_else_holds_are_left_out_and_the_others_answer(held: list[str], free: list[str]) -> None:
    opened = open_ports([*held, *free])
    with ExitStack() as stack:
        for sock in opened:
            stack.enter_context(sock)
        assert [text(sock) for sock in opened] == free
        server = threading.Thread(target=serve, args=(opened, 0.5))
        server.start()
        assert [answers(HERE, port, 1) for port in free * 2] == [""] * 4
        server.join(5)
        assert not server.is_alive()


@pytest.mark.parametrize("index", [0, 1], ids=["tcp", "udp"])
def test_a_port_that_nobody_holds_is_refused(free: list[str], index: int) -> None:
    assert answers(HERE, free[index], 1) == "refused"


def test_a_datagram_that_nobody_answers_is_given_up(held: list[str]) -> None:
    assert answers(HERE, held[1], 0.02) == "no answer"


# Without root, and in some containers, no raw socket can be opened.
def can_open_raw_sockets() -> bool:
    try:
        socket.socket(type=socket.SOCK_RAW, proto=50).close()
    except PermissionError:
        return False
    return True


@pytest.mark.skipif(not can_open_raw_sockets(), reason="raw sockets need root")
def test_an_ip_protocol_answers_only_where_somebody_listens_and_no_answer_is_answered() -> None:
    assert answers(HERE, "50/ip", 0.02) == "no answer"
    (listener,) = open_ports(["50/ip"])
    with listener, socket.socket(type=socket.SOCK_RAW, proto=50) as other:
        server = threading.Thread(target=serve, args=([listener], 0.5))
        server.start()
        other.sendto(port_probe.RAW_ANSWER, (HERE, 0))
        assert answers(HERE, "50/ip", 1) == ""
        server.join(5)
        other.settimeout(0.1)
        received = []
        with suppress(TimeoutError):
            while True:
                received.append(other.recv(100)[port_probe.IP_HEADER :])
    assert sorted(received) == [port_probe.RAW_ANSWER] * 2 + [port_probe.RAW_QUESTION]


def test_a_protocol_that_is_blocked_is_named_with_its_setting() -> None:
    text = port_probe.sentence("w2", {"host": "m1", "address": HERE}, "50/ip", "no answer")
    assert "w2" in text
    assert f"m1 ({HERE})" in text
    assert "protocol 50" in text
    assert "jupyterhub_network_encrypted" in text


def test_an_address_that_is_none_is_named() -> None:
    assert answers("256.0.0.1", "9/tcp", 0.1) == answers("256.0.0.1", "9/udp", 0.1) != ""


def test_a_peer_is_told_by_name_address_and_port(held: list[str], free: list[str]) -> None:
    peers = [
        {"host": "m1", "address": HERE, "ports": [held[0]]},
        {"host": "w1", "address": HERE, "ports": [free[0], held[1]]},
    ]
    assert probe(peers, 0.02, "w2") == [
        f"w2 does not reach {free[0]} of w1 ({HERE}): refused. Open this port between the nodes.",
        f"w2 does not reach {held[1]} of w1 ({HERE}): no answer. Open this port between the nodes.",
    ]
    assert probe([], 1, "w2") == []


def test_a_listener_answers_until_it_is_stopped(pid_file: Path, held: list[str], free: list[str]) -> None:
    listen([*held, *free], 30)
    pid, since = map(int, pid_file.read_text().split())
    assert pid != os.getpid()
    assert started(pid) == since
    assert [answers(HERE, port, 1) for port in free] == ["", ""]
    listen(free, 30)  # another one ends the first
    assert pid_file.read_text().split()[0] != str(pid)
    assert [answers(HERE, port, 1) for port in free] == ["", ""]
    stop()
    assert [answers(HERE, port, 1) for port in free] == ["refused", "refused"]
    assert not pid_file.exists()


def test_a_listener_that_is_not_stopped_ends_with_its_time(pid_file: Path, free: list[str]) -> None:
    listen(free, 0.1)
    pid = int(pid_file.read_text().split()[0])
    assert os.waitpid(pid, 0) == (pid, 0)
    assert not pid_file.exists()
    with ExitStack() as stack:
        assert [text(stack.enter_context(sock)) for sock in open_ports(free)] == free


def test_without_a_free_port_there_is_no_listener(pid_file: Path, held: list[str]) -> None:
    listen(held, 30)
    assert not pid_file.exists()


@pytest.mark.parametrize("content", ["{pid} 1", "nonsense", "999999999 5", None])
def test_a_process_that_is_no_listener_is_left_alone(pid_file: Path, content: str | None) -> None:
    if content:
        pid_file.write_text(content.format(pid=os.getpid()))
    stop()
    assert not pid_file.exists()
