"""The plugin's preferences and the site configuration (docs/xnat-contract.md, 5.2 and 5.3)."""

from __future__ import annotations

from aiohttp import web

from .configuration import Configuration
from .xapi import BUILD_INFO, PERSON, Routes, XapiError, json_object, not_found, require, require_administrator

_PLUGIN = {"id": "JupyterHubPlugin", "name": "JupyterHub Plugin (demo)", "version": "1.3.4"}


class PreferenceApi:
    """Preferences, site configuration, and the versions of XNAT and the plugin."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def routes(self) -> Routes:
        """The calls; the first route that matches answers."""
        return [
            web.get("/xapi/jupyterhub/preferences", self.get_preferences),
            web.post("/xapi/jupyterhub/preferences", self.set_preferences),
            web.get("/xapi/jupyterhub/preferences/{name}", self.get_preference),
            web.get("/xapi/siteConfig", self.get_site),
            web.post("/xapi/siteConfig", self.set_site),
            web.get(BUILD_INFO, self.get_build_info),
            web.get("/xapi/siteConfig/{name}", self.get_site_preference),
            web.get("/xapi/plugins/{id}", self.get_plugin),
        ]

    async def get_preferences(self, request: web.Request) -> web.Response:
        """All preferences; people without a managing role get only ``allUsersCanStartJupyter`` (5.2)."""
        preferences = self._configuration.preferences()
        if not request[PERSON].is_plugin_manager():
            preferences = {"allUsersCanStartJupyter": preferences["allUsersCanStartJupyter"]}
        return web.json_response(preferences)

    async def set_preferences(self, request: web.Request) -> web.Response:
        """Change preferences: 200, empty; unknown names are skipped, null is 500 (5.2)."""
        require_administrator(request)
        self._configuration.set_preferences(await json_object(request))
        return web.Response()

    async def get_preference(self, request: web.Request) -> web.Response:
        """Call B and its like: everybody may read every value except the hub token (1.3, 5.2)."""
        name = request.match_info["name"]
        preferences = self._configuration.preferences()
        if name not in preferences:
            raise not_found(f"No JupyterHub plugin preference named {name}")
        require(name != "jupyterHubToken" or request[PERSON].is_plugin_manager())
        return web.json_response({name: preferences[name]})

    async def get_site(self, request: web.Request) -> web.Response:
        """The site configuration, as far as the person may see it (5.3)."""
        return web.json_response(self._configuration.visible_site(request[PERSON].is_administrator()))

    async def set_site(self, request: web.Request) -> web.Response:
        """Change the site configuration: 200, empty; unknown names are skipped, null is 500."""
        require_administrator(request)
        self._configuration.set_site(await json_object(request))
        return web.Response()

    async def get_build_info(self, request: web.Request) -> web.Response:
        """The version, for everybody and without a log-in, and that this is a demo."""
        return web.json_response({"version": "1.9.1", "demo": True})

    async def get_site_preference(self, request: web.Request) -> web.Response:
        """One site preference, for administrators. Strings come without quotes, although typed as JSON (5.2)."""
        require_administrator(request)
        value = self._configuration.site.get(request.match_info["name"])
        if value is None:
            raise XapiError(404)
        return web.Response(text=value, content_type="application/json")

    async def get_plugin(self, request: web.Request) -> web.Response:
        """The one plugin with its version; 404 for all others (5.3)."""
        if request.match_info["id"] != _PLUGIN["id"]:
            raise not_found(f"No plugin with ID {request.match_info['id']} could be found on this system")
        return web.json_response(_PLUGIN)
