"""What a library's own differentiation makes of few values a channel in 16 and 32 bits: rounded once, not in parts."""

import contextlib
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec_conformance.bounds import bounds, violations
from bnspec_conformance.cases.case import Case, as_float64
from bnspec_conformance.checks.derivatives.test_autodiff_rounding import DTYPES, KINDS, cotangents, named, operation
from bnspec_conformance.oracle import exact

#: torch makes its own rules of forward mode by what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

FIELDS = ("dx", "dgamma", "dbeta", "ydot", "mean_dot", "var_dot")


def with_tangents(case: Case, backend: Any) -> tuple[Any, list[Any], list[Any]]:
    """The operation as a function of x, gamma and beta; these, and their tangents."""
    forward, given = operation(case, backend)
    return forward, given, [backend.asarray(v) for v in (case.ranks[0].xdot, case.gamma_dot, case.beta_dot)]


def check(case: Case, backend: Any, arithmetic: Any, found: tuple[Any, ...]) -> None:
    """Every derivative is within the bound that the explicit one has."""
    reference = exact(case)
    allowed = bounds(case, reference, arithmetic).ranks[0]
    for name, value in zip(FIELDS, found, strict=True):
        got, want, bound = backend.to_numpy(value), getattr(reference.ranks[0], name), getattr(allowed, name)
        broken = violations(got, want, bound, got.dtype)
        assert not broken.any(), f"{name}: {as_float64(got)[broken]} for {want[broken]} within {bound[broken]}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["autograd", "functorch"])
def test_torch_rounds_once(way: str, dtype: str, kind: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    backend = bnspec.get_backend("torch")
    for values in (1, 2, 3, 8):
        case = named(values, dtype, kind)
        forward, given, tangents = with_tangents(case, backend)
        if way == "functorch":
            outputs, pull = torch.func.vjp(forward, *given)
            gradients = pull(cotangents(case, backend, outputs))
        else:
            leaves = [v.requires_grad_() for v in given]
            outputs = forward(*leaves)
            gradients = torch.autograd.grad(outputs, leaves, cotangents(case, backend, outputs))
            given = [v.detach() for v in leaves]
        pushed = torch.func.jvp(forward, tuple(given), tuple(tangents))[1]
        check(case, backend, "float64", (*gradients, *pushed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_jax_rounds_once(arithmetic: str, dtype: str, kind: str) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    backend = bnspec.get_backend("jax")
    with jax.enable_x64(True) if arithmetic == "float64" else contextlib.nullcontext():
        for values in (2, 3):
            case = named(values, dtype, kind)
            forward, given, tangents = with_tangents(case, backend)
            outputs, pull = jax.vjp(forward, *given)
            gradients = pull(cotangents(case, backend, outputs))
            pushed = jax.jvp(forward, tuple(given), tuple(tangents))[1]
            check(case, backend, arithmetic, (*gradients, *pushed))


@pytest.mark.parametrize("masked", [False, True])
def test_torch_third_derivatives(masked: bool) -> None:
    """A third derivative by float32 arrays is that by float64 arrays, rounded; both ways to the second agree."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    config = bnspec.BatchNormConfig(axis=1, epsilon=0.125, decay=0.9, correction=0)
    torch.manual_seed(0)
    x, direction = torch.randn(2, 5, 3, dtype=torch.float32)
    mask = torch.tensor([True, False, True, True, True])[:, None] if masked else None

    def third(x: Any, v: Any, operation: Any) -> Any:
        x = x.clone().requires_grad_()
        value = (operation(x) ** 3).sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            value = (slope * v).sum()
        return slope.detach()

    def ours(x: Any) -> Any:
        params, _ = bnspec.init(config, channels=3, like=x)
        return bnspec.batch_norm(x, params, config, mask=mask)[0]

    def formula(x: Any) -> Any:
        kept = x if mask is None else x[mask[:, 0]]
        return (x - kept.mean(0)) / (kept.var(0, correction=0) + 0.125).sqrt()

    wide = third(x.double(), direction.double(), ours)
    assert torch.allclose(wide, third(x.double(), direction.double(), formula), rtol=1e-9, atol=1e-9)
    narrow = third(x, direction, ours)
    assert float((narrow - wide).abs().max() / wide.abs().max()) < 64 * 2.0**-24


def test_no_wide_copy_is_kept_where_nobody_differentiates() -> None:
    """Arrays are widened for the library's differentiation alone."""
    from bnspec._discovery import kernels_for
    from bnspec._kernels import widened

    torch = pytest.importorskip("torch", reason="torch is not installed")
    for x in (np.ones((2, 3), "float16"), torch.ones(2, 3)):
        kernels, (same,), _ = widened(kernels_for(x), (x,))
        assert same is x
        assert kernels is kernels_for(x)
    x = torch.ones(2, 3, requires_grad=True)
    assert widened(kernels_for(x), (x,))[1][0].dtype == torch.float64
    with torch.no_grad():
        assert widened(kernels_for(x), (x,))[1][0] is x
