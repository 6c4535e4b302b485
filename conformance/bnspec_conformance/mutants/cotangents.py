"""Changes of `bnspec.Kernels.pull_back` for mutants: other coefficients of dx, another record of the forward pass."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bnspec import Saved
from bnspec_conformance.mutants.overriding import Behaviour, Override, inside, override

__all__ = ["batch_only", "from_saved", "live", "with_coefficients"]


def live(saved: Saved) -> Any:
    """Return where elements count, in x's shape."""
    return np.broadcast_to(True if saved.mask is None else saved.mask, saved.x.shape)


def batch_only(behaviour: Behaviour) -> Override:
    """Return a change of `pull_back` where the statistics are those of the batch, and not frozen ones."""

    def pull_back(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
        return original(dy, saved, **more) if saved.frozen else behaviour(original, dy, saved, **more)

    return override(pull_back=pull_back)


def with_coefficients(change: Callable[[Any, Any, Any], Any], when: Callable[[Saved], bool] = bool) -> Override:
    """Return a change of `pull_back`: other coefficients a, b, c of ``dx = a*g + b*(x - mean) + c``."""

    def grad_input(original: Any, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, *rest: Any) -> Any:
        return original(dy, x, centre, *change(a, b, c), *rest)

    def pull_back(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
        behaviour = inside(grad_input=grad_input)
        return behaviour(original, dy, saved, **more) if when(saved) else original(dy, saved, **more)

    return override(pull_back=pull_back)


def from_saved(field: str, change: Callable[[Saved], Saved]) -> Behaviour:
    """Return a behaviour of `pull_back`: one gradient comes from another record of the forward pass."""

    def pull_back(original: Any, dy: Any, saved: Saved, **more: Any) -> Any:
        other = original(dy, change(saved), **more)
        return original(dy, saved, **more)._replace(**{field: getattr(other, field)})

    return pull_back
