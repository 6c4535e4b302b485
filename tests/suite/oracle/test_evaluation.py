"""Devices that carry sums in one arithmetic and evaluate y and dx in another, and the bound that they are held to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bnspec import BatchNormConfig
from bnspec_conformance import Case, Outcome, RankInputs, RankOutcome, Scope, exact
from bnspec_conformance.bounds import bounds, violations
from bnspec_conformance.bounds.declared import arithmetics, checked_evaluation
from bnspec_conformance.bounds.rounding import arithmetic
from bnspec_conformance.cases.case import as_float64, dtype_named
from bnspec_conformance.cases.inputs.families import hard_families
from bnspec_conformance.checks.derivatives import test_gradients as gradients
from bnspec_conformance.checks.forward import test_normalize as normalize
from bnspec_conformance.subjects.find import complete
from bnspec_conformance.trials.budget import Budget

Floats = npt.NDArray[np.float64]
F32 = np.float32


def centred(x: Floats, slope: Floats, shift: Floats, mean: Floats) -> Floats:
    """slope*(x - mean) + shift in float32: the mean as one float32, what that misses in the shift."""
    centre = as_float64(mean.astype(F32))
    rest = (shift - (mean - centre) * slope).astype(F32)
    return as_float64((x.astype(F32) - centre.astype(F32)) * slope.astype(F32) + rest)


def flattened(x: Floats, slope: Floats, shift: Floats, mean: Floats) -> Floats:
    """x*slope + (shift - mean*slope) in float32: it loses the digits that the mean has before x - mean."""
    return as_float64(x.astype(F32) * slope.astype(F32) + (shift - mean * slope).astype(F32))


def forgetful(x: Floats, slope: Floats, shift: Floats, mean: Floats) -> Floats:
    """As `centred`, without what the rounded mean misses."""
    return as_float64((x.astype(F32) - mean.astype(F32)) * slope.astype(F32) + shift.astype(F32))


SCOPE = Scope(
    profiles=frozenset({"core", "statistics", "grad"}), axes="last", dtypes=("float32", "float16", "bfloat16")
)


@dataclasses.dataclass
class Device:
    """Two-dimensional batch normalization with float64 statistics and float32 elementwise formulas."""

    form: Callable[..., Floats] = centred
    evaluation: dict[str, str] = dataclasses.field(default_factory=lambda: {"y": "float32", "dx": "float32"})
    narrow: bool = True  # whether dx is evaluated in float32 too
    statistics: Any = np.float64
    name: str = "device"
    scope: Scope = SCOPE

    def supports(self, case: Case) -> str | None:
        """Return None."""
        return None

    def run(self, case: Case) -> Outcome:
        """Return y, the statistics and the gradients."""
        with np.errstate(all="ignore"):
            return self._run(case)

    def _run(self, case: Case) -> Outcome:
        (rank,), config = case.ranks, case.config
        x, channels = as_float64(rank.x).reshape(-1, case.channels), case.channels
        wide = x.astype(self.statistics)
        n = max(len(x), 1)
        mean = as_float64(wide.sum(axis=0) / self.statistics(n))
        var = as_float64(((wide - mean.astype(self.statistics)) ** 2).sum(axis=0) / self.statistics(n))
        istd = 1 / np.sqrt(var + config.epsilon)
        gamma = np.ones(channels) if case.gamma is None or not config.scale else as_float64(case.gamma)
        beta = np.zeros(channels) if case.beta is None or not config.center else as_float64(case.beta)
        y = self.form(x, gamma * istd, beta, mean)
        result = RankOutcome(
            y=y.reshape(rank.x.shape).astype(rank.x.dtype),
            count=np.asarray([len(x)]),
            mean=mean[None],
            var=var[None],
        )
        if rank.dy is None:
            return Outcome((result,))
        dy = as_float64(rank.dy).reshape(x.shape)
        s1, s2 = dy.sum(axis=0), (dy * (x - mean)).sum(axis=0)
        a = gamma * istd
        slope, constant = -a * istd * istd * s2 / n, -a * s1 / n
        if self.narrow:
            alone = as_float64(dy.astype(F32) * a.astype(F32))
            dx = as_float64(alone.astype(F32) + centred(x, slope, constant, mean).astype(F32))
        else:
            dx = dy * a + slope * (x - mean) + constant
        result = dataclasses.replace(
            result,
            dx=dx.reshape(rank.x.shape).astype(rank.x.dtype),
            dgamma=(s2 * istd).astype(F32) if config.scale else None,
            dbeta=s1.astype(F32) if config.center else None,
        )
        return Outcome((result,))


def case_of(x: Any, dy: Any = None, epsilon: float = 1e-5, gamma: Any = None, beta: Any = None) -> Case:
    config = BatchNormConfig(axis=x.ndim - 1, epsilon=epsilon, decay=0.9, correction=0)
    return Case(config=config, ranks=(RankInputs(x, dy),), gamma=gamma, beta=beta)


def shares(device: Device, case: Case, **declared: Any) -> dict[str, float]:
    """Return the largest error of y and dx as a share of the bound; infinite where a value is outside."""
    reference, got = exact(case), device.run(case)
    allowed = bounds(case, reference, **({"evaluation": device.evaluation} | declared))
    found = {}
    for name in ("y", "dx"):
        value, want, bound = (getattr(o.ranks[0], name) for o in (got, reference, allowed))
        outside = violations(value, want, bound, value.dtype).any()
        found[name] = np.inf if outside else float(np.max(np.abs(as_float64(value) - want) / bound, initial=0.0))
    return found


def drawn(dtype: str, n: int, shift: float, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, 3)) + shift).astype(dtype_named(dtype))
    gamma, beta = rng.standard_normal((2, 3)).astype(F32)
    return case_of(x, rng.standard_normal(x.shape).astype(x.dtype), gamma=gamma, beta=beta)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("shift", [0.0, 30.0, 1e4])
def test_a_device_that_does_as_it_declares_is_inside(dtype: str, n: int, shift: float) -> None:
    for seed in range(3):
        found = shares(Device(), drawn(dtype, n, shift, seed))
        assert max(found.values()) <= 1.0, found


def test_the_bound_is_not_much_wider_than_what_a_device_does() -> None:
    worst = [shares(Device(), drawn("float32", 256, 30.0, seed)) for seed in range(5)]
    assert max(f["y"] for f in worst) > 0.1
    assert max(f["dx"] for f in worst) > 0.1


@pytest.mark.parametrize("name", hard_families())
def test_y_in_float32_stays_inside_on_the_hard_families(name: str) -> None:
    x, gamma, beta, dy, epsilon = hard_families()[name]
    found = shares(Device(), case_of(x, dy, epsilon, gamma, beta))
    if name not in ("huge_1e+30", "near_float_max"):  # there factors of dx leave the range of float32
        assert found["dx"] <= 1.0
    assert found["y"] <= 1.0


@pytest.mark.parametrize(
    ("wrong", "output"),
    [
        (Device(form=flattened), "y"),
        (Device(form=forgetful), "y"),
        (Device(evaluation={"y": "float32"}), "dx"),
        (Device(evaluation={"dx": "float32"}), "y"),
        (Device(statistics=np.float32), "y"),
    ],
    ids=["x*scale + shift", "rest forgotten", "dx not declared", "y not declared", "float32 statistics"],
)
def test_a_device_that_does_less_than_it_declares_is_outside(wrong: Device, output: str) -> None:
    found = [shares(wrong, drawn("float32", 64, 1e4, seed))[output] for seed in range(5)]
    assert max(found) == np.inf


def test_the_bound_does_not_grow_with_the_mean() -> None:
    near, far = (drawn("float32", 64, shift, 1) for shift in (0.0, 1e4))
    wide = [bounds(c, exact(c), evaluation={"y": "float32", "dx": "float32"}).ranks[0] for c in (near, far)]
    for name in ("y", "dx"):
        small, large = (float(np.max(getattr(b, name))) for b in wide)
        assert large < 1.5 * small


@pytest.mark.parametrize("declared", ["twofold", "float32"])
def test_statistics_have_the_bound_of_their_arithmetic(declared: Any) -> None:
    case = drawn("float32", 64, 30.0, 2)
    reference = exact(case)
    wide, own = (bounds(case, reference, a).ranks[0].var for a in ("float64", declared))
    assert wide is not None
    assert own is not None
    ratio = arithmetic(declared).u / arithmetic("float64").u
    assert np.all(own > ratio / 4 * wide)
    assert np.all(own < ratio * 4 * wide)
    y = [bounds(case, reference, a).ranks[0].y for a in ("float64", "twofold")]
    assert y[0] is not None
    assert y[1] is not None
    assert np.all(y[1] <= y[0] + 1e-4 * np.max(y[0]))  # both round y once, to float32


def test_float64_x_is_computed_in_float64_whatever_is_declared() -> None:
    own = arithmetics("float64", "float32", {"y": "float32"})
    assert {own.statistics, own.y, own.dx} == {arithmetic("float64")}


def test_an_evaluation_may_be_declared_by_the_dtype_of_x() -> None:
    declared = {"y": {"float16": "float32"}, "dx": "twofold"}
    own = {dtype: arithmetics(dtype, "float64", declared) for dtype in ("float16", "float32", "float64")}
    assert [v.y for v in own.values()] == [arithmetic("float32"), arithmetic("float64"), arithmetic("float64")]
    assert [v.dx for v in own.values()] == [arithmetic("twofold"), arithmetic("twofold"), arithmetic("float64")]


@pytest.mark.parametrize("value", [{"z": "float32"}, {"y": {"float64": "float32"}}, {"y": {"float16": "half"}}, "y"])
def test_an_evaluation_of_what_does_not_exist_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="for each of some dtypes of x"):
        checked_evaluation(value)


def test_what_is_wider_than_the_statistics_counts_as_theirs() -> None:
    own = arithmetics("float32", "float32", {"y": "float64"})
    assert own.y == own.statistics == arithmetic("float32")


def attempt(check: Any, device: Device) -> Any:
    return check.attempt(complete(device, "device"), Budget(seed=0, examples=6))


def test_the_suite_holds_a_device_to_its_declaration() -> None:
    assert attempt(normalize.test_formula, Device()).outcome == "passed"
    assert attempt(gradients.test_vjp, Device()).outcome == "passed"
    assert attempt(normalize.test_formula, Device(evaluation={})).outcome == "failed"
    assert attempt(gradients.test_vjp, Device(evaluation={"y": "float32"})).outcome == "failed"


def test_hard_inputs_are_promised_for_y_in_any_evaluation_and_for_dx_in_more_than_float32() -> None:
    wide = Device(evaluation={"y": "float32"}, narrow=False)
    assert attempt(normalize.test_hard_families, wide).outcome == "passed"
    assert attempt(gradients.test_hard_families, wide).outcome == "passed"
    assert attempt(normalize.test_hard_families, Device()).outcome == "passed"
    record = attempt(gradients.test_hard_families, Device())
    assert (record.outcome, record.reason[:30]) == ("not supported", "it evaluates dx in float32, as")
    assert attempt(gradients.test_hard_families, Device(evaluation={"y": "float32"})).outcome == "failed"
    assert attempt(normalize.test_hard_families, Device(form=flattened)).outcome == "failed"
