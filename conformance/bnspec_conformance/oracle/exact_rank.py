"""One rank's inputs, folded to groups, channels and elements, and its part of one group and channel as integers."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import compress

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import RankInputs, as_float64
from bnspec_conformance.cases.layout import GroupLayout
from bnspec_conformance.oracle.rational import integers

__all__ = ["RankArrays", "RankShare", "affine_of_odd", "fold", "share"]

Floats = npt.NDArray[np.float64]


@dataclass
class RankArrays:
    """One rank's folded inputs, (G, C, L), and the arrays its results are written to."""

    layout: GroupLayout
    x: Floats
    live: npt.NDArray[np.bool_]
    solid: npt.NDArray[np.bool_]  # finite, or unmasked
    poison: npt.NDArray[np.bool_]  # (G, C): an unmasked value is not finite
    count: list[list[int]]  # (G, C), or (G, 1) where C is 0
    dy: Floats
    xdot: Floats
    raw: Floats
    y: Floats = field(init=False)
    dx: Floats = field(init=False)
    ydot: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.y, self.dx, self.ydot = (np.full(self.x.shape, math.nan) for _ in range(3))


@dataclass
class RankShare:
    """One rank's part of one group and channel as integers with units."""

    n: int
    w: Fraction
    x: list[int]
    ux: Fraction
    live: list[bool]
    solid: list[bool]
    unmasked: bool  # every element is
    dy: list[int] | None
    udy: Fraction
    xdot: list[int] | None
    uxdot: Fraction

    def over_live(self, values: list[int]) -> list[int]:
        return values if self.unmasked else list(compress(values, self.live))


def fold(inputs: RankInputs, layout: GroupLayout) -> RankArrays:
    raw = layout.fold(as_float64(inputs.x))
    counted = 1 if inputs.mask is None else inputs.mask.shape[layout.axis]
    single = GroupLayout(
        tuple(counted if i == layout.axis else s for i, s in enumerate(layout.shape)), layout.axis, layout.groups
    )
    mask = single.fold(np.ones(single.shape, bool) if inputs.mask is None else np.asarray(inputs.mask, bool))
    live = np.broadcast_to(mask, raw.shape)
    count = np.broadcast_to(mask.sum(axis=2), (layout.groups, max(raw.shape[1], 1)))
    finite = np.isfinite(raw)
    return RankArrays(
        layout,
        np.where(finite, raw, 0.0),
        live,
        live | finite,
        np.asarray((live & ~finite).any(axis=2)),
        count.tolist(),
        layout.optional(inputs.dy),
        layout.optional(inputs.xdot),
        raw,
    )


def share(rank: RankArrays, g: int, c: int, w: Fraction) -> RankShare:
    x, ux = integers(rank.x[g, c])
    dy, udy = _maybe_integers(rank.dy[g, c])
    xdot, uxdot = _maybe_integers(rank.xdot[g, c])
    live, solid = rank.live[g, c], rank.solid[g, c]
    return RankShare(rank.count[g][c], w, x, ux, live.tolist(), solid.tolist(), bool(live.all()), dy, udy, xdot, uxdot)


def _maybe_integers(values: Floats) -> tuple[list[int] | None, Fraction]:
    return integers(values) if np.isfinite(values).all() else (None, Fraction(0))


def affine_of_odd(y: Floats, raw: Floats, solid: npt.NDArray[np.bool_], a: Fraction) -> None:
    """Write the affine image of values that are not finite."""
    if not solid.all():
        with np.errstate(invalid="ignore"):
            y[~solid] = raw[~solid] * (0.0 if a == 0 else math.copysign(1.0, a))
