"""What notebooks may reach: names and ports of the gate, the files of haproxy, squid and unbound, and bad settings."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pytest

from module_utils.xnat_site.egress import (
    LOCAL,
    PREFIX,
    PRIVATE,
    egress_findings,
    egress_plan,
    names,
    xnat_targets,
)
from tests.unit.conftest import ROOT

XNAT = "https://xnat.example.org"
RESOLVER = "127.0.0.11"


def plan(**changes: Any) -> dict[str, Any]:
    settings = {
        "name": "x", "xnat_urls": [XNAT], "egress": "internet", "internal_hosts": [], "refused_networks": [],
        "ports": [80, 443], "upstream": "", "nodes": ["192.0.2.11", "192.0.2.12"],
    }  # fmt: skip
    return egress_plan(settings | changes)


def squid(**changes: Any) -> list[str]:
    return str(plan(**changes)["files"]["squid"]).splitlines()


def rules(**changes: Any) -> list[str]:
    """What squid does with a request, in order."""
    return [line.removeprefix("http_access ") for line in squid(**changes) if line.startswith("http_access ")]


def words(start: str, **changes: Any) -> set[str]:
    """The values of the only line that starts so."""
    (line,) = [line for line in squid(**changes) if line.startswith(f"{start} ")]
    return set(line.removeprefix(f"{start} ").split())


def section(text: str, head: str) -> list[str]:
    """The lines of a part of haproxy's file."""
    body = text.partition(f"\n{head}\n")[2].split("\n\n")[0]
    return [line.strip() for line in body.splitlines()]


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        pytest.param([XNAT], [("xnat.example.org", 443, True)], id="https"),
        pytest.param(["http://XNAT.example.org./x"], [("xnat.example.org", 80, False)], id="http"),
        pytest.param([XNAT, f"{XNAT}:443/", "http://demo-xnat:8080"],
                     [("xnat.example.org", 443, True), ("demo-xnat", 8080, False)], id="each-once"),
        pytest.param(["http://192.0.2.1:8080", "http://[2001:db8::1]", "http://localhost:8080", "http://a.localhost"],
                     [], id="no-names"),
        pytest.param(["http://3221225985", "http://0xc0000201", "http://0300.0.2.1", "http://1.2.3.0x4"], [],
                     id="addresses-in-other-notations"),
        pytest.param(["", "xnat", "http://", "http://xnat:99999", "http://xnat:0", "http://a..b", "http://[x"], [],
                     id="no-urls"),
    ],
)  # fmt: skip
def test_xnat_is_reached_by_the_names_and_ports_of_its_urls(
    urls: list[str], expected: list[tuple[str, int, bool]]
) -> None:
    assert [(target.host, target.port, target.tls) for target in xnat_targets(urls)] == expected


def test_the_gate_has_xnats_name_and_port_and_that_of_the_forward_proxy() -> None:
    found = plan()
    assert (found["aliases"], found["ports"], found["forward"]) == (["xnat.example.org"], [443, 3128], True)
    assert found["proxy_url"] == "http://x-gate:3128"
    assert found["no_proxy"].split(",") == ["localhost", "127.0.0.1", "::1", "x-hub", "xnat.example.org"]
    gate = found["files"]["gate"]
    assert section(gate, "frontend port443") == [
        "bind :443",
        "tcp-request connection track-sc0 src table clients",
        "tcp-request connection reject if { sc0_conn_cur(clients) gt 200 }",
        "tcp-request inspect-delay 5s",
        "tcp-request content accept if { req.ssl_hello_type 1 } { req.ssl_sni -i xnat.example.org }",
        "tcp-request content reject",
        "default_backend xnat0",
    ]
    assert section(gate, "backend xnat0") == ["server xnat xnat.example.org:443 resolvers site"]
    assert section(gate, "backend squid") == ["server squid x-squid:3128 resolvers docker send-proxy-v2"]
    assert "http_port 3128 require-proxy-header" in squid()


