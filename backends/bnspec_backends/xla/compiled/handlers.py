"""Functions that XLA's programs call: moments and sums of gradients of one array, by the compiled loops of the CPU.

A function serves one dtype of the array, one of the statistics, and one of the two ways in which channels lie. XLA
learns of it when the first program that calls it is lowered. Everything else that is settled by the shape comes with
each call as one attribute, an array of integers: first `HEAD`, then the blocks of the plan.
"""

import functools
import math
from typing import Any

import jax
import numpy
from numba import types
from numba.core.ccallback import CFunc

from bnspec_backends.cpu.compiled import channel_major, channel_minor
from bnspec_backends.cpu.compiled.dtypes import internal, kept, storage_of
from bnspec_backends.cpu.plan import plan_for
from bnspec_backends.layout import Layout
from bnspec_backends.xla.compiled.call_frame import answers, argument, attribute, failure, readable, result
from bnspec_backends.xla.compiled.threads import control_for, tell_threads

__all__ = ["description", "target"]

#: What the attribute begins with: numbers of groups and channels, elements of each, parts, whether squares fit.
HEAD = 5

_NO_MEMORY = numpy.frombuffer(b"bnspec found no memory for its sums\0", numpy.uint8)


def description(layout: Layout, fits: bool) -> Any:
    """Return the attribute of a call for an array of a layout.

    Parameters
    ----------
    layout : Layout
        Of an array in XLA's order, without gaps.
    fits : bool
        Whether squares of deviations are within the range of the statistics' dtype.
    """
    plan = plan_for(layout)
    head = [layout.groups, layout.channels, layout.elements, plan.parts, int(fits)]
    return numpy.asarray([*head, *plan.where, plan.blocks.shape[1], *plan.blocks.reshape(-1)], numpy.int64)


@functools.cache
def target(operation: str, dtype: str, number: str, by_runs: bool) -> str:
    """Return the name by which XLA knows a function, which is made where there is none yet.

    Parameters
    ----------
    operation : {"moments", "sums"}
    dtype : {"float32", "bfloat16", "float16"}
        Of the array.
    number : {"float32", "float64"}
        Of the statistics.
    by_runs : bool
        Whether channels lie in long runs.
    """
    name = f"bnspec_{operation}_{dtype}_{number}_{'runs' if by_runs else 'columns'}"
    make = {
        ("moments", True): _moments_of_runs,
        ("moments", False): _moments_of_columns,
        ("sums", True): _sums_of_runs,
        ("sums", False): _sums_of_columns,
    }[operation, by_runs]
    tell_threads()
    handler = _compiled(make(numpy.dtype(storage_of(dtype)), numpy.dtype(number)))
    _KEPT[name] = handler
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler.ctypes), platform="cpu", api_version=1)
    return name


_KEPT: dict[str, Any] = {}  # XLA holds addresses of their code


def _compiled(function: Any) -> Any:
    """Compile a function of the address of a frame for callers in C; keep the code on disk if possible."""
    options = {"error_model": "numpy", "boundscheck": False}
    made: Any = CFunc(function, ((types.int64,), types.int64), {}, options)
    kept(made, function, "bnspec_backends.xla.compiled")
    made.compile()
    return made


def _moments_of_runs(dtype: Any, number: Any) -> Any:
    def handler(frame: int) -> Any:
        if answers(frame):
            return 0
        try:
            about, where, blocks = _described(frame)
            groups, channels = about[0], about[1]
            tasks = groups * channels
            size = _span(about, where)
            x = (readable(argument(frame, 0, size, dtype)), where)
            stats, count = numpy.empty((3, tasks)), numpy.full(groups, about[2])
            channel_major.moments(x, None, blocks, about[3], count, stats, control_for(size))
            _deliver(frame, stats, about, number)
        except Exception:
            return failure(frame, _NO_MEMORY)
        return 0

    return handler


