"""Parses XNAT's user-options (docs/xnat-contract.md, 1.4) into a `Launch`. Any field may be null."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SERVER_NAME = re.compile(r"[0-9A-Za-z._-]{1,64}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CONSTRAINT = re.compile(r"\s*([A-Za-z0-9._/-]+)\s*(==|!=)\s*(\S(?:.*\S)?)\s*")
MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
LEAST_CPUS, LEAST_MEMORY = 0.001, 6 * 2**20  # an engine refuses less, or treats it as no limit
MEMORY_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

MAX_TEXT = 128 * 1024
"""Bytes of one argument or variable with its final NUL: the kernel's MAX_ARG_STRLEN, else exec fails with E2BIG."""

# Variables that XNAT may not set: they would let the server bypass the hub (docs/xnat-contract.md, 4.1 and 6.20) or end
# the shell that starts it (OPTIND and BASHOPTS).
REFUSED_PREFIXES = ("JUPYTERHUB_", "JPY_", "NB_", "LD_", "DOCKER_STACKS_", "PYTHON", "CHOWN_", "BASH_", "NODE_OPTIONS")
REFUSED_NAMES = frozenset(
    {
        "PATH", "HOME", "IFS", "ENV", "SHELLOPTS", "BASHOPTS", "OPTIND", "RESTARTABLE", "GRANT_SUDO", "MEM_LIMIT",
        "CPU_LIMIT",
    }
)  # fmt: skip
ALLOWED_NAMES = frozenset({"JUPYTERHUB_ROOT_DIR"})


class OptionsError(ValueError):
    """XNAT's answer is invalid; the text is one sentence that names the field."""


@dataclass(frozen=True)
class Launch:
    """The launch options from XNAT.

    command: None for the image's JupyterLab. cpu_*: CPUs. mem_*: bytes. None means unset. mounts: as XNAT sent them,
    for `policy.allowed_mounts`. generic_resources: name to count (int) or named id (str). dropped_env: the names of
    variables that are not passed on. project, item and xsi_type: what was launched; empty if XNAT does not say.
    """

    image: str
    command: tuple[str, ...] | None
    env: dict[str, str]
    dropped_env: tuple[str, ...]
    mounts: Sequence[Any]
    cpu_limit: float | None
    cpu_reservation: float | None
    mem_limit: int | None
    mem_reservation: int | None
    generic_resources: dict[str, int | str]
    constraints: tuple[str, ...]
    project: str
    item: str = ""
    xsi_type: str = ""


def parse_launch(answer: object, server_name: str) -> Launch:
    """Parse the JSON of endpoint C for `server_name`. Raises OptionsError, which names the invalid field."""
    top = _mapping(answer, "the answer")
    _refuse_surrogates(top)
    if top.get("servername") not in (server_name, None):  # null where a REST caller left it out
        raise OptionsError(f"XNAT's user-options are for server {top.get('servername')!r}, not {server_name!r}")
    template = _mapping(top.get("task_template"), "task_template")
    container = _mapping(template.get("container_spec"), "container_spec")
    resources = _mapping(template.get("resources"), "resources", optional=True)
    placement = _mapping(template.get("placement"), "placement", optional=True)
    image = container.get("image")
    if not isinstance(image, str) or not image.strip() or any(char.isspace() for char in image.strip()):
        raise OptionsError(f"container_spec.image is {image!r}: set an image in XNAT's compute environment")
    env, dropped = _environment(container.get("env"))
    cpu_limit = _cpus(resources.get("cpu_limit"), "resources.cpu_limit")
    cpu_reservation = _cpus(resources.get("cpu_reservation"), "resources.cpu_reservation")
    mem_limit = _memory(resources.get("mem_limit"), "resources.mem_limit")
    mem_reservation = _memory(resources.get("mem_reservation"), "resources.mem_reservation")
    if cpu_limit and cpu_reservation and cpu_reservation > cpu_limit:
        raise OptionsError(f"resources.cpu_reservation {cpu_reservation} is above cpu_limit {cpu_limit}")
    if mem_limit and mem_reservation and mem_reservation > mem_limit:
        raise OptionsError(f"resources.mem_reservation {mem_reservation} bytes is above mem_limit {mem_limit} bytes")
    return Launch(
        image=image.strip(),
        command=_command(container.get("command")),
        env=env,
        dropped_env=dropped,
        mounts=_list(container.get("mounts"), "container_spec.mounts"),
        cpu_limit=cpu_limit,
        cpu_reservation=cpu_reservation,
        mem_limit=mem_limit,
        mem_reservation=mem_reservation,
        generic_resources=_generic_resources(resources.get("generic_resources")),
        constraints=parse_constraints(placement.get("constraints"), "placement.constraints"),
        project=_text(top.get("projectId")),
        item=_text(top.get("itemId")),
        xsi_type=_text(top.get("xsiType")),
    )


