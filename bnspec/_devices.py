"""Which device is current while an operation runs: its arrays' own.

CuPy makes new arrays on the current device of the thread and launches kernels there, wherever the arrays given are. The
other libraries look at the arrays themselves.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["on_device_of"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
