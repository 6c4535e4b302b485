"""Variance under another correction: kept or converted, and by how much inference moves."""

import math
from typing import Any, Literal, NamedTuple

from bnspec._checks.scalars import integer
from bnspec._conversion.writing import Change, corrected
from bnspec._errors import refusal

__all__ = ["Count", "FORMS", "Variance", "checked_count", "inference_moves", "moves_later"]

#: A number of elements per channel and batch, "keep" for a variance that stays, None for one that stays with a warning.
Count = int | Literal["keep"] | None

#: How each correction divides.
FORMS = {0: "m2/n", 1: "m2/(n - 1)"}

#: Counts for which a warning says how far inference moves.
_TOLD = (32, 1024)


class Variance(NamedTuple):
    """Corrections of two frameworks, and what is to become of a running variance."""

    before: int  # correction of the source
    after: int  # correction of the target
    number: Count  # of elements per channel and batch

    @property
    def kept(self) -> bool:
        """Return whether a variance of another correction stays as it is."""
        return self.before != self.after and not isinstance(self.number, int)

    def applied(self, var: Any, epsilon: float) -> tuple[Any, Change | None]:
        """Return the variance for the target, and a line of the report where it changed."""
        if self.before == self.after or not isinstance(self.number, int):
            return var, None
        new = corrected(var, self.before, self.after, self.number)
        factor = f"times {self.number - self.before}/{self.number - self.after}"
        size = f"{factor}; inference moves by up to {inference_moves(var, new, epsilon):.2g} of x - mean, relatively"
        return new, Change("var", "", "changed", size)


def checked_count(count: Any) -> Count:
    """Return a count, "keep" or None, and refuse anything else [BN-RUN-3]."""
    if count is None or (isinstance(count, str) and count == "keep"):
        return None if count is None else "keep"
    if isinstance(count, str):
        raise refusal(
            ValueError,
            "BN-RUN-3",
            got=f"count is {count[:40]!r}",
            expected='an integer >= 2, "keep" or None',
            do="It is the number of elements of a channel in one batch, N*H*W for images.",
        )
    return integer("count", count, 2, "BN-RUN-3", 'Pass "keep" for a variance that stays as it is.')


def inference_moves(old: Any, new: Any, epsilon: float) -> float:
    """Return the largest relative change of 1/sqrt(var + epsilon) over the channels.

    Examples
    --------
    >>> import numpy as np
    >>> inference_moves(np.asarray([1.0, 3.0]), np.asarray([4.0, 3.0]), 0.0)
    0.5
    """
    import numpy as np

    before, after = (np.asarray(v).astype(np.float64) + epsilon for v in (old, new))
    moved = np.abs(np.sqrt(before / np.where(after > 0, after, 1.0)) - 1.0)[(before > 0) & (after > 0)]
    return float(moved.max(initial=0.0))


def moves_later(before: int, after: int) -> str:
    """Return the sentence on a variance that stays though the target feeds another one.

    Examples
    --------
    >>> import textwrap
    >>> print(textwrap.fill(moves_later(1, 0), 116))
    the running variance is m2/(n - 1), and the target feeds m2/n: inference stays as it was, until training goes on and
    moves 1/sqrt(var) by 1.6 % for n=32, 0.049 % for n=1024
    """
    told = ", ".join(f"{100 * abs(math.sqrt((n - after) / (n - before)) - 1):.2g} % for n={n}" for n in _TOLD)
    return (
        f"the running variance is {FORMS[before]}, and the target feeds {FORMS[after]}: "
        f"inference stays as it was, until training goes on and moves 1/sqrt(var) by {told}"
    )
