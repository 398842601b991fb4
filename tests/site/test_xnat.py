"""XNAT's configuration by the playbooks: drift, an XNAT that reports success falsely or restarts, new secrets.

site.yml itself has already shown that a rollout on an unconfigured demo XNAT ends with a started notebook.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.site.conftest import ROOT, Playbooks, Site, wait_for

SETTINGS = "/xapi/jupyterhub/preferences"
# Tests add their own environments and hardware.
XNAT = ("playbooks/xnat.yml", "-e", "xnat_jupyterhub_purge=false")


@pytest.fixture(scope="module")
def plays(site: Site) -> Playbooks:
    return Playbooks(ROOT / "molecule/inventory")


def preferences(site: Site) -> Any:
    return site.ask("GET", f"{site.xnat}{SETTINGS}", "admin").json()


def drift(site: Site) -> None:
    """Change in XNAT what somebody might change by hand."""
    changes = {"maxNamedServers": 1, "jupyterHubToken": "other"}
    assert site.ask("POST", f"{site.xnat}{SETTINGS}", "admin", json=changes).status_code == 200
    path = f"{site.xnat}/xapi/users/rjones/roles"
    assert site.ask("DELETE", path, "admin", json=["Jupyter"]).status_code == 200


def test_drift_is_predicted_shown_and_mended_though_xnat_restarts_meanwhile(site: Site, plays: Playbooks) -> None:
    drift(site)
    run = plays.play(*XNAT, "--check", "--diff")
    assert run.changed() == {"node0"}
    assert "maxNamedServers: '3'" in run.text
    assert "jupyterHubToken: '******** (new)'" in run.text
    assert preferences(site)["maxNamedServers"] == 1
    site.faults({"path": "/xapi/compute/environments", "restart": 2, "times": 1})
    run = plays.play(*XNAT, "--diff")
    assert run.changed() == {"node0"}
    token = site.token["Authorization"].removeprefix("token ")
    assert token not in run.text
    assert preferences(site)["jupyterHubToken"] == token
    assert "Jupyter" in site.ask("GET", f"{site.xnat}/xapi/users/rjones/roles", "admin").json()
    assert plays.play(*XNAT).changed() == set()


def test_an_xnat_that_says_yes_and_does_nothing_is_caught_and_logged_out_of(site: Site, plays: Playbooks) -> None:
    drift(site)
    site.faults({"path": SETTINGS, "method": "POST", "ignore": True})
    run = plays.play(*XNAT, code=2)
    assert f"XNAT answered POST {SETTINGS} with 200, but did not keep maxNamedServers" in run.flat
    assert "TASK [xnat_jupyterhub : Log out]" in run.text
    site.faults()
    plays.play(*XNAT)


def test_secrets_are_made_anew_beside_a_running_notebook(site: Site, plays: Playbooks) -> None:
    notebook = site.launch()
    assert site.outcome(notebook), site.hub_log(notebook.began)
    container = site.run(notebook, "hostname")
    rotate = ("playbooks/rotate.yml", "-e", "xnat_jupyterhub_purge=false", "-e")

    old = dict(site.token)
    run = plays.play(*rotate, "rotate=service_token")
    assert site.token != old
    assert site.token["Authorization"].removeprefix("token ") not in run.text
    assert site.tab().get(f"{site.hub}hub/api/users", headers=old, timeout=20).status_code == 403
    assert site.ask("GET", f"{site.xnat}/xapi/jupyterhub/info", "admin").status_code == 200

    # Killed between both sides: whatever brings the hub up next mends it.
    file = site.secrets / "xnat_password"
    password = file.read_text()
    plays.kill_at("PLAY [Deploy launcher, proxy and hub]", *rotate, "rotate=service_password")
    assert file.read_text() != password
    browser, page = site.browser("jdoe")
    assert page.url.endswith("/hub/home")
    plays.play(*rotate, "rotate=hub_secrets")
    assert browser.get(f"{site.hub}hub/home", timeout=20).url.split("?")[0].endswith("/hub/login")
    assert plays.play("playbooks/hub.yml", *XNAT).changed() == set()
    second = site.launch()
    assert site.outcome(second), site.hub_log(second.began)
    site.stop(second)

    wait_for("the hub lists the notebook", lambda: site.servers("jdoe").get(notebook.name, {}).get("ready"))
    assert site.run(notebook, "hostname") == container
    site.stop(notebook)


def test_a_lock_that_a_killed_run_left_with_a_secret_does_not_stop_the_next(site: Site, plays: Playbooks) -> None:
    # By the name that Ansible gives it.
    name = hashlib.sha1(bytes(site.secrets / "cookie_secret"), usedforsecurity=False).hexdigest()
    lock = site.secrets / f"{name}.ansible_lockfile"
    lock.touch()
    os.utime(lock, (0, 0))
    assert plays.play("playbooks/hub.yml").changed() == set()
    assert not lock.exists()


def test_a_secret_of_the_vault_is_left_to_its_owner(plays: Playbooks) -> None:
    run = plays.play("playbooks/rotate.yml", "-e", "rotate=service_token", "-e", "vault_service_token=x", code=2)
    assert "the vault, which contains vault_service_token" in run.flat


def test_without_an_administrators_password_it_is_said_what_to_do_by_hand(site: Site, plays: Playbooks) -> None:
    run = plays.play(*XNAT, "-e", "site_xnat_admin_password=")
    assert "enable jupyterhub, give it the password in site_xnat_password" in run.flat
    assert "jupyterHubApiUrl: http://jupyterhub-proxy:8000/jupyterhub/hub/api" in run.flat
    assert site.token["Authorization"].removeprefix("token ") not in run.text


WITHOUT_JDOE = ("-e", '{"site_jupyter_users": ["JDoe", "rjones", "openid"]}')


class Access:
    """Jdoe's access at XNAT and hub: a server, a token as XNAT creates it for its page, a log-in, a file."""

    FILE = "/srv/xnat-demo/workspaces/users/jdoe/kept"

    def __init__(self, site: Site) -> None:
        self.site = site
        server = site.launch()
        assert site.outcome(server), site.hub_log(server.began)
        assert site.run(server, "touch /workspace/jdoe/kept")[0] == 0
        answer = site.ask("POST", f"{site.xnat}/xapi/jupyterhub/users/jdoe/tokens?note=t&expiresIn=172800", "jdoe")
        self.token = answer.json()["token"]
        self.browser, _ = site.browser("jdoe")

    def left(self) -> dict[str, bool]:
        """Return what is left of it."""
        site, headers = self.site, {"Authorization": f"token {self.token}"}
        page = self.browser.get(f"{site.hub}hub/home", timeout=20).url
        return {
            "role": "Jupyter" in site.ask("GET", f"{site.xnat}/xapi/users/jdoe/roles", "admin").json(),
            "enabled": site.ask("GET", f"{site.xnat}/xapi/users/profile/jdoe", "admin").json()["enabled"],
            "user": site.ask("GET", f"{site.hub}hub/api/users/jdoe").status_code == 200,
            "server": bool(site.left()),
            "token": site.tab().get(f"{site.hub}hub/api/user", headers=headers, timeout=20).status_code == 200,
            "log-in": page.split("?")[0].endswith("/hub/home"),
            "file": site.on_node("sh", "-c", f"test -f {self.FILE} && echo yes || echo no").strip() == "yes",
        }


