"""Mutants of the normalization: epsilon, gamma and beta, the order of evaluation, and the running statistics' use."""

from typing import Any

import numpy as np

from bnspec import Params, batch_norm
from bnspec._errors import refusal
from bnspec._groups import spread, unsplit
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import normalized_again, wide, with_deviation, with_params
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _one_value_refused(original: Any, x: Any, params: Any, config: Any, **named: Any) -> Any:
    if x.size and x.size == x.shape[config.axis]:
        raise refusal(
            ValueError, "BN-NORM-5", got="one value per channel", expected="more than one", do="Use a larger batch."
        )
    return original(x, params, config, **named)


def _parameters_demanded(original: Any, x: Any, params: Any, *rest: Any, **named: Any) -> Any:
    if params.gamma is None or params.beta is None:
        raise refusal(ValueError, "BN-NORM-2", got="no gamma or no beta", expected="both", do="Pass both.")
    return original(x, params, *rest, **named)


def _inferred_with(epsilon: float) -> Override:
    """Normalize by running statistics with another epsilon."""
    return override(
        infer=lambda original, x, params, mean, var, _, groups: original(x, params, mean, var, epsilon, groups)
    )


def _no_deviation_without_gamma(original: Any, x: Any, params: Any, mean: Any, var: Any, *rest: Any) -> Any:
    done = original(x, params, mean, var, *rest)
    if params.gamma is not None:
        return done
    return normalized_again(
        original, done._replace(inverse_stddev=var.astype("float64")[None, :] * 0.0 + 1.0), x, params, rest[-1]
    )


def _folded(original: Any, x: Any, params: Any, mean: Any, var: Any, epsilon: float, groups: Any) -> Any:
    done = original(x, params, mean, var, epsilon, groups)
    folded = normalized_again(
        original,
        done._replace(centre=done.centre * 0.0),
        x,
        params,
        groups,
        lambda scale, shift: (scale, shift - done.centre * scale),
    )
    return done._replace(y=folded.y)


def _folded_in_float32(original: Any, x: Any, centre: Any, scale: Any, shift: Any, groups: Any) -> Any:
    v, k, a, b = (
        u.astype("float32") for u in (wide(x, groups), *(spread(u, x, groups) for u in (centre, scale, shift)))
    )
    return unsplit((v * a + (b - k * a)).astype(x.dtype), x)


