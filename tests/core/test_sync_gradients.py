"""torch's differentiation through statistics that ranks share: both modes, two orders, any communicator."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import bnspec
from bnspec_backends.ranks import threads

torch = pytest.importorskip("torch", reason="torch is not installed")

#: torch makes its own rules of forward mode by what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

CHANNELS = 3


class Detaching:
    """A communicator of a user's own that knows nothing of graphs, as over a process group: it copies numbers."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.operations: list[str] = []

    def all_reduce(self, payload: Any, combine: Any, signature: Any) -> Any:
        assert not payload.requires_grad
        self.operations.append(signature.operation)
        numbers = torch.from_numpy(payload.detach().numpy().copy())
        return self.comm.all_reduce(numbers, combine, signature)


def given(sizes: Sequence[int], seed: int = 0) -> tuple[Any, Any, list[slice]]:
    """The whole batch, weights of a loss, and each rank's part."""
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(2, sum(sizes), CHANNELS, 4, generator=generator, dtype=torch.float64)
    ends = np.cumsum([0, *sizes]).tolist()
    return x * 2 + 3, w, [slice(a, b) for a, b in itertools.pairwise(ends)]


def config(**fields: Any) -> bnspec.BatchNormConfig:
    return bnspec.BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.9, "correction": 0} | fields))


def derivatives(x: Any, w: Any, operation: Callable[..., Any]) -> list[Any]:
    """y, dx, dgamma, and the gradients of |dx|^2 by x and gamma; the loss has statistics in it too."""
    gamma = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64).requires_grad_()
    beta = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).requires_grad_()
    x = x.clone().requires_grad_()
    y, extra = operation(x, gamma, beta)
    dx, dgamma = torch.autograd.grad((y**3 * w).sum() + extra, (x, gamma), create_graph=True)
    return [y, dx, dgamma, *torch.autograd.grad((dx**2 * w).sum(), (x, gamma))]


def joined(parts: list[list[Any]]) -> list[Any]:
    """What ranks found, as one process would have it: parts of the batch side by side, parameters' gradients added."""
    together = [torch.cat(found) if found[0].ndim > 1 else sum(found) for found in zip(*parts, strict=True)]
    return [v.detach() for v in together]


def close(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernels", ["those in use", "the specification"])
@pytest.mark.parametrize("sizes", [(4, 3), (5, 0, 2), (3, 3, 3)])
def test_two_orders_by_ranks_are_those_of_one_process(sizes: tuple[int, ...], kernels: str) -> None:
    x, w, parts = given(sizes)

    def ours(x: Any, gamma: Any, beta: Any, comm: Any) -> tuple[Any, Any]:
        y, stats, _ = bnspec.batch_norm(x, bnspec.Params(gamma, beta), config(), comm=comm)
        return y, ((stats.mean**2).sum() + stats.var.sum()) / len(sizes)

    def theirs(x: Any, gamma: Any, beta: Any) -> tuple[Any, Any]:
        y = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-3)
        return y, (x.mean((0, 2)) ** 2).sum() + x.var((0, 2), correction=0).sum()

    def rank(comm: Any) -> list[Any]:
        own = Detaching(comm)
        return derivatives(x[parts[comm.rank]], w[parts[comm.rank]], functools.partial(ours, comm=own))

    known = bnspec.Kernels() if kernels == "the specification" else bnspec.get_backend("torch").kernels
    with bnspec.use_kernels("torch", known):
        found = threads.run(len(sizes), rank)
    close(joined(found), derivatives(x, w, theirs))


