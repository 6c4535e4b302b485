"""Checks of masks with the channels' extent: every channel of a group has a count of its own."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.checks.forward.test_masks import holding
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_ALL = ("count", "mean", "var", "y", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot", "state")


def drawn(s: Subject, **options: Any) -> Any:
    """Cases with such masks, of values that no arithmetic finds hard."""
    return strategies.cases(s, mask=True, channel_masks=True, lean=True, plain=True, derivatives=True, **options)


def filled(case: Case) -> Case:
    """Return the case with the first sample of each group unmasked, so that every channel holds something."""
    ranks = []
    for rank in case.ranks:
        assert rank.mask is not None
        mask = np.array(np.broadcast_to(rank.mask, (len(rank.x), *rank.mask.shape[1:])))
        mask[:: max(1, len(mask) // max(1, case.groups))] = True
        ranks.append(dataclasses.replace(rank, mask=mask))
    return dataclasses.replace(case, ranks=tuple(ranks))


@clauses("BN-MASK-8")
@explore(lambda s: drawn(s, ghost=True, renorm=True, statistics=True))
def test_each_channel(t: Trial, case: Case) -> None:
    """Count, mean, variance, y and the derivatives of each channel are those of its own unmasked elements."""
    t.agree(filled(case), *_ALL)


@clauses("BN-MASK-8")
@explore(lambda s: drawn(s, ghost=True, running=True))
def test_state(t: Trial, case: Case) -> None:
    """The running state of each channel is fed by its own count."""
    t.agree(filled(case), "count", "mean", "var", "state")


@clauses("BN-MASK-3")
@explore(lambda s: drawn(s, ghost=True))
def test_masked_values(t: Trial, case: Case) -> None:
    """NaN and infinity where one channel is masked reach y there, and nothing else."""
    finite = holding(filled(case), [0.0])
    odd = holding(finite, (float("nan"), float("inf"), -1e4))
    t.agree(odd, "y", "dx", "dgamma", "dbeta", "ydot", control=finite)


#: Of four samples, those that count, for each of three channels: all but one of each, in every ghost group of two
#: samples one at least; and some, one and none.
_ALL_HOLD, _ONE_IS_EMPTY = [[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0]], [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"correction": 1, "single_value": "keep"},
    {"correction": 1, "single_value": "floor"},
    {"averaging": "pooled"},
    {"averaging": "cumulative"},
    {"averaging": "debiased"},
    {"virtual_batch_size": 2, "ghost_source": "merged"},
    {"virtual_batch_size": 2, "ghost_source": "mean"},
    {"virtual_batch_size": 2, "ghost_source": "sequential"},
    {"renorm": bnspec.Renorm(rmax=2.0, dmax=3.0)},
)


def forced(masks: Sequence[Any], **fields: Any) -> Case:
    """Return a case with a rank of shape (4, 3, 2) for each mask (3, 4), or None."""
    shaped = [None if m is None else np.asarray(m, bool).T.reshape(4, 3, 1) for m in masks]
    return example(config(**fields), [(4, 3, 2)] * len(masks), shaped)


@clauses("BN-MASK-8")
@explore()
def test_forced(t: Trial) -> None:
    """Channels of different counts, in every averaging, with ghost groups and renorm."""
    for case in t.inside(forced([_ALL_HOLD], **fields) for fields in _OPTIONS):
        t.agree(case, *_ALL)


@clauses("BN-MASK-5")
@explore()
def test_empty_channel(t: Trial) -> None:
    """A channel that holds nothing, in a group or at all, has count 0 there, and keeps its state to the bit."""
    for case in t.inside(forced([_ONE_IS_EMPTY], **fields) for fields in _OPTIONS):
        t.agree(case, *_ALL, control=filled(case))


@clauses("BN-MASK-8")
@explore()
def test_too_few(t: Trial) -> None:
    """One value of one channel is refused where the correction leaves nothing of it."""
    backend = t.needs_backend()
    case = forced([[[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]], correction=1, single_value="raise")
    rank = dataclasses.replace(case.ranks[0], x=case.ranks[0].x[:, :, :1])
    put = backend.asarray
    x, mask = put(rank.x), put(np.asarray(rank.mask))
    params, state = bnspec.init(case.config, channels=3, like=x)
    _, stats, _ = bnspec.batch_norm(x, params, case.config, mask=mask)
    t.refuses(lambda: bnspec.update_running(state, stats, case.config), ValueError, "BN-RUN-4")


@clauses("BN-MASK-8")
@explore()
def test_ranks(t: Trial) -> None:
    """Ranks with such a mask, with a mask of all channels and with none join in one collective."""
    if "sync" not in t.subject.scope:
        raise NotSupported("it has no sync (several ranks share their statistics)")
    shared = [[1, 0, 1, 1]] * 3
    world = t.subject.scope.world
    few = [[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]]
    groups = ((few, None), (shared, few), (_ALL_HOLD, shared, few))
    ghost: dict[str, Any] = {"virtual_batch_size": 2, "ghost_source": "merged"}  # counts of a group and channel
    cases, part = [], []
    for how in ("count", "rank"):
        cases += [forced(masks[:world], sync_weighting=how) for masks in groups]
        cases.append(forced((_ALL_HOLD, few), sync_weighting=how, **ghost))
        part += [forced((_ONE_IS_EMPTY, None), sync_weighting=how, **fields) for fields in ({}, ghost)]
    for case in t.inside(cases):
        t.agree(case, *_ALL)
    for case in filter(t.takes, part):  # a rank without elements of one channel; beside it one without any at all
        whole = forced(([[0] * 4] * 3, None), sync_weighting=case.config.sync_weighting)
        if t.is_silently_right(whole, "mean", "var", "y"):  # else it is the empty rank, and not the empty channel
            t.agree(case, *_ALL, control=whole)


@clauses("BN-MASK-7")
@explore()
def test_without_channel_axis(t: Trial) -> None:
    """A mask without the channel axis is to the bit the one with extent 1 there."""
    put = t.needs_backend().asarray
    for axis, shape in ((2, (4, 3, 3)), *_SEQUENCES):  # first one that would fit in another place too
        whole = np.random.default_rng(5).random([1 if a == axis else n for a, n in enumerate(shape)]) < 0.6
        _the_same(t, axis, shape, {"mask": put(np.squeeze(whole, axis))}, {"mask": put(whole)})


@clauses("BN-MASK-9")
@explore()
def test_lengths(t: Trial) -> None:
    """The lengths of sequences are to the bit the mask that they stand for, in every integer dtype."""
    put, lengths = t.needs_backend().asarray, np.asarray([2, 0, 5, 3])
    for axis, shape in _SEQUENCES:
        along = 2 if axis == 1 else 1
        extents = [n if a in (0, along) else 1 for a, n in enumerate(shape)]
        whole = np.reshape(np.arange(5) < lengths[:, None], extents)
        for dtype in ("int32", "int64", "uint8"):
            _the_same(t, axis, shape, {"lengths": put(lengths.astype(dtype))}, {"mask": put(whole)})


#: Four samples, three channels, and five steps along the first of the other axes.
_SEQUENCES = ((1, (4, 3, 5)), (2, (4, 5, 3)), (3, (4, 5, 2, 3)))


def _the_same(t: Trial, axis: int, shape: tuple[int, ...], one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Require the same bits of two calls that say in different ways what counts."""
    backend = t.needs_backend()
    case = example(config(axis=axis), [shape])
    x, g = (backend.asarray(v) for v in (case.ranks[0].x, np.ones(shape, "float32")))
    params, _ = bnspec.init(case.config, channels=3, like=x)
    results = []
    for form in (one, other):
        y, stats, saved = bnspec.batch_norm(x, params, case.config, **form)
        results.append({"y": y, "mean": stats.mean, "count": stats.count, "dx": bnspec.batch_norm_vjp(g, saved).x})
    for name in results[0]:
        got, want = (backend.to_numpy(each[name]) for each in results)
        t.same(got, want, name, case)


