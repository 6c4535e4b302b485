"""Paddle, tinygrad and MLX as subjects: they run what they name, as it is asked, and the suite sees their faults."""

import dataclasses
import importlib
import importlib.util
import sys
import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from comparisons import compare
from wrong_layers import differing

from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.subjects import Refused, SubjectError, find_subject
from bnspec_conformance.trials.violations.violation import Violation

# Paddle warns in each training step of what it has always done.
pytestmark = pytest.mark.filterwarnings("ignore:When training, we now always track")

RESULTS = ("y", "state", "dx", "dgamma", "dbeta")
LIBRARIES = {
    "paddle": "paddle", "paddle-float64": "paddle", "paddle-one-value": "paddle", "paddle-one-parameter": "paddle",
    "tinygrad": "tinygrad", "tinygrad-float16": "tinygrad", "mlx": "mlx", "mlx-16-bit": "mlx",
}  # fmt: skip
NAMES = [pytest.param(n, marks=pytest.mark.paddle) if n.startswith("paddle") else n for n in LIBRARIES]
SHAPES = {2: (6, 3), 3: (4, 3, 2), 4: (4, 3, 2, 3), 5: (2, 3, 2, 1, 3)}
DTYPES = {"bfloat16": ml_dtypes.bfloat16}


def subject(name: str) -> Any:
    """Make the subject, or skip where its framework, or tinygrad's compiler, is missing."""
    if importlib.util.find_spec(LIBRARIES[name]) is None:
        pytest.skip(f"{LIBRARIES[name]} is not installed")
    try:
        return find_subject(name)
    except SubjectError as error:
        if "clang" not in str(error):
            raise
        pytest.skip(str(error))


def case_for(made: Any, ndim: int = 4, dtype: str = "", **fields: Any) -> Case:
    """A case with everything to be derived that the subject has."""
    dtype = dtype or made.scope.dtypes[0]
    shape = SHAPES[ndim]
    if made.scope.axes == "last":
        shape = (shape[0], *shape[2:], shape[1])
    given = {"axis": ndim - 1 if made.scope.axes == "last" else 1, "epsilon": 0.25}
    given |= {"correction": made.scope.options["correction"][0]} | fields
    case = example(config(**given), [shape])
    own = np.dtype(DTYPES.get(dtype, dtype))
    kept = {name: value.astype("float64" if dtype == "float64" else "float32") for name, value in case.state.items()}
    rank = RankInputs(**{name: value.astype(own) for name, value in vars(case.ranks[0]).items() if value is not None})
    fitted: Case = made.scope.fit(dataclasses.replace(case, ranks=(rank,), state=kept))
    return fitted


@pytest.mark.parametrize("name", [pytest.param("paddle", marks=pytest.mark.paddle), "tinygrad", "mlx"])
def test_a_layer_computes_what_its_dialect_says(name: str) -> None:
    made = subject(name)
    assert made.dialect == name
    assert any(character.isdigit() for character in made.version())
    for ndim in made.scope.ndims:
        case = case_for(made, ndim)
        compare(made, case, *RESULTS)
        compare(made, dataclasses.replace(case, mode="inference", update=False), "y", "dx", "dgamma", "dbeta")
        compare(made, dataclasses.replace(case, state=None), "y", "dx")
    compare(made, case_for(made, center=False, scale=False), "y", "state", "dx")
    if "jvp" in made.scope:
        compare(made, case_for(made, 3), "ydot")


