"""Modes of libraries: whether operations on arrays run now, are recorded, or are replaced by something else.

A fast path, or a layer that keeps what it computed, must not decide by the arrays alone. Inside ``torch.jit.trace``
or `torch.func.grad` a tensor can look as any other while everything done with it is to be recorded. Seven questions
are answered here, without importing a library that was not imported before:

- `transformation`: do arrays stand for values that are not there, or not yet there?
- `observer`: is somebody to see each operation, whether the values are there or not?
- `differentiated`: may the library differentiate what is done with them?
- `readable`: may the memory of torch's tensors be read past torch?
- `recording`: does torch write down operators, to run them later or not at all?
- `exporting`: is what it writes down to be read without bnspec?
- `one_node`: may what is done with torch's tensors be one node of its graph?
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from bnspec._arrays import Array, array_namespace, jax_tracer
from bnspec._dtypes import dtype_name

__all__ = [
    "differentiated",
    "exporting",
    "in_graph",
    "observer",
    "one_node",
    "readable",
    "recording",
    "transformation",
    "untraced",
    "values",
]

_R = TypeVar("_R")

#: Which transformation of JAX makes tracers of a class; every other class is of some other transformation.
_TRACERS = {
    "BatchTracer": "jax.vmap",
    "DynamicJaxprTracer": "jax.jit",
    "JVPTracer": "jax.grad or jax.jvp",
    "LinearizeTracer": "jax.grad or jax.jvp",
}


def transformation(*arrays: Array | None) -> str | None:
    """Name what traces or transforms arrays, so that they hold no values that may be read or kept.

    JAX's transformations show in the arrays alone: ask about results, since under `jax.jit` those of plain arrays
    are traced too. torch's show in the mode the thread is in, whatever the arrays are.

    Parameters
    ----------
    *arrays : array or None
        Of any library.

    Returns
    -------
    str or None
        The transformation in words, such as "jax.jit" or "torch.func.vmap"; None where values are values.

    Examples
    --------
    >>> import numpy as np
    >>> transformation(np.ones(2)) is None
    True
    """
    tracer = jax_tracer()
    for v in arrays:
        if isinstance(v, tracer):
            return _TRACERS.get(type(v).__name__, "a transformation of JAX")
    torch = _torch_of(arrays)
    if torch is None:
        return None
    found = _recorder(torch) if _busy(torch) else None
    return found or next((found for v in arrays if (found := _stand_in(torch, v))), None)


def observer(*arrays: Array | None) -> str | None:
    """Name what is to see each operation on arrays: a transformation, or a mode or class that watches torch.

    Parameters
    ----------
    *arrays : array or None
        Of any library.

    Returns
    -------
    str or None
        In words, such as "torch.func.grad", "FlopCounterMode" or "torch.autograd.forward_ad"; None for nobody.

    Examples
    --------
    >>> import numpy as np
    >>> observer(np.ones(2)) is None
    True
    """
    found = transformation(*arrays)
    torch = _torch_of(arrays)
    if found is not None or torch is None:
        return found
    modes = (
        []
        if not _busy(torch)
        else [*_dispatch_modes(), *(m for m in _function_modes(torch) if not _is_device(torch, m))]
    )
    if modes:
        return type(modes[-1]).__name__
    if torch.autograd.forward_ad._current_level >= 0:
        return "torch.autograd.forward_ad"
    kinds = (torch.Tensor, torch.nn.Parameter)
    return next((type(v).__name__ for v in arrays if isinstance(v, torch.Tensor) and type(v) not in kinds), None)


def differentiated(*arrays: Array | None) -> bool:
    """Return whether the library may differentiate what is done with arrays now, as far as can be told beforehand.

    A tracer of JAX may be differentiated later, whatever made it; so may what a mode of torch records.

    Parameters
    ----------
    *arrays : array or None
        Of any library.
    """
    tracer = jax_tracer()
    if any(isinstance(v, tracer) for v in arrays):
        return True
    torch = _torch_of(arrays)
    if torch is None:
        return False
    return in_graph(*arrays) or _busy(torch)


def in_graph(*arrays: Array | None) -> bool:
    """Return whether torch keeps a graph of what is done with one of the arrays.

    Parameters
    ----------
    *arrays : array or None
        Of any library; False for those of others than torch.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.is_grad_enabled():
        return False
    tensors: list[Any] = [v for v in arrays if isinstance(v, torch.Tensor)]
    return any(v.requires_grad for v in tensors)


