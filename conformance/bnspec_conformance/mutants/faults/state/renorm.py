"""Mutants of batch renormalization: reference, limits, derivatives, and what is averaged."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import BatchNormConfig, Moments, Renorm, RunningState, batch_norm
from bnspec._normalize import row, scale_and_shift
from bnspec_conformance.mutants.cotangents import from_saved, with_coefficients
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.faults.layer.layers import called_with
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import normalized_again
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import configured

__all__ = ["MUTANTS"]


def _corrected(change: Callable[..., tuple[Any, Any]], scaled: Callable[..., Any] | None = None) -> Override:
    """Take other corrections, or another scale and shift.

    Parameters
    ----------
    change : callable
        Returns r and d, given the right ones, and in deviations: of the batch, of the reference with its floor and
        without it; the distance of the means; and the limits.
    scaled : callable, optional
        Returns scale and shift, given gamma, the right ones, and the forward result.
    """

    def forward(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
        stats, done = original(x, params, config, groups, **more)
        if config.renorm is None:
            return stats, done
        state, paper = more["state"], config.renorm.form == "paper"
        mean, stddev = (state.mean, state.stddev) if paper else (state.renorm_mean, state.renorm_stddev)
        mean, stddev = (v.astype("float64")[None, :] for v in (mean, stddev))
        sigma, floored = np.sqrt(stats.var + config.epsilon), np.maximum(stddev, np.sqrt(config.epsilon))
        distance = (stats.mean - mean) + stats.mean_low
        r, d = change(_Measured(done.r, done.d, stats.var, sigma, floored, stddev, distance, config.renorm))
        done = done._replace(r=r, d=d)
        if scaled is None:
            return stats, normalized_again(original, done, x, params, groups, None)
        return stats, normalized_again(original, done, x, params, groups, functools.partial(scaled, params, done))

    return override(forward=forward)


@dataclasses.dataclass(frozen=True)
class _Measured:
    """Numbers that r and d are made of, each of shape (G, C)."""

    r: Any
    d: Any
    var: Any
    sigma: Any  # the batch's deviation
    floored: Any  # the reference deviation, at least sqrt(epsilon)
    stddev: Any  # the reference deviation as it is
    distance: Any  # of the batch's mean from the reference
    renorm: Renorm

    def limited_r(self, r: Any) -> Any:
        return np.clip(r, 1.0 / self.renorm.rmax, self.renorm.rmax)

    def limited_d(self, d: Any) -> Any:
        return np.clip(d, -self.renorm.dmax, self.renorm.dmax)


def _in_another_order(params: Any, done: Any, scale: Any, shift: Any) -> tuple[Any, Any]:
    gamma = 1.0 if params.gamma is None else row(params.gamma, done.r)
    return gamma / (1.0 / (done.r * done.inverse_stddev)), shift


def _d_not_scaled(params: Any, done: Any, scale: Any, shift: Any) -> tuple[Any, Any]:
    scale, shift = scale_and_shift(params, done.inverse_stddev, done.centre_low, done.r, None)
    return scale, shift + done.d


def _right(m: _Measured) -> tuple[Any, Any]:
    return m.r, m.d


def _first_for_all(v: Any) -> Any:
    return v * 0.0 + v[:1, ...]


def _measured_against(change: Callable[[RunningState, BatchNormConfig], RunningState]) -> Override:
    """Measure against another state."""

    def forward(original: Any, x: Any, params: Any, config: Any, groups: Any, *, state: Any = None, **more: Any) -> Any:
        if config.renorm is not None:
            state = change(state, config)
        return original(x, params, config, groups, state=state, **more)

    return override(forward=forward)


def _tensorpack_mean(state: RunningState, config: Any) -> RunningState:
    return state._replace(renorm_mean=state.mean) if config.renorm.form == "tensorpack" else state


def _paper_at_zero(state: RunningState, config: Any) -> RunningState:
    return state._replace(mean=state.mean * 0) if config.renorm.form == "paper" else state


def _updated_first(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    if config.renorm is None:
        return original(x, params, config, groups, **more)
    stats = original(x, params, config, groups, **more)[0]
    state = original.__self__.update(more["state"], stats, config)
    return original(x, params, config, groups, **(more | {"state": state}))


def _without_state(original: Any, x: Any, params: Any, config: Any, **named: Any) -> Any:
    if getattr(config, "renorm", None) is not None and named.get("state") is None:
        config = dataclasses.replace(config, renorm=None)
    return original(x, params, config, **named)


def _renormalizes(config: BatchNormConfig) -> bool:
    return config.renorm is not None


def _with_corrections(saved: Any) -> bool:
    return saved.r is not None and not saved.frozen


def _layer_decay(config: BatchNormConfig) -> Renorm:
    assert config.renorm is not None
    return dataclasses.replace(config.renorm, decay=config.decay)


def _variance(change: Callable[[Any, float], Any]) -> Override:
    """Derive another variance for inference from the new deviation, in float64, and epsilon."""

    def update(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
        new = original(state, stats, config, **named)
        if config.renorm is None or not stats.count.any():
            return new
        assert state.stddev is not None
        unrounded = original(state._replace(stddev=state.stddev.astype("float64")), stats, config, **named).stddev
        return new._replace(var=change(unrounded, config.epsilon).astype(new.var.dtype))

    return override(update=update)


def _averaged(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> RunningState:
    new: RunningState = original(state, stats, config, **named)
    return new._replace(var=configured(_renormalizes, renorm=None)(original, state, stats, config, **named).var)


def _first_limits(layer: Any) -> Any:
    return vars(layer).setdefault("_first_limits", layer.renorm)


MUTANTS = (
    Mutant(
        name="r-not-clipped-below",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Limits r to rmax but not to 1/rmax.",
        apply=_corrected(lambda m: (np.minimum(m.sigma / m.floored, m.renorm.rmax), m.d)),
    ),
    Mutant(
        name="d-sign",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Takes d with the opposite sign.",
        apply=_corrected(lambda m: (m.r, -m.d)),
    ),
    Mutant(
        name="d-by-the-batch-deviation",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Measures d in deviations of the batch.",
        apply=_corrected(lambda m: (m.r, m.limited_d(m.distance / m.sigma))),
    ),
    Mutant(
        name="r-without-epsilon",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Leaves epsilon out of the batch's deviation in r.",
        apply=_corrected(lambda m: (m.limited_r(np.sqrt(m.var) / m.floored), m.d)),
    ),
    Mutant(
        name="reference-without-floor",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Divides by a reference deviation below sqrt(epsilon), also by 0.",
        apply=_corrected(lambda m: (m.limited_r(m.sigma / m.stddev), m.limited_d(m.distance / m.stddev))),
    ),
    Mutant(
        name="limits-ignored",
        clause="BN-RENORM-1",
        row="D22",
        breaks="Clips neither r nor d.",
        apply=_corrected(lambda m: (m.sigma / m.floored, m.distance / m.floored)),
    ),
    Mutant(
        name="gradient-through-r",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Lets the gradient flow through r: the deviation cancels, and with it its term of dx.",
        apply=with_coefficients(lambda a, b, c: (a, b * 0.0, c), _with_corrections),
    ),
    Mutant(
        name="gradient-through-d",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Lets the gradient flow through d: the mean cancels, and with it its term of dx.",
        apply=with_coefficients(lambda a, b, c: (a, b, c * 0.0), _with_corrections),
    ),
    Mutant(
        name="dgamma-without-d",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Forgets d in the gradient of gamma.",
        apply=override(pull_back=from_saved("gamma", lambda saved: saved._replace(d=None))),
    ),
    Mutant(
        name="r-in-another-order",
        clause="BN-RENORM-3",
        breaks="Takes the scale as gamma/(1/(r*istd)), so that r = 1 changes bits.",
        apply=_corrected(_right, _in_another_order),
    ),
    Mutant(
        name="d-not-scaled",
        clause="BN-RENORM-1",
        breaks="Adds d without gamma.",
        apply=_corrected(_right, _d_not_scaled),
    ),
    Mutant(
        name="renorm-updates-first",
        clause="BN-RENORM-4",
        row="D22",
        breaks="Measures against the state that this step's own update has already moved.",
        apply=override(forward=_updated_first),
    ),
    Mutant(
        name="renorm-without-state",
        clause="BN-RENORM-4",
        row="D22",
        breaks="Goes on as plain batch normalization where renorm gets no state.",
        apply=wrap(batch_norm, _without_state),
    ),
    Mutant(
        name="reference-with-the-layer-decay",
        clause="BN-RENORM-5",
        row="D22",
        breaks="Averages the reference with the layer's decay where it has its own.",
        apply=override(update=configured(_renormalizes, renorm=_layer_decay)),
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
        apply=_measured_against(_tensorpack_mean),
    ),
    Mutant(
        name="paper-reference-at-zero",
        clause="BN-RENORM-6",
        row="D22",
        breaks="Takes 0 for the reference mean of the paper form.",
        apply=_measured_against(_paper_at_zero),
    ),
    Mutant(
        name="renorm-averages-variances",
        clause="BN-RENORM-7",
        row="D22",
        breaks="Averages the variance itself for inference.",
        apply=override(update=_averaged),
    ),
    Mutant(
        name="renorm-variance-with-epsilon",
        clause="BN-RENORM-7",
        row="D22",
        breaks="Leaves epsilon in the variance that inference adds epsilon to.",
        apply=_variance(lambda stddev, epsilon: stddev * stddev),
    ),
    Mutant(
        name="renorm-variance-not-clamped",
        clause="BN-RENORM-7",
        row="D22",
        breaks="Lets the variance that follows from a small deviation be negative.",
        apply=_variance(lambda stddev, epsilon: stddev * stddev - epsilon),
    ),
    Mutant(
        name="one-correction-for-all-groups",
        clause="BN-RENORM-8",
        row="D22",
        breaks="Uses the first ghost group's r and d for all.",
        apply=_corrected(lambda m: (_first_for_all(m.r), _first_for_all(m.d))),
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
        apply=called_with(lambda layer: layer.renorm is not None, renorm=_first_limits),
    ),
)
