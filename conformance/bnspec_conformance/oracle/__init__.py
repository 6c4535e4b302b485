"""The independent reference: what a case's answer is, exactly.

`exact` computes every sum in integers and every root to 220 bits and rounds each result once to float64;
`float64` computes the same in ordinary float64; `central_difference` differentiates the latter's forward
pass numerically and knows nothing of the gradient formulas. No code is shared with ``bnspec``; only its
configuration record is read.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, as_float64
from bnspec_conformance.cases.layout import layouts
from bnspec_conformance.oracle import exact_batch, exact_inference, in_float64

__all__ = ["Direction", "central_difference", "direction", "exact", "float64"]


@dataclass(frozen=True, eq=False)
class Direction:
    """A tangent of everything a case's result depends on smoothly.

    Attributes
    ----------
    x : tuple of array
        Per rank, x's shape, float64.
    gamma, beta : array
        Shape (C,), float64; zeros where the parameter does not exist.
    """

    x: tuple[Array, ...]
    gamma: Array
    beta: Array


def exact(case: Case) -> Outcome:
    """Return the answer, each number correctly rounded to float64.

    Parameters
    ----------
    case : Case
        Any dtype; about a microsecond per element and result.

    Returns
    -------
    Outcome
        float64 arrays (counts: integers). NaN where a value that is not finite enters.

    Raises
    ------
    ValueError
        Where the specification says that the call is refused [BN-GRP-3, BN-RUN-4, BN-SYNC-9].
    FloatingPointError
        For a batch statistic that is not finite under ``nonfinite="raise"`` [BN-RUN-10].
    """
    return exact_inference.inference(case) if case.mode == "inference" else exact_batch.batch(case)


def float64(case: Case) -> Outcome:
    """Return the answer in plain float64 NumPy, for arrays too large for `exact`."""
    return in_float64.inference(case) if case.mode == "inference" else in_float64.batch(case)


def direction(case: Case, seed: int) -> Direction:
    """Return a random direction, scaled so that a step of 1 moves each channel by about its standard deviation.

    Parameters
    ----------
    case : Case
    seed : int
        Same seed, same direction.
    """
    rng = np.random.default_rng(seed)
    config = case.config
    spread = np.sqrt(_spread(case) + config.epsilon)
    shape = [1] * case.ranks[0].x.ndim
    shape[config.axis] = case.channels
    tangents = tuple(rng.standard_normal(r.x.shape) * spread.reshape(shape) for r in case.ranks)
    gamma, beta = rng.standard_normal((2, case.channels))
    return Direction(tangents, gamma * config.scale, beta * config.center)


def central_difference(case: Case, direction_seed: int) -> tuple[float, float]:
    """Derivative of a case's loss along `direction`, by extrapolated central differences (Ridders 1982).

    The loss is ``sum over ranks of sum dy*y + sum dmean*mean + sum dvar*var`` with the case's cotangents;
    renorm's corrections are held at their values. To be compared with ``sum dx*xdot + sum dgamma*gamma_dot +
    sum dbeta*beta_dot``. Masked values that are not finite are left alone.

    Parameters
    ----------
    case : Case
    direction_seed : int

    Returns
    -------
    value : float
    error : float
        Estimate of |value - derivative|: the spread of the extrapolation plus the loss's own rounding
        divided by the step.

    References
    ----------
    C. Ridders, Accurate computation of F'(x) and F'(x)F''(x), Adv. Eng. Software 4 (1982).
    """
    along = direction(case, direction_seed)
    corrections = None
    if case.mode == "batch":
        joined = in_float64.moments(case, list(layouts(case)))
        corrections = in_float64.correct(case, joined.mean, 1.0 / np.sqrt(joined.var + case.config.epsilon))
    magnitude = _loss(case, corrections)[1]
    # The forward pass rounds x - mean and the sums: a relative error of a few units times the count, at most.
    count = max(sum(rank.x.size for rank in case.ranks) // max(case.channels, 1), 1)
    noise = np.finfo(np.float64).eps * magnitude * count**0.5 * (1 + _conditioning(case))
    best, error = np.nan, np.inf
    table: list[list[float]] = []
    step = 2.0**-3
    for row in range(8):
        up, down = _loss(_moved(case, along, step), corrections)[0], _loss(_moved(case, along, -step), corrections)[0]
        entries = [(up - down) / (2 * step)]
        for column in range(row):  # column k removes the term of order step**(2k + 2)
            factor = 4.0 ** (column + 1)
            entries.append((factor * entries[column] - table[-1][column]) / (factor - 1))
            change = max(abs(entries[-1] - entries[column]), abs(entries[-1] - table[-1][column]))
            if change + noise / step < error:
                best, error = entries[-1], change + noise / step
        table.append(entries)
        step /= 2
    return float(best), float(error)


def _spread(case: Case) -> Array:
    """Variance per channel over everything finite, shape (C,)."""
    if case.mode == "inference":
        return np.ones(case.channels)
    var = in_float64.moments(case, list(layouts(case))).var
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(var.mean(axis=0)) if len(var) else np.zeros(case.channels)


def _conditioning(case: Case) -> float:
    """Largest |mean|/deviation of a group: how much a rounding of x weighs in y."""
    if case.mode == "inference":
        return 0.0
    joined = in_float64.moments(case, list(layouts(case)))
    ratio = np.abs(joined.mean) / np.sqrt(joined.var + case.config.epsilon)
    return float(np.max(ratio, initial=0.0))


def _moved(case: Case, along: Direction, step: float) -> Case:
    ranks = tuple(
        RankInputs(as_float64(r.x) + step * t, r.dy, r.mask) for r, t in zip(case.ranks, along.x, strict=True)
    )
    one, zero = np.ones(case.channels), np.zeros(case.channels)
    gamma = as_float64(one if case.gamma is None else case.gamma) + step * along.gamma
    beta = as_float64(zero if case.beta is None else case.beta) + step * along.beta
    return dataclasses.replace(case, ranks=ranks, gamma=gamma, beta=beta, update=False)


def _loss(case: Case, corrections: in_float64.Corrections | None) -> tuple[float, float]:
    """Return the loss, and the sum of the magnitudes of its terms."""
    plain = dataclasses.replace(case, update=False)
    if case.mode == "inference":
        outcome = in_float64.inference(plain)
    else:
        outcome = in_float64.batch(plain, corrections)
    terms = []
    for i, (rank, result) in enumerate(zip(case.ranks, outcome.ranks, strict=True)):
        if rank.dy is not None and result.y is not None:
            terms.append(np.where(np.isfinite(as_float64(rank.x)), as_float64(rank.dy) * result.y, 0.0).ravel())
        for cotangents, values in ((case.dmean, result.mean), (case.dvar, result.var)):
            if cotangents is not None and values is not None:
                terms.append((as_float64(cotangents[i]) * values).ravel())
    joined = np.concatenate(terms) if terms else np.zeros(0)
    return float(joined.sum()), float(np.abs(joined).sum())
