"""Putting our modules in the place of torch's in a model, and torch's back."""

import warnings
from typing import Any, TypeVar

import torch

from bnspec._errors import refusal
from bnspec_backends.modules.torch.batch_norm import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from bnspec_backends.modules.torch.buffers import COUNTED
from bnspec_backends.modules.torch.lazy import LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d
from bnspec_backends.modules.torch.options import Options, configuration
from bnspec_backends.modules.torch.ranks import Sync
from bnspec_backends.modules.torch.specified import SpecifiedNorm

__all__ = ["OURS", "replace", "restore"]

_Model = TypeVar("_Model", bound=torch.nn.Module)

#: Ours for torch's. Only these very classes: a subclass of a user's own does something else.
OURS: dict[type, type[SpecifiedNorm]] = {
    torch.nn.BatchNorm1d: BatchNorm1d,
    torch.nn.BatchNorm2d: BatchNorm2d,
    torch.nn.BatchNorm3d: BatchNorm3d,
    torch.nn.SyncBatchNorm: BatchNorm,
    torch.nn.LazyBatchNorm1d: LazyBatchNorm1d,
    torch.nn.LazyBatchNorm2d: LazyBatchNorm2d,
    torch.nn.LazyBatchNorm3d: LazyBatchNorm3d,
}
_THEIRS: dict[type, type] = {ours: theirs for theirs, ours in OURS.items() if ours is not BatchNorm}


def replace(model: _Model, *, sync: Any = None, **options: Any) -> _Model:
    """Make every batch normalization of a model one of bnspec's, in place, and return the model.

    The modules stay the objects that they are and change their class. So parameters, buffers, hooks, the optimizer and
    every reference to a module keep what they have, to the bit. (torch's ``convert_sync_batchnorm`` makes new modules
    instead: hooks and attributes of a user's own are lost, and references from elsewhere still mean the old ones.)

    Parameters
    ----------
    model : torch.nn.Module
        With BatchNorm1d, 2d or 3d, SyncBatchNorm, or lazy ones. Modules of bnspec in it get the new options.
    sync : optional
        As in `BatchNorm2d`. A SyncBatchNorm joins the ranks of its own process group unless told otherwise.
    **options
        Of all of them, such as ``virtual_batch_size=32``.

    Raises
    ------
    TypeError, ValueError
        For options that do not exist or exclude each other; the model is not changed then.

    Warns
    -----
    UserWarning
        For modules that derive from torch's batch normalization and are none of torch's own: they stay.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    >>> replace(model, virtual_batch_size=4)[1].virtual_batch_size
    4
    >>> type(restore(model)[1]) is torch.nn.BatchNorm1d
    True
    """
    chosen, shared = Options.of(options, "replace"), Sync(sync)
    found = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for module in found:
        if isinstance(module, SpecifiedNorm) or type(module) in OURS:
            _refuse_impossible(module, chosen)
    others = set()
    for module in found:
        if type(module) in OURS:
            _become_ours(module, chosen, shared)
        elif isinstance(module, SpecifiedNorm):
            module._begin(chosen, shared)
        else:
            others.add(type(module).__qualname__)
    if others:
        warnings.warn(
            f"modules of the classes {', '.join(sorted(others))} were left as they are: they derive from torch's batch "
            "normalization, and what else they do is not known",
            stacklevel=2,
        )
    return model


def restore(model: _Model) -> _Model:
    """Make every module of bnspec in a model torch's own again, in place, and return the model.

    Weights, `running_mean`, `running_var` and `num_batches_tracked` stay; options and buffers that torch has not are
    dropped.

    Raises
    ------
    ValueError
        For a module whose channels lie where torch's module does not look for them; the model is not changed then.
    """
    found: list[Any] = [m for m in model.modules() if isinstance(m, SpecifiedNorm)]
    for module in found:
        if module.axis != 1 or not ("_theirs" in vars(module) or type(module) in _THEIRS):
            raise refusal(
                ValueError,
                "BN-SHAPE-2",
                got=f"{type(module).__name__} with axis={module.axis}",
                expected="a module that took the place of one of torch's, or of a class that torch has too",
                do="Replace it by hand.",
            )
    for module in found:
        own: dict[str, Any] = vars(module)
        theirs: Any = own.pop("_theirs", None) or _THEIRS[type(module)]
        if theirs is torch.nn.SyncBatchNorm:
            own.setdefault("process_group", None)
        for name in (*vars(Options()), "_sync", "_config", "axis"):
            own.pop(name, None)
        for name in ("count", "stddev", "renorm_mean", "renorm_stddev"):
            module._buffers.pop(f"running_{name}", None)
        module.__class__ = theirs
    return model


def _become_ours(module: Any, options: Options, sync: Sync) -> None:
    theirs = type(module)
    if theirs is torch.nn.SyncBatchNorm and sync.given is None:
        sync = Sync(True if module.process_group is None else module.process_group)
    module.__class__ = OURS[theirs]
    vars(module)["_theirs"] = theirs
    module._begin(options, sync)


def _refuse_impossible(module: Any, options: Options) -> None:
    """Build the configuration that a module would have, before anything changes."""
    values = tuple(vars(options).values())
    axis = getattr(module, "axis", 1)
    config = configuration(
        axis, module.eps, module.momentum, module.weight is not None, module.bias is not None, values
    )
    batches = module.num_batches_tracked
    if config.averaging in COUNTED and batches is not None and not batches.is_meta and bool(batches):
        raise refusal(
            ValueError,
            "BN-RUN-6" if config.averaging == "pooled" else "BN-RUN-7",
            got=f"averaging={config.averaging!r} for a {type(module).__name__} that has seen {int(batches)} batches",
            expected="statistics that know what they are an average of",
            do="Leave averaging out, or call reset_running_stats() before.",
        )
