"""Trial: one subject under one check, which runs cases and compares their results.

A check is a function ``(t, drawn)`` of a `Trial`; `trials.explore` makes it a test that Hypothesis feeds.
"""

import collections
import dataclasses
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.limits import NO_INFERENCE_GRAD
from bnspec_conformance.cases.outputs import GRADIENTS, output_named, speaks
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.subjects.own.rank_pool import RankPool, ThreadRankPool
from bnspec_conformance.trials.case_runner import CaseRunner
from bnspec_conformance.trials.record import Worst
from bnspec_conformance.trials.violations.attribution import Control, Controls
from bnspec_conformance.trials.violations.comparison import bitwise, within_bound

__all__ = ["NeverSupported", "Trial"]

_GRADIENTS = GRADIENTS.split()
_STATISTICS = ("mean", "var", "mean_dot", "var_dot", "state")


class NeverSupported(NotSupported):
    """No case of a check can be run, so that drawing another is of no use."""


@dataclasses.dataclass
class Trial(CaseRunner):
    """One subject under the clauses of one check: cases are run, and their results compared."""

    _outcomes: "collections.deque[Outcome]" = dataclasses.field(default_factory=lambda: collections.deque(maxlen=8))

    def run(self, case: Case) -> Outcome:
        """Run a case that the specification allows, less the derivatives and the state that are out of scope."""
        __tracebackhide__ = True
        outcome = super().run(case)
        self._outcomes.append(outcome)
        return outcome

    def agree(
        self,
        case: Case,
        *fields: str,
        outcome: Outcome | None = None,
        reference: Outcome | None = None,
        strict: bool = False,
        proves: tuple[str, ...] | None = None,
        control: Control | None = None,
    ) -> Outcome:
        """Compare the named fields of the outcome with the exact answer, each within its computed bound.

        All of them are compared, and each that is off breaks the clauses that speak of it.

        Parameters
        ----------
        case : Case
        *fields : str
        outcome : Outcome, optional
            Of the case; by default it is run. A result that was found in another way, by a layer for instance, is held
            against the run: where that is off too, the formula is at fault and not that way.
        reference : Outcome, optional
            By default the exact answer.
        strict : bool
            Whether to overrule what the subject declares of its bound.
        proves : tuple of str, optional
            The clauses that break where something is off; none for a premise of the check, where a formula's clause
            does. By default the map of outputs and the controls tell.
        control : Case or callable, optional
            The case without what the check is about. A clause of the check breaks only by what is right there.
        """
        __tracebackhide__ = True
        self.needs(*fields)
        gradients = [
            clause for clause in self.clauses if any(speaks(clause, case, f) for f in fields if f in _GRADIENTS)
        ]
        if gradients and case.mode == "inference" and case.has_vjp and proves != ():
            lacking = None if self.subject.scope.inference_grad else NO_INFERENCE_GRAD
            self.leaves_out("gradients in inference", lacking, *gradients)
        case = self.fit(case)
        if outcome is None:
            outcome = self.run(case)
        elif control is None and proves is None and not any(outcome is own for own in self._outcomes):
            control = lambda: self.subject.run(case)  # noqa: E731
        reference = exact(case) if reference is None else reference
        allowed = self.bounds(case, reference, strict=strict)
        controls = Controls(self, case, control if control is None or callable(control) else self.fit(control))
        looked, missing = False, ""
        with self.found.gathering():
            for rank, (got, want, bound) in enumerate(zip(outcome.ranks, reference.ranks, allowed.ranks, strict=True)):
                for field in fields:
                    there = self._field(case, rank, field, got, want, bound, proves=proves, controls=controls)
                    looked |= bool(there)
                    if there is None and not self.subject.scope.declared:  # else it is not owed, or was told of
                        missing = missing or f"it returns no {field}"
        if self.found.own() is None and (missing or not looked):
            raise NotSupported(missing or f"it returns no {' or '.join(fields)} here")
        return outcome

    def is_right(self, case: Case, *outputs: str) -> bool:
        """Return whether outputs of a case are within their bounds; one that is not breaks its own formula's clause."""
        before = len(self.found.here)
        self.agree(case, *outputs, proves=())
        return len(self.found.here) == before

    def is_silently_right(self, case: Case, *outputs: str) -> bool:
        """Return whether outputs of a case are right, those that come back; where they are not, break no clause."""
        case = self.fit(case)
        outcome, reference = self.run(case), exact(case)
        allowed = self.bounds(case, reference)
        for sides in zip(outcome.ranks, reference.ranks, allowed.ranks, strict=True):
            for name in outputs:
                got, want, bound = (getattr(side, name) for side in sides)
                if got is None or want is None:
                    continue
                if got.shape != want.shape:
                    return False
                whole = np.issubdtype(got.dtype, np.integer)
                statistic = name in _STATISTICS
                compared = got != want if whole else within_bound(got, want, bound, any_nonfinite=statistic).wrong
                if np.any(compared):
                    return False
        return True

    def within(
        self,
        got: Array,
        want: Array,
        bound: Array,
        what: str,
        case: Case,
        *,
        rank: int = 0,
        statistic: bool = False,
        **blame: Any,
    ) -> None:
        """Compare one array with a reference elementwise.

        Further arguments tell which clauses break, as those of `breach`.
        """
        __tracebackhide__ = True
        blame.setdefault("output", output_named(what))
        if blame.get("controls") is None:
            blame["controls"] = Controls(self, case, blame.pop("control", None))
        if got.shape != want.shape:
            self.breach(f"{what} has shape {got.shape}, expected {want.shape}", case, **blame)
            return
        if np.issubdtype(got.dtype, np.integer):  # a count is right or wrong
            self._same_array(got, want.astype(got.dtype), what, case, **blame)
            return
        compared = within_bound(got, want, bound, any_nonfinite=statistic)
        self.evidence.count_comparison(want)
        off = compared.difference()
        if off is not None:
            problem = f"{what} is off" + (f" on rank {rank}" if len(case.ranks) > 1 else "")
            self.breach(problem, case, **blame, what=what, rank=rank, **dataclasses.asdict(off))
            return
        worst = compared.worst()
        if worst is not None:
            self.evidence.keep_worst(Worst(*worst, what, case.describe()))

    def same(self, got: Any, want: Any, what: str, case: Case | None, **blame: Any) -> None:
        """Require two results to be equal to the bit; NaN equals NaN, and the sign of zero is not compared.

        Two results that differ are their own control: the clauses of the check that speak of such an output break.
        Where one side was not computed by the subject, ``control`` is a case in which the output has to be right.
        """
        __tracebackhide__ = True
        blame.setdefault("output", output_named(what))
        if got is None or want is None:
            self.require(got is None and want is None, f"{what} is there in only one of two results", case, **blame)
            return
        if isinstance(got, dict):
            self.require(set(got) == set(want), f"{what} has {sorted(got)} and {sorted(want)}", case, **blame)
            with self.found.gathering():
                for key in got.keys() & want.keys():
                    output = f"state.{key}" if blame["output"] == "state" else output_named(key) or blame["output"]
                    self.same(got[key], want[key], f"{what}.{key}", case, **(blame | {"output": output}))
            return
        self._same_array(got, want, what, case, **blame)

    def beside(self, **changes: Any) -> "Trial":
        """Return a trial of the same check on a subject that differs in some fields; both note violations together."""
        other = Trial(dataclasses.replace(self.subject, **changes), self.clauses, budget=self.budget)  # type: ignore[type-var]
        other.found = self.found
        return other

    def absorb(self, other: "Trial") -> None:
        """Add the evidence of another trial of the same check to this one's."""
        self.evidence.absorb(other.evidence)

    def has_nothing(self, reason: str) -> NeverSupported:
        """Return what to raise where the subject has nothing that the check is about, so that nothing is left out."""
        self.evidence.foreign = True
        return NeverSupported(reason)

    def needs(self, *fields: str) -> None:
        """Refuse to draw cases where none of the fields of an outcome is in the scope.

        Raises
        ------
        NeverSupported
        """
        if not any(map(self.subject.scope.returns, fields)):
            raise NeverSupported(f"it returns no {' or '.join(fields)}")

    def needs_backend(self) -> Any:
        """Return bnspec's backend of this subject, for clauses about bnspec's own layers."""
        if self.subject.backend is None:
            raise self.has_nothing("only bnspec's own backends have its layers")
        return self.subject.backend

    def needs_ranks(self, size: int) -> RankPool:
        """Return the pool that runs ranks of bnspec, for clauses about their messages."""
        self.needs_backend()
        pool: RankPool = getattr(self.subject, "pool", None) or ThreadRankPool()
        if pool.size < size:
            raise NeverSupported(f"it runs at most {pool.size} ranks")
        return pool

    def _field(
        self, case: Case, rank: int, field: str, got: RankOutcome, want: RankOutcome, bound: RankOutcome, **blame: Any
    ) -> bool | None:
        """Compare one field; return whether there was anything to compare, or None if the subject returned nothing."""
        __tracebackhide__ = True
        values, references, limits = (getattr(o, field) for o in (got, want, bound))
        if references is None or limits is None:
            return False
        if values is None:
            return None
        if field != "state":
            values, references, limits = {field: values}, {field: references}, {field: limits}
        for name, reference in references.items():
            value, what = values.get(name), f"state.{name}" if field == "state" else name
            if value is None:
                self.breach(f"returned no {name}", case, output=what, **blame)
                continue
            statistic = field in _STATISTICS
            self.within(value, reference, limits[name], what, case, rank=rank, statistic=statistic, **blame)
        return True

    def _same_array(self, got: Array, want: Array, what: str, case: Case | None, **blame: Any) -> None:
        __tracebackhide__ = True
        if got.shape != want.shape or got.dtype != want.dtype:
            self.breach(f"{what} is {got.dtype}{got.shape} and {want.dtype}{want.shape}", case, **blame)
            return
        self.evidence.count_comparison(want)
        off = bitwise(got, want)
        if off is not None:
            where: dict[str, Any] = {"what": what, "rank": 0, **dataclasses.asdict(off)}
            self.breach(f"{what} is not the same to the bit", case, **blame, **where)
