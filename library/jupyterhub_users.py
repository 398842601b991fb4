#!/usr/bin/python
"""Removes users from JupyterHub."""

from __future__ import annotations

DOCUMENTATION = r"""
module: jupyterhub_users
short_description: Remove users from JupyterHub
description:
  - Stops their servers, waits until these have ended, and removes the users with all tokens and log-ins from the hub.
  - This alone does not prevent users from coming back. First revoke the rights to log in and to start servers in XNAT.
  - Their files are kept.
options:
  hub:
    description: The hub's address and the credentials for it.
    type: dict
    required: true
    suboptions:
      api_url: {description: URL of the hub's API without a trailing slash., type: str, required: true}
      token:
        description: Token of a service with the scopes admin:users and delete:servers.
        type: str
        required: true
      ca_pem: {description: All certificates to trust, as PEM. Empty for the system's., type: str, default: ""}
      timeout: {description: Seconds for one call., type: float, default: 30}
  names:
    description: Names of the users in XNAT. Users that the hub does not know are ignored.
    type: list
    elements: str
    required: true
  stop_timeout: {description: Seconds in which the servers of one user must end., type: float, default: 120}
"""
EXAMPLES = r"""
- name: Remove somebody who has left
  jupyterhub_users:
    hub: {api_url: "https://jupyter.example.org/jupyterhub/hub/api", token: "{{ token }}"}
    names: [jdoe]
"""
RETURN = r"""
removed: {description: Users that were removed., type: list, elements: str, returned: always}
stopped: {description: Servers that were stopped, as user/server., type: list, elements: str, returned: always}
"""

import http.client
import json
import os
import tempfile
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

PAUSE = 0.5  # seconds between two checks of stopping servers


class HubError(Exception):
    """A call failed; the text is one sentence with the call and what to do."""


class Hub:
    """Calls to the REST API of one hub as one service.

    ca_file: path of the certificates to trust, None for the system's.
    """

    def __init__(self, options: dict[str, Any], ca_file: str | None) -> None:
        self._options = options
        self._ca_file = ca_file

    def ask(self, method: str, path: str, accepted: tuple[int, ...] = (200,)) -> tuple[int, Any]:
        """Return status and JSON of an answer; raises HubError for a status that is not accepted."""
        call = f"{method} {self._options['api_url']}{path}"
        try:
            response = open_url(
                self._options["api_url"] + path,
                method=method,
                headers={"Accept": "application/json", "Authorization": f"token {self._options['token']}"},
                timeout=self._options["timeout"],
                follow_redirects="no",
                ca_path=self._ca_file,
                http_agent="xnat-jupyter",
                use_netrc=False,
            )
            status, text = response.status, response.read()
        except HTTPError as error:
            status, text = error.code, error.read()
        except URLError as error:
            raise HubError(f"{call}: the hub cannot be reached ({error.reason})") from error
        except (OSError, http.client.HTTPException) as error:
            raise HubError(f"{call}: the hub closed the connection ({type(error).__name__})") from error
        if status not in accepted:
            refused = status in (401, 403)
            advice = "the hub does not accept the service token" if refused else text.decode(errors="replace")[:300]
            raise HubError(f"{call}: status {status}, {advice}")
        try:
            return status, json.loads(text) if text else None
        except ValueError as error:
            raise HubError(f"{call}: the answer is not JSON; check that the address is the hub's API") from error

    def servers(self, name: str) -> list[str] | None:
        """Return the names of a user's servers that run, start or stop; None if the hub does not know the user."""
        status, user = self.ask("GET", f"/users/{quote(name, safe='')}", accepted=(200, 404))
        if status == 404:
            return None
        if not isinstance(user, dict) or not isinstance(user.get("servers"), dict):
            raise HubError(f"{self._options['api_url']} does not answer like the hub's API: check the address")
        return sorted(user["servers"])

    def stop(self, name: str, servers: list[str], seconds: float) -> None:
        """Stop servers and wait until they have ended. Raises HubError for those that take longer than `seconds`."""
        user = f"/users/{quote(name, safe='')}"
        for server in servers:
            path = f"{user}/servers/{quote(server, safe='')}" if server else f"{user}/server"
            self.ask("DELETE", path, accepted=(202, 204, 404))
        deadline = time.monotonic() + seconds
        while left := self.servers(name):
            if time.monotonic() >= deadline:
                names = ", ".join(left)
                raise HubError(
                    f"{names} of {name} did not end within {seconds:g} s: see the hub's log, then run it again"
                )
            time.sleep(PAUSE)

    def remove(self, name: str) -> None:
        """Remove a user whose servers have ended. Raises HubError if the user has come back."""
        self.ask("DELETE", f"/users/{quote(name, safe='')}", accepted=(204, 404))
        if self.servers(name) is not None:
            raise HubError(
                f"{name} logged in to the hub again: first take the role Jupyter away in XNAT, then run it again"
            )


def keep(module: AnsibleModule, hub: Hub) -> dict[str, Any]:
    found = {name: hub.servers(name) for name in sorted(set(module.params["names"]))}
    known = {name: servers for name, servers in found.items() if servers is not None}
    stopped = [f"{name}/{server}" for name, servers in known.items() for server in servers]
    if not module.check_mode:
        for name, servers in known.items():
            hub.stop(name, servers, module.params["stop_timeout"])
            hub.remove(name)
    return {
        "changed": bool(known),
        "removed": list(known),
        "stopped": stopped,
        "diff": {"before": {"users": list(known), "servers": stopped}, "after": {"users": [], "servers": []}},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "hub": {
                "type": "dict",
                "required": True,
                "options": {
                    "api_url": {"type": "str", "required": True},
                    "token": {"type": "str", "required": True, "no_log": True},
                    "ca_pem": {"type": "str", "default": ""},
                    "timeout": {"type": "float", "default": 30},
                },
            },
            "names": {"type": "list", "elements": "str", "required": True},
            "stop_timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    options, ca_file = module.params["hub"], None
    if options["ca_pem"]:
        handle, ca_file = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(handle, "w") as file:
            file.write(options["ca_pem"])
    try:
        result = keep(module, Hub(options, ca_file))
    except HubError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
