"""The calls between hub and launcher: HTTP with JSON over a unix socket.

Each call is `POST /NAME` with one JSON object, answered by one JSON object. The calls:

- `start` {"user", "server", "env"}: get the launch options from XNAT, apply the mount policy, create the service.
  Answers {"host", "port"} as soon as Swarm has accepted the service. env: variables from HUB_VARIABLES.
- `one` {"user", "server"}: answers a Seen.
- `all` {}: answers {"servers": [{"user", "server", "id"}, ...]}, every server's service of this deployment.
- `living` {}: answers {"servers": [{"user", "server"}, ...]}, the servers that run or may still start.
- `stop` {"user", "server", "patience", "id"}: remove the service and end a pending start. Answers {"ended"}: whether
  the container ended within `patience` seconds. id: remove only the service with this id; empty for any.
- `log` {"user", "server"}: answers {"text"}, the last log lines of a server that did not start, without its secrets.
- `standing` {"user", "server"}: answers {"standing"}, whether XNAT still permits this launch.
- `limits` {}: answers a Limits, as XNAT has it now.
- `logged_in` {"user", "source", "reason", "known"}: record a log-in at the hub's form in the audit log. user: as
  entered. source: the client's address. reason: a LogIn. known: whether the hub knows a person of this name.
  Answers {}.

A refusal has a status of 400 or more and {"kind", "message"}: an id for programs, a sentence for people.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SOCKET = "/run/xnat-launcher/launcher.sock"
MAX_BODY = 2**18  # bytes of one request
MAX_VALUE = 2**15  # characters of one variable of the hub
MAX_PATIENCE = 600.0  # seconds
MAX_LOG_IN = 256  # characters of the name and of the address in the call `logged_in`

# Exactly the variables that JupyterHub itself sets for a server: jupyterhub/spawner.py, Spawner.get_env.
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


@dataclass(frozen=True)
class Limits:
    """When XNAT ends servers (docs/xnat-contract.md, 2.6), in seconds. 0: never; None: XNAT does not say.

    inactivity: after the last activity. lifetime: after the start.
    """

    inactivity: float | None = None
    lifetime: float | None = None


class Standing(StrEnum):
    """XNAT's answer when it is asked about a running server's launch again."""

    ALLOWED = "allowed"
    """The user may still use Jupyter."""
    NO_RIGHT = "no_right"
    """The user has lost the right to start Jupyter."""
    REFUSED = "refused"
    """XNAT does not accept the launch's alias token."""
    GONE = "gone"
    """XNAT no longer has this launch."""


class LogIn(StrEnum):
    """The result of a log-in at the hub's form."""

    ACCEPTED = "accepted"
    """The user is logged in."""
    FORM = "form"
    """The form has no name or no password."""
    NAME = "name"
    """No user in XNAT can have this name, or it is that of the hub's own account, which may not log in."""
    CREDENTIALS = "credentials"
    """XNAT does not accept this name and password."""
    NO_RIGHT = "no_right"
    """The user may not start Jupyter."""
    NOT_PERMITTED = "not_permitted"
    """The account may not log in to the hub."""
    ACTION = "action"
    """XNAT requires an action first, such as a new password."""
    TOO_OFTEN = "too_often"
    """The hub's limits on log-ins were exceeded; XNAT was not asked."""
    XNAT = "xnat"
    """XNAT did not give a usable answer."""
    HUB = "hub"
    """An error in the hub itself."""


WITHOUT_XNAT = frozenset({LogIn.FORM, LogIn.NAME, LogIn.TOO_OFTEN, LogIn.HUB})
"""Results for which XNAT was not asked, so that anybody can cause any number of them."""


def shows_name(reason: LogIn, known: bool) -> bool:
    """Whether logs may show the name of a log-in as entered: XNAT has accepted it, or the hub knows such a person.

    Any other may be a password that somebody has typed into the wrong field.
    """
    return known or reason in (LogIn.ACCEPTED, LogIn.NO_RIGHT, LogIn.ACTION)


class Kind(StrEnum):
    """Why a call was refused."""

    BAD_REQUEST = "bad_request"
    """The request is not one that the hub makes."""
    BUSY = "busy"
    """Too many calls are being handled."""
    NAME = "name"
    """No user or server in XNAT can have this name."""
    DEFAULT_SERVER = "default_server"
    """The default server, which has no name, is not started at this site."""
    NO_LAUNCH = "no_launch"
    """XNAT has no such launch, or the user no longer has access to its data."""
    SERVICE_ACCOUNT = "service_account"
    """XNAT does not accept the service account."""
    XNAT = "xnat"
    """XNAT did not give a usable answer."""
    OPTIONS = "options"
    """XNAT's launch options are invalid."""
    MOUNTS = "mounts"
    """The mount policy refuses the launch."""
    STOPPED = "stopped"
    """The server was stopped while it was starting."""
    UNGUARDED = "unguarded"
    """No node keeps notebooks apart."""
    DOCKER = "docker"
    """The Docker request failed."""
    AUDIT = "audit"
    """The launch cannot be recorded in the audit log."""
    INTERNAL = "internal"
    """An error in the launcher itself."""
    AWAY = "away"
    """The launcher does not answer; only the hub's client uses this."""


STATUS = {
    Kind.BAD_REQUEST: 400, Kind.BUSY: 503, Kind.NAME: 400, Kind.DEFAULT_SERVER: 400, Kind.NO_LAUNCH: 403,
    Kind.SERVICE_ACCOUNT: 503, Kind.XNAT: 503, Kind.OPTIONS: 400, Kind.MOUNTS: 403, Kind.STOPPED: 503,
    Kind.UNGUARDED: 503,
    Kind.DOCKER: 503, Kind.AUDIT: 503, Kind.INTERNAL: 500, Kind.AWAY: 503,
}  # fmt: skip


class RefusedError(Exception):
    """The call was refused; the text is a sentence for people."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def status(self) -> int:
        """The HTTP status of the refusal."""
        return STATUS[self.kind]


@dataclass(frozen=True)
class Seen:
    """The state of one server in Swarm.

    state: the state of its newest task, `missing` if there is no service. words: the same as a sentence for people.
    failed: why it cannot start; empty while it may. ended: None while the server runs or may still start, else its
    exit code or a sentence.
    """

    state: str
    words: str
    failed: str
    ended: int | str | None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the answer."""
        return asdict(self)
