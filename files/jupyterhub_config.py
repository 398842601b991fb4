"""JupyterHub's configuration: values, read from the settings file that the role `jupyterhub` writes."""

import os
import sys
from pathlib import Path

from jupyterhub import log
from tornado.httpserver import HTTPServer

sys.path.insert(0, str(Path(__file__).resolve().parent))

from xnat_hub.database import commit_fast, forget_service_tokens
from xnat_hub.handlers import Server, StaticFiles, security_headers
from xnat_hub.origins import Origins, subdomain_hook
from xnat_hub.pages import template_vars
from xnat_hub.settings import load

HERE = str(Path(__file__).resolve().parent)
settings = load()
c = get_config()  # noqa: F821  (JupyterHub defines it)

# The log hides the values of parameters with these names. `next` is the page that a log-in leads to: of a server that
# has ended, XNAT's link with its token.
log.SCRUB_PARAM_KEYS = (*log.SCRUB_PARAM_KEYS, "next")

# Addresses. The proxy is a separate service, so that a restart of the hub interrupts nobody.
c.JupyterHub.base_url = settings.base_url
c.JupyterHub.public_url = settings.public_url.rstrip("/") + settings.base_url
c.JupyterHub.tornado_settings = {
    # JupyterHub sets `secure` on its other cookies according to public_url, but not on the XSRF cookie.
    "cookie_options": {"secure": True} if settings.public_url.startswith("https:") else {},
    "headers": security_headers(settings.public_url),
    "static_handler_class": StaticFiles,
}
# Clients that are not logged in can send a body as well, and tornado would accept 100 MB.
origins = Origins(settings.public_url, settings.base_url) if settings.person_origins else None
HTTPServer.configure(
    Server,
    max_body_size=2**20,
    max_buffer_size=2**20,
    trusted_proxies=settings.trusted_proxies,
    router=origins.router if origins else None,
)
if origins:
    c.JupyterHub.subdomain_host = origins.hub
    c.JupyterHub.subdomain_hook = subdomain_hook
    # Pages below the hub's host can set cookies for it, but not with names that begin with __Host-.
    c.JupyterHub.cookie_host_prefix_enabled = True
c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
c.JupyterHub.hub_connect_url = f"http://{settings.hub_host}:8081"
database = Path("/srv/jupyterhub/jupyterhub.sqlite")
c.JupyterHub.db_url = f"sqlite:///{database}"
forget_service_tokens(database)  # JupyterHub adds the current tokens of XNAT and the reconciler again
commit_fast()  # a start makes some thirty commits, and each would wait for the disk
c.JupyterHub.cookie_secret = bytes.fromhex(settings.secret("cookie_secret"))
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = settings.proxy_api_url
c.ConfigurableHTTPProxy.auth_token = settings.secret("proxy_token")
c.JupyterHub.init_spawners_timeout = 2  # seconds; so one server that does not answer does not delay the hub's start
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.shutdown_on_logout = False
# Nobody reads this metric. JupyterHub's own interval of 0.05 s causes four fifths of an idle hub's CPU time. The log
# still reports a hub that was busy for a second.
c.PeriodicMetricsCollector.event_loop_interval_resolution = 1

# Permissions (docs/xnat-contract.md, 2.2, 2.6, 2.8).
c.JupyterHub.authenticator_class = "xnat_hub.authenticator.XnatAuthenticator"
c.Authenticator.allow_all = True  # XnatAuthenticator.authenticate checks the right with XNAT
c.Authenticator.auth_refresh_age = settings.auth_refresh_age
c.JupyterHub.services = [
    {"name": "xnat", "api_token": settings.secret("service_token")},
    {
        "name": "reconciler",
        "command": [sys.executable, "-m", "xnat_hub.reconciler"],
        "cwd": HERE,
        "environment": {name: value for name, value in os.environ.items() if name.startswith("XNAT_HUB_")},
    },
]
c.JupyterHub.load_roles = [
    {
        "name": "xnat",
        "services": ["xnat"],
        "scopes": [
            "read:hub",
            "list:users",
            "read:users",
            "admin:users",
            "servers",
            "delete:servers",
            "read:servers",
            "tokens",
        ],
    },
    {
        "name": "reconciler",
        "services": ["reconciler"],
        "scopes": ["list:users", "read:servers", "delete:servers", "proxy"],
    },
    {
        # Without the scope `servers`: only XNAT starts servers, so users cannot forge a launch.
        "name": "user",
        "scopes": [
            "read:users!user",
            "read:servers!user",
            "access:servers!user",
            "users:activity!user",
            "tokens!user",
        ],
    },
]
c.JupyterHub.api_page_default_limit = 100_000  # XNAT lists all users in one call and drops the data of missing ones
c.JupyterHub.api_page_max_limit = 100_000
c.JupyterHub.token_expires_in_max_seconds = settings.token_expires_in_max

# How servers start.
c.JupyterHub.spawner_class = "xnat_hub.spawner.XnatSpawner"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.redirect_to_server = False  # show the list of servers: there is no default server to start
c.JupyterHub.template_paths = [f"{HERE}/templates"]
c.JupyterHub.template_vars = template_vars(settings)
c.Spawner.start_timeout = settings.start_timeout
c.Spawner.http_timeout = settings.http_timeout
c.Spawner.default_url = "/lab"
c.Spawner.apply_user_options = lambda spawner, options: None  # recorded only: the launcher asks XNAT itself
