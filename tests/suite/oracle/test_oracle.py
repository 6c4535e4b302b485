"""The oracle is right, and its bounds are neither too wide nor too narrow.

Tiny cases are worked out by hand in fractions; larger ones are held against laws that need no second
implementation, and against numerical differentiation. None of it runs bnspec.
"""

import dataclasses
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bnspec._config import BatchNormConfig, Renorm
from bnspec_conformance import bounds as tolerances
from bnspec_conformance import oracle
from bnspec_conformance.cases.case import Case, RankInputs, RankOutcome
from bnspec_conformance.cases.inputs import families
from bnspec_conformance.oracle.rational import integers, linear, root

CONFIG = BatchNormConfig(axis=1, epsilon=3.0, decay=0.75, correction=0)
RESULTS = ("y", "mean", "var", "dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")


def _state(channels: int = 1, **more: Any) -> dict[str, Any]:
    return {"mean": np.zeros(channels), "var": np.ones(channels), **more}


def _column(*values: float) -> Any:
    return np.array(values)[:, None]


def _one(case: Case) -> RankOutcome:
    return oracle.exact(case).ranks[0]


def _drawn(seed: int, shape: tuple[int, ...], ranks: int = 1, dtype: Any = np.float64, **config: Any) -> Case:
    """A case with everything asked for."""
    rng = np.random.default_rng(seed)
    settings = dataclasses.replace(CONFIG, epsilon=1e-3, **config)
    channels = shape[settings.axis]
    groups = 1 if settings.virtual_batch_size is None else shape[0] // settings.virtual_batch_size

    def normal(*size: int) -> Any:
        return rng.standard_normal(size).astype(dtype)

    inputs = tuple(RankInputs(2 + 3 * normal(*shape), normal(*shape), None, normal(*shape)) for _ in range(ranks))
    state = _state(channels)
    if settings.renorm is not None:
        state.update(stddev=np.ones(channels), renorm_mean=np.ones(channels), renorm_stddev=np.full(channels, 2.0))
    return Case(
        config=settings,
        ranks=inputs,
        gamma=normal(channels),
        beta=normal(channels),
        gamma_dot=normal(channels),
        beta_dot=normal(channels),
        dmean=tuple(normal(groups, channels) for _ in range(ranks)),
        dvar=tuple(normal(groups, channels) for _ in range(ranks)),
        state=state,
    )


