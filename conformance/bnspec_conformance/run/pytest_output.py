"""Output of pytest under the console script: no dots and counts, failures in full."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from bnspec_conformance.report.causes import causes, violations_of
from bnspec_conformance.trials.violations.violation import declaration_text, difference

__all__: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Show nothing for each check: the progress bar does."""
    if report.when == "call" or report.outcome == "skipped":
        return report.outcome, "", ""
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the violations without pytest's traceback, those of one cause together; of what broke otherwise, all."""
    stats, line = terminalreporter.stats, terminalreporter.write_line
    ids: dict[tuple[str, str], str] = {}
    records: list[dict[str, Any]] = []
    for report in sorted(stats.get("failed", []) + stats.get("error", []), key=lambda r: len(str(r.longrepr))):
        name = report.nodeid.rsplit("::", 1)[-1]
        found = [value for key, value in getattr(report, "user_properties", ()) if key == "bnspec"]
        if found and found[0]["violation"] is not None:
            ids[found[0]["check"], found[0]["subject"]] = name
            records.append(found[0])
        else:
            for text in ("", name, str(report.longrepr)):
                line(text)
    told = causes(records)
    for cause in told:
        first, *others = cause.checks
        for text in ("", ids[first["check"], first["subject"]], first["reason"]):
            line(text)
        if others:
            line("")
            line(f"  {len(others)} more of this cause ({cause.said}):")
            for check in others:
                line(f"    {ids[check['check'], check['subject']]}: {_in_a_line(check)}")
    if len(told) < len(records):
        line("")
        line(f"{len(records)} checks failed, for {len(told)} cause{'' if len(told) == 1 else 's'}")
    for hint, number in _hints(records).items():
        line(f"{number} of {len(records)} failures would pass in their cases with {hint}")


def _hints(records: list[dict[str, Any]]) -> Counter[str]:
    """Count the hints that are those of every violation of a check."""
    found: Counter[str] = Counter()
    for record in records:
        own = {declaration_text(v["would_pass_with"]) for v in violations_of(record) if "would_pass_with" in v}
        if len(own) == 1 and all("would_pass_with" in v for v in violations_of(record)):
            found[own.pop()] += 1
    return found


def _in_a_line(check: Mapping[str, Any]) -> str:
    """Return the violations of a check in one line: the clauses, how far off, and the case."""
    parts = []
    for violation in violations_of(check):
        said = " and ".join(violation["clauses"])
        said += f", {difference(violation)}" if "error_ulp" in violation else ""
        parts.append(said + (f", {violation['case']}" if violation.get("case") else ""))
    return "; ".join(parts)
