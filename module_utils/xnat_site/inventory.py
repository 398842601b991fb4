"""What an inventory says, judged before anything is changed: secrets, names, addresses, ports, what is missing.

Used on the control node by the filters `xnat_inventory_findings`, `xnat_secret_findings` and `xnat_hub_path`; only the
standard library is imported. A finding is one thing that is wrong::

    {"id": "secret_edge",                # the rule, for whoever handles findings
     "name": "vault_xnat_password",      # the variable to change
     "text": "vault_xnat_password ..."}  # one sentence: what is wrong and what to set; never the value of a secret
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

Finding = dict[str, str]

HUB_PATH = "/jupyterhub/"  # where the hub lives below its host, where the site says nothing else
DEPLOYMENT_LENGTH = 24  # `service_name` cuts what is longer; a secret's name has room for 64 characters in all
SWARM_PORTS = (2377, 7946, 4789)
WELL_KNOWN = ("secret-token", "jupyterhub", "password", "admin")
TEMPLATE = re.compile(r"\{[{%#]")
VAULT_NAME = re.compile(r"\bvault_\w+")

# What a secret has to look like: the shortest that is accepted, and the characters, where not all are.
SECRET_KINDS: dict[str, tuple[int, str, str]] = {
    "hex": (32, r"([0-9a-fA-F]{2})*", "pairs of hexadecimal digits"),
    "token": (16, r"[!-~]*", "letters, digits and signs of ASCII, since it travels in an HTTP header"),
    "account": (8, r".*", ""),  # the password of an account that this project sets
    "password": (1, r".*", ""),  # the password of an account that somebody else has set
    "optional": (0, r".*", ""),
}

# The secrets of a site: the variable of the vault that each comes from ("" for none), and its kind.
SITE_SECRETS = {
    "site_cookie_secret": ("vault_cookie_secret", "hex"),
    "site_proxy_token": ("vault_proxy_token", "token"),
    "site_service_token": ("vault_service_token", "token"),
    "site_xnat_password": ("vault_xnat_password", "account"),
    "site_xnat_admin_password": ("vault_xnat_admin_password", "optional"),
}
DEMO_SECRETS = {"site_demo_password": ("", "account")}
VERIFY_SECRETS = {"verify_password": ("vault_verify_password", "password")}

# Secrets of roles, judged where a site sets them.
ROLE_SECRETS = {
    "docker_swarm_unlock_key": "optional",
    "jupyterhub_cookie_secret": "hex",
    "jupyterhub_proxy_token": "token",
    "jupyterhub_service_token": "token",
    "jupyterhub_xnat_password": "password",
    "node_images_registry_password": "optional",
    "node_storage_cifs_password": "optional",
    "vault_swarm_unlock_key": "optional",
    "verify_admin_password": "optional",
    "verify_service_password": "password",
    "verify_service_token": "token",
    "xnat_jupyterhub_admin_password": "optional",
    "xnat_jupyterhub_service_password": "account",
    "xnat_jupyterhub_service_token": "token",
}

VAULT_CONTENT = {
    "vault_verify_password": " to the password that verify_username has in XNAT",
    "vault_xnat_admin_password": " to the password that site_xnat_admin_username has in XNAT",
}

# The addresses of a site, and what each is. ROLE_URLS take the place of one where a site sets them.
SITE_URLS = {
    "site_xnat_url": "XNAT as hub and notebooks reach it",
    "site_xnat_public_url": "XNAT as a browser reaches it",
    "site_hub_public_url": "the hub as a browser reaches it, without its path",
    "site_hub_api_url": "the hub's API as XNAT reaches it",
}
HOST_ONLY_URLS = ("site_hub_public_url", "verify_hub_url", "xnat_jupyterhub_hub_url")
# These are only put before a path by programs that take a slash at their end away.
SLASH_ALLOWED = ("site_xnat_public_url", "verify_xnat_url", "xnat_jupyterhub_url")
API_URLS = ("site_hub_api_url", "xnat_jupyterhub_hub_api_url")
ROLE_URLS = (
    "jupyterhub_xnat_url",
    "verify_xnat_url",
    "verify_hub_url",
    "xnat_jupyterhub_url",
    "xnat_jupyterhub_processing_url",
    "xnat_jupyterhub_hub_url",
    "xnat_jupyterhub_hub_api_url",
)
# What every site says beside its addresses and secrets; some may be empty, none may be missing.
SITE_SETTINGS = (
    "site_bundle",
    "site_ca_bundle",
    "site_deployment",
    "site_gid",
    "site_hub_port",
    "site_jupyter_users",
    "site_registry",
    "site_registry_port",
    "site_secrets_dir",
    "site_storage",
    "site_uid",
    "site_xnat_admin_username",
)
VERIFY_SETTINGS = {
    "verify_username": "a person of XNAT who may start Jupyter",
    "verify_experiment": "the accession id of an imaging session that verify_username may read",
}


def hub_path(text: object) -> str:
    """Return where the hub lives below its host, with a slash at both ends: `jhub`, `/jhub` and `/jhub/` are one.

    Empty for the usual `/jupyterhub/`. Raises ValueError for what cannot be part of a URL's path.
    """
    parts = [part for part in str(text or HUB_PATH).split("/") if part]
    if any(part in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._~-]+", part) for part in parts):
        raise ValueError(f"{text!r} cannot be the path of the hub: use letters, digits, '-', '.', '_' and '~'")
    return "/".join(["", *parts, ""])


def secret_findings(secrets: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return what is wrong with secrets: {variable: {"value": text or None, "kind": a key of `SECRET_KINDS`}}.

    A blank or newline at an end is refused and not cut off: XNAT would get the one, the hub the other. Values are not
    told, but the sentence says where in the value to look.
    """
    return [finding for name, secret in secrets.items() for finding in _secret(name, secret)]


