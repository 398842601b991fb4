"""The edge: names and ports, what its haproxy does with requests, new certificates under open websockets."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from edge import edge as program

from module_utils.xnat_site.edge import (
    EDGE_LABEL,
    HTTP_TARGET,
    TLS_TARGET,
    certificate_findings,
    edge_findings,
    edge_labels,
    edge_names,
    edge_plan,
    edge_ports,
    shared_host,
)
from module_utils.xnat_site.hosts import HOST_LABEL
from tests.edge_bed import BODY, HAPROXY, HUB, LIMIT, SETTINGS, TYPE, XNAT, Edge, certificate, config, here, running
from tests.unit.conftest import ROOT

haproxy = pytest.mark.skipif(not HAPROXY, reason="no haproxy; tests/site/test_edge.py has one")
ONE_NAME = {"xnat_url": f"https://{HUB}"}
TOKEN = "0123456789abcdef"


# ---- names, ports, findings


@pytest.mark.parametrize(
    ("xnat", "hub", "shared"),
    [
        ("https://xnat.example.org", "https://hub.example.org", ""),
        ("https://xnat.example.org", "https://xnat.example.org", "xnat.example.org"),
        ("https://XNAT.example.org./x", "https://xnat.example.org:8443", "xnat.example.org"),  # cookies know no port
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]", "[2001:db8::1]"),
        ("http://localhost:8080", "http://127.0.0.1:8000", ""),
    ],
    ids=["two", "one", "ports", "ipv6", "demo"],
)
def test_one_host_is_one_whatever_the_ports(xnat: str, hub: str, shared: str) -> None:
    assert shared_host(xnat, hub) == shared


@pytest.mark.parametrize(
    ("changes", "ports"),
    [
        ({}, [(443, 8443), (80, 8080)]),
        ({"http_port": 0}, [(443, 8443)]),
        ({"hub_url": f"https://{HUB}:8443"}, [(8443, 8443), (443, 8444), (80, 8080)]),
        ({"hub_url": f"https://{HUB}:8443", "xnat_upstream": ""}, [(8443, 8443), (80, 8080)]),
    ],
    ids=["one", "no-http", "two", "no-xnat"],
)
def test_the_edge_listens_on_the_ports_of_the_public_urls(
    changes: dict[str, Any], ports: list[tuple[int, int]]
) -> None:
    found = edge_plan(SETTINGS | changes)["ports"]
    assert [(port["published_port"], port["target_port"]) for port in found] == ports
    assert [port["port"] for port in edge_ports(
        (SETTINGS | changes)["hub_url"], SETTINGS["xnat_url"] if (SETTINGS | changes)["xnat_upstream"] else "",
        (SETTINGS | changes)["http_port"])].sort() == [port for port, _ in ports].sort()  # fmt: skip


def test_the_ports_of_an_invalid_url_are_none() -> None:
    assert edge_ports("https://hub.example.org:99999") == []
    assert [(port["port"], port["variable"]) for port in edge_ports("https://a:8443", "https://b", 80)] == [
        (443, "site_xnat_public_url"), (8443, "site_hub_public_url"), (80, "edge_http_port"),
    ]  # fmt: skip


def test_the_authority_may_sign_for_names_only_and_an_address_has_none() -> None:
    assert edge_names("https://HUB.example.org:8443", "https://[2001:db8::1]") == {
        "names": ["hub.example.org", "2001:db8::1"],
        "alternatives": ["DNS:hub.example.org", "IP:2001:db8::1"],
        "constraints": ["DNS:hub.example.org"],
    }


def test_a_wildcard_is_for_people_and_the_authority_of_the_hubs_name_may_sign_for_it() -> None:
    found = edge_names(f"https://{HUB}", f"https://{XNAT}", person_origins=True)
    assert found["names"] == [HUB, f"*.{HUB}", XNAT]
    assert found["alternatives"] == [f"DNS:{HUB}", f"DNS:*.{HUB}", f"DNS:{XNAT}"]
    assert found["constraints"] == edge_names(f"https://{HUB}", f"https://{XNAT}")["constraints"]


GOOD: dict[str, Any] = {
    "edge_hub_url": "https://hub.example.org", "edge_xnat_url": "https://xnat.example.org", "edge_xnat_upstream": "",
    "edge_certificate_source": "authority", "edge_certificate_files": [], "edge_certificate_days": 397,
    "edge_renew_days": 30, "edge_http_port": 80, "edge_hub_cookies": ["jupyterhub-*", "_xsrf"],
    "edge_acme_directory": "https://acme.example.org/directory", "edge_acme_terms_agreed": False,
    "edge_acme_contact": "", "edge_acme_challenge": "http-01", "edge_acme_hook": "", "edge_acme_eab_kid": "",
    "edge_acme_eab_key_set": False, "edge_person_origins": False,
}  # fmt: skip
ACME: dict[str, Any] = {"edge_certificate_source": "acme", "edge_acme_terms_agreed": True}


def test_the_role_gives_all_settings_that_are_judged() -> None:
    judged = yaml.safe_load((ROOT / "roles/edge/vars/main.yml").read_text())["__edge_judged_settings"]
    assert judged.keys() == GOOD.keys()
    assert "| bool" in judged["edge_person_origins"]  # `-e site_hub_person_origins=false` is a text


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"edge_xnat_url": "http://xnat.example.org"}, []),  # not served
        ({"edge_xnat_upstream": "http://xnat.internal:8080"}, []),
        ({"edge_hub_url": "http://hub.example.org"}, [("https", "edge_hub_url")]),
        ({"edge_xnat_url": "http://a", "edge_xnat_upstream": "http://b"}, [("https", "edge_xnat_url")]),
        ({"edge_xnat_upstream": "http://xnat.internal:8080/x"}, [("upstream", "edge_xnat_upstream")]),
        ({"edge_xnat_upstream": "http://a b"}, [("upstream", "edge_xnat_upstream")]),
        ({"edge_xnat_upstream": "http://a\n    bind :9"}, [("upstream", "edge_xnat_upstream")]),
        ({"edge_xnat_upstream": "https://xnat.example.org"}, [("upstream_loop", "edge_xnat_upstream")]),
        ({"edge_certificate_source": "files"}, [("certificate_files", "edge_certificate_files")]),
        ({"edge_certificate_days": 3650}, [("days", "edge_certificate_days")]),
        ({"edge_renew_days": 397}, [("days", "edge_certificate_days")]),
        ({"edge_http_port": 443}, [("http_port", "edge_http_port")]),
        (ACME, []),
        (ACME | {"edge_acme_contact": "it@example.org", "edge_acme_eab_kid": "k", "edge_acme_eab_key_set": True}, []),
        (ACME | {"edge_acme_terms_agreed": False}, [("acme_terms", "edge_acme_terms_agreed")]),
        (ACME | {"edge_acme_directory": "http://a"}, [("acme_directory", "edge_acme_directory")]),
        (ACME | {"edge_acme_directory": "https://a/ b"}, [("acme_directory", "edge_acme_directory")]),
        (ACME | {"edge_acme_contact": "a@b, c@d"}, [("acme_contact", "edge_acme_contact")]),
        (ACME | {"edge_acme_eab_kid": "k"}, [("acme_eab", "edge_acme_eab_kid")]),
        (ACME | {"edge_acme_challenge": "dns-01"}, [("acme_hook", "edge_acme_hook")]),
        (ACME | {"edge_person_origins": True}, [("acme_wildcard", "edge_acme_challenge")]),
        (ACME | {"edge_acme_challenge": "dns-01", "edge_acme_hook": "/h", "edge_person_origins": True}, []),
        ({"edge_person_origins": True}, []),
        (ACME | {"edge_acme_challenge": "dns-01", "edge_acme_hook": "/h", "edge_http_port": 0}, []),
        (ACME | {"edge_http_port": 0}, [("acme_port", "edge_http_port")]),
        (ACME | {"edge_hub_url": "https://192.0.2.1"}, [("acme_name", "edge_certificate_source")]),
        ({"edge_hub_cookies": []}, [("cookies", "edge_hub_cookies")]),
        ({"edge_hub_cookies": ["_xsrf", "a|b"]}, [("cookies", "edge_hub_cookies")]),
    ],
)
def test_wrong_settings_are_found(changes: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert [(finding["id"], finding["name"]) for finding in edge_findings(GOOD | changes)] == found


def read(**changes: Any) -> dict[str, Any]:
    files = {"certificate": "/c/hub.crt", "key": "/c/hub.key"}
    names = ["DNS:hub.example.org", "DNS:*.xnat.example.org", "IP Address:2001:db8:0:0:0:0:0:1"]
    return {"item": files, "public_key": "A", "not_after": "20270101000000Z", "subject_alt_name": names, **changes}


@pytest.mark.parametrize(
    ("changes", "names", "found"),
    [
        ({}, ["hub.example.org", "a.xnat.example.org", "2001:db8::1"], []),
        ({}, ["xnat.example.org", "b.a.xnat.example.org"], ["uncovered", "uncovered"]),
        ({}, ["*.xnat.example.org"], []),
        ({}, ["*.hub.example.org"], ["uncovered"]),
        ({"subject_alt_name": ["DNS:*.example.org"]}, ["*.hub.example.org"], ["uncovered"]),
        ({"public_key": "B"}, ["hub.example.org"], ["key"]),
        ({"not_after": "20261128035000Z"}, ["hub.example.org"], ["expired"]),
        ({"subject_alt_name": None}, ["hub.example.org"], ["uncovered"]),
    ],
    ids=["good", "names", "wildcard", "no-wildcard", "other-wildcard", "key", "expired", "no-names"],
)
def test_files_that_cannot_serve_are_found(changes: dict[str, Any], names: list[str], found: list[str]) -> None:
    findings = certificate_findings([read(**changes)], [{"public_key": "A"}], names, "20261128035000Z")
    assert [finding["id"] for finding in findings] == found


def node(number: str, host: str, *, edge: bool) -> dict[str, Any]:
    labels = {HOST_LABEL: host} if host else {}
    return {"ID": number, "Spec": {"Labels": labels | ({f"{EDGE_LABEL}.x": "true"} if edge else {})}}


def test_the_label_follows_the_inventory_and_leaves_nodes_of_others_alone() -> None:
    nodes = [
        node("1", "m1", edge=False),
        node("2", "m2", edge=True),
        node("3", "m3", edge=True),
        node("4", "", edge=False),
    ]
    assert edge_labels(nodes, ["m1", "m2"], "x") == [
        {"id": "1", "host": "m1", "add": True}, {"id": "3", "host": "m3", "add": False},
    ]  # fmt: skip
    with pytest.raises(ValueError, match="m9"):
        edge_labels(nodes, ["m9"], "x")


# ---- haproxy's file


def test_a_websocket_may_idle_for_a_day_and_no_header_is_logged() -> None:
    text = config()
    assert "    timeout tunnel 25h\n" in text
    formats = re.findall(r"log-format (.*)", text)
    assert formats
    assert not any(word in line for line in formats for word in ("%HU", "%HQ", "%r", "hdr", "query", "capture"))
    assert "capture" not in text


@haproxy
@pytest.mark.parametrize(
    "changes",
    [
        {},
        ONE_NAME,
        {"xnat_upstream": ""},
        {"xnat_upstream": "https://xnat.internal", "ca": False},
        {"xnat_url": f"https://{HUB}:8443/x", "http_port": 0, "hsts": 0, "logins_each": 0},
        {"hub_url": "https://[2001:db8::1]", "xnat_url": "https://[2001:db8::1]:8443"},
        {"person_origins": True, "xnat_url": f"https://{XNAT}:8443"},
    ],
    ids=["two", "one", "hub", "tls", "ports", "ipv6", "people"],
)
def test_haproxy_takes_the_file_without_a_warning(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates/certificate-0.pem").write_text(certificate("x"))
    file = tmp_path / "haproxy.cfg"
    file.write_text(here(config(**changes), tmp_path, 1, {port: port for port in (8080, 8404, 8443, 8444)}))
    done = subprocess.run([HAPROXY, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[WARNING]" not in done.stderr


Check = Callable[[Edge], Coroutine[Any, Any, None]]


def with_edge(folder: Path, check: Check, text: str = "", **changes: Any) -> None:
    """Run a check against a running edge."""

    async def run() -> None:
        async with asyncio.timeout(6 * LIMIT), running(folder, text or config(**changes)) as edge:
            await check(edge)

    asyncio.run(run())


@haproxy
def test_each_host_leads_to_its_service_and_no_other_does(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        for host, path, status in (
            (HUB, "/jupyterhub/hub/", 200), (HUB.upper() + ":443", "/jupyterhub", 200), (HUB, "/xapi", 404),
            (HUB, "/jupyterhubx", 404), (XNAT, "/xapi", 200), ("evil.example.org", "/jupyterhub/", 421), ("", "/", 421),
        ):  # fmt: skip
            answer = await edge.ask(path, host)
            assert answer.status == status, (host, path)
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        root = await edge.ask("/", HUB)
        assert (root.status, root.headers["Location"]) == (302, "/jupyterhub/")

    with_edge(tmp_path, check)


@haproxy
def test_a_persons_host_leads_to_servers_and_else_to_the_hub(tmp_path: Path) -> None:
    person = f"jdoe.{HUB}"

    async def check(edge: Edge) -> None:
        for host, path, status in (
            (person, "/jupyterhub/user/jdoe/s/lab", 200), (f"{person.upper()}:443", "/jupyterhub/user/jdoe/s/", 200),
            (HUB, "/jupyterhub/user/jdoe/s/lab", 200), (f"a.{person}", "/jupyterhub/user/jdoe/s/", 421),
            (f".{HUB}", "/jupyterhub/user/jdoe/s/", 421), (f"jdoe{HUB}", "/jupyterhub/user/jdoe/s/", 421),
            ("jdoe.hubxexample.org", "/jupyterhub/user/jdoe/s/", 421),
        ):  # fmt: skip
            assert (await edge.ask(path, host)).status == status, (host, path)
        for path in ("/", "/jupyterhub/hub/login?next=a", "/jupyterhub/user", "/xapi"):
            answer = await edge.ask(path, person)
            assert (answer.status, answer.headers["Location"]) == (302, f"https://{HUB}{path}")
        path = "/jupyterhub/user/jdoe/s/lab?token=1"
        answer = await edge.ask(path, f"{person}:80", port=HTTP_TARGET)
        assert (answer.status, answer.headers["Location"]) == (301, f"https://{person}{path}")
        assert (await edge.told(path, person))["Host"] == [person]

    with_edge(tmp_path, check, person_origins=True)


@haproxy
def test_without_origins_of_people_there_is_no_host_below_the_hubs(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        for port in (HTTP_TARGET, TLS_TARGET):
            assert (await edge.ask("/jupyterhub/user/jdoe/s/", f"jdoe.{HUB}", port=port)).status == 421

    with_edge(tmp_path, check)


@haproxy
def test_http_leads_to_https_on_the_right_port(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        for host, path, target in (
            (HUB, "/jupyterhub/lab?token=1", f"https://{HUB}/jupyterhub/lab?token=1"), (HUB, "/", f"https://{HUB}/"),
            (f"{XNAT}:80", "/a", f"https://{XNAT}:8443/a"),
        ):  # fmt: skip
            answer = await edge.ask(path, host, port=HTTP_TARGET)
            assert (answer.status, answer.headers["Location"]) == (301, target)
        assert (await edge.ask("/", "evil.example.org", port=HTTP_TARGET)).status == 421

    with_edge(tmp_path, check, xnat_url=f"https://{XNAT}:8443")


@haproxy
def test_every_edge_answers_challenges_of_the_sites_acme_account(tmp_path: Path) -> None:
    token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
    path = f"/.well-known/acme-challenge/{token}"

    async def check(edge: Edge) -> None:
        for host in (HUB, XNAT, f"{HUB}:80"):
            async with edge.http.get(edge.url(path, HTTP_TARGET), headers={"Host": host}) as answer:
                assert (answer.status, await answer.text()) == (200, f"{token}.thumb_print-1")
                assert answer.content_type == "text/plain"
        for host, asked, status in (
            ("evil.example.org", path, 421), (HUB, f"{path}%3Cscript%3E", 301), (HUB, f"{path}/x", 301),
            (HUB, path.replace(token, ""), 301), (HUB, path.replace(".well", "xwell"), 301),
        ):  # fmt: skip
            assert (await edge.ask(asked, host, port=HTTP_TARGET)).status == status, asked

    with_edge(tmp_path, check, thumbprint="thumb_print-1")


@haproxy
def test_what_a_client_says_of_other_proxies_does_not_pass(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        got = await edge.told(
            "/jupyterhub/", X_Forwarded_For="198.51.100.66", X_Forwarded_Proto="http", X_Real_IP="198.51.100.66",
            Forwarded="for=198.51.100.66", X_Scheme="http", X_Forwarded_Host="evil.example.org",
        )  # fmt: skip
        assert got["X-Forwarded-For"] == ["127.0.0.1"]
        assert got["X-Forwarded-Proto"] == ["https"]
        assert got["Host"] == [HUB]
        assert not {"X-Real-Ip", "Forwarded", "X-Scheme", "X-Forwarded-Host"} & got.keys()

    with_edge(tmp_path, check)


@haproxy
def test_no_secret_of_a_request_is_in_the_log(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        await edge.ask(f"/jupyterhub/lab?token={TOKEN}", headers={"Referer": f"https://{HUB}/?token={TOKEN}"})
        await edge.ask(f"/a;jsessionid={TOKEN}", XNAT, headers={"Cookie": TOKEN, "Authorization": f"token {TOKEN}"})
        await edge.ask(f"/data/services/tokens/{TOKEN}/{TOKEN}", XNAT)
        await edge.ask(f"/jupyterhub/?token={TOKEN}", port=HTTP_TARGET)
        await edge.ask(f"/?token={TOKEN}", "evil.example.org")
        lines = [
            f"GET {HUB} /jupyterhub/lab 200", f"GET {XNAT} /a 200", f"GET {XNAT} /data/services/tokens/ 200",
            f"GET {HUB} /jupyterhub/ 301", "GET evil.example.org / 421",
        ]  # fmt: skip
        async with asyncio.timeout(LIMIT):
            while not all(f"127.0.0.1 {line}" in edge.log() for line in lines):
                await edge.ask("/", "evil.example.org")  # the last line may come after its answer
        assert TOKEN not in edge.log()

    with_edge(tmp_path, check)


OURS = [
    "jupyterhub-session-id=1",
    "jupyterhub-user-jdoe-oauth-state-ab=2",
    "__Host-jupyterhub-hub-login=3",
    "_xsrf=4|5",
    "_streamlit_xsrf=6",
]
OTHERS = [
    "JSESSIONID=a",
    "SESSION_EXPIRATION_TIME=b",
    "x_xsrf=c",
    "jupyterhub=d",
    "_xsrf2=e",
    "Jupyterhub-x=f",
    "guest",
]


@haproxy
def test_with_one_host_only_the_hubs_cookies_pass_to_its_path_both_ways(tmp_path: Path) -> None:
    mixed = "; ".join(cookie for pair in zip(OTHERS[:5], OURS, strict=True) for cookie in pair)

    async def check(edge: Edge) -> None:
        assert (await edge.told("/jupyterhub/", Cookie=f"{mixed}; {'; '.join(OTHERS)}"))["Cookie"] == ["; ".join(OURS)]
        assert (await edge.told("/jupyterhub/", Cookie=";".join([*OTHERS, *OURS])))["Cookie"] == [";".join(OURS)]
        assert "Cookie" not in await edge.told("/jupyterhub/", Cookie="; ".join(OTHERS))
        assert (await edge.told("/xapi", Cookie=mixed))["Cookie"] == [mixed]
        query = [("set", f"{cookie}; Path=/") for cookie in [*OTHERS, *OURS, "=JSESSIONID", " JSESSIONID=1", "_xsrf"]]
        for path, passed in (
            ("/jupyterhub/", OURS),
            ("/xapi", [*OTHERS, *OURS, "=JSESSIONID", "JSESSIONID=1", "_xsrf"]),
        ):
            answer = await edge.ask(path, params=query)
            kept = [text for text in answer.headers.getall("Set-Cookie") if text]
            assert kept == [f"{cookie}; Path=/" for cookie in passed]

    with_edge(tmp_path, check, **ONE_NAME)


@haproxy
def test_many_cookies_are_no_error(tmp_path: Path) -> None:
    many = "; ".join(f"other{number}={'x' * 3000}" for number in range(20))

    async def check(edge: Edge) -> None:
        assert (await edge.told("/jupyterhub/", Cookie=f"{many}; _xsrf=1"))["Cookie"] == ["_xsrf=1"]

    with_edge(tmp_path, check, **ONE_NAME)


@haproxy
def test_with_two_hosts_cookies_are_left_alone(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        assert (await edge.told("/jupyterhub/", Cookie="a=1; b=2"))["Cookie"] == ["a=1; b=2"]

    with_edge(tmp_path, check)


@haproxy
def test_log_ins_of_one_address_are_limited_and_nothing_else_is(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        hub = [(await edge.ask("/jupyterhub/hub/login", method="POST")).status for _ in range(3)]
        xnat = [(await edge.ask("/data/services/auth", XNAT, method="POST")).status for _ in range(2)]
        assert hub + xnat == [200, 200, 200, 429, 429]
        assert (await edge.ask("/jupyterhub/hub/login")).status == 200
        assert (await edge.ask("/jupyterhub/hub/api/users/jdoe/tokens", method="POST")).status == 200

    with_edge(tmp_path, check, logins_each=3)


@haproxy
def test_an_upload_arrives_while_it_is_sent(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        arrived: list[int] = []

        async def pieces() -> Any:
            for number in range(5):
                yield bytes([number]) * 2**20
                # Only when all of the last piece is there does the next one start: nothing holds it back.
                while sum(arrived) < (number + 1) * 2**20:
                    arrived.append(len(await asyncio.wait_for(edge.server.uploads.get(), LIMIT)))

        assert (await edge.ask("/jupyterhub/user/x/files/a", method="PUT", data=pieces())).status == 201
        assert sum(arrived) == 5 * 2**20

    with_edge(tmp_path, check)


@haproxy
def test_a_websocket_outlives_the_limits_on_requests(tmp_path: Path) -> None:
    short = re.sub(r"timeout (client|server|http-keep-alive) \w+", r"timeout \1 200ms", config())
    assert short.count("200ms") >= 3

    async def check(edge: Edge) -> None:
        async with edge.http.ws_connect(edge.url("/jupyterhub/ws"), headers={"Host": HUB}) as socket:
            with pytest.raises(TimeoutError):  # nothing comes, not even an end
                await socket.receive(timeout=1)
            await socket.send_str("still there")
            assert (await socket.receive(timeout=LIMIT)).data == "still there"

    with_edge(tmp_path, check, short)


# ---- compression, HTTP/2


@haproxy
def test_scripts_are_compressed_and_what_contains_tokens_is_not(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        for kind, packed in (
            ("text/javascript", True), ("application/javascript", True), ("text/css", True), ("text/html", False),
            ("application/json", False), ("application/octet-stream", False),
        ):  # fmt: skip
            path = f"/jupyterhub/x?{TYPE}={kind}"
            async with edge.http.get(edge.url(path), headers={"Host": HUB, "Accept-Encoding": "gzip"}) as answer:
                assert await answer.read() == BODY
                assert (answer.headers.get("Content-Encoding") == "gzip") is packed, kind
            plain = await edge.ask(path, headers={"Accept-Encoding": "identity"})
            assert "Content-Encoding" not in plain.headers

    with_edge(tmp_path, check)


class Http2:
    """A client with one stream. haproxy's answers are read as far as the test needs them."""

    DATA, HEADERS, SETTINGS = 0, 1, 4
    ENABLE_CONNECT_PROTOCOL = 8  # RFC 8441

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.writer.write(len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)

    async def receive(self, kind: int) -> bytes:
        """Return the payload of the next frame of a kind."""
        async with asyncio.timeout(LIMIT):
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == kind and not (kind == self.SETTINGS and head[4]):
                    return payload

    def headers(self, fields: dict[str, str]) -> None:
        """Send the headers of stream 1, which stays open, as literals without compression."""
        parts = [(name.encode(), value.encode()) for name, value in fields.items()]
        block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(text)]) + text for name, text in parts)
        self.send(self.HEADERS, 4, 1, block)


