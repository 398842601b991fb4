"""The variables by which programs in a server find the forward proxy."""

from __future__ import annotations

import pytest
from xnat_launcher.proxies import proxy_variables

PROXY, DIRECT = "http://x-gate:3128", "localhost,x-hub,xnat.example.org"


def test_programs_find_the_proxy_and_what_they_reach_without_it_in_either_case() -> None:
    found = proxy_variables({}, PROXY, DIRECT)
    assert {name: found[name] for name in ("http_proxy", "https_proxy", "no_proxy")} == {
        "http_proxy": PROXY, "https_proxy": PROXY, "no_proxy": DIRECT,
    }  # fmt: skip
    assert all(found[name.lower()] == found[name.upper()] for name in found)
    assert len(found) == 6


def test_without_a_forward_proxy_there_are_none() -> None:
    assert proxy_variables({"https_proxy": "http://u:p@proxy:1"}, "", DIRECT) == {}


@pytest.mark.parametrize(
    ("env", "more"),
    [
        ({"no_proxy": "a.org"}, ",a.org"),
        ({"NO_PROXY": " a.org , x-hub,"}, ",a.org"),
        ({"no_proxy": "a.org", "NO_PROXY": "b.org,a.org"}, ",a.org,b.org"),
        ({"no_proxy": ""}, ""),
    ],
)
def test_xnat_can_add_hosts_and_remove_none(env: dict[str, str], more: str) -> None:
    assert proxy_variables(env, PROXY, DIRECT)["no_proxy"] == DIRECT + more


def test_a_proxy_that_xnat_names_cannot_be_reached_and_is_replaced() -> None:
    env = {"https_proxy": "http://u:p@proxy:1", "HTTP_PROXY": "http://proxy:1"}
    assert {**env, **proxy_variables(env, PROXY, DIRECT)}.items() >= {
        ("https_proxy", PROXY), ("HTTPS_PROXY", PROXY), ("HTTP_PROXY", PROXY),
    }  # fmt: skip
