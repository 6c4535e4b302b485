"""`bnspec-conformance probe`: a right subject, layers, what is declared, the method and the command."""

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wrong_layers import OURS, Wrong, by_place, configured, differing, measured

import bnspec
from bnspec_conformance.cases.case import Outcome, RankOutcome
from bnspec_conformance.cases.scope import Scope
from bnspec_conformance.commands import probe as command
from bnspec_conformance.probe import GROUPS, probe
from bnspec_conformance.probe.answers import RefusedCase, Unobservable
from bnspec_conformance.probe.asker import Asker
from bnspec_conformance.probe.findings import Declared, Guess, Observation, Reading, compare, read
from bnspec_conformance.probe.groups.normalize import inference_guesses, scaled
from bnspec_conformance.probe.groups.running import COLUMNS, OLD
from bnspec_conformance.probe.predict import ProbeState, moments, update_guesses
from bnspec_conformance.subjects import NotSupported, SubjectError, complete, names_by_value

# --- right ------------------------------------------------------------------------------------------------------------


def test_our_subject_is_what_its_row_says() -> None:
    findings = probe(OURS)
    assert {f.verdict for f in findings} == {"same"}
    by_row = {f.convention: f.measured for f in findings if f.source == "row bnspec"}
    row = bnspec.dialects.bnspec
    assert by_row == {
        **{f"correction (rank {n}{d})": "0" for n in (2, 4) for d in ("", ", float64")},
        "correction (ghost)": "0",
        "correction (sync)": "0",
        "averaging": row.averaging,
        "single value": row.single_value,
        "ghost source": row.ghost_source,
        "sync weighting": row.sync_weighting,
        "one value, with a state": "accepted, y = beta",
        "default epsilon": "1e-05",
        "default decay": "0.9",
        "default correction": "0",
        "momentum weighs": row.momentum_weighs,
        **{f"name of {field}": name for field, name in row.names.items()},
        "state is updated": "in the call",
    }
    asked = {f.convention: f.measured for f in findings if f.source == "asked"}
    assert asked.pop("nonfinite") == "propagate"
    assert all(name.endswith(f"(asked: {value})") for name, value in asked.items())
    assert len(asked) == 1 + 3 + 2 + 3 + 1 + 2  # correction, averaging, single value, ghost source, sync, nonfinite


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axes", ["first", "last"])
def test_a_narrow_scope_is_asked_for_nothing_else(dtype: str, axes: str) -> None:
    asked = []

    def ask(case: Any) -> Any:
        asked.append(case)
        return case

    options = {"correction": (1,), "averaging": ("cumulative", "exponential"), "single_value": ("floor",),
               "epsilon": (1e-3,), "decay": (0.9,), "nonfinite": ("propagate",)}  # fmt: skip
    profiles = frozenset({"core", "running", "inference"})
    scope = Scope(profiles=profiles, dtypes=(dtype,), ndims=(4,), axes=axes, world=1, options=options)
    found = measured(Wrong(ask=ask, scope=scope, dialect="chainer"))
    assert asked
    assert all(scope.reason(case) is None for case in asked)
    same = {name: f.measured for name, f in found.items() if f.verdict == "same"}
    assert same["single value"] == "floor"
    assert same["averaging"] == "exponential"
    assert same["averaging (asked: cumulative)"] == "cumulative"
    assert same["epsilon in training"] == same["epsilon in inference"] == "inside the root"
    assert {f.verdict for f in found.values()} == {"same", "not observable"}
    assert found["grouping"].note.startswith("it has no ghost")
    assert found["small epsilon"].note == "it has no epsilon=9.313225746154785e-10"


# --- layers -----------------------------------------------------------------------------------------------------------


class Layer(Wrong):
    """A layer with its own defaults."""

    own: dict[str, object] = {}  # noqa: RUF012 - only read
    weighs = "old"

    def default_layer(self) -> Any:
        return Wrong(ask=configured(**self.own))

    def with_momentum(self, m: Any) -> Any:
        return Wrong(ask=configured(decay=m if self.weighs == "old" else 1 - m))

    def variable_names(self) -> dict[str, Any]:
        return {"gamma": "weight", "mean": "running_mean"}


