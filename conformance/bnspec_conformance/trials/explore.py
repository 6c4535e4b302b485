"""Conversion of a check to a test: the clauses that it proves, the strategy of its cases, the record of one attempt."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis.strategies import SearchStrategy

from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record, failed
from bnspec_conformance.trials.search import SLOW_OR_LARGE, run_all, run_case, search, search_settings
from bnspec_conformance.trials.trial import Trial
from bnspec_conformance.trials.violations.failure_level import lowest_levels
from bnspec_conformance.trials.violations.violation import Violation

__all__ = ["SLOW_OR_LARGE", "clauses", "explore", "search_settings"]


def clauses(*ids: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Name the clauses that a check proves; every clause of SPEC.md is named by at least one."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        test.clauses = ids  # type: ignore[attr-defined]
        return test

    return decorate


def explore(
    strategy: Callable[[Subject], SearchStrategy[Any]] | None = None,
    *,
    share: float | Callable[[Subject], float] = 1.0,
    sizes: Callable[[Subject, Budget], Sequence[Any]] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a check into a test over what the strategy draws for the subject.

    The test carries ``attempt(subject, budget, drawn=...) -> Record``, which runs the check without pytest, on one
    given argument where there is one, and never raises for what the subject does.

    Parameters
    ----------
    strategy : callable or None
        Takes the subject. Without one the check runs once, as ``check(t)``.
    share : float or callable
        Of the subject's number of examples, as a number or by the subject; below 1 for expensive checks.
    sizes : callable, optional
        In place of a strategy: takes the subject and the budget, and returns every argument that the check is run on. A
        budget without sizes leaves the check out.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        name = f"{check.__module__.rsplit('.', 1)[-1]}::{check.__name__}"

        def attempt(subject: Subject, budget: Budget, **drawn: Any) -> Record:
            named: tuple[str, ...] = test.clauses  # type: ignore[attr-defined]
            lacks = {clause: subject.scope.lacks(clause) for clause in named}
            mine = tuple(clause for clause in named if lacks[clause] is None)
            trial = Trial(subject, mine or named, budget)
            started = time.perf_counter()
            outcome, reason = "passed", ""
            try:
                if not mine:
                    raise NotSupported(str(lacks[named[0]]))
                if sizes is not None and not drawn and budget.sizes == "none":
                    outcome, reason = "untested", "the run was told to leave large cases out, by --sizes none"
                elif sizes is not None and not drawn:
                    run_all(check, trial, sizes(subject, budget)).decide()
                elif strategy is None or drawn:
                    run_case(check, trial, *drawn.values()).decide()
                else:
                    part = share(subject) if callable(share) else share
                    search(check, trial, strategy(subject), max(2, round(part * trial.examples))).decide()
            except NotSupported as error:
                outcome, reason = "not supported", str(error)
            except Exception:
                if not trial.found:  # else what was found counts, whatever broke afterwards
                    raise
            if outcome == "passed" and trial.evidence.compared and not trial.evidence.informative:
                outcome, reason = "untested", "everything that was compared held one and the same value"
            lacking = [why for _, why in trial.evidence.parts.values()]
            if outcome == "passed" and lacking and all(lacking) and not trial.evidence.cases:  # nothing was asked
                outcome, reason = "not supported", str(lacking[0])
            if outcome == "passed" and trial.evidence.is_empty():
                outcome, reason = "untested", "nothing was asked"
            evidence, seconds = trial.evidence, time.perf_counter() - started
            record = Record(
                name, trial.clauses, subject.name, outcome, seconds, evidence.cases, evidence.worst, reason,
                dict(evidence.reached), foreign=evidence.foreign and outcome == "not supported",
                left_out=evidence.left_out(trial.clauses) if outcome == "passed" else {},
            )  # fmt: skip
            return failed(record, list(trial.found), lowest_levels(trial)) if trial.found else record

        @functools.wraps(check)
        def test(subject: Subject, look: Callable[[str, Subject], Record], request: pytest.FixtureRequest) -> None:
            __tracebackhide__ = True
            record = look(name, subject)
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