def test_the_gate_reaches_nothing_else() -> None:
    gate = plan(xnat_urls=[XNAT, "http://demo-xnat:8080"])["files"]["gate"]
    assert re.findall(r"^    server \S+ (.*)", gate, re.MULTILINE) == [
        "x-names:5353 resolvers docker",
        "xnat.example.org:443 resolvers site",
        "demo-xnat:8080 resolvers site",
        "x-squid:3128 resolvers docker send-proxy-v2",
    ]


def test_the_gate_asks_for_xnats_address_where_the_name_is_not_its_own() -> None:
    files = plan()["files"]
    assert f"nameserver docker {RESOLVER}:53" in section(files["gate"], "resolvers docker")
    assert "nameserver site tcp@127.0.0.1:5353" in section(files["gate"], "resolvers site")
    assert section(files["gate"], "listen names") == [
        "bind 127.0.0.1:5353",
        "server names x-names:5353 resolvers docker",
    ]
    assert "    interface: 0.0.0.0@5353" in files["names"].splitlines()
    assert f"    forward-addr: {RESOLVER}" in files["names"].splitlines()
    assert "private-address" not in files["names"]
    assert plan()["names_port"] == 5353


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        pytest.param([XNAT, "https://inside.example.org"],
                     ["tcp-request inspect-delay 5s",
                      "tcp-request content accept if { req.ssl_hello_type 1 }"
                      " { req.ssl_sni -i xnat.example.org inside.example.org }",
                      "tcp-request content reject",
                      "use_backend xnat1 if { req.ssl_sni -i inside.example.org }",
                      "default_backend xnat0"], id="tls"),
        pytest.param([XNAT, "http://plain.example.org:443"],
                     ["tcp-request inspect-delay 5s",
                      "tcp-request content accept if { req.ssl_hello_type 1 } { req.ssl_sni -i xnat.example.org }",
                      "tcp-request content reject if { req.ssl_hello_type 1 }",
                      "use_backend xnat0 if { req.ssl_sni -i xnat.example.org }",
                      "default_backend xnat1"], id="tls-and-plain"),
        pytest.param(["http://plain.example.org:443", "http://other.example.org:443"], ["default_backend xnat0"],
                     id="plain"),
    ],
)  # fmt: skip
def test_a_connection_with_tls_must_name_xnat(urls: list[str], expected: list[str]) -> None:
    gate = plan(xnat_urls=urls)["files"]["gate"]
    assert section(gate, "frontend port443")[3:] == expected


@pytest.mark.parametrize(
    ("urls", "proxy", "health", "names_"),
    [
        pytest.param(["http://xnat:3128"], 3130, 8404, 5353, id="proxys"),
        pytest.param(["http://xnat:3128", "http://xnat:3129"], 3130, 8404, 5353, id="and-the-next"),
        pytest.param(["http://xnat:8404"], 3128, 8405, 5353, id="health-checks"),
        pytest.param(["http://xnat:5353"], 3128, 8404, 5354, id="resolvers"),
    ],
)
def test_a_port_that_xnat_uses_is_not_used_for_anything_else(
    urls: list[str], proxy: int, health: int, names_: int
) -> None:
    found = plan(xnat_urls=urls)
    assert found["proxy_url"] == f"http://x-gate:{proxy}"
    assert found["health"] == health
    binds = re.findall(r"^    bind (\S+)", found["files"]["gate"], re.MULTILINE)
    own = [f"127.0.0.1:{health}", f"127.0.0.1:{names_}"]
    assert sorted(binds) == sorted([*own, *(f":{port}" for port in found["ports"])])
    assert f"nameserver site tcp@127.0.0.1:{names_}" in section(found["files"]["gate"], "resolvers site")
    assert f"server names x-names:{found['names_port']} resolvers docker" in found["files"]["gate"]