def _moments_of_columns(dtype: Any, number: Any) -> Any:
    def handler(frame: int) -> Any:
        if answers(frame):
            return 0
        try:
            about, where, blocks = _described(frame)
            groups, channels = about[0], about[1]
            size = _span(about, where)
            x = (readable(argument(frame, 0, size, dtype)), where)
            stats, count = numpy.empty((3, groups, channels)), numpy.full(groups, about[2])
            channel_minor.moments(x, None, blocks, about[3], count, stats, control_for(size))
            _deliver(frame, stats.reshape(3, groups * channels), about, number)
        except Exception:
            return failure(frame, _NO_MEMORY)
        return 0

    return handler


def _sums_of_runs(dtype: Any, number: Any) -> Any:
    def handler(frame: int) -> Any:
        if answers(frame):
            return 0
        try:
            about, where, blocks = _described(frame)
            tasks, size = about[0] * about[1], _span(about, where)
            dy, x = readable(argument(frame, 0, size, dtype)), readable(argument(frame, 1, size, dtype))
            centre, sums = numpy.empty(tasks), numpy.empty((2, tasks, about[3]))
            centre[:] = argument(frame, 2, tasks, number)
            channel_major.grad_sums((dy, where), (x, where), None, blocks, centre, sums, control_for(size))
            _deliver_sums(frame, 0, 1, sums[0, :, 0], sums[1, :, 0], number)
        except Exception:
            return failure(frame, _NO_MEMORY)
        return 0

    return handler


def _sums_of_columns(dtype: Any, number: Any) -> Any:
    def handler(frame: int) -> Any:
        if answers(frame):
            return 0
        try:
            about, where, blocks = _described(frame)
            groups, channels, size = about[0], about[1], _span(about, where)
            dy, x = readable(argument(frame, 0, size, dtype)), readable(argument(frame, 1, size, dtype))
            centre, sums = numpy.empty((groups, channels)), numpy.empty((2, groups, about[3], channels))
            centre.reshape(-1)[:] = argument(frame, 2, groups * channels, number)
            channel_minor.grad_sums((dy, where), (x, where), None, blocks, centre, sums, control_for(size))
            for g in range(groups):
                _deliver_sums(frame, g, groups, sums[0, g, 0], sums[1, g, 0], number)
        except Exception:
            return failure(frame, _NO_MEMORY)
        return 0

    return handler


@internal
def _described(frame: int) -> Any:
    """Return the head of a call's attribute, where elements lie, and the blocks."""
    given = readable(attribute(frame, 0, numpy.int64))
    where = (given[HEAD], given[HEAD + 1], given[HEAD + 2], given[HEAD + 3], given[HEAD + 4])
    blocks = given[HEAD + 6 :]
    width = given[HEAD + 5]
    return given[:HEAD], where, blocks.reshape((blocks.size // width, width))


@internal
def _span(about: Any, where: Any) -> int:
    """Return the number of elements of an array without gaps."""
    return about[0] * where[3] * where[0]  # type: ignore[no-any-return]


@internal
def _deliver(frame: int, stats: Any, about: Any, number: Any) -> None:
    """Write mean, the rest of it and squared deviations, both in units, and the units."""
    tasks = stats.shape[1]
    high, low = result(frame, 0, tasks, number), result(frame, 1, tasks, number)
    m2, unit = result(frame, 2, tasks, number), result(frame, 3, tasks, number)
    for t in range(tasks):
        mean, rest, squares, power = stats[0, t], stats[1, t], stats[2, t], 1.0
        if not about[4]:
            deviation = math.sqrt(squares / about[2])
            if 4.0 < deviation < math.inf:
                power = math.ldexp(1.0, 2 - math.frexp(deviation)[1])
        high[t] = mean
        low[t] = ((mean - high[t]) + rest) * power
        m2[t] = squares * power * power
        unit[t] = power


@internal
def _deliver_sums(frame: int, g: int, groups: int, s1: Any, s2: Any, number: Any) -> None:
    """Write the sums of one group, those with a centre in units."""
    first, tasks = g * s1.size, groups * s1.size
    unit = argument(frame, 3, tasks, number)
    out1, out2 = result(frame, 0, tasks, number), result(frame, 1, tasks, number)
    for c in range(s1.size):
        out1[first + c], out2[first + c] = s1[c], s2[c] * unit[first + c]
