"""Variables of an inventory that have no effect because nothing reads their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .hosts import HOST_VARIABLES

# Names that this project has changed: the new name replaces the old one.
RENAMED = {"jupyterhub_registry_auths": "hub_images_registry_auths"}
SIMILAR = 0.85  # how alike two names must be, from 0 to 1, for one to be taken for the other


def raw_variables(hostvars: Mapping[str, Mapping[str, Any]], host: str) -> Mapping[str, Any]:
    """Return a host's variables as they are written, not evaluated. hostvars: Ansible's, or a plain dict of dicts."""
    raw_get = getattr(hostvars, "raw_get", None)
    found: Mapping[str, Any] = raw_get(host) if raw_get else hostvars[host]
    return found


def known_variables(project: str | Path) -> tuple[set[str], set[str]]:
    """Return the names of the roles and of all variables that an inventory can set, or that plays set.

    project: the folder with `roles/`, `playbooks/` and `inventory/`. Roles' variables are the options of their argument
    specifications, which begin with the role's name; the site's are those that the shipped inventories set. Facts are
    known too, because another playbook may have run before in the same command.
    """
    roles = {path.name for path in Path(project).glob("roles/*")}
    names = set(HOST_VARIABLES)
    for pattern in ("roles/*/meta/argument_specs.yml", "roles/*/tasks/*.yml", "playbooks/*.yml"):
        for path in Path(project).glob(pattern):
            names.update(re.findall(rf"^ +(?:register: )?((?:{'|'.join(roles)})_\w+)", path.read_text(), re.MULTILINE))
    for path in Path(project).glob("inventory/*/group_vars/all/*.yml"):
        names.update(re.findall(r"^(site_\w+):", path.read_text(), re.MULTILINE))
    return roles, names


def unknown_variables(hostvars: Mapping[str, Mapping[str, Any]], project: str | Path) -> list[str]:
    """Return a sentence for each variable of the inventory that only seems to be one of ours.

    hostvars: Ansible's, before any fact is set, or a plain dict of dicts. project: of `known_variables`. A name that
    begins with that of a role belongs to this project. One that begins with `site_` may be the site's own: it is named
    only if it resembles one of ours.
    """
    roles, known = known_variables(project)
    hosts: dict[str, list[str]] = {}
    for host in hostvars:
        for name in raw_variables(hostvars, host):
            hosts.setdefault(name, []).append(host)
    found = []
    for name in sorted(set(hosts) - known):
        of_a_role = name.startswith(tuple(f"{role}_" for role in roles))
        if not of_a_role and not name.startswith("site_"):
            continue
        similar = [RENAMED[name]] if name in RENAMED else get_close_matches(name, known, n=1, cutoff=SIMILAR)
        if similar or of_a_role:
            where = "" if len(hosts[name]) == len(hostvars) else f" (of {', '.join(hosts[name])})"
            act = f"rename it to {similar[0]}" if similar else "remove it"
            found.append(f"{name}{where} has no effect, since nothing reads a variable of this name: {act}.")
    return found
