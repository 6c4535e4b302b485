"""Levels of the cases that break a clause: the lowest that was seen, or an ordinary case that shows the same."""

from bnspec_conformance.cases.features import easy
from bnspec_conformance.cases.levels import LEVELS, level_of_case, level_of_clause, within
from bnspec_conformance.trials.trial import Trial
from bnspec_conformance.trials.violations.attribution import Controls

__all__ = ["lowest_levels"]


def lowest_levels(trial: Trial) -> dict[str, str]:
    """Return, by clause, the lowest level of the cases that are known to break it.

    A search ends with the first case that fails and smaller ones, which may all be at an edge although every other case
    fails too. So an output that is wrong is looked at once more in a plain case with ordinary numbers.
    """
    for violation in trial.found:
        above = [c for c in violation.clauses if not within(trial.found.lowest[c], level_of_clause(c))]
        if not above or not violation.output or violation.case is None:
            continue
        plain = level_of_case(easy(violation.case))  # not A for 16 bits
        if plain != LEVELS[-1] and Controls(trial, violation.case).is_wrong_on_ordinary(violation.output):
            for clause in above:
                trial.found.seen_at(clause, plain)
    return dict(trial.found.lowest)
