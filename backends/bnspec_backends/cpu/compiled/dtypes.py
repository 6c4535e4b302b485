"""Numbers in memory and in registers: float64, or elementwise float32, in registers, and what an array holds in memory.

Compiled code sees bfloat16 as uint16 and float16 as int16 (`as_storage`), so that a type tells how to read the
bits; NumPy has no bfloat16 of its own, and numba no float16 on a CPU. The compiler may change floating point in two
ways only, where the code says so: `add` and `add_product` may be reordered, which lets a sum use vectors, and a product
may be fused with the addition behind it.
"""

import functools
import hashlib
import importlib.resources
import sys
from typing import Any

import numpy
from llvmlite import ir
from numba import config, njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from bnspec_backends.cpu.compiled.code_cache import CodeCache
from bnspec_backends.cpu.compiled.compile_notice import notice

if getattr(config, "DISABLE_JIT", False):
    raise ImportError("numba is told not to compile, by NUMBA_DISABLE_JIT")

__all__ = [
    "DOUBLE",
    "SINGLE",
    "add",
    "add_product",
    "affine",
    "as_storage",
    "compiled",
    "compiles_half",
    "inlined",
    "instructions",
    "internal",
    "kept",
    "narrow",
    "narrowed",
    "narrowed_pairs",
    "storage_of",
    "widen",
    "widened",
    "widened_pairs",
]

#: Type that stands for each dtype in compiled code.
_STORAGE = {"float32": numpy.float32, "float64": numpy.float64, "bfloat16": numpy.uint16, "float16": numpy.int16}

_KINDS: dict[Any, Any] = {}  # the same by dtype: NumPy takes longer to find a dtype's name than most of a small call

#: Decorator of a function that writes LLVM instructions; compiled code calls it with other arguments.
instructions: Any = intrinsic

#: Types of numbers in registers.
DOUBLE, SINGLE = ir.DoubleType(), ir.FloatType()
_HALF, _I32, _I16 = ir.HalfType(), ir.IntType(32), ir.IntType(16)

_UPPER = 0xFFFF0000  # the upper half of a word


#: Division by zero gives an infinity or NaN, and no index is checked.
_njit: Any = functools.partial(njit, error_model="numpy", boundscheck=False)


def compiled(function: Any) -> Any:
    """Compile a kernel at its first call, to run without the interpreter lock; keep the code on disk if possible."""
    kernel = _njit(nogil=True, no_cfunc_wrapper=True)(function)
    kept(kernel, function)
    return kernel


def kept(kernel: Any, function: Any, *packages: str) -> None:
    """Keep on disk what will be compiled of a function, if possible; it is made from these packages too."""
    try:
        kernel._cache = CodeCache(function, _stamp(*packages))
    except Exception as error:  # neither beside the source nor in the user's cache folder can a file be written
        notice.unkept("any folder", error)


@functools.cache
def _stamp(*packages: str) -> str:
    """Return a digest of all that compiled code was made from; numba looks at the file of the function only.

    Raises
    ------
    FileNotFoundError
        The sources are not there, so that old code cannot be told from new.
    """
    folder = importlib.resources.files("bnspec_backends.cpu")
    files = [*folder.joinpath("compiled").iterdir(), folder.joinpath("plan.py")]
    files += [path for package in packages for path in importlib.resources.files(package).iterdir()]
    sources = sorted((path.name, path.read_bytes()) for path in files if path.name.endswith(".py"))
    if not sources:
        raise FileNotFoundError("the sources of this package are not there")
    return hashlib.sha256(repr(sources).encode()).hexdigest()


def internal(function: Any) -> Any:
    """Compile a function for compiled callers only, into each of them, without the wrapper that Python would need.

    As a function of its own it would be a symbol that several kernels have a copy of, each made beside other code. A
    process would link the copy that it met first, and sums that may be reordered would differ in their last bits with
    the order of the calls, and between a process that compiled a kernel and one that loaded it.
    """
    return _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)(function)


def inlined(function: Any) -> Any:
    """Compile a function into each caller: for code called once a row, where passing arrays costs more than the row."""
    return _njit(inline="always")(function)


def storage_of(dtype: str) -> Any:
    """Return the type that stands for a dtype in compiled code."""
    return _STORAGE[dtype]


def as_storage(x: Any) -> Any:
    """View an array as the type that stands for its dtype in compiled code."""
    kind = _KINDS.get(x.dtype)
    if kind is None:
        kind = _KINDS[x.dtype] = numpy.dtype(_STORAGE[x.dtype.name])
    return x if kind is x.dtype else x.view(kind)


@functools.cache
def compiles_half() -> bool:
    """Return whether the processor converts float16; else the code would call a library that is not there."""
    target: Any = cpu_target.target_context
    triple, _, features = target.codegen().magic_tuple()
    return not triple.startswith(("x86", "i386", "i686")) or "+f16c" in features.split(",")