def _secret(name: str, secret: Mapping[str, Any]) -> Iterable[Finding]:
    if isinstance(secret["value"], int | float | list | dict):
        yield _finding("secret_type", name, f"{name} is not a text: put it in quotes.")
        return
    value = "" if secret["value"] is None else str(secret["value"])
    least, pattern, characters = SECRET_KINDS[secret["kind"]]
    if not value:
        if least:
            yield _finding("secret_missing", name, f"{name} is empty: {_how_to_set(name)}.")
        return
    if value.strip() != value:
        edge = "begins" if value.lstrip() != value else "ends"
        yield _finding(
            "secret_edge",
            name,
            f"{name} {edge} with a blank or a newline: write it on one line in quotes, or with '|-' in place of '|'.",
        )
    elif any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value):
        yield _finding(
            "secret_control", name, f"{name} holds a tab, a newline or another control character: remove it."
        )
    elif not re.fullmatch(pattern, value):
        yield _finding("secret_characters", name, f"{name} must consist of {characters}: {_how_to_set(name)}.")
    elif len(value) < least:
        yield _finding(
            "secret_short", name, f"{name} has {len(value)} characters and needs {least}: {_how_to_set(name)}."
        )
    elif least >= 8 and value.lower() in WELL_KNOWN:
        yield _finding("secret_known", name, f"{name} is a well-known default: {_how_to_set(name)}.")


def inventory_findings(
    hostvars: Mapping[str, Mapping[str, Any]],
    host: str,
    *,
    demo: bool = False,
    several_nodes: bool = False,
    deployed: bool = False,
    deployments: Sequence[str] = (),
    skipped_tags: Sequence[str] = (),
) -> list[Finding]:
    """Return everything that is wrong with the variables of a site, as the manager `host` sees them.

    hostvars: Ansible's, or a plain dict of dicts. demo: whether there is a demo XNAT. several_nodes: whether the swarm
    has more than one. deployed, deployments: of `fleet`. skipped_tags: tags of layers that this run leaves out. What
    the layers need is evaluated here, so that a missing variable or a broken template is told by its name and not by
    the task that would have met it.
    """
    values = _Values(hostvars, host)
    secrets = dict(SITE_SECRETS)
    wanted = dict(SITE_URLS)
    if demo:
        secrets |= DEMO_SECRETS
    if not {"verify", "always"} & set(skipped_tags):
        secrets |= VERIFY_SECRETS
        wanted |= VERIFY_SETTINGS
    found = [*_vault(values)]
    broken = {finding["name"] for finding in found}
    found += _site_secrets(values, secrets, broken)
    for name, what in wanted.items():
        found += _setting(values, name, what)
    for name in SITE_SETTINGS:
        if not values.has(name):
            found.append(_finding("missing", name, f"{name} is not set: take it from inventory/example and change it."))
        elif not values.works(name):
            found.append(_unusable(values, name))
    found += _people(values)
    found += _deployment(values, deployed, deployments)
    found += _addresses(values)
    found += _paths(values)
    found += _ports(values, demo, several_nodes)
    return found


