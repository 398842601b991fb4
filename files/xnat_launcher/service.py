"""Builds the Swarm service of a server: request bodies for Docker's API, from a `Launch` and the site's settings.

Pure functions; `xnat_launcher.launches` sends the bodies. The mount policy is enforced here, so that no body mounts
more than the site allows.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from xnat_launcher.options import Launch, OptionsError
from xnat_launcher.policy import Mount, allowed_mounts
from xnat_launcher.settings import Settings

Number = TypeVar("Number", int, float)

LABEL = "org.xnat.jupyterhub"
ENV_SUFFIX = "-env"  # the name of a server's secret is the name of its service with this suffix
ENV_FILE = "/run/secrets/server-env"
CA_FILE = "/etc/xnat-hub/ca.crt"
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
DEFAULT_COMMAND = ("jupyterhub-singleuser",)
PORT = 8888  # hard-wired in XNAT's dashboard commands (docs/xnat-contract.md, 4.2)
SHM = "/dev/shm"  # noqa: S108  (of the container)
MAX_SECRET = 500 * 1024  # bytes; a secret must be smaller: swarmkit's api/validation/secrets.go
MAX_TEMPLATE = 2**20  # bytes of JSON: Swarm stores a service in one transaction of 1.5 MiB (swarmkit's store/memory.go)
SHORTEST_SECRET = 6  # characters: shorter values are numbers or words, and replacing them would make a log unreadable
# Variables without secrets, which `docker service inspect` and the hub's log may show: those that JupyterHub and XNAT
# themselves set (docs/xnat-contract.md, 4.1), and those that container runtimes read to assign devices, since a runtime
# cannot read them from a secret. Shells such as /bin/sh refuse to set the last three.
OPEN_NAMES = frozenset(
    {
        "JUPYTERHUB_ACTIVITY_URL", "JUPYTERHUB_ALLOW_TOKEN_IN_URL", "JUPYTERHUB_API_URL", "JUPYTERHUB_BASE_URL",
        "JUPYTERHUB_CLIENT_ID", "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED", "JUPYTERHUB_DEFAULT_URL", "JUPYTERHUB_HOST",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES", "JUPYTERHUB_OAUTH_CALLBACK_URL", "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES",
        "JUPYTERHUB_OAUTH_SCOPES", "JUPYTERHUB_PUBLIC_HUB_URL", "JUPYTERHUB_PUBLIC_URL", "JUPYTERHUB_ROOT_DIR",
        "JUPYTERHUB_SERVER_NAME", "JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_SERVICE_URL", "JUPYTERHUB_USER",
        "JUPYTER_IMAGE_SPEC", "XNAT_DATA", "XNAT_HOST", "XNAT_ITEM_ID", "XNAT_XSI_TYPE", "XDG_CONFIG_HOME",
        *CA_VARIABLES,
        "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_DISABLE_REQUIRE", "AMD_VISIBLE_DEVICES",
        "HABANA_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES",
        "UID", "EUID", "PPID",
    }
)  # fmt: skip
# Reads the secret variables from a file and then runs the server, so `docker service inspect` does not show them.
# Older engines (20.10) ignore NoNewPrivileges in a service; setpriv does the same if the image has it.
ENTRYPOINT_SCRIPT = f"""set -a; . {ENV_FILE}; set +a
command -v setpriv >/dev/null && exec setpriv --no-new-privs -- "$@"
exec "$@\""""
ENTRYPOINT = ("/bin/sh", "-c", ENTRYPOINT_SCRIPT, "server")
GUARD_PORT = 60900  # xnat_guard.rules.READY_PORT: answers at the gateway's address once this node's rules are loaded
# Before anything else, since a network that is new on a node has no rules for a second. Isolated Python, and before any
# variable of the launch is set, so that nothing of the user's can change what it does. The guard ends each connection
# with a reset, which may arrive before connect() returns; where nothing listens, a connection is refused instead.
WAIT_FOR_GUARD = """python3 -I -S -c '
import socket, sys, time
end = time.monotonic() + 30
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()
        break
    except ConnectionResetError:
        break
    except OSError as error:
        if time.monotonic() > end:
            sys.exit("The service that keeps notebooks apart does not answer on this node: " + str(error))
        time.sleep(0.1)
' {gateway} {port} || exit 1
"""


