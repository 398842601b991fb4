#!/usr/bin/python
"""Inspects a node in one call for the decisions of all layers, so that each node costs one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_report
short_description: Inspect a node for the decisions of all layers
description:
  - Inspects system, kernel, Docker Engine and its swarm in one call that needs only Python.
  - Does not access file systems that may hang, and changes nothing.
options:
  deployment:
    description: Value of the label C(org.xnat.jupyterhub.deployment) of our services and containers.
    type: str
    default: ""
  network: {description: Name of the servers' network., type: str, default: ""}
  former_network: {description: Name of the single network of an earlier release., type: str, default: ""}
  ports:
    description: TCP ports to check for other programs.
    type: list
    elements: dict
    default: []
    suboptions:
      port: {description: Number of the port., type: int, required: true}
      purpose: {description: "What will listen there, returned unchanged.", type: str, required: true}
      variable: {description: "The variable that sets the port, returned unchanged.", type: str, required: true}
  user_ids: {description: User ids whose accounts are returned., type: list, elements: int, default: []}
  urls:
    description: Addresses of web services. The ports of those that are on this host are returned.
    type: list
    elements: str
    default: []
  packages: {description: Packages whose version and state are returned., type: list, elements: str, default: []}
  asked_at:
    description: The control node's clock in seconds since 1970, returned unchanged.
    type: float
    default: 0
attributes:
  check_mode: {support: full, description: Changes nothing.}
"""
EXAMPLES = r"""
- name: Inspect the node
  node_report:
    packages: [docker.io]
  register: inspection
"""
RETURN = r"""
report:
  description:
    - C(hostname), C(user_id), C(time), C(asked_at), C(address) (of the default route), C(networks) (those with a route,
      in CIDR notation), C(system), C(architecture), C(memory_mb), C(disk) (C(path), C(free_mb)), C(systemd),
      C(kernel) (its release and features; null if unknown), C(packages), C(accounts) (account names by user id,
      for those of O(user_ids) that have one), C(held_ports) (those of O(ports) that another program uses, with
      C(holder)), C(local_ports) (ports of O(urls) whose host name is this host).
    - C(firewall), the state of the rules that the role node_firewall loads, with C(nft) and C(systemd) (whether they
      are there), C(package_manager) (apt, dnf or empty), C(loaded) (identifies the loaded rules, empty for none),
      C(count) (of these rules), C(sources) (networks that they let in), C(rules), C(unit), C(drop_in) (SHA-256 of the
      files, empty if missing), C(enabled), C(pending) (whether rules are loaded that no run has confirmed), C(bridges)
      (Docker's bridges with unusual names) and C(other_bridges) (interfaces whose names look like Docker's).
    - C(cleanup), what the role node_cleanup has installed for O(deployment), with C(systemd) (whether it is there),
      C(script) (SHA-256 of the file, empty if missing) and C(units), with C(service), C(timer) (likewise), C(enabled)
      and C(active) (whether the timer runs).
    - C(edge), what the role edge has installed for O(deployment), with C(systemd) and C(units) as above, of its timer,
      and C(installed) (whether there is anything).
    - C(keepalived), with C(systemd) (whether it is there), C(installed), and whether its file is that of the role
      floating_address for O(deployment) (C(ours)) or another one (C(other)).
    - C(engine) with C(answers), C(version), C(security) (what confines its containers, such as apparmor and seccomp),
      C(installed), C(options), C(options_broken), C(restart_needed), C(swarm), C(images), C(deployed) (whether it has
      anything of O(deployment)), and on managers C(nodes) and C(network) and C(former_network) (C(driver),
      C(encrypted), C(subnets), empty if it does not exist).
  type: dict
  returned: always
"""

import hashlib
import http.client
import ipaddress
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat_site.floating import mark

