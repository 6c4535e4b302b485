"""Digests of what the CUDA kernels give for seeded cases: the emulated device and a real one give the same bits.

`python tests/support/cuda_bits.py ARITHMETIC` prints those of "wide" or "twofold" as JSON, `--store` keeps them for the
test and for real devices.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cupy
import numpy as np

import bnspec
from bnspec_backends.cuda import arithmetic
from bnspec_backends.cuda.call import prepared

#: The stored digests, by arithmetic; two float32 numbers of every count.
STORED = {
    name: Path(__file__).parents[1] / "cuda" / f"bits{of}.json" for name, of in (("wide", ""), ("twofold", "_twofold"))
}

#: Shapes with their channel axis: runs of every width, columns, small images, one channel, many parts, odd sizes.
SHAPES = (
    ((2, 3, 16, 16), 1), ((2, 3, 15, 15), 1), ((4, 8, 7, 7), 1), ((4, 5, 7, 7), 1), ((3, 6, 2, 2), 1), ((64, 1), 1),
    ((1, 1, 5000), 1), ((2, 2, 3000), 1), ((6, 4, 130), 1), ((40, 64), 1), ((40, 65), 1), ((700, 33), 1),
    ((7, 2, 5), 2), ((5, 3, 4, 24), 3), ((2, 257), 1), ((33, 4), 0), ((1, 3, 129), 1), ((600, 2, 3), 1),
)  # fmt: skip
DTYPES = ("float16", "float32", "float64", "bfloat16")


def digests(name: str = "wide") -> dict[str, str]:
    """Return the digests of an arithmetic, whatever this device's own is."""
    kept = os.environ.get("BNSPEC_CUDA_ARITHMETIC", ""), arithmetic.ELEMENTS
    try:
        os.environ["BNSPEC_CUDA_ARITHMETIC"], arithmetic.ELEMENTS = name, 1
        prepared.cache_clear()
        return dict(_digests())
    finally:
        os.environ["BNSPEC_CUDA_ARITHMETIC"], arithmetic.ELEMENTS = kept
        prepared.cache_clear()


def _digests() -> Iterator[tuple[str, str]]:
    for number, (shape, axis) in enumerate(SHAPES):
        for dtype in DTYPES:
            yield f"{shape} {axis} {dtype}", _digest(_case(number, shape, axis, dtype, 1, False))
            yield f"{shape} {axis} {dtype} masked", _digest(_case(number, shape, axis, dtype, 1, True))
            if "16" in dtype:
                yield (
                    f"{shape} {axis} {dtype} extreme",
                    _digest(_case(number, shape, axis, dtype, 1, False, extreme=True)),
                )
            if axis and shape[0] % 2 == 0:
                yield f"{shape} {axis} {dtype} ghost", _digest(_case(number, shape, axis, dtype, 2, False))


def _case(
    number: int, shape: Any, axis: int, dtype: str, groups: int, masked: bool, extreme: bool = False
) -> Iterator[Any]:
    """Yield results; extreme: some channels have a gamma for which float32 arithmetic does not do."""
    rng = np.random.default_rng([number, groups, masked])
    kind: Any = np.dtype(dtype) if dtype != "bfloat16" else _bfloat16()
    scale = np.exp2(rng.integers(-3, 4, shape[axis])).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    x, dy = (
        cupy.asarray((v * scale + 5).astype(np.float32).astype(kind))
        for v in rng.integers(-999, 1000, (2, *shape)) / 512
    )
    c = shape[axis]
    more: Any = {"virtual_batch_size": shape[0] // groups} if groups > 1 else {}
    config = bnspec.BatchNormConfig(axis=axis, epsilon=1e-3, decay=0.9, correction=0, **more)
    gamma, beta = ((rng.integers(1, 99, c) / 64).astype(np.float32) for _ in range(2))
    if extreme:
        gamma[:: 3 if c > 1 else 1] *= np.float32(2**-110)
    params = bnspec.Params(cupy.asarray(gamma), cupy.asarray(beta))
    own = [1 if a == axis and number % 2 else n for a, n in enumerate(shape)]
    mask = cupy.asarray(rng.random(own) < 0.7) if masked else None
    y, stats, saved = bnspec.batch_norm(x, params, config, mask=mask)
    gradients = bnspec.batch_norm_vjp(dy, saved)
    yield from (y, *stats, *gradients)
    if not masked and groups == 1:
        state = bnspec.init(config, channels=c, like=x)[1]
        state = state._replace(mean=state.mean + 1.25, var=state.var + 0.5)
        yield bnspec.batch_norm_inference(x, params, state, config)[0]


def _bfloat16() -> Any:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _digest(arrays: Iterator[Any]) -> str:
    found = hashlib.sha256()
    for v in arrays:
        host = np.ascontiguousarray(v.get())
        found.update(f"{host.dtype.name}{host.shape}".encode())
        found.update((host + host.dtype.type(0)).tobytes())  # the sign of a zero is not promised
    return found.hexdigest()[:16]


if __name__ == "__main__":
    made = digests(sys.argv[1])
    if "--store" in sys.argv:
        STORED[sys.argv[1]].write_text(json.dumps(made, indent=0) + "\n", encoding="utf-8")
    print(json.dumps(made))
