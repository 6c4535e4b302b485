"""How arrays lie in memory: what the kernels read in place, and what is copied first."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnspec_backends.cpu.plan import plan_for
from bnspec_backends.layout import dense, find_layout

BASE = np.arange(4 * 6 * 5 * 8, dtype=np.float32).reshape(4, 6, 5, 8)

IN_PLACE = {
    "NCHW": (BASE, 1, 1),
    "NHWC": (BASE, 3, 1),
    "NHWC seen as NCHW": (BASE.transpose(0, 3, 1, 2), 1, 1),
    "channels first of all": (BASE, 0, 1),
    "some channels": (BASE[:, 2:5], 1, 1),
    "every other sample": (BASE[::2], 1, 1),
    "some channels, last": (BASE[..., 3:7], 3, 1),
    "groups": (BASE, 1, 2),
    "groups, last": (BASE, 3, 4),
    "one channel": (BASE[:, :1], 1, 1),
    "one sample": (BASE[:1], 1, 1),
    "matrix": (BASE.reshape(24, 40), 1, 3),
    "transposed matrix": (BASE.reshape(24, 40).T, 1, 1),
}

COPIED = {
    "reversed": (BASE[::-1], 1, 1),
    "every other column": (BASE[..., ::2], 1, 1),
    "every other channel, last": (BASE[..., ::2], 3, 1),
    "a window": (BASE[:, :, 1:4, 1:7], 1, 1),
    "repeated": (np.broadcast_to(BASE[:1], (4, 6, 5, 8)), 1, 1),
    "groups along an axis that is not the first in memory": (BASE.transpose(2, 1, 0, 3)[:4], 1, 2),
}


def layout_of(x: Any, axis: int, groups: Any) -> Any:
    return find_layout(x.shape, x.strides, x.itemsize, axis, groups)


def by_kernel(x: Any, layout: Any) -> list[Any]:
    """The elements a kernel reads, per group and channel."""
    memory = np.lib.stride_tricks.as_strided(x, (layout.span,), (x.itemsize,))
    return [
        [
            [
                memory[(g * layout.rows + n) * layout.row_stride + c * layout.channel_stride + i]
                for n in range(layout.rows)
                for i in range(layout.run)
            ]
            for c in range(layout.channels)
        ]
        for g in range(layout.groups)
    ]


def by_definition(x: Any, axis: int, groups: Any) -> list[Any]:
    return [np.moveaxis(part, axis, 0).reshape(x.shape[axis], -1) for part in np.split(x, groups)]


@pytest.mark.parametrize("name", IN_PLACE)
def test_is_read_in_place(name: str) -> None:
    x, axis, groups = IN_PLACE[name]
    layout = layout_of(x, axis, groups)
    assert layout is not None
    read, meant = by_kernel(x, layout), by_definition(x, axis, groups)
    for mine, wanted in zip(read, meant, strict=True):
        assert [sorted(c) for c in mine] == [sorted(c) for c in wanted.tolist()]


@pytest.mark.parametrize("name", COPIED)
def test_needs_a_copy(name: str) -> None:
    assert layout_of(*COPIED[name]) is None


@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple),
    data=st.data(),
)
@settings(deadline=None)
def test_a_layout_is_right_wherever_there_is_one(shape: Any, data: Any) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1), label="axis")
    order = data.draw(st.permutations(range(len(shape))), label="order")
    possible = [g for g in range(1, shape[0] + 1) if shape[0] % g == 0 and (g == 1 or axis != 0)]
    groups = data.draw(st.sampled_from(possible), label="groups")
    x = np.arange(math.prod(shape)).reshape([shape[a] for a in order]).transpose(np.argsort(order))
    cuts = tuple(slice(data.draw(st.integers(0, n - 1)) if a else 0, None) for a, n in enumerate(shape))
    x = x[cuts]
    layout = layout_of(x, axis, groups)
    if layout is None:
        assert x.size < math.prod(shape) or groups > 1, "a whole array in any order needs no copy"
        return
    for mine, wanted in zip(by_kernel(x, layout), by_definition(x, axis, groups), strict=True):
        assert [sorted(c) for c in mine] == [sorted(c) for c in wanted.tolist()]
    assert dense(layout).span == x.size


@pytest.mark.parametrize(
    ("shape", "axis", "groups"),
    [
        ((32, 64, 56, 56), 1, 4), ((32, 56, 56, 64), 3, 2), ((32, 2048, 7, 7), 1, 1), ((5, 3), 1, 1),
        ((4096, 1024), 1, 8),
        ((64, 1, 300, 300), 1, 2), ((16, 3, 224, 224), 1, 1), ((1, 100_000), 1, 1),
        ((7, 9000, 3), 1, 7), ((2, 3, 100), 1, 1), ((100_000, 3), 1, 5),
    ],
)  # fmt: skip
def test_blocks_cover_every_element_once(shape: tuple[Any, ...], axis: int, groups: int) -> None:
    x = np.lib.stride_tricks.as_strided(
        np.zeros(1, np.float32), shape, [4 * math.prod(shape[a + 1 :]) for a in range(len(shape))]
    )
    layout = layout_of(x, axis, groups)
    plan = plan_for(layout)
    if plan.by_runs:
        blocks = plan.blocks.tolist()
        covered = [(t, n) for first, last, row, end, _ in blocks for t in range(first, last) for n in range(row, end)]
        assert sorted(covered) == [(t, n) for t in range(layout.groups * layout.channels) for n in range(layout.rows)]
        assert all(end - row == layout.rows or last - first == 1 for first, last, row, end, _ in blocks)
        assert {part for *_, part in blocks} == set(range(plan.parts))
        return
    seen = np.zeros((layout.groups * layout.rows, layout.channels), int)
    for row, rows, channel, channels, step, g, part in plan.blocks.tolist():
        assert step >= 1
        assert row // layout.rows == (row + rows - 1) // layout.rows == g
        assert 0 <= part < plan.parts
        seen[row : row + rows, channel : channel + channels] += 1
    assert (seen == 1).all()
