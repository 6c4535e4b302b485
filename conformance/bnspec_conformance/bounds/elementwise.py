"""Terms that the elementwise formulas of y, ydot and dx share, in W or in an arithmetic E of their own."""

import numpy as np
import numpy.typing as npt

from bnspec_conformance.bounds.rounding import Approx, Arithmetic

__all__ = ["apart", "centred"]

Floats = npt.NDArray[np.float64]


def centred(c: Approx, mean: Floats, wide: Floats, within: Arithmetic) -> Approx:
    """Return x - mean as a formula in `within` has it: less the mean rounded to one number there.

    Parameters
    ----------
    c : Approx
        x - mean as W has it, shape (G, C, L).
    mean : array
        Shape (G, C).
    wide : array
        ``|x| + |mean|`` where y may be x*scale - mean*scale, else 0; c's shape.
    within : Arithmetic
        E; where it is W, c itself is returned.
    """
    if within == c.within:
        return c
    size = np.abs(c.value) + _rest(mean, within)[..., None] + wide
    return Approx(c.value, c.error + 2 * within.u * size, within)


def apart(slope: Approx, mean: Floats, e_hi: Floats | float, within: Arithmetic) -> Floats:
    """Return the extra roundings of ``slope*(x - centre) - slope*rest``, whose terms are larger than their sum.

    In W the rest is what `hi` misses, at most `e_hi`. A formula in another arithmetic E takes the mean rounded to E for
    the centre; what that misses goes into the shift in W, and with it is rounded to E.
    """
    u, own = slope.within.u, np.zeros(())
    if within != slope.within:
        own = 4 * (u + within.u) * _rest(mean, within)
    return np.asarray((np.abs(slope.value) * (4 * u * e_hi + own))[..., None])


def _rest(mean: Floats, within: Arithmetic) -> Floats:
    """Return the largest difference of the mean and its rounding to `within`."""
    return np.asarray(within.u * np.abs(mean))
