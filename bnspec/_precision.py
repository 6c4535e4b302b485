"""Which library an array belongs to, and in which dtype its statistics are computed [BN-PREC-1].

Three dtypes matter in a call. The input's own: y and dx have it. The *statistics* dtype of parameters
and running state: float64 for float64 input, else float32. The *arithmetic* dtype of everything in
between: float64 wherever the device has it, else float32.
"""

import functools
from collections.abc import Callable
from typing import Any

from array_api_compat import is_array_api_obj

from bnspec._modes import transformation
from bnspec._namespace import array_namespace
from bnspec._types import Array

__all__ = [
    "FLOATING",
    "arithmetic_dtype",
    "count_dtype",
    "dtype_name",
    "has_headroom",
    "is_array",
    "library",
    "statistics_dtype",
    "stop_gradient",
    "values",
    "where",
]

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


def is_array(x: Any) -> bool:
    """Whether x is an array of a library that follows the standard."""
    return bool(is_array_api_obj(x))


def library(x: Array) -> str:
    """Return the name of the library x belongs to, as in the entry-point group ``bnspec.backends``.

    Examples
    --------
    >>> import numpy as np
    >>> library(np.ones(2))
    'numpy'
    """
    return _library_of(array_namespace(x))


@functools.cache
def _library_of(xp: Any) -> str:
    name = str(xp.__name__)
    return name.split(".")[1] if name.startswith("array_api_compat.") else name.split(".")[0]


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
    """Whether sums are in float64 and x is narrower, so that plain sums are as good as exact ones."""
    return dtype_name(arithmetic_dtype(x)) == "float64" != dtype_name(x.dtype)


def stop_gradient(x: Array) -> Array:
    """Return x as a constant to automatic differentiation; NumPy and CuPy have none to stop."""
    stop = _stop_for(library(x))
    return x if stop is None else stop(x)


@functools.cache
def _stop_for(name: str) -> Callable[[Array], Array] | None:
    if name == "torch":
        return lambda x: x.detach() if x.is_floating_point() else x  # integers carry no gradient
    if name == "jax":
        from jax.lax import stop_gradient as jax_stop_gradient

        return jax_stop_gradient
    return None


def where(condition: Array, x: Array, y: Array) -> Array:
    """Take elements of x or y, in x's very dtype: of arrays in a foreign byte order NumPy makes one in its own."""
    xp = array_namespace(x)
    found = xp.where(condition, x, y)
    return found if found.dtype == x.dtype else xp.astype(found, x.dtype)


def values(x: Array) -> list[Any] | None:
    """Return x's elements as Python scalars, or None while a library traces or transforms and there are no values.

    On a device this waits for the result, so only the checks that need it ask.
    """
    if transformation(x) is not None:
        return None
    flat = array_namespace(x).reshape(x, (-1,))
    if hasattr(flat, "tolist"):  # one copy from a device; the standard itself knows only one for each element
        return list(flat.tolist())
    kind = dtype_name(x.dtype)
    scalar = bool if kind == "bool" else int if "int" in kind else float
    return [scalar(flat[i]) for i in range(flat.shape[0])]
