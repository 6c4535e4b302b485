"""Mutants of the layer: who updates the running statistics, when, and which switch does what."""

import dataclasses
from collections.abc import Callable
from typing import Any

from bnspec import Gradients, batch_norm_inference
from bnspec._context import UpdateCollection, forget_frozen_warning, is_recomputing, warn_frozen
from bnspec._layer.configuration import LayerConfig
from bnspec._layer.layer import BatchNorm
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.mutant import Apply, Mutant, together
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS", "called_with"]

_UPDATE = "state = self._updated(current, stats, config)\n"
_COLLECT = "context.updates.add(functools.partial(self._update, stats, config))"
_GRADIENTS = "kept = grads if self.trainable else"
_INFERRED = "self._keep(params, state, call)\n        "  # before it returns


def called_with(when: Callable[[Any], bool], **attributes: Any) -> Apply:
    """Call a layer as if some attributes were others.

    Parameters
    ----------
    when : callable
        Tells of the layer whether they are.
    **attributes
        By name: a value, or a function that returns it for the layer.
    """

    def call(original: Any, layer: Any, *given: Any, **named: Any) -> Any:
        if not when(layer):
            return original(layer, *given, **named)
        others = {name: value(layer) if callable(value) else value for name, value in attributes.items()}
        before = {name: vars(layer)[name] for name in others}
        vars(layer).update(others)
        try:
            return original(layer, *given, **named)
        finally:
            vars(layer).update(before)

    return wrap(BatchNorm.__call__, call)


def _skips(layer: Any) -> bool:
    return bool(layer._ema_update == "skip")


def _as_main_tower(original: Any, layer: Any, context: Any, *given: Any, **named: Any) -> Any:
    return original(layer, dataclasses.replace(context, tower=0), *given, **named)


def _main_towers_alone(original: Any, layer: Any, context: Any, *given: Any, **named: Any) -> Any:
    mode = original(layer, context, *given, **named)
    return mode if context.is_main_training_tower else "skip"


def _lost_outside(original: Any, *given: Any, **named: Any) -> Any:
    try:
        return original(*given, **named)
    except RuntimeError:
        return "skip"


def _at_once(original: Any, collection: Any, update: Any) -> None:
    if not collection.frozen:
        update()


def _never_frozen(original: Any, collection: Any, update: Any) -> None:
    frozen, collection.frozen = collection.frozen, False
    original(collection, update)
    collection.frozen = frozen


def _in_reverse(original: Any, collection: Any) -> None:
    collection._pending.reverse()
    original(collection)


def _not_emptied(original: Any, collection: Any) -> None:
    pending = list(collection._pending)
    original(collection)
    collection._pending[:0] = pending


def _counted_in_place(original: Any, x: Any, params: Any, state: Any, *rest: Any, **named: Any) -> Any:
    found = original(x, params, state, *rest, **named)
    if state.count is not None:
        state.count[...] += 1
    return found


def _every_time(original: Any, name: str) -> None:
    forget_frozen_warning()
    original(name)


def _no_frozen_parameters(original: Any, layer: Any, dy: Any) -> Any:
    call = layer._tape.call
    dx = original(layer, dy)
    if call.saved.frozen:
        vars(layer).update(gradients=Gradients(dx, None, None))
    return dx


