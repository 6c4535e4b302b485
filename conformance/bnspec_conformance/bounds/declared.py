"""Declared arithmetics of an implementation: W of the statistics, and E of the elementwise formulas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.rounding import Arithmetic, arithmetic

__all__ = [
    "ARITHMETICS",
    "BEYOND_PROMISE",
    "EVALUATED",
    "Arithmetics",
    "arithmetics",
    "checked_evaluation",
    "gradients_in_float32",
]

#: Their names, the narrowest first.
ARITHMETICS = ("float32", "twofold", "float64")
#: What can be evaluated in an arithmetic of its own: y, with its tangent, and dx.
EVALUATED = ("y", "dx")
#: Why dx of a hard family is not held to eight roundoffs.
BEYOND_PROMISE = "it evaluates dx in float32, as declared; BN-GRAD-8 is about more"


@dataclass(frozen=True)
class Arithmetics:
    """Arithmetics of one call.

    Attributes
    ----------
    statistics : Arithmetic
        W: sums, statistics, and every number that a channel has one of.
    y, dx : Arithmetic
        E: the elementwise formulas of y and ydot, and of dx.
    """

    statistics: Arithmetic
    y: Arithmetic
    dx: Arithmetic


def arithmetics(
    dtype: npt.DTypeLike, statistics: str = "float64", evaluation: Mapping[str, str] | None = None, flush: bool = False
) -> Arithmetics:
    """Return the arithmetics of a call with x of some dtype; all of them are float64 where x is [BN-PREC-1].

    Parameters
    ----------
    dtype : dtype
        Of x.
    statistics : {"float64", "twofold", "float32"}
        W as it is declared.
    evaluation : mapping of {"y", "dx"} to {"float64", "twofold", "float32"}, optional
        E as it is declared; W where it is not. An arithmetic wider than W counts as W: it can mend nothing.
    flush : bool
        Whether subnormal numbers count as 0.
    """
    if np.dtype(dtype) == np.float64:
        own = arithmetic("float64", flush)
        return Arithmetics(own, own, own)
    declared = dict(evaluation or {})
    narrower = (min(declared.get(name, statistics), statistics, key=ARITHMETICS.index) for name in EVALUATED)
    return Arithmetics(arithmetic(statistics, flush), *(arithmetic(name, flush) for name in narrower))


def checked_evaluation(value: Any) -> dict[str, str]:
    """Return a declaration of E as a dictionary.

    Raises
    ------
    ValueError
        For anything but a mapping of y and dx to the name of an arithmetic; the text says what was expected.
    """
    if not isinstance(value, Mapping) or not all(
        name in EVALUATED and own in ARITHMETICS for name, own in value.items()
    ):
        raise ValueError(f"some of {', '.join(EVALUATED)}, each with one of {', '.join(ARITHMETICS)}")
    return dict(value)


def gradients_in_float32(dtype: npt.DTypeLike | str, statistics: str, evaluation: Mapping[str, str]) -> bool:
    """Return whether E of dx is declared to be float32 for float32 x and a wider W; such a dx is not in BN-GRAD-8."""
    return str(dtype) == "float32" and statistics != "float32" and evaluation.get("dx") == "float32"
