"""Writer of one loop over vectors: how it reads, computes and writes, in LLVM's instructions."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from bnspec_backends.cpu.compiled.dtypes import DOUBLE, SINGLE, narrowed, narrowed_pairs, widened, widened_pairs

__all__ = ["LINE", "VectorLoop", "is_narrow"]

#: Bytes in a line of cache.
LINE = 64


def is_narrow(array: Any) -> bool:
    """Return whether an array's type stands for one of 16 bits."""
    return array.dtype in (types.uint16, types.int16)


def _bytes(past_cache: bool) -> int:
    """Return the bytes of a vector: a whole line past the cache, else half a line, which spares registers."""
    return LINE if past_cache else LINE // 2


class VectorLoop:
    """Writer of the instructions of a loop over vectors of the first argument.

    Its numbers are lists of vectors: of one, or of two where pairs of bfloat16 are taken apart.
    """

    def __init__(
        self, context: Any, builder: Any, kinds: Any, arguments: Any, past_cache: bool, lanes: int, amend: bool
    ) -> None:
        self._context, self._builder, self._kinds, self._arguments = context, builder, kinds, arguments
        self._past_cache, self._amend = past_cache, amend
        self._lanes = lanes or _bytes(past_cache) * 8 // kinds[0].dtype.bitwidth
        narrow = kinds[-1] in (types.float32, types.Array(types.float32, 1, "C"))
        self._number = SINGLE if narrow else DOUBLE
        self._pairs = narrow and kinds[0].dtype == types.uint16 and self._lanes > 1
        self._splats = {  # numbers become vectors before the loop
            n: self._splat(arguments[n], self._number)
            for n, kind in enumerate(kinds)
            if kind in (types.float32, types.float64)
        }
        self._largest = None  # the largest bits of results without their sign
        if narrow:
            bits = self._vector(ir.IntType(16))
            self._largest = cgutils.alloca_once_value(builder, ir.Constant(bits, None))

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

    def read(self, n: int, i: Any) -> list[Any]:
        """Load a vector of an argument as numbers."""
        kind = self._kinds[n].dtype
        bits = self._builder.load(self._at(self._kinds[n], self._arguments[n], i), align=kind.bitwidth // 8)
        if self._pairs:
            return widened_pairs(self._builder, bits, self._lanes)
        return [widened(self._builder, kind, bits, self._lanes, self._number)]

    def factor(self, n: int, i: Any) -> list[Any]:
        """Load the factors of a vector's elements."""
        if n in self._splats:
            return self._parted(self._splats[n])
        kind = self._kinds[n]
        return self._parted(self._builder.load(self._at(kind, self._arguments[n], i), align=kind.dtype.bitwidth // 8))

    def difference(self, values: list[Any], centre: list[Any]) -> list[Any]:
        """Return ``value - centre``."""
        return [self._builder.fsub(v, c) for v, c in zip(values, centre, strict=True)]

    def affine(self, values: list[Any], scale: list[Any], shift: list[Any]) -> list[Any]:
        """Return ``value*scale + shift``, rounded once if the processor can."""
        products = [self._builder.fmul(v, s, flags=("contract",)) for v, s in zip(values, scale, strict=True)]
        return [self._builder.fadd(p, s, flags=("contract",)) for p, s in zip(products, shift, strict=True)]

    def write(self, n: int, i: Any, values: list[Any]) -> None:
        """Store a vector."""
        kind = self._kinds[n].dtype
        if self._pairs:
            bits = narrowed_pairs(self._builder, values, self._lanes)
        else:
            bits = narrowed(self._builder, kind, values[0], self._lanes)
        at = self._at(self._kinds[n], self._arguments[n], i)
        align = LINE if self._past_cache else kind.bitwidth // 8
        if self._amend:
            old = self._builder.load(at, align=align)
            kept = self._builder.icmp_unsigned("<", self._size(old), self._infinity(kind))
            bits = self._builder.select(kept, old, bits)
        elif self._largest is not None:
            size, largest = self._size(bits), self._builder.load(self._largest)
            larger = self._builder.icmp_unsigned(">", size, largest)
            self._builder.store(self._builder.select(larger, size, largest), self._largest)
        stored = self._builder.store(bits, at, align=align)
        if self._past_cache:
            stored.set_metadata("nontemporal", self._builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))

    def lost(self) -> Any:
        """Return after the loop whether a result is not finite that float64 may make better."""
        if self._largest is None:
            return ir.Constant(ir.IntType(64), 0)
        largest = self._builder.load(self._largest)
        found = self._builder.icmp_unsigned(">=", largest, self._infinity(self._kinds[0].dtype))
        some = self._builder.bitcast(found, ir.IntType(self._lanes))
        return self._builder.zext(self._builder.icmp_unsigned("!=", some, ir.Constant(some.type, 0)), ir.IntType(64))

    def _size(self, bits: Any) -> Any:
        """Return 16 bits without the sign; of numbers in this form a larger one has larger bits."""
        return self._builder.and_(bits, ir.Constant(bits.type, [0x7FFF] * self._lanes))

    def _infinity(self, kind: Any) -> Any:
        infinity = 0x7F80 if kind == types.uint16 else 0x7C00
        return ir.Constant(self._vector(ir.IntType(16)), [infinity] * self._lanes)

    def _at(self, kind: Any, array: Any, i: Any) -> Any:
        data = self._context.make_array(kind)(self._context, self._builder, array).data
        return self._builder.bitcast(self._builder.gep(data, [i]), self._vector(data.type.pointee).as_pointer())

    def _vector(self, kind: Any) -> Any:
        return ir.VectorType(kind, self._lanes)

    def _splat(self, value: Any, kind: Any) -> Any:
        vector = self._vector(kind)
        one = self._builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(self._vector(ir.IntType(32)), None)
        return self._builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)

    def _parted(self, vector: Any) -> list[Any]:
        """Return the elements of even places and those of odd ones, where numbers come in pairs."""
        if not self._pairs:
            return [vector]
        half, nothing = ir.VectorType(ir.IntType(32), self._lanes // 2), ir.Constant(vector.type, ir.Undefined)
        places = [ir.Constant(half, list(range(first, self._lanes, 2))) for first in (0, 1)]
        return [self._builder.shuffle_vector(vector, nothing, mask) for mask in places]


class _Index:
    """Loop of numba that gives its index alone; numba's own also counts its turns."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __enter__(self) -> Any:
        return self._loop.__enter__()[0]

    def __exit__(self, *error: Any) -> Any:
        return self._loop.__exit__(*error)