MUTANTS = (
    Mutant(
        name="skip-updates",
        clause="BN-UPD-1",
        row="D20",
        breaks='Updates the state inside the call although ema_update is "skip".',
        apply=called_with(_skips, _ema_update="internal"),
    ),
    Mutant(
        name="skip-means-inference",
        clause="BN-UPD-1",
        row="D20",
        breaks='Normalizes by running statistics where ema_update is "skip".',
        apply=called_with(_skips, training=False),
    ),
    Mutant(
        name="update-in-backward",
        clause="BN-UPD-2",
        row="D18",
        breaks="Updates the state in the backward pass, and not at all where there is none.",
        apply=together(
            edit(BatchNorm.__call__, _UPDATE, "self._late = current, stats, config\n"),
            edit(
                BatchNorm.backward,
                _GRADIENTS,
                "if (late := self.__dict__.pop('_late', None)) is not None:\n"
                "        self.state = update_running(*late, name=self.name)\n"
                "    " + _GRADIENTS,
            ),
        ),
    ),
    Mutant(
        name="internal-is-collected-too",
        clause="BN-UPD-2",
        row="D18",
        breaks="Updates inside the call and hands the same update to the collection.",
        apply=edit(BatchNorm.__call__, 'if mode == "collection":', 'if mode != "skip" and explicit is not None:'),
    ),
    Mutant(
        name="collection-at-once",
        clause="BN-UPD-3",
        row="D18",
        breaks="Applies at once what is to wait in the collection.",
        apply=wrap(UpdateCollection.add, _at_once),
    ),
    Mutant(
        name="collection-of-states",
        clause="BN-UPD-3",
        row="D18",
        breaks="Computes a collected update against the state of the call, so that the last of two wins.",
        apply=edit(
            BatchNorm.__call__,
            _COLLECT,
            "new = update_running(self.state, stats, config, name=self.name)\n"
            '        context.updates.add(functools.partial(setattr, self, "state", new))',
        ),
    ),
    Mutant(
        name="collection-in-reverse",
        clause="BN-UPD-3",
        row="D18",
        breaks="Applies the pending updates from the last to the first.",
        apply=wrap(UpdateCollection.run, _in_reverse),
    ),
    Mutant(
        name="collection-not-emptied",
        clause="BN-UPD-3",
        row="D19",
        breaks="Leaves the updates pending after they have been applied.",
        apply=wrap(UpdateCollection.run, _not_emptied),
    ),
    Mutant(
        name="collection-outside-a-context",
        clause="BN-UPD-3",
        row="D18",
        breaks="Loses the update, silently, where there is no collection to hand it to.",
        apply=wrap(LayerConfig._update_mode, _lost_outside),
    ),
    Mutant(
        name="default-is-internal",
        clause="BN-UPD-4",
        row="D18",
        breaks='Takes "default" as "internal" under the tensorpack dialect too.',
        apply=wrap(
            LayerConfig._check_update,
            lambda original, layer, given: "internal" if given == "default" else original(layer, given),
        ),
    ),
    Mutant(
        name="recompute-updates-again",
        clause="BN-UPD-5",
        row="D19",
        breaks="Updates a second time when a forward pass is recomputed.",
        apply=wrap(is_recomputing, lambda original: False),
    ),
    Mutant(
        name="every-tower-updates",
        clause="BN-UPD-6",
        row="D21",
        breaks="Updates the shared state from every tower.",
        apply=wrap(LayerConfig._update_mode, _as_main_tower),
    ),
    Mutant(
        name="prediction-collects",
        clause="BN-UPD-7",
        row="D20",
        breaks="Keeps what is handed to the collection of a prediction context.",
        apply=wrap(UpdateCollection.add, _never_frozen),
    ),
    Mutant(
        name="prediction-never-updates",
        clause="BN-UPD-7",
        row="D20",
        breaks="Updates nothing in a prediction context, although the layer was told to train.",
        apply=wrap(LayerConfig._update_mode, _main_towers_alone),
    ),
    Mutant(
        name="eval-ignored",
        clause="BN-UPD-7",
        row="D20",
        breaks="Trains outside of any context although the layer was switched to eval().",
        apply=wrap(BatchNorm.train, lambda original, layer, mode=True: original(layer)),
    ),
    Mutant(
        name="inference-updates",
        clause="BN-INF-4",
        row="D20",
        breaks="Updates the state of a layer that normalizes by it.",
        apply=edit(
            BatchNorm.__call__,
            _INFERRED + "return y",
            _INFERRED + "self.state = update_running(state, batch_norm(x, params, config, state=state)[1], config)\n"
            "        return y",
        ),
    ),
    Mutant(
        name="inference-in-place",
        clause="BN-INF-4",
        breaks="Counts inference calls in the state's counter, in place.",
        apply=wrap(batch_norm_inference, _counted_in_place),
    ),
    Mutant(
        name="no-frozen-warning",
        clause="BN-INF-5",
        row="D20",
        breaks="Trains on running statistics without a word.",
        apply=wrap(warn_frozen, lambda original, name: None),
    ),
    Mutant(
        name="frozen-warning-every-time",
        clause="BN-INF-5",
        row="D20",
        breaks="Warns of frozen statistics at every call.",
        apply=wrap(warn_frozen, _every_time),
    ),
    Mutant(
        name="frozen-warning-everywhere",
        clause="BN-INF-5",
        row="D20",
        breaks="Warns of frozen statistics outside of a training context too.",
        apply=edit(
            BatchNorm.__call__,
            "if explicit is not None and context.is_main_training_tower:",
            "if context.is_main_training_tower:",
        ),
    ),
    Mutant(
        name="not-trainable-means-inference",
        clause="BN-INF-6",
        row="D20",
        breaks="Normalizes by running statistics where gamma and beta are not trained.",
        apply=called_with(lambda layer: not layer.trainable, training=False),
    ),
    Mutant(
        name="inference-means-not-trainable",
        clause="BN-INF-6",
        row="D20",
        breaks="Withholds the gradients of gamma and beta where running statistics normalize.",
        apply=wrap(BatchNorm.backward, _no_frozen_parameters),
    ),
)
