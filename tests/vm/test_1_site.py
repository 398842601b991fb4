"""The site from nothing, twice, and what its machines then are."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.site.conftest import Playbooks, Run
from tests.vm.conftest import PATIENCE, RealSite, Record
from tests.vm.machines import Machine


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """There is no site yet."""


def test_engines_and_mounts_on_every_node(plays: Playbooks) -> None:
    plays.play("playbooks/nodes.yml", seconds=PATIENCE)


def test_images_come_from_a_disk(machines: dict[str, Machine]) -> None:
    """As molecule's scenario `swarm`: the images were built on the machine around the nodes."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: one.run("docker load --quiet --input /dev/vdb", PATIENCE), machines.values()))


def test_site_from_nothing_with_its_smoke_test(plays: Playbooks, record_property: Record) -> None:
    run = plays.play("site.yml", seconds=PATIENCE)
    record_property("seen", f"{passed(run)} checks of the smoke test")


def test_second_run_changes_nothing_and_its_smoke_test_passes(plays: Playbooks, record_property: Record) -> None:
    run = plays.play("site.yml", seconds=PATIENCE)
    assert run.changed() == set()
    record_property("seen", f"changed=0, {passed(run)} checks of the smoke test")


def passed(run: Run) -> int:
    """Return how many checks of the smoke test have passed, at least one."""
    count = len(re.findall(r"^ +ok {6}", run.text, re.M))
    assert count
    return count


def test_kernels_have_what_containers_lack(machines: dict[str, Machine], record_property: Record) -> None:
    for machine in machines.values():
        assert machine.run("stat --file-system --format %T /sys/fs/cgroup").strip() == "cgroup2fs"
        assert machine.run("cat /sys/module/apparmor/parameters/enabled").strip() == "Y"
        machine.run("modprobe --all ip_vs esp4 vxlan overlay nfs")
    record_property("seen", "cgroup v2, AppArmor, IPVS, ESP, VXLAN, overlay, NFS")


@pytest.mark.parametrize("node", ["vm2", "vm3"])
def test_files_are_on_nfs_and_root_is_nobody_there(machines: dict[str, Machine], node: str) -> None:
    machine = machines[node]
    for name, access in (("archive", "ro"), ("workspaces", "rw")):
        kind, options = machine.run(f"findmnt --noheadings --output FSTYPE,OPTIONS /srv/xnat-demo/{name}").split()
        assert kind == "nfs4"
        assert {access, "vers=4.2", "hard", "nosuid", "nodev"} <= set(options.split(","))
    refused = machine.run("touch /srv/xnat-demo/workspaces/of-root 2>&1 || true")
    assert "Permission denied" in refused  # root_squash
    # The export itself is read-only, whatever a node mounts.
    refused = machine.run(
        "mkdir -p /mnt/try && mount -t nfs4 -o rw vm1:/srv/xnat-demo/archive /mnt/try;"
        " setpriv --reuid 1500 --regid 1500 --clear-groups touch /mnt/try/of-xnat 2>&1; umount /mnt/try"
    )
    assert "Read-only file system" in refused


def test_networks_between_nodes_are_encrypted(site: RealSite, record_property: Record) -> None:
    networks: list[dict[str, Any]] = site.docker.networks(filters={"label": "org.xnat.jupyterhub.deployment"})
    overlays = [one for one in networks if one["Driver"] == "overlay"]
    assert overlays
    assert [one["Name"] for one in overlays if "encrypted" not in (one["Options"] or {})] == []
    used = []
    for machine in site.machines.values():
        others = {one.address for one in site.machines.values()} - {machine.address}
        states = machine.run("ip -s xfrm state")
        assert "proto esp" in states
        peers = set(re.findall(r"^src \S+ dst (\S+)", states, re.M)) - {machine.address}
        assert peers <= others
        carried = sum(int(number) for number in re.findall(r"([0-9]+)\(bytes\)", states))
        used.append(f"{machine.name}: {states.count('proto esp')} ESP states, {carried} bytes")
    record_property("seen", "; ".join(used))
