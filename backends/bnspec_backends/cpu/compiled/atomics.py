"""Integers that threads share without the interpreter lock, and locks that put a thread to sleep.

Each function is a few LLVM instructions on element i of an array of int64. The locks are Python's own
(``PyThread_allocate_lock``). Every platform has them, and no interpreter lock is needed to use them. A lock is given by
its address, as is the function that takes or frees it.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bnspec_backends.cpu.compiled.dtypes import instructions

__all__ = ["add", "free", "load", "pause", "replace", "store", "swap", "wait"]

_INT, _LONG, _ORDER = ir.IntType(32), ir.IntType(64), "seq_cst"


@instructions  # type: ignore[untyped-decorator]
def load(context: Any, shared: Any, i: Any) -> Any:
    """Return the value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(context, builder, signature, arguments), _ORDER, 8)

    return types.int64(shared, types.int64), generate


@instructions  # type: ignore[untyped-decorator]
def store(context: Any, shared: Any, i: Any, value: Any) -> Any:
    """Set the value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _place(context, builder, signature, arguments), _ORDER, 8)

    return types.void(shared, types.int64, types.int64), generate


@instructions  # type: ignore[untyped-decorator]
def swap(context: Any, shared: Any, i: Any, value: Any) -> Any:
    """Set the value; return the one before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("xchg", _place(context, builder, signature, arguments), arguments[2], _ORDER)

    return types.int64(shared, types.int64, types.int64), generate


@instructions  # type: ignore[untyped-decorator]
def add(context: Any, shared: Any, i: Any, value: Any) -> Any:
    """Add to the value; return the one before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _place(context, builder, signature, arguments), arguments[2], _ORDER)

    return types.int64(shared, types.int64, types.int64), generate


@instructions  # type: ignore[untyped-decorator]
def replace(context: Any, shared: Any, i: Any, old: Any, new: Any) -> Any:
    """Set the value if it is still the old one; return whether it was."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature, arguments)
        return builder.extract_value(builder.cmpxchg(place, arguments[2], arguments[3], _ORDER, _ORDER), 1)

    return types.boolean(shared, types.int64, types.int64, types.int64), generate


@instructions  # type: ignore[untyped-decorator]
def pause(context: Any) -> Any:
    """Tell the processor that this loop waits, on processors that have an instruction for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if builder.module.triple.startswith("x86_64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse2.pause"), [])

    return types.void(), generate


@instructions  # type: ignore[untyped-decorator]
def wait(context: Any, acquire: Any, lock: Any) -> Any:
    """Sleep until the lock is free, and take it; by the address of ``PyThread_acquire_lock``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_INT, [_LONG, _INT]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [arguments[1], ir.Constant(_INT, 1)])

    return types.void(types.int64, types.int64), generate


@instructions  # type: ignore[untyped-decorator]
def free(context: Any, release: Any, lock: Any) -> Any:
    """Free a taken lock, also one that another thread took; by the address of ``PyThread_release_lock``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_LONG]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])

    return types.void(types.int64, types.int64), generate


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])
