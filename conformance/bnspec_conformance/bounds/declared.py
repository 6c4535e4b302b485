"""Declared arithmetics of an implementation: W of the statistics, and E of the elementwise formulas."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.rounding import Arithmetic, arithmetic

__all__ = [
    "ARITHMETICS",
    "BEYOND_PROMISE",
    "EVALUATED",
    "Arithmetics",
    "Evaluation",
    "arithmetics",
    "checked_evaluation",
    "evaluated_in",
    "evaluation_texts",
    "gradients_in_float32",
]

#: E as it is declared: for y, dx or both the name of an arithmetic, or one for each of some dtypes of x.
Evaluation: TypeAlias = Mapping[str, str | Mapping[str, str]]

#: Their names, the narrowest first.
ARITHMETICS = ("float32", "twofold", "float64")
#: What can be evaluated in an arithmetic of its own: y, with its tangent, and dx.
EVALUATED = ("y", "dx")
#: Dtypes of x that E can be declared for. float64 is not among them: there W and E are float64.
_DTYPES = ("bfloat16", "float16", "float32")
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
    dtype: npt.DTypeLike, statistics: str = "float64", evaluation: Evaluation | None = None, flush: bool = False
) -> Arithmetics:
    """Return the arithmetics of a call with x of some dtype; all of them are float64 where x is [BN-PREC-1].

    Parameters
    ----------
    dtype : dtype
        Of x.
    statistics : {"float64", "twofold", "float32"}
        W as it is declared.
    evaluation : Evaluation, optional
        E as it is declared; W where it is not. An arithmetic wider than W counts as W: it can mend nothing.
    flush : bool
        Whether subnormal numbers count as 0.
    """
    if np.dtype(dtype) == np.float64:
        own = arithmetic("float64", flush)
        return Arithmetics(own, own, own)
    declared = (evaluated_in(evaluation or {}, name, dtype) or statistics for name in EVALUATED)
    narrower = (min(own, statistics, key=ARITHMETICS.index) for own in declared)
    return Arithmetics(arithmetic(statistics, flush), *(arithmetic(name, flush) for name in narrower))


def checked_evaluation(value: Any) -> dict[str, str | dict[str, str]]:
    """Return a declaration of E as a dictionary.

    Raises
    ------
    ValueError
        For anything but a mapping of y and dx to the name of an arithmetic, or to one for each of some dtypes; the text
        says what was expected.
    """
    if not isinstance(value, Mapping) or not all(name in EVALUATED and _is_own(own) for name, own in value.items()):
        raise ValueError(
            f"some of {', '.join(EVALUATED)}, each with one of {', '.join(ARITHMETICS)}, or with one of these for each "
            f"of some dtypes of x ({', '.join(_DTYPES)})"
        )
    return {name: dict(own) if isinstance(own, Mapping) else own for name, own in value.items()}


def _is_own(own: Any) -> bool:
    """Return whether a value is an arithmetic, or a mapping of dtypes to one."""
    if isinstance(own, Mapping):
        return all(dtype in _DTYPES and one in ARITHMETICS for dtype, one in own.items())
    return isinstance(own, str) and own in ARITHMETICS


def evaluated_in(evaluation: Evaluation, name: str, dtype: npt.DTypeLike | str) -> str | None:
    """Return the arithmetic that is declared for y or dx of x of a dtype; None where it is W.

    Examples
    --------
    >>> evaluated_in({"y": {"float16": "float32"}}, "y", "float16")
    'float32'
    """
    own = evaluation.get(name)
    if isinstance(own, Mapping):
        return own.get(dtype if isinstance(dtype, str) else np.dtype(dtype).name)
    return own


def evaluation_texts(evaluation: Evaluation) -> Iterator[str]:
    """Yield a declaration in words, as reports show it.

    Examples
    --------
    >>> list(evaluation_texts({"y": "float32", "dx": {"float16": "float32", "bfloat16": "float32"}}))
    ['y in float32', 'dx of float16 x in float32', 'dx of bfloat16 x in float32']
    """
    for name, own in evaluation.items():
        if isinstance(own, Mapping):
            yield from (f"{name} of {dtype} x in {one}" for dtype, one in own.items())
        else:
            yield f"{name} in {own}"


def gradients_in_float32(dtype: npt.DTypeLike | str, statistics: str, evaluation: Evaluation) -> bool:
    """Return whether E of dx is declared to be float32 for float32 x and a wider W; such a dx is not in BN-GRAD-8."""
    return (
        str(dtype) == "float32" and statistics != "float32" and evaluated_in(evaluation, "dx", "float32") == "float32"
    )
