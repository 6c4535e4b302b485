"""The plan of who sends to whom: simulated for many sizes, without MPI."""

import functools
import math
from typing import Any

import pytest

from bnspec_backends.ranks.schedule import ONE_ROUND, factor_for, folded, plan


def simulate(size: int) -> tuple[Any, ...]:
    """What each rank holds in the end, if a rank holds the ranks that it heard of, in order."""
    plans = [plan(size, rank) for rank in range(size)]
    held = [[(rank,)] for rank in range(size)]  # after each of its rounds
    for rank in range(size):
        assert len(plans[rank]) <= factor_for(size)[1]

    def value(rank: Any, rounds: Any) -> Any:
        """What a rank holds after so many of its rounds; the recursion ends, or the plan has a cycle."""
        while len(held[rank]) <= rounds:
            number = len(held[rank]) - 1
            together = []
            for source in plans[rank][number].sources:
                together.extend(value(source, sent_by(source, rank, plans)) if source != rank else held[rank][number])
            held[rank].append(tuple(together))
        return held[rank][rounds]

    return [value(rank, len(plans[rank])) for rank in range(size)], plans


def sent_by(source: Any, target: Any, plans: Any) -> Any:
    """How many rounds a source has behind it when it sends to this target."""
    (number,) = [i for i, each in enumerate(plans[source]) if target in each.targets]
    return number


@pytest.mark.parametrize("size", [*range(1, 71), 100, 127, 128, 129, 511, 512, 513])
def test_everyone_ends_with_all_ranks_in_order(size: Any) -> None:
    held, plans = simulate(size)
    assert held == [tuple(range(size))] * size
    for rank, rounds in enumerate(plans):
        for each in rounds:
            assert each.sources.count(rank) == 1
            assert rank not in each.targets
    # What one sends, the other expects, and nothing else.
    sent = sorted((rank, target) for rank, rounds in enumerate(plans) for each in rounds for target in each.targets)
    expected = sorted(
        (source, rank)
        for rank, rounds in enumerate(plans)
        for each in rounds
        for source in each.sources
        if source != rank
    )
    assert sent == expected
    assert len(set(sent)) == len(sent)  # so one tag is enough: frames between two ranks come in order


def test_up_to_32_ranks_everyone_hears_everyone() -> None:
    for size in range(2, ONE_ROUND + 1):
        for rank in range(size):
            (only,) = plan(size, rank)
            assert only.sources == tuple(range(size))
            assert len(only.targets) == size - 1


@pytest.mark.parametrize("size", [33, 64, 100, 1000, 1024, 4097, 65536])
def test_what_a_rank_moves_grows_with_the_logarithm_of_the_world(size: int) -> None:
    factor, rounds = factor_for(size)
    assert factor <= 8
    assert rounds == math.ceil(round(math.log(size, 8), 9))
    for rank in {0, 1, size // 3, size // 2, size - 1}:
        mine = plan(size, rank)
        assert len(mine) <= rounds
        assert all(len(each.sources) <= factor for each in mine)
        assert all(len(each.targets) <= 2 * (factor - 1) for each in mine)


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 40, 63, 64, 65, 100, 129])
def test_one_who_has_all_folds_as_the_rounds_do(size: int) -> None:
    """Brackets and all, since every order of additions has its own last bits."""

    def joined(a: str, b: str) -> str:
        return f"({a} {b})"

    plans = [plan(size, rank) for rank in range(size)]

    @functools.cache
    def value(rank: int, rounds: int) -> str:
        if rounds == 0:
            return str(rank)
        each = plans[rank][rounds - 1]
        parts = [
            value(rank, rounds - 1) if source == rank else value(source, sent_by(source, rank, plans))
            for source in each.sources
        ]
        return functools.reduce(joined, parts)

    assert folded([str(rank) for rank in range(size)], joined) == value(0, len(plans[0]))
