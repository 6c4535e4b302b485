"""The context behind ``training=None``: whether we train, which replica this is, who collects updates.

The context is tensorpack's tower context. A layer that is not told whether to train asks the context; without one it
asks its own `train`/`eval` switch. Running-state updates that a layer hands to the *collection* wait in
``context.updates`` until the caller runs them (SPEC.md, "Update timing").
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from bnspec._checks.scalars import switch
from bnspec._errors import FrozenStatisticsWarning, refusal
from bnspec._locks import Lock

__all__ = [
    "TrainingContext",
    "UpdateCollection",
    "current_context",
    "forget_frozen_warning",
    "is_recomputing",
    "recompute",
    "training_context",
    "warn_frozen",
]


class UpdateCollection:
    """Running-state updates that wait for their caller, in call order [BN-UPD-3].

    Examples
    --------
    >>> updates = UpdateCollection()
    >>> updates.add(lambda: print("first")); updates.add(lambda: print("second"))
    >>> updates.run()
    first
    second
    >>> len(updates)
    0
    """

    def __init__(self, *, frozen: bool = False) -> None:
        self._pending: list[Callable[[], None]] = []
        self._lock = Lock()  # an update may add another, in the same thread
        self.frozen = frozen

    def add(self, update: Callable[[], None]) -> None:
        """Append an update; a frozen collection, that of a prediction context, drops it [BN-UPD-7]."""
        with self._lock.held():
            if not self.frozen:
                self._pending.append(update)

    def run(self) -> None:
        """Apply the pending updates, each once.

        Each is computed against the state at this moment. If one raises, it and those behind it stay pending.
        """
        with self._lock.held():
            while self._pending:
                self._pending[0]()
                del self._pending[0]

    def clear(self) -> None:
        """Forget the pending updates."""
        with self._lock.held():
            self._pending.clear()

    def __len__(self) -> int:
        return len(self._pending)


@dataclass(frozen=True)
class TrainingContext:
    """Context of layers that are not told whether to train.

    Attributes
    ----------
    is_training : bool
        Whether the call belongs to training.
    tower : int
        Index of the replica; only tower 0 of a training context updates shared variables [BN-UPD-6].
    updates : UpdateCollection
        Where collected updates go.
    """

    is_training: bool
    tower: int = 0
    updates: UpdateCollection = field(default_factory=UpdateCollection, compare=False)

    def __post_init__(self) -> None:
        advice = "True trains, False predicts."
        object.__setattr__(self, "is_training", switch("is_training", self.is_training, "BN-UPD-7", advice))

    @property
    def is_main_training_tower(self) -> bool:
        """Return whether this is the one replica that updates."""
        return self.is_training and self.tower == 0


_context: ContextVar[TrainingContext | None] = ContextVar("bnspec.context", default=None)
_recomputing: ContextVar[bool] = ContextVar("bnspec.recomputing", default=False)
_frozen_lock = Lock()
_frozen_warned = False


@contextmanager
def training_context(
    is_training: bool = True, *, tower: int = 0, updates: UpdateCollection | None = None
) -> Iterator[TrainingContext]:
    """Decide ``training=None`` for the layers called inside the ``with`` block.

    Parameters
    ----------
    is_training : bool
        True for training, False for prediction, whose collection is frozen [BN-UPD-7].
    tower : int
        This replica's index, >= 0.
    updates : UpdateCollection, optional
        A collection to share between blocks; a new one by default.

    Raises
    ------
    ValueError, TypeError
        For a tower that is no integer >= 0, and an `is_training` that is no boolean.

    Examples
    --------
    >>> with training_context(is_training=False) as context:
    ...     current_context() is context, context.updates.frozen
    (True, True)
    >>> current_context() is None
    True
    """
    if isinstance(tower, bool) or not isinstance(tower, int) or tower < 0:
        raise refusal(
            ValueError,
            "BN-UPD-6",
            got=f"tower is {tower!r}",
            expected="an integer >= 0",
            do="Number the replicas from 0; tower 0 updates.",
        )
    is_training = switch("is_training", is_training, "BN-UPD-7", "True trains, False predicts.")
    if updates is None or not is_training:
        updates = UpdateCollection(frozen=not is_training)
    context = TrainingContext(is_training, tower, updates)
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


def current_context() -> TrainingContext | None:
    """The innermost `training_context`, or None."""
    return _context.get()


@contextmanager
def recompute() -> Iterator[None]:
    """Mark a forward pass that repeats one whose updates were already made or collected [BN-UPD-5].

    Activation checkpointing runs a layer twice in one logical step; inside this block layers normalize as
    ever and update nothing.
    """
    token = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(token)


def is_recomputing() -> bool:
    """Return whether we are inside `recompute`."""
    return _recomputing.get()


def warn_frozen(name: str) -> None:
    """Warn, once per process, that a layer trains on running statistics [BN-INF-5]."""
    global _frozen_warned
    with _frozen_lock.held():
        if _frozen_warned:
            return
        _frozen_warned = True
    warnings.warn(
        f"{name} normalizes by its running statistics while training: they stay as they are, and gradients treat them "
        "as constants [BN-INF-5]. This is said once; other layers may do the same.",
        FrozenStatisticsWarning,
        stacklevel=3,
    )


def forget_frozen_warning() -> None:
    """Let `warn_frozen` speak again; for tests."""
    global _frozen_warned
    with _frozen_lock.held():
        _frozen_warned = False
