"""Exact running statistics of every batch normalization of a model, from one pass over batches.

References
----------
Wu, Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 ("PreciseBN").
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bnspec import BatchNormConfig, Communicator, Params, PreciseStatistics, batch_norm
from bnspec._errors import refusal
from bnspec_backends.modules.torch.buffers import config_of, write_state
from bnspec_backends.modules.torch.ranks import Sync
from bnspec_backends.modules.torch.replacing import OURS
from bnspec_backends.modules.torch.specified import SpecifiedNorm

__all__ = ["precise_bn"]

_Model = TypeVar("_Model", bound=torch.nn.Module)


class _Layer(NamedTuple):
    """A module whose statistics are collected."""

    module: Any
    config: BatchNormConfig
    comm: Communicator | None  # whose statistics normalize
    statistics: PreciseStatistics


def precise_bn(
    model: _Model,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any], Any] | None = None,
    modules: Iterable[torch.nn.Module] | None = None,
    sync: Any = None,
) -> _Model:
    """Set the running statistics of a model to those of all elements of some batches, and return the model.

    With n elements of a channel that reach a layer, in all batches together and on all ranks::

        running_mean = sum x / n,    running_var = sum (x - mean)^2 / (n - correction)

    In the pass each layer normalizes by its batch, as in training, with its groups, renorm and ranks. All other modules
    run as at inference, which is what the statistics are for: no dropout, no random depth.

    Parameters
    ----------
    model : torch.nn.Module
        With modules of bnspec, or torch's BatchNorm1d, 2d, 3d or SyncBatchNorm, in any mode. Of a
        DistributedDataParallel pass its ``module``.
    batches : iterable
        Inputs, of any sizes. Under ranks each has its own.
    forward : callable, optional
        ``forward(batch)`` runs the model on a batch; by default ``model(batch)``. For batches of inputs and labels:
        ``lambda batch: model(batch[0])``.
    modules : iterable of modules, optional
        Layers to be computed; the others normalize by the running statistics that they have. By default all that have
        running statistics, except those that are `frozen`.
    sync : optional
        Ranks whose elements are joined for layers that normalize by the rank's own batch, as in `BatchNorm2d`. A layer
        that joins statistics in training does so here, among the same ranks. Elements have the same weight whatever
        sync_weighting is.

    Returns
    -------
    torch.nn.Module
        The model itself. Its buffers are the tensors that they were, with other numbers in those of statistics:
        running_var in the form that the layer stores, and num_batches_tracked only under ``momentum=None``, where it is
        the count of the average. Modes, momentum, gradients, hooks, other buffers, and torch's random numbers on the
        CPU and on the model's CUDA devices are as before.

    Raises
    ------
    ValueError, TypeError
        If there is nothing to compute, if no element reached a layer, or for modules of which it is not known what they
        store. Whatever fails, the model is as it was.
    CommunicatorError
        On every rank, when ranks do not meet; the models are as they were.

    Notes
    -----
    torch's ``torch.optim.swa_utils.update_bn`` weighs batches alike, whatever their size, and averages their variances.

    References
    ----------
    Wu, Johnson 2021, section 3.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
    >>> model = precise_bn(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[8.0]])])
    >>> model[0].running_mean.tolist(), model[0].running_var.tolist()
    ([4.0], [13.0])
    """
    layers = [_layer(name, module) for name, module in _chosen(model, modules)]
    shared = Sync(sync).communicator()
    with _left_as_they_were(model), torch.no_grad():
        for layer in layers:
            layer.statistics.update(_no_sample(layer))  # a rank without batches can join the others
            vars(layer.module)["forward"] = _forward_of(layer)
        for batch in batches:
            model(batch) if forward is None else forward(batch)
        states = [layer.statistics.state(comm=layer.comm or shared) for layer in layers]
    for layer, state in zip(layers, states, strict=True):
        write_state(layer.module, state, layer.config)
    return model


def _chosen(model: torch.nn.Module, modules: Iterable[torch.nn.Module] | None) -> list[tuple[str, Any]]:
    """Return the layers to be computed, by name, and refuse those that cannot be."""
    named: dict[Any, str] = {module: name for name, module in model.named_modules()}
    for module, name in named.items():
        if any(map(torch.nn.parameter.is_lazy, (*module._parameters.values(), *module._buffers.values()))):
            raise refusal(
                ValueError,
                "BN-SHAPE-4",
                got=f"{name}: a {type(module).__name__} before its first input",
                expected="modules with parameters",
                do="Run the model on one batch before.",
            )
    if modules is None:
        norms = [m for m in named if isinstance(m, _BatchNorm) and m.running_mean is not None]
        modules = [m for m in norms if not getattr(m, "frozen", False)]
    found: list[Any] = list(dict.fromkeys(modules))
    for module in found:
        known = isinstance(module, SpecifiedNorm) or type(module) in OURS
        if module not in named or not known or module.running_mean is None:
            raise refusal(
                TypeError,
                "BN-ERR-5",
                got=f"{named.get(module, 'no module of the model')}: a {type(module).__qualname__}",
                expected="a batch normalization of torch or bnspec, in the model, with running statistics",
                do="Say by modules= which layers are to be computed; which variance a class of another's own stores is "
                "not known.",
            )
    if not found:
        raise refusal(
            ValueError,
            "BN-RUN-9",
            got=f"a {type(model).__name__} without running statistics that could be computed",
            expected="at least one layer",
            do="Frozen layers and those with track_running_stats=False do not count.",
        )
    return [(named[module], module) for module in found]


def _layer(name: str, module: Any) -> _Layer:
    config = config_of(module)
    comm = module._sync if isinstance(module, SpecifiedNorm) else _of_torch(module)
    return _Layer(module, config, comm.communicator(), PreciseStatistics(config, name=name or type(module).__name__))


def _of_torch(module: Any) -> Sync:
    """Return the ranks of a module of torch's own: those of a SyncBatchNorm, where there are several."""
    ranks = torch.distributed
    if not isinstance(module, torch.nn.SyncBatchNorm) or not ranks.is_available() or not ranks.is_initialized():
        return Sync(None)
    return Sync(True if module.process_group is None else module.process_group)


