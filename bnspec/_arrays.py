"""Arrays of any library: whose they are, where they are, and the few things that libraries do differently.

Everything that bnspec knows of libraries is here and in `bnspec._modes`. Nothing imports a library that was not
imported before.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import array_api_compat

__all__ = [
    "Array",
    "array_namespace",
    "beside",
    "concat",
    "full",
    "is_array",
    "jax_tracer",
    "library",
    "on_device_of",
    "stop_gradient",
    "where",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: An array of any library that follows the Python array API standard.
Array = Any

#: The namespace of each type of arrays: to ask one library after the other takes longer than most operations.
_KNOWN: dict[type, Any] = {}


def array_namespace(x: Any) -> Any:
    """Return the array-API namespace of x's library, looked up once for each type of array.

    Raises
    ------
    TypeError
        If x is no array of a library that follows the standard.
    """
    kind = type(x)
    if kind not in _KNOWN:
        found = array_api_compat.array_namespace(x)
        if kind.__module__ == "numpy" and not found.__name__.startswith("array_api_compat."):
            return found  # JAX's float0 zeros are arrays of NumPy
        _KNOWN[kind] = found
    return _KNOWN[kind]


def is_array(x: Any) -> bool:
    """Return whether x is an array of a library that follows the standard."""
    return bool(array_api_compat.is_array_api_obj(x))


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


def stop_gradient(x: Array) -> Array:
    """Return x as a constant to automatic differentiation; NumPy and CuPy have none to stop."""
    stop = _stop_for(library(x))
    return x if stop is None else stop(x)


@functools.cache
def _stop_for(name: str) -> Callable[[Array], Array] | None:
    if name == "torch":
        return _detached
    if name == "jax":
        from jax.lax import stop_gradient as jax_stop_gradient

        return jax_stop_gradient
    return None


def _detached(x: Array) -> Array:
    torch: Any = sys.modules["torch"]
    if not x.is_floating_point():  # integers carry no gradient
        return x
    if torch.compiler.is_compiling():  # first: the question behind it cannot be asked while torch compiles
        return x.detach()
    if torch._C._functorch.is_legacy_batchedtensor(x) and not x.requires_grad:
        return x  # of the cotangents of ``is_grads_batched``, which has no rule for detach
    return x.detach()


def concat(arrays: tuple[Array, ...], axis: int) -> Array:
    """Join arrays of one dtype along an axis; torch has rules for its own ``cat`` that its ``concat`` lacks."""
    if library(arrays[0]) == "torch":
        return sys.modules["torch"].cat(arrays, axis)
    return array_namespace(arrays[0]).concat(arrays, axis=axis)


def where(condition: Array, x: Array, y: Array) -> Array:
    """Take elements of x or y, in x's very dtype: of arrays in a foreign byte order NumPy makes one in its own."""
    xp = array_namespace(x)
    found = xp.where(condition, x, y)
    return found if found.dtype == x.dtype else xp.astype(found, x.dtype)


def beside(like: Array) -> dict[str, Any]:
    """Return the keywords with which a creation function places a new array where another one is.

    JAX itself brings arrays together unless two of them were pinned to different devices. So a new one is pinned only
    if the caller pinned `like`, to one device: beside an array that is spread over several it stays free.

    Examples
    --------
    >>> import numpy as np
    >>> beside(np.ones(2))
    {'device': 'cpu'}
    """
    if not array_api_compat.is_jax_array(like):
        return {"device": array_api_compat.device(like)}
    if isinstance(like, jax_tracer()):  # it is on no device yet
        return {}
    return {"device": like.device} if like.committed and len(like.devices()) == 1 else {}


def jax_tracer() -> Any:
    """Return the class of JAX's tracers, or no class where JAX was not imported."""
    return getattr(getattr(sys.modules.get("jax"), "core", None), "Tracer", ())


def full(shape: tuple[int, ...], value: float, *, dtype: Any, like: Array) -> Array:
    """Return a new array of one value where another one is, and of its kind.

    Examples
    --------
    >>> import numpy as np
    >>> full((2,), 1.0, dtype=np.float32, like=np.ones(3)).tolist()
    [1.0, 1.0]
    """
    if array_api_compat.is_torch_array(like):  # the tensor's own method knows of wrappers, such as one over a mesh
        return like.new_full(shape, value, dtype=dtype)
    return array_namespace(like).full(shape, value, dtype=dtype, **beside(like))


def on_device_of(name: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Have an operation run on the device of one of its arguments.

    Parameters
    ----------
    name : str
        The parameter: an array, or a record whose first field is one. Arrays of libraries other than CuPy, and what
        is no array, change nothing.

    Examples
    --------
    >>> @on_device_of("x")
    ... def double(x):
    ...     return x + x
    >>> double(2)
    4
    """

    def decorate(operation: Callable[_P, _R]) -> Callable[_P, _R]:
        position = list(inspect.signature(operation).parameters).index(name)

        @functools.wraps(operation)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            given = args[position] if position < len(args) else kwargs.get(name)
            if isinstance(given, tuple) and given:
                given = given[0]
            if type(given).__module__ != "cupy":
                return operation(*args, **kwargs)
            device: Any = getattr(given, "device")  # noqa: B009
            with device:
                return operation(*args, **kwargs)

        return run

    return decorate
