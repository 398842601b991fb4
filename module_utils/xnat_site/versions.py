"""Checks that XNAT, its JupyterHub plugin and JupyterHub have compatible versions. Standard library only."""

from __future__ import annotations

import re

OLDEST_XNAT = (1, 8, 10)
OLDEST_PLUGIN = (1, 2)
OLDEST_JUPYTERHUB = (5, 5, 1)
FIRST_JUPYTERHUB_TOO_NEW = (6,)


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; empty if it has none, such as that of an unreleased build."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def unsupported(xnat: str, plugin: str, jupyterhub: str) -> list[str]:
    """Return a sentence for each incompatible version; unknown versions are not checked.

    Since 1.1.0 the plugin stores compute environments in XNAT itself, which needs XNAT 1.8.10 (the plugin's changelog,
    JHP-66; docs/xnat-contract.md, 5.4). Since 1.2.0 it gives servers names and has the preference maxNamedServers
    (JHP-82; 2.3). JupyterHub 6 refuses these names (2.3).
    """
    sentences = []
    if numbers(xnat) and numbers(xnat) < OLDEST_XNAT:
        sentences.append(
            f"XNAT {xnat} has no compute environments, which the JupyterHub plugin needs: update XNAT to"
            f" {_text(OLDEST_XNAT)} or later"
        )
    if numbers(plugin) and numbers(plugin) < OLDEST_PLUGIN:
        sentences.append(
            f"the JupyterHub plugin {plugin} starts servers without a name; XNAT can neither stop nor cull them, and"
            f" the hub refuses them: update the plugin to {_text(OLDEST_PLUGIN)} or later"
        )
    if numbers(jupyterhub) >= FIRST_JUPYTERHUB_TOO_NEW:
        sentences.append(
            f"JupyterHub {jupyterhub} refuses the names that the JupyterHub plugin {plugin} gives its servers: use"
            " JupyterHub 5 (hub_images_jupyterhub_version)"
        )
    if numbers(jupyterhub) and numbers(jupyterhub) < OLDEST_JUPYTERHUB:
        sentences.append(
            f"JupyterHub {jupyterhub} was not tested with the JupyterHub plugin {plugin}: use"
            f" {_text(OLDEST_JUPYTERHUB)} or a later 5 (hub_images_jupyterhub_version)"
        )
    return sentences


def _text(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
