"""New arrays beside one that is there: on its device, of its library and of its kind."""

from typing import Any

import array_api_compat

from bnspec._modes import transformation
from bnspec._namespace import array_namespace
from bnspec._types import Array

__all__ = ["beside", "full"]


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
    if transformation(like) is not None:  # a tracer is on no device yet
        return {}
    return {"device": like.device} if like.committed and len(like.devices()) == 1 else {}


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
