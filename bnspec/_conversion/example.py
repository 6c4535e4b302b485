"""Worked example by which two configurations are compared: a short training run, and inference after it.

Every number follows from the functions of bnspec, on the same batches for both.
"""

import dataclasses
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from bnspec._apply import apply
from bnspec._batch_norm import batch_norm, batch_norm_inference
from bnspec._config import BatchNormConfig
from bnspec._init import init
from bnspec._update import update_running

if TYPE_CHECKING:  # `import bnspec` must not load NumPy
    import numpy as np

__all__ = ["BATCHES", "Effect", "SHAPE", "effect", "sync_effect", "text_of_example"]

#: Of each batch, with the channels on axis 1.
SHAPE = (8, 2, 1, 4)

BATCHES = 20

#: Standard deviations of the two channels, about: a small one shows epsilon.
_SPREADS = (0.05, 2.0)


class Effect(NamedTuple):
    """Largest difference of y, in standard deviations of a channel since gamma is 1."""

    training: float  # over all batches
    inference: float  # of the first batch, after the last update


def text_of_example() -> str:
    """Return what the example is, in one sentence."""
    n = SHAPE[0] * SHAPE[2] * SHAPE[3]
    spreads = " and ".join(f"{spread:g}" for spread in _SPREADS)
    return (
        f"Worked example: {BATCHES} batches of shape {SHAPE}, so n={n} in each channel, of standard deviations about "
        f"{spreads}; float64, gamma 1, beta 0. A size is the largest difference of y."
    )


def effect(first: BatchNormConfig, second: BatchNormConfig) -> Effect:
    """Return how far two configurations are apart on the example.

    Examples
    --------
    >>> from bnspec import dialects
    >>> same = dialects.torch.config()
    >>> effect(same, same)
    Effect(training=0.0, inference=0.0)
    """
    return _apart(_run(first), _run(second))


def sync_effect(first: BatchNormConfig, second: BatchNormConfig) -> Effect:
    """Return the same for two ranks, of which the first has three quarters of each batch."""
    return _apart(_on_two_ranks(first), _on_two_ranks(second))


def _apart(a: Any, b: Any) -> Effect:
    import numpy as np

    training = max(float(np.abs(y - z).max()) for y, z in zip(a[0], b[0]))
    return Effect(training, float(np.abs(a[1] - b[1]).max()))


def _batches() -> "list[np.ndarray[Any, Any]]":
    """The same numbers everywhere and always, without a generator: multiples of an irrational number, modulo 1."""
    import numpy as np

    number = BATCHES * int(np.prod(SHAPE))
    uniform = (np.arange(1, number + 1) * (5**0.5 - 1) / 2) % 1.0
    scale = np.asarray(_SPREADS).reshape(1, 2, 1, 1) * 12**0.5
    drift = np.linspace(1.0, 1.5, BATCHES).reshape(-1, 1, 1, 1, 1)  # statistics move while a network trains
    return list((uniform.reshape(BATCHES, *SHAPE) - 0.5) * scale * drift + scale)


def _run(config: BatchNormConfig) -> Any:
    config = dataclasses.replace(config, axis=1)
    batches = _batches()
    params, state = init(config, channels=SHAPE[1], like=batches[0])
    made = []
    for x in batches:
        y, stats, _ = batch_norm(x, params, config, state=state)
        state = update_running(state, stats, config)
        made.append(y)
    return made, batch_norm_inference(batches[0], params, state, config)[0]


def _on_two_ranks(config: BatchNormConfig) -> Any:
    import numpy as np

    config = dataclasses.replace(config, axis=1)
    at = SHAPE[0] * 3 // 4
    batches = _batches()
    found: list[Any] = [None, None]

    def one(rank: int, comm: Any) -> None:
        params, state = init(config, channels=SHAPE[1], like=batches[0])
        made = []
        for x in batches:
            y, state = apply(x[:at] if rank == 0 else x[at:], params, state, config, train=True, comm=comm)
            made.append(y)
        found[rank] = made, batch_norm_inference(batches[0], params, state, config)[0]

    meeting = _Meeting()
    threads = [threading.Thread(target=one, args=(rank, _Rank(rank, meeting))) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (first, inferred), (second, _) = found
    return [np.concatenate(parts) for parts in zip(first, second)], inferred


class _Meeting:
    """Place where two ranks leave their payloads."""

    def __init__(self) -> None:
        self.left: dict[int, Any] = {}
        self.both = threading.Barrier(2, timeout=60)


class _Rank:
    """Communicator of one of two threads."""

    size = 2

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank = rank
        self._meeting = meeting

    def all_reduce(self, payload: Any, combine: Callable[[Any, Any], Any], signature: Any) -> Any:
        """Combine both payloads, that of the lower rank first."""
        self._meeting.left[self.rank] = payload
        self._meeting.both.wait()
        made = combine(self._meeting.left[0], self._meeting.left[1])
        self._meeting.both.wait()
        return made
