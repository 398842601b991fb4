#!/usr/bin/python
"""Tell how far a Swarm service is, in words, with its log when it is in trouble."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_service_status
short_description: How far a Swarm service is
description:
  - Looks once at a service and its tasks, since the modules that create services do not wait. Meant for C(until).
options:
  name: {description: Name of the service., type: str, required: true}
  attempts:
    description: After how many tasks that ended since the last update the service is called hopeless.
    type: int
    default: 3
  log_lines: {description: How many lines of the log are returned when it does not run., type: int, default: 20}
requirements: [docker Python package]
attributes:
  check_mode: {support: full, description: Only looks.}
"""
EXAMPLES = r"""
- name: Wait until the hub runs
  swarm_service_status:
    name: jupyterhub-hub
  register: status
  until: status.converged or status.hopeless
  retries: 60
  delay: 2
  failed_when: not status.converged
"""
RETURN = r"""
converged: {description: Whether all tasks of the newest specification are well., type: bool, returned: always}
hopeless: {description: Whether waiting is in vain., type: bool, returned: always}
state: {description: The newest task's state with its error., type: str, returned: always}
log: {description: The service's last log lines., type: list, elements: str, returned: always}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import docker

    HAS_DOCKER = True
except ImportError:
    HAS_DOCKER = False

ENDED = ("failed", "rejected", "shutdown", "complete", "orphaned", "remove")


def judge(service: dict[str, Any], tasks: list[dict[str, Any]], attempts: int) -> dict[str, Any]:
    """Return converged, hopeless and state for a service and its tasks, as Docker's API gives them."""
    wanted = service["Spec"]["Mode"].get("Replicated", {}).get("Replicas", 1)
    update = service.get("UpdateStatus") or {}
    template = service["Spec"]["TaskTemplate"]
    current = [
        task
        for task in tasks
        if task["Spec"]["ContainerSpec"] == template["ContainerSpec"]
        and task["Spec"].get("ForceUpdate", 0) == template.get("ForceUpdate", 0)
    ]
    newest = max(current, key=lambda task: task["CreatedAt"], default=None)
    running = [task for task in current if task["DesiredState"] == "running" and task["Status"]["State"] == "running"]
    failed = [
        task
        for task in current
        if task["Status"]["State"] in ("failed", "rejected") and task["CreatedAt"] >= service["UpdatedAt"]
    ]
    state = "no task yet"
    if newest:
        error = (
            newest["Status"].get("Err")
            or max(
                ((task["Status"].get("Timestamp", ""), task["Status"].get("Err", "")) for task in failed),
                default=("", ""),
            )[1]
        )
        state = newest["Status"]["State"] + (f": {error}" if error else "")
    updating = update.get("State") in ("updating", "rollback_started")
    stuck = update.get("State") in ("paused", "rollback_paused") and not running
    return {
        "converged": len(running) >= wanted and not updating,
        "hopeless": len(failed) >= attempts or stuck,
        "state": state,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "attempts": {"type": "int", "default": 3},
            "log_lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    if not HAS_DOCKER:
        module.fail_json(msg=missing_required_lib("docker"))
    client = docker.APIClient(version="auto", timeout=30)
    name = module.params["name"]
    try:
        service = client.inspect_service(name)
        result = judge(service, client.tasks(filters={"service": name}), module.params["attempts"])
        result["log"] = []
        if not result["converged"]:
            lines = client.service_logs(name, stdout=True, stderr=True, tail=module.params["log_lines"], is_tty=False)
            result["log"] = b"".join(lines).decode(errors="replace").splitlines()[-module.params["log_lines"] :]
    except docker.errors.NotFound:
        result = {"converged": False, "hopeless": False, "state": "there is no such service", "log": []}
    except docker.errors.DockerException as error:
        module.fail_json(msg=f"Docker does not tell about the service {name}: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
