"""Completeness of a run: the last line of defence against a verdict on nothing."""

from collections.abc import Collection, Iterable, Mapping

from bnspec_conformance.cases.inputs.coverage import uncovered
from bnspec_conformance.run.engine import all_checks
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.record import Record

__all__ = ["asked_for", "lacking", "never_met", "problems"]

#: Outcomes of checks that were put to a subject and said something of it.
_LOOKED = ("passed", "failed", "waived", "stale")


def asked_for(clauses: Iterable[str], subjects: Collection[str]) -> set[tuple[str, str]]:
    """Return every check of some clauses with every subject; all checks if no clause is named.

    This comes from the suite itself and not from what pytest has collected, which is what is to be looked after.
    """
    wanted = list(clauses)
    checks = [c.name for c in all_checks().values() if not wanted or any(w in c.clauses for w in wanted)]
    return {(check, subject) for check in checks for subject in subjects}


def problems(asked: Collection[tuple[str, str]], records: Collection[Record], *, stops: bool = False) -> list[str]:
    """Return the reasons why a run is not complete.

    Parameters
    ----------
    asked : collection of (check, subject)
    records : collection of Record
        Their records.
    stops : bool
        Whether the run was told to end with its first failure.
    """
    found = []
    done = {(r.check, r.subject) for r in records}
    missing = sorted(set(asked) - done)
    if missing:
        check, subject = missing[0]
        why = "the first failure ended the run, as -x says; " if stops else ""
        found.append(
            f"not finished: {why}{len(missing)} of {len(asked)} checks were not run, {check} on {subject} first"
        )
    elif not any(r.outcome in _LOOKED for r in records):
        found.append("nothing was looked at: no check of what was asked could be put to any of the subjects")
    return found


def never_met(records: Collection[Record], subjects: Iterable[Subject]) -> list[str]:
    """Return a line for each subject about the kinds of input inside its scope that no case had."""
    lines = []
    for subject in subjects:
        missed = uncovered((r.reached for r in records if r.subject == subject.name), subject.scope)
        if missed and subject.scope.declared:
            lines.append(f"vacuous: no case that {subject.name} ran had: {', '.join(missed)}")
    return lines


def lacking(records: Collection[Record], subjects: Mapping[str, Subject]) -> dict[str, dict[str, str]]:
    """Return why clauses that a check was selected for lie outside a subject's scope."""
    found: dict[str, dict[str, str]] = {name: {} for name in subjects}
    for record in records:
        check, subject = all_checks().get(record.check), subjects.get(record.subject)
        if check is None or subject is None:
            continue
        for clause in check.clauses:
            reason = subject.scope.lacks(clause)
            if clause not in record.clauses and reason is not None:
                found[record.subject][clause] = reason
    return found
