"""Subject under test: which cases it can be given, how long one may take, and how far its results may be off."""

import dataclasses
import warnings
from typing import Any

from bnspec_conformance.bounds import bounds
from bnspec_conformance.cases.case import Case, Outcome
from bnspec_conformance.cases.counts import must_be_refused
from bnspec_conformance.subjects import Subject
from bnspec_conformance.subjects.time_limit import deadline
from bnspec_conformance.trials.budget import Budget

__all__ = ["UnderTest"]


@dataclasses.dataclass
class UnderTest:
    """One subject under the clauses of one check.

    Attributes
    ----------
    subject : Subject
    clauses : tuple of str
        The clauses that the check proves.
    budget : Budget
    """

    subject: Subject
    clauses: tuple[str, ...]
    budget: Budget = dataclasses.field(default_factory=Budget)

    @property
    def examples(self) -> int:
        """Number of examples for a check that takes its full share."""
        return self.budget.examples or self.subject.examples

    @property
    def limit(self) -> float:
        """Seconds for one case; a subject with a deadline of its own gets the time to report that it was missed."""
        own: float | None = getattr(self.subject, "patience", None)
        return self.budget.deadline if own is None else own

    def fit(self, case: Case) -> Case:
        """Return the case without the derivatives and the state that are out of scope."""
        return self.subject.scope.fit(case)

    def outside(self, case: Case) -> str | None:
        """Return None, or why a case is none for this subject, before the subject itself is asked."""
        reason = self.subject.scope.reason(case) if self.subject.scope.declared else None
        if reason is None and must_be_refused(case) and self.subject.backend is None:
            reason = "it is to refuse one value per channel"
        return reason

    def can_run(self, case: Case) -> bool:
        """Return whether a control can be run; an error on the way is no violation."""
        if self.outside(case) is not None:
            return False
        try:
            return self.subject.supports(case) is None
        except Exception:
            return False

    def execute(self, case: Case) -> Any:
        """Run a case within the limit and return whatever comes back.

        Warnings are ignored, since only results count.

        Raises
        ------
        TooLong
            If it is not done in time.
        """
        with warnings.catch_warnings(), deadline(self.limit):
            warnings.simplefilter("ignore")
            return self.subject.run(case)

    def bounds(self, case: Case, reference: Outcome, *, strict: bool = False) -> Outcome:
        """Return how far results may lie from the reference; `strict` overrules the bound that the subject declares."""
        plain = self.subject.bound == "plain" and not strict
        own = self.subject
        return bounds(case, reference, own.arithmetic, own.flushes, evaluation=own.evaluation, plain=plain)
