"""Run haproxy and give it new certificates while it runs: ``edge.py run``; ``edge.py loaded`` waits for them.

The certificates are files on the node, because a secret of Swarm can change only with a new task, which would cut all
connections. haproxy's runtime API replaces a certificate in memory: open connections keep the one that they began with.
A file that haproxy refuses, such as one whose key does not match, changes nothing, and the log says so once.
"""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

CONFIG = "/etc/xnat-edge/haproxy.cfg"
CERTIFICATES = Path("/etc/xnat-edge/certificates")
SOCKET = Path("/tmp/haproxy.sock")  # noqa: S108  (a tmpfs of this container)
STATE = Path("/tmp/loaded.json")  # noqa: S108
INTERVAL = 2.0  # seconds between two looks at the files
LIMIT = 60.0  # seconds that `loaded` waits
TIMEOUT = 10.0  # seconds that haproxy may take for an answer
LOADED = "loaded"  # what the state says of a file that haproxy uses; anything else is why it does not


class Certificates:
    """The certificates that haproxy uses. folder: the PEM files. api: haproxy's socket. state: where the result goes.

    The state is {"site.pem": [SHA-256 of the file in hexadecimal digits, "loaded" or why it is not], ...}.
    """

    def __init__(self, folder: Path, api: Path, state: Path) -> None:
        self._folder = folder
        self._api = api
        self._state = state
        # haproxy reads the files after this. One that changes in between is loaded again, which does no harm.
        self._known = {name: (digest, LOADED) for name, digest in digests(folder).items()}
        self._write()

    def load_changed(self) -> None:
        """Give haproxy each file whose content has changed. Raises OSError if haproxy does not answer."""
        changed = {
            name: digest
            for name, digest in digests(self._folder).items()
            if self._known.get(name, ("", ""))[0] != digest
        }
        for name, digest in changed.items():
            result = self._load(self._folder / name)
            self._known[name] = (digest, result)
            print(f"certificate {name}: {result}", file=sys.stderr, flush=True)
        if changed:
            self._write()

    def _load(self, path: Path) -> str:
        # After a certificate that does not fit its key, haproxy 2.6 cuts an open connection.
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            return f"not a certificate with its key: {error}"
        lines = [line for line in path.read_text().splitlines() if line.strip()]  # an empty line ends the payload
        answer = self._ask("\n".join([f"set ssl cert {path} <<", *lines, "", ""]))
        if "ransaction" not in answer:  # "Transaction created", or "updated"
            return answer or "haproxy gave no answer"
        answer = self._ask(f"commit ssl cert {path}\n")
        if "Success" in answer:
            return LOADED
        self._ask(f"abort ssl cert {path}\n")
        return answer or "haproxy gave no answer"

    def _ask(self, command: str) -> str:
        """Return haproxy's answer on one line."""
        with socket.socket(socket.AF_UNIX) as api:
            api.settimeout(TIMEOUT)
            api.connect(str(self._api))
            api.sendall(command.encode())
            answer = b""
            while part := api.recv(4096):
                answer += part
        return " ".join(answer.decode(errors="replace").split())

    def _write(self) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(self._known))
        new.replace(self._state)


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each PEM file by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.pem"))}


def run(config: str, certificates: Path, api: Path, state: Path) -> int:
    """Run haproxy until it ends and return its exit code."""
    loaded = Certificates(certificates, api, state)
    haproxy = subprocess.Popen(["haproxy", "-db", "-f", config])  # noqa: S603, S607
    signal.signal(signal.SIGTERM, lambda *_: haproxy.terminate())
    while True:
        try:
            return haproxy.wait(timeout=INTERVAL)
        except subprocess.TimeoutExpired:
            pass
        try:
            loaded.load_changed()
        except OSError as error:  # tried again with the next look
            print(f"certificates cannot be loaded: {error}", file=sys.stderr, flush=True)


def wait_until_loaded(certificates: Path, state: Path, limit: float) -> str:
    """Wait until haproxy has got every file as it is now. Return which are not used and why, empty for none."""
    deadline = time.monotonic() + limit
    while True:
        wanted = digests(certificates)
        known: dict[str, list[str]] = json.loads(state.read_text()) if state.exists() else {}
        late = [name for name, digest in wanted.items() if known.get(name, [""])[0] != digest]
        if not late:
            return "; ".join(f"{name}: {known[name][1]}" for name in wanted if known[name][1] != LOADED)
        if time.monotonic() >= deadline:
            return f"{', '.join(late)}: not loaded within {limit:g} s"
        time.sleep(INTERVAL / 10)


def main(command: str) -> int:
    """Run one of the two commands and return the exit code."""
    if command == "run":
        return run(CONFIG, CERTIFICATES, SOCKET, STATE)
    if fault := wait_until_loaded(CERTIFICATES, STATE, LIMIT):
        print(fault, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
