"""Asks Docker for the addresses of services on the networks of this container.

Docker's resolver answers at a loopback address of the container's own namespace, so no question or answer passes a
network. It knows only names that Swarm's managers gave to services; a notebook can add none.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time
from collections.abc import Iterable

RESOLVER = ("127.0.0.11", 53)
TIMEOUT = 0.8  # seconds for all answers
HELD = 5.0  # seconds for which the last answer counts if a question is not answered
NO_ERROR, NO_SUCH_NAME = 0, 3
A, IN = 1, 1
RESPONSE, RECURSE = 0x8000, 0x0100
LONGEST = 65535


class AnswerError(ValueError):
    """A packet is not an answer to this question, or reports a failure."""


class Names:
    """The addresses of some names, with those of the last answer for HELD seconds if there is no new one."""

    def __init__(self, names: Iterable[str], resolver: tuple[str, int] = RESOLVER) -> None:
        self._names = tuple(names)
        self._resolver = resolver
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}

    def look(self) -> dict[str, tuple[str, ...]]:
        """Return the addresses of each name, sorted; none for a name that is unknown or was not answered for HELD s."""
        answers = ask(self._names, self._resolver)
        now = time.monotonic()
        self._known |= {name: (now, addresses) for name, addresses in answers.items()}
        return {
            name: addresses if now - at <= HELD else ()
            for name, (at, addresses) in ((name, self._known.get(name, (now, ()))) for name in self._names)
        }


def ask(names: Iterable[str], resolver: tuple[str, int]) -> dict[str, tuple[str, ...]]:
    """Return the addresses of the names that are answered within TIMEOUT seconds; none for a name that is unknown."""
    asked = dict(zip(names, secrets.SystemRandom().sample(range(2**16), 2**8), strict=False))
    found: dict[str, tuple[str, ...]] = {}
    failed = 0
    end = time.monotonic() + TIMEOUT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        try:
            channel.connect(resolver)
            for name, number in asked.items():
                channel.send(question(name, number))
            while len(found) + failed < len(asked) and (left := end - time.monotonic()) > 0:
                channel.settimeout(left)
                packet = channel.recv(LONGEST)
                for name, number in asked.items():
                    if name not in found and packet[:2] == struct.pack("!H", number):
                        try:
                            found[name] = addresses(packet, question(name, number))
                        except AnswerError:
                            failed += 1
        except OSError:  # also the time limit, and a refusal
            pass
    return found


def question(name: str, number: int) -> bytes:
    """Return the packet that asks for the addresses of a name. Raises UnicodeEncodeError for one that is not ASCII."""
    labels = b"".join(bytes([len(part)]) + part.encode("ascii") for part in name.split("."))
    return struct.pack("!6H", number, RECURSE, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", A, IN)


def addresses(packet: bytes, asked: bytes) -> tuple[str, ...]:
    """Return the addresses in the answer to a question, sorted; none if the name does not exist. Raises AnswerError."""
    try:
        number, flags, questions, answers, _, _ = struct.unpack_from("!6H", packet)
        if number != struct.unpack_from("!H", asked)[0] or not flags & RESPONSE or questions != 1:
            raise AnswerError("not an answer to this question")
        if packet[12 : len(asked)].lower() != asked[12:].lower():
            raise AnswerError("an answer to another question")
        if flags & 0xF == NO_SUCH_NAME:
            return ()
        if flags & 0xF != NO_ERROR:
            raise AnswerError(f"the resolver reports error {flags & 0xF}")
        found = []
        at = len(asked)
        for _ in range(answers):
            at = _after_name(packet, at)
            kind, of, _, length = struct.unpack_from("!2HIH", packet, at)
            at += 10
            if (kind, of, length) == (A, IN, 4) and len(packet) >= at + 4:
                found.append(socket.inet_ntoa(packet[at : at + 4]))
            at += length
        return tuple(sorted(found))
    except (struct.error, IndexError) as error:
        raise AnswerError("the answer is too short") from error


def _after_name(packet: bytes, at: int) -> int:
    while length := packet[at]:
        if length >= 0xC0:  # a pointer to an earlier name ends this one
            return at + 2
        at += 1 + length
    return at + 1
