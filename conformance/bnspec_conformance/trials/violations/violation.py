"""Violations: an exception with the clauses that it breaks, and the collection of all that a check has seen."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnspec_conformance.bounds import ulps
from bnspec_conformance.cases.case import Case
from bnspec_conformance.cases.levels import level_of_case, lowest
from bnspec_conformance.subjects import Subject, asked_as
from bnspec_conformance.trials.script import script

__all__ = ["Found", "Violation", "declaration_text", "difference", "in_ulps", "told_by_ulps", "violation"]


class Violation(AssertionError):
    """A clause is broken; `details` holds what the report needs.

    Attributes
    ----------
    case : Case or None
        In which it was seen.
    output : str
        That is wrong; empty where it is no single one.
    """

    def __init__(self, text: str, details: dict[str, Any], case: Case | None = None, output: str = "") -> None:
        super().__init__(text)
        self.details, self.case, self.output = details, case, output

    @property
    def level_of_case(self) -> str:
        """The level of its case, A without one."""
        return str(self.details.get("case_level") or "A")

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses that it breaks."""
        return tuple(self.details.get("clauses", ()))

    @property
    def problem(self) -> str:
        """The fault, in one line."""
        return str(self.details.get("problem") or self).split("\n", 1)[0]


@dataclass
class Found:
    """Every violation that a check has seen, whatever became of it afterwards.

    A violation is kept when it is made. So it counts even if the exception that carries it is caught, a smaller case is
    declined, or the search breaks: a violation was seen, so the clause fails.

    Attributes
    ----------
    cited : tuple of str
        The clauses of the check.
    by_clause : dict of str to Violation
        One of each clause: the first of the last case; of a search, the smallest case.
    here : list of Violation
        The violations of the case at hand.
    lowest : dict of str to str
        By clause, the lowest level of all cases that were seen to break it.
    """

    cited: tuple[str, ...]
    by_clause: dict[str, Violation] = field(default_factory=dict)
    here: list[Violation] = field(default_factory=list)
    lowest: dict[str, str] = field(default_factory=dict)
    _gathering: int = 0

    def keep(self, violation: Violation) -> None:
        """Note a violation, and raise it if it breaks a clause of the check and nothing is being gathered."""
        __tracebackhide__ = True
        told = {clause for earlier in self.here for clause in earlier.clauses}  # of one case, the first one speaks
        self.here.append(violation)
        for clause in violation.clauses:
            self.seen_at(clause, violation.level_of_case)
            if clause not in told and (clause in self.cited or clause not in self.by_clause):
                self.by_clause[clause] = violation
        if not self._gathering and self.is_own(violation):
            raise violation

    def seen_at(self, clause: str, level: str) -> None:
        """Note that a case of a level breaks a clause."""
        self.lowest[clause] = lowest((self.lowest.get(clause, level), level))

    def is_own(self, violation: Violation) -> bool:
        """Return whether it breaks a clause of the check; a violation of other clauses ends no search."""
        return bool(set(violation.clauses) & set(self.cited))

    def own(self) -> Violation | None:
        """Return the first violation of the case at hand that breaks a clause of the check."""
        return next((v for v in self.here if self.is_own(v)), None)

    def begin(self) -> None:
        """Forget what belongs to the case before."""
        self.here = []
        self._gathering = 0

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Compare everything in the body before the first violation is raised."""
        __tracebackhide__ = True
        before = len(self.here)
        self._gathering += 1
        ended: Exception | None = None
        try:
            yield
        except Exception as error:
            ended = error
        finally:
            self._gathering -= 1
        first = next((v for v in self.here[before:] if self.is_own(v)), None)
        if first is not None and (not self._gathering or ended is not None):
            raise first from ended if ended is not first else None
        if ended is not None:
            raise ended

    def __iter__(self) -> Iterator[Violation]:
        """Return each violation once, those of the check's own clauses first."""
        seen: list[Violation] = []
        for clause in sorted(self.by_clause, key=lambda c: c not in self.cited):
            if self.by_clause[clause] not in seen:
                seen.append(self.by_clause[clause])
        return iter(seen)

    def __bool__(self) -> bool:
        return bool(self.by_clause)


