"""The recommendations of the CIS Docker Benchmark for a node, its engine and its containers.

Each check returns what does not follow a recommendation. docs/hardening.md gives the reason for each one that the
project does not follow; a check fails if it finds something without a reason, and if a reason is no longer needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from tests.site.conftest import ROOT, Site

Container = dict[str, Any]
Check = Callable[["Node"], list[str]]
NUMBERS = re.compile(r"^\| ([\d., ]+) \|", re.M)  # the first column of the table of reasons
CHECKS: dict[str, Check] = {}


class Node:
    """The node with all containers that run on it, one of them a notebook."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.info = site.docker.info()
        self.options: dict[str, Any] = json.loads(self.run("cat /etc/docker/daemon.json"))
        self.containers = [site.docker.inspect_container(found["Id"]) for found in site.docker.containers()]

    def run(self, command: str) -> str:
        """Return the output of a shell command on the node."""
        return self.site.on_node("sh", "-c", command)

    def where(self, wrong: Callable[[Container], object]) -> list[str]:
        """Return the names of the containers for which `wrong` is true."""
        return [_name(container) for container in self.containers if wrong(container)]

    def host(self, wrong: Callable[[dict[str, Any]], object]) -> list[str]:
        """Return the names of the containers for whose `HostConfig` `wrong` is true."""
        return self.where(lambda container: wrong(container["HostConfig"]))

    def files(self, mode: str, *paths: str) -> list[str]:
        """Return those existing paths that belong to others than root or have more permissions than `mode`, octal."""
        found = []
        for path in paths:
            seen = self.run(f"stat -L -c '%U %a' {path} 2>/dev/null || true").split()
            if seen and (seen[0] != "root" or int(seen[1], 8) & ~int(mode, 8)):
                found.append(f"{path} {' '.join(seen)}")
        return found


def check(*numbers: str) -> Callable[[Check], Check]:
    """Register a check under its numbers in the benchmark's version 1.6."""

    def register(function: Check) -> Check:
        CHECKS.update(dict.fromkeys(numbers, function))
        return function

    return register


def _name(container: Container) -> str:
    labels = container["Config"]["Labels"] or {}
    if "org.xnat.jupyterhub.user" in labels:
        return "notebook"
    return str(labels.get("com.docker.swarm.service.name") or container["Name"].lstrip("/"))


@check("1.1.1")
def own_partition(node: Node) -> list[str]:
    """Docker's directory is a file system of its own."""
    return node.run("mountpoint -q /var/lib/docker || echo /var/lib/docker").split()


@check("1.1.2")
def docker_group(node: Node) -> list[str]:
    """Nobody is in the group of Docker's socket."""
    return [name for name in node.run("getent group docker | cut -d: -f4").strip().split(",") if name]


@check("1.1.3", "1.1.4", "1.1.5", "1.1.6", "1.1.7", "1.1.8", "1.1.9", "1.1.14", "1.1.15", "1.1.17", "1.1.18")
def audited(node: Node) -> list[str]:
    """The system's auditd watches the engine and its files."""
    return [] if "docker" in node.run("cat /etc/audit/rules.d/* 2>/dev/null || true") else ["auditd"]


@check("2.1")
def rootless(node: Node) -> list[str]:
    """The engine runs without root."""
    return [] if any("rootless" in option for option in node.info["SecurityOptions"]) else ["engine"]


@check("2.2")
def default_bridge(node: Node) -> list[str]:
    """Containers on the default bridge do not reach each other."""
    options = node.site.docker.inspect_network("bridge")["Options"]
    return [] if options["com.docker.network.bridge.enable_icc"] == "false" else ["default bridge"]


@check("2.3")
def log_level(node: Node) -> list[str]:
    """The engine's log has the level info."""
    return [] if node.options.get("log-level", "info") == "info" else ["log-level"]


@check("2.4")
def packet_filter(node: Node) -> list[str]:
    """The engine may change the packet filter."""
    return [] if node.options.get("iptables", True) else ["iptables"]