def _close(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_root_is_exact_where_it_is_rational_and_has_200_bits_elsewhere() -> None:
    assert root(Fraction(9, 4)) == Fraction(3, 2)
    for value in (Fraction(2), Fraction(1, 3), Fraction(10**40, 7), Fraction(3, 10**400)):
        assert abs(root(value) ** 2 / value - 1) < Fraction(1, 2**210)


def test_integers_are_the_floats() -> None:
    values = np.array([0.0, -0.1, 5e-324, 1.7e308, 3.0])
    whole, unit = integers(values)
    assert [w * unit for w in whole] == [Fraction(v) for v in values.tolist()]
    assert linear(Fraction(0), (unit, whole)) == values.tolist()
    assert linear(Fraction(0), (unit * 4, whole))[3] == math.inf


def test_forward_and_gradients_worked_by_hand() -> None:
    # mean 2, var 1, sqrt(var + 3) = 2, xhat = -1/2, 1/2
    case = Case(
        config=CONFIG,
        ranks=(RankInputs(_column(1, 3), _column(4, 0), None, _column(1, 0)),),
        gamma=np.array([6.0]),
        beta=np.array([10.0]),
        state=_state(),
    )
    result = _one(case)
    assert result.count is not None
    assert result.count.tolist() == [2]
    assert (result.mean, result.var) == (2.0, 1.0)
    assert result.y.tolist() == [[7.0], [13.0]]
    # S1 = 4, S2 = -2, dx = 6/2*(g - 4/2 - xhat*(-2)/2) = 3*(g - 2 + xhat)
    assert result.dx.tolist() == [[4.5], [-4.5]]
    assert (result.dgamma, result.dbeta) == (-2.0, 4.0)
    # mean' = 1/2, var' = -1, ydot = 3*(xdot - 1/2 + xhat/4)
    assert (result.mean_dot, result.var_dot) == (0.5, -1.0)
    assert result.ydot.tolist() == [[1.125], [-1.125]]
    assert result.state == {"mean": 0.5, "var": 1.0}


def test_a_value_is_rounded_once() -> None:
    case = Case(config=dataclasses.replace(CONFIG, epsilon=2.0**-40), ranks=(RankInputs(_column(0.1, 0.2, 0.7)),))
    result = _one(case)
    values = [Fraction(v) for v in (0.1, 0.2, 0.7)]
    mean = sum(values, Fraction(0)) / 3
    var = sum(((v - mean) ** 2 for v in values), Fraction(0)) / 3
    assert result.mean.item() == float(mean)
    assert result.var.item() == float(var)
    y = Fraction(result.y[0, 0])
    square = (values[0] - mean) ** 2 / (var + Fraction(2) ** -40)
    assert abs(y * y / square - 1) < 3 * Fraction(1, 2**53)


def test_running_state_of_every_averaging_by_hand() -> None:
    # x = 1, 3, 8: mean 4, m2 = 26
    ranks = (RankInputs(_column(1, 3, 8)),)

    def after(state: dict[str, Any], **config: Any) -> dict[str, Any]:
        result = _one(Case(config=dataclasses.replace(CONFIG, correction=1, **config), ranks=ranks, state=state)).state
        assert result is not None
        return {k: v.item() for k, v in result.items()}

    assert after(_state()) == {"mean": 1.0, "var": 4.0}
    count = np.array([3], np.int16)
    assert after(_state(count=count), averaging="cumulative") == {"mean": 1.0, "var": 4.0, "count": 4}
    assert after(_state(count=count), averaging="debiased") == {"mean": 1.0, "var": 4.0, "count": 4}
    # three elements of mean 0 and m2 = 1*(3 - 1) = 2 join: mean 2, m2 = 2 + 26 + 16*9/6 = 52, 52/5
    assert after(_state(count=count), averaging="pooled") == {"mean": 2.0, "var": 10.4, "count": 6}
    assert after(_state(count=np.array([32767], np.int16)), averaging="pooled")["count"] == 32767
    assert after(_state(count=0 * count), averaging="pooled") == {"mean": 4.0, "var": 13.0, "count": 3}


def test_debiased_inference_divides_by_what_has_arrived() -> None:
    config = dataclasses.replace(CONFIG, averaging="debiased")
    state = {"mean": np.array([0.4375]), "var": np.array([0.4375]), "count": np.array([2])}
    used = _one(Case(config=config, ranks=(RankInputs(_column(3.0)),), state=state, mode="inference"))
    assert used.y.item() == 1.0  # 1 - 0.75**2 = 0.4375: mean 1, var 1
    fresh = {**state, "count": np.array([0])}
    assert _one(Case(config=config, ranks=(RankInputs(_column(3.0)),), state=fresh, mode="inference")).y.item() == 1.5


@pytest.mark.parametrize(("policy", "expected"), [("keep", 1.0), ("floor", 0.75)])
def test_single_value(policy: Any, expected: float) -> None:
    config = dataclasses.replace(CONFIG, correction=1, single_value=policy)
    case = Case(config=config, ranks=(RankInputs(_column(8)),), state=_state())
    assert _one(case).state == {"mean": 2.0, "var": expected}
    with pytest.raises(ValueError, match="BN-RUN-4"):
        oracle.exact(dataclasses.replace(case, config=dataclasses.replace(config, single_value="raise")))


@pytest.mark.parametrize(
    ("source", "mean", "var"),
    [("first", 0.5, 1.0), ("mean", 1.0, 1.0), ("merged", 1.0, 2.0), ("sequential", 1.875, 1.0)],
)
def test_ghost_source(source: Any, mean: float, var: float) -> None:
    # groups (1, 3) and (5, 7): means 2 and 6, variances 1; together mean 4, variance 5; weight 1/4 on (0, 1)
    config = dataclasses.replace(CONFIG, virtual_batch_size=2, ghost_source=source)
    case = Case(config=config, ranks=(RankInputs(_column(1, 3, 5, 7)),), state=_state())
    assert _one(case).state == {"mean": mean, "var": var}


@pytest.mark.parametrize("form", ["tensorpack", "paper"])
def test_renorm_by_hand(form: Any) -> None:
    config = dataclasses.replace(CONFIG, renorm=Renorm(form=form, rmax=3.0, dmax=0.25, decay=0.5))
    state = {"mean": np.array([1.0]), "var": np.array([13.0]), "stddev": np.array([4.0])}
    if form == "tensorpack":
        state |= {"renorm_mean": np.array([1.0]), "renorm_stddev": np.array([4.0])}
    result = _one(Case(config=config, ranks=(RankInputs(_column(1, 3)),), state=state))
    # sigma = 2, s = 4: r = 1/2; d = (2 - 1)/4
    assert result.y.tolist() == [[0.0], [0.5]]
    expected = {"mean": 1.25, "var": 3.5**2 - 3, "stddev": 3.5}
    if form == "tensorpack":
        expected |= {"renorm_mean": 1.5, "renorm_stddev": 3.0}
    assert result.state == expected


def test_rank_weighting_by_hand() -> None:
    # rank means 2 and 8 weigh alike: mean 5, var = ((1 + 0)/2) + 9
    config = dataclasses.replace(CONFIG, sync_weighting="rank")
    ranks = (RankInputs(_column(1, 3)), RankInputs(_column(8)), RankInputs(np.zeros((0, 1))))
    result = _one(Case(config=config, ranks=ranks))
    assert (result.mean, result.var) == (5.0, 9.5)


def test_masked_values_poison_nothing() -> None:
    x, mask = _column(1, np.nan, 3, 2, np.inf), np.array([[True], [False], [True], [False], [False]])
    case = Case(
        config=CONFIG, ranks=(RankInputs(x, _column(4, 1, 0, 0, 0), mask),), gamma=np.array([-2.0]), state=_state()
    )
    result = _one(case)
    assert (result.mean, result.var) == (2.0, 1.0)
    np.testing.assert_array_equal(result.y[:, 0], [1.0, np.nan, -1.0, 0.0, -np.inf])
    # S1 = 5 counts the masked g, S2 = -2 does not see its value; a = -1
    np.testing.assert_array_equal(result.dx[:, 0], [-(4 - 5 / 2 - 0.5), -1.0, 5 / 2 - 0.5, 0.0, 0.0])
    assert (result.dgamma, result.dbeta) == (-2.0, 5.0)


def test_all_masked_is_count_zero() -> None:
    case = Case(
        config=CONFIG,
        ranks=(RankInputs(_column(2, 4), _column(1, 2), np.zeros((2, 1), bool)),),
        gamma=np.array([math.sqrt(3)]),
        state=_state(),
    )
    result = _one(case)
    _close(result.y, _column(2, 4))
    _close(result.dx, _column(1, 2))
    assert result.state == _state()


def test_an_unmasked_nan_stays_in_its_channel_and_group() -> None:
    case = _drawn(1, (4, 3), virtual_batch_size=2)
    clean = _one(case)
    x = case.ranks[0].x.copy()
    x[0, 1] = np.inf
    rank = dataclasses.replace(case.ranks[0], x=x)
    bad = _one(dataclasses.replace(case, ranks=(rank,)))
    hit = np.zeros((4, 3), bool)
    hit[:2, 1] = True
    for name in ("y", "dx", "ydot"):
        values, expected = getattr(bad, name), getattr(clean, name)
        assert np.isnan(values[hit]).all()
        np.testing.assert_array_equal(values[~hit], expected[~hit])
    assert np.isnan(bad.state["mean"]).tolist() == [False, True, False]
    with pytest.raises(FloatingPointError, match="BN-RUN-10"):
        oracle.exact(
            dataclasses.replace(case, ranks=(rank,), config=dataclasses.replace(case.config, nonfinite="raise"))
        )
    kept = _one(dataclasses.replace(case, ranks=(rank,), config=dataclasses.replace(case.config, nonfinite="skip")))
    assert (kept.state["mean"][1], kept.state["var"][1]) == (0.0, 1.0)


def test_ghost_is_each_slice_and_sync_is_the_concatenation() -> None:
    ghost = _drawn(2, (6, 2, 3), virtual_batch_size=2)
    whole = _one(ghost)
    for j in range(3):
        cut = slice(2 * j, 2 * j + 2)
        rank = ghost.ranks[0]
        part = dataclasses.replace(
            ghost,
            config=dataclasses.replace(ghost.config, virtual_batch_size=None),
            ranks=(RankInputs(rank.x[cut], rank.dy[cut], None, rank.xdot[cut]),),
            dmean=(ghost.dmean[0][j : j + 1],),
            dvar=(ghost.dvar[0][j : j + 1],),
        )
        for name in ("y", "dx", "ydot"):
            np.testing.assert_array_equal(getattr(whole, name)[cut], getattr(_one(part), name))
    sync = _drawn(3, (3, 2, 2), ranks=3, correction=1)
    joined = Case(
        config=sync.config,
        ranks=(RankInputs(*(np.concatenate([getattr(r, n) for r in sync.ranks]) for n in ("x", "dy")), None,  # type: ignore[call-arg]
                          np.concatenate([r.xdot for r in sync.ranks])),),
        gamma=sync.gamma,
        beta=sync.beta,
        gamma_dot=sync.gamma_dot,
        beta_dot=sync.beta_dot,
        state=sync.state,
    )  # fmt: skip
    sync = dataclasses.replace(sync, dmean=None, dvar=None)
    apart, together = oracle.exact(sync), _one(joined)
    for name in ("y", "dx", "ydot"):
        values = np.concatenate([getattr(r, name) for r in apart.ranks])
        np.testing.assert_array_equal(values, getattr(together, name))
    np.testing.assert_array_equal(apart.ranks[1].state["var"], together.state["var"])
    _close(sum(r.dgamma for r in apart.ranks), together.dgamma)


KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {}),
    "ghost": (1, {"virtual_batch_size": 2}),
    "sync": (2, {}),
    "rank weights": (2, {"sync_weighting": "rank"}),
    "renorm": (1, {"renorm": Renorm(rmax=1.1, dmax=0.3)}),
    "ghost sync renorm": (2, {"virtual_batch_size": 2, "renorm": Renorm(rmax=3.0, dmax=5.0)}),
    "no parameters": (1, {"center": False, "scale": False}),
}


