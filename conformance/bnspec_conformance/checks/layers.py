"""Helpers of the checks of bnspec's layers: a layer made from a case, and everything about it that can change."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import bnspec
from bnspec_conformance.cases.case import Array, Case, Outcome, RankOutcome
from bnspec_conformance.subjects import NotSupported
from bnspec_conformance.trials.trial import Trial

__all__ = ["arrays_of", "awkward", "host", "layer_of", "names_of", "outcome_of", "snapshot", "state_of"]


def names_of(config: bnspec.BatchNormConfig) -> dict[str, str]:
    """Return the names that BN-STATE-1 gives to the variables that the configuration has."""
    renorm = config.renorm
    names = {"beta": "beta", "gamma": "gamma", "mean": "mean/EMA", "var": "variance/EMA", "count": "count"}
    if renorm is not None:
        names |= {"mean": "moving_mean", "var": "moving_variance", "stddev": "moving_stddev"}
        if renorm.form == "tensorpack":
            names |= {"renorm_mean": "renorm_mean", "renorm_stddev": "renorm_stddev"}
    absent = {"beta": not config.center, "gamma": not config.scale, "count": config.averaging == "exponential"}
    return {field: name for field, name in names.items() if not absent.get(field, False)}


def arrays_of(case: Case) -> dict[str, Array]:
    """Return the case's parameters and state under the names of the layer's variables."""
    kept = "float64" if case.ranks[0].x.dtype == np.float64 else "float32"
    given = {"gamma": case.gamma, "beta": case.beta, **(case.state or {})}
    defaults = {"gamma": 1, "beta": 0, "mean": 0, "var": case.config.averaging != "debiased", "count": 0}
    values = {}
    for field, name in names_of(case.config).items():
        value = given.get(field)
        dtype = "int64" if field == "count" else kept
        values[name] = np.full(case.channels, defaults.get(field, 0), dtype) if value is None else value
    return values


def awkward(case: Case) -> dict[str, Array]:
    """Variables with NaN, infinities, a negative zero, the smallest numbers and a full counter among them."""
    values = {name: np.array(v) for name, v in arrays_of(case).items()}
    squares = {name for field, name in names_of(case.config).items() if field in ("var", "stddev", "renorm_stddev")}
    odd = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38, 1 / 3]
    for i, (name, value) in enumerate(values.items()):
        if name == "count":
            value[:1] = np.iinfo("int32").max
        elif value.size:
            least = abs if name in squares else float  # no average of squares is below 0
            value[i % value.size] = least(odd[i % len(odd)])
    return values


def layer_of(t: Trial, case: Case, **options: Any) -> bnspec.BatchNorm:
    """Return a layer with the case's configuration, parameters and state, on the arrays of the subject's library."""
    backend = t.needs_backend()
    if not t.takes(case):
        raise NotSupported(str(t.subject.supports(case) or "such a layer is not in its scope"))
    fields = {f.name: getattr(case.config, f.name) for f in dataclasses.fields(case.config)}
    layer = bnspec.BatchNorm(**(fields | options))
    layer.load_state_dict({name: backend.asarray(value) for name, value in arrays_of(case).items()})
    return layer


def state_of(t: Trial, layer: bnspec.BatchNorm) -> dict[str, Array]:
    """Return the layer's variables as NumPy arrays of their own."""
    return {name: host(t, value) for name, value in layer.state_dict().items()}


def host(t: Trial, array: Any) -> Array:
    """Return a copy as NumPy's; before the first call a layer may hold NumPy's arrays itself, read from a file."""
    return np.array(array if isinstance(array, np.ndarray) else t.needs_backend().to_numpy(array))


def outcome_of(t: Trial, layer: bnspec.BatchNorm, case: Case, **fields: Any) -> Outcome:
    """Return the layer's running state, and arrays of the library under the names of `RankOutcome`, as an outcome."""
    held = state_of(t, layer)
    fields_of_state = {
        field: held[name] for field, name in names_of(case.config).items() if field not in ("beta", "gamma")
    }
    taken = {field: None if v is None else host(t, v) for field, v in fields.items()}
    return Outcome((RankOutcome(state=fields_of_state, **taken),))


def snapshot(t: Trial, *watched: Any) -> list[Any]:
    """Return all that a refusal must not change: variables, gradients, pending updates, arrays, folders of files."""
    found: list[Any] = []
    for thing in watched:
        if isinstance(thing, bnspec.BatchNorm):
            found.append(snapshot(t, thing.variables, thing.params, thing.state, thing.gradients))
            found.append((thing.training, thing.trainable, thing.renorm, thing.name))
        elif isinstance(thing, bnspec.UpdateCollection):
            found.append((len(thing), thing.frozen))
        elif isinstance(thing, dict):
            found.append([(key, snapshot(t, value)) for key, value in thing.items()])
        elif isinstance(thing, list | tuple):
            found.append(snapshot(t, *thing))
        elif isinstance(thing, Path):
            found.append({str(p.relative_to(thing)): p.read_bytes() for p in sorted(thing.rglob("*")) if p.is_file()})
        elif hasattr(thing, "dtype") and hasattr(thing, "shape"):
            found.append(_bits(t, thing))
        else:
            found.append(thing)
    return found


def _bits(t: Trial, array: Any) -> Any:
    try:
        held = host(t, array)
    except Exception:  # an array of another library, given to be refused
        held = np.asarray(array)
    return str(array.dtype), held.shape, held.tobytes()
