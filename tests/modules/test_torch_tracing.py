"""Graphs of `torch.jit.trace`: right for batches and images of other sizes than the example's, or refused."""

import copy
from typing import Any

import pytest

import bnspec

torch = pytest.importorskip("torch", reason="torch is not installed")

from bnspec import torch as ours  # noqa: E402 - after torch was found

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cumulative": {"momentum": None},
    "debiased": {"averaging": "debiased"},
    "pooled": {"averaging": "pooled"},
    "renorm": {"renorm": bnspec.Renorm(rmax=1.5, dmax=0.5)},
    "skip": {"nonfinite": "skip"},
    "untracked": {"track_running_stats": False},
}


class Padded(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A module whose input has lengths, or a mask."""

    def __init__(self, module: Any, what: str) -> None:
        super().__init__()
        self.module, self.what = module, what

    def forward(self, x: Any, more: Any) -> Any:
        return self.module(x, **{self.what: more})


def example(samples: int, steps: int, dtype: Any) -> Any:
    """A batch far from 0, which shows what is left out of a sum."""
    return torch.randn(samples, 3, steps, dtype=dtype) * 3 + 5


def same(graph: Any, module: Any, *given: Any) -> None:
    """Ask that a graph gives what the module gives, and moves the same statistics as far."""
    eager = copy.deepcopy(module)
    torch.testing.assert_close(graph(*given), eager(*given))
    for a, b in zip(module.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_graph_of_training_is_right_for_other_sizes(name: str, dtype: Any) -> None:
    torch.manual_seed(0)
    module = ours.BatchNorm1d(3, dtype=dtype, **OPTIONS[name])
    graph = torch.jit.trace(module, example(8, 7, dtype), check_trace=False)
    for sizes in ((2, 3), (8, 7), (10, 5), (64, 11)):
        same(graph, module, example(*sizes, dtype))


# array_api_compat's arange asks which of its ends is larger.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("what", ["mask", "lengths"])
def test_masks_too(what: str) -> None:
    def given(samples: int, steps: int) -> tuple[Any, Any]:
        more = torch.rand(samples, 1, steps) > 0.3 if what == "mask" else torch.randint(2, steps + 1, (samples,))
        return example(samples, steps, torch.float64), more

    torch.manual_seed(0)
    module = Padded(ours.BatchNorm1d(3, dtype=torch.float64), what)
    graph = torch.jit.trace(module, given(8, 7), check_trace=False)
    for sizes in ((4, 3), (10, 5), (64, 11)):
        same(graph, module, *given(*sizes))


@pytest.mark.parametrize("size", [2, 8])
def test_ghost_groups_are_those_of_the_example_s_size(size: int) -> None:
    """The number of groups is a constant of such a graph, so another batch must not go through it."""
    module = ours.BatchNorm1d(3, virtual_batch_size=size)
    graph = torch.jit.trace(module, example(8, 7, torch.float32), check_trace=False)
    same(graph, module, example(8, 5, torch.float32))
    for samples in (2, 10, 64):
        with pytest.raises(RuntimeError, match=r"shape '\[8, 3, 7\]' is invalid for input"):
            graph(example(samples, 7, torch.float32))
    module.eval()
    assert torch.jit.trace(module, example(8, 7, torch.float32))(example(5, 7, torch.float32)).shape == (5, 3, 7)


def test_the_functions_too() -> None:
    """The sums of the explicit gradient are of the same kind."""
    config = bnspec.dialects.torch.config(axis=1)
    params, _ = bnspec.init(config, channels=3, like=torch.ones(1, dtype=torch.float64))

    def gradient(x: Any, dy: Any) -> Any:
        _, _, saved = bnspec.batch_norm(x, params, config)
        return bnspec.batch_norm_vjp(dy, saved).x

    given = [(example(n, 4, torch.float64), example(n, 4, torch.float64)) for n in (8, 11, 64)]
    graph = torch.jit.trace(gradient, given[0], check_trace=False)
    for pair in given:
        torch.testing.assert_close(graph(*pair), gradient(*pair))
