"""The formulas of the appendix give the hard families of the suite, to the bit."""

import math
import re
from typing import Any

import numpy as np
import pytest
from spec_tables import rows

from bnspec_conformance.cases.inputs.families import hard_families

pytestmark = pytest.mark.pages

TABLE = rows("Appendix: the hard families", "| family | x |")
FAMILIES = hard_families()


def made(number: int, formula: str, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Draw x, gamma and dy as the page says."""
    rng = np.random.default_rng([20, number])
    n, h, w, c = np.indices(shape)
    words: dict[str, Any] = {
        "normal": lambda: rng.standard_normal(shape),
        "uniform": lambda: rng.random(shape),
        "integers": lambda low, high: rng.integers(low, high, shape),
        "per": lambda *values: np.asarray(values),
        "index": np.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1),
        "spot": (n == c) & (h == c) & (w == -c % 4),
        "where": np.where,
        "exp": np.exp,
    }
    with np.errstate(over="ignore"):
        x = np.broadcast_to(eval(formula, {"__builtins__": {}}, words), shape).astype(np.float32)
    gamma = (rng.uniform(0.5, 1.5, shape[-1]) * rng.choice([-1, 1], shape[-1])).astype(np.float32)
    return x, gamma, rng.standard_normal(shape).astype(np.float32)


def test_the_page_has_the_families_of_the_suite_in_their_order() -> None:
    assert [cells[0] for cells in TABLE] == list(FAMILIES)


@pytest.mark.parametrize("number", range(len(TABLE)), ids=[cells[0] for cells in TABLE])
def test_a_formula_gives_the_family(number: int) -> None:
    name, formula, shape, epsilon = TABLE[number]
    extents = tuple(map(int, re.findall(r"\d+", shape))) or (8, 4, 4, 4)
    x, gamma, dy = made(number, formula.strip("`"), extents)
    want = FAMILIES[name]
    for got, expected in zip((x, gamma, dy), (want[0], want[1], want[3]), strict=True):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(got, expected), name
    assert float(epsilon) == want[4]
    assert not want[2].any()