def readable(*tensors: Any) -> bool:
    """Return whether the memory of torch's tensors may be read and results made of it, since nobody is to see it.

    So it is for tensors of torch's own class in the memory of the host while no mode of torch is active. Modes that
    only watch count too: what is done past torch they would miss.

    Parameters
    ----------
    *tensors : tensor or None
        Only torch's, of which one at least is no None.
    """
    torch = sys.modules["torch"]
    if _busy(torch):
        return False
    plain = _plain_keys()
    keys_of = torch._C._dispatch_keys
    for v in tensors:
        if v is not None and not (type(v) in plain[0] and keys_of(v).raw_repr() in plain[1]):
            return False
    return True


def recording(x: Any) -> bool:
    """Return whether torch writes operators into a graph, or runs them on place holders, now that x comes by.

    So it does under ``torch.compile`` and export, ``make_fx`` and a ``FakeTensorMode``; not in ``torch.jit.trace``,
    whose graphs are to be read without bnspec, and not in torch.func, which has rules for operations.

    Parameters
    ----------
    x : array
        Of any library, or anything else.

    Examples
    --------
    >>> import numpy as np
    >>> recording(np.ones(2))
    False
    """
    torch = _torch_of((x,))
    if torch is None:
        return False
    if torch.compiler.is_compiling():
        return True
    if not torch._C._len_torch_dispatch_stack() or torch._C._functorch.maybe_current_level() is not None:
        return False
    return any(getattr(mode, "_mode_key", None) is not None for mode in _dispatch_modes())


def exporting(x: Any) -> bool:
    """Return whether what torch records of x is to be read without bnspec: by export, ONNX or ``torch.jit.trace``.

    Parameters
    ----------
    x : array
        Of any library, or anything else.

    Examples
    --------
    >>> import numpy as np
    >>> exporting(np.ones(2))
    False
    """
    torch = _torch_of((x,))
    if torch is None:
        return False
    asked = getattr(torch.compiler, "is_exporting", None)  # newer than the oldest torch that is served
    if asked is not None and asked():
        return True
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def one_node(*tensors: Any) -> bool:
    """Return whether what is done with torch's tensors may become one node of torch's graph, if it keeps one.

    So it may while the graph alone records: a mode that watches sees what happens inside of a node, forward and
    backward, but a transformation, forward mode and a tensor's own class have rules for operations, not for nodes.

    Parameters
    ----------
    *tensors : tensor or None
        Only torch's, of which one at least is no None.
    """
    if readable(*tensors):
        return True
    torch = sys.modules["torch"]
    kinds = (torch.Tensor, torch.nn.Parameter)
    if torch.compiler.is_compiling() or torch.autograd.forward_ad._current_level >= 0:
        return False
    return transformation(*tensors) is None and all(v is None or type(v) in kinds for v in tensors)


def values(x: Array) -> list[Any] | None:
    """Return x's elements as Python scalars, or None while a library traces or transforms and there are no values.

    On a device this waits for the result, so only the checks that need it ask.
    """
    if transformation(x) is not None:
        return None
    if hasattr(x, "full_tensor"):  # torch's tensors over a mesh of processes have elements as a whole only
        x = x.full_tensor()
    flat = array_namespace(x).reshape(x, (-1,))
    if hasattr(flat, "tolist"):  # one copy from a device; the standard itself knows only one for each element
        return list(flat.tolist())
    kind = dtype_name(x.dtype)
    scalar = bool if kind == "bool" else int if "int" in kind else float
    return [scalar(flat[i]) for i in range(flat.shape[0])]


