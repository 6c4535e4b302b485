"""Attribution: a wrong output breaks the clauses whose statement is at fault, and no other.

An output may be wrong because its formula is, or because of something that the case has: a mask, say. A control, the
same case without the mask, tells them apart. Where the output is right there, the clause about masks is broken; where
it is wrong there too, the formula's clause is, whether or not the check at hand is one of the formula.
"""

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnspec_conformance.bounds import violations
from bnspec_conformance.cases.case import Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.cases.features import FEATURES, Feature, easy, feature_of, stripped
from bnspec_conformance.cases.outputs import formulas, speaks
from bnspec_conformance.cases.wellformed import complaints
from bnspec_conformance.oracle import exact, float64
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.subjects.time_limit import TooLong, deadline
from bnspec_conformance.trials.under_test import UnderTest

__all__ = ["Control", "Controls", "Size", "array_of"]

#: What a comparison is held against: a simpler case, or another way to the results of the same one.
Control = Case | Callable[[], Outcome]

#: Controls that are none of a feature: the check's own, and a plain case whose numbers are far from 0.
_OWN, _EASY = "the check's own control", "an easy case"

#: The clauses about roundings, and the relative error of a number that is cut to the 8 bits of bfloat16.
_PRECISION, _CUT = "BN-PREC-", 2.0**-7

#: What an element must exceed its bound by to tell an error: next to 0 everything is right.
_TELLS = 2.0**5

#: The factor that two errors of one fault may lie apart. A rounding that is just inside its bound in the control and
#: just outside it in the case has nothing to do with what the case has besides.
_ALIKE = 8.0


@dataclass(frozen=True)
class Size:
    """Size of an error.

    Attributes
    ----------
    share : float
        The error as a share of its bound; infinite where there is no number.
    lost : bool
        Whether NaN or an infinity stands where a finite number is expected.
    """

    share: float = math.inf
    lost: bool = False

    @staticmethod
    def of(where: Mapping[str, Any]) -> "Size":
        """Take the size from the details of a violation.

        Parameters
        ----------
        where : mapping
            With got, expected, error and bound, or without any of them.
        """
        if "got" not in where:
            return Size()
        error, bound = float(where["error"]), float(where["bound"])
        lost = math.isfinite(where["expected"]) and not math.isfinite(where["got"])
        return Size(error / bound if bound > 0 and math.isfinite(error) else math.inf, lost)


@dataclass
class Controls:
    """The controls of one case of one subject, each run once and only when it is asked for.

    Attributes
    ----------
    trial : UnderTest
    case : Case
        In which an output is wrong.
    given : Case, callable or None
        The check's own control.
    """

    trial: UnderTest
    case: Case
    given: Control | None = None
    _ran: dict[str, tuple[Case, Outcome | None] | None] = field(default_factory=dict)

    def blamed(self, output: str, cited: Sequence[str], size: Size | None = None) -> tuple[str, ...]:
        """Name the clauses that are broken where this output of the case is wrong.

        Parameters
        ----------
        output : str
            Such as "y" or "state.mean".
        cited : sequence of str
            The clauses of the check. Others may be blamed: then those of the check could not be tested.
        size : Size, optional
            How far the output is off; by default too far for a rounding.
        """
        case, size = self.case, size or Size()
        own = [clause for clause in formulas(case, output) if clause in cited]
        others = [clause for clause in cited if clause not in own and speaks(clause, case, output)]
        if self.given is not None:
            coarse = bool(others) and all(clause.startswith(_PRECISION) for clause in others)
            if self._right(_OWN, output, size, coarse=coarse) is not False:
                return tuple(others or own or formulas(case, output)[:1])
            if isinstance(self.given, Case):
                return Controls(self.trial, self.given).blamed(output, own, size)
            others = []
        about = [clause for clause in others if self._is_about(clause, output, size)]
        if about or own:
            return tuple(about or own)
        return self._elsewhere(output, others, size)

    def is_wrong_on_ordinary(self, output: str) -> bool:
        """Return whether an output is wrong in a plain case with ordinary numbers too."""
        return self._right(_EASY, output, Size()) is False

    def _is_about(self, clause: str, output: str, size: Size) -> bool:
        """Return whether the output is right in the case without the feature that the clause is about."""
        feature = feature_of(clause, self.case)
        coarse = clause.startswith(_PRECISION)
        return feature is not None and self._right(feature.name, output, size, coarse=coarse) is not False

    def _elsewhere(self, output: str, candidates: Sequence[str], size: Size) -> tuple[str, ...]:
        """Name the clause of a formula or a feature that the check is not about."""
        formula = formulas(self.case, output)[:1]
        present = [feature for feature in FEATURES if feature.has(self.case)]
        if not present or self._right("", output, size) is False:
            return formula
        for feature in present:
            if self._right(feature.name, output, size) is True:
                return feature.by_output.get(output, feature.by_output.get(output.split(".")[0], formula))
        return tuple(candidates) or formula

    def _right(self, control: str, output: str, size: Size, *, coarse: bool = False) -> bool | None:
        """Return whether an output is right in a control, or None if nothing tells.

        Right is an error within its bound that is far smaller than that of the case besides, so that it does not
        explain it. A clause about precision is about roundings, and not cleared by a control that is off by one too:
        `coarse`.

        Parameters
        ----------
        control : str
            A feature, "" for a plain batch, or another one.
        output : str
        size : Size
            Of the error in the case.
        coarse : bool
        """
        if control not in self._ran:
            self._ran[control] = self._run(control)
        ran = self._ran[control]
        if ran is None:
            return None
        case, outcome = ran
        found = Size() if outcome is None else _size(self.trial, case, outcome, output, _CUT if coarse else 0.0)
        if found is None:  # nothing would show there: the formula is asked itself
            asked = control != _EASY and self._right(_EASY, output, size, coarse=coarse) is False
            return False if asked else None
        if found.share > 1:
            return control == _OWN and outcome is not None and size.lost and not found.lost
        same = case.ranks[0].x.dtype == self.case.ranks[0].x.dtype
        return coarse or not same or size.share > _ALIKE * found.share

    def _run(self, control: str) -> tuple[Case, Outcome | None] | None:
        """A control and its outcome; no outcome where it failed, nothing where the subject does not take it."""
        if self.given is not None and control == _OWN:
            if not isinstance(self.given, Case):
                return self.case, _quietly(self.given, self.trial.limit)
            cases: tuple[Case, ...] = (self.given,)
        elif control == _EASY:
            cases = (easy(self.given if isinstance(self.given, Case) else self.case),)
        elif control:
            cases = _without(next(f for f in FEATURES if f.name == control), self.case)
        else:
            cases = (stripped(self.case),)
        for case in map(self.trial.fit, cases):
            if self.trial.can_run(case):
                try:
                    return case, _quietly(functools.partial(self.trial.subject.run, case), self.trial.limit)
                except NotSupported:
                    continue
        return None


