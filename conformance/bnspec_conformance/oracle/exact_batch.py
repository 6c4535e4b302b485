"""The exact answer to a case, one group and channel at a time.

Everything a group gives is linear in the integers X, G, X' that stand for x, dy and the tangent of x, so
a group costs a few integer sums, O(1) rationals, and one integer product and one rounding per element:

    w_i  = 1/n, or 1/(ranks with data * n_rank) under rank weighting
    mean = sum w x,  var = sum w x^2 - mean^2,  a = gamma*r/sqrt(var + epsilon)
    y    = a*(x - mean) + gamma*d + beta
    dx   = a*dy + mask*w*( dmean - a*S1 + (2*dvar - a*T/(var + epsilon))*(x - mean) )
    S1   = sum dy,  T = sum dy*(x - mean)
    y'   = a*(x' - mean') + (gamma'*r/sqrt(var + epsilon) - a*h/(var + epsilon))*(x - mean) + gamma'*d + beta'
    mean' = sum w x',  var' = 2*h,  h = sum w x'*(x - mean)

The differences of large sums above lose nothing, because no operation rounds. A masked element that is not
finite has its xhat taken as 0 in every sum and tangent. A group with an unmasked value that is not finite is NaN
wherever the formula uses its statistics (dbeta and mean' do not).
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import compress

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome, as_float64
from bnspec_conformance.cases.layout import GroupLayout, layouts
from bnspec_conformance.oracle.exact_state import Channel, Stat, advance, reference, used
from bnspec_conformance.oracle.rational import Number, dot, integers, linear, number, root, rounded

__all__ = ["batch", "channel_state", "inference", "pack_state", "parameter"]

Floats = npt.NDArray[np.float64]


@dataclass
class _Rank:
    """One rank's folded inputs, (G, C, L), and the arrays its results are written to."""

    layout: GroupLayout
    x: Floats
    live: npt.NDArray[np.bool_]
    solid: npt.NDArray[np.bool_]  # finite, or unmasked
    poison: npt.NDArray[np.bool_]  # (G, C): an unmasked value is not finite
    count: list[int]  # (G,)
    dy: Floats
    xdot: Floats
    raw: Floats
    y: Floats = field(init=False)
    dx: Floats = field(init=False)
    ydot: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.y, self.dx, self.ydot = (np.full(self.x.shape, math.nan) for _ in range(3))


@dataclass
class _Share:
    """One rank's part of one group and channel as integers with units."""

    n: int
    w: Fraction
    x: list[int]
    ux: Fraction
    live: list[bool]
    solid: list[bool]
    whole: bool  # every element is unmasked
    dy: list[int] | None
    udy: Fraction
    xdot: list[int] | None
    uxdot: Fraction

    def over_live(self, values: list[int]) -> list[int]:
        return values if self.whole else list(compress(values, self.live))


def _fold(inputs: RankInputs, layout: GroupLayout) -> _Rank:
    raw = layout.fold(as_float64(inputs.x))
    single = GroupLayout(
        tuple(1 if i == layout.axis else s for i, s in enumerate(layout.shape)), layout.axis, layout.groups
    )
    mask = single.fold(np.ones(single.shape, bool) if inputs.mask is None else np.asarray(inputs.mask, bool))
    live = np.broadcast_to(mask, raw.shape)
    finite = np.isfinite(raw)
    return _Rank(
        layout,
        np.where(finite, raw, 0.0),
        live,
        live | finite,
        np.asarray((live & ~finite).any(axis=2)),
        [int(v) for v in mask.sum(axis=(1, 2))],
        layout.optional(inputs.dy),
        layout.optional(inputs.xdot),
        raw,
    )


def _maybe_integers(values: Floats) -> tuple[list[int] | None, Fraction]:
    return integers(values) if np.isfinite(values).all() else (None, Fraction(0))


