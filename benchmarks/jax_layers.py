"""Time bnspec in JAX beside flax's two-pass layer, and look at what XLA makes of both.

    python benchmarks/jax_layers.py [--json FILE] [--page docs/performance-jax.md]

A step is the forward pass, the backward pass and the new running state, compiled as one program. Both programs run in
turn, so that whatever else the machine does meets both; a ratio is the median of those of neighbours. Nothing that was
compiled before is used. The figures of programs that are spread over devices come from a process of its own, whose
processor passes for four devices.
"""

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
from cpu import about, rewrite

import bnspec
from bnspec_backends import xla

SHAPES = [(64, 8, 8, 64), (32, 32, 32, 64), (256, 256), (32, 56, 56, 64)]
DTYPES = ("float32", "bfloat16")

#: At most so many times flax's: what the project wants of a step, of inference, and of ten layers.
GOALS = {"step": 1.25, "compile": 1.5, "instructions": 2.0, "memory": 1.25, "inference": 1.0, "ten layers": 1.5}


def flax_layer(train: bool) -> Any:
    """Return flax's layer, in two passes as ours is."""
    return flax.linen.BatchNorm(use_running_average=not train, use_fast_variance=False, epsilon=1e-5)


def flax_apply(x: Any, params: Any, state: Any) -> Any:
    """One call of flax's layer: y, and the new running state."""
    variables = {"params": {"scale": params[0], "bias": params[1]}, "batch_stats": {"mean": state[0], "var": state[1]}}
    y, changed = flax_layer(True).apply(variables, x, mutable=["batch_stats"])
    return y.astype(x.dtype), (changed["batch_stats"]["mean"], changed["batch_stats"]["var"])


def bnspec_apply(x: Any, params: Any, state: Any) -> Any:
    """The same by bnspec's functions."""
    config = bnspec.dialects.flax.config(axis=x.ndim - 1)
    y, stats, _ = bnspec.batch_norm(x, bnspec.Params(*params), config)
    after = bnspec.update_running(bnspec.RunningState(*state), stats, config)
    return y, (after.mean, after.var)


def flax_infer(x: Any, params: Any, state: Any) -> Any:
    """Inference by flax's layer."""
    variables = {"params": {"scale": params[0], "bias": params[1]}, "batch_stats": {"mean": state[0], "var": state[1]}}
    return flax_layer(False).apply(variables, x).astype(x.dtype)


def bnspec_infer(x: Any, params: Any, state: Any) -> Any:
    """Inference by bnspec."""
    config = bnspec.dialects.flax.config(axis=x.ndim - 1)
    return bnspec.batch_norm_inference(x, bnspec.Params(*params), bnspec.RunningState(*state), config)[0]


def step_of(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return forward, backward and update as one function."""

    def step(x: Any, params: Any, state: Any, dy: Any) -> Any:
        y, pull_back, after = jax.vjp(lambda x, params: apply(x, params, state), x, params, has_aux=True)
        return y, pull_back(dy), after

    return step


def tangents_of(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return the forward pass with its directional derivative."""
    return lambda x, params, state, dy: jax.jvp(lambda x: apply(x, params, state)[0], (x,), (dy,))


def deep(apply: Callable[..., Any], number: int = 10) -> Callable[..., Any]:
    """Return so many layers with a relu behind each."""

    def layers(x: Any, params: Any, state: Any) -> Any:
        states = []
        for _ in range(number):
            x, after = apply(x, params, state)
            x = jax.nn.relu(x)
            states.append(after)
        return x, states

    return layers


#: What is measured: the same of bnspec's layer and of flax's.
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "step": (step_of(bnspec_apply), step_of(flax_apply)),
    "forward mode": (tangents_of(bnspec_apply), tangents_of(flax_apply)),
    "inference": (lambda x, p, s, dy: bnspec_infer(x, p, s), lambda x, p, s, dy: flax_infer(x, p, s)),
    "ten layers": (step_of(deep(bnspec_apply)), step_of(deep(flax_apply))),
}


