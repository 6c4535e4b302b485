"""A layer of Paddle with a case's numbers in it, for the subject and for the probe."""

from typing import Any

from bnspec_conformance.cases.case import Case

__all__ = ["layer_of"]


def layer_of(case: Case, **arguments: Any) -> Any:
    """Return the layer for the rank of x, with its own arguments and the case's parameters and running state."""
    import paddle

    x, nn, state = case.ranks[0].x, paddle.nn, case.state or {}
    kind = {2: nn.BatchNorm1D, 3: nn.BatchNorm1D, 4: nn.BatchNorm2D, 5: nn.BatchNorm3D}[x.ndim]
    layer = kind(case.channels, **arguments).to(device="cpu", dtype=x.dtype.name)
    given = {"weight": case.gamma, "bias": case.beta, "_mean": state.get("mean"), "_variance": state.get("var")}
    for name, values in given.items():
        if values is not None and getattr(layer, name) is not None:
            getattr(layer, name).set_value(values.astype(x.dtype))
    return layer
