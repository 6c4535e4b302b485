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
from bnspec_conformance.trials.violations.attribution import Controls
from bnspec_conformance.trials.violations.breaches import Breaches

__all__ = ["CaseRunner"]


@dataclasses.dataclass
class CaseRunner(Breaches):
    """Subject under test that is given cases."""

    def takes(self, case: Case) -> bool:
        """Return whether a case is in scope, derivatives and state aside."""
        return self._reason(self.fit(case)) is None

    def asks(self, part: str, case: Case, *clauses: str) -> bool:
        """Return whether a part of the check can be asked by a case; a part that no case asks is reported as left out.

        Parameters
        ----------
        part : str
            Its name, the same for every case of the check.
        case : Case
        *clauses : str
            The clauses that it proves; by default every one of the check.
        """
        return self.leaves_out(part, self._reason(self.fit(case)), *clauses) is False

    def leaves_out(self, part: str, reason: str | None, *clauses: str) -> bool:
        """Note whether a part of the check was asked, or why not; return whether there is such a reason."""
        self.evidence.note_part(part, clauses or self.clauses, reason)
        return reason is not None

    def inside(self, cases: Iterable[Case]) -> list[Case]:
        """Return the cases that are in scope, less what the subject does not deal in: references are made of these.

        Raises
        ------
        NotSupported
            If there is none.
        """
        given = list(cases)
        found = [self.fit(case) for case in given if self.takes(case)]
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
        reason = self._beyond(case)
        if reason is not None:
            raise NotSupported(reason)
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

    def turns_away(self, what: str, case: Case, clause: str) -> bool:
        """Require an error for a case that a clause has refused, and that nothing that was given is written.

        The case need not be in scope. Over a pipe the program's report of an error of its own will do; a crash, numbers
        or silence will not. Ours name the clause.

        Returns
        -------
        bool
            Whether it was refused; False where the subject cannot be given it, which is noted as a part left out.
        """
        __tracebackhide__ = True
        self.evidence.count_refusal(case)
        given = [(name, array, array.tobytes()) for name, array in named_arrays(case)]
        said, wrong = "", ""
        try:
            self.execute(case)
            wrong = "answered as if nothing were wrong with"
        except NotSupported as reason:
            return not self.leaves_out(what, str(reason), clause)
        except TooLong as error:
            wrong = f"{error}, for"
        except ProgramError as error:
            said, wrong = str(error), "" if error.answered else f"raised ProgramError: {error}, for"
        except (NotImplementedError, SystemExit) as error:
            wrong = f"raised {type(error).__name__}: {error}, for"
        except Exception as error:
            said = str(error)
        if self.subject.backend is not None and not wrong and not (f"[{clause}]" in said and "; expected " in said):
            wrong = f"did not name {clause} but said {said!r} of"
        if wrong:
            raise self.breakdown(
                f"{wrong} {what}, which {clause} has refused: {case.describe()}", None, proves=(clause,)
            )
        for name, array, before in given:
            written = f"wrote to the array {name} when it refused {what}"
            self.require(array.tobytes() == before, written, None, proves=(clause,))
        self.leaves_out(what, None, clause)
        return True

    def can_refuse(self, case: Case, part: str = "the refusal") -> bool:
        """Return whether a case that is to be refused can be given to the subject, as `asks` does of any other."""
        return not self.leaves_out(part, self._beyond(self.fit(case)))

    def _beyond(self, case: Case) -> str | None:
        """Return None, or why a case that is to be refused cannot be given to the subject."""
        reason = self.subject.scope.reason(case) if self.subject.scope.declared else None
        reason = self.subject.supports(case) if reason is None else reason
        return None if reason is None else str(reason)

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
