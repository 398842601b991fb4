"""Checks an inventory before anything changes: secrets, names, addresses, ports, missing variables.

Used on the control node by the filters of `filter_plugins/inventory.py`; imports only the standard library. A finding
is one problem::

    {"id": "secret_edge",                # the rule, for programs
     "name": "vault_xnat_password",      # the variable to change
     "text": "vault_xnat_password ..."}  # one sentence: what is wrong and what to set; never the value of a secret
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from .variables import raw_variables

Finding = dict[str, str]

HUB_PATH = "/jupyterhub/"  # the default path of the hub on its host
DEPLOYMENT_LENGTH = 24  # `service_name` cuts longer names; the name of a secret may have 64 characters in total
SWARM_PORTS = (2377, 7946, 4789)
WELL_KNOWN = ("secret-token", "jupyterhub", "password", "admin")
TEMPLATE = re.compile(r"\{[{%#]")
VAULT_NAME = re.compile(r"\bvault_\w+")
LOCALHOST = ("localhost", "127.0.0.1", "::1")  # Ansible knows these without an inventory
PLAIN_NAME = re.compile(r"[^~@*?\[\]][^*?\[\]]*")

# The form of a secret: minimum length, pattern, and the allowed characters in words, if not all are allowed.
SECRET_KINDS: dict[str, tuple[int, str, str]] = {
    "hex": (32, r"([0-9a-fA-F]{2})*", "pairs of hexadecimal digits"),
    "token": (16, r"[!-~]*", "ASCII letters, digits and punctuation, since it is sent in an HTTP header"),
    "account": (8, r".*", ""),  # the password of an account that this project configures
    "password": (1, r".*", ""),  # the password of an account that this project does not configure
    "optional": (0, r".*", ""),
}

# The secrets of a site: the vault variable that each comes from ("" for none), and its kind.
SITE_SECRETS = {
    "site_cookie_secret": ("vault_cookie_secret", "hex"),
    "site_proxy_token": ("vault_proxy_token", "token"),
    "site_service_token": ("vault_service_token", "token"),
    "site_xnat_password": ("vault_xnat_password", "account"),
    "site_xnat_admin_password": ("vault_xnat_admin_password", "optional"),
}
DEMO_SECRETS = {"site_demo_password": ("", "account")}
VERIFY_SECRETS = {"verify_password": ("vault_verify_password", "password")}

# Secrets of roles, checked if a site sets them.
ROLE_SECRETS = {
    "docker_swarm_unlock_key": "optional",
    "edge_acme_eab_key": "optional",
    "jupyterhub_cookie_secret": "hex",
    "jupyterhub_proxy_token": "token",
    "jupyterhub_service_token": "token",
    "jupyterhub_xnat_password": "password",
    "node_images_registry_password": "optional",
    "node_maintenance_hub_token": "token",
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

# The addresses of a site and their meaning. A site may override them for a role with ROLE_URLS.
SITE_URLS = {
    "site_xnat_url": "the address at which hub and notebooks reach XNAT",
    "site_xnat_public_url": "the address at which browsers reach XNAT",
    "site_hub_public_url": "the address at which browsers reach the hub, without its path",
    "site_hub_api_url": "the address at which XNAT reaches the hub's API",
}
HOST_ONLY_URLS = ("site_hub_public_url", "verify_hub_url", "xnat_jupyterhub_hub_url")
# All programs that use these remove a trailing slash.
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
# The other variables that every site sets; some may be empty, none may be missing.
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


def unknown_limits(limit: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names in `--limit` that are neither a host nor a group, such as ["w9"] for "w1,!w9".

    limit: as on the command line, "" for none. groups: Ansible's. Patterns that are no plain names (`w*`, `w[1:3]`,
    `~w.+`, `@file`) are not judged. A text without a comma that is no name itself is split at colons, as Ansible does.
    """
    known = {*groups, *(host for hosts in groups.values() for host in hosts), *LOCALHOST}
    parts = [limit] if "," in limit or limit in known else re.findall(r"(?:[^\s:\[\]]|\[[^\]]*\])+", limit)
    names = [part.strip().lstrip("!&") for text in parts for part in text.split(",")]
    return [name for name in dict.fromkeys(names) if name not in known and re.fullmatch(PLAIN_NAME, name)]