def parameter(array: Array | None, present: bool, absent: float, channels: int) -> list[Number]:
    """Exact values of a parameter, `absent` where it does not exist."""
    if array is None or not present:
        return [Fraction(absent)] * channels
    return [number(v) for v in as_float64(array).tolist()]


def channel_state(state: dict[str, Array], c: int) -> Channel:
    """Return the running state of one channel in exact numbers."""
    return {
        name: Fraction(int(values[c])) if name == "count" else number(float(values[c]))
        for name, values in state.items()
    }


def pack_state(state: dict[str, Array], channels: list[Channel]) -> dict[str, Array]:
    """Return the running state of all channels, float64, the count in its own dtype."""
    return {
        name: np.array([int(channel[name] or 0) for channel in channels], dtype=values.dtype)
        if name == "count"
        else np.array([rounded(channel[name]) for channel in channels], dtype=np.float64)
        for name, values in state.items()
    }


def batch(case: Case) -> Outcome:
    """Normalization by batch statistics, derivatives, and the running state afterwards."""
    config, channels = case.config, case.channels
    ranks = [_fold(inputs, layout) for inputs, layout in zip(case.ranks, layouts(case), strict=True)]
    groups = ranks[0].layout.groups
    weights = [_weights([rank.count[g] for rank in ranks], config.sync_weighting) for g in range(groups)]
    count = np.array([sum(rank.count[g] for rank in ranks) for g in range(groups)], dtype=np.int64)
    mean, var, mean_dot, var_dot = (np.full((groups, channels), math.nan) for _ in range(4))
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
            shares = [_share(rank, g, c, w) for rank, w in zip(ranks, weights[g], strict=True)]
            cell = _Cell(case, shares, any(rank.poison[g, c] for rank in ranks), before)
            stats.append(Stat(cell.n, cell.mean, None if cell.var is None else cell.var * cell.n))
            mean[g, c], var[g, c] = rounded(cell.mean), rounded(cell.var)
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
            )
        )
    return Outcome(tuple(results))


def _weights(counts: list[int], weighting: str) -> list[Fraction]:
    """Weight of one element of each rank in the joined mean."""
    if weighting == "count":
        return [Fraction(1, max(sum(counts), 1))] * len(counts)
    filled = sum(1 for n in counts if n)
    return [Fraction(1, filled * n) if n else Fraction(0) for n in counts]


def _share(rank: _Rank, g: int, c: int, w: Fraction) -> _Share:
    x, ux = integers(rank.x[g, c])
    dy, udy = _maybe_integers(rank.dy[g, c])
    xdot, uxdot = _maybe_integers(rank.xdot[g, c])
    live, solid = rank.live[g, c], rank.solid[g, c]
    return _Share(rank.count[g], w, x, ux, live.tolist(), solid.tolist(), bool(live.all()), dy, udy, xdot, uxdot)


