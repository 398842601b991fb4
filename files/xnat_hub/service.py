"""One server as a Swarm service: request bodies for Docker's API, from a `Launch` and the site's settings.

Pure functions; `xnat_hub.spawner` sends what they return. The policy is enforced here, so nothing that leaves this
module mounts more than the site allows.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from xnat_hub.mounts import Mount, allowed_mounts
from xnat_hub.options import Launch
from xnat_hub.settings import Settings

LABEL = "org.xnat.jupyterhub"
ENV_FILE = "/run/secrets/server-env"
CA_FILE = "/etc/xnat-hub/ca.crt"
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
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


def docker_mount(mount: Mount) -> dict[str, Any]:
    """Return a mount for Docker's API. Private: mounts made later on the node do not appear in the container."""
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def task_template(
    launch: Launch,
    settings: Settings,
    env: Sequence[str],
    secret: Mapping[str, str],
    command: Sequence[str],
    service_labels: Mapping[str, str],
) -> dict[str, Any]:
    """Return the `TaskTemplate` of Docker's service-create call (Engine API 1.41).

    env: the open variables. secret: {"id", "name"} of the Docker secret with the others. command: the words to run.
    Raises MountError when XNAT asks for a mount that the policy refuses.
    """
    mounts = allowed_mounts(launch.mounts, settings.roots)
    container: dict[str, Any] = {
        "Image": launch.image,
        "Command": list(ENTRYPOINT),
        "Args": list(command),
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
        "Secrets": [
            {
                "SecretID": secret["id"],
                "SecretName": secret["name"],
                "File": {"Name": "server-env", "UID": str(settings.uid), "GID": str(settings.gid), "Mode": 0o400},
            }
        ],
    }
    if settings.ca_config_id:
        container["Configs"] = [
            {
                "ConfigID": settings.ca_config_id,
                "ConfigName": settings.ca_config_name,
                "File": {"Name": CA_FILE, "UID": "0", "GID": "0", "Mode": 0o444},
            }
        ]
    limits = {"NanoCPUs": _nano(launch.cpu_limit), "MemoryBytes": launch.mem_limit, "Pids": settings.pids_limit}
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


def _nano(cpus: float | None) -> int | None:
    return int(cpus * 10**9) if cpus else None
