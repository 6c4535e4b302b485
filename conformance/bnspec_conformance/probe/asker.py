"""Questions to a subject: cases inside its scope, and the comparison of answers with declarations."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from bnspec import BatchNormConfig, Dialect, dialects
from bnspec._config import Averaging, GhostSource, NonFinite, SingleValue, SyncWeighting
from bnspec_conformance.cases.case import Array, Case, RankInputs, RankOutcome, as_float64, dtype_named
from bnspec_conformance.probe.answers import Answering, BrokenCase, RefusedCase, Unobservable, answer, roundoff
from bnspec_conformance.probe.findings import Declared, Finding, Observation, Reading, compare
from bnspec_conformance.probe.predict import ProbeState
from bnspec_conformance.subjects import Subject

__all__ = ["Asker"]

#: The options that a configuration chooses and a probe therefore asks for one after the other.
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "correction": (0, 1),
    "averaging": get_args(Averaging),
    "ghost_source": get_args(GhostSource),
    "sync_weighting": get_args(SyncWeighting),
    "single_value": get_args(SingleValue),
    "nonfinite": get_args(NonFinite),
}


@dataclass
class Asker:
    """One subject and what it declares.

    Attributes
    ----------
    subject : Subject
    row : Dialect or None
        The row of `bnspec.dialects` that it declares.
    departures : mapping of str to str
        Conventions, by the names that findings have, in which it declares to differ from the row or the specification.
    group : str
        Of the findings that `judge` makes.
    """

    subject: Subject
    row: Dialect | None
    departures: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    @property
    def dtype(self) -> str:
        """The dtype of x wherever a convention does not depend on it."""
        known = self.subject.scope.dtypes
        return next((d for d in ("float32", "float64") if d in known), known[0])

    @property
    def ndim(self) -> int:
        """The rank of x wherever a convention does not depend on it."""
        return min(self.subject.scope.ndims)

    def judge(
        self,
        convention: str,
        declared: Declared | None,
        measure: Callable[..., Reading],
        *arguments: Any,
        **options: Any,
    ) -> Finding:
        """Measure a convention, by ``measure(ask, *arguments, **options)``, and compare it with what is declared.

        A question that cannot be asked is "not observable", never a pass.
        """
        if convention in self.departures:
            declared = Declared((self.departures[convention],), "subject")
        try:
            reading = measure(self, *arguments, **options)
        except Unobservable as reason:
            reading = Reading((), str(reason), observable=False)
        except RefusedCase as refusal:
            reading = Reading((), f"it refused: {refusal}")
        except BrokenCase as fault:
            reading = Reading((), f"it broke: {fault}")
        return compare(self.group, convention, reading, declared)

    def by_row(self, value_of: Callable[[Dialect], Any]) -> Declared | None:
        """Return the value in the declared row; None where the subject declares no row."""
        return None if self.row is None else Declared((str(value_of(self.row)),), f"row {self.row.name}")

    def row_correction(
        self, *, ndim: int | None = None, dtype: str | None = None, sync: bool = False, size: int | None = None
    ) -> Declared | None:
        """Return the row's correction for this kind of x, which may depend on it; None where the row has no such x.

        Without a row it is the one that is asked for.
        """
        ndim, dtype = ndim or self.ndim, dtype or self.dtype
        axis = 1 if self.subject.scope.takes_axis(1, ndim) else -1
        try:
            if self.row is None:
                return Declared((str(self.config(ndim=ndim, dtype=dtype, sync=sync).correction),), "asked")
            config = self.row.config(rank=ndim, axis=axis, dtype=dtype, sync=sync, virtual_batch_size=size)
        except (TypeError, ValueError, Unobservable):
            return None
        return self.by_row(lambda _: config.correction)

    def choices(self, name: str) -> list[tuple[str, Any, Declared | None]]:
        """Return the values of an option to ask for: a convention's suffix, the value, and what is then to be measured.

        The row's own value comes first and without a suffix. A subject that has only another value is asked for that
        and compared with the row; one without a row is compared with what it was asked for.
        """
        allowed = tuple(self.subject.scope.options.get(name, _CHOICES[name]))
        own = getattr(self.row or dialects.bnspec, name, None)
        first = own if own in allowed else allowed[0]
        told = (None if own is None else self.by_row(lambda _: own)) or Declared((str(first),), "asked")
        others = [
            (f" (asked: {value})", value, Declared((str(value),), "asked")) for value in allowed if value != first
        ]
        return [("", first, told), *others]

    def allows(self, **wanted: Any) -> None:
        """Make sure that options can be asked for.

        Raises
        ------
        Unobservable
            If the scope has other values only.
        """
        for name, value in wanted.items():
            allowed = self.subject.scope.options.get(name)
            if allowed is not None and value not in allowed:
                raise Unobservable(f"it has no {name}={value!r}")

    def config(self, *, ndim: int, dtype: str, sync: bool = False, **wanted: Any) -> BatchNormConfig:
        """Return the row's configuration with what is wanted, as far as the scope has it."""
        row = self.row or dialects.bnspec
        try:
            own = row.config(
                rank=ndim, axis=1 if self.subject.scope.takes_axis(1, ndim) else -1, dtype=dtype, sync=sync,
                virtual_batch_size=wanted.get("virtual_batch_size"),
            )  # fmt: skip
            own = dataclasses.replace(own, **({"epsilon": 0.25, "decay": 0.75} | wanted))
            limits = {k: v for k, v in self.subject.scope.options.items() if v and hasattr(own, k)}
            return dataclasses.replace(own, **{k: v[0] for k, v in limits.items() if getattr(own, k) not in v})
        except (TypeError, ValueError) as refusal:
            raise Unobservable(str(refusal)) from refusal

    def case(
        self, *ranks: Sequence[Sequence[float]], dtype: str | None = None, ndim: int | None = None,
        state: ProbeState | Sequence[ProbeState] | None = None, dy: Sequence[Sequence[Sequence[float]]] | None = None,
        mask: Sequence[Sequence[bool]] | None = None, mode: Any = "batch",
        gamma: Sequence[float] | None = None, beta: Sequence[float] | None = None, **wanted: Any,
    ) -> Case:  # fmt: skip
        """Return a case whose x has the given channels, each a sequence of one number per sample.

        Parameters
        ----------
        *ranks : sequence of columns
            The channels of each rank's x.
        state : ProbeState, or one per channel, optional
            The running state before.
        dy : sequence of columns per rank, optional
        mask : sequence of bool per rank, optional
            One for each sample.
        gamma, beta : sequence of float, optional
            One for each channel; left out where the configuration has no such parameter.
        **wanted
            Fields of the configuration, preferred where the scope has them.
        """
        dtype, ndim = dtype or self.dtype, ndim or self.ndim
        config = self.config(ndim=ndim, dtype=dtype, sync=len(ranks) > 1, **wanted)
        last = config.axis % ndim == ndim - 1

        def put(columns: Sequence[Sequence[Any]], kind: Any) -> Array:
            table = np.asarray([list(c) for c in columns], np.float64).T  # samples by channels
            ones = (1,) * (ndim - 2)
            shape = (table.shape[0], *ones, len(columns)) if last else (table.shape[0], len(columns), *ones)
            return np.ascontiguousarray(table.reshape(shape), kind)  # other memory may be another kernel's

        kind = dtype_named(dtype)
        inputs = tuple(
            RankInputs(
                put(columns, kind),
                None if dy is None else put(dy[i], kind),
                None if mask is None else put([mask[i]], bool),
            )
            for i, columns in enumerate(ranks)
        )
        wide = "float64" if dtype == "float64" else "float32"
        kept = None if state is None else _arrays(state, len(ranks[0]), config, wide)
        made = Case(
            config=config, ranks=inputs, state=kept, mode=mode, update=state is not None and mode == "batch",
            gamma=None if gamma is None or not config.scale else np.asarray(gamma, wide),
            beta=None if beta is None or not config.center else np.asarray(beta, wide),
        )  # fmt: skip
        reason = self.subject.supports(made)
        if reason is not None:
            raise Unobservable(reason)
        return made

    def run(self, case: Case, subject: Answering | None = None) -> tuple[RankOutcome, ...]:
        """Run a case on the subject, or on a layer that it makes, as `answer` does."""
        return answer(self.subject if subject is None else subject, case)

    def accepts(self, case: Case, refusal: RefusedCase) -> None:
        """Make sure that a refusal was of what was asked: that the nearest legal case is accepted.

        Raises
        ------
        RefusedCase
            Where it is refused as well, so that the first refusal says nothing.
        """
        try:
            self.run(case)
        except RefusedCase as other:
            raise RefusedCase(f"{refusal}; and what is legal beside it as well: {other}") from other

    def state(self, case: Case, subject: Answering | None = None) -> dict[str, Array]:
        """Return the running state after a case, that of the first rank."""
        kept = self.run(case, subject)[0].state
        if kept is None or not {"mean", "var"} <= kept.keys():
            raise Unobservable("it returned no running state")
        return kept

    def output(self, case: Case, rank: int = 0) -> Observation:
        """Return y of one rank, channels first: an array (channels, samples)."""
        y = self.run(case)[rank].y
        if y is None:
            raise Unobservable("it returned no y")
        return Observation(np.moveaxis(as_float64(y), case.config.axis, 0).reshape(case.channels, -1), roundoff(y))


def _arrays(
    state: ProbeState | Sequence[ProbeState], channels: int, config: BatchNormConfig, dtype: str
) -> dict[str, Array]:
    each: Sequence[ProbeState] = [state] * channels if isinstance(state, ProbeState) else state
    arrays: dict[str, Array] = {
        name: np.asarray([float(getattr(s, name)) for s in each], dtype) for name in ("mean", "var")
    }
    if config.averaging != "exponential":
        arrays["count"] = np.asarray([s.seen or 0 for s in each], "int64")
    return arrays
