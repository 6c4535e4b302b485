"""What a check does with a subject: run cases, compare, and report a violation so that one can act on it.

A check is a function ``(t, drawn)`` of a `Trial`; `bnspec_conformance.explore` makes it a test that Hypothesis feeds.
"""

import collections
import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bnspec_conformance import underway
from bnspec_conformance._script import script
from bnspec_conformance.case import Array, Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.oracle import exact
from bnspec_conformance.reach import counts_of, reached
from bnspec_conformance.record import Worst
from bnspec_conformance.subjects import NotSupported, Subject, asked_as
from bnspec_conformance.subjects._process import ProgramError
from bnspec_conformance.tolerances import bounds, ulps, violations
from bnspec_conformance.watch import PATIENCE, TooLong, deadline
from bnspec_conformance.wellformed import complaint
from bnspec_conformance.worlds import ThreadWorld, World

__all__ = ["Budget", "NeverSupported", "NotSupported", "Trial", "Violation", "must_be_refused"]

_STATISTICS = ("mean", "var", "mean_dot", "var_dot", "state")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to look.

    Attributes
    ----------
    examples : int or None
        Cases per check; None is the subject's own number.
    seed : int
        What they are drawn from.
    shrink : bool
        Whether to look for the smallest case that fails, rather than the first.
    deadline : float
        Seconds that the subject may take for one case.
    """

    examples: int | None = None
    seed: int = 0
    shrink: bool = True
    deadline: float = PATIENCE


class NeverSupported(NotSupported):
    """No case of a check can be run; there is no point in drawing another."""


class Violation(AssertionError):
    """A clause is broken; `details` holds what the report needs."""

    def __init__(self, text: str, details: dict[str, Any]) -> None:
        super().__init__(text)
        self.details = details


@dataclasses.dataclass
class Trial:
    """One subject under the clauses of one check, and what came of it so far.

    Attributes
    ----------
    worst : Worst or None
        The largest error as a share of its bound.
    cases : int
        Cases that were run.
    compared : int
        Arrays with elements that were compared.
    informative : bool
        Whether what was expected in them had more than one value.
    reached : Counter
        How many cases had each of `reach.FEATURES`.
    """

    subject: Subject
    clauses: tuple[str, ...]
    budget: Budget = Budget()
    worst: Worst | None = None
    cases: int = 0
    compared: int = 0
    informative: bool = False
    _value: float | None = None
    reached: "collections.Counter[str]" = dataclasses.field(default_factory=collections.Counter)

    @property
    def examples(self) -> int:
        """How many examples a check is given that asks for its full share."""
        return self.budget.examples or self.subject.examples

    @property
    def limit(self) -> float:
        """Seconds for one case. A subject that keeps a deadline of its own gets time to find that it was missed."""
        own: float | None = getattr(self.subject, "patience", None)
        return self.budget.deadline if own is None else own

    def run(self, case: Case) -> Outcome:
        """Run a case that the specification allows, less the derivatives and the state that are out of scope."""
        __tracebackhide__ = True
        case = self.subject.scope.fit(case)
        reason = self._reason(case)
        if reason is not None:
            raise NotSupported(reason)
        self.cases += 1
        self.reached.update(reached(case))
        underway.case(case)
        given = [(name, array, array.copy()) for name, array in _arrays(case)]
        try:
            with warnings.catch_warnings(), deadline(self.limit):  # a subject may warn; only its results count
                warnings.simplefilter("ignore")
                outcome = self.subject.run(case)
        except NotSupported:
            raise
        except TooLong as error:
            raise self._violation(str(error), case) from error
        except (Exception, SystemExit) as error:
            raise self._violation(f"raised {type(error).__name__}: {error}", case) from error
        for name, array, before in given:
            if array.tobytes() != before.tobytes():
                array[...] = before
                raise self._violation(f"wrote to the array {name} that it was given [BN-SHAPE-3]", case)
        problem = complaint(outcome, case, self.subject.scope, [array for _, array, _ in given])
        if problem is not None:
            raise self._violation(problem, case)
        return outcome

    def fit(self, case: Case) -> Case:
        """The case without the derivatives and the state that are out of scope, as `run` runs it."""
        return self.subject.scope.fit(case)

    def takes(self, case: Case) -> bool:
        """Whether a case is in scope, derivatives and state aside."""
        return self._reason(self.fit(case)) is None

    def inside(self, cases: Iterable[Case]) -> list[Case]:
        """Those of some cases that are in scope.

        Raises
        ------
        NotSupported
            If that is none.
        """
        given = list(cases)
        found = [case for case in given if self.takes(case)]
        if not found:
            raise NotSupported(self._reason(self.subject.scope.fit(given[0])) or "no case is in its scope")
        return found

    def _reason(self, case: Case) -> str | None:
        """None, or why a case cannot be run."""
        outside = self.subject.scope.reason(case) if self.subject.scope.declared else None
        if outside is not None:
            return outside
        if must_be_refused(case) and self.subject.backend is None:
            return "it is to refuse one value per channel"
        try:
            reason = self.subject.supports(case)
        except Exception as error:
            raise self._violation(f"supports() raised {type(error).__name__}: {error}", case) from error
        return None if reason is None else str(reason)

    def bounds(self, case: Case, reference: Outcome, *, strict: bool = False) -> Outcome:
        """How far this subject's results may lie from the reference; `strict` overrules what it declares."""
        plain = self.subject.bound == "plain" and not strict
        return bounds(case, reference, self.subject.arithmetic, self.subject.flushes, plain=plain)

    def agree(
        self,
        case: Case,
        *fields: str,
        outcome: Outcome | None = None,
        reference: Outcome | None = None,
        strict: bool = False,
    ) -> Outcome:
        """Compare the named fields of the outcome with the exact answer, each within its computed bound."""
        __tracebackhide__ = True
        case = self.subject.scope.fit(case)
        outcome = self.run(case) if outcome is None else outcome
        reference = exact(case) if reference is None else reference
        allowed = self.bounds(case, reference, strict=strict)
        looked = False
        for rank, (got, want, bound) in enumerate(zip(outcome.ranks, reference.ranks, allowed.ranks, strict=True)):
            for field in fields:
                looked |= self._field(case, rank, field, got, want, bound)
        if not looked:
            raise NotSupported(f"it returns no {' or '.join(fields)} here")
        return outcome

    def _field(
        self, case: Case, rank: int, field: str, got: RankOutcome, want: RankOutcome, bound: RankOutcome
    ) -> bool:
        """Compare one field; whether there was anything to compare."""
        __tracebackhide__ = True
        values, references, limits = (getattr(o, field) for o in (got, want, bound))
        if references is None or limits is None:
            return False
        if values is None:
            if self.subject.scope.declared:  # what it owes is there, so this is not declared
                return False
            raise NotSupported(f"it returns no {field}")
        if field != "state":
            values, references, limits = {field: values}, {field: references}, {field: limits}
        for name, reference in references.items():
            value = values.get(name)
            if value is None:
                raise self._violation(f"returned no {name}", case)
            what = f"state.{name}" if field == "state" else name
            self.within(value, reference, limits[name], what, case, rank=rank, statistic=field in _STATISTICS)
        return True

    def within(
        self, got: Array, want: Array, bound: Array, what: str, case: Case, *, rank: int = 0, statistic: bool = False
    ) -> None:
        """Compare one array with a reference elementwise."""
        __tracebackhide__ = True
        if got.shape != want.shape:
            raise self._violation(f"{what} has shape {got.shape}, expected {want.shape}", case)
        if np.issubdtype(got.dtype, np.integer):  # a count is right or wrong
            self.same(got, want.astype(got.dtype), what, case)
            return
        bound = np.broadcast_to(np.asarray(bound, dtype=np.float64), want.shape)
        wrong = violations(got, want, bound, got.dtype, any_nonfinite=statistic)
        with np.errstate(all="ignore"):
            error = np.abs(as_float64(got) - want)
            share = np.where(np.isfinite(error) & (bound > 0), error / np.where(bound > 0, bound, 1), 0.0)
        self._note(want)
        if not np.any(wrong):
            if share.size and (self.worst is None or float(np.max(share)) > self.worst.share):
                at = tuple(int(i) for i in np.unravel_index(int(np.argmax(share)), share.shape))
                off, allowed = (_in_ulps(float(v[at]), float(want[at]), got.dtype) for v in (error, bound))
                self.worst = Worst(float(share[at]), off, allowed, what, case.describe())
            return
        rank_of = np.where(wrong, np.where(np.isfinite(error), share, np.inf), -1.0)
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(rank_of)), wrong.shape))
        here = float(as_float64(got)[index]), float(want[index]), float(bound[index])
        raise self._violation(
            f"{what} is off" + (f" on rank {rank}" if len(case.ranks) > 1 else ""),
            case,
            what=what,
            rank=rank,
            index=index,
            got=here[0],
            expected=here[1],
            error_ulp=_in_ulps(here[0] - here[1], here[1], got.dtype),
            bound_ulp=_in_ulps(here[2], here[1], got.dtype),
        )

    def same(self, got: Any, want: Any, what: str, case: Case | None) -> None:
        """Require two results to be equal to the bit; NaN equals NaN, and the sign of zero is not compared."""
        __tracebackhide__ = True
        if got is None or want is None:
            self.require(got is None and want is None, f"{what} is there in only one of two results", case)
            return
        if isinstance(got, dict):
            self.require(set(got) == set(want), f"{what} has {sorted(got)} and {sorted(want)}", case)
            for key in got:
                self.same(got[key], want[key], f"{what}.{key}", case)
            return
        self.require(
            got.shape == want.shape and got.dtype == want.dtype,
            f"{what} is {got.dtype}{got.shape} and {want.dtype}{want.shape}",
            case,
        )
        self._note(want)
        a, b = as_float64(got), as_float64(want)
        differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        if not np.any(differs):
            return
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(differs)), differs.shape))
        error = _in_ulps(float(a[index] - b[index]), float(b[index]), got.dtype)
        raise self._violation(
            f"{what} is not the same to the bit",
            case,
            what=what,
            rank=0,
            index=index,
            got=float(a[index]),
            expected=float(b[index]),
            error_ulp=error,
            bound_ulp=0.0,
        )

    def require(self, condition: bool, otherwise: str, case: Case | None = None) -> None:
        """Require a plain fact."""
        __tracebackhide__ = True
        if not condition:
            raise self._violation(otherwise, case)

    def refuses(
        self, call: Callable[[], Any], kinds: type[Exception] | tuple[type[Exception], ...], clause: str
    ) -> str:
        """Require a refusal that names its clause; return its text."""
        __tracebackhide__ = True
        try:
            call()
        except kinds as error:
            text = str(error)
            self.require(f"[{clause}]" in text and "; expected " in text, f"the refusal does not name {clause}: {text}")
            return text
        except Exception as error:
            raise self._violation(f"refused with {type(error).__name__} instead of {kinds}: {error}", None) from error
        raise self._violation(f"did not refuse what {clause} forbids", None)

    def rejects(self, case: Case, kinds: type[Exception] | tuple[type[Exception], ...], clause: str) -> str:
        """Require that the subject refuses a case; ours in the specification's form, others in their own words."""
        __tracebackhide__ = True
        case = self.subject.scope.fit(case)
        reason = self.subject.scope.reason(case) if self.subject.scope.declared else None
        reason = self.subject.supports(case) if reason is None else reason
        if reason is not None:
            raise NotSupported(str(reason))
        if self.subject.backend is not None:
            return self.refuses(lambda: self.subject.run(case), kinds, clause)
        self.cases += 1
        self.reached.update(reached(case))
        underway.case(case)
        try:
            with warnings.catch_warnings(), deadline(self.limit):
                warnings.simplefilter("ignore")
                self.subject.run(case)
        except NotSupported:
            raise
        except TooLong as error:
            raise self._violation(str(error), case) from error
        except (ProgramError, NotImplementedError) as error:  # a crash refuses nothing
            raise self._violation(f"raised {type(error).__name__}: {error}", case) from error
        except Exception as error:
            return str(error)
        raise self._violation(f"did not refuse what {clause} forbids", case)

    def absorb(self, other: "Trial") -> None:
        """Count what another trial of the same check found as one's own."""
        self.cases += other.cases
        self.compared += other.compared
        self.informative |= other.informative
        self.reached.update(other.reached)
        if other.worst is not None and (self.worst is None or other.worst.share > self.worst.share):
            self.worst = other.worst

    def broken(self, problem: str) -> Violation:
        """A violation that no case shows."""
        return self._violation(problem, None)

    def _note(self, expected: Any) -> None:
        """Count a comparison, and whether all of them together could have told anything."""
        values = as_float64(expected).ravel()
        self.compared += bool(values.size)
        if values.size and not self.informative:
            self._value = float(values[0]) if self._value is None else self._value
            self.informative = bool(np.any(values != self._value))

    def needs_backend(self) -> Any:
        """bnspec's backend of this subject, for clauses about bnspec's own layers."""
        if self.subject.backend is None:
            raise NeverSupported("only bnspec's own backends have its layers")
        return self.subject.backend

    def needs_ranks(self, size: int) -> World:
        """Where ranks of bnspec run, for clauses about their messages."""
        self.needs_backend()
        world: World = getattr(self.subject, "world", None) or ThreadWorld()
        if world.size < size:
            raise NeverSupported(f"it runs at most {world.size} ranks")
        return world

    def _violation(self, problem: str, case: Case | None, **where: Any) -> Violation:
        lines = [f"{' and '.join(self.clauses)}: {self.subject.name}: {problem}"]
        if case is not None:
            lines.append(f"  case      {case.describe()}")
        if where:
            lines += [
                f"  worst at  {list(where['index'])}",
                f"  got       {where['got']!r} ({where['got'].hex()})",
                f"  expected  {where['expected']!r} ({where['expected'].hex()})",
                f"  error     {where['error_ulp']:.4g} ulp, bound {where['bound_ulp']:.4g} ulp",
            ]
        code = (
            None if case is None else script(asked_as(self.subject), case, where.get("what", "y"), where.get("rank", 0))
        )
        if code is not None:
            lines += ["  to reproduce it, run:", *("    " + line for line in code.splitlines())]
        details = {
            "clauses": list(self.clauses),
            "subject": self.subject.name,
            "problem": problem,
            "case": None if case is None else case.describe(),
            "script": code,
            **where,
        }
        return Violation("\n".join(lines), details)


def must_be_refused(case: Case) -> bool:
    """Whether BN-RUN-4 wants an error: one value per channel in a group that feeds the state."""
    config = case.config
    feeds = case.state is not None and case.update and case.mode == "batch" and config.correction == 1
    return feeds and config.single_value == "raise" and 1 in counts_of(case)


def _arrays(case: Case) -> list[tuple[str, Array]]:
    """Every array of a case, by name."""
    found: list[tuple[str, Any]] = [(n, getattr(case, n)) for n in ("gamma", "beta", "gamma_dot", "beta_dot")]
    found += [(f"state.{k}", v) for k, v in (case.state or {}).items()]
    for rank in case.ranks:
        found += [(f.name, getattr(rank, f.name)) for f in dataclasses.fields(rank)]
    for name in ("dmean", "dvar"):
        found += [(name, v) for v in getattr(case, name) or ()]
    return [(name, array) for name, array in found if array is not None]


def _in_ulps(error: float, reference: float, dtype: Any) -> float:
    if not np.issubdtype(dtype, np.inexact) and np.dtype(dtype).kind in "iub":  # a count: its unit is 1
        return abs(error)
    return float(ulps(error, reference, dtype)) if np.isfinite(error) and np.isfinite(reference) else float("inf")
