"""Mutants of one half of what a clause of shapes, groups, moments, parameters or states joins."""

from typing import Any

import numpy as np

from bnspec import BatchNormConfig, Groups, Moments, Params, Saved, batch_norm, batch_norm_inference
from bnspec._checks import arguments, records
from bnspec._derivatives import batch_norm_vjp
from bnspec._groups import spread
from bnspec._init import init
from bnspec._types import per_channel
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import about, kept, total, wide, with_moments
from bnspec_conformance.mutants.overriding import override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _mask_written(original: Any, x: Any, *given: Any, mask: Any = None, **named: Any) -> Any:
    found = original(x, *given, mask=mask, **named)
    if mask is not None and mask.flags.writeable:
        mask[...] = True
    return found


def _cotangents_written(original: Any, dy: Any, saved: Saved, *, dvar: Any = None, **more: Any) -> Any:
    found = original(dy, saved, dvar=dvar, **more)
    if dvar is not None and dvar.flags.writeable:
        dvar *= 2
    return found


def _native(original: Any, x: Any, *given: Any, **named: Any) -> Any:
    y, *rest = original(x, *given, **named)
    return y.astype(y.dtype.newbyteorder("=")), *rest


def _needs_channels(original: Any, x: Any, params: Any, mean: Any, *rest: Any) -> Any:
    if not mean.size:
        raise ValueError("inference without channels; expected one at least [BN-SHAPE-4].")
    return original(x, params, mean, *rest)


def _one_counter(original: Any, x: Any, axis: int, given: Any, *rest: Any) -> None:
    """Look at one counter for all channels as if it were one for each, which arithmetic makes of it."""
    count = getattr(given, "count", None)
    if isinstance(count, np.ndarray) and count.size == 1:
        given = given._replace(count=np.broadcast_to(count.ravel(), (x.shape[axis],)))
    original(x, axis, given, *rest)


def _groups_if_empty(number: int, ghost: bool) -> Any:
    """Divide a batch without samples into another number of groups."""

    def behaviour(original: Any, x: Any, params: Any, config: Any, *rest: Any) -> Any:
        found = original(x, params, config, *rest)
        other = not x.shape[0] and found.axis and (config.virtual_batch_size is not None) == ghost
        return Groups(found.axis, number) if other else found

    return wrap(arguments.forward, behaviour)


def _whole_groups(original: Any, x: Any, params: Any, state: Any, config: Any, **named: Any) -> Any:
    if config.virtual_batch_size and x.shape[0] % config.virtual_batch_size:
        raise ValueError("inference of a batch that V does not divide; expected a multiple of it [BN-GRP-3].")
    return original(x, params, state, config, **named)