def _mean_left_in(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    stats, done = original(x, params, config, groups, **more)
    if config.center:
        return stats, done
    y = normalized_again(original, done._replace(centre=done.centre * 0.0), x, params, groups).y
    return stats, done._replace(y=y)


def _one_value_divided_by_zero(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    stats, done = original(x, params, config, groups, **more)
    done = done._replace(inverse_stddev=done.inverse_stddev / (stats.count != 1)[:, None])
    return stats, normalized_again(original, done, x, params, groups)


def _batch_mixed_in(original: Any, x: Any, params: Any, mean: Any, var: Any, epsilon: float, groups: Any) -> Any:
    batch = original.__self__.moments(x, groups, None)
    mean, var = 0.9 * mean + 0.1 * batch.mean[0], 0.9 * var + 0.1 * batch.var[0]
    return original(x, params, mean, var, epsilon, groups)


def _coarse_root(var: Any, epsilon: float) -> Any:
    inverse = 1.0 / np.sqrt(var + epsilon)
    step = 2.0 ** (np.floor(np.log2(inverse)) - 12)
    return np.round(inverse / step) * step


MUTANTS = (
    Mutant(
        name="epsilon-outside-the-root",
        clause="BN-NORM-1",
        row="D5",
        breaks="Adds epsilon to the deviation, outside the root.",
        apply=with_deviation(lambda var, epsilon: 1.0 / (np.sqrt(var) + epsilon)),
    ),
    Mutant(
        name="epsilon-as-a-floor",
        clause="BN-NORM-1",
        row="D5",
        breaks="Takes max(var, epsilon) where it should add epsilon.",
        apply=with_deviation(lambda var, epsilon: 1.0 / np.sqrt(np.maximum(var, epsilon))),
    ),
    Mutant(
        name="epsilon-twice",
        clause="BN-NORM-1",
        row="D5",
        breaks="Adds epsilon inside the root and again outside.",
        apply=with_deviation(lambda var, epsilon: 1.0 / (np.sqrt(var + epsilon) + epsilon)),
    ),
    Mutant(
        name="smallest-epsilon",
        clause="BN-NORM-1",
        row="D6",
        breaks="Replaces an epsilon below 1e-5 by 1e-5.",
        apply=with_deviation(lambda var, epsilon: 1.0 / np.sqrt(var + max(epsilon, 1e-5))),
    ),
    Mutant(
        name="smallest-number-for-epsilon",
        clause="BN-NORM-1",
        breaks="Replaces an epsilon of 0 by the smallest number, so that a channel without variance has a finite y.",
        apply=with_deviation(lambda var, epsilon: 1.0 / np.sqrt(var + max(epsilon, 2.0**-1022))),
    ),
    Mutant(
        name="inference-without-epsilon",
        clause="BN-INF-1",
        row="D5",
        breaks="Leaves epsilon out where it normalizes by running statistics.",
        apply=_inferred_with(0.0),
    ),
    Mutant(
        name="folded-epsilon",
        clause="BN-INF-3",
        row="D26",
        breaks="Folds inference with 1e-20 in the place of epsilon.",
        apply=_inferred_with(1e-20),
    ),
    Mutant(
        name="folded-without-gamma",
        clause="BN-INF-1",
        row="D26",
        breaks="Folds inference without gamma as if the deviation were gone with it.",
        apply=override(infer=_no_deviation_without_gamma),
    ),
    Mutant(
        name="folded-in-float32",
        clause="BN-NORM-3",
        row="D11",
        breaks="Evaluates x*scale + (shift - mean*scale) in float32.",
        apply=override(normalize=_folded_in_float32),
    ),
    Mutant(
        name="folded-inference",
        clause="BN-INF-1",
        row="D26",
        breaks="Folds inference into x*scale + shift, which cancels where the mean is large.",
        apply=override(infer=_folded),
    ),
    Mutant(
        name="beta-before-gamma",
        clause="BN-NORM-1",
        breaks="Adds beta before it multiplies by gamma.",
        apply=with_params(lambda p: p if p.gamma is None or p.beta is None else Params(p.gamma, p.beta * p.gamma)),
    ),
    Mutant(
        name="gamma-fixed",
        clause="BN-NORM-1",
        breaks="Takes gamma as 1 whatever it is.",
        apply=with_params(lambda p: p._replace(gamma=None)),
    ),
    Mutant(
        name="gamma-about-one",
        clause="BN-NORM-1",
        breaks="Scales by 1 + gamma.",
        apply=with_params(lambda p: p if p.gamma is None else p._replace(gamma=p.gamma + p.gamma.dtype.type(1))),
    ),
    Mutant(
        name="center-means-mean",
        clause="BN-NORM-2",
        breaks="Leaves the mean in x with center=False, which only says that there is no beta.",
        apply=override(forward=_mean_left_in),
    ),
    Mutant(
        name="parameters-demanded",
        clause="BN-NORM-2",
        breaks="Demands gamma and beta although the configuration has none.",
        apply=wrap(batch_norm, _parameters_demanded),
    ),
    Mutant(
        name="not-invariant-to-scale",
        clause="BN-NORM-4",
        row="D6",
        breaks="Adds 1e-7 to epsilon, so that scaling x and epsilon changes y.",
        apply=with_deviation(lambda var, epsilon: 1.0 / np.sqrt(var + (epsilon + 1e-7))),
    ),
    Mutant(
        name="coarse-root",
        clause="BN-NORM-3",
        row="D12",
        breaks="Takes the inverse root from a table of 12 bits.",
        apply=with_deviation(_coarse_root),
    ),
    Mutant(
        name="one-value-refused",
        clause="BN-NORM-5",
        row="D4",
        breaks="Refuses to normalize one value per channel.",
        apply=wrap(batch_norm, _one_value_refused),
    ),
    Mutant(
        name="one-value-divided-by-zero",
        clause="BN-NORM-5",
        row="D4",
        breaks="Gives NaN for one value per channel.",
        apply=override(forward=_one_value_divided_by_zero),
    ),
    Mutant(
        name="inference-mixes-the-batch-in",
        clause="BN-INF-2",
        row="D25",
        breaks="Normalizes at inference by nine parts of the running and one part of the batch's statistics.",
        apply=override(infer=_batch_mixed_in),
    ),
)
