"""The namespaces in which Docker keeps the bridge of an overlay network on this node.

There is one while a container of this node is on the network. Docker's names for them are a counter, `-` and the
beginning of the network's id, 12 characters in all; what is left of a removed one is an empty file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DIRECTORY = Path("/run/docker/netns")
OWN = Path("/proc/self/ns/net")
NAME = re.compile(r"[0-9]+-(?P<network>[0-9a-z]+)")
LENGTH = 12
MNT_DETACH = 2  # of the kernel's sys/mount.h
BACKLOG = 512
NFT_TIMEOUT = 20  # seconds
# Connections to the port end with a reset, so that none of them stays in the kernel.
NO_LINGER = struct.pack("ii", 1, 0)


class LoadError(Exception):
    """Rules could not be loaded; the text is one sentence."""


def find(network: str, directory: Path = DIRECTORY) -> dict[int, Path]:
    """Return the namespaces of the network with this id: their files by inode. Raises OSError."""
    return {inode: path for path, inode in _mounted(directory).items() if _is_of(network, path)}


def release(network: str, directory: Path = DIRECTORY, unmount: Callable[[Path], None] | None = None) -> None:
    """Unmount all namespaces but those of this network in this container. Raises OSError.

    The container got copies of all mounts of the node. They would keep namespaces that Docker removes: of another
    overlay network with its VXLAN device, so that Docker could not set this network up again on the node.
    """
    for path in _mounted(directory):
        if not _is_of(network, path):
            (unmount or _unmount)(path)


def _mounted(directory: Path) -> dict[Path, int]:
    """Return the files on which a namespace is mounted, with its inode."""
    found = {}
    device = directory.stat().st_dev
    for path in sorted(directory.iterdir()):
        with suppress(FileNotFoundError):
            state = path.stat()
            if state.st_dev != device:
                found[path] = state.st_ino
    return found


def _is_of(network: str, path: Path) -> bool:
    match = NAME.fullmatch(path.name)
    return bool(match and len(path.name) == LENGTH and network.startswith(match["network"]))


def _unmount(path: Path) -> None:
    if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(path), MNT_DETACH):
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOENT):  # no longer mounted
            raise OSError(number, os.strerror(number), str(path))


class Namespace:
    """One namespace. loaded: the rules that were loaded last, empty for none."""

    def __init__(self, path: Path, port: int) -> None:
        self._path = path
        self._port = port
        self._listener: socket.socket | None = None
        self.loaded = ""

    def load(self, text: str) -> None:
        """Load the rules, and from then on listen at the port in this namespace. Raises LoadError."""
        try:
            with inside(self._path):
                run_nft(text)
                if self._listener is None:
                    self._listener = listener(self._port)
        except OSError as error:
            raise LoadError(f"the namespace {self._path} cannot be entered: {error}") from error
        self.loaded = text

    def fileno(self) -> int:
        """Return the descriptor that is readable while somebody connects, -1 before the rules are loaded."""
        return self._listener.fileno() if self._listener else -1

    def answer(self, most: int) -> None:
        """Accept and end at most this many connections, which shows that the rules are loaded here."""
        for _ in range(most if self._listener else 0):
            try:
                assert self._listener  # noqa: S101
                caller, _ = self._listener.accept()
            except OSError:
                return
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            caller.close()

    def close(self) -> None:
        """Stop listening. The rules stay as long as the namespace."""
        if self._listener:
            self._listener.close()
        self._listener = None


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """Have this process be in a network namespace. Raises OSError."""
    own = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(own)


def _enter(descriptor: int) -> None:
    # Since Python 3.12; the image has a newer one.
    os.setns(descriptor, os.CLONE_NEWNET)  # type: ignore[attr-defined]


def run_nft(text: str) -> None:
    """Load a script of nftables in this process's namespace, all of it or nothing. Raises LoadError."""
    try:
        subprocess.run(
            ["/usr/sbin/nft", "--file", "-"],
            input=text,
            text=True,
            capture_output=True,
            check=True,
            timeout=NFT_TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        raise LoadError(f"nft does not accept the rules: {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"nft has not ended after {NFT_TIMEOUT} s") from error


def listener(port: int) -> socket.socket:
    """Return a socket that listens in this process's namespace. An old guard may still have one at this port."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setblocking(False)
    made.bind(("", port))
    made.listen(BACKLOG)
    return made
