"""Mutants of the layer: who updates the running statistics, when, and which switch does what."""

from bnspec._batch_norm import batch_norm_inference
from bnspec._context import UpdateCollection, warn_frozen
from bnspec._layer.layer import BatchNorm
from bnspec_conformance.mutants.mutant import Mutant, edit, together, wrap

__all__ = ["MUTANTS"]

_MODE = "mode = self._ema_update\n"
_TRAINING = "training = context.is_training if self.training is None else self.training"
_UPDATE = "state = self._updated(current, stats, config)\n"
_COLLECT = "context.updates.add(functools.partial(self._update, stats, config))"
_GRADIENTS = "kept = grads if self.trainable else"
_INFERRED = "self._keep(params, state, saved, None, due=explicit is not None and context.is_training, y=y)"

MUTANTS = (
    Mutant(
        name="skip-updates",
        clause="BN-UPD-1",
        row="D20",
        breaks='Updates the state inside the call although ema_update is "skip".',
        apply=edit(
            BatchNorm._update_mode, _MODE, 'mode = "internal" if self._ema_update == "skip" else self._ema_update\n'
        ),
    ),
    Mutant(
        name="skip-means-inference",
        clause="BN-UPD-1",
        row="D20",
        breaks='Normalizes by running statistics where ema_update is "skip".',
        apply=edit(
            BatchNorm.__call__, _TRAINING, _TRAINING + '\n    training = training and self._ema_update != "skip"'
        ),
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
        apply=edit(BatchNorm.__call__, _COLLECT, "self._update(stats, config)"),
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
        apply=edit(
            UpdateCollection.run,
            "self._pending[0]()\n",
            "self._pending[-1]()\n",
            "del self._pending[0]",
            "del self._pending[-1]",
        ),
    ),
    Mutant(
        name="collection-not-emptied",
        clause="BN-UPD-3",
        row="D19",
        breaks="Leaves the updates pending after they have been applied.",
        apply=edit(
            UpdateCollection.run,
            "while self._pending:",
            "for update in list(self._pending):",
            "self._pending[0]()\n",
            "update()\n",
            "del self._pending[0]",
            "pass",
        ),
    ),
    Mutant(
        name="collection-outside-a-context",
        clause="BN-UPD-3",
        row="D18",
        breaks="Loses the update, silently, where there is no collection to hand it to.",
        apply=edit(
            BatchNorm._update_mode,
            'if mode == "collection" and not explicit:\n',
            'if mode == "collection" and not explicit:\n        return "skip"\n    if False:\n',
        ),
    ),
    Mutant(
        name="default-is-internal",
        clause="BN-UPD-4",
        row="D18",
        breaks='Takes "default" as "internal" under the tensorpack dialect too.',
        apply=edit(BatchNorm._check_update, "self.dialect.default_update if", '"internal" if'),
    ),
    Mutant(
        name="recompute-updates-again",
        clause="BN-UPD-5",
        row="D19",
        breaks="Updates a second time when a forward pass is recomputed.",
        apply=edit(BatchNorm._update_mode, " or _context.is_recomputing()", ""),
    ),
    Mutant(
        name="every-tower-updates",
        clause="BN-UPD-6",
        row="D21",
        breaks="Updates the shared state from every tower.",
        apply=edit(
            BatchNorm._update_mode,
            "replica = context.is_training and not context.is_main_training_tower",
            "replica = False",
        ),
    ),
    Mutant(
        name="prediction-collects",
        clause="BN-UPD-7",
        row="D20",
        breaks="Keeps what is handed to the collection of a prediction context.",
        apply=edit(UpdateCollection.add, "if not self.frozen:", "if True:"),
    ),
    Mutant(
        name="prediction-never-updates",
        clause="BN-UPD-7",
        row="D20",
        breaks="Updates nothing in a prediction context, although the layer was told to train.",
        apply=edit(
            BatchNorm._update_mode,
            "replica = context.is_training and not context.is_main_training_tower",
            "replica = not context.is_main_training_tower",
        ),
    ),
    Mutant(
        name="eval-ignored",
        clause="BN-UPD-7",
        row="D20",
        breaks="Trains outside of any context although the layer was switched to eval().",
        apply=edit(BatchNorm.__call__, "TrainingContext(self._training_mode)", "TrainingContext(True)"),
    ),
    Mutant(
        name="inference-updates",
        clause="BN-INF-4",
        row="D20",
        breaks="Updates the state of a layer that normalizes by it.",
        apply=edit(
            BatchNorm.__call__,
            _INFERRED,
            _INFERRED + "\n"
            "        self.state = update_running(state, batch_norm(x, params, config, state=state)[1], config)",
        ),
    ),
    Mutant(
        name="inference-in-place",
        clause="BN-INF-4",
        breaks="Counts inference calls in the state's counter, in place.",
        apply=edit(
            batch_norm_inference,
            "groups = untraced(_validate.inference, x, params, state, config, name)",
            "groups = untraced(_validate.inference, x, params, state, config, name)\n"
            "    if state.count is not None:\n"
            "        state.count[...] += 1",
        ),
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
        apply=edit(warn_frozen, "if _frozen_warned:", "if False:"),
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
        apply=edit(BatchNorm.__call__, _TRAINING, _TRAINING + "\n    training = training and self.trainable"),
    ),
    Mutant(
        name="inference-means-not-trainable",
        clause="BN-INF-6",
        row="D20",
        breaks="Withholds the gradients of gamma and beta where running statistics normalize.",
        apply=edit(
            BatchNorm.backward,
            _GRADIENTS,
            "kept = grads if self.trainable and saved.divisor is not None else",
        ),
    ),
)