def test_access_is_revoked_with_servers_tokens_and_log_ins(site: Site, plays: Playbooks) -> None:
    revoke = ("playbooks/revoke.yml", "-e", "user=jdoe", "-e", "disable=true")
    everything = dict.fromkeys(("role", "enabled", "user", "server", "token", "log-in", "file"), True)
    nothing = dict.fromkeys(everything, False)
    try:
        access = Access(site)
        assert access.left() == everything
        run = plays.play(*revoke, code=2)
        assert "jdoe" in run.flat
        assert "site_jupyter_users" in run.flat
        assert plays.play(*revoke, *WITHOUT_JDOE, "--check").changed() == {"node0"}
        assert access.left() == everything
        assert plays.play(*revoke, *WITHOUT_JDOE).changed() == {"node0"}
        assert access.left() == {**nothing, "file": True}

        site.ask("PUT", f"{site.xnat}/xapi/users/jdoe", "admin", json={"enabled": True})
        plays.play(*XNAT)
        access = Access(site)
        run = plays.play(*XNAT, "-e", "xnat_jupyterhub_purge_users=false", *WITHOUT_JDOE)
        assert "jdoe: not in site_jupyter_users" in run.flat
        assert access.left() == everything
        purge = (*XNAT, "-e", "xnat_jupyterhub_purge_users=true", *WITHOUT_JDOE)
        assert plays.play(*purge).changed() == {"node0"}
        assert access.left() == {**nothing, "enabled": True, "file": True}
        assert plays.play(*purge).changed() == set()
    finally:
        site.ask("PUT", f"{site.xnat}/xapi/users/jdoe", "admin", json={"enabled": True})
        plays.play(*XNAT)
        site.on_node("rm", "-f", Access.FILE)


SERVICE = "[Service]\\nExecStart=/bin/sleep infinity\\n"


def test_the_plugin_is_put_into_an_xnat_that_is_ours(site: Site, plays: Playbooks, tmp_path: Path) -> None:
    jar = tmp_path / "xnat-jupyterhub-plugin-1.3.4.jar"
    jar.write_bytes(b"\xff a jar")
    directory = "/srv/xnat-plugins"
    site.on_node(
        "sh", "-c", f"mkdir -p {directory}; touch {directory}/jupyterhub-plugin-1.2.0.jar {directory}/other.jar"
    )
    site.on_node("sh", "-c", f"printf '{SERVICE}' >/etc/systemd/system/pretend-xnat.service; systemctl daemon-reload")
    inventory = tmp_path / "xnat.yml"
    inventory.write_text("xnat: {hosts: {node0: {}}}\n")
    options = {
        "xnat_plugin_jar": jar, "xnat_plugin_checksum": hashlib.sha256(jar.read_bytes()).hexdigest(),
        "xnat_plugin_directory": directory, "xnat_plugin_service": "pretend-xnat",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("-e", f"{name}={value}")]
    play = ("playbooks/xnat_plugin.yml", "-i", str(inventory), *words)
    started = "systemctl show --property=ActiveEnterTimestampMonotonic pretend-xnat"
    try:
        assert plays.play(*play, "--check").changed() == {"node0"}
        assert plays.play(*play).changed() == {"node0"}
        assert site.on_node("ls", directory).split() == ["other.jar", jar.name]
        first = site.on_node("sh", "-c", started)
        assert plays.play(*play).changed() == set()
        assert site.on_node("sh", "-c", started) == first
        run = plays.play(*play, "-e", "xnat_plugin_checksum=0", code=2)
        assert "which is not xnat_plugin_checksum" in run.flat
    finally:
        site.on_node(
            "sh", "-c", f"systemctl stop pretend-xnat; rm -r {directory} /etc/systemd/system/pretend-xnat.service"
        )
