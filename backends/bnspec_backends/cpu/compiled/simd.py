"""Elementwise passes, vector by vector, in LLVM's own instructions.

A compiler turns a loop into vectors, but does not do two things that pay here. Several rows are computed at once, so
that the factors of a column are loaded once for all of them. And results can be written past the cache: an ordinary
store first reads the line it writes to and leaves it in cache, where a result larger than the cache is of no use; a
store with LLVM's ``nontemporal`` mark does neither, but must fill aligned vectors.

The arithmetic is float64, also for arrays of 16 bits: where terms cancel, float32 would leave less than 16 bits.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bnspec_backends.cpu.compiled.dtypes import instructions, internal, narrowed, widened

__all__ = ["affine_lines", "fence", "gradient_lines", "head", "whole"]

#: Bytes in a line of cache.
LINE = 64


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


def _bytes(past_cache: bool) -> int:
    """Return the bytes of a vector: a whole line past the cache, else half a line, which spares registers."""
    return LINE if past_cache else LINE // 2


def affine_lines(rows: int, past_cache: bool = False, lanes: int = 0) -> Any:
    """Make a loop for ``target[i] = (x[i] - centre)*scale + shift``; each factor is a number, or an array over i.

    The loop takes the elements from ``start`` to ``stop`` of ``rows`` rows a stride apart, ``lanes`` at a time.
    """

    @instructions  # type: ignore[untyped-decorator]
    def lines(
        context: Any, target: Any, x: Any, start: Any, stop: Any, target_stride: Any, x_stride: Any, centre: Any,
        scale: Any, shift: Any,
    ) -> Any:  # fmt: skip
        given = (target, x, types.int64, types.int64, types.int64, types.int64, centre, scale, shift)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            loop = _Loop(context, builder, given, arguments, past_cache, lanes)
            with loop.over(2, 3) as i:
                factors = [loop.factor(n, i) for n in (6, 7, 8)]
                for row in range(rows):
                    value = builder.fsub(loop.read(1, loop.place(i, row, 5)), factors[0])
                    loop.write(0, loop.place(i, row, 4), loop.affine(value, factors[1], factors[2]))

        return types.void(*given), generate

    return lines


def gradient_lines(rows: int, past_cache: bool = False, lanes: int = 0) -> Any:
    """Make a loop for ``target[i] = a*dy[i] + (b*(x[i] - centre) + c)``, as `affine_lines` does."""

    @instructions  # type: ignore[untyped-decorator]
    def lines(
        context: Any, target: Any, dy: Any, x: Any, start: Any, stop: Any, target_stride: Any, dy_stride: Any,
        x_stride: Any, centre: Any, a: Any, b: Any, c: Any,
    ) -> Any:  # fmt: skip
        given = (target, dy, x, *[types.int64] * 5, centre, a, b, c)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            loop = _Loop(context, builder, given, arguments, past_cache, lanes)
            with loop.over(3, 4) as i:
                factors = [loop.factor(n, i) for n in (8, 9, 10, 11)]
                for row in range(rows):
                    value = builder.fsub(loop.read(2, loop.place(i, row, 7)), factors[0])
                    statistics = loop.affine(value, factors[2], factors[3])
                    cotangent = loop.read(1, loop.place(i, row, 6))
                    loop.write(0, loop.place(i, row, 5), loop.affine(cotangent, factors[1], statistics))

        return types.void(*given), generate

    return lines


@instructions  # type: ignore[untyped-decorator]
def fence(context: Any) -> Any:
    """Make earlier writes past the cache visible before any later write."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if builder.module.triple.startswith("x86_64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse.sfence"), [])

    return types.void(), generate


class _Loop:
    """Writer of the instructions of a loop over vectors of the first argument."""

    def __init__(self, context: Any, builder: Any, kinds: Any, arguments: Any, past_cache: bool, lanes: int) -> None:
        self._context, self._builder, self._kinds, self._arguments = context, builder, kinds, arguments
        self._past_cache = past_cache
        self._lanes = lanes or _bytes(past_cache) * 8 // kinds[0].dtype.bitwidth
        self._splats = {  # numbers become vectors before the loop
            n: self._splat(arguments[n]) for n, kind in enumerate(kinds) if kind == types.float64
        }

    def over(self, start: int, stop: int) -> Any:
        """Begin a loop from one argument to another, a vector at a time; the context gives the index."""
        step = ir.Constant(ir.IntType(64), self._lanes)
        return _Index(cgutils.for_range_slice(self._builder, self._arguments[start], self._arguments[stop], step))

    def place(self, i: Any, row: int, stride: int) -> Any:
        """Return the index of the same column some rows on."""
        if row == 0:
            return i
        distance = self._builder.mul(self._arguments[stride], ir.Constant(ir.IntType(64), row))
        return self._builder.add(i, distance)

    def read(self, n: int, i: Any) -> Any:
        """Load a vector of an argument as float64."""
        kind = self._kinds[n].dtype
        bits = self._builder.load(self._at(self._kinds[n], self._arguments[n], i), align=kind.bitwidth // 8)
        return widened(self._builder, kind, bits, self._lanes)

    def factor(self, n: int, i: Any) -> Any:
        """Load the factors of a vector's elements."""
        if n in self._splats:
            return self._splats[n]
        return self._builder.load(self._at(self._kinds[n], self._arguments[n], i), align=8)

    def affine(self, value: Any, scale: Any, shift: Any) -> Any:
        """Return ``value*scale + shift``, rounded once if the processor can."""
        product = self._builder.fmul(value, scale, flags=("contract",))
        return self._builder.fadd(product, shift, flags=("contract",))

    def write(self, n: int, i: Any, values: Any) -> None:
        """Store a vector."""
        kind = self._kinds[n].dtype
        bits = narrowed(self._builder, kind, values, self._lanes)
        align = LINE if self._past_cache else kind.bitwidth // 8
        stored = self._builder.store(bits, self._at(self._kinds[n], self._arguments[n], i), align=align)
        if self._past_cache:
            stored.set_metadata("nontemporal", self._builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))

    def _at(self, kind: Any, array: Any, i: Any) -> Any:
        data = self._context.make_array(kind)(self._context, self._builder, array).data
        vector = ir.VectorType(data.type.pointee, self._lanes)
        return self._builder.bitcast(self._builder.gep(data, [i]), vector.as_pointer())

    def _splat(self, value: Any) -> Any:
        vector = ir.VectorType(ir.DoubleType(), self._lanes)
        one = self._builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self._lanes), None)
        return self._builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


class _Index:
    """Loop of numba that gives its index alone; numba's own also counts its turns."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __enter__(self) -> Any:
        return self._loop.__enter__()[0]

    def __exit__(self, *error: Any) -> Any:
        return self._loop.__exit__(*error)
