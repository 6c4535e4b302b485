"""Initializers of gamma and beta: None, a number, an array, or a callable that returns one of these."""

import numbers
from typing import Any

from array_api_compat import device

from bnspec._arrays import Array, array_namespace, beside, full, is_array, library, on_device_of, stop_gradient
from bnspec._dtypes import dtype_name, statistics_dtype
from bnspec._errors import refusal

__all__ = ["check_initializer", "constant", "initialize", "to_numpy"]


def check_initializer(initializer: Any, what: str) -> None:
    """Refuse what cannot give a parameter's values."""
    if initializer is None or callable(initializer) or is_array(initializer):
        return
    if isinstance(initializer, list | tuple | numbers.Real) and not isinstance(initializer, bool):
        return
    raise refusal(
        TypeError,
        "BN-SHAPE-6",
        got=f"{what} is or returned a {type(initializer).__name__}",
        expected="None, a number, an array or a callable that returns one of these",
        do="Pass the values themselves.",
    )


@on_device_of("like")
def initialize(initializer: Any, default: float, channels: int, like: Array, what: str) -> Array:
    """Make a parameter of shape (C,) beside `like`.

    The initializer is None (the default value), a number, an array of shape (C,), or a callable that takes the
    shape and returns one of these. Arrays are copied, except tensors of torch that are to be trained.
    """
    if callable(initializer) and not is_array(initializer):
        initializer = initializer((channels,))
    if initializer is None:
        initializer = default
    dtype = statistics_dtype(like)
    check_initializer(initializer, what)
    if isinstance(initializer, numbers.Real):
        return full((channels,), float(initializer), dtype=dtype, like=like)
    if getattr(initializer, "requires_grad", False) and getattr(initializer, "is_leaf", False):
        made = _leaf(initializer, like, dtype, what)
    else:
        made = constant(initializer, like, dtype)
    if tuple(made.shape) != (channels,):
        raise refusal(
            ValueError,
            "BN-SHAPE-6",
            got=f"{what} gave shape {tuple(made.shape)}",
            expected=f"shape ({channels},)",
            do="Return one value per channel.",
        )
    return made


def _leaf(parameter: Array, like: Array, dtype: Any, what: str) -> Array:
    """A tensor that torch is to train: the layer's own parameter, since an optimizer knows no copy of it."""
    if library(like) == "torch" and parameter.dtype == dtype and device(parameter) == device(like):
        return parameter
    raise refusal(
        TypeError,
        "BN-ERR-3",
        got=f"{what} is a {dtype_name(parameter.dtype)} tensor on {device(parameter)} that requires grad",
        expected=f"a {dtype_name(dtype)} tensor beside x, a {library(like)} array on {device(like)}",
        do="A tensor that is trained is not copied. Convert it first, or detach it to give its values alone.",
    )


@on_device_of("like")
def constant(values: Any, like: Array, dtype: Any) -> Array:
    """Copy an array of any library, or nested lists, to like's library and device."""
    xp = array_namespace(like)
    if is_array(values):
        if array_namespace(values) is not xp:
            values = to_numpy(values)
            if dtype_name(values.dtype) == "bfloat16":  # ml_dtypes' type is unknown to the other library
                values = values.astype("float32")
        values = xp.asarray(stop_gradient(values), **beside(like), copy=True)
    else:
        values = xp.asarray(values, **beside(like))
    return xp.astype(values, dtype)


def to_numpy(x: Array) -> Any:
    """Copy an array to the host as NumPy's, through its backend."""
    from bnspec._discovery import get_backend

    name = library(x)
    return get_backend("strict" if name == "array_api_strict" else name).to_numpy(x)
