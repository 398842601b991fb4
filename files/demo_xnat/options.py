"""User-options: the mounts, variables and limits of one server (docs/xnat-contract.md, 1.4, 3 and 4).

Projects with shared sessions and stored searches do not occur in the demo archive.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import archive
from .configuration import Configuration
from .people import Person


def translate(path: str, prefix: str, docker_prefix: str) -> str:
    """Java's ``String.replace``: every occurrence, not anchored, slashes unchanged (docs/xnat-contract.md, 3.2)."""
    if prefix.strip() and docker_prefix.strip():
        return path.replace(prefix, docker_prefix)
    return path


def data_paths(archive_path: str, xsi_type: str, item_id: str) -> dict[str, str]:
    """Container target -> source as XNAT sees it, for one item of a *general* type (docs/xnat-contract.md, 3).

    Missing directories are omitted, except that the directory of a scan is not checked.
    Sources of sessions end in "/".
    """
    paths: dict[str, str] = {}
    for project in archive.PROJECTS:
        root = f"{archive_path.rstrip('/')}/{project.id}"
        target = f"/data/projects/{project.id}"
        if xsi_type == archive.PROJECT_TYPE and project.id == item_id:
            paths[f"{target}/experiments"] = f"{root}/{archive.CURRENT_ARC}"
            paths[f"{target}/resources"] = f"{root}/resources"
            paths[f"{target}/subjects"] = f"{root}/subjects"
        if xsi_type == archive.SUBJECT_TYPE:
            for subject in project.subjects:
                if subject.id == item_id:
                    paths[f"{target}/subject-resources/{subject.label}"] = f"{root}/subjects/{subject.label}"
        for subject, session in project.sessions():
            wanted = {archive.SUBJECT_TYPE: subject.id, archive.EXPERIMENT_TYPE: session.id}.get(xsi_type)
            if wanted == item_id:
                paths[f"{target}/experiments/{session.label}"] = f"{root}/{archive.CURRENT_ARC}/{session.label}/"
    if xsi_type == archive.SCAN_TYPE:
        return _scan_path(archive_path, item_id)
    return {target: source for target, source in paths.items() if os.path.exists(source)}


def _scan_path(archive_path: str, item_id: str) -> dict[str, str]:
    for project in archive.PROJECTS:
        for session, scan in project.scans():
            if str(scan.key) == item_id:
                folder = f"{session.label}/SCANS/{scan.id}"
                source = f"{archive_path.rstrip('/')}/{project.id}/{archive.CURRENT_ARC}/{folder}"
                return {f"/data/projects/{project.id}/experiments/{folder}": source}
    return {}


def make_workspace(workspace_path: str, person: Person) -> str:
    """The user's workspace directory, created with a git configuration if it is missing. Raises ``OSError``."""
    workspace = Path(workspace_path) / "users" / person.username
    if not workspace.exists():
        workspace.mkdir(parents=True)
        config = workspace / "git" / "config"
        config.parent.mkdir()
        config.write_text(f"[user]\n    name = {person.username}\n    email = {person.username}@example.org")
    return str(workspace)


def task_template(
    configuration: Configuration,
    person: Person,
    template: dict[str, Any],
    xsi_type: str,
    item_id: str,
    alias: tuple[str, str],
) -> dict[str, Any]:
    """The ``task_template`` of docs/xnat-contract.md, 1.4.1: what the configuration gives, with item and person.

    ``template`` comes from ``Compute.task_template``; ``xsi_type`` is the general type. Makes the workspace; raises
    ``OSError`` if that is impossible.
    """

    def on_node(path: str, kind: str) -> str:
        names = f"pathTranslation{kind}Prefix", f"pathTranslation{kind}DockerPrefix"
        return translate(path, configuration.text(names[0]), configuration.text(names[1]))

    home = f"/workspace/{person.username}"
    workspace = on_node(make_workspace(configuration.text("workspacePath"), person), "Workspace")
    container = template["container_spec"]
    mounts = [*container["mounts"], {"target": home, "source": workspace, "type": "bind", "read_only": False}]
    for target, path in data_paths(configuration.site["archivePath"], xsi_type, item_id).items():
        mounts.append({"target": target, "source": on_node(path, "Archive"), "type": "bind", "read_only": True})
    variables = {
        "XNAT_HOST": configuration.host(),
        "XNAT_USER": alias[0],
        "XNAT_PASS": alias[1],
        "XNAT_DATA": "/data",
        "XNAT_XSI_TYPE": xsi_type,
        "XNAT_ITEM_ID": item_id,
        "JUPYTERHUB_ROOT_DIR": home,
        "XDG_CONFIG_HOME": home,
    }
    return template | {"container_spec": container | {"env": container["env"] | variables, "mounts": mounts}}
