"""Checks of SPEC.md, "Synchronization": the numbers. The checks of its communication are in test_collectives."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from bnspec import Renorm
from bnspec_conformance.cases.case import Array, Case, as_float64
from bnspec_conformance.cases.concatenate import concatenated, shared
from bnspec_conformance.cases.counts import counts_of
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import config, configured, example
from bnspec_conformance.checks.ranks.recording import RecordingCommunicator, steps
from bnspec_conformance.oracle import central_difference, direction, exact
from bnspec_conformance.subjects import NotSupported, Subject
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_LOCAL = ("y", "dx", "dgamma", "dbeta", "ydot")
_JOINED = ("count", "mean", "var", "state", "mean_dot", "var_dot")


#: Correction 1, unless told otherwise.
corrected = functools.partial(config, correction=1)


def drawn(s: Subject, **options: Any) -> Any:
    """Cases of several ranks; four where that is cheap."""
    return strategies.cases(s, ranks=4 if s.examples >= 10 else 2, lean=True, running=True, derivatives=True, **options)


def world(*sizes: int, masks: tuple[Array | None, ...] = (), **fields: Any) -> Case:
    """Return a forced case of ranks with these numbers of samples."""
    return example(corrected(**fields), [(n, 3, 2) for n in sizes], masks)


_OFF, _HALF = np.zeros((4, 1, 2), bool), np.asarray([1, 1, 0, 0], bool).reshape(4, 1, 1)


def worlds(**fields: Any) -> list[Case]:
    """Uneven ranks, ranks without samples in every place, a rank that is masked altogether, and nothing at all."""
    return [
        world(4, 2, 0, **fields),
        world(0, 0, 4, 2, **fields),
        world(4, 4, masks=(_OFF, _HALF), **fields),
        world(2, 0, 4, masks=(None, None, _HALF), **fields),
        world(0, 0, **fields),
        world(4, 0, masks=(_OFF, None), **fields),
    ]


@clauses("BN-SYNC-1")
@explore(lambda s: drawn(s, mask=True), share=0.6)
def test_whole_batch(t: Trial, case: Case) -> None:
    """Statistics, y, dx, tangents and state are those of one process on the concatenated batch."""
    counts = {tuple(counts_of(dataclasses.replace(case, ranks=(rank,)))) for rank in case.ranks}
    if case.config.sync_weighting == "rank" and len(counts) > 1:
        raise NotSupported("it weighs ranks alike, which is another clause where their counts differ")
    one, places = concatenated(case)
    want = shared(exact(one), places)
    got = t.agree(case, "y", "dx", "ydot", *_JOINED, reference=want)
    t.agree(case, *_LOCAL, *_JOINED, outcome=got)


@clauses("BN-SYNC-1", "BN-SYNC-3")
@explore()
def test_uneven_and_empty(t: Trial) -> None:
    """Ranks of uneven size, without samples, or masked altogether take part as they are."""
    for case in t.inside((*worlds(), world(4, 2, 0, averaging="pooled"))):
        one, places = concatenated(case)
        got = t.agree(case, *_LOCAL, *_JOINED)
        t.agree(case, "y", "dx", "ydot", *_JOINED, outcome=got, reference=shared(exact(one), places))
        state = got.ranks[0].state
        if not any(np.asarray(rank.x if rank.mask is None else rank.mask).any() for rank in case.ranks):
            control = world(4, 4, averaging=case.config.averaging)
            t.same(state, case.state, "the state after no element", case, control=control)


@clauses("BN-SYNC-3")
@explore()
def test_nothing_beside_what_is_not_finite(t: Trial) -> None:
    """A rank without samples has parameter gradients 0, although another one makes the statistics NaN."""
    case = example(corrected(), [(4, 3, 2), (0, 3, 2)])
    x = case.ranks[0].x.copy()
    x[0, 0, 0] = np.nan
    bad = dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], x=x), case.ranks[1]))
    t.agree(case, "dgamma", "dbeta", proves=())
    got = t.run(bad).ranks[1]
    for output in ("dgamma", "dbeta"):
        t.same(getattr(got, output), np.zeros(3, np.float32), output, bad, control=case)


@clauses("BN-SYNC-3")
@explore()
def test_other_extents(t: Trial) -> None:
    """Ranks may differ in every extent but the channel's; weights are elements, not samples."""
    case = example(corrected(), [(4, 3, 2), (2, 3, 4), (2, 3, 0)])
    t.agree(case, *_LOCAL, *_JOINED)


