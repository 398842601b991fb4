"""How every XNAT module is told where XNAT is and who asks."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  xnat:
    description: Where XNAT is, and who asks.
    type: dict
    required: true
    suboptions:
      url: {description: XNAT as the host reaches it on which the module runs., type: str, required: true}
      username: {description: An administrator's login name., type: str, required: true}
      password: {description: Its password., type: str, required: true}
      session:
        description:
          - What M(xnat_session) returned. Without it the module logs in, and out at its end.
          - The credentials are used all the same when XNAT no longer knows the session, as after its restart.
        type: str
        default: ""
      ca_pem: {description: "All certificates to trust, as text. Empty for those of the host.", type: str, default: ""}
      client_certificate_pem: {description: "A client certificate and its key, as text.", type: str, default: ""}
      validate_certs: {description: Whether XNAT's certificate is looked at., type: bool, default: true}
      timeout: {description: Seconds for one call., type: float, default: 30}
      retry_for:
        description: Seconds for which a call that only reads is tried again when XNAT is not there.
        type: float
        default: 60
attributes:
  check_mode: {support: full, description: Predicts what would be changed.}
  diff_mode: {support: full, description: Shows values before and after; secrets are masked.}
"""