LABEL = "org.xnat.jupyterhub.deployment"
SOCKET = "/var/run/docker.sock"
DATA_ROOT = "/var/lib/docker"
OPTIONS_FILE = "/etc/docker/daemon.json"
PID_FILES = ("/run/docker.pid", "/var/run/docker.pid")
BINARIES = ("/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/usr/local/sbin/dockerd")
TIMEOUT = 15
TRIES = 10
LOOKUP_TIMEOUT = 3
FIREWALL_TABLE = "xnat_jupyter"
FIREWALL_RULES = "/etc/xnat-jupyter/firewall.nft"
SYSTEMD = "/run/systemd/system"
UNITS = "/etc/systemd/system"
FIREWALL_UNIT = "/etc/systemd/system/xnat-jupyter-firewall.service"
FIREWALL_DROP_IN = "/etc/systemd/system/nftables.service.d/xnat-jupyter.conf"
FIREWALL_ENABLED = "/etc/systemd/system/sysinit.target.wants/xnat-jupyter-firewall.service"
ACME = "xnat-jupyter-acme"  # with the deployment's name, like the following
EDGE_FILES = ("/etc/xnat-jupyter/edge", f"/var/lib/{ACME}", f"/usr/local/sbin/{ACME}")
KEEPALIVED = "/usr/sbin/keepalived"
KEEPALIVED_FILE = "/etc/keepalived/keepalived.conf"
INTERFACES = "/sys/class/net"
DEFAULT_BRIDGES = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")
FEATURES = ("overlay", "vxlan", "bridge", "veth", "ip_vs", "esp4")


class Engine(http.client.HTTPConnection):
    """Docker's API over its socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


def ask(path: str, url: str) -> Any:
    """Return the JSON of the engine's answer, None if it does not answer or refuses."""
    engine = Engine(path)
    try:
        engine.request("GET", url)
        answer = engine.getresponse()
        body = answer.read()
        return json.loads(body) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        engine.close()


def engine_report(
    path: str, deployment: str, network: str = "", former_network: str = ""
) -> tuple[dict[str, Any], str, list[str]]:
    """Return the state of the Docker Engine, running or not, its data directory, and the ids of our services."""
    services: list[str] = []
    found: dict[str, Any] = {
        "answers": False,
        "installed": any(os.path.exists(binary) for binary in BINARIES),
        "version": "",
        "security": [],
        "swarm": {},
        "images": {},
        "nodes": [],
        "network": {},
        "former_network": {},
        "deployed": False,
        **options_report(),
    }
    info = ask(path, "/info")
    if not info:
        return found, DATA_ROOT, services
    swarm = info.get("Swarm") or {}
    images = {tag: image["Id"] for image in ask(path, "/images/json") or () for tag in image.get("RepoTags") or ()}
    found.update(
        answers=True,
        version=info.get("ServerVersion", ""),
        security=security_report(info.get("SecurityOptions") or ()),
        swarm={
            "state": swarm.get("LocalNodeState", "inactive"),
            "manager": bool(swarm.get("ControlAvailable")),
            "node_id": swarm.get("NodeID", ""),
            "address": swarm.get("NodeAddr", ""),
            "error": swarm.get("Error", ""),
            "cluster": (swarm.get("Cluster") or {}).get("ID", ""),
            "subnet_size": (swarm.get("Cluster") or {}).get("SubnetSize", 0),
            "data_path_port": (swarm.get("Cluster") or {}).get("DataPathPort", 0),
            "managers": [remote["Addr"] for remote in swarm.get("RemoteManagers") or ()],
        },
        images=images,
    )
    ours = quote(json.dumps({"label": [f"{LABEL}={deployment}"]}))
    if swarm.get("ControlAvailable"):
        found["nodes"] = [short_node(node) for node in ask(path, "/nodes") or ()]
        for key, name in (("network", network), ("former_network", former_network)):
            found[key] = short_network(ask(path, f"/networks/{quote(name)}") if name else None)
        services = [service["ID"] for service in ask(path, f"/services?filters={ours}") or ()]
    found["deployed"] = bool(services or ask(path, f"/containers/json?all=true&filters={ours}"))
    return found, info.get("DockerRootDir", DATA_ROOT), services


def security_report(options: Iterable[str]) -> list[str]:
    """Return what confines containers, such as apparmor and seccomp, without what the engine does not enforce.

    options: Docker's, such as `name=seccomp,profile=builtin`; `profile=unconfined` if the engine's settings say so.
    """
    found = [dict(part.partition("=")[::2] for part in option.split(",")) for option in options]
    return sorted(option["name"] for option in found if "name" in option and option.get("profile") != "unconfined")


def short_network(network: dict[str, Any] | None) -> dict[str, Any]:
    """Return driver, subnets and encryption of one of Docker's networks, empty if it does not exist."""
    if not network:
        return {}
    configs = (network.get("IPAM") or {}).get("Config") or ()
    return {
        "driver": network.get("Driver", ""),
        "encrypted": "encrypted" in (network.get("Options") or {}),
        "subnets": [config["Subnet"] for config in configs if config.get("Subnet")],
    }