def test_the_defaults_of_a_layer() -> None:
    found = measured(Layer(own={"epsilon": 1e-3, "decay": 0.99, "correction": 1}, weighs="new"), "layer")
    wanted = {"default epsilon": "0.001", "default decay": "0.99", "default correction": "1", "momentum weighs": "new",
              "name of gamma": "weight", "name of mean": "running_mean"}  # fmt: skip
    assert {n: (found[n].measured, found[n].verdict) for n in wanted} == {n: (v, "differs") for n, v in wanted.items()}
    assert found["name of count"].verdict == "not observable"
    torch = Layer(own={"epsilon": 1e-5, "decay": 0.9, "correction": 1}, weighs="new", dialect="torch")
    like_torch = measured(torch, "layer")
    assert {like_torch[n].verdict for n in wanted} == {"same"}


@pytest.mark.parametrize("place", ["outside the root", "max(var, epsilon)"])
def test_a_default_epsilon_in_another_place(place: str) -> None:
    class Odd(Layer):
        def default_layer(self) -> Any:
            return Wrong(answer=by_place(place, epsilon=1e-3))

    assert differing(Odd(), "layer")["default epsilon"] == f"0.001 ({place})"


def test_updates_that_are_collected() -> None:
    class Collecting(Wrong):
        def timeline(self, case: Any) -> Iterator[tuple[Any, ...]]:
            layer = bnspec.BatchNorm(axis=1, dialect="tensorpack")
            with bnspec.training_context() as context:
                layer(case.ranks[0].x)
                layer.state = bnspec.RunningState(case.state["mean"], case.state["var"])
                yield "call", layer.state._asdict()
                context.updates.run()
                yield "collected", layer.state._asdict()

    assert differing(Collecting(), "layer")["state is updated"] == "when collected"
    assert measured(Collecting(dialect="tensorpack"), "layer")["state is updated"].verdict == "same"


def test_a_hook_that_fails_is_a_difference_and_one_that_declines_is_none() -> None:
    class Failing(Layer):
        def with_momentum(self, m: Any) -> None:
            raise RuntimeError("no such argument")

        def variable_names(self) -> Any:
            raise NotSupported("it is a function")

    found = measured(Failing(), "layer")
    assert found["momentum weighs"].verdict == "differs"
    assert found["momentum weighs"].note == "it refused: with_momentum() raised RuntimeError: no such argument"
    assert (found["name of mean"].verdict, found["name of mean"].note) == ("not observable", "it is a function")


def test_names_are_found_by_value() -> None:
    variables = {"a": np.full(3, 2.0), "b": np.full(3, 5.0), "c": np.asarray([5.0, 1.0]), "d": np.zeros(0)}
    assert names_by_value(variables, {"gamma": 2.0, "mean": 5.0, "var": 7.0}) == {"gamma": "a", "mean": "b"}
    assert names_by_value(variables | {"e": 2.0}, {"gamma": 2.0}) == {}  # two hold it


# --- what is declared -------------------------------------------------------------------------------------------------


def test_the_wrong_row_is_reported() -> None:
    numpy_as_torch = dataclasses.replace(OURS, dialect="torch")
    found = {f.convention: (f.measured, f.declared, f.source) for f in probe(numpy_as_torch) if f.verdict == "differs"}
    assert found == {
        "default correction": ("0", "1", "row torch"),
        "momentum weighs": ("old", "new", "row torch"),
        "name of gamma": ("gamma", "weight", "row torch"),
        "name of beta": ("beta", "bias", "row torch"),
        "name of mean": ("mean/EMA", "running_mean", "row torch"),
        "name of var": ("variance/EMA", "running_var", "row torch"),
        "name of count": ("count", "num_batches_tracked", "row torch"),
    }
    only = Wrong(
        scope=Scope(dtypes=("float32",), options={"correction": (0,), "averaging": ("cumulative",)}), dialect="haiku"
    )
    assert differing(only, "running")["averaging"] == "cumulative"
    assert differing(dataclasses.replace(OURS, dialect="keras"), "layer")["default epsilon"] == "1e-05"


