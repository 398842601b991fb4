#!/usr/bin/python
"""Checks whether Swarm has room for the reservations of services on this node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_room
short_description: Check whether this node has room for the reservations of services
description:
  - To update a service, Swarm stops it before it looks for room for the new task. If notebooks have reserved the whole
    node, the new task then waits. So this module checks the reservations first.
options:
  services:
    description: Names of the services. Their present reservations count as free.
    type: list
    elements: str
    required: true
  reservations:
    description: Their wanted reservations.
    type: list
    elements: dict
    required: true
    suboptions:
      cpus: {description: CPUs., type: float, required: true}
      memory: {description: "Memory, for example 512M.", type: str, required: true}
requirements: [docker Python package]
attributes:
  check_mode: {support: full, description: Changes nothing.}
"""
EXAMPLES = r"""
- name: Check whether the hub's reservation fits
  swarm_room:
    services: [jupyterhub-hub]
    reservations: [{cpus: 0.1, memory: 256M}]
  register: room
"""
RETURN = r"""
fits: {description: Whether there is room for all of it., type: bool, returned: always}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.text.formatters import human_to_bytes

try:
    import docker

    HAS_DOCKER = True
except ImportError:
    HAS_DOCKER = False


def has_room(
    node: dict[str, Any], tasks: list[dict[str, Any]], services: set[str], nano_cpus: int, memory_bytes: int
) -> bool:
    """Return whether a node has these resources free, not counting tasks of `services`. node, tasks: Docker's JSON."""
    left = dict(node["Description"]["Resources"])
    for task in tasks:
        if task["ServiceID"] not in services:
            reserved = (task["Spec"].get("Resources") or {}).get("Reservations") or {}
            for kind in ("NanoCPUs", "MemoryBytes"):
                left[kind] -= reserved.get(kind, 0)
    return bool(left["NanoCPUs"] >= nano_cpus and left["MemoryBytes"] >= memory_bytes)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "reservations": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "cpus": {"type": "float", "required": True},
                    "memory": {"type": "str", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    if not HAS_DOCKER:
        module.fail_json(msg=missing_required_lib("docker"))
    wanted = module.params["reservations"]
    try:
        memory = sum(human_to_bytes(each["memory"]) for each in wanted)
    except ValueError as error:
        module.fail_json(msg=f"A memory reservation must be an amount such as 512M: {error}")
    client = docker.APIClient(version="auto", timeout=30)
    try:
        node = client.info()["Swarm"]["NodeID"]
        names = {service["ID"]: service["Spec"]["Name"] for service in client.services()}
        ours = {key for key, name in names.items() if name in module.params["services"]}
        tasks = client.tasks(filters={"node": node, "desired-state": "running"})
        fits = has_room(client.inspect_node(node), tasks, ours, int(sum(each["cpus"] for each in wanted) * 1e9), memory)
    except docker.errors.DockerException as error:
        module.fail_json(msg=f"Could not read this node's reservations from Docker: {error}")
    module.exit_json(changed=False, fits=fits)


if __name__ == "__main__":
    main()
