"""Which versions of XNAT, its JupyterHub plugin and JupyterHub go together. Only the standard library is imported."""

from __future__ import annotations

import re

OLDEST_XNAT = (1, 8, 10)
OLDEST_PLUGIN = (1, 1)
OLDEST_JUPYTERHUB = (5, 5, 1)
FIRST_JUPYTERHUB_TOO_NEW = (6,)


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, empty where it has none, as of an unreleased build."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def unsupported(xnat: str, plugin: str, jupyterhub: str) -> list[str]:
    """Return a sentence for each pair of versions that does not work; a version that is unknown is not judged.

    The plugin keeps its compute environments in XNAT itself since 1.1.0, which needs XNAT 1.8.10 (the plugin's
    changelog, JHP-66; docs/xnat-contract.md, 5.4), and JupyterHub 6 refuses the names of its servers (2.3).
    """
    sentences = []
    if numbers(xnat) and numbers(xnat) < OLDEST_XNAT:
        sentences.append(
            f"XNAT {xnat} has no compute environments, which the JupyterHub plugin needs from 1.1 on: update XNAT to"
            " 1.8.10 or later"
        )
    if numbers(plugin) and numbers(plugin) < OLDEST_PLUGIN:
        sentences.append(
            f"the JupyterHub plugin {plugin} keeps compute environments of its own, which XNAT {xnat} does not have"
            " in its place: update the plugin to 1.1 or later"
        )
    if numbers(jupyterhub) >= FIRST_JUPYTERHUB_TOO_NEW:
        sentences.append(
            f"JupyterHub {jupyterhub} refuses the names that the JupyterHub plugin {plugin} gives its servers: stay"
            " with JupyterHub 5 (hub_images_jupyterhub_version)"
        )
    if numbers(jupyterhub) and numbers(jupyterhub) < OLDEST_JUPYTERHUB:
        sentences.append(
            f"JupyterHub {jupyterhub} has not been run with the JupyterHub plugin {plugin}: use 5.5.1 or a later 5"
            " (hub_images_jupyterhub_version)"
        )
    return sentences