def test_a_subject_without_a_dialect_is_measured_all_the_same() -> None:
    found = measured(Wrong(dialect=None))
    assert (found["averaging"].measured, found["averaging"].source) == ("exponential", "asked")
    assert (found["state is updated"].measured, found["state is updated"].verdict) == ("in the call", "undeclared")
    assert {f.verdict for f in found.values()} == {"same", "undeclared", "not observable"}
    assert {f.source for f in found.values() if f.verdict == "undeclared"} == {""}
    swapped = Wrong(dialect=None, ask=configured(correction=1), scope=Scope(dtypes=("float32",), world=1))
    assert differing(swapped, "running")["correction (rank 2)"] == "1"


def test_a_declared_departure_is_held_to() -> None:
    class Known(Wrong):
        def departures(self) -> dict[str, Any]:
            return {"decay multiplies": "new value"}

    inverted = configured(decay=lambda c: 1 - c.decay)
    finding = measured(Known(ask=inverted), "running")["decay multiplies"]
    assert (finding.verdict, finding.declared, finding.source) == ("same", "new value", "subject")
    assert differing(Known(), "running")["decay multiplies"] == "old value"  # mended, and still declared

    class Misspelt(Wrong):
        def departures(self) -> dict[str, Any]:
            return {"decay": "new value"}

    with pytest.raises(SubjectError, match=r"departs from the conventions \['decay'\], which are none"):
        measured(Misspelt())
    with pytest.raises(SubjectError, match="declares the dialect 'caffe'"):
        measured(Wrong(dialect="caffe"))


def test_what_cannot_be_run_is_never_a_pass() -> None:
    class Deaf(Wrong):
        def run(self, case: Any) -> None:
            raise NotSupported("it has lost its device")

    found = measured(Deaf())
    assert {f.verdict for f in found.values()} == {"not observable"}
    assert found["averaging"].note == "it has lost its device"

    class Mute(Wrong):
        def run(self, case: Any) -> Any:
            return Outcome(tuple(RankOutcome() for _ in case.ranks))

    assert measured(Mute(), "running")["decay multiplies"].note == "it returned no running state"
    assert measured(Mute(), "ghost")["grouping"].note == "it returned no y"

    class Raising(Wrong):
        def run(self, case: Any) -> None:
            raise ZeroDivisionError("by chance")

    finding = measured(Raising(), "running")["decay multiplies"]
    assert (finding.verdict, finding.measured) == ("differs", "none of the known")
    assert finding.note == "it refused: ZeroDivisionError: by chance"


# --- the method -------------------------------------------------------------------------------------------------------


def test_no_two_hypotheses_predict_the_same() -> None:
    columns = scaled(0.25)
    states = [ProbeState(p.mean / 4, p.var() / 4, 1) for p in map(moments, columns)]
    for guesses in (
        list(update_guesses(COLUMNS, OLD, 0.75)),
        list(update_guesses(COLUMNS, OLD._replace(seen=None), 0.75)),
        list(inference_guesses(columns, states, 0.75, 0.25)),
    ):
        for one, other in combinations(guesses, 2):
            numbers = [
                np.concatenate([np.ravel(np.broadcast_to(v, (2, *np.shape(v)[1:]))) for v in g.predicted.values()])
                for g in (one, other)
            ]
            assert not np.allclose(*numbers, rtol=1e-3), (one, other)  # type: ignore[misc]


def test_guesses_are_compared_within_roundoff_and_not_beyond() -> None:
    guesses = [Guess({"c": "one"}, {"v": [1.0, 2.0]}), Guess({"c": "two"}, {"v": [1.0, 2.5]})]
    seen = {"v": Observation([1.0, 2.0 + 2.0**-20], 2.0**-24)}
    assert read(guesses, seen, "c") == Reading(("one",))
    assert read(guesses, {"v": Observation([1.0, 2.1], 2.0**-24)}, "c") == Reading((), "saw v [1, 2.1]")
    assert read(guesses, {"v": Observation([1.0, math.nan], 2.0**-24)}, "c").fits == ()
    in_float32 = {"v": Observation([1.0, 2.0 + 2.0**-24], 2.0**-53)}
    assert read(guesses, in_float32, "c") == Reading(("one",))
    assert read(guesses, in_float32, "c", coarse=False).fits == ()
    assert read(guesses, {"v": Observation([1, 3], 0.0)}, "c").fits == ()  # integers are right or wrong
    infinite = [Guess({"c": "three"}, {"v": [math.inf, math.nan]})]
    assert read(infinite, {"v": Observation([math.inf, math.nan], 0.0)}, "c").fits == ("three",)
    assert read(infinite, {"v": Observation([-math.inf, math.nan], 0.0)}, "c").fits == ()