@clauses("BN-SYNC-2")
@explore(lambda s: drawn(s, mask=True, renorm=True, plain=True), share=0.5)
def test_same_bits(t: Trial, case: Case) -> None:
    """Statistics, their tangents and the state are the same to the bit on all ranks, and in a second run."""
    got, again = t.run(case), t.run(case)
    for field in _JOINED:
        for number, rank in enumerate(got.ranks):
            t.same(getattr(rank, field), getattr(got.ranks[0], field), f"{field} on ranks {number} and 0", case)
            t.same(getattr(again.ranks[number], field), getattr(rank, field), f"{field} in a second run", case)


@clauses("BN-SYNC-2")
@explore()
def test_order_of_arrival(t: Trial) -> None:
    """The order in which ranks arrive changes no bit."""
    backend, ranks = t.needs_backend(), t.needs_ranks(4)
    for weighting in ("count", "rank"):
        case = world(4, 2, 4, 2, sync_weighting=weighting)
        found = []
        for delays in ((0.0, 0.02, 0.04, 0.06), (0.06, 0.04, 0.02, 0.0), (0.04, 0.0, 0.06, 0.02)):

            def one(comm: Any, delays: Any = delays, case: Case = case) -> dict[str, Array]:
                return steps(backend, case, RecordingCommunicator(comm, delays[comm.rank]))

            found.append(ranks.run(4, one, deadline=60.0))
        for other in found[1:]:
            for rank in range(4):
                t.same(other[rank], found[0][rank], f"rank {rank} in another order of arrival", case)


@clauses("BN-SYNC-4")
@explore(lambda s: drawn(s, mask=True, plain=True, scale=True, center=True), share=0.4)
def test_nonfinite_rank(t: Trial, case: Case) -> None:
    """A NaN or infinity of one rank shows on every rank in that channel, and changes no bit of another."""
    t.needs("mean", "var")
    axis, clean = case.config.axis, t.run(case)
    for number, value in ((0, float("nan")), (len(case.ranks) - 1, float("inf"))):
        rank = case.ranks[number]
        assert rank.mask is not None
        live = np.argwhere(np.broadcast_to(rank.mask, rank.x.shape))
        if not len(live):
            continue
        channel, x = int(live[0][axis]), rank.x.copy()
        x[tuple(live[0])] = value
        ranks = [dataclasses.replace(r, x=x) if r is rank else r for r in case.ranks]
        bad = dataclasses.replace(case, ranks=tuple(ranks))
        got = t.agree(bad, "mean", "var", "y", "dx", "state", control=case)
        others = np.arange(case.channels) != channel
        for dirty, before in zip(got.ranks, clean.ranks, strict=True):
            assert dirty.var is not None and dirty.mean is not None and dirty.y is not None
            whole = np.isfinite(dirty.mean[:, channel]) & np.isfinite(dirty.var[:, channel])
            t.require(not whole.any(), "the statistics of the channel are finite", bad)
            for field in ("mean", "var", "y", "dx", "dgamma", "ydot"):
                a, b = getattr(dirty, field), getattr(before, field)
                over = axis if a.ndim > 2 or field in ("y", "dx", "ydot") else a.ndim - 1
                t.same(np.compress(others, a, over), np.compress(others, b, over), f"{field} of another channel", bad)


@clauses("BN-SYNC-5")
@explore(lambda s: drawn(s, mask=True, ghost=True), share=0.6)
def test_ghost(t: Trial, case: Case) -> None:
    """Group j is the union of the j-th runs of all ranks."""
    one, places = concatenated(case)
    got = t.agree(case, "y", "dx", "ydot", *_JOINED, reference=shared(exact(one), places))
    t.agree(case, *_LOCAL, *_JOINED, outcome=got)