@pytest.mark.parametrize("name", NAMES)
def test_results_are_new_arrays_of_the_dtypes_that_went_in(name: str) -> None:
    made = subject(name)
    for dtype in made.scope.dtypes:
        case = case_for(made, 3, dtype)
        (got,) = made.run(case).ranks
        for array in (got.y, got.dx):
            assert (array.dtype.name, array.shape) == (dtype, case.ranks[0].x.shape)
            assert array.flags.writeable
        assert got.state["mean"].shape == (3,)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        pytest.param("paddle", "paddle.nn:BatchNorm2D.forward", marks=pytest.mark.paddle),
        ("tinygrad", "tinygrad.nn:BatchNorm.__call__"),
        ("mlx", "mlx.nn:BatchNorm.__call__"),
    ],
)
def test_what_runs_is_the_library_s_own(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = subject(name)
    module, path = where.split(":")
    kind, method = path.split(".")
    place = getattr(importlib.import_module(module), kind)
    original, calls = getattr(place, method), []

    def call(self: Any, *args: Any) -> Any:
        calls.append(type(self).__name__)
        return original(self, *args)

    monkeypatch.setattr(place, method, call)
    made.run(dataclasses.replace(case_for(made), gamma_dot=None, beta_dot=None))
    assert set(calls) == {kind}


def test_paddle_is_not_imported_where_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    with pytest.raises(SubjectError, match=r"not imported TensorFlow.*run --isolate"):
        find_subject("paddle")
    assert "paddle" not in sys.modules


@pytest.mark.paddle
def test_paths_of_paddle_are_asked_about_what_is_theirs() -> None:
    usual, value, parameter = (subject(name) for name in ("paddle", "paddle-one-value", "paddle-one-parameter"))
    one = case_for(usual)
    one = dataclasses.replace(one, ranks=(RankInputs(one.ranks[0].x[:1, :, :1, :1].copy()),))
    assert "paddle-one-value" in usual.supports(one)
    assert "paddle-one-value" in parameter.supports(one)
    with pytest.raises(Violation, match="y is off"):
        compare(value, one, "y")
    alone = case_for(usual, center=False)
    assert "paddle-one-parameter" in usual.supports(alone)
    assert "paddle-one-parameter" in value.supports(alone)
    with pytest.raises(Violation, match="returned no dgamma"):
        compare(parameter, alone, "y", "dx", "dgamma")
    with pytest.raises(Violation, match="y is off"):
        compare(subject("paddle-float64"), dataclasses.replace(case_for(subject("paddle-float64"), epsilon=1e-3)), "y")


@pytest.mark.parametrize("name", ["tinygrad", "mlx"])
def test_one_value_per_channel_is_refused(name: str) -> None:
    made = subject(name)
    case = case_for(made, 2)
    one = dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x[:1].copy()),))
    assert "2 values per channel" in made.supports(dataclasses.replace(one, state=None))
    with pytest.raises(Refused, match=r"ValueError|ZeroDivisionError"):
        made.run(one)


def test_mlx_is_not_asked_about_empty_arrays_and_tinygrad_writes_nan() -> None:
    made = subject("mlx")
    case = case_for(made, 2)
    assert made.supports(dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x[:0]),))) is not None
    other = subject("tinygrad")
    case = case_for(other, 2)
    with pytest.raises(Violation, match=r"state\.mean is off"):
        compare(other, dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x[:0]),)), "state")


@pytest.mark.parametrize("name", ["mlx-16-bit", "tinygrad-float16"])
def test_16_bits_are_computed_in_throughout(name: str) -> None:
    made = subject(name)
    case = case_for(made, 2, "float16")
    large = dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x * np.float16(500)),))
    with pytest.raises(Violation, match="y is off"):
        compare(made, large, "y")


def test_tinygrad_is_what_its_row_says_but_for_what_it_declares() -> None:
    made = subject("tinygrad")
    silent = dataclasses.replace(made, defaults=dataclasses.replace(made.defaults, departures={}))
    assert differing(silent) == dict(made.departures())


def test_tinygrad_without_a_compiler_says_what_is_missing() -> None:
    pytest.importorskip("tinygrad")
    with pytest.raises(SubjectError, match=r"cannot compute on device 'NONE'.*clang on the path.*PYTHON"):
        find_subject("tinygrad@device=NONE")
    made = find_subject("tinygrad@device=PYTHON")
    assert (made.name, made.version()[-10:]) == ("tinygrad@device=PYTHON", " on PYTHON")
    compare(made, case_for(made, 2), "y", "dx")
