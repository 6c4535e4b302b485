"""Expected outputs of a vector: the exact answer of each, and how far a result may lie from it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds import bounds, hard_bound
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome, as_float64, dtype_named
from bnspec_conformance.cases.outputs import clauses_of
from bnspec_conformance.oracle import exact
from bnspec_conformance.vectors.draw import statistics_dtype
from bnspec_conformance.vectors.hex import rounded_up
from bnspec_conformance.vectors.vector import Vector

__all__ = ["Expected", "expected", "flattened"]

Floats = npt.NDArray[np.float64]

_OUTPUTS = ("y", "count", "mean", "var", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")
_LIKE_X = ("y", "dx", "ydot")
_HARD = {"y": "BN-NORM-3", "dx": "BN-GRAD-8"}


@dataclass(frozen=True, eq=False)
class Expected:
    """One output of one rank.

    Attributes
    ----------
    dtype : str
        The dtype that the result is rounded to; "W" for statistics, which are of the arithmetic itself.
    values : array
        Exact, rounded once to float64; to `dtype` where the result must be right to the bit.
    bound : array
        Absolute, for float64 arithmetic.
    bound32 : array or None
        The same for float32 arithmetic; None where that is not allowed.
    clauses : tuple of str
        The clauses that it proves.
    """

    dtype: str
    values: Array
    bound: Floats
    bound32: Floats | None
    clauses: tuple[str, ...]


def expected(vector: Vector) -> list[dict[str, Expected]]:
    """Return the outputs of every rank, by name; those of the state are "state.mean" and so on."""
    case = vector.case
    answer = exact(case)
    wide = bounds(case, answer, "float64")
    single = None if case.ranks[0].x.dtype == np.float64 else bounds(case, answer, "float32")
    found = []
    for number, rank in enumerate(answer.ranks):
        limits = [flattened(wide.ranks[number]), None if single is None else flattened(single.ranks[number])]
        found.append(
            {
                name: _one(vector, name, values, *(None if known is None else known[name] for known in limits))
                for name, values in flattened(rank).items()
                if vector.outputs is None or name.split(".")[0] in vector.outputs
            }
        )
    _agree_on(vector, answer, found)
    return found


def flattened(rank: RankOutcome) -> dict[str, Array]:
    """Return the outputs of a rank by name."""
    found = {name: getattr(rank, name) for name in _OUTPUTS if getattr(rank, name) is not None}
    return found | {f"state.{name}": values for name, values in (rank.state or {}).items()}


def _one(vector: Vector, name: str, values: Array, wide: Floats | None, single: Floats | None) -> Expected:
    case, dtype = vector.case, _dtype(vector.case, name)
    assert wide is not None
    clauses = clauses_of(case, name, vector.clauses, case.mode)
    if name in vector.exact or name.split(".")[0] in vector.exact or values.dtype.kind in "iu":
        return _to_the_bit(vector, name, dtype, values, clauses)
    none = np.zeros(values.shape)
    wide, single = wide + none, None if single is None else single + none
    if vector.hard and name in _HARD:
        eight = hard_bound(values, case.gamma, case.config.axis) + none
        return Expected(
            dtype,
            values,
            _up(eight),
            None if single is None else _up(single if vector.beyond_float32 else eight),
            (_HARD[name],),
        )
    if vector.hard and name in ("mean", "var"):
        clauses = ("BN-MOM-8",)
    return Expected(dtype, values, _up(wide), None if single is None else _up(single), clauses)


def _to_the_bit(vector: Vector, name: str, dtype: str, values: Array, clauses: tuple[str, ...]) -> Expected:
    """Return a bound of 0: the value is a number of the output's dtype; of W, even of float32 where x has no more."""
    if values.dtype.kind in "iu":
        none = np.zeros(values.shape)
        return Expected(dtype, values, none, none, clauses)
    held = statistics_dtype(vector.case.ranks[0].x.dtype.name) if dtype == "W" else dtype
    kept = as_float64(values.astype(dtype_named(held)))
    assert dtype != "W" or np.array_equal(kept, values, equal_nan=True), f"{vector.id}: {name} is no {held}"
    none = np.zeros(values.shape)
    return Expected(dtype, kept, none, None if held == "float64" else none, clauses)


def _dtype(case: Case, name: str) -> str:
    if name in _LIKE_X:
        return case.ranks[0].x.dtype.name
    if name == "count":
        return "int64"
    if name.startswith("state."):
        assert case.state is not None
        return case.state[name.removeprefix("state.")].dtype.name
    if name in ("dgamma", "dbeta"):
        parameter = case.gamma if name == "dgamma" else case.beta
        return statistics_dtype(case.ranks[0].x.dtype.name) if parameter is None else parameter.dtype.name
    return "W"


def _up(bound: Floats) -> Floats:
    return np.array([rounded_up(float(v)) for v in bound.ravel()], dtype=np.float64).reshape(bound.shape)


def _agree_on(vector: Vector, answer: Outcome, found: list[dict[str, Expected]]) -> None:
    """The catalogue's own claims: what it names exists, on every rank."""
    named = {*(vector.outputs or ()), *vector.clauses, *vector.exact}
    there = {name for rank in found for name in rank} | {name.split(".")[0] for rank in found for name in rank}
    assert named <= there, f"{vector.id}: no output {sorted(named - there)}"
