"""What a redirect of XNAT means; hub and modules each report it in their own words."""

from __future__ import annotations

import pytest
from xnat_wire.redirects import judge

CALL = "/xapi/users/jdoe/roles"


@pytest.mark.parametrize(
    ("base", "location", "kind", "target"),
    [
        ("http://xnat.example.org", "/setup", "setup", "http://xnat.example.org/setup"),
        ("http://xnat.example.org", "https://xnat.example.org/xnat/setup/", "setup", None),
        ("http://xnat.example.org", "http://xnat.example.org/app/template/Unconfigured.vm", "setup", None),
        ("http://xnat", "https://public/app/template/XDATScreen_UpdateUser.vm?a=1", "password", None),
        ("http://xnat", "/app/template/InactiveAccount.vm", "inactive", None),
        ("http://xnat", "/app/template/VerifyEmail.vm", "email", None),
        ("http://xnat", f"https://xnat{CALL}", "moved", "https://xnat"),
        ("http://xnat:80", f"https://xnat:443{CALL}/", "moved", "https://xnat"),
        ("https://xnat", f"http://xnat:8080{CALL}", "moved", "http://xnat:8080"),
        ("https://old.example.org", f"https://setup.example.org{CALL}", "moved", "https://setup.example.org"),
        ("https://xnat.example.org", f"/xnat{CALL}", "moved", "https://xnat.example.org/xnat"),
        ("https://xnat.example.org/xnat/", f"https://other{CALL}", "moved", "https://other"),
        ("http://[2001:db8::1]:8080", f"https://[2001:db8::2]{CALL}", "moved", "https://[2001:db8::2]"),
        ("http://xnat.example.org", "https://xnat.example.org/", "moved", "https://xnat.example.org"),
        ("https://xnat", "https://id.example.org/realms/x/protocol/openid-connect/auth?client_id=a", "sign-on",
         "https://id.example.org/realms/x/protocol/openid-connect/auth"),
        ("https://xnat", "https://user:secret@setup.example.org/", "sign-on", "https://setup.example.org/"),
        ("https://xnat", "/Shibboleth.sso/Login?target=x", "sign-on", "https://xnat/Shibboleth.sso/Login"),
        ("https://xnat", "/oauth2/authorization/google", "sign-on", None),
        ("https://xnat", "/saml2/authenticate", "sign-on", None),
        ("https://xnat", "/app/template/Login.vm", "sign-on", None),
        ("https://setup.example.org", "/app/template/Page.vm", "page", "https://setup.example.org/app/template/Page.vm"),
        ("https://xnat", "/cas/login", "sign-on", None),
        ("https://xnat", "/sso?x=1", "sign-on", None),
        ("https://xnat", "/app/cases", "page", None),
        ("https://xnat", CALL, "page", None),
        ("https://xnat/", f"https://xnat{CALL}", "page", None),
        ("https://xnat", "", "page", None),
        ("https://xnat", "https://[bad/", "page", None),
        ("https://xnat", "https://xnat:port/", "page", None),
    ],
)  # fmt: skip
def test_redirects_are_told_apart_by_where_they_lead(base: str, location: str, kind: str, target: str | None) -> None:
    redirect = judge(base, CALL, location)
    assert redirect.kind == kind
    assert target in (None, redirect.target)
    assert "secret" not in redirect.target
