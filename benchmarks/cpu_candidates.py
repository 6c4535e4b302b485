"""One candidate of `benchmarks/cpu.py` in a process of its own: `python benchmarks/cpu_candidates.py NAME`.

Reads one JSON object a line and answers each with one: ``{"case": {...}}`` prepares a case and compares the first
result with float64 NumPy, ``{"sample": k}`` times k calls, ``{"peak": true}`` tells the most memory that a call needs,
its input included.
"""

import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np

EPSILON, DECAY = 1e-5, 0.9


def make_case(shape, layout, dtype, op):
    """Arrays in the order memory has them: (N, C, ...) for "nchw", (N, ..., C) for "nhwc"."""
    n, c, *space = shape
    physical = (n, *space, c) if layout == "nhwc" and space else tuple(shape)
    axis = 1 if physical == tuple(shape) else len(shape) - 1
    rng = np.random.default_rng(0)
    size = int(np.prod(physical))

    kind = np.dtype(dtype) if dtype != "bfloat16" else __import__("ml_dtypes").bfloat16

    def draw(scale, mean):  # repeated, and in place: the generator would take longer than the benchmark
        some = rng.standard_normal(min(size, 999_983), dtype=np.float32) * np.float32(scale) + np.float32(mean)
        values = np.empty(size, kind)
        for i in range(0, size, some.size):
            values[i : i + some.size] = some[: size - i]
        return values.reshape(physical)

    wide = np.float64 if dtype == "float64" else np.float32
    x, dy = draw(1.5, 0.25), draw(1, 0) if op == "fwdbwd" else None
    gamma, beta = rng.uniform(0.5, 1.5, c).astype(wide), rng.standard_normal(c).astype(wide)
    return SimpleNamespace(
        x=x, dy=dy, axis=axis, gamma=gamma, beta=beta, dtype=dtype, op=op, channels=c,
        mean=np.full(c, 0.25, wide), var=np.full(c, 2.25, wide), logical_shape=tuple(shape), layout=layout,
    )  # fmt: skip


def reference(case):
    """The result in float64, on the first and last channel alone."""
    rows = _two_channels(case.x, case)
    gamma, beta = case.gamma[[0, -1]].astype(float), case.beta[[0, -1]].astype(float)
    if case.op == "infer":
        return (rows - 0.25) / np.sqrt(2.25 + EPSILON) * gamma + beta
    mean, var = rows.mean(0), rows.var(0)
    hat = (rows - mean) / np.sqrt(var + EPSILON)
    if case.op == "fwd":
        return hat * gamma + beta
    g = _two_channels(case.dy, case)
    return gamma / np.sqrt(var + EPSILON) * (g - g.mean(0) - hat * (g * hat).mean(0))


def _two_channels(v, case):
    """The first and the last channel, as columns of float64."""
    return np.moveaxis(v, case.axis, 0)[[0, -1]].reshape(2, -1).T.astype(float)


def bnspec(case):
    """Our public functions on NumPy arrays: forward, update of the state, gradient."""
    import bnspec as bn

    config = bn.BatchNormConfig(axis=case.axis, epsilon=EPSILON, decay=DECAY, correction=1)
    params, keep = bn.Params(case.gamma, case.beta), {"state": bn.RunningState(case.mean, case.var)}
    if case.op == "infer":
        return lambda: bn.batch_norm_inference(case.x, params, keep["state"], config)[0]

    def forward():
        y, stats, saved = bn.batch_norm(case.x, params, config)
        keep["state"] = bn.update_running(keep["state"], stats, config)
        return y, saved

    if case.op == "fwd":
        return lambda: forward()[0]
    return lambda: bn.batch_norm_vjp(case.dy, forward()[1]).x


def bnspec_torch(case):
    """Our public functions on torch tensors, the gradient by torch's own differentiation."""
    import torch

    import bnspec as bn

    x, dy, gamma, beta, mean, var = _tensors(case, torch)
    config = bn.BatchNormConfig(axis=1, epsilon=EPSILON, decay=DECAY, correction=1)
    params, keep = bn.Params(gamma, beta), {"state": bn.RunningState(mean, var)}
    if case.op == "infer":
        return lambda: _physical(bn.batch_norm_inference(x, params, keep["state"], config)[0], case)

    def forward():
        y, stats, _ = bn.batch_norm(x, params, config)
        keep["state"] = bn.update_running(keep["state"], stats, config)
        return y

    if case.op == "fwd":
        return lambda: _physical(forward(), case)
    for v in (x, gamma, beta):
        v.requires_grad_(True)

    def both():
        return _physical(torch.autograd.grad(forward(), (x, gamma, beta), dy)[0], case)

    return both