def hub_path(text: object) -> str:
    """Return the hub's path on its host, with a slash at both ends: `jhub`, `/jhub` and `/jhub/` are equal.

    Empty for the default `/jupyterhub/`. Raises ValueError for characters that are not allowed in a URL's path.
    """
    parts = [part for part in str(text or HUB_PATH).split("/") if part]
    if any(part in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._~-]+", part) for part in parts):
        raise ValueError(f"{text!r} cannot be the path of the hub: use letters, digits, '-', '.', '_' and '~'")
    return "/".join(["", *parts, ""])


def is_true(value: object) -> bool:
    """Return whether Ansible takes a variable for true. Those from the command line are texts."""
    return str(value).lower() in ("true", "yes", "on", "1")


def secret_findings(secrets: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return what is wrong with secrets: {variable: {"value": text or None, "kind": a key of `SECRET_KINDS`}}.

    A leading or trailing space or newline is refused and not removed: XNAT and the hub could end up with different
    values. Messages do not contain values.
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
            f"{name} {edge} with a space or a newline: write it on one line in quotes, or with '|-' instead of '|'.",
        )
    elif any(ord(character) < 32 or 127 <= ord(character) < 160 for character in value):
        yield _finding(
            "secret_control", name, f"{name} contains a tab, a newline or another control character: remove it."
        )
    elif not re.fullmatch(pattern, value):
        yield _finding("secret_characters", name, f"{name} must consist of {characters}: {_how_to_set(name)}.")
    elif len(value) < least:
        yield _finding(
            "secret_short",
            name,
            f"{name} has {len(value)} characters, but needs {least}: {_how_to_set(name)}.",
        )
    elif least >= 8 and value.lower() in WELL_KNOWN:
        yield _finding("secret_known", name, f"{name} is a well-known default: {_how_to_set(name)}.")


