"""Judges one result: every output against what is expected, and relations between results."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds import ulps, violations
from bnspec_conformance.bounds.declared import BEYOND_PROMISE, Evaluation, gradients_in_float32
from bnspec_conformance.cases.case import RankOutcome, dtype_named
from bnspec_conformance.cases.codecs.codec import BadData
from bnspec_conformance.vectors.given import given_values
from bnspec_conformance.vectors.hex import unhexed
from bnspec_conformance.vectors.sets.wider import STRICT, wider_bounds

__all__ = ["Judgement", "Judge", "Status", "flattened", "values"]

Floats = npt.NDArray[np.float64]
Status = Literal["passed", "failed", "untested", "not supported"]

_FIELDS = tuple(f.name for f in dataclasses.fields(RankOutcome))
_KINDS = {"ranks", "refused", "unsupported", "error"}
_STATE = ("mean", "var", "count", "stddev", "renorm_mean", "renorm_stddev")
_LIKE_X = ("y", "dx", "ydot", "dgamma", "dbeta")


@dataclass(frozen=True)
class Judgement:
    """Judgement of one output, one relation or one refusal.

    Attributes
    ----------
    case : str
    clauses : tuple of str
    outcome : str
    what : str
        The output, with its rank where there are several; or the relation.
    text : str
        The fault, or why it was not looked at.
    index : list of int or None
        Where the worst element is; with it got, expected and bound.
    error_ulp, bound_ulp : float
        Of the worst element, in units of the last place of the output's dtype.
    share : float
        Its error as a share of its bound.
    """

    case: str
    clauses: tuple[str, ...]
    outcome: Status
    what: str
    text: str = ""
    index: list[int] | None = None
    got: float = 0.0
    expected: float = 0.0
    bound: float = 0.0
    error_ulp: float = 0.0
    bound_ulp: float = 0.0
    share: float = 0.0


@dataclass
class Judge:
    """Judges results by the bounds of what a port declares.

    Attributes
    ----------
    arithmetic : {"float64", "twofold", "float32"}
    flushes : bool
        Whether cases with subnormal numbers count as not supported; in others they count as 0.
    bound : {"strict", "plain"}
    evaluation : Evaluation
    known : dict
        Values that were read, by case, rank and output: for relations.
    beyond : set of str
        Cases that the port does not support: for relations.
    """

    arithmetic: Literal["float64", "twofold", "float32"]
    flushes: bool = False
    bound: Literal["strict", "plain"] = "strict"
    evaluation: Evaluation = dataclasses.field(default_factory=dict)
    known: dict[tuple[str, int, str], Floats] = dataclasses.field(default_factory=dict)
    beyond: set[str] = dataclasses.field(default_factory=set)
    _wider: dict[str, list[dict[str, Floats]]] = dataclasses.field(default_factory=dict)

    def case(self, case: dict[str, Any], result: Any) -> Iterator[Judgement]:
        """Yield the findings of one case; `result` is None where there is none."""
        for finding in self._case(case, result):
            if finding.outcome == "not supported":
                self.beyond.add(finding.case)
            yield finding

    def _case(self, case: dict[str, Any], result: Any) -> Iterator[Judgement]:
        name, clauses, what = case["id"], tuple(case["clauses"]), "the case"
        if result is None:
            yield Judgement(name, clauses, "untested", what, "it has no result")
        elif not isinstance(result, dict) or len(result.keys() & _KINDS) != 1:
            text = f"it is {_short(result)}; expected an object with one of {', '.join(sorted(_KINDS))}"
            yield Judgement(name, clauses, "failed", what, text)
        elif "error" in result:
            yield Judgement(name, clauses, "failed", what, f"it broke: {_short(result['error'])}")
        elif "unsupported" in result:
            yield Judgement(name, clauses, "not supported", what, _short(result["unsupported"]))
        elif self.flushes and "subnormal" in case["flags"]:
            yield Judgement(name, clauses, "not supported", what, "it flushes subnormal numbers, as declared")
        elif case["expect"] == "refused":
            if "refused" in result:
                yield Judgement(name, clauses, "passed", "the refusal")
            else:
                yield Judgement(name, clauses, "failed", "the refusal", "it was not refused: there are results")
        elif "refused" in result:
            yield Judgement(name, clauses, "failed", what, f"it was refused: {_short(result['refused'])}")
        else:
            yield from self._outputs(case, result["ranks"])

    def _outputs(self, case: dict[str, Any], ranks: Any) -> Iterator[Judgement]:
        name, want = case["id"], case["outputs"]
        if not isinstance(ranks, list) or len(ranks) != len(want) or not all(isinstance(r, dict) for r in ranks):
            count = len(ranks) if isinstance(ranks, list) else _short(ranks)
            text = f"ranks is {count}; expected a list of {len(want)} objects"
            yield Judgement(name, tuple(case["clauses"]), "failed", "the case", text)
            return
        for number, (given, outputs) in enumerate(zip(ranks, want)):
            on = f" on rank {number}" if len(want) > 1 else ""
            state = given.get("state")
            if state is not None and not isinstance(state, dict):
                text = f"it is {_short(state)}; expected an object of arrays"
                yield Judgement(name, tuple(case["clauses"]), "failed", f"state{on}", text)
                state = None
            for odd, known, before in ((given, _FIELDS, ""), (state or {}, _STATE, "state.")):
                unknown = sorted(set(odd) - set(known))
                if unknown:
                    text = f"there is no such output; expected some of {', '.join(known)}"
                    yield Judgement(name, tuple(case["clauses"]), "failed", f"{before}{_short(unknown[0])}{on}", text)
            flat = {k: v for k, v in given.items() if k != "state"}
            flat |= {f"state.{k}": v for k, v in (state or {}).items()}
            for output, expected in flattened(outputs).items():
                yield self._output(case, number, output, expected, flat.get(output), f"{output}{on}")

    def _output(
        self, case: dict[str, Any], rank: int, output: str, want: dict[str, Any], given: Any, what: str
    ) -> Judgement:
        name, clauses = case["id"], tuple(want["clauses"])
        if given is None:
            return Judgement(name, clauses, "untested", what, "it was not returned")
        if "BN-GRAD-8" in clauses and gradients_in_float32(want["dtype"], self.arithmetic, self.evaluation):
            return Judgement(name, clauses, "not supported", what, BEYOND_PROMISE)
        dtype = self.dtype(want)
        try:
            got = given_values(given, dtype, tuple(want["shape"]), what, loose=want["dtype"] == "W")
        except BadData as error:
            return Judgement(name, clauses, "failed", what, str(error))
        self.known[name, rank, output] = got
        bound = self.bounds(case, rank, output, want)
        return _compared(name, clauses, what, got, values(want), bound, dtype, output not in _LIKE_X)

    def relation(self, case: dict[str, Any], other: dict[str, Any], relation: dict[str, Any]) -> Judgement:
        """Return the finding of one relation, if both sides were read."""
        name, clauses = case["id"], tuple(relation["clauses"])
        what = f"{relation['kind']}, {relation['equal']}, with {relation['with']}"
        if {name, other["id"]} & self.beyond:
            return Judgement(name, clauses, "not supported", what, "a case of it is not supported")
        worst = Judgement(name, clauses, "untested", what, "a result of it is missing")
        for pair in relation["pairs"]:
            sides: list[tuple[Floats, Floats, dict[str, Any]] | None] = []
            for holder, prefix in ((case, ""), (other, "with_")):
                output, rank = pair[f"{prefix}output"], pair[f"{prefix}rank"]
                read = self.known.get((holder["id"], rank, output))
                want = flattened(holder["outputs"][rank])[output]
                take = pair.get(f"{prefix}take", range(int(np.prod(want["shape"], dtype=np.int64))))
                if read is None:
                    sides.append(None)
                else:
                    bound = self.bounds(holder, rank, output, want).ravel()[take]
                    sides.append((read.ravel()[take], bound, want))
            mine, its = sides
            if mine is None or its is None:
                continue
            allowed = np.zeros(mine[0].shape) if relation["equal"] == "to the bit" else mine[1] + its[1]
            found = _compared(
                name, clauses, what, mine[0], its[0], allowed, self.dtype(mine[2]), pair["output"] not in _LIKE_X
            )
            if found.outcome == "failed":
                rank = f" on rank {pair['rank']}" if len(case["outputs"]) > 1 else ""
                return dataclasses.replace(found, text=f"{pair['output']}{rank} is not equal")
            worst = found if worst.outcome == "untested" or found.share > worst.share else worst
        return worst

    def dtype(self, want: dict[str, Any]) -> np.dtype[Any]:
        """Return the dtype that an output is rounded to."""
        if want["dtype"] != "W":
            return dtype_named(want["dtype"])
        return np.dtype("float32" if self.arithmetic == "float32" and "bounds_float32" in want else "float64")

    def bounds(self, case: dict[str, Any], rank: int, output: str, want: dict[str, Any]) -> Floats:
        """Return the bounds of an output; those of float64 hold for float64 x in every arithmetic.

        Declarations beyond the arithmetic widen them, except where roundoffs are counted or no error is allowed.
        """
        key = "bounds_float32" if self.arithmetic == "float32" and "bounds_float32" in want else "bounds"
        strict = np.array([unhexed(v) for v in want[key]], dtype=np.float64).reshape(want["shape"])
        as_specified = self.bound == "strict" and not self.flushes and not self.evaluation
        as_specified = as_specified and self.arithmetic != "twofold"
        if as_specified or not STRICT.isdisjoint(want["clauses"]) or not np.any(strict):
            return strict
        if case["id"] not in self._wider:
            self._wider[case["id"]] = wider_bounds(
                case,
                self.arithmetic,
                evaluation=self.evaluation,
                plain=self.bound == "plain",
                flushes=self.flushes,
            )
        return np.maximum(strict, self._wider[case["id"]][rank][output])


def flattened(outputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the outputs of a rank by name, those of the state as "state.mean" and so on."""
    flat = {k: v for k, v in outputs.items() if k != "state"}
    return flat | {f"state.{k}": v for k, v in outputs.get("state", {}).items()}


