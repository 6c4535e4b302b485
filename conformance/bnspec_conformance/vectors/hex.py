"""Numbers and arrays as JSON: C99 hex floats, in flat lists row by row with a shape and a dtype.

A hex float tells exactly which number is meant; C's strtod and `float.fromhex` read it. The form is that of C's ``%a``,
without the zeros at the end. Numbers that are not finite are "nan", "inf" or "-inf".
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, as_float64, dtype_named

__all__ = ["array_of", "encoded", "hexed", "lines", "numbers", "rounded_up", "unhexed"]

#: Significant bits of a bound. Bounds are float64 arithmetic, whose last bits may differ from platform to platform.
_BOUND_BITS = 12


def hexed(value: float) -> str:
    """Return a number as C's ``%a`` writes it."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}p{exponent}"


def unhexed(text: str) -> float:
    """Return the number again.

    Raises
    ------
    ValueError
        For anything but a hex float, nan, inf or -inf; a decimal number too, which ``float.fromhex`` would misread.

    Examples
    --------
    >>> unhexed("0x1.8p+0"), unhexed("-Infinity"), unhexed("-nan(ind)")
    (1.5, -inf, nan)
    """
    plain = re.sub(r"nan\(\w*\)", "nan", text.strip().lower())  # C may add which NaN it is
    if "x" not in plain and plain.lstrip("+-") not in ("nan", "inf", "infinity"):
        raise ValueError(f"{text!r} is no hex float")
    return float.fromhex(plain)


def rounded_up(bound: float) -> float:
    """Return the bound with 12 significant bits, never smaller.

    A little is added first: a bound that is such a number already but for the platform's last bits gives the same
    result on either side of it.
    """
    if bound == 0 or not math.isfinite(bound):
        return bound
    mantissa, exponent = math.frexp(bound * (1 + 2.0**-32))
    return math.ldexp(math.ceil(math.ldexp(mantissa, _BOUND_BITS)), exponent - _BOUND_BITS)


def numbers(array: Array) -> list[Any]:
    """Return the elements, row by row: hex floats, integers or booleans."""
    if array.dtype.kind in "biu":
        return [bool(v) if array.dtype.kind == "b" else int(v) for v in array.ravel()]
    return [hexed(float(v)) for v in as_float64(array).ravel()]


def encoded(array: Array) -> dict[str, Any]:
    """Return an array as dtype, shape and data."""
    return {"dtype": array.dtype.name, "shape": [int(n) for n in array.shape], "data": numbers(array)}


def array_of(value: dict[str, Any]) -> Array:
    """Return the array again, of what `encoded` wrote."""
    dtype = dtype_named(value["dtype"])
    if dtype.kind in "biu":
        return np.array(value["data"], dtype=dtype).reshape(value["shape"])
    floats = np.array([unhexed(v) for v in value["data"]], dtype=np.float64)
    return floats.astype(dtype).reshape(value["shape"])


def lines(value: Any, indent: int = 0) -> Iterator[str]:
    """JSON text in pieces: keys sorted, a list of plain values on one line, everything else on lines of its own."""
    inside, outside = "\n" + " " * (indent + 1), "\n" + " " * indent
    if isinstance(value, dict) and value:
        for number, key in enumerate(sorted(value)):
            yield f"{'{' if number == 0 else ','}{inside}{json.dumps(key)}: "
            yield from lines(value[key], indent + 1)
        yield outside + "}"
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        for number, item in enumerate(value):
            yield f"{'[' if number == 0 else ','}{inside}"
            yield from lines(item, indent + 1)
        yield outside + "]"
    else:
        yield json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
