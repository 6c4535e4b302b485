"""Operations of two launches beside the four primitives that they join: `cuda_fused.py ACT`; prints JSON."""

import itertools
import json
import sys
from typing import Any

import cupy
import numpy as np
from cupy._stream import Stream, synchronizations

import bnspec
from bnspec_backends.cuda.kernels import CudaKernels

RNG = np.random.default_rng(0)


class Unfused(CudaKernels):
    """The same primitives, with the specification's arithmetic between them."""

    def forward(self, *args: Any, **more: Any) -> Any:
        return bnspec.Kernels.forward(self, *args, **more)

    def pull_back(self, *args: Any, **more: Any) -> Any:
        return bnspec.Kernels.pull_back(self, *args, **more)


def masks(shape: Any, axis: int) -> dict[str, Any]:
    """Return masks of samples, of elements without and with channels of their own, and one that takes nothing."""
    all_but = [1 if a == axis else n for a, n in enumerate(shape)]
    samples = [n if a == 0 else 1 for a, n in enumerate(shape)]
    return {
        "samples": RNG.random(samples) < 0.6,
        "elements": RNG.random(all_but) < 0.6,
        "channels": RNG.random(shape) < 0.6,
        "nothing": np.zeros(samples, bool),
    }


def step(x: Any, dy: Any, mask: Any, config: Any, kernels: Any) -> list[Any]:
    with bnspec.use_kernels("cupy", kernels):
        channels = x.shape[config.axis]
        gamma, beta = (cupy.asarray(np.full(channels, v, "float32")) for v in (1.5, 0.25))
        params = bnspec.Params(gamma, beta)
        y, stats, saved = bnspec.batch_norm(x, params, config, mask=mask)
        grads = bnspec.batch_norm_vjp(dy, saved)
        made: tuple[Any, ...] = (y, *stats, saved.inverse_stddev, saved.divisor, *grads)
        return [v.get() for v in made]


def masked() -> None:
    """Compare a step with a mask, fused and not, to the bit; where masked x are not finite, but for last digits."""
    differ = []
    for (shape, axis), dtype, groups in itertools.product(
        (((8, 5, 12, 12), 1), ((8, 6, 3), 1), ((40, 4, 7), 2)), ("float32", "float64", "float16"), (1, 2)
    ):
        more: Any = {"virtual_batch_size": shape[0] // groups} if groups > 1 else {}
        config = bnspec.BatchNormConfig(axis=axis, epsilon=1e-3, decay=0.9, correction=0, **more)
        for name, mask in masks(shape, axis).items():
            for odd in ("", "NaN", "masked NaN"):
                x, dy = (RNG.standard_normal((2, *shape)) * 3 + 1).astype(dtype)
                if odd == "NaN":
                    x[-1, 0, 0] = np.nan
                if odd == "masked NaN":
                    if dtype == "float64":  # so far from 0 that the low part of the mean is no small deviation
                        x = np.round(x) / 8 + 2.0**50
                    x[~np.broadcast_to(mask, shape) & (RNG.random(shape) < 0.3)] = np.nan
                given = cupy.asarray(x), cupy.asarray(dy), cupy.asarray(mask), config
                pairs = list(zip(step(*given, CudaKernels()), step(*given, Unfused()), strict=True))
                same = all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)
                if odd == "masked NaN":
                    digits = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-13}[dtype]
                    same = same and all(np.allclose(a, b, rtol=digits, atol=digits, equal_nan=True) for a, b in pairs)
                else:
                    same = same and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
                if not same:
                    differ.append(f"{shape} {axis} {dtype} {groups} {name} {odd}")
    print(json.dumps(differ))


def launches() -> None:
    """How much work each part of a training step queues on its stream, and how often the host waits."""
    queued = 0
    enqueue = Stream._enqueue

    def counted(self: Any, work: Any) -> None:
        nonlocal queued
        queued += 1
        enqueue(self, work)

    Stream._enqueue = counted
    x = cupy.asarray(RNG.standard_normal((64, 6, 16, 16)).astype(np.float32))  # of several parts
    all_of_it, samples = (cupy.asarray(RNG.random(shape) < 0.9) for shape in (x.shape, (64, 1, 1, 1)))
    cases: Any = (("exponential", None), ("cumulative", None), ("exponential", all_of_it), ("exponential", samples))
    found = []
    for averaging, mask in cases:
        config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=1, averaging=averaging)
        params, state = bnspec.init(config, channels=6, like=x)
        for _ in range(2):  # counters are cleared once
            before, waited = queued, synchronizations()
            _, stats, saved = bnspec.batch_norm(x, params, config, mask=mask)
            forward, before = queued - before, queued
            if mask is None:
                bnspec.update_running(state, stats, config)
            updated, before = queued - before, queued
            bnspec.batch_norm_vjp(x, saved)
            backward, before = queued - before, queued
            bnspec.batch_norm_inference(x, params, state, config)
            inference, before = queued - before, queued
        found.append([forward, updated, backward, inference, synchronizations() - waited])
    print(json.dumps(found))


if __name__ == "__main__":
    {"masked": masked, "launches": launches}[sys.argv[1]]()
