"""The common documentation of the modules that manage rows in XNAT."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  state:
    description:
      - Whether the rows should exist. To remove a row, only its name is needed; for a constraint, its key and operator.
    type: str
    choices: [present, absent]
    default: present
notes:
  - Values of a row in XNAT that these options do not cover are left unchanged.
"""
