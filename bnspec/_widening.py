"""Widening once: what a library may differentiate is converted to the arithmetic dtype in one place.

A library's own differentiation converts back, and so rounds, once for each conversion that it went through, and only
then adds what the uses of an array left in its gradient. The parts of dx cancel almost wholly where a group holds few
values: of parts that were rounded nothing but their roundoffs is left. So an operation that may be differentiated
converts its arrays at its entry and its result at its exit, and all between is in one dtype. The gradient is then
rounded once, of any order, as the explicit derivatives are [BN-PREC-3].

What nobody differentiates stays as it is: the primitives convert what they read, and no wide copy is kept.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bnspec._modes import differentiated
from bnspec._namespace import array_namespace
from bnspec._precision import arithmetic_dtype, has_headroom
from bnspec._types import Array

if TYPE_CHECKING:
    from bnspec._kernels import Kernels

__all__ = ["narrowed", "widened"]


def widened(
    kernels: "Kernels", arrays: Sequence[Array], *others: Array | None
) -> tuple["Kernels", list[Array], list[Array | None]]:
    """Return arrays in the arithmetic dtype, and the primitives for them, if the library may differentiate them.

    Parameters
    ----------
    kernels : Kernels
        Those of the arrays' library.
    arrays : sequence of array
        Of x's shape; the first decides the dtype.
    *others : array or None
        All else that derivatives are taken by, or that is one.

    Returns
    -------
    kernels : Kernels
        Primitives that the library differentiates, whose sums are those of the narrow arrays to the bit.
    arrays, others : list
        What was given where nobody differentiates it.
    """
    if not differentiated(*arrays, *others):
        return kernels, list(arrays), list(others)
    kernels = kernels.differentiable(plain_sums=all(map(has_headroom, arrays)))
    dtype = arithmetic_dtype(arrays[0])
    return kernels, [_astype(v, dtype) for v in arrays], [None if v is None else _astype(v, dtype) for v in others]


def narrowed(v: Array, like: Array) -> Array:
    """Return v in like's dtype: the one rounding of a result that was computed from widened arrays."""
    return v if v.dtype == like.dtype else _astype(v, like.dtype)


def _astype(v: Array, dtype: Any) -> Array:
    return array_namespace(v).astype(v, dtype, copy=False)
