"""What a node's Docker Engine is to be told, and what is to be done to the engine that is there.

Used on the controller by the filters `xnat_engine_options` and `xnat_engine_plan`; only the standard library is
imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

SAFE: dict[str, Any] = {
    "live-restore": False,
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
    # Docker's own pools begin at 172.17.0.0/16 and go on to 192.168.0.0/16, which many sites have in use.
    "default-address-pools": [{"base": "172.30.0.0/16", "size": 24}],
    "no-new-privileges": True,
}
LATER = ("no-new-privileges",)  # defaults for which alone no engine that runs is restarted: that ends notebooks
ROTATING = ("json-file", "local")  # the log drivers that know SAFE's log-opts
UNFINISHED = ("unpacked", "half-installed", "half-configured", "triggers-awaited", "triggers-pending")
MANAGERS = {"debian": "apt", "ubuntu": "apt", "fedora": "dnf", "rhel": "dnf", "centos": "dnf"}
# Docker's repository has a directory for each of these; what descends from Red Hat without being it takes CentOS's.
DIRECTORIES = ("debian", "ubuntu", "fedora", "rhel")
VALIDATES = 23  # the first version with `dockerd --validate`


class EngineError(ValueError):
    """The options cannot be right; one sentence that says what to set."""


def engine_options(
    options: Mapping[str, Any],
    generic_resources: Iterable[str] = (),
    nvidia_runtime: str = "",
    running: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of daemon.json: options over safe defaults, with a node's GPUs and NVIDIA's runtime.

    An option that is None takes a default away. running: what the file of an engine that runs says; it stays where
    nothing but defaults that came later would change it. Raises EngineError for what an engine of a swarm must not
    have.
    """
    safe = dict(SAFE)
    if options.get("log-driver", "json-file") not in ROTATING:
        del safe["log-opts"]
    ours: dict[str, Any] = {}
    resources = list(generic_resources)
    for resource in resources:
        if not re.fullmatch(r"[\w.-]+=[^\s=]+", resource):
            raise EngineError(
                f"docker_engine_generic_resources: {resource!r} is not NAME=VALUE, such as gpu=GPU-1a2b3c4d"
            )
    if resources:
        ours["node-generic-resources"] = resources
    if nvidia_runtime:
        ours["default-runtime"] = "nvidia"
        ours["runtimes"] = {"nvidia": {"path": nvidia_runtime}}
    check_owned(options, ours)
    result = merged(merged(safe, options), ours)
    check_options(result)
    earlier = {key: value for key, value in result.items() if key not in LATER or key in options}
    return earlier if running == earlier else result


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return base with over laid upon it, dictionaries key by key; None takes a key away."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def check_owned(options: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise for an option that a variable of its own says differently."""
    runtimes = options.get("runtimes") or {}
    said = (
        ("node-generic-resources", options, ours, "docker_engine_generic_resources"),
        ("default-runtime", options, ours, "docker_engine_nvidia_runtime"),
        ("nvidia", runtimes, ours.get("runtimes", {}), "docker_engine_nvidia_runtime"),
    )
    for key, theirs, mine, variable in said:
        if key in mine and theirs.get(key) is not None and theirs[key] != mine[key]:
            raise EngineError(
                f"docker_engine_daemon_options says {key!r} as {theirs[key]!r}, but {variable} makes it {mine[key]!r}: "
                "say it in one place only"
            )


def check_options(options: Mapping[str, Any]) -> None:
    """Raise for options with which the engine would not start, not join a swarm, or be open to the network."""
    if options.get("live-restore"):
        raise EngineError(
            "docker_engine_daemon_options: live-restore must be off, an engine that has it on can be in no swarm"
        )
    hosts = options.get("hosts") or []
    for host in [hosts] if isinstance(hosts, str) else hosts:
        if not host.startswith(("unix://", "fd://")):
            raise EngineError(
                f"docker_engine_daemon_options: hosts has {host!r}, and whoever reaches that port is root on the node: "
                "use the socket, or ssh://USER@NODE as the client's DOCKER_HOST"
            )
    for key, value in (options.get("log-opts") or {}).items():
        if not isinstance(value, str):
            raise EngineError(
                f'docker_engine_daemon_options: the engine wants log-opts as text, so {key} as "{value}" in quotes'
            )


