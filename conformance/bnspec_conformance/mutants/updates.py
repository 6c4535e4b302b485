"""Changes of `bnspec.Kernels.update` for mutants: another configuration, other statistics, another new state."""

import dataclasses
from collections.abc import Callable
from typing import Any

from bnspec import Moments, RunningState
from bnspec_conformance.mutants.overriding import Behaviour, Override, override

__all__ = ["configured", "feeding_empty", "from_update", "full", "taken_as", "with_new", "with_stats"]


def full(stats: Moments) -> bool:
    """Return whether there are groups, and none is empty."""
    return bool(stats.count.size and stats.count.all())


def configured(when: Callable[[Any], bool], **fields: Any) -> Behaviour:
    """Return the behaviour of `update` under another configuration.

    Parameters
    ----------
    when : callable
        Tells of the configuration whether it is another one.
    **fields
        By name: a value, or a function that returns it for a configuration.
    """

    def update(original: Any, state: Any, stats: Any, config: Any, **named: Any) -> Any:
        if when(config):
            new = {name: value(config) if callable(value) else value for name, value in fields.items()}
            config = dataclasses.replace(config, **new)
        return original(state, stats, config, **named)

    return update


def with_stats(change: Callable[..., Any]) -> Override:
    """Return a change of `update`: it is given ``change(stats, config)``, or the right statistics for None."""

    def update(original: Any, state: Any, stats: Any, config: Any, **named: Any) -> Any:
        changed = change(stats, config)
        return original(state, stats if changed is None else changed, config, **named)

    return override(update=update)


def from_update(fields: tuple[str, ...], when: Any, change: Any) -> Override:
    """Return a change of `update`: some fields of the new state come from another update.

    Parameters
    ----------
    fields : tuple of str
    when : callable
        Tells of the configuration whether it is another one.
    change : callable
        Returns another state and other statistics, given the right ones and the configuration.
    """

    def update(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> RunningState:
        new: RunningState = original(state, stats, config, **named)
        if not when(config) or not full(stats):
            return new
        other = original(*change(state, stats, config), config, **named)
        return new._replace(**{field: getattr(other, field) for field in fields})

    return override(update=update)


def with_new(change: Any) -> Override:
    """Return a change of `update`: ``change(new, old, stats, config)`` takes the place of the new state."""

    def update(original: Any, state: RunningState, stats: Moments, config: Any, **named: Any) -> Any:
        return change(original(state, stats, config, **named), state, stats, config)

    return override(update=update)


def taken_as(field: str, value: str, other: str) -> Override:
    """Return a change of `update`: one value of an option is taken as another."""
    return override(update=configured(lambda config: getattr(config, field) == value, **{field: other}))


def feeding_empty(mean: float) -> Override:
    """Return a change of `update`: a batch without elements feeds a mean and variance 0, as if it had two."""

    def change(stats: Moments, config: Any) -> Moments | None:
        if stats.count.any() or config.averaging == "pooled":
            return None
        return stats._replace(count=stats.count + 2, mean=stats.mean + mean)

    return with_stats(change)