def short_node(node: dict[str, Any]) -> dict[str, Any]:
    """Return the relevant values of one of Swarm's nodes."""
    return {
        "id": node["ID"],
        "hostname": (node.get("Description") or {}).get("Hostname", ""),
        "role": node["Spec"]["Role"],
        "availability": node["Spec"]["Availability"],
        "labels": node["Spec"].get("Labels") or {},
        "state": node["Status"]["State"],
        "address": node["Status"].get("Addr", ""),
        # The address for joining nodes; unlike the one above, it is not changed by --force-new-cluster.
        "manager_address": (node.get("ManagerStatus") or {}).get("Addr", "").rpartition(":")[0].strip("[]"),
    }


def options_report() -> dict[str, Any]:
    """Return the engine's settings file, and whether the running engine is older than this file or its program."""
    options: dict[str, Any] | None = None
    written = 0.0
    try:
        written = os.stat(OPTIONS_FILE).st_mtime
        found = json.loads(Path(OPTIONS_FILE).read_text() or "{}")
        options = found if isinstance(found, dict) else None
    except (OSError, ValueError):
        pass
    started, replaced = 0.0, False
    for name in PID_FILES:
        try:
            pid = int(Path(name).read_text())
            started = started_at(pid)
            replaced = os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)")
            break
        except (OSError, ValueError):
            continue
    return {
        "options": options,
        "options_broken": options is None and written > 0,
        "restart_needed": bool(started and written > started) or replaced,
    }


def started_at(pid: int) -> float:
    """Return when a process was started, in seconds since 1970."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def system_report() -> dict[str, str]:
    """Return id, like, codename and name from os-release."""
    values: dict[str, str] = {}
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            key, _, value = line.partition("=")
            values[key] = value.strip("\"'")
    except OSError:
        pass
    return {
        "id": values.get("ID", ""),
        "like": values.get("ID_LIKE", ""),
        "codename": values.get("VERSION_CODENAME", ""),
        "name": values.get("PRETTY_NAME", ""),
    }


def feature(name: str) -> bool | None:
    """Return whether the kernel has a feature: loaded, built in or loadable. None if unknown."""
    if os.path.exists(f"/sys/module/{name}") or (name == "ip_vs" and os.path.exists("/proc/net/ip_vs")):
        return True
    if name == "overlay" and re.search(r"\toverlay$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        return True
    modules = Path("/lib/modules") / os.uname().release
    try:
        listed = (modules / "modules.builtin").read_text() + (modules / "modules.dep").read_text()
    except OSError:
        return None
    return bool(re.search(rf"/{name}\.ko", listed))


def own_address() -> str:
    """Return the address of the default route; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def routed_networks(table: str = "/proc/net/route") -> list[str]:
    """Return the IPv4 networks that have their own route, in CIDR notation, without the default route."""
    try:
        lines = Path(table).read_text().splitlines()[1:]
    except OSError:
        return []
    found = set()
    for line in lines:
        _, target, _, _, _, _, _, mask = line.split()[:8]
        network, bits = (int.from_bytes(bytes.fromhex(word)[::-1], "big") for word in (target, mask))
        if bits:
            found.add(f"{socket.inet_ntoa(network.to_bytes(4, 'big'))}/{bits.bit_count()}")
    return sorted(found)


def memory_mb() -> int:
    """Return the memory in MB."""
    match = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return int(match[1]) // 1024 if match else 0


