"""Settings of hub and launcher, the hub's configuration, and the state of a service."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import log
from swarm_service_status import judge
from tornado.httpserver import _HTTPRequestContext
from tornado.httputil import HTTPHeaders
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader
from xnat_hub import settings as settings_module
from xnat_hub.handlers import Server
from xnat_hub.proxies import TrustedProxies
from xnat_hub.settings import Settings, load, parse
from xnat_launcher import settings as launcher_settings_module
from xnat_launcher.options import OptionsError
from xnat_launcher.policy import MountError
from xnat_wire.settings import SettingsError

from tests.hub_settings import launcher_settings_data, settings_data
from tests.unit.conftest import ROOT


@pytest.fixture
def hub_config(
    request: pytest.FixtureRequest, tmp_path: Path, secrets_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Config:
    """The hub's configuration, with the changes of settings that a test names as its parameter."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings_data(**getattr(request, "param", {}))))
    monkeypatch.setenv("XNAT_HUB_SETTINGS", str(file))
    monkeypatch.setenv("XNAT_HUB_SECRETS", str(secrets_dir))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(log, "SCRUB_PARAM_KEYS", log.SCRUB_PARAM_KEYS)  # restored at the end
    load.cache_clear()
    config = PyFileConfigLoader("jupyterhub_config.py", path=str(ROOT / "files")).load_config()
    load.cache_clear()
    return config


def test_the_hub_keeps_servers_and_gives_users_no_right_to_start(hub_config: Config) -> None:
    assert hub_config.JupyterHub.cleanup_servers is False
    assert hub_config.JupyterHub.shutdown_on_logout is False
    assert hub_config.ConfigurableHTTPProxy.should_start is False
    roles = {role["name"]: role["scopes"] for role in hub_config.JupyterHub.load_roles}
    assert not [scope for scope in roles["user"] if scope.split("!")[0] in {"servers", "self", "admin:servers"}]
    assert sorted(roles["xnat"]) == sorted(
        ["read:hub", "list:users", "read:users", "admin:users", "servers", "delete:servers", "read:servers", "tokens"]
    )
    assert hub_config.JupyterHub.api_page_max_limit >= 100_000
    assert hub_config.JupyterHub.cookie_secret == bytes.fromhex("0f" * 32)
    assert hub_config.JupyterHub.token_expires_in_max_seconds == 172800


def test_without_the_option_nothing_routes_by_host(hub_config: Config) -> None:
    assert not {"subdomain_host", "subdomain_hook", "cookie_host_prefix_enabled"} & set(hub_config.JupyterHub)
    assert Server.configured_class() is Server
    assert Server._save_configuration()[1]["router"] is None  # type: ignore[index]


@pytest.mark.parametrize("hub_config", [{"person_origins": True}], indirect=True)
def test_with_an_origin_for_each_person_jupyterhub_routes_by_host(hub_config: Config) -> None:
    assert hub_config.JupyterHub.subdomain_host == "https://hub.example.org"
    assert hub_config.JupyterHub.cookie_host_prefix_enabled is True
    assert hub_config.JupyterHub.subdomain_hook("jdoe", "hub.example.org", "user") == "jdoe.hub.example.org"
    assert Server._save_configuration()[1]["router"] is not None  # type: ignore[index]


@pytest.mark.usefixtures("hub_config")
def test_the_log_has_no_token_of_a_link_that_asks_for_a_log_in() -> None:
    login = "/jupyterhub/hub/login?next=%2Fjupyterhub%2Fhub%2Fuser%2Fjdoe%2Fs%2Flab%3Ftoken%3D0123456789"
    assert log._scrub_uri(login) == "/jupyterhub/hub/login?next=[secret]"


def test_behind_tls_all_cookies_are_secure_and_pages_say_https_only(hub_config: Config) -> None:
    assert hub_config.JupyterHub.public_url == "https://hub.example.org/jupyterhub/"
    assert hub_config.JupyterHub.tornado_settings["cookie_options"] == {"secure": True}  # that against forgery, too
    assert "Strict-Transport-Security" in hub_config.JupyterHub.tornado_settings["headers"]


