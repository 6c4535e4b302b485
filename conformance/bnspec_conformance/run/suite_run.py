"""One run under pytest: the checks on every subject, waivers, the records, and what is written at the end."""

import contextlib
import sys
import time
from collections.abc import Collection, Generator
from typing import Any

import pytest

from bnspec_conformance import report
from bnspec_conformance.cases.inputs.sizes import choice_of
from bnspec_conformance.report.json_document import plain, record_from_json
from bnspec_conformance.run.chosen.expected import Expected
from bnspec_conformance.run.chosen.selection import Selection
from bnspec_conformance.run.completeness import lacking
from bnspec_conformance.run.items import check_and_subject, clauses_of, record_of
from bnspec_conformance.run.jobs.one_check import run_check
from bnspec_conformance.run.jobs.work import Settings, Task
from bnspec_conformance.run.jobs.workers import Died, Workers, record_of_death
from bnspec_conformance.run.report_files import ReportFiles
from bnspec_conformance.run.reproduce import command_line
from bnspec_conformance.run.stop import current
from bnspec_conformance.run.verdict import Verdict
from bnspec_conformance.run.waivers.of_run import WaiversOfRun
from bnspec_conformance.run.waivers.settlement import Waivers
from bnspec_conformance.subjects import Subject, asked_as, version_of
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.listeners import listening
from bnspec_conformance.trials.record import Record

__all__ = ["SuiteRun"]


