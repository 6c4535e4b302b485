"""Arithmetic in float64 on the host, for numbers of any library: what is computed once and then stored.

A library may lack float64 (JAX without x64), and so may a device. So parameters that are computed for good are taken to
the host. They are rounded once, to their own dtype, on the way back, and by how much is known.
"""

from typing import Any

from bnspec._arrays import Array, array_namespace, beside, on_device_of
from bnspec._dtypes import dtype_name
from bnspec._errors import refusal
from bnspec._layer.initializers import to_numpy
from bnspec._modes import transformation

__all__ = ["in_float64", "rounded_to"]


def in_float64(what: str, v: Array) -> Any:
    """Return an array's values as NumPy's float64.

    Parameters
    ----------
    what : str
        Of the array, for the error text.
    v : array
        Of any library and floating dtype.

    Raises
    ------
    RuntimeError
        Inside of a transformation, where there are no values [BN-DET-3].
    """
    if (found := transformation(v)) is not None:
        raise refusal(
            RuntimeError,
            "BN-DET-3",
            got=f"{what} inside {found}",
            expected="an array with values, since they are computed on the host",
            do="Call it outside.",
        )
    xp = array_namespace(v)
    if dtype_name(v.dtype) in ("bfloat16", "float16"):  # NumPy alone does not know the one
        v = xp.astype(v, xp.float32)
    return to_numpy(v).astype("float64")


@on_device_of("like")
def rounded_to(v: Any, like: Array) -> tuple[Array, Any]:
    """Return float64 numbers in the library, device and dtype of another array, and what rounding changed.

    Parameters
    ----------
    v : numpy.ndarray of float64
        Any shape.
    like : array
        Of any library and floating dtype.

    Returns
    -------
    stored : array
        Rounded to nearest, ties to even, once; also to bfloat16.
    error : numpy.ndarray of float64
        |stored - v|, exact up to its own rounding.

    Examples
    --------
    >>> import numpy as np
    >>> stored, error = rounded_to(np.asarray([1.0 + 2.0**-24, 0.5]), np.zeros(1, "float32"))
    >>> stored.tolist(), (error * 2.0**24).tolist()
    ([1.0, 0.5], [1.0, 0.0])
    """
    import numpy as np

    kind, xp = dtype_name(like.dtype), array_namespace(like)
    with np.errstate(over="ignore"):  # infinity is refused by whoever called
        if kind == "bfloat16":  # eight bits, or multiples of its smallest number; float32 holds them all
            unit = np.maximum(np.frexp(v)[1] - 8, -133)
            host = np.ldexp(np.rint(np.ldexp(v, -unit)), unit).astype("float32")
        else:
            host = v.astype(kind)
    stored = xp.astype(xp.asarray(host, **beside(like)), like.dtype)
    with np.errstate(invalid="ignore"):
        return stored, np.abs(host.astype("float64") - v)
