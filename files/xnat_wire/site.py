"""Where XNAT is. Only the standard library is imported: a process that does not ask XNAT need not load a client."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .settings import SettingsError


@dataclass(frozen=True)
class XnatSite:
    """Where XNAT is and how it is reached. Times are seconds; paths are those of the container that calls."""

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
            raise SettingsError(f"xnat must be an object with {sorted(known)}")
        if not isinstance(data["verify"], bool):
            raise SettingsError(f"xnat.verify is {data['verify']!r}: set it to true or false")
        return cls(**data)
