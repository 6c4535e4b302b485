"""Records of a run, one for each check on each subject."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bnspec._printable import printable
from bnspec_conformance.cases.levels import highest, level_of_clause, lowest

if TYPE_CHECKING:
    from bnspec_conformance.trials.violations.violation import Violation

__all__ = ["OUTCOMES", "Record", "Worst", "failed", "level_of", "outcome_of", "reason_of"]

#: Outcomes of a check. "untested": it ran, and nothing it compared carried information. "waived": it failed, and a
#: waiver says why that is known. "stale": it was to fail by a waiver that has expired or is no longer needed.
OUTCOMES = ("passed", "failed", "not supported", "untested", "waived", "stale")


@dataclass(frozen=True)
class Worst:
    """The largest error of a check, as a share of its bound."""

    share: float
    error_ulp: float
    bound_ulp: float
    what: str  # the field, such as "y" or "state.mean"
    case: str  # Case.describe()


@dataclass
class Record:
    """One check on one subject.

    Attributes
    ----------
    check : str
        ``module::function``, such as ``test_running::test_exponential``.
    clauses : tuple of str
        The clauses that it proves.
    subject : str
    outcome : str
        One of `OUTCOMES`.
    seconds : float
    examples : int
        Cases that were run and compared.
    worst : Worst or None
    reason : str
        Why it is not supported, untested, waived or stale; or the failure's text.
    reached : dict of str to int
        How many cases had each of the features that a search must meet
        (`bnspec_conformance.cases.inputs.coverage.KINDS`).
    violation : dict or None
        Of a failure: clauses, subject, problem, case (described) and its level, script, what, rank, index, got,
        expected, error_ulp, bound_ulp; `drawn`, the check's argument as `codec` writes it, for replay; `level`.
    waiver : dict or None
        The waiver that was applied.
    booked : dict of str to dict
        By clause, its own outcome and reason, where the check failed: what is wrong breaks some clauses, and leaves the
        others of the check untested. Of a clause that failed also the level at which it did. Empty where every clause
        has the outcome of the check.
    others : list of dict
        Violations of other clauses than the first one's.
    left_out : dict of str to list of str
        By clause, why parts of the check could not be asked of the subject, although the rest passed.
    foreign : bool
        Whether the check is about what the subject does not have at all, such as bnspec's own layers: then it is not
        supported, and nothing of the clause is left out.
    """

    check: str
    clauses: tuple[str, ...]
    subject: str
    outcome: str
    seconds: float
    examples: int = 0
    worst: Worst | None = None
    reason: str = ""
    reached: dict[str, int] = field(default_factory=dict)
    violation: dict[str, Any] | None = None
    waiver: dict[str, Any] | None = None
    booked: dict[str, dict[str, str]] = field(default_factory=dict)
    others: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    foreign: bool = False

    @property
    def broken(self) -> tuple[str, ...]:
        """The clauses that failed, those that a waiver covers among them."""
        return tuple(c for c in self.clauses if outcome_of(self, c) in ("failed", "waived"))

    def __post_init__(self) -> None:
        """Take control characters out of what others have said, before it gets to a screen or into a page."""
        self.subject = printable(self.subject, lines=False)
        self.reason = printable(self.reason)
        told = (self.violation, self.booked, self.others, self.left_out)
        self.violation, self.booked, self.others, self.left_out = map(_printable, told)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON value."""
        return dataclasses.asdict(self) | {"clauses": list(self.clauses), "seconds": round(self.seconds, 4)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Record":
        """Return the record again."""
        worst = None if value["worst"] is None else Worst(**value["worst"])
        return Record(**(value | {"clauses": tuple(value["clauses"]), "worst": worst}))


def _printable(value: Any) -> Any:
    """Return the value with every text in it printable, but for what is code and data."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {k: v if k in ("script", "drawn") else _printable(v) for k, v in value.items()}
    return [_printable(v) for v in value] if isinstance(value, list) else value


def outcome_of(record: Record | Mapping[str, Any], clause: str) -> str:
    """Return the outcome of a check for one of its clauses."""
    return _told(record, clause)[0]


def reason_of(record: Record | Mapping[str, Any], clause: str) -> str:
    """Return the reason of that outcome, in the words that belong to this clause."""
    return _told(record, clause)[1]


def level_of(record: Record | Mapping[str, Any], clause: str) -> str:
    """Return the level of a clause that failed: the higher one of its own and of the lowest case that breaks it."""
    held: Mapping[str, Any] = vars(record) if isinstance(record, Record) else record
    own = (held.get("booked") or {}).get(clause) or {}
    case = (held.get("violation") or {}).get("case_level") or "A"
    return str(own.get("level") or highest((level_of_clause(clause), case)))


def _told(record: Record | Mapping[str, Any], clause: str) -> tuple[str, str]:
    held: Mapping[str, Any] = vars(record) if isinstance(record, Record) else record
    own = (held.get("booked") or {}).get(clause)
    return (own["outcome"], own["reason"]) if own is not None else (str(held["outcome"]), str(held["reason"]))


def failed(record: Record, violations: "Sequence[Violation]", lowest_case: Mapping[str, str]) -> Record:
    """Return the record of a check that saw violations, which are booked to the clauses that they break.

    Parameters
    ----------
    record : Record
        Of the same attempt.
    violations : sequence of Violation
        At least one, the first to be reported first.
    lowest_case : mapping of str to str
        By clause, the lowest level of the cases that break it.
    """
    levels = {c: highest((level_of_clause(c), lowest_case.get(c, "A"))) for v in violations for c in v.clauses}
    for v in violations:
        v.details["level"] = lowest(levels[c] for c in v.clauses)
    first = violations[0]
    booked = {clause: v for v in reversed(violations) for clause in v.clauses}
    because = f"untested, because {' and '.join(first.clauses)} failed: {first.problem}"
    clauses = tuple(dict.fromkeys([*record.clauses, *(c for v in violations for c in v.clauses)]))
    told = {
        clause: {"outcome": "failed", "reason": booked[clause].problem, "level": levels[clause]}
        if clause in booked
        else {"outcome": "untested", "reason": because}
        for clause in clauses
    }
    return dataclasses.replace(
        record,
        clauses=clauses,
        outcome="failed",
        reason="\n\n".join(map(str, violations)),
        violation=first.details,
        booked=told,
        others=[v.details for v in violations[1:]],
    )
