"""Clauses that a subject is not asked about, by the reason: a count in place of a row for each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["by_reason", "reasons_of"]


def reasons_of(clauses: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the reasons why clauses are not supported, by the clause's id.

    Parameters
    ----------
    clauses : mapping
        ``clauses`` of a report.
    names : sequence of str
        Of subjects. A clause is among those returned if none of them was looked at for any other verdict.
    """
    found: dict[str, list[str]] = {}
    for clause, row in clauses.items():
        entries = [row["subjects"][name] for name in names if name in row["subjects"]]
        if entries and all(entry["verdict"] == "not supported" for entry in entries):
            found[clause] = list(dict.fromkeys(reason for entry in entries for reason in entry["reasons"]))
    return found


def by_reason(reasons: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the clauses under each reason, the reason of most clauses first.

    A clause that has several reasons, each of which is enough, is counted once: under the one that most clauses have.

    Parameters
    ----------
    reasons : mapping of str to sequence of str
        By the clause's id, as `reasons_of` returns them.

    Examples
    --------
    >>> by_reason({"BN-MASK-1": ["no ghost", "no mask"], "BN-MASK-2": ["no mask"], "BN-GRP-1": ["no ghost"],
    ...            "BN-MASK-3": ["no mask"]})
    {'no mask': ['BN-MASK-1', 'BN-MASK-2', 'BN-MASK-3'], 'no ghost': ['BN-GRP-1']}
    """
    common = Counter(reason for own in reasons.values() for reason in own)
    found: dict[str, list[str]] = {}
    for clause, own in reasons.items():
        reason = max(own, key=lambda each: common[each], default="no reason is given")
        found.setdefault(reason, []).append(clause)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
