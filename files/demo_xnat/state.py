"""The state of a running demo XNAT. As with Tomcat, a restart loses sessions, failed log-ins and event tracking;
accounts, alias tokens and user-options are in the database.
"""

from __future__ import annotations

import hmac
import json
import secrets
import string
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import archive
from .configuration import Configuration
from .database import Database
from .people import LOCAL, USERS, Person, hashed, matches

SESSION_SECONDS = 15 * 60
LOCK_OUT_FAILURES = 20
LOCK_OUT_SECONDS = 3600
_ALIASES, _OPTIONS = "aliases", "options"
_SECRET_ALPHABET = string.ascii_letters + string.digits


class RefusedError(Exception):
    """The credentials do not open a session: wrong, disabled, locked out, or too many sessions."""


@dataclass
class _Session:
    username: str
    used_at: float


@dataclass
class Tracking:
    """The progress of one start or stop (docs/xnat-contract.md, 2.4)."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    succeeded: bool | None = None
    final_message: str | None = None


class State:
    """Accounts, sessions, failed log-ins, alias tokens, read permissions, stored user-options and event tracking.

    ``clock`` gives seconds; ``readable`` maps a login name to the ids of the projects it may read now.
    """

    def __init__(
        self, database: Database, configuration: Configuration, clock: Callable[[], float] = time.time
    ) -> None:
        self.clock = clock
        self.people = {name: Person.stored(document) for name, document in database.table(USERS).items()}
        self.readable = {person.username: set(person.projects) for person in self.people.values()}
        self._database = database
        self._configuration = configuration
        self._aliases = database.table(_ALIASES)
        self._options = database.table(_OPTIONS)
        self.restart()

    def restart(self) -> None:
        """Lose what XNAT keeps in memory only."""
        self._sessions: dict[str, _Session] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._tracking: dict[tuple[int, str], Tracking] = {}

    # Accounts (docs/xnat-contract.md, 5.3)

    def create(self, person: Person) -> Person:
        """Create an account with a new id."""
        person = replace(person, user_id=max(known.user_id for known in self.people.values()) + 1)
        self.save(person)
        self.readable[person.username] = set()
        return person

    def save(self, person: Person, drop_aliases: bool = False) -> Person:
        """Store the account; drop_aliases also ends its alias tokens."""
        owned = [key for key, alias in self._aliases.items() if drop_aliases and alias["username"] == person.username]
        self._database.write({**person.change(), **{(_ALIASES, key): None for key in owned}})
        self.people[person.username] = person
        return person

    def set_password(self, person: Person, password: str) -> Person:
        """The account with a new password, which is not expired; the caller saves it."""
        return replace(person, password=hashed(password), password_expired=False)

    # Log-in and sessions (docs/xnat-contract.md, 1.6)

    def check_password(self, login: str, password: str, provider: str = LOCAL) -> Person:
        """The user of that provider with this login name or alias and this password. Raises ``RefusedError``.

        Failures are counted until a log-in succeeds. After 20, the account is locked for one hour; then the count
        restarts.
        """
        alias = self._aliases.get(login)
        if alias is not None:
            owner = self.people[alias["username"]]
            if self._is_fresh(alias) and _same(alias["secret"], password) and owner.may_log_in():
                return owner
            raise RefusedError
        person = self.people.get(login)
        if person is None:
            raise RefusedError
        count, failed_at = self._failures.get(login, (0, 0.0))
        if count >= LOCK_OUT_FAILURES and self.clock() - failed_at >= LOCK_OUT_SECONDS:
            count = 0
        if count >= LOCK_OUT_FAILURES:
            raise RefusedError
        if person.provider != provider or not person.may_log_in() or not matches(person.password, password):
            self._failures[login] = (count + 1, self.clock())
            raise RefusedError
        self._failures.pop(login, None)
        return person

    def open_session(self, person: Person, limited: bool = True) -> str:
        """Make a session and return its id; if limited, raises ``RefusedError`` when the person has too many."""
        oldest = self.clock() - SESSION_SECONDS
        self._sessions = {key: item for key, item in self._sessions.items() if item.used_at > oldest}
        live = sum(item.username == person.username for item in self._sessions.values())
        if limited and live >= self._configuration.max_sessions():
            raise RefusedError
        session_id = secrets.token_hex(16).upper()
        self._sessions[session_id] = _Session(person.username, self.clock())
        return session_id

    def find_session(self, session_id: str) -> Person | None:
        """The person of a live session, whose 15 minutes restart; None also if the account was closed."""
        session = self._sessions.get(session_id)
        if session is None or self.clock() - session.used_at >= SESSION_SECONDS:
            return None
        session.used_at = self.clock()
        person = self.people[session.username]
        return person if person.may_log_in() else None

    def close_session(self, session_id: str) -> None:
        """End a session."""
        self._sessions.pop(session_id, None)

    def session_count(self) -> int:
        """How many sessions are kept, including those that expired since the last log-in."""
        return len(self._sessions)

    def issue_alias(self, person: Person) -> tuple[str, str]:
        """A new alias token: a UUID and a secret of 64 letters and digits, valid for ``aliasTokenTimeout``."""
        alias = str(uuid.uuid4())
        secret = "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(64))
        changes: dict[tuple[str, str], Any] = {
            (_ALIASES, key): None for key, known in self._aliases.items() if not self._is_fresh(known)
        }
        changes[_ALIASES, alias] = {"username": person.username, "secret": secret, "issued_at": self.clock()}
        self._database.write(changes)
        return alias, secret

    def _is_fresh(self, alias: dict[str, Any]) -> bool:
        age: float = self.clock() - alias["issued_at"]
        return age < self._configuration.alias_seconds()

    def owner_of_alias(self, alias: str) -> str | None:
        """The login name for which an alias was issued."""
        found = self._aliases.get(alias)
        return found["username"] if found else None

    # Permissions

    def can_read_project(self, person: Person, project_id: str) -> bool:
        """Whether the person may read that project now."""
        known = archive.find_project(project_id) is not None
        return known and (person.is_administrator() or project_id in self.readable[person.username])

    def can_read(self, person: Person, project_id: str, item_id: str, xsi_type: str) -> bool:
        """Whether the person may read the item within that project now (docs/xnat-contract.md, 3.5)."""
        project = archive.find_project(project_id)
        if project is None or not self.can_read_project(person, project_id):
            return False
        return xsi_type == archive.PROJECT_TYPE or archive.holds(project, item_id)

    # User-options: one row for each (person, server name), overwritten by each start

    def store_options(self, person: Person, options: dict[str, Any]) -> None:
        """Create or overwrite the row that ``options["servername"]`` names."""
        self._database.write({(_OPTIONS, _options_key(person, options["servername"])): options})

    def find_options(self, person: Person, servername: str) -> dict[str, Any] | None:
        """The stored row, or None if there is none or its item is no longer readable (docs/xnat-contract.md, 1.4)."""
        row: dict[str, Any] | None = self._options.get(_options_key(person, servername))
        if row and self.can_read(person, row["projectId"], row["itemId"], row["xsiType"]):
            return row
        return None

    def remove_options(self, person: Person, servername: str) -> None:
        """Remove the row, if any."""
        self._database.write({(_OPTIONS, _options_key(person, servername)): None})

    # Event tracking

    def track(self, person: Person, key: str, status: str, message: str) -> None:
        """Add one entry; ``Completed`` and ``Failed`` also set the outcome."""
        tracking = self._tracking.setdefault((person.user_id, key), Tracking())
        tracking.entries.append({"status": status, "eventTime": int(self.clock() * 1000), "message": message})
        if status in ("Completed", "Failed"):
            tracking.succeeded = status == "Completed"
            tracking.final_message = message

    def find_tracking(self, person: Person, key: str) -> dict[str, Any] | None:
        """The wire form of one tracking: ``payload`` is JSON text in the JSON."""
        tracking = self._tracking.get((person.user_id, key))
        if tracking is None:
            return None
        return {
            "key": key,
            "payload": json.dumps({"entryList": tracking.entries}),
            "succeeded": tracking.succeeded,
            "finalMessage": tracking.final_message,
        }


def _options_key(person: Person, servername: str | None) -> str:
    return json.dumps([person.user_id, servername])


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
