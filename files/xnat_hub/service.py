"""One server as a Swarm service: request bodies for Docker's API, from a `Launch` and the site's settings.

Pure functions; `xnat_hub.spawner` sends what they return. The policy is enforced here, so nothing that leaves this
module mounts more than the site allows.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from xnat_hub.mounts import Mount, allowed_mounts
from xnat_hub.options import Launch, OptionsError
from xnat_hub.settings import Settings

Number = TypeVar("Number", int, float)

LABEL = "org.xnat.jupyterhub"
ENV_SUFFIX = "-env"  # a server's secret is called as its service with this behind it
ENV_FILE = "/run/secrets/server-env"
CA_FILE = "/etc/xnat-hub/ca.crt"
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
DEFAULT_COMMAND = ("jupyterhub-singleuser",)
PORT = 8888  # hard-wired in XNAT's dashboard commands (docs/xnat-contract.md, 4.2)
SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|^XNAT_USER$", re.IGNORECASE)
# Reads the server's secret variables and becomes the server: what `docker service inspect` shows has none of them.
# Older engines (20.10) ignore NoNewPrivileges in a service; setpriv, where the image has it, does the same.
ENTRYPOINT_SCRIPT = f"""set -a; . {ENV_FILE}; set +a
command -v setpriv >/dev/null && exec setpriv --no-new-privs -- "$@"
exec "$@\""""
ENTRYPOINT = ("/bin/sh", "-c", ENTRYPOINT_SCRIPT, "server")


def service_name(deployment: str, username: str, server_name: str) -> str:
    """Return a DNS-safe name of at most 63 characters, one for each (user, server), letter case included."""
    digest = hashlib.sha256(f"{username}/{server_name}".encode()).hexdigest()[:12]
    readable = re.sub(r"[^a-z0-9]+", "-", username.lower()).strip("-")[:20].strip("-")
    return "-".join(part for part in (deployment[:24].rstrip("-"), readable, digest) if part)


def labels(deployment: str, username: str = "", server_name: str = "", project: str = "") -> dict[str, str]:
    """Return the labels by which services and secrets of a deployment are found again."""
    found = {"deployment": deployment, "user": username, "server": server_name, "project": project}
    return {f"{LABEL}.{name}": value for name, value in found.items() if value}


def split_env(env: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the open variables as Docker's `NAME=value` list, and the secret ones as a text for `sh` to read."""
    open_env = [f"{name}={value}" for name, value in sorted(env.items()) if not SECRET_NAME.search(name)]
    secret_env = "".join(
        f"{name}={shlex.quote(value)}\n" for name, value in sorted(env.items()) if SECRET_NAME.search(name)
    )
    return open_env, secret_env


def secret_values(env: Mapping[str, str]) -> list[str]:
    """Return the values that must not be seen, the longest first, for whoever has to blot them out of a text."""
    found = {value for name, value in env.items() if SECRET_NAME.search(name) and value}
    return sorted(found, key=len, reverse=True)


def docker_mount(mount: Mount) -> dict[str, Any]:
    """Return a mount for Docker's API.

    Private: what is mounted later on the node does not appear in the container. Not recursive: nor does what is mounted
    below the source already, which older engines (before 25) leave writable below a read-only mount.
    """
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
    }


def secret_reference(secret_id: str, name: str, uid: int, gid: int) -> dict[str, Any]:
    """Return how a container gets the Docker secret with its secret variables: readable for its user only."""
    file = {"Name": ENV_FILE.rpartition("/")[2], "UID": str(uid), "GID": str(gid), "Mode": 0o400}
    return {"SecretID": secret_id, "SecretName": name, "File": file}


def task_template(
    launch: Launch, settings: Settings, username: str, env: Sequence[str], service_labels: Mapping[str, str]
) -> dict[str, Any]:
    """Return the `TaskTemplate` of Docker's service-create call (Engine API 1.41), without the server's secret.

    username: whose server it is. env: the open variables. Raises MountError when XNAT asks for a mount that the policy
    refuses, OptionsError when it asks for more CPUs or memory than the site gives to one server.
    """
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
        "Mounts": [docker_mount(mount) for mount in mounts],
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
    return {
        "ContainerSpec": container,
        "Resources": {
            "Limits": {name: value for name, value in limits.items() if value},
            "Reservations": {name: value for name, value in reservations.items() if value},
        },
        "Placement": {"Constraints": list(launch.constraints)},
        # A server that ends has ended: a restarted one would have lost its kernels and hold no one's attention.
        "RestartPolicy": {"Condition": "none"},
        "Networks": [{"Target": settings.network}],
    }


def _within(
    limit: Number | None, reservation: Number | None, ceiling: Number | None, name: str, unit: str
) -> Number | None:
    """Return the limit that a server gets: XNAT's, or the site's ceiling where XNAT names none."""
    if not ceiling:
        return limit
    for asked, field in ((limit, "limit"), (reservation, "reservation")):
        if asked and asked > ceiling:
            raise OptionsError(f"resources.{name}_{field} is {asked} {unit}: a server here has {ceiling} at most")
    return limit or ceiling


def _nano(cpus: float | None) -> int | None:
    return int(cpus * 10**9) if cpus else None