def disk_report(path: str) -> dict[str, Any]:
    """Return the free space of a directory's file system; the directory may not exist yet."""
    place = Path(path)
    while not place.exists():
        place = place.parent
    return {"path": path, "free_mb": shutil.disk_usage(place).free // 10**6}


def package_report(names: list[str], run: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    """Return status, version and hold of each package that the package manager knows."""
    found: dict[str, dict[str, Any]] = {}
    if not names:
        return found
    if shutil.which("dpkg-query"):
        shown = "${Package}\t${db:Status-Status}\t${Version}\t${db:Status-Want}\n"
        _, text, _ = run(["dpkg-query", "--show", f"--showformat={shown}", *names])
    elif shutil.which("rpm"):
        _, text, _ = run(["rpm", "--query", "--queryformat", "%{NAME}\tinstalled\t%{VERSION}-%{RELEASE}\t\n", *names])
    else:
        return found
    for line in text.splitlines():
        parts = line.split("\t")
        if len(parts) == 4:
            found[parts[0]] = {"status": parts[1], "version": parts[2], "held": parts[3] == "hold"}
    return found


def account_report(user_ids: list[int]) -> dict[str, str]:
    """Return the names of the accounts with these ids, by the id as text."""
    found: dict[str, str] = {}
    for user_id in user_ids:
        with suppress(KeyError):
            found[str(user_id)] = pwd.getpwuid(user_id).pw_name
    return found


def held_ports(ports: list[dict[str, Any]], path: str, deployment: str, services: list[str]) -> list[dict[str, Any]]:
    """Return the ports that others use, with the `holder` in words. Our own containers do not count."""
    found: list[dict[str, Any]] = []
    for wanted in ports:
        port = wanted["port"]
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", port))
                continue
            except OSError:
                pass
        containers = publishers(port, path)
        if any(
            container["Labels"].get(LABEL) == deployment
            or container["Labels"].get("com.docker.swarm.service.id") in services
            for container in containers
        ):
            continue
        if containers:
            holder = f"the container {containers[0]['Names'][0].lstrip('/')}"
        else:
            holder = program_on(port) or "another program"
        found.append({**wanted, "holder": holder})
    return found


def publishers(port: int, path: str) -> list[dict[str, Any]]:
    """Return the containers that publish a port. Docker opens the port shortly before it lists a starting container."""
    published = quote(json.dumps({"publish": [str(port)]}))
    for _ in range(TRIES):
        found: list[dict[str, Any]] = ask(path, f"/containers/json?filters={published}") or []
        if found or not program_on(port).startswith("docker-proxy"):
            return found
        time.sleep(1)
    return []


def program_on(port: int) -> str:
    """Return the program that listens on a port, empty if it is unknown."""
    command = ["ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes", f"sport = :{port}"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r'"([^"]+)",pid=(\d+)', text)
    return f"{match[1]} (process {match[2]})" if match else ""


def firewall_report(path: str, run: Callable[..., Any]) -> dict[str, Any]:
    """Return the state of the rules of the role node_firewall, and the interfaces that they depend on."""
    nft = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    bridges = engine_bridges(path)
    interfaces = set(os.listdir(INTERFACES)) if os.path.isdir(INTERFACES) else set()
    usual = {name for name in bridges | interfaces if DEFAULT_BRIDGES.fullmatch(name)}
    found: dict[str, Any] = {
        "nft": bool(nft),
        "package_manager": next((name for name in ("apt", "dnf") if shutil.which(name)), ""),
        "rules": digest(FIREWALL_RULES),
        "unit": digest(FIREWALL_UNIT),
        "drop_in": digest(FIREWALL_DROP_IN),
        "enabled": os.path.lexists(FIREWALL_ENABLED),
        "pending": os.path.exists(f"{FIREWALL_RULES}.new"),
        "bridges": sorted(name for name in bridges - usual if not name.startswith("br-")),
        "other_bridges": sorted(name for name in interfaces - bridges - usual if name.startswith("br-")),
    }
    code, text, _ = run([nft, "--json", "list", "table", "inet", FIREWALL_TABLE]) if nft else (1, "", "")
    return {**found, **loaded_rules(text if code == 0 else "")}


def cleanup_report(deployment: str, run: Callable[..., Any]) -> dict[str, Any]:
    """Return the state of what the role node_cleanup installs."""
    unit = f"xnat-jupyter-cleanup-{deployment}"
    return {"script": digest(f"/usr/local/sbin/{unit}"), "units": timer_report(unit, run)}


def timer_report(unit: str, run: Callable[..., Any]) -> dict[str, Any]:
    """Return the state of a timer that the role systemd_timer installs."""
    enabled = os.path.lexists(f"{UNITS}/timers.target.wants/{unit}.timer")
    asks = enabled and shutil.which("systemctl")
    return {
        "service": digest(f"{UNITS}/{unit}.service"),
        "timer": digest(f"{UNITS}/{unit}.timer"),
        "enabled": enabled,
        "active": bool(asks) and run(["systemctl", "is-active", "--quiet", f"{unit}.timer"])[0] == 0,
    }


def edge_report(deployment: str, run: Callable[..., Any]) -> dict[str, Any]:
    """Return the state of what the role edge installs."""
    units = timer_report(f"{ACME}-{deployment}", run)
    files = any(os.path.lexists(f"{path}-{deployment}") for path in EDGE_FILES)
    return {"installed": files or bool(units["service"] or units["timer"]), "units": units}


def keepalived_report(deployment: str) -> dict[str, Any]:
    """Return whether keepalived is installed, and whose its file is. An empty file is nobody's."""
    try:
        text = Path(KEEPALIVED_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    ours = text.startswith(f"{mark(deployment)}\n")
    return {"installed": os.path.exists(KEEPALIVED), "ours": ours, "other": bool(text.strip()) and not ours}


def digest(path: str) -> str:
    """Return the SHA-256 of a file, empty if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def engine_bridges(path: str) -> set[str]:
    """Return the names of the interfaces of Docker's bridge networks."""
    networks = ask(path, f"/networks?filters={quote(json.dumps({'driver': ['bridge']}))}") or ()
    return {
        (network.get("Options") or {}).get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
        for network in networks
    }


def loaded_rules(text: str) -> dict[str, Any]:
    """Return id, number and sources of the rules that nft lists as JSON; empty ones for no table."""
    loaded, count, sources = "", 0, []
    for item in (json.loads(text) if text.strip() else {}).get("nftables", ()):
        if "chain" in item and item["chain"]["name"].startswith("id_"):
            loaded = item["chain"]["name"].removeprefix("id_")
        elif "rule" in item:
            count += 1
        elif "set" in item:
            sources += [network for element in item["set"].get("elem", ()) for network in set_networks(element)]
    return {"loaded": loaded, "count": count, "sources": sources}


def set_networks(element: Any) -> list[str]:
    """Return the networks of one element of a set: an address, a prefix or a range."""
    if isinstance(element, str):
        return [str(ipaddress.ip_network(element))]
    if "prefix" in element:
        return [f"{element['prefix']['addr']}/{element['prefix']['len']}"]
    first, last = (ipaddress.ip_address(end) for end in element["range"])
    return [str(network) for network in ipaddress.summarize_address_range(first, last)]


def local_ports(urls: list[str]) -> list[int]:
    """Return the ports of the addresses whose host name is this host. Names that no server knows take seconds."""
    found: set[int] = set()

    def look_up(host: str, port: int) -> None:
        with suppress(OSError, UnicodeError):
            for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
                with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
                    probe.bind((address[0], 0))  # refused for the address of another machine
                    found.add(port)

    threads = []
    for url in urls:
        with suppress(ValueError):
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if parts.hostname:
                threads.append(threading.Thread(target=look_up, args=(parts.hostname, port), daemon=True))
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + LOOKUP_TIMEOUT
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return sorted(found.copy())


def main() -> None:
    now = time.time()
    module = AnsibleModule(
        argument_spec={
            "deployment": {"type": "str", "default": ""},
            "network": {"type": "str", "default": ""},
            "former_network": {"type": "str", "default": ""},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "purpose": {"type": "str", "required": True},
                    "variable": {"type": "str", "required": True},
                },
            },
            "user_ids": {"type": "list", "elements": "int", "default": []},
            "urls": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "asked_at": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    engine, data_root, services = engine_report(
        SOCKET, wanted["deployment"], wanted["network"], wanted["former_network"]
    )
    systemd = {"systemd": os.path.isdir(SYSTEMD)}
    report = {
        **systemd,
        "time": now,
        "asked_at": wanted["asked_at"],
        "hostname": socket.gethostname(),
        "user_id": os.geteuid(),
        "address": own_address(),
        "networks": routed_networks(),
        "system": system_report(),
        "architecture": os.uname().machine,
        "memory_mb": memory_mb(),
        "disk": disk_report(data_root),
        "kernel": {"release": os.uname().release, **{name: feature(name) for name in FEATURES}},
        "packages": package_report(wanted["packages"], module.run_command),
        "accounts": account_report(wanted["user_ids"]),
        "held_ports": held_ports(wanted["ports"], SOCKET, wanted["deployment"], services),
        "local_ports": local_ports(wanted["urls"]),
        "firewall": {**systemd, **firewall_report(SOCKET, module.run_command)},
        "cleanup": {**systemd, **cleanup_report(wanted["deployment"], module.run_command)},
        "edge": {**systemd, **edge_report(wanted["deployment"], module.run_command)},
        "keepalived": {**systemd, **keepalived_report(wanted["deployment"])},
        "engine": engine,
    }
    module.exit_json(changed=False, report=report)


if __name__ == "__main__":
    main()
