"""XNAT's address. Imports only the standard library: a process that does not call XNAT need not load an HTTP client."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .settings import SettingsError


@dataclass(frozen=True)
class XnatSite:
    """XNAT's address and how to connect to it. Times are seconds; paths are those of the calling container."""

    url: str
    verify: bool
    ca_file: str | None
    client_certificate_file: str | None
    connect_timeout: float
    timeout: float

    @classmethod
    def parse(cls, data: object) -> XnatSite:
        """Read the object `xnat` of a settings file. Raises SettingsError."""
        known = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or set(data) != known:
            raise SettingsError(f"xnat must be an object with the keys {', '.join(sorted(known))}")
        if not isinstance(data["verify"], bool):
            raise SettingsError(f"xnat.verify is {data['verify']!r}: set it to true or false")
        return cls(**data)
