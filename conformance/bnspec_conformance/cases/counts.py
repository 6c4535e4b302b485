"""Counts of a case: unmasked elements per channel, and whether the specification has them refused."""

import numpy as np

from bnspec_conformance.cases.case import Case

__all__ = ["counts_of", "must_be_refused"]


def counts_of(case: Case) -> list[int]:
    """Unmasked elements per channel of each group, joined over the ranks; group by group where channels differ."""
    totals = np.zeros((case.groups, case.channels if case.counts_channels else 1), np.int64)
    for rank in case.ranks:
        axis = case.config.axis % rank.x.ndim
        counted = 1 if rank.mask is None else rank.mask.shape[axis]
        shape = [counted if a == axis else n for a, n in enumerate(rank.x.shape)]
        others = tuple(a for a in range(1, len(shape)) if a != axis)
        per_sample = np.broadcast_to(True if rank.mask is None else rank.mask, shape).sum(axis=others)
        per_sample = per_sample if axis else per_sample[None]  # no axis holds the samples: there is one group
        if case.groups:
            each = per_sample.reshape(case.groups, len(per_sample) // case.groups, per_sample.shape[1])
            totals = totals + each.sum(axis=1)
    return [int(n) for n in totals.ravel()]


def must_be_refused(case: Case) -> bool:
    """Return whether BN-RUN-4 wants an error: one value per channel in a group that feeds the state."""
    config = case.config
    feeds = case.state is not None and case.update and case.mode == "batch" and config.correction == 1
    return feeds and config.single_value == "raise" and 1 in counts_of(case)
