"""Sends audit lines to a syslog server (RFC 5424; over TCP and TLS with octet counting, RFC 6587 and RFC 5425).

Lines wait in memory while the server does not answer. The archive (`xnat_launcher.audit`) has all of them, also those
that were lost with the launcher's memory or on the way: syslog has no receipts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from xnat_wire.settings import SettingsError

log = logging.getLogger("xnat_launcher.syslog")

URL = re.compile(r"(udp|tcp|tls)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
APP = "xnat-jupyterhub"
INFO, NOTICE = 13 * 8 + 6, 13 * 8 + 5  # facility 13, log audit
QUEUE = 10_000  # messages that wait for the server
LONGEST = 8000  # bytes of one message: what rsyslog takes unless it is configured otherwise
TIMEOUT = 10.0  # seconds to connect, and for one message
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two attempts
AT_END = 2.0  # seconds to send what waits when the launcher stops

Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class Target:
    """A syslog server. transport: `udp`, `tcp` or `tls`."""

    transport: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.transport}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse_target(text: str) -> Target | None:
    """Read `udp://host:port`, `tcp://host:port` or `tls://host:port`; None if empty. Raises SettingsError."""
    if not text:
        return None
    found = URL.fullmatch(text)
    if not found or not 0 < int(found[3]) < 2**16:
        raise SettingsError(f"audit_syslog is {text!r}: set it to the form udp://host:port, tcp:// or tls://")
    return Target(found[1], found[2].strip("[]"), int(found[3]))


def message(record: Mapping[str, Any]) -> bytes:
    """Return an audit line as a syslog message. Mounts that would make it too long are left out and counted."""
    priority = INFO if record.get("result", "ok") in ("ok", "started") else NOTICE
    head = f"<{priority}>1 {record['time']} {record['deployment']} {APP} - {record['event']} - "
    text = json.dumps(record)
    mounts = list(record.get("mounts") or ())
    left_out = 0
    while len(head) + len(text) > LONGEST and mounts:
        keep = len(mounts) // 2
        left_out, mounts = left_out + len(mounts) - keep, mounts[:keep]
        text = json.dumps({**record, "mounts": mounts, "mounts_left_out": left_out})
    return (head + text).encode()


class Syslog:
    """Messages on their way to a syslog server. ca_file: certificates to trust for TLS; None for the usual ones."""

    def __init__(self, target: Target, ca_file: str | None = None) -> None:
        self.target = target
        self._ca_file = ca_file
        self._queue: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._datagrams: asyncio.DatagramTransport | None = None

    @property
    def full(self) -> bool:
        """Whether no further message can wait."""
        return len(self._queue) >= QUEUE

    def put(self, record: Mapping[str, Any]) -> None:
        """Send an audit line as soon as possible. If the queue is full, the line is only in the archive."""
        if self.full:
            log.error("An audit line was not sent to the syslog server %s: %d are waiting", self.target, QUEUE)
            return
        self._queue.append(message(record))
        self._empty.clear()
        self._wake.set()

    async def run(self) -> None:
        """Send what waits, until cancelled; connect again, after growing pauses, when that fails."""
        pause = FIRST_PAUSE
        try:
            while True:
                await self._wake.wait()
                try:
                    async with asyncio.timeout(TIMEOUT):
                        send = await self._connect()
                    while True:
                        while self._queue:
                            async with asyncio.timeout(TIMEOUT):
                                await send(self._queue[0])
                            self._queue.popleft()
                            pause = FIRST_PAUSE
                        self._wake.clear()
                        self._empty.set()
                        await self._wake.wait()
                except (OSError, TimeoutError, ValueError) as error:  # ValueError: a host that cannot be a DNS name
                    self._disconnect()
                    log.warning(
                        "The syslog server %s does not accept audit lines (%s); %d are waiting, the next attempt is in"
                        " %g s",
                        self.target,
                        error or type(error).__name__,
                        len(self._queue),
                        pause,
                    )
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self._disconnect()

    async def flush(self) -> None:
        """Wait a moment for what waits to be sent."""
        if self._queue:
            with suppress(TimeoutError):
                async with asyncio.timeout(AT_END):
                    await self._empty.wait()

    async def _connect(self) -> Send:
        if self.target.transport == "udp":
            return await self._connect_udp()
        tls = ssl.create_default_context(cafile=self._ca_file) if self.target.transport == "tls" else None
        reader, writer = await asyncio.open_connection(self.target.host, self.target.port, ssl=tls)
        self._writer = writer
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A peer that is gone without a word is noticed after this time, not after a quarter of an hour.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TIMEOUT * 1000))

        async def send(data: bytes) -> None:
            if reader.at_eof():
                raise ConnectionResetError("the server has closed the connection")
            writer.write(b"%d %b" % (len(data), data))
            await writer.drain()

        return send

    async def _connect_udp(self) -> Send:
        protocol = _Datagrams()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: protocol, remote_addr=(self.target.host, self.target.port)
        )
        self._datagrams = transport

        async def send(data: bytes) -> None:
            if protocol.error:
                raise protocol.error
            transport.sendto(data)
            await asyncio.sleep(0)

        return send

    def _disconnect(self) -> None:
        for transport in (self._writer and self._writer.transport, self._datagrams):
            if transport:
                transport.abort()
        self._writer = self._datagrams = None


class _Datagrams(asyncio.DatagramProtocol):
    """Remembers that the server's host has refused a datagram."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def error_received(self, exc: Exception) -> None:
        self.error = exc
