"""Limits that a scope states: cases are drawn inside of them, and what a limit leaves out is never a failure."""

import dataclasses
import json
import re

import numpy as np
import pytest
from limited_ports import LIMITS, limited

from bnspec import BatchNormConfig
from bnspec_conformance import Case, RankInputs
from bnspec_conformance.cases.limits import REFUSED, empty_extents, reason_of
from bnspec_conformance.cases.scope import PROFILES, Scope
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import complete
from bnspec_conformance.subjects.pipe.hello import declaration
from bnspec_conformance.subjects.pipe.host import hello
from bnspec_conformance.trials.budget import Budget

CONFIG = BatchNormConfig(axis=1, epsilon=1e-3, decay=0.9, correction=0)

#: By limit, checks whose cases go beyond it, unless the scope says so.
BEYOND = {
    "two values": ("test_normalize::test_formula", "test_masks::test_statistics", "test_groups::test_contiguous_runs"),
    "no gradient in inference": ("test_inference::test_derivatives", "test_inference::test_kinds"),
    "parameters of x": ("test_precision::test_narrow", "test_precision::test_gradients"),
    "parameters of float32": ("test_normalize::test_formula", "test_gradients::test_jvp"),
    "affine": ("test_normalize::test_formula", "test_inference::test_formula"),
    "samples": ("test_shapes::test_empty", "test_masks::test_empty_batch", "test_sync::test_whole_batch"),
    "spatial": ("test_shapes::test_empty",),
    "channels": ("test_shapes::test_empty",),
}


@pytest.mark.parametrize("limit", list(LIMITS))
def test_what_is_beyond_a_limit_fails_only_where_the_scope_does_not_say_so(limit: str) -> None:
    for name in BEYOND[limit]:
        found = [
            attempt(all_checks()[name], complete(limited(limit, declared=said), limit), Budget(12, 0, shrink=False))
            for said in (True, False)
        ]
        assert found[0].outcome in ("passed", "not supported"), f"{name}: {found[0].reason}"
        assert (found[1].outcome, "beyond the limit" in found[1].reason) == ("failed", True), name


def test_every_limit_has_its_reason() -> None:
    x = np.ones((4, 2, 3), "float32")
    gamma = np.ones(2, "float32")
    plain = Case(config=CONFIG, ranks=(RankInputs(x, x),), gamma=gamma, beta=gamma)
    state = {"mean": gamma, "var": gamma}
    half = dataclasses.replace(plain, ranks=(RankInputs(x.astype("float16")),))
    no_beta = dataclasses.replace(CONFIG, center=False)
    rows: list[tuple[dict[str, object], Case, str | None]] = [
        ({}, dataclasses.replace(plain, ranks=(RankInputs(x[:0]),)), None),
        ({"min_count": 2}, plain, None),
        ({"min_count": 13}, plain, "it takes 13 values per channel or more in training"),
        ({"min_count": 13}, dataclasses.replace(plain, mode="inference", state=state), None),
        ({"min_count": 2}, dataclasses.replace(plain, ranks=(RankInputs(x[:0]),)), None),  # nothing is not too little
        (
            {"inference_grad": False},
            dataclasses.replace(plain, mode="inference", state=state),
            "it has no gradient in inference",
        ),
        ({"inference_grad": False}, plain, None),
        ({"parameter_dtypes": ("x",)}, plain, None),
        ({"parameter_dtypes": ("x",)}, half, "its parameters are float16 for this x"),
        ({"parameter_dtypes": ("x", "statistics")}, half, None),
        ({"parameter_dtypes": ("float64", "float16")}, plain, "its parameters are float64 or float16 for this x"),
        (
            {"affine": "together"},
            dataclasses.replace(plain, config=no_beta),
            "it has both gamma and beta or neither",
        ),
        (
            {"nonempty": ("samples",)},
            dataclasses.replace(plain, ranks=(RankInputs(x[:0]),)),
            "it takes no x without samples",
        ),
        ({"nonempty": ("samples",)}, dataclasses.replace(plain, ranks=(RankInputs(x[:, :0]),)), None),
        (
            {"nonempty": ("spatial", "channels")},
            dataclasses.replace(plain, ranks=(RankInputs(x[:, :0]),)),
            "it takes no x without channels",
        ),
        (
            {"nonempty": ("spatial",)},
            dataclasses.replace(plain, ranks=(RankInputs(x[..., :0]),)),
            "it takes no x with an empty spatial extent",
        ),
    ]
    for words, case, reason in rows:
        scope = Scope(dtypes=("float16", "float32"), **words)
        assert (reason_of(scope, case), scope.reason(case)) == (reason, reason), (words, case)


