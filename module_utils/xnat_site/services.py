"""Secrets, configs, limits and network of hub, launcher and proxy, and what to apply when a secret changes.

Used on the control node by the filters of `filter_plugins/services.py`; only the standard library is imported. No
function gets the value of a secret, only its name here, and its name and id in Docker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

CERTIFICATE = "xnat_client_certificate"  # the only optional secret
# Hub and launcher use the certificate for their calls to XNAT. Only the launcher has the service account's password.
SERVICE_SECRETS: dict[str, tuple[str, ...]] = {
    "hub": ("cookie_secret", "proxy_token", "service_token", CERTIFICATE),
    "launcher": ("xnat_password", CERTIFICATE),
    "proxy": ("proxy_token",),
}


@dataclass(frozen=True)
class Rotation:
    """What `playbooks/rotate.yml` does.

    refusal: one sentence that says why nothing can be rotated; empty otherwise. swarm: whether join tokens or
    certificates of the swarm are rotated. secrets: the files of `site_secrets_dir` that are rotated. layers: the
    playbooks that then apply the new values, "xnat" and "hub".
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
    """Return what is rotated under a name: the fields of `Rotation`.

    variables: names of a host's variables. A secret is in the vault if there is a variable `vault_` with its name.
    Rotating it is refused, because only the vault's owner writes to the vault.
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
                f"{' and '.join(in_vault)} is kept in the vault, which playbooks do not change: set a new value there"
                " with ansible-vault edit, then run playbooks/xnat.yml and playbooks/hub.yml."
            )
        )
    return asdict(wanted)


def service_secrets(created: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the secrets of each service as `docker_swarm_service` mounts them: {"hub": [...], ...}.

    created: what `docker_secret` returned for each secret, with the secret's name as `item`. Names in Docker end in a
    version, since its secrets are immutable. Raises KeyError with the name of a secret that is missing.
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

    created: for each path in the container the result of `docker_config`. Skipped ones are not mounted.
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
    """Return the limits of a service, {"cpus": 2, "memory": "1G"}, with at most the CPUs of the node."""
    return {**limits, "cpus": min(limits["cpus"], cpus, key=float)}


def network_options(mtu: int, *, encrypted: bool) -> dict[str, str]:
    """Return the driver's options of an overlay network. mtu: bytes, 0 for Docker's default."""
    options = {"com.docker.network.driver.mtu": str(mtu)} if mtu else {}
    return {**options, "encrypted": ""} if encrypted else options


def network_differs(options: Mapping[str, str], network: Mapping[str, Any] | None) -> bool:
    """Return whether a network differs from the wanted options. network: as Docker inspects it, None for none.

    Options that only the network has do not count, since Docker adds some.
    """
    if network is None:
        return False
    has = network.get("Options") or {}
    return any(name not in has or has[name] != value for name, value in options.items())


def to_roll_back(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the services to roll back after a failed run, the one changed last first.

    results: for each service, in the order of deployment, the result of its module; empty if it was not reached. The
    last changed service is the one that did not become healthy, and Swarm has rolled it back itself.
    """
    changed = [str(service) for service, result in results.items() if result.get("changed")]
    return list(reversed(changed[:-1]))
