"""Counts of a case: unmasked elements per channel, and whether the specification has them refused."""

import numpy as np

from bnspec_conformance.cases.case import Case

__all__ = ["counts_of", "must_be_refused"]


def counts_of(case: Case) -> list[int]:
    """Unmasked elements per channel of each group, joined over the ranks."""
    totals = np.zeros(case.groups, np.int64)
    for rank in case.ranks:
        per_sample = np.ones(rank.x.shape[0], np.int64)
        if rank.x.ndim > 1:
            extents = [n for a, n in enumerate(rank.x.shape) if a not in (0, case.config.axis % rank.x.ndim)]
            per_sample = per_sample * int(np.prod(extents, dtype=np.int64))
        if rank.mask is not None:
            shape = [1 if a == case.config.axis % rank.x.ndim else n for a, n in enumerate(rank.x.shape)]
            per_sample = np.broadcast_to(rank.mask, shape).sum(axis=tuple(range(1, len(shape))))
        if case.groups:
            totals += per_sample.reshape(case.groups, len(per_sample) // case.groups).sum(axis=1)
    return [int(n) for n in totals]


def must_be_refused(case: Case) -> bool:
    """Return whether BN-RUN-4 wants an error: one value per channel in a group that feeds the state."""
    config = case.config
    feeds = case.state is not None and case.update and case.mode == "batch" and config.correction == 1
    return feeds and config.single_value == "raise" and 1 in counts_of(case)
