"""The defaults of ``torch.nn.BatchNorm1d``, ``2d``, ``3d`` and of ``nn.functional.batch_norm``, for the probe."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bnspec_conformance.cases.case import Array, Case
from bnspec_conformance.subjects.defaults import Defaults
from bnspec_conformance.subjects.frameworks.torch.devices import on_device
from bnspec_conformance.subjects.variable_names import names_by_value

__all__ = ["FUNCTION", "LAYER", "on"]


def _layer(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    import torch
    from torch import nn

    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[case.ranks[0].x.ndim]
    module: Any = kind(case.channels, **arguments)
    if case.ranks[0].x.dtype == np.float64:
        module = module.to(torch.float64)
    module.train(case.mode == "batch")
    given = {"weight": case.gamma, "bias": case.beta}
    if case.state is not None:
        given |= {"running_mean": case.state["mean"], "running_var": case.state["var"]}
    own = module.state_dict()
    module.load_state_dict(own | {k: torch.tensor(v) for k, v in given.items() if v is not None})
    y = module(torch.tensor(case.ranks[0].x)).detach().cpu().numpy()
    if case.state is None:
        return y, None
    return y, {"mean": module.running_mean.cpu().numpy().copy(), "var": module.running_var.cpu().numpy().copy()}


def _function(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
    import torch
    from torch.nn.functional import batch_norm

    mean = var = None
    if case.state is not None:
        mean, var = torch.tensor(case.state["mean"]), torch.tensor(case.state["var"])
    params: dict[str, Any] = {
        n: None if v is None else torch.tensor(v) for n, v in (("weight", case.gamma), ("bias", case.beta))
    }
    x = torch.tensor(case.ranks[0].x)
    y = batch_norm(x, mean, var, training=case.mode == "batch", **params, **arguments).cpu().numpy()
    return y, None if mean is None or var is None else {"mean": mean.cpu().numpy(), "var": var.cpu().numpy()}


def _names() -> dict[str, str]:
    import torch

    marks = {"gamma": 2.0, "beta": 3.0, "mean": 5.0, "var": 7.0, "count": 11.0}
    module: Any = torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        fields = (module.weight, module.bias, module.running_mean, module.running_var, module.num_batches_tracked)
        for held, mark in zip(fields, marks.values(), strict=True):
            held.fill_(mark)
    return names_by_value({name: value.numpy() for name, value in module.state_dict().items()}, marks)


#: num_batches_tracked counts calls, also those without elements, so that a cumulative average is off after one.
LAYER = Defaults(step=_layer, names=_names, departures={"counter, empty batch": "counted"})
FUNCTION = Defaults(step=_function)


def on(device: str, defaults: Defaults) -> Defaults:
    """Return the same layer on a device."""

    def step(case: Case, arguments: Mapping[str, Any]) -> tuple[Array, dict[str, Array] | None]:
        with on_device(device):
            return defaults.step(case, arguments)

    return dataclasses.replace(defaults, step=step)