@pytest.mark.parametrize(
    ("fits", "accepted", "verdict"),
    [
        (("a",), ("a",), "same"),
        (("a",), ("a", "b"), "same"),
        (("a", "b"), ("a", "b"), "same"),
        (("a", "b"), ("a",), "ambiguous"),
        (("a", "b"), ("c",), "differs"),
        (("b",), ("a",), "differs"),
        ((), ("a",), "differs"),
        (("a",), None, "undeclared"),
        ((), None, "undeclared"),
        (("a", "b"), None, "ambiguous"),
    ],
)
def test_verdicts(fits: tuple[Any, ...], accepted: tuple[Any, ...] | None, verdict: str) -> None:
    declared = None if accepted is None else Declared(accepted, "row x")
    assert compare("group", "convention", Reading(fits), declared).verdict == verdict


def test_cases_stay_inside_the_scope() -> None:
    ask = Asker(complete(Wrong(scope=Scope(dtypes=("float32",), profiles=frozenset({"core"}))), "wrong"), None)
    with pytest.raises(Unobservable, match="it has no running"):
        ask.case(COLUMNS, state=OLD)
    case = ask.case(COLUMNS)
    assert case.ranks[0].x.tolist() == [[0, 1], [0, 5], [0, 1], [2, 1]]
    with pytest.raises(RefusedCase, match="ValueError"):
        ask.run(dataclasses.replace(case, config=dataclasses.replace(case.config, virtual_batch_size=3)))


# --- the command ------------------------------------------------------------------------------------------------------


def call(*arguments: Any) -> Any:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    options = parser.parse_args(["probe", *arguments])
    return options.call(options)


def as_torch() -> Any:
    return dataclasses.replace(OURS, name="numpy-as-torch", dialect="torch")


def test_the_command_prints_a_table_for_each_subject(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("bnspec_conformance.subjects.own.backends:numpy") == 0
    right = capsys.readouterr().out
    assert "numpy (bnspec" in right
    assert "73 conventions: 73 same" in right
    assert call("bnspec_conformance.subjects.own.backends:numpy", "test_probe:as_torch") == 1
    both = capsys.readouterr().out
    assert both.startswith(right)
    assert "numpy-as-torch (bnspec" in both
    assert "66 same, 7 differs" in both
    (line,) = [line for line in both.splitlines() if "momentum weighs" in line and "row torch" in line]
    assert line.split() == ["momentum", "weighs", "old", "new", "row", "torch", "NO"]


def test_the_command_writes_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert call("test_probe:as_torch", "--json", str(path)) == 1
    assert "numpy-as-torch" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert (written["format"], written["bnspec"]) == ("bnspec-probe/1", bnspec.__version__)
    (subject,) = written["subjects"]
    assert (subject["name"], subject["dialect"], subject["same"]) == ("numpy-as-torch", "torch", False)
    assert set(subject["findings"][0]) == {
        "group", "convention", "measured", "declared", "source", "verdict", "note",
    }  # fmt: skip
    assert subject["findings"] == [dataclasses.asdict(f) for f in probe(as_torch())]
    assert call("bnspec_conformance.subjects.own.backends:numpy", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["subjects"][0]["same"] is True


def test_the_command_takes_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        call("bnspec_conformance.subjects.own.backends:numpy", "--group", "ghost", "--group", "layer", "--json", "-")
        == 0
    )
    (subject,) = json.loads(capsys.readouterr().out)["subjects"]
    assert {f["group"] for f in subject["findings"]} == {"ghost", "layer"}
    assert list(dict.fromkeys(f.group for f in probe(OURS))) == list(GROUPS)
    assert call("bnspec_conformance.subjects.own.backends:numpy", "--group", "gohst") == 2
    assert "unknown groups gohst; expected some of running," in capsys.readouterr().err


def test_a_wrong_call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("no_such_subject") == 2
    assert "unknown subject" in capsys.readouterr().err
    assert call("bnspec_conformance.subjects.own.backends:numpy", "--json", str(tmp_path / "none" / "x.json")) == 2
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit) as status:
        call()
    assert status.value.code == 2
