"""A slow XNAT: answers a hub's calls (docs/xnat-contract.md, 1.1) with a delay, or hangs for chosen users."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

from aiohttp import web

PASSWORD = "one-password-for-all"  # noqa: S105
HANG = 30.0  # seconds


class SlowXnat:
    """Everybody with PASSWORD may use Jupyter.

    delay: seconds before each answer. hanging: users whose calls take HANG seconds instead. asked: the users for whom
    a call waits now. image, command: what user-options name; command None is the image's JupyterLab.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.hanging: set[str] = set()
        self.asked: set[str] = set()
        self.image = ""
        self.command: str | None = None
        self._runner: web.AppRunner | None = None

    async def up(self, port: int) -> None:
        """Listen on all addresses."""
        app = web.Application(middlewares=[self._slowly])
        app.router.add_get("/xapi/users/{user}/roles", self._roles)
        app.router.add_get("/xapi/jupyterhub/preferences/allUsersCanStartJupyter", self._switch)
        app.router.add_get("/xapi/jupyterhub/users/{user}/server/{server}/user-options", self._user_options)
        app.router.add_delete("/data/JSESSION", self._ended)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=port).start()

    async def down(self) -> None:
        """Stop listening."""
        if self._runner:
            await self._runner.cleanup()

    def options(self, server: str) -> dict[str, Any]:
        """User-options (contract 1.4.1) for a server."""
        env = {
            "XNAT_HOST": "https://xnat.example.org",
            "XNAT_USER": "0f9b3c1e-6a0b-4a5e-9d2f-6f4f1f0a7b11",
            "XNAT_PASS": "a" * 64,
            "XNAT_DATA": "/data",
            "XNAT_XSI_TYPE": "xnat:projectData",
            "XNAT_ITEM_ID": "BENCH",
            "JUPYTERHUB_ROOT_DIR": "/tmp",  # noqa: S108
            "XDG_CONFIG_HOME": "/tmp",  # noqa: S108
        }
        container: dict[str, Any] = {
            "image": self.image,
            "command": self.command,
            "env": env,
            "labels": {},
            "mounts": [],
        }
        limits = {"cpu_limit": None, "cpu_reservation": None, "mem_limit": "1G", "mem_reservation": None}
        return {
            "userId": 42,
            "servername": server,
            "xsiType": "xnat:projectData",
            "itemId": "BENCH",
            "projectId": "BENCH",
            "eventTrackingId": server,
            "task_template": {
                "container_spec": container,
                "resources": {**limits, "generic_resources": {}},
                "placement": {"constraints": []},
            },
        }

    @web.middleware
    async def _slowly(self, request: web.Request, handler: Any) -> web.StreamResponse:
        user = request.match_info.get("user", "")
        self.asked.add(user)
        try:
            await asyncio.sleep(HANG if user in self.hanging else self.delay)
        finally:
            self.asked.discard(user)
        if request.method == "GET" and not _password_is_right(request):
            return web.Response(status=401)
        answer: web.StreamResponse = await handler(request)
        if "JSESSIONID" not in request.cookies:
            answer.set_cookie("JSESSIONID", "0" * 32)
        return answer

    async def _roles(self, request: web.Request) -> web.Response:
        return web.json_response(["Jupyter"])

    async def _switch(self, request: web.Request) -> web.Response:
        return web.json_response({"allUsersCanStartJupyter": True})

    async def _user_options(self, request: web.Request) -> web.Response:
        return web.json_response(self.options(request.match_info["server"]))

    async def _ended(self, request: web.Request) -> web.Response:
        return web.Response()


def _password_is_right(request: web.Request) -> bool:
    try:
        words = base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode()
    except (binascii.Error, ValueError):
        return False
    return words.partition(":")[2] == PASSWORD
