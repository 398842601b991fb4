"""What the smoke test says that a notebook must not reach, and how it tries from a notebook."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xnat_verify import walls_probe
from xnat_verify.checks import WALLS_PROBE
from xnat_verify.walls import NODE_PORTS, node_addresses, targets, task_addresses

WORKER = {"Status": {"Addr": "10.1.0.2"}}
MANAGER = {"Status": {"Addr": "0.0.0.0"}, "ManagerStatus": {"Addr": "10.1.0.1:2377"}}  # noqa: S104


def task(*addresses: str, state: str = "running") -> dict[str, Any]:
    return {"Status": {"State": state}, "NetworksAttachments": [{"Addresses": [address]} for address in addresses]}


@pytest.mark.parametrize(
    ("node", "addresses"),
    [
        (WORKER, {"10.1.0.2"}),
        (MANAGER, {"10.1.0.1"}),
        ({"Status": {}, "ManagerStatus": {"Addr": "[fd00::1]:2377"}}, {"fd00::1"}),
        ({}, set()),
    ],
    ids=["worker", "unspecified", "ipv6", "nothing"],
)
def test_a_nodes_addresses(node: dict[str, Any], addresses: set[str]) -> None:
    assert node_addresses(node) == addresses


def test_only_a_running_task_has_addresses() -> None:
    assert task_addresses(task("10.9.0.3/20", "10.8.0.3/24")) == {"10.9.0.3", "10.8.0.3"}
    assert task_addresses(task("10.9.0.3/20", state="shutdown")) == set()
    assert task_addresses({"Status": {"State": "running"}}) == set()


def test_every_node_service_and_file_server_is_a_target() -> None:
    found = targets([WORKER, MANAGER], [task("10.9.0.3/20")], [task("10.9.0.4/20")], ["files.example.org", "other:81"])
    for wanted in (
        ("10.1.0.1", 2377), ("10.1.0.2", 7946), ("10.1.0.2", 22), ("10.9.0.3", 8001), ("10.9.0.4", 8888),
        ("files.example.org", 2049), ("other", 81),
    ):  # fmt: skip
        assert wanted in found
    assert json.loads(json.dumps(found)) == [list(one) for one in found]


# ---- in the notebook


@pytest.fixture
def listening() -> Iterator[list[int]]:
    yield walls_probe.listen()
    for made in walls_probe.LISTENING:
        made.close()
    walls_probe.LISTENING.clear()


def test_what_is_open_is_found(listening: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls_probe, "possible_gateways", set)
    monkeypatch.setattr(walls_probe, "METADATA", ("127.0.0.1", closed_port()))
    assert walls_probe.reached([("127.0.0.1", listening[0])], NODE_PORTS) == [f"127.0.0.1:{listening[0]}"]
    assert walls_probe.reached([], NODE_PORTS) == []


def test_a_neighbour_without_a_wall_is_heard(listening: list[int]) -> None:
    assert walls_probe.heard() == []
    assert walls_probe.knock(["127.0.0.1"], listening) == ["TCP to 127.0.0.1"]
    assert walls_probe.heard() == ["TCP", "UDP"]


def test_the_first_address_of_each_network_may_be_a_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = "Iface Destination Gateway Flags\neth0 00000000 0100000A 3\neth1 0000090A 00000000 1\n"
    monkeypatch.setattr(Path, "read_text", lambda _: routes)
    assert walls_probe.possible_gateways() == {"10.0.0.1", "10.9.0.1"}


def test_without_a_way_out_there_is_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert walls_probe.by_proxy("http://169.254.169.254/") == 0
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    assert walls_probe.by_proxy("http://169.254.169.254/") == 0


def test_the_text_for_the_kernel_runs_there_as_it_is(capsys: Any) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(WALLS_PROBE, "<kernel>", "exec"), names)  # noqa: S102
    exec("print(json.dumps(heard()))", names)  # noqa: S102
    assert json.loads(capsys.readouterr().out) == []


def closed_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])
