#!/usr/bin/python
"""Manages the preferences of XNAT's JupyterHub plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_plugin_preferences
short_description: Manage preferences of XNAT's JupyterHub plugin
description:
  - Changes the given preferences that differ, reads them back, and leaves all others alone. XNAT answers
    200 to unknown names and to values that it does not accept; this module reports both as errors.
  - At each start XNAT sets the preferences again that are in its own environment (C(JH_XNAT_...)).
options:
  preferences:
    description: Values by the plugin's names, such as C(maxNamedServers).
    type: dict
    default: {}
  token:
    description: The token that XNAT sends to the hub, C(jupyterHubToken). A separate option, since it is a secret.
    type: str
extends_documentation_fragment: [xnat]
"""
EXAMPLES = r"""
- name: Tell XNAT where the hub is
  xnat_plugin_preferences:
    xnat: "{{ xnat }}"
    preferences:
      jupyterHubApiUrl: https://xnat.example.org/jupyterhub/hub/api
      maxNamedServers: 3
    token: "{{ vault_service_token }}"
"""
RETURN = r"""
changes: {description: Names of the preferences that differed., type: list, elements: str, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import ARGUMENTS
from ansible.module_utils.xnat_settings import keep

TOKEN = "jupyterHubToken"  # noqa: S105 -- its name


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "preferences": {"type": "dict", "default": {}},
            "token": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    wanted = dict(module.params["preferences"])
    if TOKEN in wanted:
        module.fail_json(msg=f"Set {TOKEN} with the option token, so that it is not shown.")
    if str(wanted.get("jupyterHubApiUrl", "")).endswith("/"):
        module.fail_json(msg="jupyterHubApiUrl must not end with a slash, which would break every call of the plugin.")
    if str(wanted.get("maxNamedServers", 1)) == "0":
        module.fail_json(msg="maxNamedServers must be at least 1: with 0 nobody could start a server.")
    if module.params["token"]:
        wanted[TOKEN] = module.params["token"]
    keep(module, "/xapi/jupyterhub/preferences", wanted, secret=(TOKEN,))


if __name__ == "__main__":
    main()
