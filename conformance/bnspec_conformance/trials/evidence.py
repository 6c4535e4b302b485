"""Evidence that a check gathers: how much it compared, what it had to leave out, and the largest error."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.cases.inputs.coverage import covered
from bnspec_conformance.trials.listeners import notify_case
from bnspec_conformance.trials.record import Worst

__all__ = ["Evidence"]


@dataclasses.dataclass
class Evidence:
    """Counts of one trial.

    Attributes
    ----------
    worst : Worst or None
        The largest error as a share of its bound.
    cases : int
        Cases that were run.
    compared : int
        Arrays with elements that were compared.
    informative : bool
        Whether the expected values in them were more than one value.
    required : int
        Plain facts that were required.
    reached : Counter
        How many cases had each of `coverage.KINDS`.
    parts : dict
        By name, each part of the check that not every subject can be asked: the clauses that it proves, and why it was
        left out so far; None once it was asked.
    foreign : bool
        Whether the check is about what the subject does not have at all, such as bnspec's own layers.
    """

    worst: Worst | None = None
    cases: int = 0
    compared: int = 0
    informative: bool = False
    required: int = 0
    reached: "collections.Counter[str]" = dataclasses.field(default_factory=collections.Counter)
    parts: dict[str, tuple[tuple[str, ...], str | None]] = dataclasses.field(default_factory=dict)
    foreign: bool = False
    _value: float | None = None

    def count_case(self, case: Case) -> None:
        """Count a case that the subject is about to be given, and tell the listeners."""
        self.cases += 1
        self.reached.update(covered(case))
        notify_case(case)

    def count_refusal(self, case: Case) -> None:
        """Count a case that the subject is about to be given and has to refuse; of what kind it is does not matter."""
        self.cases += 1
        notify_case(case)

    def count_comparison(self, expected: Array) -> None:
        """Count a comparison, and note whether all of them together could have shown anything."""
        values = as_float64(expected).ravel()
        self.compared += bool(values.size)
        if values.size and not self.informative:
            self._value = float(values[0]) if self._value is None else self._value
            self.informative = bool(np.any(values != self._value))

    def is_empty(self) -> bool:
        """Return whether nothing was asked of the subject at all."""
        return not (self.cases or self.compared or self.required)

    def note_part(self, name: str, clauses: tuple[str, ...], reason: str | None) -> None:
        """Note that a part of the check was asked of a case, or why it could not be; one case is enough."""
        if name not in self.parts or reason is None:
            self.parts[name] = clauses, reason

    def left_out(self, clauses: Sequence[str]) -> dict[str, list[str]]:
        """Return, by clause, why parts of the check were never asked; without the clauses that lose nothing."""
        found: dict[str, list[str]] = {}
        for mine, reason in self.parts.values():
            for clause in (c for c in clauses if c in mine and reason is not None):
                if reason not in found.setdefault(clause, []):
                    found[clause].append(str(reason))
        return found

    def keep_worst(self, worst: Worst) -> None:
        """Keep an error if it is the largest so far."""
        if self.worst is None or worst.share > self.worst.share:
            self.worst = worst

    def absorb(self, other: "Evidence") -> None:
        """Add the evidence of another trial of the same check."""
        self.cases += other.cases
        self.compared += other.compared
        self.informative |= other.informative
        self.required += other.required
        self.reached.update(other.reached)
        for name, (clauses, reason) in other.parts.items():
            self.note_part(name, clauses, reason)
        if other.worst is not None:
            self.keep_worst(other.worst)
