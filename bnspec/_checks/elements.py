"""The one check at the door that reads elements: what counts, and what sums squares, is never below 0 [BN-RUN-14].

Elements are read where nothing has to wait for them: in host memory, outside of every transformation of the library.
NaN is no number below 0; it takes the way of BN-RUN-10.
"""

from collections.abc import Callable
from typing import Any

from bnspec._arrays import array_namespace, library, on_device_of
from bnspec._errors import refusal
from bnspec._modes import readable
from bnspec._types import Array, Moments, RunningState

__all__ = ["below_zero", "is_readable", "lengths_values", "moments_values", "not_below_zero", "state_values"]


def state_values(
    state: RunningState,
    name: str,
    *,
    fields: tuple[str, ...] = ("var", "count", "stddev", "renorm_stddev"),
    wait: bool = False,
) -> None:
    """Refuse a state with a variance, a deviation or a counter below 0 [BN-RUN-14].

    Parameters
    ----------
    state : RunningState
        Its kinds, shapes and dtypes were checked before.
    name : str
        The layer's name, for the error text.
    fields : tuple of str
        Names of the fields that are read.
    wait : bool
        True reads arrays of every device and library, and waits for them: for a state that is loaded.

    Raises
    ------
    ValueError
        Naming the field; nothing has changed.
    """
    for field in fields:
        v = getattr(state, field)
        if v is not None:
            not_below_zero(f"state.{field}", v, name, "Make the state with bnspec.init, or load another.", wait=wait)


def moments_values(stats: Moments, name: str, what: str = "stats") -> None:
    """Refuse moments with a count or m2 below 0 [BN-RUN-14]."""
    for field in ("count", "m2"):
        not_below_zero(f"{what}.{field}", getattr(stats, field), name, "Pass what bnspec.batch_norm returned.")


def lengths_values(lengths: Array, extent: int, name: str) -> None:
    """Refuse lengths below 0, or beyond the extent of the axis along which sequences run [BN-MASK-9]."""
    do = "A length says how many elements of its sample count."
    not_below_zero("lengths", lengths, name, do, clause="BN-MASK-9")
    if (
        is_readable(lengths)
        and 0 not in lengths.shape
        and (most := int(array_namespace(lengths).max(lengths))) > extent
    ):
        raise refusal(
            ValueError,
            "BN-MASK-9",
            got=f"{name}: a length of {most}",
            expected=f"at most {extent}, the extent of the axis along which sequences run",
            do=do,
        )


@on_device_of("v")
def not_below_zero(what: str, v: Array, name: str, do: str, *, wait: bool = False, clause: str = "BN-RUN-14") -> None:
    """Refuse an array with an element below 0, where its elements can be read."""
    if (wait or is_readable(v)) and _has_negative(v):
        raise below_zero(what, tuple(v.shape), name, do, clause)


def below_zero(what: str, shape: tuple[int, ...], name: str, do: str, clause: str = "BN-RUN-14") -> Exception:
    """Return the refusal of an array with elements below 0."""
    return refusal(
        ValueError,
        clause,
        got=f"{name}: {what} of shape {shape} has elements below 0",
        expected="numbers >= 0",
        do=do,
    )


def is_readable(v: Array) -> bool:
    """Return whether an array's elements can be read now, without waiting and outside of every transformation."""
    return _READABLE[library(v)](v) if library(v) in _READABLE else False


def _has_negative(v: Array) -> bool:
    if 0 in v.shape:
        return False
    xp = array_namespace(v)
    v = v.detach() if hasattr(v, "detach") else v
    # The smallest takes half the time of a comparison of all; a NaN hides it, and is rare.
    return not bool(xp.min(v) >= 0) and bool(xp.any(v < 0))


_READABLE: dict[str, Callable[[Any], bool]] = {
    "numpy": lambda v: True,
    "array_api_strict": lambda v: True,
    "torch": readable,
}
