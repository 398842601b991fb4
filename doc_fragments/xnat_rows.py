"""What the modules have in common that keep rows of XNAT's."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  state:
    description:
      - Whether the rows are to be there. To be removed, a row needs its name only; that of a constraint is its key and
        operator.
    type: str
    choices: [present, absent]
    default: present
notes:
  - What XNAT keeps for a row besides these options is left as it is.
"""
