"""The four primitives, and the two passes of a channel at once, on compiled loops for arrays of NumPy."""

from collections.abc import Callable
from typing import Any

import numpy

from bnspec._types import Groups, Moments
from bnspec_backends.cpu import columns, runs
from bnspec_backends.cpu.arrays import Source, counts, factor, new_like, parameter, read, read_along, spread_mask
from bnspec_backends.cpu.blocked import BlockedKernels
from bnspec_backends.cpu.layout import Layout, dense
from bnspec_backends.cpu.notice import notice
from bnspec_backends.cpu.plan import Plan, plan_for
from bnspec_backends.cpu.shared import resources
from bnspec_backends.cpu.storage import as_storage, compiles_half

__all__ = ["CompiledKernels"]

#: Results of so many bytes are written past the cache: larger than what a core may expect to keep of it.
STREAM = 1 << 24

_Pair = tuple[Any, tuple[int, ...]]


class CompiledKernels:
    """Kernels of `bnspec._protocols.FusedKernels`."""

    def __init__(self) -> None:
        self._plain = BlockedKernels()  # for arrays without elements, and float16 on processors without it

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        """Primitive 1."""
        if not _served(x):
            return self._plain.moments(x, groups, mask)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        given, keep = _pair(source), _mask(mask, x, layout)
        count = counts(mask, x, groups, layout)
        mean, low, m2 = numpy.empty((3, layout.groups, layout.channels))
        if plan.by_runs:
            stats = (mean.reshape(-1), low.reshape(-1), m2.reshape(-1))
            _run(lambda i: runs.moments(given, keep, *plan.blocks[i], count, *stats), plan, layout)
            return Moments(count, mean, low, m2)

        shift = numpy.empty((layout.groups, layout.channels))
        for g in range(layout.groups):
            columns.shifts(given, keep, g * layout.rows, layout.rows, 0, layout.channels, shift[g])
        s1, s2 = _partial(lambda i, g, a, b: columns.sums(given, keep, plan.blocks[i], shift[g], a, b), plan, layout)
        again = False
        for g in range(layout.groups):
            again |= columns.finish(shift[g], s1[g], s2[g], int(count[g]), 0, layout.channels, mean[g], low[g], m2[g])
        if again:
            second, _ = _partial(
                lambda i, g, a, _: columns.squares(given, keep, plan.blocks[i], mean[g], low[g], a), plan, layout
            )
            for g in range(layout.groups):
                columns.correct(s1[g], int(count[g]), second[g], 0, layout.channels, m2[g])
        return Moments(count, mean, low, m2)

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        """Primitive 2."""
        if not _served(x):
            return self._plain.normalize(x, centre, scale, shift, groups)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        given, (y, target, stream) = _pair(source), _new(x, layout)
        factors = [factor(v, layout) for v in (centre, scale, shift)]
        if plan.by_runs:
            flat = [v.reshape(-1) for v in factors]
            _run(lambda i: runs.normalize(given, target, *plan.blocks[i], *flat, stream), plan, layout)
        else:

            def task(i: int) -> None:
                own = [v[plan.homes[i][0]] for v in factors]
                columns.normalize(given, target, plan.blocks[i], *own, stream)

            _run(task, plan, layout)
        return y

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        """Primitive 3."""
        if not _served(x, dy):
            return self._plain.grad_sums(dy, x, centre, groups, mask)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        given, cotangent = _pair(source), _pair(read_along(dy, x, layout, groups))
        keep = _mask(mask, x, layout)
        k = factor(centre, layout)
        if not plan.by_runs:
            return _partial(
                lambda i, g, a, b: columns.grad_sums(cotangent, given, keep, plan.blocks[i], k[g], a, b), plan, layout
            )
        s1, s2 = numpy.empty((2, layout.groups, layout.channels))
        flat = (k.reshape(-1), s1.reshape(-1), s2.reshape(-1))
        _run(lambda i: runs.grad_sums(cotangent, given, keep, *plan.blocks[i], *flat), plan, layout)
        return s1, s2

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        """Primitive 4."""
        if not _served(x, dy):
            return self._plain.grad_input(dy, x, centre, a, b, c, groups, mask)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        given, cotangent = _pair(source), _pair(read_along(dy, x, layout, groups))
        keep, (dx, target, stream) = _mask(mask, x, layout), _new(x, layout)
        factors = [factor(v, layout) for v in (centre, a, b, c)]
        if plan.by_runs:
            flat = [v.reshape(-1) for v in factors]
            _run(
                lambda i: runs.grad_input(cotangent, given, target, keep, *plan.blocks[i], *flat, stream), plan, layout
            )
        else:

            def task(i: int) -> None:
                own = tuple(v[plan.homes[i][0]] for v in factors)
                columns.grad_input(cotangent, given, target, keep, plan.blocks[i], own, stream)

            _run(task, plan, layout)
        return dx

    def normalize_by_batch(
        self, x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups
    ) -> tuple[Moments, Any, Any] | None:
        """Both passes of the forward operation; None where they cannot follow each other in cache."""
        if not _served(x):
            return None
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        if not plan.fusible:
            return None
        given, (y, target, stream) = _pair(source), _new(x, layout)
        stats = numpy.empty((4, layout.groups, layout.channels))
        affine = (layout.elements, epsilon, parameter(gamma, 1.0, layout), parameter(beta, 0.0, layout))
        if plan.by_runs:
            flat = tuple(v.reshape(-1) for v in stats)
            _run(lambda i: runs.forward(given, target, *plan.blocks[i], *affine, flat, stream), plan, layout)
        else:

            def task(i: int) -> None:
                own = tuple(stats[:, plan.homes[i][0], :])
                columns.forward(given, target, plan.blocks[i], *affine, own, stream)

            _run(task, plan, layout)
        mean, low, m2, inverse = stats
        return Moments(numpy.full((layout.groups,), layout.elements), mean, low, m2), inverse, y

    def pull_back(
        self, dy: Any, x: Any, gamma: Any, centre: Any, centre_low: Any, inverse: Any, divisor: Any, groups: Groups
    ) -> tuple[Any, Any, Any] | None:
        """Both passes of the gradient; None where they cannot follow each other in cache."""
        if not _served(x, dy):
            return None
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        if not plan.fusible:
            return None
        given, cotangent = _pair(source), _pair(read_along(dy, x, layout, groups))
        dx, target, stream = _new(x, layout)
        sums = numpy.empty((2, layout.groups, layout.channels))
        gamma = parameter(gamma, 1.0, layout)
        divisor = numpy.ascontiguousarray(divisor, dtype=numpy.float64)
        stats = [factor(v, layout) for v in (centre, centre_low, inverse)]
        if plan.by_runs:
            flat, out = tuple(v.reshape(-1) for v in stats), tuple(v.reshape(-1) for v in sums)

            def task(i: int) -> None:
                runs.backward(cotangent, given, target, *plan.blocks[i], divisor, gamma, flat, out, stream)
        else:

            def task(i: int) -> None:
                g = plan.homes[i][0]
                own = tuple(v[g] for v in stats), tuple(sums[:, g, :])
                columns.backward(cotangent, given, target, plan.blocks[i], divisor[g], gamma, *own, stream)

        _run(task, plan, layout)
        return sums[0], sums[1], dx