def values(want: dict[str, Any]) -> Floats:
    """Return the expected values."""
    data = [float(v) if isinstance(v, int) else unhexed(v) for v in want["data"]]
    return np.array(data, dtype=np.float64).reshape(want["shape"])


def _compared(
    case: str,
    clauses: tuple[str, ...],
    what: str,
    got: Floats,
    want: Floats,
    bound: Floats,
    dtype: np.dtype[Any],
    statistic: bool,
) -> Judgement:
    """Compare elementwise; the worst element is told of either way."""
    whole = dtype.kind in "iu"
    exact = bool(np.all(bound == 0))
    with np.errstate(all="ignore"):
        if whole:
            wrong = got != want
        else:
            wrong = violations(got, want, bound, dtype, any_nonfinite=statistic and not exact)
        error = np.abs(got - want)
        share = np.where(np.isfinite(error) & (bound > 0), error / np.where(bound > 0, bound, 1), 0.0)
    if not got.size:
        return Judgement(case, clauses, "passed", what)
    if np.any(wrong):
        score = np.where(wrong, np.where(np.isfinite(error), share, np.inf), -1.0)
    else:  # nothing is measured where the answer is not finite
        score = np.where(np.isfinite(error) & np.isfinite(bound), share, -1.0)
        if np.all(score < 0):
            return Judgement(case, clauses, "passed", what)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(score)), got.shape))
    here, there, room = float(got[index]), float(want[index]), float(bound[index])

    def in_ulps(size: float) -> float:
        known = np.isfinite(size) and np.isfinite(there) and not whole
        return float(ulps(size, there, dtype)) if known else float("inf") if not np.isfinite(size) else size

    return Judgement(
        case,
        clauses,
        "failed" if np.any(wrong) else "passed",
        what,
        f"{int(np.sum(wrong))} of {got.size} elements are off" if np.any(wrong) else "",
        list(index),
        here,
        there,
        room,
        in_ulps(float(error[index])),
        in_ulps(room),
        float(share[index]) if np.isfinite(error[index]) else float("inf"),
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