def test_without_anything_outside_there_is_no_forward_proxy() -> None:
    found = plan(egress="none")
    assert (found["forward"], found["proxy_url"], found["ports"]) == (False, "", [443])
    assert set(found["files"]) == {"gate", "names"}
    assert "squid" not in found["files"]["gate"]


CHECKS = [
    "allow checks manager",
    "deny checks",
    "deny manager",
    "allow xnat0 xnat0port",
    "deny !web",
    "deny CONNECT !tunnels",
    "deny ipv6",
]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, ["deny local", "deny refused", "deny !resolved", "allow all"], id="internet"),
        pytest.param({"egress": ["pypi.org"]},
                     ["deny !allowed", "deny local", "deny refused", "deny !resolved", "allow all"], id="list"),
        pytest.param({"egress": ["pypi.org"], "internal_hosts": ["mirror.example.org"]},
                     ["deny !allowed !internal", "deny local", "allow internal", "deny refused", "deny !resolved",
                      "allow all"], id="list-and-internal"),
        pytest.param({"egress": "none", "internal_hosts": ["mirror.example.org"]},
                     ["deny !internal", "deny local", "allow internal", "deny all"], id="internal-only"),
        pytest.param({"internal_hosts": ["mirror.example.org"]},
                     ["deny local", "allow internal", "deny refused", "deny !resolved", "allow all"],
                     id="internet-and-internal"),
        pytest.param({"upstream": "http://proxy.example.org:3128"}, ["deny local", "deny refused", "allow all"],
                     id="upstream"),
    ],
)  # fmt: skip
def test_squid_judges_a_request_in_this_order(changes: dict[str, Any], expected: list[str]) -> None:
    assert rules(**changes) == [*CHECKS, *expected]


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3", "172.16.0.1", "172.31.255.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "169.254.169.254",
        "0.1.2.3", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fd00::1",
        "ff02::1", "64:ff9b::a00:1", "2002:a00:1::", "2001:0:1::", "192.0.2.11", "192.0.2.12", "203.0.113.9",
    ],
)  # fmt: skip
def test_private_and_reserved_addresses_and_those_of_nodes_are_refused_by_squid_and_unbound(address: str) -> None:
    wanted = ipaddress.ip_address(address)
    unbound = re.findall(r"private-address: (\S+)", plan()["files"]["unbound"])
    for networks in (words("acl local dst") | words("acl refused dst"), unbound):
        assert any(wanted in ipaddress.ip_network(network) for network in networks), address


@pytest.mark.parametrize("address", ["151.101.0.223", "8.8.8.8", "2a04:4e42::223", "100.128.0.1", "172.32.0.1"])
def test_public_addresses_are_not(address: str) -> None:
    assert not any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in [*LOCAL, *PRIVATE])


def test_a_node_is_refused_even_if_it_has_a_public_address_and_as_an_internal_host() -> None:
    changes: dict[str, Any] = {"nodes": ["8.8.8.8", "8.8.8.8/32", ""], "internal_hosts": ["mirror.example.org"]}
    assert "8.8.8.8/32" in words("acl local dst", **changes)
    assert rules(**changes).index("deny local") < rules(**changes).index("allow internal")
    assert "private-address: 8.8.8.8/32" in plan(**changes)["files"]["unbound"]


def test_networks_that_the_site_refuses_are_refused() -> None:
    changes = {"refused_networks": ["198.51.100.0/24", "8.8.0.0/16"]}
    assert "8.8.0.0/16" in words("acl refused dst", **changes)
    assert "private-address: 8.8.0.0/16" in plan(**changes)["files"]["unbound"]


def test_only_internal_hosts_and_the_gate_may_have_a_private_address() -> None:
    unbound = plan(internal_hosts=["Mirror.example.org", ".lab.example.org"])["files"]["unbound"]
    names_ = ["x-gate", "lab.example.org", "mirror.example.org"]
    assert re.findall(r"private-domain: (\S+)", unbound) == [f'"{name}"' for name in names_]
    assert re.findall(r"private-domain: (\S+)", plan()["files"]["unbound"]) == ['"x-gate"']


