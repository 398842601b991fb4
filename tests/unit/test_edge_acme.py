"""Certificates of an ACME authority: the role with Debian's dehydrated, haproxy, and Debian's test authority pebble."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from edge import edge as program

from module_utils.xnat_site.edge import HTTP_TARGET, TLS_TARGET, acme_fault, acme_thumbprint
from tests.edge_bed import HAPROXY, HUB, LIMIT, XNAT, Edge, certificate, config, listens, running
from tests.unit.plain_hub import free_port
from tests.unit.test_preflight_plays import play

DEHYDRATED, PEBBLE, DNS = (shutil.which(name) for name in ("dehydrated", "pebble", "pebble-challtestsrv"))
acme = pytest.mark.skipif(
    not (HAPROXY and DEHYDRATED and PEBBLE and DNS and os.geteuid() == 0),
    reason="not root, or one of Debian's packages haproxy, dehydrated and pebble is missing",
)
UID = 60900
NO_UNITS = {"service": "", "timer": "", "enabled": False, "active": False}  # of the timer
EAB_KID, EAB_KEY = "hospital", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
# Writes TXT records by the test name server's own API.
HOOK = """#!/bin/sh
case $1 in
    deploy_challenge) curl -sf -d "{\\"host\\":\\"_acme-challenge.$2.\\",\\"value\\":\\"$4\\"}" URL/set-txt ;;
    clean_challenge) curl -sf -d "{\\"host\\":\\"_acme-challenge.$2.\\"}" URL/clear-txt ;;
esac
"""


# ---- without programs


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3okn"
        "jhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qM"
        "QvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJz"
        "KnqDKgw"
    )
    number = int.from_bytes(base64.urlsafe_b64decode(modulus + "=="), "big")
    key = {"exponent": 65537, "modulus": number, "size": 2048}
    assert acme_thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert acme_thumbprint({}) == ""


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ('  + ERROR: x\n["error","detail"]\t"Fetching http://h/: refused"\n["url"]', "Fetching http://h/: refused"),
        ('Details:\n{"type": "urn:x", "detail": "too many \\"certificates\\""}', 'too many \\"certificates\\"'),
        ("# INFO\nERROR: Problem connecting to server (curl returned with 7)\n", "Problem connecting to server (curl"),
        ("last line\n\n", "last line"),
        ("", "dehydrated wrote nothing"),
    ],
    ids=["challenge", "order", "network", "other", "nothing"],
)
def test_the_reason_is_the_authoritys_sentence_if_there_is_one(output: str, fault: str) -> None:
    assert acme_fault(output.splitlines()).startswith(fault)


# ---- with real ones


@dataclass
class Authority:
    """A running pebble. url: of its directory. root: the file to trust there. dns: URL of its name server's API."""

    url: str
    root: Path
    dns: str
    process: subprocess.Popen[bytes]

    def orders(self) -> int:
        """How many certificates it has been asked for."""
        return len(re.findall(r"Issued certificate", (self.root.parent / "pebble.log").read_text()))


