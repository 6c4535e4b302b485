"""Mutants of renorm where it meets ghost groups, ranks, empty groups, absent parameters, tangents and averages."""

import dataclasses
from typing import Any

import numpy as np

from bnspec import Moments, Renorm, RunningState, Saved
from bnspec._derivatives import batch_norm_tangents
from bnspec._groups import spread
from bnspec._moments import group
from bnspec._normalize import factor
from bnspec._renorm import corrections
from bnspec._types import per_channel
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.faults.halves.feeds import fed_variance, one_feed, over_groups
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import dx_plus, normalized_again, wide
from bnspec_conformance.mutants.overriding import Override, override
from bnspec_conformance.mutants.replacing import wrap
from bnspec_conformance.mutants.updates import configured, with_new, with_stats

__all__ = ["MUTANTS"]


def _with_r_and_d(change: Any) -> Override:
    """Take other corrections: ``change(kernels, stats, done, given, more)`` returns r and d."""

    def forward(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
        given = (x, params, config, groups)
        stats, done = original(*given, **more)
        if config.renorm is None or not x.size:
            return stats, done
        r, d = change(original, stats, done, given, more)
        return stats, normalized_again(original, done._replace(r=r, d=d), x, params, groups)

    return override(forward=forward)


def _in_turn(original: Any, stats: Moments, done: Any, given: Any, more: Any) -> tuple[Any, Any]:
    """Correct each group against the state that the groups before it have moved."""
    config, state, found = dataclasses.replace(given[2], ghost_source="first", correction=0), more["state"], []
    for j in range(len(stats.m2)):
        one = group(stats, j)
        found.append(corrections(one, state, config))
        state = original.__self__.update(state, one, config)
    r, d = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return r, d


def _of_the_rank(original: Any, stats: Moments, done: Any, given: Any, more: Any) -> tuple[Any, Any]:
    if more.get("comm") is None:
        return done.r, done.d
    local = original.__self__.moments(given[0], given[3], more.get("mask"))
    return corrections(local, more["state"], given[2])


def _empty_as_it_is(original: Any, stats: Moments, done: Any, given: Any, more: Any) -> tuple[Any, Any]:
    held = per_channel(stats.count) > 0
    return np.where(held, done.r, 1.0), np.where(held, done.d, 0.0)


def _without_gamma(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    stats, done = original(x, params, config, groups, **more)
    if config.renorm is None or params.gamma is not None:
        return stats, done
    forgotten = normalized_again(original, done._replace(d=None), x, params, groups)
    return stats, done._replace(y=forgotten.y)


def _mean_of_deviations(stats: Moments, config: Any) -> Moments | None:
    if config.renorm is None or config.ghost_source != "mean" or len(stats.m2) < 2 or not stats.count.any():
        return None
    if config.single_value == "keep" and (stats.count <= config.correction).any():
        return None
    deviations = np.sqrt(fed_variance(stats, config) + config.epsilon)
    mean, sigma = over_groups(stats, stats.mean + stats.mean_low, deviations)
    return one_feed(stats, mean, np.maximum(sigma**2 - config.epsilon, 0), config)


def _paper_decay(config: Any) -> float:
    assert isinstance(config.renorm, Renorm)
    return config.renorm.decay


def _own_mean_decay(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    new = original(state, stats, config, **named)
    if config.renorm is None or config.renorm.form == "paper":
        return new
    other = dataclasses.replace(config, decay=config.renorm.decay)
    return new._replace(mean=original(state, stats, other, **named).mean)


def _empty_moves(new: RunningState, old: RunningState, stats: Moments, config: Any) -> RunningState:
    if config.renorm is None or stats.count.any():
        return new
    assert old.stddev is not None
    moved = old.stddev + (1 - config.decay) * (np.sqrt(config.epsilon) - old.stddev)
    return new._replace(stddev=moved.astype(old.stddev.dtype))


def _uncorrected(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
    """Check the counts as they are, and then average population deviations."""
    right = original(state, stats, config, **named)
    if config.renorm is None or config.single_value == "keep":
        return right
    return configured(lambda config: True, correction=0)(original, state, stats, config, **named)


def _gamma_dot_without_d(original: Any, xdot: Any, saved: Saved, *rest: Any, **more: Any) -> Any:
    return original(xdot, saved if saved.frozen else saved._replace(d=None), *rest, **more)


def _through_r(original: Any, xdot: Any, saved: Saved, *rest: Any, **more: Any) -> Any:
    """Let the deviation cancel, and with it its term of the tangent."""
    tangents = original(xdot, saved, *rest, **more)
    if saved.r is None or saved.frozen or not saved.x.size:
        return tangents
    inverse, groups = saved.inverse_stddev, saved.static.groups
    bend = factor(saved.gamma, saved.r, inverse) * inverse * inverse * tangents.var * 0.5
    centred = wide(saved.x, groups) - spread(saved.centre, saved.x, groups)
    return tangents._replace(y=dx_plus(tangents.y, centred * spread(bend, saved.x, groups), groups))


MUTANTS = (
    Mutant(
        name="groups-corrected-in-turn",
        clause="BN-RENORM-8",
        row="D22",
        breaks="Corrects each ghost group against the state that the group before it has moved.",
        apply=_with_r_and_d(_in_turn),
    ),
    Mutant(
        name="corrections-of-the-rank",
        clause="BN-RENORM-8",
        row="D22",
        breaks="Takes r and d from the rank's own statistics, and normalizes by the joined ones.",
        apply=_with_r_and_d(_of_the_rank),
    ),
    Mutant(
        name="empty-group-not-corrected",
        clause="BN-MASK-5",
        breaks="Takes 1 and 0 for r and d of a group without elements.",
        apply=_with_r_and_d(_empty_as_it_is),
    ),
    Mutant(
        name="d-gone-with-gamma",
        clause="BN-RENORM-1",
        breaks="Adds gamma*d, and so nothing where there is no gamma.",
        apply=override(forward=_without_gamma),
    ),
    Mutant(
        name="deviations-averaged-over-groups",
        clause="BN-RENORM-8",
        row="D22",
        breaks="Feeds the mean of the groups' deviations and not the deviation of their mean variance.",
        apply=with_stats(_mean_of_deviations),
    ),
    Mutant(
        name="paper-with-a-decay-of-its-own",
        clause="BN-RENORM-6",
        row="D22",
        breaks="Averages the state of the paper form with renorm's decay.",
        apply=override(
            update=configured(lambda c: c.renorm is not None and c.renorm.form == "paper", decay=_paper_decay)
        ),
    ),
    Mutant(
        name="mean-with-the-reference-decay",
        clause="BN-RENORM-5",
        row="D22",
        breaks="Averages the mean that inference uses with the decay of the reference.",
        apply=override(update=_own_mean_decay),
    ),
    Mutant(
        name="deviation-not-corrected",
        clause="BN-RENORM-7",
        row="D2",
        breaks="Averages the population deviation whatever the correction.",
        apply=override(update=_uncorrected),
    ),
    Mutant(
        name="empty-batch-moves-the-deviation",
        clause="BN-RUN-9",
        row="D10",
        breaks="Pulls renorm's deviation towards that of a variance of 0 by a batch without elements.",
        apply=with_new(_empty_moves),
    ),
    Mutant(
        name="negative-dmax-taken",
        clause="BN-RENORM-9",
        breaks="Takes a dmax below 0.",
        apply=edit(Renorm.__post_init__, '("dmax", 0)', '("dmax", -9)'),
    ),
    Mutant(
        name="gamma-dot-without-d",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Forgets d beside the tangent of gamma.",
        apply=wrap(batch_norm_tangents, _gamma_dot_without_d),
    ),
    Mutant(
        name="tangent-through-r",
        clause="BN-RENORM-2",
        row="D22",
        breaks="Lets the tangent flow through r, where the gradient does not.",
        apply=wrap(batch_norm_tangents, _through_r),
    ),
)
