"""A layer's variables by name: reading, loading, and files (SPEC.md, "Names and serialization")."""

import os
from collections.abc import Mapping
from typing import Any

from bnspec._arrays import array_namespace, is_array, on_device_of, stop_gradient
from bnspec._checks.elements import not_below_zero
from bnspec._config import Renorm
from bnspec._dialects import Dialect
from bnspec._dtypes import FLOATING, dtype_name
from bnspec._errors import refusal
from bnspec._layer.eager import kept_tensors
from bnspec._layer.initializers import constant, to_numpy
from bnspec._layer.tape import Tape
from bnspec._layer.writing import written
from bnspec._locks import LAYERS
from bnspec._types import Array, Params, RunningState

__all__ = ["StateDict"]

_PARAMETERS = ("beta", "gamma")
_RENORM = {"stddev": "moving_stddev", "renorm_mean": "renorm_mean", "renorm_stddev": "renorm_stddev"}


class StateDict:
    """Base of `BatchNorm`: its variables as named arrays."""

    name: str
    dialect: Dialect
    renorm: Renorm | None
    params: Params | None
    state: RunningState | None
    _loaded: dict[str, Any] | None
    _tape: Tape
    _fields: dict[str, Any]

    @property
    def variables(self) -> dict[str, Array]:
        """The variables under the dialect's names [BN-STATE-1]; before the first call, what was loaded."""
        if self._loaded is not None:
            return dict(self._loaded)
        if self.params is None or self.state is None:
            return {}
        return {self._names[field]: value for field, value in _present(self.params, self.state).items()}

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the variables."""
        return {name: _copy(v) for name, v in self.variables.items()}

    def load_state_dict(self, values: Mapping[str, Array]) -> None:
        """Set all variables [BN-STATE-2].

        gamma and beta are written into the arrays that are there, where the library's arrays can be written: a
        parameter of torch stays that parameter, and an optimizer keeps it. The running state, which every update
        replaces, is replaced. An array that cannot be written (JAX's, a read-only one) is replaced too.

        Parameters
        ----------
        values : mapping of str to array
            Exactly the names of `variables`, arrays of any library. Before the first call they wait for
            it, to learn library and device.

        Raises
        ------
        ValueError, TypeError
            For other names, shapes or dtypes; the layer stays as it was [BN-STATE-5].
        """
        values = dict(values)
        wanted = {self._names[field] for field in self._expected_fields()}
        missing, extra = sorted(wanted - set(values)), sorted(set(values) - wanted)
        if missing or extra:
            wrong = [f"{how} {names}" for how, names in (("without", missing), ("with the unknown", extra)) if names]
            raise refusal(
                ValueError,
                "BN-STATE-5",
                got=f"{self.name}: a state {' and '.join(wrong)}",
                expected=f"exactly the names {sorted(wanted)}",
                do="Load it into a layer with the options it was saved from, rename the entries (bnspec.convert knows "
                "other frameworks' names), or leave out what this layer has not, such as a counter.",
            )
        counter = self._names["count"]
        positive = {self._names[field] for field in ("var", "stddev", "renorm_stddev", "count") if field in self._names}
        lengths = set()
        for name, value in values.items():
            if not is_array(value) or value.ndim != 1:
                error: type[Exception] = TypeError
                got, do = f"is a {type(value).__name__}", "Convert it first, for example with numpy.asarray."
                if is_array(value):
                    error = ValueError
                    got, do = f"has shape {tuple(value.shape)}", "The state may belong to another layer."
                raise refusal(
                    error, "BN-STATE-5", got=f"{self.name}: {name} {got}", expected="an array of shape (C,)", do=do
                )
            kind = dtype_name(value.dtype)
            fits = "int" in kind if name == counter else kind in FLOATING
            if not fits:
                raise refusal(
                    TypeError,
                    "BN-STATE-5",
                    got=f"{self.name}: {name} has dtype {kind}",
                    expected="an integer dtype" if name == counter else "one of " + ", ".join(FLOATING),
                    do="The state may belong to another layer.",
                )
            if name in positive:
                do = "No average of variances or number of batches is negative; load another copy."
                not_below_zero(name, value, self.name, do, wait=True, clause="BN-STATE-5")
            lengths.add(int(value.shape[0]))
        known = [v for record in (self.state, self.params) for v in record or () if v is not None]
        channels = int(known[0].shape[0]) if known else None
        if len(lengths) != 1 or (channels is not None and lengths != {channels}):
            shapes = {name: tuple(v.shape) for name, v in values.items()}
            raise refusal(
                ValueError,
                "BN-STATE-5",
                got=f"{self.name}: a state of shapes {shapes}",
                expected=f"one length, {'C' if channels is None else channels}",
                do="It may belong to a layer with another number of channels.",
            )
        self._set(values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the variables to a ``.npz`` or ``.safetensors`` file, atomically and without pickle [BN-STATE-3].

        Raises
        ------
        RuntimeError
            Before the first call, when there is nothing to save.
        ValueError, ImportError
            For another suffix, or safetensors not being installed.
        """
        from bnspec._files.serialize import save_arrays

        values = self.state_dict()
        if not values:
            raise refusal(
                RuntimeError,
                "BN-STATE-3",
                got=f"{self.name}: save before the first call",
                expected="variables",
                do="Call the layer once, or load a state.",
            )
        save_arrays(path, {name: to_numpy(v) for name, v in values.items()}, {"dialect": self.dialect.name})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote.

        Raises
        ------
        ValueError, TypeError
            For a file that is damaged, holds pickles or another layer's variables; the layer stays as it was.
        """
        from bnspec._files.serialize import load_arrays

        self.load_state_dict(load_arrays(path)[0])

    @property
    def _names(self) -> Mapping[str, str]:
        names = self.dialect.names
        if self.renorm is not None:
            own = dict(names) | _RENORM  # a framework without renorm has no names for it
            return {"count": "count"} | dict(self.dialect.renorm_names or own)
        return names

    def _expected_fields(self) -> list[str]:
        if self.params is not None and self.state is not None:
            return list(_present(self.params, self.state))
        fields = [
            field
            for field, switch in zip(_PARAMETERS, ("center", "scale"), strict=True)
            if self._fields.get(switch, True)
        ]
        fields += ["mean", "var"]
        if self.renorm is not None:
            fields += ["stddev"] if self.renorm.form == "paper" else ["stddev", "renorm_mean", "renorm_stddev"]
        if self._fields.get("averaging", self.dialect.averaging) != "exponential":
            fields.append("count")
        return fields

    def _set(self, values: Mapping[str, Array]) -> None:
        """Make checked values the layer's: all of them, or none if something goes wrong on the way."""
        with LAYERS.held(), kept_tensors():
            params, state = self.params, self.state
            waiting = None
            if params is None or state is None:  # at the first call, library and device of the rest are known
                waiting = {name: _copy(v) for name, v in values.items()}
            new_params, new_state = self._filled(params, state, values)
            tape = self._tape.on_its_own()
            if params is not None and new_params is not None:
                new_params = Params(*written(tuple(params), tuple(new_params)))
            vars(self).update(params=new_params, state=new_state, _loaded=waiting, _tape=tape)

    def _filled(self, params: Any, state: Any, values: Mapping[str, Array]) -> Any:
        """Return both records, where there are any, with the named values in each array's library, device and dtype."""
        filled = []
        for record in (params, state):
            fresh = {}
            for field, old in () if record is None else record._asdict().items():
                if old is None:
                    continue
                new = constant(values[self._names[field]], old, old.dtype)
                if tuple(new.shape) != tuple(old.shape):
                    raise refusal(
                        ValueError,
                        "BN-STATE-5",
                        got=f"{self.name}: {self._names[field]} of shape {tuple(new.shape)}",
                        expected=f"shape {tuple(old.shape)}",
                        do="The loaded state has another number of channels than x.",
                    )
                fresh[field] = new
            filled.append(record if record is None else record._replace(**fresh))
        return tuple(filled)


def _present(params: Params, state: RunningState) -> dict[str, Array]:
    """The fields that exist, parameters first, in tensorpack's order."""
    order = ("mean", "var", "stddev", "renorm_mean", "renorm_stddev", "count")
    fields = {"beta": params.beta, "gamma": params.gamma} | {f: getattr(state, f) for f in order}
    return {field: value for field, value in fields.items() if value is not None}


@on_device_of("v")
def _copy(v: Array) -> Array:
    with kept_tensors():
        return array_namespace(v).asarray(stop_gradient(v), copy=True)
