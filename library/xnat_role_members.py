#!/usr/bin/python
"""Who has a role in XNAT."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_role_members
short_description: Keep who has a role of XNAT
description: Gives a role to accounts that lack it, or takes it away. Roles other than this are left alone.
options:
  role: {description: Its key, such as C(Jupyter)., type: str, required: true}
  members: {description: Login names. XNAT must have them all., type: list, elements: str, required: true}
  state: {description: Whether they have the role., type: str, choices: [present, absent], default: present}
  purge: {description: Whether the role is taken away from all others., type: bool, default: false}
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
given: {description: Who was given the role., type: list, elements: str, returned: always}
taken: {description: Whom it was taken from., type: list, elements: str, returned: always}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import ARGUMENTS, Client, XnatError, quoted, run


def plan(have: list[str], members: list[str], state: str, purge: bool) -> tuple[list[str], list[str]]:
    """Return who is to be given the role and whom it is to be taken from, both in order."""
    if state == "absent":
        return [], sorted(set(have) & set(members))
    return sorted(set(members) - set(have)), sorted(set(have) - set(members)) if purge else []


def keep(module: AnsibleModule, client: Client) -> dict[str, Any]:
    role, members, state = (module.params[name] for name in ("role", "members", "state"))
    path = f"/xapi/users/roles/{quoted(role)}"
    have = client.get(path).json(list)
    given, taken = plan(have, members, state, module.params["purge"])
    # A name that is mistyped must not look like somebody who has the role no longer.
    for name in given if state == "present" else sorted(set(members) - set(have)):
        if client.get(f"/xapi/users/profile/{quoted(name)}", accepted=(200, 404)).status == 404:
            act = f"give the role {role} to" if state == "present" else f"take the role {role} from"
            raise XnatError(f"XNAT has no account {name} to {act}: names are compared exactly")
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
                f"XNAT answered well, but did not change the role {role} of {', '.join([*left[0], *left[1]])}"
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