@check("2.5")
def insecure_registries(node: Node) -> list[str]:
    """The engine checks the certificate of each registry but those on the node itself."""
    registries = node.info["RegistryConfig"]
    extra = [cidr for cidr in registries["InsecureRegistryCIDRs"] if cidr not in ("127.0.0.0/8", "::1/128")]
    return extra + [name for name, found in registries["IndexConfigs"].items() if not found["Secure"]]


@check("2.6")
def storage_driver(node: Node) -> list[str]:
    """The storage driver is not aufs."""
    return [node.info["Driver"]] if node.info["Driver"] == "aufs" else []


@check("2.7")
def remote_api(node: Node) -> list[str]:
    """The engine does not listen on TCP."""
    return [host for host in node.options.get("hosts", []) if host.startswith("tcp")] + re.findall(
        r"tcp://\S+", node.run("tr '\\0' ' ' </proc/$(pidof dockerd)/cmdline")
    )


@check("2.8", "5.19")
def default_ulimits(node: Node) -> list[str]:
    """Limits of open files and processes per user have defaults."""
    return [] if node.options.get("default-ulimits") else ["engine"]


@check("2.9", "5.31")
def user_namespaces(node: Node) -> list[str]:
    """Root in a container is not root of the node."""
    return [] if any("userns" in option for option in node.info["SecurityOptions"]) else ["engine"]


@check("2.10", "5.25")
def cgroup_parent(node: Node) -> list[str]:
    """All containers are in the engine's default cgroup."""
    found = ["engine"] if "cgroup-parent" in node.options else []
    return found + node.host(lambda host: host["CgroupParent"])


@check("2.12")
def authorization(node: Node) -> list[str]:
    """A plugin decides who may use the engine."""
    return [] if node.info["Plugins"].get("Authorization") else ["engine"]


@check("2.13")
def central_log(node: Node) -> list[str]:
    """Logs leave the node."""
    return ["engine"] if node.info["LoggingDriver"] in ("json-file", "local") else []


@check("2.14", "5.26")
def new_privileges(node: Node) -> list[str]:
    """No process in a container gains privileges."""
    if node.options.get("no-new-privileges"):
        return []
    return node.host(lambda host: "no-new-privileges" not in (host["SecurityOpt"] or []))


@check("2.15")
def live_restore(node: Node) -> list[str]:
    """Containers live on while the engine is restarted."""
    return [] if node.info["LiveRestoreEnabled"] else ["engine"]


@check("2.16")
def userland_proxy(node: Node) -> list[str]:
    """Ports are published by the kernel, not by a process."""
    return ["engine"] if node.options.get("userland-proxy", True) else []


@check("2.17", "5.22")
def seccomp(node: Node) -> list[str]:
    """System calls are filtered, by the engine's own profile and in every container."""
    found = [] if any("name=seccomp" in option for option in node.info["SecurityOptions"]) else ["engine"]
    return found + node.host(lambda host: "seccomp=unconfined" in (host["SecurityOpt"] or []))


@check("2.18")
def experimental(node: Node) -> list[str]:
    """The engine has no experimental functions."""
    return ["engine"] if node.info["ExperimentalBuild"] else []


