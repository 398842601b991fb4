"""The REST client of all XNAT modules: one session, time limits, and error messages that say what to do.

Section numbers are those of docs/xnat-contract.md.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.message import Message
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible.module_utils.xnat_wire.redirects import Redirect, judge

ARGUMENTS: dict[str, Any] = {
    "xnat": {
        "type": "dict",
        "required": True,
        "options": {
            "url": {"type": "str", "required": True},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "session": {"type": "str", "default": "", "no_log": True},
            "ca_pem": {"type": "str", "default": ""},
            "client_certificate_pem": {"type": "str", "default": "", "no_log": True},
            "validate_certs": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 30},
            "retry_for": {"type": "float", "default": 60},
        },
    }
}
"""The option of every XNAT module with XNAT's address and the account to use."""

COOKIE = "JSESSIONID"
SESSION = "/data/JSESSION"
PAUSE = 1.0  # seconds between two attempts
GONE = (502, 503, 504)  # the answers of a reverse proxy while XNAT restarts
MASK = "********"


class XnatError(Exception):
    """A call failed; the text is one sentence with the call, the status and what to do."""

    def __init__(self, text: str, status: int = 0, body: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.body = body


class UnavailableError(XnatError):
    """XNAT did not answer, or a reverse proxy answered for it: the call can be tried again."""


class NotInitialisedError(XnatError):
    """XNAT runs, but its set-up has not been completed yet."""


class Answer:
    """Status, headers and body of an answer. call: method and URL. path: the URL without XNAT's base URL."""

    def __init__(self, call: str, path: str, status: int, headers: Message, body: bytes) -> None:
        self.call = call
        self.path = path
        self.status = status
        self.headers = headers
        self.text = body.decode(errors="replace")

    @property
    def is_json(self) -> bool:
        """Whether its content type is JSON."""
        return str(self.headers.get("Content-Type", "")).startswith("application/json")

    def json(self, kind: type = object) -> Any:
        """Return the body's JSON value. Raises XnatError if it is not of this type."""
        try:
            value = json.loads(self.text) if self.is_json else None
        except ValueError:
            value = None
        if value is None or not isinstance(value, kind):
            seen = self.headers.get("Content-Type", "nothing")
            raise XnatError(
                f"XNAT answered {self.call} with unexpected content ({seen}): check that the URL is XNAT's own and not"
                " that of a log-in or set-up page",
                self.status,
            )
        return value


class Client:
    """Calls to one XNAT with one account.

    Every call sends the run's session, if there is one, and the credentials; XNAT uses these only if the session no
    longer exists (1.6), for example after its restart. `close` ends a session that XNAT opened for this client; the
    run's session belongs to the module xnat_session.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self._options: dict[str, Any] = module.params["xnat"]
        self._base = self._options["url"].rstrip("/")
        self._directory = module.tmpdir
        self._session: str = self._options["session"]
        self._files: dict[str, str] = {}

    @property
    def session(self) -> str:
        """The id of the session in use; empty before the first call without one."""
        return self._session

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session that this client opened, and remove its files. Ignores errors of XNAT."""
        if self._session and self._session != self._options["session"]:
            self.log_out()
        self.remove_files()

    def remove_files(self) -> None:
        """Remove the files with the client's certificates; the next call writes them again."""
        for path in self._files.values():
            os.unlink(path)
        self._files.clear()

    def log_out(self) -> None:
        """End the session in use, if there is one. Ignores errors of XNAT."""
        session, self._session = self._session, ""
        with suppress(XnatError):
            self._end(session)

    def _end(self, session: str) -> None:
        """End a session in XNAT, if there is one."""
        if session:
            self._send("DELETE", SESSION, {"Cookie": f"{COOKIE}={session}"}, None)

    def log_in_works(self, username: str, password: str) -> bool:
        """Return whether XNAT accepts a name and a password; the session is ended. Raises XnatError on other errors."""
        answer = self._patiently("GET", SESSION, {"Authorization": _basic(username, password)}, None)
        self._end(_cookie(answer))
        if answer.status not in (200, 401):
            raise self.failure(answer)
        return answer.status == 200

    def password_is_right(self, username: str, password: str) -> bool:
        """Return whether XNAT accepts a name and a password; XNAT's limit on sessions does not apply to this call."""
        form = urlencode({"username": username, "password": password}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._send("POST", "/data/services/auth", headers, form)
        self._end(_cookie(answer))
        return answer.status == 200

    def get(self, path: str, accepted: Iterable[int] = (200,)) -> Answer:
        """Read; try again while XNAT restarts. Raises XnatError for a status that is not accepted."""
        return self._expect(self._patiently("GET", path, self._headers(), None), accepted)

    def change(self, method: str, path: str, body: Any, accepted: Iterable[int] = (200,)) -> Answer:
        """Change something, with the body as JSON; never tried twice. Raises XnatError as `get` does."""
        headers = self._headers()
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        return self._expect(self._send(method, path, headers, data), accepted)

    def failure(self, answer: Answer) -> XnatError:
        """Return the error for an unusable answer."""
        name = self._options["username"]
        said = " ".join(answer.text.split())[:300]
        said = f" ({said})" if said and "<" not in said else ""
        advice = {
            401: f"XNAT does not accept {name} and its password: check the password, and that the account is enabled"
            " and not locked (20 failures lock it for an hour), and that it has fewer sessions than"
            " concurrentMaxSessions",
            403: f"{name} is not an administrator of XNAT",
            404: "XNAT has no such object",
            500: f"XNAT refused it{said}",
        }.get(answer.status)
        if redirect := self.redirect(answer):
            advice = redirect_advice(redirect, name)
        if answer.status == 200:
            advice = "which is not the expected status: XNAT did not make the change"
        text = f"{answer.call}: status {answer.status}, {advice or said.strip() or 'no reason given'}"
        return XnatError(text, answer.status, answer.text)

    def redirect(self, answer: Answer) -> Redirect | None:
        """Return the meaning of an answer's redirect; None if it does not redirect."""
        if not 300 <= answer.status < 400 or answer.status == 304:
            return None
        return judge(self._base, answer.path, str(answer.headers.get("Location", "")))

    # One call

    def _headers(self) -> dict[str, str]:
        headers = {"Authorization": _basic(self._options["username"], self._options["password"])}
        if self._session:
            headers["Cookie"] = f"{COOKIE}={self._session}"
        return headers

    def _expect(self, answer: Answer, accepted: Iterable[int]) -> Answer:
        self._session = _cookie(answer) or self._session
        if answer.status not in accepted:
            raise self.failure(answer)
        return answer

    def _patiently(self, method: str, path: str, headers: dict[str, str], data: bytes | None) -> Answer:
        deadline = time.monotonic() + self._options["retry_for"]
        while True:
            try:
                return self._send(method, path, headers, data)
            except UnavailableError:
                if time.monotonic() + PAUSE >= deadline:
                    raise
                time.sleep(PAUSE)

    def _send(self, method: str, path: str, headers: dict[str, str], data: bytes | None) -> Answer:
        call = f"{method} {self._base}{path}"
        try:
            response = open_url(
                self._base + path,
                method=method,
                data=data,
                headers={"Accept": "application/json", **headers},
                timeout=self._options["timeout"],
                follow_redirects="no",
                validate_certs=self._options["validate_certs"],
                ca_path=self._file("ca_pem"),
                client_cert=self._file("client_certificate_pem"),
                http_agent="xnat-jupyter",
                use_netrc=False,
            )
            answer = Answer(call, path, response.status, response.headers, response.read())
        except HTTPError as error:
            answer = Answer(call, path, error.code, error.headers, error.read())
        except ssl.SSLError as error:
            raise self._not_trusted(call, error) from error
        except URLError as error:
            if isinstance(error.reason, ssl.SSLError):
                raise self._not_trusted(call, error.reason) from error
            raise UnavailableError(f"{call}: XNAT cannot be reached ({error.reason})") from error
        except TimeoutError as error:
            raise UnavailableError(f"{call}: no answer within {self._options['timeout']:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            hint = ", perhaps because it requires another client certificate" if self._base.startswith("https:") else ""
            raise UnavailableError(f"{call}: XNAT closed the connection{hint} ({type(error).__name__})") from error
        if answer.status in GONE:
            raise UnavailableError(f"{call}: status {answer.status}, XNAT is not running yet", answer.status)
        return answer

    def _not_trusted(self, call: str, error: ssl.SSLError) -> XnatError:
        reason = str(getattr(error, "verify_message", "") or error.reason or "TLS")
        if "ALERT" in reason:  # sent by XNAT's side
            advice = (
                "XNAT does not accept this client certificate: set xnat_jupyterhub_client_certificate to another one"
            )
        else:
            advice = "XNAT's certificate is not trusted: add the certificate of its authority to site_ca_bundle"
        return XnatError(f"{call}: {advice} ({reason})")

    def _file(self, option: str) -> str | None:
        """Return the path of a file with the option's text, since Python reads certificates from files only."""
        text = self._options[option]
        if not text:
            return None
        if option not in self._files:
            handle, path = tempfile.mkstemp(dir=self._directory)  # readable by this user only
            with os.fdopen(handle, "w") as file:
                file.write(text)
            self._files[option] = path
        return self._files[option]


def run(module: AnsibleModule, work: Callable[[AnsibleModule, Client], dict[str, Any]]) -> None:
    """Run a module: do the work with XNAT's account and exit with its results or with the message of an XnatError."""
    try:
        with Client(module) as client:
            result = work(module, client)
    except XnatError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


def redirect_advice(redirect: Redirect, username: str) -> str:
    """Return what a redirect means for this account, and what to do."""
    place = redirect.target
    return {
        "setup": "XNAT is not set up yet: open it in a browser as admin and go through its set-up page",
        "moved": f"XNAT is at {place}: set site_xnat_public_url to that, and site_xnat_url if it is the same",
        "sign-on": f"this address redirects to the log-in page {place}, perhaps of a single sign-on: set"
        " site_xnat_public_url and site_xnat_url to addresses where XNAT itself accepts user names and passwords",
        "password": f"the password of {username} has expired: log in to XNAT as {username} and choose a new one",
        "inactive": f"XNAT disabled {username} for inactivity: ask an administrator to enable the account",
        "email": f"the e-mail address of {username} is not verified: log in to XNAT once by hand and verify it",
        "page": f"XNAT redirects {username} to {place}: log in to XNAT once by hand and complete what it asks for",
    }[redirect.kind]


def quoted(name: str) -> str:
    """Return a name quoted as one part of a path."""
    return quote(name, safe="")


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _cookie(answer: Answer) -> str:
    for header in answer.headers.get_all("Set-Cookie") or ():
        name, _, value = header.partition(";")[0].partition("=")
        if name.strip() == COOKIE:
            return str(value.strip()) if "max-age=0" not in header.lower() else ""
    return ""
