"""Checks of SPEC.md, "Moments"."""

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Case, RankInputs, as_float64, dtype_named
from bnspec_conformance.cases.inputs.families import exact_inputs
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import configured
from bnspec_conformance.oracle import exact
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import NeverSupported, Trial


@clauses("BN-MOM-1", "BN-MOM-2", "BN-MOM-3", "BN-MOM-4")
@explore(lambda s: st.one_of(strategies.cases(s), strategies.cases(s, ghost=True, mask=True)), share=1.5)
def test_definitions(t: Trial, case: Case) -> None:
    """count counts unmasked elements; mean and population variance are right within the bound, var never below 0."""
    with t.found.gathering():
        got = t.agree(case, "count", "mean", "var").ranks[0]
        assert got.count is not None and got.var is not None
        whole = np.issubdtype(got.count.dtype, np.integer)
        t.require(whole, f"count is {got.count.dtype}", case, proves=("BN-MOM-1",))
        t.require(bool(np.all(got.var >= 0)), "var is negative or NaN", case, proves=("BN-MOM-4",))


@clauses("BN-MOM-2")
@explore(lambda s: st.one_of(strategies.cases(s), strategies.cases(s, ghost=True, mask=True, ranks=2)))
def test_mean_in_two_parts(t: Trial, case: Case) -> None:
    """mean + mean_low is the mean, and much closer to it than one number of W can be."""
    _in_two_parts(t, case)


@clauses("BN-MOM-2")
@explore()
def test_far_mean_in_two_parts(t: Trial) -> None:
    """So it is where one number of W surely misses the mean: thirds, far from zero."""
    far = {"float16": 1024, "bfloat16": 128, "float32": 2**20, "float64": 2**20}
    for dtype in (dtype_named(name) for name in far if name in t.subject.scope.dtypes):
        x = np.asarray([0, 1, 1, 0, 1, 0], "float64").reshape(6, 1) + far[dtype.name]
        for size in (None, 3):
            config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=size)
            rank = RankInputs((x[:3] if size is None else x).astype(dtype))
            given = Case(config=config, ranks=(rank,), gamma=np.ones(1, "float32"), beta=np.zeros(1, "float32"))
            for case in map(t.fit, t.inside([t.subject.scope.arrange(given)])):
                _in_two_parts(t, case)


def _in_two_parts(t: Trial, case: Case) -> None:
    outcome, reference = t.run(case), exact(case)
    if any(rank.mean_low is None for rank in outcome.ranks):
        raise NeverSupported("it returns the mean in one number")
    allowed = t.bounds(case, reference)
    with t.found.gathering():
        for i, (got, want, bound) in enumerate(zip(outcome.ranks, reference.ranks, allowed.ranks, strict=True)):
            assert got.mean is not None and got.mean_low is not None
            assert want.mean is not None and want.mean_low is not None and bound.mean_low is not None
            with np.errstate(invalid="ignore"):
                low = (as_float64(got.mean) - want.mean) + as_float64(got.mean_low)  # exact where it is near
            off = (low, want.mean_low, bound.mean_low, "mean_low", case)
            t.within(*off, rank=i, statistic=True, proves=("BN-MOM-2",))


@clauses("BN-MOM-1")
@explore()
def test_large_counts(t: Trial) -> None:
    """Counts that 16 bits, or a float of 16 bits, cannot hold are exact; joined over ranks too."""
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    for sizes in ((2049,), (65537,), (4098, 2051)):
        if len(sizes) > t.subject.scope.world:
            continue
        ranks = tuple(RankInputs(np.resize(np.asarray([0, 1], "float32"), (n, 1))) for n in sizes)
        case = Case(config=config, ranks=ranks, gamma=np.ones(1, "float32"), beta=np.zeros(1, "float32"))
        for rank in t.run(case).ranks:
            assert rank.count is not None
            t.require(int(rank.count[0]) == sum(sizes), f"{sizes} elements are counted as {rank.count[0]}", case)


@clauses("BN-MOM-3")
@explore(lambda s: strategies.cases(s, correction=1, single_value="keep"), share=0.5)
def test_correction_is_not_for_normalization(t: Trial, case: Case) -> None:
    """The variance that normalizes divides by the count, whatever the correction of the running state."""
    plain = configured(case, correction=0)
    t.agree(case, "var", "y", control=plain)


