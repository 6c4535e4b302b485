"""What a check does with a subject: run cases, compare, and report a violation so that one can act on it.

A check is a function ``(t, drawn)`` of a `Trial`; `trials.explore` makes it a test that Hypothesis feeds.
"""

import collections
import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bnspec_conformance.bounds import bounds, violations
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64
from bnspec_conformance.cases.reach import counts_of, reached
from bnspec_conformance.cases.wellformed import complaints
from bnspec_conformance.oracle import exact
from bnspec_conformance.run import underway
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.subjects.process import ProgramError
from bnspec_conformance.trials.attribution import Control, Controls, Size
from bnspec_conformance.trials.outputs import output_named, speaks
from bnspec_conformance.trials.record import Worst
from bnspec_conformance.trials.time_limit import PATIENCE, TooLong, deadline
from bnspec_conformance.trials.violation import Found, Violation, in_ulps, violation
from bnspec_conformance.trials.worlds import ThreadWorld, World

__all__ = ["Budget", "NeverSupported", "NotSupported", "Trial", "Violation", "must_be_refused"]

_STATISTICS = ("mean", "var", "mean_dot", "var_dot", "state")


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long to look.

    Attributes
    ----------
    examples : int or None
        Cases per check; None is the subject's own number.
    seed : int
        What they are drawn from.
    shrink : bool
        Whether to look for the smallest case that fails, rather than the first.
    deadline : float
        Seconds that the subject may take for one case.
    """

    examples: int | None = None
    seed: int = 0
    shrink: bool = True
    deadline: float = PATIENCE


class NeverSupported(NotSupported):
    """No case of a check can be run; there is no point in drawing another."""


@dataclasses.dataclass
class Trial:
    """One subject under the clauses of one check, and what came of it so far.

    Attributes
    ----------
    worst : Worst or None
        The largest error as a share of its bound.
    cases : int
        Cases that were run.
    compared : int
        Arrays with elements that were compared.
    informative : bool
        Whether what was expected in them had more than one value.
    reached : Counter
        How many cases had each of `reach.FEATURES`.
    found : Found
        Every violation that was seen.
    """

    subject: Subject
    clauses: tuple[str, ...]
    budget: Budget = Budget()
    worst: Worst | None = None
    cases: int = 0
    compared: int = 0
    informative: bool = False
    _value: float | None = None
    reached: "collections.Counter[str]" = dataclasses.field(default_factory=collections.Counter)
    found: Found = dataclasses.field(init=False)
    _outcomes: "collections.deque[Outcome]" = dataclasses.field(default_factory=lambda: collections.deque(maxlen=8))

    def __post_init__(self) -> None:
        self.found = Found(self.clauses)

    @property
    def examples(self) -> int:
        """How many examples a check is given that asks for its full share."""
        return self.budget.examples or self.subject.examples

    @property
    def limit(self) -> float:
        """Seconds for one case. A subject that keeps a deadline of its own gets time to find that it was missed."""
        own: float | None = getattr(self.subject, "patience", None)
        return self.budget.deadline if own is None else own

    def run(self, case: Case) -> Outcome:
        """Run a case that the specification allows, less the derivatives and the state that are out of scope."""
        __tracebackhide__ = True
        case = self.subject.scope.fit(case)
        reason = self._reason(case)
        if reason is not None:
            raise NotSupported(reason)
        self.cases += 1
        self.reached.update(reached(case))
        underway.case(case)
        given = [(name, array, array.copy()) for name, array in _arrays(case)]
        try:
            with warnings.catch_warnings(), deadline(self.limit):  # a subject may warn; only its results count
                warnings.simplefilter("ignore")
                outcome = self.subject.run(case)
        except NotSupported:
            raise
        except TooLong as error:
            raise self._broken(str(error), case) from error
        except (Exception, SystemExit) as error:
            raise self._broken(f"raised {type(error).__name__}: {error}", case) from error
        for name, array, before in given:
            if array.tobytes() != before.tobytes():
                array[...] = before
                self.breach(f"wrote to the array {name} that it was given [BN-SHAPE-3]", case, proves=("BN-SHAPE-3",))
        formed = self._well_formed(outcome, case, [array for _, array, _ in given])
        self._outcomes.append(formed)
        return formed

    def _well_formed(self, outcome: Any, case: Case, given: list[Array]) -> Outcome:
        """The outcome without what has the wrong form, which is a violation of its own."""
        __tracebackhide__ = True
        ranks: list[RankOutcome] = []
        with self.found.gathering():
            found = complaints(outcome, case, self.subject.scope, given)
            for each in found:
                if not each.output:
                    raise self._broken(each.problem, case)
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

    def fit(self, case: Case) -> Case:
        """The case without the derivatives and the state that are out of scope, as `run` runs it."""
        return self.subject.scope.fit(case)

    def takes(self, case: Case) -> bool:
        """Whether a case is in scope, derivatives and state aside."""
        return self._reason(self.fit(case)) is None

    def inside(self, cases: Iterable[Case]) -> list[Case]:
        """Those of some cases that are in scope.

        Raises
        ------
        NotSupported
            If that is none.
        """
        given = list(cases)
        found = [case for case in given if self.takes(case)]
        if not found:
            raise NotSupported(self._reason(self.subject.scope.fit(given[0])) or "no case is in its scope")
        return found

    def _reason(self, case: Case) -> str | None:
        """None, or why a case cannot be run."""
        outside = self.subject.scope.reason(case) if self.subject.scope.declared else None
        if outside is not None:
            return outside
        if must_be_refused(case) and self.subject.backend is None:
            return "it is to refuse one value per channel"
        try:
            reason = self.subject.supports(case)
        except Exception as error:
            raise self._broken(f"supports() raised {type(error).__name__}: {error}", case) from error
        return None if reason is None else str(reason)

    def can_run(self, case: Case) -> bool:
        """Whether a control can be run; what goes wrong on the way is no violation."""
        outside = self.subject.scope.reason(case) if self.subject.scope.declared else None
        if outside is not None or (must_be_refused(case) and self.subject.backend is None):
            return False
        try:
            return self.subject.supports(case) is None
        except Exception:
            return False

    def bounds(self, case: Case, reference: Outcome, *, strict: bool = False) -> Outcome:
        """How far this subject's results may lie from the reference; `strict` overrules what it declares."""
        plain = self.subject.bound == "plain" and not strict
        return bounds(case, reference, self.subject.arithmetic, self.subject.flushes, plain=plain)

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
            Of the case; by default it is run. What was found in another way, by a layer for instance, is held against
            the run: where that is off too, the formula is at fault and not that way.
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
        case = self.subject.scope.fit(case)
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

    def _field(
        self, case: Case, rank: int, field: str, got: RankOutcome, want: RankOutcome, bound: RankOutcome, **blame: Any
    ) -> bool | None:
        """Compare one field; whether there was anything to compare, or None where the subject returned nothing."""
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

        Further arguments say which clauses break, as those of `breach`.
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
        bound = np.broadcast_to(np.asarray(bound, dtype=np.float64), want.shape)
        wrong = violations(got, want, bound, got.dtype, any_nonfinite=statistic)
        with np.errstate(all="ignore"):
            error = np.abs(as_float64(got) - want)
            share = np.where(np.isfinite(error) & (bound > 0), error / np.where(bound > 0, bound, 1), 0.0)
        self._note(want)
        if not np.any(wrong):
            if share.size and (self.worst is None or float(np.max(share)) > self.worst.share):
                at = tuple(int(i) for i in np.unravel_index(int(np.argmax(share)), share.shape))
                off, allowed = (in_ulps(float(v[at]), float(want[at]), got.dtype) for v in (error, bound))
                self.worst = Worst(float(share[at]), off, allowed, what, case.describe())
            return
        rank_of = np.where(wrong, np.where(np.isfinite(error), share, np.inf), -1.0)
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(rank_of)), wrong.shape))
        here = float(as_float64(got)[index]), float(want[index]), float(bound[index])
        self.breach(
            f"{what} is off" + (f" on rank {rank}" if len(case.ranks) > 1 else ""),
            case,
            **blame,
            what=what,
            rank=rank,
            index=index,
            got=here[0],
            expected=here[1],
            error=abs(here[0] - here[1]),
            bound=here[2],
            error_ulp=in_ulps(here[0] - here[1], here[1], got.dtype),
            bound_ulp=in_ulps(here[2], here[1], got.dtype),
        )

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

    def _same_array(self, got: Array, want: Array, what: str, case: Case | None, **blame: Any) -> None:
        __tracebackhide__ = True
        if got.shape != want.shape or got.dtype != want.dtype:
            self.breach(f"{what} is {got.dtype}{got.shape} and {want.dtype}{want.shape}", case, **blame)
            return
        self._note(want)
        a, b = as_float64(got), as_float64(want)
        differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        if not np.any(differs):
            return
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(differs)), differs.shape))
        with np.errstate(all="ignore"):
            error = float(a[index] - b[index])
        self.breach(
            f"{what} is not the same to the bit",
            case,
            **blame,
            what=what,
            rank=0,
            index=index,
            got=float(a[index]),
            expected=float(b[index]),
            error=abs(error),
            bound=0.0,
            error_ulp=in_ulps(error, float(b[index]), got.dtype),
            bound_ulp=0.0,
        )

    def require(self, condition: bool, otherwise: str, case: Case | None = None, **blame: Any) -> None:
        """Require a plain fact; without it every clause of the check breaks, or those that `breach` is told."""
        __tracebackhide__ = True
        if not condition:
            self.breach(otherwise, case, **blame)

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
            raise self._broken(
                f"refused with {type(error).__name__} instead of {kinds}: {error}", None, proves=proves
            ) from error
        raise self._broken(f"did not refuse what {clause} forbids", None, proves=proves)

    def is_right(self, case: Case, *outputs: str) -> bool:
        """Whether outputs of a case are within their bounds; one that is not breaks its own formula's clause."""
        before = len(self.found.here)
        self.agree(case, *outputs, proves=())
        return len(self.found.here) == before

    def rejects(self, case: Case, kinds: type[Exception] | tuple[type[Exception], ...], clause: str) -> str:
        """Require that the subject refuses a case; ours in the specification's form, others in their own words."""
        __tracebackhide__ = True
        case = self.subject.scope.fit(case)
        reason = self.subject.scope.reason(case) if self.subject.scope.declared else None
        reason = self.subject.supports(case) if reason is None else reason
        if reason is not None:
            raise NotSupported(str(reason))
        if self.subject.backend is not None:
            return self.refuses(lambda: self.subject.run(case), kinds, clause)
        self.cases += 1
        self.reached.update(reached(case))
        underway.case(case)
        try:
            with warnings.catch_warnings(), deadline(self.limit):
                warnings.simplefilter("ignore")
                self.subject.run(case)
        except NotSupported:
            raise
        except TooLong as error:
            raise self._broken(str(error), case) from error
        except (ProgramError, NotImplementedError) as error:  # a crash refuses nothing
            raise self._broken(f"raised {type(error).__name__}: {error}", case) from error
        except Exception as error:
            return str(error)
        raise self._broken(f"did not refuse what {clause} forbids", case)

    def beside(self, **changes: Any) -> "Trial":
        """Another trial of the same check on a subject that differs in some fields; what it finds is found here."""
        other = Trial(dataclasses.replace(self.subject, **changes), self.clauses, budget=self.budget)  # type: ignore[type-var]
        other.found = self.found
        return other

    def absorb(self, other: "Trial") -> None:
        """Count what another trial of the same check found as one's own."""
        self.cases += other.cases
        self.compared += other.compared
        self.informative |= other.informative
        self.reached.update(other.reached)
        if other.worst is not None and (self.worst is None or other.worst.share > self.worst.share):
            self.worst = other.worst

    def broken(self, problem: str) -> Violation:
        """A violation of every clause of the check that no case shows."""
        return self._broken(problem, None)

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
            What is wrong, in words.
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
            What `violation` takes further.
        """
        __tracebackhide__ = True
        clauses = self._blamed(case, output, proves, control, controls, Size.of(where))
        self.found.keep(violation(self.subject, clauses, problem, case, **where))

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

    def _broken(self, problem: str, case: Case | None, *, proves: tuple[str, ...] | None = None) -> Violation:
        """A violation to be raised; it counts even if what it ends is caught."""
        made = violation(self.subject, proves or self.clauses, problem, case)
        with contextlib.suppress(Violation):
            self.found.keep(made)
        return made

    def _note(self, expected: Any) -> None:
        """Count a comparison, and whether all of them together could have told anything."""
        values = as_float64(expected).ravel()
        self.compared += bool(values.size)
        if values.size and not self.informative:
            self._value = float(values[0]) if self._value is None else self._value
            self.informative = bool(np.any(values != self._value))

    def needs_backend(self) -> Any:
        """bnspec's backend of this subject, for clauses about bnspec's own layers."""
        if self.subject.backend is None:
            raise NeverSupported("only bnspec's own backends have its layers")
        return self.subject.backend

    def needs_ranks(self, size: int) -> World:
        """Where ranks of bnspec run, for clauses about their messages."""
        self.needs_backend()
        world: World = getattr(self.subject, "world", None) or ThreadWorld()
        if world.size < size:
            raise NeverSupported(f"it runs at most {world.size} ranks")
        return world


def must_be_refused(case: Case) -> bool:
    """Whether BN-RUN-4 wants an error: one value per channel in a group that feeds the state."""
    config = case.config
    feeds = case.state is not None and case.update and case.mode == "batch" and config.correction == 1
    return feeds and config.single_value == "raise" and 1 in counts_of(case)


def _arrays(case: Case) -> list[tuple[str, Array]]:
    """Every array of a case, by name."""
    found: list[tuple[str, Any]] = [(n, getattr(case, n)) for n in ("gamma", "beta", "gamma_dot", "beta_dot")]
    found += [(f"state.{k}", v) for k, v in (case.state or {}).items()]
    for rank in case.ranks:
        found += [(f.name, getattr(rank, f.name)) for f in dataclasses.fields(rank)]
    for name in ("dmean", "dvar"):
        found += [(name, v) for v in getattr(case, name) or ()]
    return [(name, array) for name, array in found if array is not None]
