"""LayerSubject: from a case to a layer's call and back, and the page of porting that shows one."""

import dataclasses
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filled_templates import PAGE, PORTS

from bnspec import BatchNormConfig
from bnspec_conformance import Case, LayerSubject, RankInputs, Refused, Scope, cli, exact, find_subject
from bnspec_conformance.run.engine import all_checks, attempt
from bnspec_conformance.subjects import complete
from bnspec_conformance.trials.budget import Budget

X = np.asarray([[1, 2, 4], [3, 2, 0]], "float32")
STATE = {"mean": np.asarray([0, 1, 2], "float32"), "var": np.asarray([1, 2, 3], "float32")}


class Layer:
    """Channels last, in NumPy; parameters and state are kept in rows, and calls are counted by one number."""

    def __init__(self, case: Case, parameters: dict[str, Any], state: dict[str, Any]) -> None:
        self.epsilon, self.decay = case.config.epsilon, case.config.decay
        self.gamma, self.beta = parameters.get("gamma", 1), parameters.get("beta", 0)
        self.mean, self.var = (np.atleast_2d(state.get(name, start)) for name, start in (("mean", 0), ("var", 1)))
        self.count = int(np.max(state.get("count", 0), initial=0))

    def __call__(self, x: Any, training: bool) -> Any:
        axes = tuple(range(x.ndim - 1))
        mean, var = (x.mean(axes), x.var(axes)) if training else (self.mean[0], self.var[0])
        if training:
            self.mean = (self.decay * self.mean + (1 - self.decay) * mean).astype(self.mean.dtype)
            self.var = (self.decay * self.var + (1 - self.decay) * var).astype(self.var.dtype)
            self.count += 1
        y = (x - mean) / np.sqrt(var + self.epsilon) * self.gamma + self.beta
        return y.astype(x.dtype)


class Example(LayerSubject):
    """The layer as a subject."""

    name = "example"
    scope = Scope(
        profiles=frozenset({"core", "running", "inference"}),
        axes="last",
        options={"correction": (0,), "averaging": ("exponential",), "nonfinite": ("propagate",)},
        nonempty=("samples", "spatial"),
    )

    def build(self, case: Case) -> Layer:
        return Layer(case, self.parameters(case), self.running_state(case))

    def forward(self, layer: Layer, x: Any, training: bool) -> Any:
        return layer(x, training)

    def state(self, layer: Layer) -> Mapping[str, Any]:
        return {"mean": layer.mean, "var": layer.var}


class Counting(Example):
    """The same with its counter."""

    def state(self, layer: Layer) -> Mapping[str, Any]:
        return {"mean": layer.mean, "var": layer.var, "count": layer.count}


class Moving(Example):
    """The same, asked about any axis."""

    scope = dataclasses.replace(Example.scope, axes="any")
    moves_channels = "last"


class Differentiated(Example):
    """The same with derivatives that are easy to know again."""

    scope = dataclasses.replace(Example.scope, profiles=Example.scope.profiles | {"grad", "jvp"})

    def gradients(self, layer: Layer, x: Any, dy: Any, training: bool) -> tuple[Any, Mapping[str, Any]]:
        return self.forward(layer, x, training), {"x": 2 * dy, "gamma": dy.sum(0)[None], "beta": None}

    def tangent(self, layer: Layer, x: Any, dots: Mapping[str, Any], training: bool) -> Any:
        assert sorted(dots) == ["beta", "gamma", "x"]
        assert layer.count == 0, "a layer that has not been called"
        return dots["x"] + dots["gamma"] + dots["beta"]


def case_of(x: Any = X, **fields: Any) -> Case:
    config = BatchNormConfig(
        **({"axis": 1, "epsilon": 0.25, "decay": 0.75, "correction": 0} | fields.pop("config", {}))
    )
    return Case(config=config, ranks=(RankInputs(x, fields.pop("dy", None), None, fields.pop("xdot", None)),), **fields)