@haproxy
def test_a_websocket_works_over_http_2_and_outlives_the_limits_on_requests(tmp_path: Path) -> None:
    short = re.sub(r"timeout (client|server|http-keep-alive) \w+", r"timeout \1 200ms", config())

    async def check(edge: Edge) -> None:
        edge.tls.set_alpn_protocols(["h2", "http/1.1"])
        streams = await asyncio.open_connection("127.0.0.1", edge.ports[TLS_TARGET], ssl=edge.tls)
        assert streams[1].get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        client = Http2(*streams)
        client.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        client.send(client.SETTINGS, 0, 0, b"")
        settings = await client.receive(client.SETTINGS)
        pairs = [settings[start : start + 6] for start in range(0, len(settings), 6)]
        assert {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}[
            client.ENABLE_CONNECT_PROTOCOL
        ] == 1
        client.send(client.SETTINGS, 1, 0, b"")
        client.headers({
            ":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":path": "/jupyterhub/ws",
            ":authority": HUB, "sec-websocket-version": "13", "origin": f"https://{HUB}",
        })  # fmt: skip
        assert (await client.receive(client.HEADERS))[0] == 0x88  # :status 200
        with pytest.raises(TimeoutError):  # nothing comes, not even an end
            await asyncio.wait_for(client.reader.read(1), 1)
        client.send(client.DATA, 0, 1, b"\x81\x85\0\0\0\0there")  # a text of 5 bytes, with a mask of zeros
        assert await client.receive(client.DATA) == b"\x81\x05there"
        client.writer.close()

    with_edge(tmp_path, check, short)


