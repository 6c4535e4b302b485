"""torch's own layers as subjects: they run what they name, as it is asked, and the suite sees their faults."""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from comparisons import compare

from bnspec import BatchNormConfig
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks.examples import example
from bnspec_conformance.subjects import Refused, complete
from bnspec_conformance.trials.violations.violation import Violation

torch = pytest.importorskip("torch", reason="torch is not installed")

from bnspec_conformance.subjects.frameworks.torch import torch_nn  # noqa: E402

FACTORIES = ("layer", "functional", "channels_last", "transposed")
RESULTS = ("y", "state", "dx", "dgamma", "dbeta", "ydot")
SHAPES = {2: (6, 3), 3: (4, 3, 2), 4: (4, 3, 2, 2), 5: (2, 3, 2, 1, 2)}


def subject(factory: str) -> Any:
    made = getattr(torch_nn, factory)()
    return complete(made, made.name)


def case_for(made: Any, ndim: int = 4, dtype: Any = np.float32, **fields: Any) -> Case:
    """A case with everything to be derived that the subject has."""
    config = BatchNormConfig(**({"axis": 1, "epsilon": 1e-3, "decay": 0.75, "correction": 1} | fields))
    case = made.scope.fit(example(config, [SHAPES[ndim]]))
    given = {name: getattr(case.ranks[0], name).astype(dtype) for name in ("x", "dy", "xdot")}
    changed: Case = dataclasses.replace(case, ranks=(RankInputs(**given),))
    return changed


def agree(made: Any, case: Case, *fields: str) -> None:
    compare(made, case, *(fields or RESULTS))


def single_value(made: Any, **fields: Any) -> Case:
    """One value per channel."""
    case = case_for(made, **fields)
    return dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x[:1, :, :1, :1].copy()),))


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_layer_computes_what_its_dialect_says(factory: str) -> None:
    made = subject(factory)
    assert made.dialect == "torch"
    assert made.version() == f"torch {torch.__version__}"
    for ndim in made.scope.ndims:
        case = case_for(made, ndim)
        agree(made, case)
        agree(made, dataclasses.replace(case, mode="inference", update=False), "y", "dx", "dgamma", "dbeta", "ydot")
        agree(made, dataclasses.replace(case, state=None), "y", "dx", "ydot")
        agree(made, case_for(made, ndim, np.float64))
    for absent in ({"center": False}, {"scale": False}, {"center": False, "scale": False}):
        case = case_for(made, **absent)
        agree(made, case)
        (got,) = made.run(case).ranks
        assert (got.dbeta is None, got.dgamma is None) == ("center" in absent, "scale" in absent)


@pytest.mark.parametrize("factory", ["layer", "channels_last", "transposed"])
def test_no_momentum_is_cumulative_averaging(factory: str) -> None:
    made = subject(factory)
    case = case_for(made, averaging="cumulative")
    assert case.state is not None
    agree(made, case, "y", "state")
    (got,) = made.run(case).ranks
    assert got.state is not None
    assert got.state["count"].tolist() == (case.state["count"] + 1).tolist()
    uneven = dataclasses.replace(case, state=case.state | {"count": np.array([1, 2, 3])})
    assert made.supports(uneven) == "it has one counter for all channels"
    assert "averaging" in str(subject("functional").supports(case))


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_results_are_new_arrays_of_the_dtypes_that_went_in(factory: str, dtype: Any) -> None:
    made = subject(factory)
    case = case_for(made, dtype=dtype)
    agree(made, case, "y", "state")
    (got,) = made.run(case).ranks
    for field in ("y", "dx", "ydot"):
        array = getattr(got, field)
        assert (array.dtype, array.shape, array.flags.writeable) == (np.dtype(dtype), (4, 3, 2, 2), True), field
    assert got.dgamma is not None
    assert got.dgamma.dtype == np.float32


@pytest.mark.parametrize(
    ("factory", "where", "memory"),
    [
        ("layer", "torch.nn.BatchNorm2d.forward", "contiguous"),
        ("channels_last", "torch.nn.BatchNorm2d.forward", "channels last"),
        ("transposed", "torch.nn.BatchNorm2d.forward", "neither"),
        ("functional", "torch.nn.functional.batch_norm", "contiguous"),
    ],
)
def test_what_runs_is_torchs_own(factory: str, where: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = subject(factory)
    seen = []
    original = torch.nn.BatchNorm2d.forward if "BatchNorm2d" in where else torch.nn.functional.batch_norm

    def call(*args: Any, **more: Any) -> Any:
        x = next(a for a in args if isinstance(a, torch.Tensor))
        last = x.is_contiguous(memory_format=torch.channels_last)
        seen.append("contiguous" if x.is_contiguous() else "channels last" if last else "neither")
        return original(*args, **more)

    monkeypatch.setattr(where, call)
    made.run(case_for(made))
    assert seen == [memory, memory]  # with gradients, and with tangents


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_single_value_is_refused_where_that_is_due_and_declined_elsewhere(factory: str) -> None:
    made = subject(factory)
    due = single_value(made)
    assert made.supports(due) is None
    with pytest.raises(Refused, match="Expected more than 1 value per channel"):
        made.run(due)
    assert "takes 2 values per channel or more in training" in str(made.supports(dataclasses.replace(due, state=None)))
    assert made.supports(dataclasses.replace(due, mode="inference", update=False)) is None


def test_options_count_only_where_they_matter() -> None:
    made = subject("layer")
    case = case_for(made, correction=0, averaging="pooled", nonfinite="skip")
    assert made.supports(case) is not None
    assert made.supports(dataclasses.replace(case, state=None)) is None
    wide = case_for(made)
    assert wide.gamma is not None
    wide = dataclasses.replace(wide, gamma=wide.gamma.astype("float64"))
    assert made.supports(wide) == "its parameters are float32 for this x"


def test_the_suite_sees_what_is_wrong_in_torch() -> None:
    made = subject("layer")
    narrow = case_for(made, dtype=ml_dtypes.bfloat16, center=False, scale=False)
    far = dataclasses.replace(narrow, ranks=(RankInputs(narrow.ranks[0].x + np.asarray(9, ml_dtypes.bfloat16)),))
    with pytest.raises(Violation, match="y is off"):
        agree(made, dataclasses.replace(far, state=None), "y")
    empty = case_for(made, averaging="cumulative")
    empty = dataclasses.replace(empty, ranks=(RankInputs(empty.ranks[0].x[:0]),))
    with pytest.raises(Violation, match=r"state\.count"):
        agree(made, empty, "state")
    nothing = dataclasses.replace(case_for(made), gamma=np.ones(0, "float32"), beta=np.ones(0, "float32"), state=None)
    nothing = dataclasses.replace(nothing, ranks=(RankInputs(np.zeros((4, 0, 2, 2), "float32")),))
    nothing = dataclasses.replace(nothing, gamma_dot=None, beta_dot=None)
    with pytest.raises(Violation, match="IndexError"):
        agree(made, nothing, "y")
    view = subject("transposed")
    far_gradient = case_for(view, 2, ml_dtypes.bfloat16)
    rank = far_gradient.ranks[0]
    assert rank.dy is not None
    dy = (rank.dy.astype("float32") + 9).astype(ml_dtypes.bfloat16)
    far_gradient = dataclasses.replace(far_gradient, ranks=(dataclasses.replace(rank, dy=dy),))
    agree(made, far_gradient, "dx", "dbeta")
    with pytest.raises(Violation, match="is off"):
        agree(view, far_gradient, "dx", "dbeta")
