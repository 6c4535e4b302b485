"""Layers driven by random calls in any order beside a model in plain NumPy that only keeps a list of updates.

All numbers are small multiples of powers of two (integers as input, four elements per channel, decay 1/2), so
that every statistic and every running value is representable in float32: the model and the layer agree to the
bit, whichever dtype a conforming layer computes in [BN-MOM-6, BN-RUN-1].
"""

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

import bnspec
from bnspec._context import forget_frozen_warning, is_recomputing
from bnspec_conformance.cases.case import Array, Case, Outcome, RankInputs, RankOutcome
from bnspec_conformance.checks.layer.model import NAMES, Model
from bnspec_conformance.checks.layers import host, snapshot
from bnspec_conformance.trials.trial import Trial

__all__ = ["machine"]

#: Updates after which a running value could need more bits than float32 has.
_MOST = 12
_EPSILON = 0.25
_SUFFIXES = (".npz", ".safetensors") if importlib.util.find_spec("safetensors") else (".npz",)
#: Layers by how they are made; what `ema_update="default"` means without and with the dialect is part of the model.
_LAYERS: dict[str, tuple[dict[str, Any], str]] = {
    "internal": ({"ema_update": "internal"}, "internal"),
    "collection": ({"ema_update": "collection"}, "collection"),
    "skip": ({"ema_update": "skip"}, "skip"),
    "default": ({}, "internal"),
    "tensorpack": ({"dialect": "tensorpack"}, "collection"),
}
#: Results of a training step, for each kind of layer.
_ABOUT = {
    "internal": ("BN-UPD-2",),
    "collection": ("BN-UPD-3",),
    "skip": ("BN-UPD-1",),
    "default": ("BN-UPD-4",),
    "tensorpack": ("BN-UPD-4",),
}


kinds = st.sampled_from(sorted(_LAYERS))
batches = st.lists(st.integers(-3, 3), min_size=8, max_size=8).map(lambda v: np.asarray(v, "float32").reshape(4, 2))
vectors = st.lists(st.integers(-4, 4), min_size=2, max_size=2).map(lambda v: np.asarray(v, "float32") / 2)