def inventory_findings(
    hostvars: Mapping[str, Mapping[str, Any]],
    host: str,
    *,
    demo: bool = False,
    several_nodes: bool = False,
    skipped_tags: Sequence[str] = (),
) -> list[Finding]:
    """Return what is wrong with the variables of a site, as evaluated for the manager `host`.

    hostvars: Ansible's, or a plain dict of dicts. demo: whether there is a demo XNAT. several_nodes: whether the swarm
    has more than one node. skipped_tags: tags of layers that this run skips. No host needs to be reached for it. The
    variables of the layers are evaluated here, so that a missing variable or a broken template is reported by its name
    before a task fails with it.
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
            found.append(
                _finding("missing", name, f"{name} is not set: copy it from inventory/example and adapt its value.")
            )
        elif not values.works(name):
            found.append(_unusable(values, name))
    found += _people(values)
    found += _addresses(values)
    found += _paths(values)
    found += _ports(values, demo, several_nodes)
    return found


def deployment_findings(
    hostvars: Mapping[str, Mapping[str, Any]], host: str, *, deployed: bool, deployments: Sequence[str]
) -> list[Finding]:
    """Return what is wrong with the deployment's name, beside what exists on the hosts.

    hostvars, host: of `inventory_findings`. deployed, deployments: of `fleet`.
    """
    return list(_deployment(_Values(hostvars, host), deployed, deployments))


class _Values:
    """The variables of a host: as written (`raw`) and evaluated one by one."""

    def __init__(self, hostvars: Mapping[str, Mapping[str, Any]], host: str) -> None:
        self.raw = raw_variables(hostvars, host)
        self._evaluated = hostvars[host]

    def has(self, name: str) -> bool:
        return name in self.raw

    def get(self, name: str) -> Any:
        """Return the evaluated value. Raises ValueError if a template in it cannot be evaluated."""
        try:
            value = self._evaluated[name]
            str(value)  # for a broken template Ansible returns a marker that fails when it is used
            return value
        except Exception as error:  # Ansible's errors; their class differs between versions
            raise ValueError(name) from error

    def works(self, name: str) -> bool:
        """Whether the value can be evaluated."""
        try:
            self.get(name)
        except ValueError:
            return False
        return True

    def text(self, name: str, default: str = "") -> str:
        """Return the evaluated value as text, or the default if it is missing or cannot be evaluated."""
        try:
            return str(self.get(name)) if self.has(name) else default
        except ValueError:
            return default

    def written(self, name: str) -> str:
        """Return the text in the inventory, decrypted. Raises ValueError if it cannot be decrypted."""
        try:
            return str(self.raw[name])
        except Exception as error:
            raise ValueError(name) from error


def _vault(values: _Values) -> Iterable[Finding]:
    """Yield the vault's variables that cannot be decrypted or that Ansible would treat as templates.

    A value that is one whole expression, such as a lookup in another vault, is intended; `{{` within a password is not.
    A value marked `!unsafe` evaluates to itself.
    """
    for name in sorted(name for name in values.raw if name.startswith("vault_")):
        try:
            written = values.written(name)
        except ValueError:
            yield _finding("vault_unreadable", name, f"{name} cannot be decrypted: check the vault password.")
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
                f"{name} contains '{{{{', '{{%' or '{{#', which Ansible treats as a template: write it as"
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
        yield _finding("edge", name, f"{name} is {text!r}: remove the space or newline.")


def _unusable(values: _Values, name: str) -> Finding:
    """Return why a variable cannot be evaluated: most often it uses a vault variable that is not set."""
    for vault_name in VAULT_NAME.findall(str(values.raw[name])):
        if not values.has(vault_name):
            return _missing(name, vault_name)
    return _finding("unusable", name, f"{name} cannot be evaluated: check its template and the variables it uses.")


def _missing(name: str, vault_name: str) -> Finding:
    if not vault_name:
        return _finding("missing", name, f"{name} is not set: set it in group_vars/all of the inventory.")
    return _finding("missing", vault_name, f"{vault_name} is not set, and {name} needs it: {_how_to_set(vault_name)}.")


def _how_to_set(name: str) -> str:
    if not name.startswith("vault_"):
        return f"set {name} to another value"
    whose = VAULT_CONTENT.get(name, "")
    return f"set it{whose} with `.venv/bin/ansible-vault edit INVENTORY/group_vars/all/vault.yml` (or `create`)"


def _people(values: _Values) -> Iterable[Finding]:
    """Yield what is wrong with the owner of XNAT's files and the list of users."""
    for name in ("site_uid", "site_gid"):
        text = values.text(name)
        if values.has(name) and not (re.fullmatch(r"[0-9]{1,10}", text) and 0 < int(text) < 2**31):
            yield _finding(
                "user_id",
                name,
                f"{name} is {text!r}: set it to the id of the owner of archive and workspaces, not to 0 (root).",
            )
    people = values.get("site_jupyter_users") if values.works("site_jupyter_users") else []
    names = people if isinstance(people, list | tuple) else [None]
    if not all(isinstance(one, str) and one and one == one.strip() for one in names):
        yield _finding(
            "people",
            "site_jupyter_users",
            "site_jupyter_users must be a list of XNAT login names, such as [jdoe, asmith], or [] for nobody.",
        )


