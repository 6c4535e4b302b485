"""The stages of gpu.py: `python benchmarks/gpu_stages.py STAGE FILE` writes what it finds as JSON."""

import importlib
import json
import multiprocessing
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cupy
import numpy as np

import bnspec
from bnspec_backends import cuda
from bnspec_backends.cuda import compiling, plan
from bnspec_backends.cuda.arrays import KINDS
from bnspec_backends.cuda.call import prepared
from bnspec_backends.cuda.plan import plan_for

try:
    import torch
except ImportError:  # the times of bnspec stand alone then
    torch = None

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {
    "(256,64,112,112)": (256, 64, 112, 112), "(256,256,56,56)": (256, 256, 56, 56), "(32,256,56,56)": (32, 256, 56, 56),
    "(256,2048,7,7)": (256, 2048, 7, 7), "(4096,1024)": (4096, 1024),
}  # fmt: skip
#: Bytes that are rotated through, so that no pass finds its input in the cache.
ROTATED = 400 << 20
SAMPLES = 20
#: Seconds of work before the first sample: an idle device's clock is slow, and it takes a while to rise.
WARM_UP = 0.03


def write(path, found):
    Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def timed(calls, samples=SAMPLES):
    """Microseconds of one call: the median of events around each, calls taken in turn."""
    begin = time.perf_counter()
    while time.perf_counter() < begin + WARM_UP:
        for call in calls:
            call()
        cupy.cuda.Device().synchronize()
    events = []
    for i in range(samples):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        calls[i % len(calls)]()
        end.record()
        events.append((begin, end))
    cupy.cuda.Device().synchronize()
    return float(np.median([cupy.cuda.get_elapsed_time(*pair) for pair in events])) * 1e3


def facts(path):
    """Versions, the device, and how fast it copies."""
    device = cupy.cuda.Device()
    properties = cupy.cuda.runtime.getDeviceProperties(device.id)
    found = {
        "device": properties["name"].decode(),
        "multiprocessors": properties["multiProcessorCount"],
        "L2 bytes": properties["l2CacheSize"],
        "compute capability": device.compute_capability,
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "NVRTC": cupy.cuda.nvrtc.getVersion(),
        "float32 operations for each float64": device.attributes.get("SingleToDoublePrecisionPerfRatio"),
        "python": sys.version.split()[0],
        "bnspec": bnspec.__version__,
    }
    for name in ("cupy", "numpy", "torch"):
        try:
            found[name] = importlib.import_module(name).__version__
        except ImportError:
            found[name] = None
    a = cupy.zeros(1 << 28, "float32")
    b = cupy.empty_like(a)
    copied = [timed([lambda: cupy.copyto(b, a)]) for _ in range(2)]
    found["copy TB/s, reads and writes, twice"] = [2 * a.nbytes / us / 1e6 for us in copied]
    write(path, found)


def compile_one(what_and_architecture):
    what, architecture = what_and_architecture
    begin = time.perf_counter()
    compiling.machine_code(what, architecture)
    return what, time.perf_counter() - begin