def test_one_value_that_the_specification_has_refused_is_asked_whatever_the_least_count_is() -> None:
    gamma = np.ones(2, "float32")
    config = dataclasses.replace(CONFIG, correction=1, single_value="raise")
    state = {"mean": gamma, "var": gamma}
    one = Case(config=config, ranks=(RankInputs(np.ones((1, 2), "float32")),), state=state)
    scope = Scope(dtypes=("float32",), min_count=2)
    assert scope.reason(one) is None
    assert scope.reason(dataclasses.replace(one, state=None)) is not None
    record = attempt(
        all_checks()["test_running::test_single_value"],
        complete(limited("two values"), "two"),
        Budget(8, 0, shrink=False),
    )
    assert record.examples > 0


def test_fixed_cases_get_parameters_that_the_subject_has() -> None:
    x, gamma = np.ones((4, 2), "float16"), np.asarray([1 + 2.0**-12, 1.5], "float32")
    case = Case(config=CONFIG, ranks=(RankInputs(x),), gamma=gamma, beta=gamma, gamma_dot=gamma)
    fitted = Scope(dtypes=("float16",), parameter_dtypes=("x",)).fit(case)
    assert [a.dtype.name for a in (fitted.gamma, fitted.beta, fitted.gamma_dot) if a is not None] == ["float16"] * 3
    assert fitted.gamma is not None
    assert fitted.gamma.tolist() == [1.0, 1.5]
    assert Scope(dtypes=("float16",), parameter_dtypes=("statistics", "x")).fit(case) is case


def test_empty_extents_are_named_by_what_they_are() -> None:
    for axis, shape, found in (
        (1, (0, 3, 2), {"samples"}),
        (0, (0, 3), {"channels"}),
        (-1, (2, 0, 0), {"spatial", "channels"}),
    ):
        case = Case(config=dataclasses.replace(CONFIG, axis=axis), ranks=(RankInputs(np.ones(shape)),))
        assert empty_extents(case) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"min_count": 0}, "min_count is 0; expected an integer >= 1"),
        ({"min_count": True}, "min_count is True"),
        ({"parameter_dtypes": "x"}, "parameter_dtypes is 'x'; expected a tuple of some of float16"),
        ({"parameter_dtypes": ()}, "parameter_dtypes is ()"),
        ({"affine": "both"}, "affine is 'both'; expected one of separate, together"),
        ({"nonempty": ("batch",)}, "nonempty is ('batch',); expected a tuple of some of samples, spatial, channels"),
        (
            {"refuses": ("BN-NORM-1",)},
            "refuses is ('BN-NORM-1',); expected true, false or a tuple of some of BN-SHAPE-1",
        ),
    ],
)
def test_a_scope_of_other_words_is_refused(words: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Scope(**words)


def test_a_program_says_the_same_words() -> None:
    words = {
        "min_count": 2,
        "inference_grad": False,
        "parameter_dtypes": ["x", "float32"],
        "affine": "together",
        "nonempty": ["samples"],
        "refuses": ["BN-SHAPE-1"],
    }
    scope = declaration({"protocol": 1, "name": "p", **words}, 1).scope
    assert {name: getattr(scope, name) for name in words} == {
        k: tuple(v) if isinstance(v, list) else v for k, v in words.items()
    }
    assert declaration({"protocol": 1, "name": "p"}, 1).scope == Scope(
        profiles=frozenset({"core"}), dtypes=("float32",), world=1
    )
    assert declaration({"protocol": 1, "name": "p", "nonempty": [], "refuses": True}, 1).scope.refuses is True
    for key, value, said in (
        ("min_count", 0, "an integer >= 1"),
        ("inference_grad", 0, "true or false"),
        ("parameter_dtypes", [], "a list of some of float16"),
        ("affine", "both", "one of separate, together"),
        ("nonempty", ["batch"], "a list of some of samples, spatial, channels"),
        ("refuses", ["BN-NORM-1"], f"true, false or a list of some of {', '.join(REFUSED)}"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            declaration({"protocol": 1, "name": "p", key: value}, 1)


@pytest.mark.parametrize("limit", list(LIMITS))
def test_a_subject_in_another_process_says_them_too(limit: str) -> None:
    subject = complete(limited(limit, profiles=frozenset(PROFILES) - {"sync"}, world=1, refuses=("BN-MASK-7",)), limit)
    assert declaration(json.loads(json.dumps(hello(subject))), 1).scope == subject.scope