def engine_plan(
    report: Mapping[str, Any],
    source: str,
    options: Mapping[str, Any],
    packages: Mapping[str, Any],
    *,
    version: str = "",
    hold: bool = True,
) -> dict[str, Any]:
    """Return what is to be done to a node's engine, from the look at it.

    report: of the module node_report. source: as the role has it. options: of engine_options. packages: what there is
    for each package manager, as `roles/docker_engine/vars/main.yml` has it. The keys of what is returned::

        done             nothing is to be done
        refusal          why nothing can be done, one sentence; empty where something can
        manager          apt, dnf, or empty for a system of neither
        directory        the system's directory in Docker's repository
        beside, engine   packages to install first and last, with the wanted version
        install          packages are to be installed, or were left unfinished
        write, replace   write the options; even over a file that is there
        can_validate     the engine that is there can check its options
        start            the engine does not answer
        hold, release    packages that are to be held, or no longer
        upgrade          packages with the wanted version, for the act of upgrading
        upgrade_needed   the engine's package has another version than the wanted one
        restart_needed   the engine that runs is older than its options or its program, or is about to be
    """
    engine, system = report["engine"], report["system"]
    known = {name: state for name, state in report["packages"].items() if state["status"] == "installed"}
    unfinished = {name for name, state in report["packages"].items() if state["status"] in UNFINISHED}
    manager = package_manager(system)
    names = packages.get(manager, {})
    origin = names.get("docker" if source == "docker" else "distribution", {})
    name = origin.get("engine", "")
    managed = source in ("distribution", "docker")
    ours = managed or (
        source == "any"
        and not engine["answers"]
        and name not in known
        and (not engine["installed"] or name in unfinished)
    )
    pinned = version if managed else ""

    wanted = [names["python"]] if names else []
    if ours and origin:
        wanted += names["tools"] + origin["beside"].get(system["codename"], origin["beside"].get("other", []))
    beside = [item for item in wanted if item not in known]
    missing = [name] if ours and name and name not in known else []
    versioned = [item for item in [name, *wanted] if item in origin.get("versioned", [])]
    pins = {item: f"{item}{'=' if manager == 'apt' else '-'}{pinned}" for item in versioned} if pinned else {}

    write = ours and engine["options"] != options and (managed or engine["options"] is None)
    held = [item for item in origin.get("held", []) if managed and item in known]
    running, present = engine["version"], known.get(name, {}).get("version", "")
    plan: dict[str, Any] = {
        "refusal": refusal(report, source, name, foreign=managed and name not in {*known, *unfinished}),
        "manager": manager,
        "directory": next((item for item in DIRECTORIES if item == system["id"]), "centos"),
        "beside": [pins.get(item, item) for item in beside],
        "engine": [pins.get(item, item) for item in missing],
        "install": bool(unfinished or beside or missing),
        "write": write,
        "replace": managed,
        "can_validate": engine["installed"] and release(running or present) >= (VALIDATES,),
        "start": not engine["answers"],
        "hold": [item for item in held if hold and not known[item]["held"]],
        "release": [item for item in held if not hold and known[item]["held"]],
        "upgrade": [pins.get(item, item) for item in versioned],
        "upgrade_needed": bool(pinned and present and not fnmatchcase(present, pinned)),
    }
    plan["done"] = not any(plan[key] for key in ("refusal", "install", "write", "start", "hold", "release"))
    old_program = release(running) and release(present) and release(running) != release(present)
    plan["restart_needed"] = bool(managed and engine["answers"] and (write or engine["restart_needed"] or old_program))
    return plan


def package_manager(system: Mapping[str, str]) -> str:
    """Return the package manager of a system, from its os-release; empty for one that is not known."""
    families = [system["id"], *system["like"].split()]
    return next((MANAGERS[family] for family in families if family in MANAGERS), "")


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version of the engine or of its package, without epoch and revision."""
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(int(part) for part in match.groups()) if match else ()


def refusal(report: Mapping[str, Any], source: str, name: str, *, foreign: bool) -> str:
    """Return why the engine of this node cannot be what is wanted; empty when it can."""
    there = report["engine"]["answers"] or report["engine"]["installed"]
    if source == "existing":
        return "" if there else "there is no Docker Engine: install one, or set docker_engine_source to distribution"
    if there and foreign:
        return (
            f"there is a Docker Engine already that the package {name or 'of the distribution'} did not bring: "
            "remove it, or set docker_engine_source to existing to use it as it is"
        )
    if name or there:
        return ""
    system = report["system"]["name"] or "this system"
    if package_manager(report["system"]):
        return f"{system} has no Docker Engine of its own: set docker_engine_source to docker"
    return (
        f"{system} is of neither Debian's nor Red Hat's family: "
        "install a Docker Engine and set docker_engine_source to existing"
    )
