"""Checks of SPEC.md, "Normalization"."""

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bnspec import BatchNormConfig
from bnspec_conformance.bounds import hard_bound
from bnspec_conformance.cases.case import Array, Case, RankInputs, as_float64, dtype_named
from bnspec_conformance.cases.inputs.families import HARD_FAMILY, hard_families
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.examples import configured
from bnspec_conformance.oracle import exact
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


@clauses("BN-NORM-1")
@explore(strategies.cases)
def test_formula(t: Trial, case: Case) -> None:
    """y is gamma*(x - mean)/sqrt(var + epsilon) + beta."""
    t.agree(case, "y")


@clauses("BN-NORM-2")
@explore(lambda s: strategies.cases(s, derivatives=True))
def test_absent_parameters(t: Trial, case: Case) -> None:
    """Without center there is no beta and no gradient of it; without scale no gamma."""
    for center, scale in ((False, True), (True, False), (False, False)):
        config = dataclasses.replace(case.config, center=center, scale=scale)
        gamma, beta = case.gamma if scale else None, case.beta if center else None
        own = dataclasses.replace(case, config=config, gamma=gamma, beta=beta, gamma_dot=None, beta_dot=None)
        with t.found.gathering():
            got = t.agree(own, "y", "dx").ranks[0]
            if "grad" in t.subject.scope:
                t.require((got.dbeta is not None) == center, "dbeta is there exactly when center is", own)
                t.require((got.dgamma is not None) == scale, "dgamma is there exactly when scale is", own)


def hard_case(name: str) -> Case:
    """Return one hard family as a case."""
    x, gamma, beta, dy, epsilon = hard_families()[name]
    config = BatchNormConfig(axis=x.ndim - 1, epsilon=epsilon, decay=0.9, correction=0)
    return Case(config=config, ranks=(RankInputs(x, dy),), gamma=gamma, beta=beta, note=f"{HARD_FAMILY} {name}")


#: The families that float32 arithmetic alone cannot reach, and why; it is held to all others.
BEYOND_FLOAT32 = {
    "huge_1e+19": "the squares overflow",
    "huge_1e+30": "the squares overflow",
    "near_float_max": "x - K overflows",
    "two_values_far": "dx is what remains of terms 1e7 times as large",
}
#: Those whose numbers are 0 to a subject that flushes subnormal numbers; test_subnormal has a bound that allows it.
SUBNORMAL = ("denormal", "denormal_and_normal")


def hard(subject: Any) -> Any:
    """Names of the hard families this subject's arithmetic is held to."""
    beyond = tuple(BEYOND_FLOAT32) if subject.arithmetic == "float32" else ()
    return st.sampled_from([n for n in hard_families() if n not in (*beyond, *(SUBNORMAL if subject.flushes else ()))])


@clauses("BN-NORM-3", "BN-MOM-8")
@explore(hard, share=3.0)
def test_hard_families(t: Trial, name: str) -> None:
    """y stays within 8 float32 roundoffs on inputs where implementations lose digits."""
    case = t.subject.scope.arrange(hard_case(name))
    reference = exact(case)
    outcome = t.run(case)
    got, want = outcome.ranks[0].y, reference.ranks[0].y
    assert got is not None and want is not None
    allowed = hard_bound(want, case.gamma, axis=case.config.axis, flush=t.subject.flushes)
    with t.found.gathering():
        t.within(got, want, allowed, "y", case, proves=("BN-NORM-3",))
        if "statistics" in t.subject.scope:
            t.agree(case, "mean", "var", outcome=outcome, reference=reference, strict=True, proves=("BN-MOM-8",))


@clauses("BN-NORM-1")
@explore()
def test_subnormal(t: Trial) -> None:
    """Subnormal numbers alone and among others; the bound allows a device on which they are 0."""
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    steps = np.arange(-8, 8, dtype="float32").reshape(4, 2, 2, 1)
    for x in (steps * np.float32(2.0**-140), steps * np.where(steps % 2, 2.0**-140, 2.0**-100).astype("float32")):
        case = Case(config=config, ranks=(RankInputs(x),), gamma=np.ones(2, "float32"), beta=np.zeros(2, "float32"))
        t.agree(t.subject.scope.arrange(case), "y")