class _Values:
    """The variables of a host: as they are written (`raw`), and evaluated one by one."""

    def __init__(self, hostvars: Mapping[str, Mapping[str, Any]], host: str) -> None:
        raw_get = getattr(hostvars, "raw_get", None)
        self.raw: Mapping[str, Any] = raw_get(host) if raw_get else hostvars[host]
        self._evaluated = hostvars[host]

    def has(self, name: str) -> bool:
        return name in self.raw

    def get(self, name: str) -> Any:
        """Return the evaluated value. Raises ValueError where a template in it cannot be evaluated."""
        try:
            value = self._evaluated[name]
            str(value)  # Ansible returns what cannot be evaluated as a marker, which fails when it is used
            return value
        except Exception as error:  # Ansible's own errors, of a class that differs between its versions
            raise ValueError(name) from error

    def works(self, name: str) -> bool:
        """Whether the value can be evaluated."""
        try:
            self.get(name)
        except ValueError:
            return False
        return True

    def text(self, name: str, default: str = "") -> str:
        """Return the evaluated value as text, the default where there is none or it cannot be evaluated."""
        try:
            return str(self.get(name)) if self.has(name) else default
        except ValueError:
            return default

    def written(self, name: str) -> str:
        """Return the text that the inventory holds, decrypted. Raises ValueError where it cannot be decrypted."""
        try:
            return str(self.raw[name])
        except Exception as error:
            raise ValueError(name) from error


def _vault(values: _Values) -> Iterable[Finding]:
    """Yield the vault's variables that cannot be read, or are taken for templates.

    One whole expression, such as a lookup in another vault, is meant as one; `{{` within a password is not. What is
    marked `!unsafe` evaluates to itself.
    """
    for name in sorted(name for name in values.raw if name.startswith("vault_")):
        try:
            written = values.written(name)
        except ValueError:
            yield _finding("vault_unreadable", name, f"{name} cannot be decrypted: check the password of the vault.")
            continue
        try:
            evaluated = values.get(name)
        except ValueError:
            evaluated = None
        expression = written.strip().startswith("{{") and written.strip().endswith("}}")
        if TEMPLATE.search(written) and str(evaluated) != written and (evaluated is None or not expression):
            yield _finding(
                "vault_template",
                name,
                f"{name} holds '{{{{', '{{%' or '{{#', which Ansible takes for a template: write it as"
                f" `{name}: !unsafe '...'` in the vault.",
            )


def _site_secrets(values: _Values, secrets: Mapping[str, tuple[str, str]], broken: set[str]) -> Iterable[Finding]:
    judged: dict[str, dict[str, Any]] = {}
    for name, (vault_name, kind) in secrets.items():
        told = vault_name if vault_name and values.has(vault_name) else name
        if broken & {name, told}:
            continue
        if not values.has(name):
            if SECRET_KINDS[kind][0]:
                yield _missing(name, vault_name)
            continue
        try:
            judged[told] = {"value": values.get(name), "kind": kind}
        except ValueError:
            yield _unusable(values, name)
    for name, kind in ROLE_SECRETS.items():
        if not values.has(name) or name in broken:
            continue
        if values.works(name):
            judged[name] = {"value": values.get(name), "kind": kind}
        else:
            yield _unusable(values, name)
    if values.has("hub_images_registry_auths") and values.works("hub_images_registry_auths"):
        for registry, entry in (values.get("hub_images_registry_auths") or {}).items():
            judged[f"hub_images_registry_auths[{registry}]"] = {"value": entry.get("auth"), "kind": "password"}
    if values.has("jupyterhub_registry_auths"):
        yield _finding(
            "renamed",
            "jupyterhub_registry_auths",
            "jupyterhub_registry_auths is not read any more, since images are pulled by the rollout: name it"
            " hub_images_registry_auths.",
        )
    yield from secret_findings(judged)


