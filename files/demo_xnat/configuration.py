"""The site configuration and the plugin's preferences, which administrators set by REST, stored as texts (5).

Section numbers are those of docs/xnat-contract.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .database import Changes, Database

SITE, PREFERENCES = "siteConfig", "preferences"
# The defaults of a fresh plugin (5.1). A preference is returned with the type of its default if its text can be parsed.
DEFAULTS: dict[str, str | int | bool] = {
    "jupyterHubHostUrl": "",  # the site's URL from the first start on
    "jupyterHubApiUrl": "http://172.17.0.1/jupyterhub/hub/api",
    "jupyterHubToken": "secret-token",
    "startTimeout": 180,
    "stopTimeout": 60,
    "startPollingInterval": 8,
    "stopPollingInterval": 2,
    "pathTranslationArchivePrefix": "",
    "pathTranslationArchiveDockerPrefix": "",
    "pathTranslationWorkspacePrefix": "",
    "pathTranslationWorkspaceDockerPrefix": "",
    "workspacePath": "/data/xnat/workspaces",
    "inactivityTimeout": 60,
    "maxServerLifetime": 48,
    "maxNamedServers": 1,
    "allUsersCanStartJupyter": False,
}
_FOR_ADMINS = ("archivePath", "aliasTokenTimeout", "concurrentMaxSessions", "sessionTimeout", "initialized")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 24 * 3600}


class ConfigurationError(ValueError):
    """XNAT does not accept this value."""


def first_start(site_url: str, archive_path: str) -> Changes:
    """The configuration of a fresh XNAT with a fresh plugin."""
    site = {
        "siteId": "XNAT",
        "siteUrl": site_url,
        "processingUrl": "",
        "archivePath": archive_path,
        "aliasTokenTimeout": "2 days",
        "concurrentMaxSessions": "1000",
        "sessionTimeout": "15 minutes",
        "initialized": "true",
    }
    preferences = {name: _text(value) for name, value in DEFAULTS.items()} | {"jupyterHubHostUrl": site_url}
    found = {(SITE, name): value for name, value in site.items()}
    return found | {(PREFERENCES, name): value for name, value in preferences.items()}


def seconds(duration: str) -> int:
    """A duration such as "2 days"; raises ``ConfigurationError``."""
    match = re.fullmatch(r"(\d+) (second|minute|hour|day)s?", duration)
    if match is None:
        raise ConfigurationError(f"{duration!r} is not a duration such as '2 days'")
    return int(match[1]) * _SECONDS[match[2]]


class Configuration:
    """Both. They are read at each use: a change needs no restart (2.1)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.site: Mapping[str, str] = database.table(SITE)
        self._preferences: Mapping[str, str] = database.table(PREFERENCES)

    def visible_site(self, is_administrator: bool) -> dict[str, str | int | bool]:
        """The site configuration as it is returned: administrators see all of it, others a part (5.3)."""
        found: dict[str, str | int | bool] = dict(self.site)
        found["concurrentMaxSessions"] = self.max_sessions()
        found["initialized"] = self.site["initialized"].lower() == "true"
        return {name: value for name, value in found.items() if is_administrator or name not in _FOR_ADMINS}

    def set_site(self, values: Mapping[str, Any]) -> None:
        """Change the site configuration and ignore unknown names. Raises ``ConfigurationError`` before any change."""
        known = self._known(SITE, values)
        seconds(known.get((SITE, "aliasTokenTimeout"), "1 day"))
        if not re.fullmatch(r"\d+", known.get((SITE, "concurrentMaxSessions"), "1")):
            raise ConfigurationError("concurrentMaxSessions must be an integer")
        self._database.write(known)

    def set_preferences(self, values: Mapping[str, Any]) -> None:
        """Change preferences and ignore unknown names. Raises ``ConfigurationError`` for a null before any change."""
        self._database.write(self._known(PREFERENCES, values))

    def _known(self, table: str, values: Mapping[str, Any]) -> dict[tuple[str, str], str]:
        known = self._database.table(table)
        return {(table, name): _text(value) for name, value in values.items() if name in known}

    def alias_seconds(self) -> int:
        """How long an alias token is valid."""
        return seconds(self.site["aliasTokenTimeout"])

    def max_sessions(self) -> int:
        """The maximum number of sessions of one person."""
        return int(self.site["concurrentMaxSessions"])

    def host(self) -> str:
        """XNAT as containers reach it (4.1)."""
        return self.site["processingUrl"] or self.site["siteUrl"]

    def preferences(self) -> dict[str, str | int | bool]:
        """All preferences as they are returned."""
        return {name: self._typed(name) for name in self._preferences}

    def text(self, name: str) -> str:
        """One preference as its text."""
        return self._preferences[name]

    def number(self, name: str) -> int:
        """One preference as a number. Raises ``ValueError`` if it is not one: values are not checked when stored."""
        return int(self._preferences[name])

    def all_users_can_start(self) -> bool:
        """The switch for everybody (1.3)."""
        return self._preferences["allUsersCanStartJupyter"].lower() == "true"

    def _typed(self, name: str) -> str | int | bool:
        text, default = self._preferences[name], DEFAULTS[name]
        if isinstance(default, bool):
            return text.lower() == "true"
        if isinstance(default, int) and re.fullmatch(r"-?\d+", text):
            return int(text)
        return text


def _text(value: Any) -> str:
    if value is None:
        raise ConfigurationError("A value is null")
    return value.strip() if isinstance(value, str) else json.dumps(value)
