"""A stub of Docker's API for a thousand servers, more than one machine can run, and one server that answers for all.

A created service runs at once, until it is removed. The stub answers the calls of launcher and spawners: version,
services, secrets, tasks by service, name, label and id. Answers have the size of real ones: a task holds its whole
specification.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

from aiohttp import web

SERVER_PORT = 8888


class StubDocker:
    """requests: the number of answered requests by method and kind of object, such as `GET tasks`."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self._services: dict[str, dict[str, Any]] = {}  # by name
        self._texts: dict[str, str] = {}  # each service's task as JSON, by the service's name
        self._secrets: dict[str, str] = {}  # id by name
        self._made = 0
        self._runners: list[web.AppRunner] = []

    async def up(self, path: str) -> None:
        """Listen for launchers and hubs at the unix socket `path`, and as everybody's server at SERVER_PORT."""
        docker = web.Application(middlewares=[self._counted], client_max_size=2**24)
        for prefix in ("", "/{version:v[0-9.]+}"):
            docker.router.add_get(f"{prefix}/_ping", self._ping)
            docker.router.add_get(f"{prefix}/version", self._version)
            docker.router.add_get(f"{prefix}/tasks", self._tasks)
            docker.router.add_get(f"{prefix}/tasks/{{id}}", self._task)
            docker.router.add_get(f"{prefix}/services", self._list)
            docker.router.add_post(f"{prefix}/services/create", self._create)
            docker.router.add_get(f"{prefix}/services/{{id}}", self._inspect)
            docker.router.add_delete(f"{prefix}/services/{{id}}", self._remove)
            docker.router.add_get(f"{prefix}/secrets", self._no_secrets)
            docker.router.add_post(f"{prefix}/secrets/create", self._create_secret)
            docker.router.add_delete(f"{prefix}/secrets/{{id}}", self._remove_secret)
        server = web.Application()
        server.router.add_get("/{path:.*}", self._served)
        self._runners = [web.AppRunner(app, access_log=None) for app in (docker, server)]
        for runner in self._runners:
            await runner.setup()
        await web.UnixSite(self._runners[0], path, backlog=1024).start()
        os.chmod(path, 0o666)  # noqa: S103  (hubs without a launcher are not root)
        await web.TCPSite(self._runners[1], port=SERVER_PORT, backlog=1024).start()

    async def down(self) -> None:
        """Stop listening."""
        for runner in self._runners:
            await runner.cleanup()

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        words = [word for word in request.path.split("/") if word and not word.startswith("v1.")]
        self.requests[f"{request.method} {words[0]}"] += 1
        answer: web.StreamResponse = await handler(request)
        return answer

    def _id(self) -> str:
        self._made += 1
        return f"{self._made:025d}"

    def _named(self, request: web.Request) -> dict[str, Any]:
        wanted = request.match_info["id"]
        for service in [self._services[wanted]] if wanted in self._services else self._services.values():
            if wanted in (service["ID"], service["Spec"]["Name"]):
                return service
        raise _missing(f"service {wanted}")

    async def _served(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="OK", headers={"Api-Version": "1.41"})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})

    async def _create(self, request: web.Request) -> web.Response:
        spec = json.loads(await request.text())  # docker-py sends JSON without its content type
        if spec["Name"] in self._services:
            raise web.HTTPConflict(text=json.dumps({"message": "name conflicts with an existing object"}))
        when = "2026-01-01T00:00:00.000000000Z"
        service = {"ID": self._id(), "Version": {"Index": 1}, "CreatedAt": when, "UpdatedAt": when, "Spec": spec}
        service["Endpoint"] = {"Spec": spec.get("EndpointSpec", {})}
        network = {"ID": "n" * 25, "Spec": {"Name": "bench", "Labels": {}, "DriverConfiguration": {"Name": "overlay"}}}
        task = {
            "ID": self._id(),
            "Version": {"Index": 1},
            "CreatedAt": when,
            "UpdatedAt": when,
            "Spec": spec["TaskTemplate"],
            "ServiceID": service["ID"],
            "Slot": 1,
            "NodeID": "x" * 25,
            "Status": {
                "Timestamp": when,
                "State": "running",
                "Message": "started",
                "ContainerStatus": {"ContainerID": "c" * 64, "PID": 4242, "ExitCode": 0},
                "PortStatus": {},
            },
            "DesiredState": "running",
            "NetworksAttachments": [{"Network": network, "Addresses": ["10.0.1.7/24"]}],
        }
        self._services[spec["Name"]] = service
        self._texts[spec["Name"]] = json.dumps(task)
        return web.json_response({"ID": service["ID"]}, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response([self._services[name] for name in self._matching(request)])

    async def _inspect(self, request: web.Request) -> web.Response:
        return web.json_response(self._named(request))

    async def _remove(self, request: web.Request) -> web.Response:
        name = self._named(request)["Spec"]["Name"]
        del self._services[name], self._texts[name]
        return web.Response()

    async def _tasks(self, request: web.Request) -> web.Response:
        texts = ",".join(self._texts[name] for name in self._matching(request))
        return web.Response(text=f"[{texts}]", content_type="application/json")

    async def _task(self, request: web.Request) -> web.Response:
        wanted = f'{{"ID": "{request.match_info["id"]}"'
        for text in self._texts.values():
            if text.startswith(wanted):
                return web.Response(text=text, content_type="application/json")
        raise _missing(f"task {request.match_info['id']}")

    def _matching(self, request: web.Request) -> list[str]:
        """Return the services that match the filters `service`, `name` and `label`; other filters are ignored.

        A task's name begins with its service's and a dot; one that is unknown is no error, unlike a service.
        """
        filters: dict[str, Any] = json.loads(request.query.get("filters", "{}"))
        services = filters.get("service", [])
        names = [*services, *(name.removesuffix(".") for name in filters.get("name", []))]
        found = [name for name in names if name in self._services] if names else list(self._services)
        if services and not found:
            raise _missing(f"service {services[0]}")
        wanted = [label.partition("=")[::2] for label in filters.get("label", [])]
        if not wanted:
            return found
        labels = {name: self._services[name]["Spec"].get("Labels", {}) for name in found}
        return [name for name in found if all(labels[name].get(key) == value for key, value in wanted)]

    async def _no_secrets(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def _create_secret(self, request: web.Request) -> web.Response:
        name = json.loads(await request.text())["Name"]
        self._secrets[name] = self._id()
        return web.json_response({"ID": self._secrets[name]}, status=201)

    async def _remove_secret(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        for name, identity in self._secrets.items():
            if wanted in (name, identity):
                del self._secrets[name]
                return web.Response(status=204)
        raise _missing(f"secret {wanted}")


def _missing(what: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=json.dumps({"message": f"{what} not found"}), content_type="application/json")
