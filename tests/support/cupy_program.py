"""What test_cupy.py does on devices, emulated or not, in a process of its own: `cupy_program.py ACT`; prints JSON."""

import dataclasses
import json
import sys
from typing import Any

import cupy
import numpy as np

import bnspec

RNG = np.random.default_rng(0)
CONFIG = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=1)


def step(config: Any, x: Any, params: Any, state: Any, mask: Any = None) -> tuple[Any, ...]:
    y, stats, saved = bnspec.batch_norm(x, params, config, state=state, mask=mask)
    return y, bnspec.update_running(state, stats, config), bnspec.batch_norm_vjp(x, saved)


def configurations() -> Any:
    """Configurations that a step must not wait for, by name, and one that asks for a flag."""
    named = {
        "torch": bnspec.dialects.torch.config(),
        "correction 1": CONFIG,
        "cumulative": dataclasses.replace(CONFIG, averaging="cumulative"),
        "debiased": dataclasses.replace(CONFIG, averaging="debiased"),
        "pooled": dataclasses.replace(CONFIG, averaging="pooled"),
        "keep": dataclasses.replace(CONFIG, single_value="keep"),
        "nonfinite raise": dataclasses.replace(CONFIG, nonfinite="raise"),
    }
    for source in ("first", "merged", "mean", "sequential"):
        named[f"ghost {source}"] = dataclasses.replace(CONFIG, virtual_batch_size=4, ghost_source=source)
    return named


def waits() -> None:
    """How often the host waits for the device in one training step of each configuration. Emulated devices only."""
    from cupy._stream import synchronizations

    found = {}
    x = cupy.asarray(RNG.standard_normal((8, 64)).astype("float32"))
    mask = cupy.asarray(RNG.random((8, 1)) < 0.7)
    for name, config in configurations().items():
        params, state = bnspec.init(config, channels=64, like=x)
        before = synchronizations()
        step(config, x, params, state)
        found[name] = synchronizations() - before
    params, state = bnspec.init(CONFIG, channels=64, like=x)
    before = synchronizations()
    step(CONFIG, x, params, state, mask=mask)
    found["masked"] = synchronizations() - before
    layer = bnspec.BatchNorm(dialect="torch")
    layer(x), layer.backward(x)
    before = synchronizations()
    layer(x), layer.backward(x)
    found["layer"] = synchronizations() - before
    print(json.dumps(found))


def graphs() -> None:
    """Capture a step of each configuration, replay it on other values, and compare with the step itself to the bit."""
    found = {}
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.empty((8, 64), "float32")
        first, second = (cupy.asarray(RNG.standard_normal(x.shape).astype("float32")) for _ in range(2))
        for name, config in configurations().items():
            if config.nonfinite == "raise":
                continue
            params, state = bnspec.init(config, channels=64, like=x)
            x[...] = first
            for _ in range(3):  # compiles the kernels, and lets the pool have the memory
                step(config, x, params, state)
            stream.synchronize()
            stream.begin_capture(2)
            y, new, grads = step(config, x, params, state)
            graph = stream.end_capture()
            x[...] = second
            graph.launch(stream)
            got = [y.get(), new.mean.get(), new.var.get(), grads.x.get()]
            y, new, grads = step(config, x, params, state)
            want = [y.get(), new.mean.get(), new.var.get(), grads.x.get()]
            found[name] = all(a.tobytes() == b.tobytes() for a, b in zip(got, want))
    print(json.dumps(found))


def refusals() -> None:
    """Counts that are too small are refused, whether the host knows them from shapes or reads them."""
    found = {}
    one, two = (cupy.asarray(np.ones((n, 3), "float32")) for n in (1, 2))
    half = cupy.asarray(np.asarray([[True], [False]]))
    counts: Any = (("shape", one, None, "exponential"), ("mask", two, half, "exponential"),
                   ("pooled", one, None, "pooled"), ("two", two, None, "exponential"))  # fmt: skip
    for name, x, mask, averaging in counts:
        config = dataclasses.replace(CONFIG, averaging=averaging)
        params, state = bnspec.init(config, channels=3, like=x)
        try:
            step(config, x, params, state, mask)
            found[name] = "accepted"
        except ValueError as error:
            found[name] = str(error)
    config = dataclasses.replace(CONFIG, averaging="pooled")
    params, state = bnspec.init(config, channels=3, like=one)
    state = step(config, two, params, state)[1]
    found["pooled later"] = step(config, one, params, state)[1].count.tolist()
    print(json.dumps(found))


def devices() -> None:
    """What is done with arrays of device 1 happens there, although device 0 is current; the numbers are the same."""
    values = RNG.standard_normal((8, 4, 3)).astype("float32")
    found: dict[str, Any] = {}
    first: dict[str, Any] = {}
    for device in (0, 1):
        with cupy.cuda.Device(device):
            x = cupy.asarray(values)
        made = {}
        for name, options in (("plain", {"virtual_batch_size": 4}), ("torch", {"dialect": "torch"})):
            layer = bnspec.BatchNorm(axis=1, gamma_initializer=[1.0, 2.0, 3.0, 4.0], **options)
            made[f"{name} y"], made[f"{name} dx"] = layer(x), layer.backward(x)
            layer.load_state_dict(layer.state_dict())
            layer.eval()
            made[f"{name} inference"] = layer(x)
            made |= {f"{name} {key}": value for key, value in layer.state_dict().items()}
        renorm = bnspec.BatchRenorm(3.0, 5.0, axis=1)
        renorm(x)
        made["renorm"] = renorm(x)
        config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0, averaging="debiased")
        params, state = bnspec.init(config, channels=4, like=x)
        _, stats, saved = bnspec.batch_norm(x, params, config)
        made["merged"] = bnspec.merge(stats, stats).mean
        made["ydot"] = bnspec.batch_norm_jvp(x, saved)
        made["debiased"] = bnspec.running_statistics(bnspec.update_running(state, stats, config), config)[0]
        found |= {f"{device} {name}": v.device.id for name, v in made.items() if v.device.id != device}
        for name, v in made.items():
            if first.setdefault(name, v.get().tobytes()) != v.get().tobytes():
                found[f"{name} differs"] = device
    print(json.dumps({"current": cupy.cuda.Device().id, "wrong": found}))


def left() -> None:
    """What goes the specification's way, by kernels: of a batch, and of one without elements."""
    from bnspec_backends import cuda

    found: dict[str, Any] = {}
    for kernels in cuda.KERNELS:
        cuda.use(kernels)
        for name, samples in (("served", 4), ("empty", 0)):
            cuda.counters.left.clear()
            x = cupy.asarray(np.ones((samples, 3), "float32"))
            bnspec.batch_norm(x, bnspec.init(CONFIG, channels=3, like=x)[0], CONFIG)
            found.setdefault(kernels, {})[name] = dict(cuda.counters.left)
    print(json.dumps(found))


{"graphs": graphs, "waits": waits, "refusals": refusals, "devices": devices, "left": left}[sys.argv[1]]()