@clauses("BN-MASK-9")
@explore()
def test_refused_lengths(t: Trial) -> None:
    """Lengths of another number, dtype or range, beside a mask, or for x without sequences, are refused."""
    backend = t.needs_backend()
    put = backend.asarray
    case = example(config(), [(4, 3, 2)])
    x = put(case.ranks[0].x)
    params, _ = bnspec.init(case.config, channels=3, like=x)
    for wrong in (np.ones(3, "int32"), np.ones((4, 1), "int32"), np.ones(4, "float32"), np.ones(4, bool)):
        call = functools.partial(bnspec.batch_norm, x, params, case.config, lengths=put(wrong))
        t.refuses(call, _KINDS, "BN-MASK-9")
    good, mask = put(np.ones(4, "int32")), put(np.ones((4, 1, 2), bool))
    t.refuses(lambda: bnspec.batch_norm(x, params, case.config, lengths=good, mask=mask), _KINDS, "BN-MASK-9")
    flat = put(case.ranks[0].x[:, :, 0])
    t.refuses(lambda: bnspec.batch_norm(flat, params, case.config, lengths=good), _KINDS, "BN-MASK-9")
    if backend.name in ("numpy", "torch", "strict"):  # where elements are read without waiting
        for value in (-1, 3):
            bad = put(np.full(4, value, "int32"))
            call = functools.partial(bnspec.batch_norm, x, params, case.config, lengths=bad)
            t.refuses(call, ValueError, "BN-MASK-9")


_KINDS = (TypeError, ValueError)
