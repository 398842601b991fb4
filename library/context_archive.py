#!/usr/bin/python
"""Pack files from several directories into one archive, so that a build context is copied as one file."""

from __future__ import annotations

DOCUMENTATION = r"""
module: context_archive
short_description: Pack files from several directories into a tar archive
description:
  - Writes an archive on the host where it runs, usually the control node. Equal files result in an equal archive.
options:
  path: {description: The archive to write., type: path, required: true}
  files:
    description: The files to pack.
    type: list
    elements: dict
    required: true
    suboptions:
      src: {description: The file., type: path, required: true}
      dest: {description: Its name within the archive., type: str, required: true}
attributes:
  check_mode: {support: full, description: Nothing is written.}
"""
EXAMPLES = r"""
- name: Pack a build context
  context_archive:
    path: /tmp/context.tar
    files: [{src: /project/files/runtime/Dockerfile, dest: Dockerfile}]
  delegate_to: localhost
"""

import tarfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def pack(path: str, files: list[dict[str, str]]) -> None:
    """Write the archive: regular files that everybody may read, without owner and time."""
    with tarfile.open(path, "w") as archive:
        for entry in files:
            info = tarfile.TarInfo(entry["dest"])
            info.size = Path(entry["src"]).stat().st_size
            info.mode = 0o644
            with open(entry["src"], "rb") as file:
                archive.addfile(info, file)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "src": {"type": "path", "required": True},
                    "dest": {"type": "str", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    if not module.check_mode:
        try:
            pack(module.params["path"], module.params["files"])
        except OSError as error:
            module.fail_json(msg=f"{module.params['path']} cannot be written: {error}")
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
