#!/usr/bin/python
"""Manages the members of a role in XNAT."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_role_members
short_description: Manage the members of a role in XNAT
description: Gives a role to accounts that lack it, or takes it away. Other roles are left alone.
options:
  role: {description: "The role's key, such as C(Jupyter).", type: str, required: true}
  members: {description: Login names. All must exist in XNAT., type: list, elements: str, required: true}
  state: {description: Whether they have the role., type: str, choices: [present, absent], default: present}
  purge: {description: Whether to take the role away from all others., type: bool, default: false}
extends_documentation_fragment: [xnat]
"""
EXAMPLES = r"""
- name: Who may start Jupyter
  xnat_role_members:
    xnat: "{{ xnat }}"
    role: Jupyter
    members: [jdoe, asmith]
"""
RETURN = r"""
given: {description: Accounts that got the role., type: list, elements: str, returned: always}
taken: {description: Accounts that lost the role., type: list, elements: str, returned: always}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import ARGUMENTS, Client, XnatError, quoted, run


def plan(have: list[str], members: list[str], state: str, purge: bool) -> tuple[list[str], list[str]]:
    """Return the accounts that must get the role and those that must lose it, both sorted."""
    if state == "absent":
        return [], sorted(set(have) & set(members))
    return sorted(set(members) - set(have)), sorted(set(have) - set(members)) if purge else []


def keep(module: AnsibleModule, client: Client) -> dict[str, Any]:
    role, members, state = (module.params[name] for name in ("role", "members", "state"))
    path = f"/xapi/users/roles/{quoted(role)}"
    have = client.get(path).json(list)
    given, taken = plan(have, members, state, module.params["purge"])
    # A mistyped name must not look like an account that has already lost the role.
    for name in given if state == "present" else sorted(set(members) - set(have)):
        if client.get(f"/xapi/users/profile/{quoted(name)}", accepted=(200, 404)).status == 404:
            act = f"give the role {role} to" if state == "present" else f"take the role {role} from"
            raise XnatError(f"XNAT has no account {name} to {act}: check the spelling and the case of the name")
    result: dict[str, Any] = {"changed": bool(given or taken), "given": given, "taken": taken}
    if module._diff:
        after = sorted((set(have) | set(given)) - set(taken))
        result["diff"] = {"before": {role: sorted(have)}, "after": {role: after}}
    if result["changed"] and not module.check_mode:
        for method, names in (("PUT", given), ("DELETE", taken)):
            for name in names:
                client.change(method, f"/xapi/users/{quoted(name)}/roles", [role], accepted=(200, 202))
        left = plan(client.get(path).json(list), members, state, module.params["purge"])
        if any(left):
            raise XnatError(
                f"XNAT reported success but did not change the role {role} of {', '.join([*left[0], *left[1]])}"
            )
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "role": {"type": "str", "required": True},
            "members": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, keep)


if __name__ == "__main__":
    main()