def _no_sample(layer: _Layer) -> torch.Tensor:
    """Return an empty batch for a layer."""
    axis = layer.config.axis
    shape = [0] * max(2, axis + 1 if axis >= 0 else -axis)
    shape[axis] = layer.module.num_features
    empty: torch.Tensor = layer.module.running_mean.new_empty(shape)
    return empty


def _forward_of(layer: _Layer) -> Callable[..., Any]:
    """Return what a layer does in the pass: normalize by the batch, and collect."""
    module, config, comm, statistics = layer
    params = Params(module.weight, module.bias)
    towards = module._state(config) if config.renorm is not None else None

    def forward(input: Any, mask: Any = None, lengths: Any = None) -> Any:
        module._check_input_dim(input)
        statistics.update(input, mask=mask, lengths=lengths)
        return batch_norm(
            input, params, config, state=towards, mask=mask, lengths=lengths, comm=comm, name=statistics.name
        )[0]

    return forward


@contextlib.contextmanager
def _left_as_they_were(model: torch.nn.Module) -> Iterator[None]:
    """Have modules run as at inference, and put back what a pass may change in them, also if it fails."""
    modules: list[Any] = list(model.modules())
    modes = [(m, m.training, vars(m).get("forward")) for m in modules]
    held = [(m, name, b) for m in modules for name, b in m._buffers.items() if b is not None]
    buffers = [(m, name, b, None if b.is_inference() else b._version, b.clone()) for m, name, b in held]
    devices = {v.device.index for v in (*model.parameters(), *model.buffers()) if v.device.type == "cuda"}
    # A compiled model would go on with the code that it compiled; the oldest torch that is served cannot be told so.
    stance = getattr(torch.compiler, "set_stance", None)
    eagerly = contextlib.nullcontext() if stance is None else stance("force_eager")
    try:
        with torch.random.fork_rng(sorted(devices)), eagerly:
            for module in modules:
                module.training = False
            yield
    finally:
        for module, training, forward in modes:
            module.training = training
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward
        with torch.no_grad():
            for module, name, buffer, version, before in buffers:
                module._buffers[name] = buffer
                if version is None or buffer._version != version:
                    buffer.copy_(before)
