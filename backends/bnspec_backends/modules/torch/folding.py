"""Folding every batch normalization of a model of torch that can be folded, in the graph of its modules.

References
----------
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018,
section 3.2.
"""

import copy
from typing import Any, NamedTuple

import torch

from bnspec._errors import refusal
from bnspec_backends.modules.torch.buffers import config_of
from bnspec_backends.modules.torch.fold_check import difference, made_up_input
from bnspec_backends.modules.torch.foldable import (
    against_layer,
    against_norm,
    channels_from_end,
    fold_pair,
    is_norm,
    with_kernel,
)

__all__ = ["FoldedLayer", "FoldedModel", "fold"]


class FoldedLayer(NamedTuple):
    """A normalization that was folded, and how far its layer is from the two that were there."""

    into: str  # name of the convolution or linear layer
    kernel_error: float  # the largest of `bnspec.FoldedKernel.kernel_error`: the error of an output is at most
    bias_error: float  # max(abs(x))*kernel_error + bias_error, beside what the evaluation rounds
    difference: float  # the largest that the comparison in float64 found


class FoldedModel(NamedTuple):
    """A model for inference, and what became of each batch normalization, by name."""

    model: torch.fx.GraphModule
    folded: dict[str, FoldedLayer]
    kept: dict[str, str]  # why it is still there


def fold(model: torch.nn.Module, probe: Any = None) -> FoldedModel:
    """Fold the batch normalizations of a model into the convolutions and linear layers beside them.

    The layer before takes the normalization, else the layer after::

        before:  kernel'[o,i,k] = kernel[o,i,k]*scale[o],  bias'[o] = bias[o]*scale[o] + shift[o]
        after:   kernel'[o,i,k] = kernel[o,i,k]*scale[i],  bias'[o] = bias[o] + sum over i, k of kernel[o,i,k]*shift[i]

    Parameters
    ----------
    model : torch.nn.Module
        With modules of bnspec or torch's own; `torch.fx` must be able to trace it in evaluation. A copy is folded.
    probe : Tensor or tuple, optional
        An input of the model, or a tuple of its arguments. Every fold is compared, on what reaches its layer, with what
        was there before. Without a probe the comparison is made on random numbers, convolutions are taken to have
        batches as input, and linear layers, which take input of any rank, cannot be folded into unless a normalization
        has ``axis=-1``.

    Returns
    -------
    FoldedModel
        Its model is a graph of copies of the modules, in evaluation, without the modules that were folded. Numbers are
        computed in float64 and rounded once to the dtypes of weight and bias. ``folded`` says into which layer each
        normalization went and which error that causes, ``kept`` why another is still there: another use of what is
        between the two layers, no convolution or linear layer beside it, a shift before zero padding, hooks and
        parametrizations, or a comparison that rounding does not explain.

    Raises
    ------
    TypeError
        If torch.fx cannot trace the model.

    See Also
    --------
    bnspec.fold_into_preceding, bnspec.fold_into_following : the same for arrays.

    Examples
    --------
    >>> import torch
    >>> nn = torch.nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8))
    >>> found = fold(model, torch.ones(2, 3, 9, 9))
    >>> found.folded["1"].into, list(found.kept)
    ('0', ['3'])
    >>> print(*found.kept["3"].split("; "), sep=", ")
    before it: 2: a ReLU is no convolution or linear layer of torch's own, after it: output, which is no module
    """
    graph = _traced(model)
    values = {} if probe is None else _values(graph, probe)
    folded: dict[str, FoldedLayer] = {}
    kept: dict[str, str] = {}
    again = True
    while again:  # what was folded may have brought another normalization beside a layer
        again, kept = False, {}
        for node in list(graph.graph.nodes):
            if node.op != "call_module" or not is_norm(graph.get_submodule(node.target)):
                continue
            found = _folded(graph, node, values)
            if isinstance(found, str):
                kept[node.target] = found
            else:
                again, folded[node.target] = True, found
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    return FoldedModel(graph, folded, kept)