def _plain_mean(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    """Take the mean of masked groups as the plain sum by the count, which need not be the value of a constant."""
    return m if mask is None else _from(m, np.zeros_like(m.mean), x, groups, mask)


def _from_the_first_group(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    """Sum masked groups from a value of the first group, which changes the last bits of the others."""
    if mask is None or groups.number < 2:
        return m
    return _from(m, m.mean[:1] + np.zeros_like(m.mean), x, groups, mask)


def _from(m: Moments, shift: Any, x: Any, groups: Any, mask: Any) -> Moments:
    """Return moments about a mean that is measured from other values."""
    off = np.where(kept(x, groups, mask), wide(x, groups) - spread(shift, x, groups), 0.0)
    return about(m, shift + total(off, x, groups) / np.maximum(per_channel(m.count), 1), x, groups, mask)


def _together(original: Any, x: Any, params: Params, config: Any, *rest: Any, **more: Any) -> Any:
    if params.gamma is None or params.beta is None:
        stats, done = original(x, Params(None, None), config, *rest, **more)
        return stats, done
    return original(x, params, config, *rest, **more)


def _in_every_group(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    stats, done = original(x, params, config, groups, **more)
    if not done.inverse_stddev.size:
        return stats, done
    worst = np.max(done.inverse_stddev, axis=0, keepdims=True)
    spoilt = np.where(np.isinf(worst), worst, done.inverse_stddev)
    if not np.isinf(worst).any():
        return stats, done
    done = done._replace(inverse_stddev=spoilt)
    off = done.y + np.where(np.isinf(spread(worst, x, groups)), np.nan, 0.0).reshape(
        [1 if a != groups.axis else -1 for a in range(x.ndim)]
    ).astype(done.y.dtype)
    return stats, done._replace(y=off)


def _fresh(**values: float) -> Any:
    """Start some arrays of the state at other values."""

    def behaviour(original: Any, *given: Any, **named: Any) -> Any:
        params, state = original(*given, **named)
        there = {k: v for k, v in values.items() if getattr(state, k) is not None}
        return params, state._replace(**{k: getattr(state, k) * 0 + type(v)(v) for k, v in there.items()})

    return wrap(init, behaviour)


MUTANTS = (
    Mutant(
        name="mask-in-place",
        clause="BN-SHAPE-3",
        breaks="Writes into the mask that it was given.",
        apply=wrap(batch_norm, _mask_written),
    ),
    Mutant(
        name="cotangents-in-place",
        clause="BN-SHAPE-3",
        breaks="Doubles the cotangent of the variance in place.",
        apply=wrap(batch_norm_vjp, _cotangents_written),
    ),
    Mutant(
        name="byte-order-lost",
        clause="BN-SHAPE-3",
        breaks="Returns y in the machine's byte order whatever x's is.",
        apply=wrap(batch_norm, _native),
    ),
    Mutant(
        name="inference-needs-channels",
        clause="BN-SHAPE-4",
        breaks="Refuses inference without channels.",
        apply=override(infer=_needs_channels),
    ),
    Mutant(
        name="one-counter-for-all-channels",
        clause="BN-SHAPE-6",
        breaks="Takes one counter for all channels, as frameworks keep it.",
        apply=wrap(records.state, _one_counter),
    ),
    Mutant(
        name="no-group-without-samples",
        clause="BN-GRP-1",
        row="D10",
        breaks="Takes a batch without samples for no group where no virtual batch size is given.",
        apply=_groups_if_empty(0, ghost=False),
    ),
    Mutant(
        name="one-group-without-samples",
        clause="BN-GRP-2",
        row="D10",
        breaks="Takes a batch without samples for one group where a virtual batch size makes none of it.",
        apply=_groups_if_empty(1, ghost=True),
    ),
    Mutant(
        name="inference-in-whole-groups",
        clause="BN-GRP-3",
        row="D8",
        breaks="Refuses to infer a batch that the virtual batch size does not divide.",
        apply=wrap(batch_norm_inference, _whole_groups),
    ),
    Mutant(
        name="masked-groups-share-a-mean",
        clause="BN-GRP-4",
        breaks="Measures every masked group from the mean of the first.",
        apply=with_moments(_from_the_first_group),
    ),
    Mutant(
        name="masked-without-shift",
        clause="BN-MOM-5",
        row="D11",
        breaks="Takes sum x/n as the mean where there is a mask.",
        apply=with_moments(_plain_mean),
    ),
    Mutant(
        name="parameters-come-together",
        clause="BN-NORM-2",
        breaks="Leaves out the one parameter that there is where the other is absent.",
        apply=override(forward=_together),
    ),
    Mutant(
        name="infinite-in-every-group",
        clause="BN-NORM-1",
        breaks="Lets one ghost group without variance and epsilon spoil the channel's other groups.",
        apply=override(forward=_in_every_group),
    ),
    Mutant(
        name="counter-starts-at-one",
        clause="BN-RUN-2",
        breaks="Starts the counter at 1.",
        apply=_fresh(count=1),
    ),
    Mutant(
        name="reference-starts-at-zero",
        clause="BN-RUN-2",
        row="D22",
        breaks="Starts renorm's reference deviation at 0.",
        apply=_fresh(renorm_stddev=0.0),
    ),
    Mutant(
        name="debiased-without-decay",
        clause="BN-RUN-7",
        row="D9",
        breaks="Takes a decay of 1 for debiased averages, which then divide by 0.",
        apply=edit(BatchNormConfig.__post_init__, 'if self.averaging == "debiased" and self.decay == 1:', "if False:"),
    ),
)