def service_name(deployment: str, username: str, server_name: str) -> str:
    """Return a DNS-safe name of at most 63 characters, unique for each (user, server), which are case-sensitive."""
    digest = hashlib.sha256(f"{username}/{server_name}".encode()).hexdigest()[:12]
    readable = re.sub(r"[^a-z0-9]+", "-", username.lower()).strip("-")[:20].strip("-")
    return "-".join(part for part in (deployment[:24].rstrip("-"), readable, digest) if part)


def labels(deployment: str, username: str = "", server_name: str = "", project: str = "") -> dict[str, str]:
    """Return the labels that identify the services and secrets of a deployment."""
    found = {"deployment": deployment, "user": username, "server": server_name, "project": project}
    return {f"{LABEL}.{name}": value for name, value in found.items() if value}


def split_env(env: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the open variables as Docker's `NAME=value` list, and all others as a script for `sh`.

    Swarm expands templates in the list, but not in the script. Raises OptionsError if the script is too large for a
    Docker secret.
    """
    open_env = [f"{name}={literal(value)}" for name, value in sorted(env.items()) if name in OPEN_NAMES]
    secret_env = "".join(
        f"{name}={shlex.quote(value)}\n" for name, value in sorted(env.items()) if name not in OPEN_NAMES
    )
    size = len(secret_env.encode())
    if size >= MAX_SECRET:
        raise OptionsError(f"container_spec.env is {size} bytes: all variables together may have {MAX_SECRET - 1}")
    return open_env, secret_env


def literal(value: str) -> str:
    """Escape `value` for Swarm, which expands templates in variables (swarmkit's template/expand.go)."""
    return value.replace("{{", '{{"{{"}}')


def secret_values(env: Mapping[str, str]) -> list[str]:
    """Return the secret values to remove from a log, the longest first."""
    found = {value for name, value in env.items() if name not in OPEN_NAMES and len(value) >= SHORTEST_SECRET}
    return sorted(found, key=len, reverse=True)


def docker_mount(mount: Mount) -> dict[str, Any]:
    """Return a mount for Docker's API.

    Private propagation: later mounts on the node do not appear in the container. Not recursive: existing mounts below
    the source do not appear either; engines before 25 leave these writable below a read-only mount.
    """
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
    }


def shared_memory(size: int | None) -> dict[str, Any]:
    """Return the mount for a `/dev/shm` of `size` bytes; None for half of the node's memory.

    Docker's default of 64 MiB is too small for the worker processes of PyTorch. Its content counts as memory of the
    container.
    """
    options = {"Mode": 0o1777} | ({"SizeBytes": size} if size else {})
    return {"Type": "tmpfs", "Target": SHM, "TmpfsOptions": options}


def secret_reference(secret_id: str, name: str, uid: int, gid: int) -> dict[str, Any]:
    """Return the reference to the Docker secret with the secret variables; only the container's user can read it."""
    file = {"Name": ENV_FILE.rpartition("/")[2], "UID": str(uid), "GID": str(gid), "Mode": 0o400}
    return {"SecretID": secret_id, "SecretName": name, "File": file}


def task_template(
    launch: Launch, settings: Settings, username: str, env: Sequence[str], service_labels: Mapping[str, str]
) -> tuple[dict[str, Any], list[Mount]]:
    """Return the `TaskTemplate` of Docker's service-create call (Engine API 1.41), without the server's secret.

    The second value is the list of its mounts, all allowed by the policy.

    username: the owner of the server. env: the open variables. Raises MountError if XNAT asks for a mount that the
    policy refuses; OptionsError if it asks for an image that the site does not list, for more CPUs or memory than the
    site allows for one server, or for more than fits into a service.
    """
    if launch.image not in settings.images:
        raise OptionsError(
            f"container_spec.image is {launch.image!r}, which this site does not allow: set one of its images in XNAT's"
            " compute environment, or ask the administrator to add it to hub_images_further_singleuser"
        )
    mounts = allowed_mounts(launch.mounts, settings.roots, username)
    cpu_limit = _within(launch.cpu_limit, launch.cpu_reservation, settings.cpu_ceiling, "cpu", "CPUs")
    mem_limit = _within(launch.mem_limit, launch.mem_reservation, settings.memory_ceiling, "mem", "bytes")
    container: dict[str, Any] = {
        "Image": settings.image_names.get(launch.image, launch.image),
        "Command": list(ENTRYPOINT),
        "Args": list(launch.command or DEFAULT_COMMAND),
        "Env": list(env),
        "Labels": dict(service_labels),
        "User": f"{settings.uid}:{settings.gid}",
        "Groups": [str(group) for group in settings.groups],
        "Mounts": [
            *(docker_mount(mount) for mount in mounts),
            shared_memory(settings.shm_size or (mem_limit // 2 if mem_limit else None)),
        ],
        # Engines since 20.10 let any process bind ports below 1024.
        "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"},
        "Init": True,
        "CapabilityDrop": ["ALL"],
        "Privileges": {"NoNewPrivileges": True},
        "StopGracePeriod": settings.stop_grace_period * 10**9,
        "Healthcheck": {"Test": ["NONE"]},
    }
    if settings.ca_config_id:
        container["Configs"] = [
            {
                "ConfigID": settings.ca_config_id,
                "ConfigName": settings.ca_config_name,
                "File": {"Name": CA_FILE, "UID": "0", "GID": "0", "Mode": 0o444},
            }
        ]
    limits = {"NanoCPUs": _nano(cpu_limit), "MemoryBytes": mem_limit, "Pids": settings.pids_limit}
    reservations: dict[str, Any] = {
        "NanoCPUs": _nano(launch.cpu_reservation),
        "MemoryBytes": launch.mem_reservation,
        "GenericResources": [
            {"DiscreteResourceSpec": {"Kind": kind, "Value": amount}}
            if isinstance(amount, int)
            else {"NamedResourceSpec": {"Kind": kind, "Value": amount}}
            for kind, amount in launch.generic_resources.items()
        ],
    }
    template = {
        "ContainerSpec": container,
        "Resources": {
            "Limits": {name: value for name, value in limits.items() if value},
            "Reservations": {name: value for name, value in reservations.items() if value},
        },
        "Placement": {"Constraints": list(launch.constraints)},
        # A restarted server would have lost its kernels, and nobody would notice it.
        "RestartPolicy": {"Condition": "none"},
        "Networks": [{"Target": settings.network}],
    }
    size = len(json.dumps(template))
    if size > MAX_TEMPLATE:
        raise OptionsError(
            f"the launch needs a service of {size} bytes with {len(mounts)} container_spec.mounts and"
            f" {len(launch.constraints)} placement.constraints: Swarm accepts at most {MAX_TEMPLATE} bytes"
        )
    return template, mounts


def keep_apart(template: Mapping[str, Any], unguarded: Iterable[str], gateway: str) -> dict[str, Any]:
    """Return the `TaskTemplate` of a server that starts only where the guard has loaded its rules.

    unguarded: ids of the nodes without a running guard; Swarm places the server on another one. gateway: the address at
    which the guard answers; the server waits for it, since Swarm may know of a lost guard only later.
    """
    wait = WAIT_FOR_GUARD.format(gateway=gateway, port=GUARD_PORT)
    shell, option, script, name = template["ContainerSpec"]["Command"]
    constraints = [*template["Placement"]["Constraints"], *(f"node.id!={node}" for node in sorted(unguarded))]
    return {
        **template,
        "ContainerSpec": {**template["ContainerSpec"], "Command": [shell, option, wait + script, name]},
        "Placement": {**template["Placement"], "Constraints": constraints},
    }


def _within(
    limit: Number | None, reservation: Number | None, ceiling: Number | None, name: str, unit: str
) -> Number | None:
    """Return the limit for a server: XNAT's, or the site's ceiling if XNAT sets none."""
    if not ceiling:
        return limit
    for asked, field in ((limit, "limit"), (reservation, "reservation")):
        if asked and asked > ceiling:
            raise OptionsError(f"resources.{name}_{field} is {asked} {unit}: this site allows at most {ceiling}")
    return limit or ceiling


def _nano(cpus: float | None) -> int | None:
    return int(cpus * 10**9) if cpus else None
