"""The page about CUDA devices: `python benchmarks/gpu_page.py docs/devices/NAME` writes its tables into the page.

NAME is a folder that gpu.py filled. Only what a file there says is written; the text around the tables stays.
"""

import json
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance-gpu.md"
OPERATIONS = ("forward", "backward", "inference")
KERNELS = ("moments", "normalize", "grad_sums", "grad_input")


def row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table(heads, rows, left=3):
    lines = [row(heads), row("---" if i < left else "---:" for i in range(len(heads)))]
    return "\n".join([*lines, *map(row, rows)])


def tables(folder):
    """The tables of a folder's files, as Markdown."""
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    facts = read["facts"]
    driver, nvrtc = facts["driver"], ".".join(map(str, facts["NVRTC"]))
    bandwidth = max(facts["copy TB/s, reads and writes, twice"])
    versions = ", ".join(f"{name} {facts[name]}" for name in ("cupy", "torch", "numpy", "python", "bnspec"))
    cuda = f"CUDA driver {driver // 1000}.{driver % 1000 // 10}, NVRTC {nvrtc}"
    yield f"{facts['device']}, {cuda}, {versions}; a copy moves {bandwidth:.2f} TB/s, reads and writes"
    for number, operation in enumerate(OPERATIONS):
        rows = []
        for r in read["times"]["rows"]:
            ours, floor = r["bnspec us, in a graph"][number], r["floors us"][number]
            peers = [r[f"torch us, {how} cuDNN"][number] for how in ("with", "without")]
            rows.append(
                [r["shape"], r["dtype"], r["layout"], f"{floor:.0f}", f"{ours:.0f}", f"{floor / ours:.0%}",
                 f"{r['bnspec us'][number]:.0f}", *(f"{v:.0f}" for v in peers), f"{min(peers) / ours:.2f}"]
            )  # fmt: skip
        heads = ["shape", "dtype", "channels", "floor", "bnspec", "floor / bnspec", "launched by Python",
                 "torch with cuDNN", "torch without", "best torch / bnspec"]  # fmt: skip
        yield f"**{operation}** (us)\n\n{table(heads, rows)}"
    rows = [
        [r["shape"], r["dtype"], r["layout"], *(f"{r[k][0]:.0f} ({r[k][1]:.0%})" for k in KERNELS)]
        for r in read["kernels_alone"]["rows"]
    ]
    heads = ["shape", "dtype", "channels", *KERNELS]
    yield f"**Each kernel** (us, and its share of the copy's bandwidth)\n\n{table(heads, rows)}"
    names = list(next(iter(read["small"].values())))
    rows = [[name, *(f"{r[name][1]:.0f}" for r in read["small"].values())] for name in names]
    yield f"**Small calls** (us, the host's time)\n\n{table(['operation', *read['small']], rows, 1)}"


def main():
    begin, end = "<!-- tables -->", "<!-- end of tables -->"
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    made = "\n\n".join(tables(Path(sys.argv[1])))
    PAGE.write_text(f"{before}{begin}\n\n{made}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