def _served(x: Any, *others: Any) -> bool:
    """Whether compiled code takes these arrays."""
    return bool(x.size) and (compiles_half() or all(v.dtype != numpy.float16 for v in (x, *others)))


def _run(task: Callable[[int], None], plan: Plan, layout: Layout) -> None:
    """Do every block of a plan."""
    resources.run(task, len(plan.blocks), layout.size)
    if notice.pending:
        notice.tell()


def _partial(kernel: Callable[[int, int, Any, Any], None], plan: Plan, layout: Layout) -> tuple[Any, Any]:
    """Run a kernel that leaves two sums per block and channel, and add the blocks of each group in order."""
    sums = numpy.empty((2, layout.groups, plan.parts, layout.channels))

    def task(i: int) -> None:
        g, part = plan.homes[i]
        kernel(i, g, sums[0, g, part], sums[1, g, part])

    _run(task, plan, layout)
    joined = sums[:, :, 0, :] if plan.parts == 1 else numpy.add.reduce(sums, axis=2)
    return joined[0], joined[1]


def _pair(source: Source) -> _Pair:
    """An array as kernels take it."""
    return as_storage(source.line), _where(source.layout)


def _where(layout: Layout) -> tuple[int, ...]:
    return layout.row_stride, layout.channel_stride, layout.run, layout.rows, layout.channels


def _mask(mask: Any, x: Any, layout: Layout) -> _Pair | None:
    """A mask as kernels take it."""
    return None if mask is None else (spread_mask(mask, x, layout), _where(dense(layout)))


def _new(x: Any, layout: Layout) -> tuple[Any, _Pair, bool]:
    """Return a new array like x, the same as kernels take it, and whether to write it past the cache."""
    y, line = new_like(x, layout)
    return y, (as_storage(line), _where(dense(layout))), y.nbytes >= STREAM