def _setting(values: _Values, name: str, what: str) -> Iterable[Finding]:
    if not values.has(name):
        yield _finding("missing", name, f"{name} is not set: set it to {what}.")
        return
    try:
        value = values.get(name)
    except ValueError:
        yield _unusable(values, name)
        return
    text = str(value) if value is not None else ""
    if not text.strip():
        yield _finding("missing", name, f"{name} is empty: set it to {what}.")
    elif text != text.strip() or any(ord(character) < 32 for character in text):
        yield _finding("edge", name, f"{name} is {text!r}: remove the blank or newline.")


def _unusable(values: _Values, name: str) -> Finding:
    """Return what keeps a variable from being evaluated: most often one of the vault that it names and nobody set."""
    for vault_name in VAULT_NAME.findall(str(values.raw[name])):
        if not values.has(vault_name):
            return _missing(name, vault_name)
    return _finding("unusable", name, f"{name} cannot be evaluated: check its template and the variables named there.")


def _missing(name: str, vault_name: str) -> Finding:
    if not vault_name:
        return _finding("missing", name, f"{name} is not set: set it in group_vars/all of the inventory.")
    return _finding("missing", vault_name, f"{vault_name} is not set, and {name} needs it: {_how_to_set(vault_name)}.")


def _how_to_set(name: str) -> str:
    if not name.startswith("vault_"):
        return f"set {name} to another value"
    whose = VAULT_CONTENT.get(name, "")
    return f"set it{whose} by `ansible-vault edit group_vars/all/vault.yml` in the inventory (`create` for a new file)"


def _people(values: _Values) -> Iterable[Finding]:
    """Yield what cannot be the owner of XNAT's files, or a list of people."""
    for name in ("site_uid", "site_gid"):
        text = values.text(name)
        if values.has(name) and not (re.fullmatch(r"[0-9]{1,10}", text) and 0 < int(text) < 2**31):
            yield _finding(
                "user_id",
                name,
                f"{name} is {text!r}: set it to the owner of archive and workspaces, which is not 0 (root).",
            )
    people = values.get("site_jupyter_users") if values.works("site_jupyter_users") else []
    names = people if isinstance(people, list | tuple) else [None]
    if not all(isinstance(one, str) and one and one == one.strip() for one in names):
        yield _finding(
            "people",
            "site_jupyter_users",
            "site_jupyter_users must be a list of names in XNAT, such as [jdoe, asmith], or [] for nobody.",
        )


def _deployment(values: _Values, runs: bool, deployments: Iterable[str]) -> Iterable[Finding]:
    """Yield why no services can be called so. Names of a deployment that runs stay: its servers are known by them."""
    for variable in ("site_deployment", "jupyterhub_name"):
        name = values.text(variable, values.text("site_deployment"))
        if not runs and not re.fullmatch(rf"[a-z]([a-z0-9-]{{0,{DEPLOYMENT_LENGTH - 2}}}[a-z0-9])?", name):
            yield _finding(
                "deployment",
                variable,
                f"{variable} is {name!r}: use at most {DEPLOYMENT_LENGTH} small letters, digits and hyphens, with a"
                " letter at the beginning and no hyphen at the end, since names of services and hosts begin with it.",
            )
            break
    name = values.text("site_deployment")
    for other in sorted(set(deployments) - {name}):
        if _cut(other) == _cut(name):
            yield _finding(
                "deployment_twin",
                "site_deployment",
                f"site_deployment is {name!r}, and this swarm has a deployment {other!r}: their servers would have the"
                f" same names, of which {DEPLOYMENT_LENGTH} characters count. Choose another name.",
            )


def _cut(deployment: str) -> str:
    return deployment[:DEPLOYMENT_LENGTH].rstrip("-")


