"""Mutants of a layer in one of its dialects, modes or copies: what is right for all others of them."""

from typing import Any

from bnspec import Params
from bnspec._context import is_recomputing
from bnspec._layer.attributes import Attributes
from bnspec._layer.configuration import LayerConfig
from bnspec._layer.variables import StateDict
from bnspec_conformance.mutants.mutant import Apply, Mutant
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _mode(change: Any) -> Apply:
    """Take another way to update: ``change(original, layer, context, explicit, x, **about)``."""
    return wrap(LayerConfig._update_mode, change)


def _without(about: str) -> Any:
    def behaviour(original: Any, layer: Any, *given: Any, **named: Any) -> Any:
        return original(layer, *given, **(named | {about: False}))

    return behaviour


def _skip_not_honoured(original: Any, layer: Any, *given: Any, **named: Any) -> Any:
    mode = original(layer, *given, **named)
    inside = layer.dialect.ghost_and_sync_update_inside and (named["ghost"] or named["sync"])
    return "internal" if inside and layer._ema_update == "skip" else mode


def _collects_again(original: Any, layer: Any, context: Any, explicit: bool, *given: Any, **named: Any) -> Any:
    mode = original(layer, context, explicit, *given, **named)
    return "collection" if is_recomputing() and explicit and layer._ema_update == "collection" else mode


def _every_tower_collects(original: Any, layer: Any, context: Any, explicit: bool, *given: Any, **named: Any) -> Any:
    mode = original(layer, context, explicit, *given, **named)
    return "collection" if explicit and layer._ema_update == "collection" and not is_recomputing() else mode


def _arrays_replaced(original: Any, layer: Any, *given: Any, **named: Any) -> Any:
    before = layer.params
    held = None if before is None else [None if v is None else v.copy() for v in before]
    found = original(layer, *given, **named)
    if before is not None and held is not None:
        vars(layer)["params"] = Params(*(None if v is None else v.copy() for v in layer.params))
        for array, value in zip(before, held, strict=True):
            if array is not None and array.flags.writeable:
                array[...] = value
    return found


def _all_carried(original: Any, layer: Any) -> Any:
    return original(layer) | {name: vars(layer)[name] for name in ("gradients", "_tape")}


def _counter_restarted(original: Any, layer: Any) -> dict[str, Any]:
    held: dict[str, Any] = original(layer)
    if held["state"] is not None and held["state"].count is not None:
        held["state"] = held["state"]._replace(count=held["state"].count * 0)
    return held


def _trains_again(original: Any, layer: Any) -> Any:
    return original(layer) | {"_training_mode": True}


MUTANTS = (
    Mutant(
        name="tensorpack-ghost-collects",
        clause="BN-UPD-4",
        row="D18",
        breaks="Collects the update of a ghost layer under the tensorpack dialect.",
        apply=_mode(_without("ghost")),
    ),
    Mutant(
        name="tensorpack-sync-collects",
        clause="BN-UPD-4",
        row="D18",
        breaks="Collects the update of a synchronized layer under the tensorpack dialect.",
        apply=_mode(_without("sync")),
    ),
    Mutant(
        name="tensorpack-skip-not-honoured",
        clause="BN-UPD-4",
        row="D20",
        breaks='Updates a ghost layer under the tensorpack dialect although ema_update is "skip".',
        apply=_mode(_skip_not_honoured),
    ),
    Mutant(
        name="recompute-collects-again",
        clause="BN-UPD-5",
        row="D19",
        breaks="Hands an update to the collection again when a forward pass is recomputed.",
        apply=_mode(_collects_again),
    ),
    Mutant(
        name="every-tower-collects",
        clause="BN-UPD-6",
        row="D21",
        breaks="Hands updates of every tower to the collection, and updates inside the call for the main one alone.",
        apply=_mode(_every_tower_collects),
    ),
    Mutant(
        name="parameters-replaced-on-loading",
        clause="BN-STATE-2",
        breaks="Loads gamma and beta into new arrays, which an optimizer that holds the old ones never sees.",
        apply=wrap(StateDict.load_state_dict, _arrays_replaced),
    ),
    Mutant(
        name="copies-keep-the-batch",
        clause="BN-STATE-2",
        breaks="Copies gradients and the pending backward of a layer with it.",
        apply=wrap(Attributes._carried, _all_carried),
    ),
    Mutant(
        name="copies-restart-the-counter",
        clause="BN-STATE-2",
        breaks="Copies a layer with its averages and a counter of 0.",
        apply=wrap(Attributes._carried, _counter_restarted),
    ),
    Mutant(
        name="copies-train-again",
        clause="BN-STATE-2",
        row="D20",
        breaks="Copies a layer that was switched to eval() as one that trains.",
        apply=wrap(Attributes._carried, _trains_again),
    ),
)
