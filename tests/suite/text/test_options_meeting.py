"""The matrix of the page Options: each claim about two options that meet is shown on bnspec."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
from spec_tables import rows

import bnspec
from bnspec._config import Averaging, GhostSource

pytestmark = pytest.mark.pages

PLAIN: dict[str, Any] = {"axis": 1, "epsilon": 0.25, "decay": 0.75, "correction": 0}
RENORM = {"rmax": 2.0, "dmax": 1.0}

Check = Callable[[], None]
_CELLS: dict[tuple[str, str, str], Check] = {}
MATRIX = rows("Options", "| | averaging | ghost_source |")
COLUMNS = ("averaging", "ghost_source", "single_value", "nonfinite")


def cell(row: str, column: str, text: str) -> Callable[[Check], Check]:
    """Say what a part of a cell claims, which the function shows."""

    def note(check: Check) -> Check:
        _CELLS[row, column, text] = check
        return check

    return note


def state(config: bnspec.BatchNormConfig) -> bnspec.RunningState:
    return bnspec.init(config, channels=2, like=np.zeros(1))[1]


def feed(config: bnspec.BatchNormConfig, *groups: tuple[int, float, float], start: Any = None) -> bnspec.RunningState:
    """Update a state with two channels: the groups' count, mean and m2 in the first, and 1 and 0 in the second."""
    n = np.asarray([g[0] for g in groups])
    mean = np.asarray([[g[1], 1.0] for g in groups])
    m2 = np.asarray([[g[2], 0.0] for g in groups])
    stats = bnspec.Moments(n, mean, np.zeros_like(mean), m2)
    with np.errstate(all="ignore"):
        return bnspec.update_running(state(config) if start is None else start, stats, config)


def config(**fields: Any) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(**(PLAIN | {"virtual_batch_size": 2} | fields))


def arrays(values: bnspec.RunningState) -> Iterator[tuple[str, Any]]:
    return ((name, v) for name, v in values._asdict().items() if v is not None)


NAN = (2, float("nan"), float("nan"))
TWO, FOUR = (2, 2.0, 2.0), (4, -1.0, 8.0)


@cell("ghost_source", "averaging", "sequential counts each group as an update, or its elements")
def _() -> None:
    for averaging, count in (("cumulative", 2), ("debiased", 2), ("pooled", 6)):
        new = feed(config(averaging=averaging, ghost_source="sequential"), TWO, FOUR)
        assert new.count.tolist() == [count] * 2
    for source, count in (("first", 2), ("merged", 6)):
        assert feed(config(averaging="pooled", ghost_source=source), TWO, FOUR).count.tolist() == [count] * 2
    assert feed(config(averaging="cumulative", ghost_source="mean"), TWO, FOUR).count.tolist() == [1, 1]


@cell("ghost_source", "averaging", "pooled refuses mean")
def _() -> None:
    with pytest.raises(ValueError, match="BN-RUN-6"):
        config(averaging="pooled", ghost_source="mean")
    one = config(averaging="pooled", ghost_source="mean", virtual_batch_size=None)  # with one group all are the same
    assert feed(one, TWO).count.tolist() == [2, 2]


@cell("single_value", "averaging", "pooled looks at the total")
def _() -> None:
    pooled = config(averaging="pooled", correction=1)
    seen = feed(pooled, TWO)
    assert feed(pooled, (1, 4.0, 0.0), start=seen).count.tolist() == [3, 3]
    with pytest.raises(ValueError, match="BN-RUN-4"):
        feed(pooled, (1, 4.0, 0.0))
    kept = feed(config(averaging="pooled", correction=1, single_value="keep"), (1, 4.0, 0.0))
    assert (kept.var.tolist(), kept.mean.tolist(), kept.count.tolist()) == ([1, 1], [4, 1], [1, 1])


@cell("single_value", "averaging", "cumulative and debiased refuse keep with correction 1")
def _() -> None:
    for averaging in get_args(Averaging):
        refused = averaging in ("cumulative", "debiased")
        try:
            config(averaging=averaging, single_value="keep", correction=1)
            assert not refused
        except ValueError:
            assert refused
        config(averaging=averaging, single_value="keep", correction=0)


@cell("single_value", "ghost_source", "first looks at group 0, merged at the sum, mean and sequential at every group")
def _() -> None:
    one, more = (1, 1.0, 0.0), (3, 1.0, 1.0)
    for source in get_args(GhostSource):
        for groups in ((one, more), (more, one), (one, one), (more, more)):
            counts = [g[0] for g in groups]
            looked = {"first": counts[:1], "merged": [sum(counts)]}.get(source, counts)
            try:
                feed(config(ghost_source=source, correction=1), *groups)
                assert 1 not in looked
            except ValueError as error:
                assert 1 in looked, error  # noqa: PT017 - none is as good