def numpy(case):
    """The formula, written down with `mean` and `var`."""
    if case.dtype == "bfloat16":
        return None
    red = tuple(a for a in range(case.x.ndim) if a != case.axis)
    wide = tuple(case.channels if a == case.axis else 1 for a in range(case.x.ndim))
    gamma, beta, x = case.gamma.reshape(wide), case.beta.reshape(wide), case.x
    if case.op == "infer":
        mean, var = case.mean.reshape(wide), case.var.reshape(wide)
        return lambda: (x - mean) / np.sqrt(var + EPSILON) * gamma + beta

    def forward():
        mean, var = x.mean(red, keepdims=True), x.var(red, keepdims=True)
        inverse = 1 / np.sqrt(var + np.float32(EPSILON))
        hat = (x - mean) * inverse
        return hat * gamma + beta, hat, inverse

    if case.op == "fwd":
        return lambda: forward()[0]

    def both():
        _, hat, inverse = forward()
        g = case.dy
        return gamma * inverse * (g - g.mean(red, keepdims=True) - hat * (g * hat).mean(red, keepdims=True))

    return both


def torch(case, compiled=False):
    """`torch.nn.functional.batch_norm`, in torch's channels_last format for "nhwc"."""
    import torch as t
    import torch.nn.functional as functional

    x, dy, gamma, beta, mean, var = _tensors(case, t)
    train = case.op != "infer"

    def plain(x, gamma, beta):
        return functional.batch_norm(x, mean, var, gamma, beta, train, 1 - DECAY, EPSILON)

    function = t.compile(plain) if compiled else plain
    if case.op != "fwdbwd":

        def call():
            with t.no_grad():
                return _physical(function(x, gamma, beta), case)

        return call
    for v in (x, gamma, beta):
        v.requires_grad_(True)
    return lambda: _physical(t.autograd.grad(function(x, gamma, beta), (x, gamma, beta), dy)[0], case)


def torch_compile(case):
    """The same through torch.compile."""
    return torch(case, compiled=True)


def jax(case):
    """flax's formula (float32 sums, mean of squares minus squared mean) in one `jax.jit`."""
    import jax as j
    import jax.numpy as jnp

    if case.dtype == "float64":
        j.config.update("jax_enable_x64", True)
    red = tuple(a for a in range(case.x.ndim) if a != case.axis)
    wide = tuple(case.channels if a == case.axis else 1 for a in range(case.x.ndim))
    x, gamma, beta, mean, var = map(jnp.asarray, (case.x, case.gamma, case.beta, case.mean, case.var))

    def affine(x, mean, var, gamma, beta):
        inverse = gamma * j.lax.rsqrt(var + EPSILON)
        return ((x - mean.reshape(wide)) * inverse.reshape(wide) + beta.reshape(wide)).astype(x.dtype)

    def train(x, gamma, beta, mean, var):
        v = x.astype(gamma.dtype)
        m = v.mean(red)
        s = jnp.maximum((v * v).mean(red) - m * m, 0)
        return affine(v, m, s, gamma, beta).astype(x.dtype), (DECAY * mean + 0.1 * m, DECAY * var + 0.1 * s)

    if case.op == "infer":
        function = j.jit(affine)
        return lambda: function(x, mean, var, gamma, beta).block_until_ready()
    if case.op == "fwd":
        function = j.jit(train)
        return lambda: j.block_until_ready(function(x, gamma, beta, mean, var))[0]
    dy = jnp.asarray(case.dy)

    @j.jit
    def both(x, gamma, beta, mean, var, dy):
        y, pull, state = j.vjp(lambda *a: train(*a, mean, var), x, gamma, beta, has_aux=True)
        return y, pull(dy), state

    return lambda: j.block_until_ready(both(x, gamma, beta, mean, var, dy))[1][0]


