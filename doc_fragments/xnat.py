"""The option of every XNAT module with XNAT's address and the account to use."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  xnat:
    description: XNAT's address and the account to use.
    type: dict
    required: true
    suboptions:
      url: {description: URL of XNAT as the module's host reaches it., type: str, required: true}
      username: {description: An administrator's login name., type: str, required: true}
      password: {description: The administrator's password., type: str, required: true}
      session:
        description:
          - The session that M(xnat_session) returned. Without it the module logs in and out itself.
          - If XNAT no longer has the session, for example after its restart, the credentials are used instead.
        type: str
        default: ""
      ca_pem: {description: "All certificates to trust, as text. Empty for the host's.", type: str, default: ""}
      client_certificate_pem: {description: "A client certificate and its key, as text.", type: str, default: ""}
      validate_certs: {description: Whether to validate XNAT's certificate., type: bool, default: true}
      timeout: {description: Seconds for one call., type: float, default: 30}
      retry_for:
        description: Seconds for which a read-only call is tried again while XNAT does not answer.
        type: float
        default: 60
attributes:
  check_mode: {support: full, description: Predicts the changes.}
  diff_mode: {support: full, description: Shows values before and after; secrets are masked.}
"""
