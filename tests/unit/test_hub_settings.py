"""Times, limits and addresses of the hub are judged before anything is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from module_utils.xnat_site.hub_settings import LARGEST_LOGO, hub_findings, logo
from tests.unit.conftest import ROOT

ROLE = ROOT / "roles/jupyterhub"
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
JUDGED = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__jupyterhub_judged_settings"]
SETTINGS = {name: DEFAULTS[name] for name in JUDGED} | {
    "jupyterhub_public_url": "https://hub.example.org",
    "jupyterhub_xnat_public_url": "https://xnat.example.org",
    "jupyterhub_person_origins": False,
    "jupyterhub_notebook_xnat_urls": ["https://xnat.example.org"],
    "jupyterhub_xnat_url": "https://xnat.example.org",
}


def test_each_setting_is_judged_by_its_own_value() -> None:
    assert {name: f"{{{{ {name} }}}}" for name in JUDGED} == JUDGED


def test_the_defaults_can_work() -> None:
    assert hub_findings(SETTINGS) == []


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        pytest.param({"start_timeout": 29}, "range", id="start-short"),
        pytest.param({"failed_logins": 0}, "range", id="no-log-ins"),
        pytest.param({"failed_logins": 20}, "range", id="many-log-ins"),
        pytest.param({"failed_logins": "twenty"}, "range", id="no-number"),
        pytest.param({"failed_logins_window": 3599}, "range", id="window-short"),
        pytest.param({"prune_interval": 9}, "range", id="interval-short"),
        pytest.param({"audit_days": -1}, "range", id="audit-days"),
        pytest.param({"audit_syslog": "syslog.example.org:514"}, "syslog", id="syslog-without-scheme"),
        pytest.param({"audit_syslog": "tcp://syslog.example.org"}, "syslog", id="syslog-without-port"),
        pytest.param({"audit_syslog": "tcp://syslog.example.org:65536"}, "syslog", id="syslog-port"),
        pytest.param({"start_timeout": 120}, "start_time", id="as-long-as-xnat-waits"),
        pytest.param({"notebook_memory_ceiling": "64"}, "ceiling", id="ceiling-without-unit"),
        pytest.param({"notebook_memory_ceiling": "64G\n"}, "ceiling", id="ceiling-with-newline"),
        pytest.param({"notebook_shm_size": "much"}, "ceiling", id="size-text"),
        pytest.param({"notebook_tmp_size": "1"}, "ceiling", id="tmp-without-unit"),
        pytest.param({"notebook_home_size": "-1G"}, "ceiling", id="home-negative"),
        pytest.param({"notebook_memory_default": "half"}, "ceiling", id="default-text"),
        pytest.param({"notebook_cpu_default": -1}, "range", id="cpus-negative"),
        pytest.param({"notebook_cpu_ceiling": "all"}, "range", id="cpu-ceiling-text"),
        *[pytest.param({"notebook_cull_idle": odd}, "cull_idle", id=f"cull-{odd}") for odd in (-1, 59, "soon")],
        pytest.param({"notebook_pids_limit": 0}, "range", id="no-process-limit"),
        *[
            pytest.param({"notebook_home": home}, "home", id=f"home-{home}")
            for home in (
                "",
                "home",
                "/",
                "//",
                "/tmp",
                "/etc/x",
                "/usr",
                "/workspace",
                "/data/home",
                "/home/..",
                "/home/x/",
                "/{{x}}",
            )
        ],
        pytest.param({"hub_limits": {"cpus": 0, "memory": "1G"}}, "limits", id="no-cpus"),
        pytest.param({"launcher_reservations": {"cpus": 1, "memory": "1GiB"}}, "limits", id="unit-of-ceilings"),
        pytest.param({"proxy_limits": {"cpus": "two", "memory": "1G"}}, "limits", id="cpus-text"),
        pytest.param({"proxy_reservations": {"memory": "1G"}}, "limits", id="cpus-missing"),
        pytest.param({"hub_reservations": {"cpus": 1}}, "limits", id="memory-missing"),
        pytest.param({"listen_address": "hub.example.org"}, "listen_address", id="listen-name"),
        pytest.param({"listen_address": "192.0.2.256"}, "listen_address", id="listen-no-address"),
        pytest.param({"listen_address": "2001:db8::1"}, "listen_address", id="listen-ipv6"),
        pytest.param({"public_url": "https://hub.example.org/jupyterhub"}, "public_url", id="url-with-path"),
        pytest.param({"public_url": "hub.example.org"}, "public_url", id="url-without-scheme"),
        pytest.param({"public_url": ""}, "public_url", id="no-url"),
        pytest.param({"trusted_proxies": ["192.0.2.1", "192.0.2.0/24"]}, "trusted_proxies", id="proxies-network"),
        pytest.param({"trusted_proxies": ["proxy.example.org"]}, "trusted_proxies", id="proxies-name"),
    ],
)
def test_what_cannot_work_is_named_with_what_to_set(changes: dict[str, Any], rule: str) -> None:
    changed = {f"jupyterhub_{name}": value for name, value in changes.items()}
    (finding,) = hub_findings({**SETTINGS, **changed})
    assert finding["id"] == rule
    assert [finding["name"]] == list(changed)
    assert finding["name"] in finding["text"]


@pytest.mark.parametrize(
    ("url", "rules"),
    [
        ("https://hub.example.org:8443", []),
        ("http://hub.example.org", ["origins_https"]),
        ("https://192.0.2.1", ["origins_name"]),
        ("https://[2001:db8::1]:8443", ["origins_name"]),
        ("https://hub", ["origins_name"]),
        ("https://hub.example.org.", ["origins_name"]),
        ("http://localhost", ["origins_https", "origins_name"]),
        ("https://XNAT.example.org:8443", ["origins_xnat"]),
        ("https://example.org", ["origins_xnat"]),
    ],
)
def test_origins_of_people_need_tls_and_a_domain_without_xnat(url: str, rules: list[str]) -> None:
    settings = {**SETTINGS, "jupyterhub_public_url": url}
    for value in (True, "true"):
        findings = hub_findings({**settings, "jupyterhub_person_origins": value})
        assert [finding["id"] for finding in findings] == rules
        assert all(url in finding["text"] for finding in findings)
    assert hub_findings({**settings, "jupyterhub_person_origins": "false"}) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"start_timeout": 30, "failed_logins": 19, "failed_logins_window": 3600, "prune_interval": 10},
        {"start_timeout": "100", "failed_logins": "1"},
        {"start_timeout": 119},
        {"notebook_memory_ceiling": "1.5TiB", "notebook_shm_size": "512M"},
        {"notebook_home": "/tmp/home", "notebook_home_size": "8G", "notebook_cpu_ceiling": "4"},
        {"hub_limits": {"cpus": "0.5", "memory": "1.5GB"}},
        {"listen_address": "192.0.2.1"},
        {"public_url": "http://192.0.2.1:8000/"},
        {"trusted_proxies": ["192.0.2.1", "2001:db8::1", "::1"]},
    ],
    ids=["edges", "texts", "one-second-less", "ceilings", "home", "limits", "address", "url", "proxies"],
)
def test_what_can_work_is_accepted(changes: dict[str, Any]) -> None:
    assert hub_findings({**SETTINGS, **{f"jupyterhub_{name}": value for name, value in changes.items()}}) == []


def test_all_that_is_wrong_comes_at_once() -> None:
    found = hub_findings(
        {**SETTINGS, "jupyterhub_start_timeout": 1, "jupyterhub_http_timeout": 200, "jupyterhub_public_url": "x"}
    )
    assert [finding["id"] for finding in found] == ["range", "start_time", "public_url"]


def test_a_logo_is_read_or_refused_by_name(tmp_path: Path) -> None:
    assert logo("") is None
    file = tmp_path / "logo.SVG"
    file.write_bytes(b"<svg/>")
    assert logo(str(file)) == {"type": "image/svg+xml", "data": "PHN2Zy8+"}
    (tmp_path / "empty.png").touch()
    (tmp_path / "large.png").write_bytes(bytes(LARGEST_LOGO + 1))
    (tmp_path / "logo.html").write_bytes(b"x")
    for name in ("empty.png", "large.png", "logo.html", "missing.png"):
        with pytest.raises(ValueError, match=f"jupyterhub_logo is .*{name}"):
            logo(str(tmp_path / name))
