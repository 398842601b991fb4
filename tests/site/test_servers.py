"""The life of a server on a real swarm (docs/xnat-contract.md, 2.4 to 2.7, 6.15, 6.16)."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from docker.types import IPAMConfig, IPAMPool
from xnat_launcher.diagnostics import without_address
from xnat_launcher.docker import Docker
from xnat_launcher.service import service_name
from xnat_launcher.swarm import Addresses, Swarm, Task

from tests.site.conftest import FEATHER, LABEL, Server, Site, wait_for

IPAM = IPAMConfig(pool_configs=[IPAMPool(subnet="10.199.0.0/29")])
AT_ONCE = 10  # seconds within which XNAT sees a failed start as such (2.4)


def constraint(key: str, value: str) -> list[dict[str, Any]]:
    return [{"key": key, "operator": "IN", "values": [value]}]


def mount(source: str, target: str, read_only: bool = True) -> dict[str, Any]:
    return {"mounts": [{"volumeName": "", "localPath": source, "containerPath": target, "readOnly": read_only}]}


def variables(**values: str) -> dict[str, Any]:
    return {"environmentVariables": [{"key": name, "value": value} for name, value in values.items()]}


NO_IMAGE = "localhost/xnat-jupyter/none:1"
SEVERAL = [{"key": "node.role", "operator": "IN", "values": ["worker", "manager"]}]
HOPELESS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "image": ({"image": NO_IMAGE}, {}, f"container_spec.image is '{NO_IMAGE}'"),
    "command": ({"command": "no-such-command --x"}, {}, "the image has no such command (exit code 127)"),
    "no program": ({"command": "/etc/passwd"}, {}, "cannot be executed (exit code 126)"),
    "large variable": (variables(BIG="x" * 2**17), {}, f"container_spec.env.BIG is {2**17 + 5} bytes"),
    "many variables": (variables(**{f"A{n}": "x" * 10**5 for n in range(6)}), {}, "container_spec.env is 600"),
    "exit": ({"command": "sh -c 'exit 3'"}, {}, "it ended on node node0 with exit code 3"),
    "memory": ({"command": "tail /dev/zero"}, {"memoryLimit": "32M"}, "its memory limit was reached"),
    "label": ({}, {"constraints": constraint("node.labels.gpu", "true")}, "no node has label gpu=true"),
    "cpus": ({}, {"cpuReservation": 640.0}, "resources.cpu_reservation is 640.0 CPUs: this site allows at most"),
    "too much memory": ({}, {"memoryReservation": "900G"}, "no node has 900 GiB of memory, the largest has"),
    "generic": ({}, {"genericResources": [{"name": "gpu", "value": "1"}]}, "no node has a gpu"),
    "outside": (mount("/etc", "/data/etc"), {}, "/etc (for /data/etc) lies outside the directories"),
    "socket": (mount("/var/run/docker.sock", "/data/d"), {}, "lies outside the directories"),
    "template": (mount("/srv/atlases/{{.Node.Hostname}}", "/opt/a"), {}, "'{{', which Swarm would expand"),
    "template on top": (mount("/srv/atlases/a", '/opt/{{"."}}{{"."}}/a'), {}, "'{{', which Swarm would expand"),
    "deeper workspace": (
        mount("/srv/xnat-demo/workspaces/users/jdoe/sub", "/data/sub", False),
        {},
        "is not users/jdoe of workspaces",
    ),
    "missing": (mount("/srv/atlases/none", "/opt/none"), {}, "/srv/atlases/none does not exist on node node0"),
    "writable": (mount("/srv/atlases/a", "/opt/a", False), {}, "must be mounted read-only"),
    "odd memory": ({}, {"memoryLimit": "8 bananas"}, "resources.mem_limit is '8 bananas'"),
    "ceiling": ({}, {"memoryLimit": "2T"}, f"resources.mem_limit is {2**41} bytes: this site allows at most {2**40}"),
    "two values": ({}, {"constraints": SEVERAL}, "which no node fulfils"),
}


@pytest.mark.parametrize(("environment", "hardware", "words"), HOPELESS.values(), ids=HOPELESS)
def test_a_launch_that_cannot_run_ends_at_once_and_the_hub_says_why(
    site: Site, environment: dict[str, Any], hardware: dict[str, Any], words: str
) -> None:
    server = site.launch(environment=site.environment(**environment), hardware=site.hardware(**hardware))
    assert not site.outcome(server, AT_ONCE + 5)
    wait_for(f"{words!r} in the hub's log", lambda: words in site.hub_log(server.began), 5)
    assert server.name not in site.servers("jdoe")


def test_what_a_failed_server_wrote_last_is_in_the_log_without_its_secrets(site: Site) -> None:
    command = """sh -c 'echo because of this; echo "$XNAT_PASS"; echo "$JUPYTERHUB_API_TOKEN"; exit 3'"""
    server = site.launch(environment=site.environment(command=command))
    assert not site.outcome(server)
    log = wait_for("log", lambda: "because of this" in (text := site.hub_log(server.began)) and text)
    assert log.partition("because of this")[2].split()[:2] == ["***", "***"]


def test_servers_start_and_stop_at_once_and_leave_nothing(site: Site) -> None:
    people = ["jdoe", "jdoe", "JDoe", "JDoe"]
    items: dict[str, dict[str, Any]] = {"jdoe": {}, "JDoe": {"itemId": "XNAT_E00005", "projectId": "DEMO_CT"}}
    for user in items:  # XNAT fails at the second of two first launches of somebody whom the hub does not know
        assert site.browser(user)[1].status_code == 200
    servers = [site.launch(user, **items[user]) for user in people]
    assert all(site.outcome(server) for server in servers)
    assert len({service["Spec"]["Name"] for service in site.services()}) == 4
    together([functools.partial(site.stop, server) for server in servers])


def test_a_server_that_is_stopped_while_it_starts_leaves_nothing(site: Site) -> None:
    server = site.launch(environment=site.environment(command="sleep 1000"))
    wait_for("container", lambda: site.services())
    site.stop(server)
    wait_for("removal", lambda: not site.left(), 30)


def test_a_second_start_and_a_second_stop_do_no_harm(site: Site) -> None:
    server = site.launch()
    wait_for("start", lambda: server.name in site.servers("jdoe"))
    url = f"{site.hub}hub/api/users/jdoe/servers/{server.name}"
    codes: list[int] = []
    together([lambda: codes.append(site.ask("POST", url, json={}).status_code)] * 3)
    assert site.outcome(server)
    assert set(codes) <= {201, 202, 400}
    assert len(site.services()) == 1
    codes.clear()
    together([lambda: codes.append(site.ask("DELETE", url, json={"remove": True}).status_code)] * 3)
    assert set(codes) <= {202, 204, 404}
    wait_for("removal", lambda: not site.left() and server.name not in site.servers("jdoe", stopped=True), 30)


def ready(site: Site, **changes: Any) -> Server:
    server = site.launch(**changes)
    assert site.outcome(server)
    return server


def test_servers_that_ended_or_were_removed_are_noticed_and_leave_the_list(site: Site) -> None:
    ending = ready(site, environment=site.environment(command="timeout 8 python3 -m http.server 8888"))
    removed = ready(site)
    site.docker.remove_service(site.service(removed)["ID"])
    both = {ending.name, removed.name}
    wait_for("notice", lambda: not both & set(site.servers("jdoe")), 60)
    wait_for("pruning", lambda: not both & set(site.servers("jdoe", stopped=True)), 60)
    assert "its service was removed" in site.hub_log(removed.began)


def test_what_no_server_owns_is_reaped_but_not_what_is_anothers(site: Site) -> None:
    mine = {f"{LABEL}.deployment": "jupyterhub", f"{LABEL}.user": "nobody", f"{LABEL}.server": "s"}
    other = mine | {f"{LABEL}.deployment": "other"}
    container = {"Image": site.image("base"), "Command": ["sleep", "1000"]}
    for name, labels in ((service_name("jupyterhub", "nobody", "s"), mine), ("other", other)):
        site.docker.create_secret(f"{name}-env", b"x", labels=labels)
        site.docker.create_service({"ContainerSpec": container}, name=name, labels=labels)
    try:
        wait_for("reaping", lambda: not site.left(), 60)
    finally:
        (kept,) = site.docker.services(filters={"name": "other"})
        site.docker.remove_service(kept["ID"])
        (secret,) = site.docker.secrets(filters={"name": "other-env"})
        site.docker.remove_secret(secret["ID"])


def test_a_hub_killed_during_a_start_leaves_nothing(site: Site) -> None:
    server = site.launch(environment=site.environment(command="sleep 1000"))
    wait_for("service", lambda: site.services())
    for container in site.docker.containers(filters={"label": ["com.docker.swarm.service.name=jupyterhub-hub"]}):
        site.docker.kill(container["Id"])
    wait_for("hub", lambda: site.ask("GET", f"{site.hub}hub/api/").status_code == 200, 90)
    wait_for("clean-up", lambda: not site.left(), 120)
    wait_for("end in the hub", lambda: server.name not in site.servers("jdoe"))


def test_a_stop_while_the_launcher_restarts_is_not_lost(site: Site) -> None:
    server = ready(site)
    (launcher,) = site.docker.containers(filters={"label": ["com.docker.swarm.service.name=jupyterhub-launcher"]})
    site.docker.kill(launcher["Id"])
    site.stop(server)
    wait_for("removal", lambda: not site.left())
    owned = [token["note"] for token in site.ask("GET", f"{site.hub}hub/api/users/jdoe/tokens").json()["api_tokens"]]
    assert [note for note in owned if server.name in note] == []


def test_a_container_sees_no_submount_and_cannot_write_below_read_only_data(site: Site) -> None:
    session = site.on_node("sh", "-c", "ls -d /srv/xnat-demo/archive/DEMO_MR/arc001/*").split()[0]
    label = session.rpartition("/")[2]
    site.on_node("mkdir", "-p", f"{session}/below")
    site.on_node("mount", "-t", "tmpfs", "tmpfs", f"{session}/below")
    site.on_node("sh", "-c", f"chmod 777 {session}/below; echo x > {session}/below/hidden")
    try:
        server = ready(site)
        target = f"/data/projects/DEMO_MR/experiments/{label}"
        code, seen = site.run(server, f"ls {target}/below; touch {target}/below/new; touch {target}/new")
        assert "hidden" not in seen
        assert seen.count("Read-only file system") == 2
        assert code != 0
        site.on_node(
            "sh", "-c", f"mkdir -p {session}/later && mount -t tmpfs tmpfs {session}/later && touch {session}/later/f"
        )
        assert "f" not in site.run(server, f"ls {target}/later")[1].split()
        site.stop(server)
    finally:
        site.on_node(
            "sh", "-c", f"umount {session}/below; umount {session}/later; rmdir {session}/below {session}/later; true"
        )


def test_the_container_is_closed(site: Site) -> None:
    server = ready(site)
    code, text = site.run(server, "id; cat /proc/1/status; ls -l /run/secrets; cat /proc/1/comm")
    assert code == 0
    assert "uid=1500" in text
    assert "CapBnd:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert "jdoe" not in site.service(server)["Spec"]["Name"]  # which its neighbours can look up
    assert "jdoe" not in site.run(server, "hostname; cat /etc/hosts")[1]
    inspected = str(site.service(server))
    assert "XNAT_PASS" not in inspected
    assert "JUPYTERHUB_API_TOKEN" not in inspected
    site.stop(server)


def test_variables_and_arguments_arrive_as_xnat_sent_them_and_are_not_shown(site: Site) -> None:
    # Swarm expands templates in a service's variables, on the node (swarmkit's template/expand.go).
    values = {
        "DATABASE_URL": 'postgres://u:{{.Node.Hostname}}@h/{{"{{"}}',
        "BROKEN": "{{nonsense",
        "QUOTED": 'it\'s $HOME `id` \\ "x"',
        "NVIDIA_DRIVER_CAPABILITIES": "{{.Service.Name}}{{{",  # one that stays in the service
    }
    command = f"{FEATHER} --bind 0.0.0.0 --directory '/tmp/{{{{.Node.Hostname}}}}'"
    server = ready(site, environment=site.environment(command=command, **variables(**values)))
    script = (
        "for p in /proc/[0-9]*; do grep -qa http.server $p/cmdline && cat $p/environ $p/cmdline; done | tr '\\0' '\\n'"
    )
    lines = site.run(server, script)[1].splitlines()
    for name, value in values.items():
        assert f"{name}={value}" in lines
    assert "/tmp/{{.Node.Hostname}}" in lines
    inspected = str(site.service(server))
    assert "DATABASE_URL" not in inspected
    assert "nonsense" not in inspected
    site.stop(server)


def test_directories_in_memory_are_shares_of_the_memory_and_low_ports_are_closed(site: Site) -> None:
    server = ready(site, hardware=site.hardware(memoryLimit="256M"))
    script = "df -k /dev/shm /tmp ~; python3 -c 'import socket; socket.socket().bind((\"\", 1023))'"
    code, text = site.run(server, script)
    assert [line.split()[1] for line in text.splitlines()[1:4]] == [
        str(megabytes * 1024) for megabytes in (128, 64, 32)
    ]
    assert code != 0
    assert "PermissionError" in text
    site.stop(server)


# Writes everywhere until nothing more fits, then files without content, then output; ends with the sizes of the latter.
FILL = """
for place in /tmp "$HOME" /dev/shm / /opt /run /var/tmp /home /etc; do
    cat /dev/zero > "$place/full"
