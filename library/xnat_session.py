#!/usr/bin/python
"""Waits until XNAT can be configured, and opens one session for a whole run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_session
short_description: Log in to XNAT once for a run, and log out at its end
description:
  - V(present) waits until XNAT answers and is initialised, logs in, and checks that the JupyterHub plugin is installed,
    that the account is an administrator, and that the versions are compatible. Each failure has its own message.
  - V(absent) ends the session. It is no error if XNAT does not answer or no longer has the session.
options:
  state: {description: Whether the session exists., type: str, choices: [present, absent], default: present}
  wait: {description: Seconds in which XNAT must be ready., type: float, default: 120}
  jupyterhub_version: {description: The hub's version. Empty to skip its check., type: str, default: ""}
  max_server_lifetime:
    description: Hours after which XNAT will stop a server, 0 for never; compared with the lifetime of alias tokens.
    type: float
  alias_token_timeout:
    description: The future value of aliasTokenTimeout. Empty for XNAT's present value.
    type: str
    default: ""
extends_documentation_fragment: [xnat]
attributes:
  check_mode: {support: full, description: A session does not count as a change.}
  diff_mode: {support: none}
"""
EXAMPLES = r"""
- name: Log in
  xnat_session:
    xnat: {url: "https://xnat.example.org", username: admin, password: "{{ vault_xnat_admin_password }}"}
  register: login
  no_log: true
"""
RETURN = r"""
session: {description: The session's id. It is a secret., type: str, returned: present}
xnat_version: {description: XNAT's version., type: str, returned: present}
plugin_version: {description: From the name of its jar; C(unknown) for a renamed one., type: str, returned: present}
outlived: {description: A warning if servers can outlive their alias tokens., type: str, returned: present}
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import (
    ARGUMENTS,
    PAUSE,
    SESSION,
    Client,
    NotInitialisedError,
    UnavailableError,
    XnatError,
    quoted,
    redirect_advice,
)
from ansible.module_utils.xnat_site.lifetimes import outlived
from ansible.module_utils.xnat_site.versions import unsupported

PLUGIN = "JupyterHubPlugin"
NEEDED = ("jupyterHubHostUrl", "jupyterHubApiUrl", "maxNamedServers", "pathTranslationArchivePrefix")
REDIRECTS = (301, 302, 303, 307, 308)


def log_in(client: Client, username: str, password: str) -> None:
    """Open the client's session. Raises XnatError with the reason if that is not possible."""
    answer = client.get(SESSION, accepted=(200, *REDIRECTS, 401, 403))
    redirect = client.redirect(answer)
    page = answer.status == 200 and "<" in answer.text
    if page or answer.status == 403 or (redirect and redirect.kind == "setup"):
        raise NotInitialisedError(
            "XNAT is not set up yet: open it in a browser as admin and go through its set-up page"
        )
    if answer.status == 401:
        if client.password_is_right(username, password):
            raise XnatError(
                f"XNAT accepts the password of {username} but opens no more sessions, since the account has as many as"
                " concurrentMaxSessions allows. Log out elsewhere, or wait until they end (sessionTimeout)"
            )
        raise XnatError(
            f"XNAT does not accept {username} with this password, or the account is disabled or locked: 20 failures"
            " lock it for an hour"
        )
    if redirect:
        raise XnatError(f"{answer.call}: {redirect_advice(redirect, username)}")


def look(client: Client, username: str, jupyterhub: str) -> dict[str, Any]:
    """Return the versions. Raises XnatError if XNAT cannot be configured."""
    roles = client.get(f"/xapi/users/{quoted(username)}/roles").json(list)
    if "Administrator" not in roles:
        raise XnatError(
            f"{username} is not an administrator of XNAT: give it the role, or set site_xnat_admin_username to one"
        )
    xnat = str(client.get("/xapi/siteConfig/buildInfo").json(dict).get("version", "unknown"))
    plugin = client.get(f"/xapi/plugins/{PLUGIN}", accepted=(200, 404))
    if plugin.status == 404:
        raise XnatError(
            f"XNAT {xnat} has no JupyterHub plugin: install xnat-jupyterhub-plugin-VERSION.jar from the plugin's"
            " releases in XNAT's plugin directory and restart XNAT, or add XNAT's host to the group xnat and run"
            " playbooks/xnat_plugin.yml"
        )
    version = str(plugin.json(dict).get("version", "unknown"))
    if sentences := unsupported(xnat, version, jupyterhub):
        raise XnatError("; ".join(sentences))
    known = client.get("/xapi/jupyterhub/preferences").json(dict)
    missing = [name for name in NEEDED if name not in known]
    if missing:
        raise XnatError(f"the JupyterHub plugin {version} has no preference {missing[0]}: update it")
    return {"xnat_version": xnat, "plugin_version": version}


def open_session(client: Client, options: dict[str, Any], wait: float, jupyterhub: str) -> dict[str, Any]:
    """Log in as soon as XNAT is ready. Raises XnatError if it is not ready in time or cannot be configured."""
    deadline = time.monotonic() + wait
    while True:
        try:
            log_in(client, options["username"], options["password"])
            return {"session": client.session, **look(client, options["username"], jupyterhub)}
        except (UnavailableError, NotInitialisedError) as error:
            if time.monotonic() + PAUSE >= deadline:
                raise XnatError(f"XNAT was not ready within {wait:g} s. {error}") from error
            time.sleep(PAUSE)


def lifetimes(client: Client, max_server_lifetime: float | None, alias_token_timeout: str) -> str:
    """Return a warning if servers can outlive their alias tokens, else an empty text."""
    if max_server_lifetime is None:
        return ""
    site = client.get("/xapi/siteConfig").json(dict)
    return str(outlived(alias_token_timeout or str(site.get("aliasTokenTimeout", "")), max_server_lifetime))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "wait": {"type": "float", "default": 120},
            "jupyterhub_version": {"type": "str", "default": ""},
            "max_server_lifetime": {"type": "float"},
            "alias_token_timeout": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    options = module.params["xnat"]
    client = Client(module)
    options["retry_for"] = 0  # this module has its own limit
    found: dict[str, Any] = {}
    try:
        if module.params["state"] == "absent":
            client.log_out()
        else:
            found = open_session(client, options, module.params["wait"], module.params["jupyterhub_version"])
            wanted = module.params["max_server_lifetime"], module.params["alias_token_timeout"]
            found["outlived"] = lifetimes(client, *wanted)
    except XnatError as error:
        client.log_out()
        module.fail_json(msg=str(error))
    finally:
        client.remove_files()
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