@pytest.mark.parametrize(
    "fields",
    [
        {"sync_weighting": "rank"},
        {"virtual_batch_size": 2},
        {"renorm": bnspec.Renorm(rmax=1.2, dmax=0.3)},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_options_have_the_explicit_derivative(fields: dict[str, Any], masked: bool) -> None:
    """Gradients by torch are those of `batch_norm_vjp`, and a difference quotient agrees with the second order."""
    sizes = (4, 4) if "virtual_batch_size" in fields else (4, 2)
    x, w, parts = given(sizes)
    mask = torch.arange(4) < 3 if masked else None

    def rank(comm: Any, shift: float = 0.0) -> tuple[Any, Any, Any]:
        own, weights = x[parts[comm.rank]] + shift * w[parts[comm.rank]].flip(0), w[parts[comm.rank]]
        own = own.clone().requires_grad_()
        _, state = bnspec.init(config(**fields), channels=CHANNELS, like=x)
        params = bnspec.Params(*(torch.full((CHANNELS,), v, dtype=torch.float64) for v in (1.5, 0.5)))
        more = {"mask": mask.expand(len(own), 1, 4)} if mask is not None else {}
        renorm = state if fields.get("renorm") else None
        y, _, saved = bnspec.batch_norm(own, params, config(**fields), comm=comm, state=renorm, **more)
        (dx,) = torch.autograd.grad((y * weights).sum(), own, create_graph=True)
        with torch.no_grad():
            explicit = bnspec.batch_norm_vjp(weights, saved, comm=comm).x
        (second,) = torch.autograd.grad((dx * weights.flip(0)).sum(), own)
        return dx.detach(), explicit, (second * weights.flip(0)).sum()

    here = threads.run(2, rank)
    for dx, explicit, _ in here:
        torch.testing.assert_close(dx, explicit, rtol=1e-12, atol=1e-12)
    step = 1e-5
    above, below = (threads.run(2, lambda comm, s=s: rank(comm, s)) for s in (step, -step))
    slopes = [sum(float((found[r][0] * w[parts[r]].flip(0)).sum()) for r in range(2)) for found in (above, below)]
    quotient = (slopes[0] - slopes[1]) / (2 * step)
    assert sum(float(s) for _, _, s in here) == pytest.approx(quotient, rel=1e-5, abs=1e-6)


def test_forward_mode() -> None:
    sizes = (4, 3)
    x, v, parts = given(sizes)

    def rank(comm: Any) -> Any:
        params = bnspec.Params(*(torch.full((CHANNELS,), c, dtype=torch.float64) for c in (1.5, 0.5)))
        own, dot = x[parts[comm.rank]], v[parts[comm.rank]]
        dual = torch.autograd.forward_ad.make_dual(own, dot)
        y = bnspec.batch_norm(dual, params, config(), comm=comm)[0]
        return torch.autograd.forward_ad.unpack_dual(y).tangent

    with torch.autograd.forward_ad.dual_level():
        found = torch.cat(threads.run(2, rank))
    want = torch.func.jvp(
        lambda x: torch.nn.functional.batch_norm(x, None, None, None, None, training=True, eps=1e-3) * 1.5, (x,), (v,)
    )[1]
    torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-11)


def test_messages_are_those_of_the_explicit_derivative() -> None:
    """One message forward and one backward, under the names that the explicit derivative has."""
    x, w, parts = given((4, 3))

    def rank(comm: Any) -> list[str]:
        own = Detaching(comm)
        part = x[parts[comm.rank]].clone().requires_grad_()
        params, _ = bnspec.init(config(), channels=CHANNELS, like=x)
        (bnspec.batch_norm(part, params, config(), comm=own)[0] * w[parts[comm.rank]]).sum().backward()
        return own.operations

    assert threads.run(2, rank) == [["moments", "gradients"]] * 2


def test_a_layer_trains_by_backward() -> None:
    """The flagship case: a layer that joins its statistics, and a loss whose backward is torch's."""
    x, w, parts = given((4, 3))

    def rank(comm: Any) -> Any:
        part = x[parts[comm.rank]].clone().requires_grad_()
        layer = bnspec.BatchNorm(axis=1, comm=comm, ema_update="internal", trainable=False)
        (layer(part) * w[parts[comm.rank]]).sum().backward()
        return part.grad

    whole = x.clone().requires_grad_()
    (torch.nn.functional.batch_norm(whole, None, None, training=True) * w).sum().backward()
    torch.testing.assert_close(torch.cat(threads.run(2, rank)), whole.grad, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("way", ["torch.func.grad", "torch.func.vmap", "ProxyTorchDispatchMode", "torch.jit.trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_has_no_values_is_refused(way: str) -> None:
    """A message with place holders would be answered with nonsense; the text says by whom, and the clause."""
    from torch.fx.experimental import proxy_tensor

    x = given((4,))[0].float()
    params, _ = bnspec.init(config(), channels=CHANNELS, like=x)

    def rank(comm: Any) -> None:
        def f(v: Any) -> Any:
            return bnspec.batch_norm(v, params, config(), comm=comm)[0].sum()

        run: dict[str, Callable[[], Any]] = {
            "torch.func.grad": lambda: torch.func.grad(f)(x),
            "torch.func.vmap": lambda: torch.func.vmap(f)(x[None]),
            "ProxyTorchDispatchMode": lambda: proxy_tensor.make_fx(f)(x),
            "torch.jit.trace": lambda: torch.jit.trace(f, x, check_trace=False),
        }
        with pytest.raises(TypeError, match=r"BN-SYNC-9.*Call it outside|BN-SYNC-9.*out of the graph"):
            run[way]()

    threads.run(1, rank)