# ---- new certificates


async def served(edge: Edge) -> str:
    """The certificate that the edge serves now."""
    _, writer = await asyncio.open_connection("127.0.0.1", edge.ports[TLS_TARGET], ssl=edge.tls)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return ssl.DER_cert_to_PEM_cert(found)


@haproxy
def test_a_new_certificate_is_served_and_cuts_no_websocket(tmp_path: Path) -> None:
    async def check(edge: Edge) -> None:
        folder, state = tmp_path / "certificates", tmp_path / "state.json"
        loader = program.Certificates(folder, tmp_path / "api", state)
        async with edge.http.ws_connect(edge.url("/jupyterhub/ws"), headers={"Host": HUB}) as socket:
            before = await served(edge)
            new = certificate("second")
            (folder / "certificate-0.pem").write_text(new)
            await asyncio.to_thread(loader.load_changed)
            assert program.wait_until_loaded(folder, state, 0) == ""
            assert await served(edge) != before
            assert (await served(edge)) in new

            # One whose key is another's is refused, and the one before stays.
            (folder / "certificate-0.pem").write_text(certificate("third", ec.generate_private_key(ec.SECP256R1())))
            await asyncio.to_thread(loader.load_changed)
            fault = program.wait_until_loaded(folder, state, 0)
            assert fault.startswith("certificate-0.pem: ")
            assert "KEY" in fault
            assert (await served(edge)) in new

            await socket.send_str("still there")
            message = await socket.receive(timeout=LIMIT)
            assert (message.type, message.data) == (aiohttp.WSMsgType.TEXT, "still there")

    with_edge(tmp_path, check)


def test_a_file_that_was_not_given_to_haproxy_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("a")
    assert "a.pem: not loaded" in program.wait_until_loaded(tmp_path, tmp_path / "state.json", 0)
    program.Certificates(tmp_path, tmp_path / "api", tmp_path / "state.json")
    assert program.wait_until_loaded(tmp_path, tmp_path / "state.json", 0) == ""
    assert json.loads((tmp_path / "state.json").read_text())["a.pem"][1] == program.LOADED


def test_an_haproxy_that_ends_ends_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "haproxy"
    fake.write_text("#!/bin/sh\nexit 7\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program.run("x.cfg", tmp_path, tmp_path / "api", tmp_path / "state.json") == 7
