"""Time bnspec's modules for torch beside torch's own: a training step of a residual network, and one small layer.

    python benchmarks/torch_modules.py [--compiled] [--json FILE] [--profile]

Both models run in turn, so that whatever else the machine does meets both; what is printed is the median of the ratios
of neighbours. `--compiled` adds the same step under ``torch.compile``, whose C++ takes minutes to be made.
"""

import argparse
import copy
import cProfile
import json
import platform
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import bnspec
import bnspec.torch
from bnspec_backends import cpu

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from residual_network import ResNet

#: Channels, width and extent of the network's images, and samples of a batch: narrow, and as wide as torchvision's.
NETWORKS = {"narrow": (3, 16, 32, 32), "wide": (3, 64, 32, 32)}


def ratios(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Run both in turn; return the median times in milliseconds and the median ratio."""
    for call in (ours, theirs) * 3:
        call()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, kept in zip((ours, theirs), times, strict=True):
            begun = time.perf_counter()
            call()
            kept.append(time.perf_counter() - begun)
    each = [a / b for a, b in zip(*times, strict=True)]
    mine, other = (statistics.median(kept) * 1e3 for kept in times)
    return {"ours_ms": round(mine, 3), "torch_ms": round(other, 3), "ratio": round(statistics.median(each), 3)}


def step_of(model: Any, call: Any, images: Any, kinds: Any) -> Callable[[], None]:
    """Return forward, backward and the forgetting of gradients as one call."""

    def step() -> None:
        torch.nn.functional.cross_entropy(call(images), kinds).backward()
        for parameter in model.parameters():
            parameter.grad = None

    return step


def network_step(shape: tuple[int, ...], compiled: bool, rounds: int) -> dict[str, float]:
    """A training step of a residual network, with torch's layers and with bnspec's."""
    channels, width, extent, samples = shape
    torch.manual_seed(0)
    theirs = ResNet(channels, width)
    ours = bnspec.torch.replace(copy.deepcopy(theirs))
    images, kinds = torch.randn(samples, channels, extent, extent), torch.randint(10, (samples,))
    calls = [torch.compile(m, fullgraph=True) if compiled else m for m in (ours, theirs)]
    steps = [step_of(m, call, images, kinds) for m, call in zip((ours, theirs), calls, strict=True)]
    return ratios(steps[0], steps[1], rounds)


def layer_step(shape: tuple[int, ...], rounds: int, kind: str = "") -> dict[str, float]:
    """One layer forward and backward: plain, by running statistics, or masked beside torch's plain one."""
    x = torch.randn(shape, requires_grad=True)
    dy = torch.randn(shape)
    more = (torch.rand(shape[0], 1, *shape[2:]) > 0.3,) if kind == "masked" else ()
    ours, theirs = (m(shape[1]).train(kind != "frozen") for m in (bnspec.torch.BatchNorm2d, torch.nn.BatchNorm2d))
    return ratios(lambda: ours(x, *more).backward(dy), lambda: theirs(x).backward(dy), rounds)


#: Functions whose shares of a small layer's call `--profile` prints, by the name that the profiler has.
PARTS = {
    "backward, by torch's engine": "run_backward",
    "of it our node": "torch_calls.py:pull_back",
    "normalization": "torch_calls.py:normalize",
    "update of the statistics": "torch_calls.py:advance",
}


def profile(shape: tuple[int, ...], calls: int = 1000) -> dict[str, float]:
    """Return which part of one layer's forward and backward the parts of it take, by the profiler's clock."""
    x, dy = torch.randn(shape, requires_grad=True), torch.randn(shape)
    module = bnspec.torch.BatchNorm2d(shape[1])
    for _ in range(50):
        module(x).backward(dy)
    profiler = cProfile.Profile()
    begun = time.perf_counter()
    profiler.enable()
    for _ in range(calls):
        module(x).backward(dy)
    profiler.disable()
    whole = time.perf_counter() - begun
    spent: dict[str, float] = {}
    for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        for part, wanted in PARTS.items():
            if f"{Path(file).name}:{name}" == wanted or f"'{wanted}'" in name:
                spent[part] = max(spent.get(part, 0.0), cumulative)
    return {part: round(seconds / whole, 2) for part, seconds in spent.items()}


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def main() -> None:
    """Measure, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--compiled", action="store_true", help="also under torch.compile")
    parser.add_argument("--profile", action="store_true", help="instead print what a small layer's call is made of")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args()
    if args.profile:
        torch.set_num_threads(1)
        print(profile((8, 16, 8, 8)))
        return
    found: dict[str, Any] = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        cpu.resources.threads = threads
        for kind in ("eager", "compiled")[: 1 + args.compiled]:
            for name, network in NETWORKS.items():
                row = network_step(network, kind == "compiled", args.rounds)
                found[f"{name} network, {kind}, threads={threads}"] = row
        for shape in ((8, 16, 8, 8), (32, 64, 32, 32)):
            for kind in ("", " frozen", " masked"):
                row = layer_step(shape, 10 * args.rounds, kind.strip())
                found[f"layer {shape}{kind}, threads={threads}"] = row
    machine = {"machine": processor(), "torch": torch.__version__}
    machine |= {"bnspec": bnspec.__version__, "kernels": cpu.in_use()}
    print(" ".join(f"{k}={v}" for k, v in machine.items()))
    for name, row in found.items():
        print(f"{name:40} ours {row['ours_ms']:9.3f} ms  torch {row['torch_ms']:9.3f} ms  ratio {row['ratio']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(machine | {"rows": found}, indent=1))


if __name__ == "__main__":
    main()