def array_of(outcome: RankOutcome, output: str) -> Any:
    """An output of a rank by its name, or None."""
    name, _, key = output.partition(".")
    held = getattr(outcome, name)
    return (held or {}).get(key) if key else held


def _without(feature: Feature, case: Case) -> tuple[Case, ...]:
    made = feature.without(case)
    return made if isinstance(made, tuple) else (made,)


def _quietly(run: Callable[[], Any], seconds: float) -> Outcome | None:
    """An outcome, or None where there was none within the deadline; nothing of what went wrong."""
    try:
        with warnings.catch_warnings(), deadline(seconds):
            warnings.simplefilter("ignore")
            found = run()
    except NotSupported:
        raise
    except (Exception, SystemExit, TooLong):
        return None
    return found if isinstance(found, Outcome) else None


def _size(trial: UnderTest, case: Case, outcome: Outcome, output: str, rounding: float) -> Size | None:
    """Return how far an output is off, a relative rounding aside; None if nothing shows it."""
    formless = {each.output for each in complaints(outcome, case, trial.subject.scope, ()) if not each.clause}
    if formless & {"", output}:
        return Size()
    reference = float64(case) if case.recipe else exact(case)  # of small integers, one is as good as the other
    allowed = trial.bounds(case, reference)
    told, largest, lost = False, 0.0, False
    for got, want, bound in zip(outcome.ranks, reference.ranks, allowed.ranks):
        names = [f"state.{key}" for key in want.state or {}] if output == "state" else [output]
        for name in names:
            value, expected, limit = (array_of(o, name) for o in (got, want, bound))
            if expected is None or limit is None:
                continue
            if value is None or value.shape != expected.shape:
                return Size()
            whole = np.issubdtype(value.dtype, np.integer)
            statistic = output not in ("y", "dx", "ydot", "dgamma", "dbeta")
            there = as_float64(value)
            with np.errstate(all="ignore"):
                limit = np.broadcast_to(np.asarray(limit, np.float64), expected.shape)
                told |= bool(np.any(np.isfinite(expected) & (np.abs(expected) > _TELLS * limit)))
                limit = np.where(np.isfinite(expected), limit + rounding * np.abs(expected), limit)
                share = np.abs(there - expected) / limit
            wrong = (
                there != expected if whole else violations(value, expected, limit, value.dtype, any_nonfinite=statistic)
            )
            lost |= bool(np.any(np.isfinite(expected) & ~np.isfinite(there) & wrong))
            if np.any(wrong):
                off = share[wrong]
                largest = max(largest, float(np.max(np.where(np.isfinite(off) & (off > 1), off, np.inf))))
            elif not whole and np.any(np.isfinite(share)):
                largest = max(largest, float(min(1.0, np.max(share[np.isfinite(share)]))))
    return Size(largest, lost) if told or largest > 1 else None