def violation(
    subject: Subject, clauses: Sequence[str], problem: str, case: Case | None, *, output: str = "", **where: Any
) -> Violation:
    """Return a violation in words, with a script that shows it.

    Parameters
    ----------
    subject : Subject
    clauses : sequence of str
        The clauses that are broken.
    problem : str
        The fault.
    case : Case or None
    output : str
        That is wrong, if it is one.
    **where : Any
        Of a number that is off: what, rank, index, got, expected, error_ulp, bound_ulp, error and bound.
    """
    lines = [f"{' and '.join(clauses)}: {subject.name}: {problem}"]
    if case is not None:
        lines.append(f"  case      {case.describe()}")
    if "index" in where:
        lines += [
            f"  worst at  {list(where['index'])}",
            f"  got       {where['got']!r} ({where['got'].hex()})",
            f"  expected  {where['expected']!r} ({where['expected'].hex()})",
            f"  error     {difference(where)}",
        ]
    code = None if case is None else script(asked_as(subject), case, where.get("what", "y"), where.get("rank", 0))
    if code is not None:
        lines += ["  to reproduce it, run:", *("    " + line for line in code.splitlines())]
    details = {
        "clauses": list(clauses),
        "subject": subject.name,
        "problem": problem,
        "case": None if case is None else case.describe(),
        "case_level": level_of_case(case),
        "script": code,
        **where,
    }
    return Violation("\n".join(lines), details, case, output)


#: An error so many times as large as the reference: that is next to 0, and its units of the last place say nothing.
_FAR_ABOVE = 2.0**20

#: The same where the reference is not told, in units of the last place.
_MOST_ULPS = 2.0**52


def difference(where: Mapping[str, Any]) -> str:
    """Say an error and its bound in units of the last place, or as such where these mean nothing.

    Parameters
    ----------
    where : mapping
        The details of a violation.
    """
    if not told_by_ulps(where) and "error" in where:
        error, bound = float(where["error"]), float(where["bound"])
        return f"{error:.4g}, bound {bound:.4g} (absolute: expected is next to 0)"
    return f"{float(where['error_ulp']):.4g} ulp, bound {float(where['bound_ulp']):.4g} ulp"


def declaration_text(declaration: Mapping[str, Any]) -> str:
    """Return a declaration as a port would write it.

    Examples
    --------
    >>> print(declaration_text({"evaluation": {"y": "float32"}, "bound": "plain"}))
    evaluation = {'y': 'float32'} and bound = 'plain'
    """
    return " and ".join(f"{name} = {value!r}" for name, value in declaration.items())


def told_by_ulps(where: Mapping[str, Any]) -> bool:
    """Return whether units of the last place mean something: not next to 0, where they are too small for that.

    Parameters
    ----------
    where : mapping
        The details of a violation, or the worst error of a record as a mapping, which has no ``expected``.
    """
    off = float(where["error_ulp"])
    if "expected" in where and "error" in where:
        expected, error = abs(float(where["expected"])), float(where["error"])
        near_zero = expected == 0.0 or error > _FAR_ABOVE * expected
    else:
        near_zero = float(where.get("expected", 1.0)) == 0.0 or off > _MOST_ULPS
    return not (near_zero and np.isfinite(off))


def in_ulps(error: float, reference: float, dtype: Any) -> float:
    """Return an error in units of the last place of a dtype at the reference; of a count, the error itself."""
    if not np.issubdtype(dtype, np.inexact) and np.dtype(dtype).kind in "iub":  # a count: its unit is 1
        return abs(error)
    return float(ulps(error, reference, dtype)) if np.isfinite(error) and np.isfinite(reference) else float("inf")
