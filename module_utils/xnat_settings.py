"""Compares, changes and reads back named values in XNAT, such as its site configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import MASK, Client, XnatError, run


def as_text(value: object) -> str:
    """Return a value as text: XNAT may return numbers and booleans as either type (docs/xnat-contract.md, 5.2)."""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def differences(wanted: Mapping[str, object], stored: Mapping[str, object]) -> dict[str, object]:
    """Return the wanted values that differ from the stored ones.

    Raises XnatError for a name that XNAT does not know, which it would ignore, and for a value that is null, a list or
    an object, with which it would fail (docs/xnat-contract.md, 5.2).
    """
    for name, value in wanted.items():
        if name not in stored:
            raise XnatError(f"XNAT has no setting {name}: use one of {', '.join(sorted(stored))}")
        if value is None or isinstance(value, dict | list):
            raise XnatError(f"{name} must be a text, a number or a boolean")
    return {name: value for name, value in wanted.items() if as_text(value) != as_text(stored[name])}


def shown(values: Mapping[str, object], names: Collection[str], secret: Collection[str], mark: str) -> dict[str, str]:
    """Return values for a diff; secrets are masked, with a mark that shows whether they differ."""
    return {name: f"{MASK} ({mark})" if name in secret else as_text(values[name]) for name in sorted(names)}


def keep(module: AnsibleModule, path: str, wanted: Mapping[str, object], secret: Collection[str] = ()) -> None:
    """Change the settings at `path` that differ from the wanted values, and exit the module."""
    run(module, lambda module, client: _keep(module, client, path, wanted, secret))


def _keep(
    module: AnsibleModule, client: Client, path: str, wanted: Mapping[str, object], secret: Collection[str]
) -> dict[str, Any]:
    stored = client.get(path).json(dict)
    changes = differences(wanted, stored)
    result: dict[str, Any] = {"changed": bool(changes), "changes": sorted(changes)}
    if module._diff:
        before, after = shown(stored, changes, secret, "old"), shown(changes, changes, secret, "new")
        result["diff"] = {"before": before, "after": after}
    if changes and not module.check_mode:
        client.change("POST", path, changes)
        kept = client.get(path).json(dict)
        for name in differences(changes, kept):
            value = MASK if name in secret else as_text(kept[name])
            raise XnatError(f"XNAT answered POST {path} with 200, but did not keep {name}: it still is {value!r}")
    return result
