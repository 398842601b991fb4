"""Run the smoke test: `python3 -m xnat_verify`. The role `verify` runs it in a container on a manager.

It reads JSON from standard input, so that no secret is in an environment or a process list::

    {"xnat_url": "http://localhost:8080", "hub_url": "http://localhost:8000", "base_url": "/jupyterhub/",
     "person_origins": false, "hosts": {"hub.example.org": "192.0.2.11"},
     "username": "jdoe", "password": "...", "service_username": "jupyterhub", "service_password": "...",
     "service_token": "...", "experiment": "XNAT_E00001", "uid": 1000, "gid": 1000, "deployment": "jupyterhub",
     "environment": "JupyterLab", "timeout": 180, "ca_pem": "", "restart_hub": false,
     "file_servers": ["10.0.0.9"], "egress_host": "", "certificate_days": 14}

hosts: addresses of names that need no name server here; those below the hub's have the hub's.
Prints {"ok": bool, "table": "...", "checks": [{"name", "seen", "ok", "advice"}, ...]} as JSON; times are seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict

import docker

from xnat_verify.checks import SmokeTest, table


def main() -> None:
    """Read the input, run the checks, print the results."""
    test = SmokeTest(json.load(sys.stdin), docker.DockerClient(version="auto", timeout=30))
    ok = asyncio.run(test.run())
    checks = [asdict(check) for check in test.checks]
    print(json.dumps({"ok": ok, "table": table(test.checks), "checks": checks}))


if __name__ == "__main__":
    main()
