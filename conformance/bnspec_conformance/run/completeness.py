"""Completeness of a run: the last line of defence against a verdict on nothing."""

from collections.abc import Collection, Iterable

from bnspec_conformance.run.engine import all_checks
from bnspec_conformance.trials.record import Record

__all__ = ["asked_for", "problems"]

#: Outcomes of checks that were put to a subject and said something of it.
_LOOKED = ("passed", "failed", "waived", "stale")


def asked_for(clauses: Iterable[str], subjects: Collection[str]) -> set[tuple[str, str]]:
    """Return every check of some clauses with every subject; all checks if no clause is named.

    This comes from the suite itself and not from what pytest has collected, which is what is to be looked after.
    """
    wanted = list(clauses)
    checks = [c.name for c in all_checks().values() if not wanted or any(w in c.clauses for w in wanted)]
    return {(check, subject) for check in checks for subject in subjects}


def problems(asked: Collection[tuple[str, str]], records: Collection[Record]) -> list[str]:
    """Return the reasons why a run is not complete.

    Parameters
    ----------
    asked : collection of (check, subject)
    records : collection of Record
        Their records.
    """
    found = []
    done = {(r.check, r.subject) for r in records}
    missing = sorted(set(asked) - done)
    if missing:
        check, subject = missing[0]
        found.append(f"not finished: {len(missing)} of {len(asked)} checks were not run, {check} on {subject} first")
    elif not any(r.outcome in _LOOKED for r in records):
        found.append("nothing was looked at: no check of what was asked could be put to any of the subjects")
    return found
