"""One of the processes of `Workers`: it takes tasks from a pipe and answers with records."""

import contextlib
import os
import pickle
import signal
import sys
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from bnspec_conformance.cases.case import Case
from bnspec_conformance.cases.codecs.argument_codec import CannotWrite, argument_to_json
from bnspec_conformance.run.jobs.one_check import run_check
from bnspec_conformance.run.restricted import only_profiles
from bnspec_conformance.subjects import Subject, find_subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.listeners import listening

__all__ = ["Settings", "Task", "serve"]


@dataclass(frozen=True)
class Settings:
    """Settings of the checks, as the command line of the run has them."""

    budget: Budget
    profiles: tuple[str, ...]
    deadline: float | None
    isolate: bool


@dataclass(frozen=True)
class Task:
    """One check on one subject, by the names that find them."""

    check: str
    asked: str
    without: tuple[str, ...] = ()


class _Teller:
    """Listener that tells the other end of the pipe which case is about to be run."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._drawn = pipe, None

    def argument(self, value: Any) -> None:
        """Keep the argument that a check begins with."""
        self._drawn = value

    def case(self, case: Case) -> None:
        """Tell the case, with the argument that replays it."""
        drawn = None
        with contextlib.suppress(CannotWrite):
            drawn = None if self._drawn is None else argument_to_json(self._drawn)
        self._pipe.send(("case", case.describe(), drawn))


def serve(pipe: Connection, settings: Settings) -> None:
    """Answer tasks until the pipe is closed. Signals from the keyboard are for the process that asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _be_silent()
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    subjects: dict[str, Subject] = {}
    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if task.asked not in subjects:
                subjects[task.asked] = _subject(task.asked, settings)
            with listening(_Teller(pipe)):
                answer: Any = run_check(task.check, subjects[task.asked], settings.budget, task.without)
        except Exception as error:
            answer = _carried(error)
        pipe.send(("done", answer))


def _subject(asked: str, settings: Settings) -> Subject:
    subject = find_subject(asked, deadline=settings.deadline, isolate=settings.isolate)
    return only_profiles(subject, settings.profiles) if settings.profiles else subject


def _carried(error: Exception) -> Exception:
    """Return an error with its traceback as a note, and as another error where it cannot be sent."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(ForkingPickler.dumps(error))
    except Exception:
        made = RuntimeError(f"{type(error).__name__}: {error}")
        made.add_note("".join(traceback.format_exception(error)))
        return made
    return error


def _be_silent() -> None:
    """Send what a subject prints nowhere, as pytest does in the process that asks."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
