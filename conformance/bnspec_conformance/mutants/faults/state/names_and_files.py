"""Mutants of names, state dictionaries and files."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnspec._config import BatchNormConfig
from bnspec._files.disk import write_atomically
from bnspec._files.formats import _verify
from bnspec._files.npy import npy_header
from bnspec._files.serialize import _plain, _suffix
from bnspec._layer.variables import StateDict, _copy, _present
from bnspec_conformance.mutants.editing import edit
from bnspec_conformance.mutants.mutant import Mutant
from bnspec_conformance.mutants.replacing import wrap

__all__ = ["MUTANTS"]


def _swapped(original: Any, params: Any, state: Any) -> Any:
    fields = original(params, state)
    return fields | {"mean": fields["var"], "var": fields["mean"]}


def _without_counter(original: Any, params: Any, state: Any) -> Any:
    return {field: v for field, v in original(params, state).items() if field != "count"}


def _cleaned(v: Any) -> Any:
    return np.where(np.isfinite(v), v, np.zeros_like(v))


def _filling(change: Callable[[str, Any], Any]) -> Any:
    """Put other arrays into the records than those that were loaded, by the names of their fields."""

    def filled(original: Any, layer: Any, params: Any, state: Any, values: Any) -> Any:
        fields = {name: field for field, name in layer._names.items()}
        return original(layer, params, state, {name: change(fields.get(name, ""), v) for name, v in values.items()})

    return wrap(StateDict._filled, filled)


def _loading(change: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """Load other values than those that are given, once there are variables."""

    def load(original: Any, layer: Any, values: Any) -> None:
        original(layer, change(layer, values) if isinstance(values, Mapping) and layer.state_dict() else values)

    return wrap(StateDict.load_state_dict, load)


def _known(layer: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: v for name, v in values.items() if name in layer.state_dict()}


def _as_numbers(layer: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
    counter = layer._names.get("count")
    whole = {n for n, v in values.items() if n != counter and isinstance(v, np.ndarray) and v.dtype.kind in "iu"}
    return {name: v.astype("float32") if name in whole else v for name, v in values.items()}


def _halved(original: Any, name: str, value: Any) -> Any:
    array = original(name, value)
    return array.astype("float16").astype(array.dtype) if array.dtype.kind == "f" else array


def _npz(original: Any, path: Any) -> str:
    try:
        return str(original(path))
    except ValueError:
        return ".npz"


def _known_fields(original: Any, text: Any) -> Any:
    try:
        fields = json.loads(text)
    except (TypeError, ValueError):
        return original(text)
    known = {field.name for field in dataclasses.fields(BatchNormConfig)}
    return original(json.dumps({k: v for k, v in fields.items() if k in known}) if isinstance(fields, dict) else text)


def _one_by_one(original: Any, self: Any, values: Any) -> None:
    name = self._names["mean"]
    new = values.get(name)
    if self.state is not None and getattr(new, "shape", None) == self.state.mean.shape:
        self.state = self.state._replace(mean=new.astype(self.state.mean.dtype) + 1)
    original(self, values)


MUTANTS = (
    Mutant(
        name="state-without-counter",
        clause="BN-STATE-1",
        breaks="Leaves the counter out of the variables.",
        apply=wrap(_present, _without_counter),
    ),
    Mutant(
        name="names-swapped",
        clause="BN-STATE-1",
        breaks="Calls the running mean variance and the running variance mean.",
        apply=wrap(_present, _swapped),
    ),
    Mutant(
        name="state-dict-is-a-window",
        clause="BN-STATE-2",
        breaks="Returns the layer's own arrays as its state_dict, and keeps those that it loads.",
        apply=wrap(_copy, lambda original, v: v),
    ),
    Mutant(
        name="loading-cleans",
        clause="BN-STATE-2",
        row="D17",
        breaks="Replaces NaN and infinities when it loads a state.",
        apply=_filling(lambda field, v: _cleaned(v)),
    ),
    Mutant(
        name="loading-resets-the-counter",
        clause="BN-STATE-2",
        breaks="Starts the counter at 0 after a state was loaded.",
        apply=_filling(lambda field, v: v * 0 if field == "count" else v),
    ),
    Mutant(
        name="files-in-half-precision",
        clause="BN-STATE-3",
        row="D12",
        breaks="Writes files in half precision.",
        apply=wrap(_plain, _halved),
    ),
    Mutant(
        name="any-suffix",
        clause="BN-STATE-3",
        breaks="Writes .npz whatever the suffix.",
        apply=wrap(_suffix, _npz),
    ),
    Mutant(
        name="write-in-place",
        clause="BN-STATE-4",
        breaks="Writes into the file itself, which holds half of the state meanwhile.",
        apply=wrap(write_atomically, lambda original, path, data: Path(path).write_bytes(data)),
    ),
    Mutant(
        name="litter-after-a-failure",
        clause="BN-STATE-4",
        breaks="Leaves its temporary file behind when a write fails.",
        apply=edit(write_atomically, "temporary.unlink(missing_ok=True)", "pass"),
    ),
    Mutant(
        name="missing-names-accepted",
        clause="BN-STATE-5",
        breaks="Loads a state that lacks variables, and keeps the old ones in their place.",
        apply=_loading(lambda layer, values: {**layer.state_dict(), **values}),
    ),
    Mutant(
        name="unknown-names-ignored",
        clause="BN-STATE-5",
        breaks="Ignores names that it does not know.",
        apply=_loading(_known),
    ),
    Mutant(
        name="any-kind-of-number",
        clause="BN-STATE-5",
        row="D28",
        breaks="Loads integers as statistics.",
        apply=_loading(_as_numbers),
    ),
    Mutant(
        name="half-loaded",
        clause="BN-STATE-5",
        breaks="Sets the first variables before it finds the others wrong.",
        apply=wrap(StateDict.load_state_dict, _one_by_one),
    ),
    Mutant(
        name="damage-unseen",
        clause="BN-STATE-5",
        breaks="Loads a file whose bytes have changed since they were written.",
        apply=wrap(_verify, lambda original, data, at: None),
    ),
    Mutant(
        name="pickles-loaded",
        clause="BN-STATE-5",
        breaks="Unpickles what a file holds.",
        apply=edit(
            npy_header,
            "version = np.lib.format.read_magic(stream)\n",
            "stream = io.BytesIO(stream.read())\n    np.load(stream, allow_pickle=True)\n    stream.seek(0)\n"
            "    version = np.lib.format.read_magic(stream)\n",
        ),
    ),
    Mutant(
        name="unknown-fields-ignored",
        clause="BN-STATE-6",
        breaks="Ignores fields of a written configuration that it does not know.",
        apply=wrap(BatchNormConfig.from_json, _known_fields),
    ),
    Mutant(
        name="renorm-not-written",
        clause="BN-STATE-6",
        row="D22",
        breaks="Writes a configuration without its renorm.",
        apply=wrap(
            BatchNormConfig.to_json, lambda original, config: original(dataclasses.replace(config, renorm=None))
        ),
    ),
)
