"""The running state on a device, kernel and specification side by side; prints JSON."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np

import bnspec
from bnspec_backends import cuda

AVERAGING = ("exponential", "debiased", "cumulative", "pooled")
ODD = ("", "nan", "one value", "full counter", "huge", "old inf", "decay 0", "decay 1", "groups", "strided", "mixed",
       "unsigned", "narrow counter", "narrow moments", "renorm's fields", "merged", "many", "masked")  # fmt: skip

#: What needs values of the device, or is rare.
LEFT = ("one value", "groups", "unsigned", "narrow moments", "renorm's fields", "merged", "masked")


def configurations(averaging: Any, odd: str) -> Iterator[Any]:
    decay = {"decay 0": 0.0, "decay 1": 1.0}.get(odd, 0.9)
    words: Any = itertools.product((0, 1), ("keep", "floor"), ("skip", "propagate"))
    for correction, single_value, nonfinite in words:
        counts = averaging in ("cumulative", "debiased")
        if (correction and counts and single_value == "keep") or (averaging == "debiased" and decay == 1):
            continue  # there is no such configuration
        yield bnspec.BatchNormConfig(
            axis=1, epsilon=1e-5, decay=decay, correction=correction, averaging=averaging, single_value=single_value,
            nonfinite=nonfinite, virtual_batch_size=4 if odd == "groups" else None,
        )  # fmt: skip


def given(config: Any, dtype: str, odd: str) -> tuple[Any, Any]:
    """Return a state, and moments of a batch, of which something is odd."""
    rng = np.random.default_rng(0)
    channels = 700 if odd == "many" else 5
    x = (rng.standard_normal((1 if odd == "one value" else 8, channels)) * 3 + 1).astype(dtype)
    if odd == "nan":
        x[0, 2] = np.nan
    if odd == "huge":
        x[:, 1] *= np.finfo(dtype).max / 100
    state = bnspec.init(config, channels=channels, like=cupy.asarray(x))[1]
    if odd == "old inf":
        state = state._replace(var=cupy.asarray(np.full(channels, np.inf, dtype)))
    if odd == "strided":
        state = state._replace(mean=cupy.asarray(np.arange(2.0 * channels).astype(dtype))[::2])
    if odd == "mixed":
        state = state._replace(mean=cupy.asarray(np.arange(channels, dtype=np.float64)))
    if odd == "renorm's fields":
        state = state._replace(renorm_mean=state.mean, renorm_stddev=state.var)
    if state.count is not None:
        kind: Any = {"unsigned": np.uint64, "narrow counter": np.int32}.get(odd, np.int64)
        full = np.iinfo(kind).max - 1 if odd == "full counter" else 3
        state = state._replace(count=cupy.asarray(np.full(channels, full, kind)))
    mask = cupy.asarray(np.arange(8)[:, None] > 1) if odd == "masked" else None
    stats = bnspec.moments(cupy.asarray(x), bnspec.Groups(1, 2 if odd == "groups" else 1), mask)
    if odd == "narrow moments":
        stats = bnspec.Moments(stats.count, *(v.astype(np.float32) for v in stats[1:]))
    if odd == "merged":
        stats = bnspec.merge(stats, stats)
    return state, stats


def updates() -> None:
    """Compare three steps with the specification's, to the bit; say which go its way."""
    differ, wrong = [], []
    for averaging, dtype, odd in itertools.product(AVERAGING, ("float32", "float64"), ODD):
        if dtype == "float64" and odd not in ("", "huge", "mixed"):
            continue  # what is odd then is so in every dtype
        for config in configurations(averaging, odd):
            state, stats = given(config, dtype, odd)
            found = []
            for kernels in ("specification", "compiled"):
                cuda.use(kernels)
                cuda.counters.launches = 0
                cuda.counters.left.clear()
                new = state
                for _ in range(3):
                    new = bnspec.update_running(new, stats, config)
                found.append([None if v is None else v.get() for v in new])
            # A counter without a sign is only where there is a counter; a value less the correction may be enough.
            rare = odd in LEFT and (odd, averaging) != ("unsigned", "exponential")
            left = averaging == "pooled" or (rare and (odd, config.correction) != ("one value", 0))
            if (cuda.counters.launches, cuda.counters.left.get("update", 0)) != ((0, 3) if left else (3, 0)):
                wrong.append(f"{averaging} {dtype} {odd} {config}")
            if any(a is not None and (a.dtype != b.dtype or a.tobytes() != b.tobytes()) for a, b in zip(*found)):
                differ.append(f"{averaging} {dtype} {odd} {config}")
    print(json.dumps({"differ": differ, "served or left wrongly": wrong}))


if __name__ == "__main__":
    updates()
