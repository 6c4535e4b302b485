"""Recorded runs of the layers bnspec follows (data/vectors/README.md), repeated by the functions and by the layer."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import deviation
from installed_here import BACKENDS

import bnspec
from bnspec_backends.ranks import threads

DATA = Path(__file__).parent / "data" / "vectors"
INDEX = json.loads((DATA / "index.json").read_text())
TENSORPACK = bnspec.dialects.tensorpack

#: How far a result may be from the recorded one, by the recorded dtype.
ALLOWED = {"float64": 1e-12, "float32": 3e-6, "float16": 8e-4}
HARD = 5e-7

#: Recorded name -> field of the running state.
STATE = {
    "moving_mean": "mean",
    "moving_variance": "var",
    "moving_stddev": "stddev",
    "renorm_mean": "renorm_mean",
    "renorm_stddev": "renorm_stddev",
}
# Frozen layers are among the cases; who comes first in this process depends on which tests are selected.
pytestmark = pytest.mark.filterwarnings("ignore::bnspec.FrozenStatisticsWarning")


@cache
def arrays(file: Any) -> dict[str, Any]:
    with np.load(DATA / file) as archive:
        return {name: archive[name] for name in archive.files}


class Case:
    """One recorded entry."""

    def __init__(self, entry: Any) -> None:
        self.entry, self.kwargs, self.words = entry, dict(entry["kwargs"]), entry["canonical"]
        self.leading = entry["leading"]
        self.tower = self.kwargs.pop("tower", None)
        self.kwargs.pop("ranks", None)
        recorded = [*entry["inputs"], *entry["outputs"]]
        self.arrays = {key: arrays(entry["file"])[f"{entry['name']}/{key}"] for key in recorded}
        x = self.arrays["x"]
        self.dtype, self.rank = x.dtype.name, x.ndim - len(self.leading)
        self.steps = x.shape[0] if "step" in self.leading else 1
        self.ranks = x.shape[self.leading.index("rank")] if "rank" in self.leading else 1
        self.limit = entry.get("limit") or ALLOWED[self.dtype]
        self.trains = self.words["normalize_by"] == "batch"
        self.towers = self.words["ema_from"] == "rank0"  # replicas of one layer in one process
        self.asks_for_sync = self.kwargs.get("sync_statistics") is not None

    def at(self, key: str, step: Any, rank: Any = None) -> Any:
        """One step's array; rank None where the array has no such axis."""
        index = tuple(step if axis == "step" else rank for axis in self.leading if axis == "step" or rank is not None)
        return self.arrays[key][index]

    def compare(self, results: Any) -> None:
        """``results[rank][step]`` are (y, Gradients, RunningState)."""
        far: dict[str, Any] = {}

        def note(key: str, ours: Any, theirs: Any) -> None:
            far[key] = max(far.get(key, 0.0), deviation(ours, theirs))

        per_rank = self.words.get("param_grads") == "per_rank"
        for step in range(self.steps):
            for rank, (y, gradients, _) in enumerate(each[step] for each in results):
                note("y", y, self.at("y", step, rank))
                note("dx", gradients.x, self.at("dx", step, rank))
                for key in {"dgamma", "dbeta"} & set(self.arrays) if per_rank else ():
                    note(key, getattr(gradients, key[1:]), self.at(key, step, rank))
            for key in {"dgamma", "dbeta"} & set(self.arrays) if not per_rank else ():
                note(key, sum(getattr(each[step][1], key[1:]) for each in results), self.at(key, step))
            for recorded, field in STATE.items():
                if f"new_{recorded}" in self.arrays:
                    states = [getattr(each[step][2], field) for each in results]
                    note(f"new_{recorded}", states[0], self.at(f"new_{recorded}", step))
                    assert self.towers or all(np.array_equal(s, states[0]) for s in states)
        assert {key: value for key, value in far.items() if not value <= self.limit} == {}
        assert {"y", "dx"} <= set(far)


def named(entries: Any) -> Any:
    return pytest.mark.parametrize("entry", [pytest.param(e, id=f"{e['family']}/{e['name']}") for e in entries])


RUNS = [e for e in INDEX if e["family"] != "hard" and "raises" not in e]
REFUSALS = [e for e in INDEX if "raises" in e]
EXACT = [e for e in INDEX if e["family"] == "hard"]


def test_the_index_is_whole() -> None:
    families = {e["family"] for e in INDEX}
    assert len(families) == 5
    assert len(RUNS) + len(REFUSALS) + len(EXACT) == len(INDEX) == len({(e["family"], e["name"]) for e in INDEX}) == 106
    assert {e["file"] for e in INDEX} == {path.name for path in DATA.glob("*.npz")}


