"""Numbers in memory and in registers: every kernel computes in float64 and stores what the array holds.

Compiled code sees bfloat16 as uint16 and float16 as int16 (`as_storage`), so that a type tells how to read the
bits; NumPy has no bfloat16 of its own, and numba no float16 on a CPU. Of the liberties that compilers take with
floating point only two are granted, where they are meant: `add` and `add_product` may be reordered, which is
what lets a sum use vectors, and a product may be fused with the addition behind it.
"""

import functools
from typing import Any

import numpy
from llvmlite import ir
from numba import njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from bnspec_backends.cpu.notice import notice

__all__ = ["add", "add_product", "affine", "as_storage", "compiled", "compiles_half", "narrow", "widen"]

#: How NumPy's view of each dtype is named in compiled code.
_STORAGE = {"float32": numpy.float32, "float64": numpy.float64, "bfloat16": numpy.uint16, "float16": numpy.int16}

#: Makes a function of compiled code from one that writes its instructions; what it returns takes other arguments.
_instructions: Any = intrinsic

_DOUBLE, _SINGLE, _HALF = ir.DoubleType(), ir.FloatType(), ir.HalfType()
_I32, _I16 = ir.IntType(32), ir.IntType(16)


def compiled(function: Any) -> Any:
    """Compile at the first call, to run without the interpreter lock, and keep the code on disk where that can be."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside the source nor in the user's cache folder can a file be written
        notice.kept = False
        return njit(**options)(function)


def as_storage(x: Any) -> Any:
    """View an array as compiled code takes it."""
    return x.view(_STORAGE[x.dtype.name])


@functools.cache
def compiles_half() -> bool:
    """Whether the processor that is compiled for converts float16; else that would call a library that is not there."""
    target: Any = cpu_target.target_context
    triple, _, features = target.codegen().magic_tuple()
    return not triple.startswith(("x86", "i386", "i686")) or "+f16c" in features.split(",")


@_instructions  # type: ignore[untyped-decorator]
def widen(context: Any, value: Any) -> Any:
    """The float64 value of a stored number, exactly."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (kind,), (bits,) = signature.args, arguments
        if kind == types.float64:
            return bits
        if kind == types.uint16:
            bits = builder.bitcast(builder.shl(builder.zext(bits, _I32), ir.Constant(_I32, 16)), _SINGLE)
        elif kind == types.int16:
            bits = builder.fpext(builder.bitcast(bits, _HALF), _SINGLE)
        return builder.fpext(bits, _DOUBLE)

    return types.float64(value), generate


@_instructions  # type: ignore[untyped-decorator]
def narrow(context: Any, value: Any, array: Any) -> Any:
    """What an array stores of a float64 value: to nearest, ties to even; 16 bits by way of float32 [BN-PREC-2]."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, number = signature.return_type, arguments[0]
        if kind == types.float64:
            return number
        number = builder.fptrunc(number, _SINGLE)
        if kind == types.float32:
            return number
        if kind == types.int16:
            return builder.bitcast(builder.fptrunc(number, _HALF), _I16)
        bits = builder.bitcast(number, _I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(_I32, 16)), ir.Constant(_I32, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(_I32, 0x7FFF)))
        magnitude = builder.and_(bits, ir.Constant(_I32, 0x7FFFFFFF))
        nan = builder.icmp_unsigned(">", magnitude, ir.Constant(_I32, 0x7F800000))
        rounded = builder.select(nan, builder.or_(bits, ir.Constant(_I32, 0x400000)), rounded)
        return builder.trunc(builder.lshr(rounded, ir.Constant(_I32, 16)), _I16)

    return array.dtype(value, array), generate


@_instructions  # type: ignore[untyped-decorator]
def add(context: Any, total: Any, value: Any) -> Any:
    """``total + value``, a link of a sum that may be taken in any order."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("reassoc", "nsz"))

    return types.float64(types.float64, types.float64), generate


@_instructions  # type: ignore[untyped-decorator]
def add_product(context: Any, total: Any, a: Any, b: Any) -> Any:
    """``total + a*b``, a link of a sum that may be taken in any order, rounded once where the processor can."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, a, b = arguments
        product = builder.fmul(a, b, flags=("contract",))
        return builder.fadd(total, product, flags=("reassoc", "nsz", "contract"))

    return types.float64(types.float64, types.float64, types.float64), generate


@_instructions  # type: ignore[untyped-decorator]
def affine(context: Any, value: Any, scale: Any, shift: Any) -> Any:
    """``value*scale + shift``, rounded once where the processor can."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, scale, shift = arguments
        return builder.fadd(builder.fmul(value, scale, flags=("contract",)), shift, flags=("contract",))

    return types.float64(types.float64, types.float64, types.float64), generate
