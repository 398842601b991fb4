"""Accounts of the demo XNAT. Names are compared exactly: ``jdoe`` and ``JDoe`` are two people."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .database import Changes, Database
from .settings import Secrets

USERS = "users"
_SEED = "seed"
ADMINISTRATOR = "Administrator"
JUPYTER = "Jupyter"
JUPYTERHUB = "JupyterHub"
SERVICE_ACCOUNT = "jupyterhub"
ADMIN = "admin"
LOCAL, OPENID = "localdb", "openid"


@dataclass(frozen=True)
class Person:
    """One account; ``roles`` are role keys, ``projects`` the projects readable at start.

    password: a salted hash, empty for none. provider: who checks it, XNAT itself (LOCAL) or an OpenID provider.
    """

    user_id: int
    username: str
    roles: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    enabled: bool = True
    verified: bool = True
    password_expired: bool = False
    first_name: str = "Demo"
    last_name: str = "Account"
    email: str = ""
    password: str = field(default="", repr=False)
    provider: str = LOCAL

    def is_administrator(self) -> bool:
        """Whether the person may see and do everything."""
        return ADMINISTRATOR in self.roles

    def may_act_for(self, username: str) -> bool:
        """XNAT's access level "User": the exact own name, or a site admin (docs/xnat-contract.md, 1.1)."""
        return self.username == username or self.is_administrator()

    def is_plugin_manager(self) -> bool:
        """Whether the person has one of the roles that may read user-options (docs/xnat-contract.md, 1.1)."""
        return self.is_administrator() or JUPYTERHUB in self.roles

    def may_log_in(self) -> bool:
        """Whether the account is open (docs/xnat-contract.md, 1.2)."""
        return self.enabled and self.verified

    def to_json(self) -> dict[str, Any]:
        """The account as XNAT returns it."""
        return {
            "id": self.user_id,
            "username": self.username,
            "firstName": self.first_name,
            "lastName": self.last_name,
            "email": self.email,
            "enabled": self.enabled,
            "verified": self.verified,
            "secured": True,
        }

    def change(self) -> Changes:
        """The change that stores the account."""
        return {(USERS, self.username): asdict(self)}

    @classmethod
    def stored(cls, document: dict[str, Any]) -> Person:
        """The account that ``change`` stored."""
        return cls(**document | {name: tuple(document[name]) for name in ("roles", "projects")})


# The accounts of a fresh XNAT. "expired" and "disabled" have the role Jupyter but can no longer log in. "openid" has no
# password in XNAT: it logs in on the demo's page, which stands in for its OpenID provider.
PEOPLE = {
    person.username: person
    for person in (
        Person(1, ADMIN, roles=(ADMINISTRATOR,)),
        Person(2, SERVICE_ACCOUNT, roles=(JUPYTERHUB,), enabled=False),
        Person(11, "jdoe", projects=("DEMO_MR", "DEMO_CT")),
        Person(12, "JDoe", projects=("DEMO_CT",)),
        Person(13, "asmith", projects=("DEMO_MR",)),
        Person(14, "rjones"),
        Person(15, "expired", roles=(JUPYTER,), projects=("DEMO_MR",), password_expired=True),
        Person(16, "disabled", roles=(JUPYTER,), projects=("DEMO_MR",), enabled=False),
        Person(17, "openid", roles=(JUPYTER,), projects=("DEMO_MR",), provider=OPENID),
    )
}


def missing_accounts(stored: Mapping[str, Mapping[str, Any]]) -> Changes:
    """The accounts that a database lacks: all at the first start, later those that came to the demo since then.

    They have no passwords except the service account, whose password the plugin sets (5.3). stored: the table USERS.
    """
    found: dict[tuple[str, str], Any] = {}
    ids = {int(document["user_id"]) for document in stored.values()}
    for person in PEOPLE.values():
        if person.username in stored:
            continue
        service = person.username == SERVICE_ACCOUNT
        email = "jupyterhub@jupyterhub.jupyterhub" if service else f"{person.username}@example.org"
        hidden = hashed(SERVICE_ACCOUNT) if service else ""
        free = max(ids) + 1 if person.user_id in ids else person.user_id
        ids.add(free)
        found |= replace(person, user_id=free, email=email, password=hidden).change()
    return found


def new_passwords(database: Database, passwords: Secrets) -> Changes:
    """The changes that set the passwords of people and administrator: those that differ from the last start's, or lack.

    Older demos had one password for all: there, the administrator gets a new one.
    """
    found: dict[tuple[str, str], Any] = {}
    stored = database.table(USERS)
    people = set(PEOPLE) - {SERVICE_ACCOUNT, ADMIN}
    for key, password, names in (
        ("password", passwords.password, people),
        ("admin_password", passwords.admin_password, {ADMIN}),
    ):
        is_new = not matches(database.table(_SEED).get(key, ""), password)
        if is_new:
            found[_SEED, key] = hashed(password)
        for name in names & set(stored):
            if is_new or not stored[name]["password"]:
                found |= replace(Person.stored(stored[name]), password=hashed(password)).change()
    return found


def hashed(password: str) -> str:
    """A salted hash of the password, as hexadecimal text."""
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}:{_scrypt(password, salt).hex()}"


def matches(stored: str, password: str) -> bool:
    """Whether the hash matches this password; an empty hash matches none."""
    salt, _, expected = stored.partition(":")
    return bool(expected) and hmac.compare_digest(_scrypt(password, bytes.fromhex(salt)), bytes.fromhex(expected))


def _scrypt(password: str, salt: bytes) -> bytes:
    # Deliberately cheap, about 1 ms: it runs at each log-in, and these are frequent.
    return hashlib.scrypt(password.encode(), salt=salt, n=512, r=8, p=1, dklen=32)
