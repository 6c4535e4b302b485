"""Elementwise passes, vector by vector, in LLVM's own instructions.

A compiler turns a loop into vectors, but does not do two things that pay here. Several rows are computed at once, so
that the factors of a column are loaded once for all of them. And results can be written past the cache: an ordinary
store first reads the line it writes to and leaves it in cache, where a result larger than the cache is of no use; a
store with LLVM's ``nontemporal`` mark does neither, but must fill aligned vectors.

The arithmetic is that of the factors: float64, or float32 for arrays of 16 bits, whose conversions to float64 and
back take longer than the formula. A float32 loop tells whether a result is infinite or NaN, since an overflow on the
way to it always ends so; such results are then made in float64 (``amend``).
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bnspec_backends.cpu.compiled.dtypes import instructions, internal
from bnspec_backends.cpu.compiled.vector_loop import LINE, VectorLoop, is_narrow

__all__ = ["affine_lines", "fence", "gradient_lines", "head", "whole"]


@instructions  # type: ignore[untyped-decorator]
def _address(context: Any, array: Any) -> Any:
    """Return the address of an array's first element."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


@internal
def head(target: Any) -> Any:
    """Return how many elements lie before the first that begins a line of cache."""
    return min(target.size, (-_address(target) % LINE) // target.itemsize)


@internal
def whole(target: Any, start: int, size: int, past_cache: bool) -> Any:
    """Return the end of the longest sequence of whole vectors that begins at ``start``."""
    each = (LINE if past_cache else LINE // 2) // target.itemsize
    return start + (size - start) // each * each


def affine_lines(rows: int, past_cache: bool = False, lanes: int = 0, amend: bool = False) -> Any:
    """Make a loop for ``target[i] = (x[i] - centre)*scale + shift``; each factor is a number, or an array over i.

    The loop takes the elements from ``start`` to ``stop`` of ``rows`` rows a stride apart, ``lanes`` at a time. In
    float32 it returns 1 if a result is not finite, else 0. With ``amend`` it writes only to where a result of 16 bits
    is not finite, and nothing for wider arrays.
    """

    @instructions  # type: ignore[untyped-decorator]
    def lines(
        context: Any, target: Any, x: Any, start: Any, stop: Any, target_stride: Any, x_stride: Any, centre: Any,
        scale: Any, shift: Any,
    ) -> Any:  # fmt: skip
        given = (target, x, types.int64, types.int64, types.int64, types.int64, centre, scale, shift)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if amend and not is_narrow(target):
                return ir.Constant(ir.IntType(64), 0)
            loop = VectorLoop(context, builder, given, arguments, past_cache, lanes, amend)
            with loop.over(2, 3) as i:
                factors = [loop.factor(n, i) for n in (6, 7, 8)]
                for row in range(rows):
                    value = loop.difference(loop.read(1, loop.place(i, row, 5)), factors[0])
                    loop.write(0, loop.place(i, row, 4), loop.affine(value, factors[1], factors[2]))
            return loop.lost()

        return types.int64(*given), generate

    return lines


def gradient_lines(rows: int, past_cache: bool = False, lanes: int = 0, amend: bool = False) -> Any:
    """Make a loop for ``target[i] = a*dy[i] + (b*(x[i] - centre) + c)``, as `affine_lines` does."""

    @instructions  # type: ignore[untyped-decorator]
    def lines(
        context: Any, target: Any, dy: Any, x: Any, start: Any, stop: Any, target_stride: Any, dy_stride: Any,
        x_stride: Any, centre: Any, a: Any, b: Any, c: Any,
    ) -> Any:  # fmt: skip
        given = (target, dy, x, *[types.int64] * 5, centre, a, b, c)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if amend and not is_narrow(target):
                return ir.Constant(ir.IntType(64), 0)
            loop = VectorLoop(context, builder, given, arguments, past_cache, lanes, amend)
            with loop.over(3, 4) as i:
                factors = [loop.factor(n, i) for n in (8, 9, 10, 11)]
                for row in range(rows):
                    value = loop.difference(loop.read(2, loop.place(i, row, 7)), factors[0])
                    statistics = loop.affine(value, factors[2], factors[3])
                    cotangent = loop.read(1, loop.place(i, row, 6))
                    loop.write(0, loop.place(i, row, 5), loop.affine(cotangent, factors[1], statistics))
            return loop.lost()

        return types.int64(*given), generate

    return lines


@instructions  # type: ignore[untyped-decorator]
def fence(context: Any) -> Any:
    """Make earlier writes past the cache visible before any later write."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if builder.module.triple.startswith("x86_64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse.sfence"), [])

    return types.void(), generate
