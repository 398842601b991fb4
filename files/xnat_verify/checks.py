"""The checks of the smoke test. They repeat what XNAT and a researcher do, in the same order."""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import docker
from aiohttp.abc import AbstractResolver, ResolveResult
from xnat_wire.redirects import judge

from xnat_verify.walls import NODE_PORTS, targets, task_addresses

LABEL = "org.xnat.jupyterhub"  # prefix of the labels of a server's service
KERNEL_PROBE = Path(__file__).with_name("kernel_probe.py").read_text()
WALLS_PROBE = Path(__file__).with_name("walls_probe.py").read_text()
TLS_TIMEOUT = 20  # seconds for a connection
BUG = "Report this as a bug: it must never happen."


class FailedCheckError(Exception):
    """A check failed. seen: the observed result. advice: what to do."""

    def __init__(self, seen: str, advice: str) -> None:
        super().__init__(seen)
        self.seen = seen
        self.advice = advice


@dataclass(frozen=True)
class Check:
    """One row of the table: what was checked, the result, whether it passed, and what to do if not."""

    name: str
    seen: str
    ok: bool
    advice: str = ""


class Names(AbstractResolver):
    """A resolver for which the names below the hub's have the address that the input gives the hub's.

    Docker's `--add-host` knows no wildcards. hosts: of the input. domain: the hub's host name.
    """

    def __init__(self, hosts: dict[str, str], domain: str) -> None:
        self._address = hosts.get(domain, "")
        self._domain = domain

    def address(self, host: str) -> str:
        """Return what to resolve for a host."""
        return self._address if self._address and host.endswith(f".{self._domain}") else host

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Called by aiohttp."""
        found = await aiohttp.ThreadedResolver().resolve(self.address(host), port, family)
        return [{**one, "hostname": host} for one in found]  # the name that the certificate must be for

    async def close(self) -> None:
        """Called by aiohttp."""


def _is_below(url: str, hub: str) -> bool:
    """Whether a URL is at a name directly below the hub's, with the same scheme and port."""
    places = []
    for parts in (urlsplit(url), urlsplit(hub)):
        usual = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
        places.append((parts.scheme, parts.netloc.lower().removesuffix(usual)))
    (scheme, netloc), of_hub = places
    label, _, parent = netloc.partition(".")
    return bool(label) and (scheme, parent) == of_hub


