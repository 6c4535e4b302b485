"""Operations on arrays of NumPy, by compiled loops: what `CompiledKernels` is made of, and torch's kernels too.

Each function takes arrays that `serves` is true of.
"""

from typing import Any

import numpy

from bnspec import Groups, Moments
from bnspec_backends.cpu.arrays import counts, factor, new_like, plain, read, read_along, returned, spread_mask
from bnspec_backends.cpu.compiled import channel_major, channel_minor, merging
from bnspec_backends.cpu.compiled.compile_notice import notice
from bnspec_backends.cpu.compiled.dtypes import as_storage, compiles_half
from bnspec_backends.cpu.compiled.thread_team import team
from bnspec_backends.cpu.plan import Plan, plan_for
from bnspec_backends.cpu.resources import resources
from bnspec_backends.layout import Layout

__all__ = [
    "forward",
    "grad_input",
    "grad_sums",
    "infer",
    "merge",
    "merges",
    "moments",
    "normalize",
    "pull_back",
    "pull_back_frozen",
    "serves",
]

#: Results of so many bytes are written past the cache: larger than what a core may expect to keep of it.
STREAM = 1 << 24

#: Calls with fewer elements run in the calling thread: to wake another takes as long as they do.
SERIAL = 1 << 14

_Pair = tuple[Any, tuple[int, ...]]


def serves(x: Any, *others: Any) -> bool:
    """Return whether compiled code takes these arrays."""
    return bool(x.size) and (compiles_half() or all(v.dtype.char != "e" for v in (x, *others)))


def merges(a: Any, b: Any) -> bool:
    """Return whether compiled code merges these rows: only float64, the everyday dtype."""
    return bool(a.dtype == b.dtype == numpy.float64 and a.shape == b.shape)


def moments(x: Any, groups: Groups, mask: Any) -> Moments:
    """Return the moments of each group."""
    layout, plan, given = _given(x, groups)
    keep = _mask(mask, x, layout, plan)
    count = plan.count.copy() if mask is None else counts(mask, x, groups, layout)
    stats = numpy.empty((3, layout.groups, layout.channels))
    _moments(given, keep, plan, count, stats, _control(x))
    notice.log()
    mean, low, m2 = stats
    return Moments(count, mean, low, m2)


def normalize(x: Any, centre: Any, scale: Any, shift: Any, groups: Groups) -> Any:
    """Return ``(x - centre)*scale + shift``."""
    layout, plan, given = _given(x, groups)
    y, target, stream = _new(x, layout, plan)
    _normalize(given, target, plan, [factor(v, layout) for v in (centre, scale, shift)], stream, _control(x))
    notice.log()
    return returned(y, x)


def grad_sums(dy: Any, x: Any, centre: Any, groups: Groups, mask: Any) -> tuple[Any, Any]:
    """Return ``sum dy`` and ``sum dy*(x - centre)``."""
    layout, plan, given = _given(x, groups)
    cotangent, keep = _along(dy, x, layout, groups), _mask(mask, x, layout, plan)
    s1, s2 = _grad_sums(cotangent, given, keep, plan, factor(centre, layout), _control(x))
    notice.log()
    return s1, s2


def grad_input(dy: Any, x: Any, centre: Any, a: Any, b: Any, c: Any, groups: Groups, mask: Any) -> Any:
    """Return ``a*dy + m*(b*(x - centre) + c)``."""
    layout, plan, given = _given(x, groups)
    cotangent, keep = _along(dy, x, layout, groups), _mask(mask, x, layout, plan)
    dx, target, stream = _new(x, layout, plan)
    factors = tuple(factor(v, layout) for v in (centre, a, b, c))
    _grad_input(cotangent, given, target, keep, plan, factors, stream, _control(x))
    notice.log()
    return returned(dx, x)


