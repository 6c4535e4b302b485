"""Checks of BN-STATE-2 for what stands in the place of a layer or of its arrays: copies, pickles, parameters."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import bnspec
from bnspec import Renorm
from bnspec_conformance.checks.examples import config, example
from bnspec_conformance.checks.layers import host, layer_of, state_of
from bnspec_conformance.trials.explore import clauses, explore
from bnspec_conformance.trials.trial import Trial

_COPIES: dict[str, Callable[[Any], Any]] = {
    "a copy": copy.copy,
    "a deep copy": copy.deepcopy,
    "a pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}


def used(t: Trial) -> Iterator[tuple[str, bnspec.BatchNorm]]:
    """Yield layers in every state that one can be in, each with an averaging of its own."""
    put = t.needs_backend().asarray
    kinds: tuple[dict[str, Any], ...] = (
        {"averaging": "cumulative"},
        {"averaging": "pooled"},
        {"renorm": Renorm(rmax=2.0, dmax=3.0)},
        {"averaging": "debiased"},
    )
    for kind, what in zip(kinds, ("as it was made", "after a forward pass", "after a backward pass", "in eval()")):
        case = example(config(**kind))
        layer = layer_of(t, case, ema_update="internal", trainable=what != "in eval()", name="own")
        if what != "as it was made":
            layer(put(case.ranks[0].x))
        if what == "after a backward pass":
            layer.backward(put(case.ranks[0].dy))
        yield what, layer.eval() if what == "in eval()" else layer


@clauses("BN-STATE-2")
@explore()
def test_copies(t: Trial) -> None:
    """Copies and pickles have the variables and options of a layer in every state, and nothing of its last batch."""
    put = t.needs_backend().asarray
    x = example(config(), seed=5).ranks[0].x
    for when, layer in used(t):
        before = state_of(t, layer)
        for what, made in _COPIES.items():
            other = made(layer)
            said = f"{what} of a layer {when}"
            t.same(state_of(t, other), before, f"variables of {said}", None)
            t.require(repr(other) == repr(layer), f"{said} is {other!r}, not {layer!r}")
            t.require(other.trainable == layer.trainable, f"{said} has trainable={other.trainable}")
            t.require(other.gradients is None, f"{said} has its gradients")
            t.refuses(lambda other=other: other.backward(put(x)), Exception, "BN-ERR-4", proves=("BN-STATE-2",))  # type: ignore[misc]
        several = [made(layer) for made in _COPIES.values()]
        results = [host(t, each(put(x))) for each in several]
        for y, each in zip(results[1:], several[1:], strict=True):
            t.same(y, results[0], f"y of copies of a layer {when}", None)
            t.same(state_of(t, each), state_of(t, several[0]), f"variables of copies {when}, after a step", None)
        t.same(state_of(t, layer), before, f"variables of a layer {when} whose copies have trained", None)


@clauses("BN-STATE-2")
@explore()
def test_parameters_stay_the_arrays_that_they_are(t: Trial) -> None:
    """Loading writes gamma and beta into the arrays that are there, which an optimizer may hold."""
    backend = t.needs_backend()
    if backend.name not in ("numpy", "torch", "cupy"):
        raise t.has_nothing("its arrays cannot be written")
    case = example(config())
    layer = layer_of(t, case, ema_update="internal")
    layer(backend.asarray(case.ranks[0].x))
    assert layer.params is not None
    held, state = layer.params, layer.state_dict()
    layer.load_state_dict({name: v + 1 for name, v in state.items()})
    for name in ("gamma", "beta"):
        want = host(t, state[name]) + np.float32(1)
        t.same(host(t, getattr(held, name)), want, f"{name}, the array that was there before loading", None)
