"""Operands of the analysis: parameters and epsilon as numbers of W, and sums of parts."""

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.rounding import Approx, arithmetic
from bnspec_conformance.cases.case import Array, Case, as_float64

__all__ = ["epsilon", "parameter", "parameter_dtype", "total"]


def total(parts: list[Approx]) -> Approx:
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def epsilon(case: Case, one: Approx) -> Approx:
    return one.like(case.config.epsilon, one.within.u * case.config.epsilon)


def parameter(array: Array | None, present: bool, absent: float, case: Case, one: Approx) -> Approx:
    if array is None or not present:
        return one.like(np.full((1, case.channels), absent))
    value = as_float64(array)[None, :]
    down = arithmetic(array.dtype).u < one.within.u  # the parameter is cast down to W
    return one.like(value, one.within.u * np.abs(value) * down)


def parameter_dtype(case: Case, array: Array | None) -> npt.DTypeLike:
    """Dtype of a parameter's gradient: the parameter's, else the statistics dtype."""
    if array is not None:
        return array.dtype
    return np.float64 if case.ranks[0].x.dtype == np.float64 else np.float32
