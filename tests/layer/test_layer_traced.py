"""A layer inside what traces, transforms or watches: refused before anything changes, or as outside."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import bnspec

X = np.random.default_rng(7).standard_normal((8, 3)).astype(np.float32)
REFUSED = r"a layer called inside {}; expected arrays with values.*\[BN-DET-3\]\. .*batch_norm with update_running"


def held(layer: Any) -> dict[str, Any]:
    return {
        name: np.asarray(v.detach() if hasattr(v, "detach") else v).tobytes() for name, v in layer.variables.items()
    }


def refused(layer: Any, name: str, run: Any) -> None:
    """Refused, the layer unchanged, also one that was never called."""
    for each in (layer, bnspec.BatchNorm()):
        before = held(each)
        with pytest.raises(Exception, match=REFUSED.format(name)):
            run(each)
        assert held(each) == before
    assert layer.train()(run.x).shape == X.shape


def made(x: Any, mode: str) -> Any:
    layer = bnspec.BatchNorm()
    layer(x)
    return getattr(layer, mode)()


# --- torch ------------------------------------------------------------------------------------------------------------


def fake(f: Any, x: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        return f(x)


def make_fx(f: Any, x: Any) -> Any:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(f)(x)


def compiled(f: Any, x: Any) -> Any:
    import torch

    return torch.compile(f, backend="eager")(x)


TORCH = {
    "torch.jit.trace": lambda torch, f, x: torch.jit.trace(f, x, check_trace=False),
    "ProxyTorchDispatchMode": lambda torch, f, x: make_fx(f, x),
    "FakeTensorMode": lambda torch, f, x: fake(f, x),
    "torch.func.vmap": lambda torch, f, x: torch.vmap(f)(torch.stack([x, x])),
    "torch.func.grad": lambda torch, f, x: torch.func.grad(lambda v: f(v).sum())(x),
    "torch.func.jvp": lambda torch, f, x: torch.func.jvp(f, (x,), (x,)),
    "torch.func.functionalize": lambda torch, f, x: torch.func.functionalize(f)(x),
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_transformation_of_torch_takes_a_layer(name: str, mode: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(X)

    def run(layer: Any) -> Any:
        return TORCH[name](torch, lambda v: layer(v), x)

    run.x = x  # type: ignore[attr-defined]
    refused(made(x, mode), name, run)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_who_only_watches_torch_changes_nothing(mode: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.asarray(X)
    y, layer = made(x, mode)(x), made(x, mode)
    layer(x)
    watchers = (
        nullcontext,
        lambda: FlopCounterMode(display=False),
        lambda: torch.device("cpu"),
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.autograd.graph.save_on_cpu,
        torch.no_grad,
        torch.inference_mode,
        torch.autograd.forward_ad.dual_level,
    )
    for watcher in watchers:
        other = made(x, mode)
        with watcher():
            torch.testing.assert_close(other(x), y, rtol=1e-6, atol=1e-6)
        for a, b in zip(other.state[:2], layer.state[:2]):
            assert type(a) is torch.Tensor
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        other.train()(x.clone().requires_grad_(mode == "eval")) if mode == "train" else other(x)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore::bnspec.UntrainedParametersWarning")
def test_a_checkpoint_of_torch_updates_once(reentrant: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.checkpoint import checkpoint

    x = torch.asarray(X).requires_grad_()
    once, layer = made(x.detach(), "train"), made(x.detach(), "train")
    once(x.detach())
    checkpoint(lambda v: layer(v).pow(3), x, use_reentrant=reentrant).sum().backward()
    assert held(layer) == held(once)
    assert x.grad is not None


def test_a_layer_says_that_a_module_of_torch_does_not_have_it() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__()
            self.bn, self.linear = bnspec.BatchNorm(**options), torch.nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.linear(self.bn(x))

    x, net = torch.asarray(X), Net()
    with pytest.warns(bnspec.UntrainedParametersWarning, match="no part of the torch.nn.Module that calls it"):
        net(x)
    net(x)  # said once of a layer
    told = r"eval\(\) do not reach it.*bnspec\.torch\.BatchNorm2d"
    with torch.no_grad(), pytest.warns(bnspec.UntrainedParametersWarning, match=told):
        Net().eval()(x)
    layer = bnspec.BatchNorm()
    with pytest.warns(bnspec.UntrainedParametersWarning, match="gamma and beta, which the layer is to train"):
        layer(net.linear(x))
    silent = bnspec.BatchNorm(), bnspec.BatchNorm(trainable=False), bnspec.BatchNorm(center=False, scale=False)
    silent[0](x)
    silent[0].params = bnspec.Params(*map(torch.nn.Parameter, silent[0].params))
    for each in silent:
        each(net.linear(x))
    Net(trainable=False)(x)
    Net(training=False)(x)


# --- JAX --------------------------------------------------------------------------------------------------------------

JAX = {
    "jax.jit": lambda jax, f, x: jax.jit(f)(x),
    "jax.jit(?# of what it closes over)": lambda jax, f, x: jax.jit(lambda: f(x))(),
    "jax.jit(?# by eval_shape)": lambda jax, f, x: jax.eval_shape(f, x),
    "jax.jit(?# by scan)": lambda jax, f, x: jax.lax.scan(lambda c, v: (c, f(v)), 0, jax.numpy.stack([x, x])),
    "jax.vmap": lambda jax, f, x: jax.vmap(f)(jax.numpy.stack([x, x])),
    "jax.grad or jax.jvp": lambda jax, f, x: jax.grad(lambda v: f(v).sum())(x),
    "jax.grad or jax.jvp(?# by jvp)": lambda jax, f, x: jax.jvp(f, (x,), (x,)),
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", JAX)
def test_no_transformation_of_jax_takes_a_layer(name: str, mode: str) -> None:
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(X)

    def run(layer: Any) -> Any:
        return JAX[name](jax, lambda v: layer(v), x)

    run.x = x  # type: ignore[attr-defined]
    refused(made(x, mode), name, run)


def test_no_tracer_becomes_a_parameter() -> None:
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(X)
    layer = made(x, "train")
    before = held(layer)

    def loss(gamma: Any) -> Any:
        layer.params = layer.params._replace(gamma=gamma)
        return layer(x).sum()

    with pytest.raises(RuntimeError, match=r"\[BN-DET-3\]"):
        jax.grad(loss)(layer.params.gamma)
    assert held(layer) == before
    with jax.disable_jit():
        assert jax.jit(layer)(x).shape == x.shape
