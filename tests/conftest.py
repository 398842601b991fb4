"""What failed is kept in a file, since the tests of a scenario end long before `make test` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FAILURES = Path(__file__).parents[1] / ".cache/failures.txt"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add each failure of this run to the file that the Makefile prints last."""
    reports = [*terminalreporter.stats.get("failed", ()), *terminalreporter.stats.get("error", ())]
    if reports:
        FAILURES.parent.mkdir(exist_ok=True)
        with FAILURES.open("a", encoding="utf-8") as file:
            file.writelines(f"FAILED {report.nodeid}\n{report.longreprtext[-600:]}\n" for report in reports)
