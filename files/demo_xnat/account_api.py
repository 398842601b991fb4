"""Accounts and their roles (docs/xnat-contract.md, 1.2 and 5.3)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from .people import Person
from .state import State
from .xapi import (
    PERSON,
    Routes,
    XapiError,
    bad_argument,
    json_body,
    known_person,
    own_person,
    read_as,
    require,
    require_administrator,
)

_USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9_\-'.]{0,63}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_HUMAN_NAME = re.compile(r'[^&<>"/]+')
_PASSWORD_LENGTH = 4


class AccountFields(BaseModel):
    """The fields of an account that can be sent; others are ignored."""

    model_config = ConfigDict(strict=True)

    username: str | None = None
    password: str | None = None
    firstName: str | None = None
    lastName: str | None = None
    email: str | None = None
    enabled: bool | None = None
    verified: bool | None = None

    def given(self) -> dict[str, Any]:
        """The fields that XNAT uses: neither null nor blank."""
        fields = self.model_dump(exclude_none=True)
        return {name: value for name, value in fields.items() if not isinstance(value, str) or value.strip()}


class AccountApi:
    """Accounts. Only administrators may change them or see others'."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> Routes:
        """The calls."""
        return [
            web.post("/xapi/users", self.create),
            web.get("/xapi/users/profile/{username}", self.get_profile),
            web.get("/xapi/users/roles/{role}", self.get_members),
            web.put("/xapi/users/{username}", self.update),
            web.put("/xapi/users/{username}/enabled/{value:true|false}", self.enable),
            web.get("/xapi/users/{username}/roles", self.get_roles),
            web.put("/xapi/users/{username}/roles", self.add_roles),
            web.delete("/xapi/users/{username}/roles", self.remove_roles),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """Create: 201; 400 for missing or invalid fields, 409 for an existing name."""
        require_administrator(request)
        fields = (await read_as(request, AccountFields)).given()
        username = fields.get("username", "")
        if not _USERNAME.fullmatch(username):
            raise XapiError(400, "username is blank or has characters that are not allowed")
        if not _EMAIL.fullmatch(fields.get("email", "")):
            raise XapiError(400, "email is blank or no address")
        for name in ("firstName", "lastName"):
            if not _HUMAN_NAME.fullmatch(fields.get(name, "")):
                raise XapiError(400, f"{name} is blank or has characters that are not allowed")
        if username in self._state.people:
            raise XapiError(409, f"A user with the name {username} already exists.")
        person = self._changed(Person(0, username, enabled=False, verified=False), fields)
        return web.json_response(self._state.create(person).to_json(), status=201)

    async def get_profile(self, request: web.Request) -> web.Response:
        """One account: 404 for an unknown name."""
        return web.json_response(own_person(request, self._state).to_json())

    async def get_members(self, request: web.Request) -> web.Response:
        """The names of all who have the role, for administrators."""
        require_administrator(request)
        role = request.match_info["role"]
        return web.json_response([name for name, person in self._state.people.items() if role in person.roles])

    async def update(self, request: web.Request) -> web.Response:
        """Change an account: 304 if nothing changes.

        A password always is a change. Disabling an account ends its alias tokens.
        """
        person = self._administered(request)
        fields = (await read_as(request, AccountFields)).given()
        if fields.get("username", person.username) != person.username:
            raise XapiError(400, "The username for the submitted user object must match the username for the API call")
        if "email" in fields and not _EMAIL.fullmatch(fields["email"]):
            raise XapiError(400, "Invalid email format")
        changed = self._changed(person, fields)
        if changed == person:
            raise XapiError(304)
        disabled = person.enabled and not changed.enabled
        return web.json_response(self._state.save(changed, drop_aliases=disabled).to_json())

    async def enable(self, request: web.Request) -> web.Response:
        """Enable or disable an account: 200, even if nothing changes. Alias tokens are kept."""
        person = self._administered(request)
        self._state.save(replace(person, enabled=request.match_info["value"] == "true"))
        return web.Response()

    async def get_roles(self, request: web.Request) -> web.Response:
        """Call A: the role keys; an administrator who asks for an unknown name gets 200 with an empty body (1.2)."""
        username = request.match_info["username"]
        require(request[PERSON].may_act_for(username))
        person = self._state.people.get(username)
        return web.Response() if person is None else web.json_response(list(person.roles))

    async def add_roles(self, request: web.Request) -> web.Response:
        """Add the roles of a JSON list: 200 with [], or 202 with those that failed. Any name is a role."""
        person = self._administered(request)
        names, failed = await _roles(request)
        self._state.save(replace(person, roles=tuple(dict.fromkeys([*person.roles, *names]))))
        return web.json_response(failed, status=202 if failed else 200)

    async def remove_roles(self, request: web.Request) -> web.Response:
        """Remove the roles of a JSON list; the answer is as for ``add_roles``."""
        person = self._administered(request)
        names, failed = await _roles(request)
        self._state.save(replace(person, roles=tuple(role for role in person.roles if role not in names)))
        return web.json_response(failed, status=202 if failed else 200)

    def _administered(self, request: web.Request) -> Person:
        """The person named in the path, for administrators only: 403 for others, 404 for unknown names."""
        require_administrator(request)
        return known_person(request, self._state)

    def _changed(self, person: Person, fields: dict[str, Any]) -> Person:
        """The account with these fields."""
        password = fields.get("password")
        if password is not None:
            if len(password) < _PASSWORD_LENGTH:
                raise XapiError(400, f"A password must have {_PASSWORD_LENGTH} characters or more.")
            person = self._state.set_password(person, password)
        return replace(
            person,
            email=fields.get("email", person.email),
            first_name=fields.get("firstName", person.first_name),
            last_name=fields.get("lastName", person.last_name),
            enabled=fields.get("enabled", person.enabled),
            verified=fields.get("verified", person.verified),
        )


async def _roles(request: web.Request) -> tuple[list[str], list[Any]]:
    """The role names of the body, and its entries that cannot be one."""
    body = await json_body(request)
    if not isinstance(body, list):
        raise bad_argument("Could not read the JSON document.")
    failed = [name for name in body if not isinstance(name, str) or not name.strip()]
    return [name for name in body if name not in failed], failed