def test_squid_reaches_xnats_names_and_no_names_below_them_through_the_gate() -> None:
    files = plan(xnat_urls=[XNAT, f"{XNAT}:8443", "http://demo-xnat:8080"])["files"]
    assert [line for line in files["policy"].splitlines() if "CNAME" in line] == [
        "xnat.example.org CNAME x-gate.", "demo-xnat CNAME x-gate.",
    ]  # fmt: skip
    assert 'module-config: "respip iterator"' in files["unbound"]
    assert 'zonefile: "/etc/xnat-egress/policy.zone"' in files["unbound"]


def test_a_service_of_docker_that_has_moved_is_found_again_within_seconds() -> None:
    assert "positive_dns_ttl 10 seconds" in squid()
    assert all("cache-max-ttl: 10" in plan()["files"][name] for name in ("unbound", "names"))


def test_docker_is_asked_again_soon_after_it_has_not_answered() -> None:
    for name in ("unbound", "names"):
        assert {"    infra-host-ttl: 5", "    infra-keep-probing: yes"} <= set(plan()["files"][name].splitlines())


def test_programs_that_ignore_no_proxy_reach_xnat_on_its_own_port() -> None:
    changes = {"xnat_urls": [XNAT, "http://demo-xnat:8080"]}
    assert [words(f"acl xnat{number} dstdomain -n", **changes) for number in range(2)] == [
        {"xnat.example.org"}, {"demo-xnat"},
    ]  # fmt: skip
    assert [words(f"acl xnat{number}port port", **changes) for number in range(2)] == [{"443"}, {"8080"}]
    assert rules(**changes)[3:5] == ["allow xnat0 xnat0port", "allow xnat1 xnat1port"]


def test_with_an_upstream_proxy_squid_goes_through_it_except_to_internal_hosts() -> None:
    lines = squid(upstream="http://proxy.example.org", internal_hosts=["mirror.example.org"])
    assert "cache_peer proxy.example.org parent 3128 0 no-query no-digest default" in lines
    assert lines[-3:] == [
        "always_direct allow xnat0 xnat0port", "always_direct allow internal", "never_direct allow all",
    ]  # fmt: skip
    # It must see the private addresses of names, to refuse them.
    assert "private-address" not in plan(upstream="http://proxy.example.org:8080")["files"]["unbound"]
    assert not [line for line in squid() if line.startswith(("cache_peer", "never_direct", "always_direct"))]


def test_tunnels_go_to_all_ports_but_the_plain_one() -> None:
    assert words("acl web port", ports=[80, 443, 8443]) == {"80", "443", "8443"}
    assert words("acl tunnels port", ports=[80, 443, 8443]) == {"443", "8443"}
    assert words("acl tunnels port", ports=[80]) == {"0"}


@pytest.mark.parametrize(
    "changes", [{}, {"egress": ["pypi.org"]}, {"egress": "none", "internal_hosts": ["mirror.example.org"]}]
)
def test_each_refusal_has_a_page_that_names_the_sites_variable(changes: dict[str, Any]) -> None:
    pages = {line.split()[2]: line.split()[1] for line in squid(**changes) if line.startswith("deny_info ")}
    refusing = {rule.split()[-1].lstrip("!") for rule in rules(**changes) if rule.startswith("deny ")}
    assert set(pages) == refusing - {"checks", "manager"}
    for page in pages.values():
        text = (ROOT / "files/egress/errors" / page.removeprefix("403:")).read_text()
        assert "administrator" in text
        assert PREFIX in text
        assert "%H" in text


def test_a_name_that_another_one_covers_is_left_out() -> None:
    # Squid warns of it.
    assert names(["PyPI.org", "a.conda.io", ".conda.io", "conda.io", "xconda.io", ".a.conda.io", "pypi.org"]) == [
        ".conda.io", "pypi.org", "xconda.io",
    ]  # fmt: skip