@clauses("BN-NORM-1")
@explore(lambda s: st.sampled_from(["batch", "inference"]), share=0.1)
def test_no_epsilon(t: Trial, mode: Any) -> None:
    """Epsilon may be 0; then a channel without variance has no finite y and gradients, and every other channel has."""
    if "inference" not in t.subject.scope and mode == "inference":
        raise NotSupported("it has no inference")
    x = np.asarray([[1.0, 3.0], [2.0, 3.0], [4.0, 3.0], [8.0, 3.0]], "float32")
    dy = np.asarray([[1.0, 2.0], [0.5, -1.0], [-2.0, 0.25], [0.0, 1.0]], "float32")
    state = None
    if mode == "inference":
        state = {"mean": np.asarray([1.0, 3.0], "float32"), "var": np.asarray([4.0, 0.0], "float32")}
    config = BatchNormConfig(axis=1, epsilon=0.0, decay=0.5, correction=0)
    case = Case(config=config, ranks=(RankInputs(x, dy),), gamma=np.asarray([2.0, 3.0], "float32"),
                beta=np.asarray([0.5, 1.0], "float32"), state=state, mode=mode)  # fmt: skip
    case = t.fit(case)
    reference, got = exact(case).ranks[0], t.run(case).ranks[0]
    allowed = t.bounds(case, exact(case)).ranks[0]
    usual = configured(case, epsilon=0.25)
    with t.found.gathering():
        for name in ("y", "dx", "dgamma", "dbeta", "mean", "var"):
            value, want, bound = (getattr(side, name) for side in (got, reference, allowed))
            if value is None or want is None:
                continue
            room = np.broadcast_to(bound, want.shape)
            told: dict[str, Any] = {"output": name, "control": usual}
            if name in ("dbeta", "mean", "var"):
                t.within(value, want, room, name, case, **told)
                continue
            what = f"{name} of the channel that varies"
            t.within(value[..., 0], want[..., 0], room[..., 0], what, case, **told)
            edge = as_float64(value[..., 1])
            none = not np.any(np.isfinite(edge))
            t.require(none, f"{name} of a channel without variance is finite", case, proves=("BN-NORM-1",))


@clauses("BN-NORM-4")
@explore(lambda s: strategies.cases(s, half_precision=False, epsilon=1.0))
def test_laws(t: Trial, case: Case) -> None:
    """An exact shift or power-of-two scale of x changes no more than rounding; permuted samples give permuted y."""
    rng = np.random.default_rng(3)
    x = rng.integers(-64, 64, case.ranks[0].x.shape).astype(case.ranks[0].x.dtype)
    case = dataclasses.replace(case, ranks=(RankInputs(x),))
    scaled = dataclasses.replace(
        case, ranks=(RankInputs(x * 8),), config=dataclasses.replace(case.config, epsilon=case.config.epsilon * 64)
    )
    shifted = dataclasses.replace(case, ranks=(RankInputs(x + 4096),))
    order = rng.permutation(x.shape[0])
    permuted = dataclasses.replace(case, ranks=(RankInputs(x[order]),))
    reference = exact(case)
    y = reference.ranks[0].y
    assert y is not None
    # That each y is right is another clause; the law is that they are the same.
    base, allowed = t.agree(case, "y", reference=reference, proves=()).ranks[0].y, t.bounds(case, reference)
    for what, own, places in (("scaled", scaled, ...), ("shifted", shifted, ...), ("permuted", permuted, order)):
        known = exact(own)
        got, more = t.agree(own, "y", reference=known, proves=()).ranks[0].y, t.bounds(own, known)
        here, there = allowed.ranks[0].y, more.ranks[0].y
        if got is None or base is None or here is None or there is None:
            continue
        slack = np.broadcast_to(here, y.shape)[places] + there
        t.within(got, as_float64(base)[places], slack, f"y of {what} x", own, proves=("BN-NORM-4",))


@clauses("BN-NORM-5", "BN-MOM-5", "BN-MOM-4")
@explore(lambda s: strategies.cases(s, center=True))
def test_constant_channel(t: Trial, case: Case) -> None:
    """A constant channel has exactly its value as mean, variance 0, and y equal to beta, to the bit."""
    rng = np.random.default_rng(case.channels)
    shape, axis = case.ranks[0].x.shape, case.config.axis
    values = (rng.standard_normal(case.channels) * 10.0 ** rng.integers(-3, 4, case.channels)).astype(
        case.ranks[0].x.dtype
    )
    x = np.broadcast_to(values.reshape([n if a == axis else 1 for a, n in enumerate(shape)]), shape).copy()
    _is_constant(t, dataclasses.replace(case, ranks=(RankInputs(x),)), values)


@clauses("BN-NORM-5", "BN-MOM-5")
@explore()
def test_constant_of_many(t: Trial) -> None:
    """The same for a count at which the sum of the values, divided by their number, is not the value."""
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    gamma, beta = np.ones(4, "float32"), np.asarray([0.0, 0.1, -2.5, 1 / 3], "float32")
    for name in t.subject.scope.dtypes:
        values = np.asarray([0.1, -1 / 3, 1 / 11, 1e-3]).astype(dtype_named(name))
        x = np.broadcast_to(values, (49, 4)).copy()
        _is_constant(t, Case(config=config, ranks=(RankInputs(x),), gamma=gamma, beta=beta), values)