def forward(x: Any, gamma: Any, beta: Any, epsilon: float, groups: Groups) -> tuple[Moments, Any, Any]:
    """Return the moments, ``1/sqrt(var + epsilon)`` and y, by two passes over each channel while it is in cache."""
    layout, plan, given = _given(x, groups)
    y, target, stream = _new(x, layout, plan)
    affine, count, control = _affine(gamma, beta, layout), plan.count.copy(), _control(x)
    stats = numpy.empty((4, layout.groups, layout.channels))
    if plan.parts > 1:
        _moments(given, None, plan, count, stats[:3], control)
        _normalize(given, target, plan, _between(stats, count, epsilon, affine), stream, control)
    elif plan.by_runs:
        channel_major.forward(
            given, target, plan.blocks, layout.elements, epsilon, affine, _flat(stats), stream, control
        )
    else:
        channel_minor.forward(given, target, plan.blocks, layout.elements, epsilon, affine, stats, stream, control)
    notice.log()
    mean, low, m2, inverse = stats
    return Moments(count, mean, low, m2), inverse, returned(y, x)


def pull_back(
    dy: Any, x: Any, gamma: Any, centre: Any, centre_low: Any, inverse: Any, divisor: Any, groups: Groups
) -> tuple[Any, Any, Any]:
    """Return ``sum dy``, ``sum dy*(x - mean)`` and dx, by two passes over each channel while it is in cache."""
    layout, plan, given = _given(x, groups)
    cotangent, (dx, target, stream) = _along(dy, x, layout, groups), _new(x, layout, plan)
    scale = numpy.empty((layout.channels,))
    scale[...] = 1.0 if gamma is None else gamma
    divisor = plain(numpy.broadcast_to(divisor, (layout.groups,)) if divisor.shape != (layout.groups,) else divisor)
    stats, control = tuple(factor(v, layout) for v in (centre, centre_low, inverse)), _control(x)
    arrays = (cotangent, given, target, plan.blocks)
    if plan.parts > 1:
        sums = numpy.stack(_grad_sums(cotangent, given, None, plan, stats[0], control))
        factors = numpy.empty((3, layout.groups, layout.channels))
        channel_minor.between_backward(sums, *stats[1:], divisor, scale, factors)
        _grad_input(cotangent, given, target, None, plan, (stats[0], *factors), stream, control)
    else:
        sums = numpy.empty((2, layout.groups, layout.channels))
        if plan.by_runs:
            flat = tuple(map(_flat, stats))
            channel_major.backward(*arrays, divisor, scale, flat, _flat(sums)[:, :, None], stream, control)
        else:
            channel_minor.backward(*arrays, divisor, scale, stats, sums, stream, control)
    notice.log()
    return sums[0], sums[1], returned(dx, x)


def pull_back_frozen(
    dy: Any, x: Any, gamma: Any, centre: Any, centre_low: Any, inverse: Any, groups: Groups
) -> tuple[Any, Any, Any]:
    """Return what `pull_back` does where the statistics are constants, by one pass; dy has x's dtype."""
    layout, plan, given = _given(x, groups)
    cotangent, (dx, target, stream) = _along(dy, x, layout, groups), _new(x, layout, plan)
    middle, scale = factor(centre, layout), factor(inverse if gamma is None else gamma * inverse, layout)
    arrays, control, shape = (cotangent, given, target, plan.blocks), _control(x), middle.shape
    if plan.by_runs:
        sums = numpy.empty((2, middle.size, plan.parts))
        channel_major.backward_frozen(*arrays, _flat(middle), _flat(scale), sums, stream, control)
        s1, s2 = sums[0, :, 0].reshape(shape), sums[1, :, 0].reshape(shape)
    else:
        sums = numpy.empty((2, shape[0], plan.parts, shape[1]))
        channel_minor.backward_frozen(*arrays, middle, scale, sums, stream, control)
        s1, s2 = sums[0, :, 0], sums[1, :, 0]
    notice.log()
    return s1, s2 - centre_low * s1, returned(dx, x)


def infer(
    x: Any, gamma: Any, beta: Any, mean: Any, var: Any, epsilon: float, groups: Groups
) -> tuple[Any, Any, Any, Any]:
    """Return the mean and its low part, ``1/sqrt(var + epsilon)`` and y, of given statistics."""
    layout, plan, given = _given(x, groups)
    y, target, stream = _new(x, layout, plan)
    stats = numpy.empty((4, 1, layout.channels))
    stats[0], stats[1], stats[2] = mean, 0.0, var  # a variance is an m2 over one element
    factors = _between(stats, _ONE, epsilon, _affine(gamma, beta, layout))
    _normalize(given, target, plan, factors, stream, _control(x))
    notice.log()
    return stats[0], stats[1], stats[3], returned(y, x)