def _deployment(values: _Values, runs: bool, deployments: Iterable[str]) -> Iterable[Finding]:
    """Yield what is wrong with the deployment's name. A running deployment keeps its name: its servers depend on it."""
    for variable in ("site_deployment", "jupyterhub_name"):
        name = values.text(variable, values.text("site_deployment"))
        if not runs and not re.fullmatch(rf"[a-z]([a-z0-9-]{{0,{DEPLOYMENT_LENGTH - 2}}}[a-z0-9])?", name):
            yield _finding(
                "deployment",
                variable,
                f"{variable} is {name!r}: use at most {DEPLOYMENT_LENGTH} lower-case letters, digits and hyphens,"
                " starting with a letter and ending without a hyphen, since names of services and hosts begin with it.",
            )
            break
    name = values.text("site_deployment")
    for other in sorted(set(deployments) - {name}):
        if _cut(other) == _cut(name):
            yield _finding(
                "deployment_twin",
                "site_deployment",
                f"site_deployment is {name!r}, and this swarm has a deployment {other!r}. Their servers would have the"
                f" same names, since only {DEPLOYMENT_LENGTH} characters are used. Choose another name.",
            )


def _cut(deployment: str) -> str:
    return deployment[:DEPLOYMENT_LENGTH].rstrip("-")


def _addresses(values: _Values) -> Iterable[Finding]:
    for name in [*SITE_URLS, *ROLE_URLS]:
        if url := values.text(name):
            yield from _address(name, url)
    yield from _below_the_hub(values)
    registry = values.text("site_registry")
    if registry and not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", registry):
        yield _finding(
            "registry",
            "site_registry",
            f"site_registry is {registry!r}: write it as registry.example.org/path, in lower case, without a scheme and"
            " without a trailing slash.",
        )


def _below_the_hub(values: _Values) -> Iterable[Finding]:
    """Yield addresses of the hub's API that would be a person's origin."""
    hub = values.text("site_hub_public_url")
    if not is_true(values.text("site_hub_person_origins")) or _url_fault(hub):
        return
    for name in API_URLS:
        url = values.text(name)
        if url and not _url_fault(url) and str(urlsplit(url).hostname).endswith(f".{urlsplit(hub).hostname}"):
            yield _finding(
                "api_origin",
                name,
                f"{name} is {url!r}, and with site_hub_person_origins the names below the hub's host are people's: use"
                " another host.",
            )


def _address(name: str, url: str) -> Iterable[Finding]:
    reason = _url_fault(url)
    if not reason and name in HOST_ONLY_URLS and urlsplit(url).path.strip("/"):
        reason = "has a path: remove it, and set the hub's path in site_hub_base_url"
    if not reason and url.endswith("/") and name not in SLASH_ALLOWED:
        reason = "ends with a slash: remove it"
    if reason:
        yield _finding("url", name, f"{name} is {url!r}, which {reason}.")


def _url_fault(url: str) -> str:
    """Return why hub, XNAT and browsers cannot use a URL, in words that follow 'which'; empty if they can."""
    example = "write it as https://xnat.example.org"
    if not re.fullmatch(r"[!-~]+", url):
        return f"contains a space or a character that is not allowed in a URL: {example}"
    if not url.startswith(("http://", "https://")):
        return f"does not begin with http:// or https://: {example}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"has no valid host or port: {example}"
    if port == 0 or parts.netloc.endswith(":"):
        return "has a port that is not a number from 1 to 65535: correct or remove it"
    if parts.username is not None:
        return "contains a user name: remove it"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return "has a query or a fragment: remove it"
    if not _is_host(host):
        return f"has no valid host: {example}"
    if "//" in parts.path or re.search(r"/\.{1,2}(/|$)", parts.path):
        return "has '//', '/./' or '/../' in its path: correct it"
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
    """Yield contradictions about the hub's path: hub, `verify` and XNAT's address of the hub's API must agree."""
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
            f"The hub's path is {own}, but verify_base_url is {names['verify_base_url']!r}: remove verify_base_url and"
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
            yield _finding("port_swarm", name, f"{name} is {port}, which Swarm itself uses: choose another port.")
        elif port in seen:
            yield _finding("port_twice", name, f"{seen[port]} and {name} are both {port}: choose different ports.")
        else:
            seen[port] = name


def _finding(rule: str, name: str, text: str) -> Finding:
    return {"id": rule, "name": name, "text": text}
