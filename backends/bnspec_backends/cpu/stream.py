"""Large results written past the cache.

An ordinary store first reads the line it writes to, and leaves it in cache, where a result larger than the cache is
of no use. Stores with LLVM's ``nontemporal`` mark do neither; they must fill aligned vectors, which no compiler
makes of a loop by itself, so this loop is written in LLVM's own instructions. Its arithmetic is that of the
loops in `runs` and `columns`, operation by operation, and gives the same bits.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bnspec_backends.cpu.storage import instructions, internal, narrowed, widened

__all__ = ["fence", "head", "stream_affine", "stream_gradient", "whole"]

#: Bytes of a vector, and of a line of cache.
_LINE = 64

_DOUBLE = ir.DoubleType()


@instructions  # type: ignore[untyped-decorator]
def _address(context: Any, array: Any) -> Any:
    """The address of an array's first element."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


@internal
def head(target: Any) -> Any:
    """How many elements lie before the first that begins a line."""
    return min(target.size, (-_address(target) % _LINE) // target.itemsize)


@internal
def whole(target: Any, start: int) -> Any:
    """Where the last whole line of those that begin at an element ends."""
    each = _LINE // target.itemsize
    return start + (target.size - start) // each * each


@instructions  # type: ignore[untyped-decorator]
def stream_affine(context: Any, target: Any, x: Any, start: Any, stop: Any, centre: Any, scale: Any, shift: Any) -> Any:
    """``target[i] = (x[i] - centre)*scale + shift`` for whole lines; each factor is a number, or one for each i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loop = _Loop(context, builder, signature.args, arguments)
        with loop.lines(2, 3) as i:
            value = builder.fsub(loop.read(1, i), loop.factor(4, i))
            loop.write(0, i, loop.affine(value, 5, 6, i))

    return types.void(target, x, start, stop, centre, scale, shift), generate


@instructions  # type: ignore[untyped-decorator]
def stream_gradient(
    context: Any, target: Any, dy: Any, x: Any, start: Any, stop: Any, centre: Any, a: Any, b: Any, c: Any
) -> Any:
    """``target[i] = a*dy[i] + (b*(x[i] - centre) + c)`` for whole lines; each factor is a number, or one for each i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        loop = _Loop(context, builder, signature.args, arguments)
        with loop.lines(3, 4) as i:
            value = builder.fsub(loop.read(2, i), loop.factor(5, i))
            statistics = loop.affine(value, 7, 8, i)
            product = builder.fmul(loop.read(1, i), loop.factor(6, i), flags=("contract",))
            loop.write(0, i, builder.fadd(product, statistics, flags=("contract",)))

    return types.void(target, dy, x, start, stop, centre, a, b, c), generate


@instructions  # type: ignore[untyped-decorator]
def fence(context: Any) -> Any:
    """Let what was written past the cache be seen before what is written after this."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if builder.module.triple.startswith("x86_64"):
            nothing = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, nothing, "llvm.x86.sse.sfence"), [])

    return types.void(), generate


class _Loop:
    """Writes the instructions of a loop over whole lines of the first argument."""

    def __init__(self, context: Any, builder: Any, kinds: Any, arguments: Any) -> None:
        self._builder, self._kinds, self._arguments = builder, kinds, arguments
        self._data: list[Any] = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else None
            for kind, value in zip(kinds, arguments, strict=True)
        ]
        self._lanes = _LINE * 8 // kinds[0].dtype.bitwidth
        self._splats: dict[int, Any] = {
            n: self._splat(arguments[n]) for n, kind in enumerate(kinds) if kind == types.float64
        }

    def lines(self, start: int, stop: int) -> Any:
        """A loop from one argument to another, a line at a time; gives the index."""
        step = ir.Constant(ir.IntType(64), self._lanes)
        loop = cgutils.for_range_slice(self._builder, self._arguments[start], self._arguments[stop], step)
        return _Index(loop)

    def read(self, n: int, i: Any) -> Any:
        """The float64 values of a line of an argument."""
        kind = self._kinds[n].dtype
        pointer = self._at(n, i)
        bits = self._builder.load(pointer, align=kind.bitwidth // 8)
        return widened(self._builder, kind, bits, self._lanes)

    def factor(self, n: int, i: Any) -> Any:
        """A factor for each element of a line."""
        return self._splats[n] if n in self._splats else self._builder.load(self._at(n, i), align=8)

    def affine(self, value: Any, scale: int, shift: int, i: Any) -> Any:
        """``value*scale + shift``."""
        product = self._builder.fmul(value, self.factor(scale, i), flags=("contract",))
        return self._builder.fadd(product, self.factor(shift, i), flags=("contract",))

    def write(self, n: int, i: Any, values: Any) -> None:
        """Store a line past the cache."""
        bits = narrowed(self._builder, self._kinds[n].dtype, values, self._lanes)
        stored = self._builder.store(bits, self._at(n, i), align=_LINE)
        stored.set_metadata("nontemporal", self._builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))

    def _at(self, n: int, i: Any) -> Any:
        data = self._data[n]
        vector = ir.VectorType(data.type.pointee, self._lanes)
        return self._builder.bitcast(self._builder.gep(data, [i]), vector.as_pointer())

    def _splat(self, value: Any) -> Any:
        vector = ir.VectorType(_DOUBLE, self._lanes)
        one = self._builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self._lanes), None)
        return self._builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


class _Index:
    """The index alone of a loop of numba's, which also counts its turns."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __enter__(self) -> Any:
        return self._loop.__enter__()[0]

    def __exit__(self, *error: Any) -> Any:
        return self._loop.__exit__(*error)