done
rm /tmp/full
python3 -c '
import itertools
for number in itertools.count():
    open(f"/tmp/{number}", "w").close()
'
rm -r /tmp/[0-9]*
yes "$(printf %01000d 0)" | head -c 100000000 > /proc/1/fd/1
"""


def test_a_server_that_fills_everything_lives_and_fills_no_disk(site: Site) -> None:
    used = "df --block-size=1M --output=used /var/lib/docker | tail -n 1"
    server = ready(site, hardware=site.hardware(memoryLimit="1G"))
    other = ready(site)
    before = int(site.on_node("sh", "-c", used))
    _, text = site.run(server, FILL)
    assert text.count("No space left on device") == 4
    assert text.count("Read-only file system") == 6
    assert "Permission denied" not in text
    assert int(site.on_node("sh", "-c", used)) - before < 100  # MB; its output may take 30
    assert site.run(server, "echo alive") == (0, "alive\n")
    assert {server.name, other.name} <= set(site.servers("jdoe"))
    for each in (server, other):
        site.stop(each)


def test_a_servers_volumes_are_removed_with_it(site: Site) -> None:
    volumes = functools.partial(site.docker.volumes, filters={"label": f"{LABEL}.scratch=true"})

    def count() -> int:
        return len(volumes()["Volumes"] or ())

    before = count()
    server = ready(site)
    assert count() in (before + 2, before + 4)  # Swarm's agent creates each volume twice, and removes those in use
    # A timer of the node removes the others every hour.
    site.on_node("systemctl", "start", "xnat-jupyter-cleanup-jupyterhub.service")
    assert site.run(server, "touch /tmp/x ~/x && echo alive") == (0, "alive\n")
    site.stop(server)
    wait_for("removal of the used volumes", lambda: count() <= before)


# Its children wait; the first fork that fails ends it.
FORKS = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        made += 1
except OSError as error:
    print(made, error.strerror)
"""


