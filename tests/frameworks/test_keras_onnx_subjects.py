"""Keras, tf-keras and ONNX as subjects: they run what they name, as it is asked, and the suite sees their faults."""

import dataclasses
import importlib
import importlib.util
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from comparisons import compare

from bnspec import BatchNormConfig, Renorm
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks.examples import example
from bnspec_conformance.subjects import NotSupported, Refused, complete
from bnspec_conformance.trials.violations.violation import Violation

RESULTS = ("y", "state", "dx", "dgamma", "dbeta", "ydot")
SUBJECTS = {
    "keras": ("keras.keras:keras", "keras"),
    "keras-masked": ("keras.keras:keras_masked", "keras"),
    "keras-float64": ("keras.keras:keras_float64", "keras"),
    "onnx-reference": ("onnx.operator:reference", "onnx"),
    "onnxruntime": ("onnx.operator:runtime", "onnxruntime"),
    "tf-keras": ("keras.tf_keras:tf_keras", "tf_keras"),
    "tf-keras-masked": ("keras.tf_keras:tf_keras_masked", "tf_keras"),
    "tf-keras-ghost": ("keras.tf_keras:tf_keras_ghost", "tf_keras"),
    "tf-keras-float64": ("keras.tf_keras:tf_keras_float64", "tf_keras"),
}
SHAPES = {2: (6, 3), 3: (4, 3, 2), 4: (4, 3, 2, 3), 5: (2, 3, 2, 1, 3)}
RENORM = Renorm(rmax=1.5, dmax=0.5, decay=0.9)


def subject(name: str) -> Any:
    """Make the subject, or skip where its framework is missing."""
    place, library = SUBJECTS[name]
    with warnings.catch_warnings():  # what a framework warns of while it is imported is no matter of ours
        warnings.simplefilter("ignore")
        if importlib.util.find_spec(library) is None:  # Keras must not be imported before its backend is chosen
            pytest.skip(f"{library} is not installed")
        module, factory = place.split(":")
        make = getattr(importlib.import_module(f"bnspec_conformance.subjects.frameworks.{module}"), factory)
        try:  # of the adapter's own module every import has to work
            made = make()
        except ImportError as error:
            pytest.skip(str(error))
    assert made.name == name
    return complete(made, name)


def case_for(made: Any, ndim: int = 4, dtype: Any = np.float32, *, last: bool = False, **fields: Any) -> Case:
    """A case with everything to be derived that the subject has."""
    axis = ndim - 1 if last or made.scope.axes == "last" else 1
    config = BatchNormConfig(**({"axis": axis, "epsilon": 1.0, "decay": 0.75, "correction": 0} | fields))
    case = made.scope.fit(example(config, [SHAPES[ndim]]))
    given = {k: v.astype(dtype) for k, v in vars(case.ranks[0]).items() if v is not None}
    kept = {k: v.astype("float64" if dtype == np.float64 else "float32") for k, v in (case.state or {}).items()}
    changed: Case = dataclasses.replace(case, ranks=(RankInputs(**given),), state=kept)
    return changed


def masked(case: Case) -> Case:
    """The case with a third of its samples and one more element masked."""
    x = case.ranks[0].x
    mask = np.ones((*x.shape[:-1], 1), bool)
    mask[::3] = False
    mask.flat[-1] = False
    return dataclasses.replace(case, ranks=(dataclasses.replace(case.ranks[0], mask=mask),))


def agree(made: Any, case: Case, *fields: str) -> None:
    compare(made, case, *(fields or RESULTS))


def empty(case: Case) -> Case:
    return dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x[:0]),))


