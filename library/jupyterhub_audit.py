#!/usr/bin/python
"""Reads the launcher's audit log on the node where it is."""

from __future__ import annotations

DOCUMENTATION = r"""
module: jupyterhub_audit
short_description: Return the lines of a node's audit log that concern a project, a person or a time
description:
  - Reads the files of the volume, which only root can read, whether or not the launcher runs.
  - Finds a person's log-ins by the hash of the name as well, which the log has if neither hub nor XNAT knows the name.
  - Other lines stay on the node.
  - Lines that cannot be read, such as the last one before a power failure, are skipped and counted.
options:
  volume: {description: Name of the volume., type: str, required: true}
  project:
    description:
      - Only launches of this project in XNAT, or with a mount whose source has a directory of this name. Empty for all.
    type: str
    default: ""
  person: {description: Only launches and log-ins of this user. Empty for all., type: str, default: ""}
  since:
    description: Only what happened or still ran since then, in the form 2026-11-28T00:00:00.000Z. Empty for all.
    type: str
    default: ""
attributes:
  check_mode: {support: full, description: The module changes nothing.}
"""
EXAMPLES = r"""
- name: Read who had access to a project
  jupyterhub_audit:
    volume: jupyterhub-audit
    project: OASIS
"""
RETURN = r"""
found: {description: Whether the node has the volume., type: bool, returned: always}
lines:
  description: The lines as objects; files/xnat_launcher/audit.py describes them.
  type: list
  elements: dict
  returned: always
broken: {description: Number of lines that cannot be read., type: int, returned: always}
newest: {description: Time of the newest line, empty for none., type: str, returned: always}
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat_site.audit import FILE, KEY_FILE, select

VOLUMES = "/var/lib/docker/volumes"  # where it is if the engine does not answer


def directory(module: AnsibleModule, volume: str) -> Path:
    """Return where the volume's files are."""
    docker = module.get_bin_path("docker")
    if docker:
        asked = [docker, "volume", "inspect", "--format", "{{.Mountpoint}}", volume]
        code, output, _ = module.run_command(asked)
        if code == 0 and output.strip():
            return Path(output.strip())
    return Path(VOLUMES, volume, "_data")


def read(folder: Path, project: str, person: str, since: str) -> dict[str, Any]:
    """Return the result of the module. Raises OSError."""
    if not folder.is_dir():
        return {"found": False, "lines": [], "broken": 0, "newest": ""}
    days = {found[1]: path for path in folder.iterdir() if (found := FILE.fullmatch(path.name))}

    def lines(day: str) -> Iterator[bytes]:
        with days[day].open("rb") as file:
            yield from file

    key = folder / KEY_FILE
    chosen, broken = select(days, lines, project, person, since, key.read_bytes() if key.is_file() else b"")
    newest = ""
    if days:
        for line in lines(max(days)):
            try:
                newest = max(newest, str(json.loads(line)["time"]))  # lines that waited for the disk are older
            except (ValueError, TypeError, KeyError):
                continue
    return {"found": True, "lines": chosen, "broken": broken, "newest": newest}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "volume": {"type": "str", "required": True},
            "project": {"type": "str", "default": ""},
            "person": {"type": "str", "default": ""},
            "since": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    asked = dict(module.params)
    folder = directory(module, asked.pop("volume"))
    try:
        module.exit_json(changed=False, **read(folder, **asked))
    except OSError as error:
        module.fail_json(msg=f"The audit log in {folder} cannot be read: {error}")


if __name__ == "__main__":
    main()