def test_a_fork_bomb_ends_at_the_process_limit(site: Site) -> None:
    limit = 500  # of molecule's inventory
    server = ready(site, hardware=site.hardware(memoryLimit="1G"))
    _, text = site.run(server, f"python3 -c '{FORKS}'")
    made, _, why = text.strip().partition(" ")
    assert limit - 100 < int(made) < limit
    assert why == "Resource temporarily unavailable"
    site.run(server, "bash -c 'bomb() { bomb | bomb & }; bomb' > /dev/null 2>&1")
    other = ready(site)  # which the node still starts
    site.stop(other)
    site.stop(server)


def test_a_server_without_limits_of_xnat_has_the_sites(site: Site) -> None:
    server = ready(site, hardware=site.hardware())
    limits = site.service(server)["Spec"]["TaskTemplate"]["Resources"]["Limits"]
    (node,) = site.docker.nodes()
    most = node["Description"]["Resources"]
    assert 0 < limits["NanoCPUs"] < most["NanoCPUs"]
    assert 0 < limits["MemoryBytes"] < most["MemoryBytes"]
    assert limits["Pids"] > 0
    site.stop(server)


def test_a_network_without_addresses_is_known_by_counting_them(site: Site) -> None:
    # A /29 has five for tasks and nodes. Swarm says nothing of those that get none: they stay new, or preparing where
    # it is the node that has none.
    network = site.docker.create_network("test-small", driver="overlay", ipam=IPAM)
    container = {"Image": site.image("base"), "Command": ["sleep", "1000"]}
    names = [f"test-{number}" for number in range(7)]
    tasks = [f"{name}." for name in names]
    try:
        for name in names:
            site.docker.create_service(
                {"ContainerSpec": container, "Networks": [{"Target": network["Id"]}]},
                name=name,
                endpoint_spec={"Mode": "dnsrr"},
            )

        async def addresses() -> Addresses:
            engine = Docker(site.socket)
            try:
                return await Swarm(engine, "jupyterhub", "test-small").addresses()
            finally:
                await engine.close()

        def words() -> list[tuple[str, str]]:
            found = []
            seen = asyncio.run(addresses())
            for task in site.docker.tasks(filters={"name": tasks}):
                judged = Task(task.get("NodeID", ""), task["DesiredState"], task["Status"])
                reason, final = without_address(judged, seen)
                found += [(judged.state, reason)] if final else []
            return found

        told = wait_for("two tasks without an address", lambda: len(said := words()) >= 2 and said, 30)
        assert "new" in dict(told)
        assert all("the network test-small has no address left" in reason for _, reason in told)
    finally:
        for name in names:
            site.docker.remove_service(name)
        wait_for("the end of the tasks", lambda: not site.docker.tasks(filters={"name": tasks}))
        site.docker.remove_network(network["Id"])


