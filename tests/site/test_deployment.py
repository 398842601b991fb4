"""The site as an administrator deploys it: a second run, a removal, and the deployment after it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

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


@pytest.fixture
def other_deployment(site: Site) -> Iterator[str]:
    """A service of another deployment on the same swarm, without tasks; returns its id."""
    service = site.docker.create_service(
        {"ContainerSpec": {"Image": site.image("base")}},
        name="other-hub",
        labels={"org.xnat.jupyterhub.deployment": "other"},
        mode={"Replicated": {"Replicas": 0}},
    )
    yield service["ID"]
    if site.docker.services(filters={"id": service["ID"]}):
        site.docker.remove_service(service["ID"])


def firewall(site: Site) -> str:
    return site.on_node("sh", "-c", "(nft list tables; ls -R /etc/xnat-jupyter /etc/systemd/system) 2>&1 || true")


def test_the_site_is_removed_and_comes_back_with_its_users_files_and_log_ins(
    site: Site, plays: Playbooks, other_deployment: str
) -> None:
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    assert site.run(server, "echo kept > /workspace/jdoe/kept")[0] == 0

    removed = plays.play("playbooks/remove.yml")
    assert "other-hub" in removed.text
    assert "xnat_jupyter" in firewall(site)  # the other deployment needs the rules
    deployed = {"label": "org.xnat.jupyterhub.deployment=jupyterhub"}
    for kind, listing in LEFT.items():
        names = getattr(site.docker, listing)(filters=deployed)
        assert not names, f"{kind}: {names}"
    volumes = {volume["Name"] for volume in site.docker.volumes(filters=deployed)["Volumes"]}
    assert volumes >= {"jupyterhub-data", "jupyterhub-audit"}
    assert "jupyterhub-launcher" not in volumes
    assert not site.docker.volumes(filters={"label": "org.xnat.jupyterhub.scratch"})["Volumes"]
    wait_for("end of the notebook's container", lambda: not site.docker.containers(filters=deployed))
    assert "xnat-jupyter-cleanup" not in site.on_node("ls", "/usr/local/sbin", "/etc/systemd/system")
    assert "edge-jupyterhub" not in firewall(site)
    site.docker.remove_service(other_deployment)
    last = plays.play("playbooks/remove.yml")
    before, _, after = last.text.partition("PLAY [Remove the firewall rules]")
    assert "changed:" not in before  # a second run changes nothing else
    assert "changed:" in after
    left = firewall(site)
    assert "firewall" not in left
    assert "xnat_jupyter" not in left
    assert "xnat-jupyter.conf" not in left

    # The engine of the only manager is started again, and its swarm taken up: the node does not count as unlisted.
    nodes = site.docker.nodes()
    site.on_node("systemctl", "stop", "docker.socket", "docker.service")
    plays.play(*DEPLOY, "-e", "xnat_jupyterhub_purge=false")  # this launch's environment is the tests' own
    again = site.docker.nodes()
    assert [(node["ID"], node["Spec"]["Availability"], node["Spec"]["Role"]) for node in again] == [
        (node["ID"], "active", "manager") for node in nodes
    ]
    timer = ("systemctl", "is-active", "xnat-jupyter-cleanup-jupyterhub.timer")
    assert site.on_node(*timer).strip() == "active"
    second = site.launch()
    assert site.outcome(second), site.hub_log(second.began)
    assert site.run(second, "cat /workspace/jdoe/kept") == (0, "kept\n")
    site.stop(second)


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