# ---- settings


def judged(**changes: Any) -> list[tuple[str, str, str]]:
    settings = {
        "jupyterhub_notebook_xnat_urls": [XNAT, "http://localhost:8080"], "jupyterhub_xnat_url": XNAT,
        PREFIX: "internet",
        f"{PREFIX}_internal_hosts": [], f"{PREFIX}_refused_networks": [], f"{PREFIX}_ports": [80, 443],
        f"{PREFIX}_upstream": "",
    }  # fmt: skip
    known = {name if name.startswith("jupyterhub") else f"{PREFIX}{name}": value for name, value in changes.items()}
    assert set(known) <= set(settings)
    return [(found["id"], found["name"], found["text"]) for found in egress_findings(settings | known)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"": "none"},
        {"": ["pypi.org", ".conda.io", "a_b.example.org", "mirror"]},
        {"_internal_hosts": ["mirror", ".lab.example.org"], "_refused_networks": ["8.8.0.0/16", "2001:db8::/32"]},
        {"_ports": ["443", 8443], "_upstream": "http://proxy.example.org:3128"},
        {"_upstream": "http://192.0.2.1:3128/"},
    ],
    ids=["defaults", "none", "list", "lists", "ports", "upstream"],
)
def test_settings_that_can_work_are_not_refused(changes: dict[str, Any]) -> None:
    assert judged(**changes) == []


@pytest.mark.parametrize(
    ("changes", "rule", "facts"),
    [
        ({"jupyterhub_notebook_xnat_urls": ["http://192.0.2.1:8080", XNAT]}, "xnat_name", ["192.0.2.1"]),
        ({"jupyterhub_notebook_xnat_urls": []}, "xnat_name", ["site_xnat_url"]),
        ({"jupyterhub_xnat_url": "https://192.0.2.1"}, "xnat_name", ["192.0.2.1", "site_xnat_url"]),
        ({"": "all"}, "egress", ["'all'", "none", "internet"]),
        ({"": []}, "egress", ["[]"]),
        ({"": None}, "egress", ["None"]),
        ({"": {"a": 1}}, "egress", []),
        ({"": ["https://pypi.org"]}, "hosts", ["'https://pypi.org'"]),
        ({"": ["pypi.org:443"]}, "hosts", ["'pypi.org:443'"]),
        ({"": ["192.0.2.1"]}, "hosts", ["'192.0.2.1'"]),
        ({"": ["*.conda.io", "ok.org", "x y", "a\nhttp_access allow all"]}, "hosts", ["*.conda.io", "x y"]),
        ({"": ["localhost"]}, "hosts", ["localhost"]),
        ({"_internal_hosts": [".."]}, "hosts", []),
        ({"_refused_networks": ["8.8.8.8/8"]}, "networks", ["8.8.8.8/8"]),
        ({"_ports": []}, "ports", []),
        ({"_ports": [0]}, "ports", []),
        ({"_ports": ["443 80"]}, "ports", []),
        ({"_ports": [65536]}, "ports", ["65536"]),
        ({"_upstream": "proxy.example.org:3128"}, "upstream", []),
        ({"_upstream": "https://proxy.example.org:3128"}, "upstream", []),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_named(changes: dict[str, Any], rule: str, facts: list[str]) -> None:
    ((found, name, text),) = judged(**changes)
    (key,) = changes
    assert (found, name) == (rule, key if key.startswith("jupyterhub") else f"{PREFIX}{key}")
    assert all(fact in text for fact in [name, *facts])


def test_the_password_of_an_upstream_proxy_is_refused_and_not_repeated() -> None:
    ((rule, _, text),) = judged(_upstream="http://user:s3cret@proxy.example.org:3128")
    assert rule == "upstream"
    assert "s3cret" not in text