def agree(subject: LayerSubject, case: Case) -> None:
    """The numbers are those of the specification; the state is there exactly when it is due."""
    (got,), (want,) = subject.run(case).ranks, exact(case).ranks
    np.testing.assert_allclose(got.y, want.y, 1e-5, 1e-6)
    assert (got.state is None) == (want.state is None)
    for name, array in (want.state or {}).items():
        assert got.state[name].shape == array.shape
        assert got.state[name].dtype == case.state[name].dtype
        np.testing.assert_allclose(got.state[name], array, 1e-5)


# A case and a call ------------------------------------------------------------------------------------------


def test_every_mode_of_a_case_is_the_call_that_it_asks_for() -> None:
    for mode in ("batch", "inference"):
        agree(Example(), case_of(state=STATE, mode=mode))
    agree(Example(), case_of(state=STATE, update=False))
    agree(Example(), case_of())
    gamma, beta = np.asarray([1, 2, 3], "float32"), np.asarray([4, 5, 6], "float32")
    agree(Example(), case_of(gamma=gamma, beta=beta, state=STATE))
    agree(Example(), case_of(gamma=gamma, beta=beta, config={"scale": False}))
    agree(Example(), case_of(gamma=gamma, beta=beta, config={"center": False}))


def test_steps_follow_each_other_by_the_state() -> None:
    state: Any = STATE
    for step in range(3):
        case = case_of(X + step, state=state)
        agree(Example(), case)
        state = Example().run(case).ranks[0].state


def test_parameters_that_are_not_given_have_a_dtype_of_the_scope() -> None:
    class Rounded(Example):
        scope = dataclasses.replace(Example.scope, dtypes=("float16", "float32"), parameter_dtypes=("x",))

    for kind, dtype in ((Example, "float32"), (Rounded, "float16")):
        given = kind().parameters(case_of(X.astype("float16")))
        assert {name: array.dtype for name, array in given.items()} == {"gamma": dtype, "beta": dtype}


def test_the_layer_gets_arrays_of_its_own_whatever_the_case_has() -> None:
    x, gamma = np.broadcast_to(X[:1], (4, 3)), np.broadcast_to(np.float32(2), (3,))
    state = {name: array[::-1] for name, array in STATE.items()}
    seen: list[Any] = []

    class Looking(Example):
        def to_library(self, array: Any) -> Any:
            seen.append((array, super().to_library(array)))
            return seen[-1][1]

    agree(Looking(), case_of(x, gamma=gamma, state=state))
    assert len(seen) == 5
    for given, own in seen:
        assert own.flags.c_contiguous
        assert own.flags.writeable
        assert not np.may_share_memory(given, own)


# Derivatives ------------------------------------------------------------------------------------------------


def test_derivatives_are_the_methods_answers() -> None:
    dy, dot = X - 1, np.asarray([1, 1, 2], "float32")
    (got,) = Differentiated().run(case_of(dy=dy, xdot=X, gamma_dot=dot)).ranks
    np.testing.assert_array_equal(got.dx, 2 * dy)
    np.testing.assert_array_equal(got.dgamma, dy.sum(0))
    assert got.dbeta is None, "what the library does not give is not made up"
    np.testing.assert_array_equal(got.ydot, X + dot)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dy": X}, r"write gradients\(layer, x, dy, training\) in Example, or leave 'grad' out of the profiles"),
        ({"xdot": X}, r"write tangent\(layer, x, dots, training\) in Example, or leave 'jvp' out of the profiles"),
    ],
)
def test_a_method_that_is_not_written_is_an_error_that_refuses_nothing(change: dict[str, Any], said: str) -> None:
    class Broad(Example):
        refusals = (Exception,)

    Broad.__name__ = "Example"
    with pytest.raises(NotImplementedError, match=said):
        Broad().run(case_of(**change))


def test_gradients_of_other_names_are_an_error() -> None:
    class Weights(Differentiated):
        def gradients(self, layer: Layer, x: Any, dy: Any, training: bool) -> tuple[Any, Mapping[str, Any]]:
            return x, {"x": dy, "weight": dy}

    with pytest.raises(TypeError, match=r"returned weight; expected some of x, gamma, beta\. Rename them\."):
        Weights().run(case_of(dy=X))


# Counters, axes, refusals, versions -------------------------------------------------------------------------


