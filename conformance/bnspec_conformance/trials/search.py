"""Search of a check for a case that breaks one of its clauses, and the result: the worst that was seen."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis.errors import Flaky, StopTest, Unsatisfiable, UnsatisfiedAssumption
from hypothesis.internal.conjecture import providers

from bnspec_conformance.cases.codecs.argument_codec import CannotWrite, argument_to_json
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.listeners import notify_argument
from bnspec_conformance.trials.trial import NeverSupported, Trial
from bnspec_conformance.trials.violations.violation import Violation

if hasattr(providers, "_get_local_constants"):
    # Hypothesis mixes constants of the modules that happen to be imported into what it draws; the cases of a seed must
    # not depend on what else is loaded.
    providers._get_local_constants = lambda: providers._local_constants

__all__ = ["SLOW_OR_LARGE", "Result", "run_all", "run_case", "search", "search_settings"]

#: Exact arithmetic takes its time, and a case has many parts; both are known.
SLOW_OR_LARGE = (
    hypothesis.HealthCheck.too_slow,
    hypothesis.HealthCheck.data_too_large,
    hypothesis.HealthCheck.large_base_example,
    hypothesis.HealthCheck.filter_too_much,
)

#: Runs spent on making a counterexample smaller, as a multiple of the examples of a check: a count, not a time, so that
#: the result depends on the seed alone.
_SHRINKS = 10

#: Cases that a subject may decline before it is taken for one that supports none, as a multiple of the examples.
_DECLINED = 10


@dataclass
class Result:
    """Result of a case or of a whole search. A violation stays in it, whatever happens later.

    Attributes
    ----------
    passed : int
        Cases that were compared and right.
    declined : list of str
        Why cases were declined, in their order.
    hopeless : bool
        Whether no other case would be taken either.
    violation : Violation or None
        That the search ends with: the smallest one that breaks a clause of the check.
    """

    passed: int = 0
    declined: list[str] = field(default_factory=list)
    hopeless: bool = False
    violation: Violation | None = None

    def decide(self) -> None:
        """Say that nothing could be looked at, where that is so.

        Raises
        ------
        NotSupported
            If no case was compared and none is wrong.
        """
        if self.violation is None and not self.passed:
            raise NotSupported(self.declined[0] if self.declined else "no case could be drawn")

    def gives_up(self, examples: int) -> bool:
        """Return whether drawing more cases is of no use: none was taken, and nothing was found."""
        nothing = self.violation is None and not self.passed
        return nothing and (self.hopeless or len(self.declined) >= _DECLINED * examples)


def run_case(check: Callable[..., None], trial: Trial, *drawn: Any) -> Result:
    """Run a check once, on one argument where it takes one.

    An error of the check's own code on the subject's results is reported as a violation. With bnspec's own subjects it
    is raised: there the check is wrong.
    """
    trial.found.begin()
    for value in drawn:
        notify_argument(value)
    result = Result()
    try:
        check(trial, *drawn)
        result.passed = 1
    except Violation as violation:
        result.violation = violation
    except NotSupported as reason:
        result.declined, result.hopeless = [str(reason)], isinstance(reason, NeverSupported)
    except (StopTest, UnsatisfiedAssumption):
        raise
    except Exception as error:
        if trial.subject.backend is not None and not trial.found.here:  # these return everything
            raise
        if isinstance(error, AssertionError):  # a bare assert names a result that the check cannot do without
            result.declined = ["it does not return what this check compares"]
        elif not trial.found.here:
            problem = f"gave results that the check could not use: {type(error).__name__}: {error}"
            result.violation = trial.broken(problem)
            result.violation.__cause__ = error
    result.violation = result.violation or trial.found.own()
    for each in trial.found.here:
        _remember(each, *drawn)
    return result


def run_all(check: Callable[..., None], trial: Trial, arguments: Iterable[Any]) -> Result:
    """Run a check on each of some arguments, until one breaks a clause of it: those come first that are to be shown."""
    total = Result()
    for argument in arguments:
        found = run_case(check, trial, argument)
        total.passed += found.passed
        total.declined += found.declined
        total.violation = found.violation
        if total.violation is not None or found.hopeless:
            break
    return total


def search(check: Callable[..., None], trial: Trial, strategy: Any, examples: int) -> Result:
    """Run a check on what the strategy draws, until a case breaks one of its clauses; then on smaller ones."""
    total = Result()
    known: dict[str, Violation] = {}  # by their argument, so that the last replay needs no run
    spent = 0

    class Stop(BaseException):
        """End of the drawing, whatever the result; no Exception, which Hypothesis would take for a failure."""

    @hypothesis.seed(trial.budget.seed)
    @search_settings(examples, shrink=trial.budget.shrink)
    @hypothesis.given(strategy)
    def one(drawn: Any) -> None:
        nonlocal spent
        key = ""
        if known:
            key, spent = _key(drawn), spent + 1
            if key in known:
                raise known[key]
            if spent > _SHRINKS * trial.examples:
                return
        found = run_case(check, trial, drawn)
        total.passed += found.passed
        if found.violation is not None:
            total.violation = known[key or _key(drawn)] = found.violation
            if getattr(found.violation.__cause__, "hung", False):  # each smaller case could cost a deadline
                spent = _SHRINKS * trial.examples
            raise found.violation
        if found.declined:
            total.declined += found.declined
            total.hopeless |= found.hopeless
            if total.gives_up(examples):
                raise Stop
            hypothesis.reject()

    try:
        one()
    except Violation as smallest:
        total.violation = smallest
    except Stop:
        pass
    except Unsatisfiable:
        pass  # every case was declined; the result has the reasons
    except Flaky as error:
        if total.violation is None:
            raise
        total.violation = _unsteady(next(iter(known.values())), error)
    except Exception:
        if total.violation is None:
            raise
    if total.violation is not None:
        for clause in total.violation.clauses:
            trial.found.by_clause[clause] = total.violation
    return total


def search_settings(examples: int, *, shrink: bool = True, **more: Any) -> hypothesis.settings:
    """Return the settings of Hypothesis: nothing kept between runs, no clock, one minimal failure."""
    phases = (hypothesis.Phase.generate, hypothesis.Phase.shrink)
    rest: dict[str, Any] = {"stateful_step_count": 50, **more}
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
        **rest,
    )


def _remember(violation: Violation, *drawn: Any) -> None:
    """Write the check's argument into a violation, so that it can be replayed."""
    if not drawn or "drawn" in violation.details:
        return
    try:
        violation.details["drawn"] = argument_to_json(drawn[0])
    except CannotWrite:
        violation.details["drawn"] = None


def _unsteady(violation: Violation, cause: Exception) -> Violation:
    made = Violation(f"{violation}\n  it does not fail every time", violation.details)
    made.__cause__ = cause
    return made


def _key(drawn: Any) -> str:
    try:
        return json.dumps(argument_to_json(drawn))
    except CannotWrite:
        return repr(drawn)
