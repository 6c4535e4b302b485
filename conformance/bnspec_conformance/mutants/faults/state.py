"""Mutants of names, state dictionaries and files."""

from pathlib import Path
from typing import Any

from bnspec._config import BatchNormConfig
from bnspec._files.disk import write_atomically
from bnspec._files.formats import _from_npy, _verify
from bnspec._files.serialize import _plain, _suffix
from bnspec._layer.variables import StateDict, _copy, _present
from bnspec_conformance.mutants.mutant import Mutant, edit, together, wrap

__all__ = ["MUTANTS"]

_FILL = "new = constant(values[self._names[field]], old, old.dtype)"


def _swapped(original: Any, params: Any, state: Any) -> Any:
    fields = original(params, state)
    return fields | {"mean": fields["var"], "var": fields["mean"]}


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
        apply=edit(_present, ', "renorm_stddev", "count")', ', "renorm_stddev")'),
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
        apply=edit(StateDict._filled, _FILL, _FILL + "\n            new = array_namespace(new).nan_to_num(new)"),
    ),
    Mutant(
        name="loading-resets-the-counter",
        clause="BN-STATE-2",
        breaks="Starts the counter at 0 after a state was loaded.",
        apply=edit(StateDict._filled, _FILL, _FILL + '\n            new = new * 0 if field == "count" else new'),
    ),
    Mutant(
        name="files-in-half-precision",
        clause="BN-STATE-3",
        row="D12",
        breaks="Writes files in half precision.",
        apply=edit(
            _plain,
            "return np.array(array, dtype=array.dtype",
            "array = array.astype('float16').astype(array.dtype) if array.dtype.kind == 'f' else array\n"
            "    return np.array(array, dtype=array.dtype",
        ),
    ),
    Mutant(
        name="any-suffix",
        clause="BN-STATE-3",
        breaks="Writes .npz whatever the suffix.",
        apply=edit(
            _suffix,
            'if suffix not in (".npz", ".safetensors"):',
            'if suffix != ".safetensors":\n        return ".npz"\n    if False:',
        ),
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
        apply=together(
            edit(
                StateDict.load_state_dict,
                "if missing or extra:",
                "if extra:",
                "if len(lengths) != 1 or (",
                "if len(lengths) > 1 or (lengths and ",
            ),
            edit(
                StateDict._filled,
                _FILL,
                _FILL.replace("values[self._names[field]]", "values.get(self._names[field], old)"),
            ),
        ),
    ),
    Mutant(
        name="unknown-names-ignored",
        clause="BN-STATE-5",
        breaks="Ignores names that it does not know.",
        apply=edit(
            StateDict.load_state_dict,
            "if missing or extra:",
            "values = {n: v for n, v in values.items() if n in wanted}\n    if missing:",
        ),
    ),
    Mutant(
        name="any-kind-of-number",
        clause="BN-STATE-5",
        row="D28",
        breaks="Loads integers as statistics.",
        apply=edit(StateDict.load_state_dict, "if not fits:", 'if not fits and "int" not in kind:'),
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
            _from_npy,
            "version = np.lib.format.read_magic(stream)\n",
            "stream = io.BytesIO(stream.read())\n    np.load(stream, allow_pickle=True)\n    stream.seek(0)\n"
            "    version = np.lib.format.read_magic(stream)\n",
        ),
    ),
    Mutant(
        name="unknown-fields-ignored",
        clause="BN-STATE-6",
        breaks="Ignores fields of a written configuration that it does not know.",
        apply=edit(
            BatchNormConfig.from_json,
            "if unknown:",
            "fields = {name: value for name, value in fields.items() if name not in unknown}\n    if False:",
        ),
    ),
    Mutant(
        name="renorm-not-written",
        clause="BN-STATE-6",
        row="D22",
        breaks="Writes a configuration without its renorm.",
        apply=edit(BatchNormConfig.to_json, "dataclasses.asdict(self)", 'dataclasses.asdict(self) | {"renorm": None}'),
    ),
)