def by(kernels: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is traced with some of bnspec's kernels."""

    def traced(*given: Any) -> Any:
        with xla.using(kernels):
            return function(*given)

    return traced


def programs_of(kind: str) -> dict[str, Callable[..., Any]]:
    """Return the functions that are compared: bnspec's by each of its kernels, and flax's."""
    ours, theirs = KINDS[kind]
    return {kernels: by(kernels, ours) for kernels in xla.KERNELS} | {"flax": theirs}


def arguments(shape: tuple[int, ...], dtype: str) -> tuple[Any, ...]:
    """Return x, the parameters, the running state and a cotangent."""
    draw = np.random.default_rng(0).standard_normal
    channels = shape[-1]
    x, dy = (jnp.asarray(draw(shape), dtype) for _ in range(2))
    return x, (jnp.ones(channels), jnp.zeros(channels)), (jnp.zeros(channels), jnp.ones(channels)), dy


def compiled(function: Callable[..., Any], given: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
    """Compile a function; return the program, and how long that took and what it is."""
    jax.clear_caches()
    begun = time.perf_counter()
    program = jax.jit(function).lower(*given).compile()
    seconds = time.perf_counter() - begun
    text = program.as_text()
    facts = {"compile": seconds, "instructions": sum(" = " in line for line in text.splitlines())}
    return program, facts | {"memory": program.memory_analysis().temp_size_in_bytes}


def compare(kind: str, shape: tuple[int, ...], dtype: str, rounds: int) -> list[dict[str, Any]]:
    """Compile the programs of a kind and run them in turn; return a row for each of bnspec's kernels."""
    given, functions = arguments(shape, dtype), programs_of(kind)
    # The first program of a process pays for what every later one finds done; and the faster of two is closer to what
    # compiling takes than to what else the machine did.
    made = [{name: compiled(function, given) for name, function in functions.items()} for _ in range(3)][1:]
    programs = {name: program for name, (program, _) in made[-1].items()}
    facts = {name: made[0][name][1] | {"compile": min(each[name][1]["compile"] for each in made)} for name in functions}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 2):
        for name, program in programs.items():
            begun = time.perf_counter()
            jax.block_until_ready(program(*given))
            if turn > 1:
                times[name].append(time.perf_counter() - begun)
    rows = []
    for kernels in xla.KERNELS:
        pair = (kernels, "flax")
        row: dict[str, Any] = {"kernels": kernels, "kind": kind, "shape": shape, "dtype": dtype}
        row["ms"] = [statistics.median(times[name]) * 1e3 for name in pair]
        row["time"] = statistics.median(a / b for a, b in zip(*(times[name] for name in pair), strict=True))
        rows.append(
            row | {fact: [facts[name][fact] for name in pair] for fact in ("compile", "instructions", "memory")}
        )
    return rows


def collectives() -> dict[str, dict[str, int]]:
    """Count the messages in a step whose batch is spread over four devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))

    def put(v: Any, *axes: str) -> Any:
        return jax.device_put(v, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes)))

    x, params, state, dy = arguments((32, 8, 8, 64), "float32")
    given = put(x, "batch"), *jax.tree.map(put, (params, state)), put(dy, "batch")
    found = {}
    for name, function in programs_of("step").items():
        text = jax.jit(function).lower(*given).compile().as_text()
        kinds = re.findall(r"= .*? (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text)
        found[name] = dict(collections.Counter(kinds))
    return found


def elsewhere() -> dict[str, dict[str, int]]:
    """Ask a process with four devices for `collectives`."""
    devices = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, __file__, "--devices"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=devices)
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


def over(pair: list[float]) -> str:
    """Return a ratio in two digits."""
    return f"{pair[0] / pair[1]:.2f}" if pair[1] else "-"


def table(rows: list[dict[str, Any]]) -> str:
    """Return what was measured as a Markdown table."""
    named = ("kernels", "what", "shape", "dtype", "bnspec ms", "flax ms")
    head = "| " + " | ".join([*named, "time", "compile", "instructions", "temporary memory"]) + " |"
    lines = [head, "| " + " | ".join(["---"] * 4 + ["---:"] * 6) + " |"]
    for row in rows:
        cells = [
            row["kernels"],
            row["kind"],
            str(tuple(row["shape"])),
            row["dtype"],
            *(f"{ms:.3g}" for ms in row["ms"]),
        ]
        cells += [f"**{row['time']:.2f}**", over(row["compile"]), over(row["instructions"]), over(row["memory"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """Return a line for each goal: met, or by how much missed."""
    kept: dict[str, list[float]] = collections.defaultdict(list)
    for row in rows:
        if row["kind"] == "step":
            kept["step"].append(row["time"])
            for name in ("compile", "instructions", "memory"):
                kept[name].append(row[name][0] / row[name][1])
        elif row["kind"] == "inference":
            kept["inference"].append(row["time"])
        elif row["kind"] == "ten layers":
            kept["ten layers"].append(row["compile"][0] / row["compile"][1])
    lines = []
    for name, goal in GOALS.items():
        if not kept[name]:
            continue
        missed = [r for r in kept[name] if r > goal]
        verdict = "met" if not missed else f"missed in {len(missed)} of {len(kept[name])}"
        measured = f"{min(kept[name]):.2f} to {max(kept[name]):.2f}"
        lines.append(f"- {name}: at most {goal:g} wanted, {measured} measured: {verdict}")
    return "\n".join(lines)


def summaries(rows: list[dict[str, Any]]) -> str:
    """Return the goals of each of bnspec's kernels."""
    parts = {kernels: summary([row for row in rows if row["kernels"] == kernels]) for kernels in xla.KERNELS}
    return "\n\n".join(f'Kernels "{kernels}":\n\n{part}' for kernels, part in parts.items())


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", type=Path, help="write every number")
    parser.add_argument("--page", type=Path, help="replace the tables of this page")
    parser.add_argument("--devices", action="store_true", help="only print the messages of a program on four devices")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # type: ignore[no-untyped-call]
    if options.devices:
        print(json.dumps(collectives()))
        return
    kinds = ("step", "forward mode", "inference")
    cases = [(kind, shape, dtype) for kind in kinds for dtype in DTYPES for shape in SHAPES]
    cases.append(("ten layers", SHAPES[0], "float32"))
    rows: list[dict[str, Any]] = []
    for case in cases:
        found = compare(*case, options.rounds)
        print(*table(found).splitlines()[2:], sep="\n", flush=True)
        rows += found
    rows.sort(key=lambda row: xla.KERNELS.index(row["kernels"]))
    messages = elsewhere()
    counted = {name: ", ".join(f"{n} {kind}" for kind, n in each.items()) for name, each in messages.items()}
    spread = "; ".join(f"{name}: {text}" for name, text in counted.items())
    text = f"{about()}, flax {flax.__version__}\n\n{summaries(rows)}\n\n{table(rows)}\n\n"
    text += f"Messages of a step whose batch is spread over four devices: {spread}.\n"
    print("\n" + text)
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "rows": rows, "messages": messages}, indent=1))
    if options.page:
        rewrite(options.page, "tables", text)


if __name__ == "__main__":
    main()