def merge(a: Any, b: Any, added: int) -> Any:
    """Join the moments of two sets, as rows."""
    out = numpy.empty(a.shape)
    merging.merge(plain(a), plain(b), added, out)
    notice.log()
    return out


_ONE = numpy.ones(1, numpy.int64)


def _moments(x: _Pair, mask: _Pair | None, plan: Plan, count: Any, stats: Any, control: Any) -> None:
    if plan.by_runs:
        channel_major.moments(x, mask, plan.blocks, plan.parts, count, _flat(stats), control)
    else:
        channel_minor.moments(x, mask, plan.blocks, plan.parts, count, stats, control)


def _normalize(x: _Pair, y: _Pair, plan: Plan, factors: Any, stream: bool, control: Any) -> None:
    if plan.by_runs:
        channel_major.normalize(x, y, plan.blocks, *map(_flat, factors), stream, control)
    else:
        channel_minor.normalize(x, y, plan.blocks, *factors, stream, control)


def _grad_sums(dy: _Pair, x: _Pair, mask: _Pair | None, plan: Plan, centre: Any, control: Any) -> tuple[Any, Any]:
    groups, channels = centre.shape
    if plan.by_runs:
        sums = numpy.empty((2, groups * channels, plan.parts))
        channel_major.grad_sums(dy, x, mask, plan.blocks, _flat(centre), sums, control)
        return sums[0, :, 0].reshape(centre.shape), sums[1, :, 0].reshape(centre.shape)
    sums = numpy.empty((2, groups, plan.parts, channels))
    channel_minor.grad_sums(dy, x, mask, plan.blocks, centre, sums, control)
    return sums[0, :, 0], sums[1, :, 0]


def _grad_input(
    dy: _Pair, x: _Pair, dx: _Pair, mask: _Pair | None, plan: Plan, factors: Any, stream: bool, control: Any
) -> None:
    if plan.by_runs:
        channel_major.grad_input(dy, x, dx, mask, plan.blocks, tuple(map(_flat, factors)), stream, control)
    else:
        channel_minor.grad_input(dy, x, dx, mask, plan.blocks, factors, stream, control)


def _between(stats: Any, count: Any, epsilon: float, affine: Any) -> tuple[Any, Any, Any]:
    """Fill in 1/sqrt(var + epsilon); return centre, scale and shift."""
    factors = numpy.empty((2, *stats.shape[1:]))
    channel_minor.between_forward(stats, count, epsilon, affine, factors)
    return stats[0], factors[0], factors[1]


def _affine(gamma: Any, beta: Any, layout: Layout) -> Any:
    """Gamma and beta as float64."""
    affine = numpy.empty((2, layout.channels))
    affine[0], affine[1] = 1.0 if gamma is None else gamma, 0.0 if beta is None else beta
    return affine


def _given(x: Any, groups: Groups) -> tuple[Layout, Plan, _Pair]:
    """Return how an array lies, the blocks it is cut into, and the array as kernels take it."""
    source = read(x, groups)
    plan = plan_for(source.layout)
    return source.layout, plan, (as_storage(source.line), plan.where)


def _along(dy: Any, x: Any, layout: Layout, groups: Groups) -> _Pair:
    """Return an array that goes along with x as kernels take it."""
    source = read_along(dy, x, layout, groups)
    return as_storage(source.line), source.layout.where


def _control(x: Any) -> Any:
    """Return the control block of the threads that compute: the calling thread alone where there are few elements."""
    return team.alone if x.size < SERIAL else team.control_block(resources.threads)


def _flat(v: Any) -> Any:
    """Numbers per group and channel with these as one axis: the tasks of `channel_major`."""
    return v.reshape(-1) if v.ndim == 2 else v.reshape(v.shape[0], -1)


def _mask(mask: Any, x: Any, layout: Layout, plan: Plan) -> _Pair | None:
    """A mask as kernels take it."""
    return None if mask is None else (spread_mask(mask, x, layout), plan.dense)


def _new(x: Any, layout: Layout, plan: Plan) -> tuple[Any, _Pair, bool]:
    """Return a new array like x, the same as kernels take it, and whether to write it past the cache."""
    y, line = new_like(x, layout)
    return y, (as_storage(line), plan.dense), y.nbytes >= STREAM