def widened(builder: Any, kind: Any, bits: Any, lanes: int = 0, number: Any = DOUBLE) -> Any:
    """Write the instructions that turn stored numbers into float64 or float32: one, or a vector of ``lanes``."""
    single, half, i32 = (_vector(t, lanes) for t in (SINGLE, _HALF, _I32))
    if kind == types.uint16:
        bits = builder.bitcast(builder.shl(builder.zext(bits, i32), _constant(i32, 16)), single)
    elif kind == types.int16:
        bits = builder.fpext(builder.bitcast(bits, half), single)
    wide = _vector(number, lanes)
    return bits if bits.type == wide else builder.fpext(bits, wide)


def narrowed(builder: Any, kind: Any, number: Any, lanes: int = 0) -> Any:
    """Write the instructions that round float64 or float32 to stored numbers, to nearest, ties to even."""
    single, half, i32, i16 = (_vector(t, lanes) for t in (SINGLE, _HALF, _I32, _I16))
    if kind == types.float64:
        return number
    if number.type != single:
        number = builder.fptrunc(number, single)
    if kind == types.float32:
        return number
    if kind == types.int16:
        return builder.bitcast(builder.fptrunc(number, half), i16)
    nan = builder.fcmp_unordered("uno", number, number)  # some of these would become infinite or 0 by rounding
    rounded = builder.select(nan, _constant(i32, 0x7FC00000), _rounded(builder, number))
    return builder.trunc(builder.lshr(rounded, _constant(i32, 16)), i16)


def widened_pairs(builder: Any, bits: Any, lanes: int) -> list[Any]:
    """Write the instructions that turn bfloat16 into float32: the elements of even places, then those of odd ones.

    A bfloat16 is the upper half of a float32, so two neighbours become numbers by one instruction each.
    """
    i32, single = _vector(_I32, lanes // 2), _vector(SINGLE, lanes // 2)
    words = builder.bitcast(bits, i32)
    lower, upper = builder.shl(words, _constant(i32, 16)), builder.and_(words, _constant(i32, _UPPER))
    return [builder.bitcast(v, single) for v in _in_order(lower, upper)]


def narrowed_pairs(builder: Any, numbers: list[Any], lanes: int) -> Any:
    """Write the instructions that round what `widened_pairs` gives to bfloat16.

    A NaN stays one only if the lower half of its bits is 0. So is that of all that come from a bfloat16, and of those
    that a processor makes of other numbers.
    """
    i32 = _vector(_I32, lanes // 2)
    lower, upper = _in_order(*(_rounded(builder, v) for v in numbers))
    lower, upper = builder.lshr(lower, _constant(i32, 16)), builder.and_(upper, _constant(i32, _UPPER))
    return builder.bitcast(builder.or_(lower, upper), _vector(_I16, lanes))


def _in_order(first: Any, second: Any) -> tuple[Any, Any]:
    """Return the lower and the upper half of a word's neighbours for its first and second, and the other way round."""
    return (first, second) if sys.byteorder == "little" else (second, first)


def _rounded(builder: Any, number: Any) -> Any:
    """Write the instructions that round float32 to bfloat16, in the upper half of a word."""
    kind = _vector(_I32, number.type.count if isinstance(number.type, ir.VectorType) else 0)
    bits = builder.bitcast(number, kind)
    odd = builder.and_(builder.lshr(bits, _constant(kind, 16)), _constant(kind, 1))
    return builder.add(bits, builder.add(odd, _constant(kind, 0x7FFF)))


def _vector(kind: Any, lanes: int) -> Any:
    return ir.VectorType(kind, lanes) if lanes else kind


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


@instructions  # type: ignore[untyped-decorator]
def widen(context: Any, value: Any) -> Any:
    """Return the float64 value of a stored number, exactly."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return widened(builder, signature.args[0], arguments[0])

    return types.float64(value), generate


@instructions  # type: ignore[untyped-decorator]
def narrow(context: Any, value: Any, array: Any) -> Any:
    """Round a float64 value to an array's type; to 16 bits by way of float32 [BN-PREC-2]."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return narrowed(builder, signature.return_type, arguments[0])

    return array.dtype(value, array), generate


@instructions  # type: ignore[untyped-decorator]
def add(context: Any, total: Any, value: Any) -> Any:
    """Return ``total + value``, as a term of a sum that may be taken in any order."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("reassoc", "nsz"))

    return types.float64(types.float64, types.float64), generate


@instructions  # type: ignore[untyped-decorator]
def add_product(context: Any, total: Any, a: Any, b: Any) -> Any:
    """Return ``total + a*b``, as a term of a sum that may be taken in any order; rounded once if the processor can."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, a, b = arguments
        product = builder.fmul(a, b, flags=("contract",))
        return builder.fadd(total, product, flags=("reassoc", "nsz", "contract"))

    return types.float64(types.float64, types.float64, types.float64), generate


@instructions  # type: ignore[untyped-decorator]
def affine(context: Any, value: Any, scale: Any, shift: Any) -> Any:
    """Return ``value*scale + shift``, rounded once if the processor can."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, scale, shift = arguments
        return builder.fadd(builder.fmul(value, scale, flags=("contract",)), shift, flags=("contract",))

    return types.float64(types.float64, types.float64, types.float64), generate
