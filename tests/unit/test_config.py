"""Settings, hub configuration, filters and the module that watches services."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xnat_hub.images
import xnat_hub.mounts
import xnat_image_plan
import xnat_mount_policy
import xnat_path_translation
import yaml
from swarm_service_status import judge
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader
from xnat_hub import settings as settings_module
from xnat_hub.settings import Settings, SettingsError, load, parse

from tests.hub_settings import settings_data
from tests.unit.conftest import ROOT


@pytest.fixture
def hub_config(tmp_path: Path, secrets_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings_data()))
    monkeypatch.setenv("XNAT_HUB_SETTINGS", str(file))
    monkeypatch.setenv("XNAT_HUB_SECRETS", str(secrets_dir))
    monkeypatch.setattr(sys, "path", list(sys.path))
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


def test_behind_tls_all_cookies_are_secure_and_pages_say_https_only(hub_config: Config) -> None:
    assert hub_config.JupyterHub.public_url == "https://hub.example.org/jupyterhub/"
    assert hub_config.JupyterHub.tornado_settings["cookie_options"] == {"secure": True}  # that against forgery, too
    assert "Strict-Transport-Security" in hub_config.JupyterHub.tornado_settings["headers"]


@pytest.mark.parametrize("addresses", [["10.0.0.0/8"], ["proxy"], ["10.0.0.1", ""]])
def test_trusted_proxies_are_addresses(secrets_dir: Path, addresses: list[str]) -> None:
    with pytest.raises(SettingsError, match="trusted_proxies"):
        parse(settings_data(trusted_proxies=addresses), secrets_dir)


def test_settings_with_a_missing_or_unknown_key_are_refused(secrets_dir: Path) -> None:
    data = settings_data(surprise=1)
    del data["uid"]
    with pytest.raises(SettingsError, match=r"miss \['uid'\] and have unknown \['surprise'\]"):
        parse(data, secrets_dir)


@pytest.mark.parametrize("value", [b"service\n", b" service", b"service\r\n", b"\xa0service", b"\n"])
def test_a_secret_is_taken_as_it_is_or_refused(settings: Settings, secrets_dir: Path, value: bytes) -> None:
    (secrets_dir / "xnat_password").write_bytes(value)
    with pytest.raises(SettingsError, match="the secret xnat_password"):
        settings.secret("xnat_password")


@pytest.mark.parametrize("images", [None, "localhost/x:1", [""], [1], {"a": "b"}])
def test_images_must_be_a_list_of_names(secrets_dir: Path, images: object) -> None:
    with pytest.raises(SettingsError, match="images is "):
        parse(settings_data(images=images), secrets_dir)
    assert parse(settings_data(images=[], shm_size="2G"), secrets_dir).shm_size == 2**31


def test_secrets_that_are_missing_or_empty_are_refused(settings: Settings, secrets_dir: Path) -> None:
    assert settings.secret("xnat_password") == "service"
    (secrets_dir / "xnat_password").write_text("")
    with pytest.raises(SettingsError, match="the secret xnat_password is empty"):
        settings.secret("xnat_password")
    with pytest.raises(SettingsError, match="the secret other cannot be read"):
        settings.secret("other")


def test_settings_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XNAT_HUB_SETTINGS", str(tmp_path / "none.json"))
    settings_module.load.cache_clear()
    with pytest.raises(SettingsError, match=r"none\.json cannot be read"):
        load()


def test_the_role_writes_exactly_the_settings_that_the_hub_reads() -> None:
    written = yaml.safe_load((ROOT / "roles/jupyterhub/vars/main.yml").read_text())["__jupyterhub_settings"]
    assert set(written) == set(Settings.__dataclass_fields__) - {"secrets_dir"}


@pytest.mark.parametrize(
    ("module", "name", "function"),
    [
        (xnat_image_plan, "xnat_image_plan", xnat_hub.images.image_plan),
        (xnat_mount_policy, "xnat_mount_policy", xnat_hub.mounts.mount_policy),
        (xnat_path_translation, "xnat_path_translation", xnat_hub.mounts.path_translation),
    ],
)
def test_a_filter_is_the_shared_function_and_documented(module: Any, name: str, function: object) -> None:
    assert module.FilterModule().filters() == {name: function}
    assert yaml.safe_load(module.DOCUMENTATION)["name"] == name
    shown = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-doc"), "-t", "filter", name],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert yaml.safe_load(module.DOCUMENTATION)["short_description"] in shown.stdout or name in shown.stdout


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
    assert (judged["converged"], judged["hopeless"], judged["state"]) == expected