class _Cell:
    """One group and channel, joined over ranks."""

    def __init__(self, case: Case, shares: list[_Share], poison: bool, state: Channel) -> None:
        self.shares = shares
        self.n = sum(s.n for s in shares)
        self.mean: Number = None
        self.var: Number = None
        self.r: Number = Fraction(1)
        self.d: Number = Fraction(0)
        self.istd = Fraction(0)
        self.precision = Fraction(0)  # 1/(var + epsilon), exact, so that products of two roots are too
        if poison:
            return
        mean = sum((s.w * sum(s.over_live(s.x)) * s.ux for s in shares), Fraction(0))
        square = Fraction(0)
        for s in shares:
            live = s.over_live(s.x)
            square += s.w * dot(live, live) * s.ux**2
        self.mean, self.var = mean, square - mean**2
        self.precision = 1 / (self.var + Fraction(case.config.epsilon))
        self.istd = root(self.precision)
        if case.config.renorm is not None:
            m, s_ref = reference(case.config, state)
            rmax, dmax = Fraction(case.config.renorm.rmax), Fraction(case.config.renorm.dmax)
            if m is None or s_ref is None:
                self.r = self.d = None
            else:
                self.r = min(max(1 / (self.istd * s_ref), 1 / rmax), rmax)
                self.d = min(max((mean - m) / s_ref, -dmax), dmax)

    def forward(self, ranks: list[_Rank], g: int, c: int, gamma: Number, beta: Number) -> None:
        if self.mean is None or self.r is None or self.d is None or gamma is None or beta is None:
            return
        a = gamma * self.r * self.istd
        for rank, s in zip(ranks, self.shares, strict=True):
            rank.y[g, c] = linear(gamma * self.d + beta - a * self.mean, (a * s.ux, s.x))
            _affine_of_odd(rank.y[g, c], rank.raw[g, c], rank.solid[g, c], a)

    def vjp(
        self, case: Case, ranks: list[_Rank], g: int, c: int, gamma: Number, sums: tuple[list[list[Number]], ...]
    ) -> None:
        total, moment = Fraction(0), Fraction(0)  # S1 and T
        fine = gamma is not None and self.mean is not None and self.r is not None
        for i, s in enumerate(self.shares):
            if s.dy is None:
                sums[0][i][c] = sums[1][i][c] = None
                fine = False
                continue
            own = sum(s.dy) * s.udy
            _add(sums[1][i], c, own)
            if self.mean is None or self.r is None or self.d is None:
                if any(s.solid):
                    sums[0][i][c] = None
                continue
            solid = own if all(s.solid) else sum(compress(s.dy, s.solid)) * s.udy
            product = dot(s.dy, s.x) * s.udy * s.ux - self.mean * solid
            _add(sums[0][i], c, self.r * self.istd * product + self.d * own)
            total, moment = total + own, moment + product
        cotangents = [sum(float(a[g, c]) for a in arrays) if arrays else 0.0 for arrays in (case.dmean, case.dvar)]
        exact = [
            sum((Fraction(float(a[g, c])) for a in arrays or ()), Fraction(0)) if math.isfinite(check) else None
            for arrays, check in zip((case.dmean, case.dvar), cotangents, strict=True)
        ]
        dmean, dvar = exact
        if not fine or gamma is None or self.mean is None or self.r is None or dmean is None or dvar is None:
            return
        a = gamma * self.r * self.istd
        for rank, s in zip(ranks, self.shares, strict=True):
            assert s.dy is not None
            slope = s.w * (2 * dvar - a * self.precision * moment)
            constant = s.w * (dmean - a * total) - slope * self.mean
            rank.dx[g, c] = linear(constant, (a * s.udy, s.dy), (slope * s.ux, s.x))
            if not s.whole:
                alone = linear(Fraction(0), (a * s.udy, s.dy))
                rank.dx[g, c] = np.where(rank.live[g, c], rank.dx[g, c], alone)

    def jvp(
        self, ranks: list[_Rank], g: int, c: int, gamma: Number, gamma_dot: Number, beta_dot: Number
    ) -> tuple[float, float]:
        if any(s.xdot is None for s in self.shares):
            return math.nan, math.nan
        shift, h = Fraction(0), Fraction(0)
        for s in self.shares:
            tangent = s.over_live(s.xdot or [])
            own = sum(tangent) * s.uxdot
            shift += s.w * own
            if self.mean is None:
                continue
            h += s.w * (dot(tangent, s.over_live(s.x)) * s.uxdot * s.ux - self.mean * own)
        if self.mean is None:
            return rounded(shift), math.nan
        if not (gamma is None or gamma_dot is None or beta_dot is None or self.r is None or self.d is None):
            a = gamma * self.r * self.istd
            slope = gamma_dot * self.r * self.istd - a * self.precision * h
            for rank, s in zip(ranks, self.shares, strict=True):
                constant = gamma_dot * self.d + beta_dot - a * shift - slope * self.mean
                rank.ydot[g, c] = linear(constant, (a * s.uxdot, s.xdot or []), (slope * s.ux, s.x))
                if not all(s.solid):
                    odd = linear(gamma_dot * self.d + beta_dot - a * shift, (a * s.uxdot, s.xdot or []))
                    rank.ydot[g, c] = np.where(rank.solid[g, c], rank.ydot[g, c], odd)
        return rounded(shift), rounded(2 * h)