@named(RUNS)
def test_the_functions_repeat_a_run(entry: Any) -> None:
    """Arithmetic in float64 on the recorded inputs, with the configuration of the recorded dtype and rank."""
    case = Case(entry)
    words, wide = case.words, {key: np.asarray(v, np.float64) for key, v in case.arrays.items()}
    limits = words["renorm"]
    config = TENSORPACK.config(
        axis=words["axis"],
        rank=case.rank,
        dtype=case.dtype,
        sync=case.asks_for_sync and case.trains,
        momentum=case.kwargs.get("momentum"),
        epsilon=words["eps"],
        center=case.kwargs.get("center", True),
        scale=case.kwargs.get("scale", True),
        virtual_batch_size=case.kwargs.get("virtual_batch_size") if case.trains else None,
        renorm=limits and bnspec.Renorm(rmax=limits["rmax"], dmax=limits["dmax"], decay=limits["renorm_keep"]),
    )
    if words["keep"] is not None:
        assert config.decay == words["keep"]
    if words["ema_var"] is not None:
        assert config.correction == (words["ema_var"] == "bessel")
    assert config.virtual_batch_size == words["ghost"]
    params = bnspec.Params(wide.get("gamma"), wide.get("beta"))
    start = bnspec.RunningState(**{field: wide[key] for key, field in STATE.items() if key in wide})

    def run(comm: Any) -> Any:
        state, results = start, []
        for step in range(case.steps):
            x, dy = (np.asarray(case.at(key, step, comm.rank), np.float64) for key in ("x", "dy"))
            used = comm if words["sync"] else None
            if case.trains:
                y, stats, saved = bnspec.batch_norm(x, params, config, state=state, comm=used)
                if words["ema_var"] is not None and not (case.towers and comm.rank):
                    state = bnspec.update_running(state, stats, config)
            else:
                y, saved = bnspec.batch_norm_inference(x, params, state, config)
            results.append((y, bnspec.batch_norm_vjp(dy, saved, comm=used), state))
        return results

    case.compare(threads.run(case.ranks, run))


def layer_of(case: Any, comm: Any) -> Any:
    options = {key: v for key, v in case.kwargs.items() if key != "sync_statistics"}
    if case.asks_for_sync:
        options["comm"] = comm
    kind = bnspec.BatchRenorm if case.words["renorm"] else bnspec.BatchNorm
    return kind(dialect="tensorpack", name="bn", **options)


def call(layer: Any, case: Any, step: Any, rank: Any) -> tuple[Any, ...]:
    x = case.at("x", step, rank)  # held until backward: in inference the layer does not
    y = layer(x)
    dx = layer.backward(case.at("dy", step, rank))
    assert (y.dtype.name, dx.dtype.name) == (case.dtype, case.dtype)
    return y, layer.gradients


@named(RUNS)
def test_the_layer_repeats_a_run(entry: Any) -> None:
    """The recorded dtype, the seed's own words, and updates that wait in the collection where the seed's wait."""
    case = Case(entry)
    training = case.tower == "train"
    collected, inside = entry.get("n_update_ops"), entry.get("state_moves_without_update_ops")

    def run(comm: Any) -> Any:
        layer = layer_of(case, comm)
        names = layer._names
        start = {names[field]: case.arrays[key] for key, field in STATE.items() if key in case.arrays}
        start |= {name: case.arrays[name] for name in ("gamma", "beta") if name in case.arrays}
        layer.load_state_dict(start)
        results: list[list[Any]] = [[] for _ in range(case.ranks if case.towers else 1)]
        for step in range(case.steps):
            before = layer.variables
            updates = bnspec.UpdateCollection()
            outcome = []
            for tower in range(len(results)):
                with bnspec.training_context(training, tower=tower, updates=updates) as context:
                    rank = tower if case.towers else comm.rank
                    outcome.append(call(layer, case, step, rank))
            moved = any(not np.array_equal(layer.variables[name], before[name]) for name in before)
            if collected is not None:  # two operations in the seed, one update of both statistics here
                assert len(context.updates) == (1 if collected else 0)
            if inside is not None:
                assert moved == inside
            context.updates.run()
            for tower, (y, gradients) in enumerate(outcome):
                results[tower].append((y, gradients, layer.state))
        return results if case.towers else results[0]

    if case.towers:
        results = threads.run(1, run)[0]
    else:
        results = threads.run(case.ranks, run)
    case.compare(results)


