#!/usr/bin/python
"""Previews the mounts of a launch on an item of XNAT."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_mounts_info
short_description: Preview the mounts of a launch on an item of XNAT
description:
  - Asks XNAT for the directories of a project, subject, session or scan, and returns the mounts of a launch on it, with
    the decision of the mount policy. The launcher uses the same code.
  - At a launch, XNAT omits directories that do not exist on its machine. This module cannot check that.
options:
  type: {description: Type of the item., type: str, choices: [project, subject, session, scan], required: true}
  id:
    description: The project's id, the accession id of a subject or session, for a scan that of its session.
    type: str
    required: true
  scan: {description: "The scan's id within its session, for the type V(scan).", type: str}
  launched_by: {description: The user of the launch; decides the workspace., type: str, required: true}
  storage: {description: "The storage table, as for P(xnat_mount_policy#filter).", type: dict, required: true}
  compute_mounts:
    description: Allowed mounts of compute environments, as for P(xnat_mount_policy#filter).
    type: list
    elements: dict
    default: []
extends_documentation_fragment: [xnat]
attributes:
  check_mode: {support: full, description: Nothing is changed.}
  diff_mode: {support: none}
"""
EXAMPLES = r"""
- name: Preview the mounts of a session
  xnat_mounts_info:
    xnat: "{{ xnat }}"
    type: session
    id: XNAT_E00001
    launched_by: jdoe
    storage: "{{ site_storage }}"
  register: launch
"""
RETURN = r"""
mounts:
  description: The mounts, with the workspace first.
  type: list
  elements: dict
  returned: always
  contains:
    target: {description: Its path in the notebook., type: str}
    xnat_source: {description: Its path in XNAT., type: str}
    source: {description: Its path on the nodes, after XNAT's path translation., type: str}
    read_only: {description: Whether it is read-only., type: bool}
    allowed: {description: Whether the mount policy allows it., type: bool}
    reason: {description: Why the mount policy refuses it., type: str}
project: {description: The item's project., type: str, returned: always}
allowed: {description: Whether all mounts are allowed, so that a launch can start., type: bool, returned: always}
"""

import functools
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import ARGUMENTS, Client, XnatError, quoted
from ansible.module_utils.xnat_launcher.policy import MountError, roots_from_policy
from ansible.module_utils.xnat_site import launch_preview
from ansible.module_utils.xnat_site.storage import mount_policy


def item_of(client: Client, path: str) -> dict[str, Any]:
    """Return the item in an answer in XNAT's nested form."""
    found = client.get(f"{path}?format=json").json(dict).get("items")
    if not found:
        raise XnatError(f"XNAT's answer for {path} contains no item")
    return dict(found[0])


@functools.cache
def root_of(client: Client, project: str) -> tuple[str, str]:
    """Return a project's archive directory and arc directory; XNAT is asked once per project."""
    specification = client.get(f"/data/projects/{quoted(project)}/archive_spec").text
    archive_path = client.get("/xapi/siteConfig/archivePath").text.strip().strip('"')
    root, arc = launch_preview.archive_root(specification, archive_path, project)
    return root, arc


def session_of(client: Client, number: str) -> tuple[str, str, str]:
    """Return project, label and directory of a session."""
    session = item_of(client, f"/data/experiments/{quoted(number)}")
    project = str(session["data_fields"]["project"])
    directory = launch_preview.session_directory(session, *root_of(client, project))
    return project, str(session["data_fields"]["label"]), directory


def subject_of(client: Client, number: str) -> tuple[str, dict[str, str]]:
    """Return a subject's project and its directories by target."""
    fields = item_of(client, f"/data/subjects/{quoted(number)}")["data_fields"]
    project, label = str(fields["project"]), str(fields["label"])
    listed = client.get(f"/data/projects/{quoted(project)}/subjects/{quoted(label)}/experiments?format=json")
    sessions = {}
    for row in listed.json(dict)["ResultSet"]["Result"]:
        _, name, directory = session_of(client, row["ID"])
        sessions[name] = directory
    return project, launch_preview.subject_paths(project, root_of(client, project)[0], label, sessions)


def paths_of(client: Client, kind: str, number: str, scan: str) -> tuple[str, dict[str, str]]:
    """Return the item's project, and target to source as XNAT sees it."""
    if kind == "project":
        return number, launch_preview.project_paths(number, *root_of(client, number))
    if kind == "subject":
        return subject_of(client, number)
    project, label, directory = session_of(client, number)
    if kind == "scan":
        return project, launch_preview.scan_paths(project, label, directory, scan)
    return project, launch_preview.session_paths(project, label, directory)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "type": {"type": "str", "choices": ["project", "subject", "session", "scan"], "required": True},
            "id": {"type": "str", "required": True},
            "scan": {"type": "str"},
            "launched_by": {"type": "str", "required": True},
            "storage": {"type": "dict", "required": True},
            "compute_mounts": {"type": "list", "elements": "dict", "default": []},
        },
        required_if=[("type", "scan", ["scan"])],
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        roots = roots_from_policy(mount_policy(wanted["storage"], wanted["compute_mounts"]))
        with Client(module) as client:
            project, paths = paths_of(client, wanted["type"], wanted["id"], wanted["scan"])
            preferences = client.get("/xapi/jupyterhub/preferences").json(dict)
        mounts = launch_preview.launch_mounts(paths, preferences, wanted["launched_by"], roots)
    except (XnatError, MountError, launch_preview.ItemError) as error:
        module.fail_json(msg=str(error))
    except KeyError as error:
        module.fail_json(msg=f"XNAT's answer lacks {error}: check that {wanted['id']} is a {wanted['type']}")
    module.exit_json(changed=False, project=project, mounts=mounts, allowed=all(row["allowed"] for row in mounts))


if __name__ == "__main__":
    main()
