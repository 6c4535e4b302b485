"""How far the CUDA kernels are from the exact answer: `cuda_accuracy.py ACT [ELEMENTS]`; prints JSON.

It prints shares of what is allowed. Where two float32 numbers are to stand for one they do from so many ELEMENTS on. A
share of 1 is an error as large as the bound. The exact answer is the suite's oracle, in rationals; the bound of
statistics is that of SPEC.md with W = float64, and of y and dx what the subject declares.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from bnspec import BatchNormConfig
from bnspec_backends.cuda import arithmetic, compiling, plan
from bnspec_conformance import find_subject
from bnspec_conformance.bounds import bounds, hard_bound
from bnspec_conformance.cases.case import Case, Outcome, RankInputs, as_float64, dtype_named
from bnspec_conformance.cases.inputs import families
from bnspec_conformance.cases.inputs.families import hard_families
from bnspec_conformance.oracle import exact

SUBJECT = find_subject("cupy")

#: Elements of a channel: few, where every rounding counts; either side of what a warp, a block or a vector takes.
COUNTS = (1, 2, 3, 4, 5, 8, 16, 17, 33, 64, 128, 250, 1000, 1024, 1500)
OF_OTHER_DTYPES = (3, 64, 250, 1024)


def laid_out(columns: Any, layout: str) -> tuple[Any, int]:
    """Return values (C, n) as an array whose channels are runs, or columns side by side; with the channel axis."""
    return (columns[None], 1) if layout == "runs" else (np.ascontiguousarray(columns.T), 1)


def case_of(x: Any, dy: Any, gamma: Any, beta: Any, epsilon: float, layout: str) -> Case:
    (own, axis), (cotangent, _) = laid_out(x, layout), laid_out(dy, layout)
    config = BatchNormConfig(axis=axis, epsilon=epsilon, decay=0.9, correction=0)
    return Case(config=config, ranks=(RankInputs(own, cotangent),), gamma=gamma, beta=beta)


def hard() -> dict[str, float]:
    """The hard families: y and dx of each, as a share of eight float32 roundoffs of the channel's largest."""
    found = {}
    for name, (x, gamma, beta, dy, epsilon) in hard_families().items():
        lines, cotangents = (v.reshape(-1, v.shape[-1]).T for v in (x, dy))
        for layout in ("runs", "columns"):
            case = case_of(lines, cotangents, gamma, beta, epsilon, layout)
            want, got = exact(case).ranks[0], SUBJECT.run(case).ranks[0]
            for result, scale in (("y", case.gamma), ("dx", _slopes(case, want))):
                reference = getattr(want, result)
                allowed = hard_bound(reference, scale, axis=1)
                found[f"{name} {result} {layout}"] = _share(getattr(got, result), reference, allowed)
    return found


def anew() -> dict[str, float]:
    """The hard families with 1024 elements for each channel, by both bounds."""
    families.SHAPE = (16, 8, 8, 4)
    found = hard()
    for name, (x, gamma, beta, dy, epsilon) in hard_families().items():
        lines, cotangents = (v.reshape(-1, v.shape[-1]).T for v in (x, dy))
        for layout in ("runs", "columns"):
            each = shares(case_of(lines, cotangents, gamma, beta, epsilon, layout))
            found |= {f"{name} bound of {result} {layout}": share for result, share in each.items()}
    return found


def _slopes(case: Case, want: Any) -> Any:
    """What dx is relative to where it is 0 throughout: gamma/sqrt(var + epsilon) times the largest dy."""
    dy = case.ranks[0].dy
    assert dy is not None
    size = np.max(np.abs(dy), axis=tuple(a for a in range(dy.ndim) if a != 1))
    return case.gamma / np.sqrt(want.var[0] + case.config.epsilon) * size


def random_families(rng: np.random.Generator, n: int, dtype: Any) -> Iterator[Any]:
    """Yield values (8, n): ordinary, far from 0, of very different size, wide, one roundoff apart, a few far ones."""
    shape = (8, n)
    span, far = (4, 3) if dtype == np.float16 else (30, 7)
    digits = {"float16": 10, "bfloat16": 7}.get(dtype.name, 23)
    yield rng.standard_normal(shape)
    yield rng.standard_normal(shape) + 10.0 ** rng.integers(0, far, (8, 1))
    yield rng.standard_normal(shape) * 2.0 ** rng.integers(-span, span, shape)
    yield np.exp(rng.standard_normal(shape) * (2 if span == 4 else 8))
    yield 1 + rng.integers(0, 3, shape) * 2.0**-digits
    yield rng.choice([1.0, -1.0, 3e4 if span == 4 else 1e8, 3e-7], shape)


