"""What a run writes down: one `Record` for each check on each subject."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bnspec._printable import printable

__all__ = ["OUTCOMES", "Record", "Worst"]

#: What can come of a check. "untested": it ran, and nothing it compared carried information. "waived": it failed, and a
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
        What it proves.
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
        How many cases had each of the features that a search must meet (`bnspec_conformance.reach.FEATURES`).
    violation : dict or None
        Of a failure: clauses, subject, problem, case (described), script, what, rank, index, got, expected, error_ulp,
        bound_ulp; `drawn`, the check's argument as `codec` writes it, for replay.
    waiver : dict or None
        The waiver that was applied.
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

    def __post_init__(self) -> None:
        """Take control characters out of what others have said, before it gets to a screen or into a page."""
        self.subject = printable(self.subject, lines=False)
        self.reason = printable(self.reason)
        if self.violation is not None:
            keep = ("script", "drawn")
            self.violation = {
                k: v if k in keep or not isinstance(v, str) else printable(v) for k, v in self.violation.items()
            }

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON value."""
        return dataclasses.asdict(self) | {"clauses": list(self.clauses), "seconds": round(self.seconds, 4)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Record":
        """The record again."""
        worst = None if value["worst"] is None else Worst(**value["worst"])
        return Record(**(value | {"clauses": tuple(value["clauses"]), "worst": worst}))
