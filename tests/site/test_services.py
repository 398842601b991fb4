"""What hub, proxy and demo XNAT may do on their node, and what the hub does with files of the user that it was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.site.conftest import ROOT, Playbooks, Site, wait_for

HUB_YML = "playbooks/hub.yml"
HUB_UID, DEMO_UID = 60900, 1500
VOLUME = "/var/lib/docker/volumes/jupyterhub-data/_data"


def service(site: Site, name: str) -> dict[str, Any]:
    (found,) = [each for each in site.docker.services() if each["Spec"]["Name"] == name]
    return dict(found["Spec"]["TaskTemplate"])


@pytest.mark.parametrize(
    ("name", "uid"),
    [("jupyterhub-hub", HUB_UID), ("jupyterhub-proxy", HUB_UID), ("jupyterhub-demo-xnat", DEMO_UID)],
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
