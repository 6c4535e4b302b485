"""Checks of SPEC.md, "Update timing"."""

import dataclasses
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

import bnspec
from bnspec_conformance.cases.case import Case, RankInputs
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.layer.machine import machine
from bnspec_conformance.checks.layers import host, layer_of, outcome_of, state_of
from bnspec_conformance.subjects import Subject
from bnspec_conformance.trials.explore import clauses, explore, search_settings
from bnspec_conformance.trials.trial import Trial
from bnspec_conformance.trials.violations.violation import Violation


def steps(subject: Subject) -> st.SearchStrategy[Case]:
    """Cases of one training step with a running state that has seen batches before."""
    return (
        strategies.cases(subject, ghost=True, running=True)
        if subject.examples >= 10
        else strategies.cases(subject, running=True)
    )


def again(case: Case, seed: int) -> Case:
    """Return the same step with another batch of the same shape, far enough from the first to tell their order."""
    rng = np.random.default_rng(seed)
    x = case.ranks[0].x
    return dataclasses.replace(case, ranks=(RankInputs((rng.standard_normal(x.shape) * 2 + 3).astype(x.dtype)),))


@clauses("BN-UPD-1")
@explore(steps, share=0.5)
def test_skip(t: Trial, case: Case) -> None:
    """skip leaves the state to the bit, in every kind of context, and y is that of the other modes."""
    put = t.needs_backend().asarray
    x = put(case.ranks[0].x)
    y = host(t, layer_of(t, case, ema_update="internal")(x))
    layer = layer_of(t, case, ema_update="skip", training=True)
    before = state_of(t, layer)
    t.same(host(t, layer(x)), y, "y of skip", case)
    for training in (True, False):
        with bnspec.training_context(is_training=training) as context:
            t.same(host(t, layer(x)), y, "y of skip", case)
            t.require(len(context.updates) == 0, "skip collected an update", case)
            context.updates.run()
    t.same(state_of(t, layer), before, "variables", case)


@clauses("BN-UPD-2")
@explore(steps)
def test_internal(t: Trial, case: Case) -> None:
    """internal has updated the state when the call returns, with the statistics of this call, once."""
    layer = layer_of(t, case, ema_update="internal")
    y = layer(t.needs_backend().asarray(case.ranks[0].x))
    t.agree(case, "y", "state", outcome=outcome_of(t, layer, case, y=y))


@clauses("BN-UPD-2")
@explore(steps, share=0.5)
def test_internal_in_a_context(t: Trial, case: Case) -> None:
    """Inside a training context internal updates just once and leaves nothing to run."""
    layer = layer_of(t, case, ema_update="internal")
    with bnspec.training_context() as context:
        layer(t.needs_backend().asarray(case.ranks[0].x))
        t.agree(case, "state", outcome=outcome_of(t, layer, case))
        context.updates.run()
    t.agree(case, "state", outcome=outcome_of(t, layer, case))


@clauses("BN-UPD-3")
@explore(steps)
def test_collection(t: Trial, case: Case) -> None:
    """Collected updates wait, then apply in call order, each against the state of that moment; and only once."""
    put = t.needs_backend().asarray
    later = again(case, 1)
    layer, twin, one = (layer_of(t, case, ema_update=mode) for mode in ("collection", "internal", "collection"))
    before = state_of(t, layer)
    with bnspec.training_context() as context:
        layer(put(case.ranks[0].x))
        layer(put(later.ranks[0].x))
        one(put(case.ranks[0].x))
        t.same(state_of(t, layer), before, "variables before the collection ran", case)
        t.require(len(context.updates) == 3, f"{len(context.updates)} updates are pending after three calls", case)
    elsewhere = dataclasses.replace(
        case, state=strategies.states(case.config, case.channels, case.ranks[0].x.dtype, 99)
    )
    for each in (layer, twin):  # the state changes between the calls and the run
        each.load_state_dict(layer_of(t, elsewhere).variables)
    for batch in (case, later):
        twin(put(batch.ranks[0].x))
    context.updates.run()
    t.agree(case, "state", outcome=outcome_of(t, one, case))
    t.same(state_of(t, layer), state_of(t, twin), "variables", case)
    context.updates.run()
    t.require(len(context.updates) == 0, "updates are left after the run", case)
    t.same(state_of(t, layer), state_of(t, twin), "variables after a second run", case)


