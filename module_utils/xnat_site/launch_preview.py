"""Previews the mounts of a launch: the plugin's rules (docs/xnat-contract.md, 3) and the decision of the mount policy.

Used by the module xnat_mounts_info. Ansible copies only what is imported here to the module's host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from ..xnat_launcher.policy import MountError, Root, allowed_mounts

ARC_NAMESPACE = "{http://nrg.wustl.edu/arc}"
DEFAULT_ARC = "arc001"


class ItemError(ValueError):
    """XNAT's answer about an item is unusable; the text is one sentence."""


def archive_root(specification: str, archive_path: str, project: str) -> tuple[str, str]:
    """Return a project's archive directory, without a trailing slash, and the name of its current arc directory.

    specification: the XML of XNAT's `/data/projects/ID/archive_spec`. archive_path: the site's archive; a project
    without its own path has a directory with its name there. Raises ItemError.
    """
    try:
        # Written by XNAT, which is trusted with all paths anyway.
        spec = ElementTree.fromstring(specification)  # noqa: S314
    except ElementTree.ParseError as error:
        raise ItemError(f"XNAT's archive specification of {project} is not valid XML") from error
    own = (spec.findtext(f"{ARC_NAMESPACE}paths/{ARC_NAMESPACE}archivePath") or "").strip()
    root = own or f"{archive_path.rstrip('/')}/{project}"
    return root.rstrip("/"), spec.get("current_arc") or DEFAULT_ARC


def session_directory(session: Mapping[str, Any], root: str, arc: str) -> str:
    """Return a session's directory as XNAT sees it, with a trailing slash as in XNAT.

    session: the item of XNAT's `/data/experiments/ID?format=json`. The directory follows from the absolute path of a
    file catalog, which XNAT writes; without one, the session is assumed to be in the current arc directory.
    """
    label = str(session["data_fields"]["label"])
    for uri in _catalogs(session):
        head, found, _ = uri.partition(f"/{label}/")
        if found and uri.startswith("/"):
            return f"{head}/{label}/"
    return f"{root}/{arc}/{label}/"


def _catalogs(item: Mapping[str, Any]) -> list[str]:
    found = [str(item.get("data_fields", {}).get("URI", ""))]
    for child in item.get("children", ()):
        for inner in child.get("items", ()):
            found += _catalogs(inner)
    return found


def project_paths(project: str, root: str, arc: str) -> dict[str, str]:
    """Return target to source, as XNAT sees it, for a project without shared data; XNAT omits missing directories."""
    target = f"/data/projects/{project}"
    return {
        f"{target}/experiments": f"{root}/{arc}",
        f"{target}/resources": f"{root}/resources",
        f"{target}/subjects": f"{root}/subjects",
    }


def subject_paths(project: str, root: str, label: str, sessions: Mapping[str, str]) -> dict[str, str]:
    """Return target to source for a subject. sessions: the sessions' directories by label."""
    target = f"/data/projects/{project}"
    paths = {f"{target}/subject-resources/{label}": f"{root}/subjects/{label}"}
    return paths | {f"{target}/experiments/{name}": directory for name, directory in sessions.items()}


def session_paths(project: str, label: str, directory: str) -> dict[str, str]:
    """Return target to source for a session."""
    return {f"/data/projects/{project}/experiments/{label}": directory}


def scan_paths(project: str, label: str, directory: str, scan: str) -> dict[str, str]:
    """Return target to source for one scan of a session."""
    return {
        f"/data/projects/{project}/experiments/{label}/SCANS/{scan}": f"{directory.rstrip('/')}/SCANS/{scan}",
    }


def translated(path: str, prefix: str, replacement: str) -> str:
    """Translate a path as XNAT does (3.2): replace every occurrence, but only if both texts are set."""
    return path.replace(prefix, replacement) if prefix.strip() and replacement.strip() else path


def launch_mounts(
    paths: Mapping[str, str], preferences: Mapping[str, Any], username: str, roots: Sequence[Root]
) -> list[dict[str, Any]]:
    """Return the mounts of a launch by this user, the workspace first.

    paths: target to source as XNAT sees it. preferences: the plugin's preferences in XNAT. roots: of the mount policy.
    Each entry has target, xnat_source, source (a path on the nodes), read_only, allowed, and reason: why the mount is
    refused, empty if it is allowed.
    """
    workspace = f"{str(preferences['workspacePath']).rstrip('/')}/users/{username}"
    rows = [(f"/workspace/{username}", workspace, "Workspace", False)]
    rows += [(target, source, "Archive", True) for target, source in paths.items()]
    mounts = []
    for target, xnat_source, kind, read_only in rows:
        prefix, replacement = (str(preferences[f"pathTranslation{kind}{end}"]) for end in ("Prefix", "DockerPrefix"))
        source = translated(xnat_source, prefix, replacement)
        mount = {"target": target, "source": source, "type": "bind", "read_only": read_only}
        reason = ""
        try:
            allowed_mounts([mount], roots, username)
        except MountError as error:
            reason = str(error)
        mounts.append(
            {
                "target": target,
                "xnat_source": xnat_source,
                "source": source,
                "read_only": read_only,
                "allowed": not reason,
                "reason": reason,
            }
        )
    return mounts