def stress() -> dict[str, float]:
    """Random hard families: the worst share of the bound, by dtype, count and result."""
    worst: dict[str, float] = defaultdict(float)
    for dtype_name in ("float32", "float16", "bfloat16", "float64"):
        dtype = dtype_named(dtype_name)
        for n in COUNTS if dtype_name == "float32" else OF_OTHER_DTYPES:
            rng = np.random.default_rng([n, dtype.itemsize])
            for values in random_families(rng, n, dtype):
                x, dy = values.astype(dtype), rng.standard_normal(values.shape).astype(dtype)
                gamma, beta = (rng.uniform(0.5, 1.5, 8).astype(np.float32) for _ in range(2))
                for layout in ("runs", "columns"):
                    for result, share in shares(case_of(x, dy, gamma, beta, 1e-5, layout)).items():
                        key = f"{dtype_name} {n} {result}"
                        worst[key] = max(worst[key], share)
    return dict(worst)


def shares(case: Case) -> dict[str, float]:
    """Run a case; return how much of its bound each result takes."""
    reference, outcome = exact(case), SUBJECT.run(case)
    allowed = _allowed(case, reference)
    want, got = reference.ranks[0], outcome.ranks[0]
    made = {
        name: _share(getattr(got, name), getattr(want, name), allowed[name])
        for name in ("y", "dx", "var", "dgamma", "dbeta")
    }
    assert got.mean is not None
    assert got.mean_low is not None
    pair = (got.mean - want.mean) + (got.mean_low - want.mean_low)  # the difference of two close numbers is exact
    made["mean"] = _share(pair, np.zeros_like(pair), allowed["mean_low"])
    return made


def _allowed(case: Case, reference: Outcome) -> dict[str, Any]:
    given = bounds(case, reference, SUBJECT.arithmetic, evaluation=SUBJECT.evaluation).ranks[0]
    return {name: getattr(given, name) for name in ("y", "dx", "var", "dgamma", "dbeta", "mean_low")}


def _share(got: Any, want: Any, allowed: Any) -> float:
    """Return the largest error as a share of what is allowed; infinite where an error is allowed none, or is NaN."""
    error = np.abs(as_float64(got) - as_float64(want))
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.where(error == 0, 0.0, error / allowed)
    return float(np.max(np.where(np.isnan(each), np.inf, each), initial=0.0))


def first_far() -> dict[str, float]:
    """One value far from all others where threads begin."""
    if arithmetic.arithmetic_of(0) == "twofold":
        # As few threads for a channel as there can be, which takes thousands of channels, so that each has many
        # elements. Squares in float64, about a thread's first value, are then as far off as the bound, 1.04 of it here.
        plan.BLOCKS = plan.BLOCKS_OF_COLUMNS = 1
    found: dict[str, float] = {}
    for at in (0, 1, 5, 40, 512):
        rng = np.random.default_rng(at)
        x, dy = rng.standard_normal((2, 33, 1024)).astype(np.float32)
        x[:, at] = 1e6
        one = np.ones(33, np.float32)
        for layout in ("runs", "columns"):
            case = case_of(x, dy, one, one, 1e-5, layout)
            found |= {f"{at} {layout} {result}": share for result, share in shares(case).items()}
    return found


#: What a loop computes, and the same with deviations or squares rounded to float32.
FAULTS = (
    ("double d = v - value[a];", "double d = (float)(v - value[a]);"),
    ("q[a].add(product, fmaf(high + high, low, rest));", "q[a].high += product;"),
)


def planted() -> dict[str, float]:
    """The moments of loops with a planted fault."""
    source = compiling._source()
    for there, wrong in FAULTS:
        assert source.count(there) == 1
        source = source.replace(there, wrong)
    compiling._source = lambda: source  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 8, 64)).astype(np.float32)
    return shares(case_of(x, dy, np.ones(8, np.float32), np.zeros(8, np.float32), 1e-5, "columns"))


def main(act: str, elements: str = "") -> None:
    """Print what an act finds, and how many kernels of each arithmetic it took."""
    arithmetic.ELEMENTS = int(elements or arithmetic.ELEMENTS)
    made = compiling.kernel
    names = set()

    def noted(what: str) -> int:
        names.add(what)
        return made(what)

    compiling.kernel = noted
    found = {"hard": hard, "anew": anew, "stress": stress, "first far": first_far, "planted": planted}[act]()
    kernels = {name.split("<")[0] for name in names if "Twofold" in name}
    print(json.dumps({"shares": found, "twofold": sorted(kernels), "all": len(names)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