@clauses("BN-SYNC-5")
@explore()
def test_forced_ghost(t: Trial) -> None:
    """Ghost groups over ranks that differ in their other extents or have a group masked; every ghost source."""
    for source in ("first", "mean", "merged", "sequential"):
        options = {"virtual_batch_size": 2, "ghost_source": source, "single_value": "floor"}
        t.agree(world(4, 4, masks=(_HALF, None), **options), *_LOCAL, *_JOINED)
    t.agree(example(corrected(virtual_batch_size=2), [(4, 3, 2), (4, 3, 4)]), *_LOCAL, *_JOINED)


@clauses("BN-SYNC-6", "BN-SYNC-7")
@explore(lambda s: drawn(s, mask=True, statistics=True), share=0.5)
def test_gradients(t: Trial, case: Case) -> None:
    """dx is the gradient of the sum of the losses; dgamma and dbeta are the rank's own, and add up to the whole's."""
    got = t.agree(case, "dx", "dgamma", "dbeta")
    one, reference = exact(concatenated(case)[0]).ranks[0], exact(case)
    allowed = t.bounds(case, reference)
    for field in ("dgamma", "dbeta"):
        want = getattr(one, field)
        if want is None:
            continue
        values = np.stack([as_float64(getattr(rank, field)) for rank in got.ranks])
        limit = np.sum([getattr(rank, field) for rank in allowed.ranks], axis=0)
        total = np.asarray([math.fsum(v) for v in values.T])
        t.within(total, want, limit, f"the sum of the ranks' {field}", case, output=field)


@clauses("BN-SYNC-6", "BN-SYNC-7")
@explore()
def test_loss_of_one_rank(t: Trial) -> None:
    """A loss on one rank alone, or of the statistics alone, has a gradient on all, as a difference quotient says."""
    for case in map(t.fit, (world(4, 2), world(4, 2, sync_weighting="rank"), world(4, 0))):
        quiet = [r if i == 0 else dataclasses.replace(r, dy=np.zeros_like(r.x)) for i, r in enumerate(case.ranks)]
        for own in (dataclasses.replace(case, ranks=tuple(quiet), dmean=None, dvar=None), case):
            got = t.agree(own, "dx", "dgamma", "dbeta")
            reference = exact(own)
            value, uncertain = central_difference(own, 5)
            along = direction(own, 5)
            allowed = t.bounds(own, reference)
            total, slack = 0.0, uncertain
            # The parameters' gradients are those of the reference: what differs is dx.
            for rank, limit, right, xdot in zip(got.ranks, allowed.ranks, reference.ranks, along.x, strict=True):
                for g, b, v in (
                    (rank.dx, limit.dx, xdot),
                    (right.dgamma, limit.dgamma, along.gamma),
                    (right.dbeta, limit.dbeta, along.beta),
                ):
                    assert g is not None and b is not None
                    total, slack = total + float(np.sum(as_float64(g) * v)), slack + float(np.sum(b * np.abs(v)))
            near = abs(total - value) <= slack
            t.require(near, f"the derivative is {total!r}, the quotient {value!r}", own, proves=("BN-SYNC-6",))


def by_count(case: Case) -> Case:
    """Return the case with every element of the same weight."""
    return configured(case, sync_weighting="count")


@clauses("BN-SYNC-8")
@explore(lambda s: drawn(s, mask=True, statistics=True, sync_weighting="rank"), share=0.5)
def test_rank_weighting(t: Trial, case: Case) -> None:
    """Every rank that holds data has the same weight, whatever its count."""
    t.agree(case, *_LOCAL, *_JOINED, control=by_count(case))


@clauses("BN-SYNC-8")
@explore()
def test_forced_rank_weighting(t: Trial) -> None:
    """Ranks without data have weight 0; with equal counts the weighting is that by count."""
    renorm = Renorm(rmax=2.0, dmax=3.0)
    for case in (*t.inside(worlds(sync_weighting="rank")), world(4, 2, sync_weighting="rank", renorm=renorm)):
        t.agree(case, *_LOCAL, *_JOINED, control=by_count(case))
    even = t.fit(world(4, 4, 4, sync_weighting="rank"))
    counted = by_count(even)
    t.agree(even, *_LOCAL, *_JOINED, reference=exact(counted), control=counted)
