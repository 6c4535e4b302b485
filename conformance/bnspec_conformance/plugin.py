"""The pytest plugin: options, the subjects each check runs on, and the result by clause.

A plugin rather than a conftest, so that ``pytest --pyargs bnspec_conformance`` and the console script have
the same options. Everything it says about a run is in `Record`; `bnspec_conformance.report` prints it.
"""

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Generator
from typing import Any

import pytest

from bnspec._clauses import clauses as specification_clauses
from bnspec_conformance import report
from bnspec_conformance.subjects import Subject, SubjectError, find_subject, known_subjects
from bnspec_conformance.trial import Budget, Violation

__all__ = ["Record"]

#: Subjects a plain run of pytest takes where they can be imported.
DEFAULT = ("numpy", "strict", "torch", "jax", "cupy")


@dataclasses.dataclass
class Record:
    """One check on one subject."""

    check: str
    clauses: tuple[str, ...]
    subject: str
    outcome: str  # "passed", "failed" or "not supported"
    seconds: float
    worst: float = 0.0  # largest error as a share of its bound
    reason: str = ""  # why it is not supported, or the failure's text
    details: dict[str, Any] | None = None  # of a violation


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; the console script passes the same ones."""
    group = parser.getgroup("bnspec", "conformance of batch normalization")
    group.addoption(
        "--subject",
        action="append",
        metavar="NAME",
        default=[],
        help="what to test: numpy, strict, torch, jax or module:attribute; may be repeated",
    )
    group.addoption(
        "--max-examples", type=int, default=None, metavar="N", help="cases per check (default: the subject's)"
    )
    group.addoption("--bnspec-seed", type=int, default=0, metavar="N", help="seed of all cases (default 0)")
    group.addoption(
        "--clause",
        action="append",
        metavar="ID",
        default=[],
        help="only checks of this clause or family, such as BN-RUN-3 or BN-RUN; may be repeated",
    )
    group.addoption("--bnspec-json", metavar="FILE", default=None, help="write the result by clause as JSON")
    group.addoption(
        "--bnspec-table", action="store_true", help="print the result by clause, with a progress bar on a terminal"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an unknown subject or clause at once, and keep Hypothesis out of the user's folder."""
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "bnspec-hypothesis"))
    examples = config.getoption("--max-examples")
    if examples is not None and examples < 1:
        raise pytest.UsageError(f"--max-examples is {examples}; expected a number >= 1.")
    for wanted in config.getoption("--clause") or []:
        if not any(matches(wanted, known) for known in specification_clauses()):
            raise pytest.UsageError(f"no clause {wanted!r}; `bnspec-conformance list` shows them.")
    subjects: dict[str, Subject | str] = {}
    asked = config.getoption("--subject")
    for name in asked or [n for n in DEFAULT if n in known_subjects()]:
        try:
            subjects[name] = find_subject(name)
        except SubjectError as error:
            if asked:  # asked for by name: no silent skip
                raise pytest.UsageError(str(error)) from error
            subjects[name] = str(error)
    config.pluginmanager.register(_Run(config, subjects), "bnspec-run")


@pytest.fixture(scope="session")
def budget(pytestconfig: pytest.Config) -> Budget:
    """How long to look."""
    return Budget(pytestconfig.getoption("--max-examples"), int(pytestconfig.getoption("--bnspec-seed") or 0))


def matches(wanted: str, clause: str) -> bool:
    """Whether a clause id, or the family it begins with, was meant."""
    return clause == wanted or clause.startswith(wanted.rstrip("-") + "-")


class _Run:
    """The state of one run."""

    def __init__(self, config: pytest.Config, subjects: dict[str, Subject | str]) -> None:
        self.config = config
        self.subjects = subjects
        self.records: list[Record] = []
        self.progress: report.Progress | None = None
        self.started = time.perf_counter()

    def pytest_report_header(self) -> list[str]:
        """Say what is tested, from where."""
        import bnspec

        have = [s.version() if not isinstance(s, str) else f"skipped: {s}" for s in self.subjects.values()]
        return [f"bnspec: {bnspec.__file__}", *(f"subject: {line}" for line in have)]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every check on every subject."""
        if not getattr(metafunc.function, "clauses", ()):
            return
        present = {name: s for name, s in self.subjects.items() if not isinstance(s, str)}
        if not present:
            raise pytest.UsageError("no subject is installed: run `pip install -e .` first")
        metafunc.parametrize("subject", list(present.values()), ids=list(present), scope="session")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the checks of other clauses."""
        wanted = config.getoption("--clause")
        if not wanted:
            return
        chosen = [i for i in items if any(matches(w, c) for w in wanted for c in _clauses_of(i))]
        config.hook.pytest_deselected(items=[i for i in items if i not in chosen])
        items[:] = chosen

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Start the progress bar, whose length is known now."""
        if self.config.getoption("--bnspec-table"):
            self.progress = report.Progress(len(session.items), sys.stdout)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Keep what a check found."""
        result: Any = yield
        ids = _clauses_of(item)
        if not ids or (call.when != "call" and result.outcome == "passed") or call.when == "teardown":
            return result
        reason, details = "", None
        if result.outcome == "skipped":
            reason = str(result.longrepr[2]).removeprefix("Skipped: ").removeprefix("not supported: ")
        elif result.outcome == "failed" and call.excinfo is not None:
            error = call.excinfo.value
            reason = str(error)
            details = error.details if isinstance(error, Violation) else None
        outcome = {"skipped": "not supported"}.get(result.outcome, result.outcome)
        callspec: Any = getattr(item, "callspec", None)
        subject = callspec.id.split("-")[0] if callspec is not None else ""
        found: list[Any] = [v for k, v in item.user_properties if k == "worst"]
        worst = max(found, default=0.0)
        # user_properties travel from pytest-xdist's workers to the process that reports.
        result.user_properties = [
            *(p for p in result.user_properties if p[0] != "bnspec"),
            (
                "bnspec",
                dataclasses.asdict(
                    Record(item.name, ids, subject, outcome, call.duration, float(worst), reason, details)
                ),
            ),
        ]
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect, here or in the process that gathers the workers' reports."""
        found: list[Any] = [value for key, value in report.user_properties if key == "bnspec"]
        for value in found:
            record = Record(**(value | {"clauses": tuple(value["clauses"])}))
            self.records.append(record)
            if self.progress is not None:
                self.progress.advance(record)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self) -> None:
        """Print the table, below the failures, and write the file."""
        if self.progress is not None:
            self.progress.close()
        seconds = time.perf_counter() - self.started
        if self.config.getoption("--bnspec-table"):
            report.table(self.records, sys.stdout, seconds)
        path = self.config.getoption("--bnspec-json")
        if path is not None:
            versions = [s if isinstance(s, str) else s.version() for s in self.subjects.values()]
            report.write_json(path, self.records, versions, int(self.config.getoption("--bnspec-seed") or 0), seconds)


def _clauses_of(item: pytest.Item) -> tuple[str, ...]:
    return tuple(getattr(getattr(item, "function", None), "clauses", ()))
