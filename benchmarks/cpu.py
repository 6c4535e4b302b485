"""Batch normalization on a CPU beside its peers: `python benchmarks/cpu.py [--json FILE] [--page docs/performance.md]`.

Each candidate (`cpu_candidates.py`) is a process of its own, and the parent takes one sample of each in turn,
round after round, so that a busy machine disturbs all alike. A sample counts as clean if its threads waited for a
core less than 3 % of it; the table shows the median of the clean samples, or, where there are fewer than three,
the 20th percentile of all, marked "~". Compare within a row only.

"+keep" is the same library with glibc told to retain freed memory, which is what a fair allocator would do: fresh
pages cost more than the arithmetic. The floor is what the same reads and writes cost with nothing else done,
measured in the same rounds: "one pass" where a second pass over the data finds it in cache, "streaming" where not.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.progress import Progress

SHAPES = {
    "stem": (32, 64, 112, 112), "c2": (32, 64, 56, 56), "c2x": (32, 256, 56, 56), "c3": (32, 512, 28, 28),
    "c5": (32, 2048, 7, 7), "rows": (4096, 1024), "audio": (16, 512, 1600), "volume": (4, 32, 16, 64, 64),
    "small": (8, 16, 8, 8),
}  # fmt: skip
OPS = {"fwd": "forward", "fwdbwd": "forward + backward", "infer": "inference"}
PEERS = ("torch", "torch+keep", "torch.compile", "torch.compile+keep", "jax", "onnxruntime", "numpy")
OURS = ("bnspec", "bnspec (torch)")
#: What an operation has to read and write: (second pass from cache, second pass from memory).
FLOORS = {
    "infer": ("copy", "copy"),
    "fwd": ("copy", "copy+read"),
    "fwdbwd": ("copy+triad", "copy+read+triad+read2"),
}
KEEP = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}


class Candidate:
    """A process that serves one candidate; one that failed is asked nothing more."""

    def __init__(self, name):
        environment = os.environ | (KEEP if name.endswith("+keep") else {})
        command = [sys.executable, str(Path(__file__).with_name("cpu_candidates.py")), name]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1, env=environment
        )

    def ask(self, **what):
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        return json.loads(answer) if answer else {"skip": f"ended with status {self.process.wait()}"}

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(case, names, rounds, candidates):
    """One row: what each candidate took; processes are started as they are needed."""
    running, found = {}, {}
    for name in names:
        if name not in candidates:
            candidates[name] = Candidate(name)
        prepared = candidates[name].ask(case=case)
        if "skip" in prepared:
            found[name] = prepared
        else:
            running[name] = (candidates[name], prepared)
    samples = {name: [] for name in running}
    for _ in range(rounds):
        for name, (candidate, prepared) in running.items():
            samples[name].append(candidate.ask(sample=prepared["calls"]))
    for name, (candidate, prepared) in running.items():
        lost = [s["skip"] for s in samples[name] if "skip" in s]
        found[name] = {"skip": lost[0]} if lost else summary(samples[name]) | {"error": prepared["error"]}
        found[name]["first"] = prepared["first"]
        candidate.ask(case=None)
    return found


def summary(samples):
    """Median of the clean samples, in ms."""
    clean = [s["seconds"] for s in samples if s["waited"] < 0.03]
    if len(clean) >= 3:
        return {"ms": 1e3 * statistics.median(clean), "clean": len(clean), "noisy": False}
    every = sorted(s["seconds"] for s in samples)
    return {"ms": 1e3 * every[len(every) // 5], "clean": len(clean), "noisy": True}


def grid(options):
    """The cases of the tables."""
    for dtype in options.dtypes:
        for layout in ("nchw", "nhwc"):
            for name in options.shapes or (SHAPES if dtype == "float32" else ("c2",)):
                flat = len(SHAPES[name]) == 2
                if (flat and layout == "nhwc") or (options.layouts and layout not in options.layouts):
                    continue
                for op in options.ops if dtype == "float32" else ("fwd", "fwdbwd"):
                    yield {"shape": SHAPES[name], "layout": layout, "dtype": dtype, "op": op}


def cell(found):
    """Time in ms as a table shows it."""
    if "ms" not in found:
        return "-"
    ms = found["ms"]
    return ("~" if found["noisy"] else "") + (f"{ms:.3g}" if ms < 100 else f"{ms:.0f}")


def ratio(mine, other):
    """How long we take beside another, or nothing to compare."""
    return f"{mine['ms'] / other['ms']:.2f}" if "ms" in mine and "ms" in other else "-"


def tables(rows):
    """The rows as Markdown, a table for each operation, layout and dtype."""
    lines = []
    for key in dict.fromkeys((r["op"], r["layout"], r["dtype"]) for r in rows):
        op, layout, dtype = key
        mine = [r for r in rows if (r["op"], r["layout"], r["dtype"]) == key]
        head = ["shape", "MB", "floor", *OURS, *PEERS, "/ floor", "/ torch+keep", "/ best peer"]
        lines += ["", f"**{OPS[op]}, {layout.upper()}, {dtype}** (ms)", ""]
        lines += ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
        for row in mine:
            got = row["found"]
            ours, (near, far) = got["bnspec"], (got[f] for f in FLOORS[op])
            peers = {n: got[n] for n in PEERS if "ms" in got.get(n, {})}
            best = min(peers, key=lambda n: peers[n]["ms"]) if peers else None
            floor = cell(near) if near is far else f"{cell(near)} / {cell(far)}"
            against = [ratio(ours, far), ratio(ours, got.get("torch+keep", {}))]
            against.append(f"{ratio(ours, peers[best])} ({best})" if best else "-")
            size = f"{row['bytes'] / 1e6:.3g}"
            shape = "(" + ", ".join(map(str, row["shape"])) + ")"
            cells = [shape, size, floor, *(cell(got.get(n, {})) for n in (*OURS, *PEERS)), *against]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).strip() + "\n"


def about():
    """The machine and the versions, as one line."""
    versions = []
    for package in ("bnspec", "numpy", "numba", "torch", "jax", "onnxruntime"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    return f"{cpu}, {len(os.sched_getaffinity(0))} threads; Python {platform.python_version()}, {', '.join(versions)}"


def rewrite(page, name, text):
    """Replace what stands between ``<!-- name -->`` and ``<!-- end name -->``."""
    before, rest = page.read_text(encoding="utf-8").split(f"<!-- {name} -->", 1)
    _, after = rest.split(f"<!-- end {name} -->", 1)
    page.write_text(f"{before}<!-- {name} -->\n\n{text}\n<!-- end {name} -->{after}", encoding="utf-8")


def main():
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--layouts", nargs="+", choices=("nchw", "nhwc"))
    parser.add_argument("--dtypes", nargs="+", default=("float32", "bfloat16", "float16", "float64"))
    parser.add_argument("--ops", nargs="+", choices=OPS, default=tuple(OPS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write every number")
    parser.add_argument("--page", type=Path, help="replace the tables of this page")
    options = parser.parse_args()
    rows, cases, candidates = [], list(grid(options)), {}
    with Progress() as progress:
        for case in progress.track(cases, description="cases"):
            if rows and rows[-1]["dtype"] != case["dtype"]:  # JAX has float64 for a whole process or not at all
                for name in list(candidates):
                    candidates.pop(name).end()
            names = [*OURS, *options.peers, *dict.fromkeys(FLOORS[case["op"]])]
            width = {"float64": 8, "float32": 4}.get(case["dtype"], 2)
            size = width
            for n in case["shape"]:
                size *= n
            rows.append(case | {"bytes": size, "found": measure(case, names, options.rounds, candidates)})
            if options.json:
                options.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=1), encoding="utf-8")
            progress.console.print(tables(rows[-1:]), highlight=False, soft_wrap=True)
    text = f"{about()}\n\n{tables(rows)}"
    if options.page:
        rewrite(options.page, "tables", text)
    print(text)


if __name__ == "__main__":
    main()
