"""The certificates of the edge, as the role makes and checks them on the control node."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from tests.edge_bed import HUB, XNAT, certificate
from tests.unit.conftest import ROOT
from tests.unit.test_preflight_plays import play

ROLE = {"ansible.builtin.include_role": {"name": "edge", "tasks_from": "preflight"}}
LIMIT = 10


def run(folder: Path, secrets: Path, code: int = 0, **changes: Any) -> str:
    """Run the role's checks with settings of the edge; return what Ansible printed, on one line."""
    folder.mkdir()
    variables = {
        "site_hub_public_url": f"https://{HUB}", "site_xnat_public_url": f"https://{XNAT}", "site_deployment": "x",
        "site_secrets_dir": str(secrets), "edge_xnat_upstream": "http://xnat.internal:8080", **changes,
    }  # fmt: skip
    done = play(folder, [ROLE], yaml.safe_dump(variables))
    assert done.returncode == code, done.stdout
    return " ".join(done.stdout.split())


def accepted(folder: Path, host: str) -> bool:
    """Whether a client that trusts the root, and is as strict as Python can be, accepts the certificate for a host."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()
    here.settimeout(LIMIT)

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(here, server_hostname=host).close()
    except ssl.SSLCertVerificationError:
        return False
    finally:
        here.close()
        thread.join()
    return True


def days(folder: Path) -> int:
    found = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    return (found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days


def test_an_authority_of_the_sites_own_serves_its_names_and_renews_by_a_rerun(tmp_path: Path) -> None:
    folder = tmp_path / "secrets/edge"
    (tmp_path / "secrets").mkdir()
    first = run(tmp_path / "1", tmp_path / "secrets", edge_certificate_days=40)
    assert f"{folder}/ca.crt is the root of a new authority for {HUB}, {XNAT}" in first
    assert accepted(folder, HUB)
    assert accepted(folder, XNAT)
    assert not accepted(folder, "other.example.org")
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == {
        "ca.key": 0o600, "server.key": 0o600,
    }  # fmt: skip
    root = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    limits = root.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert limits.value.permitted_subtrees == [x509.DNSName(HUB), x509.DNSName(XNAT)]

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "changed=0" in run(tmp_path / "2", tmp_path / "secrets", edge_certificate_days=40)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    # Fewer days are left than the site wants: a new certificate of the same authority for the same key.
    assert days(folder) == 39
    run(tmp_path / "3", tmp_path / "secrets", edge_renew_days=60)
    assert days(folder) == 396
    assert [name for name in before if (folder / name).read_bytes() != before[name]] == ["server.crt"]
    assert accepted(folder, HUB)

    # The same authority signs for people's origins as well.
    assert not accepted(folder, f"jdoe.{HUB}")
    run(tmp_path / "4", tmp_path / "secrets", site_hub_person_origins=True)
    assert (folder / "ca.crt").read_bytes() == before["ca.crt"]
    assert [accepted(folder, name) for name in (HUB, f"jdoe.{HUB}", f"a.jdoe.{HUB}", XNAT)] == [True, True, False, True]
    assert "changed=0" in run(tmp_path / "5", tmp_path / "secrets", site_hub_person_origins=True)


@pytest.mark.parametrize(
    ("host", "other_key", "found"),
    [
        pytest.param(HUB, False, "failed=0", id="good"),
        pytest.param("other.example.org", True, "is not the key of", id="bad"),
    ],
)
def test_files_of_the_site_are_checked_before_they_are_sent(
    tmp_path: Path, host: str, other_key: bool, found: str
) -> None:
    pem = certificate("site")
    (tmp_path / "hub.crt").write_text(pem)
    (tmp_path / "hub.key").write_text(certificate("other") if other_key else pem)
    files = {"certificate": str(tmp_path / "hub.crt"), "key": str(tmp_path / "hub.key")}
    said = run(
        tmp_path / "run", tmp_path, 2 if other_key else 0, edge_certificate_source="files",
        edge_certificate_files=[files], site_hub_public_url=f"https://{host}",
    )  # fmt: skip
    assert found in said
    assert ("No certificate is for other.example.org" in said) == other_key
    assert "BEGIN PRIVATE" not in said


# ---- nodes that are no edges any more


def leaving(playbook: str) -> tuple[int, dict[str, Any]]:
    """The play that removes what a node has of an edge, and its place in the playbook."""
    plays = yaml.safe_load((ROOT / f"playbooks/{playbook}.yml").read_text())
    entry = {"name": "edge", "tasks_from": "remove"}
    found = [
        (number, each)
        for number, each in enumerate(plays)
        if entry in [task.get("ansible.builtin.include_role") for task in each.get("tasks", ())]
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("playbook", ["edge", "remove"])
def test_a_node_keeps_nothing_of_the_edge_that_it_was(tmp_path: Path, playbook: str) -> None:
    paths = {
        name: tmp_path / name
        for name in ("__edge_node_dir", "__edge_acme_dir", "__edge_acme_script", "__floating_address_file")
    }
    for path in paths.values():
        path.touch()
    options = json.dumps({name: str(path) for name, path in paths.items()} | {"__systemd_timer_dir": str(tmp_path)})
    units = {"service": "", "timer": "", "enabled": False, "active": False}
    for installed, ours, left in ((False, False, 4), (False, True, 3), (True, False, 0)):
        fleet = {
            "edges": {"m1": {"systemd": False, "installed": installed, "units": units}},
            "keepalived": {"m1": {"systemd": False, "installed": False, "ours": ours, "other": not ours}},
        }
        folder = tmp_path / f"{installed}-{ours}"
        folder.mkdir()
        tasks = leaving(playbook)[1]["tasks"]
        variables = yaml.safe_dump({"site_deployment": "x", "preflight_fleet": fleet})
        done = play(folder, tasks, variables, "--extra-vars", options)
        assert done.returncode == 0, done.stdout
        assert sum(path.exists() for path in paths.values()) == left
    assert leaving("remove")[1]["hosts"] == "reached"


def test_a_node_stops_being_an_edge_after_its_service_and_before_the_others_listen_to_it_no_longer() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/edge.yml").read_text())
    roles = [
        (number, task["ansible.builtin.include_role"])
        for number, each in enumerate(plays)
        for task in each.get("tasks", ())
        if "ansible.builtin.include_role" in task
    ]
    place, found = leaving("edge")
    assert found["hosts"] == "swarm_ready:!edges"
    (service,) = [number for number, role in roles if role == {"name": "edge"}]
    (address,) = [number for number, role in roles if role == {"name": "floating_address"}]
    assert service < place < address
