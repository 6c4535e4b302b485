"""The short way through a module's call has the results of the long way, to the bit, and is gone where it may be."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

import bnspec  # noqa: E402
import bnspec.torch  # noqa: E402
from bnspec_backends import cpu  # noqa: E402

if cpu.in_use() != "compiled":
    pytest.skip("whole calls are those of the compiled kernels", allow_module_level=True)

from bnspec_backends.cpu import torch_calls  # noqa: E402
from bnspec_backends.cpu.torch_kernels import TorchCpuKernels  # noqa: E402

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    "expanded": lambda x: x[:1].expand(x.shape),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "without gamma": {"affine": False},
    "without beta": {"bias": False},
    "untracked": {"track_running_stats": False},
    "cumulative": {"momentum": None},
    "ghost": {"virtual_batch_size": 2, "ghost_source": "merged"},
    "frozen": {"frozen": True},
    "divided by the count": {"correction": 0},
    "debiased": {"averaging": "debiased"},
    "renorm": {"renorm": bnspec.Renorm(rmax=2.0, dmax=1.0)},
}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[], None], list[str]]:
    """Return a function that forbids the short way, and the calls that went it so far."""
    seen: list[str] = []
    for kind in (torch_calls.BatchCall, torch_calls.RunningCall):

        def normalize(self: Any, *given: Any, kept: Any = kind.normalize) -> Any:
            seen.append(type(self).__name__)
            return kept(self, *given)

        monkeypatch.setattr(kind, "normalize", normalize)
    return lambda: monkeypatch.setattr(TorchCpuKernels, "_whole_calls", None), seen


def module_of(options: dict[str, Any], training: bool = True, dtype: Any = torch.float32) -> Any:
    """Return a module with parameters and state that are not those of a fresh one."""
    torch.manual_seed(3)
    module = bnspec.torch.BatchNorm2d(6, **options)
    for v in module.parameters():
        torch.nn.init.normal_(v)
    if module.running_mean is not None:
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2.0)
    if dtype == torch.float64:
        module.double()
    return module.train(training)


def results(module: Any, x: Any, dy: Any) -> list[Any]:
    """Return all that two steps of a module make."""
    found = []
    for _ in range(2):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = module(leaf)
        grads = torch.autograd.grad(y, [leaf, *module.parameters()], dy)
        found += [y.detach(), *grads, *(v.clone() for v in module.buffers())]
    with torch.no_grad():
        found.append(module(x))
    return found


def same(a: list[Any], b: list[Any]) -> list[bool]:
    """Return for each pair whether all bits are equal."""
    bits = [[v.detach().contiguous().reshape(-1).view(torch.uint8) for v in side] for side in (a, b)]
    return [torch.equal(v, w) for v, w in zip(*bits, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", OPTIONS)
def test_both_ways_are_the_same_to_the_bit(options: Any, dtype: Any, whole: Any) -> None:
    forbid, seen = whole
    torch.manual_seed(1)
    x, dy = (3 * torch.randn(8, 6, 5, 7) + 2).to(dtype), torch.randn(8, 6, 5, 7).to(dtype)
    cases = list(itertools.product(LAYOUTS.values(), (True, False)))
    short = [results(module_of(OPTIONS[options], train, dtype), of(x), dy) for of, train in cases]
    if options not in ("debiased", "renorm"):
        assert len(seen) >= 3 * len(cases)
    forbid()
    del seen[:]
    long = [results(module_of(OPTIONS[options], train, dtype), of(x), dy) for of, train in cases]
    assert not seen
    assert all(all(same(a, b)) for a, b in zip(short, long, strict=True))
    assert [[v.stride() for v in a] for a in short] == [[v.stride() for v in a] for a in long]


@pytest.mark.parametrize("shape", [(2, 6, 1, 1), (1, 6, 2, 1), (64, 6, 1, 1), (3, 6, 70, 70), (1, 6, 700, 1)])
@pytest.mark.parametrize("training", [True, False])
def test_sizes_are_the_same_to_the_bit(shape: tuple[int, ...], training: bool, whole: Any) -> None:
    forbid, seen = whole
    x, dy = torch.randn(shape), torch.randn(shape)
    short = results(module_of({}, training), x, dy)
    assert seen
    forbid()
    assert all(same(short, results(module_of({}, training), x, dy)))


@pytest.mark.parametrize("training", [True, False])
def test_derivatives_of_every_kind_are_those_of_the_long_way(training: bool, whole: Any) -> None:
    forbid, seen = whole

    def found() -> list[Any]:
        module = module_of({}, training, torch.float64)
        torch.manual_seed(2)
        x = torch.randn(4, 6, 3, 2, dtype=torch.float64, requires_grad=True)
        dys = torch.randn(3, 4, 6, 3, 2, dtype=torch.float64)
        y = module(x)
        leaves = [x, *module.parameters()]
        once = torch.autograd.grad(y, leaves, dys[0], retain_graph=True)
        again = torch.autograd.grad(y, leaves, dys[0], retain_graph=True)
        batched = torch.autograd.grad(y, leaves, dys, is_grads_batched=True, retain_graph=True)
        first = torch.autograd.grad(y, leaves, dys[1], create_graph=True)
        second = torch.autograd.grad(sum((v**3).sum() for v in first), leaves[:2])  # beta is in none of them
        assert all(same(once, again))
        return [*once, *batched, *first, *second]

    short = found()
    assert seen
    forbid()
    for a, b in zip(short, found(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_only_what_is_wanted_needs_a_gradient(whole: Any) -> None:
    _, seen = whole
    module = module_of({})
    for v in module.parameters():
        v.requires_grad_(False)
    x = torch.randn(4, 6, 3, 2, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert not module(x.detach()).requires_grad
    assert seen == ["BatchCall", "BatchCall"]


@pytest.mark.parametrize(
    ("options", "spoil", "error"),
    [
        ({}, lambda x, module: x[:1, :, :1, :1], "BN-RUN-4"),
        ({"nonfinite": "raise"}, lambda x, module: x.mul_(float("nan")), "BN-RUN-10"),
        ({}, lambda x, module: (x, module.running_var.neg_())[0], "BN-RUN-14"),
        (
            {},
            lambda x, module: (x, module._parameters.update(weight=torch.nn.Parameter(torch.ones(1))))[0],
            "BN-SHAPE-6",
        ),
        ({}, lambda x, module: (x, module._buffers.update(running_var=torch.ones(2)))[0], "BN-SHAPE-6"),
    ],
)
def test_both_ways_refuse_the_same_and_change_nothing(options: Any, spoil: Any, error: str, whole: Any) -> None:
    forbid, _ = whole

    def refused() -> str:
        module = module_of(options)
        x = spoil(torch.randn(4, 6, 3, 2), module)
        before = [v.clone() for v in module.buffers()]
        with pytest.raises((ValueError, TypeError, FloatingPointError)) as caught:
            module(x)
        assert all(same(before, list(module.buffers())))
        return str(caught.value)

    text = refused()
    assert error in text
    forbid()
    assert refused() == text


def test_infinite_batches_move_the_state_as_the_long_way_does(whole: Any) -> None:
    forbid, _ = whole
    x = torch.randn(4, 6, 3, 2)
    x[0, 2, 0, 0] = float("inf")

    def state() -> list[Any]:
        module = module_of({})
        module(x)
        return [v.clone() for v in module.buffers()]

    short = state()
    forbid()
    assert all(same(short, state()))


def test_whoever_kept_the_state_for_a_gradient_hears_that_it_moved() -> None:
    module = module_of({})
    leaf = torch.ones(6, requires_grad=True)
    kept = (leaf * module.running_mean).sum()
    module(torch.randn(4, 6, 3, 2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_in_inference_mode_the_state_moves() -> None:
    module = module_of({})
    before = module.running_mean.clone()
    with torch.inference_mode():
        module(torch.randn(4, 6, 3, 2))
        inside = module_of({})
        inside.running_mean = inside.running_mean.clone()
        inside(torch.randn(4, 6, 3, 2))
    assert not torch.equal(before, module.running_mean)
    assert int(module.num_batches_tracked) == 1


def test_state_that_was_in_a_graph_may_move_between_forward_and_backward() -> None:
    module = module_of({}, training=False)
    x = torch.randn(4, 6, 3, 2, requires_grad=True)
    y = module(x)
    with torch.no_grad():
        module.running_var.mul_(4.0)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
    (plain,) = torch.autograd.grad(module_of({}, training=False)(x), x, torch.ones_like(y))
    torch.testing.assert_close(dx.detach(), plain)


def test_overrides_of_kernels_are_asked(whole: Any) -> None:
    _, seen = whole

    class Counting(TorchCpuKernels):
        _asked = 0

        def _forward(self, *given: Any, **more: Any) -> Any:
            Counting._asked += 1
            return super()._forward(*given, **more)

    with bnspec.use_kernels("torch", Counting()):
        module_of({})(torch.randn(4, 6, 3, 2))
    assert Counting._asked == 1
    assert not seen


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_watchers_see_operations(whole: Any) -> None:
    _, seen = whole
    from torch.utils.flop_counter import FlopCounterMode

    module, x = module_of({}, training=False), torch.randn(4, 6, 3, 2)
    with FlopCounterMode(display=False):
        module(x)
    torch.func.vmap(module)(x[None])
    torch.jit.trace(module, x, check_trace=False)
    assert not seen


def test_checkpoints_move_the_state_once(whole: Any) -> None:
    _, seen = whole
    from torch.utils.checkpoint import checkpoint

    module, x = module_of({}), torch.randn(4, 6, 3, 2, requires_grad=True)
    for reentrant in (False, True):
        checkpoint(module, x, use_reentrant=reentrant).sum().backward()
    assert len(seen) == 4
    assert int(module.num_batches_tracked) == 2