def untraced(check: Callable[..., _R], *given: Any, **more: Any) -> _R:
    """Do a check out of sight of ``torch.jit.trace``, to which the extents of a tensor are tensors to be recorded.

    Parameters
    ----------
    check : callable
        Looks at shapes and dtypes and computes nothing of the result.
    *given, **more
        Its arguments.

    Examples
    --------
    >>> untraced(max, 1, 2)
    2
    """
    c: Any = getattr(sys.modules.get("torch"), "_C", None)
    if c is None or sys.modules["torch"].compiler.is_compiling() or (state := c._get_tracing_state()) is None:
        return check(*given, **more)
    c._set_tracing_state(None)
    try:
        return check(*given, **more)
    finally:
        c._set_tracing_state(state)


def _busy(torch: Any) -> bool:
    """Return whether any mode of torch is active; made to be asked often."""
    if torch.compiler.is_compiling():  # first: the others cannot be asked while torch compiles
        return True
    c = torch._C
    return bool(
        c._len_torch_dispatch_stack()
        or c._functorch.maybe_current_level() is not None
        or c._get_tracing_state() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or (c._len_torch_function_stack() and not all(_is_device(torch, m) for m in _function_modes(torch)))
    )


@functools.cache
def _plain_keys() -> tuple[tuple[type, ...], frozenset[int]]:
    """The classes of tensors that are no more than their memory, and the dispatch keys of those on the host.

    Other keys stand for another device or layout, for a wrapper of a transformation, or for zeros without memory.
    Asked for only while no mode is active, under which a new tensor would have keys of its own.
    """
    torch: Any = sys.modules["torch"]
    keys = set()
    for inference in (False, True):
        with torch.inference_mode(inference):
            keys.add(torch._C._dispatch_keys(torch.empty(0, device="cpu")).raw_repr())
    return (torch.Tensor, torch.nn.Parameter), frozenset(keys)


def _torch_of(arrays: tuple[Array | None, ...]) -> Any:
    """Return torch if it was imported and one of the arrays is its own."""
    torch: Any = sys.modules.get("torch")
    kind = getattr(torch, "Tensor", None)  # None while torch is being imported
    return torch if kind is not None and any(isinstance(v, kind) for v in arrays) else None


def _recorder(torch: Any) -> str | None:
    """Name the transformation of torch that the thread is in."""
    if torch.compiler.is_compiling():
        return "torch.compile or torch.export"
    level = torch._C._functorch.peek_interpreter_stack()
    if level is not None:
        return f"torch.func.{level.key().name.lower()}"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    for mode in _dispatch_modes():  # torch's own three: a fake device, recording into a graph, and functionalizing
        if getattr(mode, "_mode_key", None) is not None:
            return type(mode).__name__
    for mode in _function_modes(torch):
        if type(mode).__module__.startswith("torch.fx."):
            return type(mode).__name__
    return None


def _stand_in(torch: Any, v: Any) -> str | None:
    """Name what made a tensor without values of its own, where it shows in the tensor."""
    if type(v) in (torch.Tensor, torch.nn.Parameter):
        if torch._C._functorch.is_legacy_batchedtensor(v):
            return "torch.autograd.grad of a batch"
        if torch._C._functorch.is_functorch_wrapped_tensor(v):  # it outlived its level
            return "torch.func"
        return None
    if isinstance(v, torch.Tensor) and type(v).__name__ in ("FakeTensor", "FunctionalTensor"):
        return type(v).__name__
    return None


def _dispatch_modes() -> list[Any]:
    """The active modes that see each operation, the innermost last."""
    module: Any = sys.modules.get("torch.utils._python_dispatch")
    return [] if module is None else list(module._get_current_dispatch_mode_stack())


def _function_modes(torch: Any) -> list[Any]:
    """The active modes that see each call of a function, the innermost last."""
    return list(torch.overrides._get_current_function_mode_stack())


def _is_device(torch: Any, mode: Any) -> bool:
    """Return whether a mode is that of a default device, which is not asked about memory that is there."""
    return isinstance(mode, torch.utils._device.DeviceContext)
