"""Running of cases: the subject gets a case, and the form of its result, or its refusal, is checked."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.cases.inputs.memory import named_arrays, thin
from bnspec_conformance.cases.outputs import speaks
from bnspec_conformance.cases.wellformed import complaints
from bnspec_conformance.subjects import NotSupported, ProgramError
from bnspec_conformance.subjects.time_limit import TooLong
from bnspec_conformance.trials.evidence import Evidence
from bnspec_conformance.trials.violations.attribution import Controls
from bnspec_conformance.trials.violations.breaches import Breaches

__all__ = ["CaseRunner"]


@dataclasses.dataclass
class CaseRunner(Breaches):
    """Subject under test that is given cases.

    Attributes
    ----------
    evidence : Evidence
        Counts of cases and comparisons so far.
    """

    evidence: Evidence = dataclasses.field(default_factory=Evidence)

    def takes(self, case: Case) -> bool:
        """Return whether a case is in scope, derivatives and state aside."""
        return self._reason(self.fit(case)) is None

    def inside(self, cases: Iterable[Case]) -> list[Case]:
        """Return the cases that are in scope.

        Raises
        ------
        NotSupported
            If there is none.
        """
        given = list(cases)
        found = [case for case in given if self.takes(case)]
        if not found:
            reason = self._reason(self.fit(given[0])) if given else None
            raise NotSupported(reason or "no case is in its scope")
        return found

    def run(self, case: Case) -> Outcome:
        """Run a case that the specification allows, less the derivatives and the state that are out of scope."""
        __tracebackhide__ = True
        case = self.fit(case)
        reason = self._reason(case)
        if reason is not None:
            raise NotSupported(reason)
        self.evidence.count_case(case)
        given = [(name, held, held.copy()) for name, held in ((n, thin(array)) for n, array in named_arrays(case))]
        try:
            outcome = self.execute(case)
        except NotSupported:
            raise
        except TooLong as error:
            raise self.breakdown(str(error), case) from error
        except (Exception, SystemExit) as error:
            raise self.breakdown(f"raised {type(error).__name__}: {error}", case) from error
        for name, array, before in given:
            if array.tobytes() != before.tobytes():
                if array.flags.writeable:
                    array[...] = before
                self.breach(f"wrote to the array {name} that it was given [BN-SHAPE-3]", case, proves=("BN-SHAPE-3",))
        return self._well_formed(outcome, case, [array for _, array, _ in given])

    def refuses(
        self,
        call: Callable[[], Any],
        kinds: type[Exception] | tuple[type[Exception], ...],
        clause: str,
        *,
        proves: tuple[str, ...] | None = None,
    ) -> str:
        """Require a refusal that names its clause; return its text.

        Without ``proves`` it is that clause that breaks, or the only one of a check that is not about it.
        """
        __tracebackhide__ = True
        if proves is None:
            proves = (clause,) if clause in self.clauses or len(self.clauses) > 1 else self.clauses
        try:
            call()
        except kinds as error:
            text = str(error)
            named = f"[{clause}]" in text and "; expected " in text
            form = ("BN-ERR-1",) if "BN-ERR-1" in self.clauses else proves
            self.require(named, f"the refusal does not name {clause}: {text}", proves=form)
            return text
        except Exception as error:
            raise self.breakdown(
                f"refused with {type(error).__name__} instead of {kinds}: {error}", None, proves=proves
            ) from error
        raise self.breakdown(f"did not refuse what {clause} forbids", None, proves=proves)

    def rejects(self, case: Case, kinds: type[Exception] | tuple[type[Exception], ...], clause: str) -> str:
        """Require that the subject refuses a case; ours in the specification's form, others in their own words."""
        __tracebackhide__ = True
        case = self.fit(case)
        reason = self.subject.scope.reason(case) if self.subject.scope.declared else None
        reason = self.subject.supports(case) if reason is None else reason
        if reason is not None:
            raise NotSupported(str(reason))
        if self.subject.backend is not None:
            return self.refuses(lambda: self.subject.run(case), kinds, clause)
        self.evidence.count_case(case)
        try:
            self.execute(case)
        except NotSupported:
            raise
        except TooLong as error:
            raise self.breakdown(str(error), case) from error
        except (ProgramError, NotImplementedError) as error:  # a crash refuses nothing
            raise self.breakdown(f"raised {type(error).__name__}: {error}", case) from error
        except Exception as error:
            return str(error)
        raise self.breakdown(f"did not refuse what {clause} forbids", case)

    def _reason(self, case: Case) -> str | None:
        """Return None, or why a case cannot be run."""
        outside = self.outside(case)
        if outside is not None:
            return outside
        try:
            reason = self.subject.supports(case)
        except Exception as error:
            raise self.breakdown(f"supports() raised {type(error).__name__}: {error}", case) from error
        return None if reason is None else str(reason)

    def _well_formed(self, outcome: Any, case: Case, given: list[Array]) -> Outcome:
        """Return the outcome without the results of a wrong form, each of which is a violation of its own."""
        __tracebackhide__ = True
        ranks: list[RankOutcome] = []
        with self.found.gathering():
            found = complaints(outcome, case, self.subject.scope, given)
            for each in found:
                if not each.output:
                    raise self.breakdown(each.problem, case)
                if each.clause:
                    self.breach(each.problem, case, proves=(each.clause,))
                    continue
                form = "BN-SHAPE-3" in self.clauses and speaks("BN-SHAPE-3", None, each.output)
                proves, controls = (("BN-SHAPE-3",), None) if form else (None, Controls(self, case))
                self.breach(each.problem, case, output=each.output, proves=proves, controls=controls)
        for number, rank in enumerate(outcome.ranks):
            bad = {each.output: None for each in found if each.rank == number and not each.clause}
            ranks.append(dataclasses.replace(rank, **bad) if bad else rank)
        return Outcome(tuple(ranks))
