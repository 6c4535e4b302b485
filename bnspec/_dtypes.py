"""Dtypes: in which of them a call computes [BN-PREC-1].

Three matter. The input's own: y and dx have it. The *statistics* dtype of parameters and running state: float64 for
float64 input, else float32. The *arithmetic* dtype of everything in between: float64 wherever the device has it, else
float32.
"""

import functools
from typing import Any

from bnspec._arrays import Array, array_namespace

__all__ = ["FLOATING", "arithmetic_dtype", "count_dtype", "dtype_name", "has_headroom", "statistics_dtype"]

#: The floating dtypes x may have, by name: ml_dtypes' bfloat16 is no dtype of NumPy's own, so names are the
#: one thing all libraries agree on.
FLOATING = ("bfloat16", "float16", "float32", "float64")


@functools.lru_cache(maxsize=256, typed=True)  # strict dtypes mind being compared with those of NumPy
def dtype_name(dtype: Any) -> str:
    """Return a dtype's bare name.

    Examples
    --------
    >>> import numpy as np
    >>> dtype_name(np.dtype("float32"))
    'float32'
    """
    # NumPy's dtypes have a name, JAX's and NumPy's scalar types a __name__, torch's and strict's only their text.
    return str(getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype).rsplit(".", 1)[-1])


def _has_float64(xp: Any) -> bool:
    return "float64" in xp.__array_namespace_info__().dtypes(kind="real floating")


def arithmetic_dtype(x: Array) -> Any:
    """float64 where x's library has it now (JAX: only with x64 enabled), else float32."""
    xp = array_namespace(x)
    return xp.float64 if _has_float64(xp) else xp.float32


def statistics_dtype(x: Array) -> Any:
    """float64 for float64 input, float32 for every other."""
    xp = array_namespace(x)
    return xp.float64 if dtype_name(x.dtype) == "float64" else xp.float32


def count_dtype(xp: Any) -> Any:
    """The library's default integer: int64, or int32 for JAX without x64."""
    return xp.__array_namespace_info__().default_dtypes()["integral"]


def has_headroom(x: Array) -> bool:
    """Return whether sums are in float64 and x is narrower, so that plain sums are as good as exact ones."""
    return dtype_name(arithmetic_dtype(x)) == "float64" != dtype_name(x.dtype)
