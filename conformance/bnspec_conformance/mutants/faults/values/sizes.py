"""Mutants of sizes: right for few elements and few channels, wrong past the end of a block, a grid or an index."""

from typing import Any

import numpy as np

from bnspec import Moments, Params
from bnspec._groups import split
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.naive import about, with_moments, with_params
from bnspec_conformance.mutants.overriding import override

__all__ = ["MUTANTS"]

#: A block of threads, the largest grid of a device, and the largest index of 10 bits.
_BLOCK, _GRID, _TABLE = 4096, 65535, 1023


def _elements(x: Any, axis: int) -> int:
    return int(x.size // max(x.shape[axis], 1))


def _last_row_lost(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    """Take the mean of images whose channels are last, more than 64 of them, without their last row."""
    if x.ndim != 4 or groups.axis != 3 or x.shape[3] <= 64 or x.shape[1] < 100 or groups.number > 1:
        return m
    return about(m, x[:, :-1].astype("float64").mean(axis=(0, 1, 2))[None, :], x, groups, mask)


def _fifth_on(params: Params) -> Params:
    if params.gamma is None:
        return params
    last = np.minimum(np.arange(len(params.gamma)), 4)
    return params._replace(gamma=params.gamma[last])


def _one_block_of_g(original: Any, dy: Any, x: Any, centre: Any, groups: Any, mask: Any) -> Any:
    if mask is None and groups.number == 1 and _elements(x, groups.axis) > _BLOCK:
        dy = np.moveaxis(dy.copy(), groups.axis, 0)
        flat = dy.reshape(len(dy), -1)
        flat[:, _BLOCK + 1 :] = 0
        dy = np.moveaxis(flat.reshape(dy.shape), 0, groups.axis)
    return original(dy, x, centre, groups, mask)


def _one_grid(original: Any, state: Any, *rest: Any, **named: Any) -> Any:
    new = original(state, *rest, **named)
    if len(state.mean) <= _GRID:
        return new
    mean = np.concatenate([new.mean[:_GRID], state.mean[_GRID:]])
    return new._replace(mean=mean)


def _float32(m: Moments, x: Any, groups: Any, mask: Any) -> Moments:
    return m._replace(count=m.count.astype("float32").astype(m.count.dtype))


def _mask_of_one_block(original: Any, x: Any, groups: Any, mask: Any) -> Any:
    if mask is not None and mask.size > _BLOCK // 2:
        mask = mask.copy()
        mask.reshape(-1)[_BLOCK // 2 :] = True
    return original(x, groups, mask)


def _samples_of_8_bits(original: Any, x: Any, groups: Any, mask: Any) -> Any:
    """Leave out the samples of a group from the 257th on, but not from their number."""
    found = original(x, groups, mask)
    parts = split(x, groups)
    if groups.number == 1 or parts.shape[1] <= 256 or mask is not None:
        return found
    few = np.concatenate([p[:256] for p in parts])
    return found._replace(mean=original(few, groups, None).mean, mean_low=found.mean_low * 0)


def _table_of_means(original: Any, x: Any, params: Any, mean: Any, var: Any, *rest: Any) -> Any:
    return original(x, params, mean[np.arange(len(mean)) & _TABLE], var, *rest)


MUTANTS = (
    Mutant(
        name="wide-images-lose-a-row",
        clause="BN-MOM-2",
        breaks="Takes the mean without the last row where images are large and have more than 64 channels, last.",
        apply=with_moments(_last_row_lost),
    ),
    Mutant(
        name="gamma-of-five-channels",
        clause="BN-NORM-1",
        breaks="Takes the fifth channel's gamma for all channels behind it.",
        apply=with_params(_fifth_on),
    ),
    Mutant(
        name="one-block-of-g",
        clause="BN-GRAD-1",
        breaks="Sums no g beyond 4097 elements of a channel.",
        apply=override(grad_sums=_one_block_of_g),
    ),
    Mutant(
        name="one-grid-of-channels",
        clause="BN-RUN-1",
        breaks="Leaves the running mean of the channels from 65535 on as it was.",
        apply=override(update=_one_grid),
    ),
    Mutant(
        name="count-in-float32",
        clause="BN-MOM-1",
        breaks="Counts in float32, where odd numbers end at 2**24.",
        apply=with_moments(_float32),
    ),
    Mutant(
        name="mask-of-one-block",
        clause="BN-MASK-1",
        breaks="Reads no more than 2048 elements of a mask; all others count.",
        apply=override(moments=_mask_of_one_block),
    ),
    Mutant(
        name="samples-of-8-bits",
        clause="BN-GRP-2",
        breaks="Takes the mean of the first 256 samples of a group for that of the group.",
        apply=override(moments=_samples_of_8_bits),
    ),
    Mutant(
        name="means-of-10-bits",
        clause="BN-INF-1",
        breaks="Looks the running mean of a channel up by the last ten bits of its number.",
        apply=override(infer=_table_of_means),
    ),
)