@pytest.mark.parametrize("mode", ["batch", "inference"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_transposed_and_agree_with_float64_and_differences(kind: str, masked: bool, mode: Any) -> None:
    ranks, config = KINDS[kind]
    case = dataclasses.replace(_drawn(4, (4, 3, 2), ranks, **config), mode=mode)
    if mode == "inference":
        case = dataclasses.replace(case, dmean=None, dvar=None)
    if masked:
        rng = np.random.default_rng(5)
        inputs = [dataclasses.replace(r, mask=rng.random((4, 1, 2)) < 0.6) for r in case.ranks]
        case = dataclasses.replace(case, ranks=tuple(inputs))
    exact, plain = oracle.exact(case), oracle.float64(case)
    forward = backward = size = 0.0
    along = oracle.direction(case, 7)
    slope = 0.0
    for i, (rank, got, other) in enumerate(zip(case.ranks, exact.ranks, plain.ranks, strict=True)):
        for name in RESULTS:
            if getattr(got, name) is not None:
                _close(getattr(got, name), getattr(other, name))
        terms = [rank.dy * got.ydot]
        if case.dmean is not None and case.dvar is not None:
            terms += [case.dmean[i] * got.mean_dot, case.dvar[i] * got.var_dot]
        forward += sum(float(t.sum()) for t in terms)
        size += sum(float(np.abs(t).sum()) for t in terms)
        backward += float((got.dx * rank.xdot).sum())
        slope += float((got.dx * along.x[i]).sum())
        for gradient, dot, step in (
            (got.dgamma, case.gamma_dot, along.gamma),
            (got.dbeta, case.beta_dot, along.beta),
        ):
            if gradient is not None:
                backward += float((gradient * dot).sum())
                slope += float((gradient * step).sum())
    assert abs(forward - backward) <= 1e-15 * size * 4
    value, error = oracle.central_difference(case, 7)
    assert error < 1e-6 * size
    assert abs(value - slope) <= error


def test_merging_groups_is_the_whole_batch() -> None:
    case = _drawn(6, (8, 2), virtual_batch_size=2, ghost_source="merged", correction=1)
    whole = dataclasses.replace(case, config=dataclasses.replace(case.config, virtual_batch_size=None),
                                dmean=None, dvar=None)  # fmt: skip
    ghost = dataclasses.replace(case, dmean=None, dvar=None)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(_one(ghost).state[name], _one(whole).state[name])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_float64_formulas_cast_once_are_inside_the_bounds(dtype: Any) -> None:
    case = _drawn(8, (6, 3, 4), 2, dtype, virtual_batch_size=3, ghost_source="merged", correction=1)
    exact, plain = oracle.exact(case), oracle.float64(case)
    bounds = tolerances.bounds(case, exact)
    for reference, got, bound in zip(exact.ranks, plain.ranks, bounds.ranks, strict=True):
        for name in RESULTS:
            to = np.float64 if name in ("mean", "var", "mean_dot", "var_dot") else dtype
            outside = tolerances.violations(
                getattr(got, name).astype(to), getattr(reference, name), getattr(bound, name), to
            )
            assert not outside.any(), name
        for name in reference.state:
            assert not tolerances.violations(got.state[name], reference.state[name], bound.state[name], float).any()


@pytest.mark.parametrize("name", families.hard_families())
def test_bounds_of_the_hard_families(name: str) -> None:
    x, gamma, beta, dy, epsilon = families.hard_families()[name]
    config = dataclasses.replace(CONFIG, axis=-1, epsilon=epsilon)
    case = Case(config=config, ranks=(RankInputs(x, dy),), gamma=gamma, beta=beta)
    exact, plain = oracle.exact(case), _one(case)
    bound, got = tolerances.bounds(case, exact).ranks[0], oracle.float64(case).ranks[0]
    for field in ("y", "dx"):
        reference, computed = getattr(plain, field), getattr(got, field).astype(np.float32)
        assert (getattr(bound, field) <= tolerances.hard_bound(reference, gamma)).all()
        assert not tolerances.violations(computed, reference, getattr(bound, field), np.float32).any()
    if not name.startswith(("denormal", "near", "constant", "huge_constant")):
        size = np.abs(plain.y).max(axis=(0, 1, 2))
        assert (bound.y.max(axis=(0, 1, 2)) <= 1.01 * 2.0**-24 * size).all()


@pytest.mark.parametrize("within", ["float64", "float32"])
def test_bounds_reject_what_is_wrong(within: Any) -> None:
    rng = np.random.default_rng(9)
    x = (rng.standard_normal((64, 3)) + 1e3).astype(np.float32)
    case = Case(
        config=dataclasses.replace(CONFIG, epsilon=1e-5, correction=1),
        ranks=(RankInputs(x),),
        state={"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)},
    )
    exact = oracle.exact(case)
    bound, reference = tolerances.bounds(case, exact, within).ranks[0], exact.ranks[0]
    one_pass = np.mean(x * x, axis=0, dtype=np.float32) - np.mean(x, axis=0, dtype=np.float32) ** 2
    assert tolerances.violations(one_pass[None], reference.var, bound.var, np.float32).all()
    y = (x - reference.mean) / np.sqrt(np.maximum(one_pass, 0) + 1e-5)
    assert tolerances.violations(y.astype(np.float32), reference.y, bound.y, np.float32).any()
    for wrong in (reference.var * 64 / 65, reference.var * 65 / 64):
        assert tolerances.violations(wrong, reference.var, bound.var, np.float64).all()
    swapped = _one(dataclasses.replace(case, config=dataclasses.replace(case.config, correction=0))).state
    assert tolerances.violations(swapped["var"], reference.state["var"], bound.state["var"], np.float32).all()
    # the pair algorithm itself, in that arithmetic, passes
    v = x.astype(within)
    top = v.max(axis=0)
    high = top + (v - top).sum(axis=0) / v.dtype.type(64)
    low = (v - high).sum(axis=0) / v.dtype.type(64)
    var = (((v - high) - low) ** 2).sum(axis=0) / v.dtype.type(64)
    assert not tolerances.violations(var[None], reference.var, bound.var, within).any()


def test_violations_know_overflow_and_nan() -> None:
    reference, bound = np.array([1e6, 1e6, np.nan, 65519.0, 1.0]), np.array([1.0, 1.0, 0.0, 10.0, np.inf])
    got = np.array([np.inf, -np.inf, np.nan, np.inf, -5.0], np.float16)
    assert tolerances.violations(got, reference, bound, np.float16).tolist() == [False, True, False, False, False]
    assert tolerances.violations(np.array([np.inf]), np.array([np.nan]), np.zeros(1), float).tolist() == [True]
    assert not tolerances.violations(
        np.array([np.inf]), np.array([np.nan]), np.zeros(1), float, any_nonfinite=True
    ).any()


def test_ulps() -> None:
    assert tolerances.ulps(2.0**-23, 1.0, np.float32) == 1
    assert tolerances.ulps(2.0**-149, 0.0, np.float32) == 1
    assert tolerances.ulps(2.0**-8, 1.5, ml_dtypes.bfloat16) == 0.5


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "axis", "size"),
    [((8, 4, 4, 3), -1, 2), ((6, 3, 5), 1, 3), ((5, 3), 1, None), ((3, 7), 0, None), ((12, 2), 1, 3), ((2, 2), 1, 1)],
)
def test_exact_inputs_are_exact(shape: tuple[int, ...], axis: int, size: int | None, dtype: Any) -> None:
    rng = np.random.default_rng(10)
    x = families.exact_inputs(rng, shape, axis, dtype, size)
    assert x.shape == shape
    assert x.dtype == dtype
    for virtual in {None, size}:
        config = dataclasses.replace(CONFIG, axis=axis, virtual_batch_size=virtual)
        exact = _one(Case(config=config, ranks=(RankInputs(x),)))
        groups = 1 if virtual is None else shape[0] // virtual
        blocks = np.split(np.moveaxis(x.astype(np.float32), axis, 1 if axis else 0), groups) if axis else [x]
        for g, block in enumerate(blocks):
            flat = np.moveaxis(block, 1 if axis else 0, 0).reshape(shape[axis], -1).astype(np.float32)
            for _ in range(3):
                flat = rng.permuted(flat, axis=1)
                n = np.float32(flat.shape[1])
                mean = np.add.accumulate(flat, axis=1, dtype=np.float32)[:, -1] / n
                squares = (flat - mean[:, None]) ** 2
                var = np.add.accumulate(squares, axis=1, dtype=np.float32)[:, -1] / n
                np.testing.assert_array_equal(mean, exact.mean[g])
                np.testing.assert_array_equal(var, exact.var[g])


def test_describe_names_what_is_not_default() -> None:
    text = _drawn(11, (4, 3), virtual_batch_size=2).describe()
    for part in ("float64(4,3)", "virtual_batch_size=2", "vjp+dmean+dvar", "jvp", "state:mean,var"):
        assert part in text
    assert "averaging" not in text