def kernels():
    """Every kernel that arrays of one dtype, and cotangents of the same, can ask for."""
    for type_name, _, size in KINDS.values():
        for walk, most in (("Runs", 16 // size), ("Columns", min(4, 16 // size))):
            for vector in (v for v in (1, 2, 4, 8) if v <= most):
                unroll = plan_for(1, 1, 8, 8, walk == "Columns", vector, size).unroll
                for flag in ("false", "true"):
                    for name, types in (("moments", 1), ("normalize", 1), ("grad_sums", 2), ("grad_input", 2)):
                        arguments = f"{', '.join([type_name] * types)}, {walk}<{vector}>, {unroll}, {flag}"
                        yield f"{name}<{arguments}>"
                        summed = name in ("moments", "grad_sums")
                        if flag == "false" and (type_name == "float" or (size == 2 and summed)):
                            yield f"{name}<{arguments}, Twofold>"
    yield "update"


def compile_all(path):
    """Compile in as many processes as there are processors, so that no other stage waits for NVRTC."""
    architecture = f"sm_{cupy.cuda.Device().compute_capability}"
    begin = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool() as pool:
        took = dict(pool.map(compile_one, [(what, architecture) for what in kernels()], chunksize=1))
    write(path, {"kernels": len(took), "seconds": time.perf_counter() - begin, "of one, at most": max(took.values())})


def bits(path, arithmetic="wide"):
    """Whether the device gives the emulator's bits for the stored cases."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from cuda_bits import STORED, digests

    stored, found = json.loads(STORED[arithmetic].read_text(encoding="utf-8")), digests(arithmetic)
    differing = [name for name, digest in found.items() if stored.get(name) != digest]
    count = {"same": len(found) - len(differing), "differs": len(differing)}
    write(
        path, {**count, "the same bits again": digests(arithmetic) == found, "differing": differing, "digests": found}
    )


def bits_twofold(path):
    """Compare as `bits` does, with two float32 numbers for one, which any device can be asked for."""
    bits(path, "twofold")


def truth(path):
    """Sizes that need 64 bits, and memory that nothing wrote."""
    found = {}
    x = cupy.zeros((2, 1100, 1000, 1000), "float16")  # 2.2e9 elements
    x[-1, -1, -1, -1] = 1.0
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    params, _ = bnspec.init(config, channels=1100, like=x)
    y, stats, saved = bnspec.batch_norm(x, params, config)
    mean, n = 1 / 2e6, 2e6
    found["mean"] = abs(float(stats.mean[0, -1]) - mean) < 1e-18
    found["m2"] = abs(float(stats.m2[0, -1]) - (1 - 1 / n)) < 1e-12
    inverse = 1 / np.sqrt((1 - 1 / n) / n + 1e-5)
    found["last y"] = float(y[-1, -1, -1, -1]) == float(np.float16((1 - mean) * inverse))
    found["other y of the channel"] = bool((y[0, -1] == np.float16(-mean * inverse)).all())
    found["other channels"] = bool((y[:, :-1] == 0).all())
    del y
    gradients = bnspec.batch_norm_vjp(x, saved)
    found["dbeta"] = float(gradients.beta[-1]) == 1.0
    write(path, found)


def replayed(calls, samples=SAMPLES):
    """Microseconds that the device takes for one call: captured in graphs, so that the host is not in the way."""
    graphs = []
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for call in calls:
            call()
            call()
            stream.synchronize()
            stream.begin_capture()
            kept = call()
            graphs.append((stream.end_capture(), kept))
        return timed([lambda graph=graph: graph.launch(stream) for graph, _ in graphs], samples)


def kernels_alone(path):
    """Each kernel's time on the device, and what share of the copy's bandwidth it reaches."""
    bandwidth = 2 * (1 << 30) / timed_copy()
    found = {"bytes per us of a copy": bandwidth, "rows": []}
    for name, dtype, layout in rows():
        took = kernel_times(SHAPES[name], dtype, layout)
        size = bytes_of(SHAPES[name], dtype)
        shares = {kernel: [us, passes * size / bandwidth / us] for kernel, (passes, us) in took.items()}
        found["rows"].append({"shape": name, "dtype": dtype, "layout": layout} | shares)
        write(path, found)
        print(name, dtype, layout, {kernel: f"{us:.0f} us {share:.0%}" for kernel, (us, share) in shares.items()})


def blocks(path):
    """Times of each kernel by the number of blocks that sum: what `BLOCKS` and `BLOCKS_OF_COLUMNS` are chosen by."""
    bandwidth = 2 * (1 << 30) / timed_copy()
    found, ratios = {}, {}
    for runs, columns in ((1056, 528), (528, 264), (792, 396), (2112, 1056)):
        plan.BLOCKS, plan.BLOCKS_OF_COLUMNS = runs, columns
        plan.plan_for.cache_clear()
        prepared.cache_clear()
        for name, dtype, layout in rows():
            shape, size = SHAPES[name], bytes_of(SHAPES[name], dtype)
            by_columns = layout == "last" or np.prod(shape[2:]) < plan.LONG_RUN
            number = columns if by_columns else runs
            took = kernel_times(shape, dtype, layout)
            found[f"{number} {name} {dtype} {layout}"] = {
                kernel: [round(us, 1), round(passes * size / bandwidth / us, 3)]
                for kernel, (passes, us) in took.items()
            }
            times = (took["moments"][1], took["grad_sums"][1] / 2)
            ratios.setdefault(str(by_columns), {}).setdefault(number, []).append(sum(times) / 2 / (size / bandwidth))
            write(path, found)
    found["total"] = {kind: {n: float(np.mean(v)) for n, v in by.items()} for kind, by in ratios.items()}
    found["best"] = {kind: min(by, key=by.get) for kind, by in found["total"].items()}
    write(path, found)


def kernel_times(shape, dtype, layout):
    """How often a kernel passes over x, and the microseconds that it takes."""
    pairs = arrays(shape, dtype, layout)
    kernels, groups, one = cuda.make("compiled"), bnspec.Groups(axis=1, number=1), cupy.ones((1, shape[1]))
    calls = {
        "moments": (1, lambda x, g: kernels.moments(x, groups, None)),
        "normalize": (2, lambda x, g: kernels.normalize(x, one, one, one, groups)),
        "grad_sums": (2, lambda x, g: kernels.grad_sums(g, x, one, groups, None)),
        "grad_input": (3, lambda x, g: kernels.grad_input(g, x, one, one, one, one, groups, None)),
    }
    return {
        name: (passes, replayed([partial(call, *pair) for pair in pairs])) for name, (passes, call) in calls.items()
    }


def rows():
    """Shapes, dtypes and layouts that are timed."""
    for name, shape in SHAPES.items():
        for dtype in ("float32", "bfloat16"):
            for layout in ("first", "last") if len(shape) == 4 else ("first",):
                yield name, dtype, layout


def bytes_of(shape, dtype):
    return int(np.prod(shape)) * (4 if dtype == "float32" else 2)


def times(path):
    """Forward, backward and inference of each shape, dtype and layout, beside torch's with and without cuDNN."""
    bandwidth = 2 * (1 << 30) / timed_copy()
    found = {"bytes per us of a copy": bandwidth, "rows": []}
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    for name, dtype, layout in rows():
        shape = SHAPES[name]
        row = {"shape": name, "dtype": dtype, "layout": layout} | ours(shape, dtype, layout, config)
        if torch is not None:
            for cudnn in (True, False):
                row |= torchs(shape, dtype, layout, cudnn)
        row["floors us"] = [passes * bytes_of(shape, dtype) / bandwidth for passes in (3, 5, 2)]
        found["rows"].append(row)
        write(path, found)
        print(row, flush=True)


def timed_copy():
    a = cupy.zeros(1 << 28, "float32")
    b = cupy.empty_like(a)
    return timed([lambda: cupy.copyto(b, a)])


def sets(shape, dtype):
    return max(2, min(8, -(-ROTATED // (2 * bytes_of(shape, dtype)))))


def arrays(shape, dtype, layout):
    """Pairs of x and dy, as many as it takes to pass the cache by."""
    kind = dtype
    if dtype == "bfloat16":
        import ml_dtypes

        kind = np.dtype(ml_dtypes.bfloat16)

    def new():
        v = cupy.random.standard_normal(shape, "float32").astype(kind)
        return v if layout == "first" else cupy.ascontiguousarray(v.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    return [(new(), new()) for _ in range(sets(shape, dtype))]


def ours(shape, dtype, layout, config):
    """Microseconds of forward, backward and inference of bnspec on CuPy arrays."""
    pairs = arrays(shape, dtype, layout)
    params, state = bnspec.init(config, channels=shape[1], like=pairs[0][0])
    saved = [bnspec.batch_norm(x, params, config)[2] for x, _ in pairs]
    steps = (
        [partial(bnspec.batch_norm, x, params, config) for x, _ in pairs],
        [partial(bnspec.batch_norm_vjp, dy, s) for (_, dy), s in zip(pairs, saved)],
        [partial(bnspec.batch_norm_inference, x, params, state, config) for x, _ in pairs],
    )
    launches = []
    for step in steps:
        before = cuda.counters.launches
        step[0]()
        launches.append(cuda.counters.launches - before)
    return {
        "bnspec us": [timed(step) for step in steps],
        "bnspec us, in a graph": [replayed(step) for step in steps],
        "launches": launches,
    }


def torchs(shape, dtype, layout, cudnn):
    """The same of torch's function, its gradient by its own backward operator."""
    form = torch.channels_last if layout == "last" else torch.contiguous_format
    kind = getattr(torch, dtype)

    def new():
        v = torch.randn(shape, device="cuda", dtype=torch.float32).to(kind)
        return v.contiguous(memory_format=form) if v.ndim == 4 else v

    number = sets(shape, dtype)
    xs, dys = [new() for _ in range(number)], [new() for _ in range(number)]
    c = shape[1]
    gamma = torch.ones(c, device="cuda")
    beta, mean, var = torch.zeros(c, device="cuda"), torch.zeros(c, device="cuda"), torch.ones(c, device="cuda")
    stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream())
    f = torch.nn.functional.batch_norm
    with torch.backends.cudnn.flags(enabled=cudnn), stream:
        with torch.no_grad():
            forward = timed([partial(f, x, mean, var, gamma, beta, True, 0.1, 1e-5) for x in xs])
            infer = timed([partial(f, x, mean, var, gamma, beta, False, 0.1, 1e-5) for x in xs])
        gamma.requires_grad_(), beta.requires_grad_()
        leaves = [x.requires_grad_() for x in xs]
        ys = [f(x, mean, var, gamma, beta, True, 0.1, 1e-5) for x in leaves]
        backward = timed(
            [
                lambda y=y, x=x, dy=dy: torch.autograd.grad(y, (x, gamma, beta), dy, retain_graph=True)
                for x, y, dy in zip(leaves, ys, dys)
            ]
        )
    return {f"torch us, {'with' if cudnn else 'without'} cuDNN": [forward, backward, infer]}


def small(path):
    """Microseconds of the host for a small step: what launches cost when the arrays do not."""
    found = {}
    for shape in ((8, 64), (32, 64, 7, 7)):
        found[str(shape)] = small_step(shape)
        write(path, found)
        print(shape, found[str(shape)], flush=True)


def per_call(call, calls=200):
    """Microseconds until the call has returned, and until the device has done it."""
    for _ in range(10):
        call()
    cupy.cuda.Device().synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    host = time.perf_counter() - begin
    cupy.cuda.Device().synchronize()
    return [host / calls * 1e6, (time.perf_counter() - begin) / calls * 1e6]


def small_step(shape):
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-5, decay=0.9, correction=0)
    x = cupy.random.standard_normal(shape, "float32")
    params, state = bnspec.init(config, channels=64, like=x)
    saved = bnspec.batch_norm(x, params, config)[2]
    row = {
        "bnspec forward": per_call(lambda: bnspec.batch_norm(x, params, config)),
        "bnspec backward": per_call(lambda: bnspec.batch_norm_vjp(x, saved)),
        "bnspec inference": per_call(lambda: bnspec.batch_norm_inference(x, params, state, config)),
    }
    with cuda.using("specification"):
        row["specification forward"] = per_call(lambda: bnspec.batch_norm(x, params, config), 30)
        row["specification backward"] = per_call(lambda: bnspec.batch_norm_vjp(x, saved), 30)
    if torch is not None:
        t = torch.randn(shape, device="cuda")
        g, b, m, v = (torch.ones(64, device="cuda") for _ in range(4))
        f = torch.nn.functional.batch_norm
        with torch.no_grad():
            row["torch forward"] = per_call(lambda: f(t, m, v, g, b, True, 0.1, 1e-5))
            row["torch inference"] = per_call(lambda: f(t, m, v, g, b, False, 0.1, 1e-5))
    return row


def waits(path):
    """Whether a step of each configuration can be captured in a graph, and its replay gives the step's bits."""
    program = ROOT / "tests" / "support" / "cupy_program.py"
    done = subprocess.run([sys.executable, str(program), "graphs"], capture_output=True, text=True, check=False)
    write(path, json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-4000:]})


def conformance(path):
    """The suite on the device."""
    command = [sys.executable, "-m", "bnspec_conformance", "run", "cupy", "--max-examples", "3", "--json", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-2500:], done.stderr[-1500:])


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
