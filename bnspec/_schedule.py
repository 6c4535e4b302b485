"""Schedules: numbers of a configuration that change from step to step, and are given at the call.

A configuration is static: each one that differs makes a compiled program of its own. The limits of renorm grow with
every step in the paper's recipe, and a decay may follow a schedule too. Given at the call, as arrays, they are inputs
of the program instead::

    batch_norm(x, params, config, schedule=s)  =  batch_norm(x, params, config with the numbers of s)

References
----------
Ioffe, "Batch Renormalization", 2017, section 4.2 (rmax from 1 to 3 over 40000 steps, dmax from 0 to 5 over 25000).
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from operator import le
from typing import Any, NamedTuple

from bnspec._arrays import array_namespace, is_array, stop_gradient
from bnspec._checks.arrays import floating, same_home
from bnspec._checks.elements import is_readable
from bnspec._checks.scalars import plain, real, shown
from bnspec._config import BatchNormConfig
from bnspec._dtypes import dtype_name
from bnspec._errors import refusal
from bnspec._types import Array

__all__ = ["Schedule", "scheduled"]


class Schedule(NamedTuple):
    """Numbers for one call in the place of a configuration's: each a number, an array of shape (), or None for its own.

    A NamedTuple of arrays passes through ``jax.jit`` as an argument, so that its numbers may change without a new
    trace. They are constants to every derivative. Where a number can be read, one out of its range is refused; where it
    cannot, on devices and under tracing, it makes the results NaN [BN-RENORM-9].

    Attributes
    ----------
    rmax, dmax : number or array of shape (), or None
        Limits of renorm's corrections, >= 1 and >= 0; the configuration has to have a `bnspec.Renorm`.
    decay : number or array of shape (), or None
        Weight in [0, 1] that the old running value keeps, under ``averaging="exponential"`` only; renorm's own decay
        stays the configuration's [BN-RUN-1].

    Examples
    --------
    The paper's schedule: plain batch normalization for 5000 steps, then limits that grow to 3 and 5.

    >>> import numpy as np
    >>> import bnspec
    >>> renorm = bnspec.Renorm(form="paper", rmax=1.0, dmax=0.0)
    >>> config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.99, correction=0, renorm=renorm)
    >>> def paper(step):
    ...     return bnspec.Schedule(rmax=1 + 2 * np.clip((step - 5000) / 35000, 0, 1),
    ...                            dmax=5 * np.clip((step - 5000) / 20000, 0, 1))
    >>> x = np.asarray([[1.0], [5.0]])                             # mean 3, deviation 2; the reference is 0 and 1
    >>> params, state = bnspec.init(config, channels=1, like=x)
    >>> for step in (0, 15000, 40000):
    ...     y, new = bnspec.apply(x, params, state, config, train=True, schedule=paper(step))
    ...     print(y.round(2)[:, 0].tolist())
    [-1.0, 1.0]
    [0.93, 4.07]
    [1.0, 5.0]
    """

    rmax: Any = None
    dmax: Any = None
    decay: Any = None


def scheduled(
    config: BatchNormConfig, schedule: Schedule | None, like: Array, dtype: Any, name: str
) -> tuple[BatchNormConfig, bool]:
    """Check a schedule and return the configuration of this call, and whether all of its numbers are known.

    Parameters
    ----------
    config : BatchNormConfig
        Was checked before.
    schedule : Schedule or None
    like : array
        In whose library arrays of the schedule have to be.
    dtype : dtype
        Dtype that they are cast to.
    name : str
        The layer's name, for error texts.

    Returns
    -------
    config : BatchNormConfig
        With the schedule's numbers. One with numbers that are not known has arrays in their places: it cannot be
        hashed, its text is that of the given one, and only the operations of `bnspec.Kernels` itself read it.
    known : bool

    Raises
    ------
    TypeError, ValueError
        For what is no schedule, has numbers that this configuration does not use, or numbers out of range.
    """
    if schedule is None:
        return config, True
    if not isinstance(schedule, Schedule):
        raise _wrong(
            f"{name}: schedule is {shown(schedule)}", "a bnspec.Schedule or None", "Write bnspec.Schedule(...)."
        )
    _useful(config, schedule, name)
    given = {field: v for field, v in schedule._asdict().items() if v is not None}
    found = {field: _number(field, v, like, dtype, name) for field, v in given.items()}
    limits = {field: v for field, v in found.items() if field != "decay"}
    decay = {field: v for field, v in found.items() if field == "decay"}
    known = all(type(v) is float for v in found.values())
    change = dataclasses.replace if known else _with_arrays
    renorm = {"renorm": change(config.renorm, **limits)} if config.renorm is not None and limits else {}
    return change(config, **decay, **renorm), known


def _useful(config: BatchNormConfig, schedule: Schedule, name: str) -> None:
    """Refuse numbers that the configuration has no use for."""
    limits = [field for field in ("rmax", "dmax") if getattr(schedule, field) is not None]
    if limits and config.renorm is None:
        raise _wrong(
            f"{name}: a schedule of {' and '.join(limits)} without renorm",
            "a configuration with renorm",
            "Write renorm=bnspec.Renorm(rmax=..., dmax=...) into it.",
            kind=ValueError,
        )
    if schedule.decay is not None and config.averaging != "exponential":
        raise _wrong(
            f"{name}: a schedule of the decay with averaging={config.averaging!r}",
            'averaging="exponential"',
            "The other averages have weights of their own, or divide by a power of one decay.",
            "BN-RUN-1",
            ValueError,
        )


#: What each number may be, in words and as a test, the clause that says so, and what to do.
_RANGES: dict[str, tuple[str, Callable[[float], bool], str, str]] = {
    "rmax": ("a finite number >= 1", partial(le, 1), "BN-RENORM-9", "Use 1 for no correction."),
    "dmax": ("a finite number >= 0", partial(le, 0), "BN-RENORM-9", "Use 0 for no correction."),
    "decay": ("a number in [0, 1]", lambda v: 0 <= v <= 1, "BN-RUN-1", "It is the weight that the old value keeps."),
}


def _number(field: str, v: Any, like: Array, dtype: Any, name: str) -> Any:
    """Return a number of a schedule as a float where it can be read, else as an array of a dtype, NaN out of range."""
    expected, allowed, clause, do = _RANGES[field]
    what = f"{name}: schedule.{field}"
    if not is_array(v) or type(plain(v)) is bool or type(v).__module__ == "numpy" or is_readable(v):
        return real(what, v, allowed, expected, clause, do)
    if tuple(v.shape) != ():
        raise _wrong(f"{what} is {shown(v)}", "a number, or an array of shape ()", do, clause)
    if not dtype_name(v.dtype).startswith(("int", "uint")):  # what `jax.jit` makes of Python's integers
        floating(f"schedule.{field}", v, name)
    same_home("x", like, f"schedule.{field}", v, name)
    xp = array_namespace(v)
    v = xp.astype(stop_gradient(v), dtype)
    low, high = {"rmax": (1.0, math.inf), "dmax": (0.0, math.inf), "decay": (0.0, 1.0)}[field]
    usable = (v >= low) & (v <= high) & xp.isfinite(v)
    return xp.where(usable, v, xp.full_like(v, math.nan))


def _with_arrays(record: Any, **fields: Any) -> Any:
    """Return a copy of a frozen record with fields that its own checks would not take."""
    found = copy.copy(record)
    for field, value in fields.items():
        object.__setattr__(found, field, value)
    return found


def _wrong(
    got: str, expected: str, do: str, clause: str = "BN-RENORM-9", kind: type[Exception] = TypeError
) -> Exception:
    return refusal(kind, clause, got=got, expected=expected, do=do)