def test_a_page_learns_when_xnat_ends_its_server_and_nobody_else_does(site: Site) -> None:
    server = site.launch()
    assert site.outcome(server), site.hub_log(server.began)
    site.ask("POST", f"{site.hub}hub/api/users/asmith")  # who may be there already
    link = site.link()
    found = site.end(server, link).json()
    limits = {"lifetime": 48 * 3600, "inactivity": 60 * 60}  # as the role sets them in XNAT
    assert {kind: found[kind]["limit"] for kind in limits} == limits
    assert all(limit - 300 < found[kind]["left"] <= limit for kind, limit in limits.items())
    assert found["maintenance"] is None
    assert site.end(server, site.link("asmith")).status_code in (403, 404)
    assert "JUPYTERHUB_XNAT_BUSY_IS_ACTIVITY=1" in site.run(server, "env")[1]
    site.stop(server)
    assert site.end(server, link).status_code == 410


def test_a_start_without_a_server_name_is_refused_in_words(site: Site) -> None:
    site.ask("POST", f"{site.hub}hub/api/users/jdoe")  # who may be there already
    answer = site.ask("POST", f"{site.hub}hub/api/users/jdoe/server", json={})
    assert answer.status_code == 400
    assert answer.json()["message"] == "Servers are started from XNAT: open a project, subject or session there."


def test_an_xnat_that_is_slow_or_broken_ends_a_start_in_words(site: Site) -> None:
    for fault, words in (
        ({"status": 503}, "XNAT failed at the user-options (status 503)"),
        ({"status": 200, "content_type": "text/html", "body": "<html>"}, "with text/html instead of JSON"),
        ({"status": 401}, "XNAT does not accept the service account"),
    ):
        site.faults({"path": "/user-options$", **fault})
        server = site.launch()
        assert not site.outcome(server, AT_ONCE)
        assert words in site.hub_log(server.began)


def together(calls: list[Callable[[], Any]]) -> None:
    """Run all calls at once and wait until they end."""
    failed: list[BaseException] = []

    def work(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
