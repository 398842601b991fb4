#!/usr/bin/python
"""Manages an account in XNAT."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_user
short_description: Manage an account in XNAT
description:
  - Creates the account, enables and verifies it, sets its password and gives it roles, if these differ.
  - Checks the password by logging in with it once.
options:
  name: {description: Login name. XNAT compares it exactly., type: str, required: true}
  state:
    description: V(absent) disables the account, since XNAT cannot delete one.
    type: str
    choices: [present, absent]
    default: present
  password: {description: Required to create the account. If unset it is left alone., type: str}
  try_password:
    description:
      - Whether to check the password by a log-in. Each refusal counts towards XNAT's lock of the account.
        Otherwise the password of an account that may log in is assumed to be correct.
    type: bool
    default: true
  email: {description: Required to create the account. If unset it is left alone., type: str}
  first_name: {description: Required to create the account. If unset it is left alone., type: str}
  last_name: {description: Required to create the account. If unset it is left alone., type: str}
  roles:
    description: Role keys that the account must have, such as C(JupyterHub). Other roles are left alone.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [xnat]
"""
EXAMPLES = r"""
- name: The hub's account
  xnat_user:
    xnat: "{{ xnat }}"
    name: jupyterhub
    password: "{{ vault_xnat_password }}"
    email: jupyterhub@example.org
    first_name: JupyterHub
    last_name: Service
    roles: [JupyterHub, non_expiring]
"""
RETURN = r"""
changes: {description: Names of the values that differed., type: list, elements: str, returned: always}
"""

from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import ARGUMENTS, MASK, Client, XnatError, quoted, run

FIELDS = {"email": "email", "first_name": "firstName", "last_name": "lastName"}


def stored(client: Client, name: str) -> dict[str, Any] | None:
    """Return the account in XNAT, including `roles`; None if it does not exist."""
    answer = client.get(f"/xapi/users/profile/{quoted(name)}", accepted=(200, 404))
    if answer.status == 404:
        return None
    profile: dict[str, Any] = answer.json(dict)
    return {**profile, "roles": client.get(f"/xapi/users/{quoted(name)}/roles").json(list)}


def wanted_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the wanted fields of XNAT's profile."""
    if options["state"] == "absent":
        return {"enabled": False}
    fields = {theirs: options[ours] for ours, theirs in FIELDS.items() if options[ours]}
    return {**fields, "enabled": True, "verified": True}


def differences(options: Mapping[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields that differ, and the missing roles as `roles`; the password is not compared."""
    if found is None and options["state"] == "absent":
        return {}
    fields = wanted_fields(options)
    changes = {name: value for name, value in fields.items() if (found or {}).get(name) != value}
    if options["state"] == "present":
        missing = [role for role in options["roles"] if role not in (found or {}).get("roles", [])]
        changes |= {"roles": missing} if missing else {}
    return changes


def password_differs(client: Client, options: Mapping[str, Any], found: Mapping[str, Any] | None, try_it: bool) -> bool:
    """Return whether the password must be set: also if the account may not log in, as it cannot be checked then (1.2).

    try_it: whether to check it by a log-in; each refusal counts towards XNAT's lock (1.6).
    """
    if options["state"] == "absent" or not options["password"]:
        return False
    if not found or not (found.get("enabled") and found.get("verified")):
        return True
    return try_it and not client.log_in_works(options["name"], options["password"])


def apply(client: Client, options: Mapping[str, Any], changes: Mapping[str, Any], new: bool) -> None:
    """Make the changes. Raises XnatError."""
    path = f"/xapi/users/{quoted(options['name'])}"
    fields = {name: value for name, value in changes.items() if name != "roles"}
    if new:
        client.change("POST", "/xapi/users", {"username": options["name"], **fields}, accepted=(201,))
    elif fields:
        client.change("PUT", path, fields, accepted=(200, 304))
    if changes.get("roles"):
        # With 202 XNAT reports that some failed (5.3).
        client.change("PUT", f"{path}/roles", changes["roles"], accepted=(200, 202))


def check_kept(client: Client, options: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Read the account back. Raises XnatError for values that XNAT did not keep."""
    name = options["name"]
    found = stored(client, name)
    left = [*differences(options, found), *(["account"] if found is None else [])]
    if "password" in changes and not client.log_in_works(name, options["password"]):
        left.append("password")
    if left:
        raise XnatError(
            f"XNAT reported success but did not keep {', '.join(sorted(left))} of {name}: see XNAT's log. XNAT locks an"
            " account for an hour after 20 wrong passwords"
        )


def keep(module: AnsibleModule, client: Client) -> dict[str, Any]:
    options = module.params
    found = stored(client, options["name"])
    changes = differences(options, found)
    if password_differs(client, options, found, try_it=options["try_password"]):
        changes["password"] = options["password"]
    new = found is None and options["state"] == "present"
    missing = [name for name in ("password", *FIELDS) if not options[name]]
    if new and missing:
        raise XnatError(f"XNAT has no account {options['name']}: to create it, set {', '.join(missing)}")
    result: dict[str, Any] = {"changed": bool(changes), "changes": sorted(changes)}
    if module._diff:
        before = {name: (found or {}).get(name) for name in changes if name != "password"}
        after = {name: value for name, value in changes.items() if name != "password"}
        if "roles" in after:
            after["roles"] = [*(before["roles"] or []), *after["roles"]]
        if "password" in changes:
            before["password"], after["password"] = f"{MASK} (old)", f"{MASK} (new)"
        result["diff"] = {"before": before, "after": after}
    if changes and not module.check_mode:
        apply(client, options, changes, new)
        check_kept(client, options, changes)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "password": {"type": "str", "no_log": True},
            "try_password": {"type": "bool", "default": True, "no_log": False},
            "email": {"type": "str"},
            "first_name": {"type": "str"},
            "last_name": {"type": "str"},
            "roles": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    run(module, keep)


if __name__ == "__main__":
    main()
