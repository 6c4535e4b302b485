"""Third derivatives: the series that gives them, and a library that has only two."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

from bnspec_conformance.cases.inputs.sizes import Size
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.checks.derivatives import test_third_derivatives
from bnspec_conformance.checks.derivatives.test_autodiff import loss_of, quotient
from bnspec_conformance.oracle import exact
from bnspec_conformance.oracle.series import Series, gradient_series
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import find_subject
from bnspec_conformance.trials.budget import Budget

CHECK = all_checks()["test_third_derivatives::test_third_derivatives"]


def test_powers_of_a_series() -> None:
    x = Series.line(np.asarray([2.0]), np.asarray([1.0]), 3)  # 2 + t
    root = x.power(-0.5)
    want = [2**-0.5, -0.5 * 2**-1.5, 0.75 * 2**-2.5, -1.875 * 2**-3.5]  # derivatives of (2 + t)**-0.5
    assert np.allclose([root.derivative(k)[0] for k in range(4)], want, rtol=1e-15)
    assert np.allclose([(root * root * x).derivative(k)[0] for k in range(4)], [1, 0, 0, 0], atol=1e-15)


@pytest.mark.parametrize("masked", [False, True])
def test_the_series_of_the_gradient(masked: bool) -> None:
    case = Size((6, 3, 2), 1, dtype="float64", masked=masked, virtual_batch_size=3).case(Scope(dtypes=("float64",)))
    rng = np.random.default_rng(3)
    dmean, dvar = rng.standard_normal((2, 2, 3))
    case = dataclasses.replace(case, dmean=(dmean,), dvar=(dvar,))
    at, along = case.ranks[0].x, rng.standard_normal(case.ranks[0].x.shape)
    still, corrections = np.zeros(3), (np.ones((2, 3)), np.zeros((2, 3)))

    def series(x: Any, order: int) -> Any:
        moved = dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], x=x),))
        return gradient_series(moved, along, still, corrections, order)[0]

    want = exact(case).ranks[0].dx
    assert want is not None
    assert np.allclose(series(at, 2).derivative(0), want, rtol=1e-13, atol=1e-13)
    noise = np.full(at.shape, 1e-14)

    def below(order: int, x: Any) -> Any:
        return series(x, 2).derivative(order - 1)

    for order in (1, 2):
        value, error = quotient(functools.partial(below, order), at, along, noise)
        assert np.all(error < 1e-9)
        assert np.all(np.abs(series(at, 2).derivative(order) - value) <= error)


def test_a_library_with_two_derivatives_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    class Twice(torch.autograd.Function):  # type: ignore[name-defined,misc]
        """A loss whose second derivative is a constant to the third."""

        @staticmethod
        def forward(ctx: Any, at: Any, loss: Any) -> Any:
            ctx.loss = loss
            ctx.save_for_backward(at)
            return loss(at)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * First.apply(ctx.saved_tensors[0], ctx.loss), None

    class First(torch.autograd.Function):  # type: ignore[name-defined,misc]
        """Its gradient."""

        @staticmethod
        def forward(ctx: Any, at: Any, loss: Any) -> Any:
            ctx.loss = loss
            ctx.save_for_backward(at)
            with torch.enable_grad():
                held = at.detach().requires_grad_()
                return torch.autograd.grad(loss(held), held)[0]

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            with torch.enable_grad():
                held = ctx.saved_tensors[0].detach().requires_grad_()
                (first,) = torch.autograd.grad(ctx.loss(held), held, create_graph=True)
                (second,) = torch.autograd.grad((first * g.detach()).sum(), held)
            return second + 0 * ctx.saved_tensors[0], None

    def twice(case: Any, backend: Any) -> Any:
        loss = loss_of(case, backend)
        return lambda at: Twice.apply(at, loss)

    subject = find_subject("torch")
    assert attempt(CHECK, subject, Budget(examples=20)).outcome == "passed"
    monkeypatch.setattr(test_third_derivatives, "loss_of", twice)
    record = attempt(CHECK, subject, Budget(examples=20, shrink=False))
    assert record.broken == ("BN-GRAD-7",)
    assert record.reason.startswith("BN-GRAD-7: torch: third derivative along a direction is off")
