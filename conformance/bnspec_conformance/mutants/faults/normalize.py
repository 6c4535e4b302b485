"""Mutants of the normalization: epsilon, gamma and beta, the order of evaluation, and the running statistics' use."""

from typing import Any

from bnspec import _records
from bnspec._batch_norm import batch_norm
from bnspec._errors import refusal
from bnspec._kernels import Kernels
from bnspec._normalize import factor, inverse_stddev, normalize, scale_and_shift
from bnspec_conformance.mutants.mutant import Mutant, edit, wrap

__all__ = ["MUTANTS"]

_ROOT = "return 1.0 / array_namespace(var).sqrt(var + epsilon)"
_Y = "y = (v - spread(centre, x, groups)) * spread(scale, x, groups) + spread(shift, x, groups)"


def _epsilon(expression: str) -> Any:
    """The inverse deviation by another expression of var and epsilon."""
    return edit(inverse_stddev, _ROOT, f"xp = array_namespace(var)\n    return 1.0 / {expression}")


def _one_value_refused(original: Any, x: Any, params: Any, config: Any, **named: Any) -> Any:
    if x.size and x.size == x.shape[config.axis]:
        raise refusal(
            ValueError, "BN-NORM-5", got="one value per channel", expected="more than one", do="Use a larger batch."
        )
    return original(x, params, config, **named)


