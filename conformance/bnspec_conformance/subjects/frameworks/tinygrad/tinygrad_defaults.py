"""The defaults of ``tinygrad.nn.BatchNorm``, for the probe."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.frameworks.tinygrad.tinygrad_layer import layer_of, to_numpy, to_tinygrad
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["FLOAT16", "FLOAT32", "layer"]

#: A batch of no elements divides by 0, and float16 is computed in throughout.
FLOAT32 = {"state, empty batch": "not finite"}
FLOAT16 = FLOAT32 | {f"{what} (float16 x)": "float16" for what in ("centre", "centre in inference", "state", "sums")}


def layer(device: str, departures: Mapping[str, str]) -> Defaults:
    """Return the layer on a device, with the conventions in which it is known to differ.

    A layer without options is a float32 one, so that is where its numbers are measured.
    """

    def step(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
        from tinygrad.helpers import Context

        with Context(DEV=device, TRAINING=int(case.mode == "batch")):
            made = layer_of(case, np.dtype("float32"), **arguments)
            y = to_numpy(made(to_tinygrad(case.ranks[0].x.astype("float32"))))
            if case.state is None:
                return y, None
            return y, {"mean": to_numpy(made.running_mean), "var": to_numpy(made.running_var)}

    def names() -> dict[str, str]:
        from tinygrad import nn
        from tinygrad.helpers import Context

        marks = {"weight": 2.0, "bias": 3.0, "running_mean": 5.0, "running_var": 7.0, "num_batches_tracked": 11.0}
        with Context(DEV=device):
            made: Any = nn.BatchNorm(2)
            for name, mark in marks.items():
                shape = () if name == "num_batches_tracked" else (2,)
                setattr(made, name, to_tinygrad(np.full(shape, mark, "float32")))
            values = {name: value.numpy() for name, value in nn.state.get_state_dict(made).items()}
        return names_by_value(values, dict(zip(("gamma", "beta", "mean", "var", "count"), marks.values(), strict=True)))

    return Defaults(step=step, names=names, departures=departures)
