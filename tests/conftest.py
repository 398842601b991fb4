"""For all tests: modules find module_utils as on a host, and failures are kept, because `make test` runs long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[1]
FAILURES = ROOT / ".cache/failures.txt"

ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add each failure of this run to the file that the Makefile prints last."""
    reports = [*terminalreporter.stats.get("failed", ()), *terminalreporter.stats.get("error", ())]
    if reports:
        FAILURES.parent.mkdir(exist_ok=True)
        with FAILURES.open("a", encoding="utf-8") as file:
            file.writelines(f"FAILED {report.nodeid}\n{report.longreprtext[-600:]}\n" for report in reports)