MUTANTS = (
    Mutant(
        name="epsilon-outside-the-root",
        clause="BN-NORM-1",
        row="D5",
        breaks="Adds epsilon to the deviation, outside the root.",
        apply=_epsilon("(xp.sqrt(var) + epsilon)"),
    ),
    Mutant(
        name="epsilon-as-a-floor",
        clause="BN-NORM-1",
        row="D5",
        breaks="Takes max(var, epsilon) where it should add epsilon.",
        apply=_epsilon("xp.sqrt(xp.where(var < epsilon, xp.full_like(var, epsilon), var))"),
    ),
    Mutant(
        name="epsilon-twice",
        clause="BN-NORM-1",
        row="D5",
        breaks="Adds epsilon inside the root and again outside.",
        apply=_epsilon("(xp.sqrt(var + epsilon) + epsilon)"),
    ),
    Mutant(
        name="smallest-epsilon",
        clause="BN-NORM-1",
        row="D6",
        breaks="Replaces an epsilon below 1e-5 by 1e-5.",
        apply=_epsilon("xp.sqrt(var + max(epsilon, 1e-5))"),
    ),
    Mutant(
        name="inference-without-epsilon",
        clause="BN-INF-1",
        row="D5",
        breaks="Leaves epsilon out where it normalizes by running statistics.",
        apply=edit(
            Kernels.infer,
            "inverse = _normalize.inverse_stddev(var, epsilon)",
            "inverse = _normalize.inverse_stddev(var, 0.0)",
        ),
    ),
    Mutant(
        name="folded-epsilon",
        clause="BN-INF-3",
        row="D26",
        breaks="Folds inference with 1e-20 in the place of epsilon.",
        apply=edit(
            Kernels.infer,
            "inverse = _normalize.inverse_stddev(var, epsilon)",
            "inverse = _normalize.inverse_stddev(var, 1e-20)",
        ),
    ),
    Mutant(
        name="folded-without-gamma",
        clause="BN-INF-1",
        row="D26",
        breaks="Folds inference without gamma as if the deviation were gone with it.",
        apply=edit(
            Kernels.infer,
            "inverse = _normalize.inverse_stddev(var, epsilon)",
            "inverse = _normalize.inverse_stddev(var, epsilon)\n"
            "    inverse = inverse * 0.0 + 1.0 if params.gamma is None else inverse",
        ),
    ),
    Mutant(
        name="folded-in-float32",
        clause="BN-NORM-3",
        row="D11",
        breaks="Evaluates x*scale + (shift - mean*scale) in float32.",
        apply=edit(
            normalize,
            _Y,
            "f = lambda v: spread(xp.astype(v, xp.float32), x, groups)\n"
            "    y = xp.astype(v, xp.float32) * f(scale) + (f(shift) - f(centre) * f(scale))",
        ),
    ),
    Mutant(
        name="folded-inference",
        clause="BN-INF-1",
        row="D26",
        breaks="Folds inference into x*scale + shift, which cancels where the mean is large.",
        apply=edit(
            Kernels.infer,
            "self.normalize(x, mean, scale, shift, groups)",
            "self.normalize(x, low, scale, shift - mean * scale, groups)",
        ),
    ),
    Mutant(
        name="beta-before-gamma",
        clause="BN-NORM-1",
        breaks="Adds beta before it multiplies by gamma.",
        apply=edit(
            scale_and_shift,
            "shift = row(params.beta, shift) + shift",
            "shift = row(params.beta, shift) * (1.0 if params.gamma is None else row(params.gamma, shift)) + shift",
        ),
    ),
    Mutant(
        name="gamma-fixed",
        clause="BN-NORM-1",
        breaks="Takes gamma as 1 whatever it is.",
        apply=edit(factor, "gamma = row(gamma, inverse)", "gamma = row(gamma, inverse) * 0.0 + 1.0"),
    ),
    Mutant(
        name="gamma-about-one",
        clause="BN-NORM-1",
        breaks="Scales by 1 + gamma.",
        apply=edit(factor, "gamma = row(gamma, inverse)", "gamma = row(gamma, inverse) + 1.0"),
    ),
    Mutant(
        name="center-means-mean",
        clause="BN-NORM-2",
        breaks="Leaves the mean in x with center=False, which only says that there is no beta.",
        apply=edit(
            Kernels.forward,
            "normalize_usable(kernels.normalize, wide, mask, stats,",
            "normalize_usable(kernels.normalize, wide, mask, "
            "stats if config.center else stats._replace(mean=stats.mean * 0.0),",
        ),
    ),
    Mutant(
        name="parameters-demanded",
        clause="BN-NORM-2",
        breaks="Demands gamma and beta although the configuration has none.",
        apply=edit(_records.params, "if (value is not None) != wanted:", "if value is None:"),
    ),
    Mutant(
        name="not-invariant-to-scale",
        clause="BN-NORM-4",
        row="D6",
        breaks="Adds 1e-7 to epsilon, so that scaling x and epsilon changes y.",
        apply=_epsilon("xp.sqrt(var + (epsilon + 1e-7))"),
    ),
    Mutant(
        name="coarse-root",
        clause="BN-NORM-3",
        row="D12",
        breaks="Takes the inverse root from a table of 12 bits.",
        apply=edit(
            inverse_stddev,
            _ROOT,
            "xp = array_namespace(var)\n"
            "    inverse = 1.0 / xp.sqrt(var + epsilon)\n"
            "    step = 2.0 ** (xp.floor(xp.log2(inverse)) - 12)\n"
            "    return xp.round(inverse / step) * step",
        ),
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
        apply=edit(
            Kernels.forward,
            "inverse = _normalize.inverse_stddev(stats.var, config.epsilon)",
            "inverse = _normalize.inverse_stddev(stats.var, config.epsilon)\n"
            "    one = (stats.count == 1)[:, None]\n"
            "    inverse = inverse / (1.0 - one)",
        ),
    ),
    Mutant(
        name="inference-mixes-the-batch-in",
        clause="BN-INF-2",
        row="D25",
        breaks="Normalizes at inference by nine parts of the running and one part of the batch's statistics.",
        apply=edit(
            Kernels.infer,
            "inverse = _normalize.inverse_stddev(var, epsilon)",
            "batch = self.moments(x, groups, None)\n"
            "    mean, var = 0.9 * mean + 0.1 * batch.mean, 0.9 * var + 0.1 * batch.var\n"
            "    inverse = _normalize.inverse_stddev(var, epsilon)",
        ),
    ),
)
