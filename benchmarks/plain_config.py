"""The plain hub to compare with: SwarmSpawner as released, and blocking calls to XNAT as in XNAT's hub image."""

import json
import os
from pathlib import Path

import requests
from dockerspawner import SwarmSpawner
from jupyterhub.auth import Authenticator

settings = json.loads(Path(os.environ["XNAT_HUB_SETTINGS"]).read_text())
secrets = Path(os.environ["XNAT_HUB_SECRETS"])
xnat = settings["xnat"]["url"]
c = get_config()  # type: ignore[name-defined]  # noqa: F821


class BlockingAuthenticator(Authenticator):
    """Asks XNAT for the role and then for the switch, in the hub's event loop."""

    async def authenticate(self, handler, data):  # type: ignore[no-untyped-def]
        """Let in users with the role, or everybody if the switch is on."""
        name, login = data["username"], (data["username"], data["password"])
        roles = requests.get(f"{xnat}/xapi/users/{name}/roles", auth=login)  # noqa: S113, ASYNC210
        if roles.status_code != 200:
            return None
        if "Jupyter" in roles.json():
            return name
        switch = requests.get(  # noqa: S113, ASYNC210
            f"{xnat}/xapi/jupyterhub/preferences/allUsersCanStartJupyter", auth=login
        )
        return name if switch.json()["allUsersCanStartJupyter"] else None


class StubSpawner(SwarmSpawner):
    """For the stub of Docker's API, which has one server for all."""

    async def get_ip_and_port(self):  # type: ignore[no-untyped-def]
        """Where the stub's one server listens."""
        return os.environ["BENCH_SERVER"], 8888


def ask_xnat(spawner):  # type: ignore[no-untyped-def]
    """Take image, variables and limits from XNAT's user-options."""
    answer = requests.get(  # noqa: S113
        f"{xnat}/xapi/jupyterhub/users/{spawner.user.name}/server/{spawner.name}/user-options",
        auth=(settings["xnat_username"], (secrets / "xnat_password").read_text()),
    )
    template = answer.json()["task_template"]
    container = template["container_spec"]
    spawner.image = container["image"]
    spawner.environment.update(container["env"])
    spawner.cmd = container["command"].split(" ") if container["command"] else ["jupyterhub-singleuser"]
    spawner.mem_limit = template["resources"]["mem_limit"]
    spawner.extra_container_spec = {"labels": container["labels"], "init": True}


c.JupyterHub.base_url = settings["base_url"]
c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
c.JupyterHub.hub_connect_url = f"http://{settings['hub_host']}:8081"
c.JupyterHub.db_url = "sqlite:////srv/jupyterhub/jupyterhub.sqlite"
c.JupyterHub.cookie_secret = bytes.fromhex((secrets / "cookie_secret").read_text())
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = settings["proxy_api_url"]
c.ConfigurableHTTPProxy.auth_token = (secrets / "proxy_token").read_text()
c.JupyterHub.cleanup_servers = False
c.JupyterHub.api_page_default_limit = c.JupyterHub.api_page_max_limit = 100_000

c.JupyterHub.authenticator_class = BlockingAuthenticator
c.Authenticator.allow_all = True
c.JupyterHub.services = [{"name": "xnat", "api_token": (secrets / "service_token").read_text()}]
c.JupyterHub.load_roles = [{"name": "xnat", "services": ["xnat"], "scopes": ["admin:users", "admin:servers", "tokens"]}]
c.JupyterHub.load_roles[0]["scopes"] += ["read:hub", "list:users", "delete:servers"]

c.JupyterHub.spawner_class = StubSpawner if "BENCH_SERVER" in os.environ else SwarmSpawner
c.JupyterHub.allow_named_servers = True
c.Spawner.pre_spawn_hook = ask_xnat
c.Spawner.apply_user_options = lambda spawner, options: None
c.Spawner.start_timeout = settings["start_timeout"]
c.Spawner.http_timeout = settings["http_timeout"]
c.DockerSpawner.prefix = settings["deployment"]
c.DockerSpawner.network_name = settings["network"]
c.SwarmSpawner.extra_endpoint_spec = {"mode": "dnsrr"}  # some kernels have no virtual addresses for services
c.SwarmSpawner.extra_task_spec = {"restart_policy": {"Condition": "none"}}