@cell("nonfinite", "averaging", "skip keeps the counter too")
def _() -> None:
    for averaging in ("cumulative", "debiased", "pooled"):
        new = feed(config(averaging=averaging, nonfinite="skip", ghost_source="first"), NAN)
        assert new.count.tolist()[0] == 0 < new.count.tolist()[1]


@cell("nonfinite", "ghost_source", "sequential skips the bad group alone, mean all of them")
def _() -> None:
    sequential = config(ghost_source="sequential", nonfinite="skip")
    assert feed(sequential, NAN, TWO).mean.tolist()[0] == feed(sequential, TWO).mean.tolist()[0] == 0.5
    assert feed(config(ghost_source="mean", nonfinite="skip"), NAN, TWO).mean.tolist()[0] == 0.0


@cell("nonfinite", "ghost_source", "raise in any group refuses the call")
def _() -> None:
    for source in ("mean", "merged", "sequential"):
        with pytest.raises(FloatingPointError, match="BN-RUN-10"):
            feed(config(ghost_source=source, nonfinite="raise"), TWO, NAN)
    feed(config(ghost_source="first", nonfinite="raise"), TWO, NAN)


@cell("nonfinite", "single_value", "single_value comes first: raise refuses a NaN that skip would pass over")
def _() -> None:
    one = (1, float("nan"), float("nan"))
    for nonfinite in ("skip", "raise", "propagate"):
        with pytest.raises(ValueError, match="BN-RUN-4"):
            feed(config(correction=1, nonfinite=nonfinite), one)
    kept = feed(config(correction=1, single_value="keep", nonfinite="propagate"), one)
    assert np.isnan(kept.mean[0])
    assert kept.var.tolist() == [1, 1]


@cell("renorm", "averaging", "only exponential")
def _() -> None:
    for averaging in get_args(Averaging):
        try:
            config(averaging=averaging, renorm=bnspec.Renorm(**RENORM))
            assert averaging == "exponential"
        except ValueError as error:
            assert "BN-RENORM-5" in str(error)  # noqa: PT017 - the form of the test is the same for all
            assert averaging != "exponential"


@cell("renorm", "ghost_source", "mean feeds the deviation of the mean variance")
def _() -> None:
    new = feed(config(ghost_source="mean", decay=0.0, renorm=bnspec.Renorm(**RENORM)), TWO, FOUR)
    assert new.stddev[0] == np.sqrt((2 / 2 + 8 / 4) / 2 + 0.25)


@cell("renorm", "single_value", "keep keeps var and every deviation; the means move")
def _() -> None:
    for form in ("tensorpack", "paper"):
        kept = config(correction=1, single_value="keep", renorm=bnspec.Renorm(form=form, decay=0.5, **RENORM))
        old = state(kept)._replace(var=np.asarray([7.0, 7.0]))  # not what its deviation gives
        new = feed(kept, (1, 4.0, 0.0), start=old)
        for name, values in arrays(new):
            same = np.array_equal(values, getattr(old, name))
            assert same == (name not in ("mean", "renorm_mean")), name


@cell("renorm", "nonfinite", "the variance is looked at, not the deviation")
def _() -> None:
    skip = config(nonfinite="skip", renorm=bnspec.Renorm(**RENORM))
    narrow = bnspec.init(skip, channels=2, like=np.zeros(1, np.float32))[1]
    new = feed(skip, (2, 0.0, 1e60), start=narrow)  # its root would fit into float32
    assert new.stddev.tolist() == [1.0, float(new.stddev[1])]
    assert new.stddev[1] != 1


@cell("renorm", "nonfinite", "skip keeps the reference too")
def _() -> None:
    skip = config(nonfinite="skip", renorm=bnspec.Renorm(**RENORM))
    new = feed(skip, NAN)
    assert all(values[0] == getattr(state(skip), name)[0] for name, values in arrays(new))
    assert new.renorm_stddev[1] != 1


@pytest.mark.parametrize("key", _CELLS, ids=lambda key: f"{key[0]} and {key[1]}")
def test_the_options_meet_as_the_page_says(key: tuple[str, str, str]) -> None:
    _CELLS[key]()


def test_every_claim_of_the_matrix_has_a_test() -> None:
    claims: dict[tuple[str, str], str] = {}
    for cells in MATRIX:
        claims |= {(cells[0], column): text for column, text in zip(COLUMNS, cells[1:], strict=True) if text}
    tested: dict[tuple[str, str], str] = {}
    for row, column, text in _CELLS:
        tested[row, column] = "; ".join(filter(None, (tested.get((row, column)), text)))
    assert tested == claims
    pairs = {frozenset(pair) for pair in claims}
    assert pairs == set(map(frozenset, itertools.combinations((*COLUMNS, "renorm"), 2)))
