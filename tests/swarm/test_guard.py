"""Two people's notebooks on different nodes, and an engine that is restarted: nothing passes between notebooks."""

from __future__ import annotations

from typing import Any

from tests.site.conftest import wait_for
from tests.site.test_guard import LISTEN, NOTHING, PORTS, address, python, reached
from tests.swarm.conftest import Cluster, Server, Swarm

# What the two people may read.
ITEMS: dict[str, dict[str, Any]] = {"jdoe": {}, "JDoe": {"itemId": "XNAT_E00005", "projectId": "DEMO_CT"}}


def launch(site: Cluster, user: str, node: str) -> Server:
    """Start somebody's notebook on a node, in which everything answers."""
    server = site.launch(user, hardware=site.on_node(node), **ITEMS[user])
    assert site.outcome(server), site.hub_log(server.began)
    python(site, server, LISTEN % (PORTS,), detached=True)
    return server


def guard(site: Cluster, node: str) -> str:
    """Return the id of a node's healthy guard task, empty without one."""
    (found,) = [one for one in site.docker.nodes() if one["Description"]["Hostname"] == node]
    tasks = site.docker.tasks(filters={"service": "jupyterhub-guard", "node": found["ID"], "desired-state": "running"})
    return str(tasks[0]["ID"]) if [task["Status"]["State"] for task in tasks] == ["running"] else ""


def test_notebooks_on_two_nodes_do_not_reach_each_other(site: Cluster) -> None:
    servers = launch(site, "jdoe", "node2"), launch(site, "JDoe", "node3")
    at = {server.user: address(site, site.service(server)["ID"]) for server in servers}
    assert reached(site, servers[0], at["JDoe"]) == NOTHING
    assert reached(site, servers[1], at["jdoe"]) == NOTHING
    hub, proxy = (address(site, f"jupyterhub-{name}") for name in ("hub", "proxy"))
    for server in servers:
        assert reached(site, server, hub)["tcp"] == [8081]
        assert reached(site, server, proxy) == NOTHING
        site.stop(server)


def test_after_a_restart_of_the_engine_notebooks_are_apart_again(site: Cluster, swarm: Swarm) -> None:
    before = guard(site, "node2")
    swarm.on("node2", "systemctl restart docker")
    # Swarm notices the restart only after a while.
    wait_for("new guard on node2", lambda: guard(site, "node2") not in ("", before), 60)
    servers = launch(site, "jdoe", "node2"), launch(site, "JDoe", "node2")
    assert reached(site, servers[0], address(site, site.service(servers[1])["ID"])) == NOTHING
    for server in servers:
        site.stop(server)


def test_no_server_is_placed_on_a_node_whose_guard_does_not_run(site: Cluster, swarm: Swarm) -> None:
    swarm.on(
        "node2",
        "docker tag $(docker images --quiet --filter reference='localhost/xnat-jupyter/guard' | head -n 1) kept:1",
    )
    names = swarm.on("node2", "docker images --format '{{.Repository}}:{{.Tag}}' localhost/xnat-jupyter/guard").split()
    swarm.on("node2", f"docker rmi --force {' '.join(names)}")
    swarm.on("node2", "docker kill $(docker ps --quiet --filter name=jupyterhub-guard)")
    try:
        wait_for("end of the guard", lambda: not guard(site, "node2"), 30)
        server = site.launch(hardware=site.on_node("node2"))
        assert not site.outcome(server)
        assert "apart does not run on node2" in site.hub_log(server.began)
    finally:
        for name in names:
            swarm.on("node2", f"docker tag kept:1 {name}")
        swarm.on("node2", "docker rmi kept:1")
    wait_for("guard on node2", lambda: guard(site, "node2"), 60)
