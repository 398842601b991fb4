#!/usr/bin/python
"""Manages XNAT's site configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: xnat_site_config
short_description: Manage settings of XNAT's site configuration
description:
  - Changes the given settings that differ, reads them back, and leaves all others alone.
  - A number equals the same number as text, since XNAT returns either.
options:
  settings:
    description: Values by XNAT's names, such as C(processingUrl). A name that XNAT does not know is an error.
    type: dict
    required: true
extends_documentation_fragment: [xnat]
"""
EXAMPLES = r"""
- name: Tell notebooks where XNAT is
  xnat_site_config:
    xnat: "{{ xnat }}"
    settings:
      processingUrl: https://xnat.example.org
      aliasTokenTimeout: 2 days
"""
RETURN = r"""
changes: {description: Names of the settings that differed., type: list, elements: str, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.xnat import ARGUMENTS
from ansible.module_utils.xnat_settings import keep


def main() -> None:
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, "settings": {"type": "dict", "required": True}}, supports_check_mode=True
    )
    keep(module, "/xapi/siteConfig", module.params["settings"])


if __name__ == "__main__":
    main()
