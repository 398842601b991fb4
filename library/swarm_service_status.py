#!/usr/bin/python
"""Tell how far a Swarm service is, in words, with its log when it is in trouble."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_service_status
short_description: How far a Swarm service is
description:
  - Looks once at a service and its tasks, since the modules that create services do not wait. Meant for C(until).
  - Of a global service the tasks on nodes that are down do not count, nor old ones on paused nodes.
options:
  name: {description: Name of the service., type: str, required: true}
  attempts:
    description: After how many tasks that ended since the last update the service is called hopeless.
    type: int
    default: 3
  updated:
    description: Whether the service was changed just now, so that a roll-back which Swarm tells of belongs to that.
    type: bool
    default: false
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

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import docker

    HAS_DOCKER = True
except ImportError:
    HAS_DOCKER = False

LOG_TIMEOUT = 5  # seconds without a word of a log that is read


def judge(
    service: dict[str, Any],
    tasks: list[dict[str, Any]],
    attempts: int,
    updated: bool = False,
    ready: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return converged, hopeless and state for a service and its tasks, as Docker's API gives them.

    updated: whether a roll-back belongs to the change that is waited for. Then also the id of the task that failed.
    ready: availability of the nodes that are ready, by their id. Of a global service only the tasks there count, on a
    paused node not an old one, which Swarm leaves alone. An update waits for a node that was lost meanwhile.
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
        wanted = max(1, len({task["NodeID"] for task in due}))
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
        "converged": len(running) >= wanted and (lost or not updating),
        "hopeless": len(failed) >= attempts or stuck,
        "state": state,
    }


def judge_rollback(tasks: list[dict[str, Any]], update: dict[str, Any]) -> dict[str, Any]:
    """Return the same for a service that Swarm takes back to what ran before; it is final once that has ended."""
    failed = [
        task
        for task in tasks
        if task["Status"]["State"] in ("failed", "rejected", "complete") and task["CreatedAt"] >= update["StartedAt"]
    ]
    task = max(failed, key=lambda task: task["CreatedAt"], default=None)
    reason = (task["Status"].get("Err") or "it ended") if task else update.get("Message", "no reason given")
    return {
        "converged": False,
        "hopeless": update["State"] != "rollback_started",
        "state": f"the new one failed ({reason}), and Swarm has gone back to what ran before",
        "task": task["ID"] if task else "",
    }


def read_log(client: Any, service: str, parameters: dict[str, int]) -> bytes:
    """Return what a service wrote. Docker's own function waits for ever when a node does not send its part."""
    url = f"{client.base_url}/v{client.api_version}/services/{service}/logs"
    parts: list[bytes] = []
    with client.get(url, params=parameters, stream=True, timeout=LOG_TIMEOUT) as answer, suppress(Exception):
        while header := answer.raw.read(8):  # stream, three zeros, length
            parts.append(answer.raw.read(int.from_bytes(header[4:], "big")))
    return b"".join(parts)


def log_of(client: Any, service: str, task: str, lines: int) -> list[str]:
    """Return the last lines that a service wrote, or one task of it."""
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
        result = judge(service, tasks, module.params["attempts"], module.params["updated"], ready)
        result["log"] = []
        if not result["converged"]:
            result["log"] = log_of(client, name, result.pop("task", ""), module.params["log_lines"])
    except docker.errors.NotFound:
        result = {"converged": False, "hopeless": False, "state": "there is no such service", "log": []}
    except docker.errors.DockerException as error:
        module.fail_json(msg=f"Docker does not tell about the service {name}: {error}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
