"""Mutants of batch renormalization: reference, limits, derivatives, and what is averaged."""

from bnspec import _validate
from bnspec._config import BatchNormConfig, Renorm
from bnspec._gradients import input_coefficients, parameter_gradients
from bnspec._kernels import Kernels
from bnspec._layer import BatchNorm
from bnspec._normalize import factor, scale_and_shift
from bnspec._renorm import _clip, corrections, reference
from bnspec._running import _move_deviations
from bnspec_conformance.mutants.mutant import Mutant, edit, together, wrap

__all__ = ["MUTANTS"]

_R = "r = _clip(xp.sqrt(stats.var + config.epsilon) / s, 1.0 / config.renorm.rmax, config.renorm.rmax)"
_D = "d = _clip(((stats.mean - mean) + stats.mean_low) / s, -config.renorm.dmax, config.renorm.dmax)"

MUTANTS = (
    Mutant(
        name="r-not-clipped-below",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Limits r to rmax but not to 1/rmax.",
        apply=edit(corrections, _R, _R.replace("1.0 / config.renorm.rmax, ", "0.0, ")),
    ),
    Mutant(
        name="d-sign",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Takes d with the opposite sign.",
        apply=edit(
            corrections, _D, _D.replace("(stats.mean - mean) + stats.mean_low", "(mean - stats.mean) - stats.mean_low")
        ),
    ),
    Mutant(
        name="d-by-the-batch-deviation",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Measures d in deviations of the batch.",
        apply=edit(corrections, _D, _D.replace(" / s,", " / xp.sqrt(stats.var + config.epsilon),")),
    ),
    Mutant(
        name="r-without-epsilon",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Leaves epsilon out of the batch's deviation in r.",
        apply=edit(corrections, _R, _R.replace("stats.var + config.epsilon", "stats.var")),
    ),
    Mutant(
        name="reference-without-floor",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Divides by a reference deviation below sqrt(epsilon), also by 0.",
        apply=edit(corrections, "s = xp.where(stddev < floor, xp.full_like(stddev, floor), stddev)", "s = stddev"),
    ),
    Mutant(
        name="limits-ignored",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Clips neither r nor d.",
        apply=wrap(_clip, lambda original, v, low, high: v),
    ),
    Mutant(
        name="gradient-through-r",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Lets the gradient flow through r: the deviation cancels, and with it its term of dx.",
        apply=edit(
            input_coefficients,
            "b = -a * (inverse * (inverse * (s2 / n)))",
            "b = -a * (inverse * (inverse * (s2 / n))) * (1.0 if saved.r is None else 0.0)",
        ),
    ),
    Mutant(
        name="gradient-through-d",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Lets the gradient flow through d: the mean cancels, and with it its term of dx.",
        apply=edit(input_coefficients, "c = -a * (s1 / n)", "c = -a * (s1 / n) * (1.0 if saved.r is None else 0.0)"),
    ),
    Mutant(
        name="dgamma-without-d",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Forgets d in the gradient of gamma.",
        apply=edit(parameter_gradients, "if saved.d is not None:", "if False:"),
    ),
    Mutant(
        name="r-in-another-order",
        clause="BN-RENORM-3",
        breaks="Takes the scale as gamma/(1/(r*istd)), so that r = 1 changes bits.",
        apply=edit(
            factor,
            "return (gamma if r is None else gamma * r) * inverse",
            "return gamma * inverse if r is None else gamma / (1.0 / (r * inverse))",
        ),
    ),
    Mutant(
        name="d-not-scaled",
        clause="BN-RENORM-1",
        breaks="Adds d without gamma.",
        apply=edit(
            scale_and_shift,
            "shift = (d if params.gamma is None else row(params.gamma, d) * d) + shift",
            "shift = d + shift",
        ),
    ),
    Mutant(
        name="renorm-updates-first",
        clause="BN-RENORM-4",
        row="D22",
        breaks="Measures against the state that this step's own update has already moved.",
        apply=edit(
            Kernels.forward,
            "r, d = corrections(stats, state, config)",
            "from bnspec._update import update_running\n"
            "        r, d = corrections(stats, update_running(state, stats, config), config)",
        ),
    ),
    Mutant(
        name="renorm-without-state",
        clause="BN-RENORM-4",
        row="D22",
        breaks="Goes on as plain batch normalization where renorm gets no state.",
        apply=together(
            edit(_validate._forward, "if config.renorm is not None and state is None:", "if False:"),
            edit(
                Kernels.forward, "if config.renorm is not None:", "if config.renorm is not None and state is not None:"
            ),
        ),
    ),
    Mutant(
        name="reference-with-the-layer-decay",
        clause="BN-RENORM-5",
        row="D22",
        breaks="Averages the reference with the layer's decay where it has its own.",
        apply=edit(_move_deviations, "w = 1.0 - config.renorm.decay", "w = 1.0 - config.decay"),
    ),
    Mutant(
        name="renorm-with-other-averages",
        clause="BN-RENORM-5",
        row="D22",
        breaks="Takes renorm together with a cumulative average.",
        apply=edit(
            BatchNormConfig.__post_init__,
            'if self.renorm is not None and self.averaging != "exponential":',
            "if False:",
        ),
    ),
    Mutant(
        name="reference-mixed-up",
        clause="BN-RENORM-5",
        row="D22",
        breaks="Reads the running mean as the reference mean of the tensorpack form.",
        apply=edit(
            reference, "return state.renorm_mean, state.renorm_stddev", "return state.mean, state.renorm_stddev"
        ),
    ),
    Mutant(
        name="paper-reference-at-zero",
        clause="BN-RENORM-6",
        row="D22",
        breaks="Takes 0 for the reference mean of the paper form.",
        apply=edit(reference, "return state.mean, state.stddev", "return state.mean * 0, state.stddev"),
    ),
    Mutant(
        name="renorm-averages-variances",
        clause="BN-RENORM-7",
        row="D22",
        breaks="Averages the variance itself for inference.",
        apply=edit(
            _move_deviations,
            "new = new._replace(stddev=stddev, var=xp.where(var < 0, xp.zeros_like(var), var))",
            "new = new._replace(stddev=stddev)",
        ),
    ),
    Mutant(
        name="renorm-variance-with-epsilon",
        clause="BN-RENORM-7",
        row="D22",
        breaks="Leaves epsilon in the variance that inference adds epsilon to.",
        apply=edit(_move_deviations, "var = stddev * stddev - config.epsilon", "var = stddev * stddev"),
    ),
    Mutant(
        name="renorm-variance-not-clamped",
        clause="BN-RENORM-7",
        row="D22",
        breaks="Lets the variance that follows from a small deviation be negative.",
        apply=edit(_move_deviations, "xp.where(var < 0, xp.zeros_like(var), var)", "var"),
    ),
    Mutant(
        name="one-correction-for-all-groups",
        clause="BN-RENORM-8",
        row="D22",
        breaks="Uses the first ghost group's r and d for all.",
        apply=edit(
            corrections,
            "return stop_gradient(r), stop_gradient(d)",
            "return (stop_gradient(v * 0.0 + v[:1, ...]) for v in (r, d))",
        ),
    ),
    Mutant(
        name="limits-not-checked",
        clause="BN-RENORM-9",
        row="D22",
        breaks="Takes an rmax below 1.",
        apply=edit(Renorm.__post_init__, '("rmax", 1)', '("rmax", 0)'),
    ),
    Mutant(
        name="limits-of-the-first-call",
        clause="BN-RENORM-9",
        row="D22",
        breaks="Keeps the limits of the first call when a layer's are changed.",
        apply=edit(
            BatchNorm._config,
            "fields = dict(self._fields)",
            "fields = dict(self._fields)\n    first = self.__dict__.setdefault('_first_limits', self.renorm)",
            "renorm=self.renorm",
            "renorm=first",
        ),
    ),
)
