"""Layouts of arrays that the suite hands to subjects: equal values, other places, and ports that get them wrong."""

import dataclasses
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from bnspec_conformance import Case, Outcome, find_subject
from bnspec_conformance.cases.case import Array
from bnspec_conformance.cases.inputs.memory import (
    KINDS,
    ROLES,
    arranged,
    arrays_of,
    constant_where_repeated,
    placed,
    thin,
)
from bnspec_conformance.cases.inputs.sizes import Size
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import Subject, complete
from bnspec_conformance.trials.budget import Budget
from bnspec_conformance.trials.record import Record

SCOPE = Scope(dtypes=("float32",), world=1)
CHECKS = ("test_memory_layout::test_memory_layout", "test_memory_layout::test_one_array")
SHARED = "test_shared_memory::test_shared_memory"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (1, 3, 1), (0, 3)])
def test_values_are_the_same(kind: str, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(-9, 9, shape).astype(dtype)
    if kind == "repeated" and values.size:
        values = np.repeat(values[:1], shape[0], axis=0)
    made = placed(values, kind)
    assert made.shape == values.shape
    assert made.dtype.name == values.dtype.name
    assert np.array_equal(made.astype("float64"), values.astype("float64"))


def test_the_places_are_others() -> None:
    values = np.arange(24, dtype="float32").reshape(2, 3, 4)
    strides = {kind: placed(values, kind).strides for kind in KINDS}
    assert strides["plain"] == strides["offset"] == strides["unaligned"] == strides["swapped"] == (48, 16, 4)
    assert strides["transposed"] == (4, 8, 24)
    assert strides["rotated"] == (12, 4, 24)
    assert strides["strided"] == (2 * 11 * 9 * 4, 2 * 11 * 4, 8)
    assert strides["reversed"] == (-48, -16, -4)
    assert strides["repeated"] == (0, 16, 4)
    assert not placed(values, "unaligned").flags.aligned
    assert placed(values, "swapped").dtype.byteorder == ">"
    assert placed(values[0, 0], "strided").strides == (8,)


def test_thin_arrays_hold_what_is_there() -> None:
    row = np.arange(3.0)
    assert thin(np.broadcast_to(row, (10**9, 3))).shape == (1, 3)
    assert np.array_equal(thin(row), row)


def test_every_array_of_a_case_is_arranged() -> None:
    case = Size((4, 3, 2, 2), 1, masked=True).case(Scope())
    case = dataclasses.replace(case, dmean=(np.ones((1, 3)),), dvar=(np.ones((1, 3)),))
    for role in ROLES:
        layouts = {role: "repeated"}
        made = arrays_of(arranged(constant_where_repeated(case, layouts), layouts))
        for name, arrays in made.items():
            for array in arrays:
                assert (array.strides[0] == 0) == (name == role), (name, role)


class Port:
    """bnspec's numbers for arrays that it reads in a way of its own."""

    scope = SCOPE

    def __init__(self, read: Callable[[Case], Case], *, in_process: bool = True) -> None:
        self.name, self.read, self.in_process = "port", read, in_process
        self.right = find_subject("numpy-specification")

    def supports(self, case: Case) -> str | None:
        return self.scope.reason(case)

    def run(self, case: Case) -> Outcome:
        return self.right.run(self.read(case))


def dense(v: Array) -> Array:
    """As many elements from where the array begins, whatever its stride."""
    if v.ndim != 1 or v.strides[0] <= v.itemsize:
        return v
    return np.lib.stride_tricks.as_strided(v, strides=(v.itemsize,)).copy()


def gamma_dense(case: Case) -> Case:
    return case if case.gamma is None else dataclasses.replace(case, gamma=dense(case.gamma))


def mask_dense(case: Case) -> Case:
    rank = case.ranks[0]
    if rank.mask is None:
        return case
    mask = rank.mask.ravel(order="K").reshape(rank.mask.shape)
    return dataclasses.replace(case, ranks=(dataclasses.replace(rank, mask=mask),))


def dy_taken_for_x(case: Case) -> Case:
    """Where dy begins at x's address, it is believed to be 0: somebody's mark of an absent gradient."""
    rank = case.ranks[0]
    if rank.dy is None or rank.dy.__array_interface__["data"] != rank.x.__array_interface__["data"]:
        return case
    return dataclasses.replace(case, ranks=(dataclasses.replace(rank, dy=np.zeros_like(rank.dy)),))


def put(read: Callable[[Case], Case], *checks: str, in_process: bool = True) -> list[Record]:
    port: Subject = complete(Port(read, in_process=in_process), "port")
    return [attempt(all_checks()[name], port, Budget(examples=20, shrink=False)) for name in checks]


def test_a_port_gets_arrays_as_they_lie() -> None:
    assert {r.outcome for r in put(lambda case: case, *CHECKS, SHARED)} == {"passed"}
    for read in (gamma_dense, mask_dense):
        found = [r for r in put(read, *CHECKS) if r.outcome == "failed"]
        assert found
        assert all(r.broken == ("BN-DET-2",) for r in found)


def test_a_port_gets_arrays_that_are_one() -> None:
    (record,) = put(dy_taken_for_x, SHARED)
    assert record.broken == ("BN-DET-2",)
    assert "dy is x" in str((record.violation or {})["case"])


def test_another_process_has_no_layouts() -> None:
    for record in put(lambda case: case, *CHECKS, SHARED, in_process=False):
        assert record.outcome == "not supported"
        assert "another process" in record.reason
