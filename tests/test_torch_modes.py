"""Which mode torch is in, and that no call reads a tensor's memory past a mode that records or replaces operations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bnspec._modes import observer, readable, transformation

torch = pytest.importorskip("torch", reason="torch is not installed")

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
    answers = []

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

    answers = []

    class Twice(torch.autograd.Function):
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

    class Metres(torch.Tensor):
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
