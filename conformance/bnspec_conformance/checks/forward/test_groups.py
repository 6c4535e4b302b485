"""Checks of SPEC.md, "Groups"."""

import dataclasses
from typing import Any

import numpy as np

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Case, RankInputs, dtype_named
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


@clauses("BN-GRP-1")
@explore(strategies.cases)
def test_plain_is_one_group(t: Trial, case: Case) -> None:
    """Without a virtual batch size there is one group, of every element of the channel."""
    got = t.agree(case, "count", "mean", "var").ranks[0]
    t.require(got.count is not None and got.count.shape == (1,), "the number of groups is not 1", case)


@clauses("BN-GRP-2")
@explore(lambda s: strategies.cases(s, ghost=True, derivatives=True, statistics=True))
def test_contiguous_runs(t: Trial, case: Case) -> None:
    """Group j is the j-th run of V samples along axis 0, for every result."""
    t.agree(case, "count", "mean", "var", "y", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")


@clauses("BN-GRP-1", "BN-GRP-2")
@explore()
def test_no_samples(t: Trial) -> None:
    """A batch without samples is one group where no size is given, and no group where one is."""
    for size, clause in ((None, "BN-GRP-1"), (2, "BN-GRP-2")):
        config = BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=0, virtual_batch_size=size)
        empty, usual = (example(config, [(n, 3, 2)]) for n in (0, 4))
        empty, usual = (dataclasses.replace(c, state=None, dmean=None, dvar=None) for c in (empty, usual))
        if t.asks("a batch without samples" + (" in groups" if size else ""), empty, clause):
            t.agree(usual, "count", "mean", "var", proves=())
            t.agree(empty, "count", "mean", "var", proves=(clause,), control=usual)


@clauses("BN-GRP-4")
@explore(lambda s: strategies.cases(s, ghost=True, derivatives=True, mask=True))
def test_each_slice_alone(t: Trial, case: Case) -> None:
    """Ghost equals plain batch normalization of each slice, and V = N equals no V, to the bit."""
    _each_alone(t, case)


@clauses("BN-GRP-4")
@explore()
def test_distant_slices_alone(t: Trial) -> None:
    """The same where groups are of very different sizes, so that what one takes from another costs digits."""
    for case in t.inside(_distant(shape, masked) for shape in _SHAPES for masked in (False, True)):
        _each_alone(t, case)


#: The second has enough elements for a compiled sum to take several at a time, and to have some left over.
_SHAPES = [(21, 3, 1), (21, 19, 25)]


def _distant(shape: tuple[int, int, int], masked: bool) -> Case:
    """Return three groups, the first so large that no arithmetic holds its values less those of another."""
    rng = np.random.default_rng(4)
    own = config(virtual_batch_size=7)
    case = example(own, [shape], [rng.random((21, 1, 1)) < 0.8] if masked else [])
    x = rng.standard_normal(shape) * np.repeat([2.0**30, 2.0**-20, 1.0], 7)[:, None, None]
    rank = dataclasses.replace(case.ranks[0], x=x.astype(case.ranks[0].x.dtype))
    return dataclasses.replace(case, ranks=(rank,), dmean=None, dvar=None)


def _each_alone(t: Trial, case: Case) -> None:
    rank, size = case.ranks[0], case.config.virtual_batch_size
    assert size is not None
    whole = t.run(case).ranks[0]
    plain = dataclasses.replace(case.config, virtual_batch_size=None)
    for j in range(case.groups):

        def part(v: Any, start: int = j * size, stop: int = (j + 1) * size) -> Any:
            return None if v is None else v[start:stop]

        mask = rank.mask if rank.mask is None or len(rank.mask) == 1 else part(rank.mask)
        slice_ = RankInputs(part(rank.x), part(rank.dy), mask, part(rank.xdot))
        own = dataclasses.replace(case, config=plain, ranks=(slice_,))
        alone = t.run(own).ranks[0]
        for name in ("y", "dx", "ydot"):
            t.same(part(getattr(whole, name)), getattr(alone, name), f"{name} of group {j}", case)
        for name in ("count", "mean", "var") if whole.mean is not None else ():
            t.same(getattr(whole, name)[j : j + 1], getattr(alone, name), f"{name} of group {j}", case)
    full = dataclasses.replace(
        case, config=dataclasses.replace(case.config, virtual_batch_size=max(1, rank.x.shape[0]))
    )
    without, with_v = t.run(dataclasses.replace(case, config=plain)).ranks[0], t.run(full).ranks[0]
    for name in ("y", "dx", "dgamma", "dbeta", "ydot", "mean", "var"):
        t.same(getattr(with_v, name), getattr(without, name), f"{name} with V = N", full)