@named([e for e in RUNS if e.get("variables")])
def test_a_fresh_layer_has_the_recorded_variables(entry: Any) -> None:
    case = Case(entry)
    layer = threads.run(1, lambda comm: fresh(case, comm))[0]
    found = {f"bn/{name}": [list(v.shape), v.dtype.name] for name, v in layer.variables.items()}
    assert found == entry["variables"]
    trained = {"bn/gamma": layer.gradients.gamma, "bn/beta": layer.gradients.beta}
    assert {name for name, v in trained.items() if v is not None} == set(entry["trainable_variables"])
    for name, value in entry["initial"].items():
        # The seed's BatchRenorm draws gamma at random when no initializer is given: a fault that is not repeated.
        expected = 1.0 if value == "random" else value
        assert value != "random" or (name, entry["family"]) == ("bn/gamma", "tensorpack_batchrenorm")
        assert np.all(layer.variables[name.removeprefix("bn/")] == expected)


def fresh(case: Any, comm: Any) -> Any:
    layer = layer_of(case, comm)
    with bnspec.training_context(case.tower == "train"):
        layer.training = False  # makes the variables and updates nothing
        layer(x := case.at("x", 0, 0))
    assert x.shape == layer.backward(case.at("dy", 0, 0)).shape
    return layer


@named(REFUSALS)
def test_what_the_layer_refuses_is_refused(entry: Any) -> None:
    """One refusal is a fault of the seed: BatchRenorm in float64 meets float32 constants there, and works here."""
    options = dict(entry["kwargs"])
    x = np.ones(entry["shape"], entry["dtype"])
    with bnspec.training_context():
        if entry["name"] == "refuse_f64":
            y = bnspec.BatchRenorm(dialect="tensorpack", **options)(x)
            assert (y.shape, y.dtype) == (x.shape, x.dtype)
            return
        with pytest.raises((ValueError, TypeError)) as refusal:
            bnspec.BatchNorm(dialect="tensorpack", **options)(x)
    assert "[BN-" in str(refusal.value)


def worst_channel(ours: Any, exact: Any, axis: int, zero: Any) -> float:
    """max|ours - exact| / max|exact| of the worst channel, over `zero` of the channel where exact is all 0."""
    channels = exact.shape[axis]
    ours, exact = (np.moveaxis(np.asarray(v, np.float64), axis, 0).reshape(channels, -1) for v in (ours, exact))
    size = np.max(np.abs(exact), axis=1)
    return float(np.max(np.max(np.abs(ours - exact), axis=1) / np.where(size == 0, zero, size)))


@pytest.mark.parametrize("backend", BACKENDS)
@named(EXACT)
def test_hard_inputs_come_out_close_to_the_exact_answer(entry: Any, backend: str) -> None:
    """Whatever the mean is, y and dx keep the digits of float32; JAX without x64 has only float32 to compute with."""
    case, library = Case(entry), bnspec.get_backend(backend)
    axis, to_numpy = case.words["axis"], library.to_numpy
    config = bnspec.BatchNormConfig(axis=axis, epsilon=case.words["eps"], decay=0.9, correction=0)
    given = {key: library.asarray(case.arrays[key].astype(np.float32)) for key in ("x", "dy", "gamma", "beta")}
    assert np.array_equal(case.arrays["x"], case.arrays["x"].astype(np.float32))
    y, stats, saved = bnspec.batch_norm(given["x"], bnspec.Params(given["gamma"], given["beta"]), config)
    gradients = bnspec.batch_norm_vjp(given["dy"], saved)
    gamma = np.abs(case.arrays["gamma"])
    factor = gamma / math.sqrt(case.words["eps"])
    far = {
        "y": worst_channel(to_numpy(y), case.arrays["y"], axis, gamma),
        "dx": worst_channel(to_numpy(gradients.x), case.arrays["dx"], axis, factor),
    }
    assert {key: value for key, value in far.items() if not value <= HARD} == {}
    assert deviation(to_numpy(gradients.beta), case.arrays["dbeta"]) <= HARD
    assert deviation(to_numpy(gradients.gamma), case.arrays["dgamma"]) <= HARD
    mean = np.asarray(to_numpy(stats.mean))[0].astype(np.float64) + np.asarray(to_numpy(stats.mean_low))[0]
    np.testing.assert_allclose(mean, case.arrays["save_mean"], rtol=HARD, atol=0)
    np.testing.assert_allclose(np.asarray(to_numpy(stats.var))[0], case.arrays["save_var"], rtol=HARD, atol=0)
