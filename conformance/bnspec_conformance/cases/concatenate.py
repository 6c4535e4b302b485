"""Several ranks as one process: the batch that joins their samples, and each rank's part of its outcome."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs

__all__ = ["concatenated", "shared"]

Indices = npt.NDArray[np.int64]


def concatenated(case: Case) -> tuple[Case, list[Indices]]:
    """Join the samples of all ranks in one process, group by group; return the case and the places of each rank's."""
    config, size = case.config, case.config.virtual_batch_size
    order: list[tuple[int, int]] = []
    for g in range(case.groups):
        for r, rank in enumerate(case.ranks):
            n = rank.x.shape[0]
            order += [(r, i) for i in (range(n) if size is None else range(g * size, (g + 1) * size))]
    places = [np.asarray([k for k, (s, _) in enumerate(order) if s == r], np.int64) for r in range(len(case.ranks))]

    def join(arrays: list[Array | None]) -> Array | None:
        present = [a for a in arrays if a is not None]
        if len(present) < len(arrays):
            return None
        whole = np.empty((len(order), *present[0].shape[1:]), present[0].dtype)
        for where, array in zip(places, present, strict=True):
            whole[where] = array
        return whole

    masks = []
    for rank in case.ranks:
        shared = not case.counts_channels
        full = tuple(1 if a == config.axis and shared else n for a, n in enumerate(rank.x.shape))
        masks.append(np.broadcast_to(np.ones((1,) * len(full), bool) if rank.mask is None else rank.mask, full))
    x = join([r.x for r in case.ranks])
    assert x is not None
    whole = RankInputs(
        x,
        join([r.dy for r in case.ranks]),
        None if all(r.mask is None for r in case.ranks) else join(list(masks)),
        join([r.xdot for r in case.ranks]),
    )
    if size is not None:
        config = dataclasses.replace(config, virtual_batch_size=size * len(case.ranks))
    dmean, dvar = (None if v is None else (np.sum(np.asarray(v, np.float64), axis=0),) for v in (case.dmean, case.dvar))
    return dataclasses.replace(case, config=config, ranks=(whole,), dmean=dmean, dvar=dvar), places


def shared(one: Outcome, places: list[Indices]) -> Outcome:
    """Return a single process's outcome as each rank should hold it, without the local parameter gradients."""
    (whole,) = one.ranks

    def part(values: Any, place: Indices) -> Any:
        return None if values is None else values[place]

    return Outcome(
        tuple(
            dataclasses.replace(
                whole, dgamma=None, dbeta=None, y=part(whole.y, p), dx=part(whole.dx, p), ydot=part(whole.ydot, p)
            )
            for p in places
        )
    )
