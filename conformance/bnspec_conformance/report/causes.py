"""Failures that have one cause, told together: the simplest of them in full, the others in a line each.

A wrong axis fails thirty checks, and an import error all of them. Which failures are the same is a matter of what they
say, never of a guess about the code under test:

- what is no number, such as a refusal or an exception, is the same where its words are, whatever numbers are in them;
- a number that is off is the same where the same output is off and the same clauses break;
- and also where the same output is off by the same factor, as far as the bounds of both can tell, whatever breaks.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Cause", "causes", "violations_of"]

#: A number in words: neither the digits of a clause's id nor those of a dtype. A shape counts as one number.
_NUMBER = re.compile(r"(?<![\w-])(?:0x[0-9a-f]+|-?\d[\d.]*(?:e[+-]?\d+)?)")
_NUMBERS = re.compile(r"#(?:, ?#)+|#,(?=\))")

#: Relative error of the quotient of two float64.
_ROUNDING = 2.0**-50


@dataclass(frozen=True)
class Cause:
    """Failures that are told as one.

    Attributes
    ----------
    said : str
        Their common fault, in one line.
    checks : tuple of mapping
        Records of checks, as a report has them, of one subject; the one with the shortest text first.
    """

    said: str
    checks: tuple[Mapping[str, Any], ...]

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses that break, each once."""
        found = (v.get("clauses") or check["clauses"] for check in self.checks for v in violations_of(check))
        return tuple(dict.fromkeys(clause for own in found for clause in own))


def causes(checks: Iterable[Mapping[str, Any]]) -> list[Cause]:
    """Return the failures of a report, those of one cause together, the cause of most failures first.

    Parameters
    ----------
    checks : iterable of mapping
        Records of checks; what did not fail is passed over.
    """
    groups: list[list[Mapping[str, Any]]] = []
    failed = [check for check in checks if check["outcome"] == "failed" and check.get("violation")]
    for check in sorted(failed, key=lambda each: len(each["reason"])):
        group = next((g for g in groups if _alike(g[0], check)), None)
        if group is None:
            groups.append([check])
        else:
            group.append(check)
    groups.sort(key=lambda group: -len(group))
    return [Cause(_said(group), tuple(group)) for group in groups]


def violations_of(check: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the violations of a record, the first one first."""
    return [v for v in (check.get("violation"), *check.get("others", ())) if v]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    mine, theirs = violations_of(one), violations_of(other)
    same_form = one["subject"] == other["subject"] and len(mine) == len(theirs)
    return same_form and all(map(_same, mine, theirs))


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if ("got" in one) != ("got" in other):
        return False
    if "got" not in one:
        return _words(one) == _words(other)
    if one.get("what") != other.get("what"):
        return False
    return _breaks_the_same(one, other) or _off_by_one_factor(one, other)


def _words(violation: Mapping[str, Any]) -> str:
    """Return what a violation says, its numbers left out."""
    return _NUMBERS.sub("#", _NUMBER.sub("#", str(violation.get("problem", ""))))


def _breaks_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    same = set(one.get("clauses", ())) == set(other.get("clauses", ())) and _words(one) == _words(other)
    return same and _is_lost(one) == _is_lost(other)


def _is_lost(violation: Mapping[str, Any]) -> bool:
    """Return whether NaN or an infinity stands where a finite number is expected."""
    return math.isfinite(float(violation["expected"])) and not math.isfinite(float(violation["got"]))


def _off_by_one_factor(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    mine, theirs = _factor(one), _factor(other)
    if mine is None or theirs is None:
        return False
    return abs(mine[0] - theirs[0]) <= mine[1] + theirs[1]


def _factor(violation: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the factor by which a number is off and how far that is uncertain, or None where there is none.

    A number that is f times the right one, and then rounded within its bound, has a quotient within bound/|expected| of
    f. Where that is as much as f differs from 1, the quotient says nothing.
    """
    got, expected, bound = (float(violation.get(name, "nan")) for name in ("got", "expected", "bound"))
    if not all(map(math.isfinite, (got, expected, bound))) or expected == 0:
        return None
    factor = got / expected
    uncertain = bound / abs(expected) + _ROUNDING * abs(factor)
    if not math.isfinite(factor) or not math.isfinite(uncertain) or abs(factor - 1) <= 2 * uncertain:
        return None
    return factor, uncertain


def _said(group: list[Mapping[str, Any]]) -> str:
    """Return what a group of failures has in common."""
    first = violations_of(group[0])[0]
    problem = str(first.get("problem", "")).split("\n", 1)[0]
    others = [violations_of(check)[0] for check in group[1:]]
    factor = _factor(first) if "got" in first else None
    if factor is not None and others and all(_off_by_one_factor(first, other) for other in others):
        return f"{problem} by the factor {factor[0]:.4g}"
    return problem