@pytest.mark.parametrize("addresses", [["10.0.0.1/8"], ["proxy"], ["10.0.0.1", ""]], ids=["host", "name", "empty"])
def test_trusted_proxies_are_addresses_or_networks(secrets_dir: Path, addresses: list[str]) -> None:
    with pytest.raises(SettingsError, match="trusted_proxies"):
        parse(settings_data(trusted_proxies=addresses), secrets_dir)


def test_settings_with_a_missing_or_unknown_key_are_refused(secrets_dir: Path) -> None:
    for data, read in (
        (settings_data(surprise=1), lambda data: parse(data, secrets_dir)),
        (launcher_settings_data(surprise=1), launcher_settings_module.parse),
    ):
        del data["xnat_username"]
        with pytest.raises(SettingsError, match=r"missing keys xnat_username, unknown keys surprise"):
            read(data)


@pytest.mark.parametrize(
    "value",
    [b"service\n", b" service", b"service\r\n", b"\xa0service", b"\n"],
    ids=["newline", "blank", "windows", "not-utf-8", "only-newline"],
)
def test_a_secret_is_taken_as_it_is_or_refused(settings: Settings, secrets_dir: Path, value: bytes) -> None:
    (secrets_dir / "proxy_token").write_bytes(value)
    with pytest.raises(SettingsError, match="the secret proxy_token"):
        settings.secret("proxy_token")


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        pytest.param({"images": None}, SettingsError, "images", id="no-images"),
        pytest.param({"images": "localhost/x:1"}, SettingsError, "images", id="images-text"),
        pytest.param({"images": [""]}, SettingsError, "images", id="empty-image"),
        pytest.param({"images": [1]}, SettingsError, "images", id="image-number"),
        pytest.param({"images": {"a": "b"}}, SettingsError, "images", id="images-mapping"),
        pytest.param({"default_server": "yes"}, SettingsError, "default_server", id="default-server"),
        pytest.param({"memory_ceiling": "lots"}, OptionsError, "memory_ceiling", id="memory-ceiling"),
        pytest.param({"memory_ceiling": ""}, SettingsError, "memory_ceiling", id="no-memory-ceiling"),
        pytest.param({"memory_default": "0G"}, SettingsError, "memory_default", id="no-memory"),
        pytest.param({"cpu_ceiling": None}, SettingsError, "cpu_ceiling", id="no-cpu-ceiling"),
        pytest.param({"cpu_default": 0.0}, SettingsError, "cpu_default", id="no-cpus"),
        pytest.param({"constraints": ["jupyter"]}, OptionsError, "'jupyter'", id="constraint"),
        pytest.param({"constraints": "a==b"}, OptionsError, "constraints", id="constraints-text"),
        pytest.param({"home": "home"}, MountError, "home", id="home"),
        pytest.param({"home_size": "much"}, OptionsError, "home_size", id="home-size"),
        pytest.param({"shm_size": 5}, OptionsError, "shm_size", id="shm-size"),
        pytest.param({"roots": [{"name": "x", "path": "srv", "read_only": True}]}, MountError, "srv", id="root"),
    ],
)
def test_the_launchers_settings_are_checked(changes: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        launcher_settings_module.parse(launcher_settings_data(**changes))


def test_the_launchers_sizes_are_read_as_bytes() -> None:
    data = launcher_settings_data(images=[], shm_size="2G", memory_ceiling="1T", tmp_size="1M")
    found = launcher_settings_module.parse(data)
    assert (found.images, found.shm_size, found.memory_ceiling) == ((), 2**31, 2**40)
    assert (found.memory_default, found.tmp_size, found.home_size) == (2**32, 2**20, None)


@pytest.mark.parametrize("text", [None, "{", "\xff"], ids=["missing", "no-json", "no-text"])
def test_launcher_settings_that_cannot_be_read_are_named(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "launcher.json"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"launcher\.json"):
        launcher_settings_module.load(file)
    file.write_text(json.dumps(launcher_settings_data()))
    assert launcher_settings_module.load(file).deployment == "jupyterhub"


def test_secrets_that_are_missing_or_empty_are_refused(settings: Settings, secrets_dir: Path) -> None:
    assert settings.secret("proxy_token") == "proxy-token-of-the-tests"
    (secrets_dir / "proxy_token").write_text("")
    with pytest.raises(SettingsError, match="the secret proxy_token is empty"):
        settings.secret("proxy_token")
    with pytest.raises(SettingsError, match="the secret other cannot be read"):
        settings.secret("other")


def test_settings_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XNAT_HUB_SETTINGS", str(tmp_path / "none.json"))
    settings_module.load.cache_clear()
    with pytest.raises(SettingsError, match=r"none\.json cannot be read"):
        load()


def task(state: str, **changes: Any) -> dict[str, Any]:
    return {
        "CreatedAt": "2026-01-02T00:00:01Z",
        "DesiredState": "running",
        "Spec": {"ContainerSpec": {"Image": "new"}},
        "Status": {"State": state},
        **changes,
    }


SERVICE = {
    "UpdatedAt": "2026-01-02T00:00:00Z",
    "Spec": {"Mode": {"Replicated": {"Replicas": 1}}, "TaskTemplate": {"ContainerSpec": {"Image": "new"}}},
}
REJECTED = {"State": "rejected", "Err": "No such image: new"}


@pytest.mark.parametrize(
    ("service", "tasks", "expected"),
    [
        ({}, [], (False, False, "no task yet")),
        ({}, [task("starting")], (False, False, "starting")),
        ({}, [task("running")], (True, False, "running")),
        ({}, [task("running", DesiredState="shutdown")], (False, False, "running")),
        ({}, [task("running", Spec={"ContainerSpec": {"Image": "old"}})], (False, False, "no task yet")),
        ({"UpdateStatus": {"State": "updating"}}, [task("running")], (False, False, "running")),
        ({"UpdateStatus": {"State": "paused"}}, [task("x", Status=REJECTED)],
         (False, True, "rejected: No such image: new")),
        ({}, [task("x", Status=REJECTED)] * 3, (False, True, "rejected: No such image: new")),
        ({}, [task("x", Status=REJECTED, CreatedAt="2026-01-01T00:00:00Z")] * 3 + [task("running")],
         (True, False, "running")),
    ],
)  # fmt: skip
def test_a_service_is_judged_by_its_newest_tasks(
    service: dict[str, Any], tasks: list[dict[str, Any]], expected: tuple[bool, bool, str]
) -> None:
    judged = judge({**SERVICE, **service}, tasks, 3)
    assert (judged["converged"], judged["unrecoverable"], judged["state"]) == expected


def test_the_network_of_the_edge_is_trusted_as_a_whole(secrets_dir: Path) -> None:
    trusted = parse(settings_data(trusted_proxies=["192.0.2.1", "10.77.64.0/20"]), secrets_dir).trusted_proxies
    assert "10.77.79.254" in trusted
    assert "192.0.2.1" in trusted
    assert [text for text in ("10.77.80.1", "192.0.2.2", "10.77.64.0/20", "made up", "") if text in trusted] == []


def test_the_hubs_log_has_the_address_that_a_trusted_network_reports() -> None:
    """The hub's own web server, with a request that came through the edge and the hub's proxy."""
    server = Server(lambda request: None, xheaders=True, trusted_proxies=TrustedProxies(["10.77.64.0/20"]))
    context = _HTTPRequestContext(SimpleNamespace(socket=None), ("10.77.32.9", 1), "http")  # type: ignore[arg-type]
    server.start_request(object(), SimpleNamespace(context=context))
    context._apply_xheaders(HTTPHeaders({"X-Forwarded-For": "203.0.113.9, 10.77.64.12"}))
    assert context.remote_ip == "203.0.113.9"
