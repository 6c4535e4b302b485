"""Checks of what SPEC.md, "Inference and frozen", says of layers: the warning, and the three switches."""

import dataclasses
import itertools
import warnings
from typing import Any

import bnspec
from bnspec._context import forget_frozen_warning
from bnspec_conformance.cases.case import Case
from bnspec_conformance.checks import strategies
from bnspec_conformance.checks.layers import layer_of, outcome_of, state_of
from bnspec_conformance.oracle import exact
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial


@clauses("BN-INF-5")
@explore(lambda s: strategies.cases(s, running=True, half_precision=False), share=0.1)
def test_frozen_warning(t: Trial, case: Case) -> None:
    """One FrozenStatisticsWarning per process, from tower 0 of a training context alone."""
    x = t.needs_backend().asarray(case.ranks[0].x)
    first, second = layer_of(t, case, training=False, name="first"), layer_of(t, case, training=False)
    forget_frozen_warning()

    def warned(layer: bnspec.BatchNorm, **context: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if context:
                with bnspec.training_context(**context):
                    layer(x)
            else:
                layer(x)
        strange = [w for w in seen if not issubclass(w.category, bnspec.FrozenStatisticsWarning)]
        t.require(not strange, f"other warnings: {[str(w.message) for w in strange]}", case)
        return [str(w.message) for w in seen]

    try:
        t.require(not warned(first), "warned outside of any context", case)
        t.require(not warned(first, is_training=False), "warned in a prediction context", case)
        t.require(not warned(first, tower=1), "warned from another tower than 0", case)
        trained = layer_of(t, case, training=True, ema_update="skip")
        t.require(not warned(trained, tower=0), "warned of batch statistics", case)
        said = warned(first, tower=0)
        t.require(len(said) == 1 and "first" in said[0], f"the main tower's first frozen call said {said}", case)
        t.require(not warned(first, tower=0) and not warned(second, tower=0), "warned a second time", case)
    finally:
        forget_frozen_warning()


@clauses("BN-INF-6", "BN-UPD-1", "BN-UPD-3")
@explore(lambda s: strategies.cases(s, running=True, derivatives=True, center=True, scale=True), share=0.1)
def test_independent_switches(t: Trial, case: Case) -> None:
    """Normalizing statistics, updates and gradients are chosen independently; all combinations work."""
    put = t.needs_backend().asarray
    rank = dataclasses.replace(case.ranks[0], xdot=None)
    batch = dataclasses.replace(case, ranks=(rank,), gamma_dot=None, beta_dot=None)
    running = dataclasses.replace(batch, mode="inference", update=False)
    references = {True: exact(batch), False: exact(running)}
    for training, mode, trainable in itertools.product(
        (True, False), ("internal", "collection", "skip"), (True, False)
    ):
        layer = layer_of(t, batch, training=training, ema_update=mode, trainable=trainable)
        before = state_of(t, layer)
        with bnspec.training_context() as context, warnings.catch_warnings():
            warnings.simplefilter("ignore", bnspec.FrozenStatisticsWarning)
            y = layer(put(rank.x))
            pending = len(context.updates) == (training and mode == "collection")
            t.require(pending, "pending updates are wrong", batch, proves=("BN-UPD-3",))
            context.updates.run()
        dx = layer.backward(put(rank.dy))
        own = batch if training else running
        outcome = outcome_of(t, layer, batch, y=y, dx=dx)
        usual: Any = {"proves": ("BN-INF-6",), "control": lambda own=own: t.subject.run(own)}
        t.agree(own, "y", "dx", outcome=outcome, reference=references[training], **usual)
        if training and mode != "skip":
            t.agree(own, "state", outcome=outcome, reference=references[training], **usual)
        else:
            about = ("BN-UPD-1",) if mode == "skip" else ("BN-INF-6",)
            t.same(state_of(t, layer), before, "variables", batch, proves=about)
        grads = layer.gradients
        assert grads is not None
        there = grads.gamma is not None and grads.beta is not None
        none = grads.gamma is None and grads.beta is None
        t.require(
            there if trainable else none,
            f"trainable={trainable} with gradients {grads.gamma}, {grads.beta}",
            own,
            proves=("BN-INF-6",),
        )
        if trainable:
            outcome = outcome_of(t, layer, batch, dgamma=grads.gamma, dbeta=grads.beta)
            t.agree(own, "dgamma", "dbeta", outcome=outcome, reference=references[training], **usual)
