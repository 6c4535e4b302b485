"""Common parts of the layers of Keras 3 and of Keras 2 (``tf_keras``), which have the same options and variables."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["VARIABLES", "default_call", "options", "variable_names"]

#: Our names and the layer's.
VARIABLES = {
    "gamma": "gamma",
    "beta": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
    "stddev": "moving_stddev",
    "renorm_mean": "renorm_mean",
    "renorm_stddev": "renorm_stddev",
}
_POLICIES = {"float16": "mixed_float16", "bfloat16": "mixed_bfloat16"}
#: The variables of a layer without options, each with a number that tells it from the others.
_MARKS = {"gamma": 2.0, "beta": 3.0, "mean": 5.0, "var": 7.0}

#: ``assign(variable, values)``: sets a variable of the library.
Assign = Callable[[Any, Any], object]


def options(case: Case) -> dict[str, Any]:
    """Return the arguments of a layer for a case; 16-bit x goes with a mixed policy, whose variables are float32."""
    config, dtype = case.config, case.ranks[0].x.dtype.name
    found: dict[str, Any] = {
        "axis": config.axis,
        "momentum": config.decay,
        "epsilon": config.epsilon,
        "center": config.center,
        "scale": config.scale,
        "dtype": _POLICIES.get(dtype, dtype),
    }
    if config.renorm is not None:
        limits = {"rmax": config.renorm.rmax, "rmin": 1 / config.renorm.rmax, "dmax": config.renorm.dmax}
        found |= {"renorm": True, "renorm_clipping": limits, "renorm_momentum": config.renorm.decay}
    return found


def default_call(
    layer: Any, case: Case, assign: Assign, call: Callable[[Any, bool], Any], to_numpy: Callable[[Any], Any]
) -> tuple[Array, dict[str, Array] | None]:
    """Call a layer without options with a case's parameters and state; return y and the new state.

    Parameters
    ----------
    layer : Any
        Not built yet.
    case : Case
    assign : callable
    call : callable
        ``call(x, training) -> y``.
    to_numpy : callable
        Takes a tensor or a variable.
    """
    layer.build(case.ranks[0].x.shape)
    state = case.state or {}
    given = {"gamma": case.gamma, "beta": case.beta, "mean": state.get("mean"), "var": state.get("var")}
    for field, value in given.items():
        if value is not None:
            assign(getattr(layer, VARIABLES[field]), value)
    y = np.array(to_numpy(call(case.ranks[0].x, case.mode == "batch")))
    if case.state is None:
        return y, None
    return y, {field: np.array(to_numpy(getattr(layer, VARIABLES[field]))) for field in ("mean", "var")}


def variable_names(
    layer: Any, assign: Assign, to_numpy: Callable[[Any], Any], name_of: Callable[[str], str] = str
) -> Mapping[str, str]:
    """Return our fields with the names of a layer's variables, which are found by value.

    Parameters
    ----------
    layer : Any
        Without options, and not built yet.
    assign, to_numpy : callable
        As for `default_call`.
    name_of : callable
        A variable's full name to the part that is its own.
    """
    layer.build((3, 2))
    for field, mark in _MARKS.items():
        assign(getattr(layer, VARIABLES[field]), np.full(2, mark))
    return names_by_value({name_of(v.name): np.array(to_numpy(v)) for v in layer.variables}, _MARKS)
