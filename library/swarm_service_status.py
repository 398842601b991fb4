#!/usr/bin/python
"""Reports the state of a Swarm service, with its log if it does not run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_service_status
short_description: Report the state of a Swarm service
description:
  - Inspects a service and its tasks once, since the modules that create services do not wait. Meant for C(until).
  - For a global service, tasks on nodes that are down and old tasks on paused nodes are ignored.
options:
  name: {description: Name of the service., type: str, required: true}
  attempts:
    description: Number of tasks that failed since the last update after which waiting is given up.
    type: int
    default: 3
  updated:
    description: Whether the service was changed just now, so that a roll-back in progress belongs to this change.
    type: bool
    default: false
  share:
    description: For a global service, the share of the nodes on which it must run, above 0 and at most 1.
    type: float
    default: 1.0
  log_lines: {description: Number of log lines that are returned if it does not run., type: int, default: 20}
requirements: [docker Python package]
attributes:
  check_mode: {support: full, description: Changes nothing.}
"""
EXAMPLES = r"""
- name: Wait until the hub runs
  swarm_service_status:
    name: jupyterhub-hub
  register: status
  until: status.converged or status.unrecoverable
  retries: 60
  delay: 2
  failed_when: not status.converged
"""
RETURN = r"""
converged: {description: Whether all tasks of the newest specification run., type: bool, returned: always}
unrecoverable: {description: Whether further waiting will not help., type: bool, returned: always}
state: {description: The newest task's state with its error., type: str, returned: always}
log: {description: The service's last log lines., type: list, elements: str, returned: always}
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import docker

    HAS_DOCKER = True
except ImportError:
    HAS_DOCKER = False

LOG_TIMEOUT = 5  # seconds without new data after which reading a log ends


def judge(
    service: dict[str, Any],
    tasks: list[dict[str, Any]],
    attempts: int,
    updated: bool = False,
    ready: Mapping[str, str] | None = None,
    share: float = 1.0,
) -> dict[str, Any]:
    """Return converged, unrecoverable and state of a service. service, tasks: Docker's JSON.

    updated: whether a roll-back belongs to the awaited change; the result then has the id of the failed task as well.
    ready: the availability of ready nodes by their id. For a global service only tasks on these nodes count, and no old
    tasks on paused nodes, which Swarm does not update. An update does not finish while a node is lost. share: the share
    of these nodes on which it must run.
    """
    wanted = service["Spec"]["Mode"].get("Replicated", {}).get("Replicas", 1)
    update = service.get("UpdateStatus") or {}
    template = service["Spec"]["TaskTemplate"]
    current = [
        task
        for task in tasks
        if task["Spec"]["ContainerSpec"] == template["ContainerSpec"]
        and task["Spec"].get("ForceUpdate", 0) == template.get("ForceUpdate", 0)
    ]
    lost = False
    if "Global" in service["Spec"]["Mode"]:
        ready = ready or {}
        lost = any(task.get("NodeID") not in ready for task in current)
        current = [task for task in current if task.get("NodeID") in ready]
        changing = [task for task in tasks if ready.get(task.get("NodeID", "")) == "active"]
        due = [task for task in [*changing, *current] if task["DesiredState"] in ("ready", "running")]
        wanted = max(1, math.ceil(share * len({task["NodeID"] for task in due})))
        attempts *= wanted
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
    if updated and update.get("State", "").startswith("rollback_"):
        return judge_rollback(tasks, update)
    return {
        "converged": len(running) >= wanted and (lost or share < 1 or not updating),
        "unrecoverable": len(failed) >= attempts or stuck,
        "state": state,
    }


def judge_rollback(tasks: list[dict[str, Any]], update: dict[str, Any]) -> dict[str, Any]:
    """Return the same for a service that Swarm rolls back; unrecoverable once the roll-back has ended."""
    failed = [
        task
        for task in tasks
        if task["Status"]["State"] in ("failed", "rejected", "complete") and task["CreatedAt"] >= update["StartedAt"]
    ]
    task = max(failed, key=lambda task: task["CreatedAt"], default=None)
    reason = (task["Status"].get("Err") or "it ended") if task else update.get("Message", "no reason given")
    return {
        "converged": False,
        "unrecoverable": update["State"] != "rollback_started",
        "state": f"the new version failed ({reason}), and Swarm rolled back to the previous one",
        "task": task["ID"] if task else "",
    }


def read_log(client: Any, service: str, parameters: dict[str, int]) -> bytes:
    """Return a service's log. The function of Docker's library waits forever if a node does not send its part."""
    url = f"{client.base_url}/v{client.api_version}/services/{service}/logs"
    parts: list[bytes] = []
    with client.get(url, params=parameters, stream=True, timeout=LOG_TIMEOUT) as answer, suppress(Exception):
        while header := answer.raw.read(8):  # stream, three zeros, length
            parts.append(answer.raw.read(int.from_bytes(header[4:], "big")))
    return b"".join(parts)


def log_of(client: Any, service: str, task: str, lines: int) -> list[str]:
    """Return the last log lines of a service, or of one of its tasks."""
    parameters = {"stdout": 1, "stderr": 1, "details": int(bool(task)), "tail": 10 * lines}
    text = read_log(client, service, parameters).decode(errors="replace").splitlines()
    if task:
        text = [line.partition(" ")[2] for line in text if f"com.docker.swarm.task.id={task}" in line.split(" ")[0]]
    return text[-lines:]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "attempts": {"type": "int", "default": 3},
            "updated": {"type": "bool", "default": False},
            "share": {"type": "float", "default": 1.0},
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
        tasks = client.tasks(filters={"service": name})
        nodes = client.nodes()
        ready = {node["ID"]: node["Spec"]["Availability"] for node in nodes if node["Status"]["State"] == "ready"}
        result = judge(
            service, tasks, module.params["attempts"], module.params["updated"], ready, module.params["share"]
        )
        result["log"] = []
        if not result["converged"]:
            result["log"] = log_of(client, name, result.pop("task", ""), module.params["log_lines"])
    except docker.errors.NotFound:
        result = {"converged": False, "unrecoverable": False, "state": "the service does not exist", "log": []}
    except docker.errors.DockerException as error:
        module.fail_json(msg=f"Could not read the service {name} from Docker: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