class _Tracer(torch.fx.Tracer):
    """Tracer to whom every batch normalization is one node, also of a class that is not torch's own."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: torch.nn.Module) -> torch.fx.GraphModule:
    """Return the graph of a copy of a model, in evaluation."""
    try:
        copied = copy.deepcopy(model).eval()
        return torch.fx.GraphModule(copied, _Tracer().trace(copied), type(model).__name__)
    except Exception as error:
        raise refusal(
            TypeError,
            "BN-ERR-5",
            got=f"a {type(model).__name__} that torch.fx cannot trace ({type(error).__name__}: {error})",
            expected="a model whose path does not depend on values",
            do="Fold the parts that can be traced, or single layers with bnspec.fold_into_preceding.",
        ) from error


def _values(graph: torch.fx.GraphModule, probe: Any) -> dict[torch.fx.Node, torch.Tensor]:
    """Return what reaches each normalization of a graph, and what reaches what is before it."""
    norms = [n for n in graph.graph.nodes if n.op == "call_module" and is_norm(graph.get_submodule(n.target))]
    before = [_input(n) for n in norms]
    wanted = {*before, *(_input(n) for n in before if n is not None)}

    class Keeping(torch.fx.Interpreter):
        """Interpreter that keeps the wanted values."""

        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n in wanted and isinstance(value, torch.Tensor):
                kept[n] = value
            return value

    kept: dict[torch.fx.Node, torch.Tensor] = {}
    with torch.no_grad():
        Keeping(graph).run(*(probe if isinstance(probe, tuple) else (probe,)))
    return kept


def _folded(graph: torch.fx.GraphModule, node: Any, values: dict[Any, Any]) -> FoldedLayer | str:
    """Fold a normalization and take its node out of the graph, or return why that cannot be."""
    norm = graph.get_submodule(node.target)
    if (why := against_norm(norm)) is not None:
        return why
    reasons = []
    for following in (False, True):
        other = _beside(graph, node, following)
        found = other if isinstance(other, str) else _try(graph, node, other, following, values)
        if isinstance(found, FoldedLayer):
            return found
        reasons.append(f"{'after' if following else 'before'} it: {found}")
    return "; ".join(reasons)


def _beside(graph: torch.fx.GraphModule, node: Any, following: bool) -> Any:
    """Return the node of the layer before or after a normalization, or why there is none to fold into."""
    users = list(node.users)
    other = (users[0] if len(users) == 1 else None) if following else _input(node)
    if other is None:
        return f"{len(users)} uses of its result" if following else "its input is no result in the graph"
    if other.op != "call_module":
        return f"{other.name}, which is no module"
    layer = graph.get_submodule(other.target)
    if (why := against_layer(layer)) is not None:
        return f"{other.target}: {why}"
    if not following and len(other.users) > 1:
        return f"{other.target}, whose result has {len(other.users)} uses"
    if following and _input(other) is not node:
        return f"{other.target}, which takes it as another argument than its input"
    calls = [n for n in graph.graph.nodes if n.op == "call_module" and graph.get_submodule(n.target) is layer]
    return other if len(calls) == 1 else f"{other.target}, which is called {len(calls)} times"


def _try(graph: torch.fx.GraphModule, node: Any, other: Any, following: bool, values: Any) -> FoldedLayer | str:
    """Fold a normalization into a layer beside it, compare, and change the graph; or return why that cannot be."""
    norm, layer = graph.get_submodule(node.target), graph.get_submodule(other.target)
    first = node if following else other
    x, given = values.get(_input(first)), _input(node)
    rank = values[given].ndim if given in values else None
    if (why := _other_axis(norm, layer, rank)) is not None:
        return f"{other.target}: {why}"
    sized = len(other.args) > 1 or bool(set(other.kwargs) - {"input"})
    try:
        numbers = fold_pair(norm, layer, following=following, other_size=sized, name=node.target)
        made = with_kernel(layer, numbers, copy.deepcopy(layer))
        pair = (norm, layer) if following else (layer, norm)
        largest, share = difference(*pair, made, numbers, made_up_input(layer) if x is None else x)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{other.target}: {error}"
    if share > 1:
        return f"{other.target}: the folded layer differs by {largest:.3g}, {share:.3g} times what rounding explains"
    parent, _, name = other.target.rpartition(".")
    setattr(graph.get_submodule(parent), name, made)
    if not following and node in values:
        values[other] = values[node]
    node.replace_all_uses_with(given)
    graph.graph.erase_node(node)
    return FoldedLayer(other.target, float(max(numbers.kernel_error)), float(max(numbers.bias_error)), largest)


def _other_axis(norm: Any, layer: Any, rank: int | None) -> str | None:
    """Return why the channels of two modules are not on one axis, or None."""
    wanted, axis = channels_from_end(layer), config_of(norm).axis
    if axis >= 0 and rank is None:
        if wanted == -1:
            return "the rank of its input is not known without a probe"
        rank = 1 - wanted
    found = axis - rank if axis >= 0 and rank is not None else axis
    return None if found == wanted else f"its channels are on axis {wanted}, those of the normalization on axis {found}"


def _input(node: Any) -> Any:
    """Return the node whose result is the first argument of another, or None."""
    given = node.args[0] if node.args else node.kwargs.get("input")
    return given if isinstance(given, torch.fx.Node) else None