def _add(row: list[Number], c: int, term: Fraction) -> None:
    old = row[c]
    row[c] = None if old is None else old + term


def _affine_of_odd(y: Floats, raw: Floats, solid: npt.NDArray[np.bool_], a: Fraction) -> None:
    """Write the affine image of values that are not finite."""
    if not solid.all():
        with np.errstate(invalid="ignore"):
            y[~solid] = raw[~solid] * (0.0 if a == 0 else math.copysign(1.0, a))


def inference(case: Case) -> Outcome:
    """Normalization by the running statistics as constants, and its derivatives; masks and ranks play no part."""
    config, channels = case.config, case.channels
    assert case.state is not None, "inference needs a state"
    gammas, betas = parameter(case.gamma, config.scale, 1, channels), parameter(case.beta, config.center, 0, channels)
    gamma_dots = parameter(case.gamma_dot, config.scale, 0, channels)
    beta_dots = parameter(case.beta_dot, config.center, 0, channels)
    results = []
    for inputs, layout in zip(case.ranks, layouts(case), strict=True):
        rank = _fold(RankInputs(inputs.x, inputs.dy, None, inputs.xdot), layout)
        finite = np.isfinite(rank.raw)
        dgamma, dbeta = np.full(channels, math.nan), np.full(channels, math.nan)
        for c in range(channels):
            s = _share(rank, 0, c, Fraction(0))
            if s.dy is not None:
                dbeta[c] = rounded(sum(s.dy) * s.udy)
            mean, var = used(config, channel_state(case.state, c))
            gamma, beta, gamma_dot, beta_dot = gammas[c], betas[c], gamma_dots[c], beta_dots[c]
            if mean is None or var is None or var + Fraction(config.epsilon) <= 0:
                continue
            istd = root(1 / (var + Fraction(config.epsilon)))
            if not finite[0, c].all():  # no sum is exact any more; infinities keep their sign
                with np.errstate(all="ignore"):
                    dgamma[c] = (rank.dy[0, c] * (rank.raw[0, c] - rounded(mean)) * rounded(istd)).sum()
            elif s.dy is not None:
                dgamma[c] = rounded(istd * (dot(s.dy, s.x) * s.udy * s.ux - mean * sum(s.dy) * s.udy))
            if gamma is None:
                continue
            a = gamma * istd
            if beta is not None:
                rank.y[0, c] = linear(beta - a * mean, (a * s.ux, s.x))
                _affine_of_odd(rank.y[0, c], rank.raw[0, c], finite[0, c], a)
            if s.dy is not None:
                rank.dx[0, c] = linear(Fraction(0), (a * s.udy, s.dy))
            if s.xdot is not None and gamma_dot is not None and beta_dot is not None:
                slope = gamma_dot * istd
                rank.ydot[0, c] = linear(beta_dot - slope * mean, (a * s.uxdot, s.xdot), (slope * s.ux, s.x))
                if gamma_dot:
                    _affine_of_odd(rank.ydot[0, c], rank.raw[0, c], finite[0, c], slope)
        grad = case.has_vjp
        results.append(
            RankOutcome(
                y=layout.unfold(rank.y),
                dx=layout.unfold(rank.dx) if grad else None,
                dgamma=dgamma if grad and config.scale else None,
                dbeta=dbeta if grad and config.center else None,
                ydot=layout.unfold(rank.ydot) if case.has_jvp else None,
            )
        )
    return Outcome(tuple(results))
