"""What launcher, hub, proxy and demo XNAT may do on their node, and how the hub takes over files of its former user."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from tests.site.conftest import ROOT, Playbooks, Site, wait_for

HUB_YML = "playbooks/hub.yml"
HUB_UID, DEMO_UID = 60900, 1500
VOLUME = "/var/lib/docker/volumes/jupyterhub-data/_data"
LAUNCHER_VOLUME = "/var/lib/docker/volumes/jupyterhub-launcher/_data"
SOCKET = "/var/run/docker.sock"


def service(site: Site, name: str) -> dict[str, Any]:
    (found,) = [each for each in site.docker.services() if each["Spec"]["Name"] == name]
    return dict(found["Spec"]["TaskTemplate"])


@pytest.mark.parametrize(
    ("name", "uid"),
    [
        pytest.param("jupyterhub-launcher", 0, id="launcher"),
        pytest.param("jupyterhub-hub", HUB_UID, id="hub"),
        pytest.param("jupyterhub-proxy", HUB_UID, id="proxy"),
        pytest.param("jupyterhub-gate", HUB_UID, id="gate"),
        pytest.param("jupyterhub-names", HUB_UID, id="names"),
        pytest.param("jupyterhub-squid", HUB_UID, id="squid"),
        pytest.param("jupyterhub-demo-xnat", DEMO_UID, id="demo-xnat"),
    ],
)
def test_a_service_has_the_rights_that_it_needs_and_no_others(site: Site, name: str, uid: int) -> None:
    spec = service(site, name)
    container = spec["ContainerSpec"]
    assert container["CapabilityDrop"] == ["ALL"]
    assert container["ReadOnly"] is True
    for side in ("Limits", "Reservations"):
        assert spec["Resources"][side]["MemoryBytes"] > 0
        assert spec["Resources"][side]["NanoCPUs"] > 0
    files = [*container.get("Secrets", ()), *container.get("Configs", ())]
    assert files
    assert {file["File"]["Mode"] for file in files} <= {0o400, 0o444}
    (running,) = site.docker.containers(filters={"label": f"com.docker.swarm.service.name={name}"})
    pid = site.docker.inspect_container(running["Id"])["State"]["Pid"]  # of the init, which starts the service
    status = site.on_node("sh", "-c", f"cat /proc/$(pgrep -P {pid} | head -n 1)/status")
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert values["NoNewPrivs"] == "1"
    assert values["Uid"].split() == [str(uid)] * 4
    assert int(values["CapBnd"], 16) == int(values["CapEff"], 16) == 0


def test_the_launcher_alone_has_dockers_socket_and_the_service_password(site: Site) -> None:
    hub, launcher = (service(site, f"jupyterhub-{name}")["ContainerSpec"] for name in ("hub", "launcher"))
    secrets = {name: {file["File"]["Name"] for file in spec["Secrets"]} for name, spec in
               (("hub", hub), ("launcher", launcher))}  # fmt: skip
    assert "xnat_password" in secrets["launcher"]
    assert secrets["hub"] == {"cookie_secret", "proxy_token", "service_token"}
    assert not secrets["launcher"] & secrets["hub"]
    assert {SOCKET, "jupyterhub-audit"} < {mount.get("Source") for mount in launcher["Mounts"]}
    mounts = {mount["Target"]: mount for mount in hub["Mounts"]}
    assert set(mounts) == {"/srv/jupyterhub", "/run/xnat-launcher", "/tmp"}
    assert {mount["Type"] for mount in mounts.values()} == {"volume", "tmpfs"}
    assert mounts["/run/xnat-launcher"]["ReadOnly"] is True
    assert not hub.get("Groups")
    assert launcher["Groups"] == [str(HUB_UID)]


def test_the_hub_connects_to_the_launcher_and_cannot_take_its_place(site: Site) -> None:
    (running,) = site.docker.containers(filters={"label": "com.docker.swarm.service.name=jupyterhub-hub"})
    owners = site.on_node("stat", "-c", "%u:%g %a", LAUNCHER_VOLUME, f"{LAUNCHER_VOLUME}/launcher.sock").split("\n")
    assert owners[:2] == ["0:0 755", f"0:{HUB_UID} 660"]
    code = f"""
import os, socket
place = "/run/xnat-launcher/launcher.sock"
socket.socket(socket.AF_UNIX).connect(place)
try:
    os.unlink(place)
except OSError as error:
    print(error.errno == {errno.EROFS})
print(any(map(os.path.exists, ("{SOCKET}", "/run/docker.sock", "/run/secrets/xnat_password"))))
"""
    made = site.docker.exec_create(running["Id"], ["python3", "-c", code])
    assert site.docker.exec_start(made["Id"]).decode().split() == ["True", "False"]


def test_a_database_of_the_user_that_the_hub_was_is_taken_over(site: Site) -> None:
    plays = Playbooks(ROOT / "molecule/inventory")
    site.on_node("sh", "-c", f"chown -R 1000:1000 {VOLUME} && chmod 600 {VOLUME}/* && chmod 700 {VOLUME}")
    assert plays.play(HUB_YML).changed() == {"node0"}
    (running,) = site.docker.containers(filters={"label": "com.docker.swarm.service.name=jupyterhub-hub"})
    site.docker.kill(running["Id"])
    wait_for("hub", site.answers, 90)
    server = site.launch()
    assert site.outcome(server)
    site.stop(server)
    owners = site.on_node("stat", "-c", "%u %a", VOLUME, f"{VOLUME}/jupyterhub.sqlite").split("\n")
    assert owners[:2] == ["1000 777", "1000 666"]  # so the user that the hub was could come back
    assert plays.play(HUB_YML).changed() == set()
