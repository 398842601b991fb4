"""Secrets, configs, limits and networks of hub, launcher and proxy, and what to do when one of these changes.

Used on the control node by the filters of `filter_plugins/services.py`; imports only the standard library. No function
gets the value of a secret, only its name and its name in Docker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .inventory import hub_path

USER_LABEL = "org.xnat.jupyterhub.user"  # on the services of servers
CERTIFICATE = "xnat_client_certificate"  # the only optional secret
# The hub needs the certificate for log-in checks, the launcher for its calls. Only the launcher gets the service
# account's password.
SERVICE_SECRETS: dict[str, tuple[str, ...]] = {
    "hub": ("cookie_secret", "proxy_token", "service_token", CERTIFICATE),
    "launcher": ("xnat_password", CERTIFICATE),
    "proxy": ("proxy_token",),
}


@dataclass(frozen=True)
class Rotation:
    """The actions of `playbooks/rotate.yml`.

    refusal: why nothing can be rotated, one sentence; empty if something can. swarm: whether to rotate something of the
    swarm itself. secrets: the files of `site_secrets_dir` to rotate. layers: the playbooks that then apply the new
    values, of "xnat" and "hub".
    """

    refusal: str = ""
    swarm: bool = False
    secrets: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()


ROTATIONS: dict[str, Rotation] = {
    "join_tokens": Rotation(swarm=True),
    "ca": Rotation(swarm=True),
    "service_token": Rotation(secrets=("service_token",), layers=("xnat", "hub")),
    "service_password": Rotation(secrets=("xnat_password",), layers=("xnat", "hub")),
    "hub_secrets": Rotation(secrets=("cookie_secret", "proxy_token"), layers=("hub",)),
}


def rotation(name: str, variables: Iterable[str] = ()) -> dict[str, Any]:
    """Return the `Rotation` of a name.

    variables: names of a host's variables. A secret with a variable named `vault_` and its file's name is in the vault.
    It cannot be rotated, because this project does not write to the vault.
    """
    if name not in ROTATIONS:
        *names, last = ROTATIONS
        return asdict(Rotation(f"Set what to rotate with -e rotate=NAME: {', '.join(names)} or {last}."))
    wanted = ROTATIONS[name]
    held = set(variables)
    in_vault = [variable for variable in (f"vault_{secret}" for secret in wanted.secrets) if variable in held]
    if in_vault:
        return asdict(
            Rotation(
                f"This playbook does not change the vault, which contains {' and '.join(in_vault)}. Set a new value"
                " there with ansible-vault edit, then run playbooks/xnat.yml and playbooks/hub.yml."
            )
        )
    return asdict(wanted)


def service_secrets(created: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the secrets of each service as `docker_swarm_service` mounts them: {"hub": [...], ...}.

    created: the result of `docker_secret` for each secret, with the secret's name as `item`. Names in Docker end with a
    version, since its secrets are immutable. Raises KeyError with the name of a missing secret.
    """
    mounts = {
        str(result["item"]): {
            "secret_id": result.get("secret_id", ""),
            "secret_name": result.get("secret_name", ""),
            "filename": str(result["item"]),
        }
        for result in created
    }
    return {
        service: [mounts[name] for name in names if name in mounts or name != CERTIFICATE]
        for service, names in SERVICE_SECRETS.items()
    }


def config_mounts(created: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return configs as `docker_swarm_service` mounts them.

    created: the result of `docker_config` for each path in the container. Results of skipped tasks are omitted.
    """
    return [
        {
            "config_id": result.get("config_id", ""),
            "config_name": result.get("config_name", ""),
            "filename": str(path),
        }
        for path, result in created.items()
        if not result.get("skipped")
    ]


def service_limits(limits: Mapping[str, Any], cpus: float) -> dict[str, Any]:
    """Return the limits of a service, {"cpus": 2, "memory": "1G"}, with CPUs lowered to those of the node."""
    return {**limits, "cpus": min(limits["cpus"], cpus, key=float)}


def network_options(mtu: int, *, encrypted: bool) -> dict[str, str]:
    """Return the driver options of an overlay network. mtu: bytes, 0 for Docker's default."""
    options = {"com.docker.network.driver.mtu": str(mtu)} if mtu else {}
    return {**options, "encrypted": ""} if encrypted else options


def network_differs(options: Mapping[str, str], network: Mapping[str, Any] | None) -> bool:
    """Return whether a network lacks options of `network_options`. network: Docker's JSON, None if it does not exist.

    Additional options of the network are ignored, since Docker adds some.
    """
    if network is None:
        return False
    has = network.get("Options") or {}
    return any(name not in has or has[name] != value for name, value in options.items())


def former_network(network: Mapping[str, Any] | None, services: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is on the single network that a deployment had before it had several.

    Such as::

        {"exists": True,             # whether the network exists
         "servers": 3,               # servers on it; as long as there are any, proxy and hub stay attached to it
         "services": ["xnat-hub"]}   # every service on it; without any, it can be removed

    network: Docker's JSON, None if it does not exist. services: those of the deployment, Docker's JSON.
    """
    if network is None:
        return {"exists": False, "servers": 0, "services": []}
    names = {network["Id"], network["Name"]}
    attached = [service["Spec"] for service in services if names & _targets(service["Spec"])]
    return {
        "exists": True,
        "servers": sum(1 for spec in attached if USER_LABEL in (spec.get("Labels") or {})),
        "services": sorted(str(spec["Name"]) for spec in attached),
    }


def _targets(spec: Mapping[str, Any]) -> set[str]:
    """Return the networks of a service, each by its name or id."""
    networks = (spec.get("TaskTemplate") or {}).get("Networks") or spec.get("Networks") or ()
    return {str(network["Target"]) for network in networks}


def to_roll_back(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the services to roll back after a failed run, in reverse order of their changes.

    results: the module's result for each service, in the order of the run; empty for a service that was not reached.
    The last changed service is the one that did not become healthy; Swarm has already rolled it back.
    """
    changed = [str(service) for service, result in results.items() if result.get("changed")]
    return list(reversed(changed[:-1]))


def hub_local_url(variables: Mapping[str, Any]) -> str:
    """Return the hub's URL on its own node, as `http://127.0.0.1:8000/jupyterhub/`: the filter `xnat_hub_local_url`.

    variables: options of the role jupyterhub, or variables of the hub's host. "jupyterhub_listen_address" may be
    missing or empty, which means all addresses. If "jupyterhub_port" or "jupyterhub_base_url" is missing,
    "site_hub_port" or "site_hub_base_url", which may be missing too, counts. Raises KeyError without a port.
    """
    address = variables.get("jupyterhub_listen_address") or "127.0.0.1"
    port = variables.get("jupyterhub_port") or variables["site_hub_port"]
    path = variables.get("jupyterhub_base_url") or variables.get("site_hub_base_url")
    return f"http://{address}:{port}{hub_path(path)}"
