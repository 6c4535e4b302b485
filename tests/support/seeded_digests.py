"""Print digests of the results of seeded calls; they are equal before and after a change that must not move a bit.

    python tests/support/seeded_digests.py > before.txt        # ... change the code ...
    python tests/support/seeded_digests.py | diff before.txt -

Each line names a kind of arrays and of calls. Compare runs on one machine only: compiled kernels use what its processor
has. Nothing here judges a result; the conformance suite does.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import bnspec

__all__ = ["Digest", "KINDS", "digest_of", "drawn", "functional", "main"]

_SHAPES = ((6, 3), (8, 5, 4), (4, 3, 5, 5), (6, 17), (2, 40, 9, 9), (12, 2, 1), (4, 66, 3), (6, 1, 7, 2))
_DTYPES = ("float16", "float32", "float64", "bfloat16")
_AVERAGING = ("exponential", "cumulative", "pooled", "debiased")
_RENORM = (None, None, bnspec.Renorm(rmax=3.0, dmax=5.0), bnspec.Renorm(form="paper", rmax=2.0, dmax=1.0))

#: Kernels of NumPy that each take a process of their own.
_KERNELS = ("compiled", "blocked", "specification")


class Digest:
    """SHA-256 of arrays: of their dtypes, shapes and bytes."""

    def __init__(self, to_numpy: Callable[[Any], Any] = np.asarray) -> None:
        self._to_numpy, self._sha = to_numpy, hashlib.sha256()

    def add(self, *arrays: Any) -> None:
        """Add arrays, None, digests, and tuples of these."""
        for v in arrays:
            if v is None:
                self._sha.update(b"None")
            elif isinstance(v, Digest):
                self._sha.update(v._sha.digest())
            elif isinstance(v, tuple):
                self.add(*v)
            else:
                host = np.asarray(self._to_numpy(v))
                self._sha.update(f"{host.dtype.name}{host.shape}".encode())
                self._sha.update(np.ascontiguousarray(host).tobytes())

    def __str__(self) -> str:
        return self._sha.hexdigest()[:32]


def drawn(seed: int, dtypes: tuple[str, ...]) -> dict[str, Any]:
    """Return the arrays and options of one call."""
    rng = np.random.default_rng(seed)

    def pick(options: tuple[Any, ...]) -> Any:
        return options[int(rng.integers(len(options)))]

    shape, dtype = pick(_SHAPES), pick(dtypes)
    axis = pick((1, -1))
    stored = _dtype(dtype)
    channels = shape[axis]
    offset, spread = pick((0.0, 3.0, 100.0)), pick((1.0, 0.1, 20.0))
    mask = None
    if rng.random() < 0.3:
        extent = [int(v) for v in shape]
        extent[axis] = 1
        mask = rng.random(extent) < 0.7
        mask[: shape[0] // 2] = True
    renorm = pick(_RENORM)
    averaging: Any = pick(_AVERAGING) if renorm is None else "exponential"
    options: dict[str, Any] = {
        "axis": axis,
        "epsilon": pick((1e-5, 1e-3)),
        "decay": pick((0.9, 0.99, 0.5)),
        "correction": pick((0, 1)),
        "averaging": averaging,
        "center": bool(rng.random() < 0.85),
        "scale": bool(rng.random() < 0.85),
        "virtual_batch_size": None if averaging == "debiased" else pick((None, None, shape[0] // 2)),
        "ghost_source": pick(("first", "mean", "merged", "sequential")),
        "single_value": "floor",
    }
    if renorm is not None:
        options |= {"renorm": renorm, "virtual_batch_size": None}
    if averaging == "pooled" and options["ghost_source"] == "mean":  # is refused [BN-RUN-6]
        options["ghost_source"] = "merged"
    config = bnspec.BatchNormConfig(**options)

    def per_channel() -> Any:
        return rng.standard_normal(channels).astype(np.float64 if dtype == "float64" else np.float32)

    return {
        "config": config,
        "x": (offset + spread * rng.standard_normal(shape)).astype(stored),
        "dy": rng.standard_normal(shape).astype(stored),
        "xdot": rng.standard_normal(shape).astype(stored),
        "gamma": per_channel() if config.scale else None,
        "beta": per_channel() if config.center else None,
        "mask": mask,
        "extra": rng.random() < 0.2,
    }


def _dtype(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)  # type: ignore[no-any-return]


def functional(given: dict[str, Any], make: Callable[[Any], Any], digest: Digest, comm: Any = None) -> None:
    """Call every function of the core."""
    config = given["config"]
    x, dy, xdot = (make(given[k]) for k in ("x", "dy", "xdot"))
    mask = None if given["mask"] is None else make(given["mask"])
    params = bnspec.Params(*(None if given[k] is None else make(given[k]) for k in ("gamma", "beta")))
    _, state = bnspec.init(config, channels=x.shape[config.axis], like=x)
    for _ in range(2):
        y, stats, saved = bnspec.batch_norm(x, params, config, state=state, mask=mask, comm=comm)
        state = bnspec.update_running(state, stats, config)
        digest.add(y, tuple(stats), tuple(state))
    cotangents = {"dmean": stats.mean * 0 + 0.5, "dvar": stats.var * 0 + 0.25} if given["extra"] else {}
    digest.add(tuple(bnspec.batch_norm_vjp(dy, saved, comm=comm, **cotangents)))
    digest.add(tuple(bnspec.batch_norm_tangents(xdot, saved, gamma_dot=params.gamma, comm=comm)))
    digest.add(tuple(bnspec.running_statistics(state, config)))
    y, saved = bnspec.batch_norm_inference(x, params, state, config)
    digest.add(y, tuple(bnspec.batch_norm_vjp(dy, saved)), tuple(bnspec.batch_norm_tangents(xdot, saved)))


def _layer(seed: int, make: Callable[[Any], Any], digest: Digest) -> None:
    """Train a layer for three steps, and predict after each."""
    rng = np.random.default_rng(seed)
    more: dict[str, Any] = {"virtual_batch_size": 4} if seed % 3 == 0 else {}
    layer = bnspec.BatchNorm(axis=int(rng.integers(2)) or -1, momentum=0.9, epsilon=1e-5, **more)
    for _ in range(3):
        x = make(rng.standard_normal((8, 6, 6)).astype(np.float32))
        y = layer.train()(x)
        digest.add(y, layer.backward(x))
        digest.add(layer.eval()(x))
    digest.add(*layer.variables.values())


def _threads(seed: int, digest: Digest) -> None:
    """Join three ranks."""
    from bnspec_backends.ranks import threads

    def one(comm: Any) -> Digest:
        given = drawn(seed, ("float32", "float64", "float16"))
        rng = np.random.default_rng((seed, comm.rank))
        given["x"] = (given["x"] + rng.standard_normal(given["x"].shape)).astype(given["x"].dtype)
        mine = Digest()
        functional(given, np.asarray, mine, comm)
        return mine

    digest.add(*threads.run(3, one))


def _torch_autograd(seed: int, digest: Digest) -> None:
    """Differentiate with torch."""
    import torch

    given = drawn(seed, ("float32", "float64"))
    leaves = [None if given[k] is None else torch.from_numpy(given[k].copy()) for k in ("x", "gamma", "beta")]
    wanted = [leaf.requires_grad_() for leaf in leaves if leaf is not None]
    x, gamma, beta = leaves
    config, mask = given["config"], given["mask"]
    mask = None if mask is None else torch.from_numpy(mask)
    _, state = bnspec.init(config, channels=given["x"].shape[config.axis], like=x)
    y, stats, _ = bnspec.batch_norm(x, bnspec.Params(gamma, beta), config, state=state, mask=mask)
    loss = (y * torch.from_numpy(given["dy"])).sum() + stats.mean.sum() + stats.var.sum()
    digest.add(*(v.detach() for v in torch.autograd.grad(loss, wanted)))


def _jax_grad(seed: int, digest: Digest) -> None:
    """Differentiate with JAX, jitted."""
    import jax

    given = drawn(seed, ("float32", "float16"))
    config = given["config"]
    mask = None if given["mask"] is None else jax.numpy.asarray(given["mask"])
    _, state = bnspec.init(config, channels=given["x"].shape[config.axis], like=jax.numpy.asarray(given["x"]))

    def loss(x: Any, gamma: Any, beta: Any) -> Any:
        y, stats, _ = bnspec.batch_norm(x, bnspec.Params(gamma, beta), config, state=state, mask=mask)
        return (y.astype("float32") * given["dy"].astype("float32")).sum() + stats.var.sum()

    arrays = [None if given[k] is None else jax.numpy.asarray(given[k]) for k in ("x", "gamma", "beta")]
    wanted = tuple(i for i, v in enumerate(arrays) if v is not None)
    digest.add(*jax.jit(jax.grad(loss, wanted))(*arrays))


def _numpy(seed: int, digest: Digest) -> None:
    functional(drawn(seed, _DTYPES), np.array, digest)


def _of(name: str, dtypes: tuple[str, ...]) -> Callable[[int, Digest], None]:
    """Return a function that makes the calls of a seed with arrays of a backend."""

    def calls(seed: int, digest: Digest) -> None:
        functional(drawn(seed, dtypes), bnspec.get_backend(name).asarray, digest)

    return calls


def _layer_of(name: str) -> Callable[[int, Digest], None]:
    """Return a function that trains a layer on arrays of a backend."""

    def calls(seed: int, digest: Digest) -> None:
        # The layer may keep what it is given, so NumPy's arrays are copies.
        _layer(seed, np.array if name == "numpy" else bnspec.get_backend(name).asarray, digest)

    return calls


#: The backend, the number of seeds and the calls of each kind; calls on NumPy by other kernels come besides.
KINDS: dict[str, tuple[str, int, Callable[[int, Digest], None]]] = {
    "numpy-default": ("numpy", 300, _numpy),
    "layer-numpy": ("numpy", 60, _layer_of("numpy")),
    "threads": ("numpy", 60, _threads),
    "strict": ("strict", 150, _of("strict", ("float32", "float64"))),
    "torch": ("torch", 300, _of("torch", _DTYPES)),
    "layer-torch": ("torch", 30, _layer_of("torch")),
    "torch-autograd": ("torch", 150, _torch_autograd),
    "jax": ("jax", 60, _of("jax", ("float32", "float16"))),
    "jax-grad": ("jax", 20, _jax_grad),
}


def digest_of(kind: str, calls: int | None = None) -> str:
    """Return the digest of a kind, over all its seeds or the first ``calls`` of them."""
    backend, all_, call = KINDS[kind]
    digest = Digest(bnspec.get_backend(backend).to_numpy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(all_ if calls is None else calls):
            call(seed, digest)
    return str(digest)


def _lines(kinds: list[str], calls: int | None) -> Iterator[str]:
    kernels = os.environ.get("BNSPEC_CPU_KERNELS")
    if kernels is not None:
        yield f"{'numpy-' + kernels:20} {digest_of('numpy-default', calls)}"
        return
    for kind in KINDS:
        if not kinds or kind in kinds:
            yield f"{kind:20} {digest_of(kind, calls)}"


def main() -> None:
    """Print the lines of this process, then one of a process for each of the other kernels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*KINDS, *(f"numpy-{kernels}" for kernels in _KERNELS)]
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"only these: {', '.join(known)}")
    parser.add_argument("--calls", type=int, metavar="N", help="seeds of each kind (default: each kind's own number)")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    for line in _lines(options.kinds, options.calls):
        print(line, flush=True)
    if "BNSPEC_CPU_KERNELS" in os.environ:
        return
    for kernels in _KERNELS:
        if not options.kinds or f"numpy-{kernels}" in options.kinds:
            command = [sys.executable, __file__, *(("--calls", str(options.calls)) if options.calls else ())]
            subprocess.run(command, env=os.environ | {"BNSPEC_CPU_KERNELS": kernels}, check=True)


if __name__ == "__main__":
    main()
