"""Draw the error of y against mean/std, of bnspec and of each framework's own layer, in float32.

    python examples/gallery_accuracy.py --folder docs/gallery --page docs/gallery.md

Writes accuracy.svg, and the table of the page. The answer that each result is compared with is exact: sums in integers
and roots to 220 bits, of the float32 numbers that every layer gets. Frameworks that are not installed are left out, and
named. Needs matplotlib and `bnspec[conformance]`, and `bnspec[frameworks]` for the others' layers.
"""

import argparse
import importlib.metadata
import platform
from itertools import product
from pathlib import Path

import numpy as np

import bnspec
from bnspec_conformance import Case, RankInputs, exact, find_subject
from bnspec_conformance.subjects import SubjectError

SHAPE = (512, 8)
RATIOS = tuple(float(f"{10 ** (k / 2):.3g}") for k in range(15))  # 1 to 10**7
#: Subjects of the suite, with what the plot calls them.
SUBJECTS = {
    "numpy": "bnspec, NumPy",
    "jax": "bnspec, JAX",
    "torch-nn": "torch.nn",
    "flax-linen": "flax",
    "flax-linen-two-pass": "flax, use_fast_variance=False",
    "haiku": "haiku",
    "equinox-batch": "equinox",
    "keras": "keras",
    "tf-keras": "tf-keras",
}
BEGIN, END = "<!-- accuracy -->", "<!-- end accuracy -->"


def case_of(ratio, options):
    """Return one training step without a running state, its numbers normal with this mean/std."""
    x = np.random.default_rng(0).standard_normal(SHAPE)
    x = (ratio + (x - x.mean(0)) / x.std(0)).astype("float32")
    config = bnspec.BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, **options)
    return Case(config=config, ranks=(RankInputs(x),), update=False)


def errors(name, ratios):
    """Return the largest error of y for each ratio, and the version; nothing if the library is not there."""
    try:
        subject = find_subject(name, isolate=True)
    except SubjectError as reason:
        print(f"{name} is left out: {reason}")
        return None
    found = []
    for ratio in ratios:
        ways = product(({"correction": 0}, {"correction": 1}), ({}, {"averaging": "debiased"}))
        cases = (case_of(ratio, first | second) for first, second in ways)
        case = next((case for case in cases if subject.supports(case) is None), None)
        if case is None:
            print(f"{name} is left out: {subject.supports(case_of(ratio, {'correction': 0}))}")
            return None
        y = subject.run(case).ranks[0].y
        wanted = exact(case).ranks[0].y
        found.append(float(np.max(np.abs(np.asarray(y, "float64") - wanted))))
    return found, subject.version()


def draw(rows, ratios, path):
    """Error against mean/std, both on scales of powers of ten."""
    from gallery_statistics import figure

    drawn, axes = figure(7.0, 6.4)
    for number, (name, (found, _)) in enumerate(rows.items()):
        ours = SUBJECTS[name].startswith("bnspec")
        style = {"marker": "o", "linewidth": 2.5} if ours else {"marker": ".", "linewidth": 1.2}
        style["linestyle"] = "-" if ours else ("-", "--", ":")[number % 3]  # some curves lie upon each other
        axes.loglog(ratios, found, label=SUBJECTS[name], **style)
    axes.axhline(2.0**-24, color="gray", linestyle="--", label="roundoff of float32")
    axes.set(xlabel="mean/std of x", ylabel="largest error of y")
    axes.grid(alpha=0.3)
    drawn.legend(loc="outside lower center", frameon=False, ncols=2)
    drawn.savefig(path, metadata={"Date": None})


def table(rows, ratios):
    """Return the rows as Markdown, with versions."""
    shown = [i for i, ratio in enumerate(ratios) if ratio in (1.0, 1e3, 1e5, 1e7)]
    drawn = f"matplotlib {importlib.metadata.version('matplotlib')}"
    lines = [
        f"Shape {SHAPE}, float32, epsilon 0.001, one training step on the CPU ({platform.machine()}); drawn with "
        f"{drawn}, Python {platform.python_version()}, NumPy {np.__version__}.",
        "",
        "| layer | versions | " + " | ".join(f"mean/std {ratios[i]:.0e}" for i in shown) + " |",
        "| --- | --- |" + " ---: |" * len(shown),
    ]
    for name, (found, version) in rows.items():
        lines.append(f"| {SUBJECTS[name]} | {version} | " + " | ".join(f"{found[i]:.1e}" for i in shown) + " |")
    return "\n".join(lines)


def main():
    """Measure, draw, print, and write the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/gallery"))
    parser.add_argument("--page", type=Path, help="replace the table of this page")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    options = parser.parse_args()
    measured = {name: errors(name, options.ratios) for name in options.subjects}
    rows = {name: found for name, found in measured.items() if found is not None}
    options.folder.mkdir(parents=True, exist_ok=True)
    draw(rows, options.ratios, options.folder / "accuracy.svg")
    text = table(rows, options.ratios)
    print(text)
    if options.page:
        before, rest = options.page.read_text(encoding="utf-8").split(BEGIN, 1)
        after = rest.split(END, 1)[1]
        options.page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
