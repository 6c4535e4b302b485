"""The array-API namespace of an array, looked up once for each type of array.

The look-up asks one library after the other and takes longer than most operations on a few numbers.
"""

from typing import Any

import array_api_compat

__all__ = ["array_namespace"]

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