@clauses("BN-UPD-3", "BN-ERR-2")
@explore(lambda s: strategies.cases(s, running=True), share=0.25)
def test_no_collection(t: Trial, case: Case) -> None:
    """Outside of any context there is no collection to hand the update to, so the call is refused."""
    layer = layer_of(t, case, ema_update="collection")
    before = state_of(t, layer)
    t.refuses(lambda: layer(t.needs_backend().asarray(case.ranks[0].x)), RuntimeError, "BN-UPD-3")
    t.same(state_of(t, layer), before, "variables", case, proves=("BN-ERR-2",))


@clauses("BN-UPD-4")
@explore(lambda s: strategies.cases(s, running=True), share=0.5)
def test_default(t: Trial, case: Case) -> None:
    """default is internal for a layer without a dialect and collection under the tensorpack dialect."""
    put = t.needs_backend().asarray
    plain: dict[str, Any] = {"virtual_batch_size": None, "axis": 1, "correction": 0}
    rng = np.random.default_rng(case.channels)
    x = (rng.standard_normal((4, case.channels)) + 2).astype(case.ranks[0].x.dtype)
    case = dataclasses.replace(case, config=dataclasses.replace(case.config, **plain), ranks=(RankInputs(x),))
    hows: tuple[dict[str, Any], ...] = ({}, {"ema_update": "default"})
    for how in hows:
        bare, seed = layer_of(t, case, **how), layer_of(t, case, dialect="tensorpack", **how)
        before = state_of(t, seed)
        with bnspec.training_context() as context:
            bare(put(x))
            t.agree(case, "state", outcome=outcome_of(t, bare, case))
            seed(put(x))
            t.same(state_of(t, seed), before, "variables under the tensorpack dialect", case)
            context.updates.run()
        t.agree(case, "state", outcome=outcome_of(t, bare, case))
        if x.dtype != np.float64:  # for float64 that dialect rounds 1 - decay to float32
            t.agree(case, "state", outcome=outcome_of(t, seed, case))


@clauses("BN-UPD-4")
@explore()
def test_ghost_and_ranks_update_inside(t: Trial) -> None:
    """Under the tensorpack dialect ghost and synchronized layers update inside the call, but for skip."""
    backend = t.needs_backend()
    x = backend.asarray(np.asarray([[1.0, -2.0], [3.0, 2.0], [0.5, 4.0], [2.0, 8.0]], "float32"))

    def moved(mode: str, **options: Any) -> tuple[bool, int]:
        layer = bnspec.BatchNorm(axis=1, dialect="tensorpack", ema_update=mode, **options)
        with bnspec.training_context() as context:
            layer(x)
            state = layer.state
            assert state is not None
            return bool(np.any(backend.to_numpy(state.mean) != 0)), len(context.updates)

    wanted = {"collection": (True, 0), "default": (True, 0), "internal": (True, 0), "skip": (False, 0)}
    for mode, want in wanted.items():
        got = moved(mode, virtual_batch_size=2)
        t.require(got == want, f"a ghost layer under {mode!r} has (updated, collected) {got}, expected {want}")
        usual = moved(mode)
        t.require(usual[0] == (mode == "internal"), f"a plain layer under {mode!r} has (updated, collected) {usual}")
    ranks = t.needs_ranks(2)
    for mode, want in wanted.items():
        for got in ranks.run(2, lambda comm, mode=mode: moved(mode, comm=comm), deadline=10.0):  # type: ignore[misc]
            t.require(got == want, f"a synchronized layer under {mode!r} has {got}, expected {want}")


@clauses("BN-UPD-5")
@explore(steps)
def test_recompute(t: Trial, case: Case) -> None:
    """A forward pass repeated under recompute gives the same y and updates nothing, in either mode."""
    x = t.needs_backend().asarray(case.ranks[0].x)
    for mode in ("internal", "collection"):
        layer, next_layer = layer_of(t, case, ema_update=mode), layer_of(t, case, ema_update=mode)
        with bnspec.training_context() as context:
            y = host(t, layer(x))
            with bnspec.recompute():
                t.same(host(t, layer(x)), y, "y of the repeated pass", case)
            t.require(
                len(context.updates) == (mode == "collection"), f"{len(context.updates)} updates are pending", case
            )
            next_layer(x)  # the block is over: this call counts
            context.updates.run()
        t.agree(case, "state", outcome=outcome_of(t, layer, case))
        t.agree(case, "state", outcome=outcome_of(t, next_layer, case))


