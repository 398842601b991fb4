"""The guard: its rules, what it makes of Docker's answers about names, and of namespaces that come and go."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import xnat_launcher.service
from xnat_guard import guard as guards
from xnat_guard import names
from xnat_guard.__main__ import _ports
from xnat_guard.guard import Guard, Services, UnguardedError
from xnat_guard.names import NO_SUCH_NAME, AnswerError, Names, addresses, ask, question
from xnat_guard.namespaces import LoadError, Namespace, find, release
from xnat_guard.rules import HUB_PORT, NO_REQUEST, NOTEBOOK_PORT, READY_PORT, Addresses, rules

HUB, PROXY, GATE = "10.9.0.2", "10.9.0.3", "10.9.0.4"
ALL = Addresses((HUB,), (PROXY,), (GATE,))
SERVICES = Services("hub", "proxy", "gate", (443, 3128))
NETWORK = "q1w2e3r4t5y6u7i8o9p0a1s2d"


def chain(text: str, hook: str) -> list[str]:
    """The rules of a chain, without its first line."""
    _, _, rest = text.partition(f"chain {hook} {{\n")
    first, *found = [line.strip() for line in rest.partition("  }\n")[0].splitlines()]
    assert first == f"type filter hook {hook} priority filter; policy drop;"
    return found


def test_launcher_and_guard_agree_on_ports() -> None:
    assert (xnat_launcher.service.PORT, xnat_launcher.service.GUARD_PORT) == (NOTEBOOK_PORT, READY_PORT)


def test_the_table_is_replaced_in_one_script() -> None:
    lines = rules(ALL, [443]).splitlines()
    assert lines[:3] == ["add table bridge xnat_guard", "delete table bridge xnat_guard", "table bridge xnat_guard {"]


def test_only_these_connections_are_forwarded() -> None:
    both = f"{{ {HUB}, {PROXY} }}"
    every = f"{{ {HUB}, {PROXY}, {GATE} }}"
    *connections, from_service, to_service = chain(rules(ALL, [3128, 443, 443]), "forward")
    assert connections == [
        f"ether type ip ip saddr {both} tcp dport {NOTEBOOK_PORT} accept",
        f"ether type ip ip daddr {both} tcp sport {NOTEBOOK_PORT} {NO_REQUEST} accept",
        f"ether type ip ip daddr {{ {HUB} }} tcp dport {HUB_PORT} accept",
        f"ether type ip ip saddr {{ {HUB} }} tcp sport {HUB_PORT} {NO_REQUEST} accept",
        f"ether type ip ip daddr {{ {GATE} }} tcp dport 443 accept",
        f"ether type ip ip saddr {{ {GATE} }} tcp sport 443 {NO_REQUEST} accept",
        f"ether type ip ip daddr {{ {GATE} }} tcp dport 3128 accept",
        f"ether type ip ip saddr {{ {GATE} }} tcp sport 3128 {NO_REQUEST} accept",
    ]
    assert from_service.endswith(f"arp saddr ip {every} accept")
    assert to_service.endswith(f"arp daddr ip {every} accept")


@pytest.mark.parametrize(
    ("known", "count"),
    [
        (Addresses(), 0),
        (Addresses(hub=(HUB,)), 6),
        (Addresses(proxy=(PROXY,)), 4),
        (Addresses(gate=(GATE,)), 6),
        (Addresses(hub=(HUB, "10.9.0.9")), 6),
    ],
)
def test_an_address_that_is_not_known_opens_nothing(known: Addresses, count: int) -> None:
    text = rules(known, [443, 3128])
    assert len(chain(text, "forward")) == count
    assert "{  }" not in text


def test_the_bridge_itself_takes_only_the_question_whether_the_rules_are_loaded() -> None:
    text = rules(ALL, [443])
    assert chain(text, "input")[1:] == [f"ether type ip tcp dport {READY_PORT} accept"]
    assert chain(text, "output")[1:] == [f"ether type ip tcp sport {READY_PORT} {NO_REQUEST} accept"]


@pytest.mark.parametrize(("text", "ports"), [("443,3128", (443, 3128)), ("", ()), ("0", None), ("x", None)])
def test_ports_are_read_from_the_command_line(text: str, ports: tuple[int, ...] | None) -> None:
    if ports is None:
        with pytest.raises(ValueError, match=text):
            _ports(text)
    else:
        assert _ports(text) == ports


# ---- names


def answer(asked: bytes, found: Sequence[str], code: int = 0, flags: int = 0x8180) -> bytes:
    """Docker's answer to a question."""
    head = struct.pack("!6H", struct.unpack_from("!H", asked)[0], flags | code, 1, len(found), 0, 0)
    records = b"".join(b"\xc0\x0c" + struct.pack("!2HIH", 1, 1, 600, 4) + socket.inet_aton(one) for one in found)
    return head + asked[12:] + records


