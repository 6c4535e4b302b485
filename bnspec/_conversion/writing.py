"""Writing one layer: from bnspec's fields to a framework's variables, and a line for each thing that was done."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bnspec._checks.scalars import integer
from bnspec._conversion.layers import RENORM
from bnspec._dialect import Dialect
from bnspec._errors import refusal
from bnspec._running import share_of

if TYPE_CHECKING:  # `import bnspec` must not load NumPy
    import numpy as np

__all__ = ["Change", "checked_place", "corrected", "settled", "write_layer"]


#: How the report says what a variable was filled with.
_FILLED = {"gamma": "1", "beta": "0", "renorm_mean": "the running mean", "renorm_stddev": "the running deviation"}


class Change(NamedTuple):
    """Line of the report on one layer: a variable and what became of it."""

    field: str  # bnspec's name: gamma, beta, mean, var, count, ...
    variable: str  # the target's name; empty where the target cannot hold it
    what: str  # moved, changed, filled or dropped
    size: str = ""  # by how much, or why


def checked_place(rank: Any, axis: Any) -> tuple[int, int]:
    """Return the rank of x and the axis of its channels, and refuse an axis that x does not have [BN-SHAPE-2]."""
    rank = integer("rank", rank, 2, "BN-SHAPE-1", "It is the number of axes of x.")
    axis = integer("axis", axis, None, "BN-SHAPE-2", "Pass the position of the channel axis, such as 1 or -1.")
    if -rank <= axis < rank:
        return rank, axis
    raise refusal(
        ValueError,
        "BN-SHAPE-2",
        got=f"axis={axis} and rank={rank}",
        expected=f"an axis of {-rank} to {rank - 1}",
        do="Pass the position of the channel axis, such as 1 or -1.",
    )


def settled(decay: float, dtype: "np.dtype[Any]") -> int:
    """Return the number of updates from which 1 - decay^t is 1 in a dtype: the accumulator is the average.

    Examples
    --------
    >>> import numpy as np
    >>> t = settled(0.9, np.dtype("float32"))
    >>> [float(np.float32(1 - 0.9**n)) == 1 for n in (t, t - 10)]
    [True, False]
    """
    import numpy as np

    smallest = float(np.finfo(dtype).eps) / 4 if dtype.kind == "f" else 2.0**-10  # bfloat16 is no kind of NumPy's own
    return 1 if decay == 0 else math.ceil(math.log(smallest) / math.log(decay))


def corrected(var: Any, before: int, after: int, count: int) -> Any:
    """Return a running variance with another correction, for batches of a count of elements in each channel.

    Parameters
    ----------
    var : array, shape (C,)
    before, after : {0, 1}
        The corrections that it has and is to have.
    count : int
        At least 2.

    Returns
    -------
    array, shape (C,)
        var*(count - before)/(count - after), rounded once.
    """
    import numpy as np

    return (var.astype(np.float64) * ((count - before) / (count - after))).astype(var.dtype)


def write_layer(
    fields: "Mapping[str, np.ndarray[Any, Any]]", row: Dialect, *, decay: float, rank: int, axis: int
) -> "tuple[dict[str, np.ndarray[Any, Any]], list[Change]]":
    """Return a layer's variables by the framework's own names, and what was done.

    Parameters
    ----------
    fields : mapping of str to array
        As `reading.read_layer` gives them.
    row : Dialect
        The framework.
    decay : float
        The layer's; an accumulator to be debiased depends on it.
    rank, axis : int
        Of x and of its channels, for frameworks that keep x's axes.
    """
    import numpy as np

    stored = row.storage
    fields = dict(fields)
    changes: list[Change] = []
    for field, why in _unheld(fields, row).items():
        del fields[field]
        changes.append(Change(field, "", "dropped", why))
    filled = _missing_parameters(fields, row) | _missing_reference(fields, row)
    names = row.renorm_names if "stddev" in fields and row.renorm_names is not None else row.names
    count = fields.pop("count", None)
    made: dict[str, Any] = {}
    if count is not None and int(count) == 0 and not _is_new(fields):
        count = None  # nobody counted: a layer without updates has no statistics
    unknown = row.averaging == "debiased" and count is None
    if unknown:
        count = np.asarray(settled(_below_one(decay), fields["mean"].dtype))
    for field, array in (fields | filled).items():
        if field in stored.averages and count is not None:
            made[names[field]] = _shaped(_accumulator(array, decay, int(count)), stored.keeps_axes, rank, axis)
            made[stored.averages[field]] = _shaped(array, stored.keeps_axes, rank, axis)
            changes.append(Change(field, stored.averages[field], "moved"))
            changes.append(Change(field, names[field], "filled", "average*(1 - decay^count)"))
            continue
        made[names[field]] = _shaped(array, stored.keeps_axes, rank, axis)
        what = ("filled", _FILLED[field]) if field in filled else ("moved", "")
        changes.append(Change(field, names[field], *what))
    for counter in stored.counters:
        made[counter] = np.asarray(0 if count is None else count, dtype=stored.counter_dtype)
        why = f"{int(made[counter])}, so that 1 - decay^count is 1" if unknown else "0, no number was kept"
        known = count is not None and not unknown
        changes.append(Change("count", counter, "moved" if known else "filled", "" if known else why))
    if stored.new_flag is not None:
        made[stored.new_flag] = np.asarray(False)
        changes.append(Change("count", stored.new_flag, "filled", "false: the layer has seen batches"))
    return made, changes


def _is_new(fields: Mapping[str, Any]) -> bool:
    """Return whether mean and variance are those that a new layer has."""
    return not bool(fields["mean"].any()) and bool((fields["var"] == 1).all())


def _unheld(fields: Mapping[str, Any], row: Dialect) -> dict[str, str]:
    """The fields that the framework has no variable for, with the reason."""
    found = {}
    renorm = row.renorm_names or {}
    if any(field in fields and field not in renorm for field in RENORM):
        found = {f: f"{row.name} has no batch renormalization" for f in RENORM if f in fields}
    if "count" in fields and not row.storage.counters:
        found["count"] = f"{row.name} keeps no number of updates"
    return found


def _missing_parameters(fields: Mapping[str, Any], row: Dialect) -> dict[str, Any]:
    """The gamma of ones and beta of zeros that a framework needs to be there."""
    import numpy as np

    absent = [field for field in ("gamma", "beta") if field not in fields]
    if row.storage.affine == "each" or (row.storage.affine == "both" and len(absent) == 2):
        return {}
    return {field: (np.ones_like if field == "gamma" else np.zeros_like)(fields["mean"]) for field in absent}


def _missing_reference(fields: Mapping[str, Any], row: Dialect) -> dict[str, Any]:
    """The reference of renorm, for a framework that has one of its own, from a layer that shares the running state."""
    if row.storage.shared_reference or "stddev" not in fields or "renorm_mean" in fields:
        return {}
    return {"renorm_mean": fields["mean"], "renorm_stddev": fields["stddev"]}


def _accumulator(average: Any, decay: float, count: int) -> Any:
    import numpy as np

    share = share_of(decay, count)
    return average if share == 1.0 else (average.astype(np.float64) * share).astype(average.dtype)


def _below_one(decay: float) -> float:
    if decay < 1:
        return decay
    raise refusal(
        ValueError,
        "BN-RUN-7",
        got="a debiased running state with decay=1",
        expected="decay < 1",
        do="1 - decay^t would stay 0, so there is nothing to divide by; pass the decay to train on with.",
    )


def _shaped(array: Any, keeps_axes: bool, rank: int, axis: int) -> Any:
    if not keeps_axes:
        return array
    shape = [1] * rank
    shape[axis] = array.shape[0]
    return array.reshape(shape)
