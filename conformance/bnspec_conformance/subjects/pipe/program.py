"""A program on a pipe as a subject, in whatever language: one JSON object a line in, one a line out.

docs/protocol.md describes it for the program's author. Here is the other side: a program that hangs, dies, chatters or
answers nonsense becomes a `ProgramError` that says so, and the next case gets a fresh process.
"""

import contextlib
import hashlib
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bnspec_conformance.bounds.declared import Evaluation
from bnspec_conformance.cases.case import Case, Outcome
from bnspec_conformance.cases.codecs.codec import BadData, case_to_json, outcome_from_json
from bnspec_conformance.subjects.contract import NotSupported, ProgramError, Refused, SubjectError
from bnspec_conformance.subjects.pipe.hello import Declaration, declaration
from bnspec_conformance.subjects.pipe.process import Process

__all__ = ["PROTOCOL", "Program", "ProgramError"]

#: Version of the protocol; a program answers ``hello`` with the one it speaks.
PROTOCOL = 1
#: Seconds of a run that may go into waiting in vain, in deadlines; after that a program is taken for hung.
_PATIENCE = 6
#: After the first hang a case gets no longer than this many times the slowest answer so far, and than `_SHORT` seconds.
_SLOWER = 20
_SHORT = 1.0
_DEADLINE = 10.0
_KINDS = ("outcome", "unsupported", "refused", "error")


