"""Output of pytest under the console script: no dots and counts, failures in full."""

from typing import Any

import pytest

__all__: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show nothing for each check: the progress bar does."""
    if report.when == "call" or report.outcome == "skipped":
        return report.outcome, "", ""
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the violations, shortest text first, without pytest's traceback; of what broke otherwise, all of it."""
    stats = terminalreporter.stats
    for report in sorted(stats.get("failed", []) + stats.get("error", []), key=lambda r: len(str(r.longrepr))):
        found = [value for key, value in getattr(report, "user_properties", ()) if key == "bnspec"]
        text = found[0]["reason"] if found and found[0]["violation"] is not None else str(report.longrepr)
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{report.nodeid.rsplit('::', 1)[-1]}")
        terminalreporter.write_line(text)
