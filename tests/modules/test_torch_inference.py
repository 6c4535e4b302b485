"""Evaluation that torch differentiates: the bits of evaluation without a graph, and the gradients of an affine map."""

from typing import Any

import pytest

import bnspec

torch = pytest.importorskip("torch", reason="torch is not installed")

from bnspec import torch as ours  # noqa: E402 - after torch was found

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def trained(dtype: Any, **options: Any) -> Any:
    """A module with statistics of its own, in evaluation."""
    torch.manual_seed(0)
    module = ours.BatchNorm2d(3, dtype=dtype, **options)
    module.running_mean.normal_()
    module.running_var.uniform_(0.5, 2.0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.eval()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 3, 5, 7), (1, 3, 1, 1), (0, 3, 2, 2)])
def test_a_graph_changes_no_bit(dtype: Any, shape: tuple[int, ...]) -> None:
    module = trained(dtype)
    x = torch.randn(shape).to(dtype)
    y = module(x.clone().requires_grad_())
    with torch.no_grad():
        assert torch.equal(y, module(x))


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"averaging": "debiased"}])
def test_gradients_to_the_second_order(options: dict[str, Any]) -> None:
    module = trained(torch.float64, **options)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    given = (x, *module.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: module(x), given)
    assert torch.autograd.gradgradcheck(lambda x, *_: module(x), given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_the_explicit_ones(dtype: Any) -> None:
    module = trained(dtype)
    x = torch.randn(5, 3, 2, 2).to(dtype).requires_grad_()
    dy = torch.randn(5, 3, 2, 2).to(dtype)
    found = torch.autograd.grad(module(x), (x, module.weight, module.bias), dy)
    with torch.no_grad():
        params = bnspec.Params(module.weight, module.bias)
        _, saved = bnspec.batch_norm_inference(x, params, module._state(module.config), module.config)
        assert all(map(torch.equal, found, bnspec.batch_norm_vjp(dy, saved)))


def test_only_what_wants_a_gradient_gets_one() -> None:
    module = trained(torch.float32).requires_grad_(False)
    x = torch.randn(5, 3, 2, 2, requires_grad=True)
    module(x).sum().backward()
    wanted = module.weight / torch.sqrt(module.running_var + module.eps)
    torch.testing.assert_close(x.grad, wanted[:, None, None].expand_as(x))
    module.requires_grad_(True)(x.detach()).sum().backward()
    assert module.bias.grad.tolist() == [20.0] * 3


def test_statistics_that_move_between_the_passes_are_those_of_the_forward_pass() -> None:
    """A module moves its statistics in place, also between evaluation and its backward pass."""
    module = trained(torch.float64)
    x = torch.randn(5, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    wanted = torch.autograd.grad(module(x).pow(3).sum(), x)[0]
    y = module(x)
    module.train()(x * 7 + 3)
    found = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    assert found.requires_grad
