"""Plans of CUDA launches: every element is visited once, and no limit of a device is passed; no device is needed."""

import collections
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnspec_backends.cuda.plan import LONG_RUN, MOST_PARTS, THREADS, Plan, plan_for, vector_width
from bnspec_backends.layout import find_layout

SHARED_BYTES = 48 << 10  # of a block, on every device

EXTENTS = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 70), st.integers(1, 300))


def planned(extents: Any, size: int, address: int = 0) -> tuple[Plan, bool, int]:
    groups, rows, channels, run = extents
    layout = find_layout((groups * rows, channels, run), (channels * run * size, run * size, size), size, 1, groups)
    assert layout is not None
    columns, vector = vector_width([layout], [size], [address])
    plan = plan_for(layout.groups, layout.rows, layout.channels, layout.run, columns, vector, size)
    return plan, columns, vector


def visited(plan: Plan, parts: int, channels: int, rows: int, run: int, vector: int) -> Any:
    """How often each (group, channel, row, place in the run) is visited, as the walks of batch_norm.cu do it."""
    found: collections.Counter[Any] = collections.Counter()
    for block, part, thread in itertools.product(range(plan.blocks), range(parts), range(plan.threads)):
        if plan.walk.startswith("Runs"):
            group, channel = divmod(block, channels)
            vectors = run // vector
            length = rows * vectors
            for j in range(length * part // parts + thread, length * (part + 1) // parts, plan.threads):
                for k in range(vector):
                    found[group, channel, j // vectors, j % vectors * vector + k] += 1
            continue
        group, place = divmod(block, -(-channels // plan.width))
        column = place * plan.width * run + thread % plan.lanes * vector
        high = plan.threads // plan.lanes
        if column >= channels * run:
            continue
        for row in range(rows * part // parts + thread // plan.lanes, rows * (part + 1) // parts, high):
            for k in range(vector):
                found[group, (column + k) // run, row, (column + k) % run] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 150)), st.sampled_from([2, 4, 8])
)
def test_every_element_is_visited_once(extents: Any, size: int) -> None:
    groups, rows, channels, run = extents
    plan, _, vector = planned(extents, size)
    for parts in {plan.parts, plan.tiles}:
        found = visited(plan, parts, channels, rows, run, vector)
        assert set(found.values()) == {1}
        assert len(found) == groups * rows * channels * run


@given(EXTENTS, st.sampled_from([2, 4, 8]), st.integers(0, 15))
def test_limits_hold(extents: Any, size: int, offset: int) -> None:
    plan, columns, vector = planned(extents, size, address=offset * size)
    assert columns == plan.walk.startswith("Columns")
    if extents[2] > 1:  # the samples of one channel alone are one run
        assert columns == (extents[3] < LONG_RUN)
    assert offset % vector == 0
    assert plan.threads <= THREADS
    assert 1 <= plan.parts <= MOST_PARTS
    assert 1 <= plan.tiles <= MOST_PARTS
    assert plan.team & (plan.team - 1) == 0
    assert plan.team <= plan.threads
    assert plan.shared_bytes(4) <= SHARED_BYTES


@given(EXTENTS, st.sampled_from([2, 4, 8]))
def test_teams_cover_the_channels_of_a_block(extents: Any, size: int) -> None:
    plan, columns, vector = planned(extents, size)
    assert plan.lanes * vector == plan.width * extents[3] if columns else plan.width == 1
    assert plan.threads % plan.lanes == 0


def test_large_arrays_fill_a_device_and_small_ones_do_not() -> None:
    plan, *_ = planned((1, 256, 64, 112 * 112), 4)
    assert (plan.walk, plan.threads, plan.parts) == ("Runs<4>", 256, 13)
    plan, *_ = planned((1, 256 * 112 * 112, 64, 1), 4)
    assert (plan.walk, plan.blocks, plan.parts) == ("Columns<4>", 2, 132)
    plan, *_ = planned((1, 8, 64, 1), 4)
    assert plan.parts == plan.tiles == 1


@pytest.mark.parametrize("strides", [(24, 4, 1), (12, 4, 1), (13, 4, 1)])
def test_vectors_need_strides_that_keep_them_aligned(strides: Any) -> None:
    layout = find_layout((5, 3, 4), tuple(4 * s for s in strides), 4, 1, 1)
    assert layout is not None
    _, vector = vector_width([layout], [4], [0])
    assert vector == (1 if strides[0] % 4 else 4)
