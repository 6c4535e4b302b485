"""Processes that run the checks of a run side by side. One that dies fails its check, and the others go on."""

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from bnspec_conformance.run.engine import all_checks
from bnspec_conformance.run.jobs.work import Settings, Task, serve
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.record import Record

__all__ = ["Died", "Workers", "record_of_death"]

#: Seconds for a process that has closed its pipe to be gone.
_GONE = 10.0


@dataclass(frozen=True)
class Died:
    """End of a process in the middle of a check.

    Attributes
    ----------
    how : str
        The signal or the exit status.
    case : str or None
        The case that was running, in words.
    drawn : object
        The argument of the check, as JSON; None where there is none or it cannot be written.
    seconds : float
        Since the check began.
    """

    how: str
    case: str | None
    drawn: Any
    seconds: float


@dataclass(eq=False)
class _Process:
    """A process and the pipe to it."""

    settings: Settings
    connection: Connection = field(init=False)
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads of this process
        self.connection, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, self.settings), daemon=False)
        self.process.start()
        there.close()

    def ask(self, task: Task) -> Any:
        """Return what the process answers: a record, an exception that the check raised, or `Died`."""
        case, drawn, began = None, None, time.perf_counter()
        try:
            self.connection.send(task)
            while True:
                kind, *said = self.connection.recv()
                if kind == "done":
                    return said[0]
                case, drawn = said
        except (EOFError, OSError):
            self.process.join(_GONE)
            return Died(_how(self.process.exitcode), case, drawn, time.perf_counter() - began)

    def end(self) -> None:
        """End the process; a check that it runs is lost."""
        self.process.kill()
        self.connection.close()


class Workers:
    """A fixed number of processes, each with subjects of its own.

    Parameters
    ----------
    jobs : int
        Processes.
    settings : Settings
        Of the run, so that each runs checks as this process would.
    """

    def __init__(self, jobs: int, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[tuple[Task, Future[Any]]] = deque()
        self._results: dict[Task, Future[Any]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._processes: set[_Process] = set()
        self._threads = [threading.Thread(target=self._feed, daemon=True, name="bnspec-jobs") for _ in range(jobs)]
        for thread in self._threads:
            thread.start()

    def submit(self, tasks: Iterable[Task]) -> None:
        """Add tasks at the end; they are begun in this order."""
        with self._changed:
            for task in tasks:
                self._results[task] = Future()
                self._queue.append((task, self._results[task]))
            self._changed.notify_all()

    def result(self, check: str, asked: str, without: Collection[str] = ()) -> Record | Died | None:
        """Return the result of a check, which is begun now if it was not submitted; what it raised is raised."""
        task = Task(check, asked, tuple(sorted(without)))
        if task not in self._results:
            with self._changed:
                self._results[task] = Future()
                self._queue.appendleft((task, self._results[task]))
                self._changed.notify_all()
        found = self._results.pop(task).result()
        if isinstance(found, BaseException):
            raise found
        made: Record | Died | None = found
        return made

    def close(self) -> None:
        """End every process, also in the middle of a check."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            for process in self._processes:
                process.process.kill()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_GONE)

    def _feed(self) -> None:
        """Hand one process its tasks, and start another one after it has died."""
        mine: _Process | None = None
        while (taken := self._take()) is not None:
            task, future = taken
            try:
                if mine is None:
                    mine = self._start()
                answer = mine.ask(task)
            except BaseException as error:
                future.set_result(error)
                continue
            if isinstance(answer, Died):
                self._forget(mine)
                mine = None
            future.set_result(answer)
        if mine is not None:
            self._forget(mine)

    def _take(self) -> tuple[Task, "Future[Any]"] | None:
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            return None if self._closed else self._queue.popleft()

    def _start(self) -> _Process:
        made = _Process(self._settings)
        with self._changed:
            self._processes.add(made)
            if self._closed:
                made.process.kill()
        return made

    def _forget(self, process: _Process) -> None:
        with self._changed:
            self._processes.discard(process)
        process.end()


def record_of_death(check: str, subject: Subject, died: Died) -> Record:
    """Return the record of a check in which its process died: it failed, at the case that was running."""
    named = all_checks()[check].clauses
    clauses = tuple(clause for clause in named if subject.scope.lacks(clause) is None) or named
    problem = f"the process that ran the check ended: {died.how}"
    violation = {"clauses": list(clauses), "subject": subject.name, "problem": problem, "case": died.case}
    where = "" if died.case is None else f"\n  case      {died.case}"
    reason = f"{' and '.join(clauses)}: {subject.name}: {problem}{where}"
    return Record(
        check, clauses, subject.name, "failed", died.seconds, reason=reason, violation=violation | {"drawn": died.drawn}
    )


def _how(status: int | None) -> str:
    if status is None:
        return "it closed its pipe"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