def _addresses(values: _Values) -> Iterable[Finding]:
    for name in [*SITE_URLS, *ROLE_URLS]:
        if url := values.text(name):
            yield from _address(name, url)
    registry = values.text("site_registry")
    if registry and not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", registry):
        yield _finding(
            "registry",
            "site_registry",
            f"site_registry is {registry!r}: write it as registry.example.org/path, without a scheme, in small letters,"
            " without a slash at the end.",
        )


def _address(name: str, url: str) -> Iterable[Finding]:
    reason = _url_fault(url)
    if not reason and url.endswith("/") and name not in SLASH_ALLOWED:
        reason = "ends in a slash: leave it away"
    if not reason and name in HOST_ONLY_URLS and urlsplit(url).path:
        reason = "has a path: leave it away, the hub's own path is site_hub_base_url"
    if reason:
        yield _finding("url", name, f"{name} is {url!r}, which {reason}.")


def _url_fault(url: str) -> str:
    """Return why hub, XNAT and browsers cannot use a URL, in words that follow 'which'; empty where they can."""
    example = "write it as https://xnat.example.org"
    if not re.fullmatch(r"[!-~]+", url):
        return f"holds a blank or a character that no URL has: {example}"
    if not url.startswith(("http://", "https://")):
        return f"does not begin with http:// or https://: {example}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"has no valid host or port: {example}"
    if port == 0 or parts.netloc.endswith(":"):
        return "has a port that is no number from 1 to 65535: correct or remove it"
    if parts.username is not None:
        return "holds a user: leave it away"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return "has a query or a fragment: leave it away"
    if not _is_host(host):
        return f"has no valid host: {example}"
    if "//" in parts.path or re.search(r"/\.{1,2}(/|$)", parts.path):
        return "has an empty step or dots in its path: correct it"
    return ""


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return True
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(
        re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label, re.IGNORECASE) for label in labels
    )


def _paths(values: _Values) -> Iterable[Finding]:
    """Yield where the hub's path is said in two ways: hub, `verify` and XNAT's address of its API must agree."""
    said = values.text("site_hub_base_url")
    names = {name: values.text(name, said) for name in ("site_hub_base_url", "jupyterhub_base_url", "verify_base_url")}
    paths: dict[str, str] = {}
    for name, text in names.items():
        try:
            paths[name] = hub_path(text)
        except ValueError as error:
            if values.has(name):
                yield _finding("hub_path", name, f"{name}: {error}.")
    own = paths.get("jupyterhub_base_url")
    if own is None:
        return
    if paths.get("verify_base_url", own) != own:
        yield _finding(
            "hub_path_twice",
            "verify_base_url",
            f"The hub's path is {own} and verify_base_url is {names['verify_base_url']!r}: remove verify_base_url, and"
            " set site_hub_base_url.",
        )
    for name in API_URLS:
        url = values.text(name)
        if url and not _url_fault(url) and not url.endswith("/") and urlsplit(url).path != f"{own}hub/api":
            yield _finding(
                "hub_path_api",
                name,
                f"{name} is {url!r}, but the hub's API is at {own}hub/api (site_hub_base_url): make them agree.",
            )


def _ports(values: _Values, demo: bool, many_nodes: bool) -> Iterable[Finding]:
    names = ["site_hub_port"]
    names += ["site_demo_xnat_port"] if demo else []
    names += ["site_registry_port"] if many_nodes and not values.text("site_registry") else []
    seen: dict[int, str] = {}
    for name in names:
        text = values.text(name)
        port = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
        if not 0 < port < 65536:
            yield _finding("port", name, f"{name} is {text!r}: set it to a number from 1 to 65535.")
        elif port in SWARM_PORTS:
            yield _finding("port_swarm", name, f"{name} is {port}, which Swarm itself needs: choose another port.")
        elif port in seen:
            yield _finding("port_twice", name, f"{seen[port]} and {name} are both {port}: choose another port.")
        else:
            seen[port] = name


def _finding(rule: str, name: str, text: str) -> Finding:
    return {"id": rule, "name": name, "text": text}
