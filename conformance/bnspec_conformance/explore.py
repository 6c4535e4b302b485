"""How a check becomes a test: which clauses it proves, what Hypothesis draws for it, and the record of one attempt."""

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis.errors import Flaky, StopTest, Unsatisfiable, UnsatisfiedAssumption
from hypothesis.internal.conjecture import providers
from hypothesis.strategies import SearchStrategy

from bnspec_conformance import underway
from bnspec_conformance.drawn import CannotWrite, drawn_to_json
from bnspec_conformance.record import Record
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trial import Budget, NeverSupported, Trial, Violation

if hasattr(providers, "_get_local_constants"):
    # Hypothesis mixes constants of the modules that happen to be imported into what it draws; the cases of a seed must
    # not depend on what else is loaded.
    providers._get_local_constants = lambda: providers._local_constants

__all__ = ["SLOW_OR_LARGE", "clauses", "explore", "search_settings"]

#: Exact arithmetic takes its time, and a case has many parts; both are known.
SLOW_OR_LARGE = (
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.data_too_large,
    hypothesis.HealthCheck.large_base_example,
    hypothesis.HealthCheck.filter_too_much,
)

#: Runs spent on making a counterexample smaller, as a multiple of the subject's examples: a count, not a time, so that
#: the result depends on the seed alone.
_SHRINKS = 10


class _Enough(BaseException):
    """Ends a search that cannot find anything; no Exception, which Hypothesis would take for a failure and shrink."""


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

    The test carries ``attempt(subject, budget, drawn=...) -> Record``, which runs the check without pytest, on one
    given argument where there is one, and never raises for what the subject does.

    Parameters
    ----------
    strategy : callable or None
        Takes the subject. Without one the check runs once, as ``check(t)``.
    share : float
        Of the subject's number of examples; below 1 for expensive checks.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        name = f"{check.__module__.rsplit('.', 1)[-1]}::{check.__name__}"

        def attempt(subject: Subject, budget: Budget, **drawn: Any) -> Record:
            named: tuple[str, ...] = test.clauses  # type: ignore[attr-defined]
            lacks = {clause: subject.scope.lacks(clause) for clause in named}
            mine = tuple(clause for clause in named if lacks[clause] is None)
            trial = Trial(subject, mine or named, budget)
            started = time.perf_counter()
            outcome, reason, details = "passed", "", None
            try:
                if not mine:
                    raise NotSupported(str(lacks[named[0]]))
                if strategy is None:
                    _guarded(check, trial)
                elif drawn:
                    _guarded(check, trial, drawn["drawn"])
                else:
                    examples = max(2, round(share * trial.examples))
                    _search(check, trial, strategy(subject), examples)
                if trial.compared and not trial.informative:
                    outcome, reason = "untested", "everything that was compared held one and the same value"
            except NotSupported as error:
                outcome, reason = "not supported", str(error)
            except Violation as violation:
                outcome, reason, details = "failed", str(violation), violation.details
            seconds = time.perf_counter() - started
            return Record(
                name, trial.clauses, subject.name, outcome, seconds, trial.cases, trial.worst, reason,
                dict(trial.reached), details,
            )  # fmt: skip

        @functools.wraps(check)
        def test(subject: Subject, budget: Budget, request: pytest.FixtureRequest) -> None:
            __tracebackhide__ = True
            record = attempt(subject, budget)
            request.node.user_properties.append(("bnspec", record.to_json()))
            if record.outcome in ("not supported", "untested"):
                pytest.skip(f"{record.outcome}: {record.reason}")
            if record.outcome == "failed":
                raise Violation(record.reason, record.violation or {})

        del test.__wrapped__  # pytest would ask for the check's own arguments as fixtures
        test.attempt = attempt  # type: ignore[attr-defined]
        test.check = name  # type: ignore[attr-defined]
        return test

    return decorate


def search_settings(examples: int, *, shrink: bool = True, **more: Any) -> hypothesis.settings:
    """How Hypothesis searches here: nothing kept between runs, no clock, one minimal failure."""
    phases = (hypothesis.Phase.generate, hypothesis.Phase.shrink)
    return hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        phases=phases if shrink else phases[:1],
        suppress_health_check=SLOW_OR_LARGE,
        # The rest is Hypothesis's default; a profile, which the environment or a module may have loaded, has no say.
        derandomize=False,
        verbosity=hypothesis.Verbosity.normal,
        backend="hypothesis",
        **({"stateful_step_count": 50} | more),
    )


def _guarded(check: Callable[..., None], trial: Trial, *drawn: Any) -> None:
    """Run a check; what the subject's results make of the check's own code is said in the check's words."""
    for value in drawn:
        underway.argument(value)
    try:
        check(trial, *drawn)
    except Violation as violation:
        if drawn and "drawn" not in violation.details:
            try:
                violation.details["drawn"] = drawn_to_json(drawn[0])
            except CannotWrite:
                violation.details["drawn"] = None
        raise
    except (NotSupported, StopTest, UnsatisfiedAssumption):
        raise
    except AssertionError as error:
        if trial.subject.backend is not None:  # bnspec's own subjects return everything
            raise
        # A bare assert in a check names a result that it cannot do without.
        raise NotSupported("it does not return what this check compares") from error
    except Exception as error:
        if trial.subject.backend is not None:
            raise
        raise trial.broken(f"gave results that the check could not use: {type(error).__name__}: {error}") from error


def _search(check: Callable[..., None], trial: Trial, strategy: Any, examples: int) -> None:
    reasons: list[str] = []
    ran = False
    known: dict[str, Violation] = {}  # failures by their argument, so that the last replay needs no run
    spent = 0

    @hypothesis.seed(trial.budget.seed)
    @search_settings(examples, shrink=trial.budget.shrink)
    @hypothesis.given(strategy)
    def one(drawn: Any) -> None:
        nonlocal ran, spent
        if not ran and len(reasons) >= examples:  # it will not be supported the next time either
            raise _Enough
        key = _key(drawn) if known else ""
        if known:
            spent += 1
            if key in known:
                raise known[key]
            if spent > _SHRINKS * trial.subject.examples:
                return
        try:
            _guarded(check, trial, drawn)
            ran = True
        except NotSupported as reason:
            reasons.append(str(reason))
            if isinstance(reason, NeverSupported):
                raise _Enough from reason
            hypothesis.reject()
        except Violation as violation:
            known[key or _key(drawn)] = violation
            if getattr(violation.__cause__, "hung", False):  # each smaller case could cost a deadline
                spent = _SHRINKS * trial.subject.examples
            raise

    try:
        one()
    except (Unsatisfiable, _Enough):
        raise NotSupported(reasons[0] if reasons else "no case could be drawn") from None
    except Flaky:
        if not known:
            raise
        first = next(iter(known.values()))
        raise Violation(str(first) + "\n  it does not fail every time", first.details) from None


def _key(drawn: Any) -> str:
    try:
        return json.dumps(drawn_to_json(drawn))
    except CannotWrite:
        return repr(drawn)