def machine(t: Trial) -> type[RuleBasedStateMachine]:
    """Return the machine for one subject."""
    backend = t.needs_backend()

    class Layers(RuleBasedStateMachine):
        """Layers of every update mode that share one collection, some files and some state dictionaries."""

        snapshots: Bundle[Any] = Bundle("snapshots")
        files: Bundle[Any] = Bundle("files")

        @initialize()
        def begin(self) -> None:
            forget_frozen_warning()
            common: dict[str, Any] = {"decay": 0.5, "epsilon": _EPSILON}
            self.layers = {kind: bnspec.BatchNorm(**common, **options) for kind, (options, _) in _LAYERS.items()}
            self.models = {kind: Model() for kind in _LAYERS}
            self.updates = bnspec.UpdateCollection()
            self.pending: list[tuple[str, Array, Array]] = []
            self.held: dict[str, Any] = {}
            self.warned = False
            self.about: tuple[str, ...] = ("BN-UPD-3",)  # what breaks if the state is not the model's after a step
            self.saved = 0
            self.folder = tempfile.TemporaryDirectory(prefix="bnspec-machine-")

        def teardown(self) -> None:
            if hasattr(self, "folder"):
                self.folder.cleanup()
            forget_frozen_warning()

        def call(self, kind: str, x: Array, *, training: bool | None = None, **context: Any) -> Any:
            """Call a layer; check y, and that exactly the warnings come that are due."""
            layer, model = self.layers[kind], self.models[kind]
            batch = training if training is not None else context.get("is_training", True)
            frozen_step = not batch and context.get("is_training", False) and context.get("tower", 0) == 0
            layer.training = training
            given = self.held[kind] = backend.asarray(x)  # after inference the layer does not hold it itself
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                if context:
                    with bnspec.training_context(updates=self.updates, **context) as inside:
                        y = layer(given)
                        kept = not context["is_training"] and len(inside.updates) > 0
                        t.require(not kept, "a frozen collection holds an update", proves=("BN-UPD-7",))
                else:
                    y = layer(given)
            expected = int(frozen_step and not self.warned)
            said = [str(w.message) for w in seen]
            t.require(len(seen) == expected, f"{len(seen)} warnings, expected {expected}: {said}", proves=("BN-INF-5",))
            self.warned |= frozen_step
            model.called()
            held = model.variables()
            config = bnspec.BatchNormConfig(axis=1, epsilon=_EPSILON, decay=0.5, correction=0)
            case = Case(config=config, ranks=(RankInputs(x),), gamma=held["gamma"], beta=held["beta"],
                        state={"mean": held["mean/EMA"], "var": held["variance/EMA"]},
                        mode="batch" if batch else "inference", update=False)  # fmt: skip
            y = host(t, y)
            plainly = lambda: t.subject.run(case)  # noqa: E731
            t.agree(case, "y", outcome=Outcome((RankOutcome(y=y),)), proves=self.about, control=plainly)
            model.asked(
                case,
                due=batch or context.get("is_training", False),
                repeated=is_recomputing(),
            )
            return y

        def feed(self, kind: str, x: Array, mode: str) -> None:
            """Apply a training step to the model."""
            wide = np.asarray(x, "float64")
            mean, var = wide.mean(axis=0), ((wide - wide.mean(axis=0)) ** 2).mean(axis=0)
            if mode == "internal":
                self.models[kind].updates.append((mean, var))
            elif mode == "collection":
                self.pending.append((kind, mean, var))

        def room(self) -> bool:
            return max(m.steps() for m in self.models.values()) + len(self.pending) < _MOST

        @precondition(room)
        @rule(kind=kinds, x=batches)
        def train(self, kind: str, x: Array) -> None:
            self.about = _ABOUT[kind]
            self.call(kind, x, is_training=True)
            self.feed(kind, x, _LAYERS[kind][1])

        @precondition(room)
        @rule(kind=kinds, x=batches)
        def train_twice_in_one_step(self, kind: str, x: Array) -> None:
            self.about = ("BN-UPD-5",)
            y = self.call(kind, x, is_training=True)
            self.feed(kind, x, _LAYERS[kind][1])
            with bnspec.recompute():
                t.same(self.call(kind, x, is_training=True), y, "y of the repeated pass", None, proves=self.about)

        @precondition(room)
        @rule(kind=st.sampled_from(("internal", "skip", "default")), x=batches)
        def train_without_context(self, kind: str, x: Array) -> None:
            self.about = _ABOUT[kind]
            self.call(kind, x)
            self.feed(kind, x, _LAYERS[kind][1])

        @precondition(room)
        @rule(kind=kinds, x=batches)
        def train_in_a_prediction_context(self, kind: str, x: Array) -> None:
            self.about = ("BN-UPD-7",)
            self.call(kind, x, training=True, is_training=False)
            self.feed(kind, x, {"collection": "dropped"}.get(_LAYERS[kind][1], _LAYERS[kind][1]))

        @rule(kind=kinds, x=batches)
        def second_tower(self, kind: str, x: Array) -> None:
            self.about = ("BN-UPD-6",)
            self.call(kind, x, is_training=True, tower=1)

        @rule(kind=kinds, x=batches, tower=st.sampled_from((0, 1)))
        def freeze(self, kind: str, x: Array, tower: int) -> None:
            self.about = ("BN-INF-4",)
            self.call(kind, x, training=False, is_training=True, tower=tower)

        @rule(kind=kinds, x=batches, alone=st.booleans())
        def infer(self, kind: str, x: Array, alone: bool) -> None:
            self.about = ("BN-INF-4",)
            self.call(kind, x, **({"training": False} if alone else {"is_training": False}))

        @rule()
        def run_collection(self) -> None:
            self.about = ("BN-UPD-3",)
            self.updates.run()
            for kind, mean, var in self.pending:
                self.models[kind].updates.append((mean, var))
            self.pending = []

        @rule(kind=kinds, dy=batches)
        def backward(self, kind: str, dy: Array) -> None:
            self.about = ("BN-ERR-4",)
            layer, model = self.layers[kind], self.models[kind]
            answered = model.answered()
            if answered is None:
                t.refuses(lambda: layer.backward(backend.asarray(dy)), RuntimeError, "BN-ERR-4")
                return
            case = Case(**{**vars(answered), "ranks": (RankInputs(answered.ranks[0].x, dy),)})
            dx = host(t, layer.backward(backend.asarray(dy)))
            plainly = lambda: t.subject.run(case)  # noqa: E731
            t.agree(case, "dx", outcome=Outcome((RankOutcome(dx=dx),)), proves=self.about, control=plainly)

        @rule(kind=kinds)
        def forget(self, kind: str) -> None:
            self.layers[kind].forget()
            self.models[kind].calls, self.models[kind].unanswered = 0, None

        @rule(kind=kinds, gamma=vectors, beta=vectors)
        def optimize(self, kind: str, gamma: Array, beta: Array) -> None:
            start = self.models[kind].start
            if start is not None and self.layers[kind].params is not None:
                self.layers[kind].params = bnspec.Params(backend.asarray(gamma), backend.asarray(beta))
                self.models[kind].start = start | {"gamma": gamma, "beta": beta}

        @rule(target=snapshots, kind=kinds)
        def take_state_dict(self, kind: str) -> Any:
            self.about = ("BN-STATE-2",)
            return self.layers[kind].state_dict(), self.models[kind].variables(), self.models[kind].steps()

        @rule(target=files, kind=kinds, suffix=st.sampled_from(_SUFFIXES))
        def save(self, kind: str, suffix: str) -> Any:
            self.about = ("BN-STATE-3",)
            self.saved += 1
            path = Path(self.folder.name) / f"{self.saved}{suffix}"
            if self.models[kind].start is None:
                t.refuses(lambda: self.layers[kind].save(path), RuntimeError, "BN-STATE-3")
                return None
            self.layers[kind].save(path)
            return path, self.models[kind].variables(), self.models[kind].steps()

        @rule(kind=kinds, source=st.one_of(snapshots, files))
        def load(self, kind: str, source: Any) -> None:
            if source is None or not source[1] or source[2] + len(self.pending) > _MOST:
                return
            stored, values, depth = source
            self.about = ("BN-STATE-3",) if isinstance(stored, Path) else ("BN-STATE-2",)
            layer = self.layers[kind]
            layer.load(stored) if isinstance(stored, Path) else layer.load_state_dict(stored)
            self.models[kind].set([values[name] for name in NAMES], depth)

        @rule(kind=kinds, broken=st.sampled_from(("missing", "unknown", "shape", "dtype", "x")))
        def refuse(self, kind: str, broken: str) -> None:
            self.about = ("BN-ERR-2",)
            layer = self.layers[kind]
            before = snapshot(t, layer, self.updates)
            bad = {name: backend.asarray(np.full(2, 7, "float32")) for name in NAMES}
            if broken == "missing":
                del bad["gamma"]
            elif broken != "x":
                wrong = {"shape": np.ones(3, "float32"), "dtype": np.ones(2, "int32")}.get(
                    broken, np.ones(2, "float32")
                )
                bad["variance/EMA" if broken != "unknown" else "moving_mean"] = backend.asarray(wrong)
            if broken == "x":
                t.refuses(lambda: layer(backend.asarray(np.ones((4, 2), "int32"))), TypeError, "BN-SHAPE-5")
            else:
                t.refuses(lambda: layer.load_state_dict(bad), (ValueError, TypeError), "BN-STATE-5")
            unchanged = snapshot(t, layer, self.updates) == before
            t.require(unchanged, f"a refusal ({broken}) changed something", proves=self.about)

        @invariant()
        def variables_are_the_models(self) -> None:
            if not hasattr(self, "layers"):
                return
            pending = f"{len(self.updates)} updates pending, not {len(self.pending)}"
            t.require(len(self.updates) == len(self.pending), pending, proves=self.about)
            for kind, layer in self.layers.items():
                found = {name: host(t, v) for name, v in layer.variables.items()}
                t.same(found, self.models[kind].variables(), f"{kind}: variables", None, proves=self.about)

    return Layers
