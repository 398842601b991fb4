"""What the hub and the launcher say to each other: HTTP with JSON over a unix socket.

Each call is `POST /NAME` with one JSON object, answered by one JSON object. The calls:

- `start` {"user", "server", "env"}: ask XNAT what to start, judge it by the policy, create the service. Answers
  {"host", "port"} as soon as Swarm has taken it on. env: the hub's own variables, of HUB_VARIABLES.
- `one` {"user", "server"}: answers a Seen.
- `all` {}: answers {"servers": [{"user", "server", "id"}, ...]}, every service of this deployment that Docker has.
- `living` {}: answers {"servers": [{"user", "server"}, ...]}, those that run or may come to run.
- `stop` {"user", "server", "patience", "id"}: remove the service, and end a start under way; answers {"ended"}, whether
  its container has ended within so many seconds. id: of the service that is meant, empty for whichever it is.
- `log` {"user", "server"}: answers {"text"}, the last lines of a server that did not start, without its secrets.
- `standing` {"user", "server"}: answers {"standing"}, whether XNAT still stands behind this launch.

A refusal has a status from 400 on and {"kind", "message"}: a name for programs, a sentence for people.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SOCKET = "/run/xnat-launcher/launcher.sock"
MAX_BODY = 2**18  # bytes of one request
MAX_VALUE = 2**15  # characters of one variable of the hub
MAX_PATIENCE = 600.0  # seconds

# What JupyterHub itself gives to a server, and nothing else: jupyterhub/spawner.py, Spawner.get_env.
HUB_VARIABLES = frozenset(
    {
        "JPY_API_TOKEN", "JUPYTERHUB_ACTIVITY_URL", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL", "JUPYTERHUB_BASE_URL",
        "JUPYTERHUB_CLIENT_ID", "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED", "JUPYTERHUB_COOKIE_OPTIONS",
        "JUPYTERHUB_DEFAULT_URL", "JUPYTERHUB_HOST",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES", "JUPYTERHUB_OAUTH_CALLBACK_URL", "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES",
        "JUPYTERHUB_OAUTH_SCOPES", "JUPYTERHUB_PUBLIC_HUB_URL", "JUPYTERHUB_PUBLIC_URL", "JUPYTERHUB_SERVER_NAME",
        "JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_SERVICE_URL", "JUPYTERHUB_USER",
    }
)  # fmt: skip


class Standing(StrEnum):
    """What XNAT says when a running server's launch is looked at again."""

    ALLOWED = "allowed"
    """The user may still use Jupyter."""
    NO_RIGHT = "no_right"
    """The user has lost the right to start Jupyter."""
    REFUSED = "refused"
    """XNAT does not accept the launch's alias token."""
    GONE = "gone"
    """XNAT no longer gives this launch."""


class Kind(StrEnum):
    """Why a call was refused."""

    BAD_REQUEST = "bad_request"
    """The request is none that the hub makes."""
    BUSY = "busy"
    """Too many calls are under way."""
    NAME = "name"
    """XNAT can have no user or server of this name."""
    DEFAULT_SERVER = "default_server"
    """The server without a name is not started here."""
    NO_LAUNCH = "no_launch"
    """XNAT has no such launch, or the user lost access to its data."""
    SERVICE_ACCOUNT = "service_account"
    """XNAT does not accept the service account."""
    XNAT = "xnat"
    """XNAT gave no usable answer."""
    OPTIONS = "options"
    """XNAT's launch cannot be used."""
    MOUNTS = "mounts"
    """The mount policy refuses the launch."""
    STOPPED = "stopped"
    """The server was stopped while it started."""
    DOCKER = "docker"
    """The Docker request failed."""
    INTERNAL = "internal"
    """A fault of the launcher itself."""
    AWAY = "away"
    """The launcher does not answer; the hub says so to itself."""


STATUS = {
    Kind.BAD_REQUEST: 400, Kind.BUSY: 503, Kind.NAME: 400, Kind.DEFAULT_SERVER: 400, Kind.NO_LAUNCH: 403,
    Kind.SERVICE_ACCOUNT: 503, Kind.XNAT: 503, Kind.OPTIONS: 400, Kind.MOUNTS: 403, Kind.STOPPED: 503,
    Kind.DOCKER: 503, Kind.INTERNAL: 500, Kind.AWAY: 503,
}  # fmt: skip


class RefusedError(Exception):
    """A call that was refused; the text is a sentence for people."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def status(self) -> int:
        """The HTTP status of the refusal."""
        return STATUS[self.kind]


@dataclass(frozen=True)
class Seen:
    """One server as Swarm has it.

    state: Swarm's word for its newest task, `missing` where there is no service. words: the same for people. failed:
    why it cannot come to run; empty while it may. ended: None while the server lives or may come to live, else its exit
    code or a sentence.
    """

    state: str
    words: str
    failed: str
    ended: int | str | None

    def as_json(self) -> dict[str, Any]:
        """Return what goes over the wire."""
        return asdict(self)
