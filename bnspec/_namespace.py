"""The array-API namespace of an array, looked up once for each type of array, and new arrays beside one.

The look-up asks one library after the other and takes longer than most operations on a few numbers.
"""

from typing import Any

import array_api_compat

__all__ = ["array_namespace", "beside", "full"]

_KNOWN: dict[type, Any] = {}


def array_namespace(x: Any) -> Any:
    """Return the namespace of x's library.

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


def beside(like: Any) -> dict[str, Any]:
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
    if not hasattr(like, "committed"):  # a tracer: what is made of it later decides
        return {}
    return {"device": like.device} if like.committed and len(like.devices()) == 1 else {}


def full(shape: tuple[int, ...], value: float, *, dtype: Any, like: Any) -> Any:
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