@clauses("BN-GRP-3")
@explore()
def test_refused_sizes(t: Trial) -> None:
    """V must be an integer from 1 that divides N, and the samples must be on axis 0."""
    import bnspec

    backend = t.needs_backend()
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    x = backend.asarray(np.arange(18, dtype="float32").reshape(6, 3))
    params, _ = bnspec.init(config, channels=3, like=x)
    for size in (4, 5, 7, 12):
        own = dataclasses.replace(config, virtual_batch_size=size)
        t.refuses(lambda c=own: bnspec.batch_norm(x, params, c), ValueError, "BN-GRP-3")  # type: ignore[misc]
    for size in (0, -2):
        t.refuses(lambda v=size: dataclasses.replace(config, virtual_batch_size=v), ValueError, "BN-GRP-3")  # type: ignore[misc]
    for odd in (2.0, True, "2"):
        t.refuses(lambda v=odd: dataclasses.replace(config, virtual_batch_size=v), TypeError, "BN-GRP-3")  # type: ignore[misc]
    six, _ = bnspec.init(config, channels=6, like=x)
    first = dataclasses.replace(config, axis=0, virtual_batch_size=3)
    t.refuses(lambda: bnspec.batch_norm(x, six, first), ValueError, "BN-GRP-3")


@clauses("BN-GRP-3")
@explore()
def test_inference_ignores_sizes(t: Trial) -> None:
    """Inference takes any number of samples, and its derivatives do, whatever the size of groups."""
    cases = []
    for size in (3, 4, 7, None):
        config = BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=0, virtual_batch_size=size)
        made = example(dataclasses.replace(config, virtual_batch_size=None), [(5, 3, 2)])
        cases.append(dataclasses.replace(made, config=config, mode="inference", dmean=None, dvar=None))
    *sized, usual = cases
    for case in t.inside(sized):
        t.agree(case, "y", "dx", "dgamma", "dbeta", "ydot", proves=("BN-GRP-3",), control=usual)


@clauses("BN-GRP-3")
@explore()
def test_refused_remainders(t: Trial) -> None:
    """A batch that V does not divide is refused, whatever is left over, where a whole number of groups is taken."""
    asked = [(size, samples) for size in (5, 4, 3, 2) for samples in (*range(size + 1, 2 * size), *range(1, size))]
    cases = t.inside(_of_groups(t, size, samples) for size, samples in asked)
    for bad in cases:
        size, samples = bad.config.virtual_batch_size, bad.ranks[0].x.shape[0]
        assert size is not None
        t.agree(_of_groups(t, size, size * (samples // size + 1)), "y")
        t.rejects(bad, (ValueError, TypeError), "BN-GRP-3")


def _of_groups(t: Trial, size: int, samples: int) -> Case:
    """Return a batch in groups of some size, with channels where the subject has them."""
    scope = t.subject.scope
    config = BatchNormConfig(axis=1, epsilon=0.25, decay=0.75, correction=0, virtual_batch_size=size)
    shape = (samples, 2, *[1] * (min(scope.ndims) - 2))
    dtype = next((name for name in ("float32", "float64") if name in scope.dtypes), scope.dtypes[0])
    x = (np.arange(2 * samples) ** 2 % 13).reshape(shape).astype(dtype_named(dtype))
    case = Case(config=config, ranks=(RankInputs(x),), gamma=np.ones(2, "float32"), beta=np.zeros(2, "float32"))
    return scope.arrange(case)