ASKED = question("jupyterhub-hub", 7)


def test_addresses_are_read_in_order() -> None:
    assert addresses(answer(ASKED, ["10.9.0.3", "10.9.0.2"]), ASKED) == ("10.9.0.2", "10.9.0.3")
    assert addresses(answer(ASKED, []), ASKED) == ()
    assert addresses(answer(ASKED, [], NO_SUCH_NAME), ASKED) == ()


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        ASKED,
        answer(ASKED, [HUB], 2),
        answer(question("jupyterhub-hub", 8), [HUB]),
        answer(question("jupyterhub-hvb", 7), [HUB]),
        answer(ASKED, [HUB])[:-17],
        answer(ASKED, [HUB])[:-10],
        answer(ASKED, [HUB, PROXY])[:-16],
    ],
    ids=["nothing", "question", "failure", "number", "name", "no-record", "half-a-record", "one-of-two"],
)
def test_what_is_no_answer_is_refused(packet: bytes) -> None:
    with pytest.raises(AnswerError):
        addresses(packet, ASKED)


@pytest.fixture
def resolver() -> Iterator[tuple[tuple[str, int], dict[str, Sequence[str] | int | None]]]:
    """A resolver: what it answers by name, a list of addresses or an error; None for no answer."""
    known: dict[str, Sequence[str] | int | None] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                packet, caller = channel.recvfrom(512)
                if not packet:
                    return
                found = known[packet[13 : 13 + packet[12]].decode()]
                if found is not None:
                    code = found if isinstance(found, int) else 0
                    channel.sendto(answer(packet, [] if isinstance(found, int) else found, code), caller)

        thread = threading.Thread(target=serve)
        thread.start()
        address = channel.getsockname()
        yield address, known
        channel.sendto(b"", address)
        thread.join()


Resolver = tuple[tuple[str, int], dict[str, "Sequence[str] | int | None"]]


def test_names_are_asked_together_and_one_without_an_answer_delays_none(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "TIMEOUT", 0.2)
    address, known = resolver
    known |= {"hub": [HUB], "proxy": None, "gate": NO_SUCH_NAME, "other": 2}
    assert ask(["hub", "proxy", "gate", "other"], address) == {"hub": (HUB,), "gate": ()}


def test_a_resolver_that_does_not_answer_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "TIMEOUT", 0.2)
    assert ask(["hub"], ("127.0.0.1", 1)) == {}


def test_an_address_is_kept_over_a_failure_and_then_dropped(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, known = resolver
    looked = Names(["hub", "proxy"], address)
    known |= {"hub": [HUB], "proxy": 2}
    assert looked.look() == {"hub": (HUB,), "proxy": ()}
    known["hub"] = 2
    assert looked.look() == {"hub": (HUB,), "proxy": ()}
    monkeypatch.setattr(names, "HELD", 0.0)
    assert looked.look() == {"hub": (), "proxy": ()}


def test_an_address_that_is_gone_is_dropped_at_once(resolver: Resolver) -> None:
    address, known = resolver
    looked = Names(["hub"], address)
    known["hub"] = [HUB]
    assert looked.look() == {"hub": (HUB,)}
    known["hub"] = NO_SUCH_NAME
    assert looked.look() == {"hub": ()}


# ---- namespaces


def test_what_is_left_of_removed_namespaces_is_not_taken_for_one(tmp_path: Path) -> None:
    for name in (f"1-{NETWORK[:10]}", f"1-{NETWORK[1:11]}", "default"):
        (tmp_path / name).touch()
    assert find(NETWORK, tmp_path) == {}


def test_a_namespace_is_found_by_the_beginning_of_the_networks_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.stat("/proc/self/ns/net")  # on another file system, as a mounted namespace is
    mine = {f"1-{NETWORK[:10]}", f"12-{NETWORK[:9]}"}
    for name in (*mine, f"1-{NETWORK[:9]}", f"1-{NETWORK[1:11]}", f"lb_{NETWORK[:9]}", NETWORK[:12]):
        (tmp_path / name).symlink_to("/proc/self/ns/net")
    found = find(NETWORK, tmp_path)
    assert found.keys() == {other.st_ino}
    assert {path.name for path in found.values()} <= mine


def test_all_other_namespaces_are_released(tmp_path: Path) -> None:
    names = ["1-0mmizw8w8c", f"1-{NETWORK[:10]}", "36f374d77fb4", "ingress_sbox", f"lb_{NETWORK[:9]}"]
    for name in names:
        (tmp_path / name).symlink_to("/proc/self/ns/net")
    (tmp_path / "1-left").touch()
    released: list[Path] = []
    release(NETWORK, tmp_path, released.append)
    assert [path.name for path in released] == [name for name in names if name != f"1-{NETWORK[:10]}"]


class MemoryNamespace(Namespace):
    """Records what is loaded into it. made: those with this path so far. broken: whether loading fails."""

    broken = False
    made: list[MemoryNamespace]

    def __init__(self, path: Path, port: int) -> None:
        super().__init__(path, port)
        self.texts: list[str] = []
        self.closed = False
        MemoryNamespace.made.append(self)

    def load(self, text: str) -> None:
        if MemoryNamespace.broken:
            raise LoadError("nft does not accept the rules: no such family")
        self.texts.append(text)
        self.loaded = text

    def close(self) -> None:
        self.closed = True


class Node:
    """A node with a guard."""

    def __init__(self, heartbeat: Path) -> None:
        self.found: dict[int, Path] = {5: Path("/run/docker/netns/1-a")}
        self.known: dict[str, tuple[str, ...]] = {"hub": (HUB,), "proxy": (PROXY,), "gate": (GATE,)}
        self.heartbeat = heartbeat
        MemoryNamespace.made, MemoryNamespace.broken = [], False
        self.guard = Guard(NETWORK, SERVICES, self._look, heartbeat, self._search, MemoryNamespace)

    def _look(self) -> Mapping[str, Sequence[str]]:
        return self.known

    def _search(self, network: str) -> Mapping[int, Path]:
        assert network == NETWORK
        return self.found


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "alive")


