"""How time and memory grow with the size of x: `python benchmarks/growth.py [--json FILE] [--plot FILE] [--page FILE]`.

Forward and backward of float32 arrays of shape (32, 64, H, H), from some kilobytes to a gigabyte, beside torch with
a retained heap; the candidates and the way of timing are those of `benchmarks/cpu.py`. Memory is the most that a
step needs above what the process had before, x and dy included, as a multiple of x: four arrays are 4.
"""

import argparse
import json
from pathlib import Path

from cpu import Candidate, about, measure, rewrite
from rich.progress import track

SIDES = (1, 2, 4, 7, 11, 20, 35, 62, 112, 198, 349)
NAMES = ("bnspec", "torch", "torch+keep", "copy+triad")


def peak(name, case):
    """The most memory of a step, in bytes; in a process of its own, which has held nothing else."""
    candidate = Candidate(name)
    candidate.ask(case=case | {"shape": (32, 64, 1, 1)})  # the libraries themselves are no part of it
    prepared = candidate.ask(case=case)
    found = None if "skip" in prepared else candidate.ask(peak=True).get("peak")
    candidate.end()
    return found


def table(rows):
    """The rows as Markdown."""
    lines = ["| MB | " + " | ".join(NAMES) + " | memory: bnspec | torch |", "| ---: " * (len(NAMES) + 3) + "|"]
    for row in rows:
        cells = [f"{row['bytes'] / 1e6:.3g}", *(f"{row['ms'][n]:.3g}" if row["ms"].get(n) else "-" for n in NAMES)]
        cells += [f"{row['peak'][n] / row['bytes']:.2f}" if row["peak"].get(n) else "-" for n in ("bnspec", "torch")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows, path):
    """Time and memory against the size of x."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bnspec"
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = {"copy+triad": "reads and writes alone"}
    for name in NAMES:
        points = [(row["bytes"] / 1e6, row["ms"][name]) for row in rows if row["ms"].get(name)]
        style = {"color": "gray", "linestyle": "--"} if name in labels else {"marker": "o", "markersize": 3}
        left.loglog(*zip(*points), label=labels.get(name, name), **style)
    left.set(xlabel="MB of x", ylabel="ms, forward + backward")
    left.legend()
    for name in ("bnspec", "torch"):
        points = [
            (row["bytes"] / 1e6, row["peak"][name] / row["bytes"])
            for row in rows
            if row["peak"].get(name) and row["bytes"] > 5e6
        ]
        right.semilogx(*zip(*points), marker="o", markersize=3, label=name)
    right.axhline(4, color="gray", linestyle="--", label="x, dy, y, dx")
    right.set(xlabel="MB of x", ylabel="most memory / size of x", ylim=(0, None))
    right.legend()
    figure.savefig(path, metadata={"Date": None})


def main():
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write every number")
    parser.add_argument("--plot", type=Path, help="write the plot, as SVG")
    parser.add_argument("--page", type=Path, help="replace the table of this page")
    options = parser.parse_args()
    rows, candidates = [], {}
    for side in track(options.sides, description="sizes"):
        case = {"shape": (32, 64, side, side), "layout": "nchw", "dtype": "float32", "op": "fwdbwd"}
        size = 4 * 32 * 64 * side * side
        found = measure(case, NAMES, options.rounds, candidates)
        peaks = {name: peak(name, case) for name in ("bnspec", "torch") if size > 5e6}
        rows.append({"bytes": size, "ms": {n: found[n].get("ms") for n in NAMES}, "peak": peaks})
    text = f"{about()}\n\n{table(rows)}"
    if options.json:
        options.json.write_text(json.dumps({"about": about(), "rows": rows}, indent=1), encoding="utf-8")
    if options.plot:
        plot(rows, options.plot)
    if options.page:
        rewrite(options.page, "growth", text)
    print(text)


if __name__ == "__main__":
    main()
