"""Mutants of synchronization: weights, sums, order, messages, and what ranks agree on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Moments, batch_norm, batch_norm_inference
from bnspec._derivatives import batch_norm_tangents
from bnspec._sync import join_sums, signature
from bnspec_backends.ranks.rendezvous import Rendezvous
from bnspec_backends.ranks.threads import ThreadCommunicator
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.faults.values.moments import without_distance
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.overriding import Override, inside, override
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS", "same_facts"]


def _sent(change: Callable[..., Moments]) -> Override:
    """Join other moments than the rank's own: ``change(moments, x, groups, mask, config, comm)``."""

    def forward(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
        def moments(original: Any, x: Any, groups: Any, mask: Any) -> Moments:
            return change(original(x, groups, mask), x, groups, mask, config, more["comm"])

        behaviour = inside(moments=moments) if more.get("comm") is not None else None
        given = (x, params, config, groups)
        return behaviour(original, *given, **more) if behaviour else original(*given, **more)

    return override(forward=forward)


def _alike(original: Any, x: Any, params: Any, config: Any, *rest: Any, **more: Any) -> Any:
    return original(x, params, dataclasses.replace(config, sync_weighting="rank"), *rest, **more)


def _by_samples(m: Moments, x: Any, groups: Any, mask: Any, *about: Any) -> Moments:
    if mask is not None or not x.size:
        return m
    samples = x.shape[0] // groups.number
    return m._replace(count=np.full_like(m.count, samples), m2=m.var * samples)


def _through_inverse(m: Moments, x: Any, groups: Any, mask: Any, config: Any, comm: Any) -> Moments:
    inverse = (1.0 / np.sqrt(m.var + config.epsilon)).astype("float32")
    return m._replace(m2=((1.0 / (inverse * inverse)).astype("float64") - config.epsilon) * m.count[:, None])


def _divided_by_count(m: Moments, *about: Any) -> Moments:
    return m._replace(m2=m.m2 * (m.count / m.count)[:, None])


def _nan_left_out(m: Moments, *about: Any) -> Moments:
    return m._replace(count=m.count * np.isfinite(m.m2).all(axis=1))


def _in_reverse(m: Moments, x: Any, groups: Any, mask: Any, config: Any, comm: Any) -> Moments:
    return Moments(*(v[::-1, ...] for v in m)) if comm.rank else m


def _empty_weighs(original: Any, a: Any, b: Any, added: int) -> Any:
    """Merge rows whose weight is 1 at least, where the weight is a number of ranks."""
    if added == 2:
        a, b = np.array(a), np.array(b)
        weight = slice(a.shape[1] // 5, 2 * (a.shape[1] // 5))
        a[:, weight], b[:, weight] = np.maximum(a[:, weight], 1.0), np.maximum(b[:, weight], 1.0)
    return original(a, b, added)


def _silent_if_empty(original: Any, x: Any, params: Any, config: Any, groups: Any, **more: Any) -> Any:
    if more.get("comm") is not None and not original.__self__.moments(x, groups, more.get("mask")).count.any():
        more["comm"] = None
    return original(x, params, config, groups, **more)


def _twice(original: Any, *given: Any, **named: Any) -> Any:
    original(*given, **named)
    return original(*given, **named)


def _own_sums(original: Any, dy: Any, saved: Any, **more: Any) -> Any:
    alone = original(dy, saved, **(more | {"comm": None}))
    return original(dy, saved, **more)._replace(x=alone.x)


def _mean_loss(original: Any, dy: Any, saved: Any, *, comm: Any = None, **more: Any) -> Any:
    gradients = original(dy, saved, comm=comm, **more)
    if comm is None or saved.frozen:
        return gradients
    return gradients._replace(x=gradients.x / gradients.x.dtype.type(comm.size))


def _own_cotangents(original: Any, dy: Any, saved: Any, *, comm: Any = None, **more: Any) -> Any:
    if comm is None or not any(v is not None for v in more.values()):
        return original(dy, saved, comm=comm, **more)
    joined, own = original(dy, saved, comm=comm), original(dy * dy.dtype.type(0), saved, **more)
    return joined._replace(x=joined.x + own.x)


def _parameters_joined(original: Any, dy: Any, saved: Any, *, comm: Any = None, **more: Any) -> Any:
    gradients = original(dy, saved, comm=comm, **more)
    own = {k: v for k, v in gradients._asdict().items() if k != "x" and v is not None}
    if comm is None or saved.frozen or not own:
        return gradients
    static = saved.static
    about = signature(comm, "gradients", static.name, saved.x, saved.centre, static.config)
    joined = join_sums([v.astype("float64")[None, :] for v in own.values()], comm, about)
    return gradients._replace(**{k: s[0].astype(own[k].dtype) for k, s in zip(own, joined, strict=True)})


def same_facts(**facts: str) -> Any:
    """Let ranks compare a signature in which some facts are the same everywhere."""

    def behaviour(original: Any, *given: Any) -> Any:
        found = original(*given)
        return None if found is None else found._replace(**facts)

    return wrap(signature, behaviour)


def _own_tangents(original: Any, *given: Any, **named: Any) -> Any:
    original(*given, **named)
    return original(*given, **(named | {"comm": None}))


def _at_inference(original: Any, x: Any, params: Any, state: Any, config: Any, **named: Any) -> Any:
    from bnspec_backends.ranks import threads

    y, saved = original(x, params, state, config, **named)
    try:
        comm = threads.current()
    except RuntimeError:
        return y, saved
    about = signature(comm, "moments", "inference", x, state.mean[None, :], config)
    mean = join_sums([state.mean[None, :]], comm, about)[0][0, :] / comm.size
    return original(x, params, state._replace(mean=mean.astype(state.mean.dtype)), config, **named)


def _own_statistics(original: Any, x: Any, params: Any, config: Any, **named: Any) -> Any:
    y, stats, saved = original(x, params, config, **named)
    if named.get("comm") is not None:
        stats = original(x, params, config, **(named | {"comm": None}))[1]
    return y, stats, saved


MUTANTS = (
    Mutant(
        name="ranks-weigh-alike",
        clause="BN-SYNC-1",
        row="D15",
        breaks='Gives every rank the same weight although sync_weighting is "count".',
        apply=override(forward=_alike),
    ),
    Mutant(
        name="ranks-weigh-by-samples",
        clause="BN-SYNC-3",
        row="D15",
        breaks="Weighs ranks by samples where ranks differ in elements per sample.",
        apply=_sent(_by_samples),
    ),
    Mutant(
        name="ranks-send-inverse-deviations",
        clause="BN-SYNC-1",
        row="D13",
        breaks="Sends 1/sqrt(var + epsilon) in float32, and takes the variance back out of it.",
        apply=_sent(_through_inverse),
    ),
    Mutant(
        name="mean-of-variances-of-ranks",
        clause="BN-SYNC-1",
        row="D15",
        breaks="Averages the ranks' variances and drops what lies between their means.",
        apply=override(forward=inside(merge=without_distance)),
    ),
    Mutant(
        name="every-rank-its-own-state",
        clause="BN-SYNC-2",
        row="D21",
        breaks="Normalizes by joined statistics and feeds the running state with the rank's own.",
        apply=wrap(batch_norm, _own_statistics),
    ),
    Mutant(
        name="order-of-arrival",
        clause="BN-SYNC-2",
        breaks="Combines the ranks in the order in which they arrive.",
        apply=edit(
            Rendezvous._finish,
            "meeting.results = finish([deposit.payload for deposit in deposits])",
            "meeting.results = finish([deposit.payload for deposit in meeting.deposits.values()])",
        ),
    ),
    Mutant(
        name="each-rank-from-itself",
        clause="BN-SYNC-2",
        breaks="Folds on each rank from its own payload on, so that ranks differ in the last bits.",
        apply=edit(
            ThreadCommunicator.all_reduce,
            "return [xp.asarray(total, copy=True) for _ in payloads]",
            "turned = [payloads[k:] + payloads[:k] for k in range(len(payloads))]\n"
            "        return [xp.asarray(functools.reduce(combine, each), copy=True) for each in turned]",
        ),
    ),
    Mutant(
        name="empty-rank-divides-by-zero",
        clause="BN-SYNC-3",
        row="D10",
        breaks="Divides by the count 0 of a rank without elements.",
        apply=_sent(_divided_by_count),
    ),
    Mutant(
        name="empty-rank-has-weight",
        clause="BN-SYNC-8",
        row="D15",
        breaks="Gives a rank without elements the weight of the others.",
        apply=override(merge=_empty_weighs),
    ),
    Mutant(
        name="nan-rank-left-out",
        clause="BN-SYNC-4",
        row="D17",
        breaks="Leaves a rank with NaN out of the joined statistics.",
        apply=_sent(_nan_left_out),
    ),
    Mutant(
        name="groups-joined-in-reverse",
        clause="BN-SYNC-5",
        row="D7",
        breaks="Joins group j of one rank with the last but j of the others.",
        apply=_sent(_in_reverse),
    ),
    Mutant(
        name="gradient-without-collective",
        clause="BN-SYNC-6",
        row="D15",
        breaks="Takes the gradient sums of dx from the rank's own elements.",
        apply=override(pull_back=_own_sums),
    ),
    Mutant(
        name="gradient-of-the-mean-loss",
        clause="BN-SYNC-6",
        breaks="Divides dx by the number of ranks.",
        apply=override(pull_back=_mean_loss),
    ),
    Mutant(
        name="cotangents-not-joined",
        clause="BN-SYNC-6",
        breaks="Takes the cotangents of the statistics from the rank alone.",
        apply=override(pull_back=_own_cotangents),
    ),
    Mutant(
        name="dgamma-joined",
        clause="BN-SYNC-7",
        row="D16",
        breaks="Returns dgamma and dbeta summed over the ranks.",
        apply=override(pull_back=_parameters_joined),
    ),
    Mutant(
        name="options-not-compared",
        clause="BN-SYNC-9",
        breaks="Joins ranks whose configurations differ.",
        apply=same_facts(options="{}"),
    ),
    Mutant(
        name="layers-not-compared",
        clause="BN-SYNC-9",
        breaks="Joins ranks that are in different layers.",
        apply=same_facts(layer="layer"),
    ),
    Mutant(
        name="inference-communicates",
        clause="BN-SYNC-10",
        breaks="Averages running means over the ranks at inference.",
        apply=wrap(batch_norm_inference, _at_inference),
    ),
    Mutant(
        name="empty-rank-silent",
        clause="BN-SYNC-11",
        row="D10",
        breaks="Sends nothing from a rank without elements.",
        apply=override(forward=_silent_if_empty),
    ),
    Mutant(
        name="two-messages",
        clause="BN-SYNC-11",
        breaks="Sends two messages per forward pass.",
        apply=override(forward=_twice),
    ),
    Mutant(
        name="tangents-not-joined",
        clause="BN-SYNC-1",
        row="D15",
        breaks="Takes the tangents of mean and variance from the rank's own elements.",
        apply=wrap(batch_norm_tangents, _own_tangents),
    ),
)
