"""What a launch on an item would mount: the plugin's rules (docs/xnat-contract.md, 3), and our policy's verdict.

Used by the module xnat_mounts_info, whose host gets no more of this package than what is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from ..xnat_launcher.policy import MountError, Root, allowed_mounts

ARC_NAMESPACE = "{http://nrg.wustl.edu/arc}"
DEFAULT_ARC = "arc001"


class ItemError(ValueError):
    """What XNAT says of an item cannot be used; one sentence."""


def archive_root(specification: str, archive_path: str, project: str) -> tuple[str, str]:
    """Return a project's archive directory, without a slash at its end, and the name of its current arc directory.

    specification: the XML of XNAT's `/data/projects/ID/archive_spec`. archive_path: the site's, in which a project
    without an own path has a directory of its name. Raises ItemError.
    """
    try:
        # XNAT, which is trusted with all paths anyway, wrote it.
        spec = ElementTree.fromstring(specification)  # noqa: S314
    except ElementTree.ParseError as error:
        raise ItemError(f"XNAT's archive specification of {project} is no XML") from error
    own = (spec.findtext(f"{ARC_NAMESPACE}paths/{ARC_NAMESPACE}archivePath") or "").strip()
    root = own or f"{archive_path.rstrip('/')}/{project}"
    return root.rstrip("/"), spec.get("current_arc") or DEFAULT_ARC


def session_directory(session: Mapping[str, Any], root: str, arc: str) -> str:
    """Return a session's directory as XNAT sees it, with the slash at its end that XNAT gives it.

    session: the item of XNAT's `/data/experiments/ID?format=json`. Where a catalog of files is kept at an absolute
    path, as XNAT writes it, that tells the directory; else the session is taken to be in the current arc directory.
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
    """Return target to source, as XNAT sees it, for a project without shared data; XNAT leaves out what is missing."""
    target = f"/data/projects/{project}"
    return {
        f"{target}/experiments": f"{root}/{arc}",
        f"{target}/resources": f"{root}/resources",
        f"{target}/subjects": f"{root}/subjects",
    }


def subject_paths(project: str, root: str, label: str, sessions: Mapping[str, str]) -> dict[str, str]:
    """Return target to source for a subject; sessions: their directories by label."""
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
    """Do as XNAT does (3.2): every occurrence is replaced, and none unless both texts are there."""
    return path.replace(prefix, replacement) if prefix.strip() and replacement.strip() else path


def launch_mounts(
    paths: Mapping[str, str], preferences: Mapping[str, Any], username: str, roots: Sequence[Root]
) -> list[dict[str, Any]]:
    """Return what a launch of this person mounts, the workspace first.

    paths: target to source as XNAT sees it. preferences: the plugin's, as XNAT has them. roots: of the mount policy.
    Each entry has target, xnat_source, source (a path of the nodes), read_only, allowed and reason, which says why a
    mount is refused and is empty otherwise.
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
