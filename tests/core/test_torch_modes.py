"""Which mode torch is in, and that no call reads a tensor's memory past a mode that records or replaces operations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import bnspec
from bnspec._modes import observer, readable, transformation

torch = pytest.importorskip("torch", reason="torch is not installed")

#: torch makes its own rules of forward mode by what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

#: A tensor as torch stores it, and two modes of a user's own that change nothing.
X = torch.arange(12.0).reshape(4, 3)


def make_fx(**options: Any) -> Callable[..., Any]:
    """`make_fx`, which is not in the stubs."""
    from torch.fx.experimental import proxy_tensor

    return lambda f, x: proxy_tensor.make_fx(f, **options)(x)


@contextmanager
def watching() -> Iterator[None]:
    """A user's own mode that sees each operation and changes none."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Watch():
        yield


@contextmanager
def calling() -> Iterator[None]:
    """A user's own mode that sees each function and changes none."""
    from torch.overrides import TorchFunctionMode

    class Call(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Call():
        yield


def seen(run: Callable[[Callable[..., Any], Any], Any]) -> list[tuple[str | None, str | None, bool]]:
    """What is answered inside a transformation, for the tensor it passes and for one from outside."""
    answers: list[Any] = []

    def f(v: Any) -> Any:
        answers.extend((transformation(t), observer(t), readable(t)) for t in (v, X))
        return (v * v).sum()

    run(f, X)
    return answers


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("torch.func.grad", lambda f, x: torch.func.grad(f)(x)),
        ("torch.func.vmap", lambda f, x: torch.func.vmap(f)(x)),
        ("torch.func.jvp", lambda f, x: torch.func.jvp(f, (x,), (x,))),
        ("torch.jit.trace", lambda f, x: torch.jit.trace(f, x, check_trace=False)),
        ("ProxyTorchDispatchMode", make_fx(tracing_mode="real")),
        ("PreDispatchTorchFunctionMode", make_fx(pre_dispatch=True)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformations_are_named(name: str, run: Any) -> None:
    """What records or replaces operations is named, also for a tensor that it does not hold itself."""
    answers = seen(run)
    assert answers
    assert all(answer == (name, name, False) for answer in answers)


def test_place_holders_are_named() -> None:
    """A fake tensor, and a cotangent that stands for a batch of them, have no values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        assert transformation(torch.ones(2)) == "FakeTensorMode"
    assert transformation(mode.from_tensor(X)) == "FakeTensor"

    answers: list[Any] = []

    class Twice(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            answers.append((transformation(g), readable(g)))
            return g * 2

    x = X.clone().requires_grad_()
    torch.autograd.grad(Twice.apply(x), x, torch.ones(2, 4, 3), is_grads_batched=True)
    assert answers == [("torch.autograd.grad of a batch", False)]


def test_watchers_see_values() -> None:
    """Modes and classes that watch leave the values where they are, and yet no memory is read past them."""
    for mode, name in ((watching(), "Watch"), (calling(), "Call")):
        with mode:
            assert (transformation(X), observer(X), readable(X)) == (None, name, False)
    with torch.autograd.forward_ad.dual_level():
        assert (transformation(X), observer(X), readable(X)) == (None, "torch.autograd.forward_ad", False)

    class Metres(torch.Tensor):  # type: ignore[misc, name-defined]
        pass

    metres = X.as_subclass(Metres)
    assert (transformation(metres), observer(metres), readable(metres)) == (None, "Metres", False)


def test_nobody_is_there() -> None:
    """Outside of a mode, and in those that are no business of an operation's, the memory is read."""
    assert (transformation(X), observer(X), readable(X, None)) == (None, None, True)
    with torch.inference_mode(), torch.device("cpu"), torch.autocast("cpu", enabled=True):
        assert (transformation(X), observer(X), readable(X, torch.ones(2))) == (None, None, True)
    assert not any(map(readable, (X.to("meta"), X.to_sparse(), torch._efficientzerotensor((2,)))))


def test_jax_shows_in_the_arrays() -> None:
    """Tracers are named by the transformation that made them; a plain array has values."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    x, found = jax.numpy.ones(3), []

    def f(v: Any) -> Any:
        found.append(transformation(v))
        return (v * v).sum()

    assert (transformation(x), observer(x)) == (None, None)
    jax.jit(f)(x), jax.vmap(f)(x), jax.grad(f)(x)
    assert found == ["jax.jit", "jax.vmap", "jax.grad or jax.jvp"]


def formula(x: Any, gamma: Any) -> Any:
    """Normalization by the batch in plain operations of torch."""
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * gamma


def ours(x: Any, gamma: Any) -> Any:
    """The same by bnspec."""
    return bnspec.batch_norm(x, bnspec.Params(gamma, torch.zeros_like(gamma)), CONFIG)[0]


def inferred(x: Any, gamma: Any) -> Any:
    """Normalization by the running statistics of a fresh state."""
    _, state = bnspec.init(CONFIG, channels=3, like=x)
    return bnspec.batch_norm_inference(x, bnspec.Params(gamma, torch.zeros_like(gamma)), state, CONFIG)[0]


def cubed(operation: Any) -> Any:
    """A loss that is not linear in y."""
    return lambda x, gamma: (operation(x, gamma) ** 3).sum()


CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
GAMMA = torch.tensor([0.5, 1.0, -2.0])
NOISE = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, 0.1], [-0.7, 0.4, -1.1], [0.0, 2.0, 0.6], [1.0, -0.3, 0.9]])


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.parametrize("operation", [ours, inferred])
def test_recorded_graphs_compute(operation: Any) -> None:
    """What torch records of an example answers for other inputs, of another batch size too."""
    again = torch.cat([NOISE * 3 + 1, NOISE])
    want = operation(again, GAMMA)
    assert torch.allclose(torch.jit.trace(operation, (NOISE, GAMMA), check_trace=False)(again, GAMMA), want)
    for mode in ("real", "fake", "symbolic"):
        from torch.fx.experimental import proxy_tensor

        recorded = proxy_tensor.make_fx(operation, tracing_mode=mode)(NOISE, GAMMA)
        assert torch.allclose(recorded(again[:5], GAMMA), operation(again[:5], GAMMA))


@pytest.mark.parametrize("argument", [0, 1])
def test_functions_that_transform_by_one_argument(argument: int) -> None:
    """The other arguments are plain tensors inside, and yet nothing reads them past the transformation."""
    for transform in (torch.func.grad, torch.func.hessian):
        got, want = (transform(cubed(f), argument)(NOISE, GAMMA) for f in (ours, formula))
        assert torch.allclose(got, want, rtol=1e-3, atol=1e-3)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        got, want = (transform(f, argument)(NOISE, GAMMA) for f in (ours, formula))
        assert torch.allclose(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_batches_of_cotangents(dtype: Any) -> None:
    """One backward pass for many cotangents, by each of torch's ways to ask for it; float64 sums with their errors."""
    x, gamma = NOISE.to(dtype, copy=True).requires_grad_(), GAMMA.to(dtype)
    y, each = ours(x, gamma), torch.eye(15, dtype=dtype).reshape(15, 5, 3)
    want = torch.func.jacrev(formula)(NOISE.to(dtype), gamma).reshape(15, 5, 3)
    for options in ({"retain_graph": True}, {"create_graph": True}):
        (got,) = torch.autograd.grad(y, x, each, is_grads_batched=True, **options)
        assert torch.allclose(got, want, rtol=1e-3, atol=1e-4)
    got = torch.func.vmap(lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0])(each)
    assert torch.allclose(got, want, rtol=1e-3, atol=1e-4)
    got = torch.autograd.functional.jacobian(lambda v: ours(v, gamma), x.detach(), vectorize=True)
    assert torch.allclose(got.reshape(15, 5, 3), want, rtol=1e-3, atol=1e-4)


def test_watchers_miss_nothing() -> None:
    """A mode that watches sees the operations of a call and of its backward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = NOISE.clone().requires_grad_()
    with Watch():
        y = ours(x, GAMMA)
    assert any("sum" in name for name in seen)
    seen.clear()
    with Watch():
        y.pow(3).sum().backward()
    assert any("sum" in name for name in seen)
    assert torch.allclose(y, formula(NOISE, GAMMA), atol=1e-6)
    assert torch.allclose(x.grad, torch.func.grad(cubed(formula))(NOISE, GAMMA), rtol=1e-3, atol=1e-4)


def test_fake_tensors_pass_through() -> None:
    """Shapes and dtypes can be asked for without values, also outside of the mode that made the tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        inside = ours(torch.ones(5, 3, dtype=torch.float16), torch.ones(3))
    outside = ours(*map(mode.from_tensor, (NOISE, GAMMA)))
    assert (inside.shape, inside.dtype) == ((5, 3), torch.float16)
    assert (outside.shape, type(outside)) == ((5, 3), type(inside))
