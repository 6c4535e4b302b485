"""Factors of the elementwise passes in float32, for arrays of 16 bits.

A float32 loop does without the float64 factors where each factor but the centre is 0 or a normal number of float32: it
then differs from its float64 by a roundoff, and what a product loses below the normal numbers is at most 2^-150, half
the least number of float32. Any other factor becomes NaN here. So do all results that it is part of, and those are made
in float64, as are results that overflow: an infinity on the way to a result stays one or becomes NaN, since nothing
that is added to it or multiplied by it turns it back. A result of float32 that is finite has therefore lost no more
than the roundoffs of its terms.

The centre is rounded to float32 and may be of any size; what that misses goes into the shift while it is float64.
"""

import functools
from typing import Any

import numpy
from numba import types
from numba.extending import overload

from bnspec_backends.cpu.compiled.dtypes import internal
from bnspec_backends.cpu.compiled.vector_loop import is_narrow

__all__ = ["near_affine", "near_gradient"]

#: Least normal number of float32.
_LEAST = numpy.float32(2.0**-126)

#: Elements of a group and channel from which on dx is made in float32. Of few values the terms of dx nearly cancel: of
#: two, all but the part of epsilon.
_MANY = 16

_NAN = numpy.float32(numpy.nan)

_OPTIONS: Any = {"forceinline": True, "error_model": "numpy", "boundscheck": False}

#: Decorator of a function that looks at the types of compiled arguments and returns what is compiled for them.
_by_types: Any = functools.partial(overload, jit_options=_OPTIONS, strict=False)


def near_affine(x: Any, y: Any, centre: Any, scale: Any, shift: Any) -> Any:
    """Return centre, scale and shift as the loops over these arrays take them: numbers, or arrays of one length."""
    raise NotImplementedError("compiled code calls this")


def near_gradient(dy: Any, x: Any, dx: Any, count: int, centre: Any, a: Any, b: Any, c: Any) -> Any:
    """Return centre, a, b and c as the loops over these arrays take them, of channels with ``count`` elements."""
    raise NotImplementedError("compiled code calls this")


@internal
def _rounded(factor: float) -> Any:
    """Round a factor to float32; NaN where that loses more than a roundoff."""
    near = numpy.float32(factor)
    return near if factor == 0.0 or abs(near) >= _LEAST else _NAN


@internal
def _rounded_shift(shift: float, scale: float, centre: float) -> Any:
    """Round a shift to float32, with what rounding the centre misses."""
    return _rounded(shift + (numpy.float64(numpy.float32(centre)) - centre) * scale)


def _are_narrow(*arrays: Any) -> bool:
    """Return whether all arrays are of one type of 16 bits."""
    return is_narrow(arrays[0]) and all(v.dtype == arrays[0].dtype for v in arrays)


@_by_types(near_affine)  # type: ignore[untyped-decorator]
def _near_affine(x: Any, y: Any, centre: Any, scale: Any, shift: Any) -> Any:
    if not _are_narrow(x, y):
        return lambda x, y, centre, scale, shift: (centre, scale, shift)
    if not isinstance(scale, types.Array):
        return lambda x, y, centre, scale, shift: (
            numpy.float32(centre), _rounded(scale), _rounded_shift(shift, scale, centre),
        )  # fmt: skip

    def of_columns(x: Any, y: Any, centre: Any, scale: Any, shift: Any) -> Any:
        near = numpy.empty((3, scale.size), numpy.float32)
        for i in range(scale.size):
            near[0, i], near[1, i] = centre[i], _rounded(scale[i])
            near[2, i] = _rounded_shift(shift[i], scale[i], centre[i])
        return near[0], near[1], near[2]

    return of_columns


@_by_types(near_gradient)  # type: ignore[untyped-decorator]
def _near_gradient(dy: Any, x: Any, dx: Any, count: int, centre: Any, a: Any, b: Any, c: Any) -> Any:
    if not _are_narrow(dy, x, dx):
        return lambda dy, x, dx, count, centre, a, b, c: (centre, a, b, c)
    if not isinstance(a, types.Array):
        return lambda dy, x, dx, count, centre, a, b, c: (
            numpy.float32(centre), _rounded(a) if count >= _MANY else _NAN, _rounded(b), _rounded_shift(c, b, centre),
        )  # fmt: skip

    def of_columns(dy: Any, x: Any, dx: Any, count: int, centre: Any, a: Any, b: Any, c: Any) -> Any:
        near = numpy.empty((4, a.size), numpy.float32)
        for i in range(a.size):
            near[0, i], near[1, i] = centre[i], _rounded(a[i]) if count >= _MANY else _NAN
            near[2, i], near[3, i] = _rounded(b[i]), _rounded_shift(c[i], b[i], centre[i])
        return near[0], near[1], near[2], near[3]

    return of_columns
