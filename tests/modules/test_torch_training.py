"""A residual network trained with torch's layers and with bnspec's: the same losses, the same state."""

import copy
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from residual_network import ResNet, digits, train  # noqa: E402 - after torch was found

from bnspec import torch as ours  # noqa: E402

STEPS = 20


def trained(dtype: Any, replaced: bool, seed: int = 0) -> tuple[list[float], dict[str, Any]]:
    """Losses, and the state after the last step."""
    torch.manual_seed(seed)
    model = ResNet().to(dtype)
    if replaced:
        ours.replace(model)
    images, kinds = digits(640, dtype)
    losses = train(model, images, kinds, STEPS)
    assert losses[-1] < 0.5 * losses[0]
    return losses, copy.deepcopy(model.state_dict())


def apart(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Root of the sum of all squared differences."""
    return math.sqrt(sum(float(((found[k].double() - v.double()) ** 2).sum()) for k, v in wanted.items()))


def test_float64_is_equal_to_torch() -> None:
    losses, state = trained(torch.float64, replaced=True)
    wanted, theirs = trained(torch.float64, replaced=False)
    assert max(abs(a - b) for a, b in zip(losses, wanted, strict=True)) < 1e-12
    assert list(state) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


def test_float32_is_closer_to_float64_than_torch() -> None:
    """Most of the distance is the convolutions', which are torch's in both; so the sum of a few runs is compared."""
    ours_apart = theirs_apart = 0.0
    for seed in range(3):
        _, right = trained(torch.float64, True, seed)
        ours_apart += apart(trained(torch.float32, True, seed)[1], right)
        theirs_apart += apart(trained(torch.float32, False, seed)[1], right)
    assert ours_apart < theirs_apart < 1e-4


@pytest.mark.parametrize("options", [{"virtual_batch_size": 8}, {"nonfinite": "skip"}])
def test_options_train_too(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = ours.replace(ResNet(), **options)
    images, kinds = digits(320, torch.float32)
    losses = train(model, images, kinds, STEPS)
    assert losses[-1] < 0.5 * losses[0]
