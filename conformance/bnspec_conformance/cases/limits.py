"""Limits of a scope that layers commonly have: small and empty batches, and what their parameters may be.

Each is a word of `bnspec_conformance.cases.scope.Scope`, which calls the functions here.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from bnspec_conformance.cases.case import Case, dtype_named
from bnspec_conformance.cases.counts import counts_of, must_be_refused

__all__ = [
    "AFFINE",
    "EXTENTS",
    "FLOATS",
    "NO_INFERENCE_GRAD",
    "OTHER_BITS",
    "PARAMETER_DTYPES",
    "REFUSED",
    "choose_dtype",
    "empty_extents",
    "fault_of",
    "reason_of",
    "with_parameters",
]

FLOATS = ("float16", "bfloat16", "float32", "float64")

#: Dtypes of gamma and beta: four, and two that follow from x's.
PARAMETER_DTYPES = (*FLOATS, "x", "statistics")

#: Whether gamma may be there without beta, and beta without gamma.
AFFINE = ("separate", "together")

#: Extents of x that some layers refuse when they are 0.
EXTENTS = ("samples", "spatial", "channels")

#: Clauses whose refusals a port can be asked for, as a case can break them.
REFUSED = ("BN-SHAPE-1", "BN-SHAPE-2", "BN-SHAPE-5", "BN-SHAPE-6", "BN-GRP-3", "BN-RUN-14", "BN-MASK-7", "BN-SYNC-9",
           "BN-PREC-1")  # fmt: skip

#: Why there is no gradient of a case in inference.
NO_INFERENCE_GRAD = "it has no gradient in inference"

#: Why a group need not have the bits of its samples alone.
OTHER_BITS = "each shape is a program of its own, and its compiler orders the sums"


class _Words(Protocol):
    """The words of a scope, which imports this module."""

    @property
    def min_count(self) -> int: ...
    @property
    def inference_grad(self) -> bool: ...
    @property
    def parameter_dtypes(self) -> tuple[str, ...]: ...
    @property
    def affine(self) -> str: ...
    @property
    def nonempty(self) -> tuple[str, ...]: ...
    @property
    def refuses(self) -> bool | tuple[str, ...]: ...


def choose_dtype(x: str, allowed: Sequence[str]) -> str:
    """Return the dtype that a parameter has beside x: the statistics dtype if it may, else the first that it may.

    Examples
    --------
    >>> choose_dtype("float16", FLOATS), choose_dtype("float16", ("x",)), choose_dtype("float64", ("float32",))
    ('float32', 'float16', 'float32')
    """
    known = _dtypes(x, allowed)
    usual = "float64" if x == "float64" else "float32"
    return usual if usual in known else known[0]


def with_parameters(case: Case, allowed: Sequence[str]) -> Case:
    """Return the case with parameters, and their tangents, of dtypes that they may have; rounded where they are not."""
    x = case.ranks[0].x.dtype.name
    if x not in FLOATS:
        return case
    change: dict[str, Any] = {}
    for name in ("gamma", "beta", "gamma_dot", "beta_dot"):
        array = getattr(case, name)
        if array is not None and array.dtype.name not in _dtypes(x, allowed):
            change[name] = array.astype(dtype_named(choose_dtype(x, allowed)))
    return dataclasses.replace(case, **change) if change else case


def empty_extents(case: Case) -> set[str]:
    """Return which of `EXTENTS` are 0 on some rank.

    Examples
    --------
    >>> import numpy as np
    >>> from bnspec import BatchNormConfig
    >>> from bnspec_conformance import RankInputs
    >>> config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    >>> [sorted(empty_extents(Case(config=config, ranks=(RankInputs(np.ones(shape)),))))
    ...  for shape in ((4, 3), (0, 3), (4, 0), (4, 3, 0))]
    [[], ['samples'], ['channels'], ['spatial']]
    """
    found = set()
    for rank in case.ranks:
        axis = case.config.axis % rank.x.ndim
        for place, extent in enumerate(rank.x.shape):
            if extent == 0:
                found.add("channels" if place == axis else "samples" if place == 0 else "spatial")
    return found


def fault_of(scope: _Words) -> str | None:
    """Return None, or what is wrong with the words of a scope, as the text of an error."""
    least: object = scope.min_count
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        return f"min_count is {least!r}; expected an integer >= 1."
    refused = () if isinstance(scope.refuses, bool) else scope.refuses
    if scope.affine not in AFFINE:
        return f"affine is {scope.affine!r}; expected one of {', '.join(AFFINE)}."
    for name, given, known in (
        ("parameter_dtypes", scope.parameter_dtypes, PARAMETER_DTYPES),
        ("nonempty", scope.nonempty, EXTENTS),
        ("refuses", refused, REFUSED),
    ):
        some = isinstance(given, tuple | list) and (given or name != "parameter_dtypes")
        if not some or any(word not in known for word in given):
            other = "true, false or " if name == "refuses" else ""
            return f"{name} is {given!r}; expected {other}a tuple of some of {', '.join(known)}."
    return None


def reason_of(scope: _Words, case: Case) -> str | None:
    """Return None, or which of the limits of a scope a case does not keep."""
    config, min_count = case.config, scope.min_count
    if case.mode == "inference" and not scope.inference_grad and any(r.dy is not None for r in case.ranks):
        return NO_INFERENCE_GRAD
    if scope.affine == "together" and config.center != config.scale:
        return "it has both gamma and beta or neither"
    known = _dtypes(case.ranks[0].x.dtype.name, scope.parameter_dtypes)
    for name in ("gamma", "beta", "gamma_dot", "beta_dot"):
        array = getattr(case, name)
        if array is not None and array.dtype.name not in known:
            return f"its parameters are {' or '.join(known)} for this x"
    empty = empty_extents(case) & set(scope.nonempty)
    if empty:
        words = {
            "samples": "without samples",
            "spatial": "with an empty spatial extent",
            "channels": "without channels",
        }
        return f"it takes no x {words[min(empty)]}"
    if case.mode == "batch" and min_count > 1 and not must_be_refused(case):
        if any(0 < count < min_count for count in counts_of(case)):
            return f"it takes {min_count} values per channel or more in training"
    return None


def _dtypes(x: str, allowed: Sequence[str]) -> list[str]:
    """Return the dtypes that a parameter may have beside an x."""
    relative = {"x": x, "statistics": "float64" if x == "float64" else "float32"}
    return list(dict.fromkeys(relative.get(name, name) for name in allowed))
