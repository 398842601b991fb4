"""The demo XNAT as a web application: one file for each section of the REST interface (``*_api.py``), joined here.

It has the calls that hub, launcher, Ansible modules, smoke test, tests and the page make. Deliberate differences from
XNAT: there is no guest; a change made with only the session cookie needs the header
``X-Requested-With: XMLHttpRequest``, which a page of another origin cannot send; only administrators see the profiles
of others; a refused change has no effect at all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from . import compute, configuration, people
from .account_api import AccountApi
from .archive_api import ArchiveApi
from .compute import Compute
from .compute_api import ComputeApi
from .configuration import Configuration
from .database import Database
from .demo_api import FAULTS, DemoApi
from .faults import Faults
from .framework_api import FrameworkApi
from .hub import Hub
from .jupyterhub_api import JupyterHubApi
from .kinds import KINDS
from .login import Login
from .plugin import Background, Plugin
from .preference_api import PreferenceApi
from .session_api import SessionApi
from .settings import Secrets, Settings
from .state import State
from .xapi import Section

__all__ = ["BACKGROUND", "FAULTS", "PLUGIN", "STATE", "make_app"]

# Parts of the application, for tests.
STATE = web.AppKey("state", State)
PLUGIN = web.AppKey("plugin", Plugin)
BACKGROUND = web.AppKey("background", Background)


def make_app(settings: Settings, passwords: Secrets, clock: Callable[[], float] = time.time) -> web.Application:
    """The application with its database, filled as a fresh XNAT if it is empty; raises ``DatabaseError``."""
    database = _open_database(settings, passwords)
    configured = Configuration(database)
    offered = Compute(database)
    state = State(database, configured, clock)
    hub = Hub(configured)
    plugin = Plugin(configured, state, offered, hub)
    background = Background()
    login = Login(state, configured)
    demo = DemoApi(state, background)

    async def run(_: web.Application) -> AsyncIterator[None]:
        async with hub.connected():
            yield
            await background.end()
        database.close()

    app = web.Application(middlewares=[demo.middleware, login.middleware])
    app[FAULTS], app[STATE], app[PLUGIN], app[BACKGROUND] = Faults(), state, plugin, background
    app.cleanup_ctx.append(run)
    sections: tuple[Section, ...] = (
        SessionApi(state, login),
        AccountApi(state),
        PreferenceApi(configured),
        *(ComputeApi(offered, path) for path in KINDS),
        FrameworkApi(offered.frameworks),
        JupyterHubApi(plugin, background),
        ArchiveApi(state, configured),
        demo,
    )
    for section in sections:
        app.add_routes(section.routes())
    return app


def _open_database(settings: Settings, passwords: Secrets) -> Database:
    database = Database(Path(settings.database))
    changes = dict(people.missing_accounts(database.table(people.USERS)))
    if database.is_empty():
        changes |= {**configuration.first_start(settings.site_url, settings.archive_path), **compute.first_start()}
    database.write(changes)
    database.write(people.new_passwords(database, passwords))
    return database
