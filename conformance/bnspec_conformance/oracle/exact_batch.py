"""The exact answer of a training call, one group and channel at a time (`exact_cell`)."""

import math
from fractions import Fraction

import numpy as np

from bnspec_conformance.cases.case import Case, Outcome, RankOutcome
from bnspec_conformance.cases.layout import layouts
from bnspec_conformance.oracle.exact_cell import Cell
from bnspec_conformance.oracle.exact_rank import fold, share
from bnspec_conformance.oracle.exact_state import Channel, Stat, advance, channel_state, pack_state
from bnspec_conformance.oracle.rational import Number, parameter, rest, rounded

__all__ = ["batch"]


def batch(case: Case) -> Outcome:
    """Normalization by batch statistics, derivatives, and the running state afterwards."""
    config, channels = case.config, case.channels
    ranks = [fold(inputs, layout) for inputs, layout in zip(case.ranks, layouts(case), strict=True)]
    groups = ranks[0].layout.groups
    count = np.sum([rank.count for rank in ranks], axis=0, dtype=np.int64).reshape(groups, max(channels, 1))
    count = count if case.counts_channels else count[:, 0]
    mean, low, var, mean_dot, var_dot = (np.full((groups, channels), math.nan) for _ in range(5))
    dgamma = [[Fraction(0) for _ in range(channels)] for _ in ranks]
    dbeta = [[Fraction(0) for _ in range(channels)] for _ in ranks]
    sums: tuple[list[list[Number]], list[list[Number]]] = ([list(row) for row in dgamma], [list(row) for row in dbeta])
    gammas, betas = parameter(case.gamma, config.scale, 1, channels), parameter(case.beta, config.center, 0, channels)
    dots = (parameter(case.gamma_dot, config.scale, 0, channels), parameter(case.beta_dot, config.center, 0, channels))
    after: list[Channel] = []
    limit = int(np.iinfo(case.state["count"].dtype).max) if case.state and "count" in case.state else 0
    for c in range(channels):
        before = channel_state(case.state, c) if case.state is not None else {}
        stats = []
        for g in range(groups):
            weights = _weights([rank.count[g][c] for rank in ranks], config.sync_weighting)
            shares = [share(rank, g, c, w) for rank, w in zip(ranks, weights, strict=True)]
            cell = Cell(case, shares, any(rank.poison[g, c] for rank in ranks), before)
            stats.append(Stat(cell.n, cell.mean, None if cell.var is None else cell.var * cell.n))
            mean[g, c], var[g, c] = rounded(cell.mean), rounded(cell.var)
            low[g, c] = rest(cell.mean, float(mean[g, c]))
            cell.forward(ranks, g, c, gammas[c], betas[c])
            if case.has_vjp:
                cell.vjp(case, ranks, g, c, gammas[c], sums)
            if case.has_jvp:
                mean_dot[g, c], var_dot[g, c] = cell.jvp(ranks, g, c, gammas[c], dots[0][c], dots[1][c])
        if case.update and case.state is not None:
            after.append(advance(config, before, stats, limit))
    state = pack_state(case.state, after) if case.update and case.state is not None else None
    results = []
    for r, rank in enumerate(ranks):
        grad = case.has_vjp
        results.append(
            RankOutcome(
                y=rank.layout.unfold(rank.y),
                count=count,
                mean=mean,
                var=var,
                state=state,
                dx=rank.layout.unfold(rank.dx) if grad else None,
                dgamma=np.array([rounded(v) for v in sums[0][r]]) if grad and config.scale else None,
                dbeta=np.array([rounded(v) for v in sums[1][r]]) if grad and config.center else None,
                ydot=rank.layout.unfold(rank.ydot) if case.has_jvp else None,
                mean_dot=mean_dot if case.has_jvp else None,
                var_dot=var_dot if case.has_jvp else None,
                mean_low=low,
            )
        )
    return Outcome(tuple(results))


def _weights(counts: list[int], weighting: str) -> list[Fraction]:
    """Weight of one element of each rank in the joined mean."""
    if weighting == "count":
        return [Fraction(1, max(sum(counts), 1))] * len(counts)
    filled = sum(1 for n in counts if n)
    return [Fraction(1, filled * n) if n else Fraction(0) for n in counts]
