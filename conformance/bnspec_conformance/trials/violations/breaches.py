"""Breaches: violations that a check notes of its subject, with the clauses that each one breaks."""

import contextlib
import dataclasses
from typing import Any

from bnspec_conformance.cases.case import Case
from bnspec_conformance.cases.outputs import speaks
from bnspec_conformance.trials.evidence import Evidence
from bnspec_conformance.trials.under_test import UnderTest
from bnspec_conformance.trials.violations.attribution import Control, Controls, Size
from bnspec_conformance.trials.violations.violation import Found, Violation, violation

__all__ = ["Breaches"]


@dataclasses.dataclass
class Breaches(UnderTest):
    """Subject under test whose violations are noted.

    Attributes
    ----------
    evidence : Evidence
        Counts of cases, comparisons and required facts so far.
    found : Found
        Every violation that was seen.
    """

    evidence: Evidence = dataclasses.field(default_factory=Evidence)
    found: Found = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.found = Found(self.clauses)

    def breach(
        self,
        problem: str,
        case: Case | None,
        *,
        output: str = "",
        proves: tuple[str, ...] | None = None,
        control: Control | None = None,
        controls: Controls | None = None,
        **where: Any,
    ) -> None:
        """Note a violation, and raise it if it breaks a clause of the check.

        Parameters
        ----------
        problem : str
            The fault, in words.
        case : Case or None
            Where.
        output : str
            Which output it is about; by default none, and then every clause of the check is broken.
        proves : tuple of str, optional
            The clauses that are broken; empty for a premise of the check, and by default those that the map of outputs
            and the controls tell.
        control : Case or callable, optional
            The case without what the check is about.
        controls : Controls, optional
            The same, of a comparison of several outputs.
        **where : Any
            Further arguments of `violation`.
        """
        __tracebackhide__ = True
        clauses = self._blamed(case, output, proves, control, controls, Size.of(where))
        self.found.keep(violation(self.subject, clauses, problem, case, output=output, **where))

    def require(self, condition: bool, otherwise: str, case: Case | None = None, **blame: Any) -> None:
        """Require a plain fact; without it every clause of the check breaks, or those that `breach` is told."""
        __tracebackhide__ = True
        self.evidence.required += 1
        if not condition:
            self.breach(otherwise, case, **blame)

    def broken(self, problem: str) -> Violation:
        """Note a violation of every clause of the check that no case shows, and return it."""
        return self.breakdown(problem, None)

    def breakdown(self, problem: str, case: Case | None, *, proves: tuple[str, ...] | None = None) -> Violation:
        """Note a violation and return it for the caller to raise; it counts even if that exception is caught."""
        made = violation(self.subject, proves or self.clauses, problem, case)
        with contextlib.suppress(Violation):
            self.found.keep(made)
        return made

    def _blamed(
        self,
        case: Case | None,
        output: str,
        proves: tuple[str, ...] | None,
        control: Control | None,
        controls: Controls | None,
        size: Size,
    ) -> tuple[str, ...]:
        cited = self.clauses if proves is None else proves
        if not output or case is None:
            return cited or self.clauses
        if controls is None and control is not None:
            controls = Controls(self, case, control)
        if proves and (controls is None or controls.given is None):
            return proves
        if controls is None and proves is None:  # two results of the subject's own
            return tuple(c for c in cited if speaks(c, case, output)) or cited
        return (controls or Controls(self, case)).blamed(output, cited, size)