def onnxruntime(case):
    """ONNX Runtime's BatchNormalization, forward only; NCHW and float32 only."""
    if case.op == "fwdbwd" or case.dtype != "float32" or case.axis != 1:
        return None
    import onnxruntime as ort
    from onnx import TensorProto, helper

    train = case.op == "fwd"
    names = ["x", "scale", "b", "mean", "var"]
    outputs = ["y", "new_mean", "new_var"] if train else ["y"]
    node = helper.make_node(
        "BatchNormalization", names, outputs, epsilon=EPSILON, momentum=DECAY, training_mode=int(train)
    )
    f, c = TensorProto.FLOAT, case.channels
    inputs = [helper.make_tensor_value_info(n, f, case.x.shape if n == "x" else [c]) for n in names]
    results = [helper.make_tensor_value_info(n, f, None) for n in outputs]
    graph = helper.make_graph([node], "bn", inputs, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = dict(zip(names, (case.x, case.gamma, case.beta, case.mean, case.var)))
    return lambda: session.run(outputs, feed)[0]


def traffic(*passes):
    """The reads and writes of an operation and nothing else, with ordinary stores: see `FLOORS` in cpu.py."""

    def make(case):
        from numba import njit

        from bnspec_backends.cpu.workers import Workers

        @njit(nogil=True, fastmath=True)
        def read(a, b, out):
            s = a.dtype.type(0)
            for i in range(a.size):
                s += a[i]
            out[0] = s

        @njit(nogil=True, fastmath=True)
        def read2(a, b, out):
            s = a.dtype.type(0)
            for i in range(a.size):
                s += a[i] + b[i]
            out[0] = s

        @njit(nogil=True, fastmath=True)
        def copy(a, b, out):
            for i in range(a.size):
                out[i] = a[i] * a.dtype.type(1.5)

        @njit(nogil=True, fastmath=True)
        def triad(a, b, out):
            for i in range(a.size):
                out[i] = a[i] * a.dtype.type(1.5) + b[i]

        kernels = {"read": read, "read2": read2, "copy": copy, "triad": triad}
        line = case.x.reshape(-1)
        line = line.view(np.float32) if line.itemsize == 2 else line
        other, out = line * line.dtype.type(0.5), np.empty_like(line)
        workers = Workers(THREADS)
        parts = max(THREADS, min(4 * THREADS, line.size >> 16))
        cuts = [line.size * i // parts for i in range(parts + 1)]
        if line.size < 1 << 19:
            workers, cuts = Workers(1), [0, line.size]

        def call():
            for name in passes:
                kernel = kernels[name]
                workers.run(
                    lambda i, k=kernel: k(*(v[cuts[i] : cuts[i + 1]] for v in (line, other, out))), len(cuts) - 1
                )

        return call

    return make


def _tensors(case, t):
    """Torch's tensors, logically (N, C, ...)."""

    def tensor(v):
        if v is None:
            return None
        if v.dtype.name == "bfloat16":
            return t.from_numpy(v.view(np.uint16)).view(t.bfloat16)
        return t.from_numpy(v)

    x, dy = tensor(case.x), tensor(case.dy)
    if case.axis != 1:
        x, dy = (None if v is None else v.movedim(-1, 1) for v in (x, dy))
    return x, dy, *(tensor(v.copy()) for v in (case.gamma, case.beta, case.mean, case.var))


def _physical(y, case):
    return y if case.axis == 1 else y.movedim(1, -1)


CANDIDATES = {
    "bnspec": bnspec, "bnspec (torch)": bnspec_torch, "numpy": numpy, "torch": torch, "torch+keep": torch,
    "torch.compile": torch_compile, "torch.compile+keep": torch_compile, "jax": jax, "onnxruntime": onnxruntime,
    "copy": traffic("copy"), "copy+read": traffic("copy", "read"),
    "copy+triad": traffic("copy", "triad"), "copy+read+triad+read2": traffic("read", "copy", "read2", "triad"),
}  # fmt: skip

THREADS = int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))


def _waited():
    """Seconds this process's threads waited for a core."""
    total = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/schedstat") as f:
                total += int(f.read().split()[1])
        except (OSError, IndexError):
            pass
    return total / 1e9


def _memory(what):
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at most since the mark was set back."""
    with open("/proc/self/status") as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(what))


def _peak(call, before):
    """The most memory during a call, above what the process had before the case."""
    call()
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # sets the mark back
    call()
    return _memory("VmHWM") - before


def _error(result, case):
    """The largest error on two channels, as a part of the largest value."""
    y = result.detach().float() if hasattr(result, "detach") else result
    wanted = reference(case)
    return float(np.abs(_two_channels(np.asarray(y).reshape(case.x.shape), case) - wanted).max() / np.abs(wanted).max())


def main(name):
    """Serve the parent."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries say goes elsewhere
    call = case = before = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "case" in asked:
                call = case = None
                before = _memory("VmRSS")
                if asked["case"] is None:
                    answers.write("{}\n")
                    continue
                case = make_case(**asked["case"])
                call = CANDIDATES[name](case)
                if call is None:
                    answers.write(json.dumps({"skip": "not supported"}) + "\n")
                    continue
                began = time.perf_counter()
                result = call()
                first = time.perf_counter() - began
                error = None if result is None else _error(result, case)
                result = None
                call()
                began = time.perf_counter()
                call()
                each = max(1, min(2000, int(2e-3 / (time.perf_counter() - began))))
                answers.write(json.dumps({"first": first, "error": error, "calls": each}) + "\n")
            elif "sample" in asked:
                call()
                waited, began = _waited(), time.perf_counter()
                for _ in range(asked["sample"]):
                    call()
                spent = time.perf_counter() - began
                share = max(0.0, _waited() - waited) / spent
                answers.write(json.dumps({"seconds": spent / asked["sample"], "waited": share}) + "\n")
            else:
                answers.write(json.dumps({"peak": _peak(call, before)}) + "\n")
        except Exception as error:
            answers.write(json.dumps({"skip": f"{type(error).__name__}: {str(error)[:200]}"}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