def test_one_counter_serves_all_channels_and_cases_with_several_are_declined() -> None:
    scope = dataclasses.replace(Example.scope, options=Example.scope.options | {"averaging": ("cumulative",)})
    counting = Counting()
    counting.scope = scope
    counts = np.asarray([4, 4, 4], "int64")
    (got,) = counting.run(case_of(state=STATE | {"count": counts}, config={"averaging": "cumulative"})).ranks
    np.testing.assert_array_equal(got.state["count"], counts + 1)
    several = case_of(state=STATE | {"count": np.asarray([4, 5, 4], "int64")}, config={"averaging": "cumulative"})
    assert counting.supports(several) == "it has one counter for all channels"
    counting.one_counter = False
    assert counting.supports(several) is None


def test_channels_are_moved_where_that_is_declared_and_nowhere_else() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    for axis in (0, 1, 2, 3, -1):
        channels = x.shape[axis]
        state = {"mean": np.zeros(channels, "float32"), "var": np.ones(channels, "float32")}
        case = case_of(x, state=state, config={"axis": axis})
        agree(Moving(), case)
        assert Moving().supports(case) is None
        assert (Example().supports(case) is None) == (axis in (3, -1))
    assert Moving().version() == "example, channels moved to the last axis"
    assert Example().version() == "example"


def test_channels_are_moved_to_known_places_only() -> None:
    lost: Any = Moving()
    lost.moves_channels = "middle"
    with pytest.raises(ValueError, match="moved to 'middle'; expected one of first, last, or None"):
        lost.run(case_of())


def test_the_version_is_that_of_the_packages() -> None:
    class Known(Moving):
        packages = ("numpy", "pytest")

    expected = f"numpy {version('numpy')}, pytest {version('pytest')}, channels moved to the last axis"
    assert Known().version() == expected


def test_the_librarys_refusals_are_refusals_if_it_says_so() -> None:
    class Strict(Example):
        refusals = (ValueError,)

        def forward(self, layer: Layer, x: Any, training: bool) -> Any:
            raise (ValueError if len(x) == 1 else KeyError)("more than 1 value per channel")

    with pytest.raises(Refused, match="ValueError: more than 1 value per channel"):
        Strict().run(case_of(X[:1]))
    with pytest.raises(KeyError):
        Strict().run(case_of())


# The page and the file --------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_layer_on_the_page_runs_and_fails_as_the_page_shows(here: Path) -> None:
    shutil.copy(PORTS / "minilayer.py", here)
    page = PAGE.read_text(encoding="utf-8")
    (listing,) = [b for b in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if b.startswith("import minilayer")]
    (here / "my_layer.py").write_text(listing)
    subject = find_subject("my_layer:Port")
    for name in (
        "normalize::test_formula",
        "running::test_exponential",
        "gradients::test_vjp",
        "inference::test_formula",
    ):
        record = attempt(all_checks()[f"test_{name}"], subject, Budget(6, 0, shrink=False))
        assert record.outcome == "passed", record.reason
    (shown,) = re.findall(r"^BN-NORM-5: (minilayer: .*)$", page, re.MULTILINE)
    record = attempt(all_checks()["test_normalize::test_constant_channel"], subject, Budget(None, 0))
    assert record.outcome == "failed"
    assert record.reason.startswith(f"BN-NORM-5: {shown}\n")


def test_the_file_for_a_layer_runs_at_once_and_says_what_to_write(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["new-port", "any_layer", "--from", "layer"]) == 0
    assert 'docs/porting.md, "A layer of a library"' in capsys.readouterr().out
    subject = find_subject("any_layer:port")
    for name in ("normalize::test_formula", "running::test_exponential", "gradients::test_vjp"):
        record = attempt(all_checks()[f"test_{name}"], subject, Budget(2, 0, shrink=False))
        assert record.outcome == "failed"
        assert "NotImplementedError: write build() in any_layer.py" in record.reason


def test_a_layer_is_complete_as_it_is() -> None:
    subject = complete(Example(), "example")
    assert (subject.name, subject.bound, subject.arithmetic, subject.evaluation) == ("example", "plain", "float32", {})
