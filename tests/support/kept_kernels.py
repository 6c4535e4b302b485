"""Compile the CPU kernels before the tests start, so that no two processes of theirs compile the same ones.

Kernels are kept on disk beside their sources, for every later process. Each dtype has kernels of its own, so two
processes share the work, half of the dtypes each, and then the layouts. What these calls do not reach is compiled at
its first call.
"""

import multiprocessing
import time

from seeded_digests import Digest, drawn, functional

__all__ = ["compile_for", "main"]

#: Dtypes of one process; both halves take about as long.
HALVES = (("float32", "float16"), ("float64", "bfloat16"))

#: Checks that hand arrays over in every layout.
LAYOUTS = ("test_memory_layout::test_memory_layout", "test_memory_layout::test_one_array")

#: Calls that reach nearly all kernels of a dtype.
CALLS = 100


def compile_for(dtypes: tuple[str, ...]) -> None:
    """Call every function of the core with arrays of these dtypes."""
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    for seed in range(CALLS):
        functional(drawn(seed, dtypes), np.asarray, Digest())


def compile_layouts(check: str) -> None:
    """Run a check of memory layouts: each layout has kernels of its own, and a case that compiles many takes long."""
    from bnspec_conformance import find_subject
    from bnspec_conformance.run.engine import all_checks, attempt
    from bnspec_conformance.trials.budget import Budget

    attempt(all_checks()[check], find_subject("numpy"), Budget(shrink=False, deadline=900.0))


def main() -> None:
    """Compile what is not kept yet, and say how long it took; without numba there is nothing to compile."""
    from bnspec_backends import cpu

    if cpu.in_use() != "compiled":
        print(f"kernels in use: {cpu.in_use()}; nothing to compile")
        return
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(len(HALVES)) as pool:
        pool.map(compile_for, HALVES)
        pool.map(compile_layouts, LAYOUTS)
    print(f"CPU kernels are compiled and kept: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
