"""Operations on CuPy arrays, each of one or two launches: what `CudaKernels` is made of.

Each function takes arrays that `serves` is true of, and queues its work on the current stream of the current device.
The host waits for nothing.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy

from bnspec import Groups, Moments
from bnspec._counts import remember
from bnspec._masks import one_count
from bnspec_backends.cuda import compiling
from bnspec_backends.cuda.arrays import KINDS, Kind, Source, factor, new_like, parameter, read, read_along, spread_mask
from bnspec_backends.cuda.counters import counters
from bnspec_backends.cuda.launching import NAMES, launch, make_current
from bnspec_backends.cuda.plan import VECTOR_BYTES, Plan, plan_for, vector_width
from bnspec_backends.cuda.workspace import counters_for
from bnspec_backends.layout import Layout

__all__ = ["forward", "grad_input", "grad_sums", "infer", "moments", "normalize", "pull_back", "serves"]

#: Members of a call by name: arrays, and numbers.
_Values = dict[str, Any]


#: More elements of one channel than a thread can count.
MOST_ELEMENTS = 1 << 31


def serves(groups: Groups, x: Any, *others: Any) -> bool:
    """Return whether kernels take arrays: x has elements, not too many of a channel, and all have known dtypes."""
    if not x.size or x.size // x.shape[groups.axis] >= MOST_ELEMENTS:
        return False
    return all(v is None or v.dtype in KINDS for v in (x, *others))


def moments(x: Any, groups: Groups, mask: Any) -> Moments:
    """Return the moments of each group."""
    given = read(x, groups)
    call = _Call(given, mask=None if mask is None else spread_mask(mask, x, given.layout, groups))
    stats, made = _new_moments(given.layout, mask, groups)
    call.sum("moments", 4, made, call.masked)
    return _counted(stats, mask, groups, given.layout)


def normalize(x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
    """Return ``(x - centre)*scale + shift``."""
    given = read(x, groups)
    y = new_like(x, given.layout)
    factors = [factor(v, given.layout) for v in (centre, scale, shift)]
    _Call(given, out=y).compute("normalize", _named(("centre", "scale", "shift"), factors), "false")
    return y.array


def grad_sums(dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
    """Return ``sum dy`` and ``sum dy*(x - centre)``."""
    given = read(x, groups)
    mask = None if mask is None else spread_mask(mask, x, given.layout, groups)
    call = _Call(given, dy=read_along(dy, given.layout, groups), mask=mask)
    sums = _new_statistics(2, given.layout)
    values = _named(("s1", "s2", "centre"), [*sums, factor(centre, given.layout)])
    call.sum("grad_sums", 2, values, call.masked)
    return sums[0], sums[1]


def grad_input(dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
    """Return ``a*dy + m*(b*(x - centre) + c)``."""
    given = read(x, groups)
    dx = new_like(x, given.layout)
    mask = None if mask is None else spread_mask(mask, x, given.layout, groups)
    call = _Call(given, dy=read_along(dy, given.layout, groups), out=dx, mask=mask)
    factors = [factor(v, given.layout) for v in (centre, a, b, c)]
    call.compute("grad_input", _named(("centre", "scale", "slope", "shift"), factors), call.masked)
    return dx.array


def forward(x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups) -> tuple[Moments, Any, Any, Any]:
    """Return the moments, ``1/sqrt(var + epsilon)``, the count as float64 and y: two launches."""
    given = read(x, groups)
    layout = given.layout
    call = _Call(given, out=new_like(x, layout))
    stats, made = _new_moments(layout, None, groups)
    more = _new_statistics(3, layout)
    divisor = cupy.empty((layout.groups,), numpy.float64)
    values = made | _named(("inverse", "scale", "shift", "divisor"), [*more, divisor])
    call.sum("moments", 4, values | {"epsilon": epsilon} | parameter("gamma", gamma) | parameter("beta", beta), "false")
    call.compute("normalize", _named(("centre", "scale", "shift"), [stats[1], more[1], more[2]]), "false")
    assert call.out is not None
    return _counted(stats, None, groups, layout), more[0], divisor, call.out.array


def pull_back(
    dy: Any, x: Any, gamma: Any, beta: Any, centre: Any, low: Any, inverse: Any, divisor: Any, groups: Groups
) -> tuple[Any, Any, Any, Any, Any]:
    """Return ``sum dy``, ``sum dy*(x - mean)``, dx, and dgamma and dbeta where one group has them: two launches."""
    given = read(x, groups)
    layout = given.layout
    call = _Call(given, dy=read_along(dy, layout, groups), out=new_like(x, layout))
    centre, low, inverse = (factor(v, layout) for v in (centre, low, inverse))
    divisor = cupy.ascontiguousarray(cupy.broadcast_to(divisor, (layout.groups,)), numpy.float64)
    s1, s2, a, b, c = _new_statistics(5, layout)
    names = ("s1", "s2", "scale", "slope", "shift", "centre", "low", "inverse", "divisor")
    values = _named(names, [s1, s2, a, b, c, centre, low, inverse, divisor])
    values |= parameter("gamma", gamma) | parameter("beta", beta)
    dgamma, dbeta = (
        None if v is None or layout.groups > 1 else cupy.empty((layout.channels,), v.dtype) for v in (gamma, beta)
    )
    call.sum("grad_sums", 2, values | _named(("dgamma", "dbeta"), (dgamma, dbeta)), "false")
    call.compute("grad_input", _named(("centre", "scale", "slope", "shift"), [centre, a, b, c]), "false")
    assert call.out is not None
    return s1, s2, call.out.array, dgamma, dbeta


def infer(
    x: Any, gamma: Any, beta: Any, mean: Any, var: Any, epsilon: float, groups: Groups
) -> tuple[Any, Any, Any, Any]:
    """Return the mean and its low part, ``1/sqrt(var + epsilon)`` and y, of given statistics: one launch."""
    given = read(x, groups)
    call = _Call(given, out=new_like(x, given.layout))
    stats = _new_statistics(3, given.layout._replace(groups=1))
    values = _named(("mean", "low", "inverse"), stats) | {"epsilon": epsilon}
    for name, v in (("gamma", gamma), ("beta", beta), ("running_mean", mean), ("running_var", var)):
        values |= parameter(name, v)
    call.compute("normalize", values, "true")
    assert call.out is not None
    return *stats, call.out.array


class _Prepared:
    """Plan, and the members of a call that do not change: for arrays of the same layouts, dtypes and alignment."""

    def __init__(self, layouts: Sequence[Layout | None], kinds: Sequence[Kind | None], offsets: Sequence[int]) -> None:
        x = layouts[0]
        assert x is not None
        used = [(v, kind.size, offset) for v, kind, offset in zip(layouts, kinds, offsets, strict=True) if v and kind]
        columns, vector = vector_width(*zip(*used, strict=True))
        sizes = [size for _, size, _ in used]
        self.plan: Plan = plan_for(x.groups, x.rows, x.channels, x.run, columns, vector, max(sizes))
        self.members: _Values = dict.fromkeys(NAMES, 0) | {
            "groups": x.groups, "rows": x.rows, "channels": x.channels, "run": x.run,
            "lanes": self.plan.lanes, "width": self.plan.width, "team": self.plan.team,
        }  # fmt: skip
        for name, v in zip(("x", "dy", "out"), layouts, strict=True):
            if v is not None:
                self.members |= {f"{name}_row": v.row_stride, f"{name}_channel": v.channel_stride}
        self._types = [kind.type_name for kind in kinds[:2] if kind is not None]
        self._functions: dict[tuple[str, str, int], int] = {}

    def function(self, name: str, flag: str, device: int) -> int:
        """Return the handle of a kernel for these arrays."""
        found = self._functions.get((name, flag, device))
        if found is None:
            arguments = ", ".join([*self._types, self.plan.walk, str(self.plan.unroll), flag])
            found = self._functions[name, flag, device] = compiling.kernel(f"{name}<{arguments}>")
        return found


#: More than enough for a model's layers, in training and inference.
_prepared = functools.lru_cache(maxsize=4096)(_Prepared)


class _Call:
    """Arrays of x's shape that one or two launches share."""

    def __init__(
        self,
        x: Source,
        *,
        dy: Source | None = None,
        out: Source | None = None,
        mask: tuple[Any, int, int] | None = None,
    ) -> None:
        self.out, self.layout = out, x.layout
        self.masked = "false" if mask is None else "true"
        self.arrays: _Values = {"x": x.array}
        if dy is not None:
            self.arrays["dy"] = dy.array
        if out is not None:
            self.arrays["out"] = out.array
        if mask is not None:
            self.arrays |= zip(("mask", "mask_row", "mask_channel"), mask, strict=True)
        given = (x, dy, out)
        self.prepared = _prepared(
            tuple(None if v is None else v.layout for v in given),
            # What is written has x's dtype, and the kernels are told once.
            tuple(None if v is None else KINDS[v.array.dtype] for v in given),
            tuple(0 if v is None else v.array.data.ptr % VECTOR_BYTES for v in given),
        )
        self.device, self.stream = cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr
        make_current(self.device)

    def sum(self, name: str, numbers: int, values: _Values, flag: str) -> None:
        """Queue a kernel that leaves so many numbers of each part of a channel."""
        plan, layout = self.prepared.plan, self.layout
        if plan.parts > 1:
            size = layout.groups * layout.channels * plan.parts * numbers
            values["partial"] = cupy.empty((size,), numpy.float64)
            values["counters"] = counters_for(plan.blocks, self.device, self.stream)
        self._launch(name, plan.parts, plan.shared_bytes(numbers), values, flag)

    def compute(self, name: str, values: _Values, flag: str) -> None:
        """Queue a kernel that writes an array of x's shape."""
        self._launch(name, self.prepared.plan.tiles, 0, values, flag)

    def _launch(self, name: str, parts: int, shared: int, values: _Values, flag: str) -> None:
        prepared = self.prepared
        function = prepared.function(name, flag, self.device)
        call = prepared.members.copy()
        # Arrays become addresses here and not before: memory that nobody holds may be given to another thread.
        for members in (self.arrays, values):
            for member, v in members.items():
                call[member] = v.data.ptr if isinstance(v, cupy.ndarray) else v
        counters.launches += 1
        launch(function, (prepared.plan.blocks, parts), prepared.plan.threads, shared, self.stream, call)


def _named(names: Sequence[str], arrays: Sequence[Any]) -> _Values:
    return {name: v for name, v in zip(names, arrays, strict=True) if v is not None}


class _Stats(NamedTuple):
    count: Any
    mean: Any
    low: Any
    m2: Any


def _new_moments(layout: Layout, mask: Any, groups: Groups) -> tuple[_Stats, _Values]:
    shape = (layout.groups,) if mask is None else (layout.groups, layout.channels)
    stats = _Stats(cupy.empty(shape, numpy.int64), *_new_statistics(3, layout))
    return stats, _named(stats._fields, stats)


def _new_statistics(number: int, layout: Layout) -> list[Any]:
    """Return new arrays (G, C) of float64, in one allocation."""
    made = cupy.empty((number, layout.groups, layout.channels), numpy.float64)
    return [made[i] for i in range(number)]


def _counted(stats: _Stats, mask: Any, groups: Groups, layout: Layout) -> Moments:
    """Return moments whose count has the shape that the mask asks for."""
    count = stats.count
    if mask is None:
        count = remember(count, [layout.elements] * layout.groups)
    elif one_count(mask, groups):
        count = cupy.ascontiguousarray(count[:, 0])
    return Moments(count, stats.mean, stats.low, stats.m2)
