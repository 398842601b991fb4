"""The site as an administrator deploys it: a second run, a removal, and the deployment after it."""

from __future__ import annotations

import functools

import pytest

from tests.site.conftest import ROOT, Playbooks, Site, wait_for

DEPLOY = ("site.yml", "--skip-tags", "verify")  # molecule's converge has run the smoke test
LEFT = {"service": "services", "secret": "secrets", "config": "configs", "network": "networks"}


@pytest.fixture(scope="module")
def plays() -> Playbooks:
    return Playbooks(ROOT / "molecule/inventory")


def test_a_second_run_changes_nothing_and_says_so_in_advance(plays: Playbooks) -> None:
    assert plays.play(*DEPLOY, "--check").changed() == set()
    assert plays.play(*DEPLOY).changed() == set()


def test_the_site_is_removed_and_comes_back_with_its_users_files_and_log_ins(site: Site, plays: Playbooks) -> None:
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    assert site.run(server, "echo kept > /workspace/jdoe/kept")[0] == 0

    plays.play("playbooks/remove.yml")
    deployed = {"label": "org.xnat.jupyterhub.deployment=jupyterhub"}
    for kind, listing in LEFT.items():
        names = getattr(site.docker, listing)(filters=deployed)
        assert not names, f"{kind}: {names}"
    volumes = {volume["Name"] for volume in site.docker.volumes(filters=deployed)["Volumes"]}
    assert volumes >= {"jupyterhub-data", "jupyterhub-audit"}
    assert "jupyterhub-launcher" not in volumes
    assert not site.docker.volumes(filters={"label": "org.xnat.jupyterhub.scratch"})["Volumes"]
    wait_for("end of the notebook's container", lambda: not site.docker.containers(filters=deployed))
    firewall = "nft list tables; ls -R /etc/xnat-jupyter /etc/systemd/system"
    left = site.on_node("sh", "-c", f"{firewall} 2>&1 || true")
    assert "firewall" not in left
    assert "xnat_jupyter" not in left
    assert "xnat-jupyter.conf" not in left
    assert plays.play("playbooks/remove.yml").changed() == set()

    plays.play(*DEPLOY, "-e", "xnat_jupyterhub_purge=false")  # this launch's environment is the tests' own
    again = site.launch()
    assert site.outcome(again), site.hub_log(again.began)
    assert site.run(again, "cat /workspace/jdoe/kept") == (0, "kept\n")
    site.stop(again)


# Has nothing, but says who asked; the engine takes plain HTTP from its own address.
REGISTRY = """
import http.server
class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        seen = self.headers.get("Authorization")
        print(self.path, seen, flush=True)
        self.send_response(404 if seen else 401)
        self.send_header("WWW-Authenticate", "Basic")
        self.end_headers()
    do_HEAD = do_GET
http.server.HTTPServer(("", 5555), Registry).serve_forever()
"""


def test_a_private_registry_is_shown_the_sites_credentials_and_nobody_else_is(site: Site, plays: Playbooks) -> None:
    image = "127.0.0.1:5555/private/lab:1"
    registry = site.docker.create_service(
        {"ContainerSpec": {"Image": site.image("base"), "Command": ["python3", "-c", REGISTRY]}},
        name="test-registry",
        endpoint_spec={"Ports": [{"TargetPort": 5555, "PublishedPort": 5555, "PublishMode": "host"}]},
    )
    try:
        tasks = functools.partial(site.docker.tasks, filters={"service": registry["ID"], "desired-state": "running"})
        wait_for("registry", lambda: [task for task in tasks() if task["Status"]["State"] == "running"])
        run = plays.play("playbooks/images.yml", "-e", f'{{"hub_images_further_singleuser": ["{image}"]}}', code=2)
        assert image in run.flat
        parts = site.docker.service_logs(registry["ID"], stdout=True, stderr=True, is_tty=False)
        assert "/v2/private/lab/manifests/1 Basic dGVzdDp0ZXN0" in b"".join(parts).decode()
        assert "dGVzdDp0ZXN0" not in run.text
    finally:
        site.docker.remove_service(registry["ID"])