@asynccontextmanager
async def authority(folder: Path, http_port: int) -> AsyncIterator[Authority]:
    """Run an authority that knows every host name as this machine, and wants an external account binding."""
    ports = [free_port() for _ in range(4)]
    pem = certificate("pebble", address="127.0.0.1")
    key = pem.index("-----BEGIN PRIVATE KEY")
    (folder / "pebble.crt").write_text(pem[:key])
    (folder / "pebble.key").write_text(pem[key:])
    settings = {
        "listenAddress": f"127.0.0.1:{ports[0]}", "managementListenAddress": f"127.0.0.1:{ports[1]}",
        "certificate": str(folder / "pebble.crt"), "privateKey": str(folder / "pebble.key"), "httpPort": http_port,
        "tlsPort": 1, "externalAccountBindingRequired": True, "externalAccountMACKeys": {EAB_KID: EAB_KEY},
    }  # fmt: skip
    (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
    dns, pebble = str(DNS), str(PEBBLE)
    commands = {
        "dns": [dns, "-dns01", f"127.0.0.1:{ports[2]}", "-management", f"127.0.0.1:{ports[3]}", "-http01", "",
                "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""],
        "pebble": [pebble, "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{ports[2]}"],
    }  # fmt: skip
    started = []
    try:
        for name, command in commands.items():
            started.append(start(command, folder / f"{name}.log"))
        async with asyncio.timeout(LIMIT):
            for port in (ports[0], ports[3]):
                while not await listens(port):
                    assert all(process.poll() is None for process in started)
        yield Authority(
            f"https://127.0.0.1:{ports[0]}/dir", folder / "pebble.crt", f"http://127.0.0.1:{ports[3]}", started[-1]
        )
    finally:
        for process in started:
            process.kill()
            process.wait()


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a program that writes to a file."""
    with log.open("wb") as output:
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


class Node:
    """Nodes of the edge: this machine, with the role's paths in a folder."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        self.folder = folder
        self.runs = 0
        self.variables = {
            "site_hub_public_url": f"https://{HUB}", "site_xnat_public_url": f"https://{XNAT}", "site_deployment": "x",
            "site_secrets_dir": str(folder / "secrets"), "edge_xnat_upstream": "http://xnat.internal:8080",
            "edge_certificate_source": "acme", "edge_acme_terms_agreed": True, **variables,
        }  # fmt: skip
        (folder / "secrets").mkdir()
        # The user of the edge cannot enter the folder, as on a node.
        self.open = Path(tempfile.mkdtemp(prefix="xnatjh-acme-"))
        self.open.chmod(0o755)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.open)

    def paths(self, suffix: str) -> dict[str, object]:
        """The role's paths. suffix: differs for another node with the same control node."""
        return {
            "edge_uid": UID, "__edge_node_dir": f"{self.folder}/certificates{suffix}",
            "__edge_acme_dir": f"{self.open}/acme{suffix}", "__edge_acme_program": str(DEHYDRATED),
            "edge_report": {"systemd": False, "units": NO_UNITS},
            "__edge_acme_script": f"{self.folder}/order{suffix}",
        }  # fmt: skip

    def run(self, *entries: str, code: int = 0, suffix: str = "", **changes: Any) -> str:
        """Run entry points of the role on a node and return what Ansible printed, on one line."""
        self.runs += 1
        directory = self.folder / f"run{self.runs}"
        directory.mkdir()
        tasks = [
            {"ansible.builtin.include_role": {"name": "edge", "tasks_from": entry}, "vars": self.paths(suffix)}
            for entry in entries
        ]
        done = play(directory, tasks, yaml.safe_dump(self.variables | changes))
        text = " ".join(done.stdout.split())
        assert done.returncode == code, done.stdout
        assert "BEGIN" not in text
        assert EAB_KEY not in text
        return text

    @property
    def thumbprint(self) -> str:
        key = serialization.load_pem_private_key((self.folder / "secrets/edge/acme-account.key").read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        numbers = key.public_key().public_numbers()
        return acme_thumbprint({"exponent": numbers.e, "modulus": numbers.n})


async def issuer(edge: Edge) -> str:
    """The issuer of the certificate that the edge serves now, and its serial number."""
    _, writer = await asyncio.open_connection("127.0.0.1", edge.ports[TLS_TARGET], ssl=edge.tls)
    found = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    return f"{found.issuer.rfc4514_string()} {found.serial_number}"


@acme
def test_http_issue_and_renewal_under_an_open_websocket(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        asyncio.run(issue_and_renew(tmp_path, node))


async def issue_and_renew(folder: Path, node: Node) -> None:
    first = await asyncio.to_thread(node.run, "preflight", "node")
    assert "changed=0" not in first
    async with (
        running(folder, config(thumbprint=node.thumbprint)) as edge,
        authority(folder, edge.ports[HTTP_TARGET]) as pebble,
    ):
        loader = program.Certificates(folder / "certificates", folder / "api", folder / "state.json")
        options: dict[str, Any] = {
            "edge_acme_directory": pebble.url, "edge_acme_ca_bundle": str(pebble.root), "edge_acme_eab_kid": EAB_KID,
            "edge_acme_eab_key": EAB_KEY, "edge_acme_contact": "it@example.org",
        }  # fmt: skip
        assert "waiting for ACME" in await issuer(edge)
        async with edge.http.ws_connect(edge.url("/jupyterhub/ws"), headers={"Host": HUB}) as socket:
            await asyncio.to_thread(node.run, "node", "issue", **options)
            await asyncio.to_thread(loader.load_changed)
            served = await issuer(edge)
            assert "Pebble" in served
            assert pebble.orders() == 1
            pem = folder / "certificates/certificate-0.pem"
            assert (pem.stat().st_mode & 0o777, pem.stat().st_uid) == (0o400, UID)
            assert pem.parent.stat().st_mode & 0o777 == 0o500
            found = x509.load_pem_x509_certificates(pem.read_bytes())
            names = found[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == [HUB, XNAT]
            assert len(found) > 1  # with the authorities in between

            again = await asyncio.to_thread(node.run, "preflight", "node", "issue", **options)
            assert "changed=0" in again
            assert pebble.orders() == 1

            # More days than its certificates are valid: one is ordered, and the next run would order another one.
            said = await asyncio.to_thread(node.run, "node", "issue", code=2, edge_renew_days=2000, **options)

            assert "set edge_renew_days" in said
            await asyncio.to_thread(loader.load_changed)
            renewed = await issuer(edge)
            assert "Pebble" in renewed
            assert renewed != served
            assert pebble.orders() == 2

            # Without the authority, everything stays as it is, and the run says so.
            pebble.process.kill()
            pebble.process.wait()
            said = await asyncio.to_thread(node.run, "issue", **options)
            assert "has issued no certificate for hub.example.org" in said
            assert "changed=0" in said
            await asyncio.to_thread(loader.load_changed)
            assert await issuer(edge) == renewed

            await socket.send_str("still there")
            message = await socket.receive(timeout=LIMIT)
            assert (message.type, message.data) == (aiohttp.WSMsgType.TEXT, "still there")


@acme
def test_the_sites_hook_writes_the_records_of_challenges_by_dns(tmp_path: Path) -> None:
    asyncio.run(issue_by_dns(tmp_path))


async def issue_by_dns(folder: Path) -> None:
    async with authority(folder, 1) as pebble:
        (folder / "dns-hook").write_text(HOOK.replace("URL", pebble.dns))
        options = {
            "edge_acme_directory": pebble.url, "edge_acme_ca_bundle": str(pebble.root), "edge_acme_eab_kid": EAB_KID,
            "edge_acme_eab_key": EAB_KEY, "edge_acme_challenge": "dns-01", "edge_acme_hook": str(folder / "dns-hook"),
        }  # fmt: skip
        with Node(folder, **options) as node:
            # Two nodes of one site share the account, and each has a key and certificate of its own.
            await asyncio.to_thread(node.run, "preflight", "node", "issue")
            await asyncio.to_thread(node.run, "node", "issue", suffix="2")
            found = [
                x509.load_pem_x509_certificate((folder / f"certificates{suffix}/certificate-0.pem").read_bytes())
                for suffix in ("", "2")
            ]
            assert all("Pebble" in one.issuer.rfc4514_string() for one in found)
            assert found[0].public_key() != found[1].public_key()
            accounts = [next(node.open.glob(f"acme{suffix}/*/account.pem_id.json")).read_text() for suffix in ("", "2")]
            assert accounts[0] == accounts[1]
