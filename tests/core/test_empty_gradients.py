"""Parameter gradients of an empty batch are 0 whatever the statistics are, also by a library's own derivative."""

from typing import Any

import numpy as np
import pytest

import bnspec

PLAIN: dict[str, Any] = {"axis": 1, "epsilon": 1e-5, "decay": 0.9, "correction": 0}
RENORM = bnspec.Renorm(form="paper", rmax=2.0, dmax=1.0)


def state_of(library: Any, value: float) -> bnspec.RunningState:
    bad, one = (library.asarray(np.asarray(v, np.float32)) for v in ([value, 1.0], [1.0, 1.0]))
    return bnspec.RunningState(mean=one, var=bad, stddev=bad)


def result(library: Any, kind: str, value: float, gamma: Any, beta: Any) -> Any:
    """y of an empty batch by running statistics, or by renorm, that are not finite."""
    x, params = library.asarray(np.zeros((0, 2), np.float32)), bnspec.Params(gamma, beta)
    state = state_of(library, value)
    if kind == "inference":
        config = bnspec.BatchNormConfig(**PLAIN)
        return bnspec.batch_norm_inference(x, params, state._replace(stddev=None), config)[0]
    return bnspec.batch_norm(x, params, bnspec.BatchNormConfig(**PLAIN, renorm=RENORM), state=state)[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["inference", "renorm"])
def test_torch(kind: str, value: float) -> None:
    torch = pytest.importorskip("torch")
    gamma, beta = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    result(torch, kind, value, gamma, beta).sum().backward()
    assert (gamma.grad.tolist(), beta.grad.tolist()) == ([0, 0], [0, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["inference", "renorm"])
def test_jax(kind: str, value: float) -> None:
    jax = pytest.importorskip("jax")
    ones, zeros = jax.numpy.ones(2), jax.numpy.zeros(2)
    grads = jax.grad(lambda g, b: result(jax.numpy, kind, value, g, b).sum(), argnums=(0, 1))(ones, zeros)
    assert [v.tolist() for v in grads] == [[0, 0], [0, 0]]
