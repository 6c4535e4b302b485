"""The running state in exact arithmetic, one channel at a time; independent of bnspec.

A value that is not a number is None and spreads like a NaN. The order of decisions for one update:
nothing happens for count 0; then the divisor (``single_value``), which depends on counts alone; then ``nonfinite``;
then the weight.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from bnspec._config import BatchNormConfig
from bnspec_conformance.cases.case import Array
from bnspec_conformance.oracle.rational import Number, number, root, rounded

__all__ = ["Channel", "Stat", "advance", "channel_state", "pack_state", "reference", "used"]

#: The running state of one channel: rationals by field name, the count as an int.
Channel = dict[str, Number]


@dataclass(frozen=True)
class Stat:
    """Moments of one group and channel: count, mean and m2, the latter None where not finite."""

    n: int
    mean: Number
    m2: Number


def channel_state(state: dict[str, Array], c: int) -> Channel:
    """Return the running state of one channel in exact numbers."""
    return {
        name: Fraction(int(values[c])) if name == "count" else number(float(values[c]))
        for name, values in state.items()
    }


def pack_state(state: dict[str, Array], channels: list[Channel]) -> dict[str, Array]:
    """Return the running state of all channels, float64, the count in its own dtype."""
    return {
        name: np.array([int(channel[name] or 0) for channel in channels], dtype=values.dtype)
        if name == "count"
        else np.array([rounded(channel[name]) for channel in channels], dtype=np.float64)
        for name, values in state.items()
    }


def advance(config: BatchNormConfig, old: Channel, groups: list[Stat], limit: int) -> Channel:
    """Return the state after one call.

    Parameters
    ----------
    config : BatchNormConfig
    old : Channel
        The state before.
    groups : list of Stat
        In order, joined over ranks; may contain empty groups.
    limit : int
        Largest count the counter's dtype holds.

    Raises
    ------
    ValueError
        For a count the correction leaves nothing of (``single_value="raise"``).
    FloatingPointError
        For a statistic that is not finite (``nonfinite="raise"``).
    """
    for stat in _sources(config, groups):
        old = _step(config, old, stat, limit)
    return old


def used(config: BatchNormConfig, state: Channel) -> tuple[Number, Number]:
    """Mean and variance that inference uses."""
    mean, var = state["mean"], state["var"]
    if config.averaging != "debiased":
        return mean, var
    updates = state["count"]
    assert updates is not None
    grown = 1 - Fraction(config.decay) ** int(updates)
    if grown == 0:  # no update yet, or a decay of 1 that lets nothing in
        return Fraction(0), Fraction(1)
    return (None if mean is None else mean / grown), (None if var is None else var / grown)


def reference(config: BatchNormConfig, state: Channel) -> tuple[Number, Number]:
    """Renorm's reference mean and deviation, the latter at least sqrt(epsilon)."""
    assert config.renorm is not None
    own = config.renorm.form == "tensorpack"
    mean, deviation = state["renorm_mean" if own else "mean"], state["renorm_stddev" if own else "stddev"]
    return mean, None if deviation is None else max(deviation, root(Fraction(config.epsilon)))


def _sources(config: BatchNormConfig, groups: list[Stat]) -> list[list[Stat]]:
    """Return the updates to make, each a list of groups whose means and fed variances are averaged."""
    if config.ghost_source == "first":
        return [groups[:1]]
    filled = [stat for stat in groups if stat.n]
    if config.ghost_source == "mean":
        return [filled]
    if config.ghost_source == "sequential":
        return [[stat] for stat in filled]
    return [[_merge(filled)]] if filled else []


def _merge(stats: list[Stat]) -> Stat:
    n = sum(stat.n for stat in stats)
    known = [(stat.n, stat.mean, stat.m2) for stat in stats if stat.mean is not None and stat.m2 is not None]
    if len(known) < len(stats):
        return Stat(n, None, None)
    mean = sum((k * mu for k, mu, _ in known), Fraction(0)) / n
    m2 = sum((squares + k * (mu - mean) ** 2 for k, mu, squares in known), Fraction(0))
    return Stat(n, mean, m2)