def test_the_first_rules_are_those_for_the_known_addresses(node: Node) -> None:
    node.guard.check()
    (namespace,) = MemoryNamespace.made
    # Those of an earlier guard may be loaded: rules that open nothing would cut its connections for a moment.
    assert set(namespace.texts) == {rules(ALL, SERVICES.gate_ports)}
    assert node.heartbeat.exists()


def test_rules_that_open_nothing_are_loaded_while_no_name_is_known(node: Node) -> None:
    node.known = {"hub": (), "proxy": (), "gate": ()}
    node.guard.check()
    (namespace,) = MemoryNamespace.made
    assert namespace.loaded == rules(Addresses(), SERVICES.gate_ports)
    assert node.heartbeat.exists()


def test_rules_are_loaded_again_for_a_new_address_and_after_a_while(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.guard.check()
    (namespace,) = MemoryNamespace.made
    count = len(namespace.texts)
    node.guard.check()
    assert len(namespace.texts) == count
    node.known["hub"] = ("10.9.0.7",)
    node.guard.check()
    assert "10.9.0.7" in namespace.loaded
    assert HUB not in namespace.loaded
    monkeypatch.setattr(guards, "AGAIN", 0.0)
    node.guard.check()
    assert len(namespace.texts) == count + 2


def test_a_new_namespace_gets_the_rules_of_the_old_one_at_once(node: Node) -> None:
    node.guard.check()
    node.found = {6: Path("/run/docker/netns/1-a")}
    node.guard.check()
    old, new = MemoryNamespace.made
    assert old.closed
    assert new.texts[0] == rules(ALL, SERVICES.gate_ports)


@pytest.mark.parametrize("missing", [True, False], ids=["no-namespace", "no-rules"])
def test_a_guard_without_rules_has_no_heartbeat_and_ends(
    node: Node, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    node.guard.check()
    node.found = {} if missing else {6: Path("/run/docker/netns/1-a")}
    MemoryNamespace.broken = True
    node.guard.check()
    assert not node.heartbeat.exists()
    monkeypatch.setattr(guards, "PATIENCE", 0.0)
    with pytest.raises(UnguardedError):
        node.guard.check()
    MemoryNamespace.broken = False
    node.found = {6: Path("/run/docker/netns/1-a")}
    node.guard.check()
    assert node.heartbeat.exists()


def test_a_namespace_that_could_not_be_loaded_is_tried_again(node: Node) -> None:
    MemoryNamespace.broken = True
    node.guard.check()
    MemoryNamespace.broken = False
    node.guard.check()
    assert MemoryNamespace.made[-1].loaded == rules(ALL, SERVICES.gate_ports)


def test_the_loop_ends_its_round_in_time_without_callers(node: Node) -> None:
    node.guard.check()
    begun = time.monotonic()
    node.guard.answer(begun + 0.05)
    assert 0.04 < time.monotonic() - begun < 1
