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
from xnat_launcher.policy import Mount, allowed_mounts, is_below
from xnat_launcher.settings import Settings

Number = TypeVar("Number", int, float)

LABEL = "org.xnat.jupyterhub"
SCRATCH_LABEL = f"{LABEL}.scratch"  # of the volumes of servers' directories in memory
ENV_SUFFIX = "-env"  # the name of a server's secret is the name of its service with this suffix
ENV_FILE = "/run/secrets/server-env"
CA_FILE = "/etc/xnat-hub/ca.crt"
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
DEFAULT_COMMAND = ("jupyterhub-singleuser",)
BUSY_VARIABLE = "JUPYTERHUB_XNAT_BUSY_IS_ACTIVITY"  # 1 or 0; files/singleuser/xnat_notebook/activity.py reads it
LONGEST_CULL_INTERVAL = 300  # seconds between two searches for idle kernels, jupyter_server's default
PORT = 8888  # hard-wired in XNAT's dashboard commands (docs/xnat-contract.md, 4.2)
NO_NAME_SERVER = "192.0.2.1"  # an address that nobody has (RFC 5737); the forward proxy resolves names for servers
SHM = "/dev/shm"  # noqa: S108  (of the container)
TMP = "/tmp"  # noqa: S108  (the same)
# Shares of a server's memory that its directories in memory may fill. Together they leave it an eighth, so that a
# server that fills all of them sees "No space left on device" and is not killed for its memory.
SHM_SHARE, TMP_SHARE, HOME_SHARE = 2, 4, 8
PAGE = 4096  # bytes that the shortest file occupies there
# What a server prints is a file on its node. Also set here, since a site may use an engine with options of its own.
LOG_DRIVER = {"Name": "json-file", "Options": {"max-size": "10m", "max-file": "3"}}
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
        BUSY_VARIABLE, "HOME", *CA_VARIABLES,
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
    """Return a DNS-safe name of at most 37 characters, unique for each (user, server), which are case-sensitive.

    It does not contain the user's name, since a server can read the names of its neighbours by reverse DNS. Whoever
    guesses both user and server can compute it; it is no secret, and labels identify the server for administrators.
    """
    return f"{deployment[:24].rstrip('-')}-{_digest(username, server_name)}"


def former_service_name(deployment: str, username: str, server_name: str) -> str:
    """Return the name of a service that a release before 0.1.0 created; `xnat_launcher.swarm` still handles those.

    Remove it in the release after 0.1.0: XNAT ends servers after `xnat_jupyterhub_max_server_lifetime`, 48 hours.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", username.lower()).strip("-")[:20].strip("-")
    parts = (deployment[:24].rstrip("-"), readable, _digest(username, server_name))
    return "-".join(part for part in parts if part)


def _digest(username: str, server_name: str) -> str:
    return hashlib.sha256(f"{username}/{server_name}".encode()).hexdigest()[:12]


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


def culling(settings: Settings) -> list[str]:
    """Return the options with which a notebook server ends idle kernels; none if the site does not want that.

    Arguments, because neither variables from XNAT nor a configuration file in a workspace can override them. A command
    from XNAT gets none (docs/xnat-contract.md, 4.2).
    """
    if not settings.cull_idle:
        return []
    values = {
        "cull_idle_timeout": settings.cull_idle,
        "cull_interval": min(settings.cull_idle, LONGEST_CULL_INTERVAL),
        "cull_connected": settings.cull_connected,
        "cull_busy": False,
    }
    return [f"--MappingKernelManager.{name}={value}" for name, value in values.items()]


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


def shared_memory(size: int) -> dict[str, Any]:
    """Return the mount for a `/dev/shm` of `size` bytes.

    Docker's default of 64 MiB is too small for the worker processes of PyTorch. Its content counts as memory of the
    container.
    """
    return {"Type": "tmpfs", "Target": SHM, "TmpfsOptions": {"Mode": 0o1777, "SizeBytes": size}}


def scratch(target: str, size: int) -> dict[str, Any]:
    """Return the mount for an empty directory of `size` bytes that everybody may write to.

    Its content counts as memory of the container and ends with it. It is a tmpfs in an anonymous volume, which Swarm
    removes with the container, because the tmpfs of a service is mounted noexec: what a person installs or compiles
    there could not be loaded. Files without content count too (nr_inodes). For each such mount, Swarm's agent also
    creates a volume that it never uses or removes (moby's daemon/cluster/executor/container/adapter.go,
    createVolumes): an empty directory, which the role node_cleanup has each node remove by the label.
    """
    options = f"size={size},nr_inodes={size // PAGE},mode=1777,nosuid,nodev"
    driver = {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": options}}
    volume = {"NoCopy": True, "Labels": {SCRATCH_LABEL: "true"}, "DriverConfig": driver}
    return {"Type": "volume", "Target": target, "VolumeOptions": volume}


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
    cpu_limit = _within(
        launch.cpu_limit, launch.cpu_reservation, settings.cpu_ceiling, settings.cpu_default, "cpu", "CPUs"
    )
    mem_limit = _within(
        launch.mem_limit, launch.mem_reservation, settings.memory_ceiling, settings.memory_default, "mem", "bytes"
    )
    scratches = {
        TMP: settings.tmp_size or mem_limit // TMP_SHARE,
        settings.home: settings.home_size or mem_limit // HOME_SHARE,
    }
    container: dict[str, Any] = {
        "Image": settings.image_names.get(launch.image, launch.image),
        "Command": list(ENTRYPOINT),
        "Args": list(launch.command or (*DEFAULT_COMMAND, *culling(settings))),
        "Env": list(env),
        "Labels": dict(service_labels),
        "User": f"{settings.uid}:{settings.gid}",
        "Groups": [str(group) for group in settings.groups],
        "Mounts": [
            *(docker_mount(mount) for mount in mounts),
            *(
                scratch(target, size)
                for target, size in scratches.items()
                # A directory of the site on it, or around it, takes its place.
                if settings.read_only and not any(is_below(target, mount.target) for mount in mounts)
            ),
            shared_memory(settings.shm_size or mem_limit // SHM_SHARE),
        ],
        "ReadOnly": settings.read_only,
        # A core dump can be written by the node, which has no limit for it.
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        # Otherwise Docker's resolver may ask the node's name servers, and such questions can carry data to the outside.
        "DNSConfig": {"Nameservers": [NO_NAME_SERVER]},
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
        # The site's come first and always: XNAT can only add to them.
        "Placement": {"Constraints": list(dict.fromkeys([*settings.constraints, *launch.constraints]))},
        # A restarted server would have lost its kernels, and nobody would notice it.
        "RestartPolicy": {"Condition": "none"},
        "Networks": [{"Target": settings.network}],
        "LogDriver": LOG_DRIVER,
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
    limit: Number | None, reservation: Number | None, ceiling: Number, default: Number, name: str, unit: str
) -> Number:
    """Return the limit for a server: XNAT's; if XNAT sets none, the site's default or what XNAT reserves."""
    for asked, field in ((limit, "limit"), (reservation, "reservation")):
        if asked and asked > ceiling:
            raise OptionsError(f"resources.{name}_{field} is {asked} {unit}: this site allows at most {ceiling}")
    return limit or max(default, reservation or default)


def _nano(cpus: float | None) -> int | None:
    return int(cpus * 10**9) if cpus else None