def _fed_variance(config: BatchNormConfig, n: int, m2: Number) -> tuple[Number, bool]:
    """m2/(n - correction), and whether the running variance must stay as it is."""
    divisor = n - config.correction
    if divisor <= 0:
        if config.single_value == "raise":
            raise ValueError(f"a count of {n} leaves no divisor for correction {config.correction} [BN-RUN-4]")
        if config.single_value == "keep":
            return None, True
        divisor = 1
    return (None if m2 is None else m2 / divisor), False


def _average(values: list[Number]) -> Number:
    total = Fraction(0)
    for value in values:
        if value is None:
            return None
        total += value
    return total / len(values)


def _mix(old: Number, new: Number, weight: Fraction) -> Number:
    """old + weight*(new - old); weights 0 and 1 take one side whatever the other is."""
    if weight == 0:
        return old
    if weight == 1:
        return new
    return None if old is None or new is None else old + weight * (new - old)


def _step(config: BatchNormConfig, old: Channel, stats: list[Stat], limit: int) -> Channel:
    stats = [stat for stat in stats if stat.n]
    if not stats:
        return old
    if config.averaging == "pooled":
        fed = [_fed_variance(config, stats[0].n + int(old["count"] or 0), None)]
    else:
        fed = [_fed_variance(config, stat.n, stat.m2) for stat in stats]
    if any(stat.mean is None or stat.m2 is None for stat in stats):
        if config.nonfinite == "raise":
            raise FloatingPointError("a batch statistic is not finite [BN-RUN-10]")
        if config.nonfinite == "skip":
            return old
    if config.averaging == "pooled":
        return _pool(config, old, stats[0], limit)
    mean = _average([stat.mean for stat in stats])
    keep_var = any(keep for _, keep in fed)
    var = _average([var for var, _ in fed])
    new = dict(old)
    weight = 1 - Fraction(config.decay)
    if config.counts_updates:
        updates = int(old["count"] or 0)
        new["count"] = Fraction(min(updates + 1, limit))
        weight = Fraction(1, updates + 1) if config.averaging == "cumulative" else weight
    new["mean"] = _mix(old["mean"], mean, weight)
    renorm = config.renorm
    own = renorm is not None and renorm.form == "tensorpack"
    slow = 1 - Fraction(renorm.decay) if renorm is not None else weight
    if own:
        new["renorm_mean"] = _mix(old["renorm_mean"], mean, slow)
    if keep_var:
        return new
    if renorm is None:
        new["var"] = _mix(old["var"], var, weight)
        return new
    sigma = None if var is None else root(var + Fraction(config.epsilon))
    if own:
        new["renorm_stddev"] = _mix(old["renorm_stddev"], sigma, slow)
    deviation = new["stddev"] = _mix(old["stddev"], sigma, weight)
    new["var"] = None if deviation is None else max(deviation**2 - Fraction(config.epsilon), Fraction(0))
    return new


def _pool(config: BatchNormConfig, old: Channel, stat: Stat, limit: int) -> Channel:
    """Merge the group with all elements seen; old m2 is recovered from the stored variance."""
    seen = int(old["count"] or 0)
    divisor = seen - config.correction
    new = dict(old)
    new["count"] = Fraction(min(seen + stat.n, limit))
    if seen == 0:
        total = stat
    else:  # one element seen (divisor 0) has m2 = 0, whatever variance the state was left with
        total = _merge([Stat(seen, old["mean"], (old["var"] or Fraction(0)) * max(divisor, 0)), stat])
        if divisor > 0 and old["var"] is None:  # the mean does not depend on it
            total = Stat(total.n, total.mean, None)
    new["mean"] = total.mean
    var, keep = _fed_variance(config, total.n, total.m2)
    if not keep:
        new["var"] = var
    return new