def parse_memory(value: object, field: str) -> int | None:
    """Return bytes for `8G`, `512MB`, `4Gi`, `0.5g`; None for null, empty and zero (contract 1.4.2, 6.18)."""
    if value is None or value == "":
        return None
    match = MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise OptionsError(f"{field} is {value!r}: use a number with K, M, G or T, for example 8G")
    number = float(match[1]) * MEMORY_UNITS[match[2].upper()]
    if not number < 2**63:
        raise OptionsError(f"{field} is {value!r}: more memory than any node has")
    if 0 < number < 1:
        raise OptionsError(f"{field} is {value!r}: less than a byte")
    return int(number) or None


def parse_constraints(value: object, field: str) -> tuple[str, ...]:
    """Return constraints of Swarm's placement as `key==value` and `key!=value`; none for null. Raises OptionsError."""
    constraints: list[str] = []
    demanded: dict[str, str] = {}
    for entry in _list(value, field):
        match = CONSTRAINT.fullmatch(entry) if isinstance(entry, str) else None
        if match is None:
            raise OptionsError(f"the placement constraint {entry!r} does not have the form key==value or key!=value")
        key, operator, wanted = match.groups()
        if operator == "==" and demanded.setdefault(key, wanted) != wanted:
            raise OptionsError(
                f"the placement constraints demand {key}=={demanded[key]} and {key}=={wanted}, which no node fulfils:"
                " set only one value for the constraint in XNAT"
            )
        constraints.append(f"{key}{operator}{wanted}")
    return tuple(constraints)


def _mapping(value: object, field: str, optional: bool = False) -> Mapping[str, Any]:
    if value is None and optional:
        return {}
    if not isinstance(value, Mapping):
        raise OptionsError(f"{field} in XNAT's user-options is of type {type(value).__name__} instead of an object")
    return value


def _list(value: object, field: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise OptionsError(f"{field} is not a list")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _refuse_surrogates(answer: object) -> None:
    """Refuse lone UTF-16 surrogates: JSON can contain them, but file names, variables and Docker's API cannot."""
    rest: list[tuple[str, object]] = [("", answer)]
    while rest:
        field, value = rest.pop()
        if isinstance(value, Mapping):
            rest += [(field, key) for key in value]
            rest += [(f"{field}.{key}".lstrip("."), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            rest += [(f"{field}[{number}]", inner) for number, inner in enumerate(value)]
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                where = ascii(field.removeprefix("task_template.") or "the answer")
                raise OptionsError(
                    f"{where} contains {value[error.start]!a}, which is half of a UTF-16 pair and not a character"
                ) from error


def _environment(value: object) -> tuple[dict[str, str], tuple[str, ...]]:
    env: dict[str, str] = {}
    dropped: list[str] = []
    for name, content in _mapping(value, "container_spec.env", optional=True).items():
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            raise OptionsError(f"container_spec.env contains {name!r}, which is not a valid name of a variable")
        refused = name in REFUSED_NAMES or name.startswith(REFUSED_PREFIXES)
        if refused and name not in ALLOWED_NAMES:
            dropped.append(name)
        elif content is not None:
            if not isinstance(content, str) or "\0" in content:
                raise OptionsError(f"container_spec.env.{name} is not a valid text")
            _check_size(f"{name}={content}", f"container_spec.env.{name}", "a variable with its name")
            env[name] = content
    return env, tuple(sorted(dropped))


def _command(value: object) -> tuple[str, ...] | None:
    """Split one string as a shell would; braces for jhsingle-native-proxy stay as they are (contract 4.2)."""
    if value is None:
        return None
    if not isinstance(value, str) or "\0" in value:
        raise OptionsError("container_spec.command is not a valid text")
    _check_size(value, "container_spec.command", "a command")
    try:
        words = tuple(shlex.split(value))
    except ValueError as error:
        raise OptionsError(f"container_spec.command cannot be split into words: {error}") from error
    return words or None


def _check_size(text: str, field: str, what: str) -> None:
    size = len(text.encode()) + 1
    if size > MAX_TEXT:
        raise OptionsError(f"{field} is {size} bytes long: {what} can have {MAX_TEXT} at most")


def _cpus(value: object, field: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**6:
        raise OptionsError(f"{field} is {value!r}: set a number of CPUs")
    if 0 < value < LEAST_CPUS:
        raise OptionsError(f"{field} is {value!r}: set at least {LEAST_CPUS} CPUs")
    return float(value) or None


def _memory(value: object, field: str) -> int | None:
    amount = parse_memory(value, field)
    if amount is not None and amount < LEAST_MEMORY:
        raise OptionsError(f"{field} is {value!r}: set at least {LEAST_MEMORY // 2**20}M")
    return amount


def _generic_resources(value: object) -> dict[str, int | str]:
    resources: dict[str, int | str] = {}
    for name, amount in _mapping(value, "resources.generic_resources", optional=True).items():
        text = str(amount).strip() if isinstance(amount, str | int) and not isinstance(amount, bool) else ""
        if not name or not text:
            raise OptionsError(f"resources.generic_resources.{name} is {amount!r}: set a count or an id")
        resources[name] = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
    return resources
