"""What a check does with a subject: run cases, compare, and report a violation so that one can act on it.

A check is a function ``(t, drawn)`` of a `Trial`; `clauses` names what it proves and `explore` makes it a pytest
test that Hypothesis feeds.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy

from bnspec_conformance._script import script
from bnspec_conformance.case import Array, Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import Subject
from bnspec_conformance.tolerances import bounds, ulps, violations

__all__ = ["Budget", "NotSupported", "SLOW_OR_LARGE", "Trial", "Violation", "clauses", "explore", "search_settings"]

#: Exact arithmetic takes its time, and a case has many parts; both are known.
SLOW_OR_LARGE = (
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.data_too_large,
    hypothesis.HealthCheck.large_base_example,
    hypothesis.HealthCheck.filter_too_much,
)
_STATISTICS = ("mean", "var", "mean_dot", "var_dot", "state")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to look: examples per check (None: the subject's own number) and the seed they come from."""

    examples: int | None
    seed: int


class NotSupported(Exception):
    """The subject declares that it cannot run a case."""


class Violation(AssertionError):
    """A clause is broken; `details` holds what the report needs."""

    def __init__(self, text: str, details: dict[str, Any]) -> None:
        super().__init__(text)
        self.details = details


@dataclasses.dataclass
class Trial:
    """One subject under the clauses of one check."""

    subject: Subject
    clauses: tuple[str, ...]
    worst: float = 0.0  # largest error seen, as a share of its bound
    budget: Budget = Budget(None, 0)

    @property
    def examples(self) -> int:
        """How many examples a check is given that asks for its full share."""
        return self.budget.examples or self.subject.examples

    def run(self, case: Case) -> Outcome:
        """Run a case that the specification allows."""
        __tracebackhide__ = True
        reason = self.subject.supports(case)
        if reason is not None:
            raise NotSupported(reason)
        try:
            with warnings.catch_warnings():  # a subject may warn; only its results count
                warnings.simplefilter("ignore")
                return self.subject.run(case)
        except NotSupported:
            raise
        except Exception as error:
            raise self._violation(f"raised {type(error).__name__}: {error}", case) from error

    def agree(
        self, case: Case, *fields: str, outcome: Outcome | None = None, reference: Outcome | None = None
    ) -> Outcome:
        """Compare the named fields of the outcome with the exact answer, each within its computed bound."""
        __tracebackhide__ = True
        outcome = self.run(case) if outcome is None else outcome
        reference = exact(case) if reference is None else reference
        allowed = bounds(case, reference, self.subject.arithmetic, self.subject.flushes)
        for rank, (got, want, bound) in enumerate(zip(outcome.ranks, reference.ranks, allowed.ranks, strict=True)):
            for field in fields:
                self._field(case, rank, field, got, want, bound)
        return outcome

    def _field(
        self, case: Case, rank: int, field: str, got: RankOutcome, want: RankOutcome, bound: RankOutcome
    ) -> None:
        __tracebackhide__ = True
        values, references, limits = (getattr(o, field) for o in (got, want, bound))
        if references is None:
            return
        if values is None:
            raise NotSupported(f"it returns no {field}")
        if field != "state":
            values, references, limits = {field: values}, {field: references}, {field: limits}
        for name, reference in references.items():
            value = values.get(name)
            if value is None:
                raise self._violation(f"returned no {name}", case)
            what = f"state.{name}" if field == "state" else name
            self.within(value, reference, limits[name], what, case, rank=rank, statistic=field in _STATISTICS)

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
        if not np.any(wrong):
            self.worst = max(self.worst, float(np.max(share, initial=0.0)))
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

    def needs_backend(self) -> Any:
        """bnspec's backend of this subject, for clauses about bnspec's own layers."""
        if self.subject.backend is None:
            raise NotSupported("only bnspec's own backends have its layers")
        return self.subject.backend

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
        code = None if case is None else script(self.subject.name, case, where.get("what", "y"), where.get("rank", 0))
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


def clauses(*ids: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name the clauses that a check proves; every clause of SPEC.md is named by at least one."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        test.clauses = ids  # type: ignore[attr-defined]
        return test

    return decorate


def explore(
    strategy: Callable[[Subject], SearchStrategy[Any]] | None = None, *, share: float = 1.0
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a check into a test over what the strategy draws for the subject.

    Parameters
    ----------
    strategy : callable or None
        Takes the subject. Without one the check runs once, as ``check(t)``.
    share : float
        Of the subject's number of examples; below 1 for expensive checks.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(check)
        def test(subject: Subject, budget: Budget, request: pytest.FixtureRequest) -> None:
            trial = Trial(subject, test.clauses, budget=budget)  # type: ignore[attr-defined]
            try:
                if strategy is None:
                    check(trial)
                else:
                    examples = max(2, round(share * trial.examples))
                    _search(check, trial, strategy(subject), examples, budget.seed)
            except NotSupported as reason:
                pytest.skip(f"not supported: {reason}")
            finally:
                request.node.user_properties.append(("worst", trial.worst))

        del test.__wrapped__  # pytest would ask for the check's own arguments as fixtures
        return test

    return decorate


def search_settings(examples: int, **more: Any) -> hypothesis.settings:
    """How Hypothesis searches here: nothing kept between runs, no clock, one minimal failure."""
    return hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=SLOW_OR_LARGE,
        **more,
    )


def _search(check: Callable[..., None], trial: Trial, strategy: Any, examples: int, seed: int) -> None:
    __tracebackhide__ = True
    reasons: list[str] = []
    ran = False

    @hypothesis.seed(seed)
    @search_settings(examples)
    @hypothesis.given(strategy)
    def one(drawn: Any) -> None:
        nonlocal ran
        if not ran and len(reasons) >= examples:  # it will not be supported the next time either
            hypothesis.reject()
        try:
            check(trial, drawn)
            ran = True
        except NotSupported as reason:
            reasons.append(str(reason))
            hypothesis.reject()

    try:
        one()
    except Unsatisfiable:
        raise NotSupported(reasons[0] if reasons else "no case could be drawn") from None


def _in_ulps(error: float, reference: float, dtype: Any) -> float:
    return float(ulps(error, reference, dtype)) if np.isfinite(error) and np.isfinite(reference) else float("inf")
