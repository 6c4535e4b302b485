"""A layer as a Python object: which attributes may be set, how it is shown, copied and pickled."""

import copy
import functools
import inspect
from typing import TYPE_CHECKING, Any, Self

from bnspec._arrays import is_array
from bnspec._checks.scalars import switch
from bnspec._config import Renorm
from bnspec._dialects import dialects
from bnspec._errors import refusal
from bnspec._layer.eager import kept_tensors, refuse_transformation
from bnspec._layer.options import ALIASES
from bnspec._layer.tape import Tape
from bnspec._types import Gradients, Params, RunningState

__all__ = ["Attributes"]

_RECORDS = {"params": Params, "state": RunningState, "gradients": Gradients}
_SETTABLE = ("training", "trainable", "name", "params", "state", "gradients")


class Attributes:
    """The part of `BatchNorm` that is no mathematics."""

    name: str
    gradients: Gradients | None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what has an effect, checked; refuse the rest. A subclass may have attributes of its own."""
        kind: Any = type(self)
        found: Any = inspect.getattr_static(kind, name, None)
        if name.startswith("_") or (hasattr(type(found), "__set__") and not isinstance(found, property)):
            pass
        elif isinstance(found, property) and found.fset is not None:
            pass
        elif name in _SETTABLE:
            value = self._checked(name, value)
        elif name == "renorm":
            self._check_renorm(value)
        elif name in _options_of(kind) or isinstance(found, property):
            self._refuse_attribute(name)
        elif kind.__module__.split(".")[0] == "bnspec" and not callable(value):
            self._refuse_attribute(name)
        object.__setattr__(self, name, value)

    if not TYPE_CHECKING:  # checkers would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Say where an option is to be read, since some follow from x; every other name is absent as usual."""
            if name not in _options_of(type(self)) | {"config"}:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise refusal(
                AttributeError,
                "BN-ERR-1",
                got=f"{type(self).__name__}.{name} was read",
                expected="one of " + ", ".join(_SETTABLE),
                do="layer.config_for(x) is the configuration for an input, and repr(layer) shows the options.",
            )

    def _refuse_attribute(self, name: str) -> None:
        kind: Any = type(self)
        option = name in _options_of(kind)
        if name == "variables":
            do = "load_state_dict sets them."
        elif option:
            do = (
                f"Make a new layer with {name}=... and give it `load_state_dict(layer.state_dict())`; for what changes "
                "from step to step use the functions with dataclasses.replace(layer.config_for(x), ...)."
            )
        else:
            do = "gamma and beta are in params, statistics in state; a subclass may have attributes of its own."
        raise refusal(
            AttributeError,
            "BN-ERR-1",
            got=f"{type(self).__name__}.{name} was set"
            + (", an option that is read at construction" if option else ""),
            expected="one of " + ", ".join(_SETTABLE),
            do=do,
        )

    def _checked(self, name: str, value: Any) -> Any:
        if name == "training":
            do = "None asks the context and train() or eval()."
            return None if value is None else switch(name, value, "BN-UPD-7", do)
        if name == "trainable":
            return switch(name, value, "BN-INF-6", "False withholds the gradients of gamma and beta.")
        if name == "name":
            if not isinstance(value, str):
                raise refusal(
                    TypeError, "BN-ERR-1", got=f"name is {value!r}", expected="a string", do="Pass str(name)."
                )
            return value
        return None if value is None else self._checked_record(name, value)

    def _checked_record(self, name: str, value: Any) -> Any:
        kind = _RECORDS[name]
        who = vars(self).get("name", type(self).__name__)
        if not isinstance(value, kind):
            raise refusal(
                TypeError,
                "BN-SHAPE-6",
                got=f"{who}: {name} is a {type(value).__name__}",
                expected=f"None or a bnspec.{kind.__name__}",
                do=f"Pass bnspec.{kind.__name__}({', '.join(kind._fields)}).",  # type: ignore[attr-defined]
            )
        if kind is Gradients:
            return value
        record: Any = value
        arrays = {field: v for field, v in record._asdict().items() if v is not None}
        for field, v in arrays.items():
            if not is_array(v) or v.ndim != 1:
                came = f"has shape {tuple(v.shape)}" if is_array(v) else f"is a {type(v).__name__}"
                raise refusal(
                    ValueError if is_array(v) else TypeError,
                    "BN-SHAPE-6",
                    got=f"{who}: {field} of {name} {came}",
                    expected="an array of shape (C,)",
                    do="There is one value per channel.",
                )
        lengths = {field: int(v.shape[0]) for field, v in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise refusal(
                ValueError,
                "BN-SHAPE-6",
                got=f"{who}: {name} of lengths {lengths}",
                expected="one length, the number of channels",
                do="Take all of them from one layer.",
            )
        if kind is Params:
            for field, option in (("gamma", "scale"), ("beta", "center")):
                wanted = vars(self).get("_fields", {}).get(option, True)
                if (field in arrays) != wanted:
                    raise refusal(
                        ValueError,
                        "BN-NORM-2",
                        got=f"{who}: params with {field} {'absent' if wanted else 'given'} and {option}={wanted}",
                        expected=f"{field} exactly when {option} is True",
                        do=f"Make the layer with {option}={not wanted}, or pass what it asks for.",
                    )
        refuse_transformation(who, *arrays.values())
        return value

    def _check_renorm(self, value: Any) -> None:
        now: Renorm | None = vars(self).get("renorm")
        if isinstance(value, Renorm) and now is not None and value.form == now.form:
            return
        raise refusal(
            AttributeError,
            "BN-RENORM-9",
            got=f"renorm was set to {value!r}",
            expected="a Renorm of the layer's form" if now is not None else "no renorm on a layer made without it",
            do="The form decides which variables exist; make a new layer for another one.",
        )

    def __repr__(self) -> str:
        """The options that are not the defaults, besides decay and epsilon, the switch, and the number of channels."""
        held = vars(self)
        fields = dict(held.get("_fields", {}))
        row = held.get("dialect")
        shown: dict[str, Any] = {"axis": held.get("_axis"), "data_format": held.get("_data_format")}
        if row is not None:
            shown |= {"decay": row.decay, "epsilon": row.epsilon}
        shown |= fields
        renorm = held.get("renorm")
        if renorm is not None:
            shown |= {"renorm": renorm}
        if held.get("_ema_update") not in (None, getattr(row, "default_update", None)):
            shown["ema_update"] = held["_ema_update"]
        shown |= {"sync_statistics": held.get("_sync_statistics"), "training": held.get("training")}
        if held.get("_comm") is not None:
            shown["comm"] = f"<{type(held['_comm']).__name__}>"
        for name, default in (("trainable", True), ("dialect", "bnspec"), ("name", "batch_norm")):
            value = getattr(held.get(name), "name", held.get(name))
            shown[name] = None if value == default else value
        options = [f"{k}={v if k == 'comm' else repr(v)}" for k, v in shown.items() if v is not None]
        state = held.get("state")
        channels = "no channels yet" if state is None else f"{int(state.mean.shape[0])} channels"
        mode = "train" if held.get("_training_mode", True) else "eval"
        return f"<{type(self).__name__}({', '.join(options)}), {channels}, {mode}()>"

    def _carried(self) -> dict[str, Any]:
        """Return the attributes of a copy: all but batches, gradients, and initializers that did their work."""
        held = dict(vars(self))  # in one step, whatever other threads do
        held |= {"_tape": Tape(), "gradients": None, "_configs": {}}
        if held["params"] is not None:
            held["_initializers"] = (None, None)
        return held

    def __copy__(self) -> Self:
        """A layer that shares the arrays and the communicator."""
        made = type(self).__new__(type(self))
        vars(made).update(self._carried())
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A layer with arrays of its own, and this one's communicator."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        held = self._carried()
        for shared in (held["_comm"], held["dialect"]):
            memo[id(shared)] = shared
        with kept_tensors():
            for record in (held["params"], held["state"]):
                for v in record or ():
                    if getattr(v, "grad_fn", None) is not None:  # torch copies no result of an operation
                        memo[id(v)] = v.detach().clone().requires_grad_(v.requires_grad)
            vars(made).update(copy.deepcopy(held, memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that a pickle holds; a communicator belongs to its process and is refused."""
        held = self._carried()
        if held["_comm"] is not None:
            raise refusal(
                TypeError,
                "BN-STATE-2",
                got=f"{self.name}: a pickle of a layer with comm=<{type(held['_comm']).__name__}>",
                expected="no communicator, which belongs to the process that made it",
                do="Name it by sync_statistics=, so that each process finds its own; or pickle layer.state_dict().",
            )
        return held | {"dialect": held["dialect"].name, "_tape": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"dialect": dialects[state["dialect"]], "_tape": Tape()})


@functools.lru_cache(maxsize=64)
def _options_of(kind: Any) -> frozenset[str]:
    """The arguments that bnspec's own constructors of a class read, and their other spellings."""
    own = [c for c in kind.__mro__ if c.__module__.split(".")[0] == "bnspec" and "__init__" in vars(c)]
    names = {name for c in own for name in inspect.signature(vars(c)["__init__"]).parameters}
    return frozenset(names - {"self", "positional", "options", "aliases", *_SETTABLE, "renorm"} | set(ALIASES))