@check("3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "3.7", "3.8", "3.17", "3.18", "3.19", "3.20")
def files_of_root(node: Node) -> list[str]:
    """Units, configuration and certificates belong to root, and only root writes them."""
    units = node.run("systemctl show -P FragmentPath docker.service docker.socket containerd.service").split()
    return node.files(
        "755",
        *units,
        "/etc/docker",
        "/etc/docker/daemon.json",
        "/etc/docker/certs.d",
        "/etc/default/docker",
        "/usr/bin/dockerd",
    )


@check("3.15", "3.16", "3.23", "3.24")
def socket(node: Node) -> list[str]:
    """Docker's socket belongs to root and its group."""
    return node.files("660", "/run/docker.sock") + node.files("660", "/run/containerd/containerd.sock")


@check("4.1")
def root_in_container(node: Node) -> list[str]:
    """No container runs as root."""
    return node.where(lambda container: container["Config"]["User"].split(":")[0] in ("", "0", "root"))


@check("4.5")
def content_trust(node: Node) -> list[str]:
    """Images from a registry are named by their digest."""
    own = "localhost/xnat-jupyter/"
    return node.where(
        lambda container: (
            not container["Config"]["Image"].startswith(own) and "@sha256:" not in container["Config"]["Image"]
        )
    )


@check("4.6", "5.27")
def health_check(node: Node) -> list[str]:
    """Every container has a health check."""
    return node.where(
        lambda container: (container["Config"].get("Healthcheck") or {"Test": ["NONE"]})["Test"] == ["NONE"]
    )


@check("5.2")
def app_armor(node: Node) -> list[str]:
    """AppArmor confines every container, where the kernel has it."""
    if not node.run("test -e /sys/kernel/security/apparmor && echo yes || true").strip():
        return []
    if not any("name=apparmor" in option for option in node.info["SecurityOptions"]):
        return ["engine"]
    return node.where(lambda container: container["AppArmorProfile"] in ("", "unconfined"))


@check("5.3")
def selinux(node: Node) -> list[str]:
    """SELinux confines every container, where the kernel has it."""
    has = node.run("test -e /sys/fs/selinux/enforce && echo yes || true").strip()
    return ["engine"] if has and not any("selinux" in option for option in node.info["SecurityOptions"]) else []


@check("5.4")
def capabilities(node: Node) -> list[str]:
    """No container has a capability."""
    return node.host(lambda host: host["CapAdd"] or "ALL" not in (host["CapDrop"] or []))


@check("5.5")
def privileged(node: Node) -> list[str]:
    """No container is privileged."""
    return node.host(lambda host: host["Privileged"])


@check("5.6", "5.32")
def sensitive_directories(node: Node) -> list[str]:
    """No directory of the node's system and no socket of the engine is mounted."""
    system = ("/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/run", "/var/run")
    return node.where(
        lambda container: any(
            mount["Type"] == "bind" and (mount["Source"] == "/" or mount["Source"].startswith(system))
            for mount in container["Mounts"]
        )
    )


@check("5.7")
def secure_shell(node: Node) -> list[str]:
    """No container runs an ssh server."""
    return node.where(
        lambda container: any(
            "sshd" in " ".join(row) for row in (node.site.docker.top(container["Id"])["Processes"] or [])
        )
    )


@check("5.8", "5.9")
def published_ports(node: Node) -> list[str]:
    """Only edge, proxy, demo XNAT and registry publish a port, or a relay for them; only the edge one below 1024."""
    allowed = {
        f"jupyterhub-{name}" for name in ("edge", "proxy", "proxy-relay", "demo-xnat", "demo-xnat-relay", "registry")
    }

    def wrong(container: Container) -> bool:
        ports = [int(one["HostPort"]) for many in container["NetworkSettings"]["Ports"].values() for one in many or []]
        name = _name(container)
        return bool(ports) and (name not in allowed or (min(ports) < 1024 and name != "jupyterhub-edge"))

    return node.where(wrong)


@check("5.10", "5.16", "5.17", "5.21")
def own_namespaces(node: Node) -> list[str]:
    """No container shares a namespace of the node."""
    return node.host(lambda host: "host" in (host["NetworkMode"], host["PidMode"], host["IpcMode"], host["UTSMode"]))


@check("5.12")
def cpus(node: Node) -> list[str]:
    """Every container has a limit of CPUs."""
    return node.host(lambda host: not (host["NanoCpus"] or host["CpuQuota"]))


@check("5.11")
def memory(node: Node) -> list[str]:
    """Every container has a limit of memory."""
    return node.host(lambda host: not host["Memory"])


@check("5.13")
def read_only_root(node: Node) -> list[str]:
    """The root file system of every container is read-only."""
    return node.host(lambda host: not host["ReadonlyRootfs"])


@check("5.14")
def bound_address(node: Node) -> list[str]:
    """Ports are published on one address."""

    def wrong(container: Container) -> bool:
        ports = [one["HostIp"] for many in container["NetworkSettings"]["Ports"].values() for one in many or []]
        return any(not address or ip_address(address).is_unspecified for address in ports)

    return node.where(wrong)


@check("5.15")
def restarts(node: Node) -> list[str]:
    """The engine itself restarts no container for ever."""
    return node.host(
        lambda host: host["RestartPolicy"]["Name"] not in ("", "no") and host["RestartPolicy"]["MaximumRetryCount"] == 0
    )


@check("5.18")
def devices(node: Node) -> list[str]:
    """No container has a device of the node."""
    return node.host(lambda host: host["Devices"] or host["DeviceCgroupRules"])


@check("5.20")
def propagation(node: Node) -> list[str]:
    """No mount of a container appears on the node."""
    return node.where(
        lambda container: any(mount["Propagation"] in ("shared", "rshared") for mount in container["Mounts"])
    )


@check("5.28")
def latest(node: Node) -> list[str]:
    """No image is used by a tag that moves."""
    return node.where(lambda container: re.search(r":latest$|^[^:@]+$", container["Config"]["Image"]))


@check("5.29")
def processes(node: Node) -> list[str]:
    """Every container has a limit of processes."""
    return node.host(lambda host: not host["PidsLimit"] or host["PidsLimit"] < 0)


@check("5.30")
def on_default_bridge(node: Node) -> list[str]:
    """No container is on the default bridge."""
    return node.where(lambda container: "bridge" in container["NetworkSettings"]["Networks"])


@check("6.1", "6.2")
def leftovers(node: Node) -> list[str]:
    """The node keeps at most three stopped containers of a service."""
    stopped = node.site.docker.containers(all=True, filters={"status": ["exited"]})
    return [f"{len(stopped)} stopped containers"] if len(stopped) > 3 * len(node.containers) else []


@check("7.2")
def swarm_address(node: Node) -> list[str]:
    """The swarm's ports listen on one address only."""
    return re.findall(r"(?:0\.0\.0\.0|\*|\[::\]):(?:2377|7946)", node.run("ss -Hltn 2>/dev/null || true"))[:1]


@check("7.3")
def encrypted(node: Node) -> list[str]:
    """The overlay networks are encrypted."""
    ours = node.site.docker.networks(filters={"label": "org.xnat.jupyterhub.deployment"})
    return [network["Name"] for network in ours if "encrypted" not in (network["Options"] or {})]


@check("7.4")
def secrets(node: Node) -> list[str]:
    """No variable of a container of ours is a secret."""
    words = re.compile(r"(TOKEN|PASSWORD|SECRET|PWD|KEY)=.", re.I)
    allowed = ("JUPYTERHUB_ALLOW_TOKEN_IN_URL=1",)
    return node.where(
        lambda container: any(words.search(one) and one not in allowed for one in container["Config"]["Env"] or [])
    )


@check("7.5")
def autolock(node: Node) -> list[str]:
    """Managers are locked after a restart."""
    return [] if node.site.docker.inspect_swarm()["Spec"]["EncryptionConfig"]["AutoLockManagers"] else ["swarm"]


@check("7.7")
def node_certificates(node: Node) -> list[str]:
    """Certificates of nodes are replaced within 90 days."""
    expiry = node.site.docker.inspect_swarm()["Spec"]["CAConfig"]["NodeCertExpiry"]
    return [] if expiry <= 90 * 24 * 3600 * 10**9 else ["swarm"]


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[Node]:
    """The node while a notebook runs on it."""
    server = site.launch()
    assert site.outcome(server)
    yield Node(site)
    site.stop(server)


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    """The notebook runs for all checks of this file."""


REASONS = {number for cell in NUMBERS.findall((ROOT / "docs/hardening.md").read_text()) for number in cell.split(", ")}


@pytest.mark.parametrize("number", CHECKS)
def test_a_recommendation_is_followed_or_has_its_reason(node: Node, number: str) -> None:
    """docs/hardening.md gives reasons for what is found here, and for nothing else."""
    found = sorted(set(CHECKS[number](node)))
    if number in REASONS:
        assert found, f"{number} is followed: remove its reason from docs/hardening.md"
    else:
        assert not found, f"{number}, {CHECKS[number].__doc__}: not so for {', '.join(found)}"


def test_every_reason_belongs_to_a_check() -> None:
    """A reason is given under the number of a check."""
    assert set(CHECKS) >= REASONS