class SuiteRun:
    """The state of one run; its ``pytest_`` methods are pytest's hooks.

    Parameters
    ----------
    config : pytest.Config
    subjects : dict of str to Subject or str
        By the names they were asked by; a text is why one is missing.
    waivers : Waivers or None
    budget : Budget
        Of each check.
    selection : Selection
    expected : Expected, optional
        Failures that do not fail the run.
    """

    def __init__(
        self,
        config: pytest.Config,
        subjects: dict[str, Subject | str],
        waivers: Waivers | None,
        budget: Budget,
        selection: Selection,
        expected: Expected | None = None,
    ) -> None:
        self.config = config
        self.subjects = subjects
        self.waivers = None if waivers is None else WaiversOfRun(waivers, self.look)
        self.budget = budget
        self.selection = selection
        self.expected = expected
        self.workers: Workers | None = None
        self.records: list[Record] = []
        self.content: dict[str, Any] | None = None
        self.verdict = Verdict(config.getoption, self.present.values(), self.waivers, selection, expected)
        self.progress: report.Progress | None = None
        self.started = time.perf_counter()
        self.chosen: set[tuple[str, str]] = set()  # check and subject, of what pytest has collected
        self.written: ReportFiles | None = None

    @property
    def present(self) -> dict[str, Subject]:
        """The subjects that can be had, by the names they were asked by."""
        return {name: s for name, s in self.subjects.items() if not isinstance(s, str)}

    def pytest_report_header(self) -> list[str]:
        """Say what is tested, from where."""
        import bnspec

        have = [version_of(s) if not isinstance(s, str) else f"skipped: {s}" for s in self.subjects.values()]
        return [f"bnspec: {bnspec.__file__}", *(f"subject: {line}" for line in have)]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every check on every subject."""
        if not getattr(metafunc.function, "clauses", ()):
            return
        if not self.present:
            raise pytest.UsageError("no subject is installed: run `pip install -e .` first")
        metafunc.parametrize("subject", list(self.present.values()), ids=list(self.present), scope="session")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the checks that are not asked for."""
        chosen = self.selection.choose(items)
        if len(chosen) < len(items):
            config.hook.pytest_deselected(items=[i for i in items if i not in chosen])
            items[:] = chosen

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Start the progress bar, whose length is known now, and the processes that run the checks."""
        self.chosen = {check_and_subject(item) for item in session.items if clauses_of(item)}
        if self.config.getoption("--bnspec-table"):
            self.progress = report.Progress(len(session.items), sys.stdout)
        option: Any = self.config.getoption
        if self.chosen and not (option("--bnspec-silent") or hasattr(self.config, "workerinput")):
            self.written = ReportFiles(self.config.getoption, self._unfinished)
            self.written.update()
            stop = current()
            if stop is not None:
                stop.last = self._stuck
        jobs = int(option("--bnspec-jobs"))
        if self.chosen and jobs > 1:
            profiles, isolate = tuple(option("--bnspec-profile")), bool(option("--bnspec-isolate"))
            self.workers = Workers(jobs, Settings(self.budget, profiles, option("--bnspec-deadline"), isolate))
            asked = {s.name: asked_as(s) for s in self.present.values()}
            pairs = [check_and_subject(item) for item in session.items if clauses_of(item)]
            self.workers.submit(Task(check, asked[subject]) for check, subject in pairs)

    def look(self, check: str, subject: Subject, without: Collection[str] = ()) -> Record | None:
        """Run a check on a subject, without some dtypes; in a process of its own where the run has several.

        Returns
        -------
        Record or None
            None where no dtype is left.
        """
        if self.workers is None:
            return run_check(check, subject, self.budget, without)
        found = self.workers.result(check, asked_as(subject), without)
        return record_of_death(check, subject, found) if isinstance(found, Died) else found

    def pytest_unconfigure(self) -> None:
        """End the processes, whatever happened before."""
        if self.workers is not None:
            self.workers.close()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note what is running, and stop after it if a signal came that the subject kept to itself."""
        if self.written is None or not clauses_of(item):
            return (yield)
        check, subject = check_and_subject(item)
        self.written.live.begin(check, clauses_of(item), subject)
        stop = current()
        with listening(self.written.live), contextlib.nullcontext() if stop is None else listening(stop):
            result = yield
        self.written.live.done()
        if stop is not None and stop.name is not None:
            item.session.shouldstop = stop.name
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Keep what a check found, and let a waiver turn its failure into an expected one."""
        result: Any = yield
        result.user_properties = [p for p in result.user_properties if p[0] != "bnspec"]
        ids = clauses_of(item)
        if not ids or call.when == "teardown" or (call.when != "call" and result.outcome == "passed"):
            return result
        record = record_of(item, call, result)
        if record.outcome == "failed" and self.waivers is not None:
            record = self.waivers.settle(record, getattr(item, "funcargs", {})["subject"])
        if record.outcome == "waived":
            result.outcome, result.wasxfail = "skipped", f"waived: {(record.waiver or {})['reason']}"
        elif record.outcome == "failed" and not self.verdict.counts(record):
            result.outcome, result.wasxfail = "skipped", f"failed above level {self.verdict.level}"
        elif record.outcome == "failed" and self.expected is not None and self.expected.covers(record):
            result.outcome, result.wasxfail = "skipped", f"failed as in {self.expected.path}"
        # user_properties travel from pytest-xdist's workers to the process that reports.
        result.user_properties.append(("bnspec", plain(record.to_json())))
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect, here or in the process that gathers the workers' reports."""
        found: list[Any] = [value for key, value in report.user_properties if key == "bnspec"]
        for value in found:
            record = record_from_json(value)
            self.records.append(record)
            if self.progress is not None:
                self.progress.advance(record)
            if self.written is not None:
                self.written.update(record)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge the waivers and write the files; a stale waiver fails the run."""
        if hasattr(self.config, "workerinput"):
            return
        if self.progress is not None:
            self.progress.close()
        if self.workers is not None:
            self.workers.close()
        self.verdict.cut = _why(session)
        failed = self._judge()
        self.content = self._document()
        try:
            self.verdict.said += [] if self.written is None else self.written.finish(self.content, self.records)
        except OSError as error:
            self.verdict.said.append(f"cannot write {error.filename}: {error.strerror}")
            failed = True
        # Where nothing was left to run, the command says so itself.
        nothing = session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
        if failed and (session.exitstatus == pytest.ExitCode.OK or (nothing and self.records)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table, below the failures."""
        if self.content is not None and self.config.getoption("--bnspec-table"):
            report.table(self.content, sys.stdout, every=bool(self.config.getoption("--bnspec-all")))
        for line in [*self.verdict.notes, *self.verdict.said]:
            terminalreporter.write_line(line)

    def _judge(self) -> bool:
        running = None if self.written is None else self.written.live.running
        return self.verdict.judge(self.records, self.chosen, running)

    def _stuck(self, signal: str) -> None:
        """Write what there is, where compiled code does not let the main thread do so."""
        if self.workers is not None:
            self.workers.close()
        self.verdict.cut = f"{signal} came, and the case that is running did not let go"
        self._judge()
        if self.written is not None:
            self.written.finish(self._document(), self.records)
        stop = current()
        if stop is not None:
            stop.tell("\n".join(["", *self.verdict.notes]))

    def _unfinished(self) -> dict[str, Any]:
        """Return the report so far."""
        return self._document(["not finished: the run is still going on, or its process was ended from outside"])

    def _document(self, notes: Collection[str] = ()) -> dict[str, Any]:
        option: Any = self.config.getoption
        return report.document(
            self.records,
            self.present,
            seed=int(option("--bnspec-seed") or 0),
            max_examples=option("--max-examples"),
            sizes=choice_of(option("--bnspec-sizes")),
            seconds=time.perf_counter() - self.started,
            command=command_line(option, self.present),
            lacking=lacking(self.records, {s.name: s for s in self.present.values()}),
            notes=[*self.verdict.notes, *notes],
            interrupted=bool(notes) or self.verdict.cut is not None,
            running=self.written.live.running if self.written is not None and self.verdict.cut is not None else None,
            asked=self.selection.clauses() if option("--clause") else None,
            level=self.verdict.level,
            partial=self.selection.partial(),
        )


def _why(session: pytest.Session) -> str | None:
    """Return None, or why a run comes to its end before its time."""
    stop = current()
    if stop is not None and stop.name is not None:
        return f"{stop.name} ended the run"
    if session.exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR):
        return "the run was interrupted"
    return None