@st.composite
def exact_cases(draw: st.DrawFn, subject: Any) -> Case:
    """Cases whose statistics floating point finds without rounding, whole or in ghost groups."""
    dtype = draw(strategies.dtypes(subject))
    size = draw(st.sampled_from((None, 2, 4)))
    shape, axis = draw(strategies.shapes(subject, multiple=size or 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = exact_inputs(rng, shape, axis, dtype, size)
    config = BatchNormConfig(axis=axis, epsilon=1e-5, decay=0.9, correction=0, virtual_batch_size=size)
    return Case(
        config=config,
        ranks=(RankInputs(x),),
        gamma=np.ones(shape[axis], "float32"),
        beta=np.zeros(shape[axis], "float32"),
    )


@clauses("BN-MOM-6")
@explore(exact_cases)
def test_exact_statistics(t: Trial, case: Case) -> None:
    """Statistics that are representable come out to the bit, for the elements in any order."""
    t.needs("mean", "var")
    want = exact(case).ranks[0]
    assert want.mean is not None and want.var is not None
    x, axis = case.ranks[0].x, case.config.axis
    rng = np.random.default_rng(int(x.size))
    orders = [x, x[::-1].copy()] if case.config.virtual_batch_size is None else [x]
    if case.config.virtual_batch_size is None:
        orders.append(rng.permutation(x.reshape(-1, x.shape[-1]), axis=0).reshape(x.shape) if axis == x.ndim - 1 else x)
    for ordered in orders:
        own = dataclasses.replace(case, ranks=(RankInputs(ordered),))
        got = t.run(own).ranks[0]
        assert got.mean is not None and got.var is not None
        with t.found.gathering():
            t.same(got.mean, want.mean.astype(got.mean.dtype), "mean", own)
            t.same(got.var, want.var.astype(got.var.dtype), "var", own)


@clauses("BN-MOM-6")
@explore()
def test_exact_quotients(t: Trial) -> None:
    """A representable mean is exact where 1/n is not, in one process and merged from ranks: the last step divides."""
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    n = 49  # in float64 n times the rounded 1/n is not 1
    x = np.zeros((n, 3), "float32")
    x[-1] = n, -n, 2 * n
    for parts in ([x], [x[:-1], x[-1:]]):
        if len(parts) > t.subject.scope.world:
            continue
        ranks = tuple(RankInputs(v) for v in parts)
        case = Case(config=config, ranks=ranks, gamma=np.ones(3, "float32"), beta=np.zeros(3, "float32"))
        got = t.run(case).ranks[0]
        assert got.mean is not None
        t.same(got.mean, np.asarray([[1, -1, 2]], got.mean.dtype), "mean", case)


@clauses("BN-MOM-7")
@explore(lambda s: strategies.cases(s, ghost=True, mask=True))
def test_merge(t: Trial, case: Case) -> None:
    """The merged moments of the groups are those of the whole batch, and count 0 is the identity to the bit."""
    import bnspec

    backend = t.needs_backend()
    rank, config = case.ranks[0], case.config
    put, take = backend.asarray, backend.to_numpy
    groups = bnspec.Groups(axis=config.axis % rank.x.ndim, number=case.groups)
    x, mask = put(rank.x), None if rank.mask is None else put(rank.mask)
    parts = bnspec.moments(x, groups, mask)
    each = [bnspec.Moments(*(v[j : j + 1, ...] for v in parts)) for j in range(case.groups)]
    joined = each[0]
    for part in each[1:]:
        joined = bnspec.merge(joined, part)
    plain = dataclasses.replace(case, config=dataclasses.replace(config, virtual_batch_size=None))
    # Merging G groups rounds as joining G ranks does, so the bound is that of a case with one rank per group.
    pieces = tuple(
        RankInputs(v, mask=m)
        for v, m in zip(
            np.split(rank.x, case.groups),
            np.split(np.broadcast_to(_full(rank), _extent(case)), case.groups),
            strict=True,
        )
    )
    many = dataclasses.replace(plain, ranks=pieces)
    got = dataclasses.replace(t.run(plain).ranks[0], mean=take(joined.mean + joined.mean_low), var=take(joined.var),
                              count=take(joined.count))  # fmt: skip
    want = exact(many)
    allowed = t.bounds(many, want).ranks[0]
    for name in ("count", "mean", "var"):
        values, expected, limit = (getattr(o, name) for o in (got, want.ranks[0], allowed))
        control = lambda: t.subject.run(plain)  # noqa: E731
        t.within(values, expected, limit, name, plain, statistic=True, control=control)
    empty = bnspec.moments(x[:0, ...], dataclasses.replace(groups, number=1), None)
    for a, b, kept in ((empty, joined, joined), (joined, empty, joined), (empty, empty, empty)):
        merged = bnspec.merge(a, b)
        for name, value, expected in zip(bnspec.Moments._fields, merged, kept, strict=True):
            t.same(take(value), take(expected), f"{name} merged with nothing", case)


def _extent(case: Case) -> tuple[int, ...]:
    return tuple(1 if a == case.config.axis % case.ranks[0].x.ndim else n for a, n in enumerate(case.ranks[0].x.shape))


def _full(rank: RankInputs) -> Any:
    return np.ones((1,) * rank.x.ndim, bool) if rank.mask is None else rank.mask


@clauses("BN-MOM-9")
@explore(lambda s: strategies.cases(s, derivatives=True, running=True, ghost=True))
def test_channel_isolation(t: Trial, case: Case) -> None:
    """A NaN, an infinity or other values in one channel change no bit of another."""
    channels, axis = case.channels, case.config.axis
    rank = case.ranks[0]
    before = t.run(case).ranks[0]
    for bad in (np.nan, np.inf, 12345.0):
        x = rank.x.copy()
        np.moveaxis(x, axis, 0)[0].flat[:1] = bad
        own = dataclasses.replace(case, ranks=(dataclasses.replace(rank, x=x),))
        after = t.run(own).ranks[0]
        for name in ("y", "dx", "ydot"):
            if getattr(before, name) is not None:
                old, new = (np.moveaxis(getattr(o, name), axis, 0)[1:] for o in (before, after))
                t.same(new, old, f"{name} of another channel", own)
        for name in ("mean", "var"):
            if getattr(before, name) is not None:
                t.same(getattr(after, name)[:, 1:], getattr(before, name)[:, 1:], f"{name} of another channel", own)
        for name in before.state or {}:
            assert after.state is not None and channels >= 1
            t.same(after.state[name][1:], (before.state or {})[name][1:], f"state.{name} of another channel", own)
        for name in ("dgamma", "dbeta"):
            if getattr(before, name) is not None:
                t.same(getattr(after, name)[1:], getattr(before, name)[1:], f"{name} of another channel", own)
        if not np.isfinite(bad):
            got = after.y
            assert got is not None
            first = np.moveaxis(got, axis, 0)[0]
            size = x.shape[0] // case.groups
            t.require(
                bool(np.isnan(first[:size].astype("float64")).all()),
                "y of a channel that is not finite is not NaN",
                own,
            )
            wild = after.var is None or not np.isfinite(after.var[0, 0])
            t.require(wild, "var of a channel that is not finite is finite", own)
