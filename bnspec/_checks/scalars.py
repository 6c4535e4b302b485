"""Options that are one number, one switch or one word: what is taken for one, and how a refusal names what came.

A scalar of another library is a number too. bnspec stores it as Python's own number, so that a configuration compares,
prints and travels as JSON whatever it was written with. Nothing in this file imports an array library.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

from bnspec._errors import refusal

__all__ = ["integer", "one_of", "plain", "real", "shown", "switch"]

#: What a refusal quotes of a value; the rest is left to the reader who wrote it.
_LONGEST = 60


def shown(value: Any) -> str:
    """Return how a refusal names a value: an array by shape and dtype, never by its contents [BN-ERR-1].

    Examples
    --------
    >>> import numpy as np
    >>> print(shown(0.5), shown("0.5"), shown(np.float32(0.5)), shown(np.zeros((64, 64))), sep="; ")
    0.5; '0.5'; 0.5; an array of shape (64, 64) and dtype float64
    """
    known = plain(value)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if known is value and shape is not None and dtype is not None:
        return f"an array of shape {tuple(shape)} and dtype {str(dtype).removeprefix('torch.')}"
    if isinstance(known, list | tuple | set | frozenset | dict) and known:
        return f"a {type(known).__name__} of {len(known)}"
    try:
        text = repr(known)
    except Exception:  # an integer of thousands of digits, and whatever else cannot say what it is
        return f"a value of type {type(known).__name__}"
    if text.startswith("<"):
        return f"a value of type {type(known).__name__}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def plain(value: Any) -> Any:
    """Return the number, switch or word that a scalar of another library holds, as Python's own; else the value itself.

    Examples
    --------
    >>> import numpy as np
    >>> plain(np.float32(0.5)), plain(np.int64(4)), plain(np.bool_(True)), plain(np.asarray(0.25)), plain(3)
    (0.5, 4, True, 0.25, 3)
    """
    if type(value) in (bool, int, float, str) or value is None:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        try:
            return float(value)
        except (OverflowError, ValueError):  # a fraction beyond every float
            return value
    if getattr(value, "shape", None) == ():
        try:
            held = value.item() if hasattr(value, "item") else _by_dtype(value)
        except Exception:  # a value that a library is still to compute, such as under jax.jit
            return value
        return held if type(held) in (bool, int, float) else value
    return value


def _by_dtype(value: Any) -> Any:
    """The element of an array without axes that has no method for it, as the array API standard allows."""
    kind = str(getattr(value, "dtype", ""))
    return next((own(value) for name, own in (("bool", bool), ("int", int), ("float", float)) if name in kind), value)


def real(name: str, value: Any, allowed: Callable[[float], bool], expected: str, clause: str, do: str) -> float:
    """Return an option that is a finite number in its range, as a float; 1 and 1.0 are one configuration."""
    known = plain(value)
    if type(known) not in (int, float):
        raise refusal(TypeError, clause, got=f"{name} is {shown(value)}", expected=expected, do=do)
    try:
        number = float(known)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and allowed(number)):
        raise refusal(ValueError, clause, got=f"{name} is {shown(value)}", expected=expected, do=do)
    return number


def integer(name: str, value: Any, least: int | None, clause: str, do: str) -> int:
    """Return an option that is an integer from `least` on; a float is none, whatever its value."""
    known = plain(value)
    expected = "an integer" if least is None else f"an integer >= {least}"
    if type(known) is not int:
        raise refusal(TypeError, clause, got=f"{name} is {shown(value)}", expected=expected, do=do)
    if least is not None and known < least:
        raise refusal(ValueError, clause, got=f"{name} is {shown(value)}", expected=expected, do=do)
    return known


def switch(name: str, value: Any, clause: str, do: str) -> bool:
    """Return an option that is true or false; not one that only counts as true, such as "False" or 1."""
    known = plain(value)
    if type(known) is not bool:
        raise refusal(TypeError, clause, got=f"{name} is {shown(value)}", expected="True or False", do=do)
    return known


def one_of(name: str, value: Any, known: tuple[str, ...], clause: str) -> str:
    """Return an option that is one of some words."""
    word = plain(value)
    if type(word) is not str or word not in known:
        raise refusal(
            ValueError,
            clause,
            got=f"{name} is {shown(value)}",
            expected="one of " + ", ".join(map(repr, known)),
            do="The clause describes each.",
        )
    return word
