"""The exact answer of inference: normalization by the running statistics as constants."""

import math
from fractions import Fraction

import numpy as np

from bnspec_conformance.cases.case import Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.cases.layout import layouts
from bnspec_conformance.oracle.exact_rank import affine_of_odd, fold, share
from bnspec_conformance.oracle.exact_state import channel_state, used
from bnspec_conformance.oracle.rational import dot, linear, parameter, root, rounded

__all__ = ["inference"]


def inference(case: Case) -> Outcome:
    """Normalization by the running statistics as constants, and its derivatives; masks and ranks play no part."""
    config, channels = case.config, case.channels
    assert case.state is not None, "inference needs a state"
    gammas, betas = parameter(case.gamma, config.scale, 1, channels), parameter(case.beta, config.center, 0, channels)
    gamma_dots = parameter(case.gamma_dot, config.scale, 0, channels)
    beta_dots = parameter(case.beta_dot, config.center, 0, channels)
    results = []
    for inputs, layout in zip(case.ranks, layouts(case), strict=True):
        rank = fold(RankInputs(inputs.x, inputs.dy, None, inputs.xdot), layout)
        finite = np.isfinite(rank.raw)
        dgamma, dbeta = np.full(channels, math.nan), np.full(channels, math.nan)
        for c in range(channels):
            s = share(rank, 0, c, Fraction(0))
            if s.dy is not None:
                dbeta[c] = rounded(sum(s.dy) * s.udy)
                if not len(s.dy):  # a sum over nothing, whatever the statistics are
                    dgamma[c] = 0.0
                    continue
            mean, var = used(config, channel_state(case.state, c))
            gamma, beta, gamma_dot, beta_dot = gammas[c], betas[c], gamma_dots[c], beta_dots[c]
            if var is None or var + Fraction(config.epsilon) <= 0:
                continue
            istd = root(1 / (var + Fraction(config.epsilon)))
            if s.dy is not None and gamma is not None:
                rank.dx[0, c] = linear(Fraction(0), (gamma * istd * s.udy, s.dy))
            if mean is None:
                continue
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
                affine_of_odd(rank.y[0, c], rank.raw[0, c], finite[0, c], a)
            if s.xdot is not None and gamma_dot is not None and beta_dot is not None:
                slope = gamma_dot * istd
                rank.ydot[0, c] = linear(beta_dot - slope * mean, (a * s.uxdot, s.xdot), (slope * s.ux, s.x))
                if gamma_dot:
                    affine_of_odd(rank.ydot[0, c], rank.raw[0, c], finite[0, c], slope)
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
