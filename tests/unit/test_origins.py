"""An origin for each person: names, and what is answered where."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xnat_hub.handlers import path_of
from xnat_hub.origins import LONGEST_PLAIN, REMOVE_WORKER, Answer, Origins, label, subdomain_hook, without_odd_cookies

from tests.unit.conftest import examples

ORIGINS = Origins("https://Hub.example.org:443", "/jupyterhub/")
HUB = "https://hub.example.org"
JDOE = "https://jdoe.hub.example.org"
LAB = "/jupyterhub/user/jdoe/20260115T093012345Z/lab/tree/a%20b?token=0123&x=%2F"
NAMES = st.one_of(
    st.text(min_size=1, max_size=80),
    st.text("aAbB0-_.'", min_size=1, max_size=12),
    st.from_regex(r"[A-Za-z][A-Za-z0-9_\-'.]{0,63}", fullmatch=True),  # XNAT's names (contract 2.1)
)


@pytest.mark.parametrize("name", ["jdoe", "a", "j-doe", "r2-d2", "x" * LONGEST_PLAIN])
def test_a_name_that_can_be_a_label_is_its_own(name: str) -> None:
    assert label(name) == name


@pytest.mark.parametrize(
    ("name", "stub"),
    [
        ("JDoe", "jdoe"), ("j.doe", "jdoe"), ("j_doe", "jdoe"), ("-jdoe", "jdoe"), ("jdoe-", "jdoe"), ("é", "user"),
        ("j--doe", "jdoe"), ("xn--jdoe-abc", "xnjdoeabc"), ("1234", "1234"), ("jdoe\n", "jdoe"), ("..", "user"),
        ("", "user"),
        ("x" * (LONGEST_PLAIN + 1), "x" * 20), ("jdoe.hub", "jdoehub"), ("a/b", "ab"), ("\ud800", "user"),
    ],
)  # fmt: skip
def test_any_other_name_gets_a_readable_stub_and_a_hash(name: str, stub: str) -> None:
    assert re.fullmatch(rf"{stub}-[a-z2-7]{{32}}", label(name))


@given(NAMES, NAMES)
@examples(300)
def test_labels_are_safe_and_as_distinct_as_names(one: str, other: str) -> None:
    assert re.fullmatch(r"(?!..--)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label(one))
    assert "--" not in label(one)
    assert (label(one) == label(other)) is (one == other)


@given(NAMES)
@examples(100)
def test_no_name_is_the_hash_of_another(name: str) -> None:
    assert label(label(name)) == label(name) if label(name) == name else label(label(name)) != label(name)


def test_a_service_of_jupyterhub_has_the_host_of_no_person() -> None:
    assert subdomain_hook("jdoe", "hub.example.org", "user") == "jdoe.hub.example.org"
    assert subdomain_hook("jdoe", "hub.example.org", "service") == "jdoe--service.hub.example.org"


def answer(host: str, uri: str, method: str = "GET", **headers: str) -> Answer | None:
    return ORIGINS.answer(method, host, uri, {name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize(
    "host", ["hub.example.org", "HUB.example.org.:8443", "192.0.2.1:8000", "jupyterhub-proxy:8000"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_xnats_link_leads_to_the_persons_origin_with_its_token(host: str, method: str) -> None:
    assert answer(host, LAB, method) == Answer(307, f"{JDOE}{LAB}")


@pytest.mark.parametrize(
    ("path", "name"),
    [("JDoe/s/", "JDoe"), ("j%2Edoe/s/", "j.doe"), ("a%2Fb", "a/b"), ("jdoe", "jdoe"), ("jdoe?token=1", "jdoe"),
     ("evil.example.com/s/", "evil.example.com"), ("%0D%0AX:1/s", "\r\nX:1"), ("%FF/s", "\ufffd")],
)  # fmt: skip
def test_a_link_leads_nowhere_else(path: str, name: str) -> None:
    found = answer("hub.example.org", f"/jupyterhub/user/{path}")
    assert found == Answer(307, f"https://{label(name)}.hub.example.org/jupyterhub/user/{path}")


@pytest.mark.parametrize(
    "uri",
    ["/", "/jupyterhub", "/jupyterhub/hub/home", "/jupyterhub/hub/user/jdoe/s/", "/jupyterhub/user",
     "/jupyterhub/user/", "/jupyterhub/user/?a", "//jupyterhub/user/jdoe/",
     "http://evil.example.com/jupyterhub/user/jdoe/", "*"],
)  # fmt: skip
def test_everything_else_at_the_hub_is_jupyterhubs(uri: str) -> None:
    for host in ("hub.example.org", "xhub.example.org", "example.org", "127.0.0.1:8081", "[::1]:8081", ""):
        assert answer(host, uri) is None


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("/", f"{HUB}/"),
        ("/jupyterhub/hub/home?x=1", f"{HUB}/jupyterhub/hub/home?x=1"),
        ("//evil.example.com/", f"{HUB}//evil.example.com/"),
        (LAB, f"{HUB}/jupyterhub/hub{LAB.removeprefix('/jupyterhub')}"),  # JupyterHub says why the server does not run
    ],
)
@pytest.mark.parametrize("host", ["jdoe.hub.example.org", "JDOE.hub.example.org.:443", "a.b.hub.example.org"])
def test_a_persons_origin_never_has_the_hubs_pages(host: str, uri: str, location: str) -> None:
    for headers in ({}, {"Sec_Fetch_Mode": "navigate"}):
        for method in ("GET", "HEAD"):
            assert answer(host, uri, method, **headers) == Answer(302, location)
    for method, headers in (
        ("POST", {}), ("OPTIONS", {}), ("GET", {"Sec_Fetch_Mode": "cors"}), ("GET", {"Upgrade": "websocket"}),
    ):  # fmt: skip
        found = answer(host, uri, method, **headers)
        assert found is not None
        assert (found.status, found.location) == (424 if uri == LAB else 404, "")


@pytest.mark.parametrize(
    ("origin", "refused"),
    [(HUB, False), ("", False), (JDOE, True), ("null", True), ("http://hub.example.org", True), (f"{HUB}:8443", True)],
)
@pytest.mark.parametrize("uri", ["/jupyterhub/hub/login", "/jupyterhub/hub/api/users/jdoe/tokens"])
def test_the_hub_takes_no_forms_of_other_origins(uri: str, origin: str, refused: bool) -> None:
    headers = {"Origin": origin} if origin else {}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        found = answer("hub.example.org", uri, method, **headers)
        assert (found is not None and found.status == 403) is refused
    for method in ("GET", "HEAD", "OPTIONS"):
        assert answer("hub.example.org", uri, method, **headers) is None


def test_a_service_worker_that_a_server_left_at_the_hub_is_replaced_by_one_that_ends() -> None:
    for uri in (LAB, "/jupyterhub/user/jdoe/gone/worker.js", "/jupyterhub/hub/worker.js"):
        found = answer("hub.example.org", uri, Service_Worker="script", Sec_Fetch_Mode="same-origin")
        assert found == Answer(200, worker=REMOVE_WORKER)
    found = answer("jdoe.hub.example.org", LAB, Service_Worker="script", Sec_Fetch_Mode="same-origin")
    assert found is not None
    assert found.status == 424  # there servers may have their own


def test_a_port_and_another_path_are_kept() -> None:
    origins = Origins("https://hub.localhost:8443", "/")
    assert origins.answer("GET", "hub.localhost:8443", "/user/jdoe/s/", {}) == Answer(
        307, "https://jdoe.hub.localhost:8443/user/jdoe/s/"
    )
    assert origins.answer("GET", "jdoe.hub.localhost:8443", "/user/jdoe/s/", {}) == Answer(
        302, "https://hub.localhost:8443/hub/user/jdoe/s/"
    )


def test_xnat_gets_a_path() -> None:
    assert path_of(f"{JDOE}/jupyterhub/user/jdoe/s/") == "/jupyterhub/user/jdoe/s/"
    assert path_of("/jupyterhub/user/j@d~/s/") == "/jupyterhub/user/j@d~/s/"


@pytest.mark.parametrize(
    ("cookies", "left"),
    [
        ("a=1; __Host-jupyterhub-hub-login=2|1:0", "a=1; __Host-jupyterhub-hub-login=2|1:0"),
        *[(f"a=1; {space}__Host-x=2; b=3", "a=1; b=3") for space in "\x85\xa0\x1c\x1f\x0b"],
        ("a=1;\t__Host-x=2", "a=1;\t__Host-x=2"),
        ("__Host-x\xa0=2", ""),
        ("=__Host-x=2", ""),
        ("=;;", ""),
    ],
)
def test_a_cookie_whose_name_python_would_strip_is_not_read(cookies: str, left: str) -> None:
    assert without_odd_cookies(cookies) == left