@pytest.mark.parametrize("name", ["keras", "tf-keras", "onnx-reference", "onnxruntime"])
def test_a_layer_computes_what_its_dialect_says(name: str) -> None:
    made = subject(name)
    assert made.dialect == {"keras": "keras", "tf-keras": "tf_keras"}.get(name, "onnx")
    assert any(c.isdigit() for c in made.version())
    for ndim in (3, 4):
        for last in (False, True) if made.scope.axes == "any" else (False,):
            case = case_for(made, ndim, last=last)
            agree(made, case)
            agree(made, dataclasses.replace(case, mode="inference", update=False), "y", "dx", "dgamma", "ydot")
    if "grad" in made.scope:
        for absent in ({"center": False}, {"scale": False}):
            case = case_for(made, **absent)
            agree(made, case)
            (got,) = made.run(case).ranks
            assert (got.dbeta is None, got.dgamma is None) == ("center" in absent, "scale" in absent)
            agree(made, dataclasses.replace(case_for(made, 2, renorm=RENORM, **absent)))
    else:
        assert "center" in str(made.supports(case_for(made, center=False)))
        assert made.run(case_for(made)).ranks[0].dx is None


@pytest.mark.parametrize("name", SUBJECTS)
def test_results_are_new_arrays_of_the_dtypes_that_went_in(name: str) -> None:
    made = subject(name)
    for dtype in made.scope.dtypes:
        case = case_for(made, dtype=ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        (got,) = made.run(case).ranks
        for field in ("y", "dx", "ydot"):
            array = getattr(got, field)
            if array is not None:
                assert (array.dtype.name, array.shape, array.flags.writeable) == (dtype, (4, 3, 2, 3), True), field


@pytest.mark.parametrize("name", ["keras-masked", "tf-keras-masked"])
def test_masks_reach_the_layer(name: str) -> None:
    made = subject(name)
    agree(made, masked(case_for(made, 3)))
    agree(made, masked(case_for(made, 3, renorm=RENORM)))
    if name == "keras-masked":
        one = masked(case_for(made, 3))
        thin = RankInputs(one.ranks[0].x[..., :1].copy(), mask=one.ranks[0].mask)
        one = dataclasses.replace(one, ranks=(thin,), gamma=None, beta=None, gamma_dot=None, beta_dot=None, state=None)
        with pytest.raises(Violation, match="IndexError"):
            agree(made, one, "y")
    else:
        with pytest.raises(Violation, match="y is off"):  # the fused path ignores it
            agree(made, dataclasses.replace(masked(case_for(made, 4)), state=None), "y")


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("keras", "keras.layers:BatchNormalization.call"),
        ("tf-keras", "tf_keras.layers:BatchNormalization.call"),
        ("onnx-reference", "onnx.reference:ReferenceEvaluator.run"),
        ("onnxruntime", "onnxruntime:InferenceSession.run"),
    ],
)
def test_what_runs_is_the_frameworks_own(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = subject(name)
    module, path = where.split(":")
    kind, method = path.split(".")
    place = getattr(importlib.import_module(module), kind)
    original, calls = getattr(place, method), []

    def call(self: Any, *args: Any, **more: Any) -> Any:
        calls.append(type(self).__name__)
        return original(self, *args, **more)

    monkeypatch.setattr(place, method, call)
    made.run(dataclasses.replace(case_for(made), gamma_dot=None, beta_dot=None))
    assert kind in calls


@pytest.mark.parametrize("name", ["keras", "tf-keras", "onnx-reference", "onnxruntime"])
def test_the_suite_sees_the_empty_batch(name: str) -> None:
    made = subject(name)
    with pytest.raises(Violation, match=r"state\.mean is off"):
        agree(made, empty(case_for(made)), "state")


def test_keras_computes_float64_in_float32() -> None:
    made = subject("keras-float64")
    with pytest.raises(Violation, match="y is off"):
        agree(made, case_for(made, dtype=np.float64), "y")


def test_the_variance_of_keras_on_torch_cancels() -> None:
    made = subject("keras")
    if made.platform != "torch":
        pytest.skip("KERAS_BACKEND is not torch")
    case = case_for(made, epsilon=1e-5)
    far = dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x + np.float32(3000)),))
    with pytest.raises(Violation, match="y is off"):
        agree(made, dataclasses.replace(far, state=None, gamma_dot=None, beta_dot=None), "y")


