"""The four primitives, and the two passes of a channel at once, on compiled loops for arrays of NumPy."""

from typing import Any

import numpy

from bnspec._types import Groups, Moments
from bnspec_backends.cpu import columns, runs
from bnspec_backends.cpu.arrays import factor, new_like, parameter, read, read_along, spread_mask
from bnspec_backends.cpu.blocked import BlockedKernels
from bnspec_backends.cpu.layout import Layout, dense
from bnspec_backends.cpu.notice import notice
from bnspec_backends.cpu.plan import Plan, plan_for
from bnspec_backends.cpu.shared import resources
from bnspec_backends.cpu.storage import as_storage, compiles_half

__all__ = ["CompiledKernels"]

_Where = tuple[int, ...]


class CompiledKernels:
    """Kernels of `bnspec._protocols.Kernels`, with both fused passes."""

    def __init__(self) -> None:
        self._plain = BlockedKernels()  # for arrays without elements, and float16 on processors without it

    def moments(self, x: Any, groups: Groups, mask: Any) -> Moments:
        """Primitive 1."""
        if not _served(x):
            return self._plain.moments(x, groups, mask)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        line, where = as_storage(source.line), _where(layout)
        shape = (layout.groups, layout.channels)
        keep, keep_where, count = _mask(mask, x, groups, layout)
        mean, low, m2 = numpy.empty((3, *shape))
        if plan.by_runs:
            flat = (count, mean.reshape(-1), low.reshape(-1), m2.reshape(-1))

            def task(i: int) -> None:
                runs.moments(line, where, keep, keep_where, *plan.blocks[i], *flat)

            _run(task, len(plan.blocks), layout.size)
            return Moments(count, mean, low, m2)

        shift = numpy.empty(shape)
        for g in range(layout.groups):
            columns.shifts(line, where, g * layout.rows, layout.rows, 0, layout.channels, keep, keep_where[0], shift[g])
        s1, s2 = self._partial(
            plan,
            layout,
            lambda i, g, a, b: columns.sums(line, where, plan.blocks[i], keep, keep_where[0], shift[g], a, b),
        )
        again = False
        for g in range(layout.groups):
            again |= columns.finish(shift[g], s1[g], s2[g], int(count[g]), 0, layout.channels, mean[g], low[g], m2[g])
        if again:
            second, _ = self._partial(
                plan,
                layout,
                lambda i, g, a, _: columns.squares(
                    line, where, plan.blocks[i][:4], keep, keep_where[0], mean[g], low[g], a
                ),
            )
            for g in range(layout.groups):
                columns.correct(s1[g], int(count[g]), second[g], m2[g])
        return Moments(count, mean, low, m2)

    def normalize(self, x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
        """Primitive 2."""
        if not _served(x):
            return self._plain.normalize(x, centre, scale, shift, groups)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        line, where = as_storage(source.line), _where(layout)
        y, new = new_like(x, layout)
        target = as_storage(new)
        factors = [factor(v, layout) for v in (centre, scale, shift)]
        if plan.by_runs:
            y_where = _where(dense(layout))
            flat = [v.reshape(-1) for v in factors]

            def task(i: int) -> None:
                runs.normalize(line, where, target, y_where, *plan.blocks[i], *flat)
        else:
            stride = dense(layout).row_stride

            def task(i: int) -> None:
                g = plan.homes[i][0]
                columns.normalize(line, where, plan.blocks[i], target, stride, *(v[g] for v in factors))

        _run(task, len(plan.blocks), layout.size)
        return y

    def grad_sums(self, dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
        """Primitive 3."""
        if not _served(x, dy):
            return self._plain.grad_sums(dy, x, centre, groups, mask)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        line, where = as_storage(source.line), _where(layout)
        cotangent = read_along(dy, x, layout, groups)
        dy_line, dy_where = as_storage(cotangent.line), _where(cotangent.layout)
        keep, keep_where, _ = _mask(mask, x, groups, layout)
        k = factor(centre, layout)
        if not plan.by_runs:
            return self._partial(
                plan,
                layout,
                lambda i, g, a, b: columns.grad_sums(
                    dy_line,
                    dy_where[0],
                    line,
                    where,
                    plan.blocks[i],
                    keep,
                    keep_where[0],
                    k[g],
                    a,
                    b,
                ),
            )
        s1, s2 = numpy.empty((2, layout.groups, layout.channels))
        flat = (k.reshape(-1), s1.reshape(-1), s2.reshape(-1))

        def task(i: int) -> None:
            runs.grad_sums(dy_line, dy_where, line, where, keep, keep_where, *plan.blocks[i], *flat)

        _run(task, len(plan.blocks), layout.size)
        return s1, s2

    def grad_input(self, dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
        """Primitive 4."""
        if not _served(x, dy):
            return self._plain.grad_input(dy, x, centre, a, b, c, groups, mask)
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        line, where = as_storage(source.line), _where(layout)
        cotangent = read_along(dy, x, layout, groups)
        dy_line, dy_where = as_storage(cotangent.line), _where(cotangent.layout)
        keep, keep_where, _ = _mask(mask, x, groups, layout)
        dx, new = new_like(x, layout)
        target = as_storage(new)
        factors = [factor(v, layout) for v in (centre, a, b, c)]
        dx_where = _where(dense(layout))
        if plan.by_runs:
            flat = [v.reshape(-1) for v in factors]

            def task(i: int) -> None:
                runs.grad_input(
                    dy_line,
                    dy_where,
                    line,
                    where,
                    target,
                    dx_where,
                    keep,
                    keep_where,
                    *plan.blocks[i],
                    *flat,
                )
        else:

            def task(i: int) -> None:
                g = plan.homes[i][0]
                columns.grad_input(
                    dy_line,
                    dy_where[0],
                    line,
                    where,
                    plan.blocks[i],
                    target,
                    dx_where[0],
                    keep,
                    keep_where[0],
                    *(v[g] for v in factors),
                )

        _run(task, len(plan.blocks), layout.size)
        return dx

    def normalize_by_batch(self, x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups) -> Any:
        """Both passes of the forward operation; None where they cannot follow each other in cache."""
        if not _served(x):
            return None
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        line, where = as_storage(source.line), _where(layout)
        if not plan.fusible:
            return None
        y, new = new_like(x, layout)
        target = as_storage(new)
        count = numpy.full((layout.groups,), layout.elements)
        mean, low, m2, inverse = numpy.empty((4, layout.groups, layout.channels))
        gamma, beta = parameter(gamma, 1.0, layout), parameter(beta, 0.0, layout)
        if plan.by_runs:
            y_where = _where(dense(layout))
            flat = [v.reshape(-1) for v in (mean, low, m2, inverse)]

            def task(i: int) -> None:
                runs.forward(
                    line, where, target, y_where, *plan.blocks[i], layout.elements, epsilon, gamma, beta, *flat
                )
        else:
            stride = dense(layout).row_stride

            def task(i: int) -> None:
                g = plan.homes[i][0]
                columns.forward(
                    line,
                    where,
                    plan.blocks[i],
                    target,
                    stride,
                    layout.elements,
                    epsilon,
                    gamma,
                    beta,
                    mean[g],
                    low[g],
                    m2[g],
                    inverse[g],
                )

        _run(task, len(plan.blocks), layout.size)
        return Moments(count, mean, low, m2), inverse, y

    def pull_back(
        self, dy: Any, x: Any, gamma: Any, centre: Any, centre_low: Any, inverse: Any, divisor: Any, groups: Groups
    ) -> Any:
        """Both passes of the gradient; None where they cannot follow each other in cache."""
        if not _served(x, dy):
            return None
        source = read(x, groups)
        layout, plan = source.layout, plan_for(source.layout)
        line, where = as_storage(source.line), _where(layout)
        if not plan.fusible:
            return None
        cotangent = read_along(dy, x, layout, groups)
        dy_line, dy_where = as_storage(cotangent.line), _where(cotangent.layout)
        dx, new = new_like(x, layout)
        target = as_storage(new)
        s1, s2 = numpy.empty((2, layout.groups, layout.channels))
        gamma = parameter(gamma, 1.0, layout)
        divisor = numpy.ascontiguousarray(divisor, dtype=numpy.float64)
        factors = [factor(v, layout) for v in (centre, centre_low, inverse)]
        dx_where = _where(dense(layout))
        if plan.by_runs:
            flat = [v.reshape(-1) for v in (*factors, s1, s2)]

            def task(i: int) -> None:
                runs.backward(
                    dy_line,
                    dy_where,
                    line,
                    where,
                    target,
                    dx_where,
                    *plan.blocks[i],
                    divisor,
                    gamma,
                    *flat,
                )
        else:

            def task(i: int) -> None:
                g = plan.homes[i][0]
                columns.backward(
                    dy_line,
                    dy_where[0],
                    line,
                    where,
                    plan.blocks[i],
                    target,
                    dx_where[0],
                    divisor[g],
                    gamma,
                    *(v[g] for v in factors),
                    s1[g],
                    s2[g],
                )

        _run(task, len(plan.blocks), layout.size)
        return s1, s2, dx

    def fuses(self, x: Any, groups: Groups) -> bool:
        """Whether both passes over an array can follow each other in cache."""
        return _served(x) and plan_for(read(x, groups).layout).fusible

    def _partial(self, plan: Plan, layout: Layout, kernel: Any) -> tuple[Any, Any]:
        """Run a kernel that leaves two sums per block and channel, and add the blocks of each group in order."""
        sums = numpy.empty((2, layout.groups, plan.parts, layout.channels))

        def task(i: int) -> None:
            g, part = plan.homes[i]
            kernel(i, g, sums[0, g, part], sums[1, g, part])

        _run(task, len(plan.blocks), layout.size)
        joined = sums[:, :, 0, :] if plan.parts == 1 else numpy.add.reduce(sums, axis=2)
        return joined[0], joined[1]


def _served(x: Any, *others: Any) -> bool:
    """Whether compiled code takes these arrays."""
    return bool(x.size) and (compiles_half() or all(v.dtype != numpy.float16 for v in (x, *others)))


def _run(task: Any, number: int, size: int) -> None:
    resources.run(task, number, size)
    if notice.pending:
        notice.tell()


def _where(layout: Layout) -> _Where:
    return layout.row_stride, layout.channel_stride, layout.run, layout.rows, layout.channels


def _mask(mask: Any, x: Any, groups: Groups, layout: Layout) -> tuple[Any, _Where, Any]:
    """Return the mask as kernels take it, with its strides, and the count of each group."""
    if mask is None:
        return None, (0, 0, 0, 0, layout.channels), numpy.full((layout.groups,), layout.elements)
    line, count = spread_mask(mask, x, groups, layout)
    return line, _where(dense(layout)), count