class SmokeTest:
    """The checks of one run, in order; the first failure ends the run. `__main__` describes `wanted`."""

    def __init__(self, wanted: dict[str, Any], engine: docker.DockerClient) -> None:
        self.wanted = wanted
        self.checks: list[Check] = []
        self.user = wanted["username"]
        self.xnat = wanted["xnat_url"].rstrip("/")
        self.public = str(wanted["hub_url"]).rstrip("/")
        self.hub = self.public + wanted["base_url"] + "hub/api"
        self.researcher = _basic(self.user, wanted["password"])
        self.service = _basic(wanted["service_username"], wanted["service_password"])
        self.hub_token = {"Authorization": f"token {wanted['service_token']}"}
        self.servers: list[str] = []
        hub_host = str(urlsplit(wanted["hub_url"]).hostname or "")
        self.names = Names(wanted["hosts"], hub_host)
        # Any name below the hub's: nobody's servers are there, and each has the same certificate.
        self.nobody = f"verify-nobody.{hub_host}" if wanted["person_origins"] else ""
        self.docker = engine

    async def run(self) -> bool:
        """Run the checks and return whether all passed. Servers that were started are always stopped."""
        self.tls = ssl.create_default_context(cadata=self.wanted["ca_pem"] or None)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.tls, resolver=self.names),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=30, sock_connect=10),
        ) as self.http:
            try:
                return await self._check_all()
            finally:
                for name in list(self.servers):
                    with suppress(FailedCheckError, aiohttp.ClientError, TimeoutError):
                        await self._stop(name)

    async def _check_all(self) -> bool:
        mark = uuid.uuid4().hex
        first: dict[str, Any] = {}
        second: dict[str, Any] = {}

        async def launch(into: dict[str, Any], text: str) -> str:
            into.update(await self._launch())
            into["probe"] = await self._probe(into, text)
            return f"ready after {into['seconds']:.1f} s as {into['url']}"

        steps: list[tuple[str, Callable[[], Coroutine[Any, Any, str]]]] = [
            *([("the certificates last", self._certificates)] if self._served_by_tls() else []),
            ("XNAT accepts the service account", self._service_account),
            ("the service account may read launches", self._service_role),
            ("the hub answers through its proxy", self._hub_answers),
            ("the hub accepts XNAT's token", self._hub_token),
            ("XNAT reaches the hub", self._xnat_reaches_hub),
            ("XNAT uses the hub's token", self._xnat_token),
            ("the researcher can log in to the hub", self._logs_in),
            ("the hub reaches no node or file server", self._hub_walls),
            ("the researcher can read the session", self._session),
            ("a launch from XNAT becomes ready", lambda: launch(first, mark)),
            ("JupyterLab opens with XNAT's link", lambda: self._opens(first)),
            *([("the person's origin has servers only", lambda: self._apart(first))] if self.nobody else []),
            ("the notebook can read the session's DICOM", lambda: self._reads(first)),
            ("the notebook cannot write below /data", lambda: self._cannot_write(first)),
            ("the notebook runs as XNAT's user", lambda: self._runs_as(first)),
            ("the notebook reaches XNAT with its alias token", lambda: self._alias(first)),
            ("the libraries pyxnat and xnat can log in", lambda: self._libraries(first)),
            ("no secret in the service's environment", lambda: self._no_secret(first)),
        ]
        if self.wanted["restart_hub"]:
            steps.append(("the notebook survives a restart of the hub", lambda: self._restart_hub(first)))
        steps += [
            ("a second launch becomes ready", lambda: launch(second, mark)),
            ("the notebook reaches no node, file server or other service", lambda: self._walls(first, second)),
            ("the notebook does not reach the other notebook", lambda: self._neighbours(first, second)),
            ("the way out refuses private addresses", lambda: self._way_out(first)),
            ("a stop removes the server", lambda: self._stopped(first)),
            ("the workspace still has the first server's file", lambda: self._kept(second, mark)),
            ("a stop removes the second server", lambda: self._stopped(second)),
        ]
        for name, step in steps:
            try:
                self.checks.append(Check(name, await step(), True))
            except FailedCheckError as error:
                self.checks.append(Check(name, error.seen, False, error.advice))
                return False
            except TimeoutError:
                self.checks.append(Check(name, "timed out", False, "Check that this service is running."))
                return False
            except (aiohttp.ClientError, docker.errors.DockerException) as error:
                advice = "Check that this service is running and that its address in the inventory is correct."
                self.checks.append(Check(name, f"{type(error).__name__}: {error}", False, advice))
                return False
        return True

    async def _get(self, url: str, credentials: dict[str, str] | None = None) -> tuple[int, Any]:
        headers = {"Accept": "application/json"} | (credentials or {})
        async with self.http.get(url, headers=headers, allow_redirects=False) as response:
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()

    def _served_by_tls(self) -> list[tuple[str, int]]:
        """Return host and port of XNAT and hub, as far as they are served by TLS, each once."""
        urls = [urlsplit(url) for url in (self.wanted["hub_url"], self.xnat)]
        served = [(str(url.hostname), url.port or 443) for url in urls if url.scheme == "https"]
        if self.nobody:
            served.insert(1, (self.nobody, urls[0].port or 443))
        return list(dict.fromkeys(served))

    async def _certificates(self) -> str:
        """Read until when the certificates are valid, as a browser sees them."""
        seen = []
        for host, port in self._served_by_tls():
            try:
                opening = asyncio.open_connection(self.names.address(host), port, ssl=self.tls, server_hostname=host)
                _, writer = await asyncio.wait_for(opening, TLS_TIMEOUT)
            except socket.gaierror as error:
                raise FailedCheckError(
                    f"{host}: {error}",
                    "Create a DNS record for this name; with site_hub_person_origins, also for all names below the"
                    " hub's (*.hub.example.org).",
                ) from error
            except OSError as error:
                raise FailedCheckError(
                    f"{host}:{port}: {error}",
                    "The certificate must be valid for this host, and the authority in site_ca_bundle if that is set.",
                ) from error
            not_after = writer.get_extra_info("peercert")["notAfter"]
            writer.close()
            days = int((ssl.cert_time_to_seconds(not_after) - time.time()) // 86400)
            _expect(
                days >= self.wanted["certificate_days"],
                f"that of {host} is valid for {days} more days",
                "Renew it; playbooks/edge.yml does so if the edge's own authority or an ACME authority issued it, and"
                " reports why it cannot. verify_certificate_days is the number of days required.",
            )
            seen.append(f"{host}: {days} days")
        return ", ".join(seen)

    async def _service_account(self) -> str:
        async with self.http.get(f"{self.xnat}/data/JSESSION", headers=self.service, allow_redirects=False) as response:
            status, session = response.status, response.cookies.get("JSESSIONID")
            redirect = judge(self.xnat, "/data/JSESSION", response.headers.get("Location", ""))
        if session:  # XNAT opens a session for every call without a cookie (contract 1.6)
            cookie = {"Cookie": f"JSESSIONID={session.value}"}
            async with self.http.delete(f"{self.xnat}/data/JSESSION", headers=cookie):
                pass
        _expect(
            not 300 <= status < 400 or redirect.kind not in ("moved", "sign-on"),
            f"status {status} at {self.xnat}, which redirects to {redirect.target}",
            "Set site_xnat_public_url, and site_xnat_url if it is the same, to the address where XNAT itself accepts"
            " passwords.",
        )
        _expect(
            status == 200,
            f"status {status} for {self.wanted['service_username']}",
            "Enable the account in XNAT, give it the role non_expiring, and set its password (site_xnat_password).",
        )
        return f"{self.wanted['service_username']} at {self.xnat}"

    async def _service_role(self) -> str:
        url = f"{self.xnat}/xapi/jupyterhub/users/{self.user}/server/verify-unknown/user-options"
        status, _ = await self._get(url, self.service)
        _expect(
            status == 404,
            f"status {status} instead of 404 for an unknown server",
            "Install the JupyterHub plugin in XNAT and give the service account the role JupyterHub.",
        )
        return "404 for an unknown server, as expected"

    async def _hub_answers(self) -> str:
        status, answer = await self._get(f"{self.hub}/")
        _expect(status == 200, f"status {status} at {self.hub}/", "Run playbooks/hub.yml; see docker service logs.")
        return f"JupyterHub {answer['version']} at {self.hub}"

    async def _hub_token(self) -> str:
        status, answer = await self._get(f"{self.hub}/info", self.hub_token)
        _expect(status == 200, f"status {status} at /info", "The hub has another service token: run playbooks/hub.yml.")
        return f"{answer['authenticator']['class']}, {answer['spawner']['class']}"

    async def _xnat_reaches_hub(self) -> str:
        status, answer = await self._get(f"{self.xnat}/xapi/jupyterhub/version", self.researcher)
        _expect(
            status == 200,
            f"status {status}: {_short(answer)}",
            "Set jupyterHubApiUrl in XNAT to an address of the hub that XNAT can reach, without a trailing slash.",
        )
        return f"version {answer.get('version') if isinstance(answer, dict) else answer}"

    async def _xnat_token(self) -> str:
        """Let XNAT ask the hub about the researcher with its token; the hub answers 404 for an unknown user."""
        status, answer = await self._get(f"{self.xnat}/xapi/jupyterhub/users/{self.user}", self.researcher)
        _expect(
            status in (200, 404),
            f"status {status}: {_short(answer)}",
            "Run playbooks/xnat.yml, or set jupyterHubToken in XNAT to the value of site_service_token.",
        )
        return "the hub accepts it"

    async def _logs_in(self) -> str:
        """Log in at the hub's form as a browser does; the hub checks the password with XNAT."""
        login = self.hub.removesuffix("api") + "login"
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(
            connector=self.http.connector,
            connector_owner=False,
            cookie_jar=jar,
            headers={"Sec-Fetch-Mode": "navigate"},
            timeout=self.http.timeout,
        ) as browser:
            async with browser.get(login):
                pass
            xsrf = next((cookie.value for cookie in jar if cookie.key == "_xsrf"), "")
            form = {"username": self.user, "password": self.wanted["password"], "_xsrf": xsrf}
            async with browser.post(login, data=form, allow_redirects=False) as response:
                _expect(
                    response.status == 302,
                    f"status {response.status} at the hub's log-in",
                    "See docker service logs of the hub: it must reach XNAT at site_xnat_url, and the researcher must"
                    " have the role Jupyter (site_jupyter_users).",
                )
            async with browser.get(self.hub.removesuffix("api") + "logout"):
                pass
        return f"{self.user} logged in and out"

    async def _session(self) -> str:
        experiment = self.wanted["experiment"]
        status, answer = await self._get(f"{self.xnat}/data/experiments/{experiment}?format=json", self.researcher)
        _expect(
            status == 200 and isinstance(answer, dict),
            f"status {status} for {experiment} as {self.user}",
            "Set verify_experiment to a session that verify_username may read, and check verify_password.",
        )
        item = answer["items"][0]
        fields = item["data_fields"]
        self.item = {
            "xsiType": item["meta"]["xsi:type"],
            "itemId": experiment,
            "itemLabel": fields["label"],
            "projectId": fields["project"],
        }
        scope = f"type=JUPYTERHUB&site=XNAT&user={self.user}&prj={fields['project']}"
        url = f"{self.xnat}/xapi/compute/environments/available?{scope}"
        status, environments = await self._get(url, self.researcher)
        _expect(
            status == 200 and bool(environments),
            f"no compute environment for {self.user} (status {status})",
            "In XNAT, offer this project a compute environment of type JUPYTERHUB with hardware.",
        )
        wanted = self.wanted["environment"]
        named = {row["computeEnvironment"]["name"]: row for row in environments}
        _expect(
            wanted in named and named[wanted]["hardwareOptions"]["hardwareConfigs"],
            f"no environment {wanted} with hardware; XNAT offers {', '.join(named)}",
            "Run playbooks/xnat.yml, or set verify_environment to the name of an environment that XNAT offers.",
        )
        hardware = named[wanted]["hardwareOptions"]["hardwareConfigs"]
        self.item["computeEnvironmentConfigId"] = named[wanted]["id"]
        self.item["hardwareConfigId"] = min(hardware, key=_reserved)["id"]
        return f"{fields['label']} of {fields['project']} as {self.user}"

    async def _launch(self) -> dict[str, Any]:
        """Start a server as XNAT's page does (contract 2.4) and wait until its event tracking has finished."""
        clock = asyncio.get_running_loop().time
        began = clock()
        name = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z"
        body = {
            "username": self.user,
            "servername": name,
            "eventTrackingId": name,
            "dashboardConfigId": None,
            **self.item,
        }
        url = f"{self.xnat}/xapi/jupyterhub/users/{self.user}/server/{name}"
        self.servers.append(name)
        async with self.http.post(url, json=body, headers=self.researcher, allow_redirects=False) as response:
            text = await response.text()
            _expect(
                response.status == 200,
                f"status {response.status}: {_short(text)}",
                "Give the user the role Jupyter in XNAT, or set allUsersCanStartJupyter to true.",
            )
        tracking: dict[str, Any] = {}
        while tracking.get("succeeded") is None:
            _expect(
                clock() - began < self.wanted["timeout"],
                f"not ready after {self.wanted['timeout']} s",
                "See docker service ps of the server and docker service logs of hub and launcher.",
            )
            await asyncio.sleep(0.5)
            status, tracking = await self._get(f"{self.xnat}/xapi/event_tracking/{name}", self.researcher)
            _expect(status == 200, f"status {status} for the event tracking", "See XNAT's log.")
        _expect(
            tracking["succeeded"] is True,
            str(tracking.get("finalMessage")),
            f"See docker service logs of {self.wanted['deployment']}-hub and {self.wanted['deployment']}-launcher.",
        )
        status, user = await self._get(f"{self.hub}/users/{self.user}", self.hub_token)
        _expect(
            status == 200 and user["servers"].get(name, {}).get("ready"),
            f"the hub does not list {name} as ready",
            "See docker service logs of the hub.",
        )
        url = f"{self.xnat}/xapi/jupyterhub/users/{self.user}/tokens?note=verify&expiresIn=600"
        async with self.http.post(url, headers=self.researcher) as response:
            _expect(response.status == 200, f"status {response.status} for a token", "See XNAT's and the hub's log.")
            token = (await response.json(content_type=None))["token"]
        server = {"name": name, "url": user["servers"][name]["url"], "token": token, "seconds": clock() - began}
        return {**server, "origin": await self._origin(server)}

    async def _origin(self, server: dict[str, Any]) -> str:
        """Return the origin of a server: the hub's, or that of its person, to which XNAT's link must lead."""
        hub = self.public
        if not self.wanted["person_origins"]:
            return hub
        async with self.http.get(f"{hub}{server['url']}?token={server['token']}", allow_redirects=False) as response:
            target = urlsplit(response.headers.get("Location", ""))
            status, seen = response.status, f"{target.scheme}://{target.netloc}{target.path}"
        _expect(
            status == 307 and _is_below(seen, hub) and target.path == server["url"],
            f"status {status}, {seen} for {hub}{server['url']}",
            "Run playbooks/hub.yml; verify_hub_url must be the hub's public URL. A reverse proxy of your own must pass"
            " Host unchanged (docs/reverse-proxy.md).",
        )
        return f"{target.scheme}://{target.netloc}"

    async def _apart(self, server: dict[str, Any]) -> str:
        """Check that the person's origin has the server and not the hub, and the hub's host not the server."""
        hub = self.public
        headers = {"Authorization": f"token {server['token']}"}
        for url, expected in (
            (f"{hub}{server['url']}api/status", 307),
            (f"{server['origin']}{server['url']}api/status", 200),
            (f"{server['origin']}{self.wanted['base_url']}hub/login", 302),
        ):
            async with self.http.get(url, headers=headers, allow_redirects=False) as response:
                _expect(
                    response.status == expected and (expected == 200 or "Set-Cookie" not in response.headers),
                    f"status {response.status} for {url}",
                    "Run playbooks/hub.yml and playbooks/edge.yml. If it stays so, report it as a bug.",
                )
        return f"the server is at {server['origin']} only"

    def _address(self, server: dict[str, Any]) -> str:
        return str(server["origin"] + server["url"])

    async def _opens(self, server: dict[str, Any]) -> str:
        """Open the link as a browser does: with the token in the URL, following redirects, with cookies."""
        jar = aiohttp.CookieJar(unsafe=True)
        async with (
            aiohttp.ClientSession(connector=self.http.connector, connector_owner=False, cookie_jar=jar) as browser,
            browser.get(f"{self.public}{server['url']}?token={server['token']}") as response,
        ):
            text = await response.text()
            _expect(
                response.status == 200 and "jupyter-config-data" in text,
                f"status {response.status} at {response.url.path}",
                "The image's JupyterHub must support JUPYTERHUB_ALLOW_TOKEN_IN_URL: build it with the hub's version.",
            )
            return f"{response.url.path} with {len(text)} characters"

    @asynccontextmanager
    async def _kernel(self, server: dict[str, Any]) -> AsyncIterator[Callable[[str], Coroutine[Any, Any, str]]]:
        """Start a Python kernel; yield a function that runs code over the websocket and returns the output."""
        address, headers = self._address(server), {"Authorization": f"token {server['token']}"}
        async with self.http.post(f"{address}api/kernels", json={"name": "python3"}, headers=headers) as response:
            _expect(response.status == 201, f"status {response.status} for a kernel", "See the server's log.")
            kernel = (await response.json())["id"]
        session = uuid.uuid4().hex
        async with self.http.ws_connect(f"{address}api/kernels/{kernel}/channels", headers=headers) as socket:

            async def run(code: str) -> str:
                message = uuid.uuid4().hex
                header = {
                    "msg_id": message,
                    "msg_type": "execute_request",
                    "session": session,
                    "username": "verify",
                    "version": "5.3",
                    "date": datetime.datetime.now(datetime.UTC).isoformat(),
                }
                await socket.send_json(
                    {
                        "header": header,
                        "parent_header": {},
                        "metadata": {},
                        "channel": "shell",
                        "buffers": [],
                        "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
                    }
                )
                output = ""
                while True:
                    answer = await socket.receive(timeout=self.wanted["timeout"])
                    if answer.type is not aiohttp.WSMsgType.TEXT:
                        raise FailedCheckError(
                            "the kernel's websocket was closed", "See the proxy's and the server's log."
                        )
                    reply = json.loads(answer.data)
                    if reply.get("parent_header", {}).get("msg_id") != message:
                        continue
                    if reply["msg_type"] == "stream":
                        output += reply["content"]["text"]
                    elif reply["msg_type"] == "error":
                        seen = f"{reply['content']['ename']}: {reply['content']['evalue']}"
                        raise FailedCheckError(seen, "Run the same code in a notebook as this user.")
                    elif reply["msg_type"] == "status" and reply["content"]["execution_state"] == "idle":
                        return output

            yield run
        async with self.http.delete(f"{address}api/kernels/{kernel}", headers=headers):
            pass

    async def _probe(self, server: dict[str, Any], mark: str) -> Any:
        async with self._kernel(server) as run:
            return json.loads(await run(f"{KERNEL_PROBE}\nprint(json.dumps(look({mark!r})))"))

    async def _reads(self, server: dict[str, Any]) -> str:
        probe = server["probe"]
        _expect(
            probe["modality"] is not None,
            f"{probe['files']} files below /data, none of them DICOM",
            "Compare site_storage with XNAT's path translation: the session's directory must exist on the node.",
        )
        return f"{probe['first']}: {probe['modality']} {probe['pixels'] or ''}, {probe['files']} files in all"

    async def _cannot_write(self, server: dict[str, Any]) -> str:
        refused = server["probe"]["refused"]
        _expect(len(refused) == 2, f"writing was refused only for {refused}", BUG)
        return "; ".join(refused)

    async def _runs_as(self, server: dict[str, Any]) -> str:
        seen, wanted = (f"{of['uid']}:{of['gid']}" for of in (server["probe"], self.wanted))
        _expect(seen == wanted, f"{seen} instead of {wanted}", "Set site_uid and site_gid to XNAT's and run site.yml.")
        _expect(server["probe"]["closed"], "it could gain privileges", BUG)
        return f"{seen}, without capabilities, cannot gain privileges"

    async def _alias(self, server: dict[str, Any]) -> str:
        status = server["probe"]["xnat"]
        _expect(
            status == 200,
            f"status {status} from inside the notebook",
            "Set XNAT's processingUrl to an address that notebooks can reach; with your own CA, set site_ca_bundle.",
        )
        return "logged in from inside the notebook"

    async def _libraries(self, server: dict[str, Any]) -> str:
        project = self.item["projectId"]
        for name in ("pyxnat", "xnat"):
            seen = server["probe"][f"by_{name}"]
            _expect(
                isinstance(seen, list) and project in seen,
                f"{name}: {_short(seen)}",
                "Log in with this library in a notebook as this user; XNAT_HOST must be XNAT's own address, without a"
                " single sign-on in front.",
            )
        return f"both list {project}"

    async def _no_secret(self, server: dict[str, Any]) -> str:
        services = await self._services(server["name"])
        text = json.dumps([service.attrs for service in services])
        leaks = [word for word in ("XNAT_PASS=", "JUPYTERHUB_API_TOKEN=", "XNAT_USER=") if word in text]
        _expect(bool(services) and not leaks, f"{leaks or 'no service found'}", "Report this as a bug.")
        return f"docker service inspect {services[0].name} shows none"

    async def _restart_hub(self, server: dict[str, Any]) -> str:
        hub_name = f"{self.wanted['deployment']}-hub"
        hub = await asyncio.to_thread(self.docker.services.get, hub_name)
        old = {task["ID"] for task in await asyncio.to_thread(hub.tasks, {"desired-state": "running"})}
        rounds = 0
        async with self._kernel(server) as run:
            await asyncio.to_thread(hub.force_update)
            deadline = asyncio.get_running_loop().time() + self.wanted["timeout"]
            while True:
                _expect(
                    asyncio.get_running_loop().time() < deadline,
                    "the hub did not come back",
                    f"See docker service logs {hub_name}.",
                )
                _expect(
                    (await run(f"print({rounds})")).strip() == str(rounds), "a wrong answer", "See the server's log."
                )
                rounds += 1
                tasks = await asyncio.to_thread(hub.tasks, {"desired-state": "running"})
                fresh = [task for task in tasks if task["ID"] not in old and task["Status"]["State"] == "running"]
                if fresh:
                    with suppress(aiohttp.ClientError, TimeoutError):
                        url = f"{self.hub}/users/{self.user}"
                        status, user = await self._get(url, self.hub_token)
                        if status == 200 and user["servers"].get(server["name"], {}).get("ready"):
                            break
                await asyncio.sleep(0.2)
        return f"{rounds} messages over one open websocket during the restart; the new hub lists the server"

    async def _hub_walls(self) -> str:
        deployment = self.wanted["deployment"]
        label = f"com.docker.swarm.service.name={deployment}-hub"
        hubs = await asyncio.to_thread(self.docker.containers.list, filters={"label": label})
        _expect(hubs, "this node has no container of the hub", "Run the smoke test on the hub's node.")
        if deployment in hubs[0].attrs["NetworkSettings"]["Networks"]:
            return "not tried: it is still on the network of an earlier release, for the servers there"
        nodes = await asyncio.to_thread(self.docker.api.nodes)
        wanted = targets(nodes, (), (), self.wanted["file_servers"])
        code = f"{WALLS_PROBE}\nprint(json.dumps(reached({wanted!r}, {NODE_PORTS!r})))"
        done: Any = await asyncio.to_thread(hubs[0].exec_run, ["python3", "-c", code])
        text = done.output.decode(errors="replace")
        _expect(done.exit_code == 0, _short(text), "See docker service logs of the hub.")
        reached = json.loads(text)
        _expect(
            not reached,
            f"it reaches {', '.join(reached[:10])}",
            "Run site.yml. If it stays so, report it as a bug: the hub has no way out but the gate.",
        )
        return f"none of {len(wanted)} addresses with port answers"

    async def _walls(self, server: dict[str, Any], other: dict[str, Any]) -> str:
        proxy = {"service": f"{self.wanted['deployment']}-proxy"}
        nodes = await asyncio.to_thread(self.docker.api.nodes)
        proxies = await asyncio.to_thread(self.docker.api.tasks, proxy)
        wanted = targets(nodes, proxies, await self._tasks(other), self.wanted["file_servers"])
        async with self._kernel(server) as run:
            reached = json.loads(await run(f"{WALLS_PROBE}\nprint(json.dumps(reached({wanted!r}, {NODE_PORTS!r})))"))
        _expect(
            not reached,
            f"it reaches {', '.join(reached[:10])}",
            "Run site.yml. If it stays so, report it as a bug: it must reach XNAT, the hub and the way out only.",
        )
        return f"none of {len(wanted)} addresses with port answers"

    async def _neighbours(self, server: dict[str, Any], other: dict[str, Any]) -> str:
        addresses = sorted({address for task in await self._tasks(other) for address in task_addresses(task)})
        _expect(addresses, "the other notebook has no address", "See docker service ps of the server.")
        async with self._kernel(other) as listener, self._kernel(server) as run:
            ports = json.loads(await listener(f"{WALLS_PROBE}\nprint(json.dumps(listen()))"))
            await run(WALLS_PROBE)
            passed = json.loads(await run(f"print(json.dumps(knock({addresses!r}, {ports!r})))"))
            passed += json.loads(await listener("print(json.dumps(heard()))"))
        _expect(not passed, f"by {', '.join(passed)}", BUG)
        return f"no TCP or UDP to {', '.join(addresses)}"

    async def _way_out(self, server: dict[str, Any]) -> str:
        host = self.wanted["egress_host"]
        async with self._kernel(server) as run:
            await run(WALLS_PROBE)
            refused = int(await run("print(by_proxy('http://169.254.169.254/'))"))
            allowed = int(await run(f"print(by_proxy({f'https://{host}/'!r}))")) if host else 0
        _expect(refused in (0, 403), f"status {refused} for the metadata address 169.254.169.254", BUG)
        if not refused:
            return "there is no way out (jupyterhub_notebook_egress is none)"
        _expect(
            not host or (200 <= allowed < 500 and allowed != 403),
            f"status {allowed} for https://{host}/",
            "Compare jupyterhub_notebook_egress and verify_egress_host and see docker service logs of squid.",
        )
        return f"169.254.169.254 is refused{f', {host} answers' if host else ''}"

    async def _tasks(self, server: dict[str, Any]) -> list[Any]:
        """Return Docker's tasks of a server."""
        services = await self._services(server["name"])
        return list(await asyncio.to_thread(self.docker.api.tasks, {"service": services[0].id})) if services else []

    async def _services(self, name: str) -> list[Any]:
        labels = [
            f"{LABEL}.{key}={value}"
            for key, value in (("deployment", self.wanted["deployment"]), ("user", self.user), ("server", name))
        ]
        found = await asyncio.to_thread(self.docker.services.list, filters={"label": labels})
        return list(found)

    async def _stop(self, name: str) -> float:
        """Stop a server as XNAT's page does (contract 2.5) and wait until it is gone from hub and swarm."""
        clock = asyncio.get_running_loop().time
        began = clock()
        url = f"{self.xnat}/xapi/jupyterhub/users/{self.user}/server/{name}?eventTrackingId={name}-stop"
        async with self.http.delete(url, headers=self.researcher) as response:
            _expect(response.status == 200, f"status {response.status}", "See XNAT's log.")
        while True:
            status, user = await self._get(f"{self.hub}/users/{self.user}", self.hub_token)
            if status == 200 and name not in user["servers"] and not await self._services(name):
                self.servers.remove(name)
                return clock() - began
            _expect(clock() - began < 90, "still there after 90 s", "See docker service logs of the hub.")
            await asyncio.sleep(0.3)

    async def _stopped(self, server: dict[str, Any]) -> str:
        return f"gone from hub and swarm after {await self._stop(server['name']):.1f} s"

    async def _kept(self, server: dict[str, Any], mark: str) -> str:
        _expect(
            server["probe"]["before"] == mark,
            "the file of the first server is missing",
            "The workspaces row of site_storage must be the same directory on every node.",
        )
        return "found the first server's file"


def _basic(username: str, password: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(username, password)}


def _reserved(hardware: dict[str, Any]) -> tuple[float, int]:
    """Return a sort key by the reserved CPUs: hardware without a reservation fits on any node."""
    return float(hardware["hardware"].get("cpuReservation") or 0), int(hardware["id"])


def _expect(holds: Any, seen: str, advice: str) -> None:
    if not holds:
        raise FailedCheckError(seen, advice)


def _short(answer: object) -> str:
    return " ".join(str(answer).split())[:200]


def table(checks: Sequence[Check]) -> str:
    """Return the checks as text, one line each: verdict, name, result."""
    width = max((len(check.name) for check in checks), default=0)
    return "\n".join(f"{'ok    ' if check.ok else 'FAILED'}  {check.name:{width}}  {check.seen}" for check in checks)