class Program:
    """A program and what it declared of itself.

    Parameters
    ----------
    name : str
        ``exec:`` and a command line, split as a shell does; relative to the current folder.
    trace : callable, optional
        Gets every line, with ``> `` before a request and ``< `` before an answer. By default they are appended to the
        file that the environment variable ``BNSPEC_PROGRAM_TRACE`` names, if any.
    command : sequence of str, optional
        The program and its arguments, in place of what the name says.
    deadline : float, optional
        Seconds it may take for an answer; by default 10, or as many as the environment variable
        ``BNSPEC_PROGRAM_DEADLINE`` says. Three times as much for the first, which comes after its own start.

    Attributes
    ----------
    deadline : float
        As above.

    Raises
    ------
    SubjectError
        If there is no such program, or if it does not introduce itself.
    """

    backend = None
    in_process = False

    def __init__(
        self,
        name: str,
        trace: Callable[[str], None] | None = None,
        *,
        command: Sequence[str] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.name = name
        self._trace = trace or _append_to_file
        self.deadline = _deadline() if deadline is None else deadline
        self._command = _command(name) if command is None else list(command)
        self._process: Process | None = None
        self._faults: dict[bytes, ProgramError] = {}  # by request: shrinking asks for the same case again and again
        self._hung_at = ""  # the first case that it did not answer in time
        self._lost = self._slowest = 0.0  # seconds
        try:
            self._declared = self._start()
        except ProgramError as error:
            raise SubjectError(f"{name}: {error}") from None
        self.scope = self._declared.scope
        self.arithmetic: Literal["float64", "twofold", "float32"] = self._declared.arithmetic
        self.evaluation: Evaluation = self._declared.evaluation
        self.bound: Literal["strict", "plain"] = self._declared.bound
        self.flushes: bool = self._declared.flushes
        self.examples: int = self._declared.examples
        self.dialect: str | None = self._declared.dialect

    @property
    def patience(self) -> float:
        """Seconds after which a case is not going to be answered: those for a start and an answer, and some more."""
        return self._first + 2 * self.deadline + 5

    @property
    def _first(self) -> float:
        """Seconds for the first answer."""
        return 3 * self.deadline

    def version(self) -> str:
        """Return the name and version that the program declared."""
        return f"{self._declared.name} {self._declared.version}".strip()

    def supports(self, case: Case) -> str | None:
        """Return the reason of the declared scope."""
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        """Have the program run a case.

        Raises
        ------
        NotSupported, Refused
            If that is its answer.
        ProgramError
            If it does not answer as the protocol says. The same case gets the same error without being asked again,
            and so does every case once `_PATIENCE` is used up.
        """
        request = {"op": "run", "case": case_to_json(case)}
        key = hashlib.sha256(json.dumps(request).encode()).digest()
        fault = self._faults.get(key)
        if fault is None and self._lost >= _PATIENCE * self.deadline:
            fault = ProgramError(
                f"the program is not asked again in this run: it gave no answer to {self._hung_at}, nor to others, "
                f"and {self._lost:.0f} s went into waiting",
                hung=True,
            )
        if fault is None:
            try:
                return self._answer(request, case)
            except ProgramError as error:  # kept without its frames, which hold on to this very object
                fault = self._faults[key] = ProgramError(str(error), hung=error.hung, answered=error.answered)
        raise ProgramError(str(fault), hung=fault.hung, answered=fault.answered)

    def close(self) -> None:
        """End the process; the next case starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.end(grace=0.5)

    def _answer(self, request: dict[str, Any], case: Case) -> Outcome:
        what = f"the case {case.describe()}"
        if self._process is None:
            self._start(f" when it was started again for {what}")
        short = max(_SHORT, _SLOWER * self._slowest)
        started = time.monotonic()
        answer = self._ask(request, min(self.deadline, short) if self._hung_at else self.deadline, what)
        self._slowest = max(self._slowest, time.monotonic() - started)
        kinds = [kind for kind in _KINDS if kind in answer]
        if len(kinds) != 1 or len(answer) != 1:
            raise self._wrong(f"answered with the keys {_names(answer)}; expected one of {_names(_KINDS)}", what)
        said = answer[kinds[0]]
        if kinds[0] == "outcome":
            try:
                outcome = outcome_from_json(said)
            except BadData as error:
                raise self._wrong(f"gave an outcome that cannot be read: {error}", what) from None
            if len(outcome.ranks) != len(case.ranks):
                raise self._wrong(f"gave {len(outcome.ranks)} ranks; expected {len(case.ranks)}", what)
            return outcome
        if not isinstance(said, str):
            raise self._wrong(f"gave {kinds[0]} {said!r:.60}; expected a string", what)
        if kinds[0] == "unsupported":
            raise NotSupported(said)
        if kinds[0] == "refused":
            raise Refused(said)
        text = f"the program reports an error of its own: {said}. Request: {what}.{self._quote()}"
        raise ProgramError(text, answered=True)

    def _start(self, when: str = "") -> Declaration:
        """Start the program and have it introduce itself."""
        try:
            self._process = Process(self._command, self._environment())
        except OSError as error:
            raise ProgramError(f"the program cannot be started: {error}") from error
        what = '{"op": "hello"}' + when
        answer = self._ask({"op": "hello", "protocol": PROTOCOL}, self._first, what)
        if "error" in answer:
            raise self._wrong(f"reports an error of its own: {answer['error']!r:.200}", what)
        try:
            return declaration(answer, PROTOCOL)
        except ValueError as error:
            raise self._wrong(str(error), what) from None

    def _environment(self) -> dict[str, str]:
        """Return the environment that the program is started in."""
        return dict(os.environ)

    def _ask(self, request: dict[str, Any], deadline: float, what: str) -> dict[str, Any]:
        assert self._process is not None
        line = json.dumps(request)
        self._trace(f"> {line}")
        try:
            answer = self._process.ask(line.encode("ascii"), deadline)
        except ProgramError as error:
            if error.hung:
                self._hung_at, self._lost = self._hung_at or what, self._lost + deadline
            raise self._wrong(str(error) + "; expected one line of JSON", what, hung=error.hung) from None
        except BaseException:  # interrupted: whatever comes now is no answer to the next request
            self._drop()
            raise
        text = answer.decode("utf-8", "replace")
        self._trace(f"< {text}")
        try:
            value = json.loads(answer, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:  # also what is not UTF-8
            raise self._wrong(f"answered {text!r:.100}, which is no JSON: {error}", what) from None
        if not isinstance(value, dict):
            raise self._wrong(f"answered {text!r:.100}; expected a JSON object", what)
        return value

    def _wrong(self, did: str, what: str, *, hung: bool = False) -> ProgramError:
        """Return the error for what it did; nothing more is asked of that process."""
        error = ProgramError(f"the program {did}. Request: {what}.{self._quote()}", hung=hung)
        self._drop()
        return error

    def _quote(self) -> str:
        said = self._process.stderr() if self._process is not None else ""
        return f" Its standard error ends: {said}" if said else ""

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


def _command(name: str) -> list[str]:
    if sys.platform == "win32":
        raise SubjectError(f"{name}: programs on a pipe need POSIX pipes; expected Linux, macOS or WSL.")
    try:
        words = shlex.split(name.removeprefix("exec:"))
    except ValueError as error:
        raise SubjectError(f"{name}: not a command line: {error}") from None
    if not words:
        raise SubjectError(f"{name!r} names no program; expected exec:PROGRAM, such as exec:./port.")
    found = shutil.which(words[0])
    if found is None:
        if os.sep not in words[0]:
            problem = f"it is not on PATH; write ./{words[0]} for one in this folder"
        elif not os.path.exists(words[0]):
            problem = "there is no such file"
        elif os.path.isdir(words[0]):
            problem = "that is a folder"
        else:
            problem = "it is not executable; `chmod +x` makes it so"
        raise SubjectError(f"{name}: {words[0]!r} cannot be run: {problem}.")
    return [os.path.abspath(found), *words[1:]]


def _deadline() -> float:
    text = os.environ.get("BNSPEC_PROGRAM_DEADLINE", "")
    with contextlib.suppress(ValueError):
        seconds = float(text) if text else _DEADLINE
        if 0 < seconds < math.inf:
            return seconds
    raise SubjectError(f"BNSPEC_PROGRAM_DEADLINE is {text!r}; expected seconds, a number > 0.")


def _append_to_file(line: str) -> None:
    path = os.environ.get("BNSPEC_PROGRAM_TRACE")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _names(keys: Any) -> str:
    return ", ".join(map(str, keys)) or "(none)"