@clauses("BN-MOM-5")
@explore()
def test_constant_under_a_mask(t: Trial) -> None:
    """The same of what a mask leaves of each group, whatever is masked; and of ranks that hold the same value."""
    mask = np.random.default_rng(4).random((98, 1, 1)) < 0.6
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    ghost = dataclasses.replace(config, virtual_batch_size=49)
    for name in t.subject.scope.dtypes:  # in float64 a sum of equal values rounds
        values = np.asarray([0.1, -1 / 3, 1 / 11, 1e-3]).astype(dtype_named(name))
        x = np.where(mask, values.reshape(1, 4, 1), values.dtype.type(7))
        given = RankInputs(x, mask=mask)
        other = RankInputs(np.ascontiguousarray(x[mask[:, 0, 0]][:5]))
        for own, ranks in ((config, (given,)), (ghost, (given,)), (config, (given, other))):
            case = Case(config=own, ranks=ranks, gamma=np.ones(4, "float32"), beta=np.zeros(4, "float32"))
            if not t.asks("in groups" if own is ghost else f"on {len(ranks)} ranks", case):
                continue
            for got in t.run(case).ranks:
                assert got.mean is not None and got.var is not None
                want = np.broadcast_to(values.astype(got.mean.dtype), got.mean.shape)
                t.same(got.mean, want, "mean", case)
                t.same(got.var, np.zeros_like(got.var), "var", case)


@clauses("BN-NORM-1")
@explore()
def test_no_epsilon_in_groups(t: Trial) -> None:
    """Without epsilon a group that does not vary has no finite y and gradients; the channel's other groups have."""
    x = np.asarray([[1.0, 3.0], [2.0, 3.0], [4.0, 3.0], [8.0, 5.0]], "float32").reshape(4, 2, 1)
    dy = np.asarray([[1.0, 2.0], [0.5, -1.0], [-2.0, 0.25], [0.0, 1.0]], "float32").reshape(4, 2, 1)
    config = BatchNormConfig(axis=1, epsilon=0.0, decay=0.5, correction=0, virtual_batch_size=2, ghost_source="merged")
    state = {"mean": np.zeros(2, "float32"), "var": np.ones(2, "float32")}
    gamma, beta = np.asarray([2.0, 3.0], "float32"), np.asarray([0.5, 1.0], "float32")
    given = Case(config=config, ranks=(RankInputs(x, dy),), gamma=gamma, beta=beta, state=state)
    case = t.fit(t.inside([given])[0])
    usual = dataclasses.replace(case, config=dataclasses.replace(config, epsilon=0.25))
    got, want, allowed = (o.ranks[0] for o in (t.run(case), exact(case), t.bounds(case, exact(case))))
    varies = np.ones((4, 2, 1), bool)
    varies[:2, 1] = False
    t.agree(case, "mean", "var", "dbeta", "state", proves=("BN-NORM-1",), control=usual)
    for name in ("y", "dx"):
        value, right, bound = (getattr(side, name) for side in (got, want, allowed))
        if value is not None and right is not None:
            told: dict[str, Any] = {"output": name, "control": usual, "proves": ("BN-NORM-1",)}
            room = np.broadcast_to(bound, right.shape)
            t.within(value[varies], right[varies], room[varies], f"{name} of groups that vary", case, **told)
            none = not np.any(np.isfinite(as_float64(value[~varies])))
            t.require(none, f"{name} of a group without variance is finite", case, proves=("BN-NORM-1",))


@clauses("BN-NORM-5")
@explore()
def test_single_element(t: Trial) -> None:
    """One element per channel is its own mean: y is beta."""
    config = BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    values, beta = np.asarray([0.1, -7.0, 0.0, 1e3], "float32"), np.asarray([0.0, 0.1, -2.5, 1 / 3], "float32")
    case = Case(config=config, ranks=(RankInputs(values.reshape(1, 4, 1, 1)),), gamma=np.ones(4, "float32"), beta=beta)
    for own in t.inside([t.subject.scope.arrange(case)]):
        _is_constant(t, own, values)


def _is_constant(t: Trial, case: Case, values: Array) -> None:
    """Require the statistics and y of channels that hold one value each."""
    __tracebackhide__ = True
    x, axis = case.ranks[0].x, case.config.axis
    got = t.run(case).ranks[0]
    assert got.y is not None and case.beta is not None
    with t.found.gathering():
        if got.mean is not None and got.var is not None:
            if "BN-MOM-4" in t.clauses:
                right = bool(np.all(got.var >= 0))
                t.require(right, "var is negative or NaN for finite x", case, proves=("BN-MOM-4",))
            t.same(got.mean, values.astype(got.mean.dtype)[None, :], "mean", case, proves=("BN-MOM-5",))
            t.same(got.var, np.zeros_like(got.var), "var", case, proves=("BN-MOM-5",))
        spread = [n if a == axis else 1 for a, n in enumerate(x.shape)]
        beta = np.broadcast_to(case.beta.astype(x.dtype).reshape(spread), x.shape)
        t.same(got.y, beta, "y", case, proves=("BN-NORM-5",))
