"""Reading one layer: from a framework's variables to bnspec's fields, with every check of what came.

The fields are NumPy arrays of shape (C,): gamma and beta where they exist, mean and var as inference uses them (so
debiased), the number of updates where one is kept, and renorm's.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnspec._conversion.layers import RENORM
from bnspec._dialect import Dialect
from bnspec._dtypes import FLOATING
from bnspec._errors import refusal
from bnspec._running import share_of

if TYPE_CHECKING:  # `import bnspec` must not load NumPy
    import numpy as np

__all__ = ["named_fields", "read_layer"]

_POSITIVE = ("var", "stddev", "renorm_stddev")


def named_fields(variables: Mapping[str, Any], row: Dialect) -> dict[str, str]:
    """Return which of a layer's variables hold which field, but for counters and flags."""
    renorm = row.renorm_names or {}
    with_renorm = any(renorm[field] in variables for field in RENORM if field in renorm)
    names = dict(renorm) if with_renorm else {f: row.names[f] for f in ("gamma", "beta", "mean", "var")}
    for field, average in row.storage.averages.items():
        if average in variables:
            names[field] = average
    return {field: name for field, name in names.items() if name in variables}


def read_layer(
    variables: "Mapping[str, np.ndarray[Any, Any]]", row: Dialect, *, decay: float, called: Mapping[str, str]
) -> "dict[str, np.ndarray[Any, Any]]":
    """Return the fields of one layer.

    Parameters
    ----------
    variables : mapping of str to array
        By the framework's own names.
    row : Dialect
        The framework.
    decay : float
        The layer's, in [0, 1); read only where an accumulator has no debiased average beside it.
    called : mapping of str to str
        The full names, for refusals.

    Raises
    ------
    ValueError, TypeError
        For variables that cannot be those of one layer, with the full name [BN-STATE-5].
    """
    import numpy as np

    fields: dict[str, Any] = {}
    channels = None
    for field, name in named_fields(variables, row).items():
        array = _per_channel(variables[name], called[name], row)
        if array.dtype.name not in FLOATING:
            raise _wrong(TypeError, called[name], f"dtype {array.dtype.name}", "one of " + ", ".join(FLOATING))
        if channels is not None and array.shape != (channels,):
            raise _wrong(ValueError, called[name], f"shape {tuple(variables[name].shape)}", f"{channels} channels")
        if field in _POSITIVE and bool((array < 0).any()):
            raise _wrong(ValueError, called[name], "an element below 0", "a variance or deviation, none below 0")
        channels = int(array.shape[0])
        fields[field] = array
    count = _count(variables, row, called)
    if count is not None:
        fields["count"] = count
    flag = row.storage.new_flag
    if flag is not None and flag in variables and bool(np.asarray(variables[flag]).any()):
        raise _wrong(ValueError, called[flag], "true", "false: a layer without updates holds no statistics")
    for field, average in row.storage.averages.items():
        if average not in variables:
            fields[field] = _debiased(fields[field], count, decay, called[row.names[field]])
    return fields


def _per_channel(array: Any, name: str, row: Dialect) -> Any:
    shape = tuple(array.shape)
    if row.storage.keeps_axes and array.ndim > 1 and sum(n != 1 for n in shape) <= 1:
        return array.reshape(-1)
    if array.ndim != 1:
        raise _wrong(ValueError, name, f"shape {shape}", "shape (C,)")
    return array


def _count(variables: Mapping[str, Any], row: Dialect, called: Mapping[str, str]) -> Any:
    import numpy as np

    stored = row.storage
    names = stored.counters if stored.channel_counter is None else (stored.channel_counter,)
    found = {name: np.asarray(variables[name]) for name in names if name in variables}
    for name, array in found.items():
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise _wrong(TypeError, called[name], f"dtype {array.dtype.name} and shape {array.shape}", "an integer")
        if bool((array < 0).any()):
            raise _wrong(ValueError, called[name], "a number below 0", "the number of updates")
    values = {int(n) for array in found.values() for n in array.reshape(-1)}
    if len(values) > 1:
        *_, last = found
        raise _wrong(ValueError, called[last], "another number of updates", "one number for the whole layer")
    return np.asarray(values.pop()) if values else None


def _debiased(accumulator: Any, count: Any, decay: float, name: str) -> Any:
    import numpy as np

    if count is None:
        raise _wrong(ValueError, name, "no counter beside it", "the counter that its accumulator is divided by")
    share = share_of(decay, int(count))
    return accumulator if share == 0.0 else (accumulator.astype(np.float64) / share).astype(accumulator.dtype)


def _wrong(kind: type[Exception], name: str, got: str, expected: str) -> Exception:
    do = "It may belong to another layer or another framework; nothing was converted."
    return refusal(kind, "BN-STATE-5", got=f"{name!r} has {got}", expected=expected, do=do)
