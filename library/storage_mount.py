#!/usr/bin/python
"""Mounts file systems from /etc/fstab with a time limit, and reports a reason for each mount that fails."""

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_mount
short_description: Mount file systems of a node with a time limit
description:
  - Mounts each path by its line in C(/etc/fstab). Tries all of them, and then fails with a sentence for each mount that
    failed. The lines are kept, so that the next boot tries again.
  - P(ansible.posix.mount#module) has no time limit, and removes the line again when mounting fails.
options:
  mounts:
    description: Entries of P(xnat_node_mounts#filter), such as C(changes.mount) of the module M(storage_probe).
    type: list
    elements: dict
    required: true
  timeout: {description: Seconds that each mount may take., type: int, default: 30}
attributes:
  check_mode: {support: full, description: Mounts nothing.}
"""
EXAMPLES = r"""
- name: Mount the file systems
  storage_mount:
    mounts: "{{ storage.changes.mount }}"
"""
RETURN = r""" # """

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

SSH_TIMEOUT = 10
TIMED_OUT = (124, 137)
"""Exit codes of `timeout` after it stopped or killed the program."""

ADVICE = {
    "none": "check that the source directory exists on this node",
    "nfs": (
        "check that the server runs and exports that path to this node (`showmount -e SERVER`), and that the node's"
        " kernel supports NFS (`modprobe nfs`)"
    ),
    "cifs": (
        "check that the server runs and has that share, that node_storage_cifs_username and node_storage_cifs_password"
        " are correct, and that the node's kernel supports CIFS (`modprobe cifs`)"
    ),
    "fuse.sshfs": (
        "check that the server runs and has that path, that it accepts node_storage_ssh_key for the login, that"
        " node_storage_ssh_known_hosts has the server's key, and that the node's kernel supports FUSE (`modprobe fuse`)"
    ),
}

Run = Callable[[Sequence[str]], tuple[int, str, str]]
"""Runs a program: exit code, standard output and standard error, as AnsibleModule.run_command does."""


def limited(seconds: int, *command: str) -> list[str]:
    """Return a command with a time limit; SIGKILL ends it if necessary."""
    return ["timeout", "--kill-after=5", str(seconds), *command]


def failure(entry: Mapping[str, Any], timeout: int, run: Run) -> str:
    """Mount one entry. Return a sentence that says why that failed, or an empty text."""
    code, _, errors = run(limited(timeout, "mount", entry["path"]))
    if code == 0:
        return ""
    # In the foreground, sshfs prints the errors of ssh. If this attempt works, its mount ends with the process.
    if entry["fstype"] == "fuse.sshfs":
        _, _, of_ssh = run(limited(SSH_TIMEOUT, "sshfs", "-f", entry["src"], entry["path"], "-o", entry["opts"]))
        errors = of_ssh if of_ssh.strip() else errors
    lines = dict.fromkeys(line.strip() for line in errors.splitlines() if line.strip())
    reason = "; ".join(lines) or (f"no answer within {timeout} s" if code in TIMED_OUT else f"exit code {code}")
    return (
        f"site_storage.{entry['name']}: {entry['src']} could not be mounted on {entry['path']} ({reason}):"
        f" {ADVICE[entry['fstype']]}."
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "mounts": {"type": "list", "elements": "dict", "required": True},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    mounts = module.params["mounts"]
    if module.check_mode:
        module.exit_json(changed=bool(mounts))
    failures = [failure(entry, module.params["timeout"], module.run_command) for entry in mounts]
    if any(failures):
        module.fail_json("\n".join(text for text in failures if text), changed=not all(failures))
    module.exit_json(changed=bool(mounts))


if __name__ == "__main__":
    main()
