"""The elementwise passes along neighbours in memory, for channels in runs as for channels in columns.

A factor is one number for the whole row, where it is a run of one channel, or an array with one for each element.
"""

from typing import Any

from numba import types

from bnspec_backends.cpu.storage import affine, inlined, instructions, narrow, widen
from bnspec_backends.cpu.stream import head, stream_affine, stream_gradient, whole

__all__ = ["gradient_row", "normalize_row"]


@instructions  # type: ignore[untyped-decorator]
def _of(context: Any, factor: Any, i: Any) -> Any:
    """A factor's number for element i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if signature.args[0] == types.float64:
            return arguments[0]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]]))

    return types.float64(factor, types.int64), generate


@inlined
def normalize_row(source: Any, target: Any, centre: Any, scale: Any, shift: Any, stream: bool) -> None:
    """``target = (source - centre)*scale + shift``, past the cache if so asked."""
    if not stream:  # a loop of its own, from 0: only then it becomes vectors
        for i in range(target.size):
            target[i] = narrow(affine(widen(source[i]) - _of(centre, i), _of(scale, i), _of(shift, i)), target)
        return
    start = head(target)
    stop = whole(target, start)
    stream_affine(target, source, start, stop, centre, scale, shift)
    for ends in ((0, start), (stop, target.size)):
        for i in range(ends[0], ends[1]):
            target[i] = narrow(affine(widen(source[i]) - _of(centre, i), _of(scale, i), _of(shift, i)), target)


@inlined
def gradient_row(dy: Any, x: Any, target: Any, centre: Any, a: Any, b: Any, c: Any, keep: Any, stream: bool) -> None:
    """``target = a*dy + m*(b*(x - centre) + c)``, past the cache if so asked; m is ``keep`` as 0 and 1."""
    if keep is not None:
        for i in range(target.size):
            statistics = affine(widen(x[i]) - _of(centre, i), _of(b, i), _of(c, i)) if keep[i] else 0.0
            target[i] = narrow(affine(widen(dy[i]), _of(a, i), statistics), target)
    elif not stream:
        for i in range(target.size):
            statistics = affine(widen(x[i]) - _of(centre, i), _of(b, i), _of(c, i))
            target[i] = narrow(affine(widen(dy[i]), _of(a, i), statistics), target)
    else:
        start = head(target)
        stop = whole(target, start)
        stream_gradient(target, dy, x, start, stop, centre, a, b, c)
        for ends in ((0, start), (stop, target.size)):
            for i in range(ends[0], ends[1]):
                statistics = affine(widen(x[i]) - _of(centre, i), _of(b, i), _of(c, i))
                target[i] = narrow(affine(widen(dy[i]), _of(a, i), statistics), target)