def test_the_onnx_reference_is_wrong_for_16_bits_and_onnxruntime_is_not() -> None:
    wrong, right = subject("onnx-reference"), subject("onnxruntime")
    case = case_for(wrong, dtype=np.float16)
    far = dataclasses.replace(case, ranks=(RankInputs(case.ranks[0].x + np.float16(9)),))
    agree(right, far, "y", "state")
    with pytest.raises(Violation, match="y is off"):
        agree(wrong, far, "y")
    with pytest.raises(Violation, match=r"state\.mean is off"):  # it comes back in float16
        agree(wrong, far, "state")


@pytest.mark.parametrize("name", ["onnx-reference", "onnxruntime"])
def test_onnx_attributes_are_float32(name: str) -> None:
    made = subject(name)
    agree(made, case_for(made, dtype=np.float64))
    assert "epsilon=0.001" in str(made.supports(case_for(made, dtype=np.float64, epsilon=0.001)))
    assert "decay=0.9" in str(made.supports(case_for(made, dtype=np.float64, decay=0.9)))
    assert made.supports(case_for(made, epsilon=0.001, decay=0.9)) is None


def test_tf_keras_takes_the_path_that_the_correction_asks_for() -> None:
    made = subject("tf-keras")
    for ndim in (4, 5):
        for correction in (0, 1):
            agree(made, case_for(made, ndim, last=True, correction=correction, single_value="floor"), "y", "state")
    one = case_for(made, correction=1, single_value="floor")
    agree(made, dataclasses.replace(one, ranks=(RankInputs(one.ranks[0].x[:1, :, :1, :1].copy()),)), "state")
    for elsewhere in (case_for(made, 3, correction=1, single_value="floor"),
                      case_for(made, correction=1, single_value="floor", renorm=RENORM)):  # fmt: skip
        assert made.supports(elsewhere) == "only its fused path has correction=1"
        assert made.supports(dataclasses.replace(elsewhere, update=False)) is None


def test_tf_keras_takes_every_other_sample_for_a_virtual_batch() -> None:
    made = subject("tf-keras-ghost")
    case = case_for(made, 2, virtual_batch_size=3, ghost_source="mean")
    with pytest.raises(Violation, match="y is off"):
        agree(made, case, "y")
    order = np.arange(6).reshape(2, 3).T.reshape(-1)  # our groups in the layer's order: samples 0, 2, 4 are its first
    given = {k: v[order] for k, v in vars(case.ranks[0]).items() if v is not None}
    (got,) = made.run(dataclasses.replace(case, ranks=(RankInputs(**given),))).ranks
    back = np.argsort(order)
    own = {name: getattr(got, name)[back] for name in ("y", "dx", "ydot")}
    outcome = dataclasses.replace(made.run(case), ranks=(dataclasses.replace(got, **own),))
    compare(made, case, *RESULTS, clause="BN-GRP-2", outcome=outcome)


def test_tf_keras_float64_has_no_renorm_and_a_float32_weight() -> None:
    made = subject("tf-keras-float64")
    agree(made, case_for(made, dtype=np.float64))
    with pytest.raises(Violation, match=r"state\.mean is off"):
        agree(made, case_for(made, dtype=np.float64, decay=0.9), "state")
    renorm = case_for(made, dtype=np.float64, renorm=RENORM)
    with pytest.raises(Refused, match="InvalidArgumentError"):
        made.run(renorm)


def test_what_a_subject_has_not_is_said() -> None:
    made = subject("keras")
    with pytest.raises(NotSupported, match="mask"):
        agree(made, masked(case_for(made, 3, last=True)), "y")
    assert "averaging" in str(made.supports(case_for(made, averaging="cumulative")))
    paper = case_for(made, renorm=dataclasses.replace(RENORM, form="paper"))
    assert "renorm.form" in str(made.supports(paper))
