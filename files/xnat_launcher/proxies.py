"""The variables by which programs in a server find the forward proxy, the only way out of the notebooks' network."""

from __future__ import annotations

from collections.abc import Mapping

PROXIES = ("http_proxy", "https_proxy")
DIRECT = "no_proxy"


def proxy_variables(env: Mapping[str, str], proxy_url: str, no_proxy: str) -> dict[str, str]:
    """Return the variables in lower and upper case, since programs read either; none without a forward proxy.

    env: XNAT's variables. Their proxies are replaced, because a server cannot reach any other; the hosts that they
    reach without a proxy are added.
    """
    if not proxy_url:
        return {}
    asked = ",".join(env.get(name, "") for name in (DIRECT, DIRECT.upper()))
    direct = [host.strip() for host in f"{no_proxy},{asked}".split(",")]
    lower = dict.fromkeys(PROXIES, proxy_url) | {DIRECT: ",".join(dict.fromkeys(host for host in direct if host))}
    return lower | {name.upper(): value for name, value in lower.items()}
