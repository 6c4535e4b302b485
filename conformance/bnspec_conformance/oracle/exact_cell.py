"""One group and channel in exact arithmetic, joined over the ranks.

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
from fractions import Fraction
from itertools import compress

import numpy as np

from bnspec_conformance.cases.case import Case
from bnspec_conformance.oracle.exact_rank import RankArrays, RankShare, affine_of_odd
from bnspec_conformance.oracle.exact_state import Channel, reference
from bnspec_conformance.oracle.rational import Number, dot, linear, root, rounded

__all__ = ["Cell"]


class Cell:
    """One group and channel, joined over ranks."""

    def __init__(self, case: Case, shares: list[RankShare], poison: bool, state: Channel) -> None:
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
        radicand = self.var + Fraction(case.config.epsilon)
        if radicand == 0:  # istd is infinite; what is made with it is no number
            self.r = None
            return
        self.precision = 1 / radicand
        self.istd = root(self.precision)
        if case.config.renorm is not None:
            m, s_ref = reference(case.config, state)
            rmax, dmax = Fraction(case.config.renorm.rmax), Fraction(case.config.renorm.dmax)
            self.r = self.d = None
            if s_ref == 0:  # only without epsilon: the quotients are beyond their limits, and one may be 0/0
                self.r = rmax
                self.d = None if m is None or m == mean else dmax if mean > m else -dmax
            elif s_ref is not None:
                self.r = min(max(1 / (self.istd * s_ref), 1 / rmax), rmax)
                self.d = None if m is None else min(max((mean - m) / s_ref, -dmax), dmax)

    def forward(self, ranks: list[RankArrays], g: int, c: int, gamma: Number, beta: Number) -> None:
        if self.mean is None or self.r is None or self.d is None or gamma is None or beta is None:
            return
        a = gamma * self.r * self.istd
        for rank, s in zip(ranks, self.shares, strict=True):
            rank.y[g, c] = linear(gamma * self.d + beta - a * self.mean, (a * s.ux, s.x))
            affine_of_odd(rank.y[g, c], rank.raw[g, c], rank.solid[g, c], a)

    def vjp(
        self, case: Case, ranks: list[RankArrays], g: int, c: int, gamma: Number, sums: tuple[list[list[Number]], ...]
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
            if (self.mean is None or self.r is None or self.d is None) and any(s.solid):
                sums[0][i][c] = None
            if self.mean is None or self.r is None:
                continue
            solid = own if all(s.solid) else sum(compress(s.dy, s.solid)) * s.udy
            product = dot(s.dy, s.x) * s.udy * s.ux - self.mean * solid
            if self.d is not None:  # dx does not depend on it
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
            if not s.unmasked:
                alone = linear(Fraction(0), (a * s.udy, s.dy))
                rank.dx[g, c] = np.where(rank.live[g, c], rank.dx[g, c], alone)

    def jvp(
        self, ranks: list[RankArrays], g: int, c: int, gamma: Number, gamma_dot: Number, beta_dot: Number
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
