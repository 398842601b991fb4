"""The options of a node's Docker Engine, and the plan of changes to the engine.

Used on the control node by the filters `xnat_engine_options` and `xnat_engine_plan`. Imports the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

SAFE: dict[str, Any] = {
    "live-restore": False,
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
    # Docker's own pools range from 172.17.0.0/16 to 192.168.0.0/16, which many sites already use.
    "default-address-pools": [{"base": "172.30.0.0/16", "size": 24}],
    "no-new-privileges": True,
}
LATER = ("no-new-privileges",)  # newer defaults: they alone do not restart a running engine, which would end notebooks
ROTATING = ("json-file", "local")  # the log drivers that accept SAFE's log-opts
UNFINISHED = ("unpacked", "half-installed", "half-configured", "triggers-awaited", "triggers-pending")
MANAGERS = {"debian": "apt", "ubuntu": "apt", "fedora": "dnf", "rhel": "dnf", "centos": "dnf"}
# Docker's repository has a directory for each of these; relatives of Red Hat use CentOS's.
DIRECTORIES = ("debian", "ubuntu", "fedora", "rhel")
VALIDATES = 23  # the first version with `dockerd --validate`


class EngineError(ValueError):
    """The options are invalid: one sentence that says what to set. id: the violated rule, for tests."""

    def __init__(self, id: str, text: str) -> None:
        super().__init__(text)
        self.id = id


def engine_options(
    options: Mapping[str, Any],
    generic_resources: Iterable[str] = (),
    nvidia_runtime: str = "",
    running: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of daemon.json: options over safe defaults, with a node's GPUs and NVIDIA's runtime.

    An option that is None removes a default. running: the options of a running engine; they are kept if only the
    defaults in LATER would change them. Raises EngineError for options that an engine of a swarm must not have.
    """
    safe = dict(SAFE)
    if options.get("log-driver", "json-file") not in ROTATING:
        del safe["log-opts"]
    ours: dict[str, Any] = {}
    resources = list(generic_resources)
    for resource in resources:
        if not re.fullmatch(r"[\w.-]+=[^\s=]+", resource):
            raise EngineError(
                "resource_form",
                f"docker_engine_generic_resources: {resource!r} is not NAME=VALUE, such as gpu=GPU-1a2b3c4d",
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
    """Return base updated with over, nested dictionaries key by key; None removes a key."""
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
    """Raise EngineError for an option that a separate variable sets to another value."""
    runtimes = options.get("runtimes") or {}
    owned = (
        ("node-generic-resources", options, ours, "docker_engine_generic_resources"),
        ("default-runtime", options, ours, "docker_engine_nvidia_runtime"),
        ("nvidia", runtimes, ours.get("runtimes", {}), "docker_engine_nvidia_runtime"),
    )
    for key, theirs, mine, variable in owned:
        if key in mine and theirs.get(key) is not None and theirs[key] != mine[key]:
            raise EngineError(
                "set_twice",
                f"docker_engine_daemon_options sets {key!r} to {theirs[key]!r}, but {variable} sets it to "
                f"{mine[key]!r}: set it in one place only",
            )


def check_options(options: Mapping[str, Any]) -> None:
    """Raise EngineError if the engine would not start, could not join a swarm, or would be open to the network."""
    if options.get("live-restore"):
        raise EngineError(
            "live_restore",
            "docker_engine_daemon_options: live-restore must be off, because Swarm does not work with it",
        )
    hosts = options.get("hosts") or []
    for host in [hosts] if isinstance(hosts, str) else hosts:
        if not host.startswith(("unix://", "fd://")):
            raise EngineError(
                "open_port",
                f"docker_engine_daemon_options: hosts has {host!r}, which makes anybody who reaches that port root "
                "on the node: use the socket, or ssh://USER@NODE as the client's DOCKER_HOST",
            )
    for key, value in (options.get("log-opts") or {}).items():
        if not isinstance(value, str):
            raise EngineError(
                "log_opts_text",
                f'docker_engine_daemon_options: log-opts must be strings, so set {key} to "{value}" in quotes',
            )


@dataclass(frozen=True)
class Node:
    """What a node has: its Docker Engine, its system and its packages.

    answers: an engine answers. has_program: `dockerd` is installed, whether it runs or not. version: of the engine that
    answers, else empty. options: content of daemon.json, None where the file is missing. outdated: the engine is older
    than its options or its program. system: of os-release, with id, like, codename and name. packages: the installed
    ones with their versions. unfinished: packages whose installation was interrupted. held: packages that are held.
    """

    answers: bool
    has_program: bool
    version: str
    options: Mapping[str, Any] | None
    outdated: bool
    system: Mapping[str, str]
    packages: Mapping[str, str]
    unfinished: frozenset[str]
    held: frozenset[str]

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> Node:
        """Return the node that the module `node_report` has reported."""
        engine, packages = report["engine"], report["packages"]
        return cls(
            answers=engine["answers"],
            has_program=engine["installed"],
            version=engine["version"],
            options=engine["options"],
            outdated=engine["restart_needed"],
            system=report["system"],
            packages={name: state["version"] for name, state in packages.items() if state["status"] == "installed"},
            unfinished=frozenset(name for name, state in packages.items() if state["status"] in UNFINISHED),
            held=frozenset(name for name, state in packages.items() if state["held"]),
        )

    @property
    def has_engine(self) -> bool:
        """Whether there is an engine at all, wherever it came from."""
        return self.answers or self.has_program


@dataclass(frozen=True)
class Offer:
    """The packages from which a node can get its engine.

    manager: apt, dnf, or empty for a system of neither. python: the packages that are needed beside any engine. engine:
    the engine's package, empty where its origin has none for this system. extra: packages that belong to that engine.
    versioned: packages that have the engine's version. hold: packages that no unattended upgrade may touch.
    """

    manager: str
    python: tuple[str, ...] = ()
    engine: str = ""
    extra: tuple[str, ...] = ()
    versioned: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()

    @classmethod
    def for_system(cls, packages: Mapping[str, Any], system: Mapping[str, str], source: str) -> Offer:
        """Return the offer of a source for a system. packages: as `roles/docker_engine/vars/main.yml` has them."""
        manager = package_manager(system)
        if manager not in packages:
            return cls(manager)
        names = packages[manager]
        python = (names["python"],)
        origin = names.get("docker" if source == "docker" else "distribution")
        if not origin:
            return cls(manager, python)
        release_extra = origin["beside"].get(system["codename"], origin["beside"].get("other", []))
        return cls(
            manager,
            python,
            engine=origin["engine"],
            extra=(*names["tools"], *release_extra),
            versioned=tuple(origin["versioned"]),
            hold=tuple(origin.get("held", ())),
        )

    def pinned(self, name: str, version: str) -> str:
        """Return a package as the package manager expects it: with the version if it has the same one as the engine."""
        if not version or name not in self.versioned:
            return name
        return f"{name}{'=' if self.manager == 'apt' else '-'}{version}"


@dataclass(frozen=True)
class Wanted:
    """The role's settings. source, version, hold: its variables. options: content of daemon.json."""

    source: str
    options: Mapping[str, Any]
    version: str = ""
    hold: bool = True

    @property
    def managed(self) -> bool:
        """Whether this role manages the engine permanently, and not only its first installation."""
        return self.source in ("distribution", "docker")

    @property
    def pin(self) -> str:
        """The version to install, empty for any."""
        return self.version if self.managed else ""


@dataclass(frozen=True)
class Plan:
    """What to do to the engine of a node.

    refusal: why nothing can be done, one sentence; empty where something can. manager: apt, dnf, or empty for a system
    of neither. directory: the system's directory in Docker's repository. beside, engine: packages to install first and
    last, with the wanted version. install: packages are missing, or were left unfinished. write: write the options;
    replace: even over a file that exists. can_validate: the installed engine can check its options. start: the engine
    does not answer. hold, release: packages to hold, or to hold no longer. upgrade: packages with the wanted version,
    for the entry point `upgrade`. upgrade_needed: the engine's package has another version than the wanted one.
    restart_needed: the running engine is older than its options or its program, or is about to be.
    """

    refusal: str
    manager: str
    directory: str
    beside: list[str]
    engine: list[str]
    install: bool
    write: bool
    replace: bool
    can_validate: bool
    start: bool
    hold: list[str]
    release: list[str]
    upgrade: list[str]
    upgrade_needed: bool
    restart_needed: bool

    @property
    def done(self) -> bool:
        """Whether the role has nothing to do."""
        return not (self.refusal or self.install or self.write or self.start or self.hold or self.release)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and `done`, as the role reads them."""
        return {**asdict(self), "done": self.done}


def engine_plan(
    report: Mapping[str, Any],
    source: str,
    options: Mapping[str, Any],
    packages: Mapping[str, Any],
    *,
    version: str = "",
    hold: bool = True,
) -> dict[str, Any]:
    """Return the `Plan` for a node's engine as a dictionary: the filter `xnat_engine_plan`.

    report: of the module node_report. source, version, hold: variables of the role. options: of engine_options.
    packages: what each package manager offers, as `roles/docker_engine/vars/main.yml` has it.
    """
    node = Node.from_report(report)
    offer = Offer.for_system(packages, node.system, source)
    return make_plan(node, offer, Wanted(source, options, version, hold)).as_dict()


def make_plan(node: Node, offer: Offer, wanted: Wanted) -> Plan:
    """Return what to do to a node's engine."""
    ours = wanted.managed or installs_once(node, offer, wanted)
    needed = [*offer.python, *(offer.extra if ours else ())]
    beside = [name for name in needed if name not in node.packages]
    engine = [offer.engine] if ours and offer.engine and offer.engine not in node.packages else []
    write = ours and node.options != wanted.options and (wanted.managed or node.options is None)
    holdable = [name for name in offer.hold if wanted.managed and name in node.packages]
    present = node.packages.get(offer.engine, "")
    refused = refusal(node, offer, wanted)
    return Plan(
        refusal=refused.text if refused else "",
        manager=offer.manager,
        directory=node.system["id"] if node.system["id"] in DIRECTORIES else "centos",
        beside=[offer.pinned(name, wanted.pin) for name in beside],
        engine=[offer.pinned(name, wanted.pin) for name in engine],
        install=bool(node.unfinished or beside or engine),
        write=write,
        replace=wanted.managed,
        can_validate=node.has_program and release(node.version or present) >= (VALIDATES,),
        start=not node.answers,
        hold=[name for name in holdable if wanted.hold and name not in node.held],
        release=[name for name in holdable if not wanted.hold and name in node.held],
        upgrade=[offer.pinned(name, wanted.pin) for name in (offer.engine, *needed) if name in offer.versioned],
        upgrade_needed=bool(wanted.pin and present and not fnmatchcase(present, wanted.pin)),
        restart_needed=wanted.managed and node.answers and (write or node.outdated or is_older(node.version, present)),
    )


def installs_once(node: Node, offer: Offer, wanted: Wanted) -> bool:
    """Whether the source `any` installs the engine here: there is none, or its installation was interrupted."""
    if wanted.source != "any" or node.answers or offer.engine in node.packages:
        return False
    return not node.has_program or offer.engine in node.unfinished


def is_older(running: str, installed: str) -> bool:
    """Whether an engine of another release than the installed package runs; False where one of them is not known."""
    return bool(release(running) and release(installed) and release(running) != release(installed))


def package_manager(system: Mapping[str, str]) -> str:
    """Return the package manager of a system, from its os-release; empty for one that is not known."""
    families = [system["id"], *system["like"].split()]
    return next((MANAGERS[family] for family in families if family in MANAGERS), "")


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version of the engine or of its package, without epoch and revision."""
    match = re.match(r"(?:\d+:)?(\d+)\.(\d+)\.(\d+)", version)
    return tuple(int(part) for part in match.groups()) if match else ()


@dataclass(frozen=True)
class Refusal:
    """Why a node cannot have the wanted engine. id: for tests. text: one sentence that says what to set."""

    id: str
    text: str


def refusal(node: Node, offer: Offer, wanted: Wanted) -> Refusal | None:
    """Return why this node cannot have the wanted engine, None where it can."""
    if wanted.source == "existing":
        if node.has_engine:
            return None
        return Refusal(
            "no_engine", "there is no Docker Engine: install one, or set docker_engine_source to distribution"
        )
    is_package = offer.engine in node.packages or offer.engine in node.unfinished
    if wanted.managed and node.has_engine and not is_package:
        return Refusal(
            "foreign_engine",
            f"there is a Docker Engine that the package {offer.engine or 'of the distribution'} did not install: "
            "remove it, or set docker_engine_source to existing to use it as it is",
        )
    if offer.engine or node.has_engine:
        return None
    system = node.system["name"] or "this system"
    if offer.manager:
        return Refusal("no_package", f"{system} has no Docker Engine of its own: set docker_engine_source to docker")
    return Refusal(
        "unknown_system",
        f"{system} belongs neither to Debian's nor to Red Hat's family: "
        "install a Docker Engine and set docker_engine_source to existing",
    )
