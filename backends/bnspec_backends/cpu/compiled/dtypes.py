"""Numbers in memory and in registers: every kernel computes in float64 and stores what the array holds.

Compiled code sees bfloat16 as uint16 and float16 as int16 (`as_storage`), so that a type tells how to read the
bits; NumPy has no bfloat16 of its own, and numba no float16 on a CPU. Of the liberties that compilers take with
floating point only two are granted, where they are meant: `add` and `add_product` may be reordered, which is
what lets a sum use vectors, and a product may be fused with the addition behind it.
"""

import functools
import hashlib
import importlib.resources
from typing import Any

import numpy
from llvmlite import ir
from numba import config, njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from bnspec_backends.cpu.compiled.code_cache import Kept
from bnspec_backends.cpu.compiled.compile_notice import notice

if getattr(config, "DISABLE_JIT", False):
    raise ImportError("numba is told not to compile, by NUMBA_DISABLE_JIT")

__all__ = [
    "add",
    "add_product",
    "affine",
    "as_storage",
    "compiled",
    "compiles_half",
    "inlined",
    "instructions",
    "internal",
    "narrow",
    "narrowed",
    "widen",
    "widened",
]

#: How NumPy's view of each dtype is named in compiled code.
_STORAGE = {"float32": numpy.float32, "float64": numpy.float64, "bfloat16": numpy.uint16, "float16": numpy.int16}

_KINDS: dict[Any, Any] = {}  # the same by dtype: its name takes NumPy longer to find than most of a small call

#: Makes a function of compiled code from one that writes its instructions; what it returns takes other arguments.
instructions: Any = intrinsic

_DOUBLE, _SINGLE, _HALF = ir.DoubleType(), ir.FloatType(), ir.HalfType()
_I32, _I16 = ir.IntType(32), ir.IntType(16)


#: Divisions by zero give what the formats say, and no index is checked.
_njit: Any = functools.partial(njit, error_model="numpy", boundscheck=False)


def compiled(function: Any) -> Any:
    """Compile at the first call, to run without the interpreter lock, and keep the code on disk where that can be."""
    kernel = _njit(nogil=True)(function)
    try:
        kernel._cache = Kept(function, _stamp())
    except Exception as error:  # neither beside the source nor in the user's cache folder can a file be written
        notice.unkept("any folder", error)
    return kernel


#: Modules that call compiled code and hold none.
_CALLERS = ("kernels.py", "operations.py")


@functools.cache
def _stamp() -> str:
    """Return a digest of all that compiled code was made from; numba looks at the file of the function only.

    Raises
    ------
    FileNotFoundError
        The sources are not there, so that nobody could tell whether code was made from these.
    """
    folder = importlib.resources.files("bnspec_backends.cpu")
    files = [*folder.joinpath("compiled").iterdir(), folder.joinpath("plan.py")]
    sources = sorted((path.name, path.read_bytes()) for path in files if path.name.endswith(".py"))
    sources = [source for source in sources if source[0] not in _CALLERS]
    if not sources:
        raise FileNotFoundError("the sources of this package are not there")
    return hashlib.sha256(repr(sources).encode()).hexdigest()


def internal(function: Any) -> Any:
    """Compile for callers that are compiled themselves; what Python needs to call it takes as long to compile again."""
    return _njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def inlined(function: Any) -> Any:
    """Compile into each caller: for what is called once a row, where passing arrays would cost more than the row."""
    return _njit(inline="always")(function)


def as_storage(x: Any) -> Any:
    """View an array as compiled code takes it."""
    kind = _KINDS.get(x.dtype)
    if kind is None:
        kind = _KINDS[x.dtype] = numpy.dtype(_STORAGE[x.dtype.name])
    return x if kind is x.dtype else x.view(kind)


@functools.cache
def compiles_half() -> bool:
    """Whether the processor that is compiled for converts float16; else that would call a library that is not there."""
    target: Any = cpu_target.target_context
    triple, _, features = target.codegen().magic_tuple()
    return not triple.startswith(("x86", "i386", "i686")) or "+f16c" in features.split(",")


def widened(builder: Any, kind: Any, bits: Any, lanes: int = 0) -> Any:
    """Write the instructions that make float64 of stored numbers: one, or a vector of so many."""
    single, double, half, i32 = (_vector(t, lanes) for t in (_SINGLE, _DOUBLE, _HALF, _I32))
    if kind == types.float64:
        return bits
    if kind == types.uint16:
        bits = builder.bitcast(builder.shl(builder.zext(bits, i32), _constant(i32, 16)), single)
    elif kind == types.int16:
        bits = builder.fpext(builder.bitcast(bits, half), single)
    return builder.fpext(bits, double)


def narrowed(builder: Any, kind: Any, number: Any, lanes: int = 0) -> Any:
    """Write the instructions that make stored numbers of float64, to nearest, ties to even."""
    single, half, i32, i16 = (_vector(t, lanes) for t in (_SINGLE, _HALF, _I32, _I16))
    if kind == types.float64:
        return number
    number = builder.fptrunc(number, single)
    if kind == types.float32:
        return number
    if kind == types.int16:
        return builder.bitcast(builder.fptrunc(number, half), i16)
    bits = builder.bitcast(number, i32)
    odd = builder.and_(builder.lshr(bits, _constant(i32, 16)), _constant(i32, 1))
    rounded = builder.add(bits, builder.add(odd, _constant(i32, 0x7FFF)))
    nan = builder.fcmp_unordered("uno", number, number)  # some of these the addition above would make infinite or 0
    rounded = builder.select(nan, _constant(i32, 0x7FC00000), rounded)
    return builder.trunc(builder.lshr(rounded, _constant(i32, 16)), i16)


def _vector(kind: Any, lanes: int) -> Any:
    return ir.VectorType(kind, lanes) if lanes else kind


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


@instructions  # type: ignore[untyped-decorator]
def widen(context: Any, value: Any) -> Any:
    """The float64 value of a stored number, exactly."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return widened(builder, signature.args[0], arguments[0])

    return types.float64(value), generate


@instructions  # type: ignore[untyped-decorator]
def narrow(context: Any, value: Any, array: Any) -> Any:
    """What an array stores of a float64 value; 16 bits by way of float32 [BN-PREC-2]."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return narrowed(builder, signature.return_type, arguments[0])

    return array.dtype(value, array), generate


@instructions  # type: ignore[untyped-decorator]
def add(context: Any, total: Any, value: Any) -> Any:
    """``total + value``, a link of a sum that may be taken in any order."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("reassoc", "nsz"))

    return types.float64(types.float64, types.float64), generate


@instructions  # type: ignore[untyped-decorator]
def add_product(context: Any, total: Any, a: Any, b: Any) -> Any:
    """``total + a*b``, a link of a sum that may be taken in any order, rounded once where the processor can."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total, a, b = arguments
        product = builder.fmul(a, b, flags=("contract",))
        return builder.fadd(total, product, flags=("reassoc", "nsz", "contract"))

    return types.float64(types.float64, types.float64, types.float64), generate


@instructions  # type: ignore[untyped-decorator]
def affine(context: Any, value: Any, scale: Any, shift: Any) -> Any:
    """``value*scale + shift``, rounded once where the processor can."""

    def generate(_: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, scale, shift = arguments
        return builder.fadd(builder.fmul(value, scale, flags=("contract",)), shift, flags=("contract",))

    return types.float64(types.float64, types.float64, types.float64), generate