@clauses("BN-UPD-6")
@explore(steps)
def test_towers(t: Trial, case: Case) -> None:
    """The other towers normalize by their own statistics, update nothing and collect nothing."""
    put = t.needs_backend().asarray
    other = again(case, 2)
    for mode in ("internal", "collection"):
        layer = layer_of(t, case, ema_update=mode)
        before = state_of(t, layer)
        updates = bnspec.UpdateCollection()
        for tower in (1, 2):
            with bnspec.training_context(tower=tower, updates=updates):
                y = layer(put(other.ranks[0].x))
            t.agree(dataclasses.replace(other, update=False), "y", outcome=outcome_of(t, layer, other, y=y))
        t.require(len(updates) == 0, "another tower than 0 collected an update", case)
        t.same(state_of(t, layer), before, "variables", case)
        with bnspec.training_context(tower=0, updates=updates):
            layer(put(case.ranks[0].x))
        updates.run()
        t.agree(case, "state", outcome=outcome_of(t, layer, case))


@clauses("BN-UPD-7")
@explore(steps)
def test_prediction_context(t: Trial, case: Case) -> None:
    """With training=True in a prediction context internal updates, and what is collected is dropped."""
    x = t.needs_backend().asarray(case.ranks[0].x)
    internal, collected = (layer_of(t, case, ema_update=mode, training=True) for mode in ("internal", "collection"))
    before = state_of(t, collected)
    with bnspec.training_context(is_training=False) as context:
        y = internal(x)
        t.agree(case, "y", "state", outcome=outcome_of(t, internal, case, y=y))
        t.same(host(t, collected(x)), host(t, y), "y", case)
        t.require(len(context.updates) == 0, "the frozen collection kept an update", case)
        context.updates.run()
    t.same(state_of(t, collected), before, "variables", case)


@clauses("BN-UPD-7")
@explore(lambda s: strategies.cases(s, running=True), share=0.25)
def test_own_switch(t: Trial, case: Case) -> None:
    """Outside of any context the layer's own switch decides, which is on at first; inside, the context does."""
    x = t.needs_backend().asarray(case.ranks[0].x)
    layer = layer_of(t, case, ema_update="skip")
    running = dataclasses.replace(case, mode="inference", update=False)
    batch = dataclasses.replace(case, update=False)
    t.agree(batch, "y", outcome=outcome_of(t, layer, case, y=layer(x)))
    t.agree(running, "y", outcome=outcome_of(t, layer, case, y=layer.eval()(x)))
    with bnspec.training_context():
        t.agree(batch, "y", outcome=outcome_of(t, layer, case, y=layer(x)))
    t.agree(batch, "y", outcome=outcome_of(t, layer, case, y=layer.train()(x)))
    with bnspec.training_context(is_training=False):
        t.agree(running, "y", outcome=outcome_of(t, layer, case, y=layer(x)))


@clauses("BN-UPD-1", "BN-UPD-2", "BN-UPD-3", "BN-UPD-4", "BN-UPD-5", "BN-UPD-6", "BN-UPD-7", "BN-INF-4", "BN-INF-5",
         "BN-STATE-2", "BN-STATE-3", "BN-ERR-2", "BN-ERR-4")  # fmt: skip
@explore()
def test_any_order_of_calls(t: Trial) -> None:
    """After calls in any order, a layer's variables are those of a model that keeps a list of updates."""
    t.needs_backend()
    driven = hypothesis.seed(t.budget.seed)(machine(t))
    settings = search_settings(t.examples, shrink=t.budget.shrink, stateful_step_count=25)
    try:
        run_state_machine_as_test(driven, settings=settings)
    except Violation as error:  # the steps are the case here
        steps_taken = "\n".join(getattr(error, "__notes__", []))
        with_steps = Violation(f"{error}\n{steps_taken}", error.details | {"script": steps_taken})
        t.found.keep(with_steps)
